/** The transport of a switchover over a real link on loopback, with programs of a few lines in the place of both xl. */
import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { PassThrough } from 'node:stream';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { connectLink } from '../../src/link/client.js';
import type { ReceiverLink, SenderLink } from '../../src/link/link.js';
import { receiveGuest, sendGuest } from '../../src/protect/switchover.js';
import type { ArrivingXl } from '../../src/protect/switchover.js';
import { connecting, listening, Place } from '../link/support.js';

const BYTES = 3_000_000;
/** Takes so many bytes, answers with their digest, waits for `go`, reports, and ends; at an early end it fails. */
const XL = `
  const hash = require('crypto').createHash('sha256');
  let left = ${BYTES}, said = '';
  process.stdin.on('data', (bytes) => {
    const stream = bytes.subarray(0, left);
    if (stream.length > 0) { hash.update(stream); left -= stream.length; if (left === 0) process.stdout.write(hash.digest('hex')); }
    said += bytes.subarray(stream.length).toString();
    if (said === 'go') { process.stdout.write('report'); process.stdin.destroy(); process.exitCode = 0; }
  });
  process.stdin.on('end', () => process.exit(left === 0 && said === 'go' ? 0 : 3));
`;

let place: Place;
test.before(() => {
  place = new Place();
});
test.after(() => place.remove());

function startXl(): ArrivingXl {
  const child = spawn(process.execPath, ['-e', XL], { stdio: ['pipe', 'pipe', 'inherit'] });
  return {
    input: child.stdin,
    output: child.stdout,
    exited: new Promise((resolve) => child.on('exit', (code) => resolve(code))),
  };
}

interface Session {
  source: SenderLink;
  target: ReceiverLink;
  close: () => Promise<void>;
}

async function session(): Promise<Session> {
  const { listener, nextLink } = await listening(place);
  const source = await connectLink(connecting(place, listener.port));
  return { source, target: await nextLink(), close: () => listener.close() };
}

const quiet = { warn: () => undefined } as unknown as Parameters<typeof receiveGuest>[3];

/** Reads exactly so many characters. */
async function read(stream: PassThrough, length: number): Promise<string> {
  let text = '';
  while (text.length < length) {
    const bytes = stream.read() as Buffer | null;
    if (bytes === null) await new Promise((resolve) => stream.once('readable', resolve));
    else text += bytes.toString();
  }
  return text;
}

test("a guest's stream arrives as it is, and the answers come back", async () => {
  const { source, target, close } = await session();
  const [input, output] = [new PassThrough(), new PassThrough()];
  let sent = 0;
  const sending = sendGuest(source, input, output, (bytes) => (sent += bytes));
  const receiving = receiveGuest(target, startXl(), new AbortController().signal, quiet);
  const stream = randomBytes(BYTES);
  input.write(stream);
  assert.is(await read(output, 64), createHash('sha256').update(stream).digest('hex'));
  assert.is(sent, BYTES);
  input.write('go');
  assert.is(await read(output, 6), 'report');
  assert.is(await receiving, 0);
  // xl there has ended, so there is nothing to wait for.
  assert.is(await sending, null);
  assert.ok(output.writableEnded);
  await close();
});

test('xl on the source that gives up ends the input of the one on the target', async () => {
  const { source, target, close } = await session();
  const [input, output] = [new PassThrough(), new PassThrough()];
  const sending = sendGuest(source, input, output, () => undefined);
  const receiving = receiveGuest(target, startXl(), new AbortController().signal, quiet);
  input.end(randomBytes(1000));
  assert.is(await sending, null);
  assert.is(await receiving, 3);
  await close();
});

test('a link that is lost ends both', async () => {
  const { source, target, close } = await session();
  const [input, output] = [new PassThrough(), new PassThrough()];
  const sending = sendGuest(source, input, output, () => undefined);
  const receiving = receiveGuest(target, startXl(), new AbortController().signal, quiet);
  input.write(randomBytes(BYTES));
  await read(output, 64);
  // As when the process dies: nothing is said any more.
  await target.control.close(0);
  assert.match((await sending) ?? '', /closed|reset|lost/);
  assert.ok(input.destroyed);
  assert.is(await receiving, 3);
  await close();
});

test('a target that is stopped ends its xl, and with it the source', async () => {
  const { source, target, close } = await session();
  const stop = new AbortController();
  const sending = sendGuest(source, new PassThrough(), new PassThrough(), () => undefined);
  const receiving = receiveGuest(target, startXl(), stop.signal, quiet);
  stop.abort();
  assert.is(await receiving, 3);
  await sending;
  await close();
});

test.run();
