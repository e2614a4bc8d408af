/**
 * The index of what the journal holds: for every 4 KiB block of every volume its versions, newest first.
 *
 * Pure memory, in typed arrays of a fixed size, so that it can neither grow nor stall. An entry is one version
 * of one block: where its data lies in the journal, which of its 8 sectors it has, and which stretch between
 * two markers (ordinal) wrote it. A block has at most one entry of an ordinal for each distinct set of sectors;
 * a write over all of an entry's sectors takes the entry over. Ranges made zero (write-zeroes, trim) use one
 * entry for each aligned granule of 4 MiB, so that discarding a whole disk costs little; entries of blocks and
 * granules are ordered by their place in the journal, which every one of them owns.
 *
 * bytesPerEntry (27 and a hash bucket) is printed by the benchmark; the journal's superblock fixes the number.
 */
import { BLOCK_BYTES, SECTOR_BYTES } from './types.js';
import type { SectorRange } from './format.js';

const BLOCK_SECTORS = BLOCK_BYTES / SECTOR_BYTES;
const ALL = 0xff;
/** Blocks of a granule: 4 MiB. */
const GRANULE_BLOCKS = 1024;
const GRANULE_SECTORS = GRANULE_BLOCKS * BLOCK_SECTORS;
const NONE = 0;
const GRANULE_FLAG = 0x80;

/** Where a piece of a read comes from. */
export const Source = { target: 0, journal: 1, zero: 2 } as const;
export type Source = (typeof Source)[keyof typeof Source];

/** The pieces of one read, in order; made once and used again. */
export class ReadPlan {
  count = 0;
  readonly source: Uint8Array;
  /** Sector in the journal or on the volume. */
  readonly sector: Float64Array;
  readonly sectors: Uint32Array;

  /** @param sectorsMax the longest read that is planned with it */
  constructor(sectorsMax: number) {
    this.source = new Uint8Array(sectorsMax);
    this.sector = new Float64Array(sectorsMax);
    this.sectors = new Uint32Array(sectorsMax);
  }

  add(source: Source, sector: number, sectors: number): void {
    const last = this.count - 1;
    if (last >= 0 && this.source[last] === source) {
      const lastSectors = this.sectors[last] as number;
      if (source === Source.zero || (this.sector[last] as number) + lastSectors === sector) {
        this.sectors[last] = lastSectors + sectors;
        return;
      }
    }
    this.source[this.count] = source;
    this.sector[this.count] = sector;
    this.sectors[this.count] = sectors;
    this.count++;
  }
}

/** What a drain has to write, sorted by volume and block: for item i, `entries[i]` with the sectors `masks[i]`. */
export interface DrainList {
  count: number;
  entries: Uint32Array;
  masks: Uint8Array;
}

interface EpochList {
  first: number;
  count: number;
  /** Entries of the list that a later write of the same ordinal has emptied, to be used again. */
  spare: number;
}

export class BlockIndex {
  readonly capacity: number;
  readonly bytesPerEntry: number;
  /** Entries in use. */
  used = 0;

  private readonly block: Uint32Array;
  private readonly loc: Uint32Array;
  private readonly epoch: Uint32Array;
  private readonly older: Uint32Array;
  private readonly hashNext: Uint32Array;
  private readonly epochNext: Uint32Array;
  private readonly vol: Uint8Array;
  private readonly mask: Uint8Array;
  private readonly zero: Uint8Array;
  private readonly buckets: Uint32Array;
  private readonly bucketShift: number;
  private freeList = NONE;
  private highWater = 1;
  private granules = 0;
  private readonly lists = new Map<number, EpochList>();
  private lastOrdinal = -1;
  private lastList: EpochList | null = null;
  /** Set by find: the entry before the found one in its bucket. */
  private before = NONE;
  private bucket = 0;
  private ringStart = 0;
  private readonly ringFirst: number;
  private readonly ringSectors: number;

