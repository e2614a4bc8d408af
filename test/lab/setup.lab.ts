/**
 * check, setup, status and teardown on two real Xen hosts: from nothing to replicated disks, killed in the
 * middle, after a power cut and a reboot, with a guest on them that moves between the hosts, and back to
 * nothing.
 */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { lab, type LabHost } from '../../scripts/lab/hosts.js';
import { hostNames } from '../../scripts/lab/plan.js';
import type { DomainStatus } from '../../src/core/status.js';
import { Product, TWO_DISKS } from './product.js';
import { step } from './steps.js';
import { assertEqualVolumes } from './volumes.js';

const test = suite('setup on real hosts');
const alpha = lab.host('alpha');
const beta = lab.host('beta');
const web = {
  name: 'web',
  port: 7790,
  address: '10.0.0.10/24',
  disks: TWO_DISKS,
};
let product: Product;
/** What the hosts look like before anything was done. */
let untouched: string[];

/** What setup changes, as text to compare: volumes, devices, diversions, and the files in shared folders. */
async function fingerprint(host: LabHost): Promise<string> {
  const { stdout } = await host.sh(
    'lvs --noheadings -o lv_name,lv_size,lv_tags; dmsetup ls | sort; dpkg-divert --list "/etc/*"; ' +
      'find /etc/drbd.d /etc/xen/scripts /etc/remus-drbd /usr/lib/remus-drbd /usr/sbin/remus-drbd ' +
      '/etc/systemd/system/remus-drbd* /etc/modules-load.d /etc/modprobe.d -type f 2>/dev/null | sort | xargs sha256sum; ' +
      'systemctl list-unit-files --no-legend "remus-drbd*" || true',
  );
  return stdout;
}

async function both<T>(work: (host: LabHost) => Promise<T>): Promise<T[]> {
  return Promise.all(hostNames.map((name) => work(lab.host(name))));
}

async function assertInSync(domain = 'web'): Promise<void> {
  const { resource } = await product.status(domain);
  assert.is(resource?.connectionState, 'Connected');
  assert.is(resource?.diskState, 'UpToDate');
  assert.is(resource?.peerDiskState, 'UpToDate');
  assert.is(resource?.outOfSyncBytes, 0);
}

/** DRBD's own words for a host, volume by volume. */
async function drbdDisks(host: LabHost): Promise<string> {
  return (await host.sh('drbdadm dstate web | sort -u')).stdout.trim();
}

async function assertUnchanged(): Promise<void> {
  const { stdout } = await product.expect(0, 'setup', '--json');
  const { pairs } = JSON.parse(stdout) as { pairs: { changes: { title: string }[] }[] };
  assert.equal(
    pairs.map(({ changes }) => changes.map(({ title }) => title)),
    [[]],
  );
}

// A step, because uvu says nothing of an error in `before`.
step(test, 'two new hosts', async () => {
  await lab.fresh();
  product = await Product.make([web]);
  untouched = await both(fingerprint);
});

test.after(async () => {
  await product?.clean();
});

step(test, 'check passes on good hosts, and changes nothing', async () => {
  const { stdout } = await product.expect(0, 'check', '--json');
  const { results } = JSON.parse(stdout) as { results: { verdict: string; id: string }[] };
  assert.ok(results.length > 40);
  assert.equal(
    results.filter(({ verdict }) => verdict === 'fail'),
    [],
  );
  assert.equal(await both(fingerprint), untouched);
});

step(test, 'check names what is broken on a host, and setup then touches nothing', async () => {
  await beta.sh(
    'mv /var/lib/remus-lab/guest/initrd.img /var/lib/remus-lab/guest/aside; lvcreate -qq -y -n remus-web-0 -L 8M vg0; ' +
      'cp /etc/drbd.d/global_common.conf /root/; printf "resource web { }\\n" >/etc/drbd.d/mine.res',
  );
  await lab.link(false);
  const before = await both(fingerprint);
  const { stdout } = await product.expect(1, 'check', '--json');
  const { results } = JSON.parse(stdout) as { results: { verdict: string; id: string; host?: string }[] };
  const failed = new Set(results.filter(({ verdict }) => verdict === 'fail').map(({ id }) => id));
  for (const id of ['guest-ramdisk', 'lv', 'round-trip'])
    assert.ok(failed.has(id), `${id} in ${[...failed].join()}`);
  const { stdout: said } = await product.expect(3, 'setup');
  assert.match(said, /beta/);
  assert.equal(await both(fingerprint), before);
  await lab.link(true);
  await beta.sh(
    'mv /var/lib/remus-lab/guest/aside /var/lib/remus-lab/guest/initrd.img; lvremove -qq -y vg0/remus-web-0; rm /etc/drbd.d/mine.res',
  );
  assert.equal(await both(fingerprint), untouched);
});

