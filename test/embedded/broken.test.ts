/**
 * The embedded pair's checks can fail: with a guarantee broken on purpose (`REMUS_EMBEDDED_BREAK`), each is seen for
 * what it is.
 */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { LedgerFault } from '../../src/core/ledger.js';
import type { CutPoint } from '../../src/embedded/protection/cuts.js';
import type { Break } from '../../src/embedded/protection/jobs.js';
import { ProtectedPair } from '../../src/embedded/protection/protected-pair.js';

const CLIENTS = 8;
const ATTEMPTS = 5;

/** A pair that breaks the guarantee, with the power of its primary cut. */
async function withBroken(
  broken: Break,
  point: CutPoint,
  look: (pair: ProtectedPair, faults: LedgerFault[]) => Promise<void> | void,
): Promise<void> {
  const pair = await ProtectedPair.start({
    intervalMs: 50,
    clients: CLIENTS,
    thinkMs: 5,
    broken,
    seed: 1,
    keep: false,
  });
  try {
    await pair.protect();
    pair.clients.start();
    // Enough that every epoch from now on has some.
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
  // On a busy machine the clients may have had nothing in the very epoch that was cut: that breaks no promise.
  let found: LedgerFault[] = [];
  for (let attempt = 0; attempt < ATTEMPTS && found.length === 0; attempt++) {
    await withBroken('ack-before-commit', 'output-released', (_pair, faults) => void (found = faults));
  }
  assert.ok(found.includes('disk-behind-memory') && found.includes('answer-not-on-disk'), found.join());
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
