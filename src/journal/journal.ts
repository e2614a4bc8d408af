/**
 * The epoch journal of one domain: takes the writes of all its volumes, keeps them until their epoch is
 * committed, and drains what is committed to the targets.
 *
 *     format once -> open -> [startSession -> markers, commit(n)... -> rollForward | discard]... -> close
 *
 * Outside a session the journal is a write cache: every write counts as committed at once. In a session writes
 * belong to the open epoch; a marker closes it, `commit` releases everything up to it, and the session ends
 * either with `rollForward` (all of it counts) or with `discard` (nothing above the last commit counts, and the
 * caller learns which blocks that was). After a crash `open` finds the journal as it was; while a session is
 * undecided the caller must end it one way or the other. Neither is ever guessed.
 *
 * What a client was told: a write is *acknowledged* when it is in the journal's file and in the index, which
 * survives this process but not a power cut; a completed flush makes all writes acknowledged before it *durable*.
 *
 * The disks are given from outside (see Disk), so that tests and the simulator run this very code on disks that
 * lose, reorder and tear what was not flushed. Frames are written one after the other; requests that arrive
 * meanwhile share the next frame, and waiting flushes share the next flush.
 */
import { BlockIndex, ReadPlan, Source } from '../core/journal/block-index.js';
import {
  crcOf,
  decodeDiscardArea,
  decodeMarker,
  DescriptorOp,
  DESCRIPTORS_MAX,
  encodeDiscardArea,
  encodeSuperblock,
  FrameFlag,
  FrameKind,
  getDescriptor,
  headerSectorsFor,
  layOut,
  MARKER_BYTES,
  payloadSectorsOf,
  positionToOffset,
  putDescriptor,
  sealHeader,
  SUPERBLOCK_BYTES,
} from '../core/journal/format.js';
import type { FrameHeader, Layout, LogPosition, SectorRange, Superblock } from '../core/journal/format.js';
import {
  applyFrame,
  baseOf,
  judgeMarker,
  noteFrame,
  Ring,
  seal,
  stateAtHead,
} from '../core/journal/log-state.js';
import type { BaseState, LogState } from '../core/journal/log-state.js';
import { readSuperblock, scanLog } from '../core/journal/scan.js';
import type { ScanProgress, ScanResult } from '../core/journal/scan.js';
import { BLOCK_BYTES, JournalError, SECTOR_BYTES } from '../core/journal/types.js';
import type {
  Disk,
  JournalMode,
  Session,
  SessionEnd,
  VolumeRange,
  VolumeSpec,
} from '../core/journal/types.js';
import { Drain } from './drain.js';
import type { DrainOptions } from './drain.js';
import { native } from './native.js';

/** Time, given from outside. */
export interface Clock {
  /** Wall clock, for what people read. */
  nowMs(): number;
  /** Monotonic, for pacing. */
  monotonicMs(): number;
  /** Runs after the events that are waiting now. */
  soon(action: () => void): void;
  later(action: () => void, delayMs: number): void;
}

export const systemClock: Clock = {
  nowMs: () => Date.now(),
  monotonicMs: () => performance.now(),
  soon: (action) => void setImmediate(action),
  later: (action, delayMs) => void setTimeout(action, delayMs),
};

/** Largest payload of one frame, and so the largest single write or read that the journal takes. */
const PAYLOAD_BYTES_MAX = 1 << 20;
const ZEROS = Buffer.alloc(BLOCK_BYTES);

/** One write on its way into the journal. The data may not change until `written` is called. */
export interface WriteRequest {
  op: DescriptorOp;
  /** Index of the volume. */
  volume: number;
  sector: number;
  sectors: number;
  /** Exactly `sectors` long for a write, null for zero and trim. */
  data: Uint8Array | null;
  sink: WriteSink;
}

export interface WriteSink {
  /** Called once for each request: null when it is acknowledged, or an errno name (EIO, ENOSPC, ESHUTDOWN). */
  written(request: WriteRequest, errno: string | null): void;
}

export interface MarkerEvent {
  epoch: number;
  term: number;
  /** Writes and payload bytes of the epoch it closed, over all volumes, the marker included. */
  writes: number;
  bytes: number;
}

export interface EpochReport {
  ordinal: number;
  epoch: number | null;
  phase: 'open' | 'closed' | 'committed';
  writes: number;
  bytes: number;
  ageMs: number;
}

export interface JournalState {
  /** One sentence for people: the same that is logged. */
  reason: string;
  domain: string;
  mode: JournalMode;
  term: number;
  sessionId: string;
  committedEpoch: number | null;
  closedEpoch: number | null;
  /** How the last session ended; 'none' while one is open or when there was none. */
  ended: SessionEnd;
  committedAgeMs: number | null;
  /** Set when an opened journal has a session that must be rolled forward or discarded before it takes writes. */
  undecided: boolean;
  /** Since when writes wait for room, and for which; null when they don't. */
  full: { sinceMs: number; what: 'space' | 'index' } | null;
  failed: string | null;
  discardPending: boolean;
  totalBytes: number;
  usedBytes: number;
  indexEntries: number;
  indexEntriesMax: number;
  indexBytesMax: number;
  epochs: EpochReport[];
  counters: JournalCounters;
}

export interface JournalCounters {
  writes: number;
  writtenBytes: number;
  frames: number;
  frameBytes: number;
  flushes: number;
  flushRequests: number;
  markers: number;
  markersIgnored: number;
  commits: number;
  drainedBytes: number;
  drainPasses: number;
  targetReadErrors: number;
}

export interface JournalOptions {
  clock?: Clock;
  drain?: Partial<DrainOptions>;
  /** Room that data leaves free until `openReserve`, in bytes of 4 KiB blocks; at most a quarter of the journal. */
  reserveBytes?: number;
  /** A marker closed an epoch: it is acknowledged, not yet durable (commit makes it so). */
  onMarker?: (event: MarkerEvent) => void;
  /** Something in `state()` that a receiver acts on has changed: full, failed, mode. */
  onChange?: (reason: string) => void;
  /** A marker-like block that closed nothing, and why. */
  onMarkerIgnored?: (reason: string) => void;
  onProgress?: (progress: ScanProgress) => void;
}

export interface FormatOptions {
  domain: string;
  volumes: VolumeSpec[];
  segmentBytes?: number;
  indexEntries?: number;
  /** 16 random bytes: frames of any earlier journal on this disk are not taken for ours. */
  journalId: Uint8Array;
  onProgress?: (writtenBytes: number, totalBytes: number) => void;
}

