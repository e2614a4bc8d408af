/**
 * Embedded drbd-utils (9.22 with DRBD 8.4 in the kernel; with 8.3 see tools-drbd-83.ts), and `remus-devices` as it
 * works on a host.
 */
import { devicesPath, Paths } from '../core/names.js';
import { DrbdRefusal, type KernelResource, type KernelVolume } from './drbd.js';
import { parseResources, type EmbeddedResource } from './drbd-config.js';
import type { EmbeddedMachine, Tool } from './machine.js';
import { drbdadm83, drbdsetup83 } from './tools-drbd-83.js';
import { failed, NO_SUCH_FILE, NotModelled, printed } from './results.js';
import type { EmbeddedResult } from './sshd.js';
import { JUST_CREATED, NO_UUID, type MetaData } from './volumes.js';

export const drbdTools: [string, Tool][] = [
  ['drbdadm', drbdadm],
  ['drbdsetup', drbdsetup],
  ['drbdmeta', drbdmeta],
  [Paths.devicesScript, remusDevices],
];

const VERSION = [
  'DRBDADM_BUILDTAG=GIT-hash:\\ embedded\\ build',
  'DRBDADM_API_VERSION=2',
  'DRBD_KERNEL_VERSION_CODE=0x08040b',
  'DRBD_KERNEL_VERSION=8.4.11',
  'DRBDADM_VERSION_CODE=0x091600',
  'DRBDADM_VERSION=9.22.0',
  '',
].join('\n');

function drbdadm(machine: EmbeddedMachine, args: readonly string[]): EmbeddedResult {
  if (machine.drbdModule !== '8.3') return drbdadm84(machine, args);
  try {
    return drbdadm83(machine, args, drbdadm84, configured);
  } catch (error) {
    if (error instanceof NotModelled) throw error;
    return failed(10, (error as Error).message);
  }
}

function drbdadm84(machine: EmbeddedMachine, args: readonly string[]): EmbeddedResult {
  const [command = '', ...rest] = args;
  try {
    if (command === '--version') return printed(VERSION);
    const resources = configured(machine);
    switch (command) {
      case 'dump-xml':
        return printed(dumpXml(resources));
      case 'create-md':
        return createMetaData(machine, resources, rest);
      case 'adjust':
        return adjust(machine, resources, rest[0] ?? '', false);
      case '--dry-run':
      case '-d':
        if (rest[0] !== 'adjust') throw new NotModelled(`drbdadm ${args.join(' ')}`);
        return adjust(machine, resources, rest[1] ?? '', true);
      case 'new-current-uuid': {
        const [option, place = ''] = rest;
        const [name = '', volume] = place.split('/');
        if (option !== '--clear-bitmap') throw new NotModelled('new-current-uuid without --clear-bitmap');
        own(machine, resources, name);
        machine.drbd.skipSync(machine.kernel, name, Number(volume));
        return printed('');
      }
      case 'primary': {
        const name = rest.at(-1) ?? '';
        own(machine, resources, name);
        machine.drbd.primary(machine.kernel, name, rest.includes('--force'));
        return printed('');
      }
      case 'secondary':
        own(machine, resources, rest[0] ?? '');
        machine.drbd.secondary(machine.kernel, rest[0] ?? '');
        return printed('');
      case 'down':
        own(machine, resources, rest[0] ?? '');
        machine.drbd.down(machine.kernel, rest[0] ?? '');
        return printed('');
      default:
        throw new NotModelled(`drbdadm ${command}`);
    }
  } catch (error) {
    if (error instanceof DrbdRefusal) return failed(error.exitCode, error.message);
    if (error instanceof NotModelled) throw error;
    return failed(10, (error as Error).message);
  }
}

/** @throws Error where a file can't be parsed; DRBD refuses all of its configuration then */
function configured(machine: EmbeddedMachine): EmbeddedResource[] {
  return machine.files
    .below('/etc/drbd.d')
    .filter((path) => path.endsWith('.res'))
    .flatMap((path) => parseResources(path, machine.files.text(path) ?? ''));
}

/** The resource as it concerns this host. */
function own(machine: EmbeddedMachine, resources: EmbeddedResource[], name: string) {
  const resource = resources.find((one) => one.name === name);
  const here = resource?.hosts.find((host) => host.name === machine.name);
  const peer = resource?.hosts.find((host) => host.name !== machine.name);
  if (resource === undefined || here === undefined || peer === undefined) {
    throw new DrbdRefusal(`'${name}' not defined in your config (for this host).\n`);
  }
  return { resource, here, peer };
}

