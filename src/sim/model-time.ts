/**
 * Virtual time: a queue of events, each with an owner. An owner is something that can die or be stopped for a while:
 * a host, a process, a guest. What a dead owner had in mind never happens, what a stopped one had in mind happens
 * when it goes on, in the same order.
 */
import type { Random } from './random.js';

export type Death = 'killed' | 'power-cut' | 'ended';

export class Owner {
  readonly name: string;
  readonly parent: Owner | null;
  #alive = true;
  #pausedUntilMs = 0;
  #hooks: ((death: Death) => void)[] = [];
  #children = new Set<Owner>();

  constructor(name: string, parent: Owner | null = null) {
    this.name = name;
    this.parent = parent;
    if (parent !== null && !parent.alive) this.#alive = false;
    else if (parent !== null) parent.#children.add(this);
  }

  get alive(): boolean {
    return this.#alive;
  }

  /** @returns when it goes on; in the past for one that runs */
  get pausedUntilMs(): number {
    return Math.max(this.#pausedUntilMs, this.parent?.pausedUntilMs ?? 0);
  }

  pause(untilMs: number): void {
    this.#pausedUntilMs = Math.max(this.#pausedUntilMs, untilMs);
  }

  onDeath(hook: (death: Death) => void): void {
    this.#hooks.push(hook);
  }

  die(death: Death): void {
    if (!this.#alive) return;
    this.#alive = false;
    if (this.parent !== null) this.parent.#children.delete(this);
    for (const child of [...this.#children]) child.die(death);
    for (const hook of this.#hooks.splice(0)) hook(death);
  }
}

interface Event {
  atMs: number;
  order: number;
  owner: Owner | null;
  action: () => void;
}

export class ModelTime {
  nowMs = 0;
  /** Set by whatever left promises that may settle now. */
  hasPromises = false;
  readonly random: Random;
  #heap: Event[] = [];
  #order = 0;

  constructor(random: Random) {
    this.random = random;
  }

  later(delayMs: number, owner: Owner | null, action: () => void): void {
    if (owner !== null && !owner.alive) return;
    this.#push({ atMs: this.nowMs + Math.max(0, delayMs), order: this.#order++, owner, action });
  }

  /** Of the next event; undefined when there is none. */
  get nextMs(): number | undefined {
    return this.#heap[0]?.atMs;
  }

  /** Runs the next event. @returns false when there is none */
  step(): boolean {
    for (;;) {
      const event = this.#pop();
      if (event === undefined) return false;
      const { owner } = event;
      if (owner !== null) {
        if (!owner.alive) continue;
        if (owner.pausedUntilMs > event.atMs) {
          event.atMs = owner.pausedUntilMs;
          this.#push(event);
          continue;
        }
      }
      this.nowMs = Math.max(this.nowMs, event.atMs);
      event.action();
      return true;
    }
  }

  #push(event: Event): void {
    const heap = this.#heap;
    let at = heap.length;
    heap.push(event);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      const above = heap[parent] as Event;
      if (!isBefore(event, above)) break;
      heap[at] = above;
      at = parent;
    }
    heap[at] = event;
  }

  #pop(): Event | undefined {
    const heap = this.#heap;
    const top = heap[0];
    const last = heap.pop();
    if (top === undefined || last === undefined || heap.length === 0) return top;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && isBefore(heap[child + 1] as Event, heap[child] as Event)) child++;
      if (!isBefore(heap[child] as Event, last)) break;
      heap[at] = heap[child] as Event;
      at = child;
    }
    heap[at] = last;
    return top;
  }
}

function isBefore(a: Event, b: Event): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);
}
