import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { newReceiver, receiverReason, receiverStep } from '../../../src/core/protect/receiver.js';
import type { ReceiverInput, ReceiverOptions, ReceiverState } from '../../../src/core/protect/receiver.js';
import { tickMs } from '../../../src/core/protect/types.js';
import type { Identity } from '../../../src/core/protect/types.js';
import { transcript } from './transcript.js';

const test = suite('receiver machine');

const identity: Identity = { pair: 'rack1', domain: 'web', term: 3, session: 'ab'.repeat(16) };
const options: ReceiverOptions = { failAfterMs: 1000, onCrash: 'stop', disk: true, attemptsMax: 3 };
const nowMs = 0;
const session: ReceiverInput = { type: 'session', identity, nowMs };
const memory = (counts: number | 'before' | 'folded'): ReceiverInput => ({ type: 'memory', counts, nowMs });
const marker = (epoch: number): ReceiverInput => ({ type: 'marker', epoch, nowMs });
const durable = (epoch: number): ReceiverInput => ({ type: 'commit-durable', epoch, nowMs });
const live = [session, memory(0)];
const epoch = (n: number): ReceiverInput[] => [memory(n), marker(n), durable(n)];
const silent: ReceiverInput = { type: 'link-lost', reason: 'silence', peerLives: false, nowMs };
const closed: ReceiverInput = { type: 'link-lost', reason: 'closed', peerLives: true, nowMs };
const diskDown: ReceiverInput = { type: 'disk', connected: false, nowMs };
const decided: ReceiverInput = { type: 'decision-durable', nowMs };
const claimed = (decision: 'primary' | 'backup'): ReceiverInput => ({
  type: 'claimed',
  decision,
  reason: 'the arbiter said so',
  nowMs,
});
const done = (step: (ReceiverInput & { type: 'step-done' })['step']): ReceiverInput => ({
  type: 'step-done',
  step,
  nowMs,
});
const ticks = (count: number): ReceiverInput[] =>
  Array.from({ length: count }, (_, n) => ({
    type: 'tick',
    nowMs: (n + 1) * tickMs(options.failAfterMs),
  }));
const dropTerm: ReceiverInput = {
  type: 'drop-term',
  term: 3,
  reason: 'the sender died',
  crashed: false,
  nowMs,
};

function run(
  inputs: readonly ReceiverInput[],
  with_: Partial<ReceiverOptions> = {},
): { state: ReceiverState; lines: string[] } {
  return transcript(newReceiver({ ...options, ...with_ }), receiverStep, inputs);
}

test('one checkpoint: memory and marker, then the commit, then the record, then the acknowledgement', () => {
  assert.equal(run([...live, ...epoch(1), memory(2), marker(2), durable(2)]).lines, [
    'session -> begin',
    'memory 0 -> pass-checkpoint 0',
    'marker 1 -> commit 1',
    'commit-durable 1 -> pass-checkpoint 1; acknowledge 1; log info: the copy can take over from here on',
    'marker 2 -> commit 2',
    'commit-durable 2 -> pass-checkpoint 2; acknowledge 2',
  ]);
});

test('memory and marker may come in either order, and far apart', () => {
  assert.equal(
    run([...live, marker(1), marker(2), memory(1), memory(2), durable(1), durable(2)]).lines.slice(2),
    [
      'memory 1 -> commit 1',
      'commit-durable 1 -> pass-checkpoint 1; acknowledge 1; log info: the copy can take over from here on; commit 2',
      'commit-durable 2 -> pass-checkpoint 2; acknowledge 2',
    ],
  );
});

test('nothing is committed with only one of its parts', () => {
  assert.is(run([...live, memory(1)]).state.committing, null);
  assert.is(run([...live, marker(1)]).state.committing, null);
  assert.is(run([...live, ...epoch(1), memory(2), memory(3)]).state.committing, null);
});

test('without disks the memory alone is committed', () => {
  assert.equal(run([...live, memory(1)], { disk: false }).lines.at(-1), 'memory 1 -> commit 1');
});

test('a checkpoint without a number goes behind what is held, a folded one with the next commit', () => {
  assert.equal(run([...live, memory(1), memory('before'), marker(1), durable(1)]).lines.slice(-1), [
    'commit-durable 1 -> pass-checkpoint 1; pass-checkpoint 1; acknowledge 1; log info: the copy can take over from here on',
  ]);
  assert.equal(run([...live, ...epoch(1), memory('folded'), memory('before')]).state.held, [2, 1]);
  assert.equal(
    run([...live, ...epoch(1), memory('folded'), memory(2), marker(2), durable(2)]).lines.slice(-1),
    ['commit-durable 2 -> pass-checkpoint 2; pass-checkpoint 2; acknowledge 2'],
  );
});

test('a number that is out of order is a cut, and is not committed', () => {
  for (const input of [memory(3), marker(3), marker(1)]) {
    const { state } = run([...live, ...epoch(1), input]);
    assert.ok(state.lost !== null, input.type);
    assert.is(state.committed, 1);
  }
});

