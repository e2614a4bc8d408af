/** How each kind of loss is seen, with real TLS, and with a peer in a process of its own that is killed or stopped. */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import type { AddressInfo, Server, Socket } from 'node:net';
import { fileURLToPath } from 'node:url';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { FromReceiver } from '../../src/core/link/messages.js';
import { connectLink } from '../../src/link/client.js';
import type { ReceiverLink, SenderLink } from '../../src/link/link.js';
import type { Loss } from '../../src/link/loss.js';
import { lossOf } from '../../src/link/loss.js';
import { connecting, listening, Place, Queue } from './support.js';

const peerScript = fileURLToPath(new URL('peer.ts', import.meta.url));
const children: ChildProcess[] = [];
let place: Place;
test.before(() => {
  place = new Place();
});
test.after(() => {
  for (const child of children) child.kill('SIGKILL');
  place.remove();
});

interface Watched {
  link: SenderLink;
  messages: Queue<FromReceiver>;
  controlLost: Promise<Loss>;
  bulkLost: Promise<Loss>;
}

function watch(link: SenderLink, silenceMs: number): Watched {
  const messages = new Queue<FromReceiver>();
  const controlLost = new Promise<Loss>((lost) =>
    link.control.start({ message: (message) => messages.push(message), lost }, silenceMs),
  );
  const bulkLost = new Promise<Loss>((lost) => link.bulk.start({ item: () => undefined, lost }));
  return { link, messages, controlLost, bulkLost };
}

