/** What becomes a word to the operator where the program of a unit fails, and what keeps its stack. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { OperatorError } from '../../src/core/errors.js';
import { must, ToolError } from '../../src/protect/exec.js';
import { unitError } from '../../src/protect/unit-error.js';

const test = suite('the error of a unit');

test('a tool that fails: its words, what is left and the next step', async () => {
  const failed = await must(['sh', '-c', 'echo no such minor >&2; exit 10'], 60_000).catch(
    (error: unknown) => error,
  );
  assert.ok(failed instanceof ToolError);
  const error = (await unitError('receiver', 'web', failed)) as Error;
  assert.ok(error instanceof OperatorError);
  assert.match(
    error.message,
    /^web: the receiver failed: sh -c .*: exit code 10: no such minor\. The unit's clean-up/,
  );
  assert.match(error.message, /run remus-drbd protect web\.$/);
});

test('an address that is taken is for the operator, with its name', async () => {
  const taken = Object.assign(new Error('listen EADDRINUSE: address already in use 10.0.0.2:7890'), {
    code: 'EADDRINUSE',
  });
  const error = (await unitError('receiver', 'web', taken)) as Error;
  assert.match(error.message, /^web: the receiver failed: listen EADDRINUSE: .* 10\.0\.0\.2:7890\. /);
});

test('a fault of the program keeps its stack, and an error for the operator is passed on', async () => {
  for (const error of [
    new TypeError('x is not a function'),
    Object.assign(new TypeError('bad argument'), { code: 'ERR_INVALID_ARG_TYPE' }),
    new Error('commit of epoch 3 was not asked for'),
    new OperatorError('web: it does not run on this host'),
  ]) {
    assert.is(await unitError('sender', 'web', error), error);
  }
});

test.run();
