/**
 * The receiver: what the backup host does with a guest's checkpoints, and how it takes the guest over. A pure state
 * machine; `src/protect/receiver.ts` carries its effects out.
 *
 *     waiting --session--> live --commit 1--> on --link lost or silent--> claiming --won--> failing-over --> failed-over
 *                           any of these --end, drop-term, claim lost--> giving-up --> ended
 *
 * A checkpoint N is committed when its whole memory is here (`memory`) and its barrier is in the journal (`marker`),
 * in whichever order they come:
 *
 *     commit N              one durable record in the journal, for all volumes
 *     pass-checkpoint N     the CHECKPOINT record that was held back goes to xl: from here on the copy is at N
 *     acknowledge N         the primary may release its output
 *
 * Failover, once the term is won. Every step is repeatable, and the next one begins when it is done:
 *
 *     decide back      durable; from here on this host never gives way again in this term
 *     disconnect       DRBD drops its peer, so that nothing of it can come in behind the discard
 *     discard          the journal goes back to the last commit
 *     promote          before the guest's devices are made, so that the hotplug script can't fail
 *     mark-discarded   the discarded blocks are written back through DRBD, which marks them for the resync
 *     open-gate        the hotplug script lets the copy have its disks
 *     start-guest      the input of xl ends, and it starts the guest from the last whole checkpoint
 *     settle           the journal drains and the devices go back to the plain LVs, while the guest runs
 *
 * Giving up, where the primary goes on: decide forward, drop-copy, roll-forward, leave-journal, and the answer.
 */
import { isSilent, LIVE_ROUND, newSilence, tickSilence } from './types.js';
import type { Decision, GuestEnd, Identity, LogEffect, Silence } from './types.js';

export interface ReceiverOptions {
  failAfterMs: number;
  /** What happens when the guest itself crashes under protection. */
  onCrash: 'stop' | 'failover';
  /** False for `--no-disk`: epochs have no markers. */
  disk: boolean;
  /** How often one step of a failover is tried. */
  attemptsMax: number;
}

export const FAILOVER_STEPS = [
  'disconnect',
  'discard',
  'promote',
  'mark-discarded',
  'open-gate',
  'start-guest',
  'settle',
] as const;
export const GIVE_UP_STEPS = ['drop-copy', 'roll-forward', 'leave-journal'] as const;
export type FailoverStep = (typeof FAILOVER_STEPS)[number];
export type GiveUpStep = (typeof GIVE_UP_STEPS)[number];

export type ReceiverPhase =
  | 'waiting'
  | 'live'
  | 'on'
  | 'claiming'
  | 'deciding'
  | 'failing-over'
  | 'failed-over'
  | 'giving-up'
  | 'ended'
  | 'stuck';

export interface ReceiverState {
  options: ReceiverOptions;
  phase: ReceiverPhase;
  identity: Identity | null;
  /** Epoch of the last CHECKPOINT record that came. */
  memory: number;
  /** Epoch of the last marker in the journal. */
  marker: number;
  /** Epoch whose commit is being made durable. */
  committing: number | null;
  committed: number;
  committedAtMs: number | null;
  /** CHECKPOINT_END records that were not passed on, in order: the epoch whose commit each waits for. */
  held: number[];
  /** Since the link is known to be lost. */
  lost: { reason: string; peerLives: boolean; silence: Silence } | null;
  silence: Silence;
  diskConnected: boolean;
  /** The arbiter may have recorded our claim: nothing may be agreed with the primary until it has answered. */
  mayHaveWon: boolean;
  undecided: string | null;
  /** The guest has crashed, and by its policy the copy is to go on: that is not given up to a primary that asks for it. */
  crashed: boolean;
  /** Why the copy can't be started, where it ended while this host was claiming. */
  copyLost: string | null;
  decision: Decision | null;
  reason: string;
  step: FailoverStep | GiveUpStep | null;
  attempts: number;
}

