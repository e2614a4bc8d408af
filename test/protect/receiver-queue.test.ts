/** What waits for xl on the backup: bounded, and never so that it waits for itself. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { setImmediate as turn } from 'node:timers/promises';
import { Receiver } from '../../src/protect/receiver.js';

const identity = { pair: 'rack1', domain: 'web', term: 1, session: 'ab'.repeat(16) };
const MIB = 1 << 20;
const RECORD = Buffer.from('CHECKPOINT_END');

function receiver(): { receiver: Receiver; acknowledged: number[]; written: () => number } {
  const acknowledged: number[] = [];
  let written = 0;
  const made = new Receiver(
    { failAfterMs: 3_600_000, onCrash: 'stop', disk: true, attemptsMax: 1 },
    {
      startCopy: () => ({
        write: (bytes) => {
          written += bytes.length;
          return Promise.resolve();
        },
        start: () => Promise.resolve(),
        drop: () => Promise.resolve(),
      }),
      disks: {
        startSession: () => Promise.resolve(),
        commit: () => Promise.resolve(),
        step: () => Promise.resolve(),
        used: () => ({ usedBytes: 0, totalBytes: 0 }),
      },
      enter: () => Promise.resolve(),
      claim: () => new Promise(() => undefined),
      record: () => Promise.resolve(),
      nowMs: () => 0,
      log: () => undefined,
    },
  );
  made.begin(identity, {
    heartbeat: () => undefined,
    committed: (_identity, epoch) => void acknowledged.push(epoch),
    ended: () => undefined,
    begun: () => undefined,
    undecided: () => undefined,
    back: () => undefined,
  });
  return { receiver: made, acknowledged, written: () => written };
}

/** Sends so many MiB of an epoch. @returns how many were taken before there was no more room */
async function send(to: Receiver, mib: number): Promise<number> {
  for (let sent = 0; sent < mib; sent++) {
    let hasRoom = false;
    void to.data(Buffer.alloc(MIB)).then(() => (hasRoom = true));
    for (let n = 0; n < 4 && !hasRoom; n++) await turn();
    if (!hasRoom) return sent + 1;
  }
  return mib;
}

/** The live round and epoch 1, committed. */
async function begun(to: Receiver): Promise<void> {
  await to.checkpoint(0, false, RECORD);
  to.marker(1);
  await send(to, 1);
  await to.checkpoint(1, false, RECORD);
  await turn();
}

test('what waits for a commit is bounded: its marker comes by another way', async () => {
  const { receiver: to } = receiver();
  await begun(to);
  await to.checkpoint(2, false, RECORD);
  assert.is(await send(to, 100), 64);
  to.close();
});

test('a folded checkpoint leaves room for the whole epoch that it waits for, however large', async () => {
  const { receiver: to, acknowledged, written } = receiver();
  await begun(to);
  await to.checkpoint(1, true, RECORD);
  to.marker(2);
  assert.is(await send(to, 100), 100);
  await to.checkpoint(2, false, RECORD);
  for (let n = 0; n < 400; n++) await turn();
  assert.equal(acknowledged, [1, 2]);
  assert.is(written(), 101 * MIB + 4 * RECORD.length);
  to.close();
});

test('also where the room had run out before', async () => {
  const { receiver: to, acknowledged } = receiver();
  await begun(to);
  await to.checkpoint(2, false, RECORD);
  await to.checkpoint(2, true, RECORD);
  assert.is(await send(to, 100), 64);
  to.marker(2);
  for (let n = 0; n < 100; n++) await turn();
  to.marker(3);
  assert.is(await send(to, 100), 100);
  await to.checkpoint(3, false, RECORD);
  for (let n = 0; n < 400; n++) await turn();
  assert.equal(acknowledged, [1, 2, 3]);
  to.close();
});

test.run();
