/**
 * Frames of the bulk connection, the same in both directions. All numbers are big-endian.
 *
 *     type u8 | flags u8 | reserved u16 (0) | length u32 | epoch u64 | that many bytes
 *
 * - `data` (sender): bytes of epoch N's part of the migration stream, in order, at least one.
 * - `checkpoint` (sender): the end of epoch N, from the record CHECKPOINT to CHECKPOINT_END, which the receiver holds
 *   back until its commit.
 *   Flag 2: it is one that could not be held and has no number of its own; it waits for the commit after epoch N.
 * - `back` (receiver): what `xl migrate-receive` says to `xl`; epoch 0.
 * - `end` (both): nothing follows. Empty, epoch 0. Flag 1: everything that was to be sent has been (clean).
 *
 * `data` and `back` are given on in the pieces in which they arrive, never gathered; a `checkpoint` comes whole.
 */
import { LinkError } from './errors.js';

export const BULK_HEADER_BYTES = 16;
/** Longest `data` or `back`. */
export const BULK_FRAME_BYTES_MAX = 1 << 20;
/** The two records have 8 bytes each; between them is the state of a device model, where the guest has one. */
export const CHECKPOINT_BYTES_MAX = 16 << 20;

const FLAG_CLEAN = 1;
const FLAG_FOLDED = 2;

const Type = { data: 1, checkpoint: 2, back: 3, end: 4 } as const;
const TYPES = ['data', 'checkpoint', 'back', 'end'] as const;

export type BulkHeader =
  | { type: 'data'; epoch: number }
  | { type: 'checkpoint'; epoch: number; folded?: true }
  | { type: 'back' }
  | { type: 'end'; clean: boolean };

/**
 * What a decoder gives: bytes of a `data` or `back`, a whole `checkpoint`, or the end. `bytes` lies in memory of
 * whoever called the decoder.
 */
export type BulkItem =
  | { type: 'data'; epoch: number; bytes: Buffer }
  | { type: 'checkpoint'; epoch: number; bytes: Buffer; folded?: true }
  | { type: 'back'; bytes: Buffer }
  | { type: 'end'; clean: boolean };

/**
 * @param length of the bytes that follow
 * @throws RangeError for what no decoder takes: an error of ours, not of the peer's
 */
export function encodeBulkHeader(header: BulkHeader, length: number): Buffer {
  const epoch = 'epoch' in header ? header.epoch : 0;
  const flags = flagsOf(header);
  const problem = headerProblem(Type[header.type], flags, 0, length, epoch);
  if (problem !== undefined) throw new RangeError(`a ${header.type} frame with ${problem}`);
  const bytes = Buffer.allocUnsafe(BULK_HEADER_BYTES);
  bytes.writeUInt8(Type[header.type], 0);
  bytes.writeUInt8(flags, 1);
  bytes.writeUInt16BE(0, 2);
  bytes.writeUInt32BE(length, 4);
  bytes.writeUInt32BE(Math.floor(epoch / 2 ** 32), 8);
  bytes.writeUInt32BE(epoch % 2 ** 32, 12);
  return bytes;
}

function flagsOf(header: BulkHeader): number {
  if (header.type === 'end') return header.clean ? FLAG_CLEAN : 0;
  return header.type === 'checkpoint' && header.folded === true ? FLAG_FOLDED : 0;
}

/** Takes the stream in any pieces. Holds a header and one `checkpoint` at most. */
export class BulkDecoder {
  readonly #header = Buffer.alloc(BULK_HEADER_BYTES);
  #headerFilled = 0;
  #type: number = Type.data;
  #epoch = 0;
  #flags = 0;
  /** Bytes of the frame that are still to come. */
  #left = 0;
  #checkpoint: Buffer | undefined;
  #ended = false;

