/**
 * What an embedded host does with its epoch journal when its power is back, before its mirror finds its peer: the same
 * as `remus-devices` and `JournalDisks.recover` on a real one, with the real journal and the real decision.
 */
import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { TermStore } from '../../edge/term-store.js';
import { openDisk } from '../../journal/file-disk.js';
import type { FileDisk } from '../../journal/file-disk.js';
import { EpochJournal } from '../../journal/journal.js';
import { decisionWithoutCopy, endDecidedTerm } from '../../protect/decision.js';
import { JOURNAL_ACTIVE, JOURNAL_FILE } from './backup-disks.js';
import { EMBEDDED_VOLUMES, volumePath } from './devices.js';
import { DOMAIN } from './jobs.js';
import type { HostJob } from './jobs.js';

/**
 * @returns what was done; null where no journal was left
 * @throws OperatorError where only a person can say which way it goes
 */
export async function recoverEmbeddedJournal({
  host,
  directory,
}: HostJob): Promise<{ outcome: string; epoch: number | null } | null> {
  if (!existsSync(join(directory, JOURNAL_ACTIVE))) return null;
  const store = new TermStore(DOMAIN, directory);
  const disk = await openDisk(join(directory, JOURNAL_FILE), { mode: 'buffered' });
  const targets: FileDisk[] = [];
  for (const volume of EMBEDDED_VOLUMES.keys()) {
    targets.push(await openDisk(volumePath(directory, volume), { mode: 'buffered' }));
  }
  const journal = await EpochJournal.open(disk, targets, [...EMBEDDED_VOLUMES], {
    onMarker: () => undefined,
    onMarkerIgnored: () => undefined,
    onChange: () => undefined,
  });
  let outcome = 'drained';
  if (journal.state().undecided) {
    const unrecorded = (reason: string): void =>
      void process.stderr.write(`embedded host ${host}: ${reason}\n`);
    outcome = await decisionWithoutCopy(DOMAIN, host, directory, store, journal.state().term, unrecorded);
    if (outcome === 'discard') {
      throw new Error(
        `${host}: this host has won the term and lost its copy: that is no part of the embedded story`,
      );
    }
    await journal.rollForward();
  }
  await journal.drained();
  const epoch = journal.state().committedEpoch;
  await journal.close();
  await disk.close();
  for (const target of targets) await target.close();
  await endDecidedTerm(store);
  await rm(join(directory, JOURNAL_ACTIVE), { force: true });
  return { outcome, epoch };
}
