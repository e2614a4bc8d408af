/**
 * Work on many hosts side by side, with a bound on how much is under way at once.
 */

/** How many hosts are worked on at once unless told otherwise; each is one TCP connection. */
export const HOSTS_AT_ONCE_MAX = 64;

/** Lets a bounded number of holders in, first come first served. */
export class Gate {
  #held = 0;
  #limit: number;
  readonly #waiting: (() => void)[] = [];

  constructor(limit: number) {
    if (!Number.isInteger(limit) || limit < 1) throw new RangeError(`a gate needs room for one: ${limit}`);
    this.#limit = limit;
  }

  get held(): number {
    return this.#held;
  }

  /** Lowers the bound, to no less than one; holders that are in stay in. */
  lower(limit: number): void {
    this.#limit = Math.max(1, Math.min(this.#limit, limit));
  }

  /**
   * Waits for a place.
   *
   * @param signal gives the wait up; the promise is then rejected with its reason
   * @returns a function that gives the place back; calling it again does nothing
   */
  async enter(signal?: AbortSignal): Promise<() => void> {
    signal?.throwIfAborted();
    if (this.#held < this.#limit && this.#waiting.length === 0) {
      this.#held += 1;
    } else {
      await new Promise<void>((resolve, reject) => {
        const leave = (): void => {
          this.#waiting.splice(this.#waiting.indexOf(turn), 1);
          reject(signal?.reason as Error);
        };
        const turn = (): void => {
          signal?.removeEventListener('abort', leave);
          resolve();
        };
        signal?.addEventListener('abort', leave, { once: true });
        this.#waiting.push(turn);
      });
    }
    let inside = true;
    return () => {
      if (!inside) return;
      inside = false;
      this.#held -= 1;
      this.#admit();
    };
  }

  #admit(): void {
    while (this.#held < this.#limit) {
      const turn = this.#waiting.shift();
      if (turn === undefined) return;
      // The place is taken here, not when the waiter wakes up, or a newcomer could slip in between.
      this.#held += 1;
      turn();
    }
  }
}

export type Outcome<T, R> = { item: T; value: R } | { item: T; error: unknown };

/**
 * Does `work` for every item, at most `atOnceMax` at the same time. One failure neither stops nor hides the
 * others: the call returns when all have ended, with the outcomes in the order of the items.
 */
export async function eachHost<T, R>(
  items: readonly T[],
  work: (item: T) => Promise<R>,
  atOnceMax: number = HOSTS_AT_ONCE_MAX,
): Promise<Outcome<T, R>[]> {
  const gate = new Gate(atOnceMax);
  return Promise.all(
    items.map(async (item): Promise<Outcome<T, R>> => {
      const leave = await gate.enter();
      try {
        return { item, value: await work(item) };
      } catch (error) {
        return { item, error };
      } finally {
        leave();
      }
    }),
  );
}
