/**
 * Runs on a lab host for journal.lab.ts, as one file with nothing but Node: writes numbered blocks to DRBD's
 * devices in the place of a guest, and reads them back below DRBD. One JSON call a line in, one answer a line out:
 *
 *     write { devices, barrier }    opens the devices for lanes of writers, on an area of each device
 *     go | pause                    the lanes write; they stop, answered when nothing is under way any more
 *     marker { block }              writes it to the barrier volume; answers, for each block of the areas, the number of the last
 *                                   write that had completed before, and of the last one issued by its end
 *     read { devices }              the number in each block of the areas
 *     rewrite { ranges }            reads ranges and writes them back to themselves
 *
 * Everything is O_DIRECT. A block's content is its device, its place and the number of the write, over and over;
 * a number is never used twice, and each block belongs to one lane, so its numbers only grow.
 */
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { AREA_BLOCKS, BLOCK_BYTES, place, TAIL_BLOCKS } from './journal-area.js';

export interface Range {
  device: string;
  offsetBytes: number;
  lengthBytes: number;
}

/** For each device, the number in each block of its area: 0 never written, -1 not whole. */
export type Numbers = number[][];

export interface MarkerAnswer {
  /** Completed before the marker was issued. */
  completed: Numbers;
  /** Issued before the marker had completed. */
  issued: Numbers;
  writes: number;
}

/** Adjacent blocks that belong to one lane; a write takes some of them. */
const LANE_BLOCKS = 8;
const LANES = 4;
/** Between a lane's writes, so that an emulated host has time for something else. */
const PAUSE_MS = 20;
const PERIOD_BYTES = 16;
const MAGIC = 0x424d554e;

/** Not in the library of types that the project builds with. */
const { Memory } = Reflect.get(globalThis, 'WebAssembly') as {
  Memory: new (size: { initial: number }) => { buffer: ArrayBuffer };
};

/** Memory that is aligned to pages, which O_DIRECT needs and a Buffer is not. */
function aligned(bytes: number): Buffer {
  return Buffer.from(new Memory({ initial: Math.ceil(bytes / 65536) }).buffer, 0, bytes);
}

interface Device {
  index: number;
  handle: FileHandle;
  blocks: number;
}

function fill(into: Buffer, device: number, block: number, number: number): void {
  into.writeUInt32LE(MAGIC, 0);
  into.writeUInt32LE(device, 4);
  into.writeUInt32LE(block, 8);
  into.writeUInt32LE(number, 12);
  for (let at = PERIOD_BYTES; at < BLOCK_BYTES; at += at) into.copy(into, at, 0, at);
}

function numberIn(bytes: Buffer, device: number, block: number): number {
  if (!bytes.subarray(0, -PERIOD_BYTES).equals(bytes.subarray(PERIOD_BYTES))) return -1;
  if (bytes.subarray(0, PERIOD_BYTES).every((byte) => byte === 0)) return 0;
  const isOurs =
    bytes.readUInt32LE(0) === MAGIC && bytes.readUInt32LE(4) === device && bytes.readUInt32LE(8) === block;
  return isOurs ? bytes.readUInt32LE(12) : -1;
}

class Writers {
  readonly devices: Device[];
  readonly issued: Numbers;
  readonly completed: Numbers;
  private number: number;
  private writes = 0;
  private running: Promise<unknown> = Promise.resolve();
  private paused = true;

  constructor(devices: Device[], firstNumber: number) {
    this.devices = devices;
    this.number = firstNumber;
    this.issued = devices.map(() => new Array<number>(AREA_BLOCKS).fill(0));
    this.completed = this.issued.map((each) => [...each]);
  }

  go(): void {
    if (!this.paused) return;
    this.paused = false;
    const lanes = this.devices.flatMap((device) =>
      Array.from({ length: LANES }, (_, lane) => this.lane(device, lane)),
    );
    this.running = Promise.all(lanes).catch((error: unknown) => {
      process.stderr.write(`${String(error)}\n`);
      process.exit(1);
    });
  }

  async pause(): Promise<void> {
    this.paused = true;
    await this.running;
  }

  async marker(handle: FileHandle, block: Buffer): Promise<MarkerAnswer> {
    const bytes = aligned(BLOCK_BYTES);
    block.copy(bytes);
    const completed = this.completed.map((each) => [...each]);
    await handle.write(bytes, 0, BLOCK_BYTES, 0);
    return { completed, issued: this.issued, writes: this.writes };
  }

