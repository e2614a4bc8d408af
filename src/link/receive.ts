/**
 * Receives a socket's bytes into one region of memory that is used again and again.
 *
 * Node allocates 64 KiB for each piece that it reads, and inside TLS hands them out by the record: a third of the
 * receiving CPU. It can read into memory of the caller (`onread` of net.Socket and tls.connect), but offers that
 * only to sockets that it connects itself. The same fields are set here on an accepted one; where a version of
 * Node has no such fields, the bytes are copied from its `data` events.
 */
import type { Socket } from 'node:net';

const REGION_BYTES = 1 << 20;
/** What may still arrive after reading was stopped: one read of Node's (64 KiB) as TLS decrypts it, and one record. */
const IN_HAND_BYTES_MAX = 96 << 10;

/** Uses some of the bytes, all if there is nothing to wait for. They stay as they are until `pending` settles. */
export type Take = (bytes: Buffer) => { used: number; pending?: Promise<void> };

export class Receiver {
  readonly #socket: Socket;
  readonly #take: Take;
  readonly #region = Buffer.allocUnsafeSlow(REGION_BYTES);
  /** Received and not taken: from `#start` to `#end`. */
  #start = 0;
  #end = 0;
  /** Where Node was told to put the next bytes. */
  #target = 0;
  #pending = false;
  #stopped = false;
  #discarding = false;
  #whenEmpty: (() => void) | undefined;

  /**
   * @param socket paused
   * @param early bytes that were received before, less than a region
   */
  constructor(socket: Socket, early: Buffer, take: Take) {
    this.#socket = socket;
    this.#take = take;
    this.#end = early.copy(this.#region);
    if (!this.#receiveInPlace()) socket.on('data', (bytes: Buffer) => this.#copyIn(bytes));
    this.#deliver();
    if (!this.#stopped) socket.resume();
  }

  /** Throws away what is there and what will come. */
  discard(): void {
    this.#discarding = true;
  }

  /** Calls once when all that has been received is taken, and nothing is waited for. */
  whenEmpty(call: () => void): void {
    this.#whenEmpty = call;
    this.#checkEmpty();
  }

  #receiveInPlace(): boolean {
    const fields = new Map<string, symbol>();
    for (const symbol of Object.getOwnPropertySymbols(this.#socket))
      fields.set(symbol.description ?? '', symbol);
    const [buffer, received, next] = ['kBuffer', 'kBufferCb', 'kBufferGen'].map((name) => fields.get(name));
    const socket = this.#socket as unknown as Record<symbol, unknown> & {
      _handle?: { useUserBuffer?: (bytes: Buffer) => void } | null;
    };
    const handle = socket._handle;
    if (buffer === undefined || received === undefined || next === undefined) return false;
    if (typeof handle?.useUserBuffer !== 'function') return false;
    const first = this.#nextTarget() ?? this.#region;
    socket[buffer] = first;
    socket[received] = (count: number) => this.#received(count);
    socket[next] = () => this.#nextTarget();
    handle.useUserBuffer(first);
    return true;
  }

  /** Where the next bytes go; undefined when that is where the last ones went. */
  #nextTarget(): Buffer | undefined {
    if (this.#target === this.#end) return undefined;
    this.#target = this.#end;
    return this.#region.subarray(this.#end);
  }

  #copyIn(bytes: Buffer): void {
    for (let done = 0; done < bytes.length;) {
      const copied = bytes.copy(this.#region, this.#end, done);
      if (copied === 0) throw new Error('the receive region is too small for what Node had in hand');
      done += copied;
      if (!this.#received(copied)) this.#socket.pause();
    }
  }

  /** @returns false when nothing more may be received for now */
  #received(count: number): boolean {
    this.#end += count;
    this.#deliver();
    if (this.#region.length - this.#end >= IN_HAND_BYTES_MAX) return true;
    this.#stopped = true;
    return false;
  }

  #deliver(): void {
    while (!this.#pending && this.#start < this.#end) {
      if (this.#discarding) {
        this.#start = this.#end;
        break;
      }
      const { used, pending } = this.#take(this.#region.subarray(this.#start, this.#end));
      this.#start += used;
      if (pending === undefined) continue;
      this.#pending = true;
      pending.then(
        () => this.#settled(),
        (error: Error) => this.#socket.destroy(error),
      );
    }
    if (this.#start === this.#end && !this.#pending) {
      this.#start = 0;
      this.#end = 0;
    }
  }

  #settled(): void {
    this.#pending = false;
    this.#deliver();
    if (this.#stopped && this.#region.length - this.#end >= IN_HAND_BYTES_MAX) {
      this.#stopped = false;
      this.#socket.resume();
    }
    this.#checkEmpty();
  }

  #checkEmpty(): void {
    if (this.#pending || this.#start < this.#end) return;
    const call = this.#whenEmpty;
    this.#whenEmpty = undefined;
    call?.();
  }
}
