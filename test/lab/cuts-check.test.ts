/** The judge of a failover is tried to be fooled: each promise that can be broken is found to be broken. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { LEDGER_BLOCK_BYTES, ledgerPlace, putLedgerEntry } from '../../src/core/ledger.js';
import { answersOf, copiesOf, judgeFailover, resumeOf, splitOf, startMs, summarise } from './cuts-check.js';
import type { ClientLine, EyesLine } from './cuts-log.js';
import { tokenOf } from './ledger-format.js';
import type { LedgerPage } from './ledger-format.js';

const STARTED_MS = 20_000;
/** The client asked every second count. */
const tokenAt = (count: number): string => (count % 2 === 0 ? `one-${count / 2}` : tokenOf(count));

function area(top: number, token = tokenAt): Buffer {
  const bytes = Buffer.alloc(3 * LEDGER_BLOCK_BYTES);
  for (let count = 1; count <= top; count++) {
    const { block, offsetBytes } = ledgerPlace(count);
    putLedgerEntry(bytes, block * LEDGER_BLOCK_BYTES + offsetBytes, count, token(count));
  }
  return bytes;
}

function pageAt(count: number): LedgerPage {
  return {
    disks: [
      { issued: count, done: count },
      { issued: count, done: count },
    ],
    sent: count,
  };
}

/** Answers to the even counts up to `before` ahead of the failover, and to two behind it. */
function client(before: number, after = 72): ClientLine[] {
  const lines: ClientLine[] = [{ event: 'connected', timeMs: 1 }];
  for (let count = 2; count <= before; count += 2) {
    lines.push({ event: 'packet', count, timeMs: 100 + count });
    lines.push({ event: 'answer', count, token: tokenAt(count), timeMs: 100 + count });
  }
  for (let count = after; count <= after + 2; count += 2) {
    lines.push({ event: 'packet', count, timeMs: 22_000 + count });
    lines.push({ event: 'answer', count, token: tokenAt(count), timeMs: 25_000 + count });
  }
  return lines;
}

function eyes(memory: LedgerPage | null = pageAt(70)): EyesLine[] {
  return [
    { event: 'claim', timeMs: 15_000, text: '' },
    { event: 'claimed', timeMs: 15_400, text: 'backup: etcd' },
    { event: 'step', step: 'disconnect', beganMs: 15_500, endedMs: 15_900 },
    { event: 'resume', epoch: 9, memory, tookMs: 300 },
    { event: 'step', step: 'start-guest', beganMs: STARTED_MS, endedMs: 21_000 },
  ];
}

function faults(lines: ClientLine[], areas = [area(70), area(70)], page = pageAt(70)): string[] {
  const resume = resumeOf(eyes(page), areas);
  const before = answersOf('one', lines, 0, startMs(eyes()));
  return judgeFailover(resume, before, lines, STARTED_MS).map(({ fault }) => fault);
}

test('a failover that kept everything', () => {
  assert.equal(faults(client(70)), []);
  assert.equal(faults(client(60)), []);
});

test('an answer that the guest does not know of any more, in memory or on a disk', () => {
  assert.equal(faults(client(70), [area(68), area(68)], pageAt(68)), [
    'answer-not-in-memory',
    'answer-not-on-disk',
    'answer-not-on-disk',
    'output-not-in-memory',
  ]);
  assert.equal(faults(client(70), [area(70), area(69)]), ['answer-not-on-disk', 'disk-behind-memory']);
});

test('an answer whose count is another one’s now', () => {
  const other = (count: number): string => (count === 70 ? tokenOf(count) : tokenAt(count));
  assert.equal(faults(client(70), [area(70, other), area(70, other)]), [
    'answer-not-in-memory',
    'answer-not-on-disk',
    'answer-not-on-disk',
  ]);
});

test('disks that are ahead of memory, or differ', () => {
  assert.equal(faults(client(60), [area(71), area(72)]), ['disk-ahead-of-memory', 'disk-ahead-of-memory']);
  assert.equal(faults(client(60), [area(70), area(70, tokenOf)]).includes('disk-differs-from-memory'), true);
});

test('a packet that was seen and did not happen', () => {
  const lines = client(60);
  lines.push({ event: 'packet', count: 71, timeMs: 300 });
  assert.equal(faults(lines), ['output-not-in-memory']);
});

test('a connection that is of no use afterwards, and a client that asked nothing', () => {
  const silent = client(60).filter(({ event, timeMs }) => event !== 'answer' || timeMs < STARTED_MS);
  assert.equal(faults(silent), ['connection-lost']);
  assert.equal(faults([...client(60), { event: 'closed', reason: 'ECONNRESET', timeMs: 26_000 }]), [
    'connection-lost',
  ]);
  assert.equal(faults(client(0)), ['not-asked']);
});

test('a guest whose ledger was not seen, or was damaged, is no proof', () => {
  assert.throws(() => resumeOf(eyes(null), [area(70)]), /no ledger/);
  assert.throws(() => resumeOf([], []), /does not tell/);
  const torn = area(70).fill(1, 20, 24);
  assert.throws(() => resumeOf(eyes(), [torn, area(70)]), /damaged/);
});

test('the time of a failover by its parts, without the time for looking at it', () => {
  assert.equal(splitOf(eyes(), client(60), 5_000), {
    detection: 10_000,
    claim: 500,
    disk: 4_200,
    start: 2_072,
    packet: 16_772,
    answer: 19_772,
  });
  assert.throws(() => splitOf(eyes(), client(60), 16_000), /no failover/);
  const [first] = summarise([
    { detection: 1000, claim: 0, disk: 0, start: 0, packet: 0, answer: 0 },
    { detection: 9000, claim: 0, disk: 0, start: 0, packet: 0, answer: 0 },
    { detection: 2000, claim: 0, disk: 0, start: 0, packet: 0, answer: 0 },
  ]);
  assert.is(first, 'detection median   2.0 s, worst   9.0 s');
});

const head = 'Name                                        ID   Mem VCPUs	State	Time(s)\n';
const domain0 = 'Domain-0                                     0  1024     1     r-----     100.1\n';

test('copies that live, on which hosts', () => {
  const runs = 'web                                          3    96     1     -b----       1.2\n';
  const waits = 'web--incoming                                4    96     1     --p---       0.0\n';
  const paused = 'web                                          5    96     1     --p---       0.0\n';
  const one = new Map([
    ['alpha', head + domain0 + runs],
    ['beta', head + domain0 + waits + paused],
  ]);
  assert.equal(copiesOf(one, 'web'), ['alpha']);
  const two = new Map([
    ['alpha', head + domain0 + runs],
    ['beta', head + domain0 + runs],
  ]);
  assert.equal(copiesOf(two, 'web'), ['alpha', 'beta']);
});

test.run();