export type ReceiverInput =
  | { type: 'session'; identity: Identity; nowMs: number }
  /**
   * A CHECKPOINT_END and everything before it is here: `counts` is the epoch whose memory is now whole; `before` for
   * one without a number that counts with the last epoch; `folded` for one that waits for the next epoch.
   */
  | { type: 'memory'; counts: number | 'before' | 'folded'; nowMs: number }
  | { type: 'marker'; epoch: number; nowMs: number }
  | { type: 'commit-durable'; epoch: number; nowMs: number }
  | { type: 'journal-failed'; reason: string; nowMs: number }
  | { type: 'heard'; nowMs: number }
  /** @property peerLives the peer's kernel ended the connection, so its host is alive */
  | { type: 'link-lost'; reason: string; peerLives: boolean; nowMs: number }
  | { type: 'disk'; connected: boolean; nowMs: number }
  /** The sender ends the term by agreement. */
  | { type: 'end'; reason: string; guest: GuestEnd | null; nowMs: number }
  /**
   * The primary asks, on a connection of its own, to end this term in its favour. `crashed`: unless the copy of a
   * guest that has crashed is to go on.
   */
  | { type: 'drop-term'; term: number; reason: string; crashed: boolean; nowMs: number }
  | { type: 'copy-ended'; reason: string; nowMs: number }
  /** `remus-drbd failover` on this host: does not wait for silence. The claim decides all the same. */
  | { type: 'failover-asked'; reason: string; nowMs: number }
  /** Somebody on this host wants the receiver to end. */
  | { type: 'stop'; reason: string; nowMs: number }
  | { type: 'claimed'; decision: Decision; reason: string; nowMs: number }
  | { type: 'undecided'; reason: string; mayHaveWon: boolean; nowMs: number }
  | { type: 'decision-durable'; nowMs: number }
  /** @property atEpoch of `discard`, where the disks turn out to be at the epoch after the last commit */
  | { type: 'step-done'; step: FailoverStep | GiveUpStep; atEpoch?: number; nowMs: number }
  | { type: 'step-failed'; step: FailoverStep | GiveUpStep; reason: string; nowMs: number }
  | { type: 'tick'; nowMs: number };

export type ReceiverEffect =
  /** Begins the journal's session and starts xl for the copy. */
  | { type: 'begin'; identity: Identity }
  | { type: 'commit'; epoch: number }
  | { type: 'pass-checkpoint'; epoch: number }
  | { type: 'acknowledge'; epoch: number }
  | { type: 'claim'; reason: string }
  /**
   * To the sender, if it lives: this session is over. It may be there and only have been late, and would otherwise wait
   * for commits that never come, with its guest held.
   */
  | { type: 'leave-session'; reason: string }
  /** Written to disk before anything that follows from it. */
  | { type: 'decide'; decision: Decision; reason: string }
  | { type: 'step'; step: FailoverStep | GiveUpStep }
  /** To the sender and to whoever asked: who goes on. */
  | { type: 'answer-ended'; decision: Decision; reason: string }
  | { type: 'answer-undecided'; reason: string }
  | LogEffect;

export interface ReceiverStepResult {
  state: ReceiverState;
  effects: ReceiverEffect[];
}

export function newReceiver(options: ReceiverOptions): ReceiverState {
  return {
    options,
    phase: 'waiting',
    identity: null,
    memory: LIVE_ROUND,
    marker: LIVE_ROUND,
    committing: null,
    committed: LIVE_ROUND,
    committedAtMs: null,
    held: [],
    lost: null,
    silence: newSilence(),
    diskConnected: true,
    mayHaveWon: false,
    undecided: null,
    crashed: false,
    copyLost: null,
    decision: null,
    reason: 'waiting for the sender',
    step: null,
    attempts: 0,
  };
}

function isOn(state: ReceiverState): boolean {
  return state.phase === 'live' || state.phase === 'on';
}

/** One input to the next state and what has to be done, in this order. Never changes `state`. */
export function receiverStep(state: ReceiverState, input: ReceiverInput): ReceiverStepResult {
  switch (input.type) {
    case 'session':
      if (state.phase !== 'waiting') throw new Error(`a session in phase ${state.phase}`);
      return {
        state: {
          ...state,
          phase: 'live',
          identity: input.identity,
          silence: newSilence(),
          reason: 'the first round of memory is coming',
        },
        effects: [{ type: 'begin', identity: input.identity }],
      };
    case 'memory':
      if (!isOn(state)) return { state, effects: [] };
      return memoryComplete(state, input.counts, input.nowMs);
    case 'marker':
      if (!isOn(state)) return { state, effects: [] };
      if (input.epoch !== state.marker + 1) {
        return lose(state, `marker ${input.epoch} came after ${state.marker}`, true, input.nowMs);
      }
      return advance({ ...state, marker: input.epoch });
    case 'commit-durable':
      return commitDurable(state, input);
    case 'heard':
      return { state: { ...state, silence: newSilence() }, effects: [] };
    case 'disk':
      return { state: { ...state, diskConnected: input.connected }, effects: [] };
    case 'end':
      return ended(state, input);
    case 'drop-term':
      return dropTerm(state, input);
    case 'journal-failed':
      return isOn(state) || state.phase === 'waiting'
        ? decide(state, 'primary', `the journal can't go on: ${input.reason}`)
        : { state, effects: [] };
    case 'copy-ended':
      return copyEnded(state, `the copy can't go on: ${input.reason}`);
    case 'link-lost':
      return lose(state, input.reason, input.peerLives, input.nowMs);
    case 'failover-asked':
      if (!isOn(state)) return { state, effects: [] };
      return claim(state, input.reason);
    case 'stop':
      return isOn(state) || state.phase === 'waiting'
        ? decide(state, 'primary', input.reason)
        : { state, effects: [] };
    case 'claimed':
      if (state.phase !== 'claiming') return { state, effects: [] };
      return decide(state, input.decision, `${state.reason}; ${input.reason}`);
    case 'undecided':
      if (state.phase !== 'claiming') return { state, effects: [] };
      if (state.copyLost !== null && !input.mayHaveWon) return decide(state, 'primary', state.copyLost);
      return {
        state: { ...state, undecided: input.reason, mayHaveWon: input.mayHaveWon },
        effects:
          state.undecided === input.reason
            ? []
            : [log('warn', 'who goes on is undecided; the copy waits', state, { reason: input.reason })],
      };
    case 'decision-durable':
      return decisionDurable(state);
    case 'step-done':
      return stepDone(state, input.step, input.atEpoch);
    case 'step-failed':
      return stepFailed(state, input);
    case 'tick':
      return tick(state, input.nowMs);
    default:
      throw new Error(`input ${String(input satisfies never)}`);
  }
}

