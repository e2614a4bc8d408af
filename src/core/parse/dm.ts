/**
 * Device-mapper devices: `dmsetup table` and `dmsetup info` (dmsetup(8)).
 *
 *     remus-web-0: 0 8192 linear 254:3 2048
 *
 * A line is a segment: start and length in sectors, the target's kind and its arguments. A device with
 * several segments has several lines, one whose table was never loaded has its name alone.
 */
import type { DmDevice, DmSegment } from '../facts.js';
import { type Line, linesOf, ParseError } from './text.js';

const NO_DEVICES = 'No devices found';

/**
 * Segments by name.
 *
 * @throws ParseError
 */
export function parseDmTable(text: string): Map<string, DmSegment[]> {
  const tables = new Map<string, DmSegment[]>();
  for (const line of linesOf('dmsetup table', text)) {
    if (line.text.trim() === NO_DEVICES) continue;
    const match = /^([^\s:]+):(?: (.*))?$/.exec(line.text);
    if (!match?.[1]) return line.fail('NAME: TABLE is expected');
    const segments = tables.get(match[1]) ?? [];
    if (match[2] !== undefined && match[2].trim() !== '') segments.push(parseSegment(line, match[2].trim()));
    tables.set(match[1], segments);
  }
  return tables;
}

function parseSegment(line: Line, text: string): DmSegment {
  const [start, length, kind, target, offset] = text.split(/\s+/);
  const segment: DmSegment = {
    startSector: line.integer(start, 'the first sector'),
    sectors: line.integer(length, 'the length'),
    kind:
      kind !== undefined && /^[a-z][a-z0-9_-]*$/.test(kind)
        ? kind
        : line.fail('the kind of target is expected'),
  };
  if (kind !== 'linear') return segment;
  if (target === undefined || !/^[0-9]{1,5}:[0-9]{1,8}$/.test(target)) {
    return line.fail('a linear target needs MAJOR:MINOR');
  }
  return { ...segment, target: { device: target, offsetSector: line.integer(offset, 'the offset') } };
}

/**
 * Joins both outputs. They are taken one after the other, so a device that is in one of them only (made or
 * removed in between) is left out.
 *
 * @throws ParseError
 */
export function parseDmsetup(info: string, table: string): DmDevice[] {
  const tables = parseDmTable(table);
  return parseDmInfo(info).flatMap((device) => {
    const segments = tables.get(device.name);
    return segments === undefined ? [] : [{ ...device, segments }];
  });
}

/** @throws ParseError */
export function parseDmInfo(text: string): Omit<DmDevice, 'segments'>[] {
  const devices: Omit<DmDevice, 'segments'>[] = [];
  let block = new Map<string, Line>();
  const finish = (): void => {
    if (block.size > 0) devices.push(readInfo(block));
    block = new Map();
  };
  for (const line of linesOf('dmsetup info', text)) {
    if (line.text.trim() === NO_DEVICES) continue;
    const match = /^([A-Z][A-Za-z, ]*):(?:\s+(.*))?$/.exec(line.text);
    if (!match?.[1]) return line.fail('FIELD: VALUE is expected');
    if (match[1] === 'Name') finish();
    else if (block.size === 0) line.fail('a device starts with its Name');
    block.set(match[1], line);
  }
  finish();
  return devices;
}

function readInfo(block: ReadonlyMap<string, Line>): Omit<DmDevice, 'segments'> {
  const value = (field: string): { line: Line; text: string } => {
    const line = block.get(field);
    if (!line) {
      const first = [...block.values()][0];
      throw new ParseError('dmsetup info', `no ${field}`, first?.text ?? '', first?.number ?? 1);
    }
    return { line, text: line.text.slice(field.length + 1).trim() };
  };
  const name = value('Name');
  if (name.text === '') name.line.fail('a name is expected');
  const state = value('State');
  const open = value('Open count');
  const numbers = value('Major, minor');
  const match = /^([0-9]{1,5}), ([0-9]{1,8})$/.exec(numbers.text);
  if (!match) return numbers.line.fail('two numbers are expected');
  return {
    name: name.text,
    device: `${match[1]}:${match[2]}`,
    openCount: open.line.integer(open.text, 'the open count'),
    suspended:
      state.line.oneOf(
        state.text.replace(' (READ-ONLY)', ''),
        ['ACTIVE', 'SUSPENDED'] as const,
        'state of a device',
      ) === 'SUSPENDED',
  };
}
