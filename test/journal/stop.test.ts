/**
 * Nothing writes after the end: a write that is still on its way when a descriptor is closed would land in whatever
 * file gets its number next.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { DescriptorOp } from '../../src/core/journal/format.js';
import type { Disk } from '../../src/core/journal/types.js';
import { openDisk } from '../../src/journal/file-disk.js';
import { EpochJournal, formatJournal } from '../../src/journal/journal.js';

const test = suite('the end of a journal');
const KIB = 1024;

async function inFolder(body: (path: (name: string) => string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'journal-stop-'));
  try {
    await body((name) => join(folder, name));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

test('a closed disk refuses everything, and whoever has its descriptor now is left alone', () =>
  inFolder(async (path) => {
    for (const name of ['old', 'new']) writeFileSync(path(name), Buffer.alloc(64 * KIB));
    const disk = await openDisk(path('old'));
    await disk.close();
    const other = await open(path('new'), 'r+');
    const code = async (action: () => Promise<unknown> | undefined): Promise<string> => {
      try {
        await action();
        return 'none';
      } catch (error) {
        return (error as NodeJS.ErrnoException).code ?? '';
      }
    };
    assert.is(await code(() => disk.write([Buffer.alloc(4096, 7)], 0)), 'EBADF');
    assert.is(await code(() => disk.zero(0, 4096)), 'EBADF');
    assert.is(await code(() => disk.read(Buffer.alloc(512), 0)), 'EBADF');
    assert.is(await code(() => disk.flush()), 'EBADF');
    assert.is(disk.tryRead(Buffer.alloc(512), 0), false);
    await other.close();
    assert.equal(readFileSync(path('new')), Buffer.alloc(64 * KIB));
  }));

test('closing waits for what is on its way', () =>
  inFolder(async (path) => {
    writeFileSync(path('disk'), Buffer.alloc(1024 * KIB));
    const disk = await openDisk(path('disk'));
    let done = false;
    const flushing = disk.flush().then(() => (done = true));
    await disk.close();
    assert.is(done, true);
    await flushing;
  }));

/** A target whose writes end only when the test says so. */
class SlowTarget implements Disk {
  readonly sizeBytes = 1024 * KIB;
  readonly blockBytes = 512;
  readonly waiting: (() => void)[] = [];
  onWrite: (() => void) | null = null;

  tryRead(into: Uint8Array): boolean {
    into.fill(0);
    return true;
  }
  read(into: Uint8Array): Promise<void> {
    into.fill(0);
    return Promise.resolve();
  }
  write(): Promise<void> {
    return new Promise((resolve) => {
      this.waiting.push(resolve);
      this.onWrite?.();
    });
  }
  zero(): Promise<void> {
    return Promise.resolve();
  }
  flush(): Promise<void> {
    return Promise.resolve();
  }
  close(): Promise<void> {
    return Promise.resolve();
  }
}

test('a drain that is stopped begins no write, and is not over before those it began', () =>
  inFolder(async (path) => {
    writeFileSync(path('journal'), Buffer.alloc(24 * KIB + 6 * 64 * KIB));
    const disk = await openDisk(path('journal'));
    const target = new SlowTarget();
    const volumes = [{ name: 'a', sizeBytes: target.sizeBytes, barrier: false }];
    await formatJournal(disk, {
      domain: 'web',
      volumes,
      segmentBytes: 64 * KIB,
      journalId: Buffer.alloc(16, 9),
    });
    const journal = await EpochJournal.open(disk, [target], volumes, { drain: { delayMs: 0 } });
    const full = new Promise<void>((resolve) => {
      target.onWrite = () => {
        if (target.waiting.length === 4) resolve();
      };
    });
    // Eight blocks that don't touch: eight runs, of which four may be on their way.
    for (let block = 0; block < 8; block++) {
      journal.submit({
        op: DescriptorOp.write,
        volume: 0,
        sector: block * 16,
        sectors: 8,
        data: Buffer.alloc(4096, block + 1),
        sink: { written: () => undefined },
      });
    }
    journal.kick();
    await full;
    let closed = false;
    const closing = journal.close().then(() => (closed = true));
    target.waiting[0]?.();
    for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
    assert.is(target.waiting.length, 4, 'no write began after the stop');
    assert.is(closed, false, 'three are still on their way');
    for (const end of target.waiting) end();
    await closing;
    assert.is(target.waiting.length, 4);
    await disk.close();
  }));

test.run();
