import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { newSender, senderProtection, senderStep } from '../../../src/core/protect/sender.js';
import type { SenderInput, SenderOptions, SenderState } from '../../../src/core/protect/sender.js';
import { tickMs } from '../../../src/core/protect/types.js';
import type { Identity } from '../../../src/core/protect/types.js';
import { transcript } from './transcript.js';

const test = suite('sender machine');

const identity: Identity = { pair: 'rack1', domain: 'web', term: 3, session: 'ab'.repeat(16) };
const options: SenderOptions = {
  identity,
  intervalMs: 100,
  failAfterMs: 1000,
  network: true,
  disk: true,
  inFlightMax: 2,
  holdLimitMs: 5000,
  agreeLimitMs: 20_000,
  diskLimitMs: 4000,
  onCrash: 'stop',
};
const nowMs = 0;
const welcomed: SenderInput = { type: 'welcomed', nowMs };
const begins: SenderInput = { type: 'epoch-begins', nowMs };
const checkpoint: SenderInput = { type: 'checkpoint', nowMs };
const marked = (epoch: number): SenderInput => ({ type: 'network-marked', epoch, nowMs });
const written = (epoch: number): SenderInput => ({ type: 'marker-written', epoch, nowMs });
const committed = (epoch: number, at = nowMs): SenderInput => ({
  type: 'committed',
  identity,
  epoch,
  nowMs: at,
});
const epoch = (n: number): SenderInput[] => [begins, marked(n), written(n), checkpoint];
const live: SenderInput[] = [welcomed, checkpoint];
const claimed = (decision: 'primary' | 'backup'): SenderInput => ({
  type: 'claimed',
  decision,
  reason: 'the arbiter said so',
  nowMs,
});
const lost: SenderInput = { type: 'link-lost', reason: 'reset', nowMs };

function run(
  inputs: readonly SenderInput[],
  with_: Partial<SenderOptions> = {},
): { state: SenderState; lines: string[] } {
  return transcript(newSender({ ...options, ...with_ }), senderStep, inputs);
}

function ticks(count: number, fromMs = 0): SenderInput[] {
  return Array.from({ length: count }, (_, n) => ({
    type: 'tick',
    nowMs: fromMs + (n + 1) * tickMs(options.failAfterMs),
  }));
}

test('one checkpoint: marks side by side, then the gate, then the record, then the release', () => {
  assert.equal(run([...live, ...epoch(1), committed(1)]).lines, [
    'welcomed -> log info: the first round of memory begins',
    'checkpoint -> send-checkpoint 0; log info: the first round of memory is sent',
    'epoch-begins -> mark-network 1; write-marker 1',
    'marker-written 1 -> read-on 1',
    'checkpoint -> send-checkpoint 1',
    'committed 1 -> release-network 1; log info: protection is on: the first checkpoint is committed',
  ]);
});

test('the gate opens only when both marks are done, in whichever order', () => {
  assert.equal(
    run([...live, begins, written(1)]).lines.at(-1),
    'epoch-begins -> mark-network 1; write-marker 1',
  );
  assert.equal(run([...live, begins, written(1), marked(1)]).lines.at(-1), 'network-marked 1 -> read-on 1');
  assert.equal(run([...live, begins, marked(1)]).state.phase, 'holding');
});

test('nothing is released before its own commit', () => {
  const { lines } = run([...live, ...epoch(1), ...epoch(2), committed(1)]);
  assert.equal(
    lines.filter((line) => line.includes('release-network')),
    ['committed 1 -> release-network 1; log info: protection is on: the first checkpoint is committed'],
  );
});

test('a checkpoint without pages has no number and no marks', () => {
  assert.equal(run([...live, ...epoch(1), checkpoint]).lines.at(-1), 'checkpoint -> send-checkpoint before');
});

test('a checkpoint that could not be held is folded into the next one', () => {
  const missed: SenderInput = { type: 'epoch-missed', reason: 'read too late', nowMs };
  assert.equal(run([...live, ...epoch(1), missed, checkpoint, ...epoch(2)]).lines.slice(-5), [
    'epoch-missed read too late -> log warn: a checkpoint could not be held',
    'checkpoint -> send-checkpoint folded',
    'epoch-begins -> mark-network 2; write-marker 2',
    'marker-written 2 -> read-on 2',
    'checkpoint -> send-checkpoint 2',
  ]);
});

