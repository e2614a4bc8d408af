/**
 * `check` on a pair of hosts with nothing wrong, and on hosts that are broken in one place each: the point,
 * its verdict, what it says was found and what to do.
 */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { check, checkExitCode, type CheckResult } from '../../src/core/check.js';
import { compareVersions } from '../../src/core/check-host.js';
import { guestMemoryBytes } from '../../src/core/check-guest.js';
import { sameAddress } from '../../src/core/check-network.js';
import type { GuestFacts } from '../../src/core/check.js';
import type { DmDevice, HostFacts, RunningResource } from '../../src/core/facts.js';
import { Paths } from '../../src/core/names.js';
import {
  type CheckInput,
  failed,
  GIB,
  goodInput,
  goodLv,
  known,
  layoutsOf,
  MIB,
  notInstalled,
  readingsOf,
  valueOf,
} from './check-hosts.js';

const test = suite('check');

function run(input: CheckInput): CheckResult[] {
  return check(input.config.pairs, layoutsOf(input), input.guests, readingsOf(input), input.measurements);
}

function guestOf(input: CheckInput): GuestFacts {
  const reading = input.guests['web'];
  if (reading?.readable !== true) throw new Error('the guest is readable at first');
  return reading.guest;
}

/** The domain's resource as it runs after setup. */
function runningWeb(): RunningResource {
  return {
    name: 'web',
    role: 'Secondary',
    suspended: 'no',
    volumes: {
      0: { volume: 0, minor: 1000, disk: 'UpToDate' },
      1: { volume: 1, minor: 1001, disk: 'UpToDate' },
      15: { volume: 15, minor: 1015, disk: 'UpToDate' },
    },
    connections: [],
  };
}

test('a pair with nothing wrong passes in every point', () => {
  const input = goodInput();
  const results = run(input);
  assert.equal(
    results.filter((result) => result.verdict !== 'pass'),
    [],
  );
  assert.ok(results.every((result) => result.found !== '' && result.needed !== '' && result.mend === ''));
  assert.is(checkExitCode(results, readingsOf(input)), 0);
  // A point that is never made passes too, so they are counted: each host has all of these.
  for (const host of ['alpha', 'beta']) {
    const ids = new Set(results.filter((result) => result.host === host).map((result) => result.id));
    for (const id of [
      'reachable',
      'root',
      'host-name',
      'architecture',
      'kernel',
      'xen',
      'packages',
      'modules',
      'drbd',
      'drbd-utils',
      'node',
      'dom0-memory',
      'time-sync',
      'drbd-global',
      'block-drbd',
      'block-drbd-probe',
      'drbd-configuration',
      'drbd-service',
      'lvm-filter',
      'arbiter-reach',
      'memory',
      'replication-address',
      'clock',
      'round-trip',
      'throughput',
      'volume-group',
      'lv',
      'lv-use',
      'data',
      'drbd-resources',
      'port',
      'guest-type',
      'guest-kernel',
      'guest-ramdisk',
      'pin-cpus',
    ]) {
      assert.ok(ids.has(id), `${id} on ${host}`);
    }
  }
});

test('the pair as setup leaves it passes too', () => {
  const input = goodInput();
  for (const facts of [input.alpha, input.beta]) {
    const tags = ['remus-drbd'];
    const lv = (name: string, sizeBytes: number, device: string): ReturnType<typeof goodLv> => ({
      ...goodLv(),
      name,
      sizeBytes,
      tags,
      device,
      open: true,
    });
    facts.logicalVolumes = known([
      { ...goodLv(), open: true, sizeBytes: 2 * GIB + 4 * MIB, tags: [`remus-drbd.data=${2 * GIB}`] },
      lv('remus-web-0', GIB + 4 * MIB, '254:4'),
      lv('remus-web-0-md', 4 * MIB, '254:5'),
      lv('remus-web-1-md', 4 * MIB, '254:6'),
      lv('remus-web-barrier', 4 * MIB, '254:7'),
      lv('remus-web-barrier-md', 4 * MIB, '254:8'),
      lv('remus-web-journal', GIB, '254:9'),
    ]);
    facts.volumeGroups = known([{ name: 'vg0', sizeBytes: 4 * GIB, freeBytes: 0, extentBytes: 4 * MIB }]);
    facts.drbdRunning = known([runningWeb()]);
    facts.drbdConfigured = known([
      {
        name: 'web',
        file: '/etc/drbd.d/remus-web.res',
        line: 1,
        hosts: [
          {
            name: facts.host,
            address: { family: 'ipv4', address: '10.0.0.1', port: 7790 },
            volumes: [{ volume: 0, minor: 1000, disk: '/dev/mapper/remus-web-0' }],
          },
        ],
      },
    ]);
    facts.listeners = known([
      { address: '10.0.0.1', port: 7790 },
      { address: '10.0.0.1', port: 7791 },
    ]);
    const dm = (name: string, target: string): DmDevice => ({
      name,
      device: '254:20',
      openCount: 1,
      suspended: false,
      segments: [{ startSector: 0, sectors: 8, kind: 'linear', target: { device: target, offsetSector: 0 } }],
    });
    // On the backup the tables point at the journal's NBD devices.
    facts.dm = known([
      dm('remus-web-0', facts.host === 'alpha' ? '254:4' : '43:0'),
      dm('remus-web-1', facts.host === 'alpha' ? '254:3' : '43:1'),
      dm('remus-web-barrier', '254:7'),
    ]);
    facts.diversions = known(
      [
        '/etc/xen/scripts/block-drbd',
        '/etc/xen/scripts/block-drbd-probe',
        '/etc/drbd.d/global_common.conf',
      ].map((path) => ({ path, divertedTo: `${path}.distrib` })),
    );
    facts.files = { '/etc/xen/scripts/block-drbd': 'f'.repeat(32) };
  }
  valueOf(input.alpha.guests).push({ name: 'web', id: 1, memoryBytes: 512 * MIB, vcpus: 1, state: '-b----' });
  valueOf(input.beta.guests).push({
    name: 'web--incoming',
    id: 1,
    memoryBytes: 512 * MIB,
    vcpus: 1,
    state: '--p---',
  });
  valueOf(input.alpha.xen).freeMemoryBytes = 0;
  valueOf(input.beta.xen).freeMemoryBytes = 0;
  assert.equal(
    run(input).filter((result) => result.verdict !== 'pass'),
    [],
  );
});