function createMetaData(
  machine: EmbeddedMachine,
  resources: EmbeddedResource[],
  args: readonly string[],
): EmbeddedResult {
  const [option, place = ''] = args;
  const [name = '', number] = place.split('/');
  if (option !== '--force') throw new NotModelled('create-md without --force asks questions');
  const { resource } = own(machine, resources, name);
  const volume = resource.volumes.find((one) => one.volume === Number(number));
  if (volume === undefined) throw new DrbdRefusal(`'${place}' not defined in your config (for this host).\n`);
  const lv = machine.lvAt(volume.metaDisk);
  if (lv === undefined) return failed(20, `open(${volume.metaDisk}) failed: ${NO_SUCH_FILE}\n`);
  if (machine.isOpen(lv)) return failed(20, `Device '${volume.minor}' is configured!\n`);
  if (machine.lvAt(volume.disk) === undefined)
    return failed(20, `open(${volume.disk}) failed: ${NO_SUCH_FILE}\n`);
  lv.metaData = {
    uuids: [JUST_CREATED, NO_UUID, NO_UUID, NO_UUID],
    consistent: false,
    wasUpToDate: false,
    primary: false,
    outOfSyncBytes: 0,
  };
  return {
    exitCode: 0,
    stdout:
      'initializing activity log\nWriting meta data...\nNew drbd meta data block successfully created.\n',
    stderr: 'initializing bitmap (4 KB) to all zero\n',
  };
}

function adjust(
  machine: EmbeddedMachine,
  resources: EmbeddedResource[],
  name: string,
  dryRun: boolean,
): EmbeddedResult {
  const { resource, here, peer } = own(machine, resources, name);
  const running = machine.kernel.resources.get(name);
  if (dryRun)
    return printed(
      missing(resource, running)
        .map((line) => `${line}\n`)
        .join(''),
    );
  machine.modules.add('drbd');
  const volumes = resource.volumes.map(({ volume, minor, disk, metaDisk }): [number, KernelVolume] => {
    const [data, meta] = [machine.lvAt(disk), machine.lvAt(metaDisk)];
    if (data === undefined || meta === undefined) {
      const path = data === undefined ? disk : metaDisk;
      throw new DrbdRefusal(`open(${path}) failed: ${NO_SUCH_FILE}\n`, 20);
    }
    return [
      volume,
      { volume, minor, disk: 'Diskless', data, meta, replication: 'Off', crashedPrimary: false },
    ];
  });
  machine.drbd.adjust(machine.kernel, {
    name,
    volumes: new Map(volumes),
    config: resource.text,
    port: here.port,
    address: here.address,
    peerAddress: peer.address,
  });
  return printed('');
}

/** What `adjust` would still do, roughly as `drbdadm --dry-run` words it. */
function missing(resource: EmbeddedResource, running: KernelResource | undefined): string[] {
  const lines = running === undefined ? [`drbdsetup-84 new-resource ${resource.name}`] : [];
  for (const { volume, minor, disk, metaDisk } of resource.volumes) {
    if (running?.volumes.has(volume) === true) continue;
    lines.push(`drbdsetup-84 new-minor ${resource.name} ${minor} ${volume}`);
    lines.push(`drbdmeta ${minor} v08 ${metaDisk} flex-external apply-al`);
    lines.push(`drbdsetup-84 attach ${minor} ${disk} ${metaDisk} flexible`);
  }
  if (running === undefined || running.connection === 'StandAlone') {
    lines.push(`drbdsetup-84 connect ${resource.name}`);
  } else if (running.config !== resource.text) {
    lines.push(`drbdsetup-84 net-options ${resource.name}`);
  }
  return lines;
}

function dumpXml(resources: EmbeddedResource[]): string {
  const lines = resources.flatMap((resource) => [
    `    <resource name="${resource.name}" conf-file-line="${resource.file}:${resource.line}">`,
    ...resource.hosts.flatMap((host) => [
      `        <host name="${host.name}">`,
      ...resource.volumes.flatMap((volume) => [
        `            <volume vnr="${volume.volume}">`,
        `                <device minor="${volume.minor}"></device>`,
        `                <disk>${volume.disk}</disk>`,
        `                <meta-disk>${volume.metaDisk}</meta-disk>`,
        `            </volume>`,
      ]),
      `            <address family="${host.family}" port="${host.port}">${host.address}</address>`,
      `        </host>`,
    ]),
    `    </resource>`,
  ]);
  return ['<config file="/etc/drbd.conf">', '    <common>', '    </common>', ...lines, '</config>', ''].join(
    '\n',
  );
}

