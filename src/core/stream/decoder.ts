/**
 * Reads a migration stream's headers as it goes by, never more of it than is there.
 *
 * Two ways to use it:
 *
 * - exact reading, for the sender: ask `need()` how many bytes may be read without crossing a boundary, read no more
 *   than that, and `push()` what came. Nothing is ever read ahead, so the writer can be held at any header;
 * - `decodeChunk()`, for a receiver whose chunks come as they like: it cuts them into parts at the boundaries.
 *
 * Bodies are counted and passed over, except xl's configuration, which is kept. The format is in format.ts.
 *
 *     xl header -> configuration -> libxl header -> LIBXC_CONTEXT -> image -> records ... CHECKPOINT
 *                                                                       ^                     |
 *                                                     CHECKPOINT_END <- libxl records <-------+
 *
 * Checkpoints are counted from 1. Checkpoint 1 is the live round: the guest runs while its pages go by, so nothing
 * holds it. From checkpoint 2 on the guest is suspended before its first PAGE_DATA record is written.
 *
 * The libxl records between CHECKPOINT N and CHECKPOINT_END N belong to checkpoint N: libxc applies checkpoint N only
 * when libxl has read CHECKPOINT_END, and falls back to N-1 when its input ends between the two
 * (tools/libs/guest/xg_sr_restore.c, handle_checkpoint).
 */
import { StreamError } from './error.js';
import {
  CONFIG_BYTES_MAX,
  DOMAIN_HEADER_BYTES,
  DomainType,
  IMAGE_HEADER_BYTES,
  IMAGE_ID,
  IMAGE_MARKER,
  ImageOption,
  LIBXL_HEADER_BYTES,
  LIBXL_IDENT,
  LIBXL_VERSION,
  LibxcRecord,
  LibxlOption,
  LibxlRecord,
  paddedBytes,
  PAGE_BYTES,
  PAGE_SHIFT,
  RECORD_HEADER_BYTES,
  ruleOf,
  XL_BYTE_ORDER,
  XL_HEADER_BYTES,
  XL_MAGIC,
  XlFlag,
} from './format.js';
import { Gather } from './gather.js';
import type { Layer } from './format.js';
import type { StreamErrorCode } from './error.js';

/** What may be read next: at most so many bytes. A `header` makes an event or an error when it is whole. */
export interface Need {
  kind: 'header' | 'body' | 'end';
  /** 0 only at the end. */
  bytes: number;
}

export interface RecordInfo {
  layer: Layer;
  type: number;
  /** As the specifications spell it, `PAGE_DATA`. */
  name: string;
  lengthBytes: number;
  /** What follows the header: the body with its padding. With 0 there is no `record-end`. */
  bodyBytes: number;
  /** The checkpoint that this record belongs to, counted from 1. */
  checkpoint: number;
}

export type StreamEvent =
  /** xl's header and configuration were read. */
  | { kind: 'stream-start'; config: Uint8Array | null; configIsJson: boolean }
  /** libxc's image and domain headers were read. A PVH guest is HVM here. */
  | { kind: 'image-start'; version: 2 | 3; domainType: 'hvm'; xenMajor: number; xenMinor: number }
  | (RecordInfo & {
      kind: 'record-begin';
      /**
       * The first PAGE_DATA record of a checkpoint after the live round, too long for a pipe of one page: the guest is
       * suspended, and stays so while nothing more is read from such a pipe.
       */
      holdsGuest: boolean;
    })
  | (RecordInfo & { kind: 'record-end' })
  /** libxc's CHECKPOINT record; `header` is the whole of it. All memory of the checkpoint has gone by. */
  | { kind: 'checkpoint'; checkpoint: number; header: Uint8Array; hadPages: boolean }
  /** libxl's CHECKPOINT_END record: whoever has the stream up to here can be restored to this checkpoint. */
  | { kind: 'checkpoint-end'; checkpoint: number; header: Uint8Array }
  /** libxc's END, after which libxl's records come, or libxl's END, after which nothing comes. Remus sends neither. */
  | { kind: 'stream-end'; layer: Layer };

