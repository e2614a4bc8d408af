/** Embedded LVM (2.03), device-mapper, util-linux (2.38) and the sampling program. */
import { LSBLK_COLUMNS, SAMPLE_PROGRAM, WIPEFS_COLUMNS } from '../core/parse/block.js';
import { LVM_OPTIONS, LVS_COLUMNS, VGS_COLUMNS } from '../core/parse/lvm.js';
import type { EmbeddedMachine, Tool } from './machine.js';
import { failed, NO_SUCH_FILE, NotModelled, printed } from './results.js';
import type { EmbeddedResult } from './sshd.js';
import { DM_MAJOR, DRBD_MAJOR, freeBytes, lvMapperName, ZERO, type Lv, type Vg } from './volumes.js';

export const storageTools: [string, Tool][] = [
  ['vgs', (machine, args) => report(args, VGS_COLUMNS, 'vg', machine.volumeGroups.map(vgRow))],
  [
    'lvs',
    (machine, args) =>
      report(
        args,
        LVS_COLUMNS,
        'lv',
        machine.lvs.map((lv) => lvRow(machine, lv)),
      ),
  ],
  ['lvcreate', lvcreate],
  ['lvchange', lvchange],
  ['lvextend', lvextend],
  ['lvremove', lvremove],
  ['blkdiscard', blkdiscard],
  ['wipefs', wipefs],
  ['perl', sample],
  ['lsblk', lsblk],
  ['dmsetup', dmsetup],
  // As Debian ships it.
  ['lvmconfig', () => printed('filter=["a|.*|"]\nglobal_filter=["a|.*|"]\n')],
];

function report(args: readonly string[], columns: string, key: string, rows: string[]): EmbeddedResult {
  if (args.join(' ') !== [...LVM_OPTIONS, '--options', columns].join(' '))
    throw new NotModelled(args.join(' '));
  const body = rows.map((row) => `                  {${row}}`).join(',\n');
  return printed(
    `  {\n      "report": [\n          {\n              "${key}": [\n${body}\n              ]\n          }\n      ]\n  }\n`,
  );
}

function row(values: Record<string, string | number>): string {
  return Object.entries(values)
    .map(([name, value]) => `"${name}":${JSON.stringify(String(value))}`)
    .join(', ');
}

function vgRow(vg: Vg): string {
  return row({
    vg_name: vg.name,
    vg_size: vg.sizeBytes,
    vg_free: freeBytes(vg),
    vg_extent_size: vg.extentBytes,
  });
}

function lvRow(machine: EmbeddedMachine, lv: Lv): string {
  return row({
    vg_name: lv.volumeGroup,
    lv_name: lv.name,
    lv_size: lv.sizeBytes,
    lv_tags: lv.tags.join(','),
    lv_active: lv.active ? 'active' : '',
    lv_device_open: lv.active ? (machine.isOpen(lv) ? 'open' : '') : 'unknown',
    lv_kernel_major: lv.active ? DM_MAJOR : -1,
    lv_kernel_minor: lv.active ? lv.minor : -1,
    segtype: 'linear',
  });
}

/** Values by option, and the operands; every option here has a value but those in `flags`. */
function parse(
  args: readonly string[],
  flags: readonly string[],
): { options: [string, string][]; rest: string[] } {
  const options: [string, string][] = [];
  const rest: string[] = [];
  for (let at = 0; at < args.length; at += 1) {
    const arg = args[at] ?? '';
    if (flags.includes(arg)) continue;
    if (arg.startsWith('-')) options.push([arg, args[(at += 1)] ?? '']);
    else rest.push(arg);
  }
  return { options, rest };
}

