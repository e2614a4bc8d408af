/**
 * The sender: what the primary host does with a guest's checkpoints. A pure state machine; `src/protect/sender.ts`
 * carries its effects out.
 *
 *     connecting --welcomed--> live --first checkpoint--> running <--> holding
 *         any of these --stop, disk or network lost--> agreeing --receiver ended--> decided
 *         any of these --link lost, receiver silent--> claiming --claim answered--> decided
 *         any of these --the guest ended of itself--> agreeing
 *
 * One checkpoint N:
 *
 *     epoch-begins   the header of the first PAGE_DATA record was read and nothing after it: the guest is held
 *     mark-network N, write-marker N      side by side: both only add to what waits for N
 *     read-on N      both are done: the pipe may grow, memory goes to the receiver
 *     send-checkpoint N                   the CHECKPOINT record; the guest runs again
 *     committed N    from the receiver    -> release-network N
 *
 * A checkpoint in which no page changed has no PAGE_DATA record and can't be held. Nothing happened in it that
 * needs a barrier, so it goes on without a number and counts with the epoch before. One that began before the pipe
 * could be made small (this process was kept from running for longer than the interval) was not held either, and has
 * no marks; it is folded into the next one: the copy comes to it only together with that.
 *
 * Output is never released for any other reason than `committed` of this very session, or the decision that the
 * primary goes on. While that is undecided everything stays held.
 */
import { isSilent, LIVE_ROUND, newSilence, sameIdentity, tickSilence } from './types.js';
import type { Decision, GuestEnd, Identity, LogEffect, Silence } from './types.js';

export interface SenderOptions {
  identity: Identity;
  intervalMs: number;
  failAfterMs: number;
  /** False for `--no-network`: output leaves at once, and status says so. */
  network: boolean;
  /** False for `--no-disk`: no barriers, and status says so. */
  disk: boolean;
  /** Checkpoints that may be sent and not committed; the guest is held at one more. */
  inFlightMax: number;
  /** Longest time that a guest may be held for its marks before protection is given up. */
  holdLimitMs: number;
  /** Longest time that the receiver may take to end a term by agreement. */
  agreeLimitMs: number;
  /** Longest time that DRBD may be without its peer before protection is given up by agreement. */
  diskLimitMs: number;
  /** What is to go on when the guest itself crashes under protection: what is left of it here, or its copy. */
  onCrash: 'stop' | 'failover';
}

/** What ended or is ending the term, in words for people. */
export interface Ending {
  reason: string;
  guest: GuestEnd | null;
}

export type SenderPhase = 'connecting' | 'live' | 'running' | 'holding' | 'agreeing' | 'claiming' | 'decided';

export interface SenderState {
  options: SenderOptions;
  phase: SenderPhase;
  /** Epoch whose memory is on its way; null between checkpoints, and in one without a number. */
  current: number | null;
  /** The checkpoint on its way could not be held. */
  folds: boolean;
  lastEpoch: number;
  lastSent: number;
  lastCommitted: number;
  lastReleased: number;
  /** Of the epoch that is held. */
  hold: { epoch: number; marked: boolean; written: boolean; sinceMs: number } | null;
  /** The next epoch has begun, and too many are in flight: held without a number. */
  waiting: boolean;
  silence: Silence;
  diskLostSinceMs: number | null;
  diskReason: string | null;
  outputDropped: boolean;
  committedAtMs: number | null;
  ending: (Ending & { sinceMs: number }) | null;
  undecided: string | null;
  decision: Decision | null;
}

