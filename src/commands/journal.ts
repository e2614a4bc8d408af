/**
 * `remus-drbd journal inspect | verify | recover | format`: looks at an epoch journal that nobody serves, and
 * ends a session that a crash has left in it.
 *
 * inspect and verify change nothing. recover needs to be told which way: `forward` (this host's data up to the
 * end counts: the primary goes on) or `back` (only what was committed counts: this host takes over). It may be
 * run again at any time and does the same.
 */
import { randomBytes } from 'node:crypto';
import { ExitCode, OperatorError } from '../core/errors.js';
import { decodeSuperblock, SUPERBLOCK_BYTES } from '../core/journal/format.js';
import type { Superblock } from '../core/journal/format.js';
import { readSuperblock } from '../core/journal/scan.js';
import { JournalError, SECTOR_BYTES } from '../core/journal/types.js';
import type { VolumeRange } from '../core/journal/types.js';
import { openDisks, readJournalConfig, volumeSpecs } from '../journal/config.js';
import { openDisk } from '../journal/file-disk.js';
import { EpochJournal, formatJournal, loadLog } from '../journal/journal.js';

export interface JournalEpoch {
  ordinal: number;
  epoch: number | null;
  phase: 'open' | 'closed' | 'committed';
  writes: number;
  bytes: number;
  ageMs: number;
  ranges: VolumeRange[];
}

export interface JournalReport {
  path: string;
  domain: string;
  volumes: { name: string; sizeBytes: number; barrier: boolean }[];
  journalBytes: number;
  segmentBytes: number;
  segments: number;
  mode: 'through' | 'epochs';
  term: number;
  session: string;
  committedEpoch: number | null;
  closedEpoch: number | null;
  committedAgeMs: number | null;
  discardPending: boolean;
  frames: number;
  logBytes: number;
  lastSeq: number;
  durableSeq: number;
  endReason: string;
  closedInOrder: boolean;
  corruption: string | null;
  superblocks: string[];
  epochs: JournalEpoch[];
}

const RANGES_SHOWN = 8;
const PROGRESS_MS = 2000;

/**
 * Reads a whole journal, and reports what is in it.
 * @param nowMs wall clock, for ages
 * @throws OperatorError when there is no journal
 */
export async function inspectJournal(path: string, nowMs: number): Promise<JournalReport> {
  const disk = await openDisk(path, { mode: 'buffered', readOnly: true }).catch((error: unknown) => {
    throw new OperatorError(`${path}: ${(error as Error).message}`, ExitCode.failed, error);
  });
  try {
    const superblocks: string[] = [];
    for (const slot of [0, 1]) {
      const bytes = Buffer.alloc(SUPERBLOCK_BYTES);
      await disk.read(bytes, slot * SUPERBLOCK_BYTES);
      const decoded = decodeSuperblock(bytes);
      superblocks.push(typeof decoded === 'string' ? decoded : `generation ${decoded.generation}`);
    }
    const superblock = await readSuperblock(disk);
    const { log, scan, index, sawDiscard } = await loadLog(disk, superblock);
    const { layout } = superblock;
    return {
      path,
      domain: superblock.domain,
      volumes: superblock.volumes,
      journalBytes: layout.sizeBytes,
      segmentBytes: layout.segmentBytes,
      segments: layout.segments,
      mode: log.mode,
      term: log.term,
      session: Buffer.from(log.session).toString('hex'),
      committedEpoch: log.committedEpoch,
      closedEpoch: log.closedEpoch,
      committedAgeMs: log.committedAtMs === 0 ? null : nowMs - log.committedAtMs,
      discardPending: superblock.discardPending || sawDiscard,
      frames: scan.frames,
      logBytes: scan.bytes,
      lastSeq: scan.lastSeq,
      durableSeq: superblock.durableSeq,
      endReason: scan.endReason,
      closedInOrder: scan.closedInOrder,
      corruption: scan.corruption,
      superblocks,
      epochs: log.stretches.map((each) => ({
        ordinal: each.ordinal,
        epoch: each.epoch,
        phase:
          each.ordinal <= log.committedOrdinal || log.mode === 'through'
            ? ('committed' as const)
            : each.ordinal === log.ordinal
              ? ('open' as const)
              : ('closed' as const),
        writes: each.writes,
        bytes: each.bytes,
        ageMs: nowMs - each.openedAtMs,
        ranges: named(superblock, index.rangesOf([each.ordinal])),
      })),
    };
  } catch (error) {
    throw asOperatorError(path, error);
  } finally {
    await disk.close();
  }
}

/** Exit code of `journal verify`: a torn tail is what a crash leaves and is no error, missing durable data is. */
export function verifyExitCode(report: JournalReport): ExitCode {
  return report.corruption === null ? ExitCode.ok : ExitCode.failed;
}