  /**
   * Reads up to the first thing that can be given on.
   * @returns what was used of `bytes`, and the item; without one, all of `bytes` was used
   * @throws LinkError
   */
  read(bytes: Buffer): { used: number; item?: BulkItem } {
    if (this.#ended && bytes.length > 0) throw new LinkError('framing', 'bytes after the end frame');
    let used = 0;
    if (this.#left === 0) {
      used = Math.min(bytes.length, BULK_HEADER_BYTES - this.#headerFilled);
      bytes.copy(this.#header, this.#headerFilled, 0, used);
      this.#headerFilled += used;
      if (this.#headerFilled < BULK_HEADER_BYTES) return { used };
      this.#headerFilled = 0;
      const end = this.#begin();
      if (end !== undefined) return { used, item: end };
    }
    if (used === bytes.length) return { used };
    const part = bytes.subarray(used, used + this.#left);
    this.#left -= part.length;
    used += part.length;
    switch (this.#type) {
      case Type.data:
        return { used, item: { type: 'data', epoch: this.#epoch, bytes: part } };
      case Type.back:
        return { used, item: { type: 'back', bytes: part } };
      default:
        return this.#checkpointPart(part, used);
    }
  }

  /** True between frames: a stream that stops elsewhere was cut. */
  get atBoundary(): boolean {
    return this.#left === 0 && this.#headerFilled === 0;
  }

  /** True after an `end` frame. */
  get ended(): boolean {
    return this.#ended;
  }

  #begin(): BulkItem | undefined {
    const header = this.#header;
    const type = header.readUInt8(0);
    const flags = header.readUInt8(1);
    const length = header.readUInt32BE(4);
    const epoch = header.readUInt32BE(8) * 2 ** 32 + header.readUInt32BE(12);
    const problem = headerProblem(type, flags, header.readUInt16BE(2), length, epoch);
    if (problem !== undefined) {
      throw new LinkError('framing', `a ${TYPES[type - 1] ?? 'bulk'} frame with ${problem}`);
    }
    this.#type = type;
    this.#epoch = epoch;
    this.#flags = flags;
    this.#left = length;
    if (type === Type.checkpoint) this.#checkpoint = Buffer.alloc(length);
    if (type !== Type.end) return undefined;
    this.#ended = true;
    return { type: 'end', clean: (flags & FLAG_CLEAN) !== 0 };
  }

  #checkpointPart(part: Buffer, used: number): { used: number; item?: BulkItem } {
    const whole = this.#checkpoint as Buffer;
    part.copy(whole, whole.length - this.#left - part.length);
    if (this.#left > 0) return { used };
    this.#checkpoint = undefined;
    const folded = this.#flags === FLAG_FOLDED ? { folded: true as const } : {};
    return { used, item: { type: 'checkpoint', epoch: this.#epoch, bytes: whole, ...folded } };
  }
}

/** What is wrong with a header, in words; the one place that knows what is right. */
function headerProblem(
  type: number,
  flags: number,
  reserved: number,
  length: number,
  epoch: number,
): string | undefined {
  const name = TYPES[type - 1];
  if (name === undefined) return `type ${type}`;
  const allowed = name === 'end' ? FLAG_CLEAN : name === 'checkpoint' ? FLAG_FOLDED : 0;
  if ((flags & ~allowed) !== 0) return `flags ${flags}`;
  if (reserved !== 0) return `${reserved} where 0 is reserved`;
  if (!Number.isSafeInteger(epoch) || epoch < 0) return 'an epoch above 2^53';
  if ((name === 'back' || name === 'end') && epoch !== 0) return `epoch ${epoch}, which has none`;
  const [min, max] = LENGTHS[name];
  if (length < min || length > max) return `${length} bytes; ${min} to ${max} are allowed`;
  return undefined;
}

const LENGTHS: Record<(typeof TYPES)[number], readonly [min: number, max: number]> = {
  data: [1, BULK_FRAME_BYTES_MAX],
  checkpoint: [1, CHECKPOINT_BYTES_MAX],
  back: [1, BULK_FRAME_BYTES_MAX],
  end: [0, 0],
};
