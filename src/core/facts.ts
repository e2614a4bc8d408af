/**
 * What a host is found to have: the types, the read-only commands that find it out, and their reading.
 *
 * All commands go to a host in one round trip (`Host.probe`) as a map from a key to an argument list. The
 * key is `KIND` or `KIND SUBJECT` (a device, a file), so that the answers can be read without the layouts.
 * None of them changes the host, nor makes a module load: `drbdsetup` would load `drbd` by itself, so it
 * runs only where the module is there (`find ... -exec`), and `drbdmeta` is given `-` for its device, so
 * that it does not ask `drbdsetup`.
 *
 * A tool that is missing or fails is a fact. Output that is not understood is an error: a host that cannot
 * be read must never pass for a host with nothing on it.
 */
import { OperatorError } from './errors.js';
import type { DomainLayout, Engine } from './model.js';
import {
  lvPath,
  Paths,
  drillUnit,
  receiverUnit,
  senderUnit,
  switchoverTargetUnit,
  switchoverUnit,
  unitName,
} from './names.js';
import {
  LSBLK_COLUMNS,
  parseLsblk,
  parseSample,
  parseWipefs,
  SAMPLE_PROGRAM,
  WIPEFS_COLUMNS,
} from './parse/block.js';
import { parseDmsetup } from './parse/dm.js';
import { parseDrbdmeta, parseDrbdUtilsVersion, parseEvents2, parseProcDrbd } from './parse/drbd.js';
import { parseDumpXml } from './parse/drbdxml.js';
import { LVM_OPTIONS, LVS_COLUMNS, parseLvs, parseVgs, VGS_COLUMNS } from './parse/lvm.js';
import { type LvmFilters, parseLvmFilters } from './parse/lvm-filter.js';
import { parseIpAddresses, parseListeners } from './parse/network.js';
import * as system from './parse/system.js';
import { linesOf, ParseError } from './parse/text.js';
import { parseXlTopology, type CpuPlace } from './parse/vcpu.js';
import { parseXlInfo, parseXlList } from './parse/xen.js';
import { isModule83, moduleResources } from './protocol-d/running.js';
import { SSH_KEY } from './setup/ssh.js';

/** Something that a tool said, or why it said nothing. */
export type Fact<T> =
  { known: true; value: T } | { known: false; cause: 'not-installed' | 'failed'; reason: string };

/** DRBD's words, as `drbdsetup` prints them for DRBD 8.4 and 9 (drbd_strings.c of both). */
export const Roles = ['Primary', 'Secondary', 'Unknown'] as const;
export type Role = (typeof Roles)[number];

export const DiskStates = [
  'Diskless',
  'Attaching',
  'Detaching',
  'Failed',
  'Negotiating',
  'Inconsistent',
  'Outdated',
  'DUnknown',
  'Consistent',
  'UpToDate',
] as const;
export type DiskState = (typeof DiskStates)[number];

export const ConnectionStates = [
  'StandAlone',
  'Disconnecting',
  'Unconnected',
  'Timeout',
  'BrokenPipe',
  'NetworkFailure',
  'ProtocolError',
  'TearDown',
  'Connecting',
  'Connected',
] as const;
export type ConnectionState = (typeof ConnectionStates)[number];

export const ReplicationStates = [
  'Off',
  'Established',
  'StartingSyncS',
  'StartingSyncT',
  'WFBitMapS',
  'WFBitMapT',
  'WFSyncUUID',
  'SyncSource',
  'SyncTarget',
  'VerifyS',
  'VerifyT',
  'PausedSyncS',
  'PausedSyncT',
  'Ahead',
  'Behind',
] as const;
export type ReplicationState = (typeof ReplicationStates)[number];

export interface XenFacts {
  /** Such as `4.17.6`. */
  version: string;
  /** The words of `virt_caps`: `pv`, `hvm`, `hap`, `shadow`, and others. */
  capabilities: string[];
  /** `hw_caps`: the features of the CPU, as hexadecimal words. */
  cpuFeatures: string;
  /** Xen's own command line, such as `dom0_mem=1024M`; absent where it is empty. */
  commandLine?: string;
  totalMemoryBytes: number;
  freeMemoryBytes: number;
  cpus: number;
}