interface ControlRequest {
  kind: FrameKind;
  epoch: number | null;
  term: number;
  session: Uint8Array | null;
  resolve: (header: FrameHeader) => void;
  reject: (error: Error) => void;
}

type FlushDone = (error: JournalError | null) => void;

/** Where the log begins, and the state just before. */
interface Head {
  position: LogPosition;
  seq: number;
  incarnation: number;
  ordinal: number;
  base: BaseState;
}

/** A journal's log as it was read. */
export interface LoadedLog {
  index: BlockIndex;
  log: LogState;
  scan: ScanResult;
  /** Whether a discard lies behind the head: its ranges may not have been marked. */
  sawDiscard: boolean;
}

/**
 * Writes an empty journal, over whatever was there: zeros everywhere (so that later writes change no
 * allocation), then both superblocks.
 * @throws JournalError `invalid` for a size or name that cannot be
 */
export async function formatJournal(disk: Disk, options: FormatOptions): Promise<Layout> {
  const layout = layOut({
    sizeBytes: disk.sizeBytes,
    ...(options.segmentBytes === undefined ? {} : { segmentBytes: options.segmentBytes }),
    ...(options.indexEntries === undefined ? {} : { indexEntries: options.indexEntries }),
  });
  if (options.volumes.filter((volume) => volume.barrier).length > 1) {
    throw new JournalError('invalid', 'more than one barrier volume');
  }
  const superblock: Superblock = {
    generation: 1,
    journalId: options.journalId,
    layout,
    domain: options.domain,
    volumes: options.volumes,
    incarnation: 0,
    head: { segment: 0, offsetBytes: 0 },
    headSeq: 1,
    headIncarnation: 0,
    headOrdinal: 1,
    durableSeq: 0,
    mode: 'through',
    term: 0,
    session: new Uint8Array(16),
    committedEpoch: null,
    committedOrdinal: 0,
    closedEpoch: null,
    ended: 'none',
    committedAtMs: 0,
    discardPending: false,
    discardLengthBytes: 0,
    discardCrc: 0,
  };
  const encoded = [0, 1].map((slot) => encodeSuperblock({ ...superblock, generation: slot === 0 ? 2 : 1 }));
  const chunk = Buffer.alloc(Math.min(1 << 20, layout.sizeBytes));
  const end = layout.dataOffset + layout.segments * layout.segmentBytes;
  for (let offset = 0; offset < end; offset += chunk.length) {
    await disk.write([chunk.subarray(0, Math.min(chunk.length, end - offset))], offset);
    options.onProgress?.(Math.min(end, offset + chunk.length), end);
  }
  await disk.flush();
  await disk.write(encoded, 0);
  await disk.flush();
  return layout;
}

export class EpochJournal {
  readonly volumes: readonly VolumeSpec[];
  readonly domain: string;
  /** What opening found. */
  readonly scan: ScanResult;
  /** Longest single write or read, in bytes. */
  readonly requestBytesMax: number;
  /** Longest single zero or trim; a longer one is submitted in pieces, best cut at a multiple of 4 MiB. */
  readonly zeroSectorsMax: number;
  readonly counters: JournalCounters = {
    writes: 0,
    writtenBytes: 0,
    frames: 0,
    frameBytes: 0,
    flushes: 0,
    flushRequests: 0,
    markers: 0,
    markersIgnored: 0,
    commits: 0,
    drainedBytes: 0,
    drainPasses: 0,
    targetReadErrors: 0,
  };
  /** Called after requests were answered outside of the caller's own call, so that it can send its replies. */
  onBatch: (() => void) | null = null;

  private readonly disk: Disk;
  private readonly targets: readonly Disk[];
  private readonly options: JournalOptions;
  private readonly clock: Clock;
  private readonly layout: Layout;
  private readonly tag: Uint8Array;
  private readonly journalId: Uint8Array;
  private readonly index: BlockIndex;
  private readonly ring: Ring;
  private readonly log: LogState;
  private readonly drain: Drain;
  private readonly barrierVolume: number;
  private readonly plan: ReadPlan;
  private readonly crc: (bytes: Uint8Array) => number = native().crc32c ?? crcOf;

  private generation: number;
  private head: Head;
  /** End of the last frame that is written. */
  private logEnd: LogPosition;
  private incarnation: number;
  private firstOfIncarnation = true;
  private lastIncarnation: number;
  private lastSeq: number;
  private durableSeq: number;
  private discardPending: boolean;
  private discardLengthBytes: number;
  private discardCrc: number;
  private discardExact: { exact: boolean; ranges: SectorRange[] } | null = null;
  private undecided: boolean;

  private queue: WriteRequest[] = [];
  private queueStart = 0;
  private controls: ControlRequest[] = [];
  private pumping = false;
  private writing = false;
  /** While a session begins or ends no data is written, so that every write is on one side of it. */
  private holds = 0;
  private flushing = false;
  private flushWaiters: FlushDone[] = [];
  private settledWaiters: (() => void)[] = [];
  private chain: Promise<unknown> = Promise.resolve();
  private superChain: Promise<unknown> = Promise.resolve();
  private failure: JournalError | null = null;
  private closing = false;
  private closed = false;
  private full: { sinceMs: number; what: 'space' | 'index' } | null = null;
  private reason = 'open';
  private reserveEntries = 0;

  private readonly headerBuffer: Buffer;
  private readonly headers: { bytes: Buffer; view: DataView }[] = [];