export function journalReportText(report: JournalReport, verifyOnly: boolean): string {
  const lines = [
    `journal of ${report.domain}: ${size(report.journalBytes)}, ${report.segments} segments of ${size(report.segmentBytes)}`,
    `superblocks: ${report.superblocks.join(' | ')}`,
    report.mode === 'epochs'
      ? `session of term ${report.term} (${report.session}) is open: last commit ${report.committedEpoch ?? 'none'}${age(report.committedAgeMs)}, last marker ${report.closedEpoch ?? 'none'}`
      : `no session is open; everything below counts as committed (last commit of the last session: ${report.committedEpoch ?? 'none'})`,
    `log: ${report.frames} frames, ${size(report.logBytes)}, last frame ${report.lastSeq}; it ends because ${report.endReason}${report.closedInOrder ? '; closed in order' : ''}`,
  ];
  if (report.discardPending) lines.push('discarded blocks have not been marked yet');
  if (report.corruption !== null) lines.push(`DAMAGED: ${report.corruption}`);
  else if (verifyOnly) lines.push('every checksum and sequence number is right');
  if (verifyOnly) return lines.join('\n');
  for (const epoch of report.epochs) {
    const name = epoch.epoch === null ? 'no number' : `epoch ${epoch.epoch}`;
    lines.push(`${name}: ${epoch.phase}, ${epoch.writes} writes, ${size(epoch.bytes)}${age(epoch.ageMs)}`);
    for (const range of epoch.ranges.slice(0, RANGES_SHOWN)) {
      lines.push(`  ${range.volume} ${range.offsetBytes}+${range.lengthBytes}`);
    }
    if (epoch.ranges.length > RANGES_SHOWN)
      lines.push(`  and ${epoch.ranges.length - RANGES_SHOWN} ranges more`);
  }
  return lines.join('\n');
}

export interface RecoverOptions {
  configPath: string;
  /** Which way an open session ends. */
  direction: 'forward' | 'back';
  /** The discarded blocks have been written back through DRBD: forget them. */
  marked?: boolean;
  progress?: (line: string) => void;
}

export interface RecoverReport {
  domain: string;
  found: 'nothing to decide' | 'open session' | 'already rolled forward' | 'already discarded';
  committedEpoch: number | null;
  closedEpoch: number | null;
  drainedBytes: number;
  /** Blocks that DRBD believes to be on both sides and that must be written back through it. */
  discarded: VolumeRange[];
  exact: boolean;
}

/**
 * Ends a session that was found open, drains everything that counts, and closes the journal. Run again it finds
 * nothing to decide and reports the same discarded ranges, until it is told that they were marked.
 * @throws OperatorError `refused` when the journal is damaged, or was ended the other way before
 */
export async function recoverJournal(options: RecoverOptions): Promise<RecoverReport> {
  const config = await readJournalConfig(options.configPath);
  const { disk, targets, close } = await openDisks(config);
  let shownAt = performance.now();
  const say = (line: string): void => {
    if (performance.now() - shownAt < PROGRESS_MS) return;
    shownAt = performance.now();
    options.progress?.(line);
  };
  let journal: EpochJournal | null = null;
  try {
    const opened = await EpochJournal.open(disk, targets, volumeSpecs(config), {
      onProgress: ({ bytesRead }) => {
        say(`${config.domain}: read ${size(bytesRead)} of the journal`);
      },
    });
    journal = opened;
    const before = opened.state();
    const pending = await opened.discarded();
    let found: RecoverReport['found'] = before.undecided ? 'open session' : 'nothing to decide';
    if (before.undecided && options.direction === 'forward') await opened.rollForward();
    else if (before.undecided) await opened.discard();
    else if (pending !== null) {
      if (options.direction === 'forward') {
        throw new OperatorError(
          `${config.domain}: refusing to roll forward: the session was discarded above epoch ${pending.committedEpoch ?? 'none'} before; nothing was changed. Run it with "--back", or resynchronise from the peer.`,
          ExitCode.refused,
        );
      }
      found = 'already discarded';
    }
    if (before.ended === 'forward') {
      found = 'already rolled forward';
      if (options.direction === 'back') {
        throw new OperatorError(
          `${config.domain}: refusing to go back: the session was rolled forward before, and its uncommitted writes count; nothing was changed. Run it with "--forward", or resynchronise from the peer.`,
          ExitCode.refused,
        );
      }
    }
    const watch = setInterval(() => {
      const { counters, usedBytes } = opened.state();
      options.progress?.(
        `${config.domain}: drained ${size(counters.drainedBytes)}, ${size(usedBytes)} of journal left`,
      );
    }, PROGRESS_MS);
    try {
      await opened.drained();
    } finally {
      clearInterval(watch);
    }
    const discarded = await opened.discarded();
    if (options.marked === true) await opened.discardMarked();
    const after = opened.state();
    await opened.close();
    return {
      domain: config.domain,
      found,
      committedEpoch: after.committedEpoch,
      closedEpoch: before.closedEpoch,
      drainedBytes: after.counters.drainedBytes,
      discarded: discarded?.ranges ?? [],
      exact: discarded?.exact ?? true,
    };
  } catch (error) {
    throw asOperatorError(config.journal, error);
  } finally {
    // A refusal ends it too: what an open journal has committed it drains by itself.
    await journal?.close();
    await close();
  }
}

