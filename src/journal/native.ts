/**
 * The few calls to libc that Node doesn't make (preadv2, fallocate, the ioctls of block devices, mlock2), and
 * those that it makes with much work of its own around them: pwritev, recv and send cost a tenth this way, which
 * at one request a call is most of what a request costs. CRC32C comes from Intel's ISA-L (Debian's libisal2)
 * where that is installed: eight times as fast as the package that is always there.
 *
 * Constants and structures are those of Linux on 64-bit little-endian machines (linux/fs.h, linux/falloc.h,
 * bits/uio-ext.h, bits/socket.h, sys/mman.h). Pointers into a Buffer are computed from the address of its memory,
 * which V8 never moves; a call that runs in the pool keeps no pointer of ours (fallocate takes numbers only).
 */
import koffi from 'koffi';
import { crcOf } from '../core/journal/format.js';

const RWF_NOWAIT = 8;
const BLKGETSIZE64 = 0x80081272;
const BLKSSZGET = 0x1268;
const FALLOC_FL_KEEP_SIZE = 1;
const FALLOC_FL_PUNCH_HOLE = 2;
const FALLOC_FL_ZERO_RANGE = 16;
const MLOCK_ONFAULT = 1;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const EOPNOTSUPP = 95;
const ENOSYS = 38;
/** Linux takes no more pieces in one call (IOV_MAX). */
export const PIECES_MAX = 1024;

export interface Native {
  /** Reads at once if the data is in the page cache; null where the kernel can't. */
  readNow: ((fd: number, into: Uint8Array, offsetBytes: number) => boolean) | null;
  /** Writes the pieces, at most PIECES_MAX, one after the other. @returns how many bytes, or minus the errno */
  writeNow: (fd: number, pieces: readonly Uint8Array[], offsetBytes: number) => number;
  /** Receives what a socket has. @returns how many bytes, 0 at its end, or minus the errno */
  receiveNow: (fd: number, into: Uint8Array, from: number) => number;
  /** Sends what a socket takes now. @returns how many bytes, or minus the errno */
  sendNow: (fd: number, bytes: Uint8Array, length: number) => number;
  /** Null where ISA-L is not installed. */
  crc32c: ((bytes: Uint8Array) => number) | null;
  /** Makes a range of a file or block device zero. @returns false when only writing can do it */
  zeroRange: (fd: number, offsetBytes: number, lengthBytes: number) => Promise<boolean>;
  blockDeviceSize: (fd: number) => number;
  logicalBlockSize: (fd: number) => number;
  alignedBuffer: (bytes: number, alignment: number) => Buffer;
  /** Keeps what is touched of a range of pages in memory. @returns null, or in words why not */
  lockPages: (from: bigint, lengthBytes: bigint) => string | null;
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
  const preadv2 = libc.func(
    'long preadv2(int fd, uintptr_t iov, int count, int64_t offset, int flags)',
  ) as Call;
  const memmove = libc.func('uintptr_t memmove(void *to, void *from, size_t length)') as Call;
  const ioctl = libc.func('int ioctl(int fd, unsigned long request, void *argument)') as Call;
  const fallocate = libc.func('int fallocate(int fd, int mode, int64_t offset, int64_t length)');
  const mlock2 = libc.func('int mlock2(uintptr_t from, size_t length, int flags)') as Call;

  const pwritev = libc.func('long pwritev(int fd, uintptr_t iov, int count, int64_t offset)') as Call;
  const recv = libc.func('long recv(int fd, uintptr_t into, size_t length, int flags)') as Call;
  const send = libc.func('long send(int fd, uintptr_t from, size_t length, int flags)') as Call;

  // The address of a buffer's memory costs a call; buffers are few and used again and again.
  const addresses = new WeakMap<ArrayBufferLike, number>();
  const addressOf = (bytes: Uint8Array): number => {
    let base = addresses.get(bytes.buffer);
    if (base === undefined) {
      const whole = new Uint8Array(bytes.buffer);
      base = memmove(whole, whole, 0);
      addresses.set(bytes.buffer, base);
    }
    return base + bytes.byteOffset;
  };

  // struct iovec: address and length, both of 64 bits.
  const iov = new Uint32Array(4 * PIECES_MAX);
  const iovAddress = addressOf(new Uint8Array(iov.buffer));
  const putPiece = (index: number, piece: Uint8Array): void => {
    const address = addressOf(piece);
    iov[4 * index] = address % 0x1_0000_0000;
    iov[4 * index + 1] = address / 0x1_0000_0000;
    iov[4 * index + 2] = piece.length;
  };
  const answer = (result: number): number => (result < 0 ? -koffi.errno() : result);

  let nowWorks = true;
  const readNow = (fd: number, into: Uint8Array, offsetBytes: number): boolean => {
    if (!nowWorks) return false;
    putPiece(0, into);
    const got = preadv2(fd, iovAddress, 1, offsetBytes, RWF_NOWAIT);
    if (got === into.length) return true;
    if (got < 0) {
      const errno = koffi.errno();
      if (errno === EOPNOTSUPP || errno === ENOSYS) nowWorks = false;
    }
    return false;
  };
  const writeNow = (fd: number, pieces: readonly Uint8Array[], offsetBytes: number): number => {
    for (let index = 0; index < pieces.length; index++) putPiece(index, pieces[index] as Uint8Array);
    return answer(pwritev(fd, iovAddress, pieces.length, offsetBytes));
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
    writeNow,
    receiveNow: (fd, into, from) =>
      answer(recv(fd, addressOf(into) + from, into.length - from, MSG_DONTWAIT)),
    sendNow: (fd, bytes, length) => answer(send(fd, addressOf(bytes), length, MSG_DONTWAIT | MSG_NOSIGNAL)),
    crc32c: loadCrc32c(addressOf),
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
      const skip = (alignment - (addressOf(raw) % alignment)) % alignment;
      return raw.subarray(skip, skip + bytes);
    },
    lockPages: (from, lengthBytes) =>
      mlock2(from, lengthBytes, MLOCK_ONFAULT) === 0 ? null : `mlock2 failed with errno ${koffi.errno()}`,
  };
}

/** CRC32C of ISA-L, if it is there and agrees with what the journal is checked with. */
function loadCrc32c(addressOf: (bytes: Uint8Array) => number): ((bytes: Uint8Array) => number) | null {
  let call: Call;
  try {
    const isal = koffi.load('libisal.so.2');
    call = isal.func('uint32_t crc32_iscsi(uintptr_t bytes, int length, uint32_t start)') as Call;
  } catch {
    return null;
  }
  // ISA-L leaves the inversion at both ends to its caller.
  const crc = (bytes: Uint8Array): number => ~call(addressOf(bytes), bytes.length, 0xffff_ffff) >>> 0;
  const sample = Uint8Array.from({ length: 5000 }, (_, index) => (index * index) >>> 3);
  const agrees = [0, 1, 511, 4096, 5000].every((length) => {
    const part = sample.subarray(0, length);
    return crc(part) === crcOf(part);
  });
  return agrees ? crc : null;
}
