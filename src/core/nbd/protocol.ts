/**
 * The NBD protocol: numbers, requests and replies of the transmission phase, and the one place where a bad
 * request is refused.
 *
 * Source: the protocol document of the Network Block Device project, doc/proto.md ("fixed newstyle", "simple and
 * structured replies"). All integers are big-endian.
 *
 *     request:          magic u32 | flags u16 | type u16 | cookie u64 | offset u64 | length u32 | payload of a write
 *     simple reply:     magic u32 | error u32 | cookie u64 | data of a read without error
 *     structured chunk: magic u32 | flags u16 | type u16 | cookie u64 | length u32 | payload
 */

export const REQUEST_MAGIC = 0x25609513;
export const SIMPLE_REPLY_MAGIC = 0x67446698;
export const STRUCTURED_REPLY_MAGIC = 0x668e33ef;

export const REQUEST_BYTES = 28;
export const SIMPLE_REPLY_BYTES = 16;
export const CHUNK_HEADER_BYTES = 20;

export const TransmissionFlag = {
  hasFlags: 1 << 0,
  readOnly: 1 << 1,
  sendFlush: 1 << 2,
  sendFua: 1 << 3,
  rotational: 1 << 4,
  sendTrim: 1 << 5,
  sendWriteZeroes: 1 << 6,
  sendDf: 1 << 7,
  canMultiConn: 1 << 8,
  sendFastZero: 1 << 11,
} as const;

export const Command = {
  read: 0,
  write: 1,
  disconnect: 2,
  flush: 3,
  trim: 4,
  cache: 5,
  writeZeroes: 6,
  blockStatus: 7,
} as const;

export const CommandFlag = {
  fua: 1 << 0,
  noHole: 1 << 1,
  df: 1 << 2,
  reqOne: 1 << 3,
  fastZero: 1 << 4,
} as const;

export const ChunkType = {
  none: 0,
  offsetData: 1,
  offsetHole: 2,
  error: 0x8001,
  errorOffset: 0x8002,
} as const;
export const CHUNK_FLAG_DONE = 1;

