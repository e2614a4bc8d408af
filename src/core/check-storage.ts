/**
 * The points of `check` that are about a domain's storage on a host: volume groups and their space, LVs that
 * are there already, what is on them and who uses them; DRBD's names, minors and ports.
 */
import { finding, type Finding } from './check.js';
import { drbdFamily, drbdVersion } from './check-host.js';
import { drillVolumes } from './drill/snapshots.js';
import type { ConfiguredResource, HostFacts, LogicalVolume } from './facts.js';
import type { DomainLayout, VolumeLayout } from './model.js';
import {
  dataBytes,
  drillGuest,
  drillUnit,
  lvPath,
  mapperPath,
  metaBytes,
  resourcePath,
  SPARE_BYTES,
  Tags,
  unitName,
  VOLUMES_PER_DOMAIN,
} from './names.js';
import { contentProblem } from './setup/content.js';
import { formatSize } from './units.js';

/** Major number of NBD devices (Documentation/admin-guide/devices.txt): the journal's, while protected. */
const NBD_MAJOR = '43';

/** The format of meta-data that each DRBD reads. */
const META_FORMATS: Readonly<Record<string, 'v08' | 'v09'>> = { '8.3': 'v08', '8.4': 'v08', '9': 'v09' };

/** An LV that a domain needs on each of its hosts. */
interface NeededLv {
  volumeGroup: string;
  name: string;
  /** Undefined where it follows from an existing LV that isn't there. */
  sizeBytes: number | undefined;
  /** Setup makes it; otherwise the user has to. */
  make: boolean;
  /** Setup extends it by an extent, see `mapperBytes`. */
  extend?: boolean;
}

export function storageFindings(layout: DomainLayout, facts: HostFacts): Finding[] {
  return [
    ...lvmFindings(layout, facts),
    ...layout.volumes.flatMap((volume) => [
      ...mapperFindings(volume, facts),
      ...contentFindings(layout, volume, facts),
    ]),
    ...collisionFindings(layout, facts),
    ...portFindings(layout, facts),
  ];
}

function neededLvs(layout: DomainLayout, volumes: readonly LogicalVolume[]): NeededLv[] {
  const needed = layout.volumes.flatMap((volume): NeededLv[] => {
    const { volumeGroup, dataLv, metaLv, makeData } = volume;
    const existing = findLv(volumes, volumeGroup, dataLv);
    const bytes = makeData ? volume.sizeBytes : existing && dataBytes(existing.sizeBytes, existing.tags);
    const spare = makeData && volume.role === 'disk' ? SPARE_BYTES : 0;
    return [
      {
        volumeGroup,
        name: dataLv,
        sizeBytes: bytes === undefined ? undefined : bytes + spare,
        make: makeData,
        extend: !makeData,
      },
      {
        volumeGroup,
        name: metaLv,
        sizeBytes: bytes === undefined ? undefined : metaBytes(bytes),
        make: true,
      },
    ];
  });
  if (layout.journal) {
    const { volumeGroup, lv, sizeBytes } = layout.journal;
    needed.push({ volumeGroup, name: lv, sizeBytes, make: true });
  }
  return needed;
}

function findLv(
  volumes: readonly LogicalVolume[],
  volumeGroup: string,
  name: string,
): LogicalVolume | undefined {
  return volumes.find((lv) => lv.volumeGroup === volumeGroup && lv.name === name);
}

