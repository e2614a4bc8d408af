/**
 * Captures what the tools on the lab's hosts print, into test/data/real/TOOL/SITUATION.txt, for the tests of
 * the parsers. Wants two new hosts: `lab fresh`, then this. Writes README.md there with the versions and,
 * for each file, host, command and exit code.
 *
 * A file is what the command printed on standard output, then, if it said anything there, a line
 * `[stderr]` and its standard error.
 */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { guestConfig } from './guest.js';
import { lab, type HostName } from './hosts.js';

const target = fileURLToPath(new URL('../../test/data/real', import.meta.url));
const rows: string[] = [];

async function capture(host: HostName, tool: string, situation: string, command: string): Promise<void> {
  const { stdout, stderr, code } = await lab.host(host).sh(command, { check: false });
  const path = join(target, tool, `${situation}.txt`);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, stderr === '' ? stdout : `${stdout}[stderr]\n${stderr}`);
  rows.push(`| \`${tool}/${situation}\` | ${host} | \`${command.replaceAll('|', '\\|')}\` | ${code} |`);
}

/** All that tells the state of the DRBD resource, as this host sees it. */
async function captureState(host: HostName, situation: string): Promise<void> {
  await capture(host, 'proc-drbd', situation, 'cat /proc/drbd');
  await capture(host, 'events2', situation, 'drbdsetup events2 --now --statistics');
  await capture(host, 'status', situation, 'drbdsetup status --verbose --statistics');
}

/** Lower devices are shorter than their volumes by 4 KiB: see the README that this writes. */
const devices = [
  { volume: 0, name: 'remus-web-0', mib: 64 },
  { volume: 15, name: 'remus-web-barrier', mib: 4 },
];

const resource = [
  'resource web {',
  '  net { protocol A; allow-two-primaries no; after-sb-0pri discard-zero-changes; }',
  ...devices.flatMap(({ volume, name }) => [
    `  volume ${volume} { device /dev/drbd${100 + volume} minor ${100 + volume}; disk /dev/mapper/${name}; meta-disk /dev/vg0/${name}-md; }`,
  ]),
  '  on alpha { address 10.0.0.1:7790; }',
  '  on beta { address 10.0.0.2:7790; }',
  '}',
  '',
].join('\n');

const alpha = lab.host('alpha');
const beta = lab.host('beta');
const both = (script: string) => Promise.all([alpha.sh(script), beta.sh(script)]);
const hasStatus = (expression: string) =>
  `drbdsetup status web --verbose | tr -s ' \\n' ' ' | grep -Eq '${expression}'`;

async function plainHost(): Promise<void> {
  await capture('alpha', 'xl-info', 'plain', 'xl info');
  await capture('alpha', 'xl-list', 'dom0-only', 'xl list');
  await capture('alpha', 'xl-list', 'dom0-only-verbose', 'xl list -v');
  await capture('alpha', 'system', 'meminfo', 'cat /proc/meminfo');
  await capture('alpha', 'system', 'free', 'free -b');
  await capture('alpha', 'system', 'node-version', 'node --version');
  await capture('alpha', 'system', 'uname-r', 'uname -r');
  await capture('alpha', 'system', 'os-release', 'cat /etc/os-release');
  await capture('alpha', 'system', 'ip-address-json', 'ip -json address show');
  await capture('alpha', 'system', 'ss-listen', 'ss -Hltn');
  const packages = 'xen-utils-4.17 xen-utils-common drbd-utils nodejs lvm2 nbd-client not-a-package';
  const format = "-f='${Package} ${Version} ${Status}\\n'";
  await capture('alpha', 'dpkg-query', 'packages-one-missing', `dpkg-query -W ${format} ${packages}`);
  const modules = 'drbd nbd ifb sch_plug act_mirred cls_matchall dm_mod';
  await capture('alpha', 'modinfo', 'all-present', `modinfo -F filename ${modules}`);
  await capture('alpha', 'modinfo', 'one-missing', 'modinfo -F filename drbd no_such_module');
  await capture('alpha', 'modinfo', 'drbd', 'modinfo drbd');
  await capture('alpha', 'modinfo', 'sys-module-drbd-version', 'cat /sys/module/drbd/version');
  await capture('alpha', 'drbdadm', 'version', 'drbdadm --version');
  await capture('alpha', 'drbdadm', 'dump-xml-nothing-configured', 'drbdadm dump-xml');
  await captureState('alpha', 'nothing-configured');
  await capture('alpha', 'status', 'no-such-resource', 'drbdsetup status web');
  await capture('alpha', 'dmsetup', 'table-empty', 'dmsetup table');
  await capture('alpha', 'dmsetup', 'info-c-empty', 'dmsetup info -c');
  await captureLvm('no-volumes');
  await both('rmmod drbd');
  await captureState('alpha', 'module-not-loaded');
  await both('modprobe drbd');
}

