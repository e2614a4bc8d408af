/**
 * The disks of one domain: on which LV each is, or what has to be done to get it onto one.
 *
 * Every replicated disk becomes an LV of the same name on both hosts. One that is an LV already stays where it
 * is (`logicalVolume`); anything else is copied into one that setup makes (`size`), through the DRBD device, so
 * that both hosts' copies are the same from the start.
 */

import { lvNameProblem, LVM_NAME, VDEV } from '../patterns.js';
import { show } from '../units.js';
import { deviceBacking } from './disk.js';
import type { Backing } from './disk.js';
import type { DrbdResource, DrbdVolume } from './drbd.js';
import type { GuestFile, ImportedDisk } from './guest.js';
import type { Ledger } from './ledger.js';
import type { Resources } from './pairs.js';

export interface DiskPlan {
  /** Absent where no input says how the guest calls it. */
  vdev?: string;
  volume:
    | { kind: 'existing'; volumeGroup: string; logicalVolume: string }
    /** To be made, and filled from `copyFrom`. */
    | { kind: 'copy'; from: string; convert: boolean }
    | { kind: 'unknown' };
  questions: string[];
  remarks: string[];
  /** The DRBD volume whose internal meta-data is at the end of the LV, or that merely had it as its disk. */
  old?: { resource: string; file: string; internal: boolean };
}

/** @param of a guest, or a resource that no guest names */
export function planDisks(
  of: GuestFile | DrbdResource,
  resources: Resources,
): { disks: DiskPlan[]; own: DrbdResource[] } {
  const own = new Set<DrbdResource>();
  const disks: DiskPlan[] = [];
  if ('hosts' in of) {
    for (const volume of of.hosts[0]?.volumes ?? []) {
      disks.push(fromResource(of, volume.volume, resources, disks.length));
    }
    return { disks, own: [of] };
  }
  for (const item of of.disks) {
    const { disk } = item;
    if (disk.cdrom || disk.backing.kind === 'empty') {
      const drive = disk.cdrom ? 'a CD drive, kept in the guest configuration' : 'an empty drive, left out';
      note(of.ledger, item, disk.cdrom ? 'taken' : 'not-needed', drive);
      continue;
    }
    const plan = planDisk(item, of.ledger, resources, own, disks.length);
    if (VDEV.test(disk.vdev)) plan.vdev = disk.vdev;
    else
      plan.questions.push(
        `${show(disk.vdev)} isn't a name that a disk can have here (xvda, sda, hda, ...): how is it called?`,
      );
    accessRemarks(item, plan);
    disks.push(plan);
  }
  return { disks, own: [...own] };
}

function note(
  ledger: Ledger,
  item: ImportedDisk,
  fate: 'taken' | 'not-needed' | 'cannot' | 'question',
  text: string,
): void {
  ledger.note(item.line, item.endLine, fate, text);
}

function accessRemarks({ disk }: ImportedDisk, plan: DiskPlan): void {
  if (disk.access === 'read') {
    plan.remarks.push('read-only until now; the guest will be able to write to it');
  } else if (disk.access === 'shared') {
    plan.remarks.push('was shared ("w!"): no other guest may write to it, or no checkpoint holds both');
  }
}

