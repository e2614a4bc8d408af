/**
 * A socket of the embedded network: what is written to one end arrives at the other after a fixed time, as
 * over a long line of unlimited width. Order is kept; a cut is immediate.
 */
import { Duplex } from 'node:stream';

type Deliver = () => void;

/** Calls each delivery `delayMs` after it was put in, in the order of putting in. */
class DelayLine {
  readonly #delayMs: number;
  readonly #queue: { dueMs: number; deliver: Deliver }[] = [];
  #timer: NodeJS.Timeout | undefined;

  constructor(delayMs: number) {
    this.#delayMs = delayMs;
  }

  put(deliver: Deliver): void {
    this.#queue.push({ dueMs: performance.now() + this.#delayMs, deliver });
    this.#arm();
  }

  clear(): void {
    clearTimeout(this.#timer);
    this.#queue.length = 0;
  }

  #arm(): void {
    const [first] = this.#queue;
    if (first === undefined || this.#timer !== undefined) return;
    this.#timer = setTimeout(
      () => {
        this.#timer = undefined;
        // Rounded to whole milliseconds, a timer may fire a little early; what is due within one goes too.
        while (this.#queue[0] !== undefined && this.#queue[0].dueMs <= performance.now() + 1) {
          this.#queue.shift()?.deliver();
        }
        this.#arm();
      },
      Math.max(0, first.dueMs - performance.now()),
    );
  }
}

/** Wraps `inner` so that bytes take `delayMs` in each direction. Destroying either destroys both at once. */
export function delayed(inner: Duplex, delayMs: number): Duplex {
  const [inward, outward] = [new DelayLine(delayMs), new DelayLine(delayMs)];
  const outer = new Duplex({
    read() {
      inner.resume();
    },
    write(chunk: Buffer, _encoding, done) {
      outward.put(() => inner.write(chunk));
      done();
    },
    final(done) {
      outward.put(() => inner.end());
      done();
    },
    destroy(error, done) {
      inward.clear();
      outward.clear();
      inner.destroy();
      done(error);
    },
  });
  inner.on('data', (chunk: Buffer) => inward.put(() => outer.push(chunk)));
  inner.on('end', () => inward.put(() => outer.push(null)));
  inner.on('error', () => outer.destroy());
  inner.on('close', () => {
    // What is under way still arrives, as it does when the other side has closed in order.
    if (inner.readableEnded) inward.put(() => outer.destroy());
    else outer.destroy();
  });
  return outer;
}
