/** Sessions over protocol D as scripts with their transcripts: what comes in (>), what is to be done, the phase. */
import fc from 'fast-check';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';

import {
  protocolDOff,
  protocolDReason,
  stepProtocolD,
  UNSEEN_CHECKPOINTS_MAX,
} from '../../../src/core/protocol-d/engine.js';
import type { ProtocolDEffect, ProtocolDInput, ProtocolDState } from '../../../src/core/protocol-d/engine.js';
import type { BothSides, DeferringDevice } from '../../../src/core/protocol-d/proc-drbd.js';
import { device } from './sides.js';

const test = suite('a session over protocol D');

const primaryBefore = device('primary-before.txt');
const backupBefore = device('backup-before.txt');

/** Both sides with the backup promoted, at the module's number of the next checkpoint. */
function sides(
  nextCheckpoint: number,
  deferredWrites: number,
  more: { primary?: Partial<DeferringDevice>; backup?: Partial<DeferringDevice> } = {},
): ProtocolDInput {
  const primary = { ...primaryBefore, nextCheckpoint, ...more.primary };
  const backup = {
    ...backupBefore,
    role: 'Primary' as const,
    nextCheckpoint,
    deferredWrites,
    ...more.backup,
  };
  return { kind: 'sides', sides: { primary, backup } };
}

const before: BothSides = { primary: primaryBefore, backup: backupBefore };

function run(
  inputs: readonly ProtocolDInput[],
  from: ProtocolDState = protocolDOff,
): { state: ProtocolDState; text: string; effects: ProtocolDEffect[] } {
  let state = from;
  const lines: string[] = [];
  const all: ProtocolDEffect[] = [];
  for (const input of inputs) {
    const step = stepProtocolD(state, input);
    state = step.state;
    all.push(...step.effects);
    const result = input.kind === 'barrier-sent' ? ` ${input.result}` : '';
    const held =
      input.kind === 'sides'
        ? ` def ${input.sides.backup.deferredWrites} chkpt ${input.sides.backup.nextCheckpoint}`
        : '';
    lines.push(`> ${input.kind}${'checkpoint' in input ? ` ${input.checkpoint}` : ''}${result}${held}`);
    for (const effect of step.effects)
      lines.push(
        `  ${effect.kind}${'checkpoint' in effect ? ` ${effect.checkpoint}` : ''}: ${effect.reason}`,
      );
    lines.push(`  = ${state.phase}${state.protected ? ', protected' : ''}`);
  }
  return { state, text: lines.join('\n'), effects: all };
}

const begin: ProtocolDInput[] = [
  { kind: 'start', disks: 1 },
  { kind: 'sides', sides: before },
  { kind: 'promoted' },
  sides(1, 0),
];

/** One checkpoint; `next` is the module's number before it. */
function checkpoint(
  number: number,
  next: number,
  held: number,
  result: 'queued' | 'nothing-to-send' = 'queued',
): ProtocolDInput[] {
  return [
    { kind: 'suspended', checkpoint: number },
    { kind: 'memory-complete', checkpoint: number },
    sides(next, held),
    { kind: 'barrier-sent', checkpoint: number, result },
    ...(result === 'queued' ? [{ kind: 'acknowledged' as const, checkpoint: number }] : []),
  ];
}

