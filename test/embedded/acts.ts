/** Acts on an embedded pair, for the tests of what is cut. */
import * as assert from 'uvu/assert';
import { runAct, Story, waitForAnswers } from '../../src/embedded/protection/act.js';
import type { Cut } from '../../src/embedded/protection/cuts.js';
import { ProtectedPair } from '../../src/embedded/protection/protected-pair.js';
import type { Outcome } from '../../src/embedded/protection/protected-pair.js';

const CLIENTS = 8;

/** Cuts one after the other on a pair. Every claim of each act has to hold. */
export async function acts(
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
