/**
 * `remus-drbd journal recover-domain DOMAIN`: brings what an ended receiver left in a domain's journal to its LVs.
 * `remus-devices up` runs it at boot, before DRBD gets its disks, and whenever `journal-active` is there:
 *
 *     in use? -> open -> judge -> [roll forward | discard] -> drain -> discarded.json -> discardMarked
 *       -> remove journal-active
 *
 * Which way an open session goes is read from the claim's decision and never guessed (src/core/journal/domain.ts). At
 * boot, where the copy of the guest is gone, a session without one is given up (src/protect/decision.ts).
 * Cut short anywhere it does the rest when it is run again: every step is durable before the next one begins.
 */
import { execFile } from 'node:child_process';
import { constants } from 'node:fs';
import { lstat, open, readdir, readFile, realpath } from 'node:fs/promises';
import { hostname } from 'node:os';
import { basename, join } from 'node:path';
import type { DiskDecision } from '../core/claim/term.js';
import { DOMAIN_FILE_FORMAT } from '../core/domain-file.js';
import type { DomainFile } from '../core/domain-file.js';
import { ExitCode, OperatorError } from '../core/errors.js';
import {
  addDiscarded,
  formatDiscarded,
  journalConfigOf,
  judgeRecovery,
  parseDiscarded,
} from '../core/journal/domain.js';
import type { DiscardedBlocks, DomainJournal } from '../core/journal/domain.js';
import { readSuperblock } from '../core/journal/scan.js';
import { JournalError } from '../core/journal/types.js';
import type { VolumeRange, VolumeSpec } from '../core/journal/types.js';
import { domainFilePath, lvPath, mapperPath, Paths } from '../core/names.js';
import { NAME, NAME_RULE } from '../core/patterns.js';
import { errorCode, readSmall, removeDurably, writeDurably } from '../edge/durable-file.js';
import type { FileSteps } from '../edge/durable-file.js';
import { TermStore } from '../edge/term-store.js';
import { openDisk } from '../journal/file-disk.js';
import type { FileDisk } from '../journal/file-disk.js';
import { describe, EpochJournal } from '../journal/journal.js';

/** A discard area holds fewer ranges than would fill this. */
const DISCARDED_BYTES_MAX = 256 << 20;
const PROGRESS_MS = 2000;
const ACTIVATE_MS = 60_000;
const MIB = 1 << 20;

export interface RecoverDomainOptions {
  domain: string;
  progress?: (line: string) => void;
  /** Put before every path; tests have a host in a folder. */
  root?: string;
  /** Whether somebody has this device open for itself alone, as DRBD has its disks. */
  isHeld?: (device: string) => Promise<boolean>;
  /** Activates an LV that is not there. */
  activate?: (volumeGroup: string, lv: string) => Promise<void>;
  /** Decides an open session that has no decision yet, durably; without it such a session is refused. */
  decide?: (term: number) => Promise<'roll-forward' | 'discard'>;
  /** The steps that files are written with. */
  steps?: FileSteps;
}

export interface RecoverDomainReport {
  domain: string;
  /** `nothing`: there was no journal-active. */
  done: 'nothing' | 'drained' | 'rolled forward' | 'discarded';
  reason: string;
  term: number | null;
  committedEpoch: number | null;
  drainedBytes: number;
  /** What this run added to discarded.json. */
  discarded: VolumeRange[];
}

/** What is open while it works. */
interface Open {
  disk: FileDisk;
  targets: FileDisk[];
  config: DomainJournal;
}

/** What the host has noted of the domain. */
interface Noted {
  decision: DiskDecision | undefined;
  discarded: DiscardedBlocks | undefined;
}

/**
 * @throws OperatorError `refused` with an undecided session, devices in use, or a journal that can't be trusted;
 *   `usage` for a domain that setup has not made; `failed` when a disk fails
 */