export function recoverReportText(report: RecoverReport): string {
  const lines = [
    `journal of ${report.domain}: ${report.found}; last commit ${report.committedEpoch ?? 'none'}; ${size(report.drainedBytes)} brought to the disks`,
  ];
  if (report.discarded.length > 0) {
    const bytes = report.discarded.reduce((sum, range) => sum + range.lengthBytes, 0);
    lines.push(
      `${size(bytes)} in ${report.discarded.length} ranges were discarded${report.exact ? '' : ' (some joined with what lies between)'}: write them back through DRBD, then run it again with "--marked"`,
    );
  }
  return lines.join('\n');
}

export interface FormatOptions {
  configPath: string;
  /** Go ahead although something is there. */
  overwrite?: boolean;
  progress?: (line: string) => void;
}

/** This much of a file or device is looked at before a journal is made on it. */
const LOOKED_AT_BYTES = 1 << 20;

/**
 * Makes an empty journal.
 * @throws OperatorError `refused` when the start of the file or device is not all zeroes and `overwrite` is not
 *   given: it may be a journal with writes in it, or a disk that was named by mistake
 */
export async function formatJournalFrom(options: FormatOptions): Promise<void> {
  const config = await readJournalConfig(options.configPath);
  const { disk, close } = await openDisks(config);
  const { progress } = options;
  let shownAt = performance.now();
  try {
    const start = Buffer.alloc(Math.min(LOOKED_AT_BYTES, disk.sizeBytes));
    await disk.read(start, 0);
    const firstDataAt = start.findIndex((byte) => byte !== 0);
    if (firstDataAt >= 0 && options.overwrite !== true) {
      throw new OperatorError(
        `${config.journal}: refusing to make a journal there: it holds something (at byte ${firstDataAt}); nothing was changed. ` +
          `"remus-drbd journal inspect ${config.journal}" tells whether it is a journal; "--overwrite" if it can be lost.`,
        ExitCode.refused,
      );
    }
    await formatJournal(disk, {
      domain: config.domain,
      volumes: volumeSpecs(config),
      journalId: randomBytes(16),
      ...(config.segmentBytes === undefined ? {} : { segmentBytes: config.segmentBytes }),
      ...(config.indexEntries === undefined ? {} : { indexEntries: config.indexEntries }),
      onProgress: (done, total) => {
        if (performance.now() - shownAt < PROGRESS_MS) return;
        shownAt = performance.now();
        progress?.(`${config.domain}: zeroed ${size(done)} of ${size(total)}`);
      },
    });
  } catch (error) {
    throw asOperatorError(config.journal, error);
  } finally {
    await close();
  }
}

function named(
  superblock: Superblock,
  ranges: readonly { volume: number; sector: number; sectors: number }[],
): VolumeRange[] {
  return ranges.map(({ volume, sector, sectors }) => ({
    volume: superblock.volumes[volume]?.name ?? String(volume),
    offsetBytes: sector * SECTOR_BYTES,
    lengthBytes: sectors * SECTOR_BYTES,
  }));
}

function asOperatorError(path: string, error: unknown): Error {
  if (!(error instanceof JournalError)) return error instanceof Error ? error : new Error(String(error));
  if (error.code === 'corrupt') {
    return new OperatorError(
      `${path}: refusing to recover: ${error.message}; nothing was changed. Take this host's disks as lost and resynchronise them from the peer ("drbdadm invalidate").`,
      ExitCode.refused,
      error,
    );
  }
  return new OperatorError(`${path}: ${error.message}`, ExitCode.failed, error);
}

function size(bytes: number): string {
  if (bytes >= 1 << 30) return `${(bytes / (1 << 30)).toFixed(2)} GiB`;
  if (bytes >= 1 << 20) return `${(bytes / (1 << 20)).toFixed(1)} MiB`;
  return bytes >= 1024 ? `${(bytes / 1024).toFixed(1)} KiB` : `${bytes} B`;
}

function age(ms: number | null): string {
  if (ms === null) return '';
  return ms >= 120_000 ? `, ${Math.round(ms / 60_000)} min old` : `, ${(ms / 1000).toFixed(1)} s old`;
}