  /** Use `EpochJournal.open`. */
  private constructor(
    disk: Disk,
    targets: readonly Disk[],
    superblock: Superblock,
    opened: LoadedLog,
    options: JournalOptions,
  ) {
    this.disk = disk;
    this.targets = targets;
    this.options = options;
    this.clock = options.clock ?? systemClock;
    this.layout = superblock.layout;
    this.journalId = superblock.journalId;
    this.tag = superblock.journalId.subarray(0, 8);
    this.volumes = superblock.volumes;
    this.domain = superblock.domain;
    this.barrierVolume = superblock.volumes.findIndex((volume) => volume.barrier);
    this.index = opened.index;
    this.log = opened.log;
    this.scan = opened.scan;
    this.ring = new Ring(superblock.layout, superblock.head, opened.scan.end);
    this.ring.align();
    this.setReserve(options.reserveBytes ?? 0);
    this.generation = superblock.generation;
    this.head = {
      position: superblock.head,
      seq: superblock.headSeq,
      incarnation: superblock.headIncarnation,
      ordinal: superblock.headOrdinal,
      base: baseOf(superblock),
    };
    this.logEnd = opened.scan.end;
    this.index.setRingStart(positionToOffset(this.layout, superblock.head) / SECTOR_BYTES);
    this.incarnation = superblock.incarnation;
    this.lastIncarnation = opened.scan.lastIncarnation;
    this.lastSeq = opened.scan.lastSeq;
    this.durableSeq = opened.scan.lastSeq;
    this.discardPending = superblock.discardPending || opened.sawDiscard;
    this.discardLengthBytes = superblock.discardLengthBytes;
    this.discardCrc = superblock.discardCrc;
    this.undecided = opened.log.mode === 'epochs';
    this.requestBytesMax = requestBytesMax(superblock.layout);
    this.zeroSectorsMax = BlockIndex.zeroSectorsWithin(Math.floor(superblock.layout.indexEntries / 4));
    this.plan = new ReadPlan(PAYLOAD_BYTES_MAX / SECTOR_BYTES);
    const sectorsMax = headerSectorsFor(DESCRIPTORS_MAX);
    this.headerBuffer = Buffer.alloc(sectorsMax * SECTOR_BYTES);
    for (let sectors = 0; sectors <= sectorsMax; sectors++) {
      const bytes = this.headerBuffer.subarray(0, sectors * SECTOR_BYTES);
      this.headers.push({ bytes, view: new DataView(bytes.buffer, bytes.byteOffset, bytes.length) });
    }
    this.drain = new Drain(
      {
        disk,
        targets,
        layout: this.layout,
        index: this.index,
        log: this.log,
        clock: this.clock,
        counters: this.counters,
        logEnd: () => this.logEnd,
        usedFraction: () => this.usedFraction(),
        ready: () => this.sealForDrain(),
        freed: () => this.moveHead(),
        failed: (volume, error) => {
          const name = this.volumes[volume]?.name ?? String(volume);
          this.fail(`target of ${name}: ${describe(error)}`, error);
        },
      },
      options.drain ?? {},
    );
  }

  /**
   * Opens a journal and reads it to its end. If a session was open when it ended, the result is `undecided`:
   * it serves reads, and takes writes after `rollForward` or `discard`.
   * @param targets one disk for each volume, in the order they were formatted with
   * @param expected the volumes the caller believes in
   * @throws JournalError `not-a-journal`, `corrupt`, `volumes-differ`
   */
  static async open(
    disk: Disk,
    targets: readonly Disk[],
    expected: readonly VolumeSpec[],
    options: JournalOptions = {},
  ): Promise<EpochJournal> {
    const superblock = await readSuperblock(disk);
    compareVolumes(superblock.volumes, expected, targets);
    // What a process left in the page cache looks durable to the scan; make it so before anything relies on it.
    await disk.flush();
    const loaded = await loadLog(disk, superblock, options.onProgress);
    if (loaded.scan.corruption !== null) throw new JournalError('corrupt', loaded.scan.corruption);
    const journal = new EpochJournal(disk, targets, superblock, loaded, options);
    await journal.begin();
    return journal;
  }

  /** Takes a write. Call `kick` after the last one that arrived together. */
  submit(request: WriteRequest): void {
    const refusal = this.refusal();
    if (refusal !== null) {
      request.sink.written(request, refusal);
      return;
    }
    this.queue.push(request);
  }

  /** Writes what was submitted, if nothing else is being written; else it goes with the next frame. */
  kick(): void {
    this.pump();
  }

  /** Requests that wait to be written. */
  get waiting(): number {
    return this.queue.length - this.queueStart;
  }

  /**
   * Reads the newest data of a range into `into`, if that is possible without waiting for a disk.
   * @returns false when it is not, with `into` in any state
   */
  readNow(volume: number, sector: number, sectors: number, into: Uint8Array): boolean {
    const { plan } = this;
    const target = this.targets[volume] as Disk;
    plan.count = 0;
    this.index.resolve(volume, sector, sectors, plan);
    if (plan.count === 1 && plan.source[0] !== Source.zero) {
      const disk = plan.source[0] === Source.journal ? this.disk : target;
      return disk.tryRead(into, (plan.sector[0] as number) * SECTOR_BYTES);
    }
    let offset = 0;
    for (let piece = 0; piece < plan.count; piece++) {
      const length = (plan.sectors[piece] as number) * SECTOR_BYTES;
      const part = into.subarray(offset, offset + length);
      offset += length;
      if (plan.source[piece] === Source.zero) {
        part.fill(0);
        continue;
      }
      const disk = plan.source[piece] === Source.journal ? this.disk : target;
      if (!disk.tryRead(part, (plan.sector[piece] as number) * SECTOR_BYTES)) return false;
    }
    return true;
  }

  /**
   * Reads the newest data of a range into `into`. Rejects with the errno in `code`; in every case nothing
   * touches `into` any more when the promise is settled.
   */
  async read(volume: number, sector: number, sectors: number, into: Uint8Array): Promise<void> {
    const { plan } = this;
    const target = this.targets[volume] as Disk;
    plan.count = 0;
    this.index.resolve(volume, sector, sectors, plan);
    const pending: Promise<void>[] = [];
    let offset = 0;
    for (let piece = 0; piece < plan.count; piece++) {
      const length = (plan.sectors[piece] as number) * SECTOR_BYTES;
      const part = into.subarray(offset, offset + length);
      const at = plan.sector[piece] as number;
      offset += length;
      if (plan.source[piece] === Source.zero) part.fill(0);
      else if (plan.source[piece] === Source.journal) {
        if (!this.disk.tryRead(part, at * SECTOR_BYTES)) pending.push(this.readPinned(part, at));
      } else if (!target.tryRead(part, at * SECTOR_BYTES)) pending.push(this.readTarget(target, part, at));
    }
    for (const result of await Promise.allSettled(pending))
      if (result.status === 'rejected') throw result.reason;
  }

  /** Whether the journal knows that the range reads as zeros. */
  readsAsZero(volume: number, sector: number, sectors: number): boolean {
    this.plan.count = 0;
    this.index.resolve(volume, sector, sectors, this.plan);
    return this.plan.count === 1 && this.plan.source[0] === Source.zero;
  }

