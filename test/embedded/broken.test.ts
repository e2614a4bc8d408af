/**
 * The embedded pair's checks can fail: with a guarantee broken on purpose (`REMUS_EMBEDDED_BREAK`), each is seen for
 * what it is, the first time: the epoch that is cut has answers in it (`cuts.ts`).
 */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { LedgerFault } from '../../src/core/ledger.js';
import type { CutPoint } from '../../src/embedded/protection/cuts.js';
import type { Break } from '../../src/embedded/protection/jobs.js';
import { ProtectedPair } from '../../src/embedded/protection/protected-pair.js';

/** Few and slow: most epochs have no answer in them, and it is not for those that the test is there. */
const CLIENTS = 2;
const THINK_MS = 300;

/** A pair that breaks the guarantee, with the power of its primary cut. */
async function withBroken(
  broken: Break,
  point: CutPoint,
  look: (pair: ProtectedPair, faults: LedgerFault[]) => Promise<void> | void,
): Promise<void> {
  const pair = await ProtectedPair.start({
    intervalMs: 50,
    clients: CLIENTS,
    thinkMs: THINK_MS,
    broken,
    seed: 1,
    keep: false,
  });
  try {
    await pair.protect();
    pair.clients.start();
    while (pair.clients.answers.length < 4 * CLIENTS) await pair.clients.nextAnswer();
    await pair.cut({ kind: 'primary', point, arbiter: 'both' });
    const { failover } = await pair.decided();
    await look(pair, failover?.violations.map(({ fault }) => fault) ?? []);
  } finally {
    await pair.close();
  }
}

test('output that leaves before its checkpoint is committed: an answer is missing', async () => {
  await withBroken('release-on-send', 'memory-begun', (_pair, faults) => {
    assert.ok(faults.includes('answer-not-in-memory'), faults.join());
  });
});

test('a checkpoint acknowledged before its commit: the disks are behind memory', async () => {
  await withBroken('ack-before-commit', 'output-released', (_pair, faults) => {
    assert.ok(faults.includes('disk-behind-memory'), faults.join());
    assert.ok(faults.includes('answer-not-on-disk'), faults.join());
  });
});

test('a journal that is not taken back: the disks are ahead of memory', async () => {
  await withBroken('skip-discard', 'memory-sent', (_pair, faults) => {
    assert.ok(faults.includes('disk-ahead-of-memory'), faults.join());
  });
});

test('discarded blocks that are not marked: the hosts differ after the resync', async () => {
  await withBroken('skip-marking', 'memory-sent', async (pair, faults) => {
    assert.equal(faults, []);
    pair.clients.stop();
    await pair.bringBack();
    await pair.recover(() => undefined);
    const { volumes } = await pair.compare();
    assert.ok(volumes.some(({ same }) => !same));
  });
});

test.run();
