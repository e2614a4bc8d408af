/**
 * The few calls to libc that Node doesn't make: preadv2, fallocate, the ioctls of block devices, mlockall.
 *
 * Constants and structures are those of Linux on 64-bit little-endian machines (linux/fs.h, linux/falloc.h,
 * bits/uio-ext.h, sys/mman.h). Pointers into a Buffer are computed from the address of its memory, which V8
 * never moves; a call that runs in the pool keeps no pointer of ours (fallocate takes numbers only).
 */
import koffi from 'koffi';

const RWF_NOWAIT = 8;
const BLKGETSIZE64 = 0x80081272;
const BLKSSZGET = 0x1268;
const FALLOC_FL_KEEP_SIZE = 1;
const FALLOC_FL_PUNCH_HOLE = 2;
const FALLOC_FL_ZERO_RANGE = 16;
const MCL_CURRENT = 1;
const MCL_FUTURE = 2;
const MCL_ONFAULT = 4;
const EOPNOTSUPP = 95;
const ENOSYS = 38;

export interface Native {
  /** Reads at once if the data is in the page cache; null where the kernel can't. */
  readNow: ((fd: number, into: Uint8Array, offsetBytes: number) => boolean) | null;
  /** Makes a range of a file or block device zero. @returns false when only writing can do it */
  zeroRange: (fd: number, offsetBytes: number, lengthBytes: number) => Promise<boolean>;
  blockDeviceSize: (fd: number) => number;
  logicalBlockSize: (fd: number) => number;
  alignedBuffer: (bytes: number, alignment: number) => Buffer;
  /** Keeps what this process touches in memory. @returns null, or in words why not */
  lockMemory: () => string | null;
}

let loaded: Native | null = null;

/** Loads libc on first use. */
export function native(): Native {
  loaded ??= load();
  return loaded;
}

type Call = (...args: unknown[]) => number;

function load(): Native {
  const libc = koffi.load('libc.so.6');
  const preadv2 = libc.func('long preadv2(int fd, void *iov, int count, int64_t offset, int flags)') as Call;
  const memmove = libc.func('uintptr_t memmove(void *to, void *from, size_t length)') as Call;
  const ioctl = libc.func('int ioctl(int fd, unsigned long request, void *argument)') as Call;
  const fallocate = libc.func('int fallocate(int fd, int mode, int64_t offset, int64_t length)');
  const mlockall = libc.func('int mlockall(int flags)') as Call;

  const iov = Buffer.alloc(16);
  const iovView = new DataView(iov.buffer, iov.byteOffset, 16);
  // The address of a buffer's memory costs a call; buffers are few and used again and again.
  const addresses = new WeakMap<ArrayBufferLike, bigint>();
  const addressOf = (bytes: Uint8Array): bigint => {
    let base = addresses.get(bytes.buffer);
    if (base === undefined) {
      const whole = new Uint8Array(bytes.buffer);
      base = BigInt(memmove(whole, whole, 0));
      addresses.set(bytes.buffer, base);
    }
    return base + BigInt(bytes.byteOffset);
  };

  let nowWorks = true;
  const readNow = (fd: number, into: Uint8Array, offsetBytes: number): boolean => {
    if (!nowWorks) return false;
    iovView.setBigUint64(0, addressOf(into), true);
    iovView.setBigUint64(8, BigInt(into.length), true);
    const got = preadv2(fd, iov, 1, offsetBytes, RWF_NOWAIT);
    if (got === into.length) return true;
    if (got < 0) {
      const errno = koffi.errno();
      if (errno === EOPNOTSUPP || errno === ENOSYS) nowWorks = false;
    }
    return false;
  };

  const fallocateInPool = (fd: number, mode: number, offset: number, length: number): Promise<boolean> =>
    new Promise((resolve, reject) => {
      fallocate.async(fd, mode, offset, length, (error: unknown, result: number) => {
        if (error !== null && error !== undefined)
          reject(error instanceof Error ? error : new Error('fallocate failed'));
        else resolve(result === 0);
      });
    });

  return {
    readNow,
    zeroRange: async (fd, offsetBytes, lengthBytes) =>
      (await fallocateInPool(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offsetBytes, lengthBytes)) ||
      (await fallocateInPool(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offsetBytes, lengthBytes)),
    blockDeviceSize: (fd) => {
      const out = Buffer.alloc(8);
      if (ioctl(fd, BLKGETSIZE64, out) !== 0)
        throw new Error(`BLKGETSIZE64 failed with errno ${koffi.errno()}`);
      return Number(out.readBigUInt64LE());
    },
    logicalBlockSize: (fd) => {
      const out = Buffer.alloc(8);
      if (ioctl(fd, BLKSSZGET, out) !== 0) throw new Error(`BLKSSZGET failed with errno ${koffi.errno()}`);
      return out.readInt32LE();
    },
    alignedBuffer: (bytes, alignment) => {
      const raw = Buffer.from(new ArrayBuffer(bytes + alignment));
      const skip = Number((BigInt(alignment) - (addressOf(raw) % BigInt(alignment))) % BigInt(alignment));
      return raw.subarray(skip, skip + bytes);
    },
    lockMemory: () => {
      if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) === 0) return null;
      return `mlockall failed with errno ${koffi.errno()}`;
    },
  };
}