  /**
   * Calls back when every write acknowledged before this call is durable, or with the failure.
   * Calls that come while a flush runs share the next one.
   */
  requestFlush(done: (error: JournalError | null) => void): void {
    this.counters.flushRequests++;
    if (this.failure !== null) {
      done(this.failure);
      return;
    }
    this.flushWaiters.push(done);
    this.startFlush();
  }

  /** The same as a promise. */
  flush(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.requestFlush((error) => {
        if (error === null) resolve();
        else reject(error);
      });
    });
  }

  /**
   * Begins a session: everything written before is committed; from here on writes belong to epochs.
   * @throws JournalError `wrong-mode` with a session open, `discard-not-marked`
   */
  startSession(session: Session): Promise<void> {
    return this.serial(async () => {
      if (session.domain !== this.domain) {
        throw new JournalError(
          'invalid',
          `session of domain ${session.domain} on the journal of ${this.domain}`,
        );
      }
      if (session.id.length !== 16) throw new JournalError('invalid', 'a session id has 16 bytes');
      this.requireMode('through', 'startSession');
      if (this.discardPending) {
        throw new JournalError(
          'discard-not-marked',
          'blocks dropped by the last discard were not reported as marked',
        );
      }
      await this.hold(async () => {
        await this.control(FrameKind.session, null, session.term, Uint8Array.from(session.id));
      });
      this.changed(`session of term ${session.term} began`);
    });
  }

  /**
   * Commits every epoch up to `epoch`: one record for all volumes. Resolves when it is durable.
   * @throws JournalError `epoch-not-closed`, `epoch-already-committed`, `wrong-mode`, `failed`
   */
  commit(epoch: number): Promise<void> {
    return this.serial(async () => {
      this.requireMode('epochs', 'commit');
      const { log } = this;
      if (this.undecided)
        throw new JournalError('wrong-mode', 'commit: the session that was found must be ended');
      if (log.committedEpoch !== null && epoch <= log.committedEpoch) {
        throw new JournalError(
          'epoch-already-committed',
          `commit ${epoch}: the last commit is ${log.committedEpoch}`,
        );
      }
      if (!log.stretches.some((each) => each.epoch === epoch && each.ordinal > log.committedOrdinal)) {
        throw new JournalError(
          'epoch-not-closed',
          `commit ${epoch}: its marker has not arrived, the last one was ${log.closedEpoch ?? 'none'}`,
        );
      }
      await this.control(FrameKind.commit, epoch, log.term, null);
      this.counters.commits++;
      this.drain.start();
    });
  }

  /**
   * Ends the session forward: everything written counts, as if committed. Outside a session it changes nothing.
   * @throws JournalError `failed`
   */
  rollForward(): Promise<void> {
    return this.serial(async () => {
      this.requireOpen();
      this.endHold('the session ends');
      if (this.log.mode === 'epochs') {
        await this.hold(async () => {
          await this.control(FrameKind.forward, this.log.closedEpoch, this.log.term, null);
        });
        this.undecided = false;
        this.changed('session ended: rolled forward');
      }
      this.drain.start();
    });
  }

  /**
   * Ends the session backward: nothing above the last commit counts. The ranges are on disk before anything is
   * dropped, and stay there until `discardMarked`.
   * @returns what was dropped; `exact` is false when ranges had to be joined to fit after a crash
   * @throws JournalError `wrong-mode` when the session was rolled forward or there was none
   */
  discard(): Promise<{ committedEpoch: number | null; exact: boolean; ranges: VolumeRange[] }> {
    return this.serial(async () => {
      this.requireOpen();
      this.endHold('the session ends');
      if (this.log.mode !== 'epochs') {
        // Told twice, as after a crash in the middle: the answer is the same.
        const earlier = await this.discarded();
        if (earlier === null) {
          const why =
            this.log.ended === 'forward'
              ? 'the session was rolled forward'
              : 'there is no session to go back in';
          throw new JournalError('wrong-mode', `discard: ${why}`);
        }
        return earlier;
      }
      let ranges: SectorRange[] = [];
      await this.hold(async () => {
        await this.settled();
        const above: number[] = [];
        for (const each of this.log.stretches)
          if (each.ordinal > this.log.committedOrdinal) above.push(each.ordinal);
        ranges = this.index.rangesOf(above);
        const area = encodeDiscardArea(ranges, this.layout.discardAreaBytes);
        await this.io(this.disk.write([area], this.layout.discardAreaOffset), 'discard area');
        this.discardLengthBytes = area.length;
        this.discardCrc = crcOf(area);
        // The area is durable, and the superblock knows its checksum, before the frame that makes it count.
        await this.writeSuperblock();
        await this.control(FrameKind.discard, this.log.committedEpoch, this.log.term, null);
      });
      this.discardPending = true;
      this.discardExact = { exact: true, ranges };
      this.undecided = false;
      this.changed(`session ended: discarded above epoch ${this.log.committedEpoch ?? 'none'}`);
      this.drain.start();
      return { committedEpoch: this.log.committedEpoch, exact: true, ranges: this.named(ranges) };
    });
  }

  /** What the last discard dropped, as long as `discardMarked` has not been called; else null. */
  async discarded(): Promise<{
    committedEpoch: number | null;
    exact: boolean;
    ranges: VolumeRange[];
  } | null> {
    if (!this.discardPending) return null;
    if (this.discardExact === null) {
      const area = Buffer.alloc(this.discardLengthBytes);
      await this.disk.read(area, this.layout.discardAreaOffset);
      const decoded = crcOf(area) === this.discardCrc ? decodeDiscardArea(area) : null;
      if (decoded === null) throw new JournalError('corrupt', 'the list of discarded blocks is damaged');
      this.discardExact = decoded;
    }
    const { exact, ranges } = this.discardExact;
    return { committedEpoch: this.log.committedEpoch, exact, ranges: this.named(ranges) };
  }

  /** Reports that the discarded blocks were written back through DRBD; forgets them durably. */
  discardMarked(): Promise<void> {
    return this.serial(async () => {
      this.requireOpen();
      if (!this.discardPending) return;
      // The superblock may only forget the ranges when no frame behind its head would bring them back.
      await this.drained();
      this.discardPending = false;
      this.discardExact = null;
      await this.writeSuperblock();
      this.changed('discarded blocks are marked');
    });
  }

  /** Resolves when everything committed is on the targets, flushed, and its space is free. */
  async drained(): Promise<void> {
    if (this.failure !== null) throw this.failure;
    try {
      await this.drain.run();
    } catch (error) {
      throw this.failure ?? new JournalError('closed', 'draining was stopped', error);
    }
  }

  /**
   * Holds the targets at the last commit: when this resolves they are at `epoch`, flushed, and nothing is written to them
   * until `release`. Epochs go on being committed; they wait in the journal. The end of the session, a journal that fills
   * up, and whoever needs everything drained end the hold.
   * @param ended why the hold was not kept; called before anything is written
   * @throws JournalError `wrong-mode` without a commit in an open session, or where it was ended before it was there
   */
  async holdTargets(
    ended: (reason: string) => void,
  ): Promise<{ term: number; epoch: number; release: () => void }> {
    const { log } = this;
    let isKept = false;
    let over: string | null = null;
    let drained: Promise<void> = Promise.resolve();
    // Not while a session begins or ends.
    const at = await this.serial(() => {
      this.requireMode('epochs', 'holdTargets');
      const epoch = log.committedEpoch;
      if (epoch === null || this.undecided) {
        throw new JournalError('wrong-mode', 'holdTargets: nothing is committed in this session');
      }
      if (this.drain.isHeld) throw new JournalError('wrong-mode', 'holdTargets: they are held already');
      drained = this.drain.holdAtCommit((reason) => {
        over = reason;
        if (isKept) ended(reason);
      });
      return Promise.resolve({ term: log.term, epoch });
    });
    try {
      await drained;
    } catch (error) {
      throw this.failure ?? new JournalError('closed', 'draining was stopped', error);
    }
    // Read through a function: the compiler does not know that it may have changed meanwhile.
    const endedEarly = ((): string | null => over)();
    if (endedEarly !== null) throw new JournalError('wrong-mode', `holdTargets: ${endedEarly}`);
    isKept = true;
    return {
      ...at,
      release: () => {
        if (over !== null) return;
        over = 'released';
        this.drain.endHold(null);
        this.drain.start();
      },
    };
  }

  /** Ends a hold of the targets, if there is one. */
  endHold(reason: string): void {
    this.drain.endHold(reason);
  }

  /** Ends the journal in order. What waits is written and flushed; draining stops where it is. */
  async close(): Promise<void> {
    if (this.closed) return;
    this.closing = true;
    await this.drain.stop();
    this.rejectControls(new JournalError('closed', 'the journal is being closed'));
    await this.chain;
    if (this.failure === null) {
      try {
        while (this.waiting > 0 && this.full === null && this.failed === null) {
          this.pump();
          await this.settled();
        }
        // The frame is a courtesy to the next reader; without room for it the superblock has to do.
        if (!this.undecided && this.ring.fits(SECTOR_BYTES, true))
          await this.control(FrameKind.close, null, this.log.term, null);
        await this.writeSuperblock();
      } catch (error) {
        if (!(error instanceof JournalError)) throw error;
      }
    }
    this.closed = true;
    this.rejectQueue('ESHUTDOWN');
  }

  /** What the journal holds and does, for status, log and decisions. */
  state(): JournalState {
    const now = this.clock.nowMs();
    const { log } = this;
    return {
      reason: this.full === null ? this.reason : this.fullWords(this.full.what),
      domain: this.domain,
      mode: log.mode,
      term: log.term,
      sessionId: Buffer.from(log.session).toString('hex'),
      committedEpoch: log.committedEpoch,
      closedEpoch: log.closedEpoch,
      ended: log.ended,
      committedAgeMs: log.committedAtMs === 0 ? null : now - log.committedAtMs,
      undecided: this.undecided,
      full: this.full === null ? null : { ...this.full },
      failed: this.failure === null ? null : this.failure.message,
      discardPending: this.discardPending,
      totalBytes: this.ring.totalBytes,
      usedBytes: this.usedBytes(),
      indexEntries: this.index.used,
      indexEntriesMax: this.index.capacity,
      indexBytesMax: Math.round(this.index.bytesPerEntry * this.index.capacity),
      epochs: log.stretches.map((each) => ({
        ordinal: each.ordinal,
        epoch: each.epoch,
        phase:
          each.ordinal <= log.committedOrdinal || log.mode === 'through'
            ? 'committed'
            : each.ordinal === log.ordinal
              ? 'open'
              : 'closed',
        writes: each.writes,
        bytes: each.bytes,
        ageMs: now - each.openedAtMs,
      })),
      counters: { ...this.counters },
    };
  }

  /** The failure that stopped the journal, if any. */
  get failed(): JournalError | null {
    return this.failure;
  }

  private refusal(): string | null {
    if (this.failure !== null) return 'EIO';
    if (this.closing || this.closed) return 'ESHUTDOWN';
    // A found session belongs to a decision that has not been taken; its epochs may not grow.
    return this.undecided ? 'EIO' : null;
  }

  private requireOpen(): void {
    if (this.failure !== null) throw this.failure;
    if (this.closed || this.closing) throw new JournalError('closed', 'the journal is closed');
  }

  private requireMode(mode: JournalMode, call: string): void {
    this.requireOpen();
    if (this.log.mode === mode) return;
    throw new JournalError(
      'wrong-mode',
      `${call}: ${mode === 'epochs' ? 'no session is open' : 'a session is open'}`,
    );
  }

  /** Begins an incarnation: no frame of ours can be mistaken for one that a crash left behind. */
  private async begin(): Promise<void> {
    if (this.log.mode === 'through') this.sealForDrain();
    this.incarnation++;
    await this.writeSuperblock();
    this.reason = this.undecided
      ? `session of term ${this.log.term} found open; last commit ${this.log.committedEpoch ?? 'none'}, last marker ${this.log.closedEpoch ?? 'none'}`
      : 'open';
    if (!this.undecided && this.log.stretches.length > 0) this.drain.start();
  }

  private pump(): void {
    if (this.pumping) return;
    this.pumping = true;
    try {
      while (!this.writing && this.failure === null && this.pumpOne());
    } finally {
      this.pumping = false;
    }
  }

  /** Writes one frame. @returns whether another may follow at once */
  private pumpOne(): boolean {
    const control = this.controls[0];
    if (control !== undefined) return this.writeControl(control);
    if (this.holds > 0 || this.waiting === 0 || this.undecided) return false;
    return this.writeData();
  }

  private writeData(): boolean {
    const { queue } = this;
    const payloadMax = this.requestBytesMax / SECTOR_BYTES;
    let count = 0;
    let payload = 0;
    let entries = 0;
    let closes: number | null = null;
    for (let at = this.queueStart; at < queue.length && count < DESCRIPTORS_MAX; at++) {
      const request = queue[at] as WriteRequest;
      const isWrite = request.op === DescriptorOp.write;
      const sectors = isWrite ? request.sectors : 1;
      if (payload + sectors > payloadMax) break;
      const needs = isWrite ? BlockIndex.entriesFor(sectors) : BlockIndex.entriesForZero(request.sectors);
      if (entries + needs > this.index.free - this.reserveEntries && count > 0) break;
      payload += sectors;
      entries += needs;
      count++;
      if (request.volume === this.barrierVolume && request.data?.length === MARKER_BYTES) {
        closes = this.judge(request.data);
        if (closes !== null) break;
      }
    }
    if (entries > this.index.free - this.reserveEntries) return this.noRoom('index');
    const headerSectors = headerSectorsFor(count);
    const position = this.ring.place((headerSectors + payload) * SECTOR_BYTES, false);
    if (position === null) return this.noRoom('space');
    this.hasRoom();

    const { bytes, view } = this.headers[headerSectors] as { bytes: Buffer; view: DataView };
    const pieces: Uint8Array[] = [bytes];
    const requests = queue.slice(this.queueStart, this.queueStart + count);
    this.queueStart += count;
    if (this.queueStart === queue.length) {
      this.queue = [];
      this.queueStart = 0;
    } else if (this.queueStart > 4096) {
      this.queue = queue.slice(this.queueStart);
      this.queueStart = 0;
    }
    for (let index = 0; index < count; index++) {
      const request = requests[index] as WriteRequest;
      const { data, op, volume, sector, sectors } = request;
      putDescriptor(view, index, { op, volume, sector, sectors, crc: data === null ? 0 : this.crc(data) });
      pieces.push(data ?? ZEROS.subarray(0, SECTOR_BYTES));
    }
    const header = this.nextHeader(FrameKind.data, count, headerSectors, payload, closes, this.log.term);
    if (closes !== null) header.flags |= FrameFlag.closes;
    sealHeader(bytes, view, header, this.tag);
    this.writeFrame(
      header,
      position,
      pieces,
      () => {
        this.dataWritten(header, position, requests);
      },
      (errno) => {
        for (const request of requests) request.sink.written(request, errno);
      },
    );
    return !this.writing;
  }

  private judge(data: Uint8Array): number | null {
    const marker = decodeMarker(data);
    if (marker === null) return null;
    const verdict =
      typeof marker === 'string' ? { ignored: marker } : judgeMarker(this.log, this.domain, marker);
    if ('closes' in verdict) return verdict.closes;
    this.counters.markersIgnored++;
    this.options.onMarkerIgnored?.(verdict.ignored);
    return null;
  }

  private dataWritten(header: FrameHeader, position: LogPosition, requests: readonly WriteRequest[]): void {
    const { log, index } = this;
    noteFrame(log, header, position);
    applyFrame(log, header, null);
    const ordinal = header.flags & FrameFlag.closes ? log.ordinal - 1 : log.ordinal;
    let at = (positionToOffset(this.layout, position) + header.headerSectors * SECTOR_BYTES) / SECTOR_BYTES;
    for (const request of requests) {
      const { op, volume, sector, sectors } = request;
      if (op === DescriptorOp.write) {
        index.insertWrite(volume, sector, sectors, at, ordinal);
        at += sectors;
      } else {
        index.insertZero(volume, sector, sectors, at, ordinal);
        at++;
      }
      this.counters.writes++;
    }
    this.counters.writtenBytes += header.payloadSectors * SECTOR_BYTES;
    for (const request of requests) request.sink.written(request, null);
    if (header.flags & FrameFlag.closes) {
      this.counters.markers++;
      const closed = log.stretches.find((each) => each.ordinal === ordinal);
      this.options.onMarker?.({
        epoch: header.epoch as number,
        term: log.term,
        writes: closed?.writes ?? 0,
        bytes: closed?.bytes ?? 0,
      });
    }
    if (log.mode === 'through') this.drain.start();
  }

  private writeControl(control: ControlRequest): boolean {
    const headerSectors = headerSectorsFor(0);
    const position = this.ring.place(headerSectors * SECTOR_BYTES, true);
    if (position === null) return this.noRoom('space');
    this.controls.shift();
    const { bytes, view } = this.headers[headerSectors] as { bytes: Buffer; view: DataView };
    const header = this.nextHeader(control.kind, 0, headerSectors, 0, control.epoch, control.term);
    sealHeader(bytes, view, header, this.tag, control.session);
    this.writeFrame(
      header,
      position,
      [bytes],
      () => {
        noteFrame(this.log, header, position);
        control.resolve(header);
      },
      () => {
        control.reject(this.failure ?? new JournalError('failed', 'journal write'));
      },
    );
    return !this.writing;
  }

  private nextHeader(
    kind: FrameKind,
    count: number,
    headerSectors: number,
    payloadSectors: number,
    epoch: number | null,
    term: number,
  ): FrameHeader {
    return {
      kind,
      flags: this.firstOfIncarnation ? FrameFlag.first : 0,
      count,
      incarnation: this.incarnation,
      seq: this.lastSeq + 1,
      durableSeq: this.durableSeq,
      ordinal: this.log.ordinal,
      epoch,
      timeMs: this.clock.nowMs(),
      headerSectors,
      payloadSectors,
      term,
    };
  }

  private writeFrame(
    header: FrameHeader,
    position: LogPosition,
    pieces: Uint8Array[],
    written: () => void,
    failed: (errno: string) => void,
  ): void {
    this.firstOfIncarnation = false;
    const length = (header.headerSectors + header.payloadSectors) * SECTOR_BYTES;
    // Whole blocks go to the page cache, so that it never has to read the rest of one from the disk first.
    const rest = (position.offsetBytes + length) % BLOCK_BYTES;
    if (rest !== 0) pieces.push(ZEROS.subarray(0, BLOCK_BYTES - rest));
    const done = (): void => {
      this.lastSeq = header.seq;
      this.lastIncarnation = header.incarnation;
      this.logEnd = { segment: position.segment, offsetBytes: position.offsetBytes + length };
      this.counters.frames++;
      this.counters.frameBytes += length;
      written();
    };
    const writing = this.disk.write(pieces, positionToOffset(this.layout, position));
    if (writing === undefined) {
      done();
      return;
    }
    this.writing = true;
    writing.then(
      () => {
        this.writing = false;
        done();
        this.afterWrite();
      },
      (error: unknown) => {
        this.writing = false;
        this.fail(`journal write: ${describe(error)}`, error);
        failed(errnoOf(error));
        this.afterWrite();
      },
    );
  }

  private afterWrite(): void {
    for (const resolve of this.settledWaiters.splice(0)) resolve();
    this.startFlush();
    this.pump();
    this.onBatch?.();
  }

  /** Resolves when no frame is on its way. */
  private settled(): Promise<void> {
    if (!this.writing) return Promise.resolve();
    return new Promise((resolve) => this.settledWaiters.push(resolve));
  }

  private startFlush(): void {
    if (this.flushing || this.writing || this.flushWaiters.length === 0) return;
    if (this.failure !== null) {
      this.failFlushes(this.flushWaiters.splice(0));
      return;
    }
    const waiters = this.flushWaiters;
    this.flushWaiters = [];
    const seq = this.lastSeq;
    this.flushing = true;
    this.counters.flushes++;
    this.ring.align();
    this.disk.flush().then(
      () => {
        this.flushing = false;
        if (seq > this.durableSeq) this.durableSeq = seq;
        if (this.failure !== null) this.failFlushes(waiters);
        else for (const done of waiters) done(null);
        this.startFlush();
        this.onBatch?.();
      },
      (error: unknown) => {
        this.flushing = false;
        // What the kernel could not write it may have dropped: a later flush that succeeds would prove nothing.
        this.fail(`journal flush: ${describe(error)}`, error);
        this.failFlushes(waiters);
        this.onBatch?.();
      },
    );
  }

  private failFlushes(waiters: readonly FlushDone[]): void {
    const failure = this.failure ?? new JournalError('failed', 'flush');
    for (const done of waiters) done(failure);
  }

  /** Writes a control frame, makes it durable, and lets it take effect. */
  private async control(
    kind: FrameKind,
    epoch: number | null,
    term: number,
    session: Uint8Array | null,
  ): Promise<void> {
    if (this.failure !== null) throw this.failure;
    const header = await new Promise<FrameHeader>((resolve, reject) => {
      this.controls.push({ kind, epoch, term, session, resolve, reject });
      this.pump();
    });
    await this.flush();
    const keep = applyFrame(this.log, header, session);
    if (keep !== null) this.index.dropAbove(keep);
  }

  /** Runs one change of mode after another. */
  private serial<T>(action: () => Promise<T>): Promise<T> {
    const run = this.chain.then(action);
    this.chain = run.catch(() => undefined);
    return run;
  }

  /** Holds data back while `action` runs. */
  private async hold(action: () => Promise<void>): Promise<void> {
    this.holds++;
    try {
      await action();
    } finally {
      this.holds--;
      // The caller's own changes come first: what is held back is written after them.
      this.clock.soon(() => {
        this.pump();
        this.onBatch?.();
      });
    }
  }

  private async io(done: Promise<void> | undefined, what: string): Promise<void> {
    try {
      await done;
    } catch (error) {
      this.fail(`${what}: ${describe(error)}`, error);
      throw this.failure ?? error;
    }
  }

  private writeSuperblock(): Promise<void> {
    const run = this.superChain.then(async () => {
      if (this.failure !== null) throw this.failure;
      const { head } = this;
      const generation = this.generation + 1;
      const bytes = encodeSuperblock({
        generation,
        journalId: this.journalId,
        layout: this.layout,
        domain: this.domain,
        volumes: [...this.volumes],
        incarnation: this.incarnation,
        head: head.position,
        headSeq: head.seq,
        headIncarnation: head.incarnation,
        headOrdinal: head.ordinal,
        durableSeq: this.durableSeq,
        ...head.base,
        discardPending: this.discardPending,
        discardLengthBytes: this.discardLengthBytes,
        discardCrc: this.discardCrc,
      });
      await this.io(this.disk.write([bytes], (generation % 2) * SUPERBLOCK_BYTES), 'superblock');
      await this.flush();
      this.generation = generation;
    });
    this.superChain = run.catch(() => undefined);
    return run;
  }

  /** In through mode: ends the open stretch, so that it can be drained. */
  private sealForDrain(): void {
    const { log } = this;
    if (log.mode !== 'through' || this.holds > 0) return;
    const open = log.stretches[log.stretches.length - 1];
    if (open?.ordinal !== log.ordinal) return;
    seal(log, this.clock.nowMs());
    log.committedOrdinal = log.ordinal - 1;
  }

  /** After a drain: the log begins with the oldest stretch that is left. The superblock is durable before space is reused. */
  private async moveHead(): Promise<void> {
    const oldest = this.log.stretches[0];
    this.head =
      oldest === undefined
        ? {
            position: this.logEnd,
            seq: this.lastSeq + 1,
            incarnation: this.lastIncarnation,
            ordinal: this.log.ordinal,
            base: baseOf(this.log),
          }
        : {
            position: oldest.start,
            seq: oldest.startSeq,
            incarnation: oldest.startIncarnation,
            ordinal: oldest.ordinal,
            base: oldest.base,
          };
    const { position } = this.head;
    this.index.setRingStart(positionToOffset(this.layout, position) / SECTOR_BYTES);
    await this.writeSuperblock();
    this.ring.head = { ...position };
    this.pump();
    this.onBatch?.();
  }

  private setReserve(bytes: number): void {
    const { segments, segmentBytes } = this.layout;
    this.ring.dataReserve = 1 + Math.min(Math.ceil(bytes / segmentBytes), Math.floor(segments / 4));
    this.reserveEntries = Math.min(Math.ceil(bytes / BLOCK_BYTES), Math.floor(this.index.capacity / 4));
  }

  /**
   * Lets data have the reserve too, for good. For a failover: what DRBD has under way must come to an end before it can
   * let go of its peer, also where the epoch that is open has filled the journal and nothing will ever commit it.
   */
  openReserve(): void {
    this.setReserve(0);
    this.pump();
    this.onBatch?.();
  }

  private noRoom(what: 'space' | 'index'): boolean {
    if (this.full === null) {
      this.full = { sinceMs: this.clock.nowMs(), what };
      this.changed(this.fullWords(what));
    }
    this.drain.start(true);
    return false;
  }

  private fullWords(what: 'space' | 'index'): string {
    const committed = this.log.stretches.some((each) => each.ordinal <= this.log.committedOrdinal);
    const way = committed
      ? 'committed epochs are being drained'
      : 'nothing is committed: only a commit or the end of the session makes room';
    return `journal full: no ${what} for the next write; ${way}`;
  }

  private hasRoom(): void {
    if (this.full === null) return;
    this.full = null;
    this.changed('journal has room again');
  }

  private usedBytes(): number {
    const { layout, head, tail } = this.ring;
    const segments = (tail.segment - head.segment + layout.segments) % layout.segments;
    return segments * layout.segmentBytes + tail.offsetBytes - head.offsetBytes;
  }

  private usedFraction(): number {
    return Math.max(this.usedBytes() / this.ring.totalBytes, this.index.used / this.index.capacity);
  }

  private async readPinned(into: Uint8Array, sector: number): Promise<void> {
    // A piece may span segments only if they follow each other on the disk, so first and last are enough.
    const first = this.ring.segmentOfSector(sector);
    const last = this.ring.segmentOfSector(sector + into.length / SECTOR_BYTES - 1);
    this.ring.pin(first);
    if (last !== first) this.ring.pin(last);
    try {
      await this.disk.read(into, sector * SECTOR_BYTES);
    } catch (error) {
      this.fail(`journal read: ${describe(error)}`, error);
      throw error;
    } finally {
      this.ring.unpin(first);
      if (last !== first) this.ring.unpin(last);
      if (this.full !== null) this.pump();
    }
  }

  private async readTarget(target: Disk, into: Uint8Array, sector: number): Promise<void> {
    try {
      await target.read(into, sector * SECTOR_BYTES);
    } catch (error) {
      this.counters.targetReadErrors++;
      this.changed(`target read: ${describe(error)}`);
      throw error;
    }
  }

  private named(ranges: readonly SectorRange[]): VolumeRange[] {
    return ranges.map((range) => ({
      volume: this.volumes[range.volume]?.name ?? String(range.volume),
      offsetBytes: range.sector * SECTOR_BYTES,
      lengthBytes: range.sectors * SECTOR_BYTES,
    }));
  }

  /** The first failure stops everything: no write, flush or commit succeeds after it until the journal is opened anew. */
  private fail(reason: string, cause: unknown): void {
    if (this.failure !== null) return;
    this.failure = new JournalError('failed', reason, cause);
    this.rejectQueue('EIO');
    this.rejectControls(this.failure);
    this.failFlushes(this.flushWaiters.splice(0));
    void this.drain.stop();
    this.changed(reason);
  }

  private rejectControls(error: JournalError): void {
    for (const control of this.controls.splice(0)) control.reject(error);
  }

  private rejectQueue(errno: string): void {
    const waiting = this.queue.slice(this.queueStart);
    this.queue = [];
    this.queueStart = 0;
    for (const request of waiting) request.sink.written(request, errno);
    if (waiting.length > 0) this.onBatch?.();
  }

  private changed(reason: string): void {
    this.reason = reason;
    this.options.onChange?.(reason);
  }
}

