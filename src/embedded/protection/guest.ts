/**
 * The embedded guest: keeps a ledger (`core/ledger.ts`) in its memory and on two disks, and answers clients. All that
 * it knows is in its pages, so a copy of them is a copy of it.
 *
 *     page 0              count, as a double | clock ticks as a double
 *     page 1              128 requests under way: count double | disks that have not answered u32 | connection u32
 *     pages 2 to 1025     the ledger
 *     the rest            other work: some pages change with each request
 *
 *     each disk: the ledger from 0, and from 4 MiB on blocks that change one after the other
 *
 * A request is under way until both disks have answered. Whatever comes while the guest is suspended (packets, answers
 * of disks) it sees when it runs again, as behind a Xen backend; a restored one sends again each write whose answer it
 * had not seen, as a Xen frontend does.
 */
import { crc32c } from '@node-rs/crc32';
import { LEDGER_BLOCK_ENTRIES, ledgerPlace, putLedgerEntry, readLedgerEntries } from '../../core/ledger.js';
import type { LedgerMemory } from '../../core/ledger.js';
import { PAGE_BYTES } from '../../core/stream/format.js';
import type { EmbeddedMemory } from './memory.js';

export const GUEST_PAGES = 2048;
export const GUEST_DISKS = 2;
export const LEDGER_BLOCKS = 1024;
export const LEDGER_COUNT_MAX = LEDGER_BLOCKS * LEDGER_BLOCK_ENTRIES;
/** Size of each disk. */
export const DISK_BYTES = 16 << 20;

const COUNT_PAGE = 0;
const CLOCK_OFFSET = 8;
const PENDING_PAGE = 1;
const LEDGER_PAGE = 2;
const WORK_PAGE = LEDGER_PAGE + LEDGER_BLOCKS;
const PENDING_MAX = 128;
const PENDING_BYTES = 16;
const WORK_PAGES_EACH = 4;
const WORK_OFFSET = 4 << 20;
const WORK_BLOCKS = (DISK_BYTES - WORK_OFFSET) / PAGE_BYTES;
const ALL_DISKS = (1 << GUEST_DISKS) - 1;

export interface GuestDevices {
  /** Resolves when the disk has it. `bytes` belong to the disk. */
  write(disk: number, offsetBytes: number, bytes: Buffer): Promise<void>;
  send(connection: number, text: string): void;
}

/** Why it does not run: it was never started, a checkpoint is taken, or somebody holds it. It runs when nothing is left. */
type Suspension = 'new' | 'checkpoint' | 'held';

interface Pending {
  slot: number;
  count: number;
  missing: number;
  connection: number;
}

export class EmbeddedGuest {
  readonly memory: EmbeddedMemory;
  readonly #devices: GuestDevices;
  readonly #suspendedBy = new Set<Suspension>(['new']);
  #waiting: (() => void)[] = [];
  #failure: Error | null = null;

  constructor(memory: EmbeddedMemory, devices: GuestDevices) {
    this.memory = memory;
    this.#devices = devices;
  }

  get runs(): boolean {
    return this.#suspendedBy.size === 0;
  }

  get count(): number {
    return this.memory.page(COUNT_PAGE).readDoubleLE(0);
  }

  /** What stopped it: a disk that failed. */
  get failure(): Error | null {
    return this.#failure;
  }

  /** Its clock has ticked meanwhile, as every guest's does: memory never stays the same. */
  suspend(by: Suspension): void {
    const page = this.memory.touch(COUNT_PAGE);
    page.writeDoubleLE(page.readDoubleLE(CLOCK_OFFSET) + 1, CLOCK_OFFSET);
    this.#suspendedBy.add(by);
  }

  resume(by: Suspension): void {
    this.#suspendedBy.delete(by);
    while (this.runs) {
      const event = this.#waiting.shift();
      if (event === undefined) return;
      event();
    }
  }

  /** Of a restored guest, in place of the first `resume`. */
  restart(): void {
    for (const pending of readPending(this.memory)) this.#write(pending);
    this.resume('new');
  }

  /** A packet of a client. */
  request(connection: number, token: string): void {
    this.#happen(() => this.#request(connection, token));
  }

