/**
 * Drains what is committed from the journal to the targets.
 *
 * One pass at a time:
 *   1. take the oldest committed stretches, whole, up to `passBytes`;
 *   2. walk their part of the log in spans: read a span in one piece, list which of its blocks nothing newer
 *      replaces, sort them by place on the target, and write runs;
 *   3. flush the targets;
 *   4. take the blocks out of the index, move the head of the log, and only then is the space free.
 *
 * A crash anywhere in between only means that the same committed data is written again.
 *
 * Incoming writes come first: the pass gives way to the event loop after every few runs, and while writes keep
 * arriving it may drain no more than a share of what arrives, a share that grows with the fill of the journal.
 * At half full it keeps up, and above three quarters it runs freely.
 */
import type { BlockIndex, DrainList } from '../core/journal/block-index.js';
import { BlockIndex as Index } from '../core/journal/block-index.js';
import { positionToOffset } from '../core/journal/format.js';
import type { Layout, LogPosition } from '../core/journal/format.js';
import type { LogState, Stretch } from '../core/journal/log-state.js';
import { BLOCK_BYTES, SECTOR_BYTES } from '../core/journal/types.js';
import type { Disk } from '../core/journal/types.js';
import type { Clock, JournalCounters } from './journal.js';

export interface DrainOptions {
  /** How long committed data may rest before a pass begins; lets writes to the same block meet. */
  delayMs: number;
  /** The most payload of one pass, unless a single epoch is larger. */
  passBytes: number;
  /** How much of the log is read in one piece: memory that the drain holds. */
  spanBytes: number;
  /** Work between two looks at what arrives. */
  sliceBytes: number;
}

export const drainDefaults: DrainOptions = {
  delayMs: 10,
  passBytes: 64 << 20,
  spanBytes: 8 << 20,
  sliceBytes: 128 << 10,
};

/** What the drain sees of its journal. */
export interface DrainContext {
  disk: Disk;
  targets: readonly Disk[];
  layout: Layout;
  index: BlockIndex;
  log: LogState;
  clock: Clock;
  counters: JournalCounters;
  /** End of the last frame written. */
  logEnd: () => LogPosition;
  usedFraction: () => number;
  /** Called before a pass chooses what is committed. */
  ready: () => void;
  /** Called when stretches were drained, flushed and removed; resolves when their space may be reused. */
  freed: () => Promise<void>;
  failed: (volume: number, error: unknown) => void;
}

/** A hold of the targets ends when the journal is fuller than this. */
const HELD_FILL_MAX = 0.5;
/** Nothing has arrived for so long: nobody is disturbed. */
const IDLE_MS = 5;
const RUN_BYTES_MAX = 1 << 20;
const RUN_PIECES_MAX = 512;
const RUNS_AT_ONCE = 4;
const REMOVE_AT_ONCE = 4096;
const BLOCK_SECTORS = BLOCK_BYTES / SECTOR_BYTES;
const SECTORS_ALL = 0xff;

class Stopped extends Error {}

export class Drain {
  private readonly context: DrainContext;
  private readonly options: DrainOptions;
  private running: Promise<void> | null = null;
  private scheduled = false;
  private urgent = false;
  private stopped = false;
  private readonly buffer: Buffer;
  private drainedSince = 0;
  private arrivedAtLook = 0;
  private lastArrivalMs = -Infinity;
  private allowance = 0;
  private held: { upTo: number; ended: (reason: string) => void } | null = null;

  constructor(context: DrainContext, options: Partial<DrainOptions>) {
    this.context = context;
    this.options = { ...drainDefaults, ...options };
    const log = context.layout.segments * context.layout.segmentBytes;
    this.buffer = Buffer.alloc(Math.min(this.options.spanBytes, log) + BLOCK_BYTES);
  }

  /** Starts draining soon, or at once and without regard to what arrives when room is needed. */
  start(urgent = false): void {
    if (urgent) this.urgent = true;
    if (urgent || this.context.usedFraction() > HELD_FILL_MAX) this.endHold('the journal needs the room');
    if (this.scheduled || this.stopped || this.running !== null) return;
    this.scheduled = true;
    const begin = (): void => {
      this.scheduled = false;
      if (this.running === null) void this.loop().catch(() => undefined);
    };
    if (urgent || this.options.delayMs === 0) this.context.clock.soon(begin);
    else this.context.clock.later(begin, this.options.delayMs);
  }

