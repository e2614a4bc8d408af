/**
 * Stands in for src/protect/receiver.ts in the lab's receiver (ledger-bundle.ts): the same Receiver, with a look at
 * every commit. Between commit N and any later one, it compares the guest's ledger in the memory of checkpoint N with
 * what the LVs below the journal hold, and writes a line about it (ledger-log.ts).
 *
 *     bulk --> [the ledger's page] --> Receiver --commit N--> journal --drained--> LVs, read past every cache
 *
 * The receiver learns that N is durable only when the comparison is done, so that nothing of N+1 can be committed
 * while it lasts. The order in which the guest's memory, its barrier and its output go is not touched by this.
 */
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { LEDGER_BLOCK_BYTES } from '../../src/core/ledger.js';
import { BARRIER_VOLUME, lvPath } from '../../src/core/names.js';
import type { ReceiverOptions } from '../../src/core/protect/receiver.js';
import { native } from '../../src/journal/native.js';
import { readHostDomain } from '../../src/protect/host-domain.js';
import { Receiver as ProductReceiver } from '../../src/protect/receiver.js';
import type { BackupDisks, ReceiverEdges } from '../../src/protect/receiver.js';
import { blocksOf, checkCommit, topOf } from './ledger-format.js';
import type { Found, LedgerPage } from './ledger-format.js';
import { openedJournal } from './ledger-journal.js';
import { COMMITS_LOG, tell } from './ledger-log.js';
import { LedgerMemory } from './ledger-memory.js';

export * from '../../src/protect/receiver.js';

export class Receiver extends ProductReceiver {
  readonly #memory = new LedgerMemory();
  readonly #pages: Map<number, LedgerPage | null>;

  constructor(options: ReceiverOptions, edges: ReceiverEdges) {
    const pages = new Map<number, LedgerPage | null>();
    super(options, { ...edges, disks: verified(edges.disks, pages) });
    this.#pages = pages;
  }

  override data(bytes: Buffer): Promise<void> {
    this.#memory.push(bytes);
    return super.data(bytes);
  }

  override checkpoint(epoch: number, folded: boolean, bytes: Buffer): Promise<void> {
    this.#memory.push(bytes);
    // The same number again is an epoch without pages: the ledger is as it was.
    if (!folded && !this.#pages.has(epoch)) this.#pages.set(epoch, this.#memory.page);
    return super.checkpoint(epoch, folded, bytes);
  }
}

function verified(disks: BackupDisks, pages: Map<number, LedgerPage | null>): BackupDisks {
  let lvs: string[] = [];
  return {
    startSession: async (identity) => {
      const { domain } = await readHostDomain(identity.domain);
      lvs = domain.volumes
        .filter(({ volume }) => volume !== BARRIER_VOLUME)
        .sort((one, other) => one.volume - other.volume)
        .map(({ volumeGroup, dataLv }) => lvPath(volumeGroup, dataLv));
      await disks.startSession(identity);
    },
    commit: async (epoch) => {
      await disks.commit(epoch);
      await look(epoch, pages.get(epoch) ?? null, lvs);
      pages.delete(epoch);
    },
    step: (step) => disks.step(step),
    used: () => disks.used(),
  };
}

async function look(epoch: number, memory: LedgerPage | null, lvs: readonly string[]): Promise<void> {
  const startedMs = performance.now();
  await openedJournal().drained();
  const areas = await Promise.all(lvs.map((lv) => readArea(lv, memory === null ? 1 : blocksOf(memory))));
  const violations: Found[] =
    memory === null
      ? [{ fault: 'no-ledger', text: 'there is no ledger in memory' }]
      : checkCommit(memory, areas);
  tell(COMMITS_LOG, {
    epoch,
    memory,
    tops: areas.map((area) => topOf(area)),
    violations,
    checkMs: Math.round(performance.now() - startedMs),
  });
}

async function readArea(lv: string, blocks: number): Promise<Buffer> {
  const bytes = blocks * LEDGER_BLOCK_BYTES;
  const handle = await open(lv, constants.O_RDONLY | constants.O_DIRECT);
  try {
    const area = native().alignedBuffer(bytes, LEDGER_BLOCK_BYTES);
    const { bytesRead } = await handle.read(area, 0, bytes, 0);
    if (bytesRead !== bytes) throw new Error(`${lv}: ${bytesRead} of ${bytes} bytes could be read`);
    return area;
  } finally {
    await handle.close();
  }
}
