/** `remus-drbd watch` on a fake pair: what it brings back, what it leaves alone, and that it says each state once. */
import { setImmediate as turn } from 'node:timers/promises';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { protectDomain } from '../../src/commands/protect.js';
import { readProtection } from '../../src/commands/protection-view.js';
import { wantNoProtection } from '../../src/commands/wanted.js';
import { formatIntent, INTENT_FILE } from '../../src/core/protect/switchover.js';
import { LOOK_MS, watchProtection } from '../../src/commands/watch-protection.js';
import type { DomainLayout } from '../../src/core/model.js';
import { statePath } from '../../src/core/names.js';
import { isCut, fakeDependencies, fakeLayout, FakePair } from './fake-pair.js';

const test = suite('watch');
let layout: DomainLayout;

test.before(async () => {
  const { domain, ...rest } = await fakeLayout();
  layout = { ...rest, domain: { ...domain, autoRecover: true } };
});

async function protectedPair(intervalMs: number | null = null): Promise<FakePair> {
  const pair = FakePair.start();
  await protectDomain(
    layout,
    pair.hosts,
    { intervalMs, network: true, disk: true, dryRun: false },
    fakeDependencies(),
  );
  pair.acts = [];
  return pair;
}

/** Watches for so many looks. `onLook` is called before each, counted from 1. */
async function watch(
  pair: FakePair,
  looks: number,
  onLook: (count: number) => void = () => undefined,
  watched: DomainLayout = layout,
): Promise<string[]> {
  const lines: string[] = [];
  const abort = new AbortController();
  const base = fakeDependencies();
  let count = 1;
  onLook(count);
  await watchProtection(
    [watched],
    {
      ...base,
      pause: async (ms) => {
        await base.pause(ms);
        if (ms !== LOOK_MS) return;
        if (++count > looks) abort.abort();
        else onLook(count);
      },
      connect: ({ name }) => Promise.resolve(pair.host(name)),
      withLocks: (_, use) => use(pair.hosts),
      log: (level, message, { reason }) => void lines.push(`${level} ${message}: ${String(reason)}`),
    },
    abort.signal,
  );
  return lines;
}

test('protection that ended by agreement comes back when the resync is done', async () => {
  const pair = await protectedPair(50);
  pair.endProtection();
  pair.outOfSync = 4;
  const lines = await watch(pair, 4, (count) => {
    if (count === 3) pair.outOfSync = 0;
  });
  assert.ok(pair.isProtected);
  assert.equal(
    lines.map((line) => line.replace(/: .*/, '')),
    ['warn not protected', 'info bringing protection back', 'info done', 'info as it is to be'],
  );
  // With what the operator had asked for.
  const { sender } = await readProtection(pair.primary, 'web');
  assert.is(typeof sender === 'string' ? sender : sender.intervalMs, 50);
});

test('while a host is away nothing is done, and it comes back with the host', async () => {
  const pair = await protectedPair();
  pair.endProtection();
  pair.host('beta').isDead = true;
  const lines = await watch(pair, 5, (count) => {
    if (count === 3) pair.host('beta').isDead = false;
  });
  assert.match(lines[0] ?? '', /^warn a host can not be asked: beta: is not there/);
  assert.ok(pair.isProtected);
});

test('a file that can not be read is said, and does not end it', async () => {
  const pair = await protectedPair();
  pair.endProtection();
  const beta = pair.host('beta');
  beta.unreadable = statePath('web', 'wanted.json');
  const lines = await watch(pair, 5, (count) => {
    if (count === 3) beta.unreadable = '';
  });
  assert.match(lines[0] ?? '', /^warn a host can not be asked: beta: .*wanted.json: not read/);
  assert.ok(pair.isProtected);
});

test('never against an operator, never without autoRecover', async () => {
  const ended = await protectedPair();
  await wantNoProtection('web', ended.hosts);
  ended.endProtection();
  ended.acts = [];
  const lines = await watch(ended, 10);
  assert.equal(lines, ['warn not protected: protection was ended by an operator']);
  assert.equal(ended.acts, []);

  const manual = await protectedPair();
  manual.endProtection();
  await watch(manual, 10, undefined, { ...layout, domain: { ...layout.domain, autoRecover: false } });
  assert.equal(manual.acts, []);
});