function memoryComplete(
  state: ReceiverState,
  counts: number | 'before' | 'folded',
  nowMs: number,
): ReceiverStepResult {
  if (counts === 'before' || counts === LIVE_ROUND) {
    return advance({ ...state, held: [...state.held, state.memory] });
  }
  // It must not reach xl before the epoch that it is folded into is committed, or the copy would be ahead of its disks.
  if (counts === 'folded') return advance({ ...state, held: [...state.held, state.memory + 1] });
  if (counts !== state.memory + 1) {
    return lose(state, `the memory of epoch ${counts} came after ${state.memory}`, true, nowMs);
  }
  const marker = state.options.disk ? state.marker : counts;
  return advance({ ...state, memory: counts, marker, held: [...state.held, counts] });
}

/** Passes on what may be passed on, and commits the next epoch if both its parts are here. */
function advance(state: ReceiverState): ReceiverStepResult {
  const effects: ReceiverEffect[] = [];
  const held = [...state.held];
  while (held[0] !== undefined && held[0] <= state.committed) {
    effects.push({ type: 'pass-checkpoint', epoch: held.shift() as number });
  }
  const next = state.committed + 1;
  if (state.committing === null && next <= Math.min(state.memory, state.marker)) {
    effects.push({ type: 'commit', epoch: next });
    return { state: { ...state, held, committing: next }, effects };
  }
  return { state: { ...state, held }, effects };
}

function commitDurable(state: ReceiverState, input: { epoch: number; nowMs: number }): ReceiverStepResult {
  if (state.committing !== input.epoch) throw new Error(`commit of epoch ${input.epoch} was not asked for`);
  const committed: ReceiverState = {
    ...state,
    committing: null,
    committed: input.epoch,
    committedAtMs: input.nowMs,
  };
  // A commit that became durable while the link was lost counts: the copy is at it. The primary can't have
  // released anything for it, which only means that more is there than anybody was told.
  const phase = state.phase === 'live' ? 'on' : state.phase;
  const reason = isOn(state) ? `epoch ${input.epoch} is committed` : state.reason;
  const next = advance({ ...committed, phase, reason });
  const isPass = (effect: ReceiverEffect): boolean => effect.type === 'pass-checkpoint';
  const acknowledge: ReceiverEffect[] = isOn(state) ? [{ type: 'acknowledge', epoch: input.epoch }] : [];
  const begun: ReceiverEffect[] =
    state.phase === 'live' ? [log('info', 'the copy can take over from here on', next.state)] : [];
  return {
    state: next.state,
    effects: [
      ...next.effects.filter(isPass),
      ...acknowledge,
      ...begun,
      ...next.effects.filter((effect) => !isPass(effect)),
    ],
  };
}

function ended(
  state: ReceiverState,
  input: { reason: string; guest: GuestEnd | null; nowMs: number },
): ReceiverStepResult {
  if (!isOn(state)) return { state, effects: [] };
  if (input.guest === 'crash' && state.options.onCrash === 'failover' && state.phase === 'on') {
    return claim({ ...state, crashed: true }, `${input.reason}; onCrash: failover`);
  }
  return decide(state, 'primary', input.reason);
}

