/**
 * Writes migration streams like those of `xl remus`: for the embedded hypervisor and for tests.
 *
 *     preamble, imageHeaders, [policies], staticDataEnd,
 *     then for each checkpoint: pages, tscInfo, hvmContext, hvmParams, checkpoint, checkpointEnd
 *
 * Everything is a list of parts to be written one after the other, so that pages are not copied. The format and its
 * sources are in format.ts.
 */
import {
  BATCH_PAGES,
  DOMAIN_HEADER_BYTES,
  DomainType,
  hasPageData,
  IMAGE_HEADER_BYTES,
  IMAGE_ID,
  IMAGE_MARKER,
  LIBXL_HEADER_BYTES,
  LIBXL_IDENT,
  LIBXL_VERSION,
  LibxcRecord,
  LibxlRecord,
  paddedBytes,
  PAGE_BYTES,
  PAGE_SHIFT,
  PageType,
  RECORD_HEADER_BYTES,
  XL_BYTE_ORDER,
  XL_HEADER_BYTES,
  XL_MAGIC,
  XlFlag,
} from './format.js';

export type Parts = readonly Uint8Array[];

export interface Page {
  /** The guest's page number, below 2^52. */
  pfn: number;
  /** 4096 bytes. */
  bytes: Uint8Array;
}

/** A record of either layer, padded. */
export function encodeRecord(type: number, ...body: Uint8Array[]): Parts {
  const lengthBytes = body.reduce((sum, part) => sum + part.length, 0);
  const header = Buffer.alloc(RECORD_HEADER_BYTES);
  header.writeUInt32LE(type, 0);
  header.writeUInt32LE(lengthBytes, 4);
  const padding = paddedBytes(lengthBytes) - lengthBytes;
  return padding > 0 ? [header, ...body, Buffer.alloc(padding)] : [header, ...body];
}

/** xl's header with the guest's configuration, libxl's header, and LIBXC_CONTEXT. */
export function encodePreamble(config: Uint8Array, configIsJson: boolean): Parts {
  const xl = Buffer.alloc(XL_HEADER_BYTES + 4);
  xl.write(XL_MAGIC, 'latin1');
  xl.writeUInt32LE(XL_BYTE_ORDER, 32);
  xl.writeUInt32LE(XlFlag.streamV2 | (configIsJson ? XlFlag.json : 0), 36);
  xl.writeUInt32LE(4 + config.length, 44);
  xl.writeUInt32LE(config.length, XL_HEADER_BYTES);
  const libxl = Buffer.alloc(LIBXL_HEADER_BYTES);
  libxl.writeUInt32BE(LIBXL_IDENT[0], 0);
  libxl.writeUInt32BE(LIBXL_IDENT[1], 4);
  libxl.writeUInt32BE(LIBXL_VERSION, 8);
  return [xl, config, libxl, ...encodeRecord(LibxlRecord.LIBXC_CONTEXT)];
}

/** libxc's image header and domain header of an HVM or PVH guest. */
export function encodeImageHeaders(options: { version: 2 | 3; xenMajor: number; xenMinor: number }): Parts {
  const bytes = Buffer.alloc(IMAGE_HEADER_BYTES + DOMAIN_HEADER_BYTES);
  bytes.writeUInt32BE(IMAGE_MARKER, 0);
  bytes.writeUInt32BE(IMAGE_MARKER, 4);
  bytes.writeUInt32BE(IMAGE_ID, 8);
  bytes.writeUInt32BE(options.version, 12);
  bytes.writeUInt32LE(DomainType.x86Hvm, IMAGE_HEADER_BYTES);
  bytes.writeUInt16LE(PAGE_SHIFT, IMAGE_HEADER_BYTES + 4);
  bytes.writeUInt32LE(options.xenMajor, IMAGE_HEADER_BYTES + 8);
  bytes.writeUInt32LE(options.xenMinor, IMAGE_HEADER_BYTES + 12);
  return [bytes];
}

/** In a stream of version 3, ahead of the first pages. */
export function encodeStaticDataEnd(): Parts {
  return encodeRecord(LibxcRecord.STATIC_DATA_END);
}