function lvmFindings(layout: DomainLayout, facts: HostFacts): Finding[] {
  const { volumeGroups, logicalVolumes } = facts;
  for (const [tool, fact] of [['vgs', volumeGroups] as const, ['lvs', logicalVolumes] as const]) {
    if (fact.known) continue;
    const mend = fact.cause === 'not-installed' ? 'apt install lvm2' : `mend what ${tool} says`;
    return [finding('volume-group', 'fail', `${tool}: ${fact.reason}`, 'LVM that can be read', mend)];
  }
  if (!volumeGroups.known || !logicalVolumes.known) return [];
  const needed = neededLvs(layout, logicalVolumes.value);
  const findings: Finding[] = [];
  for (const name of new Set(needed.map((lv) => lv.volumeGroup))) {
    const group = volumeGroups.value.find((candidate) => candidate.name === name);
    const here = needed.filter((lv) => lv.volumeGroup === name);
    if (!group) {
      const all = volumeGroups.value.map((candidate) => candidate.name).join(', ') || 'none';
      findings.push(
        finding(
          'volume-group',
          'fail',
          `no volume group ${name} (there are: ${all})`,
          `volume group ${name}`,
          `make it (vgcreate ${name} DEVICE), or name another one in the configuration`,
        ),
      );
      continue;
    }
    const missing = here.filter((lv) => lv.make && !findLv(logicalVolumes.value, name, lv.name));
    const extended = here.filter(({ extend, name: lvName }) => {
      const found = findLv(logicalVolumes.value, name, lvName);
      return extend === true && found !== undefined && !found.tags.some((tag) => tag.startsWith(Tags.data));
    });
    const bytes =
      missing.reduce((sum, lv) => sum + roundUp(lv.sizeBytes ?? 0, group.extentBytes), 0) +
      extended.length * group.extentBytes;
    findings.push(
      finding(
        'volume-group',
        bytes <= group.freeBytes ? 'pass' : 'fail',
        `${size(group.freeBytes)} free in ${name}`,
        bytes === 0
          ? 'nothing: all LVs are there'
          : `${size(bytes)} for ${[...missing, ...extended].map((lv) => lv.name).join(', ')}`,
        `add a device to it (vgextend ${name} DEVICE), or make the disks or the journal smaller`,
      ),
    );
  }
  findings.push(...drillFindings(layout, facts, logicalVolumes.value));
  for (const lv of needed) {
    const found = findLv(logicalVolumes.value, lv.volumeGroup, lv.name);
    findings.push(...(lv.make ? madeLvFindings(lv, found) : existingLvFindings(lv, found, facts, layout)));
  }
  return findings;
}

/** Snapshots of a drill that does not run any more: they take room, and slow each write to their origin down. */
function drillFindings(
  { domain: { name } }: DomainLayout,
  { units }: HostFacts,
  volumes: readonly LogicalVolume[],
): Finding[] {
  const state = units.known ? (units.value[drillUnit(name)]?.activeState ?? 'inactive') : 'unknown';
  if (state !== 'inactive' && state !== 'failed') return [];
  return drillVolumes(name, volumes).map((lv) => {
    const path = `${lv.volumeGroup}/${lv.name}`;
    const mend = `the next drill removes it first; or: xl destroy ${drillGuest(name)}, dmsetup remove ${lv.name}, lvremove ${path}`;
    return finding('lv', 'warn', `LV ${path} was left by a drill`, 'no drill that was cut short', mend);
  });
}

function roundUp(bytes: number, unit: number): number {
  return Math.ceil(bytes / unit) * unit;
}

/** Rounded down to MiB: a remainder is of no use to LVM. */
function size(bytes: number): string {
  return bytes < 2 ** 20 ? formatSize(bytes) : formatSize(Math.floor(bytes / 2 ** 20) * 2 ** 20);
}

/** An LV that setup makes. That it isn't there yet is no point of its own. */
function madeLvFindings(lv: NeededLv, found: LogicalVolume | undefined): Finding[] {
  if (!found) return [];
  const name = `${lv.volumeGroup}/${lv.name}`;
  if (!found.tags.includes(Tags.made)) {
    return [
      finding(
        'lv',
        'fail',
        `LV ${name} is there and was not made by remus-drbd (it has no tag "${Tags.made}")`,
        'a name that is free, or an LV that setup made',
        `rename or remove it; if it is the guest's disk, name it in the configuration with "logicalVolume"`,
      ),
    ];
  }
  const wanted = lv.sizeBytes ?? 0;
  return [
    finding(
      'lv',
      found.sizeBytes >= wanted ? 'pass' : 'fail',
      `LV ${name} has ${formatSize(found.sizeBytes)}`,
      `at least ${formatSize(wanted)}`,
      'set the size in the configuration back: setup does not resize volumes that are in place',
    ),
  ];
}