interface Case {
  title: string;
  /** Breaks one thing. */
  change: (input: CheckInput) => void;
  id: string;
  verdict: 'warn' | 'fail';
  host?: 'alpha' | 'beta';
  domain?: 'web';
  found: RegExp;
  mend: RegExp;
  /** Other points that follow from the same thing. */
  also?: string[];
}

const onBeta = (change: (facts: HostFacts) => void): ((input: CheckInput) => void) => {
  return (input) => change(input.beta);
};

const CASES: Case[] = [
  // --- Host ---
  {
    title: 'a host that cannot be reached',
    change: (input) => {
      input.hosts = { beta: { reached: false, cause: 'unreachable', reason: 'beta: connect ECONNREFUSED' } };
      input.measurements = { links: [], clocks: {} };
    },
    id: 'reachable',
    verdict: 'fail',
    host: 'beta',
    found: /ECONNREFUSED/,
    mend: /nothing else on this host was checked/,
  },
  {
    title: 'a user that is not root',
    change: onBeta((facts) => (facts.uid = 1000)),
    id: 'root',
    verdict: 'fail',
    host: 'beta',
    found: /uid 1000/,
    mend: /connect as root/,
  },
  {
    title: 'another host name',
    change: onBeta((facts) => (facts.nodeName = 'beta.example.org')),
    id: 'host-name',
    verdict: 'fail',
    host: 'beta',
    found: /uname -n prints "beta\.example\.org"/,
    mend: /call the host "beta\.example\.org" in the configuration/,
  },
  {
    title: 'another architecture',
    change: onBeta((facts) => (facts.architecture = 'aarch64')),
    id: 'architecture',
    verdict: 'fail',
    host: 'beta',
    found: /aarch64/,
    mend: /another host/,
  },
  {
    title: 'an old kernel',
    change: onBeta((facts) => (facts.kernelRelease = '5.10.0-30-amd64')),
    id: 'kernel',
    verdict: 'warn',
    host: 'beta',
    found: /5\.10\.0-30-amd64/,
    mend: /current kernel/,
  },
  {
    title: 'no Xen tools',
    change: onBeta((facts) => (facts.xen = notInstalled('xl'))),
    id: 'xen',
    verdict: 'fail',
    host: 'beta',
    found: /xl is not installed/,
    mend: /apt install xen-system-amd64/,
  },
  {
    title: 'a host that runs without Xen',
    change: onBeta(
      (facts) => (facts.xen = failed('Could not obtain handle on privileged command interface')),
    ),
    id: 'xen',
    verdict: 'fail',
    host: 'beta',
    found: /xl info: Could not obtain handle/,
    mend: /boot the host into Xen/,
  },
  {
    title: 'an old Xen on both',
    change: ({ alpha, beta }) => {
      for (const facts of [alpha, beta]) valueOf(facts.xen).version = '4.14.6';
    },
    id: 'xen',
    verdict: 'fail',
    host: 'beta',
    found: /Xen 4\.14\.6/,
    mend: /Debian 12/,
    also: ['xen'],
  },
  {
    title: 'different releases of Xen',
    change: onBeta((facts) => (valueOf(facts.xen).version = '4.20.0')),
    id: 'xen-fits',
    verdict: 'fail',
    found: /Xen 4\.17\.6-pre on alpha, Xen 4\.20\.0 on beta/,
    mend: /upgrade the older/,
  },
  {
    title: 'different CPUs',
    change: onBeta((facts) => (valueOf(facts.xen).cpuFeatures = '178bfbff:82982203')),
    id: 'cpu-fits',
    verdict: 'warn',
    found: /CPU features differ/,
    mend: /cpuid=/,
  },
  {
    title: 'a package that is missing',
    change: onBeta((facts) => delete valueOf(facts.packages)['drbd-utils']),
    id: 'packages',
    verdict: 'fail',
    host: 'beta',
    found: /not installed: drbd-utils/,
    mend: /^apt install drbd-utils$/,
  },
  {
    title: 'no Xen utilities of any version',
    change: onBeta((facts) => delete valueOf(facts.packages)['xen-utils-4.17']),
    id: 'packages',
    verdict: 'fail',
    host: 'beta',
    found: /not installed: xen-utils-4\*/,
    mend: /^apt install xen-system-amd64$/,
  },
  {
    title: 'a host that is not Debian',
    change: onBeta((facts) => (facts.packages = notInstalled('dpkg-query'))),
    id: 'packages',
    verdict: 'fail',
    host: 'beta',
    found: /dpkg-query/,
    mend: /Debian host/,
  },
  {
    title: 'kernel modules that are missing',
    change: onBeta((facts) => {
      delete valueOf(facts.availableModules)['sch_plug'];
      delete valueOf(facts.availableModules)['nbd'];
    }),
    id: 'modules',
    verdict: 'fail',
    host: 'beta',
    found: /not to be had: nbd, sch_plug/,
    mend: /linux-image-amd64/,
  },
  {
    title: 'no modinfo',
    change: onBeta((facts) => (facts.availableModules = notInstalled('modinfo'))),
    id: 'modules',
    verdict: 'fail',
    host: 'beta',
    found: /modinfo is not installed/,
    mend: /apt install kmod/,
  },
  {
    title: 'no DRBD module',
    change: onBeta((facts) => {
      facts.drbdModule = undefined;
      facts.loadedModules = ['dm_mod'];
      delete valueOf(facts.availableModules)['drbd'];
    }),
    id: 'drbd',
    verdict: 'fail',
    host: 'beta',
    found: /no DRBD module/,
    mend: /boot a kernel that has it/,
    also: ['modules'],
  },
  {
    title: 'a DRBD module that is too old',
    change: onBeta((facts) => (facts.drbdModule = '8.3.16')),
    id: 'drbd',
    verdict: 'fail',
    host: 'beta',
    found: /DRBD 8\.3\.16/,
    mend: /distribution's kernel/,
    also: ['drbd-fits'],
  },
  {
    title: 'DRBD 8.4 with DRBD 9',
    change: onBeta((facts) => (facts.drbdModule = '9.1.23')),
    id: 'drbd-fits',
    verdict: 'fail',
    found: /DRBD 8\.4\.11 on alpha, DRBD 9\.1\.23 on beta/,
    mend: /same version/,
  },
  {
    title: 'no drbdadm',
    change: onBeta((facts) => (facts.drbdUtils = notInstalled('drbdadm'))),
    id: 'drbd-utils',
    verdict: 'fail',
    host: 'beta',
    found: /drbdadm is not installed/,
    mend: /apt install drbd-utils/,
  },
  {
    title: 'old DRBD utilities',
    change: ({ alpha, beta }) => {
      for (const facts of [alpha, beta]) facts.drbdUtils = known('9.15.0');
    },
    id: 'drbd-utils',
    verdict: 'warn',
    host: 'beta',
    found: /drbd-utils 9\.15\.0/,
    mend: /were not tried/,
    also: ['drbd-utils'],
  },
  {
    title: 'ancient DRBD utilities',
    change: ({ alpha, beta }) => {
      for (const facts of [alpha, beta]) facts.drbdUtils = known('8.9.10');
    },
    id: 'drbd-utils',
    verdict: 'fail',
    host: 'beta',
    found: /drbd-utils 8\.9\.10/,
    mend: /apt install/,
    also: ['drbd-utils'],
  },
  {
    title: 'different DRBD utilities',
    change: onBeta((facts) => (facts.drbdUtils = known('9.28.0'))),
    id: 'drbd-utils-fit',
    verdict: 'warn',
    found: /9\.22\.0 on alpha, drbd-utils 9\.28\.0 on beta/,
    mend: /upgrade/,
  },
  {
    title: 'an old Node.js',
    change: onBeta((facts) => (facts.node = known('18.13.0'))),
    id: 'node',
    verdict: 'fail',
    host: 'beta',
    found: /Node\.js 18\.13\.0/,
    mend: /apt install nodejs/,
  },
  {
    title: 'no Node.js',
    change: onBeta((facts) => (facts.node = notInstalled('node'))),
    id: 'node',
    verdict: 'fail',
    host: 'beta',
    found: /node is not installed/,
    mend: /apt install nodejs/,
  },
  {
    title: 'little memory in dom0',
    change: onBeta((facts) => (facts.memory.availableBytes = 100 * MIB)),
    id: 'dom0-memory',
    verdict: 'warn',
    host: 'beta',
    found: /100 MiB of 1024 MiB/,
    mend: /dom0_mem/,
  },
  {
    title: 'a clock that nothing keeps right',
    change: onBeta((facts) => (facts.timeSynchronised = known(false))),
    id: 'time-sync',
    verdict: 'warn',
    host: 'beta',
    found: /not synchronised/,
    mend: /chrony/,
  },
  {
    title: 'a clock of which nothing is known',
    change: onBeta((facts) => (facts.timeSynchronised = failed('Failed to connect to bus'))),
    id: 'time-sync',
    verdict: 'warn',
    host: 'beta',
    found: /not known: Failed to connect/,
    mend: /chrony/,
  },
  {
    title: "DRBD's global file changed by its owner",
    change: onBeta((facts) => (facts.files['/etc/drbd.d/global_common.conf'] = '0'.repeat(32))),
    id: 'drbd-global',
    verdict: 'warn',
    host: 'beta',
    found: /global_common\.conf: not as the package ships it/,
    mend: /left as it is/,
  },
  {
    title: "a block-drbd that is not the package's",
    change: onBeta((facts) => (facts.files['/etc/xen/scripts/block-drbd'] = '0'.repeat(32))),
    id: 'block-drbd',
    verdict: 'warn',
    host: 'beta',
    found: /block-drbd: not as the package ships it/,
    mend: /keeps this one aside/,
  },
  {
    title: 'a changed block-drbd, with another file of that directory diverted',
    change: onBeta((facts) => {
      facts.files['/etc/xen/scripts/block-drbd'] = '0'.repeat(32);
      facts.diversions = known([
        { path: '/etc/xen/scripts/block', divertedTo: '/etc/xen/scripts/block.mine' },
      ]);
    }),
    id: 'block-drbd',
    verdict: 'warn',
    host: 'beta',
    found: /not as the package ships it/,
    mend: /aside/,
  },
  {
    title: 'a block-drbd of which dpkg can say nothing',
    change: onBeta((facts) => (facts.packagedFiles = failed('dpkg: error'))),
    id: 'block-drbd',
    verdict: 'warn',
    host: 'beta',
    found: /dpkg could not be asked/,
    mend: /aside/,
    also: ['drbd-global'],
  },
  {
    title: 'a DRBD configuration that cannot be read',
    change: onBeta((facts) => (facts.drbdConfigured = failed('/etc/drbd.d/old.res:1: Parse error'))),
    id: 'drbd-configuration',
    verdict: 'fail',
    host: 'beta',
    found: /old\.res:1: Parse error/,
    mend: /mend the file/,
  },
  // --- Pair ---
  {
    title: 'the operator as arbiter',
    change: ({ config }) => (config.pairs[0]!.arbiter = { kind: 'operator' }),
    id: 'arbiter',
    verdict: 'warn',
    found: /the operator/,
    mend: /nothing goes on before/,
  },
  {
    title: 'no arbiter at all',
    change: ({ config }) => (config.pairs[0]!.arbiter = { kind: 'unsafe-may-split' }),
    id: 'arbiter',
    verdict: 'warn',
    found: /goes on alone/,
    mend: /both copies/,
  },
  // --- Network ---
  {
    title: 'a replication address that is not there',
    change: onBeta((facts) => (facts.addresses = known([]))),
    id: 'replication-address',
    verdict: 'fail',
    host: 'beta',
    found: /^it has no fd00::2$/,
    mend: /give the host that address/,
  },
  {
    title: 'no ip',
    change: onBeta((facts) => (facts.addresses = notInstalled('ip'))),
    id: 'replication-address',
    verdict: 'fail',
    host: 'beta',
    found: /ip is not installed/,
    mend: /iproute2/,
  },
  {
    title: 'replication addresses that are exchanged',
    change: (input) =>
      ([input.alpha.addresses, input.beta.addresses] = [input.beta.addresses, input.alpha.addresses]),
    id: 'replication-address',
    verdict: 'fail',
    host: 'beta',
    found: /it has no fd00::2; alpha has it/,
    mend: /exchanged/,
    also: ['replication-address'],
  },
  {
    title: 'an interface that is down',
    change: onBeta((facts) => (valueOf(facts.addresses)[0]!.up = false)),
    id: 'replication-address',
    verdict: 'fail',
    host: 'beta',
    found: /on eth1, which is down/,
    mend: /ip link set eth1 up/,
  },
  {
    title: 'a link that is cut in one direction',
    change: ({ measurements }) =>
      (measurements.links[1]!.ping = { measured: true, summary: { sent: 5, received: 0 } }),
    id: 'round-trip',
    verdict: 'fail',
    host: 'beta',
    found: /alpha answered none of 5 pings/,
    mend: /firewall between the replication addresses of beta and alpha/,
  },
  {
    title: 'a link that loses packets',
    change: ({ measurements }) =>
      (measurements.links[1]!.ping = { measured: true, summary: { sent: 5, received: 3, averageMs: 1 } }),
    id: 'round-trip',
    verdict: 'warn',
    host: 'beta',
    found: /alpha answers in 1\.00 ms, but only 3 of 5 times/,
    mend: /cabling/,
  },
  {
    title: 'a link slower than the checkpoints',
    change: ({ measurements }) =>
      (measurements.links[1]!.ping = { measured: true, summary: { sent: 5, received: 5, averageMs: 140 } }),
    id: 'round-trip',
    verdict: 'warn',
    host: 'beta',
    found: /140 ms/,
    mend: /longer checkpoint interval/,
  },
  {
    title: 'no ping',
    change: ({ measurements }) =>
      (measurements.links[1]!.ping = { measured: false, reason: 'ping is not installed' }),
    id: 'round-trip',
    verdict: 'fail',
    host: 'beta',
    found: /ping is not installed/,
    mend: /look at/,
  },
  {
    title: 'a thin link',
    change: ({ measurements }) =>
      (measurements.links[1]!.throughput = { measured: true, bytesPerSecond: 11.5 * MIB }),
    id: 'throughput',
    verdict: 'warn',
    host: 'beta',
    found: /12 MiB\/s to alpha/,
    mend: /faster link/,
  },
  {
    title: 'a transfer that could not be made',
    change: ({ measurements }) =>
      (measurements.links[1]!.throughput = { measured: false, reason: 'node is not installed' }),
    id: 'throughput',
    verdict: 'warn',
    host: 'beta',
    found: /not measured: node is not installed/,
    mend: /by hand/,
  },
  {
    title: 'a port that a firewall blocks',
    change: ({ measurements }) =>
      (measurements.links[1]!.throughput = {
        measured: false,
        reason: 'no connection within 5 s',
        blockedPort: 7791,
      }),
    id: 'throughput',
    verdict: 'fail',
    host: 'beta',
    found: /TCP port 7791 of alpha was not reached: no connection/,
    mend: /open the TCP ports/,
  },
  {
    title: 'a clock that is off',
    change: ({ measurements }) =>
      (measurements.clocks = { ...measurements.clocks, beta: { offsetMs: -2500, uncertaintyMs: 50 } }),
    id: 'clock',
    verdict: 'warn',
    host: 'beta',
    found: /2500 ms behind this machine \(to within 50 ms\)/,
    mend: /set the clock of beta/,
    also: ['clocks-fit'],
  },
  {
    title: 'clocks of the hosts that are hours apart',
    change: ({ measurements }) =>
      (measurements.clocks = { ...measurements.clocks, beta: { offsetMs: 7_200_000, uncertaintyMs: 50 } }),
    id: 'clocks-fit',
    verdict: 'fail',
    found: /beta is 7200 s ahead of alpha \(to within 52 ms\)/,
    mend: /set the clock that is wrong/,
    also: ['clock'],
  },
  {
    title: 'a clock of this machine that is wrong',
    change: ({ measurements }) => {
      measurements.clocks = {
        alpha: { offsetMs: 900_000, uncertaintyMs: 1 },
        beta: { offsetMs: 900_010, uncertaintyMs: 1 },
      };
    },
    id: 'clock',
    verdict: 'warn',
    host: 'beta',
    found: /900 s ahead of this machine/,
    mend: /or of this machine/,
    also: ['clock'],
  },
  // --- Storage ---
  {
    title: 'no LVM',
    change: onBeta((facts) => (facts.volumeGroups = notInstalled('vgs'))),
    id: 'volume-group',
    verdict: 'fail',
    host: 'beta',
    domain: 'web',
    found: /vgs is not installed/,
    mend: /apt install lvm2/,
  },
  {
    title: 'no such volume group',
    change: onBeta((facts) => (valueOf(facts.volumeGroups)[0]!.name = 'vg1')),
    id: 'volume-group',
    verdict: 'fail',
    host: 'beta',
    domain: 'web',
    found: /no volume group vg0 \(there are: vg1\)/,
    mend: /vgcreate vg0/,
  },
  {
    title: 'too little space',
    change: onBeta((facts) => (valueOf(facts.volumeGroups)[0]!.freeBytes = GIB)),
    id: 'volume-group',
    verdict: 'fail',
    host: 'beta',
    domain: 'web',
    found: /1GiB free in vg0/,
    mend: /vgextend vg0/,
  },
  {
    title: 'an LV with our name that is not ours',
    change: onBeta((facts) => valueOf(facts.logicalVolumes).push({ ...goodLv(), name: 'remus-web-0' })),
    id: 'lv',
    verdict: 'fail',
    host: 'beta',
    domain: 'web',
    found: /vg0\/remus-web-0 is there and was not made by remus-drbd/,
    mend: /rename or remove it/,
    also: ['data'],
  },
  {
    title: 'an LV of ours that is too small',
    change: onBeta((facts) =>
      valueOf(facts.logicalVolumes).push({
        ...goodLv(),
        name: 'remus-web-journal',
        tags: ['remus-drbd'],
        sizeBytes: GIB / 2,
      }),
    ),
    id: 'lv',
    verdict: 'fail',
    host: 'beta',
    domain: 'web',
    found: /remus-web-journal has 512MiB/,
    mend: /set the size in the configuration back/,
  },
  {
    title: 'a snapshot that a drill has left',
    change: onBeta((facts) =>
      valueOf(facts.logicalVolumes).push({
        ...goodLv(),
        name: 'remus-web-0-drill',
        tags: ['remus-drbd.drill=web'],
      }),
    ),
    id: 'lv',
    verdict: 'warn',
    host: 'beta',
    domain: 'web',
    found: /vg0\/remus-web-0-drill was left by a drill/,
    mend: /the next drill removes it first/,
  },
  {
    title: "the user's LV that is not there",
    change: onBeta((facts) => (facts.logicalVolumes = known([]))),
    id: 'lv',
    verdict: 'fail',
    host: 'beta',
    domain: 'web',
    found: /no LV vg0\/web-data/,
    mend: /same size as on the other host/,
  },
  {
    title: "the user's LVs with different sizes",
    change: onBeta((facts) => (valueOf(facts.logicalVolumes)[0]!.sizeBytes = GIB)),
    id: 'lv-sizes',
    verdict: 'fail',
    domain: 'web',
    found: /2GiB on alpha, 1GiB on beta/,
    mend: /lvextend --size 2147483648b vg0\/web-data on beta/,
  },
  {
    title: 'an LV that is mounted',
    change: onBeta((facts) => {
      valueOf(facts.logicalVolumes)[0]!.open = true;
      valueOf(facts.blockDevices)[0]!.mountpoints = ['/srv'];
    }),
    id: 'lv-use',
    verdict: 'fail',
    host: 'beta',
    domain: 'web',
    found: /mounted on \/srv/,
    mend: /umount \/srv/,
  },
  {
    title: 'an LV that another device lies on',
    change: onBeta((facts) => {
      valueOf(facts.logicalVolumes)[0]!.open = true;
      valueOf(facts.blockDevices)[0]!.holders = ['/dev/md0'];
    }),
    id: 'lv-use',
    verdict: 'fail',
    host: 'beta',
    domain: 'web',
    found: /\/dev\/md0 lies on it/,
    mend: /take that apart/,
  },
  {
    title: 'an LV that a guest runs on',
    change: onBeta((facts) => (valueOf(facts.logicalVolumes)[0]!.open = true)),
    id: 'lv-use',
    verdict: 'fail',
    host: 'beta',
    domain: 'web',
    found: /something has it open/,
    mend: /xl shutdown/,
  },
  {
    title: 'an LV that is open, and no lsblk',
    change: onBeta((facts) => {
      valueOf(facts.logicalVolumes)[0]!.open = true;
      facts.blockDevices = notInstalled('lsblk');
    }),
    id: 'lv-use',
    verdict: 'fail',
    host: 'beta',
    domain: 'web',
    found: /it is open, and lsblk/,
    mend: /util-linux/,
  },
  {
    title: 'a mapping with our name on something else',
    change: onBeta(
      (facts) =>
        (facts.dm = known([
          {
            name: 'remus-web-1',
            device: '254:9',
            openCount: 0,
            suspended: false,
            segments: [
              { startSector: 0, sectors: 8, kind: 'linear', target: { device: '8:1', offsetSector: 0 } },
            ],
          },
        ])),
    ),
    id: 'mapping',
    verdict: 'fail',
    host: 'beta',
    domain: 'web',
    found: /remus-web-1 is linear on 8:1/,
    mend: /dmsetup remove remus-web-1/,
  },
  {
    title: 'data on the side that the first sync would overwrite',
    change: onBeta(
      (facts) =>
        (facts.devices['/dev/vg0/web-data'] = {
          state: 'read',
          sizeBytes: 2 * GIB,
          signatures: [{ type: 'xfs', offsetBytes: 0 }],
          firstDataAt: 0,
        }),
    ),
    id: 'data',
    verdict: 'fail',
    host: 'beta',
    domain: 'web',
    found: /it holds data \(xfs\)/,
    mend: /decide which side/,
  },
  {
    title: 'data of no known kind there',
    change: onBeta(
      (facts) =>
        (facts.devices['/dev/vg0/web-data'] = {
          state: 'read',
          sizeBytes: 2 * GIB,
          signatures: [],
          firstDataAt: 73728,
        }),
    ),
    id: 'data',
    verdict: 'fail',
    host: 'beta',
    domain: 'web',
    found: /no known kind \(at byte 73728\)/,
    mend: /decide/,
  },
  {
    title: 'a volume that cannot be read there',
    change: onBeta(
      (facts) => (facts.devices['/dev/vg0/web-data'] = { state: 'unreadable', reason: 'Input/output error' }),
    ),
    id: 'data',
    verdict: 'fail',
    host: 'beta',
    domain: 'web',
    found: /Input\/output error/,
    mend: /decide/,
  },
  {
    title: 'meta-data that cannot be read',
    change: onBeta(
      (facts) =>
        (facts.metaData['/dev/vg0/remus-web-1-md'] = { state: 'unreadable', reason: 'Permission denied' }),
    ),
    id: 'meta-data',
    verdict: 'fail',
    host: 'beta',
    domain: 'web',
    found: /remus-web-1-md could not be read: Permission denied/,
    mend: /drbdmeta - v08/,
  },
  {
    title: 'meta-data of another DRBD',
    change: onBeta(
      (facts) =>
        (facts.metaData['/dev/vg0/remus-web-1-md'] = {
          state: 'valid',
          format: 'v09',
          uuids: [],
          flags: [],
          fresh: false,
        }),
    ),
    id: 'meta-data',
    verdict: 'fail',
    host: 'beta',
    domain: 'web',
    found: /remus-web-1-md has meta-data in the format v09/,
    mend: /module that wrote it/,
  },
  {
    title: 'a foreign resource with our name',
    change: onBeta(
      (facts) =>
        (facts.drbdConfigured = known([{ name: 'web', file: '/etc/drbd.d/web.res', line: 3, hosts: [] }])),
    ),
    id: 'drbd-name',
    verdict: 'fail',
    host: 'beta',
    domain: 'web',
    found: /\/etc\/drbd\.d\/web\.res:3 has a resource of that name/,
    mend: /rename/,
  },
  {
    title: 'a foreign resource with one of our minors, our port and our LV',
    change: onBeta(
      (facts) =>
        (facts.drbdConfigured = known([
          {
            name: 'old',
            file: '/etc/drbd.d/old.res',
            line: 1,
            hosts: [
              {
                name: 'beta',
                address: { family: 'ipv4', address: '10.0.0.2', port: 7790 },
                volumes: [
                  { volume: 0, minor: 1007, disk: '/dev/mapper/vg0-web--data', metaDisk: 'internal' },
                ],
              },
            ],
          },
        ])),
    ),
    id: 'drbd-minors',
    verdict: 'fail',
    host: 'beta',
    domain: 'web',
    found: /minor 1007 belongs to old \(\/etc\/drbd\.d\/old\.res:1\)/,
    mend: /set "minor" of web/,
    also: ['drbd-disk', 'port'],
  },
  {
    title: 'a running resource with one of our minors',
    change: onBeta(
      (facts) =>
        (facts.drbdRunning = known([
          { ...runningWeb(), name: 'old', volumes: { 0: { volume: 0, minor: 1015, disk: 'UpToDate' } } },
        ])),
    ),
    id: 'drbd-minors',
    verdict: 'fail',
    host: 'beta',
    domain: 'web',
    found: /minor 1015 is in use by the running resource old/,
    mend: /set "minor"/,
  },
  {
    title: 'our resource running with other minors',
    change: onBeta(
      (facts) =>
        (facts.drbdRunning = known([
          { ...runningWeb(), volumes: { 0: { volume: 0, minor: 2000, disk: 'UpToDate' } } },
        ])),
    ),
    id: 'drbd-name',
    verdict: 'fail',
    host: 'beta',
    domain: 'web',
    found: /web runs already with minor 2000 for volume 0/,
    mend: /drbdadm down web/,
  },
  {
    title: 'running resources that cannot be listed',
    change: onBeta((facts) => (facts.drbdRunning = failed('could not connect to netlink'))),
    id: 'drbd-running',
    verdict: 'fail',
    host: 'beta',
    domain: 'web',
    found: /netlink/,
    mend: /mend what it says/,
  },
  {
    title: 'ports of which nothing is known',
    change: onBeta((facts) => (facts.listeners = notInstalled('ss'))),
    id: 'port',
    verdict: 'fail',
    host: 'beta',
    domain: 'web',
    found: /ss is not installed/,
    mend: /iproute2/,
  },
  {
    title: 'another program on the port of DRBD',
    change: onBeta((facts) => valueOf(facts.listeners).push({ address: '*', port: 7790 })),
    id: 'port',
    verdict: 'fail',
    host: 'beta',
    domain: 'web',
    found: /something listens on 7790/,
    mend: /ss -ltnp/,
  },
  {
    title: 'another program on the port of the receiver',
    change: onBeta((facts) => valueOf(facts.listeners).push({ address: '::', port: 7791 })),
    id: 'port',
    verdict: 'fail',
    host: 'beta',
    domain: 'web',
    found: /something listens on 7791/,
    mend: /set "linkPort"/,
  },
  // --- Guest ---
  {
    title: "a guest's configuration that cannot be read",
    change: (input) =>
      (input.guests = { web: { readable: false, reason: '/etc/pair/web.cfg:3: expected "="' } }),
    id: 'guest-configuration',
    verdict: 'fail',
    domain: 'web',
    found: /web\.cfg:3/,
    mend: /mend the file/,
  },
  {
    title: 'a guest with another name',
    change: (input) => (guestOf(input).name = 'www'),
    id: 'guest-name',
    verdict: 'fail',
    domain: 'web',
    found: /name = "www"/,
    mend: /call the domain "www"/,
  },
  {
    title: 'a PV guest on a Xen without shadow paging',
    change: (input) => (guestOf(input).type = 'pv'),
    id: 'guest-type',
    verdict: 'fail',
    host: 'beta',
    domain: 'web',
    found: /a PV guest; this Xen has pv hvm hap/,
    mend: /type = "pvh"/,
    also: ['guest-type'],
  },
  {
    title: 'no hardware virtualisation',
    change: onBeta((facts) => (valueOf(facts.xen).capabilities = ['pv'])),
    id: 'guest-type',
    verdict: 'fail',
    host: 'beta',
    domain: 'web',
    found: /a PVH guest; this Xen has pv/,
    mend: /firmware/,
  },
  {
    title: 'devices of the host in the guest',
    change: (input) => (guestOf(input).hostDevices = ['pci']),
    id: 'guest-devices',
    verdict: 'fail',
    domain: 'web',
    found: /devices of the host: pci/,
    mend: /take pci out/,
  },
  {
    title: "a guest's kernel that is missing",
    change: onBeta((facts) => (facts.guestFiles['/boot/vmlinuz'] = failed('No such file or directory'))),
    id: 'guest-kernel',
    verdict: 'fail',
    host: 'beta',
    domain: 'web',
    found: /\/boot\/vmlinuz can't be read: No such file/,
    mend: /copy \/boot\/vmlinuz/,
  },
  {
    title: "a guest's ramdisk that differs",
    change: onBeta((facts) => (facts.guestFiles['/boot/initrd'] = known('c'.repeat(64)))),
    id: 'guest-ramdisk',
    verdict: 'warn',
    domain: 'web',
    found: /\/boot\/initrd differs/,
    mend: /would boot another ramdisk/,
  },
  {
    title: 'too little memory on the backup',
    change: onBeta((facts) => (valueOf(facts.xen).freeMemoryBytes = 512 * MIB)),
    id: 'memory',
    verdict: 'fail',
    host: 'beta',
    found: /512 MiB free in Xen/,
    mend: /dom0_mem/,
  },
  {
    title: 'memory on the backup that dom0 would have to give',
    change: onBeta((facts) => {
      valueOf(facts.xen).freeMemoryBytes = 400 * MIB;
      valueOf(facts.xen).commandLine = 'placeholder console=com1';
    }),
    id: 'memory',
    verdict: 'warn',
    host: 'beta',
    found: /400 MiB free in Xen, the rest would have to come from dom0/,
    mend: /dom0_mem/,
  },
  {
    title: 'less memory on the backup than dom0 can give',
    change: onBeta((facts) => {
      valueOf(facts.xen).freeMemoryBytes = 50 * MIB;
      delete valueOf(facts.xen).commandLine;
    }),
    id: 'memory',
    verdict: 'fail',
    host: 'beta',
    found: /^50 MiB free in Xen$/,
    mend: /dom0_mem/,
  },
  {
    title: 'the guest on both hosts',
    change: ({ alpha, beta }) => {
      for (const facts of [alpha, beta]) {
        valueOf(facts.guests).push({ name: 'web', id: 4, memoryBytes: GIB, vcpus: 1, state: '-b----' });
      }
    },
    id: 'guest-running',
    verdict: 'fail',
    domain: 'web',
    found: /web runs on alpha and on beta/,
    mend: /xl destroy/,
  },
  {
    title: 'the guest on the other host',
    change: onBeta((facts) =>
      valueOf(facts.guests).push({ name: 'web', id: 4, memoryBytes: GIB, vcpus: 1, state: '-b----' }),
    ),
    id: 'guest-running',
    verdict: 'warn',
    domain: 'web',
    found: /it runs on beta/,
    mend: /primary: beta/,
  },
  {
    title: 'a guest that xendomains starts on one host',
    change: onBeta((facts) => (facts.autostart = { '/etc/xen/auto/web.cfg': 'web' })),
    id: 'autostart',
    verdict: 'warn',
    host: 'beta',
    domain: 'web',
    found: /web\.cfg starts it at boot$/,
    mend: /remove \/etc\/xen\/auto\/web\.cfg/,
  },
  {
    title: 'a guest that xendomains starts on both hosts',
    change: ({ alpha, beta }) => {
      for (const facts of [alpha, beta]) facts.autostart = { '/etc/xen/auto/web.cfg': 'web' };
    },
    id: 'autostart',
    verdict: 'fail',
    host: 'beta',
    domain: 'web',
    found: /on both hosts/,
    mend: /remove/,
    also: ['autostart'],
  },
  {
    title: 'pins that share a CPU',
    change: ({ config }) => (config.pairs[0]!.domains[0]!.pin = { dom0: [0, 1], guest: [1] }),
    id: 'pin-shared',
    verdict: 'warn',
    domain: 'web',
    found: /share CPU 1/,
    mend: /different CPUs/,
  },
  {
    title: 'pins on a CPU that is not there',
    change: ({ config }) => (config.pairs[0]!.domains[0]!.pin = { dom0: [0], guest: [2, 3] }),
    id: 'pin-cpus',
    verdict: 'fail',
    host: 'beta',
    domain: 'web',
    found: /CPUs 0 to 1/,
    mend: /take 2, 3 out/,
    also: ['pin-cpus'],
  },
];

