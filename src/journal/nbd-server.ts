/**
 * The NBD server in front of a journal: one export for each volume, on a unix socket, or on TCP inside TLS.
 *
 * How a request travels: bytes are received into a region of memory that belongs to the connection; requests are
 * parsed where they lie; all writes that arrived together go to the journal in one frame, straight out of the
 * region; all replies leave in one write. A region is received into again when nothing in it is needed any more.
 *
 * What a client can make it hold is bounded: `regionsMax` regions and one reply backlog for each connection, and
 * `connectionsMax` connections. A write longer than a quarter of a region is taken piece by piece as it arrives,
 * a long read is sent piece by piece.
 */
import { createServer, Socket } from 'node:net';
import type { Server } from 'node:net';
import { rm } from 'node:fs/promises';
import { constants } from 'node:os';
import { createSecureContext, TLSSocket } from 'node:tls';
import type { SecureContextOptions } from 'node:tls';
import { DescriptorOp } from '../core/journal/format.js';
import { SECTOR_BYTES } from '../core/journal/types.js';
import type { JournalError } from '../core/journal/types.js';
import { Handshake } from '../core/nbd/handshake.js';
import {
  CHUNK_HEADER_BYTES,
  ChunkType,
  Command,
  CommandFlag,
  decodeRequest,
  nbdErrno,
  putChunkHeader,
  putOffset,
  putSimpleReply,
  refuseRequest,
  REQUEST_BYTES,
  SIMPLE_REPLY_BYTES,
} from '../core/nbd/protocol.js';
import type { ExportInfo, RequestHeader } from '../core/nbd/protocol.js';
import { describe } from './journal.js';
import type { EpochJournal, WriteRequest, WriteSink } from './journal.js';
import { native } from './native.js';
import type { Native } from './native.js';

/** Where the server reports; a winston logger fits. */
export interface NbdLog {
  info(message: string, fields: Record<string, unknown>): unknown;
  warn(message: string, fields: Record<string, unknown>): unknown;
}

export interface NbdServerOptions {
  listen: { path: string } | { host: string; port: number; tls: SecureContextOptions };
  log: NbdLog;
  /** Over all exports. */
  connectionsMax?: number;
  /** Memory to receive into, for each connection. */
  regionBytes?: number;
  regionsMax?: number;
  /** A client has so long to choose its export. */
  handshakeMs?: number;
  /** Smallest unit of a request; from the targets' logical blocks. */
  minBlockBytes?: number;
}

const EAGAIN = constants.errno.EAGAIN;
const REPLY_BUFFER_BYTES = 256 << 10;
const REPLY_BUFFERS_POOLED = 4;
/** Up to here copying replies is cheaper than changing the buffer. */
const REPLY_COPIED_MAX = 4096;
const BACKLOG_BYTES_MAX = 2 << 20;
const REQUESTS_MAX = 4096;
/** The protocol's default, which clients assume that don't ask. */
const MAX_PAYLOAD_BYTES = 32 << 20;
const REFUSALS_LOGGED = 10;
/** Room below which the next receive would be too small to be worth a call. */
const ROOM_MIN = 64 << 10;
/** Then the other connections have their turn. */
const RECEIVES_AT_ONCE = 32;
/**
 * A client that waits for each answer sends its next request within microseconds: looking for it so many times,
 * some thirty microseconds, costs less than sleeping and being woken up. After a look in vain (a slow client, or
 * no second CPU that it could run on) some events pass without one, twice as many each time.
 */
const LOOKS_MAX = 60;
const EVENTS_SKIPPED_MIN = 4;
const EVENTS_SKIPPED_MAX = 512;

/**
 * Serves a journal's volumes.
 * @throws the error of listen(2)
 */
export async function serveNbd(journal: EpochJournal, options: NbdServerOptions): Promise<NbdServer> {
  const server = new NbdServer(journal, options);
  await server.listen();
  return server;
}

export class NbdServer {
  readonly journal: EpochJournal;
  readonly options: Required<Omit<NbdServerOptions, 'listen' | 'log'>> &
    Pick<NbdServerOptions, 'listen' | 'log'>;
  readonly exports: ExportInfo[];
  private readonly server: Server;
  private readonly connections = new Set<Connection>();
  private readonly dirty: Connection[] = [];
  private nextId = 1;

