/** The index against a naive one: a list of everything written, searched from its end. */
import fc from 'fast-check';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { BlockIndex, ReadPlan, Source } from '../../src/core/journal/block-index.js';

const RING_FIRST = 64;
const RING_SECTORS = 4096;
const GRANULE = BlockIndex.granuleSectors;

interface Written {
  volume: number;
  sector: number;
  sectors: number;
  zero: boolean;
  at: number;
  ordinal: number;
}

/** Ranges around the borders that matter: blocks, and the 4 MiB granules. */
const range = fc
  .tuple(
    fc.constantFrom(0, 8, GRANULE - 16, GRANULE, 2 * GRANULE - 8),
    fc.nat(24),
    fc.integer({ min: 1, max: 40 }),
  )
  .map(([base, add, sectors]) => ({ sector: base + add, sectors }));
const zeroRange = fc.oneof(
  range,
  fc
    .tuple(fc.nat(20), fc.integer({ min: GRANULE, max: 3 * GRANULE }))
    .map(([sector, sectors]) => ({ sector, sectors })),
);
const step = fc.oneof(
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('write' as const), volume: fc.nat(1), range }) },
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constant('zero' as const), volume: fc.nat(1), range: zeroRange }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('next' as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('drain' as const), back: fc.nat(3) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('drop' as const), back: fc.nat(3) }) },
);

class Naive {
  list: Written[] = [];
  /** What was drained, in order: the target. */
  target: Written[] = [];

  /** The write that a sector's data comes from, or null for the untouched target. */
  newest(list: readonly Written[], volume: number, sector: number): Written | null {
    for (let index = list.length - 1; index >= 0; index--) {
      const each = list[index] as Written;
      if (each.volume === volume && sector >= each.sector && sector < each.sector + each.sectors) return each;
    }
    return null;
  }
}

function place(write: Written | null, sector: number): string {
  if (write === null) return 'target';
  return write.zero ? 'zero' : `journal ${write.at + sector - write.sector}`;
}

const probes: number[] = [];
for (const base of [0, GRANULE - 16, GRANULE, 2 * GRANULE - 8, 3 * GRANULE - 8]) {
  for (let sector = 0; sector < 72; sector++) probes.push(base + sector);
}

test('every sector is found where the newest write put it, through drains and discards', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), fc.nat(RING_SECTORS - 1), (steps, start) => {
      const index = new BlockIndex(8192, RING_FIRST, RING_SECTORS);
      const plan = new ReadPlan(64);
      const naive = new Naive();
      let ordinal = 1;
      let cursor = start;
      index.setRingStart(RING_FIRST + start);
      const take = (sectors: number): number => {
        // A write lies in one piece, as in a frame.
        if ((cursor % RING_SECTORS) + sectors > RING_SECTORS)
          cursor += RING_SECTORS - (cursor % RING_SECTORS);
        const at = RING_FIRST + (cursor % RING_SECTORS);
        cursor += sectors;
        return at;
      };
      for (const each of steps) {
        if (each.kind === 'write' || each.kind === 'zero') {
          // The ring start is where the oldest data lies, as in the journal.
          const zero = each.kind === 'zero';
          const at = take(zero ? 1 : each.range.sectors);
          const { volume } = each;
          naive.list.push({ volume, ...each.range, zero, at, ordinal });
          if (zero) index.insertZero(volume, each.range.sector, each.range.sectors, at, ordinal);
          else index.insertWrite(volume, each.range.sector, each.range.sectors, at, ordinal);
        } else if (each.kind === 'next') ordinal++;
        else if (each.kind === 'drop') {
          const keep = ordinal - each.back;
          const dropped = naive.list.filter((write) => write.ordinal > keep);
          const ranges = index.dropAbove(keep);
          for (const volume of [0, 1]) {
            for (const sector of probes) {
              const was = dropped.some(
                (w) => w.volume === volume && sector >= w.sector && sector < w.sector + w.sectors,
              );
              const told = ranges.some(
                (r) => r.volume === volume && sector >= r.sector && sector < r.sector + r.sectors,
              );
              assert.is(told, was, `sector ${sector} of ${volume} reported as dropped`);
            }
          }
          naive.list = naive.list.filter((write) => write.ordinal <= keep);
          if (naive.list.length === 0) index.setRingStart(RING_FIRST + (cursor % RING_SECTORS));
        } else {
          const limit = ordinal - 1;
          const upTo = limit - (each.back % 2);
          drain(index, naive, upTo, limit);
          index.setRingStart(naive.list[0]?.at ?? RING_FIRST + (cursor % RING_SECTORS));
        }
        compare(index, naive, plan);
      }
      index.dropAbove(0);
      assert.is(index.used, 0, 'nothing leaks');
    }),
    { numRuns: 300, includeErrorInReport: true },
  );
});