/** `drbdsetup events2 --now --statistics`, and of `drbdsetup show RESOURCE` the protocol. */
function drbdsetup(machine: EmbeddedMachine, args: readonly string[]): EmbeddedResult {
  if (machine.drbdModule === '8.3') return drbdsetup83();
  const [command, resource = ''] = args;
  if (command === 'show' && args.length === 2) {
    if (!machine.kernel.resources.has(resource)) return failed(10, `${resource}: No such resource\n`);
    return printed(`resource ${resource} {\n    net {\n        protocol           \tA;\n    }\n}\n`);
  }
  if (args.join(' ') !== 'events2 --now --statistics') throw new NotModelled(`drbdsetup ${args.join(' ')}`);
  machine.drbd.look();
  const lines = [...machine.kernel.resources.values()].flatMap((resource) => {
    const { name } = resource;
    const peer = machine.drbd.peerOf(machine.kernel, name);
    const volumes = [...resource.volumes.values()].sort((a, b) => a.volume - b.volume);
    return [
      `exists resource name:${name} role:${resource.role} suspended:no write-ordering:flush`,
      `exists connection name:${name} peer-node-id:0 conn-name:peer connection:${resource.connection} ` +
        `role:${peer?.role ?? 'Unknown'} congested:no`,
      ...volumes.map(
        ({ volume, minor, disk, data }) =>
          `exists device name:${name} volume:${volume} minor:${minor} disk:${disk} size:${data.sizeBytes / 1024} ` +
          'read:0 written:0 al-writes:8 bm-writes:0 upper-pending:0 lower-pending:0 al-suspended:no blocked:no',
      ),
      ...volumes.map(({ volume, replication, meta }) => {
        const outOfSync = (meta.metaData?.outOfSyncBytes ?? 0) / 1024;
        return (
          `exists peer-device name:${name} peer-node-id:0 conn-name:peer volume:${volume} replication:${replication} ` +
          `peer-disk:${peer?.volumes.get(volume)?.disk ?? 'DUnknown'} resync-suspended:no received:0 sent:0 ` +
          `${outOfSync > 0 ? `out-of-sync:${outOfSync} ` : ''}pending:0 unacked:0`
        );
      }),
    ];
  });
  return printed([...lines, 'exists -', ''].join('\n'));
}

/** `drbdmeta - FORMAT DEVICE flex-external get-gi [--node-id N]`; only meta-data of 8.4 is ever there. */
function drbdmeta(machine: EmbeddedMachine, args: readonly string[]): EmbeddedResult {
  const [minor, format, path = '', kind, command] = args;
  if (minor !== '-' || kind !== 'flex-external' || command !== 'get-gi') {
    throw new NotModelled(`drbdmeta ${args.join(' ')}`);
  }
  const lv = machine.lvAt(path);
  if (lv === undefined) return failed(20, `open(${path}) failed: ${NO_SUCH_FILE}`);
  if (machine.isOpen(lv)) {
    return failed(
      20,
      `open(${path}) failed: Device or resource busy\n\nExclusive open failed. Do it anyways?\nstdin not a TTY, not waiting for confirmation`,
    );
  }
  if (lv.metaData === undefined || format !== 'v08') return { exitCode: 1, stdout: '', stderr: '' };
  const flags = metaFlags(lv.metaData);
  return printed(`${lv.metaData.uuids.join(':')}:${flags.join(':')}\n`);
}

/** Consistent, was up to date, primary, connected, full sync, peer outdated, crashed. */
function metaFlags({ consistent, wasUpToDate, primary }: MetaData): number[] {
  return [consistent, wasUpToDate, primary, false, false, false, false].map(Number);
}

/** `remus-devices map | unmap | up | down DOMAIN`: as scripts/host/remus-devices does it, where that is installed. */
export function remusDevices(machine: EmbeddedMachine, args: readonly string[]): EmbeddedResult {
  const [command = '', domain = ''] = args;
  if (machine.files.read(Paths.devicesScript) === undefined) {
    return failed(127, `timeout: failed to run command '${Paths.devicesScript}': ${NO_SUCH_FILE}`);
  }
  const say = (text: string): string => `remus-devices ${domain}: ${text}\n`;
  const file = machine.files.text(devicesPath(domain));
  if (file === undefined) {
    return failed(2, say(`${devicesPath(domain)}: needed is a readable file, made by remus-drbd setup`));
  }
  const volumes = file
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'))
    .map((line) => line.split(' '));

  if (command === 'down') {
    try {
      machine.drbd.down(machine.kernel, domain);
    } catch (error) {
      if (!(error instanceof DrbdRefusal)) throw error;
      return failed(1, say(`drbdadm down failed: ${error.message}`));
    }
  }
  if (command === 'down' || command === 'unmap') {
    const names = volumes.map(([, name]) => name);
    const used = [...machine.kernel.resources.values()].some(({ volumes: running }) =>
      [...running.values()].some(({ data }) =>
        machine.mappings.some((mapping) => mapping.lv === data && names.includes(mapping.name)),
      ),
    );
    if (used) return failed(1, say('dmsetup remove failed; it was left as it is.'));
    machine.mappings = machine.mappings.filter(({ name }) => !names.includes(name));
    return printed('');
  }
  if (command !== 'map' && command !== 'up') throw new NotModelled(`remus-devices ${command}`);
  for (const [, name = '', path = ''] of volumes) {
    const lv = machine.lvAt(path);
    if (lv === undefined) {
      return failed(1, say(`${name}: ${path} has not come up in 60 s; needed is an active logical volume.`));
    }
    if (machine.mappings.some((mapping) => mapping.name === name)) continue;
    machine.mappings.push({ name, lv, minor: machine.nextDmMinor(), suspended: false });
  }
  if (command === 'map') return printed('');
  machine.modules.add('drbd');
  const adjusted = drbdadm(machine, ['adjust', domain]);
  if (adjusted.exitCode === 0) return adjusted;
  const text = `drbdadm adjust failed with status ${adjusted.exitCode}; the devices are mapped.`;
  return failed(1, `${adjusted.stderr}${say(text)}`);
}
