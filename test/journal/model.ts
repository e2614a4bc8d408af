/**
 * A modelled world for the journal: disks whose unflushed writes can be lost, reordered and torn, and a clock
 * without time. Every completion and every timer is a step that the test chooses, so that a run is a function
 * of its choices and can be played again.
 */
import { SECTOR_BYTES } from '../../src/core/journal/types.js';
import type { Disk } from '../../src/core/journal/types.js';
import type { Clock } from '../../src/journal/journal.js';

/** A small generator of choices (mulberry32): the same seed gives the same run. */
export function choices(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let value = state;
    value = Math.imul(value ^ (value >>> 15), value | 1);
    value ^= value + Math.imul(value ^ (value >>> 7), value | 61);
    return ((value ^ (value >>> 14)) >>> 0) % below;
  };
}

/** No run of the tests needs a tenth of this; one that needs more does not end. */
const STEPS_MAX = 200_000;

export class World implements Clock {
  private steps: (() => void)[] = [];
  private taken = 0;
  private readonly stepsMax: number;
  private dead = false;
  private time = 1_000_000;

  constructor(stepsMax = STEPS_MAX) {
    this.stepsMax = stepsMax;
  }

  nowMs(): number {
    return this.time;
  }

  monotonicMs(): number {
    return this.time;
  }

  soon(action: () => void): void {
    this.add(action);
  }

  later(action: () => void): void {
    this.add(action);
  }

  add(step: () => void): void {
    if (!this.dead) this.steps.push(step);
  }

  get waiting(): number {
    return this.steps.length;
  }

  /** Runs one waiting step and everything that follows from it without another one. */
  async step(choose: (below: number) => number): Promise<boolean> {
    await settle();
    if (this.steps.length === 0) return false;
    if (++this.taken > this.stepsMax) {
      throw new Error(`${this.stepsMax} steps, and it has not come to an end`);
    }
    const [step] = this.steps.splice(choose(this.steps.length), 1);
    this.time++;
    step?.();
    await settle();
    return true;
  }

  /** Runs until nothing waits, or the promise is settled. */
  async run<T>(promise: Promise<T>, choose: (below: number) => number): Promise<T> {
    let done = false;
    const mark = (): void => {
      done = true;
    };
    promise.then(mark, mark);
    for (;;) {
      await settle();
      if (done) return promise;
      if (!(await this.step(choose)))
        throw new Error('nothing can happen any more, and the promise is not settled');
    }
  }

  async quiet(choose: (below: number) => number): Promise<void> {
    while (await this.step(choose));
  }

  /** The process or the machine stops: nothing that waits will ever happen. */
  stop(): void {
    this.dead = true;
    this.steps = [];
  }
}

