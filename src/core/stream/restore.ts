/**
 * Applies a stream to a guest's pages in the order in which libxc and libxl do: for the embedded hypervisor.
 *
 * Records of the live round are applied as they come. From the first whole checkpoint on they are kept back until
 * CHECKPOINT_END, because libxc asks libxl to read up to there before it applies anything. The end of the input leaves
 * the last whole checkpoint; before the first one there is nothing to go on with. But between CHECKPOINT and
 * CHECKPOINT_END the input may not end: there it is libxl that reads, and libxl 4.17 then spins for ever and never
 * starts the guest (seen in the lab). libxc's END ends a plain stream, and in a checkpointed one drops what is kept back.
 *
 * Source: Xen, tools/libs/guest/xg_sr_restore.c (handle_checkpoint, restore).
 */
import { decodeChunk, StreamDecoder } from './decoder.js';
import { StreamError } from './error.js';
import { hasPageData, isPageType, LibxcRecord, PAGE_BYTES, PageType } from './format.js';
import { Gather } from './gather.js';
import type { RecordInfo, StreamEvent } from './decoder.js';

export interface RestoreLimits {
  /** Page numbers have to be below. */
  pfnEnd: number;
  /** Bytes of one checkpoint's records. */
  bufferedBytesMax: number;
}

/** A guest as of its last whole checkpoint. */
export interface Restored {
  /** 0 for a plain stream that ended whole. */
  checkpoint: number;
  config: Uint8Array | null;
  /** By page number. Pages that are not here are zero. */
  pages: ReadonlyMap<number, Uint8Array>;
  hvmContext: Uint8Array | null;
  hvmParams: Uint8Array | null;
}

interface KeptRecord {
  type: number;
  body: Buffer;
  /** Where its body begins in the stream. */
  offset: number;
}

export class StreamRestore {
  readonly #decoder = new StreamDecoder();
  readonly #limits: RestoreLimits;
  readonly #pages = new Map<number, Uint8Array>();
  #config: Uint8Array | null = null;
  #hvmContext: Uint8Array | null = null;
  #hvmParams: Uint8Array | null = null;

  #gather: Gather | null = null;
  #bodyOffset = 0;
  #kept: KeptRecord[] = [];
  #keptBytes = 0;
  #checkpoint = 0;
  #ended = false;
  /** CHECKPOINT was read: what follows is libxl's. */
  #isInTail = false;

  constructor(limits: RestoreLimits) {
    this.#limits = limits;
  }

  /** The last whole checkpoint; 0 when there is none. */
  get checkpoint(): number {
    return this.#checkpoint;
  }

  /** @throws StreamError */
  push(chunk: Uint8Array): void {
    for (const { kind, bytes, event } of decodeChunk(this.#decoder, chunk)) {
      if (kind === 'body') this.#gather?.push(bytes);
      if (event !== null) this.#take(event);
    }
  }

  /**
   * The input has ended.
   * @throws StreamError `truncated` when no checkpoint was whole, or where libxl would wait for ever
   */
  end(): Restored {
    if (this.#isInTail)
      throw new StreamError('truncated', this.#decoder.offset, 'CHECKPOINT_END', 'the end of the input');
    if (this.#checkpoint === 0 && !this.#ended)
      throw new StreamError('truncated', this.#decoder.offset, 'a whole checkpoint', 'the end of the input');
    return {
      checkpoint: this.#checkpoint,
      config: this.#config,
      pages: this.#pages,
      hvmContext: this.#hvmContext,
      hvmParams: this.#hvmParams,
    };
  }

  #take(event: StreamEvent): void {
    switch (event.kind) {
      case 'stream-start':
        this.#config = event.config;
        break;
      case 'record-begin':
        this.#begin(event);
        break;
      case 'record-end':
        this.#recordEnd(event);
        break;
      case 'checkpoint-end':
        for (const record of this.#kept) this.#apply(record);
        this.#dropKept();
        this.#checkpoint = event.checkpoint;
        this.#isInTail = false;
        break;
      case 'stream-end':
        this.#dropKept();
        this.#ended = true;
        break;
      case 'checkpoint':
        this.#isInTail = true;
        break;
      case 'image-start':
        break;
    }
  }

  #begin(record: RecordInfo): void {
    if (record.layer !== 'libxc') return;
    if (record.type === LibxcRecord.VERIFY)
      throw new StreamError(
        'unexpected-record',
        this.#decoder.offset,
        'no VERIFY in a checkpointed stream',
        'VERIFY',
      );
    this.#keptBytes += record.lengthBytes;
    if (this.#checkpoint > 0 && this.#keptBytes > this.#limits.bufferedBytesMax)
      throw new StreamError(
        'over-limit',
        this.#decoder.offset,
        `at most ${this.#limits.bufferedBytesMax} bytes in a checkpoint`,
        `${this.#keptBytes}`,
      );
    this.#bodyOffset = this.#decoder.offset;
    this.#gather = new Gather(record.lengthBytes);
    if (record.bodyBytes === 0) this.#recordEnd(record);
  }

  #recordEnd(info: RecordInfo): void {
    if (this.#gather === null) return;
    const record = { type: info.type, body: this.#gather.take(), offset: this.#bodyOffset };
    this.#gather = null;
    if (this.#checkpoint > 0) this.#kept.push(record);
    else this.#apply(record);
  }

  #dropKept(): void {
    this.#kept = [];
    this.#keptBytes = 0;
  }

  #apply(record: KeptRecord): void {
    if (record.type === LibxcRecord.PAGE_DATA) this.#applyPages(record);
    else if (record.type === LibxcRecord.HVM_CONTEXT) this.#hvmContext = record.body;
    else if (record.type === LibxcRecord.HVM_PARAMS) this.#hvmParams = record.body;
  }

  #applyPages({ body, offset }: KeptRecord): void {
    const count = body.readUInt32LE(0);
    let at = 8 + 8 * count;
    if (count === 0 || at > body.length)
      throw new StreamError('bad-body', offset, `a count of 1 to ${(body.length - 8) / 8}`, `${count}`);
    for (let index = 0; index < count; index++) {
      const low = body.readUInt32LE(8 + 8 * index);
      const high = body.readUInt32LE(12 + 8 * index);
      const type = high >>> 28;
      const pfn = (high & 0xf_ffff) * 0x1_0000_0000 + low;
      const where = offset + 8 + 8 * index;
      if (!isPageType(type)) throw new StreamError('bad-body', where, 'a page type', `${type}`);
      if (pfn >= this.#limits.pfnEnd)
        throw new StreamError('over-limit', where, `a page number below ${this.#limits.pfnEnd}`, `${pfn}`);
      if (hasPageData(type)) {
        if (at + PAGE_BYTES > body.length)
          throw new StreamError('bad-body', where, 'the data of each page', `${body.length} bytes`);
        this.#setPage(pfn, body.subarray(at, at + PAGE_BYTES));
        at += PAGE_BYTES;
      } else if (type === PageType.allocateOnly && !this.#pages.has(pfn))
        this.#setPage(pfn, new Uint8Array(PAGE_BYTES));
    }
    if (at !== body.length)
      throw new StreamError('bad-body', offset, `${at} bytes for its pages`, `${body.length}`);
  }

  /** Into the page's own memory, so that no old record is kept for the sake of a page of it. */
  #setPage(pfn: number, bytes: Uint8Array): void {
    const page = this.#pages.get(pfn);
    if (page === undefined) this.#pages.set(pfn, Uint8Array.from(bytes));
    else page.set(bytes);
  }
}