  constructor(journal: EpochJournal, options: NbdServerOptions) {
    this.journal = journal;
    this.options = {
      connectionsMax: 32,
      regionBytes: 1 << 20,
      regionsMax: 4,
      handshakeMs: 10_000,
      minBlockBytes: SECTOR_BYTES,
      ...options,
    };
    this.exports = journal.volumes.map((volume) => ({
      name: volume.name,
      sizeBytes: volume.sizeBytes,
      description: volume.barrier ? `barrier volume of ${journal.domain}` : `volume of ${journal.domain}`,
      readOnly: false,
      minBlockBytes: this.options.minBlockBytes,
      preferredBlockBytes: 4096,
      maxPayloadBytes: MAX_PAYLOAD_BYTES,
    }));
    this.server = createServer({ pauseOnConnect: true, noDelay: true }, (socket) => {
      this.accept(socket);
    });
    journal.onBatch = () => {
      this.flushDirty();
    };
  }

  /** The port, for a server on TCP that was given port 0. */
  get port(): number {
    const address = this.server.address();
    return typeof address === 'object' && address !== null ? address.port : 0;
  }

  get connectionCount(): number {
    return this.connections.size;
  }

  async listen(): Promise<void> {
    const { listen } = this.options;
    if ('path' in listen) await rm(listen.path, { force: true });
    await new Promise<void>((resolve, reject) => {
      this.server.once('error', reject);
      this.server.listen(
        'path' in listen ? { path: listen.path } : { host: listen.host, port: listen.port },
        () => {
          this.server.off('error', reject);
          resolve();
        },
      );
    });
  }

  /** Stops listening and closes every connection; requests without an answer stay without one. */
  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => {
      this.server.close(() => {
        resolve();
      });
    });
    for (const connection of [...this.connections]) connection.destroy('the server is stopping');
    await closed;
  }

  /** Replies that wait are sent when the journal has finished a batch. */
  markDirty(connection: Connection): void {
    this.dirty.push(connection);
  }

  flushDirty(): void {
    if (this.dirty.length === 0) return;
    for (const connection of this.dirty.splice(0)) connection.flushReplies();
  }

  forget(connection: Connection): void {
    this.connections.delete(connection);
  }

  private accept(socket: Socket): void {
    const { log, connectionsMax, listen } = this.options;
    if (this.connections.size >= connectionsMax) {
      log.warn('nbd connection refused', { reason: 'too many connections', connectionsMax });
      socket.destroy();
      return;
    }
    const secure = 'tls' in listen ? listen.tls : null;
    this.connections.add(new Connection(this, socket, this.nextId++, secure));
  }
}

interface Region {
  bytes: Buffer;
  view: DataView;
  /** Requests of the journal whose data lies here. */
  users: number;
}

/** A write or zero on its way through the journal; a long one is several of them with one `Pending`. */
interface PendingRequest extends WriteRequest {
  region: Region | null;
  pending: Pending;
}

/** One client request that has been taken apart. */
interface Pending {
  cookieHigh: number;
  cookieLow: number;
  fua: boolean;
  /** Parts not written yet, and whether more will come. */
  parts: number;
  complete: boolean;
  errno: string | null;
}

interface HandleOwner {
  _handle: unknown;
}

class Connection implements WriteSink {
  private readonly server: NbdServer;
  private readonly journal: EpochJournal;
  private readonly id: number;
  private readonly secure: SecureContextOptions | null;
  private socket: Socket;
  /** The socket's descriptor, to send and receive without Node's streams; -1 inside TLS. */
  private fd = -1;
  private readonly native: Native = native();
  private readonly handshake: Handshake;
  private info: ExportInfo | null = null;
  private volume = -1;
  private structured = false;
  private closed = false;
  private readonly deadline: NodeJS.Timeout;

  private readonly regions: Region[] = [];
  private region: Region;
  private start = 0;
  private end = 0;
  private readonly request: RequestHeader = {
    flags: 0,
    type: 0,
    cookieHigh: 0,
    cookieLow: 0,
    offset: 0,
    length: 0,
  };
  /** A long write whose payload is still arriving; `skip` when it was refused. */
  private stream: { pending: Pending | null; offset: number; left: number } | null = null;
  private inFlight = 0;
  private longRead = false;
  private disconnecting = false;
  private paused = false;
  private parsing = false;
  private eventsToSkip = 0;
  private eventsSkipped = EVENTS_SKIPPED_MIN;

