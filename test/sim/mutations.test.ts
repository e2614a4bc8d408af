/**
 * That the simulator sees: each fault that is put into the machines on purpose breaks a guarantee within a bounded
 * number of seeds, and the one that it has to break. The seeds are fixed, so what finds each is the same each time.
 */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { MUTATIONS } from '../../src/sim/mutations.js';
import { simulate } from '../../src/sim/simulate.js';
import { GUARANTEES } from '../../src/sim/world.js';
import type { Guarantee } from '../../src/sim/world.js';

const test = suite('simulator sees');

const SEEDS_MAX = 200;
const STEPS = 20_000;

/** The seed that found each last. */
const FOUND_BY: Record<string, number> = {
  'acknowledged before the commit is durable': 1,
  'committed without the marker': 1,
  'committed without the memory': 1,
  'CHECKPOINT_END passed on before the commit': 1,
  'a folded checkpoint counts with the epoch before': 1,
  'the copy is started without a claim': 5,
  'a lost claim is taken for a won one': 11,
  'the decision is not durable before its effects': 1,
  'agreed with the primary after the arbiter was asked': 118,
  'a second decision in the same term': 40,
  'a guest that ended of itself is taken over': 167,
  'the primary claims at once when the guest has crashed': 234,
  'started anew where the term was lost': 1,
  'the journal answers flushes and does nothing': 2,
  'the journal is not discarded': 1,
  'discarded blocks are not marked': 71,
  'DRBD is not disconnected before the discard': 3,
  'the journal is not rolled forward': 1,
  'the journal keeps no room for the disconnect': 150,
  'that room is given free while DRBD still takes writes': 1178,
  'gives way and does not destroy the guest': 2,
  'a resync comes into an open session': 63,
  'released when it is sent': 1,
  'released when it is marked': 1,
  'the claim is ignored': 2,
  'goes on without a claim before the first acknowledgement': 14,
  'the term of an acknowledgement is not checked': 4,
  'the session of an acknowledgement is not checked': 51,
  'the epoch of an acknowledgement is not checked': 39,
  'the gate opens before the marker is written': 2,
  'the marker is written when the gate is open': 5,
  'a checkpoint that waits for a commit is never begun': 1,
  'the gate opens before the network is marked': 2,
  'a missed checkpoint counts with the epoch before': 1,
  'protected is said for ever': 14,
  'a second mark over a pending one': 28,
  'the release of an earlier checkpoint releases the pending mark': 1,
};

test('there are at least fifteen, each with a name of its own', () => {
  assert.ok(MUTATIONS.length >= 15);
  assert.is(new Set(MUTATIONS.map(({ name }) => name)).size, MUTATIONS.length);
});

const broken = new Set<Guarantee>();

for (const { name, machines, breaks } of MUTATIONS) {
  test(name, async () => {
    // The seed that found it last comes first, so that the test is quick.
    const known = FOUND_BY[name];
    const seeds = Array.from({ length: SEEDS_MAX }, (_, index) => index + 1);
    for (const seed of known === undefined ? seeds : [known, ...seeds]) {
      const { violation } = await simulate(seed, { machines, steps: STEPS });
      if (violation === null) continue;
      process.stdout.write(`${name}: seed ${seed}: ${violation.message}\n`);
      assert.ok(breaks.includes(violation.guarantee), `${violation.message}; expected ${breaks.join(', ')}`);
      broken.add(violation.guarantee);
      return;
    }
    assert.unreachable(`${name} was not found with ${SEEDS_MAX} seeds`);
  });
}

test('every guarantee is broken by one of them: none of the checks is blind', () => {
  assert.equal(
    [...GUARANTEES].filter((guarantee) => !broken.has(guarantee)),
    [],
  );
});

test.run();
