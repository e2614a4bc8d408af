/**
 * The bulk connection of a link: frames of the migration stream, with back-pressure in both directions, and how it
 * was lost.
 *
 * Receiving: into memory that is used again and again (`receive.ts`). An item's bytes belong to the
 * handler until it returns, or until the promise that it returned settles; it is not called again before that,
 * and when that memory is full meanwhile nothing more is read, so that the peer is held by TCP.
 */
import type { Socket } from 'node:net';
import { BulkDecoder, encodeBulkHeader } from '../core/link/bulk.js';
import type { BulkHeader, BulkItem } from '../core/link/bulk.js';
import { LinkError } from '../core/link/errors.js';
import { lossOf } from './loss.js';
import type { Loss } from './loss.js';
import { Receiver } from './receive.js';
import { closeSocket } from './sockets.js';

export interface BulkHandlers {
  item: (item: BulkItem) => void | Promise<void>;
  /** Once, and nothing comes after it. Not called after `close`, nor after an item `end`. */
  lost: (loss: Loss) => void;
}

export class BulkChannel {
  readonly #socket: Socket;
  readonly #decoder = new BulkDecoder();
  readonly #early: Buffer;
  #handlers: BulkHandlers | undefined;
  #receiver: Receiver | undefined;
  #loss: Loss | undefined;
  #over = false;
  #peerEnded = false;

  /**
   * @param socket whose hello was exchanged, paused
   * @param early what was received behind the hello's answer
   */
  constructor(socket: Socket, early: Buffer) {
    this.#socket = socket;
    this.#early = early;
    socket.on('error', (error) => this.#lose(lossOf(error)));
    socket.on('end', () => this.#ended());
    socket.on('close', () => {
      if (!this.#peerEnded) this.#lose({ kind: 'reset', reason: 'the bulk connection was closed' });
    });
  }

  /** Begins to receive. A handler must not throw or reject. */
  start(handlers: BulkHandlers): void {
    this.#handlers = handlers;
    if (this.#loss !== undefined) {
      handlers.lost(this.#loss);
      return;
    }
    this.#receiver = new Receiver(this.#socket, this.#early, (bytes) => this.#take(bytes));
  }

  /**
   * Sends one frame, behind those before it.
   *
   * @param pieces the frame's bytes, at most BULK_FRAME_BYTES_MAX together; they may be written to again when the
   *   promise has resolved
   * @returns true when all of it went to the kernel; false when the connection was lost or closed before. A sender
   *   that keeps two or three frames of 1 MiB unresolved keeps the connection busy.
   */
  send(header: BulkHeader, ...pieces: readonly Uint8Array[]): Promise<boolean> {
    const length = pieces.reduce((sum, piece) => sum + piece.length, 0);
    const head = encodeBulkHeader(header, length);
    if (this.#loss !== undefined || this.#over) return Promise.resolve(false);
    return new Promise((resolve) => {
      // A write that was under way when the socket was destroyed ends without an error in Node.
      const done = (error?: Error | null): void => resolve(!error && !this.#socket.destroyed);
      this.#socket.cork();
      this.#socket.write(head, pieces.length === 0 ? done : undefined);
      pieces.forEach((piece, n) => this.#socket.write(piece, n === pieces.length - 1 ? done : undefined));
      this.#socket.uncork();
    });
  }

  /** Bytes that were given to `send` and are not in the kernel yet. */
  get queuedBytes(): number {
    return this.#socket.writableLength;
  }

  /**
   * Sends what waits and an `end` frame, and closes. Resolves when the socket is gone, after `lingerMs` at the
   * latest.
   *
   * @param clean whether all that was to be sent has been
   */
  async close(clean: boolean, lingerMs = 1000): Promise<void> {
    if (!this.#over && this.#loss === undefined) void this.send({ type: 'end', clean });
    this.#over = true;
    this.#receiver?.discard();
    await closeSocket(this.#socket, lingerMs);
  }

  /** Gives one item on. @returns what was used of `bytes`, and what to wait for */
  #take(bytes: Buffer): { used: number; pending?: Promise<void> } {
    if (this.#loss !== undefined || this.#over) return { used: bytes.length };
    try {
      const { used, item } = this.#decoder.read(bytes);
      if (item === undefined) return { used };
      const result = this.#handlers?.item(item);
      return result === undefined ? { used } : { used, pending: result };
    } catch (error) {
      if (!(error instanceof LinkError)) throw error;
      this.#lose(lossOf(error));
      return { used: bytes.length };
    }
  }

  /** The peer has sent all that it will: what is here goes to the handler first. */
  #ended(): void {
    this.#peerEnded = true;
    this.#receiver?.whenEmpty(() =>
      this.#lose({ kind: 'closed', reason: 'the peer has closed the bulk connection' }),
    );
  }

  #lose(loss: Loss): void {
    if (this.#loss !== undefined || this.#over) return;
    this.#loss = loss;
    this.#socket.destroy();
    if (!this.#decoder.ended) this.#handlers?.lost(loss);
  }
}
