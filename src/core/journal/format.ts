/**
 * The journal's format on disk: superblock, frames, the discard area, and the marker that arrives on the
 * barrier volume. Encoding and decoding only; docs/journal-format.md has the octet diagrams and the rules of
 * recovery. All integers are little-endian. Checksums are CRC32C (RFC 3720, appendix B.4).
 *
 *     superblock A | superblock B | discard area | segment 0 | segment 1 | ...
 *     segment:  frame | frame | ... ;  a frame never crosses the end of its segment
 *     frame:    header sectors (header, descriptors) | payload sectors
 */
import { crc32c } from '@node-rs/crc32';
import { BLOCK_BYTES, JournalError, SECTOR_BYTES, VOLUMES_MAX } from './types.js';
import type { JournalMode, SessionEnd, VolumeSpec } from './types.js';

export const FORMAT_VERSION = 1;
export const SUPERBLOCK_BYTES = BLOCK_BYTES;

const SUPER_MAGIC = Buffer.from('RDRBDJNL', 'latin1');
const FRAME_MAGIC = 0x464a4452; // "RDJF" as bytes
const AREA_MAGIC = 0x414a4452; // "RDJA" as bytes
const MARKER_MAGIC = Buffer.from('RDRBDMRK', 'latin1');

const SUPER_VOLUMES_OFFSET = 256;
const SUPER_VOLUME_BYTES = 64;
const SUPER_VOLUME_NAME_BYTES = 48;
const SUPER_DOMAIN_BYTES = 62;

const SESSION_ENDS: readonly SessionEnd[] = ['none', 'forward', 'back'];

const FRAME_HEADER_BYTES = 80;
export const DESCRIPTOR_BYTES = 16;
/** A session frame carries the session's id where a data frame has its first descriptor. */
export const SESSION_ID_OFFSET = FRAME_HEADER_BYTES;
/** Bounded by what one vectored write takes (IOV_MAX is 1024 on Linux), with room for header and padding. */
export const DESCRIPTORS_MAX = 512;

/** So large that the control frames of a full journal fit into one. */
const SEGMENT_BYTES_MIN = 64 << 10;

/** The largest single write takes 257 entries. */
const INDEX_ENTRIES_MIN = 1024;

/** Where a journal's parts lie. Fixed when it is formatted. */
export interface Layout {
  sizeBytes: number;
  segmentBytes: number;
  segments: number;
  /** First byte of segment 0. */
  dataOffset: number;
  discardAreaOffset: number;
  discardAreaBytes: number;
  /** Most entries of the index in memory. */
  indexEntries: number;
}

/** A place in the log. */
export interface LogPosition {
  segment: number;
  offsetBytes: number;
}

/** What the journal must know before it reads the first frame. */
export interface Superblock {
  generation: number;
  journalId: Uint8Array;
  layout: Layout;
  domain: string;
  volumes: VolumeSpec[];
  /** The highest incarnation ever begun; each opening for writing begins one. */
  incarnation: number;
  /** The oldest frame still needed: where it is, its sequence number and incarnation. */
  head: LogPosition;
  headSeq: number;
  headIncarnation: number;
  headOrdinal: number;
  /** Every frame up to this one had been flushed when the superblock was written. */
  durableSeq: number;
  /** The state as it was just before the head. */
  mode: JournalMode;
  term: number;
  session: Uint8Array;
  /** Number of the last committed epoch of the session, or null. */
  committedEpoch: number | null;
  /** Every write of an ordinal up to this one is committed. */
  committedOrdinal: number;
  /** Number of the last marker accepted in the session, or null. */
  closedEpoch: number | null;
  ended: SessionEnd;
  committedAtMs: number;
  /** Set while the ranges in the discard area have not been reported as marked. */
  discardPending: boolean;
  discardLengthBytes: number;
  discardCrc: number;
}

export const FrameKind = {
  data: 1,
  /** A session begins: everything before is committed. */
  session: 2,
  commit: 3,
  /** The session ends forward: everything before is committed. */
  forward: 4,
  /** The session ends backward: everything above the last commit is void. */
  discard: 5,
  /** Closed in order; nothing was in flight. */
  close: 6,
} as const;
export type FrameKind = (typeof FrameKind)[keyof typeof FrameKind];

