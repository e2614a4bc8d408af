/**
 * `xl remus` on the primary: suspends the guest every interval, writes its stream into the sender's pipe, and lets
 * the guest run again when the CHECKPOINT record is in it. It honours the contract that the sender relies on: held for
 * as long as nothing is read, and when the pipe breaks it resumes the guest and ends.
 */
import type { Host } from './host.js';
import { Owner } from './model-time.js';
import type { PipeItem, SenderProcess, Snapshot } from './sender-process.js';
import type { Term, World } from './world.js';

export class ModelXl {
  readonly owner: Owner;
  readonly #world: World;
  readonly #host: Host;
  readonly #sender: SenderProcess;

  constructor(world: World, term: Term, sender: SenderProcess, unit: Owner) {
    this.#world = world;
    this.#host = term.primary;
    this.#sender = sender;
    this.owner = new Owner('xl', unit);
    this.owner.onDeath((death) => {
      if (death !== 'power-cut' && sender.owner.alive) sender.streamEnded();
    });
    sender.owner.onDeath((death) => {
      if (death !== 'power-cut') this.#pipeBroke();
    });
    this.#liveRound();
  }

  #pipeBroke(): void {
    const { time } = this.#world;
    time.later(time.random.between(1, 150), this.owner, () => {
      this.#host.guest?.resume();
      this.owner.die('ended');
    });
  }

  #write(item: PipeItem, then: () => void): void {
    const { time } = this.#world;
    if (this.#world.crashPoint('xl', item.kind, 'before', this.#host, this.owner)) return;
    if (!this.#sender.owner.alive) return;
    time.later(0, this.#sender.owner, () => {
      this.#sender.read(item, () => {
        time.later(time.random.between(0.05, 1), this.owner, () => {
          if (!this.#world.crashPoint('xl', item.kind, 'after', this.#host, this.owner)) then();
        });
      });
    });
  }

  #pages(count: number, then: () => void): void {
    if (count === 0) then();
    else this.#write({ kind: 'data' }, () => this.#pages(count - 1, then));
  }

  /** @param ordinal 0 for the live round */
  #finish(snapshot: Snapshot, isMissed = false): void {
    this.#write({ kind: 'checkpoint-record' }, () => {
      const { guest } = this.#host;
      if (guest === null) {
        this.owner.die('ended');
        return;
      }
      guest.resume();
      this.#write({ kind: 'checkpoint-end', snapshot }, () => {
        if (isMissed) this.#world.moment('a checkpoint was not held');
        this.#wait();
      });
    });
  }

  #firstRound(count: number, then: () => void): void {
    const { time, weather } = this.#world;
    time.later(time.random.between(0, weather.firstRoundMs), this.owner, () =>
      this.#pages(1, () => (count === 1 ? then() : this.#firstRound(count - 1, then))),
    );
  }

  #liveRound(): void {
    this.#firstRound(5, () => {
      const { guest } = this.#host;
      if (guest === null) {
        this.owner.die('ended');
        return;
      }
      const memory = guest.suspend();
      guest.isDirty = false;
      const snapshot = { ordinal: guest.snapshot++, memory };
      this.#pages(1, () => this.#finish(snapshot));
    });
  }

  #wait(): void {
    const { time } = this.#world;
    time.later(this.#world.intervalMs * time.random.between(0.9, 1.2), this.owner, () => this.#checkpoint());
  }

  #checkpoint(): void {
    const { random } = this.#world.time;
    const { guest } = this.#host;
    if (guest === null) {
      this.owner.die('ended');
      return;
    }
    const memory = guest.suspend();
    const { isDirty } = guest;
    guest.isDirty = false;
    const snapshot = { ordinal: guest.snapshot++, memory };
    if (!isDirty) {
      this.#finish(snapshot);
      return;
    }
    const isHeld = !random.chance(this.#world.weather.missed);
    this.#write({ kind: 'begin', isHeld }, () =>
      this.#pages(1 + random.below(2), () => this.#finish(snapshot, !isHeld)),
    );
  }
}