step(test, 'a dry run shows every command and changes nothing', async () => {
  const { stdout } = await product.expect(0, 'setup', '--dry-run');
  for (const words of [
    '== lab, alpha',
    '== lab, beta',
    'lvcreate --yes',
    'drbdadm create-md --force web/15',
    'drbdadm new-current-uuid --clear-bitmap web/0',
    '+++ /etc/drbd.d/remus-web.res',
  ]) {
    assert.match(stdout, words);
  }
  assert.equal(await both(fingerprint), untouched);
});

step(test, 'setup that is killed twice is finished by the next run, without a sync', async () => {
  await product.killAt(/make LV vg0\/remus-web-barrier/, 'setup');
  await product.killAt(/make the DRBD meta-data/, 'setup');
  await product.expect(0, 'setup');
  await assertInSync();
  assert.equal(await both(drbdDisks), ['UpToDate/UpToDate', 'UpToDate/UpToDate']);
  await assertEqualVolumes('remus-web-0', 'remus-web-1', 'remus-web-barrier');
});

step(test, 'a second run changes nothing', async () => {
  const before = await both(fingerprint);
  await assertUnchanged();
  assert.equal(await both(fingerprint), before);
});

step(test, 'status says that nothing is protected, and why, also by its exit code', async () => {
  const { stdout } = await product.expect(1, 'status', '--json');
  const [domain] = (JSON.parse(stdout) as { domains: DomainStatus[] }).domains;
  assert.is(domain?.protection, 'unprotected');
  assert.match(domain?.reason ?? '', 'the guest does not run');
  assert.is(domain?.resource?.role, 'Secondary');
});

step(test, 'a guest starts on the resource through block-drbd, and keeps its disks', async () => {
  const guest = alpha.guest('web');
  await alpha.ssh(['xl', 'create', '/etc/remus-drbd/domains/web.cfg']);
  await guest.waitUntilReady();
  assert.is((await alpha.sh('drbdadm role web | sort -u')).stdout.trim(), 'Primary/Secondary');
  assert.is(await guest.ask('put xvda 64 on both hosts'), 'ok');
  assert.is(await guest.ask('put xvdb 0 second disk'), 'ok');
  await assertUnchanged();
});

step(test, 'the guest migrates there and back with two primaries, and its disks are with it', async () => {
  const options = (protocol: string, two: string): Promise<unknown> =>
    both((host) => host.sh(`drbdadm net-options --protocol=${protocol} --allow-two-primaries=${two} web`));
  // A guest arrives under another name, and its console's log keeps that name.
  const arrived = (host: LabHost): Promise<unknown> =>
    host.sh('cd /var/log/xen/console && ln -sf guest-web--incoming.log guest-web.log');
  await options('C', 'yes');
  await alpha.sh('xl migrate web beta', { timeoutMs: 15 * 60_000 });
  await arrived(beta);
  assert.is(await beta.guest('web').ask('get xvda 64'), 'on both hosts');
  assert.is((await beta.sh('drbdadm role web | sort -u')).stdout.trim(), 'Primary/Secondary');
  await beta.sh('xl migrate web alpha', { timeoutMs: 15 * 60_000 });
  await arrived(alpha);
  assert.is(await alpha.guest('web').ask('get xvdb 0'), 'second disk');
  // It is setup that brings the settings back, because they are not those of the configuration.
  const { stdout } = await product.expect(0, 'setup', '--json');
  assert.match(stdout, /adjust the DRBD resource web/);
  await assertInSync();
});

step(
  test,
  'teardown is refused while the guest runs; afterwards the resource is secondary again',
  async () => {
    const { stdout } = await product.expect(3, 'teardown', 'web');
    assert.match(stdout, /refusing to tear down/);
    await alpha.ssh(['xl', 'shutdown', '-w', 'web'], { timeoutMs: 10 * 60_000 });
    await alpha.waitFor('the demotion', 'test "$(drbdadm role web | sort -u)" = Secondary/Secondary');
    await assertEqualVolumes('remus-web-0', 'remus-web-1');
  },
);