  /** Resolves when nothing committed is left; rejects when draining failed or was stopped. */
  async run(): Promise<void> {
    this.endHold('everything has to be on the disks');
    this.urgent = true;
    await this.loop();
    // What was committed while the last pass ran.
    while (this.choose().length > 0) await this.loop();
  }

  /**
   * Drains up to the last commit and no further: from when this resolves until the hold has ended nothing is written to
   * the targets, which are at that commit, flushed. Whoever needs the rest drained ends the hold.
   * @param ended why it was not kept until `endHold`; by then nothing was written yet
   */
  async holdAtCommit(ended: (reason: string) => void): Promise<void> {
    const held = { upTo: this.context.log.committedOrdinal, ended };
    this.held = held;
    this.urgent = true;
    try {
      await this.loop();
      while (this.held === held && this.choose().length > 0) await this.loop();
    } catch (error) {
      if (this.held === held) this.held = null;
      throw error;
    }
  }

  get isHeld(): boolean {
    return this.held !== null;
  }

  /** @param reason null where whoever has asked for it ends it */
  endHold(reason: string | null): void {
    const { held } = this;
    if (held === null) return;
    this.held = null;
    if (reason !== null) held.ended(reason);
  }

  /** Stops at the next step; what was not drained stays in the journal. */
  async stop(): Promise<void> {
    this.endHold('the journal stops');
    this.stopped = true;
    await this.running?.catch(() => undefined);
  }

  private loop(): Promise<void> {
    this.running ??= this.passes().finally(() => {
      this.running = null;
      this.urgent = false;
    });
    return this.running;
  }

  private async passes(): Promise<void> {
    for (;;) {
      if (this.stopped) throw new Stopped('draining was stopped');
      const chosen = this.choose();
      if (chosen.length === 0) return;
      await this.pass(chosen);
      this.context.counters.drainPasses++;
    }
  }

  /** The newest ordinal that counts: a block that one behind it replaces is drained all the same. */
  private limit(): number {
    return Math.min(this.context.log.committedOrdinal, this.held?.upTo ?? Infinity);
  }

  private choose(): Stretch[] {
    this.context.ready();
    const { log } = this.context;
    const limit = this.limit();
    const chosen: Stretch[] = [];
    let bytes = 0;
    for (const stretch of log.stretches) {
      if (stretch.ordinal > limit) break;
      if (chosen.length > 0 && bytes + stretch.bytes > this.options.passBytes) break;
      chosen.push(stretch);
      bytes += stretch.bytes;
    }
    return chosen;
  }

  private async pass(chosen: readonly Stretch[]): Promise<void> {
    const { log, targets, index } = this.context;
    const limit = this.limit();
    const ordinals = chosen.map((stretch) => stretch.ordinal);
    const dirty = new Set<number>();
    if (chosen.some((stretch) => index.has(stretch.ordinal))) {
      for (const [from, to] of this.spans(chosen)) await this.span(ordinals, from, to, limit, dirty);
    }
    for (const volume of dirty) {
      const target = targets[volume] as Disk;
      await this.attempt(volume, () => target.flush());
    }
    for (const ordinal of ordinals) {
      while (!index.removeSome(ordinal, REMOVE_AT_ONCE)) await this.giveWay();
    }
    log.stretches.splice(0, chosen.length);
    await this.context.freed();
  }

  /** Where the chosen stretches lie, in pieces that can be read at once, in the order of the log. */
  private spans(chosen: readonly Stretch[]): [number, number][] {
    const { layout, log } = this.context;
    const first = chosen[0] as Stretch;
    const next = log.stretches[chosen.length];
    const ringFrom = layout.dataOffset;
    const ringTo = ringFrom + layout.segments * layout.segmentBytes;
    const from = positionToOffset(layout, first.start);
    const to = positionToOffset(layout, next === undefined ? this.context.logEnd() : next.start);
    const parts: [number, number][] =
      to > from
        ? [[from, to]]
        : [
            [from, ringTo],
            [ringFrom, to],
          ];
    const spans: [number, number][] = [];
    const step = this.buffer.length - BLOCK_BYTES;
    for (const [start, end] of parts) {
      for (let at = start; at < end; at += step) spans.push([at, Math.min(end, at + step)]);
    }
    return spans;
  }

