/**
 * The block devices of an embedded host: for each volume what device-mapper is on a real one, a table that points
 * either at a file (the LV) or at an NBD export of the epoch journal, and can be exchanged while it is in use.
 */
import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import type { VolumeSpec } from '../../core/journal/types.js';
import { DISK_BYTES, GUEST_DISKS } from './guest.js';
import { NbdClient } from './nbd-client.js';

/** The guest's disks, and the barrier volume behind them. */
export const EMBEDDED_VOLUMES: readonly VolumeSpec[] = [
  ...Array.from({ length: GUEST_DISKS }, (_, disk) => ({
    name: `embedded-${disk}`,
    sizeBytes: DISK_BYTES,
    barrier: false,
  })),
  { name: 'embedded-barrier', sizeBytes: 1 << 20, barrier: true },
];
export const BARRIER = EMBEDDED_VOLUMES.length - 1;

export function volumePath(directory: string, volume: number): string {
  return join(directory, `${EMBEDDED_VOLUMES[volume]?.name ?? ''}.img`);
}

interface Table {
  write(offsetBytes: number, bytes: Uint8Array): Promise<void> | undefined;
  read(offsetBytes: number, lengthBytes: number): Promise<Buffer>;
  close(): void;
}

/** Writes go to the page cache at once, so that they stay in order; it outlives a process that is killed. */
class FileTable implements Table {
  readonly #fd: number;

  constructor(path: string) {
    this.#fd = openSync(path, 'r+');
  }

  write(offsetBytes: number, bytes: Uint8Array): undefined {
    writeSync(this.#fd, bytes, 0, bytes.length, offsetBytes);
  }

  read(offsetBytes: number, lengthBytes: number): Promise<Buffer> {
    const bytes = Buffer.alloc(lengthBytes);
    readSync(this.#fd, bytes, 0, lengthBytes, offsetBytes);
    return Promise.resolve(bytes);
  }

  close(): void {
    closeSync(this.#fd);
  }
}

export class EmbeddedDevices {
  readonly #directory: string;
  #tables: Table[];
  #isPlain = true;
  #underWay = 0;
  #whenIdle: (() => void)[] = [];
  /** While above 0 what comes waits, in order. */
  #holds = 0;
  #held: (() => void)[] = [];

  constructor(directory: string) {
    this.#directory = directory;
    this.#tables = EMBEDDED_VOLUMES.map((_, volume) => new FileTable(volumePath(directory, volume)));
  }

  /** Straight on the files. */
  get isPlain(): boolean {
    return this.#isPlain;
  }

  write(volume: number, offsetBytes: number, bytes: Uint8Array): Promise<void> {
    return this.#start(() => this.#table(volume).write(offsetBytes, bytes));
  }

  /** The same, when everything before it has completed; what comes after it waits for it. */
  async writeBehind(volume: number, offsetBytes: number, bytes: Uint8Array): Promise<void> {
    // The hold begins in its turn, at once: what is behind it in the queue has to find it.
    if (this.#holds === 0) this.#holds++;
    else {
      await new Promise<void>((resolve) => {
        this.#held.push(() => {
          this.#holds++;
          resolve();
        });
      });
    }
    try {
      await this.idle();
      await this.#run(() => this.#table(volume).write(offsetBytes, bytes));
    } finally {
      this.#letGo();
    }
  }

  read(volume: number, offsetBytes: number, lengthBytes: number): Promise<Buffer> {
    return this.#start(() => this.#table(volume).read(offsetBytes, lengthBytes));
  }

  /** Resolves when nothing is under way. */
  idle(): Promise<void> {
    if (this.#underWay === 0) return Promise.resolve();
    return new Promise((resolve) => this.#whenIdle.push(resolve));
  }

  /** What comes from now on waits for `load`; resolves when nothing is under way. */
  async suspend(): Promise<void> {
    this.#holds++;
    await this.idle();
  }

  /** Exchanges the tables and lets go of what waits. @param socket of the journal's NBD server; null for the files */
  async load(socket: string | null): Promise<void> {
    const tables: Table[] = [];
    for (const [volume, { name }] of EMBEDDED_VOLUMES.entries()) {
      const path = volumePath(this.#directory, volume);
      tables.push(socket === null ? new FileTable(path) : await NbdClient.open(socket, name));
    }
    for (const table of this.#tables) table.close();
    this.#tables = tables;
    this.#isPlain = socket === null;
    this.#letGo();
  }

  #letGo(): void {
    this.#holds--;
    // One of them may hold the others again.
    while (this.#holds === 0) {
      const begin = this.#held.shift();
      if (begin === undefined) return;
      begin();
    }
  }

  #table(volume: number): Table {
    const table = this.#tables[volume];
    if (table === undefined) throw new Error(`embedded host: there is no volume ${volume}`);
    return table;
  }

  #start<T>(action: () => Promise<T> | T): Promise<T> {
    if (this.#holds === 0) return this.#run(action);
    return new Promise<T>((resolve, reject) => {
      this.#held.push(() => void this.#run(action).then(resolve, reject));
    });
  }

  async #run<T>(action: () => Promise<T> | T): Promise<T> {
    this.#underWay++;
    try {
      return await action();
    } finally {
      this.#underWay--;
      if (this.#underWay === 0) for (const resolve of this.#whenIdle.splice(0)) resolve();
    }
  }
}