test('from the start to protected, an epoch without writes, and the end', () => {
  const { text } = run([
    ...begin,
    ...checkpoint(1, 1, 0),
    ...checkpoint(2, 2, 5),
    ...checkpoint(3, 3, 0, 'nothing-to-send'),
    { kind: 'end', reason: 'unprotect' },
    ...checkpoint(4, 3, 2),
    sides(4, 0),
    { kind: 'demoted' },
  ]);
  assert.is(
    text,
    `> start
  look: what is there before anything is changed
  = looking
> sides def 0 chkpt 1
  promote-backup: the module holds writes back only on a backup that is primary
  = promoting
> promoted
  look: both sides have to be primary now
  = checking
> sides def 0 chkpt 1
  = running
> suspended 1
  = suspended
> memory-complete 1
  look: all memory of checkpoint 1 is on the backup, the guest is held
  = complete
> sides def 0 chkpt 1
  send-barrier 1: memory 1 is complete on the backup; its disk may follow
  = barrier
> barrier-sent 1 queued
  wait-for-acknowledgement 1: barrier 1 is on its way
  = waiting
> acknowledged 1
  commit 1: the backup has acknowledged barrier 1
  resume-guest: checkpoint 1 is committed
  = running
> suspended 2
  = suspended
> memory-complete 2
  look: all memory of checkpoint 2 is on the backup, the guest is held
  = complete
> sides def 5 chkpt 2
  send-barrier 2: memory 2 is complete on the backup; its disk may follow
  = barrier
> barrier-sent 2 queued
  wait-for-acknowledgement 2: barrier 2 is on its way
  = waiting
> acknowledged 2
  commit 2: the backup has acknowledged barrier 2
  resume-guest: checkpoint 2 is committed
  protected: writes are held back on the backup, and checkpoint 2 is committed
  = running, protected
> suspended 3
  = suspended, protected
> memory-complete 3
  look: all memory of checkpoint 3 is on the backup, the guest is held
  = complete, protected
> sides def 0 chkpt 3
  send-barrier 3: memory 3 is complete on the backup; its disk may follow
  = barrier, protected
> barrier-sent 3 nothing-to-send
  commit 3: nothing was written in epoch 3; its disk is that of the epoch before
  resume-guest: checkpoint 3 is committed
  = running, protected
> end
  = running, protected
> suspended 4
  = suspended, protected
> memory-complete 4
  look: all memory of checkpoint 4 is on the backup, the guest is held
  = complete, protected
> sides def 2 chkpt 3
  send-barrier 4: memory 4 is complete on the backup; its disk may follow
  = barrier, protected
> barrier-sent 4 queued
  wait-for-acknowledgement 4: barrier 4 is on its way
  = waiting, protected
> acknowledged 4
  commit 4: the backup has acknowledged barrier 4
  look: the session ends: unprotect
  = last-look, protected
> sides def 0 chkpt 4
  demote-backup: nothing is held back and nothing on its way
  = demoting, protected
> demoted
  ended: unprotect
  = off`,
  );
});

test('no barrier leaves before the memory is complete', () => {
  const { effects, state } = run([...begin, { kind: 'suspended', checkpoint: 1 }]);
  assert.not(effects.some(({ kind }) => kind === 'send-barrier'));
  const early = run([{ kind: 'barrier-sent', checkpoint: 1, result: 'queued' }], state);
  assert.is(early.state.phase, 'failed');
});

test('memory that comes again after its commit sends no second barrier', () => {
  const { state } = run([...begin, ...checkpoint(1, 1, 1), { kind: 'memory-complete', checkpoint: 1 }]);
  assert.is(state.phase, 'failed');
});

test('it is not protected before a write was seen held back, and says why', () => {
  const { state } = run([...begin, ...checkpoint(1, 1, 0)]);
  assert.is(state.committed, 1);
  assert.match(protocolDReason(state) ?? '', /no write was seen held back on the backup yet/);
  assert.match(protocolDReason(run(begin).state) ?? '', /no checkpoint is committed yet/);
  assert.is(protocolDReason(run(checkpoint(2, 2, 1), state).state), undefined);
});

test('a write that was seen held back between checkpoints counts too', () => {
  const { state } = run([...begin, sides(1, 3), ...checkpoint(1, 1, 0)]);
  assert.ok(state.protected);
});

test('a backup that never holds anything back ends the session', () => {
  const many = Array.from({ length: UNSEEN_CHECKPOINTS_MAX + 1 }, (_, index) =>
    checkpoint(index + 1, index + 1, 0),
  ).flat();
  const { state, effects } = run([...begin, ...many]);
  assert.is(state.phase, 'failed');
  assert.is(state.committed, UNSEEN_CHECKPOINTS_MAX);
  assert.match(effects.at(-1)?.reason ?? '', /it writes them through/);
});

