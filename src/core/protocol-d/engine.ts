/**
 * One protected session over the DRBD module with protocol D, as a pure machine: `step(state, input)` gives the
 * next state and what to do. The order is what makes it safe:
 *
 *     start     both sides are looked at, the backup is promoted (the module holds writes back only on a backup
 *               that is primary itself), both are looked at again
 *     epoch N   the guest is suspended -> all of memory N is on the backup -> /proc/drbd is read on both sides ->
 *               barrier (ioctl 20) -> acknowledgement (ioctl 30) -> commit N, the guest may go on
 *     end       the next epoch as ever, but after its commit the guest stays held: both sides are looked at (nothing
 *               held back, nothing pending), and the backup is demoted. Where it can't be, the session has failed
 *
 * The module applies an epoch as soon as its barrier arrives. So the barrier leaves only when the backup has the
 * whole memory of the same checkpoint, and the guest is held until the acknowledgement. When the primary dies in
 * between, the backup has memory N-1 and N and its disk is at one of the two: take-over.ts tells at which.
 *
 * "protected" is said only when a write was seen held back on the backup, and from the first commit after it.
 *
 * An acknowledgement has no number. After one that didn't come, a late one could be taken for the next, so any
 * failure ends the session for good; a new one begins with a new connection.
 */

import { sidesProblems } from './proc-drbd.js';
import type { BothSides } from './proc-drbd.js';

/** So many checkpoints with writes, and none of them seen held back, mean that the backup doesn't. */
export const UNSEEN_CHECKPOINTS_MAX = 20;

type Phase =
  | 'off'
  /** Both sides are being looked at before anything is changed. */
  | 'looking'
  | 'promoting'
  /** Both sides are being looked at after the promotion. */
  | 'checking'
  /** The guest runs. */
  | 'running'
  /** It is suspended; its memory is on the way. */
  | 'suspended'
  /** The backup has all of its memory; both sides are being looked at. */
  | 'complete'
  | 'barrier'
  | 'waiting'
  /** The last barrier is through and the guest still held; both sides are being looked at. */
  | 'last-look'
  | 'demoting'
  /** Nothing more is done with this session. */
  | 'failed';

export interface ProtocolDState {
  phase: Phase;
  /** Checkpoint that is under way, or the last one. */
  checkpoint: number;
  /** The module's number of the next checkpoint when the session began. */
  first: number;
  acknowledged: number;
  /** Last checkpoint that the backup has whole: memory and disk. */
  committed: number | undefined;
  /** A write was seen held back on the backup. */
  deferredSeen: boolean;
  /** Checkpoints with writes since the start of which none was seen held back. */
  unseen: number;
  protected: boolean;
  /** The session is to end with the epoch that is under way or comes next, and why. */
  endReason: string | undefined;
}

export type ProtocolDInput =
  /** @param disks how many disks the guest has */
  | { kind: 'start'; disks: number }
  /** What /proc/drbd says on both hosts, read after it was asked for. */
  | { kind: 'sides'; sides: BothSides }
  | { kind: 'promoted' }
  | { kind: 'suspended'; checkpoint: number }
  /** The backup has acknowledged all memory of this checkpoint. */
  | { kind: 'memory-complete'; checkpoint: number }
  | { kind: 'barrier-sent'; checkpoint: number; result: 'queued' | 'nothing-to-send' }
  | { kind: 'acknowledged'; checkpoint: number }
  | { kind: 'end'; reason: string }
  | { kind: 'demoted' }
  | { kind: 'failed'; reason: string };

export type ProtocolDEffect =
  /** Read /proc/drbd on both hosts now. */
  | { kind: 'look'; reason: string }
  | { kind: 'promote-backup'; reason: string }
  | { kind: 'send-barrier'; checkpoint: number; reason: string }
  | { kind: 'wait-for-acknowledgement'; checkpoint: number; reason: string }
  /** The backup may apply memory N; the primary may release the output of N. */
  | { kind: 'commit'; checkpoint: number; reason: string }
  | { kind: 'resume-guest'; reason: string }
  | { kind: 'protected'; reason: string }
  | { kind: 'demote-backup'; reason: string }
  | { kind: 'ended'; reason: string }
  /** Nothing was changed. */
  | { kind: 'refused'; reason: string }
  /**
   * The guest is no longer protected; who goes on is decided by the claim, which is not here. What the backup holds
   * back has to be dropped with DRBD's connection before it is demoted.
   */
  | { kind: 'unprotected'; reason: string };

export interface ProtocolDStep {
  state: ProtocolDState;
  effects: ProtocolDEffect[];
}

export const protocolDOff: ProtocolDState = {
  phase: 'off',
  checkpoint: 0,
  first: 0,
  acknowledged: 0,
  committed: undefined,
  deferredSeen: false,
  unseen: 0,
  protected: false,
  endReason: undefined,
};

