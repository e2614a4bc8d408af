/** A real pipe: read exactly, resized, and a real writer held in the middle of its record. */
import { spawn } from 'node:child_process';
import type { ChildProcessByStdio } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Interface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';
import { setImmediate as turn } from 'node:timers/promises';
import koffi from 'koffi';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { StreamDecoder } from '../../src/core/stream/decoder.js';
import type { StreamEvent } from '../../src/core/stream/decoder.js';
import { startGate, stepGate } from '../../src/core/stream/gate.js';
import type { GateEffect } from '../../src/core/stream/gate.js';
import { PipeError, PipeReader } from '../../src/edge/pipe.js';
import { checkpointParts, head, page, SAMPLE } from '../core/stream/sample.js';

const PAGE_BYTES = 4096;
const LARGE_BYTES = 1 << 20;
const O_CLOEXEC = 0o2000000;
const FIONREAD = 0x541b;
const SYS_WRITE = 1;
const LIMIT_MS = 60_000;

const libc = koffi.load('libc.so.6');
const pipe2 = libc.func('int pipe2(void *fds, int flags)') as (fds: Buffer, flags: number) => number;
const ioctl = libc.func('int ioctl(int fd, unsigned long request, void *argument)') as (
  fd: number,
  request: number,
  argument: Buffer,
) => number;

function makePipe(): { read: number; write: number } {
  const fds = Buffer.alloc(8);
  assert.is(pipe2(fds, O_CLOEXEC), 0);
  return { read: fds.readInt32LE(0), write: fds.readInt32LE(4) };
}

/** Bytes in the pipe. */
function waiting(fd: number): number {
  const out = Buffer.alloc(4);
  assert.is(ioctl(fd, FIONREAD, out), 0);
  return out.readInt32LE(0);
}

/** Asks again at every turn; for what the kernel tells nobody. */
async function until(what: string, isSo: () => boolean): Promise<void> {
  const limit = Date.now() + LIMIT_MS;
  while (!isSo()) {
    if (Date.now() > limit) throw new Error(`never came: ${what}`);
    await turn();
  }
}

async function withPipe(body: (reader: PipeReader, pipe: { read: number; write: number }) => Promise<void>) {
  const pipe = makePipe();
  const reader = new PipeReader(pipe.read);
  try {
    await body(reader, pipe);
  } finally {
    reader.close();
    closeSync(pipe.read);
    try {
      closeSync(pipe.write);
    } catch {
      // The test has closed it.
    }
  }
}

test('takes no more out of the pipe than asked', () =>
  withPipe(async (reader, pipe) => {
    writeSync(pipe.write, 'abcdefghij');
    assert.is((await reader.readUpTo(4)).toString(), 'abcd');
    assert.is(waiting(pipe.read), 6);
    assert.is((await reader.readUpTo(100)).toString(), 'efghij');
  }));

test('waits for bytes, and for the end', () =>
  withPipe(async (reader, pipe) => {
    const later = reader.readUpTo(100);
    await turn();
    writeSync(pipe.write, 'late');
    assert.is((await later).toString(), 'late');
    const end = reader.readUpTo(100);
    await turn();
    closeSync(pipe.write);
    assert.is((await end).length, 0);
    assert.is((await reader.readUpTo(100)).length, 0);
  }));

test('what was read stays for one more call', () =>
  withPipe(async (reader, pipe) => {
    writeSync(pipe.write, 'aabbcc');
    const first = await reader.readUpTo(2);
    const second = await reader.readUpTo(2);
    assert.equal([first.toString(), second.toString()], ['aa', 'bb']);
    await reader.readUpTo(2);
    assert.equal([first.toString(), second.toString()], ['cc', 'bb']);
  }));

test('only one read at a time; closing ends it', () =>
  withPipe(async (reader, pipe) => {
    const first = reader.readUpTo(1);
    await turn();
    let refused: unknown = null;
    await reader.readUpTo(1).catch((error: unknown) => (refused = error));
    assert.match(String(refused), /is read already/);
    reader.close();
    assert.is((await first).length, 0);
    writeSync(pipe.write, 'x');
    assert.is((await reader.readUpTo(1)).length, 0);
  }));

test('timers get their turn while the pipe is never empty', () =>
  withPipe(async (reader, pipe) => {
    writeSync(pipe.write, Buffer.alloc(10_000));
    let fired = false;
    const timer = setTimeout(() => (fired = true), 0);
    let reads = 0;
    while (!fired && reads < 10_000) {
      assert.is((await reader.readUpTo(1)).length, 1);
      reads++;
    }
    clearTimeout(timer);
    assert.ok(fired);
  }));

test('grows, and shrinks only when what is in it fits', () =>
  withPipe(async (reader, pipe) => {
    assert.is(reader.resize(LARGE_BYTES), LARGE_BYTES);
    writeSync(pipe.write, Buffer.alloc(3 * PAGE_BYTES));
    assert.is(reader.resize(PAGE_BYTES), LARGE_BYTES);
    await reader.readUpTo(2 * PAGE_BYTES);
    assert.is(reader.resize(PAGE_BYTES), PAGE_BYTES);
    assert.is(reader.capacityBytes(), PAGE_BYTES);
    assert.is(waiting(pipe.read), PAGE_BYTES);
  }));

