/**
 * What two embedded mirrors say to each other, in DRBD's place. Both directions, over one TCP connection on loopback:
 *
 *     type u8 | volume u8 | zero u16 | length u32 | sequence as a double | offset as a double | payload
 *
 * hello (JSON) first, each way; then writes and, the other way, an ack for each, and pings both ways. Little-endian.
 */
export const MirrorFrame = { hello: 1, write: 2, resync: 3, ack: 4, resyncDone: 5, ping: 6 } as const;

const HEADER_BYTES = 24;
/** A hello with every block of every volume in it is the longest. */
const PAYLOAD_BYTES_MAX = 4 << 20;

export interface Frame {
  type: number;
  volume: number;
  sequence: number;
  offsetBytes: number;
  payload: Buffer;
}

export function encodeFrame(frame: Omit<Frame, 'payload'>, payload: Uint8Array = new Uint8Array(0)): Buffer {
  const bytes = Buffer.allocUnsafe(HEADER_BYTES + payload.length);
  bytes.fill(0, 0, HEADER_BYTES);
  bytes.writeUInt8(frame.type, 0);
  bytes.writeUInt8(frame.volume, 1);
  bytes.writeUInt32LE(payload.length, 4);
  bytes.writeDoubleLE(frame.sequence, 8);
  bytes.writeDoubleLE(frame.offsetBytes, 16);
  bytes.set(payload, HEADER_BYTES);
  return bytes;
}

export class FrameReader {
  #rest: Buffer = Buffer.alloc(0);

  /** @throws RangeError for a frame that is too long */
  *read(chunk: Buffer): Generator<Frame, void, undefined> {
    this.#rest = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    while (this.#rest.length >= HEADER_BYTES) {
      const length = this.#rest.readUInt32LE(4);
      if (length > PAYLOAD_BYTES_MAX) throw new RangeError(`a frame of ${length} bytes`);
      const end = HEADER_BYTES + length;
      if (this.#rest.length < end) return;
      const head = this.#rest;
      this.#rest = head.subarray(end);
      yield {
        type: head.readUInt8(0),
        volume: head.readUInt8(1),
        sequence: head.readDoubleLE(8),
        offsetBytes: head.readDoubleLE(16),
        payload: head.subarray(HEADER_BYTES, end),
      };
    }
  }
}
