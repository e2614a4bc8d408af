import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { protectDomain } from '../../src/commands/protect.js';
import { switchoverDomain } from '../../src/commands/switchover.js';
import { ExitCode, OperatorError } from '../../src/core/errors.js';
import type { DomainLayout } from '../../src/core/model.js';
import { statePath } from '../../src/core/names.js';
import { isCut, fakeDependencies, fakeLayout, FakePair, type MigrationFault } from './fake-pair.js';

const test = suite('switchover');
const PROTECT = { intervalMs: null, network: true, disk: true, dryRun: false };
const GO = { to: null, dryRun: false };
const ACTS_MAX = 80;
let layout: DomainLayout;

test.before(async () => {
  layout = await fakeLayout();
});

async function protectedPair(): Promise<FakePair> {
  const pair = FakePair.start();
  await protectDomain(layout, pair.hosts, PROTECT, fakeDependencies());
  pair.acts = [];
  return pair;
}

function go(pair: FakePair, options: { to: string | null; dryRun: boolean } = GO): Promise<string> {
  return switchoverDomain(layout, pair.hosts, options, fakeDependencies());
}

async function fails(work: Promise<unknown>): Promise<OperatorError> {
  try {
    await work;
  } catch (error) {
    if (error instanceof OperatorError) return error;
    throw error;
  }
  throw new Error('it did not fail');
}

/** Nothing of a switchover is left, and DRBD is as it has to be. */
function assertTidy(pair: FakePair): void {
  assert.equal(pair.violations, []);
  assert.is(pair.protocol, 'A');
  assert.is(pair.twoPrimaries, false);
  for (const host of pair.hosts) {
    assert.is(host.files.has(statePath('web', 'switchover.json')), false, host.name);
    assert.is(host.unit('switchover'), host.unit('switchover') === 'failed' ? 'failed' : 'inactive');
    const own = host === pair.primary ? ['web'] : pair.isProtected ? ['web--incoming'] : [];
    assert.equal([...host.guests.keys()], own, host.name);
    assert.is(host.role, host === pair.primary ? 'Primary' : 'Secondary', host.name);
  }
  assert.match(pair.primary.guests.get('web')!.state, /^[r-][b-]----$/);
}

for (const [from, start] of [
  ['protected', protectedPair],
  ['unprotected', () => Promise.resolve(FakePair.start())],
] as const) {
  test(`a guest that is ${from} moves, and is protected from its new host`, async () => {
    const pair = await start();
    assert.is(await go(pair), 'web runs on beta and is protected by alpha');
    assert.is(pair.primary.name, 'beta');
    assert.ok(pair.isProtected);
    assertTidy(pair);
    // And back: the terms go on, so nothing of the first one is in the way.
    assert.is(await go(pair), 'web runs on alpha and is protected by beta');
    assertTidy(pair);
  });
}

test('the term of the move says whose disks count', async () => {
  const pair = await protectedPair();
  // Cut before protection in the other direction writes a term of its own.
  const at = await actsOf(pair.acts.length, (act) => act.includes('write') && act.includes('order.json'));
  pair.cutAt = { act: at, when: 'before' };
  assert.ok(await isCut(go(pair)));
  assert.is(pair.host('beta').term?.role, 'primary');
  // Protection may have begun by then; what counts is that the newest decided term is won by beta.
  assert.is(pair.primary.name, 'beta');
});

/** The number of the first act of an undisturbed run for which `test` holds, after the guest has moved. */
async function actsOf(skip: number, holds: (act: string) => boolean): Promise<number> {
  const pair = await protectedPair();
  await go(pair);
  const at = pair.acts.findIndex((act, index) => index >= skip && holds(act));
  if (at < 0) throw new Error(`no such act: ${pair.acts.join('\n')}`);
  return at + 1;
}

test('cut at any act, the next run ends it: the guest has moved once, and is protected', async () => {
  let cuts = 0;
  for (const start of [protectedPair, () => Promise.resolve(FakePair.start())]) {
    for (const when of ['before', 'behind'] as const) {
      for (let act = 1; act < ACTS_MAX; act++) {
        const pair = await start();
        pair.cutAt = { act, when };
        if (!(await isCut(go(pair)))) break;
        cuts++;
        pair.cutAt = null;
        const where = `${when} act ${act}: ${pair.acts.at(-1)}`;
        await go(pair, { to: 'beta', dryRun: false });
        assert.is(pair.primary.name, 'beta', where);
        assert.ok(pair.isProtected, where);
        assertTidy(pair);
      }
    }
  }
  assert.ok(cuts > 40, `${cuts}`);
});

test('cut at any act, it may also be taken back, and that may be cut as well', async () => {
  const BACK = { to: 'alpha', dryRun: false };
  let cuts = 0;
  for (let act = 1; act < ACTS_MAX; act++) {
    const cutOnce = async (): Promise<FakePair | null> => {
      const pair = await protectedPair();
      pair.cutAt = { act, when: 'behind' };
      if (!(await isCut(go(pair)))) return null;
      pair.cutAt = null;
      return pair;
    };
    const undisturbed = await cutOnce();
    if (undisturbed === null) break;
    await go(undisturbed, BACK);
    const actsMax = undisturbed.acts.length;
    // Where it was cut behind the move the guest moves again, and that is the test above.
    const stayed = !undisturbed.acts
      .slice(act)
      .some((each) => each.endsWith('start remus-switchover@web.service'));
    for (let second = act + 1; second <= (stayed ? actsMax : act); second++) {
      const pair = await cutOnce();
      if (pair === null) throw new Error('not cut any more');
      pair.cutAt = { act: second, when: 'behind' };
      if (await isCut(go(pair, BACK))) cuts++;
      pair.cutAt = null;
      await go(pair, BACK);
      const where = `act ${act}, then ${pair.acts[second - 1]}`;
      assert.is(pair.primary.name, 'alpha', where);
      assert.ok(pair.isProtected, where);
      assertTidy(pair);
    }
    assert.is(undisturbed.primary.name, 'alpha', `act ${act}: ${undisturbed.acts[act - 1]}`);
    assert.ok(undisturbed.isProtected, `act ${act}: ${undisturbed.acts[act - 1]}`);
    assertTidy(undisturbed);
  }
  assert.ok(cuts > 40, `${cuts}`);
});

