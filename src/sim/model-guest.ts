/**
 * The modelled guest: a ledger. Each operation has a number, writes it to a sector on each of its two disks, and when
 * both writes are done and all operations before it are, sends a packet with the number. Its memory has the number
 * and what each sector of its disks has to hold. A client outside remembers the highest number that it saw.
 */
import { SECTOR_BYTES } from '../core/journal/types.js';
import type { Host } from './host.js';
import { CELLS, DATA_VOLUMES } from './model-drbd.js';
import type { Block, ModelDrbd } from './model-drbd.js';
import { Owner } from './model-time.js';

interface Write {
  operation: number;
  block: Block;
  /** What the sector held before. */
  before: number;
}

export interface Memory {
  next: number;
  /** All operations up to this one are done, and this has been said outside. */
  done: number;
  doneBeyond: number[];
  /** By volume and sector, what was written last. */
  cells: number[][];
  underWay: Write[];
}

export function newMemory(): Memory {
  const cells = Array.from({ length: DATA_VOLUMES }, () => new Array<number>(CELLS).fill(0));
  return { next: 1, done: 0, doneBeyond: [], cells, underWay: [] };
}

export function copyMemory(memory: Memory): Memory {
  return {
    next: memory.next,
    done: memory.done,
    doneBeyond: [...memory.doneBeyond],
    cells: memory.cells.map((each) => [...each]),
    underWay: [...memory.underWay],
  };
}

/** A guest that starts without its memory reads its ledger from its disks. */
export function memoryFromDisks(read: (block: Block) => number): Memory {
  const memory = newMemory();
  memory.cells = memory.cells.map((cells, volume) => cells.map((_, cell) => read({ volume, cell })));
  memory.done = Math.max(...memory.cells.flat());
  memory.next = memory.done + 1;
  return memory;
}

/** What differs between a memory and the disks under it, in words; null when they agree. */
export function disagreement(memory: Memory, read: (block: Block) => number): string | null {
  for (let volume = 0; volume < DATA_VOLUMES; volume++) {
    for (let cell = 0; cell < CELLS; cell++) {
      const wanted = memory.cells[volume]?.[cell] ?? 0;
      const found = read({ volume, cell });
      if (found === wanted) continue;
      const open = memory.underWay.find(({ block }) => block.volume === volume && block.cell === cell);
      // A write under way is sent again by the guest's frontend.
      if (open !== undefined && found === open.before) continue;
      return `disk ${volume} sector ${cell} has ${found}, the memory of the guest has ${wanted}`;
    }
  }
  return null;
}

export function encodeCell(operation: number): Buffer {
  const bytes = Buffer.alloc(SECTOR_BYTES);
  bytes.writeDoubleLE(operation);
  return bytes;
}

export const decodeCell = (bytes: Buffer): number => bytes.readDoubleLE(0);

/** Operations that may be under way at once. */
const OPERATIONS_MAX = 3;

export class ModelGuest {
  readonly host: Host;
  readonly owner: Owner;
  readonly memory: Memory;
  isSuspended = false;
  /** Something has changed since the last snapshot. */
  isDirty = true;
  /** Ordinal of the next snapshot, for packets. */
  snapshot = 1;
  term = 0;
  isQuiet = false;
  readonly #drbd: ModelDrbd;
  #completions: Write[] = [];
  #idleUntilMs = 0;

  readonly #note: (operation: number, cells: number[]) => void;

  constructor(
    host: Host,
    drbd: ModelDrbd,
    memory: Memory,
    note: (operation: number, cells: number[]) => void,
  ) {
    this.#note = note;
    this.host = host;
    this.#drbd = drbd;
    this.memory = memory;
    this.owner = new Owner('guest', host.owner);
    for (const write of memory.underWay) this.#issue(write);
    this.#think();
  }

  suspend(): Memory {
    this.isSuspended = true;
    return copyMemory(this.memory);
  }

  resume(): void {
    if (!this.isSuspended) return;
    this.isSuspended = false;
    for (const write of this.#completions.splice(0)) this.#completed(write);
  }

  #think(): void {
    const { time } = this.host;
    time.later(time.random.between(5, this.host.weather.thinkMs), this.owner, () => {
      if (!this.isSuspended && !this.isQuiet && time.nowMs >= this.#idleUntilMs) this.#operate();
      if (time.random.chance(0.03)) this.#idleUntilMs = time.nowMs + time.random.between(100, 400);
      this.#think();
    });
  }

  #operate(): void {
    const { memory } = this;
    const { random } = this.host.time;
    if (memory.next - memory.done > OPERATIONS_MAX) return;
    const operation = memory.next;
    const writes: Write[] = [];
    for (let volume = 0; volume < DATA_VOLUMES; volume++) {
      const cell = random.below(CELLS);
      if (memory.underWay.some(({ block }) => block.volume === volume && block.cell === cell)) return;
      writes.push({ operation, block: { volume, cell }, before: memory.cells[volume]?.[cell] ?? 0 });
    }
    memory.next++;
    this.#note(
      operation,
      writes.map(({ block }) => block.cell),
    );
    this.isDirty = true;
    for (const write of writes) {
      const cells = memory.cells[write.block.volume] as number[];
      cells[write.block.cell] = operation;
      memory.underWay.push(write);
      this.#issue(write);
    }
  }

  #issue(write: Write): void {
    this.#drbd.write(this.#drbd.of(this.host), write.block, encodeCell(write.operation), (isGood) => {
      if (!this.owner.alive || !isGood) return;
      if (this.isSuspended) this.#completions.push(write);
      else this.#completed(write);
    });
  }

  #completed(write: Write): void {
    const { memory } = this;
    this.isDirty = true;
    memory.underWay = memory.underWay.filter((each) => each !== write);
    if (memory.underWay.some(({ operation }) => operation === write.operation)) return;
    memory.doneBeyond.push(write.operation);
    while (memory.doneBeyond.includes(memory.done + 1)) {
      memory.done++;
      const { done } = memory;
      memory.doneBeyond = memory.doneBeyond.filter((each) => each !== done);
      this.host.plug.send({ count: done, snapshot: this.snapshot, term: this.term });
    }
  }
}
