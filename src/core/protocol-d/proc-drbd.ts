/**
 * `/proc/drbd` as the DRBD 8.3 module with Remus's protocol D prints it (drbd_proc.c of that module):
 *
 *     version: 8.3.11 (api:88/proto:86-96)
 *     GIT-hash: ... build by ...
 *
 *      1: cs:Connected ro:Primary/Primary ds:UpToDate/UpToDate D r-----
 *         ns:2048 nr:0 dw:2056 dr:664 al:1 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:f def:0 chkpt:42 oos:0
 *
 * A minor that is not configured has `cs:Unconfigured` alone; a resync adds two lines that begin with a tab.
 * Amounts are in KiB. `def` is how many writes of its peer this side holds back now, `chkpt` the number of the
 * next checkpoint: 1 when the peers connect, and one more on both sides with each that is acknowledged.
 *
 * A state word that isn't known is an error, and so is a module without `def` and `chkpt`: it has no protocol D.
 */

import { linesOf, ParseError } from '../parse/text.js';
import type { Line } from '../parse/text.js';

/** drbd_strings.c of 8.3. */
const CONNECTION_STATES = [
  'StandAlone',
  'Disconnecting',
  'Unconnected',
  'Timeout',
  'BrokenPipe',
  'NetworkFailure',
  'ProtocolError',
  'TearDown',
  'WFConnection',
  'WFReportParams',
  'Connected',
  'StartingSyncS',
  'StartingSyncT',
  'WFBitMapS',
  'WFBitMapT',
  'WFSyncUUID',
  'SyncSource',
  'SyncTarget',
  'PausedSyncS',
  'PausedSyncT',
  'VerifyS',
  'VerifyT',
  'Ahead',
  'Behind',
] as const;
const ROLES = ['Primary', 'Secondary', 'Unknown'] as const;
const DISK_STATES = [
  'Diskless',
  'Attaching',
  'Failed',
  'Negotiating',
  'Inconsistent',
  'Outdated',
  'DUnknown',
  'Consistent',
  'UpToDate',
] as const;
const PROTOCOLS = ['A', 'B', 'C', 'D'] as const;

/** One side of a resource, as its host prints it. */
export interface DeferringDevice {
  minor: number;
  connection: (typeof CONNECTION_STATES)[number];
  role: (typeof ROLES)[number];
  peerRole: (typeof ROLES)[number];
  disk: (typeof DISK_STATES)[number];
  peerDisk: (typeof DISK_STATES)[number];
  /** Absent while it has no network configuration. */
  protocol?: (typeof PROTOCOLS)[number];
  /** `suspend-io` holds requests back. */
  suspended: boolean;
  /** Writes that came from the peer since the network was configured, in whole KiB (`nr`). */
  receivedKib: number;
  /** Written to this side's disk since it was attached, in whole KiB (`dw`). */
  writtenKib: number;
  /** Uses of this side's disk that are not done (`lo`); each write that is held back is one. */
  diskUses: number;
  /** Requests of this host that are not completed (`ap`). */
  pendingRequests: number;
  /** Writes of the peer that are held back here until their checkpoint (`def`). */
  deferredWrites: number;
  /** Number of the next checkpoint (`chkpt`). */
  nextCheckpoint: number;
  outOfSyncBytes: number;
}

const TOOL = '/proc/drbd';
const KIB = 1024;
/** 8.3 has at most 255 minors. */
const MINOR_MAX = 254;
const COUNTERS = ['ns', 'nr', 'dw', 'dr', 'al', 'bm', 'lo', 'pe', 'ua', 'ap', 'ep'] as const;

/**
 * The configured devices, by minor.
 *
 * @throws {ParseError} for anything that module doesn't print
 */
export function parseDeferringDrbd(text: string): Map<number, DeferringDevice> {
  const lines = linesOf(TOOL, text);
  const [version, build, ...rest] = lines;
  if (version === undefined) throw new ParseError(TOOL, 'nothing printed', '', 1);
  if (!/^version: 8\.3\.\d+\S* \(api:\d+\/proto:\d+(?:-\d+)?\)$/.test(version.text))
    version.fail('DRBD 8.3 is expected');
  if (build === undefined || !/^(?:GIT-hash|srcversion|SVN Revision): /.test(build.text)) {
    (build ?? version).fail("the module's build is expected");
  }
  const devices = new Map<number, DeferringDevice>();
  let last = -1;
  for (let index = 0; index < rest.length; index++) {
    const line = rest[index] as Line;
    // Progress of a resync or a verification, below the device it is of.
    if (line.text.startsWith('\t')) {
      if (last < 0) line.fail('a device is expected');
      continue;
    }
    const [, minorText, state = ''] =
      /^ {0,2}(\d{1,3}): (cs:.*)$/.exec(line.text) ?? line.fail('a device is expected');
    const minor = line.integer(minorText, 'the minor', MINOR_MAX);
    if (minor <= last) line.fail('minors have to rise');
    last = minor;
    if (state === 'cs:Unconfigured') continue;
    const counts = rest[index + 1] ?? line.fail('the output breaks off after it');
    index += 1;
    devices.set(minor, readDevice(minor, line, state, counts));
  }
  return devices;
}

