/** The socket through which a drill has the receiver hold the disks. */
import { mkdtempSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { serveHolds, withTargetsHeld } from '../../src/protect/target-hold.js';
import type { HoldTargets } from '../../src/protect/target-hold.js';

const test = suite('holding the disks through a socket');
const LONG_MS = 3_600_000;

interface World {
  path: string;
  /** Resolves when the disks are held no longer. */
  released: Promise<void>;
  /** Ends the hold from the journal's side. */
  end: (reason: string) => void;
}

async function serving(
  use: (world: World) => Promise<void>,
  options: { limitMs?: number; hold?: HoldTargets } = {},
): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'remus-hold-'));
  const path = join(folder, 'hold.sock');
  let release = (): void => undefined;
  const released = new Promise<void>((resolve) => (release = resolve));
  const world: World = { path, released, end: () => undefined };
  const hold: HoldTargets = (ended) => {
    world.end = (reason) => {
      release();
      ended(reason);
    };
    return Promise.resolve({ term: 3, epoch: 42, release });
  };
  const log = { info: () => log } as unknown as Parameters<typeof serveHolds>[2];
  const server = await serveHolds(path, options.hold ?? hold, log, options.limitMs ?? LONG_MS);
  try {
    await use(world);
  } finally {
    await server.close();
    rmSync(folder, { recursive: true });
  }
}

async function fails(work: Promise<unknown>): Promise<string> {
  try {
    await work;
  } catch (error) {
    return (error as Error).message;
  }
  throw new Error('it did not fail');
}

test('they are held until it is done, and it learns at which commit', () =>
  serving(async ({ path, released }) => {
    let isReleased = false;
    void released.then(() => (isReleased = true));
    const held = await withTargetsHeld(path, () => {
      assert.not(isReleased);
      return Promise.resolve('snapshots');
    });
    assert.is(held.term, 3);
    assert.is(held.epoch, 42);
    assert.is(held.result, 'snapshots');
    await released;
  }));

test('whoever dies releases them', () =>
  serving(async ({ path, released }) => {
    const socket = connect(path);
    await new Promise((resolve) => socket.once('data', resolve));
    socket.destroy();
    await released;
  }));

test('one whose work fails releases them', () =>
  serving(async ({ path, released }) => {
    const work = withTargetsHeld(path, () => Promise.reject(new Error('no space')));
    assert.is(await fails(work), 'no space');
    await released;
  }));

test('the time limit releases them, and what was done meanwhile does not count', () =>
  serving(
    async ({ path, released }) => {
      assert.match(await fails(withTargetsHeld(path, () => released)), /held for 0.02 s/);
    },
    { limitMs: 20 },
  ));

test('a failover ends the hold, and what was done meanwhile does not count', () =>
  serving(async (world) => {
    const work = withTargetsHeld(world.path, () => {
      world.end('the term ends: disconnect');
      return Promise.resolve();
    });
    assert.is(await fails(work), 'the term ends: disconnect');
  }));

test('a refusal says why', () =>
  serving(
    async ({ path }) => {
      const work = withTargetsHeld(path, () => Promise.reject(new Error('it must not run')));
      assert.is(await fails(work), 'the receiver is live, not on');
    },
    { hold: () => Promise.reject(new Error('the receiver is live, not on')) },
  ));

test('without a receiver there is no hold', async () => {
  const missing = join(tmpdir(), 'remus-no-such.sock');
  assert.match(await fails(withTargetsHeld(missing, () => Promise.resolve())), /ENOENT/);
});

test('a receiver that ends in the middle is no hold', async () => {
  let work = Promise.resolve('it did not begin');
  let begun = (): void => undefined;
  const began = new Promise<void>((resolve) => (begun = resolve));
  let go = (): void => undefined;
  const gone = new Promise<void>((resolve) => (go = resolve));
  await serving(async ({ path }) => {
    work = fails(
      withTargetsHeld(path, async () => {
        begun();
        await gone;
      }),
    );
    await began;
  });
  go();
  assert.match(await work, /closed|ECONNRESET|EPIPE/);
});

test.run();