/** A line of `xl list`. */
export interface RunningGuest {
  name: string;
  id: number;
  memoryBytes: number;
  vcpus: number;
  /** Six letters: running, blocked, paused, shut down, why, dying. */
  state: string;
}

export interface VolumeGroup {
  name: string;
  sizeBytes: number;
  freeBytes: number;
  extentBytes: number;
}

export interface LogicalVolume {
  volumeGroup: string;
  name: string;
  sizeBytes: number;
  tags: string[];
  active: boolean;
  /** Something holds the device open: a mount, a mapping, DRBD. */
  open: boolean;
  /** `MAJOR:MINOR`, absent while it is not active. */
  device?: string;
  /** `linear`, `striped`, `raid1`, `thin`... */
  segmentType: string;
}

export interface Signature {
  /** As libblkid names it: `ext4`, `LVM2_member`, `drbd`, `dos`... */
  type: string;
  offsetBytes: number;
  label?: string;
  uuid?: string;
}

/** What is on a device that a layout names. An LV that is not active has no device, so it is absent here. */
export type DeviceContent =
  | { state: 'absent' }
  | { state: 'unreadable'; reason: string }
  | {
      state: 'read';
      sizeBytes: number;
      /** All that libblkid knows, nested ones too. */
      signatures: Signature[];
      /** Of the samples (first and last MiB, 512 places between): where the first byte is that is not zero. */
      firstDataAt?: number;
    };

/** A device-mapper device. */
export interface DmDevice {
  name: string;
  /** Its own `MAJOR:MINOR`. */
  device: string;
  openCount: number;
  suspended: boolean;
  /** The active table. A device made but not loaded yet has none. */
  segments: DmSegment[];
}

export interface DmSegment {
  startSector: number;
  sectors: number;
  /** `linear`, `crypt`, `snapshot`, `error`... */
  kind: string;
  /** Of a linear segment: the `MAJOR:MINOR` below, and the first sector there. */
  target?: { device: string; offsetSector: number };
}

export interface RunningVolume {
  volume: number;
  minor: number;
  disk: DiskState;
  /** Where DRBD says it (8.4: not without `--verbose`). */
  sizeBytes?: number;
  /** DRBD 9 only. */
  backingDevice?: string;
}

export interface RunningPeerVolume {
  volume: number;
  replication: ReplicationState;
  peerDisk: DiskState;
  resyncSuspended: string;
  outOfSyncBytes: number;
}

export interface RunningConnection {
  /** DRBD 8.4 calls every peer `peer`. */
  peer: string;
  connection: ConnectionState;
  peerRole: Role;
  volumes: Record<number, RunningPeerVolume>;
}

/** A resource in the kernel now, from `drbdsetup events2`; with 8.3 from /proc/drbd. */
export interface RunningResource {
  name: string;
  role: Role;
  /** `no`, or what suspended its I/O, such as `user,fencing`. */
  suspended: string;
  volumes: Record<number, RunningVolume>;
  connections: RunningConnection[];
}

/** A resource in the configuration files, from `drbdadm dump-xml`. */
export interface ConfiguredResource {
  name: string;
  /** The file it is in, and its line; 8.3 does not say. */
  file?: string;
  line?: number;
  hosts: ConfiguredHost[];
}

export interface ConfiguredHost {
  name: string;
  address?: { family: string; address: string; port: number };
  volumes: ConfiguredVolume[];
}

export interface ConfiguredVolume {
  volume: number;
  minor: number;
  /** Absent on a diskless host. */
  disk?: string;
  metaDisk?: string;
}

/** What is on a device that a layout names for DRBD's flexible external meta-data. */
export type MetaDataState =
  | { state: 'absent' }
  /** The device is there and holds none. */
  | { state: 'none' }
  /** In use, so that it can't be read: attached, or held by something else. */
  | { state: 'busy'; reason: string }
  | { state: 'unreadable'; reason: string }
  | {
      state: 'valid';
      format: 'v08' | 'v09';
      /** Current, bitmap, and two of the history; 16 hexadecimal digits in lower case. */
      uuids: string[];
      /** Flags as drbdmeta prints them: consistent, was up to date, ... */
      flags: number[];
      /** As `create-md` leaves it: never attached with data. */
      fresh: boolean;
    };