test('failover: decide, then each step when the one before is done', () => {
  const steps = [
    'disconnect',
    'discard',
    'promote',
    'mark-discarded',
    'open-gate',
    'start-guest',
    'settle',
  ] as const;
  const { lines, state } = run([
    ...live,
    ...epoch(1),
    diskDown,
    silent,
    ...ticks(10),
    claimed('backup'),
    decided,
    ...steps.map(done),
  ]);
  assert.equal(lines.slice(4), [
    'link-lost silence false -> log warn: the sender is lost',
    'tick -> log warn: claiming the term; leave-session silence; claim silence',
    'claimed backup the arbiter said so -> log warn: this host takes the guest over; decide backup silence; the arbiter said so',
    'decision-durable -> step disconnect',
    'step-done disconnect -> step discard',
    'step-done discard -> step promote',
    'step-done promote -> step mark-discarded',
    'step-done mark-discarded -> step open-gate',
    'step-done open-gate -> step start-guest',
    'step-done start-guest -> step settle',
    'step-done settle -> log info: failover is complete',
  ]);
  assert.is(state.phase, 'failed-over');
});

test('nothing of a failover happens before the decision is durable', () => {
  const { lines } = run([...live, ...epoch(1), diskDown, silent, ...ticks(10), claimed('backup')]);
  assert.not.match(lines.join('\n'), /step /);
});

test('a lost claim gives the copy up, and then says so', () => {
  const { lines, state } = run([
    ...live,
    ...epoch(1),
    diskDown,
    silent,
    ...ticks(10),
    claimed('primary'),
    decided,
    done('drop-copy'),
    done('roll-forward'),
    done('leave-journal'),
  ]);
  assert.equal(lines.slice(-4), [
    'decision-durable -> step drop-copy',
    'step-done drop-copy -> answer-ended primary silence; the arbiter said so; step roll-forward',
    'step-done roll-forward -> step leave-journal',
    'step-done leave-journal -> log info: the term has ended',
  ]);
  assert.is(state.phase, 'ended');
});

test('without a committed checkpoint there is nothing to claim', () => {
  const { lines, state } = run([...live, memory(1), diskDown, silent, ...ticks(10)]);
  assert.is(state.decision, 'primary');
  assert.not.match(lines.join('\n'), /claim /);
});

test('a primary whose host lives is given ten times as long for its clean-up', () => {
  assert.is(run([...live, ...epoch(1), closed, ...ticks(99)]).state.phase, 'on');
  assert.is(run([...live, ...epoch(1), closed, ...ticks(100)]).state.phase, 'claiming');
  assert.is(run([...live, ...epoch(1), diskDown, closed, ...ticks(10)]).state.phase, 'claiming');
});

test('silence alone: as long as DRBD has its peer the host lives and is only slow', () => {
  assert.is(run([...live, ...epoch(1), ...ticks(99)]).state.phase, 'on');
  assert.is(run([...live, ...epoch(1), ...ticks(100)]).state.phase, 'claiming');
  assert.is(run([...live, ...epoch(1), diskDown, ...ticks(10)]).state.phase, 'claiming');
});

test('the clean-up of the primary ends the term by agreement while nobody was asked', () => {
  const { lines } = run([...live, ...epoch(1), closed, dropTerm, decided, done('drop-copy')]);
  assert.equal(lines.slice(-3), [
    'drop-term 3 the sender died false -> log info: the primary goes on; giving the copy up; decide primary the sender died',
    'decision-durable -> step drop-copy',
    'step-done drop-copy -> answer-ended primary the sender died; step roll-forward',
  ]);
});

test('once the arbiter may have decided for this host, nothing is agreed until it has answered', () => {
  const claiming = [...live, ...epoch(1), diskDown, silent, ...ticks(10)];
  assert.match(
    run([...claiming, dropTerm]).lines.at(-1) ?? '',
    /-> answer-undecided this host has asked the arbiter/,
  );
  const unsure: ReceiverInput = { type: 'undecided', reason: 'no answer', mayHaveWon: true, nowMs };
  assert.match(run([...claiming, unsure, dropTerm]).lines.at(-1) ?? '', /-> answer-undecided/);
  const sure: ReceiverInput = { type: 'undecided', reason: 'waits for a person', mayHaveWon: false, nowMs };
  assert.match(run([...claiming, sure, dropTerm]).lines.at(-1) ?? '', /decide primary/);
});

