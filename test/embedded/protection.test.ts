/** Protection end to end on the embedded pair: power is cut in the middle of a checkpoint, to and fro. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { existsSync } from 'node:fs';
import { waitForAnswers } from '../../src/embedded/protection/act.js';
import type { Cut, CutPoint } from '../../src/embedded/protection/cuts.js';
import { ProtectedPair } from '../../src/embedded/protection/protected-pair.js';
import { acts } from './acts.js';

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
