/**
 * The ledger: how it is told whether a failover has kept what was promised. A guest counts requests of clients from
 * 1. Each count with the client's token goes into the guest's memory and onto every one of its disks, and only when
 * all disks have it the client is answered. After a failover the three have to agree, and no answer may be missing.
 *
 *     client ---token---> guest: memory[n] = token, disk 0[n] = token, disk 1[n] = token ---n---> client
 *
 * One entry of memory or disk, 64 bytes, 64 of them in a block, little-endian:
 *
 *     magic u32 | crc32c u32 of the rest | count u64 | token[24], padded with zeroes | zero[24]
 */
import { crc32c } from '@node-rs/crc32';

export const LEDGER_ENTRY_BYTES = 64;
export const LEDGER_BLOCK_BYTES = 4096;
export const LEDGER_BLOCK_ENTRIES = LEDGER_BLOCK_BYTES / LEDGER_ENTRY_BYTES;
export const TOKEN_CHARS_MAX = 24;

/** "RLE1" */
const MAGIC = 0x31454c52;
const TOKEN_OFFSET = 16;

/** What a client was told: its token has this count. */
export interface LedgerAnswer {
  client: string;
  count: number;
  token: string;
}

/** Token by count. */
export type LedgerEntries = ReadonlyMap<number, string>;

export interface LedgerMemory {
  /** The last count. */
  count: number;
  entries: LedgerEntries;
  /**
   * By count, the disks (from 0) whose answer the guest had not seen: such a write may be on its disk or not, since
   * the guest sends it again.
   */
  pending: ReadonlyMap<number, readonly number[]>;
  /** By disk, the last count whose write was begun: of a guest that writes to one disk after the other. Without it, all. */
  begun?: readonly number[];
}

export interface LedgerSnapshot {
  /** Every answer of every client since the guest was made, each client's in the order in which they came. */
  answers: readonly LedgerAnswer[];
  memory: LedgerMemory;
  disks: readonly LedgerEntries[];
}

export type LedgerFault =
  /** A client was told a count that is not there, or is another's: output left before its checkpoint was committed. */
  | 'answer-not-in-memory'
  | 'answer-not-on-disk'
  /** Two clients, or one twice, were told the same count: two copies ran, or one ran twice over the same time. */
  | 'answered-twice'
  /** A client was told a smaller count than before. */
  | 'count-went-back'
  /** The disk lacks what memory says is on it. */
  | 'disk-behind-memory'
  /** The disk has what memory does not know of yet. */
  | 'disk-ahead-of-memory'
  /** The disk has another token than memory. */
  | 'disk-differs-from-memory'
  /** Memory itself is not whole. */
  | 'memory-has-a-hole';

export interface LedgerViolation {
  fault: LedgerFault;
  /** The first count with this fault, and on which disk. */
  count: number;
  disk: number | null;
  /** How many counts have it. */
  times: number;
  text: string;
}

/**
 * Compares what clients were told with what a guest has.
 * @returns what is wrong, each fault once for each place; empty when every promise was kept
 */
export function checkLedger({ answers, memory, disks }: LedgerSnapshot): LedgerViolation[] {
  const found = new Violations();
  checkAnswers(answers, memory, disks, found);
  for (let count = 1; count <= memory.count; count++) {
    if (!memory.entries.has(count)) {
      found.add('memory-has-a-hole', count, null, `count ${count} of ${memory.count} is not in memory`);
    }
  }
  disks.forEach((disk, index) => checkDisk(memory, disk, index, found));
  return found.list();
}

function checkAnswers(
  answers: readonly LedgerAnswer[],
  memory: LedgerMemory,
  disks: readonly LedgerEntries[],
  found: Violations,
): void {
  const told = new Map<number, LedgerAnswer>();
  const last = new Map<string, number>();
  for (const answer of answers) {
    const { client, count, token } = answer;
    const before = told.get(count);
    if (before !== undefined) {
      const text = `${client} was told count ${count}, and so was ${before.client} before`;
      found.add('answered-twice', count, null, text);
    }
    told.set(count, answer);
    const lastCount = last.get(client) ?? 0;
    if (count <= lastCount) {
      found.add('count-went-back', count, null, `${client} was told count ${count} after ${lastCount}`);
    }
    last.set(client, count);
    const inMemory = memory.entries.get(count);
    if (inMemory !== token || count > memory.count) {
      const text = `${client} was told count ${count}; memory has ${describe(inMemory, memory.count)}`;
      found.add('answer-not-in-memory', count, null, text);
    }
    disks.forEach((disk, index) => {
      if (disk.get(count) === token) return;
      const text = `${client} was told count ${count}; disk ${index} has ${describe(disk.get(count), null)}`;
      found.add('answer-not-on-disk', count, index, text);
    });
  }
}

