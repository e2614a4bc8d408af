/**
 * The points of `check` that are about a host's software: Xen, kernel, DRBD, Node.js, packages, modules, the
 * files of others that setup touches; and whether the two hosts of a pair fit together.
 */
import { finding, type Finding } from './check.js';
import { type HostFacts, REQUIRED_PACKAGES, requiredModules, XEN_SCRIPTS } from './facts.js';
import type { ReachAnswer } from './claim/types.js';
import type { Arbiter, DomainLayout, Engine, Pair } from './model.js';
import { mapperPath, Paths } from './names.js';
import { isRefused } from './parse/lvm-filter.js';
import { arbiterAdvice } from './setup/ssh.js';

/** The oldest versions that this was tried with (LAB: Debian 12), or that are known to have what is used. */
const XEN_MIN = '4.17';
const KERNEL_MIN = '6.1';
const NODE_MIN = '18.19';
const DRBD_UTILS_MIN = '9.0';
const DRBD_UTILS_TRIED = '9.22';
/** Of what dom0 has left, for the receiver with its index and for the tools. */
export const DOM0_AVAILABLE_MIN_BYTES = 256 * 2 ** 20;
/** Modules that only the epoch journal needs; with protocol D the module buffers by itself. */

/**
 * Compares the leading numbers of two versions: `4.17.6-pre` is after `4.17`.
 *
 * @returns less than, equal to, or more than 0
 */
