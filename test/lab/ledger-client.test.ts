/** The outside client against a guest that is not one: what it asks, what it tells, and when it gives up. */
import { once } from 'node:events';
import { createServer } from 'node:net';
import type { AddressInfo, Socket } from 'node:net';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { ClientLine } from './cuts-log.js';
import { Asking, keepAsking } from './ledger-client.js';
import { packetCount } from './ledger-packet.js';

test('a few requests at a time, each with a token of its own', () => {
  const asking = new Asking('one');
  assert.is(asking.ask(), 'one-1\none-2\none-3\none-4\n');
  assert.is(asking.ask(), '');
  assert.equal(asking.take('7 one-1\n9 on'), [{ count: 7, token: 'one-1' }]);
  assert.is(asking.ask(), 'one-5\n');
  assert.equal(asking.take('e-2\n10 one-3\n'), [
    { count: 9, token: 'one-2' },
    { count: 10, token: 'one-3' },
  ]);
  assert.throws(() => asking.take('11 one-5\n'), /the answer to one-4 is "11 one-5"/);
  assert.throws(() => new Asking('one').take('1 one-1\n'), /the answer to nothing/);
  assert.throws(() => asking.take('no answer\n'), /is "no answer"/);
});

test('packets of the ledger, and others', () => {
  const packet = Buffer.alloc(24);
  packet.write('REMUSDRBD-PACKET', 'latin1');
  packet.writeBigUInt64LE(77n, 16);
  assert.is(packetCount(packet), 77);
  assert.is(packetCount(Buffer.alloc(24)), null);
});

/** Answers each line with the next count, after `first`. */
function serve(socket: Socket, first: number): void {
  let count = first;
  let rest = '';
  socket.setEncoding('latin1').on('data', (text: string) => {
    const lines = (rest + text).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) socket.write(`${++count} ${line}\n`);
  });
  socket.on('error', () => undefined);
}

test('answers are told in their order, and the end of the only connection', async () => {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const lines: ClientLine[] = [];
  const ended = new Promise<void>((resolve) => {
    const client = keepAsking({
      name: 'two',
      host: '127.0.0.1',
      port,
      tell: (line) => {
        lines.push(line);
        if (lines.length === 10) taken?.end();
        if (line.event !== 'closed') return;
        client.stop();
        resolve();
      },
    });
  });
  const [taken] = (await once(server, 'connection')) as [Socket];
  serve(taken, 40);
  await ended;
  server.close();
  assert.is(lines[0]?.event, 'connected');
  const answers = lines.flatMap((line) => (line.event === 'answer' ? [[line.count, line.token]] : []));
  assert.equal(answers.slice(0, 3), [
    [41, 'two-1'],
    [42, 'two-2'],
    [43, 'two-3'],
  ]);
  assert.is(lines.filter(({ event }) => event === 'closed').length, 1);
});

test('a guest that can not be reached yet is asked again', async () => {
  const first = createServer().listen(0, '127.0.0.1');
  await once(first, 'listening');
  const { port } = first.address() as AddressInfo;
  await once(first.close(), 'close');
  const server = createServer((socket) => serve(socket, 0));
  const line = await new Promise<ClientLine>((resolve) => {
    const client = keepAsking({
      name: 'three',
      host: '127.0.0.1',
      port,
      tell: (told) => {
        if (told.event !== 'answer') return;
        client.stop();
        resolve(told);
      },
    });
    server.listen(port, '127.0.0.1');
  });
  await once(server.close(), 'close');
  assert.equal(line.event === 'answer' && [line.count, line.token], [1, 'three-1']);
});

test.run();
