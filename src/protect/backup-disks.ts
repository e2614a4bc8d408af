/**
 * The backup's disks of one domain: the epoch journal below DRBD, from before a session begins until the devices are
 * back on their LVs.
 *
 *     prepare -> startSession -> commit... -> roll-forward, leave-journal
 *                                          -> disconnect, discard, promote, mark-discarded, open-gate, settle
 *
 * `journal-active` is there for as long as the journal may hold writes that DRBD was told are durable; the boot
 * script refuses to attach DRBD to the bare LVs while it is.
 */
import { randomBytes } from 'node:crypto';
import { constants, existsSync } from 'node:fs';
import { mkdir, open, readdir, readlink, rm, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import type { DomainFile } from '../core/domain-file.js';
import { OperatorError } from '../core/errors.js';
import type { VolumeLayout } from '../core/model.js';
import { addDiscarded, formatDiscarded, journalConfigOf, parseDiscarded } from '../core/journal/domain.js';
import { JournalError } from '../core/journal/types.js';
import type { VolumeRange, VolumeSpec } from '../core/journal/types.js';
import { lvPath, Paths, runPath, statePath } from '../core/names.js';
import type { Identity } from '../core/protect/types.js';
import { readSmall, removeDurably, writeDurably } from '../edge/durable-file.js';
import { removeGate, setGate } from '../edge/gate.js';
import { openDisk } from '../journal/file-disk.js';
import type { FileDisk } from '../journal/file-disk.js';
import { EpochJournal, formatJournal } from '../journal/journal.js';
import type { MarkerEvent } from '../journal/journal.js';
import { native } from '../journal/native.js';
import { serveNbd } from '../journal/nbd-server.js';
import type { NbdLog, NbdServer } from '../journal/nbd-server.js';
import { switchToJournal, switchToLvs } from '../journal/switch.js';
import type { SwitchVolume } from '../journal/switch.js';
import { reattach } from './drbd-reattach.js';
import { readDrbd, replicationFault } from './drbd-watch.js';
import { exec, must } from './exec.js';
import type { BackupDisks } from './receiver.js';

const COMMAND_MS = 30_000;
const PROMOTE_MS = 60_000;
const CONNECTIONS_MAX = 64;
/** A journal that has been full for this long is given up: its writers wait, and so does the guest. */
const FULL_MS = 5_000;
/** A block is read and written back in pieces of this size. */
const MARK_BYTES = 1 << 20;
const MARK_ALIGN = 4096;
/** More than DRBD has under way: `max-buffers` of its configuration are 8000 pages. */
const RESERVE_BYTES = 40 << 20;
/** DRBD has begun to leave its peer by then. */
const LEAVE_MS = 1_000;
const DISCARDED_BYTES_MAX = 256 << 20;

export interface DisksEvents {
  onMarker(marker: MarkerEvent): void;
  onFailed(reason: string): void;
  onProgress(what: string, doneBytes: number, totalBytes: number): void;
}

interface Volume extends SwitchVolume {
  minor: number;
  spec: VolumeSpec;
}

/** The journal of a domain and what it stands on, with the sizes that the kernel has now. */
async function readVolumes(domain: DomainFile): Promise<{ journal: string; volumes: Volume[] }> {
  const sizes = new Map<string, number>();
  for (const { volumeGroup, dataLv } of domain.volumes) {
    const lv = lvPath(volumeGroup, dataLv);
    sizes.set(lv, Number((await must(['blockdev', '--getsize64', lv], COMMAND_MS)).trim()));
  }
  const { journal, volumes } = journalConfigOf(domain, sizes);
  return {
    journal,
    volumes: volumes.map(({ name, target, sizeBytes, barrier }, index) => ({
      minor: (domain.volumes[index] as VolumeLayout).minor,
      device: name,
      lv: target,
      nbd: '',
      exportName: name,
      sizeBytes,
      spec: { name, sizeBytes, barrier },
    })),
  };
}

/** NBD devices that nothing is connected to. */
async function freeNbdDevices(domain: string, count: number): Promise<string[]> {
  await must(['modprobe', 'nbd'], COMMAND_MS);
  const names = (await readdir('/sys/block')).filter((name) => /^nbd[0-9]+$/.test(name));
  const free = names
    .filter((name) => !existsSync(`/sys/block/${name}/pid`))
    .sort((a, b) => Number(a.slice(3)) - Number(b.slice(3)));
  if (free.length < count) {
    throw new OperatorError(
      `${domain}: ${count} free NBD devices are needed for its journal and ${free.length} of ${names.length} are free; ` +
        `its disks are as they were. Give the module nbd a larger nbds_max.`,
    );
  }
  return free.slice(0, count).map((name) => `/dev/${name}`);
}

/** The NBD device that a device-mapper device stands on; null when it stands on something else. */
async function nbdBelow(device: string): Promise<string | null> {
  const { code, stdout } = await exec(['dmsetup', 'table', device], { timeoutMs: COMMAND_MS });
  const match = code === 0 ? /^0 \d+ linear (43:\d+) 0\s*$/.exec(stdout) : null;
  if (match === null) return null;
  return `/dev/${basename(await readlink(`/sys/dev/block/${match[1]}`))}`;
}

export class JournalDisks implements BackupDisks {
  readonly #domain: DomainFile;
  readonly #events: DisksEvents;
  readonly #log: NbdLog;
  #journalPath = '';
  #volumes: Volume[] = [];
  #disk: FileDisk | null = null;
  #targets: FileDisk[] = [];
  #journal: EpochJournal | null = null;
  #server: NbdServer | null = null;
  #isSwitched = false;
  #fullTimer: NodeJS.Timeout | null = null;

  constructor(domain: DomainFile, events: DisksEvents, log: NbdLog) {
    this.#domain = domain;
    this.#events = events;
    this.#log = log;
  }

  get #activePath(): string {
    return statePath(this.#domain.domain, 'journal-active');
  }

  get #socketPath(): string {
    return runPath(this.#domain.domain, 'nbd.sock');
  }

  #need(): EpochJournal {
    if (this.#journal === null) throw new Error('the journal is not open');
    return this.#journal;
  }

  /**
   * Puts the journal under DRBD, which is attached and connected and notices nothing.
   * @throws OperatorError or Error; the devices are then on their LVs
   */
  async prepare(): Promise<void> {
    const { domain } = this.#domain;
    ({ journal: this.#journalPath, volumes: this.#volumes } = await readVolumes(this.#domain));
    await this.#open(true);
    const journal = this.#need();
    const free = await freeNbdDevices(domain, this.#volumes.length);
    this.#volumes.forEach((volume, index) => (volume.nbd = free[index] ?? ''));
    await mkdir(join(Paths.run, domain), { recursive: true });
    await rm(this.#socketPath, { force: true });
    const minBlockBytes = Math.max(...this.#targets.map(({ blockBytes }) => blockBytes));
    const server = await serveNbd(journal, {
      listen: { path: this.#socketPath },
      log: this.#log,
      connectionsMax: CONNECTIONS_MAX,
      minBlockBytes,
    });
    this.#server = server;
    journal.onBatch = () => server.flushDirty();
    try {
      await writeDurably(
        this.#activePath,
        'the journal may hold writes that DRBD was told are durable\n',
        0o644,
      );
      await setGate(domain, 'shut', `${domain} is protected here by its other host`);
      await switchToJournal(this.#volumes, this.#socketPath, { exec });
      this.#isSwitched = true;
    } catch (error) {
      await this.#close();
      await removeGate(domain);
      await removeDurably(this.#activePath);
      throw error;
    }
  }

  /**
   * Brings a domain back onto its LVs after a receiver that died: requests that hang on its NBD devices are failed,
   * the journal is recovered as `decide` says, and DRBD gets its disks again.
   * @param decide with an undecided session in the journal: which way it goes
   * @returns false where there was nothing to recover
   */
  async recover(decide: (term: number) => Promise<'roll-forward' | 'discard'>): Promise<boolean> {
    ({ journal: this.#journalPath, volumes: this.#volumes } = await readVolumes(this.#domain));
    const standing: Volume[] = [];
    for (const volume of this.#volumes) {
      const nbd = await nbdBelow(volume.device);
      if (nbd !== null) standing.push({ ...volume, nbd });
    }
    if (standing.length === 0 && !existsSync(this.#activePath)) {
      await rm(this.#sessionPath, { force: true });
      return false;
    }
    const settle = async (): Promise<void> => {
      await this.#open(false);
      const journal = this.#need();
      if (journal.state().undecided) {
        if ((await decide(journal.state().term)) === 'discard') await journal.discard();
        else await journal.rollForward();
      }
      await journal.drained();
      if (await this.#noteDiscarded(journal)) discarded = true;
      await this.#close();
    };
    let discarded = false;
    if (standing.length > 0) await switchToLvs(standing, settle, { exec, dead: true });
    else await settle();
    await removeDurably(this.#activePath);
    // Not before: until it is settled which way the journal goes, a resync would only add to it.
    await rm(this.#sessionPath, { force: true });
    if (discarded) await this.#markNoted();
    else await reattach(this.#domain.domain);
    return true;
  }

  get #discardedPath(): string {
    return statePath(this.#domain.domain, 'discarded.json');
  }

  /** Keeps what was discarded beyond the journal's life. @returns whether there was anything */
  async #noteDiscarded(journal: EpochJournal): Promise<boolean> {
    const dropped = await journal.discarded();
    if (dropped === null) return false;
    const text = await readSmall(this.#discardedPath, DISCARDED_BYTES_MAX);
    const before = text === undefined ? undefined : parseDiscarded(text);
    const { domain } = this.#domain;
    const next = addDiscarded(before, { format: 1, domain, term: journal.state().term, ...dropped });
    await writeDurably(this.#discardedPath, formatDiscarded(next), 0o600);
    await journal.discardMarked();
    return true;
  }

  /**
   * This host has won the term, and nothing runs on its disks: it may promote to mark what it dropped. DRBD stays
   * without its peer until `recover` connects it: a resync before that would come from the wrong side.
   */
  async #markNoted(): Promise<void> {
    const { domain } = this.#domain;
    await exec(['drbdadm', 'disconnect', '--force', domain], { timeoutMs: COMMAND_MS });
    // Fails where it is attached, as it should be; promotion says if it is not.
    await exec(['drbdadm', 'attach', domain], { timeoutMs: COMMAND_MS });
    await must(['drbdadm', 'primary', domain], PROMOTE_MS);
    await this.#writeBackNoted();
    await must(['drbdadm', 'secondary', domain], COMMAND_MS);
  }

  /** Blocks that an earlier recovery has dropped and nobody has marked yet. The resource is promoted. */
  async #writeBackNoted(): Promise<void> {
    const text = await readSmall(this.#discardedPath, DISCARDED_BYTES_MAX);
    if (text === undefined) return;
    await this.#writeBack(parseDiscarded(text).ranges);
    await removeDurably(this.#discardedPath);
  }

  get #sessionPath(): string {
    return runPath(this.#domain.domain, 'session');
  }

  /** From here on DRBD may not resync into the journal (scripts/host/before-resync-target). */
  async startSession(identity: Identity): Promise<void> {
    await writeFile(this.#sessionPath, `${identity.term}\n`);
    const [state, reason] = await readDrbd(this.#domain.domain);
    const fault = state === null ? reason : replicationFault(state);
    if (fault !== null) throw new Error(`DRBD is not as a session needs it: ${fault}`);
    await this.#need().startSession({
      domain: identity.domain,
      term: identity.term,
      id: Buffer.from(identity.session, 'hex'),
    });
  }

  commit(epoch: number): Promise<void> {
    return this.#need().commit(epoch);
  }

  used(): { usedBytes: number; totalBytes: number } {
    if (this.#journal === null) return { usedBytes: 0, totalBytes: 0 };
    const { usedBytes, totalBytes } = this.#journal.state();
    return { usedBytes, totalBytes };
  }

  /** See `EpochJournal.holdTargets`. */
  holdTargets(
    ended: (reason: string) => void,
  ): Promise<{ term: number; epoch: number; release: () => void }> {
    return this.#need().holdTargets(ended);
  }

  async step(step: Parameters<BackupDisks['step']>[0]): Promise<void> {
    const { domain } = this.#domain;
    this.#journal?.endHold(`the term ends: ${step}`);
    switch (step) {
      case 'disconnect':
        await this.#disconnect();
        return;
      case 'discard': {
        // Repeated after a failure of its own, it has nothing left to discard.
        if (this.#need().state().mode === 'epochs') await this.#need().discard();
        await rm(this.#sessionPath, { force: true });
        return;
      }
      case 'promote':
        await must(['drbdadm', 'primary', domain], PROMOTE_MS);
        return;
      case 'mark-discarded':
        await this.#markDiscarded();
        return;
      case 'open-gate':
        await setGate(domain, 'open', `${domain} was taken over by this host`);
        return;
      case 'settle':
        await this.#leave();
        return;
      case 'roll-forward':
        if (this.#need().state().mode === 'epochs') await this.#need().rollForward();
        await rm(this.#sessionPath, { force: true });
        return;
      case 'leave-journal':
        await this.#leave();
        await removeGate(domain);
        // Where a resync was refused DRBD stands alone; it may come now.
        await reattach(domain);
        return;
      default:
        throw new Error(`step ${String(step satisfies never)}`);
    }
  }

  /**
   * DRBD waits for what it has under way here, which a full journal would never answer. The room that is kept for that
   * is given free only when DRBD takes no more from its peer: a primary that lives would fill it up.
   */
  async #disconnect(): Promise<void> {
    const leaving = must(['drbdadm', 'disconnect', '--force', this.#domain.domain], COMMAND_MS);
    await Promise.race([leaving.catch(() => undefined), pause(LEAVE_MS)]);
    this.#need().openReserve();
    await leaving;
  }

  /** Writes the discarded blocks back to themselves through DRBD, which marks them for the resync. */
  async #markDiscarded(): Promise<void> {
    const journal = this.#need();
    await this.#writeBackNoted();
    const discarded = await journal.discarded();
    if (discarded === null) return;
    await this.#writeBack(discarded.ranges);
    await journal.discardMarked();
  }

  async #writeBack(ranges: readonly VolumeRange[]): Promise<void> {
    for (const range of ranges) {
      const volume = this.#volumes.find(({ exportName }) => exportName === range.volume);
      if (volume === undefined) throw new Error(`the journal has an unknown volume ${range.volume}`);
      await writeBack(`/dev/drbd${volume.minor}`, range);
    }
  }

  async #leave(): Promise<void> {
    if (this.#isSwitched) {
      const journal = this.#need();
      // Most of it first, while the devices work on.
      await journal.drained();
      await switchToLvs(this.#volumes, () => journal.drained(), { exec });
      this.#isSwitched = false;
    }
    await this.#close();
    await removeDurably(this.#activePath);
  }

  async #open(mayFormat: boolean): Promise<void> {
    this.#disk = await openDisk(this.#journalPath, { mode: 'buffered' });
    for (const volume of this.#volumes) this.#targets.push(await openDisk(volume.lv));
    const specs = this.#volumes.map(({ spec }) => spec);
    try {
      this.#journal = await this.#openJournal(this.#disk, specs);
    } catch (error) {
      const code = error instanceof JournalError ? error.code : null;
      if (!mayFormat || (code !== 'not-a-journal' && code !== 'volumes-differ')) {
        await this.#close();
        throw error;
      }
      // With journal-active in place it may hold what DRBD was told is durable.
      if (existsSync(this.#activePath)) throw error;
      await formatJournal(this.#disk, {
        domain: this.#domain.domain,
        volumes: specs,
        journalId: randomBytes(16),
        onProgress: (done, total) => this.#events.onProgress('making the journal', done, total),
      });
      this.#journal = await this.#openJournal(this.#disk, specs);
    }
  }

  #openJournal(disk: FileDisk, specs: VolumeSpec[]): Promise<EpochJournal> {
    return EpochJournal.open(disk, this.#targets, specs, {
      reserveBytes: RESERVE_BYTES,
      onMarker: (marker) => this.#events.onMarker(marker),
      onMarkerIgnored: (reason) => this.#log.warn('a marker was ignored', { reason }),
      onChange: (reason) => {
        this.#log.info('the journal has changed', { reason });
        const { failed, full } = this.#journal?.state() ?? { failed: null, full: null };
        if (failed !== null) this.#events.onFailed(failed);
        if (full === null) this.#stopFullTimer();
        else this.#fullTimer ??= setTimeout(() => this.#fullForLong(), FULL_MS);
      },
    });
  }

  #fullForLong(): void {
    this.#fullTimer = null;
    const full = this.#journal?.state().full ?? null;
    if (full !== null) this.#events.onFailed(`it has been full for ${FULL_MS} ms (${full.what})`);
  }

  #stopFullTimer(): void {
    if (this.#fullTimer !== null) clearTimeout(this.#fullTimer);
    this.#fullTimer = null;
  }

  async #close(): Promise<void> {
    this.#stopFullTimer();
    await this.#server?.close();
    this.#server = null;
    await this.#journal?.close();
    this.#journal = null;
    await this.#disk?.close();
    this.#disk = null;
    for (const target of this.#targets.splice(0)) await target.close();
  }
}

async function writeBack(device: string, range: VolumeRange): Promise<void> {
  const handle = await open(device, constants.O_RDWR | constants.O_DIRECT);
  const buffer = native().alignedBuffer(MARK_BYTES, MARK_ALIGN);
  try {
    const end = range.offsetBytes + range.lengthBytes;
    for (let at = range.offsetBytes; at < end;) {
      const length = Math.min(MARK_BYTES, end - at);
      const { bytesRead } = await handle.read(buffer, 0, length, at);
      if (bytesRead !== length)
        throw new Error(`${device}: ${bytesRead} of ${length} bytes could be read at ${at}`);
      const { bytesWritten } = await handle.write(buffer, 0, length, at);
      if (bytesWritten !== length)
        throw new Error(`${device}: ${bytesWritten} of ${length} bytes were written at ${at}`);
      at += length;
    }
  } finally {
    await handle.close();
  }
}
