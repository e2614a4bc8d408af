/**
 * block-drbd beside the distribution's script of the same name: what `add` and `remove` of one disk take, on a tree of
 * fakes in which xenstore and DRBD answer at once, so that what is measured is the scripts themselves and the processes
 * that they start. On a host each call of drbdadm costs its own time besides; the counts of those are printed.
 *
 * The distribution's scripts come out of Debian's packages drbd-utils and xen-utils-common, fetched into a temporary
 * folder for the run (`apt-get download`); only their paths are changed there.
 *
 *   node --import tsx bench/hotplug.ts [ROUNDS]
 */
import { execFileSync } from 'node:child_process';
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { HostTree, shells } from '../test/host/hosttree.js';
import type { Shell } from '../test/host/hosttree.js';

const [rounds = 20] = process.argv.slice(2).map(Number);
const DISK = 'backend/vbd/7/51712';
const MINOR = 7790;
const ENVIRONMENT = {
  XENBUS_PATH: DISK,
  XENBUS_TYPE: 'vbd',
  XENBUS_BASE_PATH: 'backend',
  script: '/etc/xen/scripts/block-drbd',
  PATH: '/usr/bin:/bin',
};

interface Candidate {
  name: string;
  host: HostTree;
  shell: Shell;
  script: string;
  addMs: number[];
  removeMs: number[];
  processes: string[];
}

function makeHost(): HostTree {
  const host = new HostTree();
  host.fake('fake-tool', ['xenstore-list']);
  host.answer('xenstore-list', 'exit 0');
  for (const role of ['Primary', 'Secondary']) host.write(`as-${role}`, drbdState(role));
  host.write(`sys/class/block/drbd${MINOR}/dev`, `147:${MINOR}\n`);
  host.write(`dev/drbd${MINOR}`, `93:${MINOR.toString(16)}\n`);
  host.answer('drbdsetup', 'cat "$root/events2"');
  host.answer('drbdadm-role', 'read -r role <"$root/role"; echo "$role/Secondary"');
  host.answer('drbdadm-sh-dev', `echo "$root/dev/drbd${MINOR}"`);
  const become = (role: string): string =>
    `echo ${role} >"$root/role"; /bin/cat "$root/as-${role}" >"$root/events2"; ` +
    `/bin/cat "$root/proc-${role}" >"$root/proc/drbd"`;
  for (const role of ['Primary', 'Secondary']) {
    host.write(
      `proc-${role}`,
      `version: 8.4.11 (api:1/proto:86-101)\nsrcversion: 0123456789ABCDEF\n\n ${MINOR}: cs:Connected ro:${role}/Secondary ds:UpToDate/UpToDate A r-----\n    ns:0 nr:0 dw:0 dr:664 al:0 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:f oos:0\n`,
    );
    host.answer(`drbdadm-${role.toLowerCase()}`, become(role));
  }
  return host;
}

function drbdState(role: string): string {
  return `exists resource name:web role:${role} suspended:no
exists connection name:web peer-node-id:0 conn-name:peer connection:Connected role:Secondary
exists device name:web volume:0 minor:${MINOR} disk:UpToDate
exists peer-device name:web peer-node-id:0 conn-name:peer volume:0 replication:Established
exists -
`;
}

function ours(): Candidate {
  const host = makeHost();
  const [shell] = shells;
  if (shell === undefined) throw new Error('there is no shell');
  host.write('etc/remus-drbd/devices/web', '0 remus-web-0 /dev/vg0/remus-web-0\n');
  const script = host.install('block-drbd', 'etc/xen/scripts/block-drbd');
  return { name: 'ours', host, shell, script, addMs: [], removeMs: [], processes: [] };
}