/**
 * Without its copy this host can't go on, so it gives way. But not once the arbiter may have decided for it: then the
 * primary may be gone, and what counts is on the disks here, at the last commit. A failover brings them there, and says
 * at its step `start-guest` that a person has to start the guest.
 */
function copyEnded(state: ReceiverState, reason: string): ReceiverStepResult {
  if (isOn(state)) return decide(state, 'primary', reason);
  if (state.phase !== 'claiming' || state.copyLost !== null) return { state, effects: [] };
  if (!state.mayHaveWon) return decide(state, 'primary', reason);
  return {
    state: { ...state, copyLost: reason, reason: `${state.reason}; ${reason}` },
    effects: [log('error', 'the copy has ended while the term is claimed', state, { reason })],
  };
}

function dropTerm(
  before: ReceiverState,
  input: { term: number; reason: string; crashed: boolean },
): ReceiverStepResult {
  const undecided = (state: ReceiverState, reason: string): ReceiverStepResult => ({
    state,
    effects: [{ type: 'answer-undecided', reason }],
  });
  if (before.identity !== null && before.identity.term !== input.term) {
    return undecided(before, `this host is in term ${before.identity.term}`);
  }
  if (before.decision !== null) {
    // While it is being made durable nobody is told of it.
    if (before.phase === 'deciding') return undecided(before, 'the decision is being recorded');
    const { decision, reason } = before;
    return { state: before, effects: [{ type: 'answer-ended', decision, reason }] };
  }
  const failsOver = input.crashed && before.options.onCrash === 'failover';
  const state = { ...before, crashed: before.crashed || failsOver };
  if (state.mayHaveWon) {
    return undecided(state, `this host has asked the arbiter: ${state.undecided ?? 'no answer yet'}`);
  }
  if (state.crashed && state.phase === 'claiming') {
    return undecided(state, 'the guest has crashed, and its copy is to go on; the arbiter decides');
  }
  if (state.crashed && isOn(state)) {
    // The session was over before the primary could say so in it.
    const step = claim(state, `${input.reason}; the guest has crashed; onCrash: failover`);
    if (step.state.phase !== 'claiming') return step;
    const answer = undecided(step.state, 'the guest has crashed, and this host asks the arbiter');
    return { ...answer, effects: [...step.effects, ...answer.effects] };
  }
  return decide(state, 'primary', input.reason);
}

function lose(state: ReceiverState, reason: string, peerLives: boolean, nowMs: number): ReceiverStepResult {
  if (!isOn(state) || state.lost !== null) return { state, effects: [] };
  const lost = { reason, peerLives, silence: { ...newSilence(), lastTickMs: nowMs } };
  return {
    state: { ...state, lost, reason },
    effects: [log('warn', 'the sender is lost', state, { reason, peerLives })],
  };
}

function claim(state: ReceiverState, reason: string): ReceiverStepResult {
  if (state.committed === LIVE_ROUND && state.committing === null) {
    // There is no whole checkpoint to go on with, so there is nothing to claim.
    return decide(state, 'primary', `${reason}; no checkpoint was committed, so there is no copy to start`);
  }
  return {
    state: { ...state, phase: 'claiming', reason, mayHaveWon: true, undecided: null },
    effects: [
      log('warn', 'claiming the term', state, { reason }),
      { type: 'leave-session', reason },
      { type: 'claim', reason },
    ],
  };
}

function decide(state: ReceiverState, decision: Decision, reason: string): ReceiverStepResult {
  const next: ReceiverState = { ...state, phase: 'deciding', decision, reason, undecided: null };
  return {
    state: next,
    effects: [
      log(
        decision === 'backup' ? 'warn' : 'info',
        decision === 'backup' ? 'this host takes the guest over' : 'the primary goes on; giving the copy up',
        next,
        { reason },
      ),
      { type: 'decide', decision, reason },
    ],
  };
}

function decisionDurable(state: ReceiverState): ReceiverStepResult {
  if (state.phase !== 'deciding' || state.decision === null) {
    throw new Error(`a decision in phase ${state.phase}`);
  }
  // A commit under way ends first: `discard` and `roll-forward` of the journal wait for it.
  const failover = state.decision === 'backup';
  const step = failover ? FAILOVER_STEPS[0] : GIVE_UP_STEPS[0];
  return {
    state: { ...state, phase: failover ? 'failing-over' : 'giving-up', step, attempts: 1 },
    effects: [{ type: 'step', step }],
  };
}

/**
 * The disks' epoch is decided by the module itself with `engine: protocol-d`: it may have applied an epoch whose
 * commit never came here. Then the copy goes on from that epoch's memory, which is complete before its barrier leaves.
 */