for (const { title, change, id, verdict, host, domain, found, mend, also = [] } of CASES) {
  test(title, () => {
    const input = goodInput();
    change(input);
    const results = run(input);
    const bad = results.filter((result) => result.verdict !== 'pass');
    const result = bad.find((one) => one.id === id && one.host === host);
    assert.ok(result, `no ${id} on ${host ?? 'the pair'} in ${JSON.stringify(bad)}`);
    assert.is(result.verdict, verdict);
    assert.is(result.domain, domain);
    assert.is(result.pair, 'rack1');
    assert.match(result.found, found);
    assert.match(result.mend, mend);
    // One broken thing is said once, not in a dozen points.
    const others = bad.filter((one) => one !== result).map((one) => one.id);
    assert.equal(others.sort(), [...also].sort());
    const exitCode = bad.some((one) => one.id === 'reachable') ? 4 : verdict === 'fail' ? 1 : 0;
    assert.is(checkExitCode(results, readingsOf(input)), exitCode);
  });
}

test('a host that lets nobody in has failed, but was reached', () => {
  const input = goodInput();
  input.hosts = { beta: { reached: false, cause: 'failed', reason: 'beta: its key has changed' } };
  assert.is(checkExitCode(run(input), readingsOf(input)), 1);
});

test('of a host that was not reached nothing is claimed', () => {
  const input = goodInput();
  input.hosts = { beta: { reached: false, cause: 'unreachable', reason: 'no route' } };
  input.measurements = { links: [], clocks: {} };
  const results = run(input);
  assert.equal(
    results.filter((result) => result.host === 'beta').map((result) => result.id),
    ['reachable'],
  );
  assert.not(results.some((result) => ['xen-fits', 'drbd-fits', 'lv-sizes'].includes(result.id)));
});