/** An LV of the user's that becomes a disk. */
function existingLvFindings(
  lv: NeededLv,
  found: LogicalVolume | undefined,
  facts: HostFacts,
  layout: DomainLayout,
): Finding[] {
  const name = `${lv.volumeGroup}/${lv.name}`;
  if (!found) {
    const mend =
      'make it, with the same size as on the other host, or give the disk a "size" so that setup makes one';
    return [finding('lv', 'fail', `no LV ${name}`, `LV ${name}, which the configuration names`, mend)];
  }
  const present = finding('lv', 'pass', `LV ${name} has ${formatSize(found.sizeBytes)}`, `LV ${name}`, '');
  return [present, useFinding(name, found, facts, layout)];
}

/** Whether anything but our own mapping uses the LV. */
function useFinding(name: string, found: LogicalVolume, facts: HostFacts, layout: DomainLayout): Finding {
  const id = 'lv-use';
  const needed = `nothing that uses LV ${name} before it is under DRBD`;
  const pass = (text: string): Finding => finding(id, 'pass', text, needed, '');
  if (!found.open) return pass('nothing has it open');
  const { drbdRunning } = facts;
  const runs =
    drbdRunning.known && drbdRunning.value.some((resource) => resource.name === layout.domain.name);
  // While protected, DRBD on the backup is on the journal, and it is the receiver that has the LV open.
  if (runs) return pass('DRBD runs on it');
  if (!facts.blockDevices.known) {
    return finding(
      id,
      'fail',
      `it is open, and lsblk: ${facts.blockDevices.reason}`,
      needed,
      'apt install util-linux',
    );
  }
  const device = facts.blockDevices.value.find((candidate) => candidate.device === found.device);
  if (device && device.mountpoints.length > 0) {
    const [where] = device.mountpoints;
    return finding(
      id,
      'fail',
      `it is mounted on ${where}`,
      needed,
      `umount ${where}, and take it out of /etc/fstab`,
    );
  }
  const ours = layout.volumes.map((volume) => mapperPath(volume.mapper));
  const foreign = (device?.holders ?? []).filter((holder) => !ours.includes(holder));
  if (foreign.length > 0) {
    const text = `${foreign.join(', ')} lies on it`;
    return finding(id, 'fail', text, needed, 'take that apart first, or give the guest another LV');
  }
  if ((device?.holders ?? []).length > 0) return pass('only our own mapping uses it');
  return finding(
    id,
    'fail',
    'something has it open: a guest that runs on it, or a program',
    needed,
    `stop the guest (xl shutdown) for the time of setup; otherwise fuser -v ${lvPath(found.volumeGroup, found.name)} says who`,
  );
}

function mapperFindings(volume: VolumeLayout, facts: HostFacts): Finding[] {
  if (!facts.dm.known) return [];
  const found = facts.dm.value.find((device) => device.name === volume.mapper);
  if (!found || found.segments.length === 0) return [];
  const lv = facts.logicalVolumes.known
    ? findLv(facts.logicalVolumes.value, volume.volumeGroup, volume.dataLv)
    : undefined;
  const [segment] = found.segments;
  const target = segment?.target?.device;
  const ours =
    found.segments.length === 1 &&
    target !== undefined &&
    (target === lv?.device || target.startsWith(`${NBD_MAJOR}:`));
  return [
    finding(
      'mapping',
      ours ? 'pass' : 'fail',
      `${mapperPath(volume.mapper)} is ${segment?.kind}${target === undefined ? '' : ` on ${target}`}`,
      `a linear mapping on ${lvPath(volume.volumeGroup, volume.dataLv)}${lv?.device === undefined ? '' : ` (${lv.device})`} or on the journal`,
      `if nothing of yours made it, remove it (dmsetup remove ${volume.mapper}) and let setup make it`,
    ),
  ];
}