/** Longest write that fits a frame of this layout. */
export function requestBytesMax(layout: Layout): number {
  const room = Math.floor(layout.segmentBytes / 2 / BLOCK_BYTES) * BLOCK_BYTES;
  return Math.min(PAYLOAD_BYTES_MAX, room);
}

/**
 * Reads the log behind a superblock into an index.
 * @throws JournalError `corrupt` when the frames do not fit the index that the superblock promises
 */
export async function loadLog(
  disk: Disk,
  superblock: Superblock,
  onProgress?: (progress: ScanProgress) => void,
): Promise<LoadedLog> {
  const { layout } = superblock;
  const index = new BlockIndex(
    layout.indexEntries,
    layout.dataOffset / SECTOR_BYTES,
    (layout.segments * layout.segmentBytes) / SECTOR_BYTES,
  );
  index.setRingStart(positionToOffset(layout, superblock.head) / SECTOR_BYTES);
  const log = stateAtHead(superblock);
  let sawDiscard = false;
  const scan = await scanLog(
    disk,
    superblock,
    ({ header, position, bytes, session }) => {
      noteFrame(log, header, position);
      const ordinal = log.ordinal;
      const keep = applyFrame(log, header, session);
      if (keep !== null) {
        index.dropAbove(keep);
        sawDiscard = true;
      }
      if (header.kind !== FrameKind.data) return;
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
      let at = positionToOffset(layout, position) / SECTOR_BYTES + header.headerSectors;
      for (let item = 0; item < header.count; item++) {
        const descriptor = getDescriptor(view, item);
        const { op, volume, sector, sectors } = descriptor;
        const size = superblock.volumes[volume]?.sizeBytes ?? 0;
        if ((sector + sectors) * SECTOR_BYTES > size) {
          throw new JournalError('corrupt', `frame ${header.seq} writes beyond volume ${volume}`);
        }
        if (op === DescriptorOp.write) index.insertWrite(volume, sector, sectors, at, ordinal);
        else index.insertZero(volume, sector, sectors, at, ordinal);
        at += payloadSectorsOf(descriptor);
      }
    },
    onProgress,
  );
  return { index, log, scan, sawDiscard };
}