async function peerProcess(mode: 'read' | 'stuck'): Promise<{ child: ChildProcess; port: number }> {
  const child = spawn(process.execPath, ['--import', 'tsx', peerScript, place.directory, mode], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  children.push(child);
  const [said] = (await once(child.stdout, 'data')) as [Buffer];
  return { child, port: Number(said.toString().split(' ')[1]) };
}

const beat = { type: 'heartbeat', sequence: 1, sentMs: 0, state: '' } as const;

test('a killed peer has closed, a stopped one is silent', async () => {
  const killed = await peerProcess('read');
  const first = watch(await connectLink(connecting(place, killed.port)), 60_000);
  first.link.control.send(beat);
  await first.messages.next();
  killed.child.kill('SIGKILL');
  // With bytes that it had not read a killed process resets; with none it closes. Its host lives either way.
  assert.match((await first.controlLost).kind, /^(closed|reset)$/);
  assert.match((await first.bulkLost).kind, /^(closed|reset)$/);

  const stopped = await peerProcess('read');
  const second = watch(await connectLink(connecting(place, stopped.port)), 300);
  stopped.child.kill('SIGSTOP');
  assert.equal(await second.controlLost, {
    kind: 'timeout',
    reason: 'nothing was heard of the peer for 300 ms',
  });
  await second.link.close(false);
});

test('a killed peer with bytes that it never read has reset the connection', async () => {
  const { child, port } = await peerProcess('stuck');
  const { link, controlLost, bulkLost, messages } = watch(await connectLink(connecting(place, port)), 0);
  const piece = Buffer.alloc(1 << 20);
  for (let n = 0; n < 32; n++) void link.bulk.send({ type: 'data', epoch: 1 }, piece);
  link.control.send(beat);
  await messages.next();
  child.kill('SIGKILL');
  assert.is((await bulkLost).kind, 'reset');
  assert.match((await controlLost).kind, /^(closed|reset)$/);
  assert.not(await link.bulk.send({ type: 'data', epoch: 1 }, piece));
});

test('a bulk stream that is full does not hold up control, and the peer reads no more than its region', async () => {
  const { port } = await peerProcess('stuck');
  const { link, messages } = watch(await connectLink(connecting(place, port)), 0);
  const piece = Buffer.alloc(1 << 20);
  let sent = 0;
  const sends = Array.from({ length: 64 }, () =>
    link.bulk.send({ type: 'data', epoch: 1 }, piece).then((took) => (sent += took ? 1 : 0)),
  );
  for (let sequence = 0; sequence < 100; sequence++) {
    link.control.send({ ...beat, sequence });
    assert.is(((await messages.next()) as typeof beat).sequence, sequence);
  }
  assert.ok(sent < 64, `${sent} of 64 MiB went`);
  assert.ok(link.bulk.queuedBytes > 0);
  await link.close(false);
  await Promise.all(sends);
  assert.ok(sent < 64);
});

test('a peer that never reads control messages is lost', async () => {
  const { child, port } = await peerProcess('read');
  const { link, controlLost } = watch(await connectLink(connecting(place, port)), 0);
  child.kill('SIGSTOP');
  const long = { ...beat, state: 'x'.repeat(4000) };
  let sent = 0;
  while (link.control.send(long)) {
    if (++sent % 100 === 0) await new Promise((resolve) => setImmediate(resolve));
    assert.ok(sent < 100_000, 'what waits has to be bounded');
  }
  assert.is((await controlLost).kind, 'timeout');
  assert.match((await controlLost).reason, /the peer does not read/);
  await link.close(false);
});

/** A way to the listener that can be cut, or that falls silent. */
async function relay(
  port: number,
): Promise<{ server: Server; port: number; pairs: Queue<[Socket, Socket]> }> {
  const pairs = new Queue<[Socket, Socket]>();
  const server = createServer((from) => {
    const to = connect(port, '127.0.0.1');
    for (const socket of [from, to]) socket.on('error', () => undefined);
    from.on('data', (bytes) => to.write(bytes));
    to.on('data', (bytes) => from.write(bytes));
    pairs.push([from, to]);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { server, port: (server.address() as AddressInfo).port, pairs };
}

async function through(): Promise<
  Watched & {
    receiver: ReceiverLink;
    control: [Socket, Socket];
    bulk: [Socket, Socket];
    end: () => Promise<void>;
  }
> {
  const { listener, nextLink } = await listening(place);
  const way = await relay(listener.port);
  const watched = watch(await connectLink(connecting(place, way.port)), 0);
  const receiver = await nextLink();
  const [control, bulk] = [await way.pairs.next(), await way.pairs.next()];
  const end = async (): Promise<void> => {
    await Promise.all([watched.link.close(false), receiver.close(false)]);
    for (const socket of [...control, ...bulk]) socket.destroy();
    way.server.close();
    await listener.close();
  };
  return { ...watched, receiver, control, bulk, end };
}

test('a reset and a close are told apart, and one connection from the other', async () => {
  const cut = await through();
  cut.bulk[0].resetAndDestroy();
  assert.is((await cut.bulkLost).kind, 'reset');
  assert.ok(cut.link.control.send(beat));
  await cut.end();

  const closed = await through();
  closed.control[0].end();
  assert.is((await closed.controlLost).kind, 'closed');
  await closed.end();
});

test('bytes that were changed on the way end the connection', async () => {
  const forged = await through();
  forged.bulk[0].write(Buffer.concat([Buffer.from([0x17, 3, 3, 0, 40]), Buffer.alloc(40)]));
  const loss = await forged.bulkLost;
  assert.is(loss.kind, 'protocol');
  await forged.end();
});

test('what the peer may not say ends that connection, with its reason', async () => {
  const { listener, nextLink } = await listening(place);
  const { link, controlLost } = watch(await connectLink(connecting(place, listener.port)), 0);
  const receiver = await nextLink();
  receiver.control.send({ type: 'guest-ended', how: 'crash' } as never);
  assert.is((await controlLost).kind, 'protocol');
  assert.match((await controlLost).reason, /no message of the receiver/);
  receiver.control.start({ message: () => undefined, lost: () => undefined }, 0);
  await receiver.close(true);
  await link.close(true);
  await listener.close();
});

test('a loss before start is told at start', async () => {
  const { listener, nextLink } = await listening(place);
  const link = await connectLink(connecting(place, listener.port));
  const receiver = await nextLink();
  // Still nothing is read there, so what this side sends turns its end into a reset.
  await Promise.all([link.control.close(0), link.bulk.close(false, 0)]);
  const lost = await Promise.all([
    new Promise<Loss>((resolve) => receiver.control.start({ message: () => undefined, lost: resolve }, 0)),
    // An end frame may have come through before.
    new Promise<Loss>((resolve) =>
      receiver.bulk.start({ item: () => resolve({ kind: 'closed', reason: 'an end frame' }), lost: resolve }),
    ),
  ]);
  for (const loss of lost) assert.match(loss.kind, /^(closed|reset)$/);
  await listener.close();
});

test('errors of the network are sorted by what they say of the peer', () => {
  const of = (code: string): string => lossOf(Object.assign(new Error('x'), { code })).kind;
  for (const code of ['ECONNRESET', 'EPIPE', 'ECONNREFUSED']) assert.is(of(code), 'reset', code);
  for (const code of ['ETIMEDOUT', 'EHOSTUNREACH', 'ENETUNREACH']) assert.is(of(code), 'timeout', code);
  assert.is(of('ERR_SSL_WRONG_VERSION_NUMBER'), 'protocol');
});

test.run();
