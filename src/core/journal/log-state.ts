/**
 * What the journal knows of itself, as a fold over its frames: mode, session, commit, and the stretches between
 * markers that are not drained yet. The running journal and the recovery apply the very same steps, so that
 * what is recovered is what was meant. Pure.
 *
 * Words: an *ordinal* counts the stretches between two markers of the whole journal, by one, for ever. An
 * *epoch* is the number that a marker gives to the stretch it closes; numbers of one session grow but may skip.
 *
 * A stretch is: open -> closed (marker N) -> committed (commit frame) -> drained -> freed.
 */
import { FrameFlag, FrameKind } from './format.js';
import type { FrameHeader, Layout, LogPosition, Superblock } from './format.js';
import { BLOCK_BYTES, SECTOR_BYTES } from './types.js';
import type { JournalMode, SessionEnd } from './types.js';

/** The part of the state that the superblock keeps for the head of the log. */
export interface BaseState {
  mode: JournalMode;
  term: number;
  session: Uint8Array;
  committedEpoch: number | null;
  committedOrdinal: number;
  committedAtMs: number;
  closedEpoch: number | null;
  /** How the last session ended, until the next one begins. */
  ended: SessionEnd;
}

/** One stretch of the log that is not drained yet. */
export interface Stretch {
  ordinal: number;
  /** The number its marker gave it; null while open, or when it was sealed without one. */
  epoch: number | null;
  /** Its first frame, and the state just before that. */
  start: LogPosition;
  startSeq: number;
  startIncarnation: number;
  base: BaseState;
  writes: number;
  bytes: number;
  openedAtMs: number;
  closedAtMs: number | null;
}

export interface LogState extends BaseState {
  /** Ordinal of the open stretch, that the next write belongs to. */
  ordinal: number;
  /** Oldest first. The last one may be the open one, if it has a frame. */
  stretches: Stretch[];
}

/** The state at the head of the log. */
export function stateAtHead(superblock: Superblock): LogState {
  return {
    mode: superblock.mode,
    term: superblock.term,
    session: superblock.session,
    committedEpoch: superblock.committedEpoch,
    committedOrdinal: superblock.committedOrdinal,
    committedAtMs: superblock.committedAtMs,
    closedEpoch: superblock.closedEpoch,
    ended: superblock.ended,
    ordinal: superblock.headOrdinal,
    stretches: [],
  };
}

/** A copy of the part that the superblock keeps. */
export function baseOf(state: BaseState): BaseState {
  const { mode, term, session, committedEpoch, committedOrdinal, committedAtMs, closedEpoch, ended } = state;
  return { mode, term, session, committedEpoch, committedOrdinal, committedAtMs, closedEpoch, ended };
}

/**
 * Takes note of a frame that was written: which stretch it belongs to, and what it adds to it.
 * To be called for every frame in order, before `applyFrame`.
 */
export function noteFrame(state: LogState, frame: FrameHeader, position: LogPosition): void {
  const stretch = stretchOf(state, frame, position);
  if (frame.kind !== FrameKind.data) return;
  stretch.writes += frame.count;
  stretch.bytes += frame.payloadSectors * SECTOR_BYTES;
}

/**
 * Lets one frame take effect: a data frame when it is written, any other when it is durable.
 * @param session the id in a session frame
 * @returns the ordinal above which everything is void, for a discard; else null
 */
export function applyFrame(state: LogState, frame: FrameHeader, session: Uint8Array | null): number | null {
  switch (frame.kind) {
    case FrameKind.data:
      if (frame.flags & FrameFlag.closes) {
        const open = state.stretches[state.stretches.length - 1];
        if (open?.ordinal === state.ordinal) open.epoch = frame.epoch;
        state.closedEpoch = frame.epoch;
        seal(state, frame.timeMs);
      }
      return null;
    case FrameKind.session:
      seal(state, frame.timeMs);
      state.committedOrdinal = state.ordinal - 1;
      state.mode = 'epochs';
      state.ended = 'none';
      state.term = frame.term;
      state.session = session ?? new Uint8Array(16);
      state.committedEpoch = null;
      state.closedEpoch = null;
      state.committedAtMs = frame.timeMs;
      return null;
    case FrameKind.commit: {
      const closed = state.stretches.find(
        (each) => each.epoch === frame.epoch && each.ordinal > state.committedOrdinal,
      );
      if (closed !== undefined) state.committedOrdinal = closed.ordinal;
      state.committedEpoch = frame.epoch;
      state.committedAtMs = frame.timeMs;
      return null;
    }
    case FrameKind.forward:
      seal(state, frame.timeMs);
      state.committedOrdinal = state.ordinal - 1;
      state.mode = 'through';
      state.ended = 'forward';
      return null;
    case FrameKind.discard: {
      const keep = state.committedOrdinal;
      for (const each of state.stretches) {
        if (each.ordinal <= keep) continue;
        each.writes = 0;
        each.bytes = 0;
      }
      seal(state, frame.timeMs);
      state.committedOrdinal = state.ordinal - 1;
      state.closedEpoch = state.committedEpoch;
      state.mode = 'through';
      state.ended = 'back';
      return keep;
    }
    case FrameKind.close:
      return null;
    default:
      throw new Error(`frame kind ${String(frame.kind satisfies never)}`);
  }
}

