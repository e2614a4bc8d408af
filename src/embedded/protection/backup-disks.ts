/**
 * The backup's disks on an embedded host: the real epoch journal and its NBD server, with the embedded host's devices
 * and mirror in the place of device-mapper and DRBD. The same steps as `src/protect/backup-disks.ts`.
 */
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Identity } from '../../core/protect/types.js';
import { openDisk } from '../../journal/file-disk.js';
import type { FileDisk } from '../../journal/file-disk.js';
import { EpochJournal, formatJournal } from '../../journal/journal.js';
import { serveNbd } from '../../journal/nbd-server.js';
import type { NbdLog, NbdServer } from '../../journal/nbd-server.js';
import type { BackupDisks } from '../../protect/receiver.js';
import { EMBEDDED_VOLUMES, volumePath } from './devices.js';
import type { Ipc } from './ipc.js';
import { DOMAIN } from './jobs.js';
import type { PartCalls, ReceiverCalls, TermJob } from './jobs.js';

export const JOURNAL_BYTES = 32 << 20;

export const JOURNAL_FILE = 'embedded-journal';
/** While there is such a file the journal may hold what the mirror was told is written. */
export const JOURNAL_ACTIVE = 'embedded-journal-active';

export interface JournalEvents {
  onMarker(epoch: number): void;
  onFailed(reason: string): void;
}

export class EmbeddedDisks implements BackupDisks {
  readonly #job: TermJob;
  readonly #host: Ipc<ReceiverCalls, PartCalls>;
  readonly #events: JournalEvents;
  readonly #log: NbdLog;
  #disk: FileDisk | null = null;
  #targets: FileDisk[] = [];
  #journal: EpochJournal | null = null;
  #server: NbdServer | null = null;
  #lagging: number | null = null;

  constructor(job: TermJob, host: Ipc<ReceiverCalls, PartCalls>, events: JournalEvents, log: NbdLog) {
    this.#job = job;
    this.#host = host;
    this.#events = events;
    this.#log = log;
  }

  #need(): EpochJournal {
    if (this.#journal === null) throw new Error('the embedded journal is not open');
    return this.#journal;
  }

  /** Puts the journal under the mirror. */
  async prepare(): Promise<void> {
    const { directory } = this.#job;
    const journal = await this.#open(join(directory, JOURNAL_FILE));
    const socket = join(directory, 'nbd.sock');
    await rm(socket, { force: true });
    const server = await serveNbd(journal, { listen: { path: socket }, log: this.#log });
    this.#server = server;
    journal.onBatch = () => server.flushDirty();
    await writeFile(join(directory, JOURNAL_ACTIVE), '');
    await this.#host.call('suspendDevices', null);
    await this.#host.call('loadDevices', socket);
    await this.#host.call('gate', { open: false, reason: `${DOMAIN} is protected here by its other host` });
  }

  startSession({ domain, term, session }: Identity): Promise<void> {
    return this.#need().startSession({ domain, term, id: Buffer.from(session, 'hex') });
  }

  async commit(epoch: number): Promise<void> {
    if (this.#job.broken !== 'ack-before-commit') return this.#need().commit(epoch);
    // Always one behind what it says.
    const before = this.#lagging;
    this.#lagging = epoch;
    if (before !== null) await this.#need().commit(before);
  }

  used(): { usedBytes: number; totalBytes: number } {
    if (this.#journal === null) return { usedBytes: 0, totalBytes: 0 };
    const { usedBytes, totalBytes } = this.#journal.state();
    return { usedBytes, totalBytes };
  }

  async step(step: Parameters<BackupDisks['step']>[0]): Promise<void> {
    const { broken } = this.#job;
    switch (step) {
      case 'disconnect':
        await this.#host.call('disconnect', null);
        return;
      case 'discard':
        if (this.#need().state().mode !== 'epochs') return;
        if (broken === 'skip-discard') await this.#need().rollForward();
        else await this.#need().discard();
        return;
      case 'promote':
        await this.#host.call('promote', null);
        return;
      case 'mark-discarded':
        await this.#markDiscarded();
        return;
      case 'open-gate':
        await this.#host.call('gate', { open: true, reason: `${DOMAIN} was taken over by this host` });
        return;
      case 'roll-forward':
        if (this.#need().state().mode === 'epochs') await this.#need().rollForward();
        return;
      case 'settle':
        await this.#leave();
        return;
      case 'leave-journal':
        await this.#leave();
        await this.#host.call('gate', { open: true, reason: 'it is not protected' });
        // Where a resync into the journal was refused the mirror stands alone; it may come now.
        await this.#host.call('connectMirror', null);
        return;
      default:
        throw new Error(`step ${String(step satisfies never)}`);
    }
  }

  /** Writes the discarded blocks back to themselves through the mirror, which marks them for the resync. */
  async #markDiscarded(): Promise<void> {
    const journal = this.#need();
    const discarded = await journal.discarded();
    if (discarded === null) return;
    const bytes = discarded.ranges.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
    this.#log.info('embedded blocks discarded', { ranges: discarded.ranges.length, bytes });
    if (this.#job.broken !== 'skip-marking') {
      for (const range of discarded.ranges) await this.#host.call('writeBack', range);
    }
    await journal.discardMarked();
  }

  async #leave(): Promise<void> {
    const journal = this.#need();
    // Most of it first, while the devices work on.
    await journal.drained();
    await this.#host.call('suspendDevices', null);
    await journal.drained();
    await this.#host.call('loadDevices', null);
    await this.#server?.close();
    await journal.close();
    await this.#disk?.close();
    for (const target of this.#targets.splice(0)) await target.close();
    this.#journal = null;
    await rm(join(this.#job.directory, JOURNAL_ACTIVE), { force: true });
  }

  async #open(path: string): Promise<EpochJournal> {
    const isNew = !existsSync(path);
    if (isNew) {
      await writeFile(path, '');
      await truncate(path, JOURNAL_BYTES);
    }
    const disk = await openDisk(path, { mode: 'buffered' });
    this.#disk = disk;
    const volumes = [...EMBEDDED_VOLUMES];
    for (const volume of volumes.keys()) {
      this.#targets.push(await openDisk(volumePath(this.#job.directory, volume), { mode: 'buffered' }));
    }
    if (isNew) await formatJournal(disk, { domain: DOMAIN, volumes, journalId: randomBytes(16) });
    this.#journal = await EpochJournal.open(disk, this.#targets, volumes, {
      onMarker: ({ epoch }) => this.#events.onMarker(epoch),
      onMarkerIgnored: (reason) => this.#log.warn('a marker was ignored', { reason }),
      onChange: () => {
        const failed = this.#journal?.failed ?? null;
        if (failed !== null) this.#events.onFailed(failed.message);
      },
    });
    return this.#journal;
  }
}