  /**
   * @param capacity entries, all of them allocated now
   * @param ringFirst first sector of the journal's segments
   * @param ringSectors how many sectors the segments have together
   */
  constructor(capacity: number, ringFirst: number, ringSectors: number) {
    this.capacity = capacity;
    this.ringFirst = ringFirst;
    this.ringSectors = ringSectors;
    const slots = capacity + 1;
    this.block = new Uint32Array(slots);
    this.loc = new Uint32Array(slots);
    this.epoch = new Uint32Array(slots);
    this.older = new Uint32Array(slots);
    this.hashNext = new Uint32Array(slots);
    this.epochNext = new Uint32Array(slots);
    this.vol = new Uint8Array(slots);
    this.mask = new Uint8Array(slots);
    this.zero = new Uint8Array(slots);
    const bits = Math.max(8, Math.ceil(Math.log2(capacity)));
    this.buckets = new Uint32Array(2 ** bits);
    this.bucketShift = 32 - bits;
    this.bytesPerEntry = 27 + (4 * this.buckets.length) / capacity;
  }

  /** Tells where the oldest live data begins; the order of entries is counted from there. */
  setRingStart(sector: number): void {
    this.ringStart = sector - this.ringFirst;
  }

  /** The most entries that a write of so many sectors can take. */
  static entriesFor(sectors: number): number {
    return Math.ceil(sectors / BLOCK_SECTORS) + 1;
  }

  /** The most entries that zeroing so many sectors can take. */
  static entriesForZero(sectors: number): number {
    const blocks = Math.ceil(sectors / BLOCK_SECTORS) + 1;
    return Math.min(blocks, Math.floor(blocks / GRANULE_BLOCKS) + 2 * GRANULE_BLOCKS);
  }

  /** The longest range whose zeroing takes at most so many entries. */
  static zeroSectorsWithin(entries: number): number {
    const granules = entries - 2 * GRANULE_BLOCKS - 1;
    return granules > 0 ? granules * GRANULE_SECTORS : Math.max(1, entries - 2) * BLOCK_SECTORS;
  }

  get free(): number {
    return this.capacity - this.used;
  }

  /** Records a write whose data begins at sector `at` of the journal. */
  insertWrite(volume: number, sector: number, sectors: number, at: number, ordinal: number): void {
    let block = Math.floor(sector / BLOCK_SECTORS);
    let first = sector - block * BLOCK_SECTORS;
    let left = sectors;
    let data = at;
    while (left > 0) {
      const count = Math.min(left, BLOCK_SECTORS - first);
      const mask = count === BLOCK_SECTORS ? ALL : ((1 << count) - 1) << first;
      this.put(volume, block, mask, data - first, 0, ordinal);
      left -= count;
      data += count;
      block++;
      first = 0;
    }
  }

  /** Records that a range reads as zeros; `at` is the payload sector that the operation owns. */
  insertZero(volume: number, sector: number, sectors: number, at: number, ordinal: number): void {
    let cursor = sector;
    const end = sector + sectors;
    while (cursor < end) {
      if (cursor % GRANULE_SECTORS === 0 && end - cursor >= GRANULE_SECTORS) {
        this.put(volume | GRANULE_FLAG, cursor / GRANULE_SECTORS, ALL, at, 1, ordinal);
        cursor += GRANULE_SECTORS;
        continue;
      }
      const block = Math.floor(cursor / BLOCK_SECTORS);
      const first = cursor - block * BLOCK_SECTORS;
      const count = Math.min(end - cursor, BLOCK_SECTORS - first);
      const mask = count === BLOCK_SECTORS ? ALL : ((1 << count) - 1) << first;
      this.put(volume, block, mask, at, 1, ordinal);
      cursor += count;
    }
  }

