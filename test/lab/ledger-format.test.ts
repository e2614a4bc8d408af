/** The checks of the ledger are tried to be fooled: each way in which memory, disks and network can disagree is found. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  LEDGER_BLOCK_BYTES,
  LEDGER_ENTRY_BYTES,
  ledgerPlace,
  putLedgerEntry,
} from '../../src/core/ledger.js';
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
import { blocksOf, checkCommit, checkOutput, parseCapture, tokenOf, topOf } from './ledger-format.js';
import type { LedgerPage } from './ledger-format.js';
import { LedgerMemory } from './ledger-memory.js';

/** The first blocks of a disk as the guest leaves it after so many counts. */
function diskAt(top: number, blocks = blocksOf(pageAt(top))): Buffer {
  const area = Buffer.alloc(blocks * LEDGER_BLOCK_BYTES);
  for (let count = 1; count <= top; count++) putCount(area, count);
  return area;
}

function putCount(area: Buffer, count: number): void {
  const { block, offsetBytes } = ledgerPlace(count);
  putLedgerEntry(area, block * LEDGER_BLOCK_BYTES + offsetBytes, count, tokenOf(count));
}

/** The guest's memory after so many counts, with the second disk's write of the last one where it is said. */
function pageAt(count: number, issued1 = count, done1 = issued1): LedgerPage {
  return {
    disks: [
      { issued: count, done: count },
      { issued: issued1, done: done1 },
    ],
    sent: done1,
  };
}

const faults = (page: LedgerPage, areas: Buffer[]): [string, string][] =>
  checkCommit(page, areas).map(({ fault, text }) => [fault, text]);

test('disks that agree with memory, in their first block and behind it', () => {
  for (const top of [0, 1, 63, 64, 65, 1000]) {
    assert.equal(faults(pageAt(top), [diskAt(top), diskAt(top)]), [], `${top}`);
  }
});

test('the write that was under way may be there or not; the one that was not begun may not', () => {
  const blocks = blocksOf(pageAt(100));
  const [before, after] = [diskAt(99, blocks), diskAt(100)];
  assert.equal(faults(pageAt(100, 100, 99), [after, before]), []);
  assert.equal(faults(pageAt(100, 100, 99), [after, after]), []);
  assert.equal(faults(pageAt(100, 99), [after, before]), []);
  assert.equal(faults(pageAt(100, 99), [after, after]), [
    ['disk-ahead-of-memory', 'disk 1 has count 100, memory is at 99'],
  ]);
});

test('one write too many, also in the next block, and one too few', () => {
  for (const top of [100, 128]) {
    const blocks = blocksOf(pageAt(top));
    const [right, more, less] = [diskAt(top), diskAt(top + 1, blocks), diskAt(top - 1, blocks)];
    assert.equal(
      faults(pageAt(top), [more, less]).map(([fault]) => fault),
      ['disk-ahead-of-memory', 'disk-behind-memory'],
    );
    assert.equal(
      faults(pageAt(top), [right, more]).map(([fault]) => fault),
      ['disk-ahead-of-memory'],
    );
  }
});

test('a write in the middle that is missing, or not whole', () => {
  const { block, offsetBytes } = ledgerPlace(90);
  const at = block * LEDGER_BLOCK_BYTES + offsetBytes;
  const missing = diskAt(100);
  missing.fill(0, at, at + LEDGER_ENTRY_BYTES);
  assert.equal(
    faults(pageAt(100), [missing, diskAt(100)]).map(([fault]) => fault),
    ['disk-behind-memory'],
  );
  const torn = diskAt(100);
  torn.fill(0, at + 32, at + LEDGER_ENTRY_BYTES).fill(1, at + 20, at + 24);
  assert.equal(faults(pageAt(100), [diskAt(100), torn]), [
    ['damaged', 'the ledger is damaged at count 90: it says 90'],
  ]);
  assert.is(topOf(torn), -1);
  assert.is(topOf(missing), 100);
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
