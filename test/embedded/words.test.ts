/** Reasons of the real machines, in words of what stands in for DRBD and xl. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { embeddedWords } from '../../src/embedded/protection/words.js';

test('DRBD and xl are the embedded ones, once', () => {
  assert.is(
    embeddedWords('DRBD is not connected: Connecting'),
    'the embedded mirror is not connected: Connecting',
  );
  assert.is(embeddedWords("the stream of xl can't be read"), "the stream of the embedded xl can't be read");
  const said = 'the embedded xl migrate-receive ended; the embedded mirror is not connected';
  assert.is(embeddedWords(said), said);
});

test('the name of the project, as in a path, is left', () => {
  const said = 'embedded arbiter /dev/shm/remus-drbd-embedded-x/embedded-a/arbiter: ENOENT';
  assert.is(embeddedWords(said), said);
});

test.run();