  /** Adds to the plan where the newest data of the range is. */
  resolve(volume: number, sector: number, sectors: number, plan: ReadPlan): void {
    let block = Math.floor(sector / BLOCK_SECTORS);
    let first = sector - block * BLOCK_SECTORS;
    let left = sectors;
    while (left > 0) {
      const count = Math.min(left, BLOCK_SECTORS - first);
      const need = count === BLOCK_SECTORS ? ALL : ((1 << count) - 1) << first;
      this.resolveBlock(volume, block, need, first, count, plan);
      left -= count;
      block++;
      first = 0;
    }
  }

  /**
   * Lists what must be written to the targets for the data that lies in [fromSector, toSector) of the journal:
   * for each entry of the given ordinals the sectors that no newer entry up to `limit` replaces.
   */
  collect(ordinals: readonly number[], fromSector: number, toSector: number, limit: number): DrainList {
    const from = this.rankOf(fromSector);
    const length = toSector - fromSector;
    let size = 0;
    for (const ordinal of ordinals) size += this.lists.get(ordinal)?.count ?? 0;
    const entries = new Uint32Array(size);
    const masks = new Uint8Array(size);
    let count = 0;
    for (const ordinal of ordinals) {
      for (let e = this.lists.get(ordinal)?.first ?? NONE; e !== NONE; e = this.epochNext[e] as number) {
        if (this.mask[e] === 0) continue;
        const relative = this.order(e) - from;
        if (relative < 0 || relative >= length) continue;
        const live = this.liveMask(e, limit);
        if (live === 0) continue;
        entries[count] = e;
        masks[count] = live;
        count++;
      }
    }
    return this.sorted(entries, masks, count);
  }

  blockOf(entry: number): number {
    return this.block[entry] as number;
  }

  volumeOf(entry: number): number {
    return (this.vol[entry] as number) & ~GRANULE_FLAG;
  }

  /** First sector of the volume that a granule's entry stands for, or -1 for the entry of a block. */
  granuleSectorOf(entry: number): number {
    return (this.vol[entry] as number) & GRANULE_FLAG ? (this.block[entry] as number) * GRANULE_SECTORS : -1;
  }

  static readonly granuleSectors = GRANULE_SECTORS;

  isZero(entry: number): boolean {
    return this.zero[entry] === 1;
  }

  /** Sector of the journal where sector 0 of the entry's block would lie; for a zero the sector that it owns. */
  journalSectorOf(entry: number): number {
    return this.loc[entry] as number;
  }

  /** Whether there are entries of this ordinal. */
  has(ordinal: number): boolean {
    return this.lists.has(ordinal);
  }

  /**
   * Removes entries of a drained ordinal. Ordinals must be removed oldest first.
   * @returns true when none is left
   */
  removeSome(ordinal: number, entriesMax: number): boolean {
    const list = this.lists.get(ordinal);
    if (list === undefined) return true;
    let left = entriesMax;
    let e = list.first;
    while (e !== NONE && left > 0) {
      const next = this.epochNext[e] as number;
      if (this.mask[e] !== 0) this.cutFrom(e, ordinal);
      this.release(e);
      list.count--;
      left--;
      e = next;
    }
    list.first = e;
    if (e !== NONE) return false;
    this.forgetList(ordinal);
    return true;
  }

  /**
   * Removes everything above `ordinal`, so that the versions below are the newest again.
   * @returns what was removed, sorted and merged
   */
  dropAbove(ordinal: number): SectorRange[] {
    const dropped = [...this.lists.keys()].filter((each) => each > ordinal).sort((a, b) => b - a);
    const ranges = this.rangesOf(dropped);
    for (const each of dropped) {
      const list = this.lists.get(each);
      for (let e = list?.first ?? NONE; e !== NONE;) {
        const next = this.epochNext[e] as number;
        if (this.mask[e] !== 0) this.unlink(e);
        this.release(e);
        e = next;
      }
      this.forgetList(each);
    }
    return ranges;
  }

