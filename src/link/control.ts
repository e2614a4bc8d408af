/**
 * The control connection of a link: messages in their frames, and how it was lost.
 *
 * Nothing is read before `start`, so that no message or loss can be missed.
 */
import type { Socket } from 'node:net';
import { ControlDecoder, encodeControl } from '../core/link/control-frames.js';
import { LinkError } from '../core/link/errors.js';
import type { ControlMessage, ReadMessage } from '../core/link/messages.js';
import { lossOf } from './loss.js';
import type { Loss } from './loss.js';
import { closeSocket } from './sockets.js';

/** What may wait to be sent: a peer that reads so little of so few messages does not live. */
const QUEUED_BYTES_MAX = 256 << 10;

export interface ControlHandlers<In> {
  message: (message: In) => void;
  /** Once, and nothing comes after it. Not called after `close`. */
  lost: (loss: Loss) => void;
}

/** One side of a control connection that sends `Out` and receives `In`. */
export class ControlChannel<Out extends ControlMessage, In> {
  readonly #socket: Socket;
  readonly #read: ReadMessage<In>;
  readonly #decoder = new ControlDecoder();
  readonly #early: Buffer;
  #handlers: ControlHandlers<In> | undefined;
  #loss: Loss | undefined;
  #closed = false;
  #silence: NodeJS.Timeout | undefined;
  #heard = 0;

  /**
   * @param socket whose hello was exchanged, paused
   * @param early what was received behind the hello's answer
   */
  constructor(socket: Socket, read: ReadMessage<In>, early: Buffer) {
    this.#socket = socket;
    this.#read = read;
    this.#early = early;
    socket.on('error', (error) => this.#lose(lossOf(error)));
    socket.on('end', () =>
      this.#lose({ kind: 'closed', reason: 'the peer has closed the control connection' }),
    );
    socket.on('close', () => this.#lose({ kind: 'reset', reason: 'the control connection was closed' }));
  }

  /**
   * Begins to receive.
   * @param silenceMs a peer that sends nothing for so long is lost, of kind `timeout`; 0 for no limit
   */
  start(handlers: ControlHandlers<In>, silenceMs: number): void {
    this.#handlers = handlers;
    if (this.#loss !== undefined) {
      handlers.lost(this.#loss);
      return;
    }
    if (silenceMs > 0) this.#watchSilence(silenceMs);
    this.#receive(this.#early);
    this.#socket.on('data', (bytes: Buffer) => this.#receive(bytes));
    this.#socket.resume();
  }

  /**
   * Sends a message, in order, without waiting.
   * @returns false when the connection is lost or closed
   */
  send(message: Out): boolean {
    if (this.#loss !== undefined || this.#closed) return false;
    this.#socket.write(encodeControl(message));
    if (this.#socket.writableLength > QUEUED_BYTES_MAX) {
      this.#lose({
        kind: 'timeout',
        reason: `the peer does not read: ${this.#socket.writableLength} bytes of control messages wait`,
      });
    }
    return this.#loss === undefined;
  }

  /** Sends what waits, and closes. Resolves when the socket is gone, after `lingerMs` at the latest. */
  async close(lingerMs = 1000): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#silence);
    await closeSocket(this.#socket, lingerMs);
  }

  #receive(bytes: Buffer): void {
    this.#heard++;
    let rest = bytes;
    try {
      while (rest.length > 0 && this.#loss === undefined && !this.#closed) {
        const { used, json } = this.#decoder.read(rest);
        rest = rest.subarray(used);
        if (json !== undefined) this.#handlers?.message(this.#read(json));
      }
    } catch (error) {
      if (!(error instanceof LinkError)) throw error;
      this.#lose(lossOf(error));
    }
  }

  /**
   * When the time is over, what has arrived meanwhile is read first: after a pause of this process the timer is
   * due before the socket is looked at, and the peer must not be blamed for it.
   */
  #watchSilence(silenceMs: number): void {
    let heard = this.#heard;
    this.#silence = setInterval(() => {
      const before = heard;
      heard = this.#heard;
      if (this.#heard !== before) return;
      setImmediate(() =>
        setImmediate(() => {
          if (this.#heard !== before || this.#closed) return;
          this.#lose({ kind: 'timeout', reason: `nothing was heard of the peer for ${silenceMs} ms` });
        }),
      );
    }, silenceMs);
  }

  #lose(loss: Loss): void {
    if (this.#loss !== undefined || this.#closed) return;
    this.#loss = loss;
    clearTimeout(this.#silence);
    this.#socket.destroy();
    this.#handlers?.lost(loss);
  }
}
