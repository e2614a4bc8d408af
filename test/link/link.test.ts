/** A link over real TLS on loopback: what is sent arrives, in order, and ends as it was ended. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { BulkItem } from '../../src/core/link/bulk.js';
import type { FromReceiver, FromSender } from '../../src/core/link/messages.js';
import { connectCleanup, connectLink } from '../../src/link/client.js';
import type { Loss } from '../../src/link/loss.js';
import { connecting, listening, Place, Queue } from './support.js';

let place: Place;
test.before(() => {
  place = new Place();
});
test.after(() => place.remove());

test('messages go both ways over control, frames both ways over bulk, in order', async () => {
  const { listener, nextLink } = await listening(place);
  const sender = await connectLink(connecting(place, listener.port));
  const receiver = await nextLink();
  assert.equal(receiver.hello, sender.hello);
  assert.is(sender.welcome.host, 'beta');

  const atReceiver = new Queue<FromSender | Loss>();
  const atSender = new Queue<FromReceiver | Loss>();
  receiver.control.start({ message: (m) => atReceiver.push(m), lost: (l) => atReceiver.push(l) }, 0);
  sender.control.start({ message: (m) => atSender.push(m), lost: (l) => atSender.push(l) }, 0);
  const beat = { type: 'heartbeat', sequence: 1, sentMs: 5, state: 'protected' } as const;
  const done = { type: 'committed', domain: 'web', term: 3, session: 'a'.repeat(32), epoch: 9 } as const;
  assert.ok(sender.control.send(beat));
  assert.ok(sender.control.send({ type: 'guest-ended', how: 'reboot' }));
  assert.ok(receiver.control.send(done));
  assert.equal(await atReceiver.next(), beat);
  assert.equal(await atReceiver.next(), { type: 'guest-ended', how: 'reboot' });
  assert.equal(await atSender.next(), done);

  const items = new Queue<BulkItem | Loss>();
  const back = new Queue<BulkItem | Loss>();
  const copy = (item: BulkItem): BulkItem =>
    'bytes' in item ? { ...item, bytes: Buffer.from(item.bytes) } : item;
  receiver.bulk.start({ item: (item) => items.push(copy(item)), lost: (loss) => items.push(loss) });
  sender.bulk.start({ item: (item) => back.push(copy(item)), lost: (loss) => back.push(loss) });
  assert.ok(await sender.bulk.send({ type: 'data', epoch: 2 }, Buffer.from('one'), Buffer.from('two')));
  assert.ok(await sender.bulk.send({ type: 'checkpoint', epoch: 2 }, Buffer.from('record')));
  assert.ok(await receiver.bulk.send({ type: 'back' }, Buffer.from('ready')));
  assert.equal(await items.next(), { type: 'data', epoch: 2, bytes: Buffer.from('onetwo') });
  assert.equal(await items.next(), { type: 'checkpoint', epoch: 2, bytes: Buffer.from('record') });
  assert.equal(await back.next(), { type: 'back', bytes: Buffer.from('ready') });

  await sender.close(true);
  assert.equal(await items.next(), { type: 'end', clean: true });
  assert.is(((await atReceiver.next()) as Loss).kind, 'closed');
  await receiver.close(true);
  assert.not(await sender.bulk.send({ type: 'data', epoch: 3 }, Buffer.from('late')));
  assert.not(sender.control.send(beat));
  await listener.close();
});

test('a cleanup is a control connection alone', async () => {
  const { listener, nextCleanup } = await listening(place);
  const control = await connectCleanup(connecting(place, listener.port));
  const atReceiver = await nextCleanup();
  const messages = new Queue<FromSender>();
  atReceiver.start({ message: (m) => messages.push(m), lost: () => undefined }, 0);
  control.send({ type: 'drop-term', reason: 'the sender was killed' });
  assert.equal(await messages.next(), { type: 'drop-term', reason: 'the sender was killed' });
  await Promise.all([control.close(), atReceiver.close()]);
  await listener.close();
});

test.run();
