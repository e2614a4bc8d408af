/**
 * The embedded disks: logical volumes with a notion of what is on them. Nothing is stored; content is known
 * by identity, so that "byte for byte the same on both hosts" is a comparison of two words.
 */
import type { Signature } from '../core/facts.js';

/** What is on a volume. Two contents are equal exactly when their `id` is. */
export interface Content {
  /** `zero`, or a name for these bytes that nothing else has. */
  id: string;
  signatures: Signature[];
  /** Where the sampling program finds the first byte that is not zero. */
  firstDataAt?: number;
}

export const ZERO: Content = { id: 'zero', signatures: [] };

/** DRBD's meta-data on a volume, as `drbdmeta get-gi` shows it. */
export interface MetaData {
  /** Current, bitmap, and two of the history; 16 hexadecimal digits. */
  uuids: [string, string, string, string];
  consistent: boolean;
  wasUpToDate: boolean;
  /** Was primary when it was last written: still set at attach, it tells a crash. */
  primary: boolean;
  /** Blocks marked in the bitmap. */
  outOfSyncBytes: number;
}

/** The current generation that `create-md` writes. */
export const JUST_CREATED = '0000000000000004';
export const NO_UUID = '0000000000000000';

export interface Lv {
  volumeGroup: string;
  name: string;
  sizeBytes: number;
  tags: string[];
  active: boolean;
  /** Minor of its device-mapper device, while it is active. */
  minor: number;
  content: Content;
  metaData?: MetaData;
  /** Something of the host's own has it open, such as a mount. */
  mounted?: string;
}

export interface Vg {
  name: string;
  sizeBytes: number;
  extentBytes: number;
  lvs: Lv[];
}

export const DM_MAJOR = 254;
export const DRBD_MAJOR = 147;

/** A device-mapper device of ours, linear on an LV. */
export interface Mapping {
  name: string;
  lv: Lv;
  minor: number;
  suspended: boolean;
}

/** How device-mapper calls an LV: dashes are doubled, since one joins group and name. */
export function lvMapperName({ volumeGroup, name }: Pick<Lv, 'volumeGroup' | 'name'>): string {
  return `${volumeGroup.replaceAll('-', '--')}-${name.replaceAll('-', '--')}`;
}

/** Bytes that are left in a group, in whole extents. */
export function freeBytes(vg: Vg): number {
  const used = vg.lvs.reduce((sum, lv) => sum + Math.ceil(lv.sizeBytes / vg.extentBytes), 0);
  return vg.sizeBytes - used * vg.extentBytes;
}