  /** What the ordinals have written, sorted and merged. */
  rangesOf(ordinals: readonly number[]): SectorRange[] {
    let size = 0;
    for (const ordinal of ordinals) size += this.lists.get(ordinal)?.count ?? 0;
    const keys = new Float64Array(size);
    const granules: SectorRange[] = [];
    let count = 0;
    for (const ordinal of ordinals) {
      for (let e = this.lists.get(ordinal)?.first ?? NONE; e !== NONE; e = this.epochNext[e] as number) {
        const mask = this.mask[e] as number;
        if (mask === 0) continue;
        const granule = this.granuleSectorOf(e);
        if (granule >= 0)
          granules.push({ volume: this.volumeOf(e), sector: granule, sectors: GRANULE_SECTORS });
        else
          keys[count++] = ((this.vol[e] as number) * 0x1_0000_0000 + (this.block[e] as number)) * 256 + mask;
      }
    }
    const sorted = keys.subarray(0, count).sort();
    const ranges: SectorRange[] = granules;
    for (let index = 0; index < count;) {
      const key = Math.floor((sorted[index] as number) / 256);
      let mask = 0;
      for (; index < count && Math.floor((sorted[index] as number) / 256) === key; index++) {
        mask |= (sorted[index] as number) % 256;
      }
      const volume = Math.floor(key / 0x1_0000_0000);
      const base = (key % 0x1_0000_0000) * BLOCK_SECTORS;
      for (let bit = 0; bit < BLOCK_SECTORS;) {
        if ((mask & (1 << bit)) === 0) {
          bit++;
          continue;
        }
        let end = bit;
        while (end < BLOCK_SECTORS && mask & (1 << end)) end++;
        ranges.push({ volume, sector: base + bit, sectors: end - bit });
        bit = end;
      }
    }
    return mergeRanges(ranges);
  }

  private forgetList(ordinal: number): void {
    this.lists.delete(ordinal);
    if (this.lastOrdinal === ordinal) {
      this.lastOrdinal = -1;
      this.lastList = null;
    }
  }

  private rankOf(sector: number): number {
    const relative = sector - this.ringFirst - this.ringStart;
    return relative < 0 ? relative + this.ringSectors : relative;
  }

  /** The entry's place in the order of the log: its first sector there, or the one that a zero owns. */
  private order(e: number): number {
    const mask = this.mask[e] as number;
    const first = this.zero[e] === 1 ? 0 : 31 - Math.clz32(mask & -mask);
    return this.rankOf((this.loc[e] as number) + first);
  }

  private find(volume: number, block: number): number {
    this.bucket =
      (Math.imul(block ^ Math.imul(volume + 1, 0x85eb_ca6b), 0x9e37_79b1) >>> this.bucketShift) >>> 0;
    let previous = NONE;
    for (let e = this.buckets[this.bucket] as number; e !== NONE; e = this.hashNext[e] as number) {
      if (this.block[e] === block && this.vol[e] === volume) {
        this.before = previous;
        return e;
      }
      previous = e;
    }
    this.before = NONE;
    return NONE;
  }

  private allocate(
    volume: number,
    block: number,
    mask: number,
    loc: number,
    zero: number,
    ordinal: number,
  ): number {
    let list = this.lastList;
    if (list === null || this.lastOrdinal !== ordinal) {
      list = this.lists.get(ordinal) ?? null;
      if (list === null) {
        list = { first: NONE, count: 0, spare: NONE };
        this.lists.set(ordinal, list);
      }
      this.lastOrdinal = ordinal;
      this.lastList = list;
    }
    let e = list.spare;
    if (e !== NONE) {
      list.spare = this.older[e] as number;
      if ((this.vol[e] as number) & GRANULE_FLAG) this.granules--;
    } else {
      e = this.takeFree();
      this.epochNext[e] = list.first;
      list.first = e;
      list.count++;
    }
    this.vol[e] = volume;
    this.block[e] = block;
    this.mask[e] = mask;
    this.loc[e] = loc;
    this.zero[e] = zero;
    this.epoch[e] = ordinal;
    if (volume & GRANULE_FLAG) this.granules++;
    return e;
  }