export type SenderInput =
  | { type: 'welcomed'; nowMs: number }
  /** Of the first PAGE_DATA record of a checkpoint after the live round. */
  | { type: 'epoch-begins'; nowMs: number }
  /** The same, and the pipe was not small: the guest is not held. */
  | { type: 'epoch-missed'; reason: string; nowMs: number }
  /** The record CHECKPOINT_END: the checkpoint is whole. */
  | { type: 'checkpoint'; nowMs: number }
  | { type: 'network-marked'; epoch: number; nowMs: number }
  | { type: 'marker-written'; epoch: number; nowMs: number }
  | { type: 'network-failed'; reason: string; nowMs: number }
  | { type: 'marker-failed'; reason: string; nowMs: number }
  /** The buffer was full and packets were dropped: nothing wrong is ever sent, and people must know. */
  | { type: 'output-dropped'; packets: number; nowMs: number }
  | { type: 'committed'; identity: Identity; epoch: number; nowMs: number }
  | { type: 'heard'; nowMs: number }
  | { type: 'link-lost'; reason: string; nowMs: number }
  /** What DRBD says of the resource. */
  | { type: 'disk'; connected: boolean; reason: string; nowMs: number }
  /** The stream from xl ended or is nonsense; `guest` is what `xl list` then said, null if it still lives. */
  | { type: 'stream-ended'; reason: string; guest: GuestEnd | null; nowMs: number }
  | { type: 'stop'; reason: string; nowMs: number }
  /** The receiver has ended the term: `primary` after it gave its copy up, `backup` where it had won the claim. */
  | { type: 'receiver-ended'; decision: Decision; reason: string; nowMs: number }
  | { type: 'claimed'; decision: Decision; reason: string; nowMs: number }
  | { type: 'undecided'; reason: string; nowMs: number }
  | { type: 'tick'; nowMs: number };

export type SenderEffect =
  | { type: 'mark-network'; epoch: number }
  | { type: 'write-marker'; epoch: number }
  /** The gate opens: what follows in the stream belongs to this epoch (null: to none). */
  | { type: 'read-on'; epoch: number | null }
  /**
   * - a number: the memory of this epoch is whole
   * - `before`: it has no number and counts with the last epoch
   * - `folded`: it has no number and waits for the next epoch
   */
  | { type: 'send-checkpoint'; counts: number | 'before' | 'folded' }
  | { type: 'release-network'; epoch: number }
  /** Asks the receiver to end the term and to roll forward. */
  | { type: 'send-end'; reason: string; guest: GuestEnd | null }
  /**
   * Asks the arbiter, and the receiver by a connection of its own, until there is an answer. `crashed`: the guest's
   * copy is to go on, so the receiver's host has the first word.
   */
  | { type: 'claim'; reason: string; crashed: boolean }
  /** What comes from xl is read and dropped, so that the guest is not held while nobody knows. */
  | { type: 'drop-stream' }
  /** Decided for the primary: output flows freely, xl's transport ends, the guest runs on without protection. */
  | { type: 'go-on'; reason: string }
  /** Decided for the backup: the guest here is destroyed with its output still held. */
  | { type: 'give-way'; reason: string }
  | LogEffect;

export interface SenderStep {
  state: SenderState;
  effects: SenderEffect[];
}

export function newSender(options: SenderOptions): SenderState {
  return {
    options,
    phase: 'connecting',
    current: null,
    folds: false,
    lastEpoch: LIVE_ROUND,
    lastSent: LIVE_ROUND,
    lastCommitted: LIVE_ROUND,
    lastReleased: LIVE_ROUND,
    hold: null,
    waiting: false,
    silence: newSilence(),
    diskLostSinceMs: null,
    diskReason: null,
    outputDropped: false,
    committedAtMs: null,
    ending: null,
    undecided: null,
    decision: null,
  };
}

/** True while memory and marks are taken: before anything has begun to end the term. */
function isOn(state: SenderState): boolean {
  return state.phase === 'live' || state.phase === 'running' || state.phase === 'holding';
}

