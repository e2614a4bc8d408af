/**
 * The embedded mirror, in DRBD's place: keeps the volumes of two embedded hosts the same, asynchronously and in order.
 * A write has completed when it is on the own disk and handed to the connection (DRBD's protocol A); the peer does
 * writes in the order in which they were made, over all volumes, and those to the barrier volume only when everything
 * before them has completed. What the two may differ in is noted (`bitmap.ts`) and sent again when they meet.
 *
 *     Connecting --hello each way--> Connected, UpToDate
 *                                --> SyncSource / SyncTarget --resync-done--> Connected, UpToDate
 *
 * A peer that is silent for too long is lost (DRBD's pings), and is connected to again and again. StandAlone, until it is
 * told to connect: two primaries; two that have both been written to apart from each other, unless one of them discards
 * what it has; a resync that would go into an epoch journal (the handler before-resync-target).
 */
import { once } from 'node:events';
import { existsSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import type { AddressInfo, Socket } from 'node:net';
import { join } from 'node:path';
import { BLOCK_BYTES, EmbeddedBitmap } from './bitmap.js';
import { BARRIER, EMBEDDED_VOLUMES } from './devices.js';
import type { EmbeddedDevices } from './devices.js';
import { encodeFrame, FrameReader, MirrorFrame } from './mirror-wire.js';
import type { Frame } from './mirror-wire.js';

/** What may wait in the connection before writes have to wait, too. */
const SEND_BUFFER_BYTES = 4 << 20;
/** Blocks of a resync that are on their way. */
const RESYNC_WINDOW = 256;
const TICK_MS = 250;
/**
 * Ticks without anything of the peer after which it is lost: five seconds. They are counted, so that a pause of this
 * process does not pass for the peer's.
 */
const SILENT_TICKS = 20;

export type Replication = 'Connecting' | 'Connected' | 'SyncSource' | 'SyncTarget' | 'StandAlone';
type Role = 'primary' | 'secondary';

interface Hello {
  host: string;
  role: Role;
  differing: number[][];
  /** It was written to while it had no peer. */
  diverged: boolean;
  /** It was told to give way to the other one's data. */
  discards: boolean;
}

interface Sent {
  volume: number;
  blocks: number[];
  resync: boolean;
}

export interface MirrorState {
  role: Role;
  replication: Replication;
  /** As `drbdadm up` makes it. */
  isUp: boolean;
  differingBlocks: number;
  /** Of the resync that runs or ran last. */
  resyncBlocks: number;
  /** So many were begun from here. */
  resyncs: number;
}

export class EmbeddedMirror {
  readonly #host: string;
  readonly #devices: EmbeddedDevices;
  readonly #bitmaps: EmbeddedBitmap[];
  readonly #onState: (state: MirrorState) => void;
  readonly #divergedPath: string;
  /** Where the peer listens; null for the one that listens. */
  readonly #peerPort: number | null;
  #role: Role = 'secondary';
  /** Before `up` it neither takes nor makes connections. */
  #replication: Replication | null = null;
  #discards = false;
  #diverged: boolean;
  #said = '';
  #silentTicks = 0;
  #isDialing = false;
  #socket: Socket | null = null;
  #sequence = 0;
  readonly #sent = new Map<number, Sent>();
  #resyncQueue: { volume: number; block: number }[] = [];
  #resyncBlocks = 0;
  #resyncs = 0;
  #resyncing = false;

  constructor(
    { host, directory, peerPort }: { host: string; directory: string; peerPort: number | null },
    devices: EmbeddedDevices,
    onState: (state: MirrorState) => void,
  ) {
    this.#host = host;
    this.#peerPort = peerPort;
    this.#divergedPath = join(directory, 'embedded-diverged');
    this.#diverged = existsSync(this.#divergedPath);
    this.#devices = devices;
    this.#onState = onState;
    this.#bitmaps = EMBEDDED_VOLUMES.map(
      ({ name, sizeBytes }) => new EmbeddedBitmap(join(directory, `${name}.bitmap`), sizeBytes),
    );
  }

  state(): MirrorState {
    const differingBlocks = this.#bitmaps.reduce((sum, { differingCount }) => sum + differingCount, 0);
    return {
      role: this.#role,
      replication: this.#replication ?? 'StandAlone',
      isUp: this.#replication !== null,
      differingBlocks,
      resyncBlocks: this.#resyncBlocks,
      resyncs: this.#resyncs,
    };
  }

  /** @returns the port */
  async listen(): Promise<number> {
    const server = createServer((socket) => this.#connected(socket));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return (server.address() as AddressInfo).port;
  }

  /** From here on it has a peer, or looks for one. The disks have to be what they are by now. */
  up(): void {
    if (this.#replication !== null) return;
    this.#replication = 'Connecting';
    // What has arrived by now is handled before the silence is judged.
    setInterval(() => setImmediate(() => this.#tick()), TICK_MS);
    this.#tick();
    this.#changed();
  }

  /** Where it stands alone: looks for its peer again. @param discard of both sides' data gives way to the peer's */
  connect(discard: boolean): void {
    this.#discards = discard;
    if (this.#replication !== 'StandAlone') return;
    this.#replication = 'Connecting';
    this.#tick();
    this.#changed();
  }

  /** Drops the peer, so that nothing of it comes in any more, and stands alone. */
  async disconnect(): Promise<void> {
    this.#lost('StandAlone');
    // What it had sent and is being written still completes.
    await this.#devices.idle();
  }

  /** @throws Error while it is being resynchronised */
  promote(): void {
    if (this.#replication === 'SyncTarget') throw new Error('embedded mirror: it is Inconsistent');
    this.#role = 'primary';
    this.#changed();
  }

  demote(): void {
    this.#role = 'secondary';
    this.#changed();
  }

  read(volume: number, offsetBytes: number, lengthBytes: number): Promise<Buffer> {
    return this.#devices.read(volume, offsetBytes, lengthBytes);
  }

  /** As the guest and the sender do. `bytes` may not change afterwards. */
  async write(volume: number, offsetBytes: number, bytes: Uint8Array): Promise<void> {
    if (this.#role !== 'primary') throw new Error(`embedded mirror: ${this.#host} is secondary`);
    const socket = this.#socket;
    const isConnected = socket !== null && this.#isReplicating();
    if (!isConnected) this.#setDiverged(true);
    const blocks = blocksOf(offsetBytes, bytes.length);
    for (const block of blocks) this.#bitmap(volume).begin(block, isConnected);
    if (isConnected) {
      const sequence = this.#sequence++;
      this.#sent.set(sequence, { volume, blocks, resync: false });
      socket.write(encodeFrame({ type: MirrorFrame.write, volume, sequence, offsetBytes }, bytes));
    }
    await this.#devices.write(volume, offsetBytes, bytes);
    if (isConnected && socket.writableLength > SEND_BUFFER_BYTES) {
      await new Promise<void>((resolve) => {
        socket.once('drain', resolve).once('close', resolve);
      });
    }
  }

  /** Everything written so far is on both hosts. @throws Error when the connection is lost */
  async drained(): Promise<void> {
    while (this.#sent.size > 0) {
      if (this.#socket === null) throw new Error('embedded mirror: the peer is gone');
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    await this.#devices.idle();
  }

  #tick(): void {
    const socket = this.#socket;
    if (socket !== null) {
      this.#silentTicks++;
      if (this.#silentTicks > SILENT_TICKS) this.#lost();
      else socket.write(encodeFrame({ type: MirrorFrame.ping, volume: 0, sequence: 0, offsetBytes: 0 }));
    } else if (this.#replication === 'Connecting' && this.#peerPort !== null && !this.#isDialing) {
      this.#dial(this.#peerPort);
    }
  }

  #dial(port: number): void {
    this.#isDialing = true;
    const socket = connect(port, '127.0.0.1');
    socket.once('close', () => (this.#isDialing = false));
    socket.once('error', () => undefined);
    socket.once('connect', () => {
      this.#isDialing = false;
      this.#connected(socket);
    });
  }

  #setDiverged(diverged: boolean): void {
    if (this.#diverged === diverged) return;
    this.#diverged = diverged;
    if (diverged) writeFileSync(this.#divergedPath, '');
    else rmSync(this.#divergedPath, { force: true });
  }

  #isReplicating(): boolean {
    return this.#replication === 'Connected' || this.#replication === 'SyncSource';
  }

  #bitmap(volume: number): EmbeddedBitmap {
    const bitmap = this.#bitmaps[volume];
    if (bitmap === undefined) throw new Error(`embedded mirror: there is no volume ${volume}`);
    return bitmap;
  }

  #connected(socket: Socket): void {
    socket.on('error', () => undefined);
    if (this.#socket !== null || this.#replication !== 'Connecting') {
      socket.destroy();
      return;
    }
    this.#socket = socket;
    this.#silentTicks = 0;
    socket.setNoDelay(true);
    const reader = new FrameReader();
    socket.on('data', (chunk: Buffer) => {
      this.#silentTicks = 0;
      for (const frame of reader.read(chunk)) {
        // Dropped in the middle of a chunk, the rest of it counts no more.
        if (this.#socket !== socket) return;
        this.#take(socket, frame);
      }
    });
    socket.on('close', () => {
      if (this.#socket === socket) this.#lost();
    });
    const hello: Hello = {
      host: this.#host,
      role: this.#role,
      differing: this.#bitmaps.map(({ differing }) => differing),
      diverged: this.#diverged,
      discards: this.#discards,
    };
    socket.write(
      encodeFrame(
        { type: MirrorFrame.hello, volume: 0, sequence: 0, offsetBytes: 0 },
        Buffer.from(JSON.stringify(hello)),
      ),
    );
  }

  #lost(replication: Replication = 'Connecting'): void {
    if (this.#replication === null) return;
    this.#socket?.destroy();
    this.#socket = null;
    this.#sent.clear();
    this.#resyncQueue = [];
    this.#resyncing = false;
    for (const bitmap of this.#bitmaps) bitmap.connectionLost();
    this.#replication = replication;
    this.#changed();
  }

  #changed(): void {
    const state = this.state();
    const text = JSON.stringify(state);
    if (text === this.#said) return;
    this.#said = text;
    this.#onState(state);
  }

  #take(socket: Socket, frame: Frame): void {
    const { type, volume, sequence, offsetBytes, payload } = frame;
    switch (type) {
      case MirrorFrame.hello:
        this.#met(JSON.parse(payload.toString()) as Hello);
        return;
      case MirrorFrame.write:
      case MirrorFrame.resync:
        void this.#write(socket, frame);
        return;
      case MirrorFrame.ack:
        this.#acknowledged(sequence);
        return;
      case MirrorFrame.resyncDone:
        for (const bitmap of this.#bitmaps) bitmap.clear();
        this.#resynced();
        return;
      case MirrorFrame.ping:
        return;
      default:
        throw new Error(`embedded mirror: frame ${type} of volume ${volume} at ${offsetBytes}`);
    }
  }

  #met(peer: Hello): void {
    const bothPrimary = this.#role === 'primary' && peer.role === 'primary';
    const bothDiverged = this.#diverged && peer.diverged && !this.#discards && !peer.discards;
    const differs = [...this.#bitmaps.map(({ differing }) => differing), ...peer.differing].some(
      ({ length }) => length > 0,
    );
    if (bothPrimary || bothDiverged || (differs && !this.#devices.isPlain)) {
      this.#lost('StandAlone');
      return;
    }
    if (this.#role === 'primary') {
      peer.differing.forEach((blocks, volume) => {
        for (const block of blocks) this.#bitmap(volume).mark(block);
      });
      this.#resyncQueue = this.#bitmaps.flatMap(({ differing }, volume) =>
        differing.sort((a, b) => a - b).map((block) => ({ volume, block })),
      );
      this.#resyncBlocks = this.#resyncQueue.length;
      this.#resyncs++;
      this.#replication = 'SyncSource';
      this.#changed();
      void this.#resync();
      return;
    }
    this.#replication = peer.role === 'primary' ? 'SyncTarget' : 'Connected';
    this.#changed();
  }

  #resynced(): void {
    this.#setDiverged(false);
    this.#discards = false;
    this.#replication = 'Connected';
    this.#changed();
  }

  /** Sends what may differ, each block as it is when its turn comes: writes made later follow it. */
  async #resync(): Promise<void> {
    if (this.#resyncing) return;
    this.#resyncing = true;
    while (this.#socket !== null && this.#sent.size < RESYNC_WINDOW) {
      const next = this.#resyncQueue.shift();
      if (next === undefined) break;
      const { volume, block } = next;
      const socket = this.#socket;
      const offsetBytes = block * BLOCK_BYTES;
      const bytes = await this.#devices.read(volume, offsetBytes, BLOCK_BYTES);
      // The devices are files here, read at once: nothing was written since.
      if (this.#socket !== socket) return;
      const sequence = this.#sequence++;
      this.#sent.set(sequence, { volume, blocks: [block], resync: true });
      socket.write(encodeFrame({ type: MirrorFrame.resync, volume, sequence, offsetBytes }, bytes));
    }
    this.#resyncing = false;
    this.#checkResynced();
  }

  #checkResynced(): void {
    if (this.#replication !== 'SyncSource' || this.#resyncQueue.length > 0) return;
    for (const { resync } of this.#sent.values()) if (resync) return;
    this.#socket?.write(
      encodeFrame({ type: MirrorFrame.resyncDone, volume: 0, sequence: 0, offsetBytes: 0 }),
    );
    this.#resynced();
  }

  async #write(socket: Socket, { type, volume, sequence, offsetBytes, payload }: Frame): Promise<void> {
    try {
      // DRBD's own write ordering: a marker comes behind everything that had completed before it.
      const written =
        volume === BARRIER
          ? this.#devices.writeBehind(volume, offsetBytes, payload)
          : this.#devices.write(volume, offsetBytes, payload);
      await written;
    } catch (error) {
      // As a disk that fails: the peer gets no acknowledgement, and the two part.
      if (this.#socket === socket) this.#lost();
      process.stderr.write(`embedded mirror ${this.#host}: ${(error as Error).message}\n`);
      return;
    }
    if (this.#socket !== socket) return;
    socket.write(encodeFrame({ type: MirrorFrame.ack, volume, sequence, offsetBytes }));
    if (type === MirrorFrame.resync) this.#changed();
  }

  #acknowledged(sequence: number): void {
    const sent = this.#sent.get(sequence);
    if (sent === undefined) throw new Error(`embedded mirror: an ack of ${sequence} that nobody waits for`);
    this.#sent.delete(sequence);
    for (const block of sent.blocks) {
      if (sent.resync) this.#bitmap(sent.volume).resynchronised(block);
      else this.#bitmap(sent.volume).acknowledged(block);
    }
    if (this.#replication !== 'SyncSource') return;
    if (sent.resync) this.#changed();
    void this.#resync();
  }
}

function blocksOf(offsetBytes: number, lengthBytes: number): number[] {
  const first = Math.floor(offsetBytes / BLOCK_BYTES);
  const last = Math.floor((offsetBytes + lengthBytes - 1) / BLOCK_BYTES);
  return Array.from({ length: last - first + 1 }, (_, index) => first + index);
}