function readDevice(minor: number, line: Line, state: string, counts: Line): DeferringDevice {
  // Six flags; the first says whether I/O is suspended, the fifth why the device is congested.
  const match =
    /^cs:(\S+) ro:([^/ ]+)\/(\S+) ds:([^/ ]+)\/(\S+) ([A-Z ]) ([sr])[a-][p-][u-][a-z-][s-]?$/.exec(state);
  const [, cs, role, peerRole, disk, peerDisk, protocol = '', io] =
    match ?? line.fail('states and flags are expected');
  const values = readCounts(counts);
  return {
    minor,
    connection: line.oneOf(cs, CONNECTION_STATES, 'connection state'),
    role: line.oneOf(role, ROLES, 'role'),
    peerRole: line.oneOf(peerRole, ROLES, 'role'),
    disk: line.oneOf(disk, DISK_STATES, 'disk state'),
    peerDisk: line.oneOf(peerDisk, DISK_STATES, 'disk state'),
    ...(protocol === ' ' ? {} : { protocol: line.oneOf(protocol, PROTOCOLS, 'protocol') }),
    suspended: io === 's',
    receivedKib: values.nr,
    writtenKib: values.dw,
    diskUses: values.lo,
    pendingRequests: values.ap,
    deferredWrites: values.def,
    nextCheckpoint: values.chkpt,
    outOfSyncBytes: values.oos * KIB,
  };
}

function readCounts(line: Line): Record<'nr' | 'dw' | 'lo' | 'ap' | 'def' | 'chkpt' | 'oos', number> {
  const words = line.text.trim().split(' ');
  const expected = [...COUNTERS, 'wo', 'def', 'chkpt', 'oos'];
  const found = new Map<string, string>();
  for (const [index, key] of expected.entries()) {
    const word = words[index] ?? '';
    if (!word.startsWith(`${key}:`)) {
      line.fail(
        key === 'def'
          ? 'no "def:" before "oos:", so this module has no protocol D'
          : `${key}: is expected, not ${JSON.stringify(word)}`,
      );
    }
    found.set(key, word.slice(key.length + 1));
  }
  if (words.length > expected.length) line.fail(`${JSON.stringify(words[expected.length])} is not known`);
  line.oneOf(found.get('wo'), ['n', 'd', 'f', 'b'], 'write ordering');
  const number = (key: string, max?: number): number => line.integer(found.get(key), key, max);
  for (const key of COUNTERS) number(key);
  return {
    nr: number('nr'),
    dw: number('dw'),
    lo: number('lo'),
    ap: number('ap'),
    def: number('def'),
    chkpt: number('chkpt'),
    oos: number('oos', Math.floor(Number.MAX_SAFE_INTEGER / KIB)),
  };
}

/** The part of the text that is about one minor, with the module's version before it: it can be read like the whole. */
export function sideText(text: string, minor: number): string {
  const lines = text.split('\n');
  const at = lines.findIndex((line) => new RegExp(`^ {0,2}${minor}: `).test(line));
  return [...lines.slice(0, 2), ...(at < 0 ? [] : lines.slice(at, at + 2)), ''].join('\n');
}

/**
 * One device.
 *
 * @throws {ParseError} also where the device isn't there or isn't configured
 */
export function deferringDevice(text: string, minor: number): DeferringDevice {
  const device = parseDeferringDrbd(text).get(minor);
  if (device === undefined) throw new ParseError(TOOL, `minor ${minor} isn't configured`, '', 1);
  return device;
}

/** What both hosts print of the same resource. */
export interface BothSides {
  primary: DeferringDevice;
  backup: DeferringDevice;
}

/** What the counts are compared with. */
export interface ExpectedCounts {
  /** `chkpt` of both sides when the session began. */
  first: number;
  /** Checkpoints of this session that the backup has acknowledged. */
  acknowledged: number;
  /** A barrier is out whose acknowledgement hasn't been taken yet. */
  barrierOut: boolean;
}

/**
 * Why this is no session in which the backup holds writes back, or why its counts aren't ours. Empty when all
 * is as it has to be.
 *
 * The module merely warns in the kernel's log when the peers' numbers differ, and its acknowledgement has no
 * number, so it is looked at here.
 */
export function sidesProblems({ primary, backup }: BothSides, expected: ExpectedCounts): string[] {
  const problems: string[] = [];
  for (const [side, device] of [
    ['primary', primary],
    ['backup', backup],
  ] as const) {
    if (device.protocol !== 'D')
      problems.push(`the ${side} has protocol ${device.protocol ?? 'none'}, D is required`);
    if (device.connection !== 'Connected')
      problems.push(`the ${side} is ${device.connection}, Connected is required`);
    if (device.role !== 'Primary') {
      const why =
        side === 'backup' ? ': it would write the epoch through at once instead of holding it back' : '';
      problems.push(`the ${side} is ${device.role}, Primary is required${why}`);
    }
    if (device.disk !== 'UpToDate')
      problems.push(`the ${side}'s disk is ${device.disk}, UpToDate is required`);
    if (device.suspended) problems.push(`the ${side}'s I/O is suspended`);
  }
  const next = expected.first + expected.acknowledged;
  if (primary.nextCheckpoint !== next) {
    problems.push(`the primary counts checkpoint ${primary.nextCheckpoint} as the next one, ours is ${next}`);
  }
  // The backup counts a barrier when it arrives, the primary when its acknowledgement is taken.
  const ahead = expected.barrierOut && backup.nextCheckpoint === next + 1;
  if (backup.nextCheckpoint !== next && !ahead) {
    problems.push(`the backup counts checkpoint ${backup.nextCheckpoint} as the next one, ours is ${next}`);
  }
  if (primary.deferredWrites !== 0) {
    problems.push(
      `the primary holds back ${primary.deferredWrites} writes of the backup, which must not write at all`,
    );
  }
  return problems;
}
