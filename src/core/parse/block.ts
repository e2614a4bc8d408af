/**
 * What is on block devices: `wipefs --json` and `lsblk --json` (util-linux 2.38; wipefs(8), lsblk(8)), and
 * samples of their content.
 */
import type { BlockDevice, Signature } from '../facts.js';
import { Json, onlyLine } from './text.js';

/** Trees of devices are a few levels deep; more is not a tree that a host has. */
const DEPTH_MAX = 32;

/** Columns that `parseWipefs` reads. */
export const WIPEFS_COLUMNS = 'OFFSET,TYPE,UUID,LABEL';
/** Columns that `parseLsblk` reads. */
export const LSBLK_COLUMNS = 'NAME,MAJ:MIN,TYPE,SIZE,MOUNTPOINTS';

/** @throws ParseError */
export function parseWipefs(text: string): Signature[] {
  return Json.parse('wipefs', text)
    .get('signatures')
    .array()
    .map((entry) => {
      const offset = entry.get('offset');
      if (!/^0x[0-9a-f]{1,13}$/.test(offset.string())) offset.fail('a hexadecimal offset is expected');
      const type = entry.get('type').string();
      const label = entry.get('label').stringOrUndefined();
      const uuid = entry.get('uuid').stringOrUndefined();
      return {
        type,
        offsetBytes: Number(offset.string()),
        ...(label === undefined ? {} : { label }),
        ...(uuid === undefined ? {} : { uuid }),
      };
    });
}

/**
 * Perl (perl-base is essential in Debian) that looks for anything but zeroes in the first and the last MiB of
 * a device and in 512 samples of 4 KiB spread evenly over it. Reads only. Prints the size, and the first
 * offset with data: `8388608 zero`, `8388608 data 1048576`.
 */
export const SAMPLE_PROGRAM = String.raw`
open(my $f, "<:raw", $ARGV[0]) or die "$ARGV[0]: $!\n";
my $size = sysseek($f, 0, 2);
defined $size or die "$ARGV[0]: $!\n";
$size += 0;
my $step = int($size / 512 / 4096) * 4096;
my $tail = $size > 1048576 ? $size - 1048576 : 0;
for my $sample ([0, 1048576], (map { [$_ * $step, 4096] } 1 .. 511), [$tail, 1048576]) {
  my ($offset, $length) = @$sample;
  defined sysseek($f, $offset, 0) or die "$ARGV[0]: $!\n";
  defined sysread($f, my $bytes, $length) or die "$ARGV[0]: $!\n";
  if ($bytes =~ /[^\0]/) {
    print "$size data ", $offset + $-[0], "\n";
    exit 0;
  }
}
print "$size zero\n";
`;

/**
 * What `SAMPLE_PROGRAM` printed.
 *
 * @throws ParseError
 */
export function parseSample(text: string): { sizeBytes: number; firstDataAt?: number } {
  const line = onlyLine('device sample', text);
  const match = /^([0-9]+) (?:zero|data ([0-9]+))$/.exec(line.text);
  if (!match) return line.fail('a size and zero or data are expected');
  return {
    sizeBytes: line.integer(match[1], 'the size'),
    ...(match[2] === undefined ? {} : { firstDataAt: line.integer(match[2], 'the offset') }),
  };
}

/**
 * All block devices; one that lies on several others is given once.
 *
 * @throws ParseError
 */
export function parseLsblk(text: string): BlockDevice[] {
  const found = new Map<string, BlockDevice>();
  const visit = (node: Json, depth: number): string => {
    if (depth > DEPTH_MAX) node.fail('nested too deep');
    const path = node.get('name').string();
    const device = node.get('maj:min').string().trim();
    if (!/^[0-9]{1,5}:[0-9]{1,8}$/.test(device)) node.get('maj:min').fail('MAJOR:MINOR is expected');
    const children = node.get('children');
    const holders = children.absent ? [] : children.array().map((child) => visit(child, depth + 1));
    if (!found.has(path)) {
      found.set(path, {
        path,
        device,
        type: node.get('type').string(),
        sizeBytes: node.get('size').integer(),
        mountpoints: node
          .get('mountpoints')
          .array()
          .flatMap((mountpoint) => mountpoint.stringOrUndefined() ?? []),
        holders: [...new Set(holders)],
      });
    }
    return path;
  };
  for (const root of Json.parse('lsblk', text).get('blockdevices').array()) visit(root, 0);
  return [...found.values()];
}
