/** Finds the guest's ledger in a migration stream as it goes by: the content that its page has up to here. */
import { decodeChunk, StreamDecoder } from '../../src/core/stream/decoder.js';
import type { RecordInfo } from '../../src/core/stream/decoder.js';
import { hasPageData, LibxcRecord, PAGE_BYTES } from '../../src/core/stream/format.js';
import { Gather } from '../../src/core/stream/gather.js';
import { isLedgerPage, parseLedgerPage } from './ledger-format.js';
import type { LedgerPage } from './ledger-format.js';

export class LedgerMemory {
  readonly #decoder = new StreamDecoder();
  #gather: Gather | null = null;
  #page: LedgerPage | null = null;
  #pfn: number | null = null;

  /** @throws StreamError; Error when there are two ledgers */
  push(chunk: Uint8Array): void {
    for (const { kind, bytes, event } of decodeChunk(this.#decoder, chunk)) {
      if (kind === 'body') this.#gather?.push(bytes);
      if (event?.kind === 'record-begin')
        this.#gather = isPages(event) ? new Gather(event.lengthBytes) : null;
      if (event?.kind === 'record-end' && this.#gather !== null) {
        this.#pages(this.#gather.take());
        this.#gather = null;
      }
    }
  }

  /** As of the last byte; null before it was seen. */
  get page(): LedgerPage | null {
    return this.#page;
  }

  /** A PAGE_DATA record: count u32, zero u32, page numbers with their types, then the pages that have data. */
  #pages(body: Buffer): void {
    const count = body.readUInt32LE(0);
    let at = 8 + 8 * count;
    for (let index = 0; index < count; index++) {
      const high = body.readUInt32LE(12 + 8 * index);
      if (!hasPageData(high >>> 28)) continue;
      const page = body.subarray(at, at + PAGE_BYTES);
      at += PAGE_BYTES;
      if (!isLedgerPage(page)) continue;
      const pfn = (high & 0xf_ffff) * 0x1_0000_0000 + body.readUInt32LE(8 + 8 * index);
      if (this.#pfn !== null && this.#pfn !== pfn) {
        throw new Error(`pages ${this.#pfn} and ${pfn} both look like the ledger's`);
      }
      this.#pfn = pfn;
      this.#page = parseLedgerPage(page);
    }
  }
}

function isPages({ layer, type }: RecordInfo): boolean {
  return layer === 'libxc' && type === LibxcRecord.PAGE_DATA;
}