  private out: Buffer;
  private outView: DataView;
  private outLength = 0;
  /** Replies with memory of their own. */
  private readonly pieces: Buffer[] = [];
  /** While a long read is being sent nothing may come between its pieces. */
  private holding = false;
  private readonly outPool: Buffer[] = [];
  private dirty = false;
  private backlog = 0;
  private refusals = 0;

  constructor(server: NbdServer, accepted: Socket, id: number, secure: SecureContextOptions | null) {
    this.server = server;
    this.journal = server.journal;
    this.id = id;
    this.secure = secure;
    this.region = this.newRegion();
    this.out = Buffer.allocUnsafeSlow(REPLY_BUFFER_BYTES);
    this.outView = viewOf(this.out);
    this.handshake = new Handshake({ exports: server.exports, tls: secure === null ? 'off' : 'required' });
    this.socket = secure === null ? this.receiveInPlace(accepted) : accepted;
    this.deadline = setTimeout(() => {
      this.destroy('the handshake took too long');
    }, server.options.handshakeMs);
    this.watch();
    if (secure !== null) this.receiveByEvent();
    this.socket.write(this.handshake.greeting());
    this.socket.resume();
  }

  written(request: WriteRequest, errno: string | null): void {
    const { region, pending } = request as PendingRequest;
    if (region !== null) region.users--;
    pending.parts--;
    if (errno !== null) pending.errno ??= errno;
    if (this.paused) this.wantFlush();
    if (pending.parts > 0 || !pending.complete) return;
    this.finish(pending);
  }

  flushReplies(): void {
    this.dirty = false;
    if (this.closed) return;
    this.sendOut();
    if (!this.parsing) this.advance();
  }

  destroy(reason: string): void {
    if (this.closed) return;
    this.closed = true;
    this.fd = -1;
    clearTimeout(this.deadline);
    this.server.forget(this);
    this.socket.destroy();
    const hidden = Math.max(0, this.refusals - REFUSALS_LOGGED);
    this.server.options.log.info('nbd connection closed', {
      connection: this.id,
      export: this.info?.name ?? null,
      reason,
      ...(hidden > 0 ? { refusalsNotLogged: hidden } : {}),
    });
  }

  // --- receiving ---

  /**
   * Makes the accepted socket receive into our regions, without a Buffer for each piece: Node offers that
   * (`onread`) only to sockets that it is given when they are made, so the accepted handle gets a new one.
   */
  private receiveInPlace(accepted: Socket): Socket {
    const owner = accepted as unknown as HandleOwner;
    const handle = owner._handle;
    owner._handle = null;
    accepted.destroy();
    this.fd = (handle as { fd?: number }).fd ?? -1;
    return new Socket({
      handle,
      readable: true,
      writable: true,
      onread: {
        buffer: () => this.region.bytes.subarray(this.end),
        callback: (count: number) => this.received(count),
      },
    } as unknown as ConstructorParameters<typeof Socket>[0]);
  }

  private receiveByEvent(): void {
    this.socket.on('data', (bytes: Buffer) => {
      for (let done = 0; done < bytes.length && !this.closed;) {
        const room = this.region.bytes.length - this.end;
        const part = bytes.subarray(done, done + room);
        this.region.bytes.set(part, this.end);
        done += part.length;
        if (!this.received(part.length)) this.socket.pause();
        // Paused, and more in hand than the spare region takes: Node hands out at most 64 KiB at once.
        if (this.region.bytes.length - this.end === 0 && done < bytes.length) {
          this.destroy('the receive buffer overflowed');
          return;
        }
      }
    });
  }

  private watch(): void {
    this.socket.on('error', (error) => {
      this.destroy(`socket: ${error.message}`);
    });
    this.socket.on('close', () => {
      this.destroy('the client has closed');
    });
    this.socket.on('end', () => {
      this.destroy(this.info === null ? 'closed in the handshake' : 'closed without a disconnect');
    });
    this.socket.on('drain', () => {
      this.advance();
    });
  }

  /** @returns false when nothing may be received for now */
  private received(count: number): boolean {
    if (this.closed) return false;
    this.end += count;
    if (this.info === null) this.negotiate();
    let ready = this.takeReceived();
    // Whoever has many requests on their way has sent more in the meantime: no need to wait for the event.
    for (let times = 0; times < RECEIVES_AT_ONCE && ready && this.fd >= 0 && this.info !== null; times++) {
      const more = this.receiveSoon(this.fd);
      // The end and errors come as events.
      if (more <= 0) break;
      this.end += more;
      ready = this.takeReceived();
    }
    if (!ready) this.paused = true;
    return ready;
  }

