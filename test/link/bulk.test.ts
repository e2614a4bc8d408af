/** The bulk channel alone: memory that is used again, back-pressure, and in what order data and losses are told. */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import type { AddressInfo, Socket } from 'node:net';
import { connect as connectTls, createServer as createTlsServer } from 'node:tls';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { encodeBulkHeader } from '../../src/core/link/bulk.js';
import type { BulkItem } from '../../src/core/link/bulk.js';
import { BulkChannel } from '../../src/link/bulk.js';
import type { Loss } from '../../src/link/loss.js';
import { Place, Queue } from './support.js';

const NONE = Buffer.alloc(0);
let place: Place;
test.before(() => {
  place = new Place();
});
test.after(() => place.remove());

/** Two ends of a connection, both paused. */
async function sockets(kind: 'tcp' | 'tls'): Promise<[Socket, Socket]> {
  const accepted = new Queue<Socket>();
  const { certPath, keyPath } = place.tls('beta', 'alpha');
  const server =
    kind === 'tls'
      ? createTlsServer({ cert: readFileSync(certPath), key: readFileSync(keyPath) }, (s) => accepted.push(s))
      : createServer({ pauseOnConnect: true }, (s) => accepted.push(s));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const near =
    kind === 'tls'
      ? connectTls({
          port,
          host: '127.0.0.1',
          ca: readFileSync(certPath),
          checkServerIdentity: () => undefined,
        })
      : connect(port, '127.0.0.1');
  await once(near, kind === 'tls' ? 'secureConnect' : 'connect');
  const far = await accepted.next();
  server.close();
  return [near, far];
}

/** As a version of Node whose sockets can't receive into memory of the caller. */
function withoutUserBuffer(socket: Socket): void {
  const { _handle } = socket as unknown as { _handle: Record<string, unknown> };
  _handle['useUserBuffer'] = undefined;
}

/** Numbers that look random and are the same every time. */
function* numbers(seed: number): Generator<number, never> {
  for (let x = seed; ;) {
    x = (Math.imul(x, 1103515245) + 12345) >>> 0;
    yield x >>> 8;
  }
}

for (const kind of ['tcp', 'tls'] as const) {
  for (const way of ['in place', 'copied'] as const) {
    test(`frames of any size arrive whole and in order over ${kind}, ${way}, with a taker that is slow at times`, async () => {
      const [near, far] = await sockets(kind);
      if (way === 'copied') withoutUserBuffer(far);
      const sender = new BulkChannel(near, NONE);
      const receiver = new BulkChannel(far, NONE);
      const random = numbers(7);
      const sent = createHash('sha256');
      const came = createHash('sha256');
      const checkpoints: string[] = [];
      let busy = false;
      const ended = new Promise<BulkItem>((resolve, reject) => {
        receiver.start({
          item: (item) => {
            assert.not(busy, 'called again before the promise was settled');
            if (item.type === 'end') {
              resolve(item);
              return;
            }
            if (item.type === 'checkpoint') {
              checkpoints.push(item.bytes.toString());
              return;
            }
            if (random.next().value % 3 > 0) {
              came.update(item.bytes);
              return;
            }
            busy = true;
            return new Promise<void>((done) => {
              // Late enough that more has arrived; the bytes have to be what they were.
              setImmediate(() =>
                setImmediate(() => {
                  came.update(item.bytes);
                  busy = false;
                  done();
                }),
              );
            });
          },
          lost: (loss) => reject(new Error(loss.reason)),
        });
      });
      const buffer = Buffer.allocUnsafe(1 << 20);
      for (let epoch = 1; epoch <= 12; epoch++) {
        for (let frame = 0; frame < 8; frame++) {
          const size =
            frame % 2 === 0 ? 1 + (random.next().value % 100) : 1 + (random.next().value % (1 << 20));
          const bytes = buffer.subarray(0, size);
          for (let at = 0; at < size; at += 97) bytes[at] = random.next().value;
          sent.update(bytes);
          const half = size >> 1;
          // The buffer is written to again: only after that is it free.
          assert.ok(
            await sender.send({ type: 'data', epoch }, bytes.subarray(0, half), bytes.subarray(half)),
          );
        }
        void sender.send({ type: 'checkpoint', epoch }, Buffer.from(`end of ${epoch}`));
      }
      const closing = sender.close(true);
      assert.equal(await ended, { type: 'end', clean: true });
      assert.is(came.digest('hex'), sent.digest('hex'));
      assert.equal(
        checkpoints,
        Array.from({ length: 12 }, (_, n) => `end of ${n + 1}`),
      );
      await Promise.all([closing, receiver.close(true)]);
    });
  }
}

test('what came before a close is given on before the loss', async () => {
  const [near, far] = await sockets('tcp');
  const receiver = new BulkChannel(far, NONE);
  const told: string[] = [];
  let free: () => void = () => undefined;
  const first = new Promise<void>((begun) => {
    receiver.start({
      item: (item) => {
        assert.ok('bytes' in item);
        told.push(item.bytes.toString());
        begun();
        return new Promise<void>((done) => (free = done));
      },
      lost: (loss) => told.push(loss.kind),
    });
  });
  const frame = (text: string): Buffer =>
    Buffer.concat([encodeBulkHeader({ type: 'data', epoch: 1 }, text.length), Buffer.from(text)]);
  near.end(Buffer.concat([frame('one'), frame('two')]));
  await Promise.all([first, once(far, 'end')]);
  assert.equal(told, ['one']);
  free();
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(told, ['one', 'two']);
  free();
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(told, ['one', 'two', 'closed']);
  near.destroy();
});

test('nothing is given on after a loss', async () => {
  const [near, far] = await sockets('tcp');
  const receiver = new BulkChannel(far, NONE);
  let items = 0;
  let free: () => void = () => undefined;
  let begun: () => void = () => undefined;
  const first = new Promise<void>((resolve) => (begun = resolve));
  const lost = new Promise<Loss>((resolve) =>
    receiver.start({
      item: () => {
        items++;
        begun();
        return new Promise<void>((done) => (free = done));
      },
      lost: resolve,
    }),
  );
  const frame = Buffer.concat([encodeBulkHeader({ type: 'data', epoch: 1 }, 3), Buffer.from('one')]);
  near.write(Buffer.concat([frame, frame]));
  await first;
  near.resetAndDestroy();
  assert.is((await lost).kind, 'reset');
  free();
  await new Promise((resolve) => setImmediate(resolve));
  assert.is(items, 1);
});

test('nonsense ends the connection with its reason', async () => {
  const [near, far] = await sockets('tcp');
  near.on('error', () => undefined);
  const lost = new Promise<Loss>((resolve) =>
    new BulkChannel(far, NONE).start({ item: () => assert.unreachable(), lost: resolve }),
  );
  near.write('GET / HTTP/1.1\r\n\r\n');
  assert.equal(await lost, { kind: 'protocol', reason: 'a bulk frame with type 71' });
  near.destroy();
});

test('bytes that came with the hello are the first of the stream', async () => {
  const [near, far] = await sockets('tcp');
  const head = encodeBulkHeader({ type: 'data', epoch: 4 }, 6);
  near.write('def');
  const bytes: string[] = [];
  await new Promise<void>((resolve) =>
    new BulkChannel(far, Buffer.concat([head, Buffer.from('abc')])).start({
      item: (item) => {
        assert.ok(item.type === 'data' && item.epoch === 4);
        bytes.push(item.bytes.toString());
        if (bytes.join('') === 'abcdef') resolve();
      },
      lost: () => undefined,
    }),
  );
  near.destroy();
  far.destroy();
});

test.run();
