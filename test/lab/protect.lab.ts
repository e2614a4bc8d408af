/**
 * A guest under protection on two real Xen hosts: protect and unprotect, the loss of the primary and the takeover,
 * the return of the old host, and what a killed process leaves behind. On hosts with two CPUs (REMUS_LAB_CPUS=2) `pin`
 * is tried as well.
 */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { lab, type LabHost } from '../../scripts/lab/hosts.js';
import { hostCpus, hostNames, type HostName } from '../../scripts/lab/plan.js';
import { Product, SLOW_CHECKPOINT, TWO_DISKS } from './product.js';
import { step } from './steps.js';
import { assertEqualVolumes } from './volumes.js';

const test = suite('protection on real hosts');
const hasPin = hostCpus > 1;
const web = {
  name: 'web',
  port: 7790,
  address: '10.0.0.10/24',
  disks: TWO_DISKS,
  more: `${SLOW_CHECKPOINT}${hasPin ? '\n        pin: { dom0: [0], guest: [1] }' : ''}`,
};
/** The first round of memory takes a minute under emulation, and a slow machine must not turn a run red. */
const SLOW_MS = 15 * 60_000;

let product: Product;
let primary: HostName = 'alpha';

const here = (): LabHost => lab.host(primary);
const there = (): LabHost => lab.host(primary === 'alpha' ? 'beta' : 'alpha');

/** Nothing of a term is left on a host. */
async function assertClean(host: LabHost): Promise<void> {
  const { stdout } = await host.sh(
    'xl list | grep -c -- --incoming; ip -o link show type ifb | grep -c remus; dmsetup table | grep -c "linear 43:"; ls /var/lib/remus-drbd/web/journal-active 2>/dev/null | wc -l',
    { check: false },
  );
  assert.is(stdout.trim().split(/\s+/).join(' '), '0 0 0 0', host.name);
}

async function guestState(host: LabHost): Promise<string> {
  return (
    await host.sh("xl list web 2>/dev/null | tail -n 1 | awk '{ print $5 }'", { check: false })
  ).stdout.trim();
}

/** Shell: prints `DOMAIN=CPUS`, the hard affinity that Xen has, for each domain. */
const AFFINITY = `xl vcpu-list | awk 'NR > 1 { print $1 "=" $(NF - 2) }' | sort -u`;

async function assertAffinity(host: LabHost, dom0: string, guest?: string): Promise<void> {
  if (!hasPin) return;
  const { stdout } = await host.sh(AFFINITY);
  const found = stdout.split('\n').filter((line) => /^(?:Domain-0|web)=/.test(line));
  const expected = [`Domain-0=${dom0}`, ...(guest === undefined ? [] : [`web=${guest}`])];
  assert.equal(found, expected, host.name);
}

step(test, 'a guest on replicated disks', async () => {
  await lab.fresh();
  product = await Product.make([web]);
  await product.expect(0, 'setup');
  await here().ssh(['xl', 'create', '/etc/remus-drbd/domains/web.cfg']);
  await here().guest('web').waitUntilReady();
  assert.is(await here().guest('web').ask('put xvda 64 before protection'), 'ok');
});

test.after(async () => {
  await product?.clean();
});

step(test, 'protect returns with the first commit, and status says what it costs', async () => {
  const { stdout } = await product.expect(0, 'protect', 'web');
  assert.match(stdout, /^web is protected: term 1, /);
  // A commit that is late for a moment shows, as it has to.
  const now = await product.waitForStatus(
    'web',
    '20 commits',
    ({ protection, committedEpoch }) => protection === 'protected' && (committedEpoch ?? 0) >= 20,
  );
  assert.is(now.term, 1);
  assert.ok((now.figures?.count ?? 0) > 0);
  process.stdout.write(`    ${JSON.stringify(now.figures)}\n`);
  assert.match(await guestState(there()), /^$/);
  assert.is(await here().guest('web').ask('put xvdb 0 under protection'), 'ok');
});

if (hasPin)
  step(test, 'pin: the dom0 of both hosts and the guest are on CPUs of their own', async () => {
    await assertAffinity(here(), '0', '1');
    await assertAffinity(there(), '0');
  });

step(test, 'protect again changes nothing', async () => {
  const { stdout } = await product.expect(0, 'protect', 'web');
  // Without "already" where a commit was late for a moment, and it has waited for the next one.
  assert.match(stdout, /^web is protected( already)?: term 1, /);
  const { term, reason } = await product.status('web');
  assert.is(term, 1, reason);
});

step(test, 'unprotect ends it with the guest running, and both hosts as before', async () => {
  await product.expect(0, 'unprotect', 'web');
  assert.is(await here().guest('web').ask('get xvdb 0'), 'under protection');
  const now = await product.status('web');
  assert.is(now.protection, 'unprotected', now.reason);
  await assertClean(here());
  await assertClean(there());
  await assertAffinity(here(), 'all', 'all');
  await assertAffinity(there(), 'all');
  const { stdout } = await product.expect(0, 'unprotect', 'web');
  assert.match(stdout, /is not protected; there is nothing to end/);
});

step(test, 'the primary loses its power, and the guest goes on where its last commit was', async () => {
  await product.expect(0, 'protect', 'web');
  assert.is(await here().guest('web').ask('put xvda 128 just before the cut'), 'ok');
  const { committedEpoch } = await product.status('web');
  await product.waitForStatus(
    'web',
    'commits after the write',
    (now) => (now.committedEpoch ?? 0) >= (committedEpoch ?? 0) + 3,
  );
  await lab.cut(primary);
  await product.expect(0, 'failover', 'web');
  primary = 'beta';
  assert.is((await product.status('web')).protection, 'failed-over');
  await here().sh('cd /var/log/xen/console && ln -sf guest-web--incoming.log guest-web.log');
  assert.is(await here().guest('web').ask('get xvda 128'), 'just before the cut');
  assert.is(await here().guest('web').ask('put xvda 192 on the other host'), 'ok');
  if (hasPin) {
    await here().waitFor('the guest on its CPU', `${AFFINITY} | grep -qx web=1`);
    await assertAffinity(here(), '0', '1');
  }
});

step(
  test,
  'the old host comes back: resync while the guest runs, and protection in the other direction',
  async () => {
    await lab.boot('alpha');
    await product.expect(0, 'recover', 'web');
    const now = await product.waitForStatus(
      'web',
      'protection',
      ({ protection }) => protection === 'protected',
    );
    assert.is(now.primary, 'beta');
    await product.expect(0, 'unprotect', 'web');
    // After its first checkpoint no xl watches the guest any more: remus-watch has to take it away.
    await here().ssh(['xl', 'shutdown', '-w', 'web'], { timeoutMs: SLOW_MS });
    await here().waitFor('the demotion', 'test "$(drbdadm role web | sort -u)" = Secondary/Secondary');
    await assertEqualVolumes('remus-web-0', 'remus-web-1');
  },
);

if (hasPin)
  step(test, 'teardown leaves no pinning behind', async () => {
    await product.expect(0, 'teardown', 'web');
    for (const name of hostNames) {
      const host = lab.host(name);
      await assertAffinity(host, 'all');
      await host.sh('! ls /run/remus-drbd/dom0-pin.json /run/remus-drbd/web/pin.json 2>/dev/null');
    }
  });

test.run();
