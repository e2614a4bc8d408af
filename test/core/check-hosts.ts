/** A pair of hosts with nothing wrong, to be broken in one place by each test. */
import type { GuestReading, HostReading, Measurements } from '../../src/core/check.js';
import type { Fact, HostFacts, LogicalVolume } from '../../src/core/facts.js';
import { REQUIRED_MODULES, REQUIRED_PACKAGES } from '../../src/core/facts.js';
import { domainLayouts } from '../../src/core/layout.js';
import type { Config, Domain, DomainLayout } from '../../src/core/model.js';

export const GIB = 2 ** 30;
export const MIB = 2 ** 20;

export function known<T>(value: T): Fact<T> {
  return { known: true, value };
}

export function notInstalled<T>(tool: string): Fact<T> {
  return { known: false, cause: 'not-installed', reason: `${tool} is not installed` };
}

export function failed<T>(reason: string): Fact<T> {
  return { known: false, cause: 'failed', reason };
}

/** The value of a fact that the test knows to be there. */
export function valueOf<T>(fact: Fact<T>): T {
  if (!fact.known) throw new Error(fact.reason);
  return fact.value;
}

export function goodDomain(): Domain {
  return {
    name: 'web',
    pair: 'rack1',
    configFile: '/etc/pair/web.cfg',
    primary: 'alpha',
    backup: 'beta',
    engine: 'journal',
    port: 7790,
    linkPort: 7791,
    minor: 1000,
    disks: [
      { volume: 0, vdev: 'xvda', volumeGroup: 'vg0', source: { kind: 'new', sizeBytes: GIB } },
      {
        volume: 1,
        vdev: 'xvdb',
        volumeGroup: 'vg0',
        source: { kind: 'existing', logicalVolume: 'web-data' },
      },
    ],
    journal: { volumeGroup: 'vg0', sizeBytes: GIB },
    checkpoint: { intervalMs: 100, failAfterMs: 1000 },
    pin: { dom0: [0], guest: [1] },
    autoRecover: true,
    onCrash: 'stop',
    drill: { timeoutMs: 300_000 },
  };
}

export function goodConfig(): Config {
  return {
    file: '/etc/pair/pair.yaml',
    ssh: { identityFiles: [], knownHostsFiles: [] },
    pairs: [
      {
        name: 'rack1',
        hosts: [
          { name: 'alpha', ssh: { user: 'root', host: '192.0.2.1', port: 22 }, replication: '10.0.0.1' },
          { name: 'beta', ssh: { user: 'root', host: '192.0.2.2', port: 22 }, replication: 'fd00::2' },
        ],
        arbiter: { kind: 'etcd', endpoints: ['https://192.0.2.9:2379'] },
        link: 'tls',
        domains: [goodDomain()],
      },
    ],
  };
}

export function goodLv(): LogicalVolume {
  return {
    volumeGroup: 'vg0',
    name: 'web-data',
    sizeBytes: 2 * GIB,
    tags: [],
    active: true,
    open: false,
    device: '254:3',
    segmentType: 'linear',
  };
}