  /** @returns bytes received, 0 at the end, or a negative errno; see `LOOKS_MAX` */
  private receiveSoon(fd: number): number {
    const { bytes } = this.region;
    let more = this.native.receiveNow(fd, bytes, this.end);
    if (more !== -EAGAIN) return more;
    if (this.eventsToSkip > 0) {
      this.eventsToSkip--;
      return more;
    }
    for (let looks = 0; looks < LOOKS_MAX && more === -EAGAIN; looks++) {
      more = this.native.receiveNow(fd, bytes, this.end);
    }
    if (more === -EAGAIN) {
      this.eventsToSkip = this.eventsSkipped;
      this.eventsSkipped = Math.min(2 * this.eventsSkipped, EVENTS_SKIPPED_MAX);
    } else {
      this.eventsSkipped = EVENTS_SKIPPED_MIN;
    }
    return more;
  }

  private takeReceived(): boolean {
    if (this.closed) return false;
    if (this.info !== null) this.parse();
    return !this.closed && this.makeRoom();
  }

  private negotiate(): void {
    const bytes = Buffer.from(this.region.bytes.subarray(this.start, this.end));
    this.start = 0;
    this.end = 0;
    const { send, outcome } = this.handshake.push(bytes);
    for (const each of send) this.socket.write(each);
    switch (outcome.kind) {
      case 'more':
        return;
      case 'tls':
        this.startTls();
        return;
      case 'close':
        if (!outcome.clean) {
          this.server.options.log.warn('nbd handshake refused', {
            connection: this.id,
            reason: outcome.reason,
          });
        }
        this.socket.end();
        this.destroy(outcome.reason);
        return;
      case 'transmission': {
        clearTimeout(this.deadline);
        this.info = outcome.export;
        this.structured = outcome.structured;
        this.volume = this.server.exports.indexOf(outcome.export);
        const rest = this.handshake.rest();
        this.region.bytes.set(rest, 0);
        this.end = rest.length;
        this.server.options.log.info('nbd connection opened', {
          connection: this.id,
          export: outcome.export.name,
          structured: outcome.structured,
        });
        return;
      }
      default:
        throw new Error(`outcome ${String(outcome satisfies never)}`);
    }
  }

  private startTls(): void {
    const raw = this.socket;
    raw.removeAllListeners('data');
    raw.removeAllListeners('end');
    raw.removeAllListeners('drain');
    this.handshake.insideTls();
    this.socket = new TLSSocket(raw, {
      isServer: true,
      requestCert: true,
      rejectUnauthorized: true,
      secureContext: createSecureContext({ minVersion: 'TLSv1.3', ...this.secure }),
    });
    this.watch();
    this.receiveByEvent();
  }

  /** Makes sure that the next bytes have a place. @returns false when receiving must wait for a region */
  private makeRoom(): boolean {
    const { region } = this;
    if (this.start === this.end && region.users === 0) {
      this.start = 0;
      this.end = 0;
      return true;
    }
    const needed = this.bytesNeeded();
    const room = region.bytes.length - this.end;
    if (room >= Math.max(ROOM_MIN, needed - (this.end - this.start))) return this.inFlight < REQUESTS_MAX;
    const next = this.regions.find((each) => each.users === 0 && each !== region);
    const fresh = next ?? (this.regions.length < this.server.options.regionsMax ? this.newRegion() : null);
    if (fresh === null) {
      if (region.users > 0) return false;
      // The only region is ours: move what is left of the last request to its start.
      region.bytes.copyWithin(0, this.start, this.end);
      this.end -= this.start;
      this.start = 0;
      return true;
    }
    region.bytes.copy(fresh.bytes, 0, this.start, this.end);
    this.end -= this.start;
    this.start = 0;
    this.region = fresh;
    return this.inFlight < REQUESTS_MAX;
  }