export async function recoverDomain(options: RecoverDomainOptions): Promise<RecoverDomainReport> {
  const { domain, root = '' } = options;
  if (!NAME.test(domain)) {
    throw new OperatorError(`journal recover-domain: the domain has to be ${NAME_RULE}`, ExitCode.usage);
  }
  const stateDirectory = join(root, Paths.state, domain);
  const activePath = join(stateDirectory, 'journal-active');
  if (!(await exists(activePath))) {
    const reason = 'no receiver has left anything in it';
    return { ...nothingDone(domain), reason };
  }
  const file = await readDomainFile(root, domain);
  const subject = `${domain} on ${hostname()}`;
  if (file.journal === undefined) {
    throw refusal(
      subject,
      `${activePath} is there, but the domain has no journal (engine ${file.engine})`,
      'Run setup with the configuration that the domain was protected with.',
    );
  }
  for (const { mapper } of file.volumes) await refuseIfInUse(subject, root, mapper, options);
  const noted: Noted = {
    decision: await new TermStore(domain, stateDirectory).readDecision(),
    discarded: await readDiscarded(subject, join(stateDirectory, 'discarded.json')),
  };
  const opened = await openAll(subject, root, file, options.activate ?? activateLv);
  try {
    return await recoverOpened(options, subject, stateDirectory, opened, noted);
  } catch (error) {
    throw asOperatorError(subject, opened.config.journal, error);
  } finally {
    for (const disk of [opened.disk, ...opened.targets]) await disk.close();
  }
}

async function recoverOpened(
  options: RecoverDomainOptions,
  subject: string,
  stateDirectory: string,
  { disk, targets, config }: Open,
  noted: Noted,
): Promise<RecoverDomainReport> {
  const { domain, progress } = options;
  const superblock = await readSuperblock(disk);
  if (superblock.domain !== domain) {
    throw refusal(
      subject,
      `${config.journal} is the journal of ${superblock.domain}`,
      'Find out which LV has the journal of this domain.',
    );
  }
  let saidAt = performance.now();
  const journal = await EpochJournal.open(disk, targets, volumesAsMade(superblock.volumes, config), {
    onProgress: ({ bytesRead }) => {
      if (performance.now() - saidAt < PROGRESS_MS) return;
      saidAt = performance.now();
      progress?.(`${domain}: read ${Math.round(bytesRead / MIB)} MiB of the journal`);
    },
  });
  const watch = setInterval(() => {
    const { counters, usedBytes } = journal.state();
    const [done, left] = [counters.drainedBytes, usedBytes].map((bytes) => Math.round(bytes / MIB));
    progress?.(`${domain}: brought ${done} MiB to the LVs, at most ${left} MiB are left in the journal`);
  }, PROGRESS_MS);
  try {
    const found = journal.state();
    let recovery = judgeRecovery(domain, found, noted.decision);
    if (recovery.kind === 'refuse' && found.undecided && options.decide !== undefined) {
      recovery = { kind: await options.decide(found.term), reason: 'decided without the copy of the guest' };
    }
    if (recovery.kind === 'refuse') throw refusal(subject, recovery.observed, recovery.next);
    if (recovery.kind === 'roll-forward') await journal.rollForward();
    if (recovery.kind === 'discard') await journal.discard();
    await journal.drained();
    const discarded = await journal.discarded();
    if (discarded !== null) {
      const next: DiscardedBlocks = { format: 1, domain, term: found.term, ...discarded };
      const all = formatDiscarded(addDiscarded(noted.discarded, next));
      await writeDurably(join(stateDirectory, 'discarded.json'), all, 0o600, options.steps);
      await journal.discardMarked();
    }
    const { counters, term, committedEpoch } = journal.state();
    await journal.close();
    await removeDurably(join(stateDirectory, 'journal-active'), options.steps);
    return {
      domain,
      done: ({ 'roll-forward': 'rolled forward', discard: 'discarded', drain: 'drained' } as const)[
        recovery.kind
      ],
      reason: recovery.reason,
      term,
      committedEpoch,
      drainedBytes: counters.drainedBytes,
      discarded: discarded?.ranges ?? [],
    };
  } finally {
    clearInterval(watch);
    await journal.close();
  }
}