/** One input to the next state and what has to be done, in this order. Never changes `state`. */
export function senderStep(state: SenderState, input: SenderInput): SenderStep {
  if (state.phase === 'decided') return { state, effects: [] };
  switch (input.type) {
    case 'welcomed':
      if (state.phase !== 'connecting') return { state, effects: [] };
      return {
        state: { ...state, phase: 'live', silence: newSilence() },
        effects: [log('info', 'the first round of memory begins', state)],
      };
    case 'epoch-begins':
      if (!isOn(state)) return { state, effects: [{ type: 'drop-stream' }] };
      return beginEpoch(state, input.nowMs);
    case 'epoch-missed':
      if (state.phase !== 'running') return { state, effects: [] };
      return {
        state: { ...state, folds: true },
        effects: [log('warn', 'a checkpoint could not be held', state, { reason: input.reason })],
      };
    case 'network-marked':
    case 'marker-written':
      return markDone(state, input);
    case 'network-failed':
    case 'marker-failed':
      if (!isOn(state)) return { state, effects: [] };
      return endByAgreement(state, { reason: input.reason, guest: null }, input.nowMs);
    case 'checkpoint':
      return checkpoint(state);
    case 'committed':
      return committed(state, input);
    case 'heard':
      return { state: { ...state, silence: newSilence() }, effects: [] };
    case 'output-dropped':
      return {
        state: { ...state, outputDropped: true },
        effects: [log('warn', 'output was dropped, its buffer is full', state, { packets: input.packets })],
      };
    case 'disk':
      return diskSaid(state, input);
    case 'stop':
      if (!isOn(state) && state.phase !== 'connecting') return { state, effects: [] };
      return endByAgreement(state, { reason: input.reason, guest: null }, input.nowMs);
    case 'stream-ended':
      if (!isOn(state) && state.phase !== 'connecting') return { state, effects: [] };
      return endByAgreement(state, { reason: input.reason, guest: input.guest }, input.nowMs);
    case 'link-lost':
      return linkLost(state, input.reason, input.nowMs);
    case 'receiver-ended':
    case 'claimed':
      return decided(state, input.decision, input.reason);
    case 'undecided':
      if (state.phase !== 'claiming' || state.undecided === input.reason) return { state, effects: [] };
      return {
        state: { ...state, undecided: input.reason },
        effects: [
          log('warn', 'who goes on is undecided; output stays held', state, { reason: input.reason }),
        ],
      };
    case 'tick':
      return tick(state, input.nowMs);
    default:
      throw new Error(`input ${String(input satisfies never)}`);
  }
}

function beginEpoch(state: SenderState, nowMs: number): SenderStep {
  if (state.hold !== null || state.current !== null) {
    return violation(state, 'an epoch began inside another one', nowMs);
  }
  if (state.phase === 'live') return violation(state, 'an epoch began in the live round', nowMs);
  const { network, disk, inFlightMax } = state.options;
  if (state.lastSent - state.lastCommitted >= inFlightMax) {
    return { state: { ...state, phase: 'holding', waiting: true }, effects: [] };
  }
  const epoch = state.lastEpoch + 1;
  const effects: SenderEffect[] = [];
  if (network) effects.push({ type: 'mark-network', epoch });
  if (disk) effects.push({ type: 'write-marker', epoch });
  const next: SenderState = {
    ...state,
    phase: 'holding',
    lastEpoch: epoch,
    waiting: false,
    hold: { epoch, marked: !network, written: !disk, sinceMs: nowMs },
  };
  return network || disk ? { state: next, effects } : openGate(next);
}

function markDone(
  state: SenderState,
  input: { type: 'network-marked' | 'marker-written'; epoch: number },
): SenderStep {
  // After an end has begun, marks that were under way still finish; they no longer count.
  if (state.hold === null || state.hold.epoch !== input.epoch) return { state, effects: [] };
  const hold = {
    ...state.hold,
    ...(input.type === 'network-marked' ? { marked: true } : { written: true }),
  };
  const next = { ...state, hold };
  return hold.marked && hold.written ? openGate(next) : { state: next, effects: [] };
}

function openGate(state: SenderState): SenderStep {
  const epoch = state.hold?.epoch ?? null;
  return {
    state: { ...state, phase: 'running', hold: null, current: epoch },
    effects: [{ type: 'read-on', epoch }],
  };
}

function checkpoint(state: SenderState): SenderStep {
  switch (state.phase) {
    case 'live':
      return {
        state: { ...state, phase: 'running' },
        effects: [
          { type: 'send-checkpoint', counts: LIVE_ROUND },
          log('info', 'the first round of memory is sent', state),
        ],
      };
    case 'running': {
      const epoch = state.current;
      return {
        state: { ...state, current: null, folds: false, lastSent: epoch ?? state.lastSent },
        effects: [{ type: 'send-checkpoint', counts: epoch ?? (state.folds ? 'folded' : 'before') }],
      };
    }
    default:
      return { state, effects: [] };
  }
}