export interface UnitState {
  loadState: string;
  activeState: string;
  /** `enabled`, `disabled`, `static`, ...; empty where there is no unit file. */
  fileState: string;
}

export interface Diversion {
  path: string;
  divertedTo: string;
  /** The package that diverts; absent for a local diversion. */
  package?: string;
}

export interface Listener {
  /** Without brackets and zone; `*` for any. */
  address: string;
  port: number;
}

export interface InterfaceAddress {
  interface: string;
  address: string;
  prefixLength: number;
  up: boolean;
}

/** A block device of `lsblk`, with what lies directly on it. */
export interface BlockDevice {
  /** Such as `/dev/mapper/vg0-web`. */
  path: string;
  /** `MAJOR:MINOR`. */
  device: string;
  type: string;
  sizeBytes: number;
  mountpoints: string[];
  /** Paths of the devices on top. */
  holders: string[];
}

export interface ModuleInfo {
  builtIn: boolean;
  version?: string;
}

export interface Certificate {
  subject: string;
  /** Milliseconds since 1970. */
  notAfterMs: number;
  /** SHA-256, 64 hexadecimal digits in lower case. */
  fingerprint: string;
}

export interface HostFacts {
  /** Name in the configuration. */
  host: string;
  /** What `uname -n` prints. */
  nodeName: string;
  kernelRelease: string;
  architecture: string;
  uid: number;
  /** The host's clock when it answered; milliseconds since 1970. */
  clockMs: number;
  /** Of dom0. */
  memory: { totalBytes: number; availableBytes: number };
  /** Installed packages among those that matter here, and their versions. */
  packages: Fact<Record<string, string>>;
  /** Without the `v`. */
  node: Fact<string>;
  xen: Fact<XenFacts>;
  /** Which CPUs are threads of one core; absent where Xen doesn't say. */
  topology?: ReadonlyMap<number, CpuPlace>;
  /** Dom0 and all guests that run. */
  guests: Fact<RunningGuest[]>;
  loadedModules: string[];
  /** Modules among those that matter here that can be loaded, or are built in. */
  availableModules: Fact<Record<string, ModuleInfo>>;
  /** Of the loaded DRBD module; undefined while it is not loaded (then see `availableModules`). */
  drbdModule: string | undefined;
  drbdUtils: Fact<string>;
  volumeGroups: Fact<VolumeGroup[]>;
  logicalVolumes: Fact<LogicalVolume[]>;
  /** By path: the data and meta-data LVs that the layouts name. */
  devices: Record<string, DeviceContent>;
  /** By path: the meta-data LVs that the layouts name. */
  metaData: Record<string, MetaDataState>;
  dm: Fact<DmDevice[]>;
  blockDevices: Fact<BlockDevice[]>;
  /** Where dom0's LVM looks for volume groups. */
  lvmFilters: Fact<LvmFilters>;
  /** Empty where the module is not loaded. */
  drbdRunning: Fact<RunningResource[]>;
  /** All resources in the host's configuration, foreign ones too. */
  drbdConfigured: Fact<ConfiguredResource[]>;
  units: Fact<Record<string, UnitState>>;
  diversions: Fact<Diversion[]>;
  /** By path: MD5 of each configuration file as packages ship it. */
  packagedFiles: Fact<Record<string, string>>;
  /** By path: MD5 of the file as it is; absent where there is none. */
  files: Record<string, string>;
  listeners: Fact<Listener[]>;
  addresses: Fact<InterfaceAddress[]>;
  /** By path: SHA-256 of the guests' kernels and ramdisks, or why they can't be read. */
  guestFiles: Record<string, Fact<string>>;
  /** Guests that xendomains starts at boot: file to the name in it. */
  autostart: Record<string, string>;
  timeSynchronised: Fact<boolean>;
  /** The certificate that setup made for this host. */
  certificate: Fact<Certificate>;
  /** Of the key with which this host logs in at the arbiter and at its peer: `ssh-ed25519 BASE64`. */
  sshPublicKey: Fact<string>;
}

/** The units that run while a domain is protected, on its primary and on its backup, or moved from one to the other. */
export function protectionUnits(domain: string): string[] {
  return [
    senderUnit(domain),
    receiverUnit(domain),
    switchoverUnit(domain),
    switchoverTargetUnit(domain),
    drillUnit(domain),
  ];
}