  private async span(
    ordinals: readonly number[],
    from: number,
    to: number,
    limit: number,
    dirty: Set<number>,
  ): Promise<void> {
    const { index, disk } = this.context;
    const list = index.collect(ordinals, from / SECTOR_BYTES, to / SECTOR_BYTES, limit);
    if (list.count === 0) return;
    const [needFrom, needTo] = this.extentOf(list, from);
    const end = Math.min(needTo, disk.sizeBytes);
    const step = RUN_BYTES_MAX;
    for (let at = needFrom; at < end; at += step) {
      const part = this.buffer.subarray(at - needFrom, Math.min(end, at + step) - needFrom);
      if (!disk.tryRead(part, at)) await this.attempt(-1, () => disk.read(part, at));
      await this.pace(0);
    }
    await this.writeList(list, needFrom, dirty);
  }

  /** The part of the log that the list needs. */
  private extentOf(list: DrainList, from: number): [number, number] {
    const { index } = this.context;
    let low = Infinity;
    let high = 0;
    for (let item = 0; item < list.count; item++) {
      const entry = list.entries[item] as number;
      if (index.isZero(entry)) continue;
      const mask = list.masks[item] as number;
      const base = index.journalSectorOf(entry);
      low = Math.min(low, base + firstBit(mask));
      high = Math.max(high, base + 32 - Math.clz32(mask));
    }
    return high === 0 ? [from, from] : [low * SECTOR_BYTES, high * SECTOR_BYTES];
  }

  private async writeList(list: DrainList, bufferStart: number, dirty: Set<number>): Promise<void> {
    const runs = new Runs((volume, offset, pieces, length) => this.writeRun(volume, offset, pieces, length));
    try {
      await this.writeRuns(runs, list, bufferStart, dirty);
    } finally {
      // Whatever happened, nobody may still be reading the buffer when it is used again or given up.
      await runs.settle();
    }
  }

  private async writeRuns(
    runs: Runs,
    list: DrainList,
    bufferStart: number,
    dirty: Set<number>,
  ): Promise<void> {
    const { index } = this.context;
    for (let item = 0; item < list.count; item++) {
      const entry = list.entries[item] as number;
      const volume = index.volumeOf(entry);
      dirty.add(volume);
      const granule = index.granuleSectorOf(entry);
      if (granule >= 0) {
        runs.addZero(volume, granule * SECTOR_BYTES, Index.granuleSectors * SECTOR_BYTES);
        // Blocks may lie over a granule: they come after it, and only when it is done.
        const nextIsBlock =
          item + 1 < list.count && index.granuleSectorOf(list.entries[item + 1] as number) < 0;
        if (nextIsBlock) await runs.finish();
        else await runs.throttle();
        continue;
      }
      const mask = list.masks[item] as number;
      const target = index.blockOf(entry) * BLOCK_SECTORS;
      const base = index.journalSectorOf(entry);
      const zero = index.isZero(entry);
      for (let bit = firstBit(mask); bit < BLOCK_SECTORS;) {
        let stop = bit;
        while (stop < BLOCK_SECTORS && mask & (1 << stop)) stop++;
        if (mask === SECTORS_ALL) stop = BLOCK_SECTORS;
        const length = (stop - bit) * SECTOR_BYTES;
        const offset = (target + bit) * SECTOR_BYTES;
        if (zero) runs.addZero(volume, offset, length);
        else {
          const at = (base + bit) * SECTOR_BYTES - bufferStart;
          runs.addData(volume, offset, this.buffer, at, length);
        }
        bit = stop;
        while (bit < BLOCK_SECTORS && (mask & (1 << bit)) === 0) bit++;
      }
      const waiting = runs.throttle();
      if (waiting !== undefined) await waiting;
      if (runs.sinceYield >= this.options.sliceBytes) {
        const bytes = runs.sinceYield;
        runs.sinceYield = 0;
        await this.pace(bytes);
      }
    }
    await runs.finish();
  }

  private writeRun(
    volume: number,
    offset: number,
    pieces: Uint8Array[] | null,
    length: number,
  ): Promise<void> | undefined {
    // Before it begins: one that has begun is waited for, whatever has been stopped meanwhile.
    if (this.stopped) return Promise.reject(new Stopped('draining was stopped'));
    const target = this.context.targets[volume] as Disk;
    this.context.counters.drainedBytes += length;
    this.drainedSince += length;
    if (pieces === null) return this.attempt(volume, () => target.zero(offset, length));
    const writing = target.write(pieces, offset);
    return writing === undefined ? undefined : this.attempt(volume, () => writing);
  }

  private async attempt(volume: number, action: () => Promise<void>): Promise<void> {
    if (this.stopped) throw new Stopped('draining was stopped');
    try {
      await action();
    } catch (error) {
      this.context.failed(volume, error);
      throw error;
    }
  }