async function captureLvm(situation: string): Promise<void> {
  const fields = 'vg_name,lv_name,lv_size,lv_tags,lv_path,lv_attr';
  await capture('alpha', 'lvs', situation, `lvs --reportformat json --units b -o ${fields}`);
  await capture('alpha', 'vgs', situation, 'vgs --reportformat json --units b');
}

async function signatures(): Promise<void> {
  const look = async (situation: string, device: string) => {
    await capture('alpha', 'wipefs', situation, `wipefs --json ${device}`);
    await capture('alpha', 'blkid', situation, `blkid -p -o export ${device}`);
  };
  await alpha.sh('lvcreate -qq -y -n probe -L 16M vg0');
  await look('empty', '/dev/vg0/probe');
  await look('no-such-device', '/dev/vg0/nothing');
  await alpha.sh('mke2fs -q -t ext4 -U 5a0f7c1e-0000-4000-8000-000000000001 -L data /dev/vg0/probe');
  await look('ext4', '/dev/vg0/probe');
  await capture(
    'alpha',
    'drbdmeta',
    'dump-md-internal-on-ext4',
    'drbdmeta 90 v08 /dev/vg0/probe internal dump-md',
  );
  const make = 'drbdmeta 90 v08 /dev/vg0/probe internal create-md </dev/null';
  await capture('alpha', 'drbdmeta', 'create-md-internal-over-ext4', make);
  await alpha.sh('wipefs -qa /dev/vg0/probe; pvcreate -qq -y --config devices/scan_lvs=1 /dev/vg0/probe');
  await look('lvm-pv', '/dev/vg0/probe');
  await alpha.sh(
    `pvremove -qq -y --config devices/scan_lvs=1 /dev/vg0/probe; wipefs -qa /dev/vg0/probe; ${make.replace('drbdmeta', 'drbdmeta --force')}`,
  );
  await look('drbd-internal', '/dev/vg0/probe');
  await alpha.sh('lvremove -qq -y vg0/probe; lvcreate -qq -y -n probe -L 16M vg0');
  await alpha.sh('printf "o\\nn\\np\\n1\\n2048\\n\\nw\\n" | fdisk /dev/vg0/probe; true');
  await look('dos-partitions', '/dev/vg0/probe');
  await alpha.sh('lvremove -qq -y vg0/probe');
}

async function makeVolumes(): Promise<void> {
  for (const host of [alpha, beta]) {
    for (const { name, mib } of devices) {
      await host.sh(`lvcreate -qq -y -Wy -Zy -n ${name} -L ${mib}M --addtag remus-drbd vg0`);
      await host.sh(`lvcreate -qq -y -Wy -Zy -n ${name}-md -L 4M --addtag remus-drbd vg0`);
      const table = `0 $(($(blockdev --getsz /dev/vg0/${name}) - 8)) linear /dev/vg0/${name} 0`;
      await host.sh(`dmsetup create ${name} --table "${table}"`);
    }
    await host.write('/etc/drbd.d/remus-web.res', resource);
  }
}

const dumpMd = 'drbdmeta 100 v08 /dev/vg0/remus-web-0-md flex-external dump-md';

async function metaData(): Promise<void> {
  await capture('alpha', 'drbdadm', 'dump-xml', 'drbdadm dump-xml');
  await capture('alpha', 'drbdadm', 'dump-xml-web', 'drbdadm dump-xml web');
  await capture('alpha', 'drbdadm', 'adjust-dry-run-nothing-up', 'drbdadm --dry-run adjust web');
  await capture('alpha', 'drbdmeta', 'dump-md-empty', dumpMd);
  await capture('alpha', 'drbdmeta', 'dump-md-no-such-device', dumpMd.replace('web-0-md', 'nothing'));
  await capture('alpha', 'drbdadm', 'dump-md-empty', 'drbdadm dump-md web');
  await capture('alpha', 'drbdadm', 'status-not-up', 'drbdadm status web');
  await capture('alpha', 'drbdadm', 'adjust-without-meta-data', 'drbdadm adjust web');
  await alpha.sh('drbdadm down web');
  await capture('alpha', 'drbdadm', 'create-md', 'drbdadm create-md web </dev/null');
  await capture('alpha', 'drbdadm', 'create-md-again', 'drbdadm create-md web </dev/null');
  await capture('alpha', 'drbdmeta', 'dump-md-just-created', dumpMd);
  await capture('alpha', 'drbdadm', 'dump-md-just-created', 'drbdadm dump-md web');
  await beta.sh('drbdadm create-md web </dev/null');
}

