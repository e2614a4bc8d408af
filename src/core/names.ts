/**
 * Every name, path and number that remus-drbd derives for a host, in one place.
 *
 * A domain `web` has the DRBD resource `web`, with its disks as volumes 0 to 14 and the barrier volume as
 * volume 15, so that a disk can be added later without renumbering. Everything else that is made for it on
 * a host starts with `remus-web-`.
 */

/** DRBD volume number of the barrier volume, whose writes close epochs. */
export const BARRIER_VOLUME = 15;
/** A domain has one block of minors and volumes: up to 15 disks and the barrier volume. */
export const VOLUMES_PER_DOMAIN = 16;
export const DISKS_MAX = 15;
/** DRBD accepts minors of up to 20 bits (`MINORMASK` in the kernel's drbd_nl.c). */
export const MINOR_MAX = (1 << 20) - 1;
/** Ports below are reserved for system services, so a replication port starts here. */
export const PORT_MIN = 1024;
export const PORT_MAX = 65535;

/** LVM extents are 4 MiB unless a group was made otherwise; it is also enough for any number of markers. */
export const BARRIER_BYTES = 4 * 1024 * 1024;

export const Paths = {
  etc: '/etc/remus-drbd',
  devices: '/etc/remus-drbd/devices',
  domains: '/etc/remus-drbd/domains',
  tls: '/etc/remus-drbd/tls',
  lib: '/usr/lib/remus-drbd',
  bundle: '/usr/lib/remus-drbd/remus-drbd.cjs',
  devicesScript: '/usr/lib/remus-drbd/remus-devices',
  command: '/usr/sbin/remus-drbd',
  state: '/var/lib/remus-drbd',
  run: '/run/remus-drbd',
  lock: '/run/lock/remus-drbd.lock',
  drbdGlobal: '/etc/drbd.d/global_common.conf',
  drbdGlobalProtoD: '/etc/drbd.d/global_common.conf.protoD',
  xenScripts: '/etc/xen/scripts',
  unit: '/etc/systemd/system/remus-drbd@.service',
  modulesLoad: '/etc/modules-load.d/remus-drbd.conf',
} as const;

/**
 * LVM tags that record, on the host itself and atomically with the volume, how far setup has come.
 * `made`: this project made the volume. `fresh`: its content is unknown, nothing was written yet.
 * `zeroed`: all of it was written with zeroes and nothing since.
 */
export const Tags = {
  made: 'remus-drbd',
  fresh: 'remus-drbd.fresh',
  zeroed: 'remus-drbd.zeroed',
  /**
   * With a number of bytes behind it, on a volume of the user's: how large it was before setup gave it its spare
   * extent.
   */
  data: 'remus-drbd.data=',
  /** With the domain's name behind it, on a snapshot that a drill has made and will remove. */
  drill: 'remus-drbd.drill=',
  /** On a meta-data volume: setup has promoted the resource here and has to demote it again. */
  promoted: 'remus-drbd.promoted',
} as const;

/**
 * DRBD 8.4 forgets the last bitmap word (64 blocks of 4 KiB) of a device at every attach when the device is a
 * whole number of such words: `bm_count_bits` in the kernel's drbd_bitmap.c clears it with an empty mask. Blocks
 * that are out of sync there would never be resynchronised. Seen on real hosts; so no device below DRBD may have
 * such a size.
 */
export const BITMAP_WORD_BYTES = 64 * 4096;

/** What a data LV has at least beyond what the guest's disk has to hold, for `mapperBytes` to leave out. */
export const SPARE_BYTES = 4096;

/** Size of the device-mapper device over an LV, as `remus-devices` makes it. */
export function mapperBytes(lvBytes: number): number {
  return lvBytes % BITMAP_WORD_BYTES === 0 ? lvBytes - SPARE_BYTES : lvBytes;
}

/** What a volume is called in names: its number, or `barrier`. */
function volumeLabel(volume: number): string {
  return volume === BARRIER_VOLUME ? 'barrier' : String(volume);
}

/** Name of the device-mapper device (and of the LV, where setup makes it) of one volume. */
export function volumeName(domain: string, volume: number): string {
  return `remus-${domain}-${volumeLabel(volume)}`;
}

/** Name of the LV with the flexible external meta-data of one volume. */
export function metaName(domain: string, volume: number): string {
  return `${volumeName(domain, volume)}-md`;
}