test('all guests of a pair are counted together, and with what Xen needs for them', () => {
  const input = goodInput();
  const [pair] = input.config.pairs;
  const second = { ...pair!.domains[0]!, name: 'db', port: 7800, linkPort: 7801, minor: 2000 };
  pair!.domains.push(second);
  const web = guestOf(input);
  input.guests['db'] = { readable: true, guest: { ...web, name: 'db' } };
  const each = guestMemoryBytes(web);
  assert.ok(each > 512 * MIB);
  valueOf(input.beta.xen).freeMemoryBytes = 2 * each;
  const memory = (): CheckResult | undefined =>
    run(input).find((result) => result.id === 'memory' && result.host === 'beta');
  assert.is(memory()?.verdict, 'pass');
  valueOf(input.beta.xen).freeMemoryBytes = 2 * each - 1;
  assert.is(memory()?.verdict, 'fail');
  assert.match(memory()?.needed ?? '', /for web, db/);
  valueOf(input.beta.guests).push({ name: 'db', id: 3, memoryBytes: each, vcpus: 1, state: '-b----' });
  assert.is(memory()?.verdict, 'pass');
});

test('the space that is needed is that of what is missing, in whole extents', () => {
  const input = goodInput();
  const group = (): CheckResult | undefined =>
    run(input).find((result) => result.id === 'volume-group' && result.host === 'beta');
  // The new disk, the journal, the barrier, three meta-data LVs, and the spare extents of both disks.
  const needed = GIB + GIB + 4 * MIB + 3 * 4 * MIB + 2 * 4 * MIB;
  valueOf(input.beta.volumeGroups)[0]!.freeBytes = needed;
  assert.is(group()?.verdict, 'pass');
  valueOf(input.beta.volumeGroups)[0]!.freeBytes = needed - 4 * MIB;
  assert.is(group()?.verdict, 'fail');
  assert.match(group()?.needed ?? '', /^2072MiB for remus-web-0, .*, web-data$/);
  valueOf(input.beta.volumeGroups)[0]!.freeBytes = needed;
  valueOf(input.beta.volumeGroups)[0]!.extentBytes = 32 * MIB;
  assert.is(group()?.verdict, 'fail');
});

