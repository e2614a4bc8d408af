/**
 * The embedded hypervisor: one guest, and the contract of Xen's tools for it.
 *
 * `xl remus`: starts the transport with a pipe, waits for the banner of the other end, writes the live round while the
 * guest runs, and then checkpoint after checkpoint: suspend, the pages that were written, CHECKPOINT, resume,
 * CHECKPOINT_END, wait. Its writes block while the pipe is full, and the guest stays suspended for as long. When the
 * pipe breaks it gives up and lets the guest run.
 *
 * `xl migrate-receive -r`: says the banner, restores the stream (`core/stream/restore.ts`), and at the end of its
 * input starts the guest from the last whole checkpoint, if the gate is open and the disks are there.
 *
 * Sources: xl(1); Xen, tools/libs/guest/xg_sr_save.c (save) and tools/xl/xl_migrate.c.
 */
import { closeSync, write as writeFd } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import type { ChildProcess } from 'node:child_process';
import koffi from 'koffi';
import {
  encodeCheckpoint,
  encodeCheckpointEnd,
  encodeHvmContext,
  encodeHvmParams,
  encodeImageHeaders,
  encodePages,
  encodePreamble,
  encodeStaticDataEnd,
  encodeTscInfo,
} from '../../core/stream/encoder.js';
import type { Page, Parts } from '../../core/stream/encoder.js';
import { StreamRestore } from '../../core/stream/restore.js';
import { EmbeddedGuest, GUEST_PAGES } from './guest.js';
import type { GuestDevices } from './guest.js';
import { EmbeddedMemory } from './memory.js';

/** What xl's receiving end says first (tools/xl/xl_migrate.c). */
export const BANNER = 'xl migration receiver ready, send binary domain data.';

const O_CLOEXEC = 0o2000000;
const CHUNK_BYTES = 1 << 20;
/** As many bytes as a real guest's context has for one virtual CPU; what is in it does not matter here. */
const CONTEXT = Buffer.alloc(12 << 10, 'embedded');

export class EmbeddedHypervisor {
  readonly #devices: GuestDevices;
  #guest: EmbeddedGuest | null = null;

  constructor(devices: GuestDevices) {
    this.#devices = devices;
  }

  get guest(): EmbeddedGuest | null {
    return this.#guest;
  }

  /** Starts a guest with empty memory. */
  boot(): void {
    this.#guest = new EmbeddedGuest(new EmbeddedMemory(GUEST_PAGES), this.#devices);
    this.#guest.resume('new');
  }

  destroy(): void {
    this.#guest?.suspend('held');
    this.#guest = null;
  }

  /**
   * Protects the guest.
   * @param startSender makes the transport, with this descriptor as its standard input
   * @returns when the pipe has broken; the guest then runs, if it was not destroyed
   */
  async remus(intervalMs: number, startSender: (stdin: number) => ChildProcess): Promise<void> {
    const guest = this.#guest;
    if (guest === null) throw new Error('embedded hypervisor: there is no guest');
    const pipe = makePipe();
    const sender = startSender(pipe.read);
    closeSync(pipe.read);
    try {
      await banner(sender);
      await writeAll(pipe.write, [
        ...encodePreamble(Buffer.from('{"c_info": {"name": "embedded"}}'), true),
        ...encodeImageHeaders({ version: 3, xenMajor: 4, xenMinor: 17 }),
        ...encodeStaticDataEnd(),
        ...encodePages(guest.memory.takeAll()),
      ]);
      for (;;) {
        guest.suspend('checkpoint');
        await writeAll(pipe.write, checkpointParts(guest.memory.takeDirty()));
        guest.resume('checkpoint');
        await writeAll(pipe.write, encodeCheckpointEnd());
        await pause(intervalMs);
      }
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EPIPE') throw error;
    } finally {
      closeSync(pipe.write);
      guest.resume('checkpoint');
    }
  }

  /** The receiving end of a protection. */
  receive(): IncomingGuest {
    return new IncomingGuest((memory) => {
      this.#guest = new EmbeddedGuest(memory, this.#devices);
      return this.#guest;
    });
  }
}

/** A guest that is being restored, paused. */
export class IncomingGuest {
  readonly #restore = new StreamRestore({ pfnEnd: GUEST_PAGES, bufferedBytesMax: 64 << 20 });
  readonly #make: (memory: EmbeddedMemory) => EmbeddedGuest;

  constructor(make: (memory: EmbeddedMemory) => EmbeddedGuest) {
    this.#make = make;
  }

  /** @throws StreamError */
  push(chunk: Buffer): void {
    this.#restore.push(chunk);
  }

  /**
   * The input has ended. The guest is there and does not run yet: `restart` lets it.
   * @throws StreamError when there is no whole checkpoint
   */
  finish(): { guest: EmbeddedGuest; checkpoint: number } {
    const { pages, checkpoint } = this.#restore.end();
    return { guest: this.#make(EmbeddedMemory.restore(GUEST_PAGES, pages)), checkpoint };
  }
}

function checkpointParts(pages: readonly Page[]): Parts {
  return [
    ...encodePages(pages),
    ...encodeTscInfo(0, 2_400_000, 0n, 0),
    ...encodeHvmContext(CONTEXT),
    ...encodeHvmParams([{ index: 1n, value: 0xfeff_f000n }]),
    ...encodeCheckpoint(),
  ];
}

function banner(sender: ChildProcess): Promise<void> {
  return new Promise((resolve, reject) => {
    let text = '';
    sender.stdout?.setEncoding('latin1').on('data', (more: string) => {
      text += more;
      if (text.includes(BANNER)) resolve();
    });
    sender.once('exit', () => {
      reject(Object.assign(new Error('embedded hypervisor: the transport has ended'), { code: 'EPIPE' }));
    });
  });
}

type Pipe2 = (ends: Buffer, flags: number) => number;
let pipe2: Pipe2 | null = null;

/** A pipe of the kernel's: Node's own "pipes" to children are sockets, and have another way of being full. */
function makePipe(): { read: number; write: number } {
  pipe2 ??= koffi.load('libc.so.6').func('int pipe2(void *ends, int flags)') as Pipe2;
  const ends = Buffer.alloc(8);
  if (pipe2(ends, O_CLOEXEC) !== 0) throw new Error(`pipe2 failed with errno ${koffi.errno()}`);
  return { read: ends.readInt32LE(0), write: ends.readInt32LE(4) };
}

/** Blocks, in libuv's pool, while the pipe is full. */
async function writeAll(fd: number, parts: Parts): Promise<void> {
  const bytes = Buffer.concat(parts);
  for (let at = 0; at < bytes.length;) {
    at += await new Promise<number>((resolve, reject) => {
      writeFd(fd, bytes, at, Math.min(CHUNK_BYTES, bytes.length - at), null, (error, written) => {
        if (error === null) resolve(written);
        else reject(error);
      });
    });
  }
}
