/**
 * Which blocks of an embedded volume may differ from the other host's, kept in a file beside the volume: a byte for
 * each block of 4 KiB. A block is noted before it is written and cleared when the other host has it, so that no crash
 * in between is forgotten.
 */
import { closeSync, existsSync, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs';

export const BLOCK_BYTES = 4096;

const SET = Buffer.from([1]);
const CLEAR = Buffer.from([0]);

export class EmbeddedBitmap {
  readonly #fd: number;
  readonly #bytes: Buffer;
  /** Writes to a block that the other host has not acknowledged. */
  readonly #underWay: Uint32Array;
  /** Blocks that only a resync clears. */
  readonly #differs = new Set<number>();

  constructor(path: string, sizeBytes: number) {
    const blocks = Math.ceil(sizeBytes / BLOCK_BYTES);
    if (!existsSync(path)) writeFileSync(path, Buffer.alloc(blocks));
    this.#bytes = readFileSync(path);
    this.#fd = openSync(path, 'r+');
    this.#underWay = new Uint32Array(blocks);
    for (let block = 0; block < blocks; block++) if (this.#bytes[block] === 1) this.#differs.add(block);
  }

  /** Blocks to be resynchronised. */
  get differing(): number[] {
    return [...this.#differs];
  }

  get differingCount(): number {
    return this.#differs.size;
  }

  /** A write begins. @param willBeAcknowledged by the other host; else the block differs from now on */
  begin(block: number, willBeAcknowledged: boolean): void {
    if (willBeAcknowledged) this.#underWay[block] = (this.#underWay[block] ?? 0) + 1;
    else this.#differs.add(block);
    this.#update(block);
  }

  acknowledged(block: number): void {
    this.#underWay[block] = Math.max(0, (this.#underWay[block] ?? 0) - 1);
    this.#update(block);
  }

  /** The other host says that the block may differ, or does not know. */
  mark(block: number): void {
    this.#differs.add(block);
    this.#update(block);
  }

  resynchronised(block: number): void {
    this.#differs.delete(block);
    this.#update(block);
  }

  /** No acknowledgement will come any more. */
  connectionLost(): void {
    for (let block = 0; block < this.#underWay.length; block++) {
      if (this.#underWay[block] === 0) continue;
      this.#underWay[block] = 0;
      this.#differs.add(block);
    }
  }

  clear(): void {
    for (const block of [...this.#differs]) this.resynchronised(block);
  }

  close(): void {
    closeSync(this.#fd);
  }

  #update(block: number): void {
    const isSet = (this.#underWay[block] ?? 0) > 0 || this.#differs.has(block);
    if ((this.#bytes[block] === 1) === isSet) return;
    this.#bytes[block] = isSet ? 1 : 0;
    writeSync(this.#fd, isSet ? SET : CLEAR, 0, 1, block);
  }
}
