/**
 * Reads a journal: chooses the superblock, walks the log from its head and finds where it ends.
 *
 * The log ends at the first place where the next frame is not: not the next sequence number, not of this
 * incarnation, or with a checksum that doesn't match. That is a torn tail, unless there is proof that the
 * missing frame had been flushed: the superblock or a later frame says so. Then the journal is corrupt and
 * nothing is recovered from it by guess.
 */
import {
  claimedHeaderSectors,
  decodeHeader,
  decodeSuperblock,
  FrameFlag,
  FrameKind,
  firstBadPayload,
  looksLikeFrame,
  positionToOffset,
  SESSION_ID_OFFSET,
  SUPERBLOCK_BYTES,
} from './format.js';
import type { FrameHeader, Layout, LogPosition, Superblock } from './format.js';
import { BLOCK_BYTES, JournalError, SECTOR_BYTES } from './types.js';
import type { Disk } from './types.js';

const WINDOW_BYTES = 4 << 20;

/**
 * Reads both superblocks and takes the newer good one.
 * @throws JournalError `not-a-journal` with both reasons
 */
export async function readSuperblock(disk: Disk): Promise<Superblock> {
  const found: Superblock[] = [];
  const reasons: string[] = [];
  for (const slot of [0, 1]) {
    const bytes = Buffer.alloc(SUPERBLOCK_BYTES);
    if (disk.sizeBytes < (slot + 1) * SUPERBLOCK_BYTES) {
      reasons.push('too small');
      continue;
    }
    await disk.read(bytes, slot * SUPERBLOCK_BYTES);
    const decoded = decodeSuperblock(bytes);
    if (typeof decoded === 'string') reasons.push(decoded);
    else if (decoded.layout.sizeBytes > disk.sizeBytes) {
      reasons.push(`formatted for ${decoded.layout.sizeBytes} bytes, there are ${disk.sizeBytes}`);
    } else found.push(decoded);
  }
  found.sort((a, b) => b.generation - a.generation);
  const newest = found[0];
  if (newest === undefined) {
    throw new JournalError('not-a-journal', `no valid superblock: ${reasons.join('; ')}`);
  }
  return newest;
}

/** A frame as the scan hands it out; the bytes are valid during the call only. */
export interface ScannedFrame {
  header: FrameHeader;
  position: LogPosition;
  bytes: Uint8Array;
  /** The id in a session frame. */
  session: Uint8Array | null;
}

export interface ScanResult {
  frames: number;
  bytes: number;
  lastSeq: number;
  lastIncarnation: number;
  /** End of the last frame. */
  end: LogPosition;
  /** Why the log ends there. */
  endReason: string;
  /** Whether the last frame says that the journal was closed in order. */
  closedInOrder: boolean;
  /** Set when something durable is missing. */
  corruption: string | null;
}

export interface ScanProgress {
  bytesRead: number;
  /** An upper bound: the whole ring. */
  bytesMax: number;
}

/**
 * Walks the log from its head.
 * @param onFrame called for each good frame, in order
 */
export async function scanLog(
  disk: Disk,
  superblock: Superblock,
  onFrame: (frame: ScannedFrame) => void,
  onProgress?: (progress: ScanProgress) => void,
): Promise<ScanResult> {
  const { layout, head } = superblock;
  const tag = superblock.journalId.subarray(0, 8);
  const reader = new Window(disk, layout);
  const result: ScanResult = {
    frames: 0,
    bytes: 0,
    lastSeq: superblock.headSeq - 1,
    lastIncarnation: superblock.headIncarnation,
    end: { ...head },
    endReason: 'nothing follows',
    closedInOrder: false,
    corruption: null,
  };
  let position: LogPosition = { ...head };
  for (;;) {
    let taken: ScannedFrame | null = null;
    for (const candidate of candidates(layout, position, head)) {
      const read = await readFrame(reader, layout, candidate, tag, result, superblock.incarnation);
      if (typeof read !== 'string') {
        taken = read;
        break;
      }
      if (read !== '') result.endReason = read;
    }
    if (taken === null) break;
    onFrame(taken);
    const length = (taken.header.headerSectors + taken.header.payloadSectors) * SECTOR_BYTES;
    result.frames++;
    result.bytes += length;
    result.lastSeq = taken.header.seq;
    result.lastIncarnation = taken.header.incarnation;
    result.closedInOrder = taken.header.kind === FrameKind.close;
    result.endReason = 'nothing follows';
    position = { segment: taken.position.segment, offsetBytes: taken.position.offsetBytes + length };
    result.end = position;
    onProgress?.({ bytesRead: reader.bytesRead, bytesMax: layout.segments * layout.segmentBytes });
  }
  result.corruption = await findCorruption(reader, superblock, result, tag);
  return result;
}

/** Where the next frame may begin: right here, at the next block (after a flush), or in the next segment. */
function candidates(layout: Layout, position: LogPosition, head: LogPosition): LogPosition[] {
  const list: LogPosition[] = [];
  const aligned = Math.ceil(position.offsetBytes / BLOCK_BYTES) * BLOCK_BYTES;
  if (position.offsetBytes < layout.segmentBytes) list.push(position);
  if (aligned !== position.offsetBytes && aligned < layout.segmentBytes) {
    list.push({ segment: position.segment, offsetBytes: aligned });
  }
  const next = (position.segment + 1) % layout.segments;
  if (next !== head.segment && position.offsetBytes > 0) list.push({ segment: next, offsetBytes: 0 });
  return list;
}

