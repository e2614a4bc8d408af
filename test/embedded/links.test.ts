/** The links of the embedded pair are cut in the middle of a checkpoint, with and without an arbiter. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { acts } from './acts.js';

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
      assert.match(
        says,
        /^unprotected: the embedded mirror has been without its peer for 2000 ms: Connecting/,
      );
    },
  );
});

test.run();