  /** Bytes that the request at the front needs before it can be acted on. */
  private bytesNeeded(): number {
    const have = this.end - this.start;
    if (this.stream !== null) return Math.min(this.stream.left, this.pieceBytes);
    if (have < REQUEST_BYTES) return REQUEST_BYTES;
    if (!decodeRequest(this.region.view, this.start, this.request)) return REQUEST_BYTES;
    const { type, length } = this.request;
    return type === Command.write && length <= this.pieceBytes ? REQUEST_BYTES + length : REQUEST_BYTES;
  }

  private get pieceBytes(): number {
    return Math.min(this.server.options.regionBytes / 4, this.journal.requestBytesMax);
  }

  private newRegion(): Region {
    const bytes = Buffer.allocUnsafeSlow(this.server.options.regionBytes);
    const region = { bytes, view: viewOf(bytes), users: 0 };
    this.regions.push(region);
    return region;
  }

  /** Goes on where memory or the backlog had stopped it. */
  private advance(): void {
    if (this.closed || this.info === null) return;
    if (this.end > this.start) this.parse();
    if (!this.paused || !this.makeRoom()) return;
    this.paused = false;
    this.rearm();
    this.socket.resume();
  }

  /** A paused socket keeps the place that it was given last; tell it the new one. */
  private rearm(): void {
    const handle = (
      this.socket as unknown as { _handle: { useUserBuffer?: (bytes: Uint8Array) => void } | null }
    )._handle;
    if (this.secure !== null || handle?.useUserBuffer === undefined) return;
    handle.useUserBuffer(this.region.bytes.subarray(this.end));
  }

  // --- requests ---

  private parse(): void {
    if (this.parsing) return;
    this.parsing = true;
    for (let took = true; took && !this.closed;) {
      took = false;
      while (!this.closed && this.parseOne()) took = true;
      // What the journal finishes at once may let the next requests in.
      this.journal.kick();
    }
    this.parsing = false;
    this.sendOut();
    this.server.flushDirty();
  }

  /** @returns whether something was taken */
  private parseOne(): boolean {
    if (
      this.disconnecting ||
      this.longRead ||
      this.backlog > BACKLOG_BYTES_MAX ||
      this.inFlight >= REQUESTS_MAX
    )
      return false;
    if (this.stream !== null) return this.takeStream(this.stream);
    const have = this.end - this.start;
    if (have < REQUEST_BYTES) return false;
    const { request, region } = this;
    const info = this.info as ExportInfo;
    if (!decodeRequest(region.view, this.start, request)) {
      this.server.options.log.warn('nbd request refused', {
        connection: this.id,
        export: info.name,
        reason: 'wrong magic',
      });
      this.destroy('a request with a wrong magic');
      return false;
    }
    const { type, length, offset, cookieHigh, cookieLow } = request;
    const isWrite = type === Command.write;
    const whole = isWrite && length <= this.pieceBytes ? REQUEST_BYTES + length : REQUEST_BYTES;
    if (have < whole) return false;
    const refusal = refuseRequest(request, info, this.structured);
    if (refusal !== null) {
      this.start += whole;
      this.logRefusal(refusal.reason);
      if (isWrite && whole === REQUEST_BYTES && length > 0) {
        // Its payload follows and means nothing; one that is too long to skip ends the connection.
        if (length > 2 * MAX_PAYLOAD_BYTES) {
          this.destroy(`refused: ${refusal.reason}`);
          return false;
        }
        this.stream = { pending: null, offset: 0, left: length };
      }
      this.replyError(type, refusal.errno, cookieHigh, cookieLow, refusal.reason);
      return true;
    }
    const fua = (request.flags & CommandFlag.fua) !== 0;
    switch (type) {
      case Command.write: {
        const pending = this.begin(cookieHigh, cookieLow, fua);
        if (whole === REQUEST_BYTES) {
          this.start += REQUEST_BYTES;
          this.stream = { pending, offset, left: length };
          return true;
        }
        const from = this.start + REQUEST_BYTES;
        this.start += whole;
        pending.complete = true;
        this.submitWrite(pending, offset, region.bytes.subarray(from, from + length));
        return true;
      }
      case Command.read:
        this.start += whole;
        this.read(offset, length, cookieHigh, cookieLow);
        return true;
      case Command.flush: {
        this.start += whole;
        // Writes of this connection that are still waiting have no reply yet, so the flush need not cover them.
        const pending = this.begin(cookieHigh, cookieLow, true);
        pending.complete = true;
        this.finish(pending);
        return true;
      }
      case Command.trim:
      case Command.writeZeroes:
        this.start += whole;
        this.zero(
          type === Command.trim ? DescriptorOp.trim : DescriptorOp.zero,
          this.begin(cookieHigh, cookieLow, fua),
        );
        return true;
      case Command.disconnect:
        this.start += whole;
        this.disconnecting = true;
        this.endWhenIdle();
        return false;
      default:
        throw new Error(`command ${type} was not refused`);
    }
  }

