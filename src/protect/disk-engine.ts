/** The backup's disks on a real host, by the domain's engine. */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { readSmall, writeDurably } from '../edge/durable-file.js';
import { removeGate, setGate } from '../edge/gate.js';
import type { Log } from '../edge/log.js';
import { JournalDisks } from './backup-disks.js';
import type { DisksEvents } from './backup-disks.js';
import { DeferringDisks } from './deferring-disks.js';
import { exec } from './exec.js';
import type { HostDomain } from './host-domain.js';
import { moduleMinor, procDrbd } from './module.js';
import type { BackupDisks } from './receiver.js';
import type { HoldTargets } from './target-hold.js';

/** What a receiver begins with, beside what a session needs. */
export interface DiskEngine extends BackupDisks {
  /** @throws OperatorError or Error; the disks are then as they were */
  prepare(): Promise<void>;
  /**
   * Sees to what a receiver that died has left.
   *
   * @param decide which way it goes
   * @returns false where there was nothing to do
   */
  recover(decide: (term: number) => Promise<'roll-forward' | 'discard'>): Promise<boolean>;
  /** Absent where the disks can't be held at a commit. */
  holdTargets?: HoldTargets;
}

const NOTE_BYTES_MAX = 64;

export function openDisks(here: HostDomain, events: DisksEvents, log: Log): DiskEngine {
  const { domain, runDirectory } = here;
  if (domain.engine === 'journal') return new JournalDisks(domain, events, log);
  const name = domain.domain;
  const path = join(runDirectory, 'session');
  return new DeferringDisks(name, moduleMinor(domain), {
    exec,
    procDrbd,
    setGate: (state, reason) => setGate(name, state, reason),
    removeGate: () => removeGate(name),
    session: {
      note: (term) => writeDurably(path, `${term}\n`, 0o644),
      read: async () => {
        const text = await readSmall(path, NOTE_BYTES_MAX);
        return text === undefined ? null : Number(text);
      },
      forget: () => rm(path, { force: true }),
    },
    pause: async (ms) => {
      await pause(ms);
    },
  });
}
