/** `remus-drbd failover` and `continue` on a fake pair: who is told, in which order, and what is refused. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { protectDomain } from '../../src/commands/protect.js';
import { decideDomain } from '../../src/commands/recover.js';
import { ExitCode, OperatorError } from '../../src/core/errors.js';
import type { DomainLayout } from '../../src/core/model.js';
import { statePath } from '../../src/core/names.js';
import { fakeDependencies, fakeLayout, FakePair } from './fake-pair.js';

const test = suite('failover and continue');
let layout: DomainLayout;

test.before(async () => {
  layout = await fakeLayout();
});

async function protectedPair(): Promise<FakePair> {
  const pair = FakePair.start();
  const options = { intervalMs: null, network: true, disk: true, dryRun: false };
  await protectDomain(layout, pair.hosts, options, fakeDependencies());
  pair.acts = [];
  return pair;
}

/** As `connectHost` does, a dead host is refused at once. */
async function decide(pair: FakePair, what: 'failover' | 'continue', force = false): Promise<string> {
  try {
    return await decideDomain(
      layout,
      what,
      (name) => {
        const host = pair.host(name);
        if (host.isDead && !host.diesLater) {
          return Promise.reject(new OperatorError(`${name}: is not there`, ExitCode.unreachable));
        }
        host.open++;
        return Promise.resolve(host);
      },
      { force },
      fakeDependencies(),
    );
  } finally {
    for (const { name, open } of pair.hosts) assert.is(open, 0, `connections to ${name}`);
  }
}

async function refused(work: Promise<unknown>, message: RegExp): Promise<void> {
  try {
    await work;
  } catch (error) {
    if (!(error instanceof OperatorError)) throw error;
    assert.match(error.message, message);
    assert.is(error.exitCode, ExitCode.refused);
    return;
  }
  throw new Error('it was not refused');
}

for (const diesLater of [false, true]) {
  test(`the backup takes over from a host that ${diesLater ? 'answers no more' : 'is dead'}`, async () => {
    const pair = await protectedPair();
    Object.assign(pair.host('alpha'), { isDead: true, diesLater });
    assert.match(await decide(pair, 'failover'), /^web runs on beta now/);
    assert.equal(pair.acts, [
      'beta: /usr/sbin/remus-drbd decide web 1 beta',
      'beta: systemctl kill --kill-who=main --signal=USR1 remus-receiver@web.service',
    ]);
  });
}

test('the primary goes on without a backup that is dead', async () => {
  const pair = await protectedPair();
  pair.host('beta').isDead = true;
  assert.match(await decide(pair, 'continue'), /^web runs on alpha without protection/);
  assert.equal(pair.acts, ['alpha: /usr/sbin/remus-drbd decide web 1 alpha']);
});

for (const [what, winner, loser, state] of [
  ['failover', 'beta', 'alpha', /web runs on alpha, so failover would end it there/],
  ['continue', 'alpha', 'beta', /the receiver on beta lives, so continue would end it there/],
] as const) {
  test(`${what} is refused while the other host is at work; by force that one is told first`, async () => {
    const pair = await protectedPair();
    await refused(decide(pair, what), state);
    assert.equal(pair.acts, []);
    await decide(pair, what, true);
    assert.equal(pair.acts.slice(0, 2), [
      `${loser}: /usr/sbin/remus-drbd decide web 1 ${winner}`,
      `${winner}: /usr/sbin/remus-drbd decide web 1 ${winner}`,
    ]);
    assert.is(pair.primary.name, winner);
  });
}

test('a host that answers and can not be understood may have the guest; by force it is told', async () => {
  const pair = await protectedPair();
  pair.host('alpha').unreadable = statePath('web', 'wanted.json');
  await refused(decide(pair, 'failover'), /what the other host says can't be read \(alpha: .*not read/);
  assert.equal(pair.acts, []);
  await decide(pair, 'failover', true);
  assert.is(pair.acts[0], 'alpha: /usr/sbin/remus-drbd decide web 1 beta');
});

test('where no host is the backup of an open term nothing is decided', async () => {
  const never = FakePair.start();
  await refused(
    decide(never, 'failover'),
    /no host that can be reached is the backup of a term that is not over/,
  );
  const pair = await protectedPair();
  pair.host('beta').isDead = true;
  await refused(decide(pair, 'failover'), /the backup of a term that is not over \(beta: is not there\)/);
  assert.equal([never.acts, pair.acts], [[], []]);
});

test.run();