  private begin(cookieHigh: number, cookieLow: number, fua: boolean): Pending {
    this.inFlight++;
    return { cookieHigh, cookieLow, fua, parts: 0, complete: false, errno: null };
  }

  /** Takes what has arrived of a long write. */
  private takeStream(stream: { pending: Pending | null; offset: number; left: number }): boolean {
    const have = this.end - this.start;
    if (stream.pending === null) {
      const skipped = Math.min(have, stream.left);
      this.start += skipped;
      stream.left -= skipped;
      if (stream.left === 0) this.stream = null;
      return skipped > 0;
    }
    const length = Math.min(stream.left, this.pieceBytes);
    if (have < length) return false;
    const bytes = this.region.bytes.subarray(this.start, this.start + length);
    this.start += length;
    const { offset, pending } = stream;
    stream.offset += length;
    stream.left -= length;
    if (stream.left === 0) {
      this.stream = null;
      pending.complete = true;
    }
    this.submitWrite(pending, offset, bytes);
    return true;
  }

  private submitWrite(pending: Pending, offset: number, data: Uint8Array): void {
    const { region } = this;
    pending.parts++;
    region.users++;
    const request: PendingRequest = {
      op: DescriptorOp.write,
      volume: this.volume,
      sector: offset / SECTOR_BYTES,
      sectors: data.length / SECTOR_BYTES,
      data,
      sink: this,
      region,
      pending,
    };
    this.journal.submit(request);
  }

  private zero(op: DescriptorOp, pending: Pending): void {
    const { offset, length } = this.request;
    const limit = this.journal.zeroSectorsMax;
    const granule = (4 << 20) / SECTOR_BYTES;
    const end = (offset + length) / SECTOR_BYTES;
    const parts: PendingRequest[] = [];
    for (let sector = offset / SECTOR_BYTES; sector < end;) {
      let stop = Math.min(end, sector + limit);
      if (stop < end && stop - (stop % granule) > sector) stop -= stop % granule;
      parts.push({
        op,
        volume: this.volume,
        sector,
        sectors: stop - sector,
        data: null,
        sink: this,
        region: null,
        pending,
      });
      sector = stop;
    }
    pending.parts = parts.length;
    pending.complete = true;
    for (const part of parts) this.journal.submit(part);
  }

  /** All parts of a request are written: flush it if it asks for that, then reply. */
  private finish(pending: Pending): void {
    if (pending.errno === null && pending.fua) {
      this.journal.requestFlush((error: JournalError | null) => {
        this.reply(pending, error === null ? 0 : nbdErrno('EIO'));
      });
      return;
    }
    this.reply(pending, pending.errno === null ? 0 : nbdErrno(pending.errno));
  }

  private reply(pending: Pending, error: number): void {
    this.inFlight--;
    if (this.closed) return;
    this.putSimple(error, pending.cookieHigh, pending.cookieLow);
    if (this.disconnecting) this.endWhenIdle();
  }

  private putSimple(error: number, cookieHigh: number, cookieLow: number): void {
    if (this.outLength + SIMPLE_REPLY_BYTES > this.out.length) this.sendBuffer();
    putSimpleReply(this.outView, this.outLength, error, cookieHigh, cookieLow);
    this.outLength += SIMPLE_REPLY_BYTES;
    this.wantFlush();
  }

  private wantFlush(): void {
    if (this.dirty || this.parsing) return;
    this.dirty = true;
    this.server.markDirty(this);
  }

  private replyError(
    type: number,
    error: number,
    cookieHigh: number,
    cookieLow: number,
    reason: string,
  ): void {
    if (!this.structured || type !== Command.read) {
      this.putSimple(error, cookieHigh, cookieLow);
      return;
    }
    const message = Buffer.from(reason.slice(0, 200), 'utf8');
    const payloadBytes = 6 + message.length;
    this.reserve(CHUNK_HEADER_BYTES + payloadBytes);
    const at = this.outLength;
    putChunkHeader(this.outView, at, {
      done: true,
      type: ChunkType.error,
      cookieHigh,
      cookieLow,
      payloadBytes,
    });
    this.outView.setUint32(at + CHUNK_HEADER_BYTES, error);
    this.outView.setUint16(at + CHUNK_HEADER_BYTES + 4, message.length);
    message.copy(this.out, at + CHUNK_HEADER_BYTES + 6);
    this.outLength += CHUNK_HEADER_BYTES + payloadBytes;
    this.wantFlush();
  }

