/**
 * LVM's `vgs` and `lvs` with `--reportformat json` (lvmreport(7)). All values are texts; sizes are in bytes
 * because of `--units b --nosuffix`.
 */
import type { LogicalVolume, VolumeGroup } from '../facts.js';
import { Json } from './text.js';

export const LVM_OPTIONS = ['--reportformat', 'json', '--units', 'b', '--nosuffix'] as const;
/** Columns that `parseVgs` reads. */
export const VGS_COLUMNS = 'vg_name,vg_size,vg_free,vg_extent_size';
/** Columns that `parseLvs` reads. */
export const LVS_COLUMNS =
  'vg_name,lv_name,lv_size,lv_tags,lv_active,lv_device_open,lv_kernel_major,lv_kernel_minor,segtype';

function rows(tool: 'vgs' | 'lvs', key: 'vg' | 'lv', text: string): Json[] {
  return Json.parse(tool, text)
    .get('report')
    .array()
    .flatMap((report) => report.get(key).array());
}

/** @throws ParseError */
export function parseVgs(text: string): VolumeGroup[] {
  return rows('vgs', 'vg', text).map((row) => ({
    name: row.get('vg_name').string(),
    sizeBytes: row.get('vg_size').integer(),
    freeBytes: row.get('vg_free').integer(),
    extentBytes: row.get('vg_extent_size').integer(),
  }));
}

/**
 * LVs; one of several segments has several rows, of which the first is taken.
 *
 * @throws ParseError
 */
export function parseLvs(text: string): LogicalVolume[] {
  const found = new Map<string, LogicalVolume>();
  for (const row of rows('lvs', 'lv', text)) {
    const volumeGroup = row.get('vg_name').string();
    const name = row.get('lv_name').string();
    const active = flag(row.get('lv_active'), 'active');
    const key = `${volumeGroup}/${name}`;
    if (found.has(key)) continue;
    found.set(key, {
      volumeGroup,
      name,
      sizeBytes: row.get('lv_size').integer(),
      tags: row
        .get('lv_tags')
        .string()
        .split(',')
        .filter((tag) => tag !== ''),
      active,
      // Of an LV that is not active LVM says `unknown`, and nothing can have it open.
      open: active ? flag(row.get('lv_device_open'), 'open') : false,
      // Without a device both numbers are -1.
      ...(active
        ? { device: `${row.get('lv_kernel_major').integer()}:${row.get('lv_kernel_minor').integer()}` }
        : {}),
      segmentType: row.get('segtype').string(),
    });
  }
  return [...found.values()];
}

/** LVM prints the field's own word for yes and nothing for no. `unknown` and the like are not guessed at. */
function flag(value: Json, word: string): boolean {
  const text = value.string();
  if (text !== '' && text !== word) value.fail(`${JSON.stringify(word)} or nothing is expected`);
  return text === word;
}