test('with protocol D the module is 8.3 and nothing of the journal is needed', () => {
  const input = goodInput();
  const domain = input.config.pairs[0]!.domains[0]!;
  domain.engine = 'protocol-d';
  delete domain.journal;
  for (const facts of [input.alpha, input.beta]) {
    facts.drbdModule = '8.3.11';
    delete valueOf(facts.availableModules)['nbd'];
  }
  const bad = (): CheckResult[] => run(input).filter((result) => result.verdict !== 'pass');
  assert.equal(bad(), []);
  // Its drbdadm can't read the package's own file, in whose place setup puts one.
  const global = Paths.drbdGlobal;
  input.beta.drbdConfigured = failed('drbd.d/global_common.conf:12: Parse error');
  input.beta.diversions = known(valueOf(input.beta.diversions).filter(({ path }) => path !== global));
  input.beta.packagedFiles = known({ ...valueOf(input.beta.packagedFiles), [global]: 'a' });
  input.beta.files[global] = 'a';
  const found = (): unknown => bad().map(({ id, verdict }) => [id, verdict]);
  assert.equal(found(), [['drbd-configuration', 'warn']]);
  input.beta.files[global] = 'b';
  assert.equal(found(), [
    ['drbd-global', 'warn'],
    ['drbd-configuration', 'fail'],
  ]);
});