export function goodFacts(host: 'alpha' | 'beta'): HostFacts {
  return {
    host,
    nodeName: host,
    kernelRelease: '6.1.0-41-amd64',
    architecture: 'x86_64',
    uid: 0,
    clockMs: 1795498830123,
    memory: { totalBytes: GIB, availableBytes: 700 * MIB },
    packages: known(Object.fromEntries(REQUIRED_PACKAGES.map((name) => [name.replace('*', '.17'), '1']))),
    node: known('18.19.0'),
    xen: known({
      version: '4.17.6-pre',
      capabilities: ['pv', 'hvm', 'hap'],
      cpuFeatures: '078bfbfd:82982203',
      commandLine: 'placeholder dom0_mem=1024M',
      totalMemoryBytes: 4 * GIB,
      freeMemoryBytes: 2950 * MIB,
      cpus: 2,
    }),
    guests: known([{ name: 'Domain-0', id: 0, memoryBytes: GIB, vcpus: 1, state: 'r-----' }]),
    loadedModules: ['drbd', 'dm_mod'],
    availableModules: known(
      Object.fromEntries(REQUIRED_MODULES.map((name) => [name, { builtIn: false, version: '8.4.11' }])),
    ),
    drbdModule: '8.4.11',
    drbdUtils: known('9.22.0'),
    volumeGroups: known([{ name: 'vg0', sizeBytes: 40 * GIB, freeBytes: 30 * GIB, extentBytes: 4 * MIB }]),
    logicalVolumes: known([goodLv()]),
    devices: {
      '/dev/vg0/remus-web-0': { state: 'absent' },
      '/dev/vg0/web-data':
        host === 'alpha'
          ? {
              state: 'read',
              sizeBytes: 2 * GIB,
              signatures: [{ type: 'ext4', offsetBytes: 1080 }],
              firstDataAt: 1080,
            }
          : { state: 'read', sizeBytes: 2 * GIB, signatures: [] },
    },
    metaData: {},
    dm: known([]),
    blockDevices: known([
      {
        path: '/dev/mapper/vg0-web--data',
        device: '254:3',
        type: 'lvm',
        sizeBytes: 2 * GIB,
        mountpoints: [],
        holders: [],
      },
    ]),
    drbdRunning: known([]),
    drbdConfigured: known([]),
    units: known({}),
    diversions: known([]),
    packagedFiles: known({
      '/etc/drbd.d/global_common.conf': 'e963fe4e9d7b326f01b698a8aa32b72a',
      '/etc/xen/scripts/block-drbd': 'e7b5384ebd5125a84817d051e8f9b892',
    }),
    files: {
      '/etc/drbd.d/global_common.conf': 'e963fe4e9d7b326f01b698a8aa32b72a',
      '/etc/xen/scripts/block-drbd': 'e7b5384ebd5125a84817d051e8f9b892',
    },
    listeners: known([{ address: '0.0.0.0', port: 22 }]),
    addresses: known([
      {
        interface: 'eth1',
        address: host === 'alpha' ? '10.0.0.1' : 'fd00::2',
        prefixLength: 24,
        up: true,
      },
    ]),
    guestFiles: { '/boot/vmlinuz': known('a'.repeat(64)), '/boot/initrd': known('b'.repeat(64)) },
    autostart: {},
    timeSynchronised: known(true),
    certificate: failed('no such file'),
    lvmFilters: known({ filter: ['a|.*|'], globalFilter: ['r|^/dev/drbd|', 'r|^/dev/mapper/remus-|'] }),
    sshPublicKey: failed('no such file'),
  };
}

/** What `check` is given; a test changes one thing in it. */
export interface CheckInput {
  config: Config;
  guests: Record<string, GuestReading>;
  alpha: HostFacts;
  beta: HostFacts;
  /** Hosts that could not be looked at; the others have their facts. */
  hosts: Record<string, HostReading>;
  measurements: Measurements;
}

export function goodInput(): CheckInput {
  const link = {
    ping: { measured: true, summary: { sent: 5, received: 5, averageMs: 0.2 } },
    throughput: { measured: true, bytesPerSecond: 110 * MIB },
  } as const;
  return {
    config: goodConfig(),
    guests: {
      web: {
        readable: true,
        guest: {
          name: 'web',
          type: 'pvh',
          kernel: '/boot/vmlinuz',
          ramdisk: '/boot/initrd',
          memoryMiB: 512,
          maxMemoryMiB: 512,
          vcpus: 1,
        },
      },
    },
    alpha: goodFacts('alpha'),
    beta: goodFacts('beta'),
    hosts: {},
    measurements: {
      links: [
        { from: 'alpha', to: 'beta', ...link },
        { from: 'beta', to: 'alpha', ...link },
      ],
      clocks: {
        alpha: { offsetMs: 3, uncertaintyMs: 2 },
        beta: { offsetMs: -5, uncertaintyMs: 2 },
      },
      arbiters: {
        alpha: { reached: true, detail: '3 of 3 etcd endpoints decide' },
        beta: { reached: true, detail: '3 of 3 etcd endpoints decide' },
      },
    },
  };
}

export function readingsOf(input: CheckInput): Record<string, HostReading> {
  return {
    alpha: { reached: true, facts: input.alpha },
    beta: { reached: true, facts: input.beta },
    ...input.hosts,
  };
}

export function layoutsOf(input: CheckInput): DomainLayout[] {
  return domainLayouts(input.config);
}