/** Ends the open stretch; the next write belongs to the next ordinal. */
export function seal(state: LogState, timeMs: number): void {
  const open = state.stretches[state.stretches.length - 1];
  if (open?.ordinal === state.ordinal) open.closedAtMs = timeMs;
  state.ordinal++;
}

function stretchOf(state: LogState, frame: FrameHeader, position: LogPosition): Stretch {
  // Through mode seals stretches while draining without a frame of its own; the frames carry the count.
  if (frame.ordinal > state.ordinal) {
    state.ordinal = frame.ordinal;
    if (state.mode === 'through') state.committedOrdinal = frame.ordinal - 1;
  }
  const last = state.stretches[state.stretches.length - 1];
  if (last?.ordinal === state.ordinal) return last;
  const stretch: Stretch = {
    ordinal: state.ordinal,
    epoch: null,
    start: position,
    startSeq: frame.seq,
    startIncarnation: frame.incarnation,
    base: baseOf(state),
    writes: 0,
    bytes: 0,
    openedAtMs: frame.timeMs,
    closedAtMs: null,
  };
  state.stretches.push(stretch);
  return stretch;
}

/**
 * Decides what a write that looks like a marker does.
 * @returns the epoch it closes, or in words why it is an ordinary write
 */
export function judgeMarker(
  state: LogState,
  domain: string,
  marker: { domain: string; term: number; session: Uint8Array; epoch: number },
): { closes: number } | { ignored: string } {
  if (state.mode !== 'epochs') return { ignored: `marker ${marker.epoch}: no session is open` };
  if (marker.domain !== domain) return { ignored: `marker ${marker.epoch}: of domain ${marker.domain}` };
  if (marker.term !== state.term) {
    return { ignored: `marker ${marker.epoch}: of term ${marker.term}, the session has term ${state.term}` };
  }
  if (!Buffer.from(marker.session).equals(state.session))
    return { ignored: `marker ${marker.epoch}: of another session` };
  if (state.closedEpoch !== null && marker.epoch <= state.closedEpoch) {
    return { ignored: `marker ${marker.epoch}: marker ${state.closedEpoch} was here before` };
  }
  return { closes: marker.epoch };
}

/**
 * The ring of segments: where the next frame goes, and what is free.
 *
 * The last free segment is kept for control frames, because it is a commit or the end of a session that makes
 * room again. It is enough: a commit takes at most one block of 4 KiB of it, and every epoch that it releases
 * has a marker, which takes more. A segment that a read still needs (a pin) is not written over.
 */
export class Ring {
  readonly layout: Layout;
  head: LogPosition;
  tail: LogPosition;
  /** Segments that data leaves free behind it; control frames may have all of them. At least 1. */
  dataReserve = 1;
  private readonly pins: Uint32Array;

  constructor(layout: Layout, head: LogPosition, tail: LogPosition) {
    this.layout = layout;
    this.head = { ...head };
    this.tail = { ...tail };
    this.pins = new Uint32Array(layout.segments);
  }

  /** Segments that hold nothing needed. */
  get freeSegments(): number {
    const { segments } = this.layout;
    const used = ((this.tail.segment - this.head.segment + segments) % segments) + 1;
    return segments - used;
  }

  /** Bytes that data can still take, to within one frame for each segment. */
  get freeBytes(): number {
    return (
      Math.max(0, this.freeSegments - 1) * this.layout.segmentBytes +
      this.layout.segmentBytes -
      this.tail.offsetBytes
    );
  }

  get totalBytes(): number {
    return (this.layout.segments - 1) * this.layout.segmentBytes;
  }

  /** Whether there is room for a frame now. */
  fits(lengthBytes: number, control: boolean): boolean {
    const reserve = control ? 0 : this.dataReserve;
    if (this.tail.offsetBytes + lengthBytes <= this.layout.segmentBytes) return this.freeSegments >= reserve;
    const next = (this.tail.segment + 1) % this.layout.segments;
    return this.freeSegments >= reserve + 1 && this.pins[next] === 0;
  }

  /**
   * Finds the place for a frame and takes it.
   * @param control whether it may use the reserve
   * @returns null when there is no room now
   */
  place(lengthBytes: number, control: boolean): LogPosition | null {
    if (!this.fits(lengthBytes, control)) return null;
    if (this.tail.offsetBytes + lengthBytes > this.layout.segmentBytes) {
      this.tail = { segment: (this.tail.segment + 1) % this.layout.segments, offsetBytes: 0 };
    }
    const position = { ...this.tail };
    this.tail.offsetBytes += lengthBytes;
    return position;
  }

  /** Lets the next frame begin in a block of its own, so that what is durable is never written again. */
  align(): void {
    this.tail.offsetBytes = Math.ceil(this.tail.offsetBytes / BLOCK_BYTES) * BLOCK_BYTES;
  }

  pin(segment: number): void {
    this.pins[segment] = (this.pins[segment] as number) + 1;
  }

  unpin(segment: number): void {
    this.pins[segment] = (this.pins[segment] as number) - 1;
  }

  segmentOfSector(sector: number): number {
    return Math.floor((sector * SECTOR_BYTES - this.layout.dataOffset) / this.layout.segmentBytes);
  }
}
