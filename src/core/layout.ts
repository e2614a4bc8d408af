/**
 * From the configuration to what each host has to have for each domain: volumes with their minors, LVs and
 * device-mapper devices, and the journal.
 */

import type { Config, Disk, Domain, DomainLayout, HostConfig, Pair, VolumeLayout } from './model.js';
import { BARRIER_BYTES, BARRIER_VOLUME, journalName, metaName, volumeName } from './names.js';

/** The layouts of all domains, in the order of the file. */
export function domainLayouts(config: Config): DomainLayout[] {
  return config.pairs.flatMap((pair) => pair.domains.map((domain) => domainLayout(pair, domain)));
}

/** The layouts of the domains that a host takes part in, as primary or as backup. */
export function layoutsOfHost(layouts: readonly DomainLayout[], host: string): DomainLayout[] {
  return layouts.filter(({ hosts }) => hosts.some(({ name }) => name === host));
}

/** Every host of the configuration, in the order of the file. */
export function allHosts(config: Config): HostConfig[] {
  return config.pairs.flatMap(({ hosts }) => hosts);
}

/** The other host of a domain's pair. */
export function peerOf(layout: DomainLayout, host: string): HostConfig {
  const [first, second] = layout.hosts;
  if (host !== first.name && host !== second.name) {
    throw new Error(`${host} is not a host of ${layout.domain.name}`);
  }
  return host === first.name ? second : first;
}

function domainLayout(pair: Pair, domain: Domain): DomainLayout {
  const volumes = domain.disks.map((disk) => diskVolume(domain, disk));
  // The module of protocol D closes epochs itself, so only the journal needs a barrier volume.
  if (domain.engine === 'journal') volumes.push(barrierVolume(domain));
  return {
    domain,
    pair,
    hosts: pair.hosts,
    volumes,
    ...(domain.journal === undefined ? {} : { journal: { ...domain.journal, lv: journalName(domain.name) } }),
  };
}

function diskVolume(domain: Domain, disk: Disk): VolumeLayout {
  const { volume, vdev, volumeGroup, source } = disk;
  return {
    volume,
    minor: domain.minor + volume,
    role: 'disk',
    vdev,
    volumeGroup,
    dataLv: source.kind === 'existing' ? source.logicalVolume : volumeName(domain.name, volume),
    makeData: source.kind === 'new',
    ...(source.kind === 'new' ? { sizeBytes: source.sizeBytes } : {}),
    metaLv: metaName(domain.name, volume),
    mapper: volumeName(domain.name, volume),
  };
}

function barrierVolume(domain: Domain): VolumeLayout {
  const volumeGroup = domain.disks[0]?.volumeGroup;
  if (volumeGroup === undefined) throw new Error(`${domain.name} has no disk`);
  return {
    volume: BARRIER_VOLUME,
    minor: domain.minor + BARRIER_VOLUME,
    role: 'barrier',
    volumeGroup,
    dataLv: volumeName(domain.name, BARRIER_VOLUME),
    makeData: true,
    sizeBytes: BARRIER_BYTES,
    metaLv: metaName(domain.name, BARRIER_VOLUME),
    mapper: volumeName(domain.name, BARRIER_VOLUME),
  };
}
