import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { Gate, eachHost } from '../../src/edge/pool.js';

const test = suite('pool');

test('never more at once than allowed, and as many as that', async () => {
  let [now, most] = [0, 0];
  const work = async (item: number): Promise<number> => {
    now += 1;
    most = Math.max(most, now);
    await new Promise((resolve) => setImmediate(resolve));
    now -= 1;
    return item * 2;
  };
  const items = Array.from({ length: 50 }, (_, n) => n);
  const outcomes = await eachHost(items, work, 7);
  assert.is(most, 7);
  assert.equal(
    outcomes,
    items.map((item) => ({ item, value: item * 2 })),
  );
});

test('a failure stops no other, and all have ended', async () => {
  const ended: string[] = [];
  const outcomes = await eachHost(['a', 'b', 'c'], async (item) => {
    if (item === 'a') throw new Error('a failed');
    await new Promise((resolve) => setImmediate(resolve));
    ended.push(item);
    return item;
  });
  assert.equal(ended, ['b', 'c']);
  assert.equal(
    outcomes.map((outcome) => ('error' in outcome ? (outcome.error as Error).message : outcome.value)),
    ['a failed', 'b', 'c'],
  );
});

test('a gate admits in the order of arrival', async () => {
  const gate = new Gate(1);
  const order: number[] = [];
  const leave = await gate.enter();
  const others = [1, 2, 3].map(async (n) => {
    const done = await gate.enter();
    order.push(n);
    done();
  });
  leave();
  leave();
  await Promise.all(others);
  assert.equal(order, [1, 2, 3]);
  assert.is(gate.held, 0);
});

test('a wait can be given up, and takes no place then', async () => {
  const gate = new Gate(1);
  const leave = await gate.enter();
  const giveUp = new AbortController();
  const waiting = gate.enter(giveUp.signal);
  giveUp.abort(new Error('enough'));
  const text = await waiting.catch((error: Error) => error.message);
  assert.is(text, 'enough');
  leave();
  assert.is(gate.held, 0);
  (await gate.enter())();
});

test('a lowered gate lets nobody in above its new bound', async () => {
  const gate = new Gate(3);
  const leaves = [await gate.enter(), await gate.enter(), await gate.enter()];
  gate.lower(1);
  let entered = false;
  const next = gate.enter().then((leave) => {
    entered = true;
    return leave;
  });
  leaves[0]?.();
  leaves[1]?.();
  await new Promise((resolve) => setImmediate(resolve));
  assert.not(entered);
  leaves[2]?.();
  (await next)();
  gate.lower(0);
  (await gate.enter())();
  assert.throws(() => new Gate(0), /room for one/);
});

test.run();
