/**
 * A planned move on two real Xen hosts: `switchover` there and back, of a guest that is protected and of one that is
 * not; a controller that dies in the middle; and a migration that is ended in the middle. To run it, move it up beside
 * `protect.lab.ts` (the imports below are written for this folder: drop one `../` from each).
 */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { lab, type LabHost } from '../../../scripts/lab/hosts.js';
import { hostNames, type HostName } from '../../../scripts/lab/plan.js';
import { Product, SLOW_CHECKPOINT, TWO_DISKS } from '../product.js';
import { step } from '../steps.js';

const test = suite('switchover on real hosts');
const web = {
  name: 'web',
  port: 7790,
  address: '10.0.0.10/24',
  disks: TWO_DISKS,
  more: SLOW_CHECKPOINT,
};

let product: Product;

const other = (name: HostName): HostName => (name === 'alpha' ? 'beta' : 'alpha');

/** A guest that has come over keeps its console's log under the name that it came with. */
async function guestOn(name: HostName): Promise<ReturnType<LabHost['guest']>> {
  const host = lab.host(name);
  await host.sh(
    'cd /var/log/xen/console && if test -e guest-web--incoming.log; then ln -sf guest-web--incoming.log guest-web.log; fi',
  );
  return host.guest('web');
}

/** DRBD as it has to be outside of a migration, and nothing of one left. */
async function assertTidy(primary: HostName): Promise<void> {
  for (const name of hostNames) {
    const host = lab.host(name);
    const { stdout } = await host.sh('drbdsetup show web');
    assert.match(stdout, /protocol\s+A;/, name);
    assert.not.match(stdout, /allow-two-primaries\s+yes/, name);
    const left = await host.sh(
      'ls /var/lib/remus-drbd/web/switchover.json 2>/dev/null | wc -l; xl list | grep -c -- --migratedaway; systemctl is-active remus-switchover@web remus-switchover-target@web | grep -c "^active"',
      { check: false },
    );
    assert.is(left.stdout.trim().split(/\s+/).join(' '), '0 0 0', name);
  }
  const { stdout } = await lab.host(primary).sh('drbdadm role web | sort -u');
  assert.is(stdout.trim(), 'Primary/Secondary');
}

step(test, 'a guest on replicated disks', async () => {
  await lab.fresh();
  product = await Product.make([web]);
  await product.expect(0, 'setup');
  await lab.host('alpha').ssh(['xl', 'create', '/etc/remus-drbd/domains/web.cfg']);
  const guest = lab.host('alpha').guest('web');
  await guest.waitUntilReady();
  assert.is(await guest.ask('put xvda 64 before the move'), 'ok');
});

test.after(async () => {
  await product?.clean();
});

step(test, 'a dry run tells, and changes nothing', async () => {
  const { stdout } = await product.expect(0, 'switchover', 'web', '--dry-run');
  assert.match(stdout, /would move from alpha to beta/);
  await assertTidy('alpha');
});

step(test, 'an unprotected guest moves, and is protected from there', async () => {
  const { stdout } = await product.expect(0, 'switchover', 'web');
  assert.match(stdout, /web runs on beta and is protected by alpha/);
  await assertTidy('beta');
  const guest = await guestOn('beta');
  assert.is(await guest.ask('get xvda 64'), 'before the move');
  assert.is(await guest.ask('put xvdb 0 on beta'), 'ok');
  assert.is((await product.status('web')).primary, 'beta');
});

step(test, 'a protected guest moves back, with nothing lost', async () => {
  const { stdout } = await product.expect(0, 'switchover', 'web', '--to', 'alpha');
  assert.match(stdout, /web runs on alpha and is protected by beta/);
  await assertTidy('alpha');
  assert.is(await (await guestOn('alpha')).ask('get xvdb 0'), 'on beta');
});

step(test, '--to the host where it runs changes nothing', async () => {
  const { stdout } = await product.expect(0, 'switchover', 'web', '--to', 'alpha');
  assert.match(stdout, /runs on alpha already/);
});

step(test, 'the controller dies in the middle of the migration, and the next run ends it', async () => {
  await product.killAt(/bytes sent|[KM]iB sent/, 'switchover', 'web');
  const { stdout } = await product.expect(0, 'switchover', 'web', '--to', 'beta');
  assert.match(stdout, /web runs on beta and is protected by alpha/);
  await assertTidy('beta');
  assert.is(await (await guestOn('beta')).ask('get xvdb 0'), 'on beta');
});

step(test, 'a migration that is ended in the middle leaves the guest protected where it was', async () => {
  await product.killAt(/[KM]iB sent/, 'switchover', 'web');
  await lab
    .host('beta')
    .ssh(['systemctl', 'kill', '--signal=KILL', 'remus-switchover@web'], { check: false });
  await lab
    .host('beta')
    .waitFor('the clean-up', '! systemctl is-active --quiet remus-switchover@web.service');
  const state = await lab.host('beta').sh("xl list web | tail -n 1 | awk '{ print $5 }'");
  assert.not.match(state.stdout, /---ss-/);
  const { stdout } = await product.expect(0, 'switchover', 'web', '--to', 'beta');
  assert.match(stdout, /web runs on beta/);
  await assertTidy('beta');
  assert.is((await product.status('web')).protection, 'protected');
});

step(test, 'after a move the other host may still be lost', async () => {
  await lab.cut('beta');
  await product.expect(0, 'failover', 'web');
  const guest = await guestOn('alpha');
  assert.is(await guest.ask('get xvdb 0'), 'on beta');
  await lab.boot('beta');
  await product.expect(0, 'recover', 'web');
  await product.waitForStatus('web', 'protection', ({ protection }) => protection === 'protected');
  assert.is((await product.status('web')).primary, other('beta'));
});

test.run();