/** Where setup puts the host's own certificate. */
export const TLS_CERTIFICATE = `${Paths.tls}/host.crt`;

/** Kernel modules that protection needs, in the order they are reported. */
export const REQUIRED_MODULES = [
  'drbd',
  'nbd',
  'dm_mod',
  'sch_plug',
  'ifb',
  'act_mirred',
  'cls_matchall',
  'sch_ingress',
] as const;

/** Those of them that an engine needs: only the journal is an NBD device. */
export function requiredModules(engine: Engine): (typeof REQUIRED_MODULES)[number][] {
  return REQUIRED_MODULES.filter((name) => name !== 'nbd' || engine === 'journal');
}

/** Debian packages that a host needs. A star stands for the part of the name that is a version. */
export const REQUIRED_PACKAGES = [
  'xen-utils-4*',
  'xenstore-utils',
  'drbd-utils',
  'lvm2',
  'dmsetup',
  'nodejs',
  'iproute2',
  'iputils-ping',
  'openssl',
  'kmod',
  'util-linux',
  'systemd',
] as const;

/** Hotplug scripts that this project replaces, with the distribution's diverted. */
export const XEN_SCRIPTS = [
  `${Paths.xenScripts}/block-drbd`,
  `${Paths.xenScripts}/block-drbd-probe`,
] as const;

const FOREIGN_FILES = [
  Paths.drbdGlobal,
  '/etc/drbd.conf',
  ...XEN_SCRIPTS,
  ...XEN_SCRIPTS.map((p) => `${p}.distrib`),
];

const UNITS = [
  'drbd.service',
  'xendomains.service',
  'xen.service',
  'xenstored.service',
  'chrony.service',
  'ntpsec.service',
  'systemd-timesyncd.service',
];

/** Runs `command` with DEVICE only where that exists, so that nothing is created by opening it. */
function whereExists(device: string, ...command: string[]): string[] {
  return ['find', device, '-maxdepth', '0', ...command];
}

const EVENTS2 = whereExists(
  '/sys/module/drbd',
  '-exec',
  'drbdsetup',
  'events2',
  '--now',
  '--statistics',
  ';',
);

/** Both formats are tried: 8.4 writes v08, 9 writes v09. The first that is there is printed. */
function metaCommand(device: string): string[] {
  const read = (format: string, ...more: string[]): string[] => [
    '-exec',
    'drbdmeta',
    '-',
    format,
    '{}',
    'flex-external',
    'get-gi',
    ...more,
    ';',
  ];
  return whereExists(device, '(', ...read('v08'), '-o', ...read('v09', '--node-id', '0'), ')');
}

/**
 * The read-only commands whose results `parseFacts` reads.
 *
 * @param layouts of all domains; those of other hosts are left out
 * @param hostName name in the configuration
 * @param guestFiles kernels and ramdisks of the guests of this host, absolute paths
 */
