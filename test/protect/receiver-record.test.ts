/**
 * What a receiver records: before its first commit that it may go on; and its decision, which never ends the process,
 * in which the only copy of the guest may be, for want of room.
 */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ExitCode, OperatorError } from '../../src/core/errors.js';
import type { Decision } from '../../src/core/protect/types.js';
import { Receiver } from '../../src/protect/receiver.js';
import type { ReceiverEdges } from '../../src/protect/receiver.js';

const test = suite('the records of a receiver');
const identity = { pair: 'rack1', domain: 'web', term: 1, session: 'ab'.repeat(16) };
const FULL = new OperatorError('web: decision could not be written: ENOSPC', ExitCode.failed);

interface World {
  receiver: Receiver;
  did: string[];
  /** That it may go on, and its commits, in the order in which they became durable. */
  commits: string[];
}

/** A receiver at its first commit, or at the end of its term before that. @param record as the edge, and `enter` */
async function protectedReceiver(
  claim: Decision | ReceiverEdges['claim'],
  record: () => Promise<void>,
  enter: () => Promise<void> = () => Promise.resolve(),
): Promise<World> {
  const commits: string[] = [];
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
        commit: (epoch) => Promise.resolve(void commits.push(`commit ${epoch}`)),
        step: note,
        used: () => ({ usedBytes: 0, totalBytes: 0 }),
      },
      enter: () => enter().then(() => void commits.push('recorded')),
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
    begun: () => undefined,
    undecided: () => undefined,
    back: () => undefined,
  });
  await receiver.checkpoint(0, false, Buffer.from('CHECKPOINT_END'));
  await receiver.checkpoint(1, false, Buffer.from('CHECKPOINT_END'));
  receiver.marker(1);
  await Promise.race([on, receiver.finished]);
  return { receiver, did, commits };
}

test('that this host may go on is recorded once, and before its first commit', async () => {
  const { receiver, commits } = await protectedReceiver(
    'primary',
    () => Promise.resolve(),
    () => new Promise((resolve) => setImmediate(resolve)),
  );
  await receiver.checkpoint(2, false, Buffer.from('CHECKPOINT_END'));
  receiver.marker(2);
  while (commits.length < 3) await new Promise((resolve) => setImmediate(resolve));
  assert.equal(commits, ['recorded', 'commit 1', 'commit 2']);
  receiver.close();
});

test('where that has no room nothing is committed, and the primary goes on', async () => {
  const { receiver, commits } = await protectedReceiver(
    'backup',
    () => Promise.resolve(),
    () => Promise.reject(FULL),
  );
  const { decision, reason } = await receiver.finished;
  assert.is(decision, 'primary');
  assert.match(reason, /the journal can't go on: .*ENOSPC/);
  assert.equal(commits, []);
});

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
  receiver.dropTerm({ term: 1, reason: 'the sender died', crashed: false }, () => assert.not(isWanted()));
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