/** Which phase takes which input; any other is a mistake of the caller, and ends the session. */
const TAKES: Readonly<Record<Exclude<ProtocolDInput['kind'], 'end' | 'failed'>, readonly Phase[]>> = {
  start: ['off'],
  sides: ['looking', 'checking', 'running', 'complete', 'last-look'],
  promoted: ['promoting'],
  suspended: ['running'],
  'memory-complete': ['suspended'],
  'barrier-sent': ['barrier'],
  acknowledged: ['waiting'],
  demoted: ['demoting'],
};

/** The next state, and what to do about it. */
export function stepProtocolD(state: ProtocolDState, input: ProtocolDInput): ProtocolDStep {
  if (input.kind === 'failed') return fail(state, input.reason);
  if (input.kind === 'end') return end(state, input.reason);
  if (!TAKES[input.kind].includes(state.phase)) {
    // Once it has failed, what was still under way may report whatever it likes.
    if (state.phase === 'failed') return { state, effects: [] };
    return fail(state, `"${input.kind}" came while the session was ${state.phase}`);
  }
  if ('checkpoint' in input && input.kind !== 'suspended' && input.checkpoint !== state.checkpoint) {
    return fail(
      state,
      `"${input.kind}" is of checkpoint ${input.checkpoint}, under way is ${state.checkpoint}`,
    );
  }
  switch (input.kind) {
    case 'start':
      return start(state, input.disks);
    case 'sides':
      return look(state, input.sides);
    case 'promoted':
      return go(
        { ...state, phase: 'checking' },
        { kind: 'look', reason: 'both sides have to be primary now' },
      );
    case 'suspended':
      return suspended(state, input.checkpoint);
    case 'memory-complete':
      return go(
        { ...state, phase: 'complete' },
        {
          kind: 'look',
          reason: `all memory of checkpoint ${state.checkpoint} is on the backup, the guest is held`,
        },
      );
    case 'barrier-sent':
      return barrierSent(state, input.result);
    case 'acknowledged':
      return acknowledged({ ...state, acknowledged: state.acknowledged + 1 });
    case 'demoted':
      return go(protocolDOff, { kind: 'ended', reason: state.endReason ?? 'the session has ended' });
  }
}

function go(state: ProtocolDState, ...effects: ProtocolDEffect[]): ProtocolDStep {
  return { state, effects };
}

function start(state: ProtocolDState, disks: number): ProtocolDStep {
  if (disks !== 1) {
    const reason = `the guest has ${disks} disks: the module commits each resource by itself, so after a failure they could be of different checkpoints. One disk is required`;
    return go(state, { kind: 'refused', reason });
  }
  return go(
    { ...protocolDOff, phase: 'looking' },
    { kind: 'look', reason: 'what is there before anything is changed' },
  );
}

function look(state: ProtocolDState, sides: BothSides): ProtocolDStep {
  switch (state.phase) {
    case 'looking':
      return firstLook(state, sides);
    case 'checking': {
      const problems = sidesProblems(sides, expectedCounts(state));
      if (problems.length > 0) return fail(state, problems.join('; '));
      return go({ ...state, phase: 'running' });
    }
    case 'complete':
      return beforeBarrier(state, sides);
    case 'last-look':
      return lastLook(state, sides);
    default:
      return watch(state, sides);
  }
}

function expectedCounts({ first, acknowledged: count }: ProtocolDState) {
  return { first, acknowledged: count, barrierOut: false };
}

/** Before the promotion: all has to be as it will be, but for the backup's role. */
function firstLook(state: ProtocolDState, sides: BothSides): ProtocolDStep {
  const { primary, backup } = sides;
  const first = primary.nextCheckpoint;
  const asPromoted: BothSides = { primary, backup: { ...backup, role: 'Primary' } };
  const problems = sidesProblems(asPromoted, { first, acknowledged: 0, barrierOut: false });
  if (backup.deferredWrites !== 0) {
    problems.push(
      `the backup still holds back ${backup.deferredWrites} writes of an earlier session; disconnect and connect the resource`,
    );
  }
  if (problems.length > 0) {
    return go(protocolDOff, { kind: 'refused', reason: `${problems.join('; ')}; nothing was changed` });
  }
  const next: ProtocolDState = { ...state, phase: 'promoting', first };
  if (backup.role === 'Primary')
    return go({ ...next, phase: 'checking' }, { kind: 'look', reason: 'the backup is primary already' });
  return go(next, {
    kind: 'promote-backup',
    reason: 'the module holds writes back only on a backup that is primary',
  });
}

/** Between checkpoints. */
function watch(state: ProtocolDState, sides: BothSides): ProtocolDStep {
  const problems = sidesProblems(sides, expectedCounts(state));
  if (problems.length > 0) return fail(state, problems.join('; '));
  return go(seen(state, sides));
}

function seen(state: ProtocolDState, { backup }: BothSides): ProtocolDState {
  return backup.deferredWrites > 0 ? { ...state, deferredSeen: true } : state;
}