function planDisk(
  item: ImportedDisk,
  ledger: Ledger,
  resources: Resources,
  own: Set<DrbdResource>,
  index: number,
): DiskPlan {
  const { backing, vdev } = item.disk;
  const key = `disks[${index}] (${show(vdev)})`;
  switch (backing.kind) {
    case 'lv': {
      const plan = existing(backing);
      note(ledger, item, plan.questions.length === 0 ? 'taken' : 'question', `${key}: logicalVolume`);
      return plan;
    }
    case 'drbd':
    case 'drbd-minor': {
      const found = findVolume(backing, resources);
      if (found === undefined) {
        const name =
          backing.kind === 'drbd' ? `the resource ${show(backing.resource)}` : `/dev/drbd${backing.minor}`;
        note(
          ledger,
          item,
          'question',
          `${key}: ${name} is in none of the files; give its configuration to import as well`,
        );
        return unknown(`${name} is in none of the files that were given: on which LV is its disk?`);
      }
      own.add(found.resource);
      const plan = fromResource(found.resource, found.volume, resources, index);
      note(
        ledger,
        item,
        plan.questions.length === 0 ? 'taken' : 'question',
        `${key}: the disk of resource ${found.resource.name}`,
      );
      return plan;
    }
    case 'device':
      note(ledger, item, 'question', `${key}: ${backing.path} has to become an LV; pair.yaml says how`);
      return copied(backing.path, false);
    case 'image':
      note(ledger, item, 'question', `${key}: the image file has to become an LV; pair.yaml says how`);
      return copied(backing.path, backing.format !== 'raw');
    case 'empty':
      return unknown('the drive is empty');
  }
}

function findVolume(
  backing: Backing & { kind: 'drbd' | 'drbd-minor' },
  resources: Resources,
): { resource: DrbdResource; volume: number } | undefined {
  for (const resource of resources.all) {
    const volumes = resource.hosts.flatMap((host) => host.volumes);
    const found =
      backing.kind === 'drbd'
        ? resource.name === backing.resource
          ? volumes.find(({ volume }) => volume === (backing.volume ?? volumes[0]?.volume))
          : undefined
        : volumes.find(({ minor }) => minor === backing.minor);
    if (found !== undefined) return { resource, volume: found.volume };
  }
  return undefined;
}

function existing(backing: Backing & { kind: 'lv' }): DiskPlan {
  const { volumeGroup, logicalVolume } = backing;
  const problem = lvNameProblem(logicalVolume);
  if (problem !== undefined || !LVM_NAME.test(volumeGroup)) {
    return unknown(
      `${show(`${volumeGroup}/${logicalVolume}`)} can't be an LV's name: on which LV is the disk?`,
    );
  }
  return { volume: { kind: 'existing', volumeGroup, logicalVolume }, questions: [], remarks: [] };
}

function copied(from: string, convert: boolean): DiskPlan {
  return { volume: { kind: 'copy', from, convert }, questions: [], remarks: [] };
}

function unknown(question: string): DiskPlan {
  return { volume: { kind: 'unknown' }, questions: [question], remarks: [] };
}

/** The volume of an existing resource: its LV, where both hosts have it under one name. */
function fromResource(resource: DrbdResource, volume: number, resources: Resources, index: number): DiskPlan {
  const ledger = resources.ledgerOf(resource);
  const sides = resource.hosts.slice(0, 2).flatMap((host) => {
    const found = host.volumes.find((one) => one.volume === volume);
    return found === undefined ? [] : [{ host: host.name ?? '?', ...found }];
  });
  const plan = volumeOfSides(resource, sides);
  const fate = plan.volume.kind === 'existing' ? 'taken' : 'question';
  for (const { line } of sides) ledger?.note(line, line, fate, `disks[${index}] of ${resource.name}`);
  const internal = sides.some(({ meta }) => meta === 'internal');
  return { ...plan, old: { resource: resource.name, file: resource.file, internal } };
}

function volumeOfSides(resource: DrbdResource, sides: readonly (DrbdVolume & { host: string })[]): DiskPlan {
  const paths = [...new Set(sides.map(({ disk }) => disk ?? ''))];
  const [path = ''] = paths;
  if (paths.length !== 1 || path === '') {
    const found = sides.map(({ host, disk }) => `${host}: ${disk ?? 'none'}`).join(', ');
    return unknown(
      `the disk of resource ${resource.name} needs one name on both hosts (${found === '' ? 'none is named' : found}): rename one of the LVs (lvrename), and write the name here`,
    );
  }
  const backing = deviceBacking(path);
  if (backing.kind === 'lv') return existing(backing);
  return copied(path, false);
}
