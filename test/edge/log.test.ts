import { Writable } from 'node:stream';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { closeLog, createLog, type LogLevel } from '../../src/edge/log.js';

const test = suite('log');

/** A stream as slow as a full pipe: each line takes a turn of the event loop. */
function sink(): { stream: Writable; text: () => string } {
  const chunks: Buffer[] = [];
  const stream = new Writable({
    write: (chunk: Buffer, _encoding, done) => {
      setImmediate(() => {
        chunks.push(chunk);
        done();
      });
    },
  });
  return { stream, text: () => Buffer.concat(chunks).toString() };
}

test('a line for people has level, message and fields', async () => {
  const { stream, text } = sink();
  const log = createLog({ level: 'info', json: false, stream });
  log.info('command ended', { host: 'alpha', exitCode: 0, command: 'a b', reason: undefined });
  await closeLog(log);
  assert.match(text(), /^\d{4}-\d\d-\d\dT\S+Z INFO {2}command ended host=alpha exitCode=0 command="a b"\n$/);
});

test('no value can forge a line or a field', async () => {
  const { stream, text } = sink();
  const log = createLog({ level: 'info', json: false, stream });
  log.info('event', { value: 'a\n2026-01-01 ERROR forged', other: 'x y=z' });
  await closeLog(log);
  assert.is(text().split('\n').length, 2);
  assert.match(text(), 'value="a\\n2026-01-01 ERROR forged" other="x y=z"');
});

test('JSON lines', async () => {
  const { stream, text } = sink();
  const log = createLog({ level: 'debug', json: true, stream });
  log.debug('event', { host: 'alpha', durationMs: 5 });
  await closeLog(log);
  const { timestamp, ...rest } = JSON.parse(text()) as Record<string, unknown>;
  assert.type(timestamp, 'string');
  assert.equal(rest, { level: 'debug', message: 'event', host: 'alpha', durationMs: 5 });
});

test('a level lets through itself and what is graver', async () => {
  const levels: LogLevel[] = ['error', 'warn', 'info', 'debug'];
  for (const [index, level] of levels.entries()) {
    const { stream, text } = sink();
    const log = createLog({ level, json: true, stream });
    for (const each of levels) log.log(each, each);
    await closeLog(log);
    assert.is(text().trim().split('\n').length, index + 1, level);
  }
});

test('closing waits for the last line', async () => {
  const { stream, text } = sink();
  const log = createLog({ level: 'info', json: true, stream });
  for (let n = 0; n < 1000; n += 1) log.info('event', { n });
  await closeLog(log);
  assert.is(text().trim().split('\n').length, 1000);
});

test.run();