test('at most so many checkpoints are in flight; the guest is held for one more', () => {
  const { state, lines } = run([...live, ...epoch(1), ...epoch(2), begins]);
  assert.is(state.waiting, true);
  assert.is(lines.at(-1), 'checkpoint -> send-checkpoint 2');
  const after = run([...live, ...epoch(1), ...epoch(2), begins, committed(1)]);
  assert.match(after.lines.at(-1) ?? '', /release-network 1.*mark-network 3; write-marker 3$/);
});

test('an acknowledgement of another identity or epoch is a cut, and releases nothing', () => {
  const wrong: SenderInput[] = [
    { type: 'committed', identity: { ...identity, term: 2 }, epoch: 1, nowMs },
    { type: 'committed', identity: { ...identity, session: 'cd'.repeat(16) }, epoch: 1, nowMs },
    { type: 'committed', identity: { ...identity, domain: 'db' }, epoch: 1, nowMs },
    committed(2),
    committed(0),
  ];
  for (const input of wrong) {
    const { state, lines } = run([...live, ...epoch(1), input]);
    assert.is(state.phase, 'claiming');
    assert.not.match(lines.join('\n'), /release-network/);
  }
});

test('a committed epoch is not committed twice', () => {
  assert.is(run([...live, ...epoch(1), committed(1), committed(1)]).state.phase, 'claiming');
});

test('before the backup has a whole checkpoint, no claim is needed to go on', () => {
  const { lines } = run([...live, begins, marked(1), lost]);
  assert.match(lines.at(-1) ?? '', /go-on reset; the backup had no whole checkpoint$/);
});

test('after the first checkpoint was sent, going on needs the claim', () => {
  const before = [...live, ...epoch(1), lost];
  assert.equal(
    run(before).lines.at(-1),
    'link-lost reset -> log warn: the receiver is lost; claiming the term; drop-stream; claim reset false',
  );
  assert.match(run([...before, claimed('primary')]).lines.at(-1) ?? '', /; go-on /);
  assert.match(run([...before, claimed('backup')]).lines.at(-1) ?? '', /; give-way /);
});

test("after a crash the claim is the receiver's where its copy is to go on", () => {
  const end = (guest: 'crash' | 'poweroff'): SenderInput => ({
    type: 'stream-ended',
    reason: `the guest ended: ${guest}`,
    guest,
    nowMs,
  });
  const last = (guest: 'crash' | 'poweroff', onCrash: 'stop' | 'failover'): string =>
    run([...live, ...epoch(1), end(guest), lost], { onCrash }).lines.at(-1) ?? '';
  assert.match(last('crash', 'failover'), /claim reset true$/);
  assert.match(last('crash', 'stop'), /claim reset false$/);
  assert.match(last('poweroff', 'failover'), /claim reset false$/);
});

test('while it is undecided nothing is released, whatever arrives', () => {
  const { lines } = run([
    ...live,
    ...epoch(1),
    ...epoch(2),
    lost,
    { type: 'undecided', reason: 'no arbiter can be reached', nowMs },
    committed(1),
    committed(2),
    { type: 'stop', reason: 'unprotect', nowMs },
    ...ticks(1000),
  ]);
  assert.not.match(
    lines.slice(lines.findIndex((line) => line.startsWith('link-lost'))).join('\n'),
    /release-network|go-on|give-way/,
  );
});

test('a decision is final', () => {
  const { state, lines } = run([
    ...live,
    ...epoch(1),
    lost,
    claimed('backup'),
    claimed('primary'),
    committed(1),
  ]);
  assert.is(state.decision, 'backup');
  assert.match(lines.at(-1) ?? '', /give-way/);
});

test('stop ends by agreement, and output opens only when the receiver has ended the term', () => {
  const stop: SenderInput = { type: 'stop', reason: 'unprotect', nowMs };
  const { lines, state } = run([...live, ...epoch(1), committed(1), begins, stop]);
  assert.equal(
    lines.at(-1),
    'stop unprotect -> log info: protection ends by agreement; send-end unprotect; drop-stream',
  );
  assert.is(state.phase, 'agreeing');
  const ended: SenderInput = { type: 'receiver-ended', decision: 'primary', reason: 'gave up', nowMs };
  assert.match(
    run([...live, ...epoch(1), committed(1), stop, ended]).lines.at(-1) ?? '',
    /go-on unprotect; gave up$/,
  );
});