function passUpTo(state: ReceiverState, epoch: number): ReceiverStepResult {
  if (epoch !== state.committed + 1 || state.memory < epoch) {
    throw new Error(
      `the disks are at epoch ${epoch}, the last commit was ${state.committed} and memory ${state.memory}`,
    );
  }
  const isPassed = (each: number): boolean => each <= epoch;
  return {
    state: { ...state, committed: epoch, held: state.held.filter((each) => !isPassed(each)) },
    effects: state.held.filter(isPassed).map((each) => ({ type: 'pass-checkpoint', epoch: each })),
  };
}

function stepDone(
  before: ReceiverState,
  step: FailoverStep | GiveUpStep,
  atEpoch: number | undefined,
): ReceiverStepResult {
  const { state, effects } =
    atEpoch === undefined || atEpoch === before.committed
      ? { state: before, effects: [] }
      : passUpTo(before, atEpoch);
  if (state.step !== step) throw new Error(`step ${step} is done, ${String(state.step)} was asked for`);
  const order: readonly (FailoverStep | GiveUpStep)[] =
    state.phase === 'failing-over' ? FAILOVER_STEPS : GIVE_UP_STEPS;
  const next = order[order.indexOf(step) + 1];
  const answers: ReceiverEffect[] = [...effects];
  const decision = state.decision ?? 'primary';
  // The guest of the primary may run as soon as no copy can start here any more.
  if (step === 'drop-copy') answers.push({ type: 'answer-ended', decision, reason: state.reason });
  if (next !== undefined) {
    return {
      state: { ...state, step: next, attempts: 1 },
      effects: [...answers, { type: 'step', step: next }],
    };
  }
  const phase = state.phase === 'failing-over' ? 'failed-over' : 'ended';
  return {
    state: { ...state, step: null, phase },
    effects: [
      ...answers,
      log('info', phase === 'ended' ? 'the term has ended' : 'failover is complete', state, {
        reason: state.reason,
      }),
    ],
  };
}

function stepFailed(
  state: ReceiverState,
  input: { step: FailoverStep | GiveUpStep; reason: string },
): ReceiverStepResult {
  if (state.step !== input.step)
    throw new Error(`step ${input.step} failed, ${String(state.step)} was asked for`);
  const fields = { step: input.step, attempt: state.attempts, reason: input.reason };
  if (state.attempts < state.options.attemptsMax) {
    return {
      state: { ...state, attempts: state.attempts + 1 },
      effects: [
        log('warn', 'a step failed and is tried again', state, fields),
        { type: 'step', step: input.step },
      ],
    };
  }
  return {
    state: {
      ...state,
      phase: 'stuck',
      reason: `${input.step} failed ${state.attempts} times: ${input.reason}`,
    },
    effects: [log('error', 'a step failed for good', state, fields)],
  };
}

function tick(before: ReceiverState, nowMs: number): ReceiverStepResult {
  if (!isOn(before)) return { state: before, effects: [] };
  const { failAfterMs } = before.options;
  const silence = tickSilence(before.silence, nowMs);
  if (before.lost === null) {
    const state = { ...before, silence };
    // DRBD's own pings are answered by the peer's kernel: while they are, the host lives and is only slow.
    const patience = state.diskConnected ? 10 : 1;
    if (!isSilent(silence, failAfterMs, patience)) return { state, effects: [] };
    return claim(state, `nothing was heard of the sender for ${failAfterMs * patience} ms`);
  }
  const lost = { ...before.lost, silence: tickSilence(before.lost.silence, nowMs) };
  const state = { ...before, silence, lost };
  // A host that closed its connection lives: its clean-up will come and say how the guest is.
  const patience = lost.peerLives && state.diskConnected ? 10 : 1;
  if (!isSilent(lost.silence, failAfterMs, patience)) return { state, effects: [] };
  return claim(state, lost.reason);
}

function log(
  level: LogEffect['level'],
  message: string,
  state: ReceiverState,
  fields: NonNullable<LogEffect['fields']> = {},
): LogEffect {
  return {
    type: 'log',
    level,
    message,
    fields: {
      ...(state.identity === null ? {} : { domain: state.identity.domain, term: state.identity.term }),
      committedEpoch: state.committed,
      ...fields,
    },
  };
}

/** What status says of the backup's side. */
export function receiverReason(state: ReceiverState): string {
  switch (state.phase) {
    case 'claiming':
      return `${state.reason}; undecided: ${state.undecided ?? 'the arbiter was asked'}`;
    case 'failing-over':
    case 'giving-up':
      return `${state.reason}; now: ${state.step ?? ''}`;
    default:
      return state.reason;
  }
}