test('each pair gets its own points', () => {
  const input = goodInput();
  const [first] = input.config.pairs;
  const [alpha, beta] = first!.hosts;
  input.config.pairs.push({
    ...first!,
    name: 'rack2',
    hosts: [
      { ...alpha, name: 'gamma' },
      { ...beta, name: 'delta' },
    ],
    domains: [],
  });
  input.hosts = {
    gamma: { reached: true, facts: { ...input.alpha, host: 'gamma', nodeName: 'gamma' } },
    delta: { reached: true, facts: { ...input.beta, host: 'delta', nodeName: 'delta' } },
  };
  const results = run(input);
  assert.not(results.some((result) => result.verdict !== 'pass'));
  const links = results.filter((result) => result.id === 'round-trip');
  assert.equal(
    links.map((result) => [result.pair, result.host]),
    [
      ['rack1', 'alpha'],
      ['rack1', 'beta'],
    ],
  );
  assert.not(results.some((result) => result.pair === 'rack2' && result.domain !== undefined));
});

test('a DRBD module that is not loaded yet is said to be so', () => {
  const input = goodInput();
  input.beta.drbdModule = undefined;
  const drbd = run(input).filter((result) => result.id === 'drbd');
  assert.equal(
    drbd.map((result) => [result.host, result.verdict, result.found, result.needed]),
    [
      ['alpha', 'pass', 'DRBD 8.4.11', 'DRBD 8.4 or 9'],
      ['beta', 'pass', 'DRBD 8.4.11 (not loaded yet)', 'DRBD 8.4 or 9'],
    ],
  );
});