type Phase =
  | 'xl-header'
  | 'config-length'
  | 'config'
  | 'config-rest'
  | 'libxl-header'
  | 'image-headers'
  | 'record-header'
  | 'record-body'
  | 'ended';

/** Where libxl's records are: before the image, within a checkpoint, behind the image. */
type LibxlPlace = 'before' | 'checkpoint' | 'after';

const BODIES: ReadonlySet<Phase> = new Set<Phase>(['config', 'config-rest', 'record-body']);

export class StreamDecoder {
  #phase: Phase = 'xl-header';
  /** Bytes of the current header or body that are still to come. */
  #missing = XL_HEADER_BYTES;
  readonly #header = Buffer.alloc(XL_HEADER_BYTES);
  #headerBytes = 0;
  #headerWhole = false;
  #offset = 0;
  #failure: StreamError | null = null;

  #configIsJson = false;
  #optionalBytes = 0;
  #configLength = 0;
  #config: Gather | null = null;

  #layer: Layer = 'libxl';
  #place: LibxlPlace = 'before';
  #version: 2 | 3 = 3;
  #staticDataEnded = false;
  #checkpoint = 1;
  #hadPages = false;
  #record: RecordInfo | null = null;

  /** Bytes pushed so far. */
  get offset(): number {
    return this.#offset;
  }

  /** The checkpoint that is going by, counted from 1. */
  get checkpoint(): number {
    return this.#checkpoint;
  }