function compareVolumes(
  found: readonly VolumeSpec[],
  expected: readonly VolumeSpec[],
  targets: readonly Disk[],
): void {
  const words = (volumes: readonly VolumeSpec[]): string =>
    volumes.map((each) => `${each.name} ${each.sizeBytes}${each.barrier ? ' barrier' : ''}`).join(', ');
  if (words(found) !== words(expected) || targets.length !== found.length) {
    throw new JournalError(
      'volumes-differ',
      `the journal was made for volumes [${words(found)}], it was opened for [${words(expected)}]`,
    );
  }
  found.forEach((volume, index) => {
    const size = targets[index]?.sizeBytes ?? 0;
    if (size < volume.sizeBytes) {
      throw new JournalError(
        'volumes-differ',
        `target of ${volume.name} has ${size} bytes, ${volume.sizeBytes} are required`,
      );
    }
  });
}

/** An error in a few words: its errno where it has one. */
export function describe(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { code } = error as NodeJS.ErrnoException;
  return code === undefined || error.message.includes(code) ? error.message : `${code}: ${error.message}`;
}

function errnoOf(error: unknown): string {
  const code = error instanceof Error ? (error as NodeJS.ErrnoException).code : undefined;
  return code === 'ENOSPC' ? 'ENOSPC' : 'EIO';
}