/** @returns the frame, '' when nothing of this log is there, or in words what is wrong with it */
async function readFrame(
  reader: Window,
  layout: Layout,
  position: LogPosition,
  tag: Uint8Array,
  sofar: ScanResult,
  newestIncarnation: number,
): Promise<ScannedFrame | string> {
  let bytes = await reader.at(position, SECTOR_BYTES);
  if (!looksLikeFrame(bytes, 0, tag)) return '';
  const headerBytes = claimedHeaderSectors(bytes, 0) * SECTOR_BYTES;
  if (headerBytes === 0 || position.offsetBytes + headerBytes > layout.segmentBytes) return '';
  bytes = await reader.at(position, headerBytes);
  const header = decodeHeader(bytes, tag);
  const where = `segment ${position.segment} offset ${position.offsetBytes}`;
  if (header === null) return `${where}: checksum of a frame header does not match`;
  if (header.seq !== sofar.lastSeq + 1) return `${where}: an older frame, number ${header.seq}`;
  const continues = header.incarnation === sofar.lastIncarnation;
  const begins =
    header.incarnation > sofar.lastIncarnation &&
    header.incarnation <= newestIncarnation &&
    (header.flags & FrameFlag.first) !== 0;
  if (!continues && !begins) return `${where}: a frame of incarnation ${header.incarnation}`;
  const length = headerBytes + header.payloadSectors * SECTOR_BYTES;
  if (position.offsetBytes + length > layout.segmentBytes) return `${where}: frame longer than its segment`;
  bytes = await reader.at(position, length);
  const bad = firstBadPayload(bytes, header);
  if (bad >= 0) return `${where}: checksum of write ${bad} of frame ${header.seq} does not match`;
  const session =
    header.kind === FrameKind.session
      ? Uint8Array.from(bytes.subarray(SESSION_ID_OFFSET, SESSION_ID_OFFSET + 16))
      : null;
  return { header, position, bytes: bytes.subarray(0, length), session };
}

/** Looks behind the end of the log for proof that the frame missing there had been durable. */
async function findCorruption(
  reader: Window,
  superblock: Superblock,
  scan: ScanResult,
  tag: Uint8Array,
): Promise<string | null> {
  const missing = scan.lastSeq + 1;
  const where = `frame ${missing} is missing or damaged (${scan.endReason})`;
  if (superblock.durableSeq >= missing) {
    return `${where}, but the superblock says that frames up to ${superblock.durableSeq} were durable`;
  }
  const { layout, head } = superblock;
  let newerBefore = true;
  for (let step = 0; step < layout.segments; step++) {
    const segment = (scan.end.segment + step) % layout.segments;
    if (step > 0 && segment === head.segment) break;
    const start = step === 0 ? scan.end.offsetBytes : 0;
    let newer = false;
    for (let offset = start; offset < layout.segmentBytes;) {
      const room = Math.min(WINDOW_BYTES, layout.segmentBytes - offset);
      const bytes = await reader.at(
        { segment, offsetBytes: offset },
        Math.min(room, newerBefore || newer ? room : BLOCK_BYTES),
      );
      let at = 0;
      for (; at + SECTOR_BYTES <= bytes.length; at += SECTOR_BYTES) {
        if (!looksLikeFrame(bytes, at, tag)) continue;
        const claimed = claimedHeaderSectors(bytes, at) * SECTOR_BYTES;
        if (at > 0 && at + claimed > bytes.length && offset + at + claimed <= layout.segmentBytes) break;
        const frame = decodeHeader(bytes.subarray(at), tag);
        if (frame === null || frame.seq <= missing || frame.incarnation < scan.lastIncarnation) continue;
        newer = true;
        if (frame.durableSeq >= missing) {
          return `${where}, but frame ${frame.seq} says that frames up to ${frame.durableSeq} were durable`;
        }
      }
      if (!newerBefore && !newer) break;
      offset += at;
    }
    newerBefore = newer;
  }
  return null;
}

/** A window that slides over one segment after the other, so that frames are read in big pieces. */
class Window {
  bytesRead = 0;
  private readonly disk: Disk;
  private readonly layout: Layout;
  private buffer: Buffer;
  private segment = -1;
  private start = 0;
  private length = 0;

  constructor(disk: Disk, layout: Layout) {
    this.disk = disk;
    this.layout = layout;
    this.buffer = Buffer.alloc(Math.min(WINDOW_BYTES, layout.segmentBytes));
  }

  /** @returns at least `length` bytes from the position on, as long as the segment has them */
  async at(position: LogPosition, length: number): Promise<Uint8Array> {
    const { segment, offsetBytes } = position;
    const within = segment === this.segment && offsetBytes >= this.start;
    if (!within || offsetBytes + length > this.start + this.length) {
      if (length > this.buffer.length) this.buffer = Buffer.alloc(length);
      const wanted = Math.min(this.buffer.length, this.layout.segmentBytes - offsetBytes);
      await this.disk.read(this.buffer.subarray(0, wanted), positionToOffset(this.layout, position));
      this.bytesRead += wanted;
      this.segment = segment;
      this.start = offsetBytes;
      this.length = wanted;
    }
    const from = offsetBytes - this.start;
    return this.buffer.subarray(from, Math.min(this.length, from + Math.max(length, SECTOR_BYTES)));
  }
}
