/** The sender is told that a session has begun when a marker would close an epoch of it, and not before. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { Receiver } from '../../src/protect/receiver.js';

const test = suite('the beginning of a session');
const identity = { pair: 'rack1', domain: 'web', term: 1, session: 'ab'.repeat(16) };

/** A receiver that is opening its session on disks that answer with `opened`, and what it does. */
function beginning(opened: Promise<void>): { did: string[]; begun: Promise<void>; receiver: Receiver } {
  const did: string[] = [];
  let isBegun = (): void => undefined;
  const begun = new Promise<void>((resolve) => (isBegun = resolve));
  const receiver = new Receiver(
    { failAfterMs: 3_600_000, onCrash: 'stop', disk: true, attemptsMax: 1 },
    {
      startCopy: () => {
        did.push('copy');
        return {
          write: () => Promise.resolve(),
          start: () => Promise.resolve(),
          drop: () => Promise.resolve(),
        };
      },
      disks: {
        startSession: () => {
          did.push('open');
          return opened;
        },
        commit: () => Promise.resolve(),
        step: () => Promise.resolve(),
        used: () => ({ usedBytes: 0, totalBytes: 0 }),
      },
      claim: () => Promise.resolve({ decision: 'primary', reason: 'not asked in this test' }),
      enter: () => Promise.resolve(),
      record: () => Promise.resolve(),
      nowMs: () => 0,
      log: () => undefined,
    },
  );
  receiver.begin(identity, {
    heartbeat: () => undefined,
    committed: () => undefined,
    ended: () => undefined,
    begun: () => {
      did.push('begun');
      isBegun();
    },
    undecided: () => undefined,
    back: () => undefined,
  });
  return { did, begun, receiver };
}

test('after the session is open on the disks, and the copy there', async () => {
  let open = (): void => undefined;
  const { did, begun, receiver } = beginning(new Promise((resolve) => (open = resolve)));
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(did, ['open']);
  open();
  await begun;
  assert.equal(did, ['open', 'copy', 'begun']);
  receiver.stop('the test is over');
  await receiver.finished;
});

test('never on disks on which no session could be opened', async () => {
  const { did, receiver } = beginning(Promise.reject(new Error('the journal is full')));
  await receiver.finished;
  assert.equal(did, ['open']);
});

test.run();