function suspended(state: ProtocolDState, checkpoint: number): ProtocolDStep {
  if (checkpoint !== state.checkpoint + 1) {
    return fail(
      state,
      `the guest was suspended for checkpoint ${checkpoint}, the next one is ${state.checkpoint + 1}`,
    );
  }
  return go({ ...state, checkpoint, phase: 'suspended' });
}

/** The guest is held and its memory complete, so that what it wrote in this epoch can be seen held back now. */
function beforeBarrier(state: ProtocolDState, sides: BothSides): ProtocolDStep {
  const problems = sidesProblems(sides, expectedCounts(state));
  if (problems.length > 0) return fail(state, problems.join('; '));
  const { checkpoint } = state;
  return go(
    { ...seen(state, sides), phase: 'barrier' },
    {
      kind: 'send-barrier',
      checkpoint,
      reason: `memory ${checkpoint} is complete on the backup; its disk may follow`,
    },
  );
}

function barrierSent(state: ProtocolDState, result: 'queued' | 'nothing-to-send'): ProtocolDStep {
  const { checkpoint } = state;
  if (result === 'queued') {
    return go(
      { ...state, phase: 'waiting', unseen: state.deferredSeen ? 0 : state.unseen + 1 },
      { kind: 'wait-for-acknowledgement', checkpoint, reason: `barrier ${checkpoint} is on its way` },
    );
  }
  return commit(state, `nothing was written in epoch ${checkpoint}; its disk is that of the epoch before`);
}

function acknowledged(state: ProtocolDState): ProtocolDStep {
  if (state.unseen > UNSEEN_CHECKPOINTS_MAX) {
    const reason = `${state.unseen} checkpoints had writes, and none was ever seen held back on the backup: it writes them through, so its disk runs ahead of its memory`;
    return fail(state, reason);
  }
  return commit(state, `the backup has acknowledged barrier ${state.checkpoint}`);
}

function commit(state: ProtocolDState, why: string): ProtocolDStep {
  const { checkpoint, deferredSeen } = state;
  const next: ProtocolDState = { ...state, phase: 'running', committed: checkpoint, protected: deferredSeen };
  const committed: ProtocolDEffect = { kind: 'commit', checkpoint, reason: why };
  if (state.endReason !== undefined) {
    return go({ ...next, phase: 'last-look' }, committed, {
      kind: 'look',
      reason: `the session ends: ${state.endReason}`,
    });
  }
  const effects: ProtocolDEffect[] = [
    committed,
    { kind: 'resume-guest', reason: `checkpoint ${checkpoint} is committed` },
  ];
  if (deferredSeen && !state.protected) {
    effects.push({
      kind: 'protected',
      reason: `writes are held back on the backup, and checkpoint ${checkpoint} is committed`,
    });
  }
  return go(next, ...effects);
}

/** Why the guest isn't protected, or undefined where it is. */
export function protocolDReason(state: ProtocolDState): string | undefined {
  if (state.protected) return undefined;
  if (state.phase === 'off') return 'no session';
  if (state.phase === 'failed') return 'the session has failed';
  if (state.committed === undefined) return 'no checkpoint is committed yet';
  return 'no write was seen held back on the backup yet; the guest may not have written anything';
}

// --- The end ----------------------------------------------------------------------------------------------

/**
 * The backup can't simply be demoted: a write that it still holds back would be applied at a later barrier, over
 * newer ones. So the session ends with the guest held, when nothing is held back any more.
 */
function end(state: ProtocolDState, reason: string): ProtocolDStep {
  switch (state.phase) {
    case 'off':
    case 'failed':
      return go(state, { kind: 'ended', reason: `${reason}; there was no session` });
    case 'looking':
      return go(protocolDOff, { kind: 'ended', reason: `${reason}; nothing was changed` });
    case 'promoting':
    case 'checking':
      return fail(state, `${reason}; no checkpoint can show what the backup holds back`);
    default:
      return go({ ...state, endReason: state.endReason ?? reason });
  }
}

function lastLook(state: ProtocolDState, { primary, backup }: BothSides): ProtocolDStep {
  const pending = primary.pendingRequests;
  const held = backup.deferredWrites;
  if (pending !== 0 || held !== 0) {
    const found = `${held} writes are held back on the backup, ${pending} requests not completed on the primary`;
    return fail(state, `${found} after the last barrier`);
  }
  return go(
    { ...state, phase: 'demoting' },
    { kind: 'demote-backup', reason: 'nothing is held back and nothing on its way' },
  );
}

function fail(state: ProtocolDState, reason: string): ProtocolDStep {
  if (state.phase === 'failed') return go(state);
  if (state.phase === 'off' || state.phase === 'looking')
    return go(protocolDOff, { kind: 'refused', reason: `${reason}; nothing was changed` });
  return go({ ...state, phase: 'failed', protected: false }, { kind: 'unprotected', reason });
}
