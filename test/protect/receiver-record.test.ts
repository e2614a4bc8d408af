/** A decision whose record has no room: it never ends the process, in which the only copy of the guest may be. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ExitCode, OperatorError } from '../../src/core/errors.js';
import type { Decision } from '../../src/core/protect/types.js';
import { Receiver } from '../../src/protect/receiver.js';
import type { ReceiverEdges } from '../../src/protect/receiver.js';

const test = suite('the record of a decision');
const identity = { pair: 'rack1', domain: 'web', term: 1, session: 'ab'.repeat(16) };
const FULL = new OperatorError('web: decision could not be written: ENOSPC', ExitCode.failed);

interface World {
  receiver: Receiver;
  did: string[];
}

/** A receiver at its first commit. @param record as the edge */
async function protectedReceiver(
  claim: Decision | ReceiverEdges['claim'],
  record: () => Promise<void>,
): Promise<World> {
  const did: string[] = [];
  const note = (what: string): Promise<void> => Promise.resolve(void did.push(what));
  let begun = (): void => undefined;
  const on = new Promise<void>((resolve) => (begun = resolve));
  const receiver = new Receiver(
    { failAfterMs: 3_600_000, onCrash: 'stop', disk: true, attemptsMax: 1 },
    {
      startCopy: () => ({
        write: () => Promise.resolve(),
        start: () => note('start'),
        drop: () => note('drop'),
      }),
      disks: {
        startSession: () => Promise.resolve(),
        commit: () => Promise.resolve(),
        step: note,
        used: () => ({ usedBytes: 0, totalBytes: 0 }),
      },
      claim:
        typeof claim === 'function'
          ? claim
          : () => Promise.resolve({ decision: claim, reason: 'the arbiter said so' }),
      record,
      nowMs: () => 0,
      log: (level, message) => {
        if (level === 'error') did.push(message);
      },
    },
  );
  receiver.begin(identity, {
    heartbeat: () => undefined,
    committed: begun,
    ended: (decision) => void did.push(`told ${decision}`),
    undecided: () => undefined,
    back: () => undefined,
  });
  await receiver.checkpoint(0, false, Buffer.from('CHECKPOINT_END'));
  await receiver.checkpoint(1, false, Buffer.from('CHECKPOINT_END'));
  receiver.marker(1);
  await on;
  return { receiver, did };
}

test('whoever gives way needs none, and says so', async () => {
  const { receiver, did } = await protectedReceiver('primary', () => Promise.reject(FULL));
  receiver.stop('unprotect');
  assert.is((await receiver.finished).phase, 'ended');
  assert.equal(did, [
    'the decision could not be recorded',
    'drop',
    'told primary',
    'roll-forward',
    'leave-journal',
  ]);
});

test('whoever takes over waits until there is room, with the copy, and then goes on', async () => {
  let attempts = 0;
  const { receiver, did } = await protectedReceiver('backup', () =>
    ++attempts < 3 ? Promise.reject(FULL) : Promise.resolve(),
  );
  receiver.askFailover('an operator asked');
  assert.is((await receiver.finished).phase, 'failed-over');
  assert.is(attempts, 3);
  assert.is(did[0], 'the decision could not be recorded');
  assert.is(did.lastIndexOf('the decision could not be recorded'), 1, 'nothing happened before it was there');
  assert.ok(did.includes('start'));
});

test('an arbiter that was not asked yet is not asked any more when the primary was agreed with', async () => {
  let isWanted = (): boolean => true;
  const { receiver } = await protectedReceiver(
    (onUndecided, wanted) => {
      isWanted = () => !wanted.aborted;
      // As where there is no room to note that it is asked.
      void Promise.resolve().then(() => onUndecided('not noted', false));
      return new Promise((resolve) => wanted.addEventListener('abort', () => resolve(null)));
    },
    () => Promise.resolve(),
  );
  receiver.askFailover('an operator asked');
  await Promise.resolve();
  assert.ok(isWanted());
  receiver.dropTerm(1, 'the sender died', () => assert.not(isWanted()));
  assert.is((await receiver.finished).decision, 'primary');
});

test('a term that was decided otherwise ends the process: nothing may follow from a second decision', async () => {
  const refused = new OperatorError('web: refusing to write', ExitCode.refused);
  const { receiver, did } = await protectedReceiver('backup', () => Promise.reject(refused));
  receiver.askFailover('an operator asked');
  let error: unknown = null;
  await receiver.finished.catch((reason: unknown) => (error = reason));
  assert.is(error, refused);
  assert.equal(did, []);
});

test.run();
