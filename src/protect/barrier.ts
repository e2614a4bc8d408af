/**
 * The barrier volume on the primary: a marker is one direct write of 4 KiB to its DRBD device. It has completed
 * when DRBD says so, and DRBD's own write ordering puts it behind every write that had completed before, on all
 * volumes of the resource.
 */
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { encodeMarker, MARKER_BYTES } from '../core/journal/format.js';
import { native } from '../journal/native.js';
import type { Identity } from '../core/protect/types.js';

export class BarrierDevice {
  private readonly handle: FileHandle;
  private readonly identity: Identity;
  private readonly buffer = native().alignedBuffer(MARKER_BYTES, MARKER_BYTES);

  private constructor(handle: FileHandle, identity: Identity) {
    this.handle = handle;
    this.identity = identity;
  }

  /**
   * Opens the device. While it is open DRBD can't be demoted.
   * @param path of the DRBD device of the barrier volume
   * @throws the error of open(2): EROFS or EMEDIUMTYPE where the resource is not promoted here
   */
  static async open(path: string, identity: Identity): Promise<BarrierDevice> {
    return new BarrierDevice(await open(path, constants.O_WRONLY | constants.O_DIRECT), identity);
  }

  /** Resolves when DRBD has completed the marker. One at a time. */
  async write(epoch: number): Promise<void> {
    const { domain, term, session } = this.identity;
    encodeMarker({ domain, term, session: Buffer.from(session, 'hex'), epoch }).copy(this.buffer);
    const { bytesWritten } = await this.handle.write(this.buffer, 0, MARKER_BYTES, 0);
    if (bytesWritten !== MARKER_BYTES) throw new Error(`marker ${epoch}: ${bytesWritten} bytes were written`);
  }

  async close(): Promise<void> {
    await this.handle.close();
  }
}
