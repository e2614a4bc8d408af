/**
 * Stands in for src/protect/receiver.ts in the test of power cuts: the same Receiver, which stops at the points of a
 * checkpoint that it is asked to stop at and makes the faults that it is asked for (cuts-log.ts). It tells what a
 * failover did and when, and, just before the guest goes on, with which memory and which disks:
 *
 *     claim -> claimed -> disconnect -> discard -> promote -> mark-discarded -> [resume] -> open-gate -> start-guest
 */
import { constants } from 'node:fs';
import { open, writeFile } from 'node:fs/promises';
import { LEDGER_BLOCK_BYTES } from '../../src/core/ledger.js';
import { BARRIER_VOLUME } from '../../src/core/names.js';
import type { ReceiverOptions } from '../../src/core/protect/receiver.js';
import { native } from '../../src/journal/native.js';
import { readHostDomain } from '../../src/protect/host-domain.js';
import { Receiver as ProductReceiver } from '../../src/protect/receiver.js';
import type { BackupDisks, ReceiverEdges } from '../../src/protect/receiver.js';
import { isAsked, stopAt, tellEyes } from './cuts-eyes.js';
import { openedJournal } from './cuts-journal.js';
import { areaPath } from './cuts-log.js';
import { blocksOf } from './ledger-format.js';
import type { LedgerPage } from './ledger-format.js';
import { LedgerMemory } from './ledger-memory.js';

export * from '../../src/protect/receiver.js';

/** What is known of the epochs, by their number. */
class Epochs {
  /** The ledger in memory, of those that are whole and not committed. */
  readonly pages = new Map<number, LedgerPage | null>();
  /** Commits that were made too early. */
  readonly early = new Map<number, Promise<void>>();
  committed = 0;
  committedPage: LedgerPage | null = null;
}

export class Receiver extends ProductReceiver {
  readonly #memory = new LedgerMemory();
  readonly #epochs: Epochs;

  constructor(options: ReceiverOptions, edges: ReceiverEdges) {
    const epochs = new Epochs();
    super(options, withEyes(edges, epochs));
    this.#epochs = epochs;
  }

  override data(bytes: Buffer): Promise<void> {
    this.#memory.push(bytes);
    return super.data(bytes);
  }

  override checkpoint(epoch: number, folded: boolean, bytes: Buffer): Promise<void> {
    this.#memory.push(bytes);
    const { pages, committed } = this.#epochs;
    // The same number again is an epoch without pages: the ledger is as it was.
    if (!folded && epoch > committed && !pages.has(epoch)) pages.set(epoch, this.#memory.page);
    return super.checkpoint(epoch, folded, bytes);
  }

  override marker(epoch: number): void {
    const isEarly = isAsked('early-commit') && this.#epochs.committed > 0;
    if (!isEarly) tellEyes({ event: 'marker', epoch, isCommitted: false });
    else {
      const commit = openedJournal().commit(epoch);
      this.#epochs.early.set(epoch, commit);
      commit.then(
        () => tellEyes({ event: 'marker', epoch, isCommitted: true }),
        () => undefined,
      );
    }
    super.marker(epoch);
  }
}

function withEyes(edges: ReceiverEdges, epochs: Epochs): ReceiverEdges {
  return {
    ...edges,
    disks: eyesOnDisks(edges.disks, epochs),
    startCopy: (events) => {
      const copy = edges.startCopy(events);
      return {
        write: (bytes) => copy.write(bytes),
        start: () => timed('start-guest', () => copy.start()),
        drop: () => copy.drop(),
      };
    },
    claim: async (...words) => {
      tellEyes({ event: 'claim', timeMs: Date.now(), text: '' });
      const outcome = isAsked('skip-claim')
        ? { decision: 'backup' as const, reason: 'the claim was skipped' }
        : await edges.claim(...words);
      if (outcome !== null) {
        tellEyes({ event: 'claimed', timeMs: Date.now(), text: `${outcome.decision}: ${outcome.reason}` });
      }
      return outcome;
    },
  };
}

function eyesOnDisks(disks: BackupDisks, epochs: Epochs): BackupDisks {
  let domain = '';
  return {
    startSession: (identity) => {
      domain = identity.domain;
      return disks.startSession(identity);
    },
    commit: async (epoch) => {
      await stopAt('received-whole', epoch);
      await (epochs.early.get(epoch) ?? disks.commit(epoch));
      epochs.committed = epoch;
      epochs.committedPage = epochs.pages.get(epoch) ?? null;
      epochs.pages.delete(epoch);
      await stopAt('commit-recorded', epoch);
    },
    step: async (step) => {
      const result = await timed(step, async () => {
        if (step !== 'mark-discarded' || !isAsked('no-mark')) return disks.step(step);
        await openedJournal().discardMarked();
        return undefined;
      });
      if (step === 'mark-discarded') await tellResume(domain, epochs);
      return result;
    },
    used: () => disks.used(),
  };
}

async function timed<T>(step: string, work: () => Promise<T>): Promise<T> {
  const beganMs = Date.now();
  const result = await work();
  tellEyes({ event: 'step', step, beganMs, endedMs: Date.now() });
  return result;
}

/** What the guest will have, memory and disks. */
async function tellResume(domainName: string, epochs: Epochs): Promise<void> {
  const beganMs = Date.now();
  const { committed, committedPage } = epochs;
  const { domain } = await readHostDomain(domainName);
  const volumes = domain.volumes
    .filter(({ volume }) => volume !== BARRIER_VOLUME)
    .sort((one, other) => one.volume - other.volume);
  const blocks = committedPage === null ? 1 : blocksOf(committedPage);
  await Promise.all(
    volumes.map(async ({ minor }, disk) => {
      await writeFile(areaPath(disk), await readArea(`/dev/drbd${minor}`, blocks));
    }),
  );
  const tookMs = Date.now() - beganMs;
  tellEyes({ event: 'resume', epoch: committed, memory: committedPage, tookMs });
}

/** Past every cache. */
async function readArea(device: string, blocks: number): Promise<Buffer> {
  const bytes = blocks * LEDGER_BLOCK_BYTES;
  const handle = await open(device, constants.O_RDONLY | constants.O_DIRECT);
  try {
    const area = native().alignedBuffer(bytes, LEDGER_BLOCK_BYTES);
    const { bytesRead } = await handle.read(area, 0, bytes, 0);
    if (bytesRead !== bytes) throw new Error(`${device}: ${bytesRead} of ${bytes} bytes could be read`);
    return area;
  } finally {
    await handle.close();
  }
}
