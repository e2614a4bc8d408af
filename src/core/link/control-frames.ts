/**
 * Frames of the control connection: length u32 big-endian, then that many bytes of JSON in UTF-8.
 */
import { LinkError } from './errors.js';
import type { ControlMessage } from './messages.js';

const HEADER_BYTES = 4;
export const CONTROL_FRAME_BYTES_MAX = 64 << 10;

/** @throws RangeError for a message that is too long: an error of ours, not of the peer's */
export function encodeControl(message: ControlMessage): Buffer {
  const body = JSON.stringify(message);
  const length = Buffer.byteLength(body);
  if (length > CONTROL_FRAME_BYTES_MAX) {
    throw new RangeError(`a control message of ${length} bytes; at most ${CONTROL_FRAME_BYTES_MAX}`);
  }
  const frame = Buffer.allocUnsafe(HEADER_BYTES + length);
  frame.writeUInt32BE(length, 0);
  frame.write(body, HEADER_BYTES);
  return frame;
}

/** Takes the stream in any pieces, and gives each frame's JSON value. Holds at most one frame. */
export class ControlDecoder {
  readonly #utf8 = new TextDecoder('utf-8', { fatal: true });
  #header = Buffer.alloc(HEADER_BYTES);
  #headerFilled = 0;
  #body: Buffer | undefined;
  #bodyFilled = 0;

  /**
   * Reads up to the end of the first whole frame.
   * @returns what was used of `bytes`, and the frame's value; without one, all of `bytes` was used
   * @throws LinkError
   */
  read(bytes: Uint8Array): { used: number; json?: unknown } {
    let used = 0;
    if (this.#body === undefined) {
      used = this.#fillHeader(bytes);
      if (this.#headerFilled < HEADER_BYTES) return { used };
      const length = this.#header.readUInt32BE(0);
      if (length === 0 || length > CONTROL_FRAME_BYTES_MAX) {
        throw new LinkError(
          'framing',
          `a control frame of ${length} bytes; 1 to ${CONTROL_FRAME_BYTES_MAX} are allowed`,
        );
      }
      this.#body = Buffer.allocUnsafe(length);
      this.#bodyFilled = 0;
    }
    const part = bytes.subarray(used, used + this.#body.length - this.#bodyFilled);
    this.#body.set(part, this.#bodyFilled);
    this.#bodyFilled += part.length;
    used += part.length;
    if (this.#bodyFilled < this.#body.length) return { used };
    const json = this.#parse(this.#body);
    this.#body = undefined;
    this.#headerFilled = 0;
    return { used, json };
  }

  /** True between frames. */
  get atBoundary(): boolean {
    return this.#headerFilled === 0;
  }

  #fillHeader(bytes: Uint8Array): number {
    const part = bytes.subarray(0, HEADER_BYTES - this.#headerFilled);
    this.#header.set(part, this.#headerFilled);
    this.#headerFilled += part.length;
    return part.length;
  }

  #parse(body: Buffer): unknown {
    try {
      return JSON.parse(this.#utf8.decode(body));
    } catch {
      throw new LinkError('message', `a control frame of ${body.length} bytes that is no JSON`);
    }
  }
}