export const FrameFlag = {
  /** The last descriptor is the marker that closes the epoch. */
  closes: 1,
  /** The first frame of its incarnation. */
  first: 2,
} as const;

export const DescriptorOp = { write: 1, zero: 2, trim: 3 } as const;
export type DescriptorOp = (typeof DescriptorOp)[keyof typeof DescriptorOp];

/** One write as the frame describes it. A zero or trim owns one payload sector, so that every write has a place in the order of the log. */
export interface Descriptor {
  op: DescriptorOp;
  volume: number;
  sector: number;
  sectors: number;
  crc: number;
}

export interface FrameHeader {
  kind: FrameKind;
  flags: number;
  count: number;
  incarnation: number;
  seq: number;
  /** Every frame up to this one had been flushed when this one was written. */
  durableSeq: number;
  /** Which stretch between two markers the frame belongs to; counts up by one. */
  ordinal: number;
  /** The epoch it closes, commits or goes back to; null for none. */
  epoch: number | null;
  timeMs: number;
  headerSectors: number;
  payloadSectors: number;
  term: number;
}

function putU64(view: DataView, offset: number, value: number): void {
  view.setUint32(offset, value >>> 0, true);
  view.setUint32(offset + 4, Math.floor(value / 0x1_0000_0000), true);
}

/** @throws RangeError above 2^53, which no field of ours reaches */
function getU64(view: DataView, offset: number): number {
  const high = view.getUint32(offset + 4, true);
  if (high > 0x1f_ffff) throw new RangeError('a 64-bit field is above 2^53');
  return high * 0x1_0000_0000 + view.getUint32(offset, true);
}

function putEpoch(view: DataView, offset: number, epoch: number | null): void {
  if (epoch !== null) putU64(view, offset, epoch);
  else {
    view.setUint32(offset, 0xffff_ffff, true);
    view.setUint32(offset + 4, 0xffff_ffff, true);
  }
}