  private reserve(bytes: number): void {
    if (this.outLength + bytes > this.out.length) this.sendBuffer();
  }

  private logRefusal(reason: string): void {
    this.refusals++;
    if (this.refusals > REFUSALS_LOGGED) return;
    this.server.options.log.warn('nbd request refused', {
      connection: this.id,
      export: this.info?.name ?? null,
      reason,
    });
  }

  private endWhenIdle(): void {
    if (this.inFlight > 0) return;
    this.sendOut();
    this.socket.end();
    this.destroy('the client has disconnected');
  }

  // --- reads ---

  private read(offset: number, length: number, cookieHigh: number, cookieLow: number): void {
    const pieceMax = Math.min(this.pieceBytes, REPLY_BUFFER_BYTES / 2);
    if (length > pieceMax) {
      this.longRead = true;
      this.inFlight++;
      void this.readLong({ offset, length, cookieHigh, cookieLow }, pieceMax);
      return;
    }
    const sector = offset / SECTOR_BYTES;
    const sectors = length / SECTOR_BYTES;
    if (this.structured && this.journal.readsAsZero(this.volume, sector, sectors)) {
      this.reserve(CHUNK_HEADER_BYTES + 12);
      this.outLength += putHole(this.outView, this.outLength, offset, length, true, cookieHigh, cookieLow);
      this.wantFlush();
      return;
    }
    const head = this.structured ? CHUNK_HEADER_BYTES + 8 : SIMPLE_REPLY_BYTES;
    this.reserve(head + length);
    const at = this.outLength;
    if (
      this.journal.readNow(this.volume, sector, sectors, this.out.subarray(at + head, at + head + length))
    ) {
      this.putDataHeader(this.outView, at, offset, length, true, cookieHigh, cookieLow);
      this.outLength += head + length;
      this.wantFlush();
      return;
    }
    this.inFlight++;
    this.backlog += length;
    void this.readSlow({ offset, length, cookieHigh, cookieLow }, head);
  }

  /** Reads what is not in memory, into memory of its own. */
  private async readSlow(request: ReadRequest, head: number): Promise<void> {
    const { offset, length, cookieHigh, cookieLow } = request;
    const bytes = Buffer.allocUnsafe(head + length);
    try {
      await this.journal.read(
        this.volume,
        offset / SECTOR_BYTES,
        length / SECTOR_BYTES,
        bytes.subarray(head),
      );
      this.putDataHeader(viewOf(bytes), 0, offset, length, true, cookieHigh, cookieLow);
      this.pieces.push(bytes);
    } catch (error) {
      this.replyReadError(error, cookieHigh, cookieLow);
    }
    this.backlog -= length;
    this.readDone();
  }

  /**
   * Sends a long read piece by piece. With simple replies its pieces must follow each other, so that other
   * replies wait; an error in the middle can only end the connection there.
   */
  private async readLong(request: ReadRequest, pieceMax: number): Promise<void> {
    const { offset, length, cookieHigh, cookieLow } = request;
    const { structured } = this;
    this.sendOut();
    if (!structured) this.holding = true;
    try {
      for (let done = 0; done < length && !this.closed;) {
        const size = Math.min(pieceMax, length - done);
        const last = done + size === length;
        const sector = (offset + done) / SECTOR_BYTES;
        const head = structured ? CHUNK_HEADER_BYTES + 8 : done === 0 ? SIMPLE_REPLY_BYTES : 0;
        let bytes: Buffer;
        if (structured && this.journal.readsAsZero(this.volume, sector, size / SECTOR_BYTES)) {
          bytes = Buffer.alloc(CHUNK_HEADER_BYTES + 12);
          putHole(viewOf(bytes), 0, offset + done, size, last, cookieHigh, cookieLow);
        } else {
          bytes = Buffer.allocUnsafe(head + size);
          await this.journal.read(this.volume, sector, size / SECTOR_BYTES, bytes.subarray(head));
          if (head > 0)
            this.putDataHeader(viewOf(bytes), 0, offset + done, size, last, cookieHigh, cookieLow);
        }
        done += size;
        await this.send(bytes);
      }
    } catch (error) {
      if (structured) this.replyReadError(error, cookieHigh, cookieLow);
      else {
        this.logRefusal(`READ offset=${offset} length=${length}: ${describe(error)}`);
        this.destroy('a long read failed');
      }
    }
    this.holding = false;
    this.longRead = false;
    this.readDone();
  }

