/** Protection end to end on the embedded pair: the power is cut in the middle of a checkpoint, to and fro. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { existsSync } from 'node:fs';
import { ProtectedPair } from '../../src/embedded/protection/protected-pair.js';
import { runRounds } from '../../src/embedded/protection/story.js';

const options = { broken: null, keep: false, onRound: () => undefined };

test('a guest whose host loses power in a checkpoint goes on, with every answer, and both hosts are the same again', async () => {
  // The two ends of a checkpoint: before the backup has it, and after the primary was told that it has.
  const points = ['memory-sent', 'output-released'] as const;
  const seed = Math.floor(Math.random() * 0xffff_ffff);
  let round = 0;
  const rounds = await runRounds({
    ...options,
    rounds: 2,
    seed,
    cutAt: () => points[round++] ?? 'memory-sent',
  });
  assert.is(rounds.length, 2);
  for (const { point, violations } of rounds) {
    assert.equal(violations, [], `embedded, cut at ${point}, seed ${seed}`);
  }
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
    await answered(pair);
    await pair.unprotect();
    await answered(pair);
    assert.equal(await pair.verify(), []);
    const { volumes } = await pair.compare();
    assert.ok(volumes.every(({ same }) => same));
  } finally {
    await pair.close();
  }
  assert.not.ok(existsSync(folder));
  for (const pid of pids) assert.throws(() => process.kill(pid, 0), /ESRCH/);
});

/** Waits for some answers more. */
async function answered(pair: ProtectedPair): Promise<void> {
  const { length } = pair.clients.answers;
  while (pair.clients.answers.length < length + 20) await pair.clients.nextAnswer();
}

test.run();
