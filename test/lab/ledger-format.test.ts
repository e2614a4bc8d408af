/** The checks of the ledger are tried to be fooled: each way in which memory, disks and network can disagree is found. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  encodeCheckpoint,
  encodeCheckpointEnd,
  encodeImageHeaders,
  encodePages,
  encodePagesWithoutData,
  encodePreamble,
  encodeStaticDataEnd,
} from '../../src/core/stream/encoder.js';
import { PageType } from '../../src/core/stream/format.js';
import {
  AREA_BYTES,
  BLOCK_BYTES,
  checkDisk,
  checkOutput,
  parseArea,
  parseCapture,
  SLOTS,
} from './ledger-format.js';
import { LedgerMemory } from './ledger-memory.js';

/** A disk as the guest leaves it after so many counts. */
function diskAt(top: number): number[] {
  const slots = new Array<number>(SLOTS).fill(0);
  for (let count = 1; count <= top; count++) slots[count % SLOTS] = count;
  return slots;
}

function block(disk: number, count: number): Buffer {
  const period = Buffer.alloc(32);
  period.write('REMUSLGR', 'latin1');
  period.writeBigUInt64LE(BigInt(disk), 8);
  period.writeBigUInt64LE(BigInt(count), 16);
  period.writeBigUInt64LE(BigInt.asUintN(64, ~BigInt(count)), 24);
  return Buffer.alloc(BLOCK_BYTES, period);
}

const kinds = (found: { kind: string }[]): string[] => found.map(({ kind }) => kind);

test('a disk that agrees with memory, before and after the first round of its slots', () => {
  for (const top of [0, 1, 5, SLOTS - 1, SLOTS, SLOTS + 1, 1000]) {
    assert.equal(checkDisk({ issued: top, done: top }, diskAt(top), 0), [], `${top}`);
  }
});

test('the write that was under way may be there or not', () => {
  assert.equal(checkDisk({ issued: 100, done: 99 }, diskAt(99), 0), []);
  assert.equal(checkDisk({ issued: 100, done: 99 }, diskAt(100), 0), []);
});

test('one write too many, and one too few', () => {
  assert.equal(kinds(checkDisk({ issued: 100, done: 100 }, diskAt(101), 0)), ['ahead']);
  assert.equal(kinds(checkDisk({ issued: 100, done: 100 }, diskAt(99), 0)), ['behind']);
});

test('a write in the middle that is missing, old, or not whole', () => {
  for (const wrong of [0, 90 - SLOTS, -1]) {
    const slots = diskAt(100);
    slots[90 % SLOTS] = wrong;
    assert.equal(kinds(checkDisk({ issued: 100, done: 100 }, slots, 0)), ['hole'], `${wrong}`);
  }
});

test('blocks are read whole or not at all', () => {
  const area = Buffer.alloc(AREA_BYTES);
  block(1, 7).copy(area, 7 * BLOCK_BYTES);
  block(0, 8).copy(area, 8 * BLOCK_BYTES);
  block(1, 9).copy(area, 9 * BLOCK_BYTES);
  area.fill(0, 9 * BLOCK_BYTES + 2048, 9 * BLOCK_BYTES + 2560);
  const slots = parseArea(area, 1);
  assert.is(slots[6], 0);
  assert.is(slots[7], 7);
  assert.is(slots[8], -1, 'of the other disk');
  assert.is(slots[9], -1, 'torn');
});

function ledgerPage(...words: number[]): Buffer {
  const page = Buffer.alloc(4096);
  page.write('REMUSDRBD-LEDGER', 'latin1');
  words.forEach((value, index) => page.writeBigUInt64LE(BigInt(value), 16 + 8 * index));
  return page;
}

/** Two checkpoints; the ledger is page 7 among others. */
function stream(first: Buffer, second: Buffer): Buffer {
  const other = Buffer.alloc(4096, 1);
  return Buffer.concat([
    ...encodePreamble(Buffer.from('{}'), true),
    ...encodeImageHeaders({ version: 3, xenMajor: 4, xenMinor: 17 }),
    ...encodeStaticDataEnd(),
    ...encodePages([
      { pfn: 6, bytes: other },
      { pfn: 7, bytes: first },
    ]),
    ...encodePagesWithoutData([1, 2], PageType.invalid),
    ...encodeCheckpoint(),
    ...encodeCheckpointEnd(),
    ...encodePages([
      { pfn: 7, bytes: second },
      { pfn: 9, bytes: other },
    ]),
    ...encodeCheckpoint(),
    ...encodeCheckpointEnd(),
  ]);
}

test('the ledger is found in a stream, whatever pieces it comes in', () => {
  const bytes = stream(ledgerPage(5, 4, 4, 4, 3), ledgerPage(9, 9, 9, 8, 7));
  for (const piece of [1, 13, 4096, bytes.length]) {
    const memory = new LedgerMemory();
    const seen: (number | undefined)[] = [];
    for (let at = 0; at < bytes.length; at += piece) {
      memory.push(bytes.subarray(at, at + piece));
      if (memory.page?.sent !== seen[seen.length - 1]) seen.push(memory.page?.sent);
    }
    assert.equal(memory.page, {
      disks: [
        { issued: 9, done: 9 },
        { issued: 9, done: 8 },
      ],
      sent: 7,
    });
    if (piece < bytes.length) assert.equal(seen, [3, 7]);
  }
});

test('two ledgers in one guest are refused', () => {
  const bytes = Buffer.concat([
    ...encodePreamble(Buffer.from('{}'), true),
    ...encodeImageHeaders({ version: 3, xenMajor: 4, xenMinor: 17 }),
    ...encodeStaticDataEnd(),
    ...encodePages([
      { pfn: 6, bytes: ledgerPage(1) },
      { pfn: 7, bytes: ledgerPage(1) },
    ]),
  ]);
  assert.throws(() => new LedgerMemory().push(bytes), /both look like/);
});

test('packets that left with their commit or after it, and packets that did not', () => {
  const commits = [
    { epoch: 1, timeMs: 1000, sent: 10 },
    { epoch: 2, timeMs: 2000, sent: 20 },
    { epoch: 3, timeMs: 3000, sent: 30 },
  ];
  const good = [
    { count: 3, timeMs: 500 },
    { count: 10, timeMs: 1000.2 },
    { count: 20, timeMs: 2000.1 },
    { count: 11, timeMs: 2500 },
  ];
  assert.equal(checkOutput(good, commits), { packets: 3, violations: [] });
  const early = checkOutput([{ count: 20, timeMs: 1999.9 }], commits);
  assert.equal(
    early.violations.map(({ epoch }) => epoch),
    [2],
  );
  const never = checkOutput([{ count: 31, timeMs: 2500 }], commits);
  assert.equal(
    never.violations.map(({ epoch }) => epoch),
    [null],
  );
});

test('a capture that is still being written', () => {
  const payload = Buffer.alloc(24);
  payload.write('REMUSDRBD-PACKET', 'latin1');
  payload.writeBigUInt64LE(77n, 16);
  const frame = Buffer.concat([Buffer.alloc(42), payload]);
  const header = Buffer.alloc(24);
  header.writeUInt32LE(0xa1b2c3d4, 0);
  const record = Buffer.alloc(16);
  record.writeUInt32LE(1234, 0);
  record.writeUInt32LE(567_000, 4);
  record.writeUInt32LE(frame.length, 8);
  const file = Buffer.concat([header, record, frame, record, frame.subarray(0, 50)]);
  assert.equal(parseCapture(file), [{ count: 77, timeMs: 1_234_567 }]);
});

test.run();
