/** Protection end to end on the embedded pair: power and links are cut, in the middle of a checkpoint, to and fro. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { existsSync } from 'node:fs';
import { runAct, Story, waitForAnswers } from '../../src/embedded/protection/act.js';
import type { Cut, CutPoint } from '../../src/embedded/protection/cuts.js';
import { ProtectedPair } from '../../src/embedded/protection/protected-pair.js';
import type { Outcome } from '../../src/embedded/protection/protected-pair.js';

const CLIENTS = 8;

/** Cuts one after the other on a pair. Every claim of each act has to hold. */
async function acts(
  cuts: readonly Cut[],
  look: (cut: Cut, outcome: Outcome, before: string, claims: string[]) => void = () => undefined,
): Promise<void> {
  const seed = Math.floor(Math.random() * 0xffff_ffff);
  const pair = await ProtectedPair.start({
    ...{ intervalMs: 50, clients: CLIENTS, thinkMs: 25, broken: null, seed, keep: false },
  });
  try {
    for (const cut of cuts) {
      pair.clients.stop();
      await pair.protect();
      pair.clients.start();
      await waitForAnswers(pair, 2 * CLIENTS);
      const story = new Story(() => undefined, 1);
      const before = pair.primary;
      const outcome = await runAct(pair, cut, story);
      assert.equal(
        story.claims.filter(({ held }) => !held),
        [],
        `embedded, ${JSON.stringify(cut)}, seed ${seed}`,
      );
      look(
        cut,
        outcome,
        before,
        story.claims.map(({ claim }) => claim),
      );
    }
  } finally {
    await pair.close();
  }
}

const power = (point: CutPoint): Cut => ({ kind: 'primary', point, arbiter: 'both' });

test('a guest whose host loses power in a checkpoint goes on, with every answer, and both hosts are the same again', async () => {
  // The two ends of a checkpoint: before the backup has it, and after the primary was told that it has.
  await acts([power('memory-sent'), power('output-released')], (_cut, { host, failover }, before) => {
    assert.is.not(host, before);
    assert.ok(failover);
  });
});

test('a guest whose backup loses power goes on unprotected, says so, and is protected again when it is back', async () => {
  await acts(
    [
      { kind: 'backup', point: 'commit-durable', arbiter: 'both' },
      { kind: 'backup', point: 'marker-written', arbiter: 'none' },
      // What it was given back as backup is enough to go on with.
      power('acknowledged'),
    ],
    ({ kind }, { host, failover, says }, before) => {
      if (kind === 'primary') return;
      assert.is(host, before);
      assert.is(failover, null);
      assert.match(says, /^unprotected: .*connection is lost/);
    },
  );
});

test('with both links cut exactly one copy goes on, whoever reaches the arbiter, and the other one gives way', async () => {
  await acts(
    [
      { kind: 'both-links', point: 'checkpoint-sent', arbiter: 'primary' },
      { kind: 'both-links', point: 'commit-durable', arbiter: 'backup' },
      { kind: 'both-links', point: 'output-marked', arbiter: 'none' },
    ],
    ({ arbiter }, { host }, before, claims) => {
      if (arbiter === 'primary') assert.is(host, before);
      if (arbiter === 'backup') assert.is.not(host, before);
      assert.is(
        claims.includes('while nobody can decide, nothing leaves and nothing starts'),
        arbiter === 'none',
      );
    },
  );
});

test('with the link of sender and receiver cut and the mirror whole, exactly one copy goes on', async () => {
  await acts(
    [
      { kind: 'control-link', point: 'memory-begun', arbiter: 'primary' },
      { kind: 'control-link', point: 'acknowledged', arbiter: 'backup' },
      { kind: 'control-link', point: 'marker-in-journal', arbiter: 'none' },
    ],
    ({ arbiter }, { host }, before) => {
      if (arbiter === 'primary') assert.is(host, before);
      if (arbiter === 'backup') assert.is.not(host, before);
    },
  );
});

test("with the mirror's link cut protection ends by agreement, which needs no arbiter", async () => {
  await acts(
    [{ kind: 'mirror-link', point: 'marker-sent', arbiter: 'none' }],
    (_cut, { host, failover, says }, before) => {
      assert.is(host, before);
      assert.is(failover, null);
      assert.match(says, /^unprotected: DRBD has been without its peer for 2000 ms: Connecting/);
    },
  );
});

test('protection that ends by agreement leaves the guest running, equal disks, and in the end nothing', async () => {
  const pair = await ProtectedPair.start({
    ...{ intervalMs: 50, clients: 4, thinkMs: 5, broken: null, seed: 1, keep: false },
  });
  const { folder } = pair;
  const pids = pair.pids();
  try {
    assert.is(pids.length, 2);
    await pair.protect();
    pair.clients.start();
    await waitForAnswers(pair, 20);
    await pair.unprotect();
    await waitForAnswers(pair, 20);
    assert.equal(await pair.verify(), []);
    const { volumes } = await pair.compare();
    assert.ok(volumes.every(({ same }) => same));
  } finally {
    await pair.close();
  }
  assert.not.ok(existsSync(folder));
  for (const pid of pids) assert.throws(() => process.kill(pid, 0), /ESRCH/);
});

test.run();
