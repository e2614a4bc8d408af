/**
 * The guest's xl configuration: read without running it, and written again with only its `disk` replaced.
 *
 * The syntax is that of xl.cfg(5), as libxlu's scanner and grammar take it (tools/libs/util/libxlu_cfg_l.l
 * and _y.y in Xen):
 *
 *     file        = { [ assignment ] ( newline | ";" ) } [ assignment ]
 *     assignment  = key ( "=" | "+=" ) value          ; all on one line up to the value
 *     key         = a-z { a-z | 0-9 | "_" }
 *     value       = atom | list
 *     list        = "[" [ value { "," value } [ "," ] ] "]"   ; newlines and comments may stand between
 *     atom        = number | "'" ... "'" | '"' ... '"'        ; backslash escapes in both, no newline
 *     comment     = "#" up to the end of the line
 *
 * A key that is assigned twice has the last value, as in xl. What xl itself takes differently than it is
 * written (a carriage return, a numeric escape) is refused instead of guessed at.
 */

import { ExitCode, OperatorError } from './errors.js';
import { show } from './units.js';

/** The text is no xl configuration, or one that a protected guest can't have. */
export class XlConfigError extends OperatorError {
  constructor(file: string, line: number, message: string) {
    super(`${file}:${line}: ${message}`, ExitCode.usage);
    this.name = 'XlConfigError';
  }
}

export interface XlAtom {
  kind: 'atom';
  /** The value without quotes, escapes resolved. */
  text: string;
  line: number;
  /** Where it stands in the text, quotes included. */
  start: number;
  end: number;
}

export interface XlList {
  kind: 'list';
  items: XlValue[];
  line: number;
  start: number;
  end: number;
}

export type XlValue = XlAtom | XlList;

export interface XlAssignment {
  key: string;
  operator: '=' | '+=';
  value: XlValue;
  line: number;
}

/** A configuration with its text, from which everything but `disk` is written back byte for byte. */
export interface XlConfig {
  /** How messages name the file. */
  file: string;
  text: string;
  assignments: XlAssignment[];
}

export const XL_CONFIG_LENGTH_MAX = 256 * 1024;
const NESTING_MAX = 8;

/**
 * Parses an xl configuration.
 *
 * @param file how messages name the file
 * @throws {XlConfigError} for anything that isn't one
 */
export function parseXlConfig(text: string, file: string): XlConfig {
  return { file, text, assignments: new Parser(text, file).parse() };
}

const ESCAPES: Readonly<Record<string, string>> = {
  '"': '"',
  "'": "'",
  '\\': '\\',
  a: '\x07',
  b: '\b',
  f: '\f',
  n: '\n',
  r: '\r',
  t: '\t',
  v: '\v',
};

class Parser {
  readonly #text: string;
  readonly #file: string;
  #offset = 0;
  #line = 1;

  constructor(text: string, file: string) {
    this.#text = text;
    this.#file = file;
  }