export function probeCommands(
  layouts: readonly DomainLayout[],
  hostName: string,
  guestFiles: readonly string[] = [],
): Map<string, string[]> {
  const own = layouts.filter((layout) => layout.hosts.some((host) => host.name === hostName));
  const commands = new Map<string, string[]>();
  const add = (key: string, ...argv: string[]): void => {
    commands.set(key, argv);
  };

  add('date', 'date', '+%s.%N');
  add('uname', 'uname', '-n', '-r', '-m');
  add('id', 'id', '-u');
  add('meminfo', 'cat', '/proc/meminfo');
  add('modules', 'cat', '/proc/modules');
  add('modinfo', 'modinfo', '-0', ...REQUIRED_MODULES);
  add(
    'packages',
    'dpkg-query',
    '-W',
    '-f=${Package}\\t${db:Status-Status}\\t${Version}\\n',
    ...REQUIRED_PACKAGES,
  );
  add('conffiles', 'dpkg-query', '-W', '-f=${Conffiles}\\n', 'drbd-utils');
  add('diversions', 'dpkg-divert', '--list', `${Paths.xenScripts}/*`, Paths.drbdGlobal);
  add('md5sum', 'md5sum', ...FOREIGN_FILES);
  add('node', 'node', '--version');
  add('xl-info', 'xl', 'info');
  add('xl-topology', 'xl', 'info', '-n');
  add('xl-list', 'xl', 'list');
  add('proc-drbd', 'cat', '/proc/drbd');
  add('drbdadm-version', 'drbdadm', '--version');
  add('drbdadm-dump-xml', 'drbdadm', 'dump-xml');
  add('events2', ...EVENTS2);
  add('vgs', 'vgs', ...LVM_OPTIONS, '--options', VGS_COLUMNS);
  add('lvs', 'lvs', ...LVM_OPTIONS, '--options', LVS_COLUMNS);
  add('dmsetup-table', 'dmsetup', 'table');
  add('dmsetup-info', 'dmsetup', 'info');
  add('lsblk', 'lsblk', '--json', '--bytes', '--paths', '--output', LSBLK_COLUMNS);
  add(
    'units',
    'systemctl',
    'show',
    '--property=Id,LoadState,ActiveState,UnitFileState',
    ...UNITS,
    ...own.flatMap(({ domain: { name } }) => [unitName(name), ...protectionUnits(name)]),
  );
  add('lvmconfig', 'lvmconfig', '--typeconfig', 'full', 'devices/filter', 'devices/global_filter');
  add('ss', 'ss', '-Hltn');
  add('ip', 'ip', '-json', 'addr');
  add('autostart', 'grep', '-HRZE', '^[[:space:]]*name[[:space:]]*=', '/etc/xen/auto');
  add('timedatectl', 'timedatectl', 'show', '--property=NTPSynchronized');
  add(
    'certificate',
    'openssl',
    'x509',
    '-in',
    TLS_CERTIFICATE,
    '-noout',
    '-subject',
    '-enddate',
    '-fingerprint',
    '-sha256',
  );

  // The empty passphrase, so that it never asks for one.
  add('ssh-key', 'ssh-keygen', '-y', '-P', '', '-f', SSH_KEY);

  for (const { volumes } of own) {
    for (const volume of volumes) {
      const data = lvPath(volume.volumeGroup, volume.dataLv);
      const meta = lvPath(volume.volumeGroup, volume.metaLv);
      for (const device of [data, meta]) {
        add(`wipefs ${device}`, 'wipefs', '--json', '--output', WIPEFS_COLUMNS, device);
        add(`sample ${device}`, 'perl', '-e', SAMPLE_PROGRAM, device);
      }
      add(`drbdmeta ${meta}`, ...metaCommand(meta));
    }
  }
  for (const file of guestFiles) add(`sha256sum ${file}`, 'sha256sum', '--', file);
  return commands;
}

/** What one command of the list gave. */
export interface ProbeResult {
  exitCode: number;
  stdout: string;
  stderr: string;
}

/** The shell's and `env`'s exit code for a command that is not there. */
const NOT_FOUND = 127;
const NO_SUCH_FILE = 'No such file or directory';

/**
 * Reads the results of `probeCommands`.
 *
 * @param host name in the configuration
 * @throws OperatorError that names host, tool and line where output is not understood, or where one of the
 *   few commands failed that cannot fail on a Debian host
 */
export function parseFacts(host: string, results: ReadonlyMap<string, ProbeResult>): HostFacts {
  return understood(host, () => readFacts(host, results));
}

/** The state of DRBD on a host, for waiting on it: a read-only command for `parseDrbdRunning`. */
export function drbdCommand(): string[] {
  return [...EVENTS2];
}

/**
 * Reads the result of `drbdCommand`. Without the module there is no resource.
 *
 * @throws OperatorError that names host, tool and line where output is not understood
 */
export function parseDrbdRunning(host: string, result: ProbeResult): Fact<RunningResource[]> {
  return understood(host, () => drbdRunning(result));
}

export function understood<T>(host: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof ParseError)) throw error;
    throw new OperatorError(
      `${host}: ${error.message}. Nothing was changed. Is the version of the tool one that is supported?`,
      undefined,
      error,
    );
  }
}

