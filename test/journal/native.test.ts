/**
 * The calls to libc that move the journal's bytes: that a vector of pieces is written as what it says, and that a wrong
 * address is never made good by another way of writing, which would hide that every write goes the slow way.
 */
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { openDisk } from '../../src/journal/file-disk.js';
import { native, PIECES_MAX } from '../../src/journal/native.js';

const test = suite('native');
const EBADF = 9;
const EFAULT = 14;
let directory: string;
let path: string;

test.before.each(() => {
  directory = mkdtempSync(join(tmpdir(), 'remus-native-'));
  path = join(directory, 'file');
  writeFileSync(path, '');
});
test.after.each(() => rmSync(directory, { recursive: true }));

function withFile<T>(use: (fd: number) => T): T {
  const fd = openSync(path, 'r+');
  try {
    return use(fd);
  } finally {
    closeSync(fd);
  }
}

/** Pieces of every kind that the journal has: whole memory, a part of one, the pool's, an empty one, a small one. */
function pieces(): Uint8Array[] {
  const large = Buffer.alloc(3 << 20, 0x5a);
  const shared = new Uint8Array(new ArrayBuffer(9000)).map((_, index) => index);
  return [
    shared.subarray(1, 4097),
    large,
    Buffer.from('from the pool of Node'),
    new Uint8Array(0),
    shared.subarray(4097),
    Uint8Array.of(1, 2, 3),
    large.subarray(4096, 4097),
  ];
}

test('pieces are written one after the other, from their places in memory to the offset', () => {
  const { writeNow } = native();
  const expected = Buffer.concat(pieces());
  const offset = 12_345;
  assert.is(
    withFile((fd) => writeNow(fd, pieces(), offset)),
    expected.length,
  );
  const written = readFileSync(path);
  assert.is(written.length, offset + expected.length);
  assert.ok(written.subarray(offset).equals(expected));
  assert.ok(written.subarray(0, offset).every((byte) => byte === 0));
});

test('an offset beyond 32 bits and as many pieces as there may be', () => {
  const { writeNow, readNow } = native();
  const offset = 2 ** 40 + 4096;
  const many = Array.from({ length: PIECES_MAX }, (_, index) => Uint8Array.of(index, index >> 8));
  withFile((fd) => {
    assert.is(writeNow(fd, many, offset), 2 * PIECES_MAX);
    const back = Buffer.alloc(2 * PIECES_MAX);
    // Where the kernel can't tell at once, there is nothing to compare.
    if (readNow?.(fd, back, offset) === true) assert.ok(back.equals(Buffer.concat(many)));
  });
  truncateSync(path, 0);
});

test('a write that fails says with which errno', () => {
  assert.is(native().writeNow(-1, [Uint8Array.of(1)], 0), -EBADF);
  const readOnly = openSync(path, 'r');
  assert.is(native().writeNow(readOnly, [Uint8Array.of(1)], 0), -EBADF);
  closeSync(readOnly);
});

/** Runs with a `writeNow` that finds this errno. */
async function failing(errno: number, work: () => Promise<void>): Promise<void> {
  const calls = native();
  const { writeNow } = calls;
  calls.writeNow = () => -errno;
  try {
    await work();
  } finally {
    calls.writeNow = writeNow;
  }
}

test('a disk writes the same by its fast way and by the pool', async () => {
  writeFileSync(path, Buffer.alloc(8 << 20));
  const expected = Buffer.concat(pieces());
  const disk = await openDisk(path, { mode: 'buffered' });
  await disk.write(pieces(), 4096);
  // An error of the disk's: the pool's call finds out what is missing and why.
  await failing(28, async () => void (await disk.write(pieces(), 4 << 20)));
  await disk.close();
  const written = readFileSync(path);
  for (const at of [4096, 4 << 20]) assert.ok(written.subarray(at, at + expected.length).equals(expected));
});

test('a wrong address ends the process, and is not written another way', async () => {
  writeFileSync(path, Buffer.alloc(8192));
  const disk = await openDisk(path, { mode: 'buffered' });
  await failing(EFAULT, () => {
    assert.throws(() => disk.write([Buffer.alloc(4096, 1)], 0), /pwritev.*errno 14.*address/);
    return Promise.resolve();
  });
  await disk.close();
  assert.ok(readFileSync(path).every((byte) => byte === 0));
});

test.run();