function checkDisk(memory: LedgerMemory, disk: LedgerEntries, index: number, found: Violations): void {
  for (const [count, token] of memory.entries) {
    const onDisk = disk.get(count);
    if (onDisk === token) continue;
    if (onDisk !== undefined) {
      found.add('disk-differs-from-memory', count, index, `count ${count} is another's on disk ${index}`);
    } else if (memory.pending.get(count)?.includes(index) !== true) {
      const text = `memory is at ${memory.count} and says that disk ${index} has count ${count}; it has not`;
      found.add('disk-behind-memory', count, index, text);
    }
  }
  const begun = memory.begun?.[index] ?? memory.count;
  for (const count of disk.keys()) {
    if (memory.entries.has(count) && count <= begun) continue;
    const text = `disk ${index} has count ${count}, memory is at ${begun}`;
    found.add('disk-ahead-of-memory', count, index, text);
  }
}

function describe(token: string | undefined, upTo: number | null): string {
  if (token !== undefined) return `another's`;
  return upTo === null ? 'none' : `none, it is at ${upTo}`;
}

class Violations {
  readonly #byPlace = new Map<string, LedgerViolation>();

  add(fault: LedgerFault, count: number, disk: number | null, text: string): void {
    const place = `${fault} ${disk ?? ''}`;
    const before = this.#byPlace.get(place);
    if (before === undefined) this.#byPlace.set(place, { fault, count, disk, times: 1, text });
    else before.times++;
  }

  list(): LedgerViolation[] {
    return [...this.#byPlace.values()];
  }
}

/** Where a count is: the block, and the entry in it. */
export function ledgerPlace(count: number): { block: number; offsetBytes: number } {
  const block = Math.floor((count - 1) / LEDGER_BLOCK_ENTRIES);
  return { block, offsetBytes: ((count - 1) % LEDGER_BLOCK_ENTRIES) * LEDGER_ENTRY_BYTES };
}

/**
 * Writes one entry.
 * @throws RangeError for a token of other characters than ASCII, or a longer one
 */
export function putLedgerEntry(into: Uint8Array, offsetBytes: number, count: number, token: string): void {
  if (!/^[\x21-\x7e]{1,24}$/.test(token)) throw new RangeError(`no token: ${JSON.stringify(token)}`);
  const bytes = Buffer.from(into.buffer, into.byteOffset + offsetBytes, LEDGER_ENTRY_BYTES);
  bytes.fill(0);
  bytes.writeUInt32LE(MAGIC, 0);
  bytes.writeBigUInt64LE(BigInt(count), 8);
  bytes.write(token, TOKEN_OFFSET, 'latin1');
  bytes.writeUInt32LE(crc32c(bytes.subarray(8)), 4);
}

/**
 * Reads the entries of whole blocks. What is no entry is none; a damaged one, or one at the place of another count,
 * is an error, since nothing that the guest writes can look so.
 * @param firstBlock of the ledger, where `bytes` begin
 */
export function readLedgerEntries(bytes: Uint8Array, firstBlock = 0): Map<number, string> {
  const all = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  const entries = new Map<number, string>();
  for (let at = 0; at + LEDGER_ENTRY_BYTES <= all.length; at += LEDGER_ENTRY_BYTES) {
    const entry = all.subarray(at, at + LEDGER_ENTRY_BYTES);
    if (entry.readUInt32LE(0) !== MAGIC) continue;
    const expected = firstBlock * LEDGER_BLOCK_ENTRIES + at / LEDGER_ENTRY_BYTES + 1;
    const count = Number(entry.readBigUInt64LE(8));
    if (entry.readUInt32LE(4) !== crc32c(entry.subarray(8)) || count !== expected) {
      throw new Error(`the ledger is damaged at count ${expected}: it says ${count}`);
    }
    const token = entry.toString('latin1', TOKEN_OFFSET, TOKEN_OFFSET + TOKEN_CHARS_MAX);
    entries.set(count, token.replace(/\0+$/, ''));
  }
  return entries;
}