/** Name of the LV with the domain's epoch journal. */
export function journalName(domain: string): string {
  return `remus-${domain}-journal`;
}

/** Device node of a device-mapper device. */
export function mapperPath(name: string): string {
  return `/dev/mapper/${name}`;
}

/** Device node of an LV, as LVM's udev rules make it. */
export function lvPath(volumeGroup: string, lv: string): string {
  return `/dev/${volumeGroup}/${lv}`;
}

/** Configuration file of the domain's DRBD resource. */
export function resourcePath(domain: string): string {
  return `/etc/drbd.d/remus-${domain}.res`;
}

/** The guest's xl configuration with our disk lines. */
export function guestConfigPath(domain: string): string {
  return `${Paths.domains}/${domain}.cfg`;
}

/** The layout of a domain as its hosts keep it (`core/domain-file.ts`). */
export function domainFilePath(domain: string): string {
  return `${Paths.domains}/${domain}.json`;
}

/** What a host must know of a domain at boot, read by `remus-devices`. */
export function devicesPath(domain: string): string {
  return `${Paths.devices}/${domain}`;
}

/** The systemd unit instance that brings a domain's devices up. */
export function unitName(domain: string): string {
  return `remus-drbd@${domain}.service`;
}

/** The unit with the primary's side of a domain's protection, and the one with the backup's. */
export function senderUnit(domain: string): string {
  return `remus-sender@${domain}.service`;
}

export function receiverUnit(domain: string): string {
  return `remus-receiver@${domain}.service`;
}

/** The unit that sends a guest to its other host in a switchover, and the one that takes it there. */
export function switchoverUnit(domain: string): string {
  return `remus-switchover@${domain}.service`;
}

export function switchoverTargetUnit(domain: string): string {
  return `remus-switchover-target@${domain}.service`;
}

/** The unit that runs a drill of a domain, on its backup. */
export function drillUnit(domain: string): string {
  return `remus-drill@${domain}.service`;
}

/** The guest of a drill. No domain can have such a name. */
export function drillGuest(domain: string): string {
  return `${domain}+drill`;
}

/** The snapshot of a volume that a drill runs on. */
export function drillLv(domain: string, volume: number): string {
  return `${volumeName(domain, volume)}-drill`;
}

/** Name of the device-mapper device that LVM makes for a volume: hyphens in the parts are doubled. */
export function lvmMapperName(volumeGroup: string, lv: string): string {
  return `${volumeGroup.replaceAll('-', '--')}-${lv.replaceAll('-', '--')}`;
}

/** A file of a domain that outlives the host's restart: `term.json`, `decision`, `gate`, `journal-active`, ... */
export function statePath(domain: string, file: string): string {
  return `${Paths.state}/${domain}/${file}`;
}

/** A file of a domain that doesn't: `order.json`, `sender.json`, `receiver.json`, `session`, ... */
export function runPath(domain: string, file: string): string {
  return `${Paths.run}/${domain}/${file}`;
}

/**
 * The first of a domain's 16 minors where the configuration names none. Distinct ports give disjoint
 * blocks, so adding or removing a domain never renumbers another one.
 */
export function defaultMinor(port: number): number {
  return (port - PORT_MIN) * VOLUMES_PER_DOMAIN;
}

/** The spare extent is larger in groups with larger extents; nobody makes them larger than this. */
const EXTENT_BYTES_MAX = 64 * 1024 * 1024;

/**
 * A data LV's size without the spare extent that setup gave it.
 *
 * @param tags of the LV
 */
export function dataBytes(sizeBytes: number, tags: readonly string[]): number {
  const noted = tags.find((tag) => tag.startsWith(Tags.data))?.slice(Tags.data.length);
  return noted !== undefined && /^[0-9]{1,16}$/.test(noted) ? Number(noted) : sizeBytes;
}

/**
 * Smallest size of DRBD's flexible external meta-data for one peer: a bit for each 4 KiB of data, the 32
 * KiB activity log and the superblock ("Metadata" in the DRBD user's guide, "estimating meta data size"),
 * rounded up to whole extents of 4 MiB.
 */
export function metaBytes(dataBytes: number): number {
  const sectors = Math.ceil((dataBytes + EXTENT_BYTES_MAX) / 512);
  const needed = (Math.ceil(sectors / 2 ** 18) * 8 + 72) * 512;
  const extent = 4 * 1024 * 1024;
  return Math.ceil(needed / extent) * extent;
}
