/**
 * Reads a pipe, exactly as far as asked, and sets how much it may hold: the sender's end of what `xl` writes.
 *
 * Reading doesn't go through Node's streams, which read ahead; nor through `fs.read`, because a read that waits in
 * libuv's pool can't be called back, and Node can't exit while it waits. The pipe is made non-blocking (this is the
 * reading end's own flag, the writer doesn't see it) and read in place while there is something in it; only waiting
 * goes to the pool, in poll(2), together with a pipe of our own that ends the waiting.
 *
 * Sources: pipe(7), fcntl(2) on F_SETPIPE_SZ, poll(2); constants of Linux on x86 (asm-generic/fcntl.h, linux/fcntl.h).
 */
import { readFileSync } from 'node:fs';
import { setImmediate as turn } from 'node:timers/promises';
import koffi from 'koffi';

const F_GETFL = 3;
const F_SETFL = 4;
const F_SETPIPE_SZ = 1031;
const F_GETPIPE_SZ = 1032;
const O_NONBLOCK = 0o4000;
const O_CLOEXEC = 0o2000000;
const POLLIN = 1;
const EPERM = 1;
const EINTR = 4;
const EAGAIN = 11;
const EBUSY = 16;
const EINVAL = 22;
const POLLFD_BYTES = 8;

/** So much is read without waiting before timers and sockets get their turn. */
const TURN_BYTES = 1 << 20;
const TURN_READS = 64;
/** Without privileges, if /proc doesn't say otherwise. */
const PIPE_BYTES_MAX = 1 << 20;

type Call = (...args: unknown[]) => number;
type AsyncCall = Call & { async: (...args: unknown[]) => void };

function load() {
  const libc = koffi.load('libc.so.6');
  return {
    read: libc.func('long read(int fd, void *into, size_t bytes)') as Call,
    write: libc.func('long write(int fd, void *from, size_t bytes)') as Call,
    close: libc.func('int close(int fd)') as Call,
    fcntl: libc.func('int fcntl(int fd, int command, ...)') as Call,
    pipe2: libc.func('int pipe2(void *fds, int flags)') as Call,
    poll: libc.func('int poll(void *fds, unsigned long count, int timeout)') as AsyncCall,
  };
}

let loaded: ReturnType<typeof load> | null = null;

/** A call that failed, with its errno. */
export class PipeError extends Error {
  readonly errno: number;

  constructor(what: string, errno: number) {
    super(`the pipe from xl: ${what} failed with errno ${errno}`);
    this.name = 'PipeError';
    this.errno = errno;
  }
}

/**
 * Makes a pipe, both ends closed at exec: a child gets an end as one of its standard streams. What Node itself gives a
 * child is a socket, and not every program takes the end of one as it takes the end of a pipe.
 *
 * @throws PipeError
 */
export function makePipe(): { read: number; write: number } {
  loaded ??= load();
  const ends = Buffer.alloc(8);
  if (loaded.pipe2(ends, O_CLOEXEC) !== 0) throw new PipeError('pipe2', koffi.errno());
  return { read: ends.readInt32LE(0), write: ends.readInt32LE(4) };
}

/** Owns the reading end's flags, not the descriptor itself. */
export class PipeReader {
  readonly #libc: ReturnType<typeof load>;
  readonly #fd: number;
  readonly #buffers: Buffer[];
  #used = 0;
  /** [descriptor, POLLIN] of the pipe and of the pipe that wakes us. Held here for as long as poll may look at it. */
  readonly #polled = Buffer.alloc(2 * POLLFD_BYTES);
  readonly #wake: { read: number; write: number };
  readonly #onExit = (): void => this.#wakeUp();
  #polling = false;
  #closed = false;
  #bytesInTurn = 0;
  #readsInTurn = 0;

