/** The blocks of a disk that journal.lab.ts writes: most of them at its start, the rest at its very end. */

export const BLOCK_BYTES = 4096;
export const AREA_BLOCKS = 384;
export const TAIL_BLOCKS = 64;

/** Where a block of the area lies on a device of so many blocks, in blocks. */
export function place(deviceBlocks: number, block: number): number {
  return block < AREA_BLOCKS - TAIL_BLOCKS ? block : deviceBlocks - AREA_BLOCKS + block;
}