test('what is no pipe is refused', () => {
  const fd = openSync('/dev/null', 'r');
  try {
    assert.throws(
      () => new PipeReader(fd),
      (error: unknown) => error instanceof PipeError && /is it a pipe/.test(error.message),
    );
  } finally {
    closeSync(fd);
  }
});

/** Runs TypeScript with a pipe of its own as standard input; ends by itself. @returns its exit code and output */
async function runReader(script: string, uid?: number): Promise<{ code: number | null; output: string }> {
  const pipe = makePipe();
  const source = `
    const { PipeReader } = await import(${JSON.stringify(new URL('../../src/edge/pipe.ts', import.meta.url).href)});
    const reader = new PipeReader(0);
    ${script}`;
  const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', source], {
    stdio: [pipe.read, 'pipe', 'inherit'],
    ...(uid === undefined ? {} : { uid }),
  });
  closeSync(pipe.read);
  const timer = setTimeout(() => child.kill('SIGKILL'), LIMIT_MS);
  try {
    let output = '';
    child.stdout?.on('data', (bytes: Buffer) => (output += bytes.toString()));
    const [code] = (await once(child, 'close')) as [number | null];
    return { code, output };
  } finally {
    clearTimeout(timer);
    closeSync(pipe.write);
  }
}

test('a process can end while it waits for bytes', async () => {
  const { code } = await runReader('void reader.readUpTo(1); setTimeout(() => process.exit(7), 50);');
  assert.is(code, 7);
});

test('without privileges it grows as far as the limit', async () => {
  const limit = Number(readFileSync('/proc/sys/fs/pipe-max-size', 'utf8'));
  const { code, output } = await runReader(
    `process.stdout.write(String(reader.resize(${4 * limit}))); process.exit(0);`,
    process.getuid?.() === 0 ? 65_534 : undefined,
  );
  assert.equal([code, output], [0, String(limit)]);
});

/**
 * A writer as libxc is one: each record by one blocking write, to descriptor 3. It tells its progress on standard
 * output, and waits for a line on standard input before each epoch.
 */
const WRITER = `
  const { readFileSync, readSync, writeSync } = require('node:fs');
  const bytes = readFileSync(process.argv[1]);
  const pieces = JSON.parse(process.argv[2]);
  for (let at = 0, n = 0; n < pieces.length; at += pieces[n].bytes, n++) {
    if (pieces[n].waits && readSync(0, Buffer.alloc(3)) === 0) process.exit(1);
    writeSync(1, 'begin ' + pieces[n].name + '\\n');
    for (let done = 0; done < pieces[n].bytes; )
      done += writeSync(3, bytes, at + done, pieces[n].bytes - done);
    writeSync(1, 'end ' + pieces[n].name + '\\n');
  }`;

interface Piece {
  name: string;
  bytes: number;
  waits: boolean;
}

/** A stream of epochs with 40 pages each, and the writes that it is made of. */
function stream(epochs: number): { bytes: Buffer; pieces: Piece[] } {
  const parts: Buffer[] = [Buffer.concat([...head(SAMPLE)])];
  const pieces: Piece[] = [{ name: 'head', bytes: parts[0]?.length ?? 0, waits: false }];
  for (let epoch = 1; epoch <= epochs; epoch++) {
    const pages = Array.from({ length: 40 }, (_, pfn) => page(pfn, epoch));
    const whole = Buffer.concat([...checkpointParts({ pages, context: Buffer.alloc(2000) })]);
    const pageBytes = 8 + whole.readUInt32LE(4);
    parts.push(whole);
    pieces.push({ name: `pages ${epoch}`, bytes: pageBytes, waits: true });
    pieces.push({ name: `state ${epoch}`, bytes: whole.length - 8 - pageBytes, waits: false });
    pieces.push({ name: `CHECKPOINT_END ${epoch}`, bytes: 8, waits: false });
  }
  return { bytes: Buffer.concat(parts), pieces };
}

interface Writer {
  child: ChildProcessByStdio<Writable, Readable, null>;
  reader: PipeReader;
  read: number;
  progress: string[];
  go(): void;
  /** Waits for a line of its progress. */
  saw(line: string): Promise<void>;
}

