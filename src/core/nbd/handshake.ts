/**
 * The server's side of NBD's fixed newstyle handshake, without the socket: bytes in, bytes out and an outcome.
 *
 *     S: "NBDMAGIC" "IHAVEOPT" flags u16
 *     C: flags u32
 *     C: "IHAVEOPT" option u32 length u32 data          (any number of times)
 *     S: magic u64 option u32 type u32 length u32 data   (one or more for each)
 *     ... until GO or EXPORT_NAME succeed, or ABORT.
 *
 * Source: doc/proto.md of the Network Block Device project. An option's data is bounded; what is longer ends the
 * connection, because it could only be read to be thrown away.
 */
import { transmissionFlags } from './protocol.js';
import type { ExportInfo } from './protocol.js';

const INIT_MAGIC = Buffer.from('NBDMAGICIHAVEOPT', 'latin1');
const OPTION_MAGIC = Buffer.from('IHAVEOPT', 'latin1');
const REPLY_MAGIC = Buffer.from([0x00, 0x03, 0xe8, 0x89, 0x04, 0x55, 0x65, 0xa9]);

const SERVER_FIXED_NEWSTYLE = 1;
const SERVER_NO_ZEROES = 2;
const CLIENT_FIXED_NEWSTYLE = 1;
const CLIENT_NO_ZEROES = 2;

const OPTION_BYTES_MAX = 8192;
const OPTIONS_MAX = 64;
const NAME_BYTES_MAX = 4096;

export const Option = {
  exportName: 1,
  abort: 2,
  list: 3,
  startTls: 5,
  info: 6,
  go: 7,
  structuredReply: 8,
  listMetaContext: 9,
  setMetaContext: 10,
} as const;

export const Reply = {
  ack: 1,
  server: 2,
  info: 3,
  errUnsupported: 0x8000_0001,
  errPolicy: 0x8000_0002,
  errInvalid: 0x8000_0003,
  errTlsRequired: 0x8000_0005,
  errUnknown: 0x8000_0006,
} as const;

const Info = { export: 0, name: 1, description: 2, blockSize: 3 } as const;

export interface HandshakeConfig {
  exports: readonly ExportInfo[];
  /** `off`: not offered; `required`: nothing but the start of TLS is answered before it; `active`: running inside it. */
  tls: 'off' | 'required' | 'active';
}

export type Outcome =
  | { kind: 'more' }
  /** Send, then run a new handshake's options inside TLS. */
  | { kind: 'tls' }
  | { kind: 'transmission'; export: ExportInfo; structured: boolean }
  | { kind: 'close'; reason: string; clean: boolean };

export interface Step {
  send: Buffer[];
  outcome: Outcome;
}

export class Handshake {
  private config: HandshakeConfig;
  private pending: Buffer = Buffer.alloc(0);
  private sawFlags = false;
  private noZeroes = false;
  private structured = false;
  private options = 0;

  constructor(config: HandshakeConfig) {
    this.config = config;
  }

  /** What the server says first. */
  greeting(): Buffer {
    const bytes = Buffer.alloc(18);
    INIT_MAGIC.copy(bytes);
    bytes.writeUInt16BE(SERVER_FIXED_NEWSTYLE | SERVER_NO_ZEROES, 16);
    return bytes;
  }

  /** Goes on inside TLS: what was negotiated before counts no more. */
  insideTls(): void {
    this.config = { ...this.config, tls: 'active' };
    this.structured = false;
    this.pending = Buffer.alloc(0);
  }

  /** Bytes that arrived behind the last option; they belong to the transmission phase. */
  rest(): Buffer {
    return this.pending;
  }

  /** Takes bytes, however they are cut. */
  push(bytes: Uint8Array): Step {
    this.pending = Buffer.concat([this.pending, bytes]);
    const send: Buffer[] = [];
    for (;;) {
      const outcome = this.next(send);
      if (outcome === null) return { send, outcome: { kind: 'more' } };
      if (outcome.kind !== 'more') return { send, outcome };
    }
  }

  private next(send: Buffer[]): Outcome | null {
    const { pending } = this;
    if (!this.sawFlags) {
      if (pending.length < 4) return null;
      const flags = pending.readUInt32BE(0);
      this.pending = pending.subarray(4);
      this.sawFlags = true;
      if (flags & ~(CLIENT_FIXED_NEWSTYLE | CLIENT_NO_ZEROES)) {
        return { kind: 'close', reason: `unknown client flags 0x${flags.toString(16)}`, clean: false };
      }
      this.noZeroes = (flags & CLIENT_NO_ZEROES) !== 0;
      return { kind: 'more' };
    }
    if (pending.length < 16) return null;
    if (!pending.subarray(0, 8).equals(OPTION_MAGIC)) {
      return { kind: 'close', reason: 'an option without its magic', clean: false };
    }
    const option = pending.readUInt32BE(8);
    const length = pending.readUInt32BE(12);
    if (length > OPTION_BYTES_MAX) {
      return {
        kind: 'close',
        reason: `option ${option} with ${length} bytes, ${OPTION_BYTES_MAX} are allowed`,
        clean: false,
      };
    }
    if (pending.length < 16 + length) return null;
    const data = pending.subarray(16, 16 + length);
    this.pending = pending.subarray(16 + length);
    this.options++;
    if (this.options > OPTIONS_MAX)
      return { kind: 'close', reason: `more than ${OPTIONS_MAX} options`, clean: false };
    return this.answer(option, data, send);
  }

