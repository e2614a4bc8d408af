/** Collects a body of a known length. Memory grows with the bytes that come, not with the length that is claimed. */

const FIRST_BYTES = 4096;

export class Gather {
  readonly #lengthBytes: number;
  #bytes = Buffer.alloc(0);
  #filled = 0;

  constructor(lengthBytes: number) {
    this.#lengthBytes = lengthBytes;
  }

  /** Copies a piece. What is beyond the length, padding, is dropped. */
  push(piece: Uint8Array): void {
    const taken = piece.subarray(0, this.#lengthBytes - this.#filled);
    const filled = this.#filled + taken.length;
    if (filled > this.#bytes.length) {
      const grownBytes = Math.min(this.#lengthBytes, Math.max(filled, 2 * this.#bytes.length, FIRST_BYTES));
      const grown = Buffer.allocUnsafe(grownBytes);
      this.#bytes.copy(grown, 0, 0, this.#filled);
      this.#bytes = grown;
    }
    this.#bytes.set(taken, this.#filled);
    this.#filled = filled;
  }

  /** What was collected. */
  take(): Buffer {
    return this.#bytes.subarray(0, this.#filled);
  }
}