/** The same decision that setup takes before it makes meta-data: whether data could be lost. */
function contentFindings(layout: DomainLayout, volume: VolumeLayout, facts: HostFacts): Finding[] {
  const id = 'data';
  const meta = lvPath(volume.volumeGroup, volume.metaLv);
  const state = facts.metaData[meta] ?? { state: 'absent' };
  const needed = 'a volume whose content can be lost, or is the source, or is in DRBD already';
  const found = (text: string): Finding[] =>
    volume.role === 'barrier' ? [] : [finding(id, 'pass', text, needed, '')];
  if (state.state === 'unreadable') {
    return [
      finding(
        'meta-data',
        'fail',
        `what is on ${meta} could not be read: ${state.reason}`,
        'DRBD meta-data that can be read, or none',
        `try it by hand: drbdmeta - v08 ${meta} flex-external get-gi`,
      ),
    ];
  }
  const runs =
    facts.drbdRunning.known && facts.drbdRunning.value.some(({ name }) => name === layout.domain.name);
  if (runs || state.state === 'busy') return found('in use by DRBD');
  const family = drbdFamily(drbdVersion(facts) ?? '');
  if (
    state.state === 'valid' &&
    META_FORMATS[family] !== undefined &&
    META_FORMATS[family] !== state.format
  ) {
    return [
      finding(
        'meta-data',
        'fail',
        `${meta} has meta-data in the format ${state.format}`,
        `${META_FORMATS[family]}, the format of DRBD ${family}`,
        'load the DRBD module that wrote it, or convert it by hand (drbdadm create-md asks before it does)',
      ),
    ];
  }
  if (state.state === 'valid') return found(`has DRBD meta-data${state.fresh ? ' that was never used' : ''}`);
  const lvs = facts.logicalVolumes;
  if (!volume.makeData && lvs.known && !findLv(lvs.value, volume.volumeGroup, volume.dataLv)) return [];
  if (volume.makeData && lvs.known && !findLv(lvs.value, volume.volumeGroup, volume.dataLv)) {
    return found('new, so nothing is on it');
  }
  const problem = contentProblem(layout, facts.host, volume, { facts }, new Set());
  if (problem === undefined) {
    return found(facts.host === layout.domain.primary ? 'it is the source' : 'nothing is on it');
  }
  return [
    finding(
      id,
      'fail',
      problem,
      needed,
      'decide which side has the data that counts; setup refuses until then and changes nothing',
    ),
  ];
}

/** The LVs of the user have to be equal in size, or DRBD takes the smaller and hides the rest. */
export function storagePairFindings(layout: DomainLayout, reached: readonly HostFacts[]): Finding[] {
  return layout.volumes.flatMap((volume) => {
    if (volume.makeData) return [];
    const sizes = reached.flatMap((facts) => {
      const found = facts.logicalVolumes.known
        ? findLv(facts.logicalVolumes.value, volume.volumeGroup, volume.dataLv)
        : undefined;
      return found ? [{ host: facts.host, bytes: dataBytes(found.sizeBytes, found.tags) }] : [];
    });
    const [a, b] = sizes;
    if (!a || !b) return [];
    const name = `${volume.volumeGroup}/${volume.dataLv}`;
    return [
      finding(
        'lv-sizes',
        a.bytes === b.bytes ? 'pass' : 'fail',
        a.bytes === b.bytes
          ? `${name} has ${formatSize(a.bytes)} on both`
          : `${name} has ${formatSize(a.bytes)} on ${a.host}, ${formatSize(b.bytes)} on ${b.host}`,
        'the same size on both hosts',
        `grow the smaller one: lvextend --size ${Math.max(a.bytes, b.bytes)}b ${name} on ${a.bytes < b.bytes ? a.host : b.host}`,
      ),
    ];
  });
}