export function recoverDomainText(report: RecoverDomainReport): string {
  if (report.done === 'nothing') return `journal of ${report.domain}: nothing to recover: ${report.reason}`;
  const lines = [
    `journal of ${report.domain}: ${report.done}, because ${report.reason}; ` +
      `${(report.drainedBytes / MIB).toFixed(1)} MiB brought to the LVs`,
  ];
  if (report.discarded.length > 0) {
    const bytes = report.discarded.reduce((sum, range) => sum + range.lengthBytes, 0);
    lines.push(
      `${(bytes / MIB).toFixed(1)} MiB above epoch ${report.committedEpoch ?? 'none'} were discarded; ` +
        `${Paths.state}/${report.domain}/discarded.json says which blocks have to be marked in DRBD`,
    );
  }
  return lines.join('\n');
}

/** What earlier discards left to be marked in DRBD. */
async function readDiscarded(subject: string, path: string): Promise<DiscardedBlocks | undefined> {
  try {
    const text = await readSmall(path, DISCARDED_BYTES_MAX);
    return text === undefined ? undefined : parseDiscarded(text);
  } catch (error) {
    // Its blocks are noted nowhere else any more, so it is never written over.
    throw refusal(
      subject,
      `${path} can't be read (${describe(error)}), so the blocks that it lists would be lost`,
      'Move it away; once DRBD is up again, have the other host\'s disks verified ("drbdadm verify") or copied whole.',
      error,
    );
  }
}

/** Below a device that is in use, old data would come over new. */
async function refuseIfInUse(
  subject: string,
  root: string,
  mapper: string,
  { isHeld = isHeldExclusively, domain }: RecoverDomainOptions,
): Promise<void> {
  const device = join(root, mapperPath(mapper));
  if (!(await exists(device))) return;
  const kernelName = basename(await realpath(device));
  const below = await readdir(join(root, '/sys/block', kernelName, 'slaves')).catch(() => []);
  const nbd = below.find((name) => name.startsWith('nbd'));
  if (nbd !== undefined) {
    throw refusal(
      subject,
      `${device} stands on ${nbd}, so the journal belongs to a receiver`,
      `Stop the receiver first; it brings the journal to the LVs when it ends.`,
    );
  }
  if (await isHeld(device)) {
    throw refusal(
      subject,
      `${device} is in use; needed is that nothing uses the disks of the domain`,
      `Run "${Paths.devicesScript} down ${domain}", then "${Paths.devicesScript} up ${domain}".`,
    );
  }
}

/** open(2): O_EXCL on a block device fails where somebody, such as DRBD, has it for itself. */
async function isHeldExclusively(device: string): Promise<boolean> {
  try {
    await (await open(device, constants.O_RDONLY | constants.O_EXCL)).close();
    return false;
  } catch (error) {
    if (errorCode(error) === 'EBUSY') return true;
    throw error;
  }
}

async function openAll(
  subject: string,
  root: string,
  file: DomainFile,
  activate: (volumeGroup: string, lv: string) => Promise<void>,
): Promise<Open> {
  const opened: FileDisk[] = [];
  const openLv = async (volumeGroup: string, lv: string, mode: 'buffered' | 'auto'): Promise<FileDisk> => {
    const path = join(root, lvPath(volumeGroup, lv));
    try {
      if (!(await exists(path))) await activate(volumeGroup, lv);
      const disk = await openDisk(path, { mode });
      opened.push(disk);
      return disk;
    } catch (error) {
      throw new OperatorError(
        `${subject}: the journal can't be recovered: ${path}: ${describe(error)}; needed is an active logical ` +
          `volume; nothing was changed. Once "lvchange -ay ${volumeGroup}/${lv}" works, run this again.`,
        ExitCode.failed,
        error,
      );
    }
  };
  try {
    const sizes = new Map<string, number>();
    const targets: FileDisk[] = [];
    for (const { volumeGroup, dataLv } of file.volumes) {
      const target = await openLv(volumeGroup, dataLv, 'auto');
      sizes.set(lvPath(volumeGroup, dataLv), target.sizeBytes);
      targets.push(target);
    }
    const journal = file.journal as NonNullable<DomainFile['journal']>;
    const disk = await openLv(journal.volumeGroup, journal.lv, 'buffered');
    return { disk, targets, config: journalConfigOf(file, sizes) };
  } catch (error) {
    for (const disk of opened) await disk.close();
    throw error;
  }
}