  private takeFree(): number {
    let e = this.freeList;
    if (e !== NONE) this.freeList = this.hashNext[e] as number;
    else {
      e = this.highWater++;
      if (e > this.capacity) throw new RangeError('the block index is full; its room was not checked before');
    }
    this.used++;
    return e;
  }

  private release(e: number): void {
    if ((this.vol[e] as number) & GRANULE_FLAG) this.granules--;
    this.hashNext[e] = this.freeList;
    this.freeList = e;
    this.used--;
  }

  private put(volume: number, block: number, mask: number, loc: number, zero: number, ordinal: number): void {
    const head = this.find(volume, block);
    if (head === NONE) {
      const e = this.allocate(volume, block, mask, loc, zero, ordinal);
      this.older[e] = NONE;
      this.hashNext[e] = this.buckets[this.bucket] as number;
      this.buckets[this.bucket] = e;
      return;
    }
    const { before, bucket } = this;
    if (this.epoch[head] === ordinal) {
      // The same stretch writes the block again: what is replaced can never be wanted back.
      this.clearOlder(head, mask, ordinal);
      const left = (this.mask[head] as number) & ~mask;
      if (left === 0) {
        this.mask[head] = mask;
        this.loc[head] = loc;
        this.zero[head] = zero;
        return;
      }
      this.mask[head] = left;
    }
    const e = this.allocate(volume, block, mask, loc, zero, ordinal);
    this.older[e] = head;
    this.hashNext[e] = this.hashNext[head] as number;
    if (before === NONE) this.buckets[bucket] = e;
    else this.hashNext[before] = e;
  }

  /** Takes `mask` from the entries of the same ordinal below `head`; an entry left empty leaves the chain. */
  private clearOlder(head: number, mask: number, ordinal: number): void {
    let newer = head;
    for (let e = this.older[head] as number; e !== NONE && this.epoch[e] === ordinal;) {
      const next = this.older[e] as number;
      const left = (this.mask[e] as number) & ~mask;
      this.mask[e] = left;
      if (left === 0) {
        this.older[newer] = next;
        const list = this.lists.get(ordinal) as EpochList;
        this.older[e] = list.spare;
        list.spare = e;
      } else newer = e;
      e = next;
    }
  }

  private resolveBlock(
    volume: number,
    block: number,
    need: number,
    first: number,
    count: number,
    plan: ReadPlan,
  ): void {
    const head = this.find(volume, block);
    if (this.granules === 0) {
      if (head === NONE) {
        plan.add(Source.target, block * BLOCK_SECTORS + first, count);
        return;
      }
      if (((this.mask[head] as number) & need) === need) {
        if (this.zero[head] === 1) plan.add(Source.zero, 0, count);
        else plan.add(Source.journal, (this.loc[head] as number) + first, count);
        return;
      }
    }
    let granule = NONE;
    if (this.granules > 0) granule = this.find(volume | GRANULE_FLAG, Math.floor(block / GRANULE_BLOCKS));
    for (let bit = first; bit < first + count; bit++) {
      let e = head;
      while (e !== NONE && ((this.mask[e] as number) & (1 << bit)) === 0) e = this.older[e] as number;
      if (e !== NONE && granule !== NONE && this.order(granule) > this.order(e)) e = granule;
      else if (e === NONE) e = granule;
      if (e === NONE) plan.add(Source.target, block * BLOCK_SECTORS + bit, 1);
      else if (this.zero[e] === 1) plan.add(Source.zero, 0, 1);
      else plan.add(Source.journal, (this.loc[e] as number) + bit, 1);
    }
  }

