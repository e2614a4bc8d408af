/** `/proc/drbd` of the module with protocol D, and what both sides of a session have to say. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

import fc from 'fast-check';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';

import { ParseError } from '../../../src/core/parse/text.js';
import { parseDeferringDrbd, sidesProblems } from '../../../src/core/protocol-d/proc-drbd.js';
import type { DeferringDevice } from '../../../src/core/protocol-d/proc-drbd.js';
import { takeOver } from '../../../src/core/protocol-d/take-over.js';
import type { TakeOverFacts } from '../../../src/core/protocol-d/take-over.js';
import { device, read } from './sides.js';

const test = suite('/proc/drbd with protocol D');
const DATA = 'test/data/proc-drbd';

test('a backup that holds writes back', () => {
  assert.equal(
    [...parseDeferringDrbd(read('backup-deferring.txt'))],
    [
      [
        1,
        {
          minor: 1,
          connection: 'Connected',
          role: 'Primary',
          peerRole: 'Primary',
          disk: 'UpToDate',
          peerDisk: 'UpToDate',
          protocol: 'D',
          suspended: false,
          receivedKib: 66300,
          writtenKib: 66204,
          diskUses: 24,
          pendingRequests: 0,
          deferredWrites: 24,
          nextCheckpoint: 42,
          outOfSyncBytes: 0,
        },
      ],
    ],
  );
});

test('several devices, holes, an unconfigured one, suspended I/O', () => {
  const devices = parseDeferringDrbd(read('several-and-holes.txt'));
  assert.equal([...devices.keys()], [0, 2, 12]);
  assert.is(devices.get(0)?.protocol, 'C');
  assert.is(devices.get(2)?.deferredWrites, 3);
  assert.is(devices.get(12)?.suspended, true);
  assert.is(devices.get(12)?.outOfSyncBytes, 4096 * 1024);
});

test('a resync, and the older form with five flags', () => {
  assert.is(parseDeferringDrbd(read('resync.txt')).get(1)?.connection, 'SyncTarget');
  assert.is(parseDeferringDrbd(read('five-flags.txt')).get(1)?.nextCheckpoint, 3);
});

test('a device without a network configuration has no protocol', () => {
  const found = parseDeferringDrbd(read('primary-before.txt').replace(' D r', '   r')).get(1);
  assert.is(found?.protocol, undefined);
});

const good = read('backup-deferring.txt');
const bad: [string, string, RegExp][] = [
  ['nothing', '', /nothing printed/],
  ['another DRBD', good.replace('8.3.11', '8.4.11'), /DRBD 8\.3 is expected/],
  ['no build', good.replace(/^GIT.*$/m, 'hello'), /build is expected/],
  [
    'a module without protocol D',
    read('stock-8.3.txt'),
    /no "def:" before "oos:", so this module has no protocol D/,
  ],
  [
    'an unknown connection state',
    good.replace('cs:Connected', 'cs:Joined'),
    /unknown connection state "Joined"/,
  ],
  ['an unknown role', good.replace('Primary/Primary', 'Primary/Third'), /unknown role "Third"/],
  ['an unknown disk state', good.replace('UpToDate/', 'Fine/'), /unknown disk state "Fine"/],
  ['an unknown protocol', good.replace(' D ', ' E '), /unknown protocol "E"/],
  ['an unknown write ordering', good.replace('wo:f', 'wo:x'), /unknown write ordering/],
  ['an unknown flag', good.replace('r-----', 'q-----'), /states and flags are expected/],
  ['a negative count', good.replace('def:24', 'def:-1'), /def is not a number/],
  ['counts in another order', good.replace('def:24 chkpt:42', 'chkpt:42 def:24'), /no "def:"/],
  ['one count more', good.replace('oos:0', 'oos:0 new:1'), /"new:1" is not known/],
  ['counts that are missing', good.replace(/\n {4}.*/, ''), /breaks off/],
  ['a minor twice', good + good.split('\n').slice(3).join('\n'), /minors have to rise/],
];

for (const [what, text, says] of bad) {
  test(`refuses ${what}`, () => {
    assert.throws(
      () => parseDeferringDrbd(text),
      (error: unknown) => error instanceof ParseError && says.test(error.message),
    );
  });
}

test('whatever is printed, it is read or refused with a ParseError', () => {
  const all = readdirSync(DATA)
    .filter((name) => name.endsWith('.txt'))
    .map((name) => readFileSync(join(DATA, name), 'utf8'));
  const mutated = fc
    .tuple(fc.constantFrom(...all), fc.nat(), fc.nat(), fc.string({ maxLength: 6 }))
    .map(([text, at, cut, put]) => {
      const start = at % (text.length + 1);
      return text.slice(0, start) + put + text.slice(start + (cut % 8));
    });
  fc.assert(
    fc.property(fc.oneof(mutated, fc.string({ unit: 'binary' })), (text) => {
      try {
        parseDeferringDrbd(text);
      } catch (error) {
        assert.instance(error, ParseError);
      }
    }),
    { numRuns: 3000 },
  );
});