test('resources of others that are not in the way are left alone', () => {
  const input = goodInput();
  // The minors right below and right above the domain's sixteen.
  for (const [index, minor] of [999, 1016].entries()) {
    const name = `other${index}`;
    input.beta.drbdConfigured = known([
      {
        name,
        file: `/etc/drbd.d/${name}.res`,
        line: 1,
        hosts: [
          {
            name: 'beta',
            address: { family: 'ipv4', address: '10.0.0.2', port: 7789 },
            volumes: [{ volume: 0, minor, disk: '/dev/vg0/other', metaDisk: 'internal' }],
          },
          // What it has on another host doesn't matter here.
          { name: 'gamma', volumes: [{ volume: 0, minor: 1000, disk: '/dev/vg0/web-data' }] },
        ],
      },
    ]);
    input.beta.drbdRunning = known([
      { ...runningWeb(), name, volumes: { 0: { volume: 0, minor, disk: 'UpToDate' } } },
    ]);
    assert.equal(
      run(input).filter((result) => result.verdict !== 'pass'),
      [],
    );
  }
});

test('a PV guest passes where Xen has shadow paging', () => {
  const input = goodInput();
  guestOf(input).type = 'pv';
  for (const facts of [input.alpha, input.beta]) valueOf(facts.xen).capabilities.push('shadow');
  assert.not(run(input).some((result) => result.verdict !== 'pass'));
});