export function encodeCpuidPolicy(leaves: Uint8Array): Parts {
  return encodeRecord(LibxcRecord.X86_CPUID_POLICY, leaves);
}

export function encodeMsrPolicy(entries: Uint8Array): Parts {
  return encodeRecord(LibxcRecord.X86_MSR_POLICY, entries);
}

/** PAGE_DATA records of at most 1024 pages, in the order given. */
export function encodePages(pages: readonly Page[]): Parts {
  const parts: Uint8Array[] = [];
  for (let at = 0; at < pages.length; at += BATCH_PAGES) {
    const batch = pages.slice(at, at + BATCH_PAGES);
    for (const { bytes } of batch)
      if (bytes.length !== PAGE_BYTES) throw new RangeError(`a page of ${bytes.length} bytes`);
    const list = batch.map(({ pfn }) => ({ pfn, type: PageType.normal }));
    parts.push(...encodeRecord(LibxcRecord.PAGE_DATA, pageList(list), ...batch.map((page) => page.bytes)));
  }
  return parts;
}

/** A PAGE_DATA record that names pages of a type without data. */
export function encodePagesWithoutData(pfns: readonly number[], type: number): Parts {
  if (hasPageData(type)) throw new RangeError(`pages of type ${type} have data`);
  return encodeRecord(LibxcRecord.PAGE_DATA, pageList(pfns.map((pfn) => ({ pfn, type }))));
}

function pageList(pages: readonly { pfn: number; type: number }[]): Buffer {
  const list = Buffer.alloc(8 + 8 * pages.length);
  list.writeUInt32LE(pages.length, 0);
  for (const [index, { pfn, type }] of pages.entries())
    list.writeBigUInt64LE((BigInt(type) << 60n) | BigInt(pfn), 8 + 8 * index);
  return list;
}

/** @param nanoseconds the guest's time */
export function encodeTscInfo(mode: number, khz: number, nanoseconds: bigint, incarnation: number): Parts {
  const body = Buffer.alloc(24);
  body.writeUInt32LE(mode, 0);
  body.writeUInt32LE(khz, 4);
  body.writeBigUInt64LE(nanoseconds, 8);
  body.writeUInt32LE(incarnation, 16);
  return encodeRecord(LibxcRecord.X86_TSC_INFO, body);
}

export function encodeHvmContext(context: Uint8Array): Parts {
  return encodeRecord(LibxcRecord.HVM_CONTEXT, context);
}

export function encodeHvmParams(params: readonly { index: bigint; value: bigint }[]): Parts {
  const body = Buffer.alloc(8 + 16 * params.length);
  body.writeUInt32LE(params.length, 0);
  for (const [at, { index, value }] of params.entries()) {
    body.writeBigUInt64LE(index, 8 + 16 * at);
    body.writeBigUInt64LE(value, 16 + 16 * at);
  }
  return encodeRecord(LibxcRecord.HVM_PARAMS, body);
}

export function encodeCheckpoint(): Parts {
  return encodeRecord(LibxcRecord.CHECKPOINT);
}

/** Of libxl, like the two below. */
export function encodeCheckpointEnd(): Parts {
  return encodeRecord(LibxlRecord.CHECKPOINT_END);
}

/** @param emulator 2 for the QEMU of today */
export function encodeEmulatorXenstoreData(emulator: number, index: number, pairs: Uint8Array): Parts {
  return encodeRecord(LibxlRecord.EMULATOR_XENSTORE_DATA, emulatorHeader(emulator, index), pairs);
}

export function encodeEmulatorContext(emulator: number, index: number, context: Uint8Array): Parts {
  return encodeRecord(LibxlRecord.EMULATOR_CONTEXT, emulatorHeader(emulator, index), context);
}

function emulatorHeader(emulator: number, index: number): Buffer {
  const header = Buffer.alloc(8);
  header.writeUInt32LE(emulator, 0);
  header.writeUInt32LE(index, 4);
  return header;
}

/** The end of a plain migration: libxc's END, then libxl's. Remus never writes it. */
export function encodeEnd(): Parts {
  return [...encodeRecord(LibxcRecord.END), ...encodeRecord(LibxlRecord.END)];
}