step(
  test,
  'what is written to the very end of a disk is resynchronised, also after it was attached anew',
  async () => {
    await alpha.sh(
      'drbdadm disconnect web && drbdadm primary web && ' +
        'd=/dev/$(basename "$(readlink -f /dev/drbd/by-res/web/0)") && n=$(blockdev --getsize64 $d) && ' +
        'head -c 40960 /dev/urandom | dd of=$d bs=4096 seek=$((n / 4096 - 10)) oflag=direct 2>/dev/null && ' +
        'drbdadm secondary web && drbdadm down web && drbdadm adjust web',
    );
    await alpha.waitFor('the resync', 'test "$(drbdadm dstate web | sort -u)" = UpToDate/UpToDate');
    await beta.waitFor('the resync', 'test "$(drbdadm dstate web | sort -u)" = UpToDate/UpToDate');
    await assertEqualVolumes('remus-web-0');
  },
);

step(test, 'after a power cut of one host and its boot DRBD reconnects without help', async () => {
  await lab.cut('beta');
  const { stdout } = await product.expect(4, 'status', '--json');
  assert.match(stdout, /beta can't be asked/);
  await lab.boot('beta');
  await beta.waitFor('DRBD', 'test "$(drbdadm cstate web | sort -u)" = Connected');
  await alpha.waitFor('the disks', 'test "$(drbdadm dstate web | sort -u)" = UpToDate/UpToDate');
  await assertUnchanged();
});

step(test, 'after a clean reboot everything is back by itself', async () => {
  await lab.reboot('alpha');
  await alpha.waitFor('DRBD', 'test "$(drbdadm cstate web | sort -u)" = Connected');
  assert.is((await alpha.ssh(['systemctl', 'is-active', 'remus-drbd@web.service'])).stdout.trim(), 'active');
  await assertUnchanged();
});

step(test, 'a volume with data on the backup is refused, then overwritten because it is named', async () => {
  const [host] = hostNames;
  // DRBD writes below the cache of the volume's own device, which blkid reads.
  const disk = '/dev/vg0/old-disk';
  await both((one) =>
    one.sh('lvcreate -qq -y -n old-disk -L 16M vg0 && mkfs.ext4 -q -L "$(hostname)" /dev/vg0/old-disk'),
  );
  await product.configure([
    web,
    { name: 'old', port: 7791, disks: ['{ vdev: xvda, volumeGroup: vg0, logicalVolume: old-disk }'] },
  ]);
  const labels = (): Promise<string[]> =>
    both(async (one) =>
      (await one.sh(`blockdev --flushbufs ${disk}; blkid -p -s LABEL -o value ${disk}`)).stdout.trim(),
    );
  const { stdout } = await product.expect(3, 'setup');
  assert.match(stdout, /holds data \(ext4\).*--overwrite beta:vg0\/old-disk/s);
  assert.equal(await labels(), ['alpha', 'beta']);
  await product.expect(0, 'setup', '--overwrite', 'beta:vg0/old-disk');
  await assertInSync('old');
  assert.equal(await labels(), [host, host]);
  await assertEqualVolumes('remus-old-0');
});

step(test, 'teardown keeps the data, and setup takes it up again without a sync', async () => {
  await product.expect(0, 'teardown', 'web');
  assert.match((await alpha.sh('lvs --noheadings -o lv_name')).stdout, /^\s*remus-web-0\s*$/m);
  const { stdout } = await product.expect(0, 'setup', '--json');
  const { pairs } = JSON.parse(stdout) as { pairs: { changes: { title: string }[] }[] };
  const titles = pairs.flatMap(({ changes }) => changes.map(({ title }) => title));
  assert.ok(titles.some((title) => title.startsWith('enable and start')));
  assert.equal(
    titles.filter((title) => /meta-data of|zeroes|first sync|extend LV/.test(title)),
    [],
  );
  await assertInSync();
});

step(test, 'teardown of all with the data named leaves the hosts as they were', async () => {
  await product.expect(0, 'teardown', '--all', '--delete-data', 'web', '--delete-data', 'old');
  // The user's own volume is the user's.
  await both((one) => one.sh('lvremove -qq -y vg0/old-disk'));
  assert.equal(await both(fingerprint), untouched);
});

test.run();