async function withWriter(epochs: number, body: (writer: Writer) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'remus-pipe-'));
  const file = join(folder, 'stream');
  const { bytes, pieces } = stream(epochs);
  writeFileSync(file, bytes);
  const pipe = makePipe();
  const child = spawn(process.execPath, ['-e', WRITER, file, JSON.stringify(pieces)], {
    stdio: ['pipe', 'pipe', 'inherit', pipe.write],
  }) as unknown as ChildProcessByStdio<Writable, Readable, null>;
  closeSync(pipe.write);
  const timer = setTimeout(() => child.kill('SIGKILL'), LIMIT_MS);
  const closed = once(child, 'close');
  const lines: Interface = createInterface(child.stdout);
  const progress: string[] = [];
  const waiters = new Map<string, () => void>();
  lines.on('line', (line) => {
    progress.push(line);
    waiters.get(line)?.();
  });
  const reader = new PipeReader(pipe.read);
  try {
    await body({
      child,
      reader,
      read: pipe.read,
      progress,
      go: () => child.stdin.write('go\n'),
      saw: (line) =>
        progress.includes(line)
          ? Promise.resolve()
          : new Promise((resolve, reject) => {
              waiters.set(line, resolve);
              void closed.then(() => reject(new Error(`the writer ended before "${line}"`)));
            }),
    });
  } finally {
    clearTimeout(timer);
    child.kill('SIGKILL');
    reader.close();
    closeSync(pipe.read);
    await closed;
    rmSync(folder, { recursive: true });
  }
}

/** The system call that a process sleeps in: its number and first argument. */
function syscallOf(pid: number | undefined): string {
  const [number, first] = readFileSync(`/proc/${pid}/syscall`, 'utf8').split(' ');
  return `${number} ${first}`;
}

interface Step {
  event: StreamEvent | null;
  effect: GateEffect | null;
}

/** Reads exactly, as the sender does. @param mayShrink false turns the gate off */
function pump(
  { reader }: Writer,
  mayShrink = true,
): { decoder: StreamDecoder; next: () => Promise<Step>; release: () => void } {
  const decoder = new StreamDecoder();
  let gate = startGate();
  reader.resize(LARGE_BYTES);
  return {
    decoder,
    next: async () => {
      const bytes = await reader.readUpTo(decoder.need().bytes);
      if (bytes.length === 0) throw new Error('the stream ended');
      const event = decoder.push(bytes);
      const step = stepGate(gate, { type: 'read', event });
      gate = step.state;
      if (step.effect?.type === 'shrink') {
        const done = mayShrink ? reader.resize(PAGE_BYTES) === PAGE_BYTES : true;
        gate = stepGate(gate, { type: 'shrunk', done }).state;
      }
      return { event, effect: step.effect };
    },
    release: () => {
      gate = stepGate(gate, { type: 'release' }).state;
      reader.resize(LARGE_BYTES);
    },
  };
}

test('while the gate is shut the writer is blocked, one page behind the header', async () => {
  const epochs = 12;
  await withWriter(epochs, async (writer) => {
    const { decoder, next, release } = pump(writer);
    let held = 0;
    writer.go();
    for (let ended = 0; ended < epochs;) {
      const { event, effect } = await next();
      if (event?.kind === 'checkpoint-end') {
        ended++;
        // The epoch before is read to its end, and the pipe is small: now the next may begin.
        assert.is(writer.reader.capacityBytes(), PAGE_BYTES);
        if (ended < epochs) writer.go();
      }
      assert.is.not(effect?.type, 'missed');
      if (effect?.type !== 'hold') continue;
      held++;
      const { checkpoint } = effect;
      await writer.saw(`begin pages ${checkpoint}`);
      await until('the writer sleeps in its write', () => syscallOf(writer.child.pid) === `${SYS_WRITE} 0x3`);
      // It sleeps there only when the pipe is full. Of 160 KiB it has got rid of the header and of at most a page.
      const inPipe = waiting(writer.read);
      assert.ok(inPipe > 0 && inPipe <= PAGE_BYTES, `${inPipe} bytes are in the pipe`);
      assert.equal(decoder.need(), { kind: 'body', bytes: 8 + 40 * 8 + 40 * PAGE_BYTES });
      for (let turns = 0; turns < 200; turns++) await turn();
      assert.is(waiting(writer.read), inPipe);
      assert.is(syscallOf(writer.child.pid), `${SYS_WRITE} 0x3`);
      assert.not.ok(writer.progress.includes(`end pages ${checkpoint}`));
      release();
      // The pipe is larger than the record, so it is written without another byte being read.
      await writer.saw(`end pages ${checkpoint}`);
    }
    assert.is(held, epochs - 1);
  });
});

test('without the gate the writer goes through the same place', () =>
  withWriter(2, async (writer) => {
    const { next } = pump(writer, false);
    writer.go();
    let step = await next();
    while (step.effect?.type !== 'hold') {
      if (step.event?.kind === 'checkpoint-end') writer.go();
      step = await next();
    }
    // Nothing is read any more, and yet the guest would run: all of the epoch is in the pipe.
    await writer.saw('end state 2');
  }));

test('a reader that sleeps until the next epoch is in the pipe does not take it for held', () =>
  withWriter(2, async (writer) => {
    const { next } = pump(writer);
    writer.go();
    writer.go();
    await next();
    // Asleep: the writer goes on into the second epoch, and through it.
    await writer.saw('end state 2');
    for (let step = await next(); step.effect?.type !== 'missed'; step = await next())
      assert.is.not(step.effect?.type, 'hold');
  }));

test.run();