function activateLv(volumeGroup: string, lv: string): Promise<void> {
  return new Promise((resolve, reject) => {
    execFile('lvchange', ['-ay', `${volumeGroup}/${lv}`], { timeout: ACTIVATE_MS }, (error, _out, stderr) => {
      if (error === null) resolve();
      else reject(new Error(stderr.trim() === '' ? error.message : stderr.trim(), { cause: error }));
    });
  });
}

/**
 * The volumes to open the journal with. An LV that was grown since the journal was made is as good a target as it
 * was; any other difference the journal refuses.
 */
function volumesAsMade(made: readonly VolumeSpec[], { volumes }: DomainJournal): VolumeSpec[] {
  return volumes.map(({ name, sizeBytes, barrier }, index) => {
    const before = made[index]?.sizeBytes ?? sizeBytes;
    return { name, barrier, sizeBytes: Math.min(sizeBytes, before) };
  });
}

async function readDomainFile(root: string, domain: string): Promise<DomainFile> {
  const path = join(root, domainFilePath(domain));
  const unusable = (why: string, cause?: unknown): OperatorError =>
    new OperatorError(`${domain}: ${path}: ${why}; nothing was changed. Run setup.`, ExitCode.usage, cause);
  let file: DomainFile;
  try {
    file = JSON.parse(await readFile(path, 'utf8')) as DomainFile;
  } catch (error) {
    throw unusable((error as Error).message, error);
  }
  if (file.format !== DOMAIN_FILE_FORMAT) throw unusable('it has another format than this program');
  if (file.domain !== domain) throw unusable(`it is of another domain`);
  return file;
}

/** Whether the name is taken, by whatever: a link that leads nowhere counts, as it does for `remus-devices`. */
async function exists(path: string): Promise<boolean> {
  try {
    await lstat(path);
    return true;
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return false;
    throw error;
  }
}

function nothingDone(domain: string): Omit<RecoverDomainReport, 'reason'> {
  return { domain, done: 'nothing', term: null, committedEpoch: null, drainedBytes: 0, discarded: [] };
}

function refusal(subject: string, observed: string, next: string, cause?: unknown): OperatorError {
  return new OperatorError(
    `${subject}: refusing to recover the journal: ${observed}. Its LVs were left as they are, and so was ` +
      `journal-active: DRBD must not be attached to them. ${next}`,
    ExitCode.refused,
    cause,
  );
}

function asOperatorError(subject: string, path: string, error: unknown): Error {
  if (!(error instanceof JournalError)) return error instanceof Error ? error : new Error(String(error));
  const untrusted = ['corrupt', 'not-a-journal', 'volumes-differ'].includes(error.code);
  if (untrusted) {
    return refusal(
      subject,
      `${path}: ${error.message}`,
      'Where it can\'t be mended, take this host\'s disks as lost: remove journal-active, and resynchronise them from the other host ("drbdadm invalidate").',
      error,
    );
  }
  return new OperatorError(
    `${subject}: the journal could not be recovered: ${path}: ${error.message}; what has not come to the LVs is ` +
      'still in it, and journal-active was left. Mend the disk, and run this again.',
    ExitCode.failed,
    error,
  );
}