  /**
   * @param fd the reading end of a pipe; nobody else may read it
   * @param options `buffers`: bytes that were read stay as they are for so many calls of `readUpTo` less one
   * @throws PipeError when it is no pipe
   */
  constructor(fd: number, options: { buffers?: number; bufferBytes?: number } = {}) {
    const { buffers = 2, bufferBytes = 1 << 20 } = options;
    loaded ??= load();
    this.#libc = loaded;
    this.#fd = fd;
    this.#buffers = Array.from({ length: buffers }, () => Buffer.allocUnsafeSlow(bufferBytes));
    this.capacityBytes();
    const flags = this.#check('F_GETFL', this.#libc.fcntl(fd, F_GETFL));
    this.#check('F_SETFL', this.#libc.fcntl(fd, F_SETFL, 'int', flags | O_NONBLOCK));
    const ends = Buffer.alloc(8);
    this.#check('pipe2', this.#libc.pipe2(ends, O_CLOEXEC | O_NONBLOCK));
    this.#wake = { read: ends.readInt32LE(0), write: ends.readInt32LE(4) };
    for (const [index, watched] of [fd, this.#wake.read].entries()) {
      this.#polled.writeInt32LE(watched, index * POLLFD_BYTES);
      this.#polled.writeInt16LE(POLLIN, index * POLLFD_BYTES + 4);
    }
    process.on('exit', this.#onExit);
  }

  /**
   * Reads what is there, and waits only when there is nothing. One call at a time.
   *
   * @param bytes at most so many; never is more taken out of the pipe
   * @returns a part of a buffer that is used again (see the constructor); empty at the end of the input, or when the
   *   reader was closed meanwhile
   * @throws PipeError
   */
  async readUpTo(bytes: number): Promise<Buffer> {
    if (this.#polling) throw new Error('the pipe is read already');
    const buffer = this.#buffers[this.#used++ % this.#buffers.length];
    if (buffer === undefined || !(bytes >= 1)) throw new RangeError(`${bytes} bytes can't be read`);
    if (this.#bytesInTurn >= TURN_BYTES || this.#readsInTurn >= TURN_READS) await this.#turn();
    while (!this.#closed) {
      const got = this.#libc.read(this.#fd, buffer, Math.min(bytes, buffer.length));
      if (got >= 0) {
        this.#bytesInTurn += got;
        this.#readsInTurn++;
        return buffer.subarray(0, got);
      }
      const errno = koffi.errno();
      if (errno === EAGAIN) await this.#wait();
      else if (errno !== EINTR) throw new PipeError('read', errno);
    }
    return buffer.subarray(0, 0);
  }

  /**
   * Sets how much the pipe may hold. Shrinking is refused by the kernel while it holds more; growing goes as far as
   * this process may (/proc/sys/fs/pipe-max-size).
   *
   * @param bytes a power of two, a page (4096) at least
   * @returns how much it may hold now: compare it with what was asked for
   * @throws PipeError
   */
  resize(bytes: number): number {
    const asked = this.#setCapacity(bytes);
    if (asked !== EPERM) return this.capacityBytes();
    // Over the limit without the privilege. What the user's other pipes hold counts too, so less may still be refused.
    this.#setCapacity(Math.min(bytes, limitBytes()));
    return this.capacityBytes();
  }

  capacityBytes(): number {
    return this.#check('F_GETPIPE_SZ', this.#libc.fcntl(this.#fd, F_GETPIPE_SZ));
  }

  /** Ends a wait, and leaves the descriptor to its owner. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    process.off('exit', this.#onExit);
    if (this.#polling) this.#wakeUp();
    else this.#closeWake();
  }

  /** @returns 0, EPERM or EBUSY */
  #setCapacity(bytes: number): number {
    if (this.#libc.fcntl(this.#fd, F_SETPIPE_SZ, 'int', bytes) >= 0) return 0;
    const errno = koffi.errno();
    if (errno === EPERM || errno === EBUSY) return errno;
    throw new PipeError(`F_SETPIPE_SZ ${bytes}`, errno);
  }

  #wait(): Promise<void> {
    this.#polling = true;
    return new Promise((resolve) => {
      // A failed poll is no matter of its own: the read after it says what is wrong, or waits again.
      this.#libc.poll.async(this.#polled, 2, -1, () => {
        this.#polling = false;
        this.#bytesInTurn = 0;
        this.#readsInTurn = 0;
        if (this.#closed) this.#closeWake();
        resolve();
      });
    });
  }

  async #turn(): Promise<void> {
    this.#bytesInTurn = 0;
    this.#readsInTurn = 0;
    await turn();
  }

  #wakeUp(): void {
    this.#libc.write(this.#wake.write, Buffer.alloc(1), 1);
  }

  #closeWake(): void {
    this.#libc.close(this.#wake.read);
    this.#libc.close(this.#wake.write);
  }

  #check(what: string, result: number): number {
    if (result >= 0) return result;
    const errno = koffi.errno();
    throw new PipeError(
      errno === EINVAL || what === 'F_GETPIPE_SZ' ? `${what} (is it a pipe?)` : what,
      errno,
    );
  }
}

function limitBytes(): number {
  try {
    const limit = Number(readFileSync('/proc/sys/fs/pipe-max-size', 'utf8'));
    return Number.isSafeInteger(limit) && limit > 0 ? limit : PIPE_BYTES_MAX;
  } catch {
    return PIPE_BYTES_MAX;
  }
}