  private replyReadError(error: unknown, cookieHigh: number, cookieLow: number): void {
    this.logRefusal(`READ: ${describe(error)}`);
    this.replyError(Command.read, nbdErrno('EIO'), cookieHigh, cookieLow, describe(error));
  }

  private readDone(): void {
    this.inFlight--;
    if (this.closed) return;
    this.sendOut();
    this.advance();
    if (this.disconnecting) this.endWhenIdle();
  }

  private putDataHeader(
    view: DataView,
    at: number,
    offset: number,
    length: number,
    done: boolean,
    cookieHigh: number,
    cookieLow: number,
  ): void {
    if (!this.structured) {
      putSimpleReply(view, at, 0, cookieHigh, cookieLow);
      return;
    }
    putChunkHeader(view, at, {
      done,
      type: ChunkType.offsetData,
      cookieHigh,
      cookieLow,
      payloadBytes: 8 + length,
    });
    putOffset(view, at + CHUNK_HEADER_BYTES, offset);
  }

  // --- sending ---

  /** Sends what is in the reply buffer and the reads that have ended. */
  private sendOut(): void {
    if (this.closed || this.holding || (this.outLength === 0 && this.pieces.length === 0)) return;
    const { socket } = this;
    if (this.pieces.length === 0) {
      this.sendBuffer();
      return;
    }
    socket.cork();
    if (this.outLength > 0) this.sendBuffer();
    for (const piece of this.pieces.splice(0)) {
      this.backlog += piece.length;
      socket.write(piece, () => {
        this.sent(piece.length);
      });
    }
    socket.uncork();
  }

  private sendBuffer(): void {
    const { out, socket } = this;
    let { outLength } = this;
    this.outLength = 0;
    if (this.fd >= 0 && !socket.destroyed && socket.writableLength === 0) {
      // What fails here fails again below, and is told as an event.
      const sent = Math.max(0, this.native.sendNow(this.fd, out, outLength));
      if (sent === outLength) return;
      out.copyWithin(0, sent, outLength);
      outLength -= sent;
    }
    this.backlog += outLength;
    if (outLength <= REPLY_COPIED_MAX) {
      const copy = Buffer.from(out.subarray(0, outLength));
      socket.write(copy, () => {
        this.sent(outLength);
      });
      return;
    }
    // The kernel may take it later: until then the replies that follow need another buffer.
    this.out = this.outPool.pop() ?? Buffer.allocUnsafeSlow(REPLY_BUFFER_BYTES);
    this.outView = viewOf(this.out);
    socket.write(out.subarray(0, outLength), () => {
      if (this.outPool.length < REPLY_BUFFERS_POOLED) this.outPool.push(out);
      this.sent(outLength);
    });
  }

  private sent(bytes: number): void {
    const held = this.backlog > BACKLOG_BYTES_MAX;
    this.backlog -= bytes;
    if (held && this.backlog <= BACKLOG_BYTES_MAX) this.advance();
  }

  private send(bytes: Buffer): Promise<void> {
    return new Promise((resolve) => {
      // The callback comes with an error too, when the socket is gone.
      this.socket.write(bytes, () => {
        resolve();
      });
    });
  }
}

interface ReadRequest {
  offset: number;
  length: number;
  cookieHigh: number;
  cookieLow: number;
}

function putHole(
  view: DataView,
  at: number,
  offset: number,
  length: number,
  done: boolean,
  cookieHigh: number,
  cookieLow: number,
): number {
  putChunkHeader(view, at, { done, type: ChunkType.offsetHole, cookieHigh, cookieLow, payloadBytes: 12 });
  putOffset(view, at + CHUNK_HEADER_BYTES, offset);
  view.setUint32(at + CHUNK_HEADER_BYTES + 8, length);
  return CHUNK_HEADER_BYTES + 12;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