test('a copy that ends while its term is claimed: given up, but not once the arbiter may have decided', () => {
  const claiming = [...live, ...epoch(1), diskDown, silent, ...ticks(10)];
  const gone: ReceiverInput = { type: 'copy-ended', reason: 'killed', nowMs };
  const person: ReceiverInput = { type: 'undecided', reason: 'waits for a person', mayHaveWon: false, nowMs };
  const givesUp = /decide primary the copy can't go on: killed$/;
  assert.match(run([...claiming, person, gone]).lines.at(-1) ?? '', givesUp);
  assert.match(run([...claiming, gone, person]).lines.at(-1) ?? '', givesUp);
  const asked = run([...claiming, gone, dropTerm]);
  assert.match(asked.lines.at(-1) ?? '', /answer-undecided/);
  assert.match(receiverReason(asked.state), /^silence; the copy can't go on: killed; undecided/);
  assert.is(run([...claiming, gone, claimed('primary')]).state.decision, 'primary');
  // What was committed is on the disks here, and a person can start the guest from them.
  assert.is(run([...claiming, gone, claimed('backup')]).state.decision, 'backup');
});

test('a decision is final, and whoever asks later is told of it', () => {
  const won = [...live, ...epoch(1), diskDown, silent, ...ticks(10), claimed('backup')];
  assert.match(run([...won, dropTerm]).lines.at(-1) ?? '', /answer-undecided the decision is being recorded/);
  assert.match(run([...won, decided, dropTerm]).lines.at(-1) ?? '', /answer-ended backup/);
  const gaveUp = [...live, ...epoch(1), dropTerm, decided];
  const { state } = run([...gaveUp, claimed('backup'), { type: 'failover-asked', reason: 'x', nowMs }]);
  assert.is(state.decision, 'primary');
});

test('a clean-up of another term is no agreement about this one', () => {
  const other: ReceiverInput = { type: 'drop-term', term: 2, reason: 'late', crashed: false, nowMs };
  assert.equal(
    run([...live, ...epoch(1), other]).lines.at(-1),
    'drop-term 2 late false -> answer-undecided this host is in term 3',
  );
});

test('a commit that becomes durable after the link was lost still counts for the copy', () => {
  const { lines, state } = run([
    ...live,
    ...epoch(1),
    memory(2),
    marker(2),
    diskDown,
    silent,
    ...ticks(10),
    durable(2),
  ]);
  assert.is(state.committed, 2);
  assert.is(lines.at(-1), 'commit-durable 2 -> pass-checkpoint 2');
});

test('a crash of the guest fails over only where the policy says so', () => {
  const end: ReceiverInput = { type: 'end', reason: 'the guest ended: crash', guest: 'crash', nowMs };
  assert.is(run([...live, ...epoch(1), end]).state.decision, 'primary');
  assert.is(run([...live, ...epoch(1), end], { onCrash: 'failover' }).state.phase, 'claiming');
  const off: ReceiverInput = { type: 'end', reason: 'the guest ended: poweroff', guest: 'poweroff', nowMs };
  assert.is(run([...live, ...epoch(1), off], { onCrash: 'failover' }).state.decision, 'primary');
});

test('a copy that is to go on after a crash is not given up to a primary that asks for it', () => {
  const crash: ReceiverInput = { type: 'end', reason: 'the guest ended: crash', guest: 'crash', nowMs };
  const nobody: ReceiverInput = { type: 'undecided', reason: 'waits for a person', mayHaveWon: false, nowMs };
  const { state, lines } = run([...live, ...epoch(1), crash, nobody, dropTerm], { onCrash: 'failover' });
  assert.is(state.phase, 'claiming');
  assert.match(lines.at(-1) ?? '', /answer-undecided the guest has crashed, and its copy is to go on/);
});

test('a crash that the primary could not say in the session is said by its clean-up', () => {
  const late: ReceiverInput = { ...dropTerm, crashed: true };
  const { state, lines } = run([...live, ...epoch(1), late], { onCrash: 'failover' });
  assert.is(state.phase, 'claiming');
  assert.match(
    lines.at(-1) ?? '',
    /claim the sender died; the guest has crashed; onCrash: failover; answer-undecided/,
  );
  assert.is(run([...live, ...epoch(1), late]).state.decision, 'primary', 'onCrash: stop');
  assert.is(
    run([...live, late], { onCrash: 'failover' }).state.decision,
    'primary',
    'there is no copy to start',
  );
});

test('a sender that was only late is told that its session is over', () => {
  const late = run([...live, ...epoch(1), diskDown, ...ticks(10)]);
  assert.match(late.lines.at(-1) ?? '', /leave-session nothing was heard of the sender for 1000 ms; claim/);
});

test('a step that fails is tried again, and not for ever', () => {
  const failed: ReceiverInput = { type: 'step-failed', step: 'disconnect', reason: 'busy', nowMs };
  const start = [...live, ...epoch(1), diskDown, silent, ...ticks(10), claimed('backup'), decided];
  assert.match(run([...start, failed]).lines.at(-1) ?? '', /step disconnect$/);
  const { state } = run([...start, failed, failed, failed]);
  assert.is(state.phase, 'stuck');
  assert.is(state.reason, 'disconnect failed 3 times: busy');
});

test('a journal or a copy that fails ends the term for the primary', () => {
  for (const type of ['journal-failed', 'copy-ended'] as const) {
    assert.is(run([...live, ...epoch(1), { type, reason: 'EIO', nowMs }]).state.decision, 'primary');
  }
});

test.run();
