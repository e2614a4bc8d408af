/**
 * One disk of an old guest configuration, in any of the forms there were:
 *
 *     phy:vg0/web,xvda,w                                 xm: PREFIX[:PREFIX...]:TARGET,VDEV[:TYPE],MODE[,DOMAIN]
 *     tap2:remus:backup:9000|aio:/srv/web.img,xvda,w     blktap2's own replication
 *     drbd:web,xvda,w                                    Xen's block-drbd script
 *     /dev/vg0/web,raw,xvda,rw                           xl: TARGET,FORMAT,VDEV,ACCESS
 *     vdev=xvda,access=w,script=block-drbd,target=web    xl: keys, `target` last
 *
 * Sources: docs/misc/block-scripts.txt and xl-disk-configuration(5) of Xen, blktap's README.
 */

import { show } from '../units.js';
import type { Parsed } from '../units.js';

/** Where the disk's content is. */
export type Backing =
  | { kind: 'lv'; volumeGroup: string; logicalVolume: string }
  | { kind: 'drbd'; resource: string; volume?: number }
  | { kind: 'drbd-minor'; minor: number }
  /** A partition or whole disk, or another device that is no LV by its name. */
  | { kind: 'device'; path: string }
  | { kind: 'image'; path: string; format: 'raw' | 'qcow' | 'qcow2' | 'vhd' | 'vmdk' }
  | { kind: 'empty' };

export interface OldDisk {
  vdev: string;
  cdrom: boolean;
  /** `w!` lets several guests write to the disk at once. */
  access: 'read' | 'write' | 'shared';
  backing: Backing;
  /** The host and port that blktap2 replicated it to. */
  remus?: { host: string; port: number };
}

/** Reads one disk. */
export function parseOldDisk(input: string): Parsed<OldDisk> {
  const text = input.trim();
  const prefixed =
    /^(?:(?:phy|file|tap2?|drbd|tapdisk|aio|sync|ram|raw|qcow2?|vhd|vmdk|remus|e?nbd|iscsi|npiv|gnbd|ioemu):)/.test(
      text,
    );
  return prefixed ? parsePrefixed(text) : parseXl(text);
}

// --- xm ---------------------------------------------------------------------------------------------------

function parsePrefixed(text: string): Parsed<OldDisk> {
  const parts = text.split(',').map((part) => part.trim());
  const [source = '', device = '', mode = ''] = parts;
  const vdev = parseVdev(device);
  if ('problem' in vdev) return { problem: `${vdev.problem} in ${show(text)}` };
  const access = parseAccess(mode);
  if ('problem' in access) return access;
  const found = parseSource(source);
  if ('problem' in found) return found;
  return { value: { ...vdev.value, access: access.value, ...found.value } };
}

function parseSource(source: string): Parsed<Pick<OldDisk, 'backing' | 'remus'>> {
  let rest = source;
  let format: (Backing & { kind: 'image' })['format'] = 'raw';
  for (;;) {
    const prefix = /^([a-z0-9]+):/.exec(rest)?.[1] ?? '';
    const inner = rest.slice(prefix.length + 1);
    switch (prefix) {
      case 'tap':
      case 'tap2':
      case 'tapdisk':
      case 'ioemu':
        rest = inner;
        continue;
      case 'remus': {
        // HOST:PORT, or [V6]:PORT, and behind the bar what was replicated.
        const match = /^(?:\[([0-9A-Fa-f:.]+)\]|([^:|[\]]+)):(\d{1,5})\|(.+)$/.exec(inner);
        const port = Number(match?.[3]);
        if (match === null || port < 1 || port > 65535) {
          return { problem: `${show(source)} is not remus:HOST:PORT|FORMAT:PATH` };
        }
        const behind = parseSource(match[4] ?? '');
        if ('problem' in behind) return behind;
        if (behind.value.remus !== undefined) return { problem: `${show(source)} is replicated twice` };
        return { value: { ...behind.value, remus: { host: match[1] ?? match[2] ?? '', port } } };
      }
      case 'drbd': {
        const [, resource, volume] = /^([^/\s]+)(?:\/(\d{1,5}))?$/.exec(inner) ?? [];
        if (resource === undefined) return { problem: `${show(source)} is not drbd:RESOURCE` };
        return { value: { backing: drbd(resource, volume) } };
      }
      case 'phy':
        if (inner === '') return { value: { backing: { kind: 'empty' } } };
        return { value: { backing: deviceBacking(inner.startsWith('/') ? inner : `/dev/${inner}`) } };
      case 'qcow':
      case 'qcow2':
      case 'vhd':
      case 'vmdk':
        format = prefix;
        return image(inner, format);
      case 'file':
      case 'aio':
      case 'sync':
      case 'ram':
      case 'raw':
        return image(inner, format);
      case '':
        return image(rest, format);
      default:
        return {
          problem: `a disk of kind ${show(prefix)} is on the network already, and no checkpoint can hold its writes back: copy it into an LV`,
        };
    }
  }
}

function image(path: string, format: (Backing & { kind: 'image' })['format']): Parsed<{ backing: Backing }> {
  if (path === '') return { value: { backing: { kind: 'empty' } } };
  if (!path.startsWith('/')) return { problem: `${show(path)} is not an absolute path` };
  // `file:` and `aio:` take devices as well.
  return {
    value: { backing: path.startsWith('/dev/') ? deviceBacking(path) : { kind: 'image', path, format } },
  };
}

// --- xl ---------------------------------------------------------------------------------------------------

const FORMATS = {
  raw: 'raw',
  qcow: 'qcow',
  qcow2: 'qcow2',
  vhd: 'vhd',
  aio: 'raw',
  qed: undefined,
  empty: undefined,
} as const;