function readFacts(host: string, results: ReadonlyMap<string, ProbeResult>): HostFacts {
  const result = (key: string): ProbeResult => {
    const found = results.get(key);
    if (!found) throw new Error(`${host}: no result for the probe ${key}`);
    return found;
  };
  /** Of a command that has to succeed on any host that this project can run on. */
  const always = <T>(key: string, parse: (text: string) => T): T => {
    const { exitCode, stdout, stderr } = result(key);
    if (exitCode === 0) return parse(stdout);
    throw new OperatorError(
      `${host}: ${key} failed with exit code ${exitCode}: ${firstLine(stderr)}. Nothing was changed.`,
    );
  };
  const fact = <T>(
    key: string,
    parse: (text: string) => T,
    goodExitCodes: readonly number[] = [0],
  ): Fact<T> => {
    const { exitCode, stdout, stderr } = result(key);
    if (exitCode === NOT_FOUND) {
      // As timeout(1) and env(1) put it; an edge that says it in other words leaves the name of the probe.
      const tool = /'([^']+)': No such file/.exec(stderr)?.[1] ?? key;
      return { known: false, cause: 'not-installed', reason: `${tool} is not installed` };
    }
    if (goodExitCodes.includes(exitCode)) return { known: true, value: parse(stdout) };
    return { known: false, cause: 'failed', reason: firstLine(stderr) || `exit code ${exitCode}` };
  };
  /** Results by subject, of the commands of one kind. */
  const each = <T>(
    kind: string,
    read: (result: ProbeResult, subject: string, key: string) => T | undefined,
  ): Record<string, T> =>
    Object.fromEntries(
      [...results].flatMap(([key, found]) => {
        if (!key.startsWith(`${kind} `)) return [];
        const subject = key.slice(kind.length + 1);
        const value = read(found, subject, key);
        return value === undefined ? [] : [[subject, value] as const];
      }),
    );

  const dmInfo = fact('dmsetup-info', (text) => text);
  const loaded = always('modules', system.parseProcModules);
  const procDrbd = result('proc-drbd');
  const identity = always('uname', system.parseUname);
  const configured = drbdConfigured(result('drbdadm-dump-xml'), (parse) => fact('drbdadm-dump-xml', parse));
  const topology = fact('xl-topology', parseXlTopology);
  return {
    host,
    ...identity,
    uid: always('id', system.parseUid),
    clockMs: always('date', system.parseClock),
    memory: always('meminfo', system.parseMeminfo),
    // Exit code 1: some of the packages are unknown to dpkg.
    packages: fact('packages', system.parsePackages, [0, 1]),
    node: fact('node', system.parseNodeVersion),
    xen: fact('xl-info', parseXlInfo),
    ...(topology.known ? { topology: topology.value } : {}),
    guests: fact('xl-list', parseXlList),
    loadedModules: loaded,
    // Exit code 1: some of the modules are unknown.
    availableModules: fact('modinfo', system.parseModinfo, [0, 1]),
    drbdModule: procDrbd.exitCode === 0 ? parseProcDrbd(procDrbd.stdout) : undefined,
    drbdUtils: fact('drbdadm-version', parseDrbdUtilsVersion),
    volumeGroups: fact('vgs', parseVgs),
    logicalVolumes: fact('lvs', parseLvs),
    devices: each('wipefs', (wipefs, device) => deviceContent(wipefs, result(`sample ${device}`))),
    metaData: each('drbdmeta', metaDataState),
    dm: dmInfo.known ? fact('dmsetup-table', (table) => parseDmsetup(dmInfo.value, table)) : dmInfo,
    blockDevices: fact('lsblk', parseLsblk),
    lvmFilters: fact('lvmconfig', parseLvmFilters),
    // 8.3 has no events2.
    drbdRunning: isModule83(procDrbd.stdout)
      ? moduleRunning(procDrbd.stdout, configured, identity.nodeName)
      : drbdRunning(result('events2')),
    drbdConfigured: configured,
    units: fact('units', system.parseUnits),
    diversions: fact('diversions', system.parseDiversions),
    packagedFiles: fact('conffiles', system.parseConffiles),
    // Exit code 1: some of the files are not there.
    files: system.parseDigests('md5sum', result('md5sum').stdout),
    listeners: fact('ss', parseListeners),
    addresses: fact('ip', parseIpAddresses),
    guestFiles: each('sha256sum', (_, __, key) => fact(key, (text) => system.parseDigest('sha256sum', text))),
    // Exit code 1: no line. 2: no directory, or a file that can't be read besides those that can.
    autostart: system.parseAutostart(result('autostart').stdout),
    timeSynchronised: fact('timedatectl', system.parseTimeSync),
    certificate: fact('certificate', system.parseCertificate),
    sshPublicKey: fact('ssh-key', parsePublicKey),
  };
}