function getEpoch(view: DataView, offset: number): number | null {
  if (view.getUint32(offset, true) === 0xffff_ffff && view.getUint32(offset + 4, true) === 0xffff_ffff)
    return null;
  return getU64(view, offset);
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Extends a CRC32C over the next piece of the same stream. */
export function crcOf(bytes: Uint8Array, previous = 0): number {
  return crc32c(bytes, previous);
}

export interface LayoutOptions {
  sizeBytes: number;
  /** Default: 1/32 of the journal, between 64 KiB and 16 MiB. */
  segmentBytes?: number;
  /** Default: one entry for each 4 KiB of segments, and 1/8 more. */
  indexEntries?: number;
}

/**
 * Divides a journal of the given size.
 * @throws JournalError `invalid` when the size or a choice cannot work
 */
export function layOut(options: LayoutOptions): Layout {
  const sizeBytes = Math.floor(options.sizeBytes / BLOCK_BYTES) * BLOCK_BYTES;
  const wanted =
    options.segmentBytes ?? Math.min(16 << 20, Math.max(SEGMENT_BYTES_MIN, floorPowerOfTwo(sizeBytes / 32)));
  if (wanted < SEGMENT_BYTES_MIN || wanted > 1 << 30 || wanted % BLOCK_BYTES !== 0) {
    throw new JournalError(
      'invalid',
      `segment of ${wanted} bytes: 64 KiB to 1 GiB in steps of 4 KiB is required`,
    );
  }
  const discardAreaOffset = 2 * SUPERBLOCK_BYTES;
  // 16 bytes for each 4 KiB that may be dropped; ranges are merged, and coarsened if even that is too little.
  const discardAreaBytes = Math.max(16 << 10, Math.ceil(sizeBytes / 256 / BLOCK_BYTES) * BLOCK_BYTES);
  const dataOffset = discardAreaOffset + discardAreaBytes;
  const segments = Math.floor((sizeBytes - dataOffset) / wanted);
  if (segments < 4) {
    throw new JournalError(
      'invalid',
      `a journal of ${sizeBytes} bytes has room for ${Math.max(0, segments)} segments of ${wanted} bytes; 4 are required`,
    );
  }
  if (sizeBytes / SECTOR_BYTES > 0xffff_ffff) {
    throw new JournalError('invalid', `a journal of ${sizeBytes} bytes is above the limit of 2 TiB`);
  }
  const blocks = (segments * wanted) / BLOCK_BYTES;
  if (options.indexEntries !== undefined && options.indexEntries < INDEX_ENTRIES_MIN) {
    throw new JournalError(
      'invalid',
      `an index of ${options.indexEntries} entries; ${INDEX_ENTRIES_MIN} are required`,
    );
  }
  return {
    sizeBytes,
    segmentBytes: wanted,
    segments,
    dataOffset,
    discardAreaOffset,
    discardAreaBytes,
    indexEntries: options.indexEntries ?? blocks + Math.ceil(blocks / 8) + 2048,
  };
}

function floorPowerOfTwo(value: number): number {
  return 2 ** Math.floor(Math.log2(Math.max(1, value)));
}

/**
 * @returns 4096 bytes
 * @throws JournalError `invalid` when a name is too long
 */
export function encodeSuperblock(superblock: Superblock): Buffer {
  const bytes = Buffer.alloc(SUPERBLOCK_BYTES);
  const view = viewOf(bytes);
  const { layout } = superblock;
  SUPER_MAGIC.copy(bytes, 0);
  view.setUint16(8, FORMAT_VERSION, true);
  putU64(view, 16, superblock.generation);
  bytes.set(superblock.journalId.subarray(0, 16), 24);
  putU64(view, 40, layout.sizeBytes);
  view.setUint32(48, layout.segmentBytes, true);
  view.setUint32(52, layout.segments, true);
  putU64(view, 56, layout.dataOffset);
  putU64(view, 64, layout.discardAreaBytes);
  view.setUint32(72, superblock.incarnation, true);
  view.setUint32(76, superblock.headIncarnation, true);
  view.setUint32(80, superblock.head.segment, true);
  view.setUint32(84, superblock.head.offsetBytes, true);
  putU64(view, 88, superblock.headSeq);
  putU64(view, 96, superblock.headOrdinal);
  putU64(view, 104, superblock.durableSeq);
  view.setUint8(112, superblock.mode === 'epochs' ? 1 : 0);
  view.setUint8(113, superblock.discardPending ? 1 : 0);
  view.setUint8(114, SESSION_ENDS.indexOf(superblock.ended));
  view.setUint32(116, layout.indexEntries, true);
  putU64(view, 120, superblock.term);
  bytes.set(superblock.session.subarray(0, 16), 128);
  putEpoch(view, 144, superblock.committedEpoch);
  putU64(view, 152, superblock.committedOrdinal);
  putEpoch(view, 160, superblock.closedEpoch);
  putU64(view, 168, superblock.committedAtMs);
  view.setUint32(176, superblock.discardLengthBytes, true);
  view.setUint32(180, superblock.discardCrc, true);
  const domain = Buffer.from(superblock.domain, 'utf8');
  if (domain.length > SUPER_DOMAIN_BYTES)
    throw new JournalError('invalid', `domain name is longer than ${SUPER_DOMAIN_BYTES} bytes`);
  view.setUint8(192, domain.length);
  view.setUint8(193, superblock.volumes.length);
  domain.copy(bytes, 194);
  if (superblock.volumes.length < 1 || superblock.volumes.length > VOLUMES_MAX) {
    throw new JournalError(
      'invalid',
      `${superblock.volumes.length} volumes: 1 to ${VOLUMES_MAX} are possible`,
    );
  }
  superblock.volumes.forEach((volume, index) => {
    const at = SUPER_VOLUMES_OFFSET + index * SUPER_VOLUME_BYTES;
    const name = Buffer.from(volume.name, 'utf8');
    if (name.length < 1 || name.length > SUPER_VOLUME_NAME_BYTES) {
      throw new JournalError(
        'invalid',
        `volume name ${volume.name}: 1 to ${SUPER_VOLUME_NAME_BYTES} bytes are possible`,
      );
    }
    putU64(view, at, volume.sizeBytes);
    view.setUint8(at + 8, volume.barrier ? 1 : 0);
    view.setUint8(at + 9, name.length);
    name.copy(bytes, at + 16);
  });
  view.setUint32(12, crc32c(bytes), true);
  return bytes;
}

/** @returns the superblock, or in words why these bytes are none */
export function decodeSuperblock(source: Uint8Array): Superblock | string {
  if (source.length < SUPERBLOCK_BYTES) return 'shorter than a superblock';
  const bytes = Buffer.from(source.subarray(0, SUPERBLOCK_BYTES));
  const view = viewOf(bytes);
  if (!bytes.subarray(0, 8).equals(SUPER_MAGIC)) return 'no journal superblock here';
  const version = view.getUint16(8, true);
  if (version !== FORMAT_VERSION)
    return `format version ${version}, this program knows version ${FORMAT_VERSION}`;
  const crc = view.getUint32(12, true);
  view.setUint32(12, 0, true);
  if (crc32c(bytes) !== crc) return 'checksum of the superblock does not match';
  try {
    const discardAreaBytes = getU64(view, 64);
    const layout: Layout = {
      sizeBytes: getU64(view, 40),
      segmentBytes: view.getUint32(48, true),
      segments: view.getUint32(52, true),
      dataOffset: getU64(view, 56),
      discardAreaOffset: 2 * SUPERBLOCK_BYTES,
      discardAreaBytes,
      indexEntries: view.getUint32(116, true),
    };
    if (
      layout.segments < 4 ||
      layout.segmentBytes < BLOCK_BYTES ||
      layout.dataOffset !== layout.discardAreaOffset + discardAreaBytes ||
      layout.dataOffset + layout.segments * layout.segmentBytes > layout.sizeBytes
    ) {
      return 'the layout in the superblock contradicts itself';
    }
    const head: LogPosition = { segment: view.getUint32(80, true), offsetBytes: view.getUint32(84, true) };
    if (
      head.segment >= layout.segments ||
      head.offsetBytes > layout.segmentBytes ||
      head.offsetBytes % SECTOR_BYTES !== 0
    ) {
      return 'the head in the superblock is outside the segments';
    }
    const volumeCount = view.getUint8(193);
    const domainLength = view.getUint8(192);
    if (volumeCount < 1 || volumeCount > VOLUMES_MAX || domainLength > SUPER_DOMAIN_BYTES) {
      return 'the superblock names an impossible number of volumes';
    }
    const volumes: VolumeSpec[] = [];
    for (let index = 0; index < volumeCount; index++) {
      const at = SUPER_VOLUMES_OFFSET + index * SUPER_VOLUME_BYTES;
      const nameLength = view.getUint8(at + 9);
      if (nameLength > SUPER_VOLUME_NAME_BYTES) return 'a volume name in the superblock is too long';
      volumes.push({
        name: bytes.toString('utf8', at + 16, at + 16 + nameLength),
        sizeBytes: getU64(view, at),
        barrier: view.getUint8(at + 8) === 1,
      });
    }
    return {
      generation: getU64(view, 16),
      journalId: Uint8Array.from(bytes.subarray(24, 40)),
      layout,
      domain: bytes.toString('utf8', 194, 194 + domainLength),
      volumes,
      incarnation: view.getUint32(72, true),
      headIncarnation: view.getUint32(76, true),
      head,
      headSeq: getU64(view, 88),
      headOrdinal: getU64(view, 96),
      durableSeq: getU64(view, 104),
      mode: view.getUint8(112) === 1 ? 'epochs' : 'through',
      discardPending: view.getUint8(113) === 1,
      term: getU64(view, 120),
      session: Uint8Array.from(bytes.subarray(128, 144)),
      committedEpoch: getEpoch(view, 144),
      committedOrdinal: getU64(view, 152),
      closedEpoch: getEpoch(view, 160),
      ended: SESSION_ENDS[view.getUint8(114)] ?? 'none',
      committedAtMs: getU64(view, 168),
      discardLengthBytes: view.getUint32(176, true),
      discardCrc: view.getUint32(180, true),
    };
  } catch (error) {
    if (error instanceof RangeError) return error.message;
    throw error;
  }
}

/** Byte offset on the journal's disk. */
export function positionToOffset(layout: Layout, position: LogPosition): number {
  return layout.dataOffset + position.segment * layout.segmentBytes + position.offsetBytes;
}

/** Sectors of a header with so many descriptors. */
export function headerSectorsFor(count: number): number {
  return Math.ceil((FRAME_HEADER_BYTES + count * DESCRIPTOR_BYTES) / SECTOR_BYTES);
}

/** Writes one descriptor into a header being built. */
export function putDescriptor(view: DataView, index: number, descriptor: Descriptor): void {
  const at = FRAME_HEADER_BYTES + index * DESCRIPTOR_BYTES;
  view.setUint8(at, descriptor.op);
  view.setUint8(at + 1, descriptor.volume);
  view.setUint16(at + 2, Math.floor(descriptor.sector / 0x1_0000_0000), true);
  view.setUint32(at + 4, descriptor.sector >>> 0, true);
  view.setUint32(at + 8, descriptor.sectors, true);
  view.setUint32(at + 12, descriptor.crc, true);
}

/** Reads one descriptor of a header that was checked. */
export function getDescriptor(view: DataView, index: number): Descriptor {
  const at = FRAME_HEADER_BYTES + index * DESCRIPTOR_BYTES;
  return {
    op: view.getUint8(at) as DescriptorOp,
    volume: view.getUint8(at + 1),
    sector: view.getUint16(at + 2, true) * 0x1_0000_0000 + view.getUint32(at + 4, true),
    sectors: view.getUint32(at + 8, true),
    crc: view.getUint32(at + 12, true),
  };
}

/** Payload sectors that a descriptor owns. */
export function payloadSectorsOf(descriptor: Descriptor): number {
  return descriptor.op === DescriptorOp.write ? descriptor.sectors : 1;
}

/**
 * Completes a frame header whose descriptors are in place: everything else, and the checksum over its sectors.
 * `header` is exactly its sectors long; `journalTag` is the first 8 bytes of the journal's id; a session frame
 * has no descriptors and carries the session's id in their place.
 */
export function sealHeader(
  header: Uint8Array,
  view: DataView,
  frame: FrameHeader,
  journalTag: Uint8Array,
  session: Uint8Array | null = null,
): void {
  view.setUint32(0, FRAME_MAGIC, true);
  view.setUint8(4, frame.kind);
  view.setUint8(5, frame.flags);
  view.setUint16(6, frame.count, true);
  view.setUint32(8, 0, true);
  view.setUint32(12, frame.incarnation, true);
  putU64(view, 16, frame.seq);
  putU64(view, 24, frame.durableSeq);
  putU64(view, 32, frame.ordinal);
  putEpoch(view, 40, frame.epoch);
  putU64(view, 48, frame.timeMs);
  view.setUint16(56, frame.headerSectors, true);
  view.setUint16(58, 0, true);
  view.setUint32(60, frame.payloadSectors, true);
  header.set(journalTag.subarray(0, 8), 64);
  putU64(view, 72, frame.term);
  header.fill(0, FRAME_HEADER_BYTES + frame.count * DESCRIPTOR_BYTES);
  if (session !== null) header.set(session.subarray(0, 16), SESSION_ID_OFFSET);
  view.setUint32(8, crc32c(header), true);
}

/** A quick look, before anything is checked: could a frame header of this journal begin here? */
export function looksLikeFrame(bytes: Uint8Array, at: number, journalTag: Uint8Array): boolean {
  if (at + SECTOR_BYTES > bytes.length) return false;
  if (bytes[at] !== 0x52 || bytes[at + 1] !== 0x44 || bytes[at + 2] !== 0x4a || bytes[at + 3] !== 0x46)
    return false;
  for (let index = 0; index < 8; index++) if (bytes[at + 64 + index] !== journalTag[index]) return false;
  return true;
}

/** How many sectors the header that begins here says it has; 0 when that is impossible. */
export function claimedHeaderSectors(bytes: Uint8Array, at: number): number {
  const sectors = (bytes[at + 56] ?? 0) | ((bytes[at + 57] ?? 0) << 8);
  return sectors <= headerSectorsFor(DESCRIPTORS_MAX) ? sectors : 0;
}

/**
 * Checks a frame header: magic, tag, checksum, and that its numbers agree with each other.
 * @param bytes from the header on; at least its sectors
 * @returns the header, or null when these bytes are none
 */
export function decodeHeader(bytes: Uint8Array, journalTag: Uint8Array): FrameHeader | null {
  if (!looksLikeFrame(bytes, 0, journalTag)) return null;
  const headerSectors = claimedHeaderSectors(bytes, 0);
  if (headerSectors === 0 || headerSectors * SECTOR_BYTES > bytes.length) return null;
  const header = Buffer.from(bytes.subarray(0, headerSectors * SECTOR_BYTES));
  const view = viewOf(header);
  const crc = view.getUint32(8, true);
  view.setUint32(8, 0, true);
  if (crc32c(header) !== crc) return null;
  const count = view.getUint16(6, true);
  const kind = view.getUint8(4);
  if (count > DESCRIPTORS_MAX || headerSectorsFor(count) !== headerSectors) return null;
  if (kind < FrameKind.data || kind > FrameKind.close) return null;
  let payload = 0;
  for (let index = 0; index < count; index++) {
    const descriptor = getDescriptor(view, index);
    if (descriptor.op < DescriptorOp.write || descriptor.op > DescriptorOp.trim) return null;
    if (descriptor.volume >= VOLUMES_MAX || descriptor.sectors === 0) return null;
    payload += payloadSectorsOf(descriptor);
  }
  try {
    const frame: FrameHeader = {
      kind: kind as FrameKind,
      flags: view.getUint8(5),
      count,
      incarnation: view.getUint32(12, true),
      seq: getU64(view, 16),
      durableSeq: getU64(view, 24),
      ordinal: getU64(view, 32),
      epoch: getEpoch(view, 40),
      timeMs: getU64(view, 48),
      headerSectors,
      payloadSectors: view.getUint32(60, true),
      term: getU64(view, 72),
    };
    return frame.payloadSectors === payload ? frame : null;
  } catch (error) {
    if (error instanceof RangeError) return null;
    throw error;
  }
}

/**
 * Checks the payload of a frame, descriptor by descriptor.
 * @param frameBytes the whole frame
 * @returns the index of the first descriptor whose payload does not match, or -1
 */
export function firstBadPayload(frameBytes: Uint8Array, frame: FrameHeader): number {
  const view = viewOf(frameBytes);
  let at = frame.headerSectors * SECTOR_BYTES;
  for (let index = 0; index < frame.count; index++) {
    const descriptor = getDescriptor(view, index);
    const length = payloadSectorsOf(descriptor) * SECTOR_BYTES;
    if (
      descriptor.op === DescriptorOp.write &&
      crc32c(frameBytes.subarray(at, at + length)) !== descriptor.crc
    )
      return index;
    at += length;
  }
  return -1;
}

/** A range of sectors of a volume, by the volume's index. */
export interface SectorRange {
  volume: number;
  sector: number;
  sectors: number;
}

const AREA_HEADER_BYTES = 32;
const AREA_RANGE_BYTES = 16;

/**
 * Encodes the ranges dropped by a discard. If they don't fit, the closest neighbours are joined until they do:
 * marking a block too many is safe, one too few is not.
 * @param ranges sorted by volume and sector, not overlapping
 * @returns at most `limitBytes`, a multiple of 4 KiB
 */
export function encodeDiscardArea(ranges: readonly SectorRange[], limitBytes: number): Buffer {
  const room = Math.floor((limitBytes - AREA_HEADER_BYTES) / AREA_RANGE_BYTES);
  const kept = coarsen(ranges, room);
  const length = AREA_HEADER_BYTES + kept.length * AREA_RANGE_BYTES;
  const bytes = Buffer.alloc(Math.ceil(length / BLOCK_BYTES) * BLOCK_BYTES);
  const view = viewOf(bytes);
  view.setUint32(0, AREA_MAGIC, true);
  view.setUint32(4, kept.length, true);
  view.setUint8(8, kept.length === ranges.length ? 1 : 0);
  kept.forEach((range, index) => {
    const at = AREA_HEADER_BYTES + index * AREA_RANGE_BYTES;
    view.setUint16(at, range.volume, true);
    view.setUint16(at + 2, Math.floor(range.sector / 0x1_0000_0000), true);
    view.setUint32(at + 4, range.sector >>> 0, true);
    putU64(view, at + 8, range.sectors);
  });
  return bytes;
}

/** @returns the ranges and whether they are exact, or null when the area is damaged */
export function decodeDiscardArea(bytes: Uint8Array): { exact: boolean; ranges: SectorRange[] } | null {
  const view = viewOf(bytes);
  if (bytes.length < AREA_HEADER_BYTES || view.getUint32(0, true) !== AREA_MAGIC) return null;
  const count = view.getUint32(4, true);
  if (AREA_HEADER_BYTES + count * AREA_RANGE_BYTES > bytes.length) return null;
  const ranges: SectorRange[] = [];
  for (let index = 0; index < count; index++) {
    const at = AREA_HEADER_BYTES + index * AREA_RANGE_BYTES;
    ranges.push({
      volume: view.getUint16(at, true),
      sector: view.getUint16(at + 2, true) * 0x1_0000_0000 + view.getUint32(at + 4, true),
      sectors: getU64(view, at + 8),
    });
  }
  return { exact: view.getUint8(8) === 1, ranges };
}

function coarsen(ranges: readonly SectorRange[], room: number): readonly SectorRange[] {
  if (ranges.length <= room) return ranges;
  // Join across the smallest gaps: find the gap width below which joining leaves few enough ranges.
  const gaps: number[] = [];
  for (let index = 1; index < ranges.length; index++) {
    const left = ranges[index - 1];
    const right = ranges[index];
    if (left === undefined || right === undefined) continue;
    gaps.push(left.volume === right.volume ? right.sector - (left.sector + left.sectors) : Infinity);
  }
  const sorted = Float64Array.from(gaps).sort();
  const limit = sorted[ranges.length - room - 1] ?? Infinity;
  const joined: SectorRange[] = [];
  for (const range of ranges) {
    const last = joined[joined.length - 1];
    if (last?.volume === range.volume && range.sector - (last.sector + last.sectors) <= limit) {
      last.sectors = range.sector + range.sectors - last.sector;
    } else joined.push({ ...range });
  }
  return joined;
}

/** The block that the sender writes to the barrier volume to close epoch N. */
export interface Marker {
  domain: string;
  term: number;
  session: Uint8Array;
  epoch: number;
}

export const MARKER_BYTES = BLOCK_BYTES;
const MARKER_DOMAIN_BYTES = 62;

/**
 * @returns the 4 KiB block
 * @throws JournalError `invalid` for a domain name above 62 bytes
 */
export function encodeMarker(marker: Marker): Buffer {
  const bytes = Buffer.alloc(MARKER_BYTES);
  const view = viewOf(bytes);
  MARKER_MAGIC.copy(bytes, 0);
  view.setUint16(8, FORMAT_VERSION, true);
  putU64(view, 16, marker.term);
  putU64(view, 24, marker.epoch);
  bytes.set(marker.session.subarray(0, 16), 32);
  const domain = Buffer.from(marker.domain, 'utf8');
  if (domain.length > MARKER_DOMAIN_BYTES)
    throw new JournalError('invalid', `domain name is longer than ${MARKER_DOMAIN_BYTES} bytes`);
  view.setUint8(48, domain.length);
  domain.copy(bytes, 49);
  view.setUint32(12, crc32c(bytes), true);
  return bytes;
}

/** @returns the marker, null when the block is none, or in words why it is a damaged or unknown one */
export function decodeMarker(source: Uint8Array): Marker | null | string {
  if (source.length !== MARKER_BYTES) return null;
  for (let index = 0; index < 8; index++) if (source[index] !== MARKER_MAGIC[index]) return null;
  const bytes = Buffer.from(source);
  const view = viewOf(bytes);
  const version = view.getUint16(8, true);
  if (version !== FORMAT_VERSION) return `marker of version ${version}`;
  const crc = view.getUint32(12, true);
  view.setUint32(12, 0, true);
  if (crc32c(bytes) !== crc) return 'checksum of the marker does not match';
  const domainLength = view.getUint8(48);
  if (domainLength > MARKER_DOMAIN_BYTES) return 'domain name of the marker is too long';
  try {
    return {
      domain: bytes.toString('utf8', 49, 49 + domainLength),
      term: getU64(view, 16),
      epoch: getU64(view, 24),
      session: Uint8Array.from(bytes.subarray(32, 48)),
    };
  } catch (error) {
    if (error instanceof RangeError) return error.message;
    throw error;
  }
}