function committed(
  state: SenderState,
  input: { identity: Identity; epoch: number; nowMs: number },
): SenderStep {
  const { identity, network } = state.options;
  // While nobody knows who goes on, output stays held.
  if (state.phase === 'claiming') return { state, effects: [] };
  if (!sameIdentity(input.identity, identity)) {
    return violation(
      state,
      `an acknowledgement of term ${input.identity.term}, session ${input.identity.session}`,
      input.nowMs,
    );
  }
  if (input.epoch !== state.lastCommitted + 1 || input.epoch > state.lastSent) {
    return violation(
      state,
      `an acknowledgement of epoch ${input.epoch}, the last one was of ${state.lastCommitted} and ${state.lastSent} is sent`,
      input.nowMs,
    );
  }
  const effects: SenderEffect[] = [];
  if (network) effects.push({ type: 'release-network', epoch: input.epoch });
  if (state.lastCommitted === LIVE_ROUND) {
    effects.push(log('info', 'protection is on: the first checkpoint is committed', state));
  }
  const next: SenderState = {
    ...state,
    lastCommitted: input.epoch,
    lastReleased: network ? input.epoch : state.lastReleased,
    committedAtMs: input.nowMs,
    silence: newSilence(),
  };
  if (!next.waiting || next.phase !== 'holding') return { state: next, effects };
  const begun = beginEpoch({ ...next, phase: 'running', waiting: false }, input.nowMs);
  return { state: begun.state, effects: [...effects, ...begun.effects] };
}

function diskSaid(
  state: SenderState,
  input: { connected: boolean; reason: string; nowMs: number },
): SenderStep {
  if (input.connected) {
    return { state: { ...state, diskLostSinceMs: null, diskReason: null }, effects: [] };
  }
  const isNew = state.diskReason !== input.reason;
  return {
    state: {
      ...state,
      diskLostSinceMs: state.diskLostSinceMs ?? input.nowMs,
      diskReason: input.reason,
    },
    effects: isNew ? [log('warn', 'DRBD is not connected', state, { reason: input.reason })] : [],
  };
}

function endByAgreement(state: SenderState, ending: Ending, nowMs: number): SenderStep {
  const effects: SenderEffect[] = [
    log('info', 'protection ends by agreement', state, { reason: ending.reason }),
    { type: 'send-end', reason: ending.reason, guest: ending.guest },
    { type: 'drop-stream' },
  ];
  return {
    state: { ...state, phase: 'agreeing', hold: null, waiting: false, ending: { ...ending, sinceMs: nowMs } },
    effects,
  };
}

function linkLost(state: SenderState, reason: string, nowMs: number): SenderStep {
  if (state.phase === 'claiming') return { state, effects: [] };
  // Nothing that the backup could go on with was ever sent: no claim is needed, nobody else can hold one.
  if (state.lastSent === LIVE_ROUND) {
    return decided(state, 'primary', `${reason}; the backup had no whole checkpoint`);
  }
  const guest = state.ending?.guest ?? null;
  const crashed = guest === 'crash' && state.options.onCrash === 'failover';
  return {
    state: {
      ...state,
      phase: 'claiming',
      hold: null,
      waiting: false,
      ending: { reason, guest, sinceMs: nowMs },
      undecided: 'the arbiter was not asked yet',
    },
    effects: [
      log('warn', 'the receiver is lost; claiming the term', state, { reason }),
      { type: 'drop-stream' },
      { type: 'claim', reason, crashed },
    ],
  };
}

/** The peer said something that no correct receiver says: it can't be trusted with anything, so this is a cut. */
function violation(state: SenderState, what: string, nowMs: number): SenderStep {
  return linkLost(state, `protocol violation: ${what}`, nowMs);
}

function decided(state: SenderState, decision: Decision, reason: string): SenderStep {
  const next: SenderState = {
    ...state,
    phase: 'decided',
    decision,
    hold: null,
    waiting: false,
    undecided: null,
  };
  const before = state.ending?.reason ?? reason;
  const why = before === reason ? reason : `${before}; ${reason}`;
  return {
    state: {
      ...next,
      ending: { reason: why, guest: state.ending?.guest ?? null, sinceMs: state.ending?.sinceMs ?? 0 },
    },
    effects: [
      log(
        'info',
        decision === 'primary' ? 'the primary goes on alone' : 'the backup goes on; giving way',
        state,
        {
          reason: why,
        },
      ),
      { type: decision === 'primary' ? 'go-on' : 'give-way', reason: why },
    ],
  };
}