  private answer(option: number, data: Buffer, send: Buffer[]): Outcome {
    const more: Outcome = { kind: 'more' };
    const reply = (type: number, payload: Buffer = Buffer.alloc(0)): Outcome => {
      send.push(encodeReply(option, type, payload));
      return more;
    };
    const refuse = (type: number, why: string): Outcome => reply(type, Buffer.from(why));
    if (option === Option.abort) {
      reply(Reply.ack);
      return { kind: 'close', reason: 'the client gave up', clean: true };
    }
    if (option === Option.startTls) {
      if (data.length > 0) return refuse(Reply.errInvalid, 'STARTTLS has no data');
      if (this.config.tls === 'off') return refuse(Reply.errPolicy, 'TLS is not configured here');
      if (this.config.tls === 'active') return refuse(Reply.errInvalid, 'TLS is active already');
      if (this.pending.length > 0) {
        // Bytes sent before TLS must not be taken for bytes sent inside it.
        return { kind: 'close', reason: 'bytes behind STARTTLS', clean: false };
      }
      reply(Reply.ack);
      return { kind: 'tls' };
    }
    if (this.config.tls === 'required') {
      // EXPORT_NAME has no way to say no.
      if (option === Option.exportName)
        return { kind: 'close', reason: 'EXPORT_NAME before TLS', clean: false };
      return refuse(Reply.errTlsRequired, 'TLS is required');
    }
    switch (option) {
      case Option.exportName: {
        const info = this.find(data);
        if (info === null) return { kind: 'close', reason: `no export ${printable(data)}`, clean: false };
        const bytes = Buffer.alloc(this.noZeroes ? 10 : 134);
        bytes.writeBigUInt64BE(BigInt(info.sizeBytes), 0);
        bytes.writeUInt16BE(transmissionFlags(info, this.structured), 8);
        send.push(bytes);
        return { kind: 'transmission', export: info, structured: this.structured };
      }
      case Option.list:
        if (data.length > 0) return refuse(Reply.errInvalid, 'LIST has no data');
        for (const info of this.config.exports) {
          const name = Buffer.from(info.name, 'utf8');
          const payload = Buffer.alloc(4 + name.length);
          payload.writeUInt32BE(name.length, 0);
          name.copy(payload, 4);
          reply(Reply.server, payload);
        }
        return reply(Reply.ack);
      case Option.structuredReply:
        if (data.length > 0) return refuse(Reply.errInvalid, 'STRUCTURED_REPLY has no data');
        this.structured = true;
        return reply(Reply.ack);
      case Option.info:
      case Option.go:
        return this.infoOrGo(option, data, reply, refuse);
      case Option.listMetaContext:
      case Option.setMetaContext:
        // No context is offered: an empty list is the answer for each query.
        if (!this.structured) return refuse(Reply.errInvalid, 'structured replies come first');
        return reply(Reply.ack);
      default:
        return refuse(Reply.errUnsupported, `option ${option} is not supported`);
    }
  }

  private infoOrGo(
    option: number,
    data: Buffer,
    reply: (type: number, payload?: Buffer) => Outcome,
    refuse: (type: number, why: string) => Outcome,
  ): Outcome {
    if (data.length < 6) return refuse(Reply.errInvalid, 'too short');
    const nameLength = data.readUInt32BE(0);
    if (nameLength > NAME_BYTES_MAX || data.length < 6 + nameLength)
      return refuse(Reply.errInvalid, 'name length');
    const requests = data.readUInt16BE(4 + nameLength);
    if (data.length !== 6 + nameLength + 2 * requests)
      return refuse(Reply.errInvalid, 'number of information requests');
    const info = this.find(data.subarray(4, 4 + nameLength));
    if (info === null) return refuse(Reply.errUnknown, 'no such export');
    const wanted = new Set<number>();
    for (let index = 0; index < requests; index++) wanted.add(data.readUInt16BE(6 + nameLength + 2 * index));

    const about = Buffer.alloc(12);
    about.writeUInt16BE(Info.export, 0);
    about.writeBigUInt64BE(BigInt(info.sizeBytes), 2);
    about.writeUInt16BE(transmissionFlags(info, this.structured), 10);
    reply(Reply.info, about);
    for (const [type, text] of [
      [Info.name, info.name],
      [Info.description, info.description],
    ] as const) {
      if (!wanted.has(type)) continue;
      const bytes = Buffer.from(text, 'utf8');
      const payload = Buffer.alloc(2 + bytes.length);
      payload.writeUInt16BE(type, 0);
      bytes.copy(payload, 2);
      reply(Reply.info, payload);
    }
    // Sent unasked too: a client that ignores it loses nothing, one that reads it makes no request we must refuse.
    const sizes = Buffer.alloc(14);
    sizes.writeUInt16BE(Info.blockSize, 0);
    sizes.writeUInt32BE(info.minBlockBytes, 2);
    sizes.writeUInt32BE(info.preferredBlockBytes, 6);
    sizes.writeUInt32BE(info.maxPayloadBytes, 10);
    reply(Reply.info, sizes);
    reply(Reply.ack);
    if (option === Option.info) return { kind: 'more' };
    return { kind: 'transmission', export: info, structured: this.structured };
  }

  private find(name: Buffer): ExportInfo | null {
    const wanted = name.toString('utf8');
    return this.config.exports.find((info) => info.name === wanted) ?? null;
  }
}

function encodeReply(option: number, type: number, payload: Buffer): Buffer {
  const bytes = Buffer.alloc(20 + payload.length);
  REPLY_MAGIC.copy(bytes);
  bytes.writeUInt32BE(option, 8);
  bytes.writeUInt32BE(type, 12);
  bytes.writeUInt32BE(payload.length, 16);
  payload.copy(bytes, 20);
  return bytes;
}

/** Bytes of a client for the log: short, and nothing a terminal would act on. */
function printable(bytes: Buffer): string {
  return JSON.stringify(bytes.toString('utf8', 0, Math.min(bytes.length, 64)));
}
