/**
 * What the backup's disks would hold if the guest were taken over now: the writes that the journal was given, folded
 * epoch by epoch as it commits them. Kept beside the journal and from what DRBD wrote, so that each commit can be
 * compared with the guest's memory at once; whether the journal itself brings the same back is seen at a failover.
 */
import { BARRIER, CELLS, DATA_VOLUMES } from './model-drbd.js';
import type { Block } from './model-drbd.js';

/** Commits that are remembered: a copy is given a checkpoint some time after it was committed. */
const KEPT = 16;

export class CommittedView {
  /** By volume and sector. */
  #cells: number[][];
  #open: [Block, number][] = [];
  readonly #closed = new Map<number, [Block, number][]>();
  readonly #commits = new Map<number, number[][]>();

  /** @param read what the disks hold before the journal is under them */
  constructor(read: (block: Block) => number) {
    this.#cells = Array.from({ length: DATA_VOLUMES }, (_, volume) =>
      Array.from({ length: CELLS }, (__, cell) => read({ volume, cell })),
    );
    this.#commits.set(0, this.#copy());
  }

  /** @param isCommitted outside a session each write is committed as it comes */
  written(block: Block, value: number, isCommitted: boolean): void {
    if (block.volume === BARRIER) return;
    if (!isCommitted) {
      this.#open.push([block, value]);
      return;
    }
    this.#put([block, value]);
    this.#commits.set(0, this.#copy());
  }

  closed(epoch: number): void {
    this.#closed.set(epoch, this.#open);
    this.#open = [];
  }

  committed(epoch: number): void {
    for (const [each, writes] of [...this.#closed].sort(([a], [b]) => a - b)) {
      if (each > epoch) break;
      this.#closed.delete(each);
      for (const write of writes) this.#put(write);
    }
    this.#commits.set(epoch, this.#copy());
    this.#commits.delete(epoch - KEPT);
  }

  /** @returns the disks as of a commit, 0 for before the first one; null for what was not committed or is long ago */
  at(epoch: number): ((block: Block) => number) | null {
    const cells = this.#commits.get(epoch);
    return cells === undefined ? null : ({ volume, cell }) => cells[volume]?.[cell] ?? 0;
  }

  #put([{ volume, cell }, value]: [Block, number]): void {
    (this.#cells[volume] as number[])[cell] = value;
  }

  #copy(): number[][] {
    return this.#cells.map((each) => [...each]);
  }
}