function lvcreate(machine: EmbeddedMachine, args: readonly string[]): EmbeddedResult {
  const { options, rest } = parse(args, ['--yes']);
  const all = (name: string): string[] => options.filter(([key]) => key === name).map(([, value]) => value);
  const known = ['--wipesignatures', '--zero', '--addtag', '--name', '--size'];
  const strange = options.find(([key]) => !known.includes(key));
  if (strange !== undefined) throw new NotModelled(`lvcreate ${strange[0]}`);
  const [group = ''] = rest;
  const [name = ''] = all('--name');
  const vg = machine.volumeGroups.find((one) => one.name === group);
  if (vg === undefined) {
    return failed(5, `  Volume group "${group}" not found\n  Cannot process volume group ${group}\n`);
  }
  if (vg.lvs.some((lv) => lv.name === name)) {
    return failed(5, `  Logical Volume "${name}" already exists in volume group "${group}"\n`);
  }
  const asked = Number(/^(\d+)b$/.exec(all('--size')[0] ?? '')?.[1]);
  const extents = Math.ceil(asked / vg.extentBytes);
  const free = Math.floor(freeBytes(vg) / vg.extentBytes);
  if (!(extents > 0)) throw new NotModelled(`lvcreate --size ${all('--size')[0]}`);
  if (extents > free) {
    return failed(
      5,
      `  Volume group "${group}" has insufficient free space (${free} extents): ${extents} required.\n`,
    );
  }
  machine.addLv({
    volumeGroup: group,
    name,
    sizeBytes: extents * vg.extentBytes,
    tags: all('--addtag'),
    // Only its first blocks are made zero: what was on the extents before is still there.
    content: { id: machine.unique('left over'), signatures: [], firstDataAt: 1024 * 1024 },
  });
  return printed(`  Logical volume "${name}" created.\n`);
}

function findLv(machine: EmbeddedMachine, name: string): Lv | undefined {
  return machine.lvs.find((lv) => `${lv.volumeGroup}/${lv.name}` === name);
}

function notFound(name: string): EmbeddedResult {
  return failed(5, `  Failed to find logical volume "${name}"\n`);
}

function lvchange(machine: EmbeddedMachine, args: readonly string[]): EmbeddedResult {
  const { options, rest } = parse(args, ['--yes']);
  const [name = ''] = rest;
  const lv = findLv(machine, name);
  if (lv === undefined) return notFound(name);
  for (const [option, value] of options) {
    if (option === '--addtag') lv.tags = [...lv.tags.filter((tag) => tag !== value), value];
    else if (option === '--deltag') lv.tags = lv.tags.filter((tag) => tag !== value);
    else if ((option === '--activate' || option === '-a') && value === 'y') lv.active = true;
    else throw new NotModelled(`lvchange ${option} ${value}`);
  }
  return printed(`  Logical volume ${name} changed.\n`);
}

function lvextend(machine: EmbeddedMachine, args: readonly string[]): EmbeddedResult {
  const { options, rest } = parse(args, []);
  const [name = ''] = rest;
  const asked = Number(/^(\d+)b$/.exec(options.find(([key]) => key === '--size')?.[1] ?? '')?.[1]);
  const lv = findLv(machine, name);
  const vg = machine.volumeGroups.find((one) => one.name === lv?.volumeGroup);
  if (lv === undefined || vg === undefined) return notFound(name);
  if (options.length !== 1 || !(asked > 0)) throw new NotModelled(`lvextend ${args.join(' ')}`);
  const sizeBytes = Math.ceil(asked / vg.extentBytes) * vg.extentBytes;
  if (sizeBytes <= lv.sizeBytes) return failed(5, `  New size given is not larger than existing size\n`);
  if (sizeBytes - lv.sizeBytes > freeBytes(vg)) return failed(5, '  Insufficient free space\n');
  lv.sizeBytes = sizeBytes;
  return printed(`  Logical volume ${name} successfully resized.\n`);
}

function lvremove(machine: EmbeddedMachine, args: readonly string[]): EmbeddedResult {
  const { options, rest } = parse(args, ['--yes']);
  const [name = ''] = rest;
  const lv = findLv(machine, name);
  if (options.length > 0 || !args.includes('--yes')) throw new NotModelled('lvremove without --yes');
  if (lv === undefined) return notFound(name);
  if (machine.isOpen(lv)) return failed(5, `  Logical volume ${name} in use.\n`);
  const vg = machine.volumeGroups.find((one) => one.name === lv.volumeGroup);
  vg?.lvs.splice(vg.lvs.indexOf(lv), 1);
  return printed(`  Logical volume "${lv.name}" successfully removed.\n`);
}