  need(): Need {
    if (this.#phase === 'ended') return { kind: 'end', bytes: 0 };
    return { kind: BODIES.has(this.#phase) ? 'body' : 'header', bytes: this.#missing };
  }

  /** A copy of the header that was completed last. */
  takeHeader(): Uint8Array {
    return Uint8Array.prototype.slice.call(this.#header, 0, this.#headerBytes);
  }

  /**
   * Takes bytes, at most as many as `need()` says.
   * @returns the event that these bytes completed, or null
   * @throws StreamError, then and at every further call
   */
  push(chunk: Uint8Array): StreamEvent | null {
    if (this.#failure !== null) throw this.#failure;
    if (chunk.length === 0) return null;
    if (this.#phase === 'ended')
      this.#fail('after-end', 'nothing behind the END record', 'more bytes', this.#headerBytes);
    if (chunk.length > this.#missing)
      throw new RangeError(`${chunk.length} bytes pushed where at most ${this.#missing} may be`);
    if (this.#phase === 'config') this.#config?.push(chunk);
    else if (!BODIES.has(this.#phase)) {
      if (this.#headerWhole) this.#headerBytes = 0;
      this.#header.set(chunk, this.#headerBytes);
      this.#headerBytes += chunk.length;
      this.#headerWhole = chunk.length === this.#missing;
    }
    this.#offset += chunk.length;
    this.#missing -= chunk.length;
    return this.#missing > 0 ? null : this.#complete();
  }

  #complete(): StreamEvent | null {
    switch (this.#phase) {
      case 'xl-header':
        return this.#xlHeader();
      case 'config-length':
        return this.#configHeader();
      case 'config':
        return this.#optionalRest();
      case 'config-rest':
        return this.#streamStart();
      case 'libxl-header':
        return this.#libxlHeader();
      case 'image-headers':
        return this.#imageHeaders();
      case 'record-header':
        return this.#recordHeader();
      case 'record-body':
        return this.#recordEnd();
      case 'ended':
        throw new Error('nothing can be completed behind the end');
    }
  }

  #next(phase: Phase, bytes: number): null {
    this.#phase = phase;
    this.#missing = bytes;
    return null;
  }

  #xlHeader(): StreamEvent | null {
    const header = this.#header;
    if (header.toString('latin1', 0, 32) !== XL_MAGIC)
      this.#fail('bad-magic', 'the magic of an xl stream', hex(header.subarray(0, 32)));
    const order = header.readUInt32LE(32);
    if (order !== XL_BYTE_ORDER)
      this.#fail(
        order === 0x04030201 ? 'big-endian' : 'bad-magic',
        'a little-endian byte order mark',
        word(order),
      );
    const flags = header.readUInt32LE(36);
    if ((flags & ~(XlFlag.json | XlFlag.streamV2)) !== 0)
      this.#fail('unknown-flag', 'mandatory flags JSON and STREAMv2 only', word(flags));
    if ((flags & XlFlag.streamV2) === 0)
      this.#fail('legacy', 'the STREAMv2 flag, which xl sets since Xen 4.6', word(flags));
    this.#configIsJson = (flags & XlFlag.json) !== 0;
    // The optional flags (at 40) may be ignored by whoever doesn't know them, and none are defined.
    this.#optionalBytes = header.readUInt32LE(44);
    if (this.#optionalBytes === 0) return this.#streamStart();
    if (this.#optionalBytes < 4 || this.#optionalBytes > CONFIG_BYTES_MAX)
      this.#fail(
        'bad-length',
        `0 or 4 to ${CONFIG_BYTES_MAX} bytes of optional data`,
        `${this.#optionalBytes}`,
      );
    return this.#next('config-length', 4);
  }

  #configHeader(): StreamEvent | null {
    this.#configLength = this.#header.readUInt32LE(0);
    const left = this.#optionalBytes - 4;
    if (this.#configLength > left)
      this.#fail('bad-length', `a configuration of at most ${left} bytes`, `${this.#configLength}`);
    if (this.#configLength === 0) return this.#optionalRest();
    this.#config = new Gather(this.#configLength);
    return this.#next('config', this.#configLength);
  }

  #optionalRest(): StreamEvent | null {
    const rest = this.#optionalBytes - 4 - this.#configLength;
    return rest > 0 ? this.#next('config-rest', rest) : this.#streamStart();
  }

  #streamStart(): StreamEvent {
    const config = this.#config?.take() ?? null;
    this.#config = null;
    this.#next('libxl-header', LIBXL_HEADER_BYTES);
    return { kind: 'stream-start', config, configIsJson: this.#configIsJson };
  }

  #libxlHeader(): null {
    const header = this.#header;
    if (header.readUInt32BE(0) !== LIBXL_IDENT[0] || header.readUInt32BE(4) !== LIBXL_IDENT[1])
      this.#fail('bad-magic', 'libxl\'s ident "LibxlFmt"', hex(header.subarray(0, 8)));
    const version = header.readUInt32BE(8);
    if (version !== LIBXL_VERSION)
      this.#fail('bad-version', `version ${LIBXL_VERSION} of libxl's format`, `${version}`);
    const options = header.readUInt32BE(12);
    if ((options & LibxlOption.bigEndian) !== 0)
      this.#fail('big-endian', 'little-endian libxl records', word(options));
    if ((options & LibxlOption.legacy) !== 0)
      this.#fail('legacy', 'a stream that was not converted from the legacy format', word(options));
    return this.#next('record-header', RECORD_HEADER_BYTES);
  }

  #imageHeaders(): StreamEvent {
    const header = this.#header;
    if (header.readUInt32BE(0) !== IMAGE_MARKER || header.readUInt32BE(4) !== IMAGE_MARKER)
      this.#fail('bad-magic', 'the marker of a libxc image', hex(header.subarray(0, 8)));
    const id = header.readUInt32BE(8);
    if (id !== IMAGE_ID) this.#fail('bad-magic', 'the id "XENF" of a libxc image', word(id));
    const version = header.readUInt32BE(12);
    if (version !== 2 && version !== 3)
      this.#fail('bad-version', "version 2 or 3 of libxc's format", `${version}`);
    const options = header.readUInt16BE(16);
    if ((options & ImageOption.bigEndian) !== 0)
      this.#fail('big-endian', 'little-endian libxc records', word(options));
    const type = header.readUInt32LE(IMAGE_HEADER_BYTES);
    if (type === DomainType.x86Pv)
      this.#fail(
        'pv-guest',
        'an HVM or PVH guest',
        "a PV guest, which Debian's Xen can neither migrate nor protect: it is built without shadow paging, and " +
          'only with it can the pages that a PV guest writes be tracked',
        IMAGE_HEADER_BYTES,
      );
    if (type !== DomainType.x86Hvm)
      this.#fail('bad-domain-header', 'domain type 2 (x86 HVM)', `${type}`, IMAGE_HEADER_BYTES);
    const shift = header.readUInt16LE(IMAGE_HEADER_BYTES + 4);
    if (shift !== PAGE_SHIFT)
      this.#fail('bad-domain-header', `page shift ${PAGE_SHIFT}`, `${shift}`, IMAGE_HEADER_BYTES + 4);
    this.#version = version;
    this.#layer = 'libxc';
    this.#next('record-header', RECORD_HEADER_BYTES);
    return {
      kind: 'image-start',
      version,
      domainType: 'hvm',
      xenMajor: header.readUInt32LE(IMAGE_HEADER_BYTES + 8),
      xenMinor: header.readUInt32LE(IMAGE_HEADER_BYTES + 12),
    };
  }

  #recordHeader(): StreamEvent {
    const type = this.#header.readUInt32LE(0);
    const lengthBytes = this.#header.readUInt32LE(4);
    const layer = this.#layer;
    const rule = ruleOf(layer, type);
    if (rule === null) this.#fail('unknown-record', `a ${layer} record type that is known`, word(type));
    if ('refused' in rule)
      this.#fail(
        'unexpected-record',
        `a record of an HVM guest under Remus`,
        `${rule.name}: ${rule.refused}`,
      );
    const { name, minBytes, maxBytes, stepBytes } = rule;
    if (lengthBytes < minBytes || lengthBytes > maxBytes || (lengthBytes - minBytes) % stepBytes !== 0)
      this.#fail(
        'bad-length',
        `${name} of ${lengths(minBytes, maxBytes, stepBytes)}`,
        `${lengthBytes} bytes`,
      );
    const record: RecordInfo = {
      layer,
      type,
      name,
      lengthBytes,
      bodyBytes: paddedBytes(lengthBytes),
      checkpoint: this.#checkpoint,
    };
    return layer === 'libxl' ? this.#libxlRecord(record) : this.#libxcRecord(record);
  }

  #libxlRecord(record: RecordInfo): StreamEvent {
    switch (record.type) {
      case LibxlRecord.LIBXC_CONTEXT:
        if (this.#place !== 'before') this.#misplaced(record, 'one LIBXC_CONTEXT, ahead of the image');
        this.#begin(record);
        this.#next('image-headers', IMAGE_HEADER_BYTES + DOMAIN_HEADER_BYTES);
        return { kind: 'record-begin', ...record, holdsGuest: false };
      case LibxlRecord.CHECKPOINT_END: {
        if (this.#place !== 'checkpoint') this.#misplaced(record, 'CHECKPOINT_END only behind a CHECKPOINT');
        this.#layer = 'libxc';
        this.#next('record-header', RECORD_HEADER_BYTES);
        this.#checkpoint++;
        return { kind: 'checkpoint-end', checkpoint: record.checkpoint, header: this.takeHeader() };
      }
      case LibxlRecord.END:
        if (this.#place !== 'after') this.#misplaced(record, "libxl's END only behind libxc's");
        this.#next('ended', 0);
        return { kind: 'stream-end', layer: 'libxl' };
      default:
        this.#begin(record);
        return { kind: 'record-begin', ...record, holdsGuest: false };
    }
  }

  #libxcRecord(record: RecordInfo): StreamEvent {
    switch (record.type) {
      case LibxcRecord.CHECKPOINT: {
        this.#layer = 'libxl';
        this.#place = 'checkpoint';
        this.#next('record-header', RECORD_HEADER_BYTES);
        const hadPages = this.#hadPages;
        this.#hadPages = false;
        return { kind: 'checkpoint', checkpoint: record.checkpoint, header: this.takeHeader(), hadPages };
      }
      case LibxcRecord.END:
        this.#layer = 'libxl';
        this.#place = 'after';
        this.#next('record-header', RECORD_HEADER_BYTES);
        return { kind: 'stream-end', layer: 'libxc' };
      case LibxcRecord.STATIC_DATA_END:
        if (this.#staticDataEnded) this.#misplaced(record, 'one STATIC_DATA_END, ahead of the pages');
        this.#staticDataEnded = true;
        break;
      case LibxcRecord.PAGE_DATA: {
        // Version 2 has no such record; there the first pages end the static data.
        if (this.#version === 2) this.#staticDataEnded = true;
        if (!this.#staticDataEnded) this.#misplaced(record, 'STATIC_DATA_END ahead of the pages');
        const first = !this.#hadPages;
        this.#hadPages = true;
        this.#begin(record);
        const holdsGuest = first && record.checkpoint > 1 && record.lengthBytes > PAGE_BYTES;
        return { kind: 'record-begin', ...record, holdsGuest };
      }
      default:
        break;
    }
    this.#begin(record);
    return { kind: 'record-begin', ...record, holdsGuest: false };
  }

  #begin(record: RecordInfo): void {
    this.#record = record;
    if (record.bodyBytes > 0) this.#next('record-body', record.bodyBytes);
    else this.#next('record-header', RECORD_HEADER_BYTES);
  }

  #recordEnd(): StreamEvent {
    const record = this.#record;
    if (record === null) throw new Error('a body without a record');
    this.#next('record-header', RECORD_HEADER_BYTES);
    return { kind: 'record-end', ...record };
  }

  #misplaced(record: RecordInfo, expected: string): never {
    this.#fail('unexpected-record', expected, `${record.name} of ${record.layer} here`);
  }

  /** @param at where in the header that was just read; the offset reported is the stream's */
  #fail(code: StreamErrorCode, expected: string, found: string, at = 0): never {
    this.#failure = new StreamError(code, this.#offset - this.#headerBytes + at, expected, found);
    throw this.#failure;
  }
}

/** A piece of the stream between two boundaries. */
export interface StreamPart {
  /** A header is always whole and a copy; a body's bytes are a view of the chunk. */
  kind: 'header' | 'body';
  bytes: Uint8Array;
  event: StreamEvent | null;
}

/**
 * Feeds a chunk of any size. The parts joined are the stream up to here, except for a header that is not whole yet:
 * the decoder keeps that one until it is.
 * @throws StreamError from the iteration, when everything ahead of the fault has been handed over
 */
export function* decodeChunk(
  decoder: StreamDecoder,
  chunk: Uint8Array,
): Generator<StreamPart, void, undefined> {
  for (let at = 0; at < chunk.length;) {
    const { kind, bytes } = decoder.need();
    const piece = chunk.subarray(at, at + Math.max(1, bytes));
    const event = decoder.push(piece);
    at += piece.length;
    if (kind === 'body') yield { kind, bytes: piece, event };
    else if (piece.length === bytes) yield { kind: 'header', bytes: decoder.takeHeader(), event };
  }
}

function word(value: number): string {
  return `0x${value.toString(16).padStart(8, '0')}`;
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}

function lengths(minBytes: number, maxBytes: number, stepBytes: number): string {
  if (minBytes === maxBytes) return `${minBytes} bytes`;
  return `${minBytes} to ${maxBytes} bytes${stepBytes > 1 ? ` in steps of ${stepBytes}` : ''}`;
}
