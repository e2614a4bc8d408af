/**
 * That the simulator sees: each fault that is put into the machines on purpose breaks a guarantee within a bounded
 * number of seeds, and the one that it has to break. The seeds are fixed, so what finds each is the same each time.
 */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { MUTATIONS } from '../../src/sim/mutations.js';
import { simulate } from '../../src/sim/simulate.js';

const test = suite('simulator sees');

const SEEDS_MAX = 80;
const STEPS = 20_000;

const FOUND_BY: Record<string, number> = {
  'acknowledged before the commit is durable': 1,
  'committed without the marker': 1,
  'committed without the memory': 1,
  'CHECKPOINT_END passed on before the commit': 1,
  'a folded checkpoint counts with the epoch before': 6,
  'the copy is started without a claim': 2,
  'a lost claim is taken for a won one': 4,
  'the decision is not durable before its effects': 1,
  'agreed with the primary after the arbiter was asked': 1,
  'a second decision in the same term': 41,
  'the journal is not discarded': 1,
  'discarded blocks are not marked': 1,
  'DRBD is not disconnected before the discard': 5,
  'the journal is not rolled forward': 1,
  'gives way and does not destroy the guest': 1,
  'a resync comes into an open session': 30,
  'released when it is sent': 1,
  'released when it is marked': 1,
  'the claim is ignored': 1,
  'goes on without a claim before the first acknowledgement': 5,
  'the term of an acknowledgement is not checked': 9,
  '✘ the gate opens before the network is marked': 1,
  'a missed checkpoint counts with the epoch before': 6,
  'protected is said for ever': 7,
  'a second mark over a pending one': 12,
  'the release of an earlier checkpoint releases the pending mark': 4,
};

test('there are at least fifteen, each with a name of its own', () => {
  assert.ok(MUTATIONS.length >= 15);
  assert.is(new Set(MUTATIONS.map(({ name }) => name)).size, MUTATIONS.length);
});

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
      return;
    }
    assert.unreachable(`${name} was not found with ${SEEDS_MAX} seeds`);
  });
}

test.run();