async function resourceStates(): Promise<void> {
  await alpha.sh('drbdadm adjust web');
  await captureState('alpha', 'created-wfconnection-inconsistent');
  await capture('alpha', 'drbdmeta', 'dump-md-attached', dumpMd);
  await capture('alpha', 'drbdadm', 'adjust-dry-run-all-up', 'drbdadm --dry-run adjust web');
  await beta.sh('drbdadm adjust web');
  await alpha.waitFor('a connection', hasStatus('connection:Connected'));
  await captureState('alpha', 'connected-inconsistent-inconsistent');
  await alpha.sh('drbdadm new-current-uuid --clear-bitmap web/15');
  await captureState('alpha', 'connected-one-volume-uptodate');
  // Slow enough to be seen in the middle.
  await both('drbdadm disk-options --c-plan-ahead=0 --resync-rate=500K web');
  await alpha.sh('drbdadm primary --force web');
  await alpha.waitFor('some progress', "grep -Eq 'cs:SyncSource' /proc/drbd");
  await alpha.waitFor('some progress', hasStatus(' done:[1-9]'));
  await captureState('alpha', 'sync-source');
  await captureState('beta', 'sync-target');
  await both('drbdadm pause-sync web');
  await captureState('alpha', 'sync-paused');
  await both('drbdadm resume-sync web; drbdadm disk-options --c-plan-ahead=0 --resync-rate=100M web');
  await alpha.waitFor('the sync to end', "! grep -Eq 'Inconsistent|Sync' /proc/drbd");
  await captureState('alpha', 'primary-uptodate');
  await captureState('beta', 'secondary-of-primary-uptodate');
  await alpha.sh('drbdadm secondary web');
  await captureState('alpha', 'both-secondary-uptodate');
  await capture('alpha', 'drbdadm', 'adjust-dry-run-nothing-to-do', 'drbdadm --dry-run adjust web');
  await capture('alpha', 'drbdsetup', 'show', 'drbdsetup show web');
  await captureLvm('with-web');
  await capture('alpha', 'dmsetup', 'table-with-web', 'dmsetup table');
  await capture('alpha', 'dmsetup', 'info-c-with-web', 'dmsetup info -c');
  await capture('alpha', 'wipefs', 'drbd-flexible-external-md', 'wipefs --json /dev/vg0/remus-web-0-md');
  await capture('alpha', 'blkid', 'drbd-flexible-external-md', 'blkid -p -o export /dev/vg0/remus-web-0-md');
}

async function guestOnResource(): Promise<void> {
  const disks = ['vdev=xvda,access=w,script=block-drbd,target=web/0'];
  await alpha.write('/etc/xen/web.cfg', guestConfig({ name: 'web', disks, address: '10.0.0.10/24' }));
  const created = await alpha.sh('xl create /etc/xen/web.cfg', { check: false });
  if (created.code !== 0) {
    await alpha.write(
      '/etc/xen/web.cfg',
      guestConfig({ name: 'web', disks: [disks[0]!.replace('web/0', 'web')] }),
    );
    await alpha.sh('xl create /etc/xen/web.cfg');
  }
  await alpha.guest('web').waitUntilReady();
  await capture('alpha', 'xl-list', 'one-guest', 'xl list');
  await capture('alpha', 'xl-list', 'one-guest-verbose', 'xl list -v');
  await capture('alpha', 'xl-list', 'one-guest-long', 'xl list -l web');
  await capture('alpha', 'xenstore', 'vbd-of-block-drbd', 'xenstore-ls -f /local/domain/0/backend/vbd');
  await capture('alpha', 'xenstore', 'vif', 'xenstore-ls -f /local/domain/0/backend/vif');
  await capture('alpha', 'xenstore', 'guest-device', 'xenstore-ls -f "/local/domain/$(xl domid web)/device"');
  await captureState('alpha', 'primary-with-guest');
  await alpha.sh('xl pause web');
  await capture('alpha', 'xl-list', 'one-guest-paused', 'xl list');
  await alpha.sh('xl unpause web; xl shutdown -w web');
  await alpha.waitFor('demotion', hasStatus('web role:Secondary'));
}

