/** The modelled world itself: what it may do to a disk, and that it comes to an end. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { DescriptorOp } from '../../src/core/journal/format.js';
import { SECTOR_BYTES } from '../../src/core/journal/types.js';
import type { VolumeSpec } from '../../src/core/journal/types.js';
import { EpochJournal, formatJournal } from '../../src/journal/journal.js';
import { choices, ModelDisk, World } from './model.js';

const KIB = 1024;
const first = (): number => 0;
const slow = { slow: (): boolean => true };
const slowTarget = { ...slow, wholeSectors: true };

/** Bytes that a write of three sectors leaves when the process is killed while it is under way. */
function cut(seed: number, options: { slow: () => boolean; wholeSectors?: boolean }): number {
  const disk = new ModelDisk(new World(), Buffer.alloc(8 * SECTOR_BYTES), options);
  void disk.write([Buffer.alloc(3 * SECTOR_BYTES, 1)], SECTOR_BYTES);
  const { current } = disk.afterKill(new World(), choices(seed), options);
  return current.filter((byte) => byte === 1).length;
}

test('a kill cuts a write at any byte, on a disk of whole sectors between two', () => {
  const seeds = Array.from({ length: 200 }, (_, seed) => seed);
  const anywhere = new Set(seeds.map((seed) => cut(seed, slow)));
  assert.ok(
    [...anywhere].some((bytes) => bytes % SECTOR_BYTES !== 0),
    'some are within a sector',
  );
  const between = [...new Set(seeds.map((seed) => cut(seed, slowTarget)))].sort((a, b) => a - b);
  assert.equal(between, [0, 1, 2, 3].map((sectors) => sectors * SECTOR_BYTES).slice(0, between.length));
  assert.ok(between.length > 2, 'all of it, nothing and something in between');
});

test('a sector is old or new after a kill while it is drained and a power cut that loses its frame', async () => {
  const volumes: VolumeSpec[] = [{ name: 'a', sizeBytes: 64 * KIB, barrier: false }];
  let world = new World();
  let disk = new ModelDisk(world, Buffer.alloc(24 * KIB + 6 * 64 * KIB), slow);
  let target = new ModelDisk(world, Buffer.alloc(64 * KIB), slowTarget);
  const open = (): Promise<EpochJournal> =>
    world.run(EpochJournal.open(disk, [target], volumes, { clock: world }), first);
  await world.run(
    formatJournal(disk, {
      domain: 'web',
      volumes,
      segmentBytes: 64 * KIB,
      journalId: Buffer.alloc(16, 7),
    }),
    first,
  );
  let journal = await open();
  let draining = false;
  target.onWrite = () => (draining = true);
  journal.submit({
    op: DescriptorOp.write,
    volume: 0,
    sector: 8,
    sectors: 4,
    data: Buffer.alloc(4 * SECTOR_BYTES, 1),
    sink: { written: (_request, errno) => assert.is(errno, null) },
  });
  journal.kick();
  while (!draining) assert.ok(await world.step(first), 'outside of a session it is drained at once');

  // Killed in the middle of the second sector, were it not for whole sectors.
  world.stop();
  world = new World();
  const middle = (below: number): number => Math.min(below - 1, SECTOR_BYTES + 100);
  disk = disk.afterKill(world, middle, slow);
  target = target.afterKill(world, middle, slowTarget);
  // The power goes, and of what was not flushed the target keeps everything, the journal nothing.
  const share = (kept: number) => (below: number) => (below === 5 ? kept : 0);
  world = new World();
  disk = new ModelDisk(world, disk.afterPowerCut(share(0)), slow);
  target = new ModelDisk(world, target.afterPowerCut(share(4)), slowTarget);

  journal = await open();
  const found = Buffer.alloc(4 * SECTOR_BYTES);
  await world.run(journal.read(0, 8, 4, found), first);
  const sectors = [0, 1, 2, 3].map((index) =>
    found.subarray(index * SECTOR_BYTES, (index + 1) * SECTOR_BYTES),
  );
  assert.equal(
    sectors.map((sector) => [sector.every((byte) => byte === 1), sector.every((byte) => byte === 0)]),
    [
      [true, false],
      [false, true],
      [false, true],
      [false, true],
    ],
    'the first is new, the others are old, none is half of each',
  );
});

test('what never comes to an end fails', async () => {
  const world = new World(1000);
  const again = (): void => world.soon(again);
  world.soon(again);
  const error = await world.quiet(first).then(
    () => null,
    (reason: Error) => reason,
  );
  assert.match(error?.message ?? '', /1000 steps, and it has not come to an end/);
});

test.run();