  /** Gives way to what arrives, and while much arrives waits for its share. */
  private async pace(drainedBytes: number): Promise<void> {
    await this.giveWay();
    const { clock, counters } = this.context;
    this.allowance -= drainedBytes;
    for (;;) {
      if (this.stopped) throw new Stopped('draining was stopped');
      const arrived = counters.writtenBytes - this.arrivedAtLook;
      this.arrivedAtLook = counters.writtenBytes;
      const now = clock.monotonicMs();
      if (arrived > 0) this.lastArrivalMs = now;
      const used = this.context.usedFraction();
      if (this.urgent || now - this.lastArrivalMs > IDLE_MS || used > 0.75) {
        this.allowance = 0;
        return;
      }
      // Nothing below an eighth but a trickle; as much as arrives at a half; twice that at three quarters.
      const share = Math.max(0.125, (used - 0.125) * (8 / 3));
      this.allowance = Math.min(this.options.sliceBytes, this.allowance + arrived * share);
      if (this.allowance >= 0) return;
      await new Promise<void>((resolve) => {
        clock.later(resolve, 1);
      });
    }
  }

  private giveWay(): Promise<void> {
    return new Promise((resolve) => {
      this.context.clock.soon(resolve);
    });
  }
}

type WriteRun = (
  volume: number,
  offset: number,
  pieces: Uint8Array[] | null,
  length: number,
) => Promise<void> | undefined;

/** Joins neighbouring pieces to runs, and keeps a few of them on their way at once. */
class Runs {
  sinceYield = 0;
  private readonly write: WriteRun;
  private readonly inFlight = new Set<Promise<void>>();
  private error: { cause: unknown } | null = null;
  private volume = -1;
  private start = 0;
  private end = 0;
  private zero = false;
  private pieces: Uint8Array[] = [];
  private lastBuffer: Buffer | null = null;
  private lastFrom = 0;
  private lastTo = 0;

  constructor(write: WriteRun) {
    this.write = write;
  }

  addData(volume: number, offset: number, buffer: Buffer, at: number, length: number): void {
    const joins =
      !this.zero &&
      this.volume === volume &&
      this.end === offset &&
      this.end - this.start < RUN_BYTES_MAX &&
      this.pieces.length < RUN_PIECES_MAX;
    if (!joins) {
      this.send();
      this.volume = volume;
      this.start = offset;
      this.zero = false;
    }
    if (joins && this.lastBuffer !== null && this.lastTo === at) this.lastTo = at + length;
    else {
      this.cutPiece();
      this.lastBuffer = buffer;
      this.lastFrom = at;
      this.lastTo = at + length;
    }
    this.end = offset + length;
  }

  addZero(volume: number, offset: number, length: number): void {
    if (!this.zero || this.volume !== volume || this.end !== offset) {
      this.send();
      this.volume = volume;
      this.start = offset;
      this.zero = true;
    }
    this.end = offset + length;
  }

  /** @returns a promise while too much is on its way */
  throttle(): Promise<void> | undefined {
    if (this.inFlight.size < RUNS_AT_ONCE) {
      this.rethrow();
      return undefined;
    }
    return Promise.race(this.inFlight).then(() => {
      this.rethrow();
    });
  }

  /** Sends the last run and waits for all. */
  async finish(): Promise<void> {
    this.send();
    await Promise.all(this.inFlight);
    this.rethrow();
  }

  /** Waits for what is on its way, whatever comes of it. */
  async settle(): Promise<void> {
    await Promise.all(this.inFlight);
  }

  private rethrow(): void {
    if (this.error !== null) throw this.error.cause;
  }

  private cutPiece(): void {
    if (this.lastBuffer === null) return;
    this.pieces.push(this.lastBuffer.subarray(this.lastFrom, this.lastTo));
    this.lastBuffer = null;
  }

  private send(): void {
    this.cutPiece();
    const length = this.end - this.start;
    if (this.volume < 0 || length === 0) return;
    const pieces = this.zero ? null : this.pieces;
    this.pieces = [];
    this.sinceYield += this.zero ? BLOCK_BYTES : length;
    const writing = this.write(this.volume, this.start, pieces, length);
    this.volume = -1;
    this.start = 0;
    this.end = 0;
    this.zero = false;
    if (writing === undefined) return;
    const tracked: Promise<void> = writing
      .catch((cause: unknown) => {
        this.error ??= { cause };
      })
      .finally(() => this.inFlight.delete(tracked));
    this.inFlight.add(tracked);
  }
}

function firstBit(mask: number): number {
  return 31 - Math.clz32(mask & -mask);
}
