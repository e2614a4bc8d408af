/** A session begins for the sender when the receiver's disks follow its markers, and not before. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { ReceiverLink } from '../../src/link/link.js';
import { hostLink } from '../../src/protect/sender-host.js';
import { connecting, failure, listening, Place, Queue } from './support.js';

let place: Place;
test.before(() => {
  place = new Place();
});
test.after(() => place.remove());

/** A sender that connects, the receiver of its connection, and what the sender is told by and by. */
async function beginning(): Promise<{
  link: ReturnType<typeof hostLink>;
  receiver: ReceiverLink;
  did: string[];
  told: Queue<string>;
  close: () => Promise<void>;
}> {
  const { listener, nextLink } = await listening(place);
  const did: string[] = [];
  const told = new Queue<string>();
  const tell = (what: string): void => {
    did.push(what);
    told.push(what);
  };
  const link = hostLink(connecting(place, listener.port), {
    heard: () => tell('heard'),
    committed: () => undefined,
    ended: (decision, reason) => tell(`ended ${decision}: ${reason}`),
    back: () => undefined,
    lost: (reason) => tell(`lost: ${reason}`),
  });
  link.then(
    () => tell('begun'),
    () => undefined,
  );
  const receiver = await nextLink();
  receiver.control.start({ message: () => undefined, lost: () => undefined }, 0);
  receiver.bulk.start({ item: () => undefined, lost: () => undefined });
  return { link, receiver, did, told, close: () => listener.close() };
}

test('the sender waits until the receiver has begun', async () => {
  const { link, receiver, did, told, close } = await beginning();
  receiver.control.send({ type: 'heartbeat', sequence: 1, sentMs: 0, state: 'waiting' });
  assert.is(await told.next(), 'heard');
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(did, ['heard'], 'a receiver that answers has not begun yet');
  receiver.control.send({ type: 'begun' });
  const sender = await link;
  assert.equal(did, ['heard', 'heard', 'begun']);
  sender.close();
  await receiver.close(true);
  await close();
});

test('a session that is over before it has begun is an error, and told once', async () => {
  const { link, receiver, did, close } = await beginning();
  const reason = 'the disks could not be switched';
  receiver.control.send({ type: 'ended', outcome: 'rolled-forward', reason });
  assert.match((await failure(link)).message, `the session has not begun: ${reason}`);
  assert.equal(did, ['heard', `ended primary: ${reason}`]);
  await receiver.close(true);
  await close();
});

test('a receiver that dies before it has begun is an error, and told once', async () => {
  const { link, receiver, did, close } = await beginning();
  await receiver.close(false);
  assert.match((await failure(link)).message, /the session has not begun: the (control|bulk) connection/);
  assert.is(did.length, 1);
  assert.match(did[0] ?? '', /^lost: /);
  await close();
});

test.run();