const refusals: [string, ProtocolDInput[], RegExp][] = [
  [
    'more than one disk',
    [{ kind: 'start', disks: 2 }],
    /2 disks: the module commits each resource by itself/,
  ],
  ['no disk', [{ kind: 'start', disks: 0 }], /0 disks/],
  [
    'a lost connection',
    [
      { kind: 'start', disks: 1 },
      { kind: 'sides', sides: { ...before, backup: { ...backupBefore, connection: 'WFConnection' } } },
    ],
    /backup is WFConnection.*; nothing was changed/,
  ],
  [
    'another protocol',
    [
      { kind: 'start', disks: 1 },
      { kind: 'sides', sides: { ...before, primary: { ...primaryBefore, protocol: 'C' } } },
    ],
    /protocol C, D is required/,
  ],
  [
    'peers that count differently',
    [
      { kind: 'start', disks: 1 },
      { kind: 'sides', sides: { ...before, backup: { ...backupBefore, nextCheckpoint: 2 } } },
    ],
    /backup counts checkpoint 2/,
  ],
  [
    'writes of an earlier session',
    [
      { kind: 'start', disks: 1 },
      { kind: 'sides', sides: { ...before, backup: { ...backupBefore, deferredWrites: 4 } } },
    ],
    /still holds back 4 writes of an earlier session/,
  ],
  [
    'a failure while it only looked',
    [
      { kind: 'start', disks: 1 },
      { kind: 'failed', reason: 'ssh: no route' },
    ],
    /ssh: no route; nothing was changed/,
  ],
];

for (const [what, inputs, says] of refusals) {
  test(`refuses ${what}, with nothing changed`, () => {
    const { effects, state } = run(inputs);
    assert.equal(state, protocolDOff);
    assert.equal(
      effects.filter(({ kind }) => kind !== 'look').map(({ kind }) => kind),
      ['refused'],
    );
    assert.match(effects.at(-1)?.reason ?? '', says);
  });
}

const failures: [string, ProtocolDInput[], RegExp][] = [
  [
    'a promotion that did not happen',
    [...begin.slice(0, 3), sides(1, 0, { backup: { role: 'Secondary' } })],
    /backup is Secondary, Primary is required/,
  ],
  [
    'an acknowledgement that did not come',
    [...begin, ...checkpoint(1, 1, 0).slice(0, 4), { kind: 'failed', reason: 'EPROTO' }],
    /EPROTO/,
  ],
  [
    'an acknowledgement of another checkpoint',
    [...begin, ...checkpoint(1, 1, 0).slice(0, 4), { kind: 'acknowledged', checkpoint: 2 }],
    /is of checkpoint 2, under way is 1/,
  ],
  [
    'a checkpoint that is left out',
    [...begin, { kind: 'suspended', checkpoint: 2 }],
    /for checkpoint 2, the next one is 1/,
  ],
  [
    'a backup that is demoted behind our back',
    [...begin, sides(1, 0, { backup: { role: 'Secondary' } })],
    /backup is Secondary/,
  ],
  [
    'a barrier that somebody else sent',
    [
      ...begin,
      ...checkpoint(1, 1, 1),
      { kind: 'suspended', checkpoint: 2 },
      { kind: 'memory-complete', checkpoint: 2 },
      sides(3, 1),
    ],
    /counts checkpoint 3 as the next one, ours is 2/,
  ],
  [
    'a backup that writes',
    [...begin, sides(1, 0, { primary: { deferredWrites: 2 } })],
    /holds back 2 writes of the backup/,
  ],
];

for (const [what, inputs, says] of failures) {
  test(`ends with ${what}, and is of no more use`, () => {
    const { effects, state } = run(inputs);
    assert.is(state.phase, 'failed');
    assert.not(state.protected);
    const last = effects.at(-1);
    assert.is(last?.kind, 'unprotected');
    assert.match(last?.reason ?? '', says);
    const after = run(
      [{ kind: 'acknowledged', checkpoint: 1 }, sides(2, 0), { kind: 'start', disks: 1 }],
      state,
    );
    assert.equal(after.effects, []);
  });
}

for (const [what, found] of [
  ['writes that are still held back', sides(2, 1)],
  ['requests that are not completed', sides(2, 0, { primary: { pendingRequests: 1 } })],
] as const) {
  test(`the backup is not demoted with ${what} after the last barrier, and the guest is not let go`, () => {
    const { state, effects } = run([
      ...begin,
      { kind: 'end', reason: 'unprotect' },
      ...checkpoint(1, 1, 1),
      found,
    ]);
    assert.is(state.phase, 'failed');
    const kinds = effects.map(({ kind }) => kind);
    assert.equal(kinds.slice(-3), ['commit', 'look', 'unprotected']);
    assert.not(kinds.includes('resume-guest'));
  });
}

test('an end before the first checkpoint has failed, and before the promotion changes nothing', () => {
  const kinds = (inputs: ProtocolDInput[]) => run(inputs).effects.map(({ kind }) => kind);
  assert.is(kinds([...begin.slice(0, 3), { kind: 'end', reason: 'x' }]).at(-1), 'unprotected');
  assert.equal(
    kinds([
      { kind: 'start', disks: 1 },
      { kind: 'end', reason: 'x' },
    ]),
    ['look', 'ended'],
  );
  assert.equal(kinds([{ kind: 'end', reason: 'x' }]), ['ended']);
});

