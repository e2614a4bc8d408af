/**
 * The embedded stand-in for the network buffer of a host (`edge/netbuf.ts`, tc's plug): what the guest sends flows
 * until the first mark; from then on it waits until the mark behind it is released.
 */
export interface Packet {
  connection: number;
  text: string;
}

type Queued = Packet | { mark: number };

export class EmbeddedOutputBuffer {
  readonly #deliver: (packet: Packet) => void;
  #queue: Queued[] = [];
  #holds = false;
  /** Packets since the last mark. */
  #unmarked = 0;
  #dropped = false;

  constructor(deliver: (packet: Packet) => void) {
    this.#deliver = deliver;
  }

  /** Packets that wait. */
  get held(): number {
    return this.#queue.filter((each) => !('mark' in each)).length;
  }

  send(packet: Packet): void {
    if (this.#dropped) return;
    if (!this.#holds) {
      this.#deliver(packet);
      return;
    }
    this.#queue.push(packet);
    this.#unmarked++;
  }

  /** @returns how many packets wait for this epoch */
  mark(epoch: number): number {
    const packets = this.#unmarked;
    this.#unmarked = 0;
    this.#holds = true;
    this.#queue.push({ mark: epoch });
    return packets;
  }

  /** @throws Error when the oldest mark is another one */
  release(epoch: number): void {
    const at = this.#queue.findIndex((each) => 'mark' in each);
    const mark = this.#queue[at];
    if (mark === undefined || !('mark' in mark) || mark.mark !== epoch) {
      throw new Error(`embedded output buffer: mark ${epoch} is not the oldest one`);
    }
    for (const each of this.#queue.splice(0, at + 1)) if (!('mark' in each)) this.#deliver(each);
  }

  /** Everything flows, and nothing is held any more. */
  open(): void {
    this.#holds = false;
    this.#unmarked = 0;
    for (const each of this.#queue.splice(0)) if (!('mark' in each)) this.#deliver(each);
  }

  /** What waits never leaves, nor does anything after it. */
  drop(): void {
    this.#dropped = true;
    this.#queue = [];
  }
}