/** What `ssh-keygen -y` prints: the public key, and perhaps a comment. */
function parsePublicKey(text: string): string {
  const [line] = linesOf('ssh-keygen', text);
  const key = line === undefined ? undefined : /^(ssh-ed25519 [A-Za-z0-9+/]+={0,2})(?: .*)?$/.exec(line.text);
  if (key?.[1] !== undefined) return key[1];
  throw new ParseError('ssh-keygen', 'a public key of type ssh-ed25519 is expected', line?.text ?? '', 1);
}

function firstLine(text: string): string {
  return (text.split('\n').find((line) => line.trim() !== '') ?? '').trim().slice(0, 300);
}

/** drbdadm of 8.3 fails where there is no resource. */
function drbdConfigured(
  { stdout, stderr }: ProbeResult,
  read: (parse: typeof parseDumpXml) => Fact<ConfiguredResource[]>,
): Fact<ConfiguredResource[]> {
  return stdout === '' && stderr.trim() === 'no resources defined!'
    ? { known: true, value: [] }
    : read(parseDumpXml);
}

/** A module of 8.3 without protocol D is one that this project can do nothing with, and no reason to stop `check`. */
function moduleRunning(
  procDrbd: string,
  configured: Fact<ConfiguredResource[]>,
  nodeName: string,
): Fact<RunningResource[]> {
  try {
    const value = moduleResources(procDrbd, configured.known ? configured.value : [], nodeName);
    return { known: true, value };
  } catch (error) {
    if (!(error instanceof ParseError)) throw error;
    return { known: false, cause: 'failed', reason: error.message };
  }
}

/** `find` says that the module's directory is not there where the module is not loaded: nothing can run then. */
function drbdRunning({ exitCode, stdout, stderr }: ProbeResult): Fact<RunningResource[]> {
  if (
    exitCode !== 0 &&
    stdout === '' &&
    stderr.includes('/sys/module/drbd') &&
    stderr.includes(NO_SUCH_FILE)
  ) {
    return { known: true, value: [] };
  }
  if (stdout === '' && stderr !== '') {
    const missing = stderr.startsWith('find:') && stderr.includes(NO_SUCH_FILE);
    return { known: false, cause: missing ? 'not-installed' : 'failed', reason: firstLine(stderr) };
  }
  return { known: true, value: parseEvents2(stdout) };
}

function deviceContent(wipefs: ProbeResult, sample: ProbeResult): DeviceContent {
  for (const { exitCode, stderr } of [wipefs, sample]) {
    if (exitCode === 0) continue;
    if (exitCode !== NOT_FOUND && stderr.includes(NO_SUCH_FILE)) return { state: 'absent' };
    return { state: 'unreadable', reason: firstLine(stderr) || `exit code ${exitCode}` };
  }
  return { state: 'read', signatures: parseWipefs(wipefs.stdout), ...parseSample(sample.stdout) };
}

/**
 * `find` hides the exit code of drbdmeta, which says nothing at all where there is no meta-data. So only an
 * end without any complaint means that.
 */
function metaDataState({ exitCode, stdout, stderr }: ProbeResult, device: string): MetaDataState {
  const reason = firstLine(stderr) || `exit code ${exitCode}`;
  // While it is attached, drbdmeta asks whether to go on, hears nothing, and says "Operation canceled." on
  // standard output.
  if (/resource busy/i.test(stderr)) return { state: 'busy', reason };
  if (stdout.trim() !== '') return parseDrbdmeta(stdout);
  if (stderr.trim() === '') return exitCode === 0 ? { state: 'none' } : { state: 'unreadable', reason };
  if (reason.startsWith('find:') && reason.includes(device) && reason.includes(NO_SUCH_FILE)) {
    return { state: 'absent' };
  }
  return { state: 'unreadable', reason };
}