/** Inputs in any order, more likely the one that is waited for. */
function anyInputs(): fc.Arbitrary<{ useful: boolean; input: ProtocolDInput }[]> {
  const number = fc.integer({ min: 1, max: 4 });
  const input = fc.oneof<fc.Arbitrary<ProtocolDInput>[]>(
    fc.constant({ kind: 'start', disks: 1 }),
    fc.tuple(number, fc.nat({ max: 2 })).map(([next, held]) => sides(next, held)),
    fc.constant({ kind: 'promoted' }),
    number.map((checkpoint) => ({ kind: 'suspended', checkpoint })),
    number.map((checkpoint) => ({ kind: 'memory-complete', checkpoint })),
    fc
      .tuple(number, fc.constantFrom('queued' as const, 'nothing-to-send' as const))
      .map(([checkpoint, result]) => ({ kind: 'barrier-sent', checkpoint, result })),
    number.map((checkpoint) => ({ kind: 'acknowledged', checkpoint })),
    fc.constant({ kind: 'end', reason: 'x' }),
    fc.constant({ kind: 'demoted' }),
    fc.constant({ kind: 'failed', reason: 'x' }),
  );
  return fc.array(fc.record({ useful: fc.nat({ max: 9 }).map((number) => number > 0), input }), {
    maxLength: 60,
  });
}

/** What the session waits for, if it waits for something. */
function awaited(state: ProtocolDState): ProtocolDInput | undefined {
  const { checkpoint } = state;
  const next = state.first + state.acknowledged;
  switch (state.phase) {
    case 'off':
      return { kind: 'start', disks: 1 };
    case 'looking':
      return { kind: 'sides', sides: before };
    case 'promoting':
      return { kind: 'promoted' };
    case 'checking':
    case 'complete':
    case 'last-look':
      return sides(next, state.phase === 'complete' ? 1 : 0);
    case 'running':
      return { kind: 'suspended', checkpoint: checkpoint + 1 };
    case 'suspended':
      return { kind: 'memory-complete', checkpoint };
    case 'barrier':
      return { kind: 'barrier-sent', checkpoint, result: 'queued' };
    case 'waiting':
      return { kind: 'acknowledged', checkpoint };
    case 'demoting':
      return { kind: 'demoted' };
    case 'failed':
      return undefined;
  }
}

test('whatever comes in: no barrier before its memory, no commit before its barrier, none twice, no protection unseen', () => {
  let commits = 0;
  fc.assert(
    fc.property(anyInputs(), (script) => {
      let state = protocolDOff;
      let complete = 0;
      let sent = 0;
      let acknowledged = 0;
      let last = 0;
      let held = false;
      for (const { useful, input: any } of script) {
        const input = (useful ? awaited(state) : undefined) ?? any;
        if (input.kind === 'memory-complete' && state.phase === 'suspended') complete = input.checkpoint;
        if (input.kind === 'barrier-sent' && input.result === 'nothing-to-send')
          acknowledged = input.checkpoint;
        if (input.kind === 'acknowledged') acknowledged = input.checkpoint;
        if (input.kind === 'sides') held ||= input.sides.backup.deferredWrites > 0;
        const step = stepProtocolD(state, input);
        for (const effect of step.effects) {
          if (effect.kind === 'send-barrier') {
            assert.is(effect.checkpoint, complete);
            sent = effect.checkpoint;
          }
          if (effect.kind === 'commit') {
            assert.is(effect.checkpoint, last + 1);
            assert.is(effect.checkpoint, sent);
            assert.is(effect.checkpoint, acknowledged);
            last = effect.checkpoint;
            commits += 1;
          }
          if (effect.kind === 'protected') assert.ok(held);
          if (effect.kind === 'demote-backup') assert.is.not(state.phase, 'running');
        }
        state = step.state;
        if (state.phase === 'off') {
          complete = sent = acknowledged = last = 0;
          held = false;
        }
        if (state.protected) assert.ok(state.deferredSeen && state.committed !== undefined);
      }
    }),
    { numRuns: 3000 },
  );
  assert.ok(commits > 100, `${commits} commits`);
});

test.run();