  private async lane({ index, handle, blocks }: Device, lane: number): Promise<void> {
    const bytes = aligned(LANE_BLOCKS * BLOCK_BYTES);
    const groups = AREA_BLOCKS / LANE_BLOCKS / LANES;
    while (!this.paused) {
      const first = (Math.floor(Math.random() * groups) * LANES + lane) * LANE_BLOCKS;
      // Mostly one block, now and then a whole group.
      const count = Math.random() < 0.2 ? LANE_BLOCKS : 1;
      const start = count === 1 ? first + Math.floor(Math.random() * LANE_BLOCKS) : first;
      const number = ++this.number;
      for (let block = start; block < start + count; block++) {
        const at = (block - start) * BLOCK_BYTES;
        fill(bytes.subarray(at, at + BLOCK_BYTES), index, block, number);
        (this.issued[index] as number[])[block] = number;
      }
      await handle.write(bytes, 0, count * BLOCK_BYTES, place(blocks, start) * BLOCK_BYTES);
      this.writes++;
      for (let block = start; block < start + count; block++)
        (this.completed[index] as number[])[block] = number;
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
  }
}

async function read(paths: string[], blocksOf: number[]): Promise<Numbers> {
  const numbers: Numbers = [];
  const bytes = aligned(AREA_BLOCKS * BLOCK_BYTES);
  for (const [index, path] of paths.entries()) {
    const handle = await open(path, constants.O_RDONLY | constants.O_DIRECT);
    try {
      const blocks = blocksOf[index] as number;
      const head = AREA_BLOCKS - TAIL_BLOCKS;
      await handle.read(bytes, 0, head * BLOCK_BYTES, 0);
      await handle.read(
        bytes,
        head * BLOCK_BYTES,
        TAIL_BLOCKS * BLOCK_BYTES,
        place(blocks, head) * BLOCK_BYTES,
      );
      numbers.push(
        Array.from({ length: AREA_BLOCKS }, (_, block) =>
          numberIn(bytes.subarray(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES), index, block),
        ),
      );
    } finally {
      await handle.close();
    }
  }
  return numbers;
}

async function rewrite(ranges: Range[]): Promise<void> {
  const bytes = aligned(1 << 20);
  for (const { device, offsetBytes, lengthBytes } of ranges) {
    const handle = await open(device, constants.O_RDWR | constants.O_DIRECT);
    try {
      for (let done = 0; done < lengthBytes; done += bytes.length) {
        const length = Math.min(bytes.length, lengthBytes - done);
        await handle.read(bytes, 0, length, offsetBytes + done);
        await handle.write(bytes, 0, length, offsetBytes + done);
      }
    } finally {
      await handle.close();
    }
  }
}

export type HostCall =
  | { call: 'write'; devices: string[]; blocks: number[]; barrier: string; firstNumber: number }
  | { call: 'pause' | 'go' }
  /** In base64. */
  | { call: 'marker'; block: string }
  | { call: 'read'; devices: string[]; blocks: number[] }
  | { call: 'rewrite'; ranges: Range[] };

let writers: Writers | undefined;
let barrier: FileHandle | undefined;

async function perform(call: HostCall): Promise<unknown> {
  switch (call.call) {
    case 'write': {
      const devices: Device[] = [];
      const access = constants.O_RDWR | constants.O_DIRECT;
      for (const [index, path] of call.devices.entries())
        devices.push({ index, handle: await open(path, access), blocks: call.blocks[index] as number });
      barrier = await open(call.barrier, access);
      writers = new Writers(devices, call.firstNumber);
      return undefined;
    }
    case 'go':
      writers?.go();
      return undefined;
    case 'pause':
      return writers?.pause();
    case 'marker':
      if (writers === undefined || barrier === undefined) throw new Error('marker before write');
      return writers.marker(barrier, Buffer.from(call.block, 'base64'));
    case 'read':
      return read(call.devices, call.blocks);
    case 'rewrite':
      return rewrite(call.ranges);
  }
}

const lines = createInterface({ input: process.stdin });
lines.on('line', (line) => {
  const { id, ...call } = JSON.parse(line) as HostCall & { id: number };
  perform(call).then(
    (result) => process.stdout.write(`${JSON.stringify({ id, ok: true, result })}\n`),
    (error: unknown) => process.stdout.write(`${JSON.stringify({ id, ok: false, error: String(error) })}\n`),
  );
});
// Whoever called has gone, and so does a writer.
lines.on('close', () => process.exit(0));