function blkdiscard(machine: EmbeddedMachine, args: readonly string[]): EmbeddedResult {
  const { options, rest } = parse(args, ['--zeroout', '-z', '--force', '-f', '--verbose', '-v']);
  const [path = ''] = rest;
  if (!args.includes('--zeroout') && !args.includes('-z'))
    throw new NotModelled('blkdiscard without --zeroout');
  if (options.some(([name]) => name !== '--step' && name !== '-p')) throw new NotModelled('a strange option');
  const lv = machine.lvAt(path);
  if (lv === undefined) return failed(1, `blkdiscard: cannot open ${path}: ${NO_SUCH_FILE}`);
  if (machine.isOpen(lv) && !args.includes('--force') && !args.includes('-f')) {
    return failed(1, `blkdiscard: cannot open ${path}: Device or resource busy`);
  }
  lv.content = ZERO;
  delete lv.metaData;
  const step = Number(options[0]?.[1] ?? lv.sizeBytes);
  const lines: string[] = [];
  for (let at = 0; at < lv.sizeBytes; at += step) {
    lines.push(`${path}: Zero-filled ${Math.min(step, lv.sizeBytes - at)} bytes from the offset ${at}\n`);
  }
  return printed(args.includes('--verbose') || args.includes('-v') ? lines.join('') : '');
}

function wipefs(machine: EmbeddedMachine, args: readonly string[]): EmbeddedResult {
  const [json, output, columns, path = ''] = args;
  if (json !== '--json' || output !== '--output' || columns !== WIPEFS_COLUMNS) {
    throw new NotModelled('wipefs with other options');
  }
  const lv = machine.lvAt(path);
  if (lv === undefined)
    return failed(1, `wipefs: error: ${path}: probing initialization failed: ${NO_SUCH_FILE}`);
  const entries = lv.content.signatures.map(({ offsetBytes, type, uuid, label }) => {
    const fields = {
      offset: `0x${offsetBytes.toString(16)}`,
      type,
      uuid: uuid ?? null,
      label: label ?? null,
    };
    const lines = Object.entries(fields).map(([key, value]) => `         "${key}": ${JSON.stringify(value)}`);
    return `      {\n${lines.join(',\n')}\n      }`;
  });
  return printed(`{\n   "signatures": [\n${entries.join(',\n')}\n   ]\n}\n`);
}

function sample(machine: EmbeddedMachine, args: readonly string[]): EmbeddedResult {
  const [option, program, path = ''] = args;
  if (option !== '-e' || program !== SAMPLE_PROGRAM) throw new NotModelled('any other program');
  const lv = machine.lvAt(path);
  if (lv === undefined) return failed(2, `${path}: ${NO_SUCH_FILE}`);
  const { firstDataAt } = lv.content;
  return printed(`${lv.sizeBytes} ${firstDataAt === undefined ? 'zero' : `data ${firstDataAt}`}\n`);
}

interface Node {
  name: string;
  device: string;
  type: string;
  size: number;
  mountpoint: string | null;
  children: Node[];
}