function parseXl(text: string): Parsed<OldDisk> {
  // The target takes everything that follows it, commas included.
  const last = /(?:^|,)\s*target=(.*)$/s.exec(text);
  const parts = (last === null ? text : text.slice(0, last.index)).split(',').map((part) => part.trim());
  const found = new Map<string, string>();
  if (last !== null) found.set('target', last[1]?.trim() ?? '');
  const positions = ['target', 'format', 'vdev', 'access'];
  for (const part of parts) {
    const [, key, value = ''] = /^([a-z][a-z0-9-]*)=(.*)$/s.exec(part) ?? [];
    if (key !== undefined) found.set(key, value);
    else if (part === 'cdrom') found.set('devtype', 'cdrom');
    else if (/^(?:r|ro|w|rw|!|w!)$/.test(part) && !found.has('access')) found.set('access', part);
    else if (!/^(?:no-)?discard$|^direct-io-safe$/.test(part)) {
      const position = positions.find((name) => !found.has(name));
      if (position === undefined) return { problem: `${show(part)} is one value too many in ${show(text)}` };
      found.set(position, part);
    }
  }
  const vdev = parseVdev(found.get('vdev') ?? '');
  if ('problem' in vdev) return { problem: `${vdev.problem} in ${show(text)}` };
  const access = parseAccess(found.get('access') ?? '');
  if ('problem' in access) return access;
  const cdrom = vdev.value.cdrom || found.get('devtype') === 'cdrom';
  const backing = xlBacking(found);
  if ('problem' in backing) return backing;
  return { value: { vdev: vdev.value.vdev, cdrom, access: access.value, backing: backing.value } };
}

function xlBacking(found: ReadonlyMap<string, string>): Parsed<Backing> {
  const target = found.get('target') ?? '';
  const script = found.get('script')?.replace(/^.*\//, '');
  if (script === 'block-drbd') {
    const [, resource, volume] = /^([^/\s]+)(?:\/(\d{1,5}))?$/.exec(target) ?? [];
    return resource === undefined
      ? { problem: `${show(target)} is no DRBD resource` }
      : { value: drbd(resource, volume) };
  }
  if (script !== undefined && script !== 'block') {
    return {
      problem: `its script ${show(script)} makes a device that only that script knows: copy the disk into an LV`,
    };
  }
  const format = found.get('format') ?? 'raw';
  if (target === '' || format === 'empty') return { value: { kind: 'empty' } };
  const known = Object.hasOwn(FORMATS, format) ? FORMATS[format as keyof typeof FORMATS] : undefined;
  if (known === undefined) return { problem: `the format ${show(format)} isn't known here` };
  const made = image(target, known);
  return 'problem' in made ? made : { value: made.value.backing };
}

// --- Both -------------------------------------------------------------------------------------------------

function drbd(resource: string, volume: string | undefined): Backing {
  return { kind: 'drbd', resource, ...(volume === undefined ? {} : { volume: Number(volume) }) };
}

function parseVdev(device: string): Parsed<{ vdev: string; cdrom: boolean }> {
  const plain = device.replace(/^ioemu:/, '').replace(/^\/dev\//, '');
  const [vdev = '', type = 'disk'] = plain.split(':');
  if (vdev === '') return { problem: 'the disk has no name in the guest (such as xvda)' };
  return { value: { vdev, cdrom: type === 'cdrom' } };
}

function parseAccess(mode: string): Parsed<OldDisk['access']> {
  if (/^(?:r|ro)$/.test(mode)) return { value: 'read' };
  if (/^(?:|w|rw)$/.test(mode)) return { value: 'write' };
  if (/^(?:!|w!|r!)$/.test(mode)) return { value: 'shared' };
  return { problem: `${show(mode)} is no mode of a disk (r, w or w!)` };
}

/** What a device node is by its name: an LV, a DRBD device, or something else. */
export function deviceBacking(path: string): Backing {
  const minor = /^\/dev\/drbd(?:_\S*_)?(\d{1,7})$/.exec(path)?.[1];
  if (minor !== undefined) return { kind: 'drbd-minor', minor: Number(minor) };
  const [, resource, volume] = /^\/dev\/drbd\/by-res\/([^/\s]+)(?:\/(\d{1,5}))?$/.exec(path) ?? [];
  if (resource !== undefined) return drbd(resource, volume);
  const lv = lvOfPath(path);
  return lv === undefined ? { kind: 'device', path } : { kind: 'lv', ...lv };
}

/** Directories below /dev that are no volume groups. */
const NO_GROUP =
  /^(?:block|bus|char|cciss|disk|drbd|etherd|evms|fd|ida|input|loop|mapper|md|mpath|net|pts|shm|vfio|xen|zvol)$/;

/** The LV of `/dev/VG/LV` or `/dev/mapper/VG-LV` (hyphens of names are doubled there). */
export function lvOfPath(path: string): { volumeGroup: string; logicalVolume: string } | undefined {
  const [, group = '', name = ''] = /^\/dev\/([\w.+-]+)\/([\w.+-]+)$/.exec(path) ?? [];
  if (group !== '' && !NO_GROUP.test(group)) return { volumeGroup: group, logicalVolume: name };
  if (group !== 'mapper') return undefined;
  const [, mapperGroup, mapperName] = /^((?:[^-]|--)+)-((?:[^-]|--)+)$/.exec(name) ?? [];
  if (mapperGroup === undefined || mapperName === undefined) return undefined;
  return { volumeGroup: mapperGroup.replaceAll('--', '-'), logicalVolume: mapperName.replaceAll('--', '-') };
}