/** The scripts of Debian's packages, with the tree in the place of the root. */
function distribution(folder: string): Candidate {
  const host = makeHost();
  execFileSync('apt-get', ['download', '-q', 'drbd-utils', 'xen-utils-common'], {
    cwd: folder,
    stdio: 'ignore',
  });
  for (const name of readdirSync(folder))
    execFileSync('dpkg-deb', ['-x', join(folder, name), join(folder, 'root')]);
  const scripts = join(folder, 'root/etc/xen/scripts');
  for (const name of readdirSync(scripts).filter((each) =>
    /^(block-(common\.sh|drbd)|[a-z-]+\.sh)$/.test(each),
  )) {
    const text = readFileSync(join(scripts, name), 'utf8')
      .replaceAll('/var/', `${host.root}/var/`)
      .replace('bindir="/usr/bin"', `bindir="${host.root}/usr/bin"`)
      .replace('PATH=/usr/sbin:/sbin:$PATH', 'PATH=$PATH:/usr/sbin:/sbin');
    host.write(`etc/xen/scripts/${name}`, text);
    chmodSync(join(host.root, 'etc/xen/scripts', name), 0o755);
  }
  const script = join(host.root, 'etc/xen/scripts/block-drbd');
  return {
    ...{ name: "distribution's", host, script, shell: { name: 'bash', command: ['/bin/bash'] } },
    ...{ addMs: [], removeMs: [], processes: [] },
  };
}

function round({ name, host, shell, script, addMs, removeMs, processes }: Candidate): void {
  host.answer('drbdadm', 'exit 1');
  const values = {
    type: 'phy',
    params: name === 'ours' ? 'web/0' : 'web',
    mode: 'w',
    state: '2',
    'frontend-id': '7',
  };
  host.write('xenstore', '');
  host.setXenstore(
    Object.fromEntries(Object.entries(values).map(([key, value]) => [`${DISK}/${key}`, value])),
  );
  for (const [path, from] of [
    ['role', ''],
    ['events2', 'as-Secondary'],
    ['proc/drbd', 'proc-Secondary'],
  ] as const) {
    host.write(path, from === '' ? 'Secondary\n' : host.read(from));
  }
  host.forgetCalls();
  for (const [command, times] of [
    ['add', addMs],
    ['remove', removeMs],
  ] as const) {
    const startedMs = performance.now();
    const { status, stderr } = host.run(shell, script, [command], ENVIRONMENT);
    times.push(performance.now() - startedMs);
    const role = host.read('role').trim();
    const expected = command === 'add' ? 'Primary' : 'Secondary';
    const connected = host.xenstore(`${DISK}/hotplug-status`) === 'connected';
    if (status !== 0 || role !== expected || (command === 'add' && !connected)) {
      const log = host.has('var/log/xen/xen-hotplug.log') ? host.read('var/log/xen/xen-hotplug.log') : '';
      throw new Error(`${name} ${command}: status ${status}, DRBD is ${role}: ${stderr} ${log}`);
    }
  }
  processes.splice(0, processes.length, ...host.calls().map((call) => call.split(' ').slice(0, 2).join(' ')));
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? NaN;
}

const folder = mkdtempSync(join(tmpdir(), 'remus-hotplug-'));
const candidates: Candidate[] = [ours()];
try {
  candidates.push(distribution(folder));
  for (let n = 0; n < rounds; n++) for (const candidate of candidates) round(candidate);
  const [mine, theirs] = candidates as [Candidate, Candidate];
  for (const command of ['add', 'remove'] as const) {
    const [a, b] = [median(mine[`${command}Ms`]), median(theirs[`${command}Ms`])];
    console.log(
      `${command}: ours ${a.toFixed(1)} ms, the distribution's ${b.toFixed(1)} ms (medians of ${rounds}): ratio ${(a / b).toFixed(2)}`,
    );
  }
  for (const { name, processes } of candidates) {
    const drbd = processes.filter((call) => call.startsWith('drbd'));
    console.log(
      `${name}: ${processes.length} fakes called for both, of DRBD's ${drbd.length}: ${drbd.join(', ')}`,
    );
  }
} finally {
  for (const { host } of candidates) host.close();
  rmSync(folder, { recursive: true, force: true });
}
