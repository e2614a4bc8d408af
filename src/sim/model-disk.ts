/**
 * A modelled disk with a volatile write cache, in virtual time. Of what was not flushed a power cut keeps any whole
 * sectors; a process that is killed may leave what it had under way half done. Flushes can be made to fail.
 */
import { SECTOR_BYTES } from '../core/journal/types.js';
import type { Disk } from '../core/journal/types.js';
import type { ModelTime, Owner } from './model-time.js';

interface Unflushed {
  offset: number;
  bytes: Buffer;
  isDone: boolean;
  /** A flush was said to be done for it. */
  isPromised: boolean;
}

/** Share of writes and reads that take a step of their own. */
const SLOW = 0.15;

export class ModelDisk {
  readonly sizeBytes: number;
  /** What survives a power cut for certain. */
  #durable: Buffer;
  #current: Buffer;
  #unflushed: Unflushed[] = [];
  failNext: 'write' | 'flush' | null = null;
  /** A flush says that it is done, and nothing has become durable. */
  lies = false;
  /** A power cut has taken something for which a flush was said to be done. */
  hasBrokenItsWord = false;
  /** Every write fails: thinly provisioned, and its pool has no room. */
  isFull = false;

  constructor(sizeBytes: number) {
    this.sizeBytes = sizeBytes;
    this.#durable = Buffer.alloc(sizeBytes);
    this.#current = Buffer.alloc(sizeBytes);
  }

  /** As the kernel reads it now. The bytes belong to the disk. */
  view(offset: number, length: number): Buffer {
    return this.#current.subarray(offset, offset + length);
  }

  /** A write that is durable when it is done. */
  writeThrough(offset: number, bytes: Uint8Array): void {
    this.#current.set(bytes, offset);
    this.#durable.set(bytes, offset);
    // Whatever lies below in the cache is older.
    for (const each of this.#unflushed) {
      const from = Math.max(offset, each.offset);
      const to = Math.min(offset + bytes.length, each.offset + each.bytes.length);
      if (from < to) each.bytes.set(bytes.subarray(from - offset, to - offset), from - each.offset);
    }
  }

  powerCut(time: ModelTime): void {
    const { random } = time;
    const share = random.next();
    const whole = random.chance(0.5);
    for (const { offset, bytes, isPromised } of this.#unflushed) {
      const isKept = random.chance(share);
      for (let at = 0; at < bytes.length; at += SECTOR_BYTES) {
        if (whole ? !isKept : !random.chance(share)) {
          this.hasBrokenItsWord ||= isPromised;
          continue;
        }
        bytes.copy(this.#durable, offset + at, at, Math.min(bytes.length, at + SECTOR_BYTES));
      }
    }
    this.#unflushed = [];
    this.#current = Buffer.from(this.#durable);
  }

  /** The process that wrote to it is gone: what was under way may have reached the page cache in part. */
  killed(time: ModelTime): void {
    for (const each of this.#unflushed) {
      if (each.isDone) continue;
      const sectors = Math.floor(each.bytes.length / SECTOR_BYTES);
      const length = time.random.below(sectors + 1) * SECTOR_BYTES;
      each.bytes = each.bytes.subarray(0, length);
      each.bytes.copy(this.#current, each.offset);
      each.isDone = true;
    }
  }

  /** As one process has it open. Its requests end with it. */
  open(time: ModelTime, owner: Owner): Disk {
    const later = (action: () => void): Promise<void> =>
      new Promise((resolve, reject) => {
        time.later(time.random.between(0.05, 2), owner, () => {
          time.hasPromises = true;
          try {
            action();
            resolve();
          } catch (error) {
            reject(error instanceof Error ? error : new Error(String(error)));
          }
        });
      });
    const fails = (what: 'write' | 'flush'): boolean => {
      if (this.failNext !== what) return false;
      this.failNext = null;
      return true;
    };
    const isSlow = (): boolean => time.random.chance(SLOW);
    const write = (pieces: readonly Uint8Array[], offset: number): Promise<void> | undefined => {
      time.hasPromises = true;
      if (this.isFull) return later(() => fail('ENOSPC'));
      if (fails('write')) return later(() => fail('EIO'));
      const bytes = Buffer.concat(pieces);
      const each: Unflushed = { offset, bytes, isDone: false, isPromised: false };
      this.#unflushed.push(each);
      const apply = (): void => {
        each.bytes.copy(this.#current, offset);
        each.isDone = true;
      };
      if (isSlow()) return later(apply);
      apply();
      return undefined;
    };
    return {
      sizeBytes: this.sizeBytes,
      blockBytes: SECTOR_BYTES,
      tryRead: (into, offset) => {
        if (isSlow()) return false;
        into.set(this.view(offset, into.length));
        return true;
      },
      read: (into, offset) => later(() => into.set(this.view(offset, into.length))),
      write,
      zero: (offset, length) => Promise.resolve(write([Buffer.alloc(length)], offset)),
      flush: () => {
        time.hasPromises = true;
        const covered = new Set(this.#unflushed.filter(({ isDone }) => isDone));
        return later(() => {
          if (fails('flush')) fail('EIO');
          if (this.lies) {
            for (const each of covered) each.isPromised = true;
            return;
          }
          // What another flush has covered meanwhile is durable already, perhaps with something newer over it.
          const left: Unflushed[] = [];
          for (const each of this.#unflushed) {
            if (covered.has(each)) each.bytes.copy(this.#durable, each.offset);
            else left.push(each);
          }
          this.#unflushed = left;
        });
      },
      close: () => Promise.resolve(),
    };
  }
}

function fail(code: string): never {
  throw Object.assign(new Error(`${code}: modelled`), { code });
}