export function compareVersions(a: string, b: string): number {
  const numbers = (version: string): number[] =>
    (/^[0-9]+(?:\.[0-9]+)*/.exec(version)?.[0] ?? '').split('.').map(Number);
  const [left, right] = [numbers(a), numbers(b)];
  for (let index = 0; index < Math.max(left.length, right.length); index++) {
    const difference = (left[index] ?? 0) - (right[index] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}

/** Points of one host that a root session looked at. */
export function hostFindings(facts: HostFacts, layouts: readonly DomainLayout[]): Finding[] {
  const engine = layouts[0]?.domain.engine ?? 'journal';
  return [
    nodeNameFinding(facts),
    architectureFinding(facts),
    kernelFinding(facts),
    xenFinding(facts),
    packagesFinding(facts),
    modulesFinding(facts, engine),
    drbdModuleFinding(facts, engine),
    drbdUtilsFinding(facts),
    nodeFinding(facts),
    dom0MemoryFinding(facts),
    timeSyncFinding(facts),
    globalFileFinding(facts),
    ...XEN_SCRIPTS.map((path) => scriptFinding(facts, path)),
    drbdConfigurationFinding(facts, engine),
    drbdServiceFinding(facts),
    lvmFilterFinding(facts, layouts),
  ];
}

function nodeNameFinding({ host, nodeName }: HostFacts): Finding {
  return finding(
    'host-name',
    nodeName === host ? 'pass' : 'fail',
    `uname -n prints "${nodeName}"`,
    `"${host}", because DRBD finds its own section by it`,
    `call the host "${nodeName}" in the configuration, or rename it: hostnamectl set-hostname ${host}`,
  );
}

function architectureFinding({ architecture }: HostFacts): Finding {
  return finding(
    'architecture',
    architecture === 'x86_64' ? 'pass' : 'fail',
    architecture,
    'x86_64, the only one that Xen can protect guests on',
    'take another host',
  );
}

function kernelFinding({ kernelRelease }: HostFacts): Finding {
  return finding(
    'kernel',
    compareVersions(kernelRelease, KERNEL_MIN) >= 0 ? 'pass' : 'warn',
    kernelRelease,
    `${KERNEL_MIN} or later (older ones were not tried)`,
    "install the distribution's current kernel and boot it",
  );
}

function xenFinding({ xen }: HostFacts): Finding {
  const needed = `Xen ${XEN_MIN} or later, running`;
  if (!xen.known) {
    return xen.cause === 'not-installed'
      ? finding('xen', 'fail', xen.reason, needed, 'apt install xen-system-amd64, and boot into Xen')
      : finding(
          'xen',
          'fail',
          `xl info: ${xen.reason}`,
          needed,
          "boot the host into Xen (the boot menu's Xen entry)",
        );
  }
  return finding(
    'xen',
    compareVersions(xen.value.version, XEN_MIN) >= 0 ? 'pass' : 'fail',
    `Xen ${xen.value.version}`,
    needed,
    'upgrade to Debian 12 or later',
  );
}

function packagesFinding({ packages }: HostFacts): Finding {
  const needed = REQUIRED_PACKAGES.join(', ');
  if (!packages.known) {
    return finding('packages', 'fail', `dpkg-query: ${packages.reason}`, needed, 'use a Debian host');
  }
  const installed = Object.keys(packages.value);
  const missing = REQUIRED_PACKAGES.filter((name) =>
    name.endsWith('*')
      ? !installed.some((one) => one.startsWith(name.slice(0, -1)))
      : !installed.includes(name),
  );
  const install = missing.map((name) => (name.endsWith('*') ? 'xen-system-amd64' : name));
  return finding(
    'packages',
    missing.length === 0 ? 'pass' : 'fail',
    missing.length === 0 ? 'all installed' : `not installed: ${missing.join(', ')}`,
    needed,
    `apt install ${install.join(' ')}`,
  );
}

function modulesFinding({ loadedModules, availableModules }: HostFacts, engine: Engine): Finding {
  const required = requiredModules(engine);
  const needed = `kernel modules ${required.join(', ')}`;
  const available = availableModules.known ? availableModules.value : {};
  const missing = required.filter((name) => !loadedModules.includes(name) && !Object.hasOwn(available, name));
  if (missing.length > 0 && !availableModules.known) {
    return finding('modules', 'fail', `modinfo: ${availableModules.reason}`, needed, 'apt install kmod');
  }
  return finding(
    'modules',
    missing.length === 0 ? 'pass' : 'fail',
    missing.length === 0 ? 'all loaded or to be had' : `not to be had: ${missing.join(', ')}`,
    needed,
    "boot a kernel that has them (Debian's linux-image-amd64 does), or install its modules",
  );
}

/** The version of the module in the kernel, or of the one that would be loaded. */
export function drbdVersion({ drbdModule, availableModules }: HostFacts): string | undefined {
  return drbdModule ?? (availableModules.known ? availableModules.value['drbd']?.version : undefined);
}

/** `8.3`, `8.4` or `9`: within one of them both sides speak the same protocol and meta-data. */
export function drbdFamily(version: string): string {
  const [major = '', minor = ''] = version.split('.');
  return major === '8' ? `8.${minor}` : major;
}

function drbdModuleFinding(facts: HostFacts, engine: Engine): Finding {
  const needed = engine === 'protocol-d' ? 'DRBD 8.3 with protocol D' : 'DRBD 8.4 or 9';
  const version = drbdVersion(facts);
  if (version === undefined) {
    return finding(
      'drbd',
      'fail',
      'no DRBD module',
      needed,
      "boot a kernel that has it; Debian's has DRBD 8.4",
    );
  }
  const families = engine === 'protocol-d' ? ['8.3'] : ['8.4', '9'];
  return finding(
    'drbd',
    families.includes(drbdFamily(version)) ? 'pass' : 'fail',
    `DRBD ${version}${facts.drbdModule === undefined ? ' (not loaded yet)' : ''}`,
    needed,
    engine === 'protocol-d'
      ? 'load the module with protocol D, or leave "engine: protocol-d" away'
      : "load the module of the distribution's kernel",
  );
}

function drbdUtilsFinding({ drbdUtils }: HostFacts): Finding {
  const needed = `drbd-utils ${DRBD_UTILS_TRIED} or later`;
  const mend = 'apt install drbd-utils';
  if (!drbdUtils.known) return finding('drbd-utils', 'fail', `drbdadm: ${drbdUtils.reason}`, needed, mend);
  const version = drbdUtils.value;
  const verdict =
    compareVersions(version, DRBD_UTILS_MIN) < 0
      ? 'fail'
      : compareVersions(version, DRBD_UTILS_TRIED) < 0
        ? 'warn'
        : 'pass';
  return finding(
    'drbd-utils',
    verdict,
    `drbd-utils ${version}`,
    needed,
    `${mend}; older ones were not tried`,
  );
}

function nodeFinding({ node }: HostFacts): Finding {
  const needed = `Node.js ${NODE_MIN} or later`;
  const mend = 'apt install nodejs (Debian 12 or later has it)';
  if (!node.known) return finding('node', 'fail', node.reason, needed, mend);
  const verdict = compareVersions(node.value, NODE_MIN) >= 0 ? 'pass' : 'fail';
  return finding('node', verdict, `Node.js ${node.value}`, needed, mend);
}

function dom0MemoryFinding({ memory }: HostFacts): Finding {
  return finding(
    'dom0-memory',
    memory.availableBytes >= DOM0_AVAILABLE_MIN_BYTES ? 'pass' : 'warn',
    `${mebibytes(memory.availableBytes)} of ${mebibytes(memory.totalBytes)} available in dom0`,
    `${mebibytes(DOM0_AVAILABLE_MIN_BYTES)} for the receiver and its index`,
    "give dom0 more memory (dom0_mem on Xen's command line)",
  );
}

/** For amounts where a fraction of a MiB doesn't matter. */
export function mebibytes(bytes: number): string {
  return `${Math.round(bytes / 2 ** 20)} MiB`;
}

function timeSyncFinding({ timeSynchronised }: HostFacts): Finding {
  const needed = 'a clock that is kept right, so that logs of both hosts can be compared';
  const mend = 'apt install chrony, or systemd-timesyncd';
  if (!timeSynchronised.known) {
    return finding('time-sync', 'warn', `not known: ${timeSynchronised.reason}`, needed, mend);
  }
  return finding(
    'time-sync',
    timeSynchronised.value ? 'pass' : 'warn',
    timeSynchronised.value ? 'synchronised' : 'not synchronised',
    needed,
    mend,
  );
}

/** Whether setup has put the distribution's file aside already. */
function isDiverted({ diversions }: HostFacts, path: string): boolean {
  return diversions.known && diversions.value.some((diversion) => diversion.path === path);
}

type FileOrigin = 'ours' | 'none' | 'packaged' | 'changed' | 'unknown';

function originOf(facts: HostFacts, path: string): FileOrigin {
  if (isDiverted(facts, path)) return 'ours';
  const digest = facts.files[path];
  if (digest === undefined) return 'none';
  if (!facts.packagedFiles.known || !facts.diversions.known) return 'unknown';
  return facts.packagedFiles.value[path] === digest ? 'packaged' : 'changed';
}

const ORIGIN_TEXT: Readonly<Record<FileOrigin, string>> = {
  ours: "ours, with the distribution's kept aside",
  none: 'there is none',
  packaged: 'as the package ships it',
  changed: 'not as the package ships it',
  unknown: 'not known: dpkg could not be asked',
};

function globalFileFinding(facts: HostFacts): Finding {
  const path = Paths.drbdGlobal;
  const origin = originOf(facts, path);
  return finding(
    'drbd-global',
    origin === 'changed' || origin === 'unknown' ? 'warn' : 'pass',
    `${path}: ${ORIGIN_TEXT[origin]}`,
    'one as the package ships it, which setup replaces by its own and teardown restores',
    'a changed one is left as it is and what it sets holds for our resources too: look that its common section ' +
      'sets no protocol, handlers or sizes that contradict what "remus-drbd render" writes',
  );
}

function scriptFinding(facts: HostFacts, path: string): Finding {
  const origin = originOf(facts, path);
  const name = path.slice(path.lastIndexOf('/') + 1);
  return finding(
    name,
    origin === 'changed' || origin === 'unknown' ? 'warn' : 'pass',
    `${path}: ${ORIGIN_TEXT[origin]}`,
    'one as the package ships it, which setup replaces by its own and teardown restores',
    'setup keeps this one aside and uses its own; carry over by hand what was changed in it, if other guests need it',
  );
}

function drbdConfigurationFinding(facts: HostFacts, engine: Engine): Finding {
  const { drbdConfigured } = facts;
  const needed = 'a DRBD configuration that drbdadm can read, or none';
  if (drbdConfigured.known) {
    const { length } = drbdConfigured.value;
    return finding(
      'drbd-configuration',
      'pass',
      `${length} resource${length === 1 ? '' : 's'} configured`,
      needed,
      '',
    );
  }
  // The package's own file is for 8.4 and 9.
  const isPackaged = originOf(facts, Paths.drbdGlobal) === 'packaged';
  if (
    engine === 'protocol-d' &&
    isPackaged &&
    drbdConfigured.reason.startsWith('drbd.d/global_common.conf:')
  ) {
    const found = `DRBD 8.3 can't read ${Paths.drbdGlobal} as the package ships it`;
    return finding('drbd-configuration', 'warn', found, needed, 'setup puts its own in its place');
  }
  return finding(
    'drbd-configuration',
    'fail',
    `drbdadm dump-xml: ${drbdConfigured.reason}`,
    needed,
    'mend the file that it names: with one broken file drbdadm does nothing for any resource',
  );
}

/** The distribution's unit, which takes all resources up at boot and down again, ours too. */
function drbdServiceFinding({ units }: HostFacts): Finding {
  const id = 'drbd-service';
  const needed = 'drbd.service not enabled: remus-drbd@ brings our resources up';
  if (!units.known)
    return finding(id, 'warn', `systemctl: ${units.reason}`, needed, 'use a host with systemd');
  const state = units.value['drbd.service']?.fileState ?? '';
  const enabled = state.startsWith('enabled');
  return finding(
    id,
    enabled ? 'warn' : 'pass',
    state === '' ? 'there is none' : state,
    needed,
    'systemctl disable drbd.service, unless resources of others need it: it would also bring ours up where their ' +
      'journal could not be recovered, and stopping it takes them away from under running guests',
  );
}

/** What guests have on their disks is theirs: a volume group in there must never be activated in dom0. */
function lvmFilterFinding({ lvmFilters }: HostFacts, layouts: readonly DomainLayout[]): Finding {
  const id = 'lvm-filter';
  const needed = "LVM in dom0 leaves the guests' disks alone";
  const mend =
    'in /etc/lvm/lvm.conf, section devices: global_filter = [ "r|^/dev/drbd|", "r|^/dev/mapper/remus-|" ] ' +
    "(with what is in it already, and no a|.*| behind it), else dom0 takes a guest's own volume group for one of its own";
  if (!lvmFilters.known) return finding(id, 'warn', `lvmconfig: ${lvmFilters.reason}`, needed, mend);
  const filters = lvmFilters.value;
  const devices = layouts.flatMap(({ domain, volumes }) =>
    volumes.flatMap(({ minor, volume, mapper }) => {
      const drbd = [`/dev/drbd${minor}`, `/dev/drbd/by-res/${domain.name}/${volume}`];
      return [drbd, [mapperPath(mapper), `/dev/disk/by-id/dm-name-${mapper}`]];
    }),
  );
  const taken = devices.filter((names) => isRefused(filters, names) !== true).map(([path]) => path);
  return finding(
    id,
    taken.length === 0 ? 'pass' : 'warn',
    taken.length === 0
      ? 'its filters refuse them'
      : `its filters let through: ${taken.slice(0, 4).join(', ')}`,
    needed,
    mend,
  );
}

/** What a host says of its pair's arbiter. */
export function arbiterReachFinding(arbiter: Arbiter, answer: ReachAnswer, facts: HostFacts): Finding {
  return finding(
    'arbiter-reach',
    answer.reached ? 'pass' : 'fail',
    answer.reached ? answer.detail : answer.reason,
    'an arbiter that this host can ask: while it can’t, nothing goes on after a loss',
    arbiter.kind === 'ssh' && facts.sshPublicKey.known
      ? `mend what the reason says; if it lets nobody in: ${arbiterAdvice(arbiter, facts.host, facts.sshPublicKey.value)}`
      : 'mend what the reason says, from this host',
  );
}

/** Whether the two hosts fit together, and the pair's arbiter. Of a host that wasn't reached nothing is said. */
export function pairFindings(pair: Pair, reached: readonly HostFacts[]): Finding[] {
  const findings = [arbiterFinding(pair)];
  const [a, b] = reached;
  if (!a || !b) return findings;
  const both = (left: string, right: string): string =>
    left === right ? `${left} on both` : `${left} on ${a.host}, ${right} on ${b.host}`;

  if (a.xen.known && b.xen.known) {
    const [left, right] = [a.xen.value, b.xen.value];
    findings.push(
      finding(
        'xen-fits',
        release(left.version) === release(right.version) ? 'pass' : 'fail',
        both(`Xen ${left.version}`, `Xen ${right.version}`),
        'the same release of Xen on both: the parts swap, and a guest can only move to the same or a later one',
        'upgrade the older host',
      ),
      finding(
        'cpu-fits',
        left.cpuFeatures === right.cpuFeatures ? 'pass' : 'warn',
        left.cpuFeatures === right.cpuFeatures ? 'the same CPU features on both' : 'CPU features differ',
        'the same on both: a guest that uses a feature crashes on a host without it',
        'limit the guests with cpuid= in their configuration to what both hosts have ("hw_caps" in xl info)',
      ),
    );
  }
  const [left, right] = [drbdVersion(a), drbdVersion(b)];
  if (left !== undefined && right !== undefined) {
    findings.push(
      finding(
        'drbd-fits',
        drbdFamily(left) === drbdFamily(right) ? 'pass' : 'fail',
        both(`DRBD ${left}`, `DRBD ${right}`),
        'the same on both: 8.4 or 9',
        'load the same version on both hosts',
      ),
    );
  }
  if (a.drbdUtils.known && b.drbdUtils.known) {
    findings.push(
      finding(
        'drbd-utils-fit',
        release(a.drbdUtils.value) === release(b.drbdUtils.value) ? 'pass' : 'warn',
        both(`drbd-utils ${a.drbdUtils.value}`, `drbd-utils ${b.drbdUtils.value}`),
        'the same release on both',
        'upgrade the older host',
      ),
    );
  }
  return findings;
}

/** `4.17` of `4.17.6-pre`. */
function release(version: string): string {
  return version.split('.').slice(0, 2).join('.');
}

function arbiterFinding({ arbiter }: Pair): Finding {
  const needed = 'an arbiter that decides by itself who goes on: etcd, ssh or fence';
  switch (arbiter.kind) {
    case 'unsafe-may-split':
      return finding(
        'arbiter',
        'warn',
        'none, and each host goes on alone after a cut',
        needed,
        'name one; until then both copies of a guest can run at once, and one of them will be thrown away',
      );
    case 'operator':
      return finding(
        'arbiter',
        'warn',
        'the operator',
        needed,
        'name one, or be ready to decide: after a loss nothing goes on before "remus-drbd failover" or "continue"',
      );
    case 'etcd':
    case 'ssh':
    case 'fence':
      return finding('arbiter', 'pass', arbiter.kind, needed, '');
  }
}