test('the migration goes on without the controller, and the next run finds its end', async () => {
  const pair = await protectedPair();
  const at = await actsOf(0, (act) => act.endsWith('start remus-switchover@web.service'));
  pair.cutAt = { act: at, when: 'behind' };
  await go(pair).catch(() => undefined);
  pair.cutAt = null;
  for (let stage = 0; stage < 8; stage++) pair.stage();
  assert.is(pair.primary.name, 'beta');
  assert.is(await go(pair), 'web runs on beta and is protected by alpha');
  assertTidy(pair);
});

for (const [fault, host] of [
  ['connect', 'alpha'],
  ['live', 'alpha'],
  ['devices', 'alpha'],
  ['away', 'alpha'],
  ['report', 'beta'],
] as [MigrationFault, string][]) {
  test(`a migration that fails at "${fault}" leaves one copy, protected as before or on its new host`, async () => {
    for (const wasProtected of [true, false]) {
      const pair = wasProtected ? await protectedPair() : FakePair.start();
      pair.migrationFault = fault;
      if (host === 'beta') {
        assert.is(await go(pair), 'web runs on beta and is protected by alpha');
      } else {
        const error = await fails(go(pair));
        assert.is(error.exitCode, ExitCode.failed);
        const state = wasProtected ? 'is protected as before' : 'is not protected, as before';
        assert.match(error.message, new RegExp(`web did not move to beta: .*It runs on alpha and ${state}`));
        assert.is(pair.isProtected, wasProtected);
      }
      assert.is(pair.primary.name, host);
      assertTidy(pair);
    }
  });
}

test('DRBD that refuses two primaries leaves the guest protected where it was', async () => {
  const pair = await protectedPair();
  pair.faults.set('drbdadm net-options --protocol=C --allow-two-primaries=yes web', 'no');
  const error = await fails(go(pair));
  assert.match(error.message, /web did not move to beta: .*net-options.*is protected as before/);
  assert.ok(pair.isProtected);
  assertTidy(pair);
});

test('it is refused before protection is touched', async () => {
  const cases: [(pair: FakePair) => void, RegExp][] = [
    [(pair) => (pair.host('beta').freeMiB = 150), /beta has 1[0-9]{2} MiB of memory free and 112 MiB/],
    [(pair) => (pair.connection = 'Connecting'), /DRBD's web is Connecting, Connected is required/],
    [(pair) => (pair.outOfSync = 4), /volume 0 is Inconsistent on beta, UpToDate is required/],
    [(pair) => pair.host('beta').guests.set('web', { state: '-b----', memoryMiB: 96 }), /runs on both hosts/],
  ];
  for (const [spoil, message] of cases.slice(1)) {
    const pair = await protectedPair();
    spoil(pair);
    const error = await fails(go(pair));
    assert.is(error.exitCode, ExitCode.refused, error.message);
    assert.match(error.message, message);
    assert.equal(pair.acts, []);
  }
  // The copy's own memory will be free, so it counts.
  const [[spoil]] = cases as [[(pair: FakePair) => void, RegExp]];
  const pair = await protectedPair();
  spoil(pair);
  assert.match(await go(pair), /runs on beta/);
  const small = FakePair.start();
  small.host('beta').freeMiB = 100;
  assert.match((await fails(go(small))).message, /beta has 100 MiB of memory free and 112 MiB are required/);
});

test('a dry run tells and changes nothing', async () => {
  const pair = await protectedPair();
  const text = await go(pair, { to: null, dryRun: true });
  assert.match(text, /would move from alpha to beta/);
  assert.match(text, /end protection by agreement/);
  assert.equal(pair.acts, []);
});

test('a dry run after a cut tells what would be done with what was begun', async () => {
  const pair = await protectedPair();
  const at = await actsOf(0, (act) => act.endsWith('--allow-two-primaries=yes web'));
  pair.cutAt = { act: at, when: 'behind' };
  assert.ok(await isCut(go(pair)));
  pair.acts = [];
  const begun = 'web: a switchover from alpha to beta was begun; would';
  const foretold = (to: string | null): Promise<string> => go(pair, { to, dryRun: true });
  assert.is(
    await foretold(null),
    `${begun} go on with it, first: sending the memory of 96MiB: from alpha to beta`,
  );
  assert.is(await foretold('alpha'), `${begun} end it, first: one primary, protocol A: web stays on alpha`);
  assert.equal(pair.acts, []);
});

test('--to a host where it runs already changes nothing, and to none of its hosts is wrong', async () => {
  const pair = await protectedPair();
  assert.match(await go(pair, { to: 'alpha', dryRun: false }), /runs on alpha already/);
  assert.is((await fails(go(pair, { to: 'gamma', dryRun: false }))).exitCode, ExitCode.usage);
  assert.equal(pair.acts, []);
});

test('a gate that an ended protection has left shut is opened', async () => {
  const pair = FakePair.start();
  pair.host('beta').files.set('/var/lib/remus-drbd/web/gate', 'shut web is protected here\n');
  await go(pair);
  assert.is(pair.primary.name, 'beta');
  assertTidy(pair);
});

test.run();
