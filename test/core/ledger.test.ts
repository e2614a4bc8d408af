/** The ledger's checker: that it finds nothing in what is right, and each thing that can be wrong. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  checkLedger,
  LEDGER_BLOCK_BYTES,
  LEDGER_BLOCK_ENTRIES,
  ledgerPlace,
  putLedgerEntry,
  readLedgerEntries,
} from '../../src/core/ledger.js';
import type { LedgerAnswer, LedgerFault, LedgerSnapshot } from '../../src/core/ledger.js';

const token = (count: number): string => `one:${count}`;
const entries = (last: number): Map<number, string> =>
  new Map(Array.from({ length: last }, (_, index) => [index + 1, token(index + 1)]));
const answer = (count: number, client = 'one'): LedgerAnswer => ({ client, count, token: token(count) });

/** Ten counts, all answered. */
function whole(): LedgerSnapshot & { disks: Map<number, string>[]; answers: LedgerAnswer[] } {
  return {
    answers: Array.from({ length: 10 }, (_, index) => answer(index + 1)),
    memory: { count: 10, entries: entries(10), pending: new Map() },
    disks: [entries(10), entries(10)],
  };
}

function faults(snapshot: LedgerSnapshot): [LedgerFault, number, number | null][] {
  return checkLedger(snapshot).map(({ fault, count, disk }) => [fault, count, disk]);
}

test('nothing is found where every promise was kept', () => {
  assert.equal(faults(whole()), []);
});

test('a count that nobody was told may be there, or be under way to either disk', () => {
  const snapshot = whole();
  snapshot.answers.pop();
  snapshot.disks[1]?.delete(10);
  snapshot.memory = { ...snapshot.memory, pending: new Map([[10, [1]]]) };
  assert.equal(faults(snapshot), []);
  // The disk may as well have it already.
  snapshot.disks[1]?.set(10, token(10));
  assert.equal(faults(snapshot), []);
});

test('a guest that writes to one disk after the other: the second has no count before its write was begun', () => {
  const snapshot = whole();
  snapshot.answers.pop();
  snapshot.memory = { ...snapshot.memory, pending: new Map([[10, [0, 1]]]), begun: [10, 9] };
  assert.equal(faults(snapshot), [['disk-ahead-of-memory', 10, 1]]);
  snapshot.disks[1]?.delete(10);
  assert.equal(faults(snapshot), []);
});

test('an answer that memory and disks lack is found in each', () => {
  const snapshot = whole();
  snapshot.answers.push(answer(11), answer(12));
  assert.equal(faults(snapshot), [
    ['answer-not-in-memory', 11, null],
    ['answer-not-on-disk', 11, 0],
    ['answer-not-on-disk', 11, 1],
  ]);
  assert.is(checkLedger(snapshot)[0]?.times, 2);
});

test("an answer whose place is another's now is found", () => {
  const snapshot = whole();
  snapshot.answers[9] = { client: 'two', count: 10, token: 'two:1' };
  assert.equal(
    faults(snapshot).map(([fault]) => fault),
    ['answer-not-in-memory', 'answer-not-on-disk', 'answer-not-on-disk'],
  );
});

test('a disk behind memory is found, also where the other one is not', () => {
  const snapshot = whole();
  snapshot.answers.length = 8;
  snapshot.disks[1]?.delete(9);
  snapshot.disks[1]?.delete(10);
  assert.equal(faults(snapshot), [['disk-behind-memory', 9, 1]]);
});

test('a disk behind memory is no excuse for an answer, even with its write under way', () => {
  const snapshot = whole();
  snapshot.disks[0]?.delete(10);
  snapshot.memory = { ...snapshot.memory, pending: new Map([[10, [0]]]) };
  assert.equal(faults(snapshot), [['answer-not-on-disk', 10, 0]]);
});

test('a disk ahead of memory is found', () => {
  const snapshot = whole();
  snapshot.disks[0]?.set(11, token(11));
  assert.equal(faults(snapshot), [['disk-ahead-of-memory', 11, 0]]);
});

test('a disk with other content is found', () => {
  const snapshot = whole();
  snapshot.answers.length = 0;
  snapshot.disks[1]?.set(4, 'two:9');
  assert.equal(faults(snapshot), [['disk-differs-from-memory', 4, 1]]);
});

test('a hole in memory is found', () => {
  const snapshot = whole();
  snapshot.answers.length = 0;
  const memory = entries(10);
  memory.delete(5);
  snapshot.memory = { ...snapshot.memory, entries: memory };
  assert.equal(faults(snapshot), [
    ['memory-has-a-hole', 5, null],
    ['disk-ahead-of-memory', 5, 0],
    ['disk-ahead-of-memory', 5, 1],
  ]);
});

test('two copies that count on from the same place are found', () => {
  const snapshot = whole();
  snapshot.answers.push(answer(10, 'two'));
  assert.equal(faults(snapshot), [['answered-twice', 10, null]]);
});

test('a counter that goes back below what a client saw is found', () => {
  const snapshot = whole();
  snapshot.answers.splice(2, 2, answer(4), answer(3));
  assert.equal(faults(snapshot), [['count-went-back', 3, null]]);
});

test('entries are read back from where they were put', () => {
  const last = LEDGER_BLOCK_ENTRIES + 2;
  const blocks = Buffer.alloc(2 * LEDGER_BLOCK_BYTES);
  for (let count = 1; count <= last; count++) {
    const { block, offsetBytes } = ledgerPlace(count);
    putLedgerEntry(blocks, block * LEDGER_BLOCK_BYTES + offsetBytes, count, token(count));
  }
  assert.equal([...readLedgerEntries(blocks)], [...entries(last)]);
  const second = blocks.subarray(LEDGER_BLOCK_BYTES);
  assert.equal(
    [...readLedgerEntries(second, 1).keys()],
    [LEDGER_BLOCK_ENTRIES + 1, LEDGER_BLOCK_ENTRIES + 2],
  );
});

test('a damaged entry, or one that belongs elsewhere, is an error', () => {
  const block = Buffer.alloc(LEDGER_BLOCK_BYTES);
  putLedgerEntry(block, 0, 1, token(1));
  assert.throws(() => readLedgerEntries(block, 1), /damaged at count 65: it says 1/);
  block.writeUInt8(0x21, 20);
  assert.throws(() => readLedgerEntries(block), /damaged at count 1/);
  assert.throws(() => putLedgerEntry(block, 0, 1, 'a b'), RangeError);
  assert.throws(() => putLedgerEntry(block, 0, 1, 'x'.repeat(25)), RangeError);
});

test.run();