/** Resources of others that have this domain's name, minors or disks. They are left alone, so they are in the way. */
function collisionFindings(layout: DomainLayout, facts: HostFacts): Finding[] {
  const { domain } = layout;
  const last =
    domain.minor + (domain.engine === 'protocol-d' ? layout.volumes.length : VOLUMES_PER_DOMAIN) - 1;
  const inBlock = (minor: number): boolean => minor >= domain.minor && minor <= last;
  const disks = layout.volumes.flatMap((volume) =>
    [volume.dataLv, volume.metaLv].flatMap((lv) => [
      lvPath(volume.volumeGroup, lv),
      mapperPath(`${volume.volumeGroup.replaceAll('-', '--')}-${lv.replaceAll('-', '--')}`),
    ]),
  );
  const findings: Finding[] = [];
  const clash = (id: string, found: string, needed: string, mend: string): void => {
    findings.push(finding(id, 'fail', found, needed, mend));
  };
  const nameNeeded = `no other resource called ${domain.name}`;
  const minorNeeded = `minors ${domain.minor} to ${last} to itself`;

  for (const resource of facts.drbdConfigured.known ? facts.drbdConfigured.value : []) {
    if (resource.name === domain.name) {
      if (isOurs(resource, layout)) continue;
      clash('drbd-name', `${place(resource)} has a resource of that name`, nameNeeded, `rename one of them`);
      continue;
    }
    const here = resource.hosts.find((host) => host.name === facts.nodeName);
    for (const volume of here?.volumes ?? []) {
      if (inBlock(volume.minor)) {
        const found = `minor ${volume.minor} belongs to ${resource.name} (${place(resource)})`;
        clash(
          'drbd-minors',
          found,
          minorNeeded,
          `set "minor" of ${domain.name} to a block of 16 that is free`,
        );
      }
      const used = disks.find((path) => path === volume.disk || path === volume.metaDisk);
      if (used !== undefined) {
        const found = `${used} belongs to ${resource.name} (${place(resource)})`;
        clash(
          'drbd-disk',
          found,
          'LVs that no other resource uses',
          'give the guest other LVs, or remove that resource',
        );
      }
    }
    if (here?.address?.port === domain.port) {
      const found = `port ${domain.port} belongs to ${resource.name} (${place(resource)})`;
      clash(
        'port',
        found,
        `TCP port ${domain.port} to itself`,
        `set "port" of ${domain.name} to one that is free`,
      );
    }
  }
  if (!facts.drbdRunning.known) {
    clash(
      'drbd-running',
      `DRBD can't be asked: ${facts.drbdRunning.reason}`,
      'the resources that run',
      'mend what it says',
    );
    return findings;
  }
  for (const resource of facts.drbdRunning.value) {
    for (const { volume, minor } of Object.values(resource.volumes)) {
      if (resource.name !== domain.name && inBlock(minor)) {
        const found = `minor ${minor} is in use by the running resource ${resource.name}`;
        clash(
          'drbd-minors',
          found,
          minorNeeded,
          `set "minor" of ${domain.name} to a block of 16 that is free`,
        );
      }
      if (resource.name === domain.name && minor !== domain.minor + volume) {
        const found = `${domain.name} runs already with minor ${minor} for volume ${volume}`;
        clash(
          'drbd-name',
          found,
          `minor ${domain.minor + volume} for it`,
          `drbdadm down ${domain.name}, or set "minor" back`,
        );
      }
    }
  }
  if (findings.length === 0) {
    findings.push(
      finding(
        'drbd-resources',
        'pass',
        'no resource of others is in the way',
        `${nameNeeded}; ${minorNeeded}`,
        '',
      ),
    );
  }
  return findings;
}

function place(resource: ConfiguredResource): string {
  return resource.file === undefined ? 'the configuration' : `${resource.file}:${resource.line}`;
}

/** 8.3 does not say which file a resource is in; then it is known by its devices, which are made for us alone. */
function isOurs({ file, hosts }: ConfiguredResource, { domain, volumes }: DomainLayout): boolean {
  if (file !== undefined) return file === resourcePath(domain.name);
  const ours = volumes.map(({ mapper }) => mapperPath(mapper));
  return hosts.every((host) => host.volumes.every(({ disk }) => disk !== undefined && ours.includes(disk)));
}

function portFindings(layout: DomainLayout, facts: HostFacts): Finding[] {
  const { name, port, linkPort } = layout.domain;
  const { listeners } = facts;
  if (!listeners.known) {
    return [
      finding(
        'port',
        'fail',
        `ss: ${listeners.reason}`,
        `TCP ports ${port} and ${linkPort} free`,
        'apt install iproute2',
      ),
    ];
  }
  // DRBD listens on its port itself; the other one is the receiver's.
  const runs = facts.drbdRunning.known && facts.drbdRunning.value.some((resource) => resource.name === name);
  const unitActive = facts.units.known && facts.units.value[unitName(name)]?.activeState === 'active';
  const one = (key: 'port' | 'linkPort', number: number, ours: boolean): Finding => {
    const listens = listeners.value.some((listener) => listener.port === number);
    return finding(
      'port',
      !listens || ours ? 'pass' : 'fail',
      !listens
        ? `nothing listens on ${number}`
        : ours
          ? `${number} is our own`
          : `something listens on ${number}`,
      `TCP port ${number} ("${key}")`,
      `stop it (ss -ltnp 'sport = :${number}' says what it is), or set "${key}" to another one`,
    );
  };
  return [one('port', port, runs), one('linkPort', linkPort, runs || unitActive)];
}
