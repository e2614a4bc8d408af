/**
 * The gate: when the pipe from `xl` is one page, and when it may be large.
 *
 * The guest is suspended before an epoch's first PAGE_DATA record is written, and resumed when everything up to
 * CHECKPOINT is in the pipe. So with a pipe of one page it stays suspended while the reader stops behind that record's
 * header: the record is longer than a page, so its writer is blocked in it.
 *
 * For that the pipe has to be one page before that header is read, at whatever place: from then on the writer is
 * never more than a page ahead of the reader. It is asked to shrink at the first record behind the pages (the kernel
 * refuses while more than a page is in it, so it is asked again after each read), and grows when the guest may go on.
 * If the writer had already gone on to the next epoch in between, because the reader slept longer than the interval,
 * the shrinking comes too late. That is seen: the epoch is `missed`, not held, and must not be taken for held. The
 * reader should wait for nothing but the pipe from `shrink` until it has worked.
 *
 * An epoch without pages, or with a first record of a page or less (it names pages without data), is not held: nothing
 * was written to the guest's memory in it.
 */
import { LibxcRecord } from './format.js';
import type { StreamEvent } from './decoder.js';

export interface GateState {
  /** `shrinking`: it should be one page, and is not known to be yet. `closed`: the guest is held. */
  readonly pipe: 'large' | 'shrinking' | 'page' | 'closed';
  /** Pages of this checkpoint have gone by. */
  readonly pages: boolean;
}

export type GateInput =
  /** Bytes were read, and made this event or none. */
  | { type: 'read'; event: StreamEvent | null }
  /** The pipe was asked to be one page: it is, or it was too full. */
  | { type: 'shrunk'; done: boolean }
  /** The held guest may go on. */
  | { type: 'release' };

export type GateEffect =
  | { type: 'shrink' }
  | { type: 'grow' }
  /** Read no further: the guest is suspended until then. */
  | { type: 'hold'; checkpoint: number }
  | { type: 'missed'; checkpoint: number; reason: string };

interface GateStep {
  state: GateState;
  effect: GateEffect | null;
}

/** The pipe is of any size; the live round needs no gate. The caller may grow it at once. */
export function startGate(): GateState {
  return { pipe: 'large', pages: false };
}

export function stepGate(state: GateState, input: GateInput): GateStep {
  switch (input.type) {
    case 'read':
      if (state.pipe === 'closed') throw new Error('the pipe was read while the guest is held');
      return read(state, input.event);
    case 'shrunk':
      return { state: input.done ? { ...state, pipe: 'page' } : state, effect: null };
    case 'release':
      if (state.pipe !== 'closed') throw new Error('no guest is held');
      return { state: { ...state, pipe: 'large' }, effect: { type: 'grow' } };
  }
}

function read(state: GateState, event: StreamEvent | null): GateStep {
  let { pipe, pages } = state;
  if (event?.kind === 'record-begin' && event.layer === 'libxc') {
    if (event.type === LibxcRecord.PAGE_DATA) pages = true;
    else if (pages && pipe === 'large') pipe = 'shrinking';
    if (event.holdsGuest && pipe === 'page')
      return { state: { pipe: 'closed', pages }, effect: { type: 'hold', checkpoint: event.checkpoint } };
    if (event.holdsGuest) {
      const reason = 'the pipe was still large when the epoch began: it was read too late to hold the guest';
      return { state: { pipe, pages }, effect: { type: 'missed', checkpoint: event.checkpoint, reason } };
    }
  }
  if (event?.kind === 'checkpoint') {
    pages = false;
    if (pipe === 'large') pipe = 'shrinking';
  }
  return { state: { pipe, pages }, effect: pipe === 'shrinking' ? { type: 'shrink' } : null };
}