async function brokenStates(): Promise<void> {
  await alpha.sh('drbdadm primary web');
  await alpha.sh('drbdadm disconnect web');
  await captureState('alpha', 'standalone');
  await beta.waitFor('the loss', hasStatus('connection:Connecting'));
  await captureState('beta', 'wfconnection-after-peer-disconnect');
  await alpha.sh('drbdadm connect web');
  await alpha.waitFor('a connection', "! grep -Eq 'Inconsistent|Sync|WF' /proc/drbd");
  await lab.link(false);
  await alpha.waitFor('the loss', "! grep -q 'cs:Connected' /proc/drbd");
  await captureState('alpha', 'link-cut-primary');
  await beta.waitFor('the loss', "! grep -q 'cs:Connected' /proc/drbd");
  await captureState('beta', 'link-cut-secondary');
  await alpha.sh('dd if=/dev/urandom of=/dev/drbd100 bs=64k count=4 oflag=direct');
  await captureState('alpha', 'link-cut-primary-out-of-sync');
  await lab.link(true);
  await alpha.waitFor('a connection', "! grep -Eq 'Inconsistent|Sync|WF' /proc/drbd");
  await beta.sh('drbdadm detach web');
  await captureState('beta', 'diskless-secondary');
  await captureState('alpha', 'peer-diskless');
  await beta.sh('drbdadm attach web');
  await beta.waitFor('the sync', hasStatus('disk:UpToDate'));
  await alpha.sh('drbdadm net-options --protocol=C --allow-two-primaries=yes web');
  await beta.sh('drbdadm net-options --protocol=C --allow-two-primaries=yes web; drbdadm primary web');
  await captureState('alpha', 'two-primaries');
  await beta.sh('drbdadm secondary web');
  await both('drbdadm net-options --protocol=A --allow-two-primaries=no web');
  // Both sides write while apart: a split brain.
  await alpha.sh('drbdadm disconnect web; dd if=/dev/urandom of=/dev/drbd100 bs=4k count=1 oflag=direct');
  await beta.sh('drbdadm disconnect web; drbdadm primary web');
  await beta.sh('dd if=/dev/urandom of=/dev/drbd100 bs=4k count=1 oflag=direct; drbdadm secondary web');
  await both('drbdadm connect web');
  await alpha.waitFor('the split brain', "grep -q 'cs:StandAlone' /proc/drbd");
  await captureState('alpha', 'split-brain');
  await captureState('beta', 'split-brain-peer');
  await capture('alpha', 'drbdmeta', 'dump-md-attached-forced-read-only', `${dumpMd} --force </dev/null`);
  await both('drbdadm down web');
  await capture('beta', 'drbdmeta', 'dump-md-valid-used', dumpMd);
  await capture('alpha', 'drbdmeta', 'dump-md-unclean', dumpMd);
  await alpha.sh('drbdadm apply-al web');
  await capture('alpha', 'drbdmeta', 'dump-md-valid-used-primary', dumpMd);
}

async function writeReadme(): Promise<void> {
  const version = async (command: string) => (await alpha.sh(command)).stdout.trim();
  const text = [
    '# Real output',
    '',
    'Captured in the lab by `scripts/lab/capture.ts`, never edited by hand. A file holds standard output and,',
    'where there was any, a line `[stderr]` and standard error.',
    '',
    `- kernel ${await version('uname -r')}, DRBD ${await version('cat /sys/module/drbd/version')}`,
    `- Xen ${await version("xl info | sed -n 's/^xen_version *: //p'")}`,
    `- ${await version("dpkg-query -W -f '${Package} ${Version}, ' drbd-utils lvm2 nodejs util-linux dmsetup")} Debian 12`,
    '',
    'The devices under DRBD are 4 KiB shorter than their logical volumes, because DRBD 8.4 drops the last',
    '64 bits of the bitmap at attach where the size is a multiple of 256 KiB.',
    '',
    '| file | host | command | exit code |',
    '| --- | --- | --- | --- |',
    ...rows.sort(),
    '',
  ].join('\n');
  writeFileSync(join(target, 'README.md'), text);
}

const parts = [plainHost, signatures, makeVolumes, metaData, resourceStates, guestOnResource, brokenStates];
const words = process.argv.slice(2);
await lab.reserve(console.log);
if (words.length === 0) rmSync(target, { recursive: true, force: true });
for (const part of parts) {
  if (words.length > 0 && !words.includes(part.name)) continue;
  console.log(`capture: ${part.name}`);
  await part();
}
if (words.length === 0) await writeReadme();
console.log(`capture: ${rows.length} files`);
