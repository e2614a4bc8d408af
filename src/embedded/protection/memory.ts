/** The memory of an embedded guest: pages, and which of them were written since they were last collected. */
import { PAGE_BYTES } from '../../core/stream/format.js';
import type { Page } from '../../core/stream/encoder.js';

export class EmbeddedMemory {
  readonly #pages: Buffer;
  readonly #dirty = new Set<number>();

  /** @param count of pages; all zero */
  constructor(count: number) {
    this.#pages = Buffer.alloc(count * PAGE_BYTES);
  }

  /** @throws RangeError for a page beyond the end */
  static restore(count: number, pages: ReadonlyMap<number, Uint8Array>): EmbeddedMemory {
    const memory = new EmbeddedMemory(count);
    for (const [pfn, bytes] of pages) memory.#pages.set(bytes, pfn * PAGE_BYTES);
    return memory;
  }

  copy(): EmbeddedMemory {
    const copy = new EmbeddedMemory(this.#pages.length / PAGE_BYTES);
    this.#pages.copy(copy.#pages);
    return copy;
  }

  /** For reading. */
  page(pfn: number): Buffer {
    return this.#pages.subarray(pfn * PAGE_BYTES, (pfn + 1) * PAGE_BYTES);
  }

  /** For reading. */
  pages(pfn: number, count: number): Buffer {
    return this.#pages.subarray(pfn * PAGE_BYTES, (pfn + count) * PAGE_BYTES);
  }

  /** For writing: the page counts as dirty. */
  touch(pfn: number): Buffer {
    this.#dirty.add(pfn);
    return this.page(pfn);
  }

  /** The pages written since the last call. They are the memory itself, no copies. */
  takeDirty(): Page[] {
    const pfns = [...this.#dirty].sort((a, b) => a - b);
    this.#dirty.clear();
    return pfns.map((pfn) => ({ pfn, bytes: this.page(pfn) }));
  }

  /** All pages; none is dirty afterwards. */
  takeAll(): Page[] {
    this.#dirty.clear();
    const count = this.#pages.length / PAGE_BYTES;
    return Array.from({ length: count }, (_, pfn) => ({ pfn, bytes: this.page(pfn) }));
  }
}