/** Applies what the index says must be drained to a naive target, and checks that the target is right. */
function drain(index: BlockIndex, naive: Naive, upTo: number, limit: number): void {
  const ordinals = [...new Set(naive.list.map((write) => write.ordinal))].filter((each) => each <= upTo);
  const target = new Map<string, string>();
  const untouched = (volume: number, sector: number): string =>
    place(naive.newest(naive.target, volume, sector), sector);
  const from = naive.list[0]?.at ?? RING_FIRST;
  const end = RING_FIRST + RING_SECTORS;
  for (const part of [
    index.collect(ordinals, from, end, limit),
    index.collect(ordinals, RING_FIRST, from, limit),
  ]) {
    for (let item = 0; item < part.count; item++) {
      const entry = part.entries[item] as number;
      const volume = index.volumeOf(entry);
      const granule = index.granuleSectorOf(entry);
      if (granule >= 0) {
        for (const sector of probes) {
          if (sector >= granule && sector < granule + GRANULE) target.set(`${volume}/${sector}`, 'zero');
        }
        continue;
      }
      for (let bit = 0; bit < 8; bit++) {
        if (((part.masks[item] as number) & (1 << bit)) === 0) continue;
        const key = `${volume}/${index.blockOf(entry) * 8 + bit}`;
        target.set(key, index.isZero(entry) ? 'zero' : `journal ${index.journalSectorOf(entry) + bit}`);
      }
    }
  }
  const drained = naive.list.filter((write) => write.ordinal <= upTo);
  const left = naive.list.filter((write) => write.ordinal > upTo);
  for (const volume of [0, 1]) {
    for (const sector of probes) {
      const wanted = naive.newest(drained, volume, sector);
      // What a newer committed write replaces need not be drained now; it may be.
      const replaced = naive.newest(
        left.filter((write) => write.ordinal <= limit),
        volume,
        sector,
      );
      const is = target.get(`${volume}/${sector}`) ?? untouched(volume, sector);
      if (replaced !== null) continue;
      assert.is(
        is,
        wanted === null ? untouched(volume, sector) : place(wanted, sector),
        `target of ${volume}/${sector}`,
      );
    }
  }
  for (const ordinal of ordinals) while (!index.removeSome(ordinal, 3));
  naive.list = left;
  naive.target.push(...drained);
}

function compare(index: BlockIndex, naive: Naive, plan: ReadPlan): void {
  for (const volume of [0, 1]) {
    for (let at = 0; at < probes.length; at += 24) {
      const sector = probes[at] as number;
      plan.count = 0;
      index.resolve(volume, sector, 24, plan);
      let probe = sector;
      for (let piece = 0; piece < plan.count; piece++) {
        for (let inside = 0; inside < (plan.sectors[piece] as number); inside++, probe++) {
          const source = plan.source[piece] as Source;
          const from = (plan.sector[piece] as number) + inside;
          const is =
            source === Source.zero ? 'zero' : source === Source.journal ? `journal ${from}` : 'target';
          assert.is(
            is,
            place(naive.newest(naive.list, volume, probe), probe),
            `sector ${probe} of ${volume}`,
          );
          if (source === Source.target) assert.is(from, probe);
        }
      }
      assert.is(probe, sector + 24, 'the plan covers the range');
    }
  }
}

test('rewriting a block within an epoch takes no further entry', () => {
  const index = new BlockIndex(1024, RING_FIRST, RING_SECTORS);
  for (let round = 0; round < 100; round++) index.insertWrite(0, 80, 8, RING_FIRST + round * 8, 1);
  assert.is(index.used, 1);
  for (let round = 0; round < 100; round++) index.insertWrite(0, 80 + (round % 8), 1, RING_FIRST + round, 2);
  assert.ok(index.used <= 9, `${index.used} entries`);
});

test('an index says how much memory it takes', () => {
  const index = new BlockIndex(296_960, RING_FIRST, 1 << 21);
  assert.ok(
    index.bytesPerEntry >= 27 && index.bytesPerEntry < 36,
    `${index.bytesPerEntry} bytes for an entry`,
  );
});

test.run();