function lsblk(machine: EmbeddedMachine, args: readonly string[]): EmbeddedResult {
  if (args.join(' ') !== `--json --bytes --paths --output ${LSBLK_COLUMNS}`) {
    throw new NotModelled('lsblk with other options');
  }
  const leaf = { mountpoint: null, children: [] };
  const root: Node = {
    ...leaf,
    name: '/dev/vda',
    device: '202:0',
    type: 'disk',
    size: 8 * 1024 ** 3,
    mountpoint: '/',
  };
  const disks = machine.volumeGroups.map((vg, index): Node => {
    const lvs = vg.lvs.filter(({ active }) => active);
    return {
      ...leaf,
      name: `/dev/vd${String.fromCharCode('b'.charCodeAt(0) + index)}`,
      device: `202:${16 * (index + 1)}`,
      type: 'disk',
      size: vg.sizeBytes,
      children: lvs.map((lv) => ({
        ...leaf,
        name: `/dev/mapper/${lvMapperName(lv)}`,
        device: `${DM_MAJOR}:${lv.minor}`,
        type: 'lvm',
        size: lv.sizeBytes,
        mountpoint: lv.mounted ?? null,
        children: [...mappingNodes(machine, lv), ...drbdNodes(machine, (volume) => volume.meta === lv)],
      })),
    };
  });
  const text = JSON.stringify({ blockdevices: [root, ...disks].map(nodeJson) }, undefined, 3);
  return printed(`${text}\n`);
}

function mappingNodes(machine: EmbeddedMachine, lv: Lv): Node[] {
  return machine.mappings
    .filter((mapping) => mapping.lv === lv)
    .map(({ name, minor }) => ({
      name: `/dev/mapper/${name}`,
      device: `${DM_MAJOR}:${minor}`,
      type: 'dm',
      size: lv.sizeBytes,
      mountpoint: null,
      children: drbdNodes(machine, (volume) => volume.data === lv),
    }));
}

function drbdNodes(machine: EmbeddedMachine, on: (volume: { data: Lv; meta: Lv }) => boolean): Node[] {
  return [...machine.kernel.resources.values()].flatMap(({ volumes }) =>
    [...volumes.values()].filter(on).map(({ minor, data }) => ({
      name: `/dev/drbd${minor}`,
      device: `${DRBD_MAJOR}:${minor}`,
      type: 'disk',
      size: data.sizeBytes,
      mountpoint: null,
      children: [],
    })),
  );
}

function nodeJson({ name, device, type, size, mountpoint, children }: Node): object {
  return {
    name,
    'maj:min': device,
    type,
    size,
    mountpoints: [mountpoint],
    ...(children.length === 0 ? {} : { children: children.map(nodeJson) }),
  };
}

function dmsetup(machine: EmbeddedMachine, args: readonly string[]): EmbeddedResult {
  const [command, ...rest] = args;
  if (rest.length > 0) throw new NotModelled(`dmsetup ${args.join(' ')}`);
  const lvs = machine.lvs.filter(({ active }) => active);
  const devices = [
    ...machine.mappings.map(({ name, lv, minor, suspended }) => ({
      name,
      minor,
      suspended,
      open: drbdNodes(machine, ({ data }) => data === lv).length,
      table: `0 ${lv.sizeBytes / 512} linear ${DM_MAJOR}:${lv.minor} 0`,
      uuid: '',
    })),
    ...lvs.map((lv) => ({
      name: lvMapperName(lv),
      minor: lv.minor,
      suspended: false,
      open: machine.isOpen(lv) ? 1 : 0,
      table: `0 ${lv.sizeBytes / 512} linear 202:16 ${2048 + lv.minor * 8192}`,
      uuid: `LVM-embedded${lv.minor}`,
    })),
  ].sort((a, b) => (a.name < b.name ? -1 : 1));
  if (devices.length === 0) return printed('No devices found\n');
  if (command === 'table') return printed(devices.map(({ name, table }) => `${name}: ${table}\n`).join(''));
  if (command !== 'info') throw new NotModelled(`dmsetup ${command}`);
  return printed(
    devices
      .map(
        ({ name, minor, suspended, open, uuid }) =>
          `Name:              ${name}\nState:             ${suspended ? 'SUSPENDED' : 'ACTIVE'}\n` +
          `Read Ahead:        256\nTables present:    LIVE\nOpen count:        ${open}\n` +
          `Event number:      0\nMajor, minor:      ${DM_MAJOR}, ${minor}\nNumber of targets: 1\n` +
          `${uuid === '' ? '' : `UUID: ${uuid}\n`}\n`,
      )
      .join(''),
  );
}