  #happen(event: () => void): void {
    if (this.runs) event();
    else this.#waiting.push(event);
  }

  #request(connection: number, token: string): void {
    const count = this.count + 1;
    const slot = readPending(this.memory, true).find((each) => each.count === 0)?.slot;
    if (slot === undefined || count > LEDGER_COUNT_MAX) {
      this.#failure ??= new Error(`the embedded guest is full at count ${count}`);
      return;
    }
    const { block, offsetBytes } = ledgerPlace(count);
    putLedgerEntry(this.memory.touch(LEDGER_PAGE + block), offsetBytes, count, token);
    this.memory.touch(COUNT_PAGE).writeDoubleLE(count, 0);
    const pending = { slot, count, missing: ALL_DISKS, connection };
    putPending(this.memory, pending);
    const work = workOf(token);
    for (let n = 0; n < WORK_PAGES_EACH; n++) {
      const pfn = WORK_PAGE + ((work + n * 61) % (GUEST_PAGES - WORK_PAGE));
      fillWork(this.memory.touch(pfn), work + n);
    }
    this.#write(pending);
  }

  /** Sends the writes of a request to the disks that have not answered. */
  #write({ slot, count, missing }: Pending): void {
    const { block } = ledgerPlace(count);
    const work = workOf(this.#token(count));
    for (let disk = 0; disk < GUEST_DISKS; disk++) {
      if ((missing & (1 << disk)) === 0) continue;
      const bytes = Buffer.alloc(PAGE_BYTES);
      fillWork(bytes, work + disk);
      const entries = Buffer.from(this.memory.page(LEDGER_PAGE + block));
      Promise.all([
        this.#devices.write(disk, WORK_OFFSET + (work % WORK_BLOCKS) * PAGE_BYTES, bytes),
        this.#devices.write(disk, block * PAGE_BYTES, entries),
      ]).then(
        () => this.#happen(() => this.#written(slot, count, disk)),
        (error: unknown) => (this.#failure ??= error as Error),
      );
    }
  }

  #written(slot: number, count: number, disk: number): void {
    const pending = readPending(this.memory, true)[slot];
    if (pending === undefined || pending.count !== count) return;
    pending.missing &= ~(1 << disk);
    if (pending.missing !== 0) {
      putPending(this.memory, pending);
      return;
    }
    putPending(this.memory, { ...pending, count: 0 });
    this.#devices.send(pending.connection, `${count} ${this.#token(count)}\n`);
  }

  #token(count: number): string {
    const { block } = ledgerPlace(count);
    const token = readLedgerEntries(this.memory.page(LEDGER_PAGE + block), block).get(count);
    if (token === undefined) throw new Error(`embedded guest: count ${count} is gone from memory`);
    return token;
  }
}

function readPending(memory: EmbeddedMemory, all = false): Pending[] {
  const page = memory.page(PENDING_PAGE);
  const found: Pending[] = [];
  for (let slot = 0; slot < PENDING_MAX; slot++) {
    const at = slot * PENDING_BYTES;
    const count = page.readDoubleLE(at);
    if (count === 0 && !all) continue;
    found.push({ slot, count, missing: page.readUInt32LE(at + 8), connection: page.readUInt32LE(at + 12) });
  }
  return found;
}

function putPending(memory: EmbeddedMemory, { slot, count, missing, connection }: Pending): void {
  const page = memory.touch(PENDING_PAGE);
  const at = slot * PENDING_BYTES;
  page.writeDoubleLE(count, at);
  page.writeUInt32LE(missing, at + 8);
  page.writeUInt32LE(connection, at + 12);
}

/**
 * Where a request's other work is, and what. It follows from the token, so that a copy that goes on from an earlier
 * moment does not by chance write the same again.
 */
function workOf(token: string): number {
  return crc32c(token);
}

function fillWork(page: Buffer, seed: number): void {
  for (let at = 0; at < page.length; at += 4) {
    page.writeUInt32LE((Math.imul(seed, 0x9e3779b1) + Math.imul(at, 0x85ebca6b)) >>> 0, at);
  }
}

/** The ledger as the checker wants it. */
export function readMemoryLedger(memory: EmbeddedMemory): LedgerMemory {
  const count = memory.page(COUNT_PAGE).readDoubleLE(0);
  const pending = new Map<number, number[]>();
  for (const { count: each, missing } of readPending(memory)) {
    const disks = Array.from({ length: GUEST_DISKS }, (_, disk) => disk);
    pending.set(
      each,
      disks.filter((disk) => (missing & (1 << disk)) !== 0),
    );
  }
  return { count, entries: readLedgerEntries(memory.pages(LEDGER_PAGE, LEDGER_BLOCKS)), pending };
}