function tick(before: SenderState, nowMs: number): SenderStep {
  const { failAfterMs, holdLimitMs, agreeLimitMs, diskLimitMs } = before.options;
  if (before.phase === 'connecting' || before.phase === 'claiming') return { state: before, effects: [] };
  const state = { ...before, silence: tickSilence(before.silence, nowMs) };
  // DRBD's own pings are answered by the peer's kernel. While they are, the host lives and its receiver is only
  // slow: it gets ten times as long before the pair is split up.
  const patience = state.diskLostSinceMs === null ? 10 : 1;
  if (isSilent(state.silence, failAfterMs, patience)) {
    return linkLost(state, `nothing was heard of the receiver for ${failAfterMs * patience} ms`, nowMs);
  }
  if (state.phase === 'agreeing') {
    const sinceMs = state.ending?.sinceMs ?? nowMs;
    if (nowMs - sinceMs < agreeLimitMs) return { state, effects: [] };
    return linkLost(state, `the receiver has not ended the term in ${agreeLimitMs} ms`, nowMs);
  }
  if (state.hold !== null && nowMs - state.hold.sinceMs >= holdLimitMs) {
    const missing = [
      ...(state.hold.marked ? [] : ['the network mark']),
      ...(state.hold.written ? [] : ['the marker on the barrier volume']),
    ].join(' and ');
    const reason = `${missing} of epoch ${state.hold.epoch} took more than ${holdLimitMs} ms`;
    return endByAgreement(state, { reason, guest: null }, nowMs);
  }
  if (state.diskLostSinceMs !== null && nowMs - state.diskLostSinceMs >= diskLimitMs) {
    const reason = `DRBD has been without its peer for ${diskLimitMs} ms: ${state.diskReason ?? ''}`;
    return endByAgreement(state, { reason, guest: null }, nowMs);
  }
  return { state, effects: [] };
}

function log(
  level: LogEffect['level'],
  message: string,
  state: SenderState,
  fields: NonNullable<LogEffect['fields']> = {},
): LogEffect {
  const { identity } = state.options;
  return {
    type: 'log',
    level,
    message,
    fields: { domain: identity.domain, term: identity.term, committedEpoch: state.lastCommitted, ...fields },
  };
}

export interface ProtectionView {
  protection: 'unprotected' | 'starting' | 'protected' | 'suspended' | 'failed-over';
  /** Why it is so; for `protected` what the protection consists of. */
  reason: string;
}

/**
 * What status says of a term, from the sender's side. `protected` only while commits keep coming.
 * @param lateMs a commit older than this means that the guest is not protected now
 */
export function senderProtection(state: SenderState, nowMs: number, lateMs: number): ProtectionView {
  const { options, lastCommitted } = state;
  const ending = state.ending?.reason ?? '';
  switch (state.phase) {
    case 'connecting':
      return { protection: 'starting', reason: 'connecting to the receiver' };
    case 'live':
      return { protection: 'starting', reason: 'the first round of memory is being sent' };
    case 'agreeing':
      return { protection: 'suspended', reason: `protection is ending: ${ending}` };
    case 'claiming':
      return {
        protection: 'suspended',
        reason: `${ending}; output is held until it is decided who goes on: ${state.undecided ?? ''}`,
      };
    case 'decided':
      return {
        protection: state.decision === 'backup' ? 'failed-over' : 'unprotected',
        reason: ending,
      };
    case 'running':
    case 'holding':
      break;
    default:
      throw new Error(`phase ${String(state.phase satisfies never)}`);
  }
  if (lastCommitted === LIVE_ROUND) {
    return { protection: 'starting', reason: 'waiting for the first commit' };
  }
  const ageMs = nowMs - (state.committedAtMs ?? 0);
  if (state.diskLostSinceMs !== null) {
    return { protection: 'suspended', reason: `DRBD is not connected: ${state.diskReason ?? ''}` };
  }
  if (ageMs > lateMs) {
    const where =
      state.hold === null
        ? 'the acknowledgement is missing'
        : `the guest is held for ${state.hold.written ? 'its network mark' : 'its marker'}`;
    return { protection: 'suspended', reason: `no commit for ${Math.round(ageMs)} ms: ${where}` };
  }
  const missing = [
    ...(options.disk ? [] : ['its disks are not (--no-disk)']),
    ...(options.network ? [] : ['its output is not held (--no-network)']),
  ];
  if (missing.length > 0) {
    return { protection: 'unprotected', reason: `only memory is checkpointed: ${missing.join(', ')}` };
  }
  if (state.outputDropped) {
    return { protection: 'protected', reason: 'the output buffer was full and packets were dropped' };
  }
  return { protection: 'protected', reason: `epoch ${lastCommitted} is committed` };
}