test('a receiver that does not end the term in time is lost', () => {
  const stop: SenderInput = { type: 'stop', reason: 'unprotect', nowMs };
  const heard: SenderInput = { type: 'heard', nowMs };
  const patient = Array.from({ length: 20_000 / tickMs(1000) }, (_, n): SenderInput[] => [
    heard,
    { type: 'tick', nowMs: (n + 1) * tickMs(1000) },
  ]).flat();
  assert.is(run([...live, ...epoch(1), stop, ...patient.slice(0, -2)]).state.phase, 'agreeing');
  assert.is(run([...live, ...epoch(1), stop, ...patient]).state.phase, 'claiming');
});

test('a silent receiver is lost after failAfter when DRBD is down too, and after ten times that otherwise', () => {
  const down: SenderInput = { type: 'disk', connected: false, reason: 'Connecting', nowMs };
  assert.is(run([...live, ...epoch(1), down, ...ticks(9)]).state.phase, 'running');
  assert.is(run([...live, ...epoch(1), down, ...ticks(10)]).state.phase, 'claiming');
  assert.is(run([...live, ...epoch(1), ...ticks(99)]).state.phase, 'running');
  assert.is(run([...live, ...epoch(1), ...ticks(100)]).state.phase, 'claiming');
});

test('a pause of this very process does not pass for silence of the peer', () => {
  const late: SenderInput = { type: 'tick', nowMs: 3_600_000 };
  assert.is(
    run([...live, ...epoch(1), { type: 'disk', connected: false, reason: 'x', nowMs: 3_599_999 }, late]).state
      .phase,
    'running',
  );
});

test('DRBD without its peer for too long ends protection by agreement, not by a cut', () => {
  const down: SenderInput = { type: 'disk', connected: false, reason: 'Connecting', nowMs: 0 };
  const heard: SenderInput = { type: 'heard', nowMs };
  const inputs = ticks(40).flatMap((tick) => [heard, tick]);
  const { state, lines } = run([...live, ...epoch(1), down, ...inputs]);
  assert.is(state.phase, 'agreeing');
  assert.match(lines.at(-1) ?? '', /send-end DRBD has been without its peer for 4000 ms: Connecting/);
});

test('marks that do not come end protection, and the guest is let go', () => {
  const heard: SenderInput = { type: 'heard', nowMs };
  const { lines } = run([
    ...live,
    ...epoch(1),
    begins,
    marked(2),
    ...ticks(50).flatMap((tick) => [heard, tick]),
  ]);
  assert.match(
    lines.at(-1) ?? '',
    /the marker on the barrier volume of epoch 2 took more than 5000 ms; drop-stream$/,
  );
  const failed: SenderInput = { type: 'marker-failed', reason: 'EIO', nowMs };
  assert.match(run([...live, ...epoch(1), begins, failed]).lines.at(-1) ?? '', /send-end EIO; drop-stream$/);
});

test('a guest that ended of itself is told to the receiver with how it did', () => {
  const ended: SenderInput = {
    type: 'stream-ended',
    reason: 'the guest ended: poweroff',
    guest: 'poweroff',
    nowMs,
  };
  assert.match(
    run([...live, ...epoch(1), ended]).lines.at(-1) ?? '',
    /send-end the guest ended: poweroff poweroff/,
  );
});

test('status: protected only while commits keep coming, DRBD is connected and nothing is left out', () => {
  const state = run([...live, ...epoch(1), committed(1, 1000)]).state;
  const view = (at: SenderState, now: number): string => {
    const { protection, reason } = senderProtection(at, now, 3000);
    return `${protection}: ${reason}`;
  };
  assert.is(view(run([...live, ...epoch(1)]).state, 0), 'starting: waiting for the first commit');
  assert.is(view(state, 2000), 'protected: epoch 1 is committed');
  assert.is(view(state, 4001), 'suspended: no commit for 3001 ms: the acknowledgement is missing');
  const held = senderStep(state, { ...begins, nowMs: 2000 }).state;
  assert.is(view(held, 4001), 'suspended: no commit for 3001 ms: the guest is held for its marker');
  const down = senderStep(state, { type: 'disk', connected: false, reason: 'Connecting', nowMs: 0 }).state;
  assert.is(view(down, 2000), 'suspended: DRBD is not connected: Connecting');
  const partial = run([...live, begins, written(1), checkpoint, committed(1)], { network: false }).state;
  assert.is(
    view(partial, 0),
    'unprotected: only memory is checkpointed: its output is not held (--no-network)',
  );
});

test.run();
