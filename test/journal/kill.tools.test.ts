/** A few rounds of SIGKILL with every test run; bench/journal/soak.ts plays as many as wanted. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { killRounds } from './kill-rounds.js';
import { haveTools } from './tools.js';

test('nothing flushed is lost, and going back is exact, when the server is killed', async () => {
  const seen = await killRounds(4, { fio: false, seed: 5, say: () => undefined });
  assert.ok(seen.flushes > 4 && seen.commits > 4, JSON.stringify(seen));
});

test('the same under load from fio, whose blocks are all whole', async () => {
  if (!haveTools('fio')) return;
  const seen = await killRounds(4, { fio: true, seed: 6, say: () => undefined });
  assert.ok(seen.flushes > 0 && seen.commits > 0, JSON.stringify(seen));
});

test.run();
