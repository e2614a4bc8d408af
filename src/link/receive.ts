/**
 * Receives a socket's bytes into two regions of memory that are used again and again.
 *
 * Node allocates 64 KiB for each piece that it reads, and inside TLS hands them out by the record: a third of the
 * receiving CPU. It can read into memory of the caller (`onread` of net.Socket and tls.connect), but offers that
 * only to sockets that it connects itself. The same fields are set here on an accepted one; where a version of
 * Node has no such fields, the bytes are copied from its `data` events.
 *
 * Where the next bytes go is asked for only when some have come. So a region is changed only then, and reading
 * stops while there is still room at its end: for what Node has in hand, and for one read after the stop is over.
 */
import type { Socket } from 'node:net';

const REGION_BYTES = 512 << 10;
/** What Node reads from a socket at once, unless it is given more room. */
const READ_BYTES = 64 << 10;
/** Room that stays when reading stops: for a read that TLS has not handed out yet, a record, and a read after it. */
const RESERVE_BYTES = 2 * READ_BYTES + (32 << 10);
/** Below this, what could be received before the reserve is not worth a call. */
const TAIL_BYTES = RESERVE_BYTES + (32 << 10);

interface Region {
  bytes: Buffer;
  /** Received and not taken: from `start` to `end`. */
  start: number;
  end: number;
}

/** Uses some of the bytes, all if there is nothing to wait for. They stay as they are until `pending` settles. */
export type Take = (bytes: Buffer) => { used: number; pending?: Promise<void> };

export class Receiver {
  readonly #socket: Socket;
  readonly #take: Take;
  /** Where bytes are put, and where they are taken from; the same one, unless the taker is behind. */
  #filling: Region = newRegion();
  #giving: Region = this.#filling;
  #spare: Region = newRegion();
  /** Where Node was told to put the next bytes. */
  #target: { region: Region; at: number } | undefined;
  #pending = false;
  #stopped = false;
  #discarding = false;
  #whenEmpty: (() => void) | undefined;

  /**
   * @param socket paused
   * @param early bytes that were received before, at most one read of Node's
   */
  constructor(socket: Socket, early: Buffer, take: Take) {
    this.#socket = socket;
    this.#take = take;
    this.#filling.end = early.copy(this.#filling.bytes);
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
    const first = this.#nextTarget() as Buffer;
    socket[buffer] = first;
    socket[received] = (count: number) => this.#received(count);
    socket[next] = () => this.#nextTarget();
    handle.useUserBuffer(first);
    return true;
  }

  /** Where the next bytes go; undefined when that is where the last ones went. */
  #nextTarget(): Buffer | undefined {
    const region = this.#filling;
    if (this.#target?.region === region && this.#target.at === region.end) return undefined;
    this.#target = { region, at: region.end };
    const last = this.#stopped ? region.end + READ_BYTES : region.bytes.length - RESERVE_BYTES;
    return region.bytes.subarray(region.end, last);
  }

  #copyIn(bytes: Buffer): void {
    for (let done = 0; done < bytes.length;) {
      const copied = bytes.copy(this.#filling.bytes, this.#filling.end, done);
      if (copied === 0) throw new Error('more was received than there is room for');
      done += copied;
      if (!this.#received(copied)) this.#socket.pause();
    }
  }

  /** @returns false when nothing more may be received for now */
  #received(count: number): boolean {
    this.#filling.end += count;
    this.#deliver();
    const { bytes, start, end } = this.#filling;
    const behind = this.#giving !== this.#filling;
    if (!behind && !this.#pending && start === end) {
      this.#filling.start = 0;
      this.#filling.end = 0;
    } else if (bytes.length - end < TAIL_BYTES) {
      if (behind) {
        this.#stopped = true;
        return false;
      }
      this.#filling = this.#spare;
    }
    return true;
  }

  #deliver(): void {
    while (!this.#pending) {
      const region = this.#giving;
      if (this.#discarding) region.start = region.end;
      if (region.start === region.end) {
        if (region === this.#filling) return;
        region.start = 0;
        region.end = 0;
        this.#spare = region;
        this.#giving = this.#filling;
        continue;
      }
      const { used, pending } = this.#take(region.bytes.subarray(region.start, region.end));
      region.start += used;
      if (pending === undefined) continue;
      this.#pending = true;
      // A rejection is the handler's fault, and ends the process.
      void pending.then(() => this.#settled());
    }
  }

  #settled(): void {
    this.#pending = false;
    this.#deliver();
    if (this.#stopped && this.#giving === this.#filling) {
      this.#stopped = false;
      this.#socket.resume();
    }
    this.#checkEmpty();
  }

  #checkEmpty(): void {
    if (this.#pending || this.#giving !== this.#filling || this.#giving.start < this.#giving.end) return;
    const call = this.#whenEmpty;
    this.#whenEmpty = undefined;
    call?.();
  }
}

function newRegion(): Region {
  return { bytes: Buffer.allocUnsafeSlow(REGION_BYTES), start: 0, end: 0 };
}
