/**
 * Files and block devices as disks of the journal.
 *
 * Two ways to use them:
 * - `buffered`: through the page cache. The journal itself, and targets that are files.
 * - `direct`: O_DIRECT, from aligned memory. Targets that are block devices: device-mapper reads and writes the
 *   same LV below the page cache, so that a cached page would be stale without anyone noticing.
 *
 * Buffered writes are done at once on the calling thread, because they only copy memory; that is several times
 * cheaper than a trip through libuv's pool. If one ever takes long (the kernel throttles whoever dirties too
 * much, or waits for the disk), the following ones go through the pool for a while, so that the process keeps
 * answering. Buffered reads are tried at once with preadv2(RWF_NOWAIT), which refuses instead of waiting for the
 * disk, and go through the pool otherwise.
 */
import { constants, fstatSync } from 'node:fs';
import * as fs from 'node:fs';
import { open } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { BLOCK_BYTES } from '../core/journal/types.js';
import type { Disk } from '../core/journal/types.js';
import { native, PIECES_MAX } from './native.js';

/** A write that takes longer than this was not only a copy, nor one that the scheduler interrupted. */
const SLOW_WRITE_MS = 20;
/** How long writes then go through the pool. */
const POOL_FOR_MS = 250;
/** EFAULT and EINVAL: no disk says that. Written another way, it would never be seen. */
const WRONG_CALL = new Set([14, 22]);
const BOUNCE_BYTES = 1 << 20;
const BOUNCES_MAX = 8;
const ZEROS = Buffer.alloc(256 << 10);

export type DiskMode = 'buffered' | 'direct' | 'auto';

export interface FileDiskOptions {
  /** Default `auto`: direct for block devices, buffered for files. */
  mode?: DiskMode;
  readOnly?: boolean;
}

/**
 * Opens a file or block device.
 * @throws the error of open(2), or one with code EINVAL when it is neither
 */
export async function openDisk(path: string, options: FileDiskOptions = {}): Promise<FileDisk> {
  const access = options.readOnly === true ? constants.O_RDONLY : constants.O_RDWR;
  const handle = await open(path, access);
  try {
    const stat = fstatSync(handle.fd);
    const isBlock = stat.isBlockDevice();
    if (!isBlock && !stat.isFile()) {
      throw Object.assign(new Error(`${path}: neither a file nor a block device`), { code: 'EINVAL' });
    }
    const sizeBytes = isBlock ? native().blockDeviceSize(handle.fd) : stat.size;
    const blockBytes = isBlock ? native().logicalBlockSize(handle.fd) : 512;
    const direct = options.mode === 'direct' || (options.mode !== 'buffered' && isBlock);
    if (!direct) return new FileDisk(handle, sizeBytes, blockBytes, null);
    const directHandle = await open(path, access | constants.O_DIRECT);
    return new FileDisk(handle, sizeBytes, blockBytes, directHandle);
  } catch (error) {
    await handle.close();
    throw error;
  }
}

export class FileDisk implements Disk {
  readonly sizeBytes: number;
  readonly blockBytes: number;
  private readonly handle: FileHandle;
  private readonly fd: number;
  private readonly direct: FileHandle | null;
  private readonly bounces: Buffer[] = [];
  private bouncesMade = 0;
  private readonly bounceWaiters: ((bounce: Buffer) => void)[] = [];
  private poolUntil = 0;
  private closed = false;
  /** Calls that are in libuv's pool with our descriptors. */
  private readonly pooled = new Set<Promise<unknown>>();

  constructor(handle: FileHandle, sizeBytes: number, blockBytes: number, direct: FileHandle | null) {
    this.handle = handle;
    this.fd = handle.fd;
    this.sizeBytes = sizeBytes;
    this.blockBytes = blockBytes;
    this.direct = direct;
  }

  tryRead(into: Uint8Array, offsetBytes: number): boolean {
    if (this.direct !== null || this.closed) return false;
    const { readNow } = native();
    return readNow !== null && readNow(this.fd, into, offsetBytes);
  }

  read(into: Uint8Array, offsetBytes: number): Promise<void> {
    return this.inPool(() => this.readPooled(into, offsetBytes));
  }

  /**
   * Runs a call that goes through the pool. None begins on a closed disk and none is on its way when a descriptor is
   * given back: its number soon belongs to another file.
   */
  private inPool<T>(call: () => Promise<T>): Promise<T> {
    if (this.closed) return Promise.reject(Object.assign(new Error('the disk is closed'), { code: 'EBADF' }));
    const running = call();
    const settled = running.catch(() => undefined).then(() => void this.pooled.delete(settled));
    this.pooled.add(settled);
    return running;
  }

  private async readPooled(into: Uint8Array, offsetBytes: number): Promise<void> {
    if (this.direct === null) {
      await this.readAll(this.fd, into, offsetBytes);
      return;
    }
    for (let done = 0; done < into.length; done += BOUNCE_BYTES) {
      const length = Math.min(BOUNCE_BYTES, into.length - done);
      await this.withBounce(async (bounce, fd) => {
        await this.readAll(fd, bounce.subarray(0, length), offsetBytes + done);
        into.set(bounce.subarray(0, length), done);
      });
    }
  }

