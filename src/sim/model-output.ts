/**
 * The guest's network output. `PlugQueue` is sch_plug in the kernel with its one remembered mark; `ModelNetworkBuffer`
 * is what the sender drives it with, by the production machine of marks.
 */
import { initialMarks } from '../core/netbuf/marks.js';
import type { MarkInput, MarkState } from '../core/netbuf/marks.js';
import type { Machines } from './machines.js';
import type { Host } from './host.js';
import type { Owner } from './model-time.js';

export interface Packet {
  /** The guest has done everything up to this number. */
  count: number;
  /** Ordinal of the snapshot that this packet comes before. */
  snapshot: number;
  term: number;
}

export class PlugQueue {
  readonly #host: Host;
  readonly #leave: (packet: Packet) => void;
  #packets: Packet[] = [];
  #holds = false;
  #current = 0;
  #last = 0;
  #toRelease = 0;
  #isDraining = false;
  #onDrained: (() => void)[] = [];

  constructor(host: Host, leave: (packet: Packet) => void) {
    this.#host = host;
    this.#leave = leave;
  }

  get holds(): boolean {
    return this.#holds;
  }

  send(packet: Packet): void {
    if (!this.#holds) {
      this.#leave(packet);
      return;
    }
    this.#packets.push(packet);
    this.#current++;
  }

  shut(): void {
    this.#holds = true;
  }

  block(): void {
    this.#last = this.#current;
    this.#current = 0;
  }

  release(drained: () => void): void {
    this.#toRelease += this.#last;
    this.#last = 0;
    this.#onDrained.push(drained);
    this.#drain();
  }

  open(): void {
    this.#holds = false;
    this.#current = this.#last = this.#toRelease = 0;
    for (const packet of this.#packets.splice(0)) this.#leave(packet);
  }

  /** The queue is deleted with what is in it. */
  drop(): void {
    this.#holds = false;
    this.#current = this.#last = this.#toRelease = 0;
    this.#packets = [];
    this.#onDrained = [];
    this.#isDraining = false;
  }

  #drain(): void {
    if (this.#isDraining) return;
    this.#isDraining = true;
    this.#host.time.later(0.1, this.#host.owner, () => {
      this.#isDraining = false;
      const packet = this.#toRelease > 0 ? this.#packets.shift() : undefined;
      if (packet === undefined) {
        this.#toRelease = 0;
        for (const drained of this.#onDrained.splice(0)) drained();
        return;
      }
      this.#toRelease--;
      this.#leave(packet);
      this.#drain();
    });
  }
}

export class ModelNetworkBuffer {
  readonly #host: Host;
  readonly #owner: Owner;
  readonly #machines: Machines;
  #state: MarkState = initialMarks;
  #queue: (() => void)[] = [];
  #isBusy = false;
  /** The next command fails. */
  failNext = false;
  /** Just before everything flows. */
  onOpen: () => void = () => undefined;

  constructor(host: Host, owner: Owner, machines: Machines) {
    this.#host = host;
    this.#owner = owner;
    this.#machines = machines;
  }

  mark(checkpoint: number, done: (error: string | null) => void): void {
    this.#command({ kind: 'mark', checkpoint }, done);
  }

  release(checkpoint: number, done: (error: string | null) => void): void {
    this.#command({ kind: 'release', checkpoint }, done);
  }

  open(done: () => void): void {
    this.#command({ kind: 'open' }, done);
  }

  /** Commands are run one after the other. */
  #command(input: MarkInput, done: (error: string | null) => void): void {
    this.#queue.push(() => {
      const { time } = this.#host;
      time.later(time.random.between(0.5, time.random.chance(0.05) ? 60 : 4), this.#owner, () => {
        this.#isBusy = false;
        if (this.failNext && input.kind !== 'open') {
          this.failNext = false;
          done('tc: modelled failure');
        } else this.#perform(input, done);
        this.#next();
      });
    });
    this.#next();
  }

  #next(): void {
    if (this.#isBusy) return;
    const command = this.#queue.shift();
    if (command === undefined) return;
    this.#isBusy = true;
    command();
  }

  #perform(input: MarkInput, done: (error: string | null) => void): void {
    const { plug } = this.#host;
    const { state, effect } = this.#machines.stepMarks(this.#state, input);
    this.#state = state;
    switch (effect) {
      case 'shut':
        plug.shut();
        break;
      case 'block':
        plug.block();
        break;
      case 'open':
        this.onOpen();
        plug.open();
        break;
      case 'release': {
        const { pending } = state as Extract<MarkState, { phase: 'held' }>;
        plug.release(() => {
          if (!this.#owner.alive) return;
          this.#state = this.#machines.stepMarks(this.#state, {
            kind: 'settled',
            checkpoint: pending?.checkpoint ?? 0,
          }).state;
          done(null);
        });
        return;
      }
      case 'none':
        break;
      default:
        throw new Error(`effect ${String(effect satisfies never)}`);
    }
    done(null);
  }
}
