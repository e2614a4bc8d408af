/**
 * Whether a volume may become part of a resource with no meta-data yet, which decides whether what is on it
 * can be lost: the first sync overwrites the backup's side with the primary's.
 */
import type { DeviceContent } from '../facts.js';
import type { DomainLayout, VolumeLayout } from '../model.js';
import { lvPath, Tags } from '../names.js';
import type { HostView } from './view.js';

/** How a volume is named on the command line to allow that it is overwritten. */
export function overwriteName(host: string, volume: VolumeLayout): string {
  return `${host}:${volume.volumeGroup}/${volume.dataLv}`;
}

/**
 * Why meta-data can't be made for a volume on this host, or undefined where it can.
 *
 * @param overwrite volumes that may lose what is on them, as `overwriteName` names them
 */
export function contentProblem(
  layout: DomainLayout,
  host: string,
  volume: VolumeLayout,
  view: Pick<HostView, 'facts'>,
  overwrite: ReadonlySet<string>,
): string | undefined {
  if (volume.role === 'barrier') return undefined;
  const volumes = view.facts.logicalVolumes;
  const tags = volumes.known
    ? volumes.value.find((lv) => lv.volumeGroup === volume.volumeGroup && lv.name === volume.dataLv)?.tags
    : undefined;
  // Setup made it and nothing was written on it since; what was there before is nobody's.
  if (tags?.includes(Tags.zeroed) || tags?.includes(Tags.fresh)) return undefined;

  const path = lvPath(volume.volumeGroup, volume.dataLv);
  const name = overwriteName(host, volume);
  const content = view.facts.devices[path] ?? { state: 'absent' };
  const subject = `${layout.domain.name} on ${host}: refusing to make ${path} part of the DRBD resource`;
  if (content.state === 'read' && hasDrbdMetaData(content)) {
    if (overwrite.has(name)) return undefined;
    return (
      `${subject}: DRBD's own (internal) meta-data is on it, so it belongs to another resource; nothing was changed. ` +
      `If that resource is gone for good, remove its meta-data (wipefs -a -t drbd ${path}), or give --overwrite ${name}.`
    );
  }
  // The source's data is what both sides will have.
  if (host === layout.domain.primary) return undefined;
  if (overwrite.has(name)) return undefined;
  if (content.state === 'read' && content.signatures.length === 0 && content.firstDataAt === undefined) {
    return undefined;
  }
  return (
    `${subject}: ${contentText(content)}, and the first sync would overwrite it with the data of ${layout.domain.primary}; ` +
    `nothing was changed. If ${host} has the data that counts, make it the primary in the configuration; ` +
    `if it can be lost, give --overwrite ${name}.`
  );
}

function hasDrbdMetaData(content: DeviceContent & { state: 'read' }): boolean {
  return content.signatures.some((signature) => signature.type === 'drbd');
}

function contentText(content: DeviceContent): string {
  switch (content.state) {
    case 'absent':
      return 'what is on it could not be read';
    case 'unreadable':
      return `what is on it could not be read (${content.reason})`;
    case 'read': {
      const types = content.signatures.map((signature) => signature.type);
      if (types.length > 0) return `it holds data (${types.join(', ')})`;
      return `it holds data of no known kind (at byte ${content.firstDataAt ?? 0})`;
    }
  }
}
