/**
 * The lab itself: two sound hosts, a link that can be cut, power cuts, reboots, a guest. Tests of the product
 * stand on these.
 */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { lab, type HostName, type LabHost } from '../../scripts/lab/hosts.js';
import { guestConfig } from '../../scripts/lab/guest.js';
import { run } from '../../scripts/lab/processes.js';
import { hostNames, hostPlans, sshConfigPath } from '../../scripts/lab/plan.js';
import { step } from './steps.js';

const test = suite('lab hosts');
const guestName = 'lab-hosts';
const volumeName = 'lab-hosts';

function both<T>(work: (host: LabHost, name: HostName) => Promise<T>): Promise<T[]> {
  return Promise.all(hostNames.map((name) => work(lab.host(name), name)));
}

async function isPeerReachable(host: LabHost): Promise<boolean> {
  const address = hostPlans[host.plan.peer].linkAddress;
  const { code } = await host.ssh(['ping', '-q', '-c', '1', '-W', '3', address], { check: false });
  return code === 0;
}

test.before(async () => {
  await lab.up();
});

test.after(async () => {
  await lab.link(true);
  await lab.boot('beta');
  await lab
    .host('alpha')
    .sh(`xl destroy ${guestName} 2>/dev/null; lvremove -qq -y vg0/${volumeName} 2>/dev/null; true`);
});

step(test, 'both hosts run Xen, DRBD 8.4 and Node, and systemd has nothing to complain of', async () => {
  await both(async (host, name) => {
    const { stdout } = await host.sh(
      'hostname; systemctl is-system-running; xl info xen_version; modinfo -F version drbd; node --version',
    );
    const [hostname, state, xen, drbd, node] = stdout.trim().split('\n');
    assert.is(hostname, name);
    assert.is(state, 'running');
    assert.match(xen ?? '', /^4\.17\./);
    assert.match(drbd ?? '', /^8\.4\./);
    assert.match(node ?? '', /^v18\./);
  });
});

step(test, 'a host whose key is not the known one is refused', async () => {
  const port = String(hostPlans.alpha.sshPort);
  const other = `HostKeyAlias=[127.0.0.1]:${hostPlans.beta.sshPort}`;
  const refused = await run(
    ['ssh', '-F', sshConfigPath, '-o', 'ControlPath=none', '-o', other, '-p', port, 'alpha', 'true'],
    { timeoutMs: 120_000, check: false },
  );
  assert.is(refused.code, 255);
  assert.match(refused.stderr, /Host key verification failed/);
});

step(test, 'arguments arrive as they were given', async () => {
  const words = ['a b', "it's", '$HOME', '*', '', 'line\nbreak', '"'];
  const { stdout } = await lab.host('alpha').ssh(['printf', '%s|', ...words]);
  assert.is(stdout, words.map((word) => `${word}|`).join(''));
});

step(test, 'each host reaches the other over the link, by address and by ssh', async () => {
  await both(async (host) => {
    assert.ok(await isPeerReachable(host));
    const { stdout } = await host.ssh(['ssh', '-o', 'StrictHostKeyChecking=yes', host.plan.peer, 'hostname']);
    assert.is(stdout.trim(), host.plan.peer);
  });
});

step(test, 'a cut link is cut for both and can be restored', async () => {
  await lab.link(false);
  assert.equal(await both(isPeerReachable), [false, false]);
  await lab.link(true);
  await both((host) =>
    host.waitFor('the peer', `ping -q -c 1 -W 1 ${hostPlans[host.plan.peer].linkAddress}`),
  );
});

step(test, 'the volume group is there and takes volumes', async () => {
  const { stdout } = await lab.host('alpha').sh('vgs --noheadings -o vg_name; lvs --noheadings');
  assert.match(stdout, /^\s*vg0\s*\n/);
});

step(test, 'a guest boots from the template, keeps its disk, and powers off when told', async () => {
  const alpha = lab.host('alpha');
  const guest = alpha.guest(guestName);
  await alpha.sh(`rm -f ${guest.consoleLog}; lvcreate -qq -y -n ${volumeName} -L 16M vg0`);
  const disks = [`vdev=xvda,access=w,target=/dev/vg0/${volumeName}`];
  const path = `/tmp/${guestName}.cfg`;
  await alpha.write(path, guestConfig({ name: guestName, disks, address: '10.0.0.10/24' }));
  await alpha.ssh(['xl', 'create', path]);
  await guest.waitUntilReady();
  assert.is(await guest.ask('put xvda 64 first words'), 'ok');
  assert.is(await guest.ask('get xvda 64'), 'first words');
  await lab.host('beta').waitFor('the guest from the other host', 'ping -q -c 1 -W 2 10.0.0.10');
  await alpha.ssh(['xl', 'shutdown', '-w', guestName]);
  const block = await alpha.sh(
    `dd if=/dev/vg0/${volumeName} bs=64k skip=1 count=1 iflag=direct 2>/dev/null | head -c 11`,
  );
  assert.is(block.stdout, 'first words');
});

step(test, 'a host comes back after a power cut with what it had written', async () => {
  const beta = lab.host('beta');
  const before = await beta.bootId();
  await beta.sh('echo kept >/root/kept && sync');
  await lab.cut('beta');
  assert.not(beta.isRunning());
  assert.ok(lab.host('alpha').isRunning());
  await lab.boot('beta');
  assert.is.not(await beta.bootId(), before);
  assert.is(await beta.read('/root/kept'), 'kept\n');
  await lab.host('alpha').waitFor('the peer', 'ping -q -c 1 -W 1 10.0.0.2');
});

step(test, 'a clean reboot ends with a running host', async () => {
  const beta = lab.host('beta');
  const before = await beta.bootId();
  await lab.reboot('beta');
  assert.is.not(await beta.bootId(), before);
  assert.is((await beta.ssh(['systemctl', 'is-system-running'])).stdout.trim(), 'running');
});

test.run();