/** Errors as NBD numbers them, whatever the machine's own numbers are. */
export const NbdErrno = {
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const;

/** The number for an errno name; EIO for one that NBD doesn't know. */
export function nbdErrno(name: string): number {
  return (NbdErrno as Record<string, number>)[name] ?? NbdErrno.EIO;
}

/** A request's header; one object is used again and again. */
export interface RequestHeader {
  flags: number;
  type: number;
  cookieHigh: number;
  cookieLow: number;
  /** Infinity above 2^53, where no export ends. */
  offset: number;
  length: number;
}

/**
 * Reads a request header in place.
 * @returns false when the magic is wrong: the stream is out of step and cannot be used any more
 */
export function decodeRequest(view: DataView, at: number, into: RequestHeader): boolean {
  if (view.getUint32(at) !== REQUEST_MAGIC) return false;
  into.flags = view.getUint16(at + 4);
  into.type = view.getUint16(at + 6);
  into.cookieHigh = view.getUint32(at + 8);
  into.cookieLow = view.getUint32(at + 12);
  const high = view.getUint32(at + 16);
  into.offset = high > 0x1f_ffff ? Infinity : high * 0x1_0000_0000 + view.getUint32(at + 20);
  into.length = view.getUint32(at + 24);
  return true;
}

/** Encodes a request: for tests and checks, the server needs none. */
export function encodeRequest(request: RequestHeader, payload?: Uint8Array): Buffer {
  const bytes = Buffer.alloc(REQUEST_BYTES + (payload?.length ?? 0));
  bytes.writeUInt32BE(REQUEST_MAGIC, 0);
  bytes.writeUInt16BE(request.flags, 4);
  bytes.writeUInt16BE(request.type, 6);
  bytes.writeUInt32BE(request.cookieHigh, 8);
  bytes.writeUInt32BE(request.cookieLow, 12);
  bytes.writeUInt32BE(Math.floor(request.offset / 0x1_0000_0000), 16);
  bytes.writeUInt32BE(request.offset % 0x1_0000_0000, 20);
  bytes.writeUInt32BE(request.length, 24);
  if (payload !== undefined) bytes.set(payload, REQUEST_BYTES);
  return bytes;
}

/** Writes a simple reply's 16 bytes. */
export function putSimpleReply(
  view: DataView,
  at: number,
  error: number,
  cookieHigh: number,
  cookieLow: number,
): void {
  view.setUint32(at, SIMPLE_REPLY_MAGIC);
  view.setUint32(at + 4, error);
  view.setUint32(at + 8, cookieHigh);
  view.setUint32(at + 12, cookieLow);
}

/** Writes a structured chunk's 20 bytes; the payload follows. */
export function putChunkHeader(
  view: DataView,
  at: number,
  chunk: { done: boolean; type: number; cookieHigh: number; cookieLow: number; payloadBytes: number },
): void {
  view.setUint32(at, STRUCTURED_REPLY_MAGIC);
  view.setUint16(at + 4, chunk.done ? CHUNK_FLAG_DONE : 0);
  view.setUint16(at + 6, chunk.type);
  view.setUint32(at + 8, chunk.cookieHigh);
  view.setUint32(at + 12, chunk.cookieLow);
  view.setUint32(at + 16, chunk.payloadBytes);
}

/** Writes an unsigned 64-bit number below 2^53. */
export function putOffset(view: DataView, at: number, offset: number): void {
  view.setUint32(at, Math.floor(offset / 0x1_0000_0000));
  view.setUint32(at + 4, offset >>> 0);
}

/** What a client may know and do with an export. */
export interface ExportInfo {
  name: string;
  sizeBytes: number;
  description: string;
  readOnly: boolean;
  /** Requests must be multiples of it. */
  minBlockBytes: number;
  preferredBlockBytes: number;
  /** Largest payload of one request. */
  maxPayloadBytes: number;
}

/** The flags that an export is announced with. */
export function transmissionFlags(info: ExportInfo, structured: boolean): number {
  const {
    hasFlags,
    readOnly,
    sendFlush,
    sendFua,
    sendTrim,
    sendWriteZeroes,
    sendDf,
    canMultiConn,
    sendFastZero,
  } = TransmissionFlag;
  // One journal is behind all connections: a flush on any covers what was acknowledged on every one.
  let flags = hasFlags | sendFlush | sendFua | canMultiConn;
  if (structured) flags |= sendDf;
  flags |= info.readOnly ? readOnly : sendTrim | sendWriteZeroes | sendFastZero;
  return flags;
}

const FLAGS_ALLOWED: Record<number, number> = {
  [Command.read]: CommandFlag.df | CommandFlag.fua,
  [Command.write]: CommandFlag.fua,
  [Command.flush]: CommandFlag.fua,
  [Command.trim]: CommandFlag.fua,
  [Command.writeZeroes]: CommandFlag.fua | CommandFlag.noHole | CommandFlag.fastZero,
};

const COMMAND_NAMES: Record<number, string> = {
  [Command.read]: 'READ',
  [Command.write]: 'WRITE',
  [Command.disconnect]: 'DISC',
  [Command.flush]: 'FLUSH',
  [Command.trim]: 'TRIM',
  [Command.cache]: 'CACHE',
  [Command.writeZeroes]: 'WRITE_ZEROES',
  [Command.blockStatus]: 'BLOCK_STATUS',
};

export interface Refusal {
  /** As NBD numbers it. */
  errno: number;
  reason: string;
}

/**
 * Refuses every request that must not be acted on; null for a good one. `disconnect` is always good.
 * The errnos are those that proto.md names: a write beyond the end is ENOSPC, everything malformed EINVAL.
 */
export function refuseRequest(request: RequestHeader, info: ExportInfo, structured: boolean): Refusal | null {
  const { type, flags, offset, length } = request;
  const refuse = (errno: number, why: string): Refusal => {
    const name = COMMAND_NAMES[type] ?? `command ${type}`;
    return {
      errno,
      reason: `${name} offset=${offset} length=${length} flags=0x${flags.toString(16)}: ${why}`,
    };
  };
  if (type === Command.disconnect) return null;
  const allowed = FLAGS_ALLOWED[type];
  if (allowed === undefined)
    return refuse(NbdErrno.EINVAL, COMMAND_NAMES[type] === undefined ? 'unknown command' : 'was not offered');
  const known = type === Command.read && !structured ? allowed & ~CommandFlag.df : allowed;
  if (flags & ~known) return refuse(NbdErrno.EINVAL, 'unknown flags');
  if (type === Command.flush) {
    return offset === 0 && length === 0 ? null : refuse(NbdErrno.EINVAL, 'a flush has no range');
  }
  const writes = type !== Command.read;
  if (writes && info.readOnly) return refuse(NbdErrno.EPERM, 'the export is read-only');
  if (length === 0) return refuse(NbdErrno.EINVAL, 'empty');
  if (offset + length > info.sizeBytes) {
    const beyond = writes && type !== Command.trim ? NbdErrno.ENOSPC : NbdErrno.EINVAL;
    return refuse(beyond, `beyond the end at ${info.sizeBytes}`);
  }
  if (offset % info.minBlockBytes !== 0 || length % info.minBlockBytes !== 0) {
    return refuse(NbdErrno.EINVAL, `not in multiples of ${info.minBlockBytes}`);
  }
  if ((type === Command.read || type === Command.write) && length > info.maxPayloadBytes) {
    return refuse(
      type === Command.read ? NbdErrno.EOVERFLOW : NbdErrno.EINVAL,
      `more than ${info.maxPayloadBytes} at once`,
    );
  }
  return null;
}