  parse(): XlAssignment[] {
    if (this.#text.length > XL_CONFIG_LENGTH_MAX) {
      this.#fail(`is longer than ${XL_CONFIG_LENGTH_MAX} characters`);
    }
    this.#refuseControlCharacters();
    const assignments: XlAssignment[] = [];
    for (;;) {
      this.#skipBlank();
      if (this.#peek() === '') return assignments;
      if (this.#newline() || this.#take(';')) continue;
      assignments.push(this.#assignment());
      this.#skipBlank();
      if (this.#peek() !== '' && !this.#newline() && !this.#take(';')) {
        this.#fail(`expected the end of the line after a value, found ${this.#here()}`);
      }
    }
  }

  #assignment(): XlAssignment {
    const line = this.#line;
    const key = this.#match(/[a-z][_0-9a-z]*/y);
    if (key === undefined) this.#fail(`expected a key of small letters, found ${this.#here()}`);
    this.#skipSpaces();
    const operator = this.#match(/\+?=/y);
    if (operator === undefined) this.#fail(`expected "=" after ${key}, found ${this.#here()}`);
    this.#skipSpaces();
    return { key, operator: operator === '=' ? '=' : '+=', value: this.#value(0), line };
  }

  #value(depth: number): XlValue {
    return this.#peek() === '[' ? this.#list(depth) : this.#atom();
  }

  #list(depth: number): XlList {
    const start = this.#offset;
    const line = this.#line;
    if (depth >= NESTING_MAX) this.#fail(`lists are nested more than ${NESTING_MAX} deep`);
    this.#offset += 1;
    const items: XlValue[] = [];
    for (;;) {
      this.#skipLines();
      if (this.#take(']')) break;
      items.push(this.#value(depth + 1));
      this.#skipLines();
      if (this.#take(',')) continue;
      if (this.#take(']')) break;
      this.#fail(`expected "," or "]" in the list that starts on line ${line}, found ${this.#here()}`);
    }
    return { kind: 'list', items, line, start, end: this.#offset };
  }

  #atom(): XlAtom {
    const start = this.#offset;
    const line = this.#line;
    const quote = this.#peek();
    if (quote === '"' || quote === "'") {
      const text = this.#quoted(quote);
      return { kind: 'atom', text, line, start, end: this.#offset };
    }
    const text = this.#match(/[0-9][0-9a-fx]*/y);
    if (text === undefined) this.#fail(`expected a number, a quoted text or a list, found ${this.#here()}`);
    return { kind: 'atom', text, line, start, end: this.#offset };
  }

  #quoted(quote: string): string {
    let result = '';
    this.#offset += 1;
    for (;;) {
      const character = this.#peek();
      if (character === '' || character === '\n') this.#fail(`a text in ${quote} isn't closed on its line`);
      this.#offset += 1;
      if (character === quote) return result;
      if (character !== '\\') {
        result += character;
        continue;
      }
      const escape = this.#peek();
      if (!Object.hasOwn(ESCAPES, escape)) {
        this.#fail(
          `xl has no escape ${show(`\\${escape}`)}; write the character itself, or \\\\ for a backslash`,
        );
      }
      this.#offset += 1;
      result += ESCAPES[escape] ?? '';
    }
  }

  /** They can hide what a line says, and xl takes none but tabs. */
  #refuseControlCharacters(): void {
    const found = /[\x00-\x08\x0b-\x1f\x7f]/.exec(this.#text);
    if (found === null) return;
    this.#line += this.#text.slice(0, found.index).split('\n').length - 1;
    const [character] = found;
    this.#fail(
      character === '\r'
        ? 'has a carriage return; xl takes lines that end in a line feed only'
        : `has the control character ${JSON.stringify(character)}`,
    );
  }

  #peek(): string {
    return this.#text.charAt(this.#offset);
  }

  #take(character: string): boolean {
    if (this.#peek() !== character) return false;
    this.#offset += 1;
    return true;
  }

  #newline(): boolean {
    if (!this.#take('\n')) return false;
    this.#line += 1;
    return true;
  }

  #match(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.#offset;
    const match = pattern.exec(this.#text)?.[0];
    this.#offset += match?.length ?? 0;
    return match;
  }

  #skipSpaces(): void {
    this.#match(/[ \t]*/y);
  }

  #skipBlank(): void {
    this.#match(/[ \t]*(?:#[^\n]*)?/y);
  }

  #skipLines(): void {
    do this.#skipBlank();
    while (this.#newline());
  }

  #here(): string {
    const rest = /[^\n]{0,20}/y;
    rest.lastIndex = this.#offset;
    const found = rest.exec(this.#text)?.[0] ?? '';
    if (found !== '') return show(found);
    return this.#offset >= this.#text.length ? 'the end of the file' : 'the end of the line';
  }

  #fail(message: string): never {
    throw new XlConfigError(this.#file, this.#line, message);
  }
}

// --- What it says of the guest ---------------------------------------------------------------------------

export interface Guest {
  name: string;
  type: 'pv' | 'pvh' | 'hvm';
  kernel?: string;
  ramdisk?: string;
  bootloader?: string;
  memoryMiB: number;
  /** At least `memoryMiB`. */
  maxMemoryMiB: number;
  vcpus: number;
  vifs: GuestVif[];
  disks: GuestDisk[];
  /** Keys of devices that can't follow the guest to another host, such as `pci`. */
  hostDevices: string[];
}

export interface GuestVif {
  /** `bridge`, `mac`, `script`, `vifname` and the like (xl-network-configuration(5)). */
  parameters: ReadonlyMap<string, string>;
  line: number;
}

export interface GuestDisk {
  vdev: string;
  cdrom: boolean;
  /** Absent for an empty drive. */
  target?: string;
  line: number;
  /** Where it stands in the text, quotes included. */
  start: number;
  end: number;
}

/** Devices of the host that a guest can be given and that stay behind when it moves. */
export const HOST_DEVICE_KEYS = [
  'pci',
  'dtdev',
  'device_tree',
  'usbdev',
  'usbctrl',
  'vtpm',
  'p9',
  'pvcalls',
  'ioports',
  'iomem',
  'irqs',
];

/**
 * What the configuration says of its guest.
 *
 * @throws {XlConfigError} when a value isn't what xl.cfg(5) has there, or `name` or `memory` is missing
 */
export function describeGuest(config: XlConfig): Guest {
  const memoryMiB = requiredNumber(config, 'memory');
  const kernel = optionalText(config, 'kernel');
  const ramdisk = optionalText(config, 'ramdisk');
  const bootloader = optionalText(config, 'bootloader');
  return {
    name: requiredText(config, 'name'),
    type: guestType(config),
    ...(kernel === undefined ? {} : { kernel }),
    ...(ramdisk === undefined ? {} : { ramdisk }),
    ...(bootloader === undefined ? {} : { bootloader }),
    memoryMiB,
    maxMemoryMiB: Math.max(memoryMiB, optionalNumber(config, 'maxmem') ?? memoryMiB),
    vcpus: optionalNumber(config, 'vcpus') ?? 1,
    vifs: listItems(config, 'vif').map((atom) => parseVif(config, atom)),
    disks: listItems(config, 'disk').map((atom) => parseDisk(config, atom)),
    hostDevices: HOST_DEVICE_KEYS.filter((key) => isGiven(find(config, key)?.value)),
  };
}

function guestType(config: XlConfig): Guest['type'] {
  const type = optionalText(config, 'type');
  if (type !== undefined) {
    if (type === 'pv' || type === 'pvh' || type === 'hvm') return type;
    fail(config, 'type', `type is ${show(type)}; xl has pv, pvh and hvm`);
  }
  const builder = optionalText(config, 'builder');
  if (builder === 'hvm') return 'hvm';
  if (builder !== undefined && builder !== 'generic' && builder !== 'linux') {
    fail(config, 'builder', `builder is ${show(builder)}; xl has generic and hvm`);
  }
  return optionalNumber(config, 'pvh') === 1 ? 'pvh' : 'pv';
}

function isGiven(value: XlValue | undefined): boolean {
  if (value === undefined) return false;
  return value.kind === 'list' ? value.items.length > 0 : value.text !== '' && value.text !== '0';
}

/** The assignment that counts: the last one. */
function find(config: XlConfig, key: string): XlAssignment | undefined {
  const found = config.assignments.filter((assignment) => assignment.key === key);
  const last = found.at(-1);
  const adding = found.find(({ operator }) => operator === '+=');
  if (adding !== undefined) {
    throw new XlConfigError(
      config.file,
      adding.line,
      `${key} is added to with "+="; give it in one assignment`,
    );
  }
  return last;
}

function fail(config: XlConfig, key: string, message: string): never {
  throw new XlConfigError(config.file, find(config, key)?.line ?? 1, message);
}

function optionalText(config: XlConfig, key: string): string | undefined {
  const value = find(config, key)?.value;
  if (value === undefined) return undefined;
  if (value.kind === 'list') fail(config, key, `${key} is a list, expected one value`);
  return value.text;
}

function requiredText(config: XlConfig, key: string): string {
  return optionalText(config, key) ?? fail(config, key, `${key} is required`);
}

/** As `strtol` with base 0 reads it, which xl uses for quoted numbers as well. */
function optionalNumber(config: XlConfig, key: string): number | undefined {
  const text = optionalText(config, key);
  if (text === undefined) return undefined;
  const number = /^0x[0-9a-f]{1,12}$|^[1-9]\d{0,14}$/i.test(text)
    ? Number(text)
    : /^0[0-7]{0,15}$/.test(text)
      ? Number.parseInt(text, 8)
      : undefined;
  return number ?? fail(config, key, `${key} is ${show(text)}, expected a whole number`);
}

function requiredNumber(config: XlConfig, key: string): number {
  return optionalNumber(config, key) ?? fail(config, key, `${key} is required`);
}

function listItems(config: XlConfig, key: string): XlAtom[] {
  const value = find(config, key)?.value;
  if (value === undefined) return [];
  if (value.kind === 'atom') fail(config, key, `${key} is one value, expected a list`);
  return value.items.map((item) => {
    if (item.kind === 'atom') return item;
    throw new XlConfigError(config.file, item.line, `${key} has a list in its list, expected texts`);
  });
}

function parseVif(config: XlConfig, atom: XlAtom): GuestVif {
  const parameters = new Map<string, string>();
  for (const part of atom.text.split(',')) {
    const text = part.trim();
    if (text === '') continue;
    const [, key, value] = /^([a-z_]+)\s*=\s*(.*)$/.exec(text) ?? [];
    if (key === undefined || value === undefined) {
      throw new XlConfigError(config.file, atom.line, `vif has ${show(text)}, expected key=value`);
    }
    parameters.set(key, value);
  }
  return { parameters, line: atom.line };
}

/**
 * Reads one disk, in the form of keys, the positional form `TARGET,FORMAT,VDEV,ACCESS`, or the old one with
 * a prefix, `phy:TARGET,VDEV,ACCESS` (xl-disk-configuration(5)).
 */
function parseDisk(config: XlConfig, atom: XlAtom): GuestDisk {
  let text = atom.text.trim();
  const prefix = /^(?:phy|file|tap2?|tapdisk|aio|ioemu|raw|qcow2?|vhd|iscsi|e?nbd|drbd):/.exec(text)?.[0];
  if (prefix !== undefined) text = text.slice(prefix.length);
  // The target takes everything that follows it, commas included.
  const last = /(?:^|,)\s*target=(.*)$/s.exec(text);
  const parts = (last === null ? text : text.slice(0, last.index)).split(',').map((part) => part.trim());
  const positions =
    prefix === undefined ? ['target', 'format', 'vdev', 'access'] : ['target', 'vdev', 'access'];
  const found = new Map<string, string>();
  let cdrom = false;
  if (last !== null) found.set('target', last[1] ?? '');
  for (const part of parts) {
    const [, key, value = ''] = /^([a-z][a-z0-9-]*)=(.*)$/s.exec(part) ?? [];
    if (part === 'cdrom' || part === 'devtype=cdrom') cdrom = true;
    else if (key !== undefined) found.set(key, value);
    else if (!/^(?:no-)?discard$|^direct-io-safe$/.test(part)) {
      const position = positions.find((name) => !found.has(name));
      if (position !== undefined) found.set(position, part);
    }
  }
  const [vdev = '', devtype] = (found.get('vdev') ?? '').split(':');
  if (vdev === '') {
    throw new XlConfigError(config.file, atom.line, `disk ${show(atom.text)} names no vdev`);
  }
  const target = found.get('target') ?? '';
  return {
    vdev,
    cdrom: cdrom || devtype === 'cdrom',
    ...(target === '' ? {} : { target }),
    line: atom.line,
    start: atom.start,
    end: atom.end,
  };
}

// --- Writing it again ------------------------------------------------------------------------------------

/**
 * The configuration's text with other disks: `disk` is replaced where it stands, or added at the end.
 *
 * Disks of the same vdev are replaced. A CD drive that isn't among them is kept as it is written. Any other
 * disk is refused: after a failover the guest would find another content in it, or none.
 *
 * @param disks one text for each replicated disk, in xl-disk-configuration(5)'s syntax, without quotes
 * @throws {XlConfigError} for a disk that isn't replicated, and when `disk` is assigned more than once
 */
export function replaceDisks(config: XlConfig, disks: readonly { vdev: string; text: string }[]): string {
  const assigned = config.assignments.filter(({ key }) => key === 'disk');
  const [assignment, second] = assigned;
  if (second !== undefined) {
    throw new XlConfigError(config.file, second.line, 'disk is assigned a second time');
  }
  const replicated = new Set(disks.map(({ vdev }) => vdev));
  const others = describeGuest(config).disks.filter(({ vdev }) => !replicated.has(vdev));
  const stray = others.find(({ cdrom }) => !cdrom);
  if (stray !== undefined) {
    throw new XlConfigError(
      config.file,
      stray.line,
      `disk ${stray.vdev} isn't replicated, so the guest would lose it in a failover; name it in the domain's disks, or take it out`,
    );
  }
  const items = [
    ...disks.map(({ text }) => `'${text}'`),
    ...others.map(({ start, end }) => config.text.slice(start, end)),
  ];
  const list = `[\n${items.map((item) => `  ${item},\n`).join('')}]`;
  const { text } = config;
  if (assignment === undefined) {
    const separator = text === '' || text.endsWith('\n') ? '' : '\n';
    return `${text}${separator}disk = ${list}\n`;
  }
  const { start, end } = assignment.value;
  const after = text.slice(end);
  return `${text.slice(0, start)}${list}${after}${after.endsWith('\n') ? '' : '\n'}`;
}
