/** The targets held at a commit: nothing is written to them meanwhile, and whatever production needs ends it first. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { Bench, KIB } from './bench.js';
import type { ModelDisk } from './model.js';

const test = suite('targets held at a commit');

interface Held {
  bench: Bench;
  ended: string[];
  /** What has reached the target since it is held. */
  writes: number[];
  release: () => void;
}

const target = (bench: Bench): ModelDisk => bench.targets[0] as ModelDisk;

async function epoch(bench: Bench, number: number): Promise<void> {
  bench.write(0, 8, number);
  bench.write(number * 8, 8, number);
  bench.marker(number);
  await bench.run(bench.live.commit(number));
}

/** At epoch 2, with epoch 3 committed while it is held. */
async function held(): Promise<Held> {
  const bench = await new Bench().start();
  await bench.session();
  await epoch(bench, 1);
  await epoch(bench, 2);
  const ended: string[] = [];
  const {
    term,
    epoch: at,
    release,
  } = await bench.run(bench.live.holdTargets((reason) => ended.push(reason)));
  assert.equal([term, at], [1, 2]);
  const writes: number[] = [];
  target(bench).onWrite = (offset) => writes.push(offset);
  await epoch(bench, 3);
  await bench.quiet();
  return { bench, ended, writes, release };
}

test('they are at the commit when it begins, flushed, and stay there though others follow', async () => {
  const { bench, ended, writes, release } = await held();
  assert.equal(writes, []);
  // Block 0 is replaced by epoch 3, which must not keep epoch 2 from it.
  assert.is(target(bench).durable[0], 2);
  assert.is(target(bench).durable[8 * 512 * 2], 2);
  assert.is(target(bench).durable[8 * 512 * 3], 0);
  release();
  await bench.quiet();
  assert.is(target(bench).durable[0], 3);
  assert.equal(ended, []);
});

test('a drain that was under way ends at the commit', async () => {
  const bench = await new Bench().start({ drain: { passBytes: 1, sliceBytes: 1 } });
  await bench.session();
  for (const number of [1, 2, 3]) await epoch(bench, number);
  const holding = bench.live.holdTargets(() => undefined);
  const later = epoch(bench, 4);
  const { epoch: at } = await bench.run(holding);
  await later;
  await bench.quiet();
  assert.is(at, 3);
  assert.is(target(bench).durable[0], 3);
});

for (const [what, act] of [
  ['going back', (bench: Bench) => bench.live.discard()],
  ['rolling forward', (bench: Bench) => bench.live.rollForward()],
  ['whoever needs it drained', (bench: Bench) => bench.live.drained()],
  ['the end of the journal', (bench: Bench) => bench.live.close()],
] as const) {
  test(`${what} ends it at once, and says so before anything is written`, async () => {
    const { bench, ended, writes } = await held();
    target(bench).onWrite = () => {
      assert.is(ended.length, 1, 'told first');
      writes.push(0);
    };
    await bench.run<unknown>(act(bench));
    assert.is(ended.length, 1);
    await bench.run(bench.live.drained().catch(() => undefined));
    if (what !== 'the end of the journal') assert.is(target(bench).durable[0], 3);
  });
}

test('a journal that fills up ends it', async () => {
  const { bench, ended } = await held();
  let number = 4;
  for (; ended.length === 0 && number < 60; number++) {
    for (let block = 0; block < 4; block++) bench.write(block * 8, 8, number);
    bench.marker(number);
    await bench.run(bench.live.commit(number));
  }
  assert.match(ended[0] ?? '', /needs the room/);
  assert.is(bench.live.state().full, null, 'before any write had to wait');
  await bench.run(bench.live.drained());
  assert.is(target(bench).durable[0], number - 1);
});

test('it is refused without a commit, without a session, and twice', async () => {
  const bench = await new Bench().start();
  const hold = (): Promise<string> => bench.code(bench.live.holdTargets(() => undefined));
  assert.is(await hold(), 'wrong-mode');
  await bench.session();
  assert.is(await hold(), 'wrong-mode');
  await epoch(bench, 1);
  assert.is(await hold(), 'none');
  assert.is(await hold(), 'wrong-mode');
});

test('a target that fails meanwhile fails the journal as ever', async () => {
  const bench = await new Bench([
    { name: 'a', sizeBytes: 256 * KIB, barrier: false },
    { name: 'barrier', sizeBytes: 8 * KIB, barrier: true },
  ]).start();
  await bench.session();
  bench.write(0, 8, 1);
  bench.marker(1);
  target(bench).failNext = { write: 'EIO' };
  const committed = bench.live.commit(1);
  await bench.run(committed);
  assert.is(await bench.code(bench.live.holdTargets(() => undefined)), 'failed');
});

test.run();
