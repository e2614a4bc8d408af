/**
 * The snapshots of a drill: how much room each gets, and what device-mapper says of one.
 *
 * They are LVM's thick snapshots (`lvcreate --snapshot --size`), of thin volumes as well: the room is set aside before it
 * begins. What the guest of the drill writes goes there, and what production writes to the origin meanwhile moves the old
 * content there first. One that is full is dropped by the kernel and its readers get errors; writes to the origin go on
 * (Documentation/admin-guide/device-mapper/snapshot.rst; `__invalidate_snapshot` in drivers/md/dm-snap.c).
 */
import type { LogicalVolume, VolumeGroup } from '../facts.js';
import type { DomainLayout } from '../model.js';
import { drillLv, lvPath, mapperBytes, Tags } from '../names.js';
import { ParseError } from '../parse/text.js';
import { formatSize } from '../units.js';
import type { DrillSnapshot } from './records.js';

const SHARE = 0.1;
const BYTES_MIN = 64 * 2 ** 20;
/** A chunk of 4 KiB takes 16 bytes of meta-data; a whole copy of the origin and a little is all that one can use. */
const WHOLE = 1.01;

/** The tag on the snapshots of a domain's drill. */
export function drillTag(domain: string): string {
  return `${Tags.drill}${domain}`;
}

/** What a drill of this domain has made on a host, and nothing else: by tag and by name. */
export function drillVolumes(domain: string, volumes: readonly LogicalVolume[]): LogicalVolume[] {
  const names = new Set(Array.from({ length: 16 }, (_, volume) => drillLv(domain, volume)));
  return volumes.filter(({ name, tags }) => tags.includes(drillTag(domain)) && names.has(name));
}

/**
 * @param sizeBytes for each of them, where the configuration says it
 * @returns what to make, or in words why it can't be
 */
export function planSnapshots(
  { domain, volumes }: DomainLayout,
  host: string,
  sizeBytes: number | undefined,
  groups: readonly VolumeGroup[],
  present: readonly LogicalVolume[],
): { snapshots: DrillSnapshot[]; problems: string[] } {
  const snapshots: DrillSnapshot[] = [];
  const problems: string[] = [];
  const leftovers = drillVolumes(domain.name, present);
  for (const { volume, vdev, volumeGroup, dataLv } of volumes) {
    if (vdev === undefined) continue;
    const find = (name: string): LogicalVolume | undefined =>
      present.find((lv) => lv.volumeGroup === volumeGroup && lv.name === name);
    const origin = find(dataLv);
    const group = groups.find((each) => each.name === volumeGroup);
    if (origin === undefined || group === undefined) {
      problems.push(`${host} has no ${lvPath(volumeGroup, dataLv)}; run setup`);
      continue;
    }
    const name = drillLv(domain.name, volume);
    const stranger = find(name);
    if (stranger !== undefined && !leftovers.includes(stranger)) {
      problems.push(
        `${lvPath(volumeGroup, name)} on ${host} was not made by a drill of ${domain.name} (it has no tag "${drillTag(domain.name)}"); rename or remove it`,
      );
    }
    const wanted = sizeBytes ?? Math.max(BYTES_MIN, origin.sizeBytes * SHARE);
    const most = origin.sizeBytes * WHOLE + 2 * group.extentBytes;
    const bytes = Math.ceil(Math.min(wanted, most) / group.extentBytes) * group.extentBytes;
    snapshots.push({
      volume,
      vdev,
      volumeGroup,
      origin: dataLv,
      name,
      deviceBytes: mapperBytes(origin.sizeBytes),
      sizeBytes: bytes,
    });
  }
  for (const { name, freeBytes } of groups) {
    const needed = sum(snapshots.filter(({ volumeGroup }) => volumeGroup === name));
    // An earlier drill's go first.
    const free = freeBytes + sum(leftovers.filter(({ volumeGroup }) => volumeGroup === name));
    if (needed > free) {
      problems.push(
        `${host} has ${mib(free)} free in ${name} and ${mib(needed)} are required for the snapshots; ` +
          'add a device to it (vgextend), or give drill.snapshotSize a smaller value',
      );
    }
  }
  return { snapshots, problems };
}

function sum(volumes: readonly { sizeBytes: number }[]): number {
  return volumes.reduce((total, { sizeBytes }) => total + sizeBytes, 0);
}

function mib(bytes: number): string {
  return formatSize(Math.floor(bytes / 2 ** 20) * 2 ** 20);
}

/**
 * `dmsetup status` of a snapshot: `0 98304 snapshot 16/131072 16`, the sectors used and all of them; a word in their
 * place where it is of no use any more (`snapshot_status` in drivers/md/dm-snap.c).
 *
 * @returns the used share in percent, or the word
 * @throws ParseError
 */
export function parseSnapshotStatus(text: string): number | string {
  const line = text.trim();
  const [, state = '', used, all] =
    /^\d+ \d+ snapshot ((\d+)\/(\d+)|Invalid|Overflow|Merge failed|Unknown)(?: \d+)?$/.exec(line) ?? [];
  if (used !== undefined && Number(all) > 0) return Math.round((1000 * Number(used)) / Number(all)) / 10;
  if (state === '' || used !== undefined) {
    throw new ParseError('dmsetup status', 'a snapshot is expected', line, 1);
  }
  return state;
}