// --- Both sides -------------------------------------------------------------------------------------------

const primary = device('primary-protected.txt');
const backup = device('backup-deferring.txt');
const expected = { first: 1, acknowledged: 41, barrierOut: false };

test('both sides as they have to be', () => {
  assert.equal(sidesProblems({ primary, backup }, expected), []);
});

const wrong: [string, Parameters<typeof sidesProblems>[0], RegExp][] = [
  [
    'a backup that is secondary',
    { primary, backup: { ...backup, role: 'Secondary' } },
    /backup is Secondary, Primary is required: it would write/,
  ],
  [
    'another protocol',
    { primary, backup: { ...backup, protocol: 'C' } },
    /backup has protocol C, D is required/,
  ],
  [
    'a connection that is lost',
    { primary: { ...primary, connection: 'WFConnection' }, backup },
    /primary is WFConnection/,
  ],
  [
    'a disk that is not up to date',
    { primary, backup: { ...backup, disk: 'Inconsistent' } },
    /backup's disk is Inconsistent/,
  ],
  ['suspended I/O', { primary: { ...primary, suspended: true }, backup }, /primary's I\/O is suspended/],
  [
    'a primary that counts otherwise',
    { primary: { ...primary, nextCheckpoint: 43 }, backup },
    /primary counts checkpoint 43 as the next one, ours is 42/,
  ],
  [
    'a backup that is behind',
    { primary, backup: { ...backup, nextCheckpoint: 41 } },
    /backup counts checkpoint 41/,
  ],
  [
    'a backup that is ahead of a barrier that was not sent',
    { primary, backup: { ...backup, nextCheckpoint: 43 } },
    /backup counts checkpoint 43/,
  ],
  [
    'a backup that writes',
    { primary: { ...primary, deferredWrites: 1 }, backup },
    /holds back 1 writes of the backup/,
  ],
];

for (const [what, sides, says] of wrong) {
  test(`says of ${what}`, () => {
    const problems = sidesProblems(sides, expected);
    assert.is(problems.length, 1, problems.join('\n'));
    assert.match(problems[0] ?? '', says);
  });
}

test('while a barrier is out the backup may be one ahead, and no more', () => {
  const out = { ...expected, barrierOut: true };
  assert.equal(sidesProblems({ primary, backup: { ...backup, nextCheckpoint: 43 } }, out), []);
  assert.equal(sidesProblems({ primary, backup }, out), []);
  assert.is(sidesProblems({ primary, backup: { ...backup, nextCheckpoint: 44 } }, out).length, 1);
});

// --- Taking over ------------------------------------------------------------------------------------------

const start = { ...device('backup-before.txt'), role: 'Primary' as const };
const before = backup;
const lost = device('backup-after-loss.txt');
/** 96 KiB were held back, and all of them are on the disk. */
const facts: TakeOverFacts = { committed: 41, start, complete: { checkpoint: 42, before }, after: lost };
const looked = (change: Partial<DeferringDevice>): Partial<TakeOverFacts> => {
  return { complete: { checkpoint: 42, before: { ...before, ...change } } };
};
const found = (change: Partial<DeferringDevice>): Partial<TakeOverFacts> => ({
  after: { ...lost, ...change },
});

const decisions: [string, Partial<TakeOverFacts>, string][] = [
  ['the disk was written after the memory was complete', {}, 'take 42'],
  ['it was not', found({ writtenKib: before.writtenKib }), 'take 41'],
  ['only a part of what was held back was written', found({ writtenKib: before.writtenKib + 48 }), 'refuse'],
  ['more came after it was looked at', found({ writtenKib: before.writtenKib + 200 }), 'take 42'],
  ['the connection is still there', { after: before }, 'wait'],
  ['the connection is going down', found({ connection: 'NetworkFailure' }), 'wait'],
  ['the module still holds writes back', found({ deferredWrites: 1 }), 'wait'],
  ['the module still writes', found({ diskUses: 2 }), 'wait'],
  ['the epoch before was still being written', looked({ diskUses: 25 }), 'refuse'],
  ['the count of what was written fell', looked({ writtenKib: 70000 }), 'refuse'],
  ['the count of what was received fell', looked({ receivedKib: 10 }), 'refuse'],
  ['a checkpoint is missing between', { committed: 40 }, 'refuse'],
  ['the disk is not up to date', found({ disk: 'Inconsistent' }), 'refuse'],
];

for (const [what, change, is] of decisions) {
  test(`taking over when ${what}: ${is}`, () => {
    const result = takeOver({ ...facts, ...change });
    assert.is(result.decision === 'take' ? `take ${result.checkpoint}` : result.decision, is, result.reason);
  });
}

test('taking over when no later memory is complete, and when nothing was ever committed', () => {
  const result = takeOver({ committed: 41, start, after: lost });
  assert.is(result.decision === 'take' ? result.checkpoint : result.decision, 41);
  assert.is(takeOver({ start, complete: { checkpoint: 1, before }, after: lost }).decision, 'refuse');
});

test.run();