  write(pieces: readonly Uint8Array[], offsetBytes: number): Promise<void> | undefined {
    if (this.direct !== null || this.closed) return this.inPool(() => this.writeDirect(pieces, offsetBytes));
    const now = performance.now();
    if (now < this.poolUntil || pieces.length > PIECES_MAX)
      return this.inPool(() => this.writePooled(pieces, offsetBytes));
    let total = 0;
    for (const piece of pieces) total += piece.length;
    const written = native().writeNow(this.fd, pieces, offsetBytes);
    if (performance.now() - now > SLOW_WRITE_MS) this.poolUntil = now + POOL_FOR_MS;
    if (written === total) return undefined;
    if (WRONG_CALL.has(-written)) {
      throw new Error(`pwritev failed with errno ${-written}: a wrong address, length or offset of ours`);
    }
    // What is missing, and what the error is called, the pool's call finds out.
    const done = Math.max(0, written);
    return this.inPool(() => this.writePooled(behind(pieces, done), offsetBytes + done));
  }

  zero(offsetBytes: number, lengthBytes: number): Promise<void> {
    return this.inPool(() => this.zeroPooled(offsetBytes, lengthBytes));
  }

  private async zeroPooled(offsetBytes: number, lengthBytes: number): Promise<void> {
    if (await native().zeroRange(this.fd, offsetBytes, lengthBytes)) return;
    for (let done = 0; done < lengthBytes; done += ZEROS.length) {
      const piece = ZEROS.subarray(0, Math.min(ZEROS.length, lengthBytes - done));
      if (this.direct === null) await this.writePooled([piece], offsetBytes + done);
      else await this.writeDirect([piece], offsetBytes + done);
    }
  }

  flush(): Promise<void> {
    return this.inPool(
      () =>
        new Promise<void>((resolve, reject) => {
          fs.fdatasync(this.fd, (error) => {
            if (error === null) resolve();
            else reject(error);
          });
        }),
    );
  }

  /** Waits for what is on its way; afterwards every call fails with EBADF. */
  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    while (this.pooled.size > 0) await Promise.all(this.pooled);
    await this.direct?.close();
    await this.handle.close();
  }

  private async writePooled(pieces: readonly Uint8Array[], offsetBytes: number): Promise<void> {
    let rest = pieces;
    let offset = offsetBytes;
    while (rest.length > 0) {
      const part = rest.slice(0, PIECES_MAX);
      const written = await new Promise<number>((resolve, reject) => {
        fs.writev(this.fd, part, offset, (error, bytes) => {
          if (error === null) resolve(bytes);
          else reject(error);
        });
      });
      if (written === 0) throw Object.assign(new Error('write of nothing'), { code: 'EIO' });
      rest = behind(rest, written);
      offset += written;
    }
  }

  private async writeDirect(pieces: readonly Uint8Array[], offsetBytes: number): Promise<void> {
    let rest = pieces;
    let offset = offsetBytes;
    while (rest.length > 0) {
      offset += await this.withBounce(async (bounce, fd) => {
        let filled = 0;
        for (const piece of rest) {
          const part = piece.subarray(0, BOUNCE_BYTES - filled);
          bounce.set(part, filled);
          filled += part.length;
          if (filled === BOUNCE_BYTES) break;
        }
        rest = behind(rest, filled);
        await this.writeAll(fd, bounce.subarray(0, filled), offset);
        return filled;
      });
    }
  }

  private async readAll(fd: number, into: Uint8Array, offsetBytes: number): Promise<void> {
    let done = 0;
    while (done < into.length) {
      const bytes = await new Promise<number>((resolve, reject) => {
        fs.read(fd, into, done, into.length - done, offsetBytes + done, (error, count) => {
          if (error === null) resolve(count);
          else reject(error);
        });
      });
      if (bytes === 0) {
        throw Object.assign(new Error(`read at ${offsetBytes + done} is beyond the end`), { code: 'EIO' });
      }
      done += bytes;
    }
  }

  private async writeAll(fd: number, from: Uint8Array, offsetBytes: number): Promise<void> {
    let done = 0;
    while (done < from.length) {
      done += await new Promise<number>((resolve, reject) => {
        fs.write(fd, from, done, from.length - done, offsetBytes + done, (error, count) => {
          if (error === null) resolve(count);
          else reject(error);
        });
      });
    }
  }

  /** Lends aligned memory; there are few pieces of it, and who finds none waits. */
  private async withBounce<T>(action: (bounce: Buffer, fd: number) => Promise<T>): Promise<T> {
    const direct = this.direct as FileHandle;
    let bounce = this.bounces.pop();
    if (bounce === undefined && this.bouncesMade < BOUNCES_MAX) {
      this.bouncesMade++;
      bounce = native().alignedBuffer(BOUNCE_BYTES, BLOCK_BYTES);
    }
    bounce ??= await new Promise<Buffer>((resolve) => this.bounceWaiters.push(resolve));
    try {
      return await action(bounce, direct.fd);
    } finally {
      const next = this.bounceWaiters.shift();
      if (next === undefined) this.bounces.push(bounce);
      else next(bounce);
    }
  }
}

/** The pieces without their first `bytes`. */
function behind(pieces: readonly Uint8Array[], bytes: number): Uint8Array[] {
  const rest: Uint8Array[] = [];
  let skip = bytes;
  for (const piece of pieces) {
    if (skip >= piece.length) {
      skip -= piece.length;
      continue;
    }
    rest.push(skip === 0 ? piece : piece.subarray(skip));
    skip = 0;
  }
  return rest;
}