  /** The entry's sectors that nothing newer up to the ordinal `limit` replaces. */
  private liveMask(entry: number, limit: number): number {
    const volume = this.vol[entry] as number;
    const block = this.block[entry] as number;
    let live = this.mask[entry] as number;
    for (let e = this.find(volume, block); e !== NONE && e !== entry; e = this.older[e] as number) {
      if ((this.epoch[e] as number) <= limit) live &= ~(this.mask[e] as number);
    }
    if (volume & GRANULE_FLAG || this.granules === 0) return live;
    for (
      let e = this.find(volume | GRANULE_FLAG, Math.floor(block / GRANULE_BLOCKS));
      e !== NONE;
      e = this.older[e] as number
    ) {
      if ((this.epoch[e] as number) <= limit) return this.order(e) > this.order(entry) ? 0 : live;
    }
    return live;
  }

  /** Sorts: granules first, for blocks written later lie over them; then by volume and block. */
  private sorted(entries: Uint32Array, masks: Uint8Array, count: number): DrainList {
    // 36 bits of volume and block and 17 of the place fit the 53 of a double; longer lists are sorted in parts.
    const part = 1 << 17;
    const sortedEntries = new Uint32Array(count);
    const sortedMasks = new Uint8Array(count);
    const keys = new Float64Array(Math.min(part, count));
    let filled = 0;
    for (const wantGranule of [true, false]) {
      if (wantGranule && this.granules === 0) continue;
      for (let start = 0; start < count; start += part) {
        let size = 0;
        const end = Math.min(count, start + part);
        for (let index = start; index < end; index++) {
          const e = entries[index] as number;
          const volume = this.vol[e] as number;
          if (((volume & GRANULE_FLAG) !== 0) !== wantGranule) continue;
          keys[size++] =
            ((volume & 0x0f) * 0x1_0000_0000 + (this.block[e] as number)) * part + (index - start);
        }
        const sorted = keys.subarray(0, size).sort();
        for (let index = 0; index < size; index++) {
          const from = start + ((sorted[index] as number) % part);
          sortedEntries[filled] = entries[from] as number;
          sortedMasks[filled] = masks[from] as number;
          filled++;
        }
      }
    }
    return { count: filled, entries: sortedEntries, masks: sortedMasks };
  }

  /** Removes from the entry's chain everything of an ordinal up to the given one. */
  private cutFrom(entry: number, ordinal: number): void {
    const head = this.find(this.vol[entry] as number, this.block[entry] as number);
    if (head === NONE) return;
    if ((this.epoch[head] as number) <= ordinal) {
      const next = this.hashNext[head] as number;
      if (this.before === NONE) this.buckets[this.bucket] = next;
      else this.hashNext[this.before] = next;
      return;
    }
    for (let e = head; ;) {
      const older = this.older[e] as number;
      if (older === NONE) return;
      if ((this.epoch[older] as number) <= ordinal) {
        this.older[e] = NONE;
        return;
      }
      e = older;
    }
  }

  /** Takes one entry, wherever it is, out of its chain. */
  private unlink(entry: number): void {
    const head = this.find(this.vol[entry] as number, this.block[entry] as number);
    if (head === entry) {
      const older = this.older[entry] as number;
      const next = older === NONE ? (this.hashNext[entry] as number) : older;
      if (older !== NONE) this.hashNext[older] = this.hashNext[entry] as number;
      if (this.before === NONE) this.buckets[this.bucket] = next;
      else this.hashNext[this.before] = next;
      return;
    }
    for (let e = head; e !== NONE; e = this.older[e] as number) {
      if (this.older[e] === entry) {
        this.older[e] = this.older[entry] as number;
        return;
      }
    }
  }
}

/** Sorts ranges and joins what touches or overlaps. */
export function mergeRanges(ranges: readonly SectorRange[]): SectorRange[] {
  const sorted = [...ranges].sort((a, b) => a.volume - b.volume || a.sector - b.sector);
  const merged: SectorRange[] = [];
  for (const range of sorted) {
    const last = merged[merged.length - 1];
    if (last?.volume === range.volume && range.sector <= last.sector + last.sectors) {
      last.sectors = Math.max(last.sectors, range.sector + range.sectors - last.sector);
    } else merged.push({ ...range });
  }
  return merged;
}