test("a switchover that was cut short is left to people, and one that is history is in nobody's way", async () => {
  const pair = await protectedPair();
  pair.endProtection();
  const { term = 0 } = pair.primary.term ?? {};
  const note = (last: number): void => {
    const session = 'a'.repeat(32);
    const intent = { format: 1 as const, pair: 'rack1', domain: 'web', session, protect: true };
    const text = formatIntent({ ...intent, term: last, from: 'alpha', to: 'beta' });
    for (const { files } of pair.hosts) files.set(statePath('web', INTENT_FILE), text);
  };
  note(term + 1);
  const lines = await watch(pair, 3);
  assert.match(lines[0] ?? '', /^warn not protected: a switchover is under way, or was cut short/);
  assert.equal(pair.acts, []);
  // alpha was the primary of a later term than the one in which the guest was to go to beta.
  note(term);
  pair.changeTerm({ term: term + 1 });
  await watch(pair, 3);
  assert.ok(pair.isProtected);
});

test('a failure is tried again later, and said once each time', async () => {
  const pair = await protectedPair();
  pair.endProtection();
  pair.faults.set('systemctl start --no-block remus-receiver@web.service', 'no');
  const lines = await watch(pair, 60);
  const tries = pair.acts.filter((act) => act.endsWith('start --no-block remus-receiver@web.service'));
  // In 300 s: at once, after 30, 90 and 210 s.
  assert.is(tries.length, 4);
  assert.ok(lines.length <= 3 * tries.length, lines.join('\n'));
  assert.match(lines.find((line) => line.includes('did not come back')) ?? '', /next try in 30 s/);
});

test('a mistake of the program in one pair ends it for all: nothing watches on unseen', async () => {
  const pair = await protectedPair();
  const [alpha, beta] = layout.hosts;
  const other: DomainLayout = {
    ...layout,
    pair: { ...layout.pair, name: 'other' },
    hosts: [
      { ...alpha, name: 'gamma' },
      { ...beta, name: 'delta' },
    ],
  };
  let pauses = 0;
  const watching = watchProtection(
    [layout, other],
    {
      ...fakeDependencies(),
      pause: async () => {
        pauses++;
        await turn();
      },
      connect: ({ name }) => {
        if (name !== 'gamma') return Promise.resolve(pair.host(name === 'delta' ? 'beta' : name));
        return Promise.reject(new TypeError('a mistake'));
      },
      withLocks: (_, use) => use(pair.hosts),
      log: () => undefined,
    },
    new AbortController().signal,
  );
  await watching.then(
    () => assert.unreachable(),
    (error: unknown) => assert.instance(error, TypeError),
  );
  const seen = pauses;
  for (let turns = 0; turns < 10; turns++) await turn();
  assert.is(pauses, seen);
});

test('told to end in a pause, it ends', async () => {
  const pair = await protectedPair();
  const abort = new AbortController();
  const deps = {
    ...fakeDependencies(),
    pause: () => {
      abort.abort();
      return Promise.reject(new DOMException('ended', 'AbortError'));
    },
    connect: ({ name }: { name: string }) => Promise.resolve(pair.host(name)),
    withLocks: <T>(_: DomainLayout, use: (hosts: FakePair['hosts']) => Promise<T>) => use(pair.hosts),
    log: () => undefined,
  };
  await watchProtection([layout], deps, abort.signal);
});

test('it may die at any act; the next one brings protection back', async () => {
  let cuts = 0;
  for (let act = 1; act < 60; act++) {
    const pair = await protectedPair();
    pair.endProtection();
    pair.cutAt = { act, when: 'behind' };
    if (!(await isCut(watch(pair, 3)))) break;
    cuts++;
    pair.cutAt = null;
    await watch(pair, 3);
    assert.ok(pair.isProtected, `act ${act}: ${pair.acts.at(-1)}`);
  }
  assert.ok(cuts > 5, `${cuts}`);
});

test.run();