/** Lets every promise that can settle do so. */
export function settle(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

interface Unflushed {
  offset: number;
  bytes: Buffer;
  /** Whether the caller was told that it is written. */
  done: boolean;
}

export interface ModelDiskOptions {
  /**
   * Whether a process that is killed leaves a write that was under way cut between two sectors, as the kernel and
   * every disk do it. By default it is cut at any byte, and the journal itself has to stand that. A target can't:
   * what is drained outside of a session need not be durable in the journal, so nothing would mend its sector.
   */
  wholeSectors?: boolean;
  /** Whether writes and reads take steps of their own; the choice may differ from one call to the next. */
  slow: () => boolean;
}

export class ModelDisk implements Disk {
  readonly sizeBytes: number;
  readonly blockBytes = 512;
  /** What survives a power cut for certain. */
  durable: Buffer;
  /** What a reader sees. */
  current: Buffer;
  unflushed: Unflushed[] = [];
  failNext: { write?: string; flush?: string; read?: string } = {};
  /** Everything that was ever written, for checks of what may not be written again. */
  onWrite: ((offset: number, bytes: Buffer) => void) | null = null;
  private readonly world: World;
  private readonly options: ModelDiskOptions;

  constructor(world: World, image: Buffer, options: ModelDiskOptions) {
    this.world = world;
    this.sizeBytes = image.length;
    this.durable = Buffer.from(image);
    this.current = Buffer.from(image);
    this.options = options;
  }

  tryRead(into: Uint8Array, offsetBytes: number): boolean {
    if (this.options.slow() || this.failNext.read !== undefined) return false;
    into.set(this.current.subarray(offsetBytes, offsetBytes + into.length));
    return true;
  }

  read(into: Uint8Array, offsetBytes: number): Promise<void> {
    return this.later(() => {
      const code = this.failNext.read;
      if (code !== undefined) {
        delete this.failNext.read;
        throw errno(code);
      }
      into.set(this.current.subarray(offsetBytes, offsetBytes + into.length));
    });
  }

  write(pieces: readonly Uint8Array[], offsetBytes: number): Promise<void> | undefined {
    const bytes = Buffer.concat(pieces);
    if (offsetBytes + bytes.length > this.sizeBytes) return Promise.reject(errno('ENOSPC'));
    const code = this.failNext.write;
    if (code !== undefined) {
      delete this.failNext.write;
      return this.later(() => {
        throw errno(code);
      });
    }
    this.onWrite?.(offsetBytes, bytes);
    const write: Unflushed = { offset: offsetBytes, bytes, done: false };
    this.unflushed.push(write);
    const apply = (): void => {
      bytes.copy(this.current, offsetBytes);
      write.done = true;
    };
    if (!this.options.slow()) {
      apply();
      return undefined;
    }
    return this.later(() => {
      // The caller must not have changed its memory before it was told that it may.
      if (!Buffer.concat(pieces).equals(bytes)) throw new Error('memory of a write was changed under way');
      apply();
    });
  }

  zero(offsetBytes: number, lengthBytes: number): Promise<void> {
    return Promise.resolve(this.write([Buffer.alloc(lengthBytes)], offsetBytes));
  }

  flush(): Promise<void> {
    const covered = this.unflushed.filter((write) => write.done);
    return this.later(() => {
      const code = this.failNext.flush;
      if (code !== undefined) {
        delete this.failNext.flush;
        throw errno(code);
      }
      for (const write of covered) write.bytes.copy(this.durable, write.offset);
      this.unflushed = this.unflushed.filter((write) => !covered.includes(write));
    });
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  /** The image after a power cut: of what was not flushed, any sectors in any order, or nothing. */
  afterPowerCut(choose: (below: number) => number): Buffer {
    const image = Buffer.from(this.durable);
    const order = [...this.unflushed];
    const keepOrder = choose(2) === 0;
    const share = choose(5);
    while (order.length > 0) {
      const [write] = order.splice(keepOrder ? 0 : choose(order.length), 1) as [Unflushed];
      const whole = choose(3) > 0;
      const kept = choose(4) < share;
      for (let at = 0; at < write.bytes.length; at += SECTOR_BYTES) {
        if (whole ? !kept : choose(4) >= share) continue;
        write.bytes.copy(image, write.offset + at, at, Math.min(write.bytes.length, at + SECTOR_BYTES));
      }
    }
    return image;
  }

  /**
   * The disk after the process was killed: what was written stays, but is no more durable than before; a write
   * under way may be torn; see `wholeSectors`.
   */
  afterKill(world: World, choose: (below: number) => number, options: ModelDiskOptions): ModelDisk {
    const disk = new ModelDisk(world, this.durable, options);
    disk.current = Buffer.from(this.current);
    for (const write of this.unflushed) {
      let length = write.done ? write.bytes.length : choose(write.bytes.length + 1);
      if (options.wholeSectors === true) length -= length % SECTOR_BYTES;
      write.bytes.copy(disk.current, write.offset, 0, length);
      disk.unflushed.push({ offset: write.offset, bytes: write.bytes.subarray(0, length), done: true });
    }
    return disk;
  }

  private later(action: () => void): Promise<void> {
    return new Promise((resolve, reject) => {
      this.world.add(() => {
        try {
          action();
          resolve();
        } catch (error) {
          reject(error instanceof Error ? error : new Error(String(error)));
        }
      });
    });
  }
}

export function errno(code: string): Error {
  return Object.assign(new Error(`${code}: modelled`), { code });
}
