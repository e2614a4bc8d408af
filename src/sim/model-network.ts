/**
 * The network between hosts and arbiter, and the connections over it. A connection keeps its order and loses
 * nothing as long as it lives; it can be lost at any message, with whatever is under way. A direction that is cut is
 * silence: TCP sends again, and what waits arrives when the cut is mended. A process that dies has its connections
 * closed by its kernel; a host that dies is silent until it is back and answers with a reset.
 */
import type { Host } from './host.js';
import type { ModelTime, Owner } from './model-time.js';

export type Node = string;

export interface End<M> {
  host: Host;
  owner: Owner;
  onMessage: (message: M) => void;
  /** @param peerLives the peer's kernel ended the connection */
  onLost: (reason: string, peerLives: boolean) => void;
}

export class ModelNetwork {
  readonly time: ModelTime;
  /** Longer delays for a while. */
  slowUntilMs = 0;
  readonly #cuts = new Set<string>();
  readonly #connections = new Set<ModelConnection<never>>();
  readonly #watchers: (() => void)[] = [];

  constructor(time: ModelTime) {
    this.time = time;
  }

  isUp(from: Node, to: Node): boolean {
    return !this.#cuts.has(`${from}>${to}`);
  }

  cut(from: Node, to: Node): void {
    this.#cuts.add(`${from}>${to}`);
    for (const watch of this.#watchers) watch();
  }

  mend(from: Node, to: Node): void {
    if (!this.#cuts.delete(`${from}>${to}`)) return;
    for (const connection of this.#connections) connection.retry();
    for (const watch of this.#watchers) watch();
  }

  mendAll(): void {
    for (const cut of [...this.#cuts]) {
      const [from, to] = cut.split('>');
      this.mend(from ?? '', to ?? '');
    }
    this.slowUntilMs = 0;
  }

  onChange(watch: () => void): void {
    this.#watchers.push(watch);
  }

  delayMs(): number {
    const { random, nowMs } = this.time;
    if (nowMs < this.slowUntilMs) return random.between(50, 600);
    return random.chance(0.05) ? random.between(2, 30) : random.between(0.2, 2);
  }

  /** One request without a connection that lasts: lost where the way is cut when it leaves or arrives. */
  deliver(from: Node, to: Node, owner: Owner | null, action: () => void): void {
    if (!this.isUp(from, to)) return;
    this.time.later(this.delayMs(), owner, () => {
      if (this.isUp(from, to)) action();
    });
  }

  connect<M>(one: End<M>, other: End<M>): ModelConnection<M> {
    const connection = new ModelConnection<M>(this, [one, other], () => {
      this.#connections.delete(connection as unknown as ModelConnection<never>);
    });
    this.#connections.add(connection as unknown as ModelConnection<never>);
    return connection;
  }

  /** All connections between the hosts are reset, as by something in between. */
  resetSome(which: (connection: ModelConnection<never>) => boolean): void {
    for (const connection of [...this.#connections]) if (which(connection)) connection.reset();
  }

  /** A host is back after a power cut: it answers for connections that it knows nothing of. */
  hostIsBack(): void {
    for (const connection of this.#connections) connection.retry();
  }
}

type Item<M> = { message: M } | 'end';

interface Direction<M> {
  items: Item<M>[];
  isScheduled: boolean;
  isStalled: boolean;
}

export class ModelConnection<M> {
  readonly ends: readonly [End<M>, End<M>];
  readonly #network: ModelNetwork;
  readonly #forget: () => void;
  #directions: [Direction<M>, Direction<M>];
  /** Whether this end still listens. */
  #open: [boolean, boolean] = [true, true];
  /** Closed by this end itself: nothing more is handed to it. */
  #isDeaf: [boolean, boolean] = [false, false];

  constructor(network: ModelNetwork, ends: readonly [End<M>, End<M>], forget: () => void) {
    this.#network = network;
    this.#forget = forget;
    this.ends = ends;
    const direction = (): Direction<M> => ({ items: [], isScheduled: false, isStalled: false });
    this.#directions = [direction(), direction()];
    ends.forEach((end, index) => {
      end.owner.onDeath((death) => {
        if (death === 'power-cut') this.#open[index as 0 | 1] = false;
        else this.close(index as 0 | 1);
      });
    });
  }

  send(from: 0 | 1, message: M): void {
    if (!this.#open[from]) return;
    this.#put(from, { message });
  }

  /** In order: what was sent before still arrives. */
  close(from: 0 | 1): void {
    this.#isDeaf[from] = true;
    if (!this.#open[from]) return;
    this.#open[from] = false;
    this.#put(from, 'end');
  }

  /** At both ends, with everything that is under way. */
  reset(): void {
    this.#lost(0, 'connection reset');
    this.#lost(1, 'connection reset');
    this.#forget();
  }

  retry(): void {
    for (const from of [0, 1] as const) {
      const direction = this.#directions[from];
      if (!direction.isStalled) continue;
      direction.isStalled = false;
      this.#schedule(from, this.#network.time.random.between(20, 300));
    }
  }

  #put(from: 0 | 1, item: Item<M>): void {
    const direction = this.#directions[from];
    direction.items.push(item);
    if (!direction.isStalled) this.#schedule(from, this.#network.delayMs());
  }

  #schedule(from: 0 | 1, delayMs: number): void {
    const direction = this.#directions[from];
    if (direction.isScheduled) return;
    direction.isScheduled = true;
    this.#network.time.later(delayMs, null, () => {
      direction.isScheduled = false;
      this.#arrive(from);
    });
  }

  #arrive(from: 0 | 1): void {
    const to = from === 0 ? 1 : 0;
    const direction = this.#directions[from];
    const [here, there] = [this.ends[from], this.ends[to]];
    if (direction.items.length === 0) return;
    if (!this.#network.isUp(here.host.name, there.host.name) || !there.host.isUp) {
      direction.isStalled = true;
      return;
    }
    // A host that died and what it had not sent.
    if (!here.host.isUp) {
      direction.items = [];
      return;
    }
    if (!this.#open[to]) {
      // The kernel there knows of nobody who would take it.
      direction.items = [];
      this.#lost(from, 'connection reset');
      return;
    }
    const item = direction.items.shift();
    if (item === 'end') this.#lost(to, 'closed by the peer');
    else if (item !== undefined) {
      this.#network.time.later(0, there.owner, () => {
        if (!this.#isDeaf[to]) there.onMessage(item.message);
      });
    }
    if (direction.items.length > 0) this.#schedule(from, this.#network.time.random.chance(0.2) ? 0.5 : 0.02);
  }

  #lost(at: 0 | 1, reason: string): void {
    if (!this.#open[at]) return;
    this.#open[at] = false;
    const end = this.ends[at];
    this.#network.time.later(0, end.owner, () => {
      if (!this.#isDeaf[at]) end.onLost(reason, true);
    });
    if (!this.#open[0] && !this.#open[1]) this.#forget();
  }
}
