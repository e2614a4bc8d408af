/**
 * Which checkpoint's mark is in the queues, and what to do at the next checkpoint and the next commit.
 *
 *              mark n                   mark n               release n
 *     open ------------> held, no mark --------> held, mark n --------> held, mark n leaving
 *      ^                      ^                   mark m > n: folded          |
 *      | open (from anywhere) '------------------------ settled --------------'
 *
 * sch_plug can remember one mark only: a second `block` overwrites the number of packets that the first one stood
 * for, and the `release` for the first would then let go, from the head, as many packets as the second one counted.
 * With 1 packet in epoch 1 and 5 in epoch 2, the commit of 1 would release 4 packets of epoch 2. (Read in
 * `plug_change`, and seen.) So there is one mark at a time. The packets of a checkpoint that begins while a mark is
 * still there are folded into the next mark: they leave with a later commit than their own, never with an
 * earlier one. What that costs: nothing while a checkpoint is committed before the next one begins; otherwise a
 * packet waits up to the time of one commit longer, so at the most about twice as long.
 *
 * A mark also stays until what it released has left ("settled"): sch_plug changes its counts without a lock, and
 * a `block` or `release` in the middle of a drain could miscount.
 *
 * The first mark of all has nothing before it: until then the queue is open.
 */

export type MarkState =
  { phase: 'open'; lastMark: number } | { phase: 'held'; lastMark: number; pending: PendingMark | null };

export interface PendingMark {
  checkpoint: number;
  /** Its packets were let go and are on their way out. */
  leaving: boolean;
}

export type MarkInput =
  | { kind: 'mark'; checkpoint: number }
  | { kind: 'release'; checkpoint: number }
  | { kind: 'settled'; checkpoint: number }
  | { kind: 'open' };

/** `shut`: from open to held. The others are the queue's own commands. */
export type MarkEffect = 'shut' | 'block' | 'release' | 'open' | 'none';

export interface MarkStep {
  state: MarkState;
  effect: MarkEffect;
  reason: string;
}

export const initialMarks: MarkState = { phase: 'open', lastMark: -1 };

/**
 * @throws Error when called out of order: a mark that is not newer than the last one, or the release of a
 *   checkpoint that has no mark yet. Both are faults of the caller, and going on could let packets out early
 */
export function stepMarks(state: MarkState, input: MarkInput): MarkStep {
  switch (input.kind) {
    case 'mark':
      return mark(state, input.checkpoint);
    case 'release':
      return release(state, input.checkpoint);
    case 'settled': {
      const pending = state.phase === 'held' ? state.pending : null;
      if (state.phase === 'open' || !pending?.leaving || pending.checkpoint !== input.checkpoint) {
        return same(state, `nothing was leaving for checkpoint ${input.checkpoint}`);
      }
      return {
        state: { ...state, pending: null },
        effect: 'none',
        reason: `all packets up to checkpoint ${input.checkpoint} have left`,
      };
    }
    case 'open':
      return {
        state: { phase: 'open', lastMark: state.lastMark },
        effect: 'open',
        reason: 'opened: packets are no longer held',
      };
  }
}

function mark(state: MarkState, checkpoint: number): MarkStep {
  if (!Number.isSafeInteger(checkpoint) || checkpoint <= state.lastMark) {
    throw new Error(`network mark ${checkpoint} is not newer than mark ${state.lastMark}`);
  }
  if (state.phase === 'open') {
    return {
      state: { phase: 'held', lastMark: checkpoint, pending: null },
      effect: 'shut',
      reason: `shut at checkpoint ${checkpoint}: what is sent from now on is held`,
    };
  }
  const { pending } = state;
  if (pending) {
    const why = pending.leaving ? 'are still leaving' : 'are not released yet';
    return {
      state: { ...state, lastMark: checkpoint },
      effect: 'none',
      reason: `mark ${checkpoint} is folded into the next one: the packets of checkpoint ${pending.checkpoint} ${why}`,
    };
  }
  return {
    state: { phase: 'held', lastMark: checkpoint, pending: { checkpoint, leaving: false } },
    effect: 'block',
    reason: `marked checkpoint ${checkpoint}`,
  };
}

function release(state: MarkState, checkpoint: number): MarkStep {
  if (state.phase === 'open') return same(state, 'the network is open: nothing is held');
  if (!Number.isSafeInteger(checkpoint) || checkpoint > state.lastMark) {
    throw new Error(`release of checkpoint ${checkpoint}, but the last network mark is ${state.lastMark}`);
  }
  const { pending } = state;
  if (!pending) return same(state, `no packet waits for checkpoint ${checkpoint}`);
  if (pending.leaving) return same(state, `checkpoint ${pending.checkpoint} is being released`);
  if (checkpoint < pending.checkpoint) {
    return same(state, `what is held waits for checkpoint ${pending.checkpoint}, not for ${checkpoint}`);
  }
  return {
    state: { ...state, pending: { ...pending, leaving: true } },
    effect: 'release',
    reason: `released up to checkpoint ${pending.checkpoint}`,
  };
}

function same(state: MarkState, reason: string): MarkStep {
  return { state, effect: 'none', reason };
}