test('a difference of clocks within what the measurement can not tell is none', () => {
  const input = goodInput();
  input.measurements.clocks = {
    alpha: { offsetMs: 0, uncertaintyMs: 700 },
    beta: { offsetMs: 2000, uncertaintyMs: 1200 },
  };
  assert.not(run(input).some((result) => result.verdict !== 'pass'));
});

test('versions and addresses are compared by what they mean', () => {
  assert.ok(compareVersions('4.17.6-pre', '4.17') > 0);
  assert.ok(compareVersions('4.9', '4.17') < 0);
  assert.is(compareVersions('18.19', '18.19.0'), 0);
  assert.ok(compareVersions('6.1.0-41-amd64', '6.1') === 0);
  assert.ok(sameAddress('fd00::2', 'FD00:0:0::0002'));
  assert.not(sameAddress('10.0.0.1', '10.0.0.10'));
});

function only(input: CheckInput, id: string, host: string): CheckResult {
  const found = run(input).filter((result) => result.id === id && result.host === host);
  assert.is(found.length, 1);
  return found[0]!;
}

test('an arbiter that a host cannot reach fails there, with the reason, and for ssh with what to do on it', () => {
  const input = goodInput();
  input.measurements.arbiters = {
    alpha: { reached: false, reason: 'etcd gave no answer' },
    beta: { reached: true, detail: 'it decides' },
  };
  const lost = only(input, 'arbiter-reach', 'alpha');
  assert.is(lost.verdict, 'fail');
  assert.is(lost.found, 'etcd gave no answer');
  assert.is(only(input, 'arbiter-reach', 'beta').verdict, 'pass');
  assert.is(checkExitCode(run(input), readingsOf(input)), 1);

  input.config.pairs[0]!.arbiter = {
    kind: 'ssh',
    user: 'arb',
    host: '192.0.2.9',
    port: 22,
    directory: '/srv/c',
  };
  input.alpha.sshPublicKey = known('ssh-ed25519 AAAA');
  assert.match(
    only(input, 'arbiter-reach', 'alpha').mend,
    /on 192\.0\.2\.9, .*install -d -o arb \/srv\/c.*authorized_keys of arb: restrict ssh-ed25519 AAAA remus-drbd:alpha$/,
  );
  // Not asked, as before setup: no point.
  delete input.measurements.arbiters;
  assert.not.ok(run(input).some(({ id }) => id === 'arbiter-reach'));
});

test("a dom0 whose LVM looks into guests' disks is warned of", () => {
  for (const [filter, globalFilter, verdict] of [
    [['a|.*|'], ['a|.*|'], 'warn'],
    [['a|.*|'], ['r|^/dev/drbd|', 'r|^/dev/mapper/remus-|'], 'pass'],
    [['a|^/dev/sda|', 'r|.*|'], ['a|.*|'], 'pass'],
    [['a|.*|'], ['r|^/dev/drbd|'], 'warn'],
    // The other name of the device is taken.
    [['a|.*|'], ['r|^/dev/drbd|', 'r|^/dev/mapper/remus-|', 'a|.*|'], 'warn'],
    [['a|.*|'], ['r|(|', 'r|.*|'], 'warn'],
  ] as const) {
    const input = goodInput();
    input.alpha.lvmFilters = known({ filter: [...filter], globalFilter: [...globalFilter] });
    const found = only(input, 'lvm-filter', 'alpha');
    assert.is(found.verdict, verdict, `${filter.join(' ')} ${globalFilter.join(' ')}: ${found.found}`);
    if (verdict === 'warn') assert.match(found.mend, /global_filter/);
  }
  const input = goodInput();
  input.alpha.lvmFilters = notInstalled('lvmconfig');
  assert.is(only(input, 'lvm-filter', 'alpha').verdict, 'warn');
});

test('a drbd.service that is enabled is warned of', () => {
  const input = goodInput();
  input.alpha.units = known({
    ...valueOf(input.alpha.units),
    'drbd.service': { loadState: 'loaded', activeState: 'inactive', fileState: 'enabled' },
  });
  const found = only(input, 'drbd-service', 'alpha');
  assert.is(found.verdict, 'warn');
  assert.match(found.mend, /systemctl disable drbd\.service/);
});

test.run();
