/**
 * The shape of pair.yaml: its keys, what each value may be, the bounds and the defaults.
 *
 * Zod checks the structure; each leaf is given to a parser that says in words what is wrong with it.
 */

import { isAbsolute } from 'node:path';

import { z } from 'zod';

import { MINOR_MAX, PORT_MAX, PORT_MIN } from './names.js';
import {
  ARGUMENT,
  ARGUMENT_RULE,
  FILE_PATH,
  FILE_PATH_RULE,
  HOST_NAME,
  LVM_NAME,
  lvNameProblem,
  parseEndpoint,
  parseReplicationAddress,
  parseSshTarget,
  USER,
  VDEV,
} from './patterns.js';
import { suggestion, withSuggestion } from './suggest.js';
import type { Parsed } from './units.js';
import { formatDuration, formatSize, parseDuration, parseSize, show } from './units.js';
import type { Path, YamlSource } from './yaml-source.js';

const KIB = 1024;
const MIB = 1024 * KIB;
const GIB = 1024 * MIB;
const TIB = 1024 * GIB;

/** Bounds of what the configuration can ask for, each with its reason in the message that refuses it. */
export const Limits = {
  pairsMax: 128,
  domainsPerPairMax: 256,
  /** An LV is at least one extent of 4 MiB. */
  diskBytesMin: 4 * MIB,
  /** DRBD 8.3's limit; in 8.4 such a disk costs 512 MiB of the dom0's memory for its bitmap. */
  diskBytesMax: 16 * TIB,
  journalBytesMin: 64 * MIB,
  journalBytesMax: 256 * GIB,
  intervalMsMin: 10,
  intervalMsMax: 10_000,
  failAfterMsMin: 200,
  failAfterMsMax: 60_000,
  cpuMax: 4095,
  endpointsMax: 15,
  fenceArgumentsMax: 64,
  fenceDelayMsMax: 5 * 60_000,
  drillTimeoutMsMin: 1_000,
  drillTimeoutMsMax: 24 * 60 * 60_000,
  drillArgumentsMax: 64,
  drillArgumentCharsMax: 4096,
  /** DRBD 8.3 takes minors 0 to 254 (`minor_count` is at most 255 there). */
  protocolDMinorMax: 254,
} as const;

export const Defaults = {
  arbiter: { kind: 'operator' },
  link: 'tls',
  engine: 'journal',
  journalBytes: GIB,
  intervalMs: 100,
  failAfterMs: 1000,
  drillTimeoutMs: 5 * 60_000,
  /** The receiver listens this far above the domain's DRBD port. */
  linkPortOffset: 1000,
  arbiterDirectory: '/var/lib/remus-drbd-arbiter',
  knownHostsFiles: ['~/.ssh/known_hosts', '/etc/ssh/ssh_known_hosts'],
} as const;

/** A leaf: any value of the file, given to a parser that says what it is or what is wrong with it. */
export function leaf<T>(parse: (input: unknown) => Parsed<T>) {
  return z.unknown().transform((input, context): T => {
    const result = input === undefined ? { problem: 'is required' } : parse(input);
    if ('value' in result) return result.value;
    context.addIssue({ code: 'custom', message: result.problem });
    return z.NEVER;
  });
}

/** A map with these keys and no other. The message carries the known keys to `readShape`. */
function strict<Shape extends z.ZodRawShape>(shape: Shape) {
  return z.strictObject(shape, {
    error: (issue) =>
      issue.code === 'unrecognized_keys' ? Object.keys(shape).join(' ') : expected('a map', issue.input),
  });
}

export function listOf<T extends z.ZodType>(item: T, what: string) {
  return z.array(item, { error: (issue) => expected(what, issue.input) });
}

/** A map whose keys are names; its values are read one by one, so that one bad value hides no other. */
function namedMap(what: string) {
  return leaf((input): Parsed<Record<string, unknown>> => {
    if (!isRecord(input)) return { problem: expected(what, input) };
    return Object.keys(input).length === 0 ? { problem: `is empty; expected ${what}` } : { value: input };
  });
}

export function expected(what: string, input: unknown): string {
  return input === undefined ? 'is required' : `expected ${what}, found ${show(input)}`;
}

export function isRecord(input: unknown): input is Record<string, unknown> {
  return typeof input === 'object' && input !== null && !Array.isArray(input);
}

function textLike(pattern: RegExp, rule: string) {
  return leaf((input): Parsed<string> =>
    typeof input === 'string' && pattern.test(input) ? { value: input } : { problem: expected(rule, input) },
  );
}

function oneOf<const T extends string>(...choices: T[]) {
  return leaf((input): Parsed<T> => {
    const value = choices.find((choice) => choice === input);
    return value === undefined ? { problem: expected(choices.join(' or '), input) } : { value };
  });
}

function integer(min: number, max: number) {
  return leaf((input): Parsed<number> => {
    if (typeof input !== 'number' || !Number.isInteger(input)) {
      return { problem: expected('a whole number', input) };
    }
    return input < min || input > max
      ? { problem: `${input} is not between ${min} and ${max}` }
      : { value: input };
  });
}

const flag = leaf((input): Parsed<boolean> =>
  typeof input === 'boolean' ? { value: input } : { problem: expected('true or false', input) },
);

function size(min: number, max: number, why: string) {
  return leaf((input): Parsed<number> => {
    const parsed = parseSize(input);
    if ('problem' in parsed) return parsed;
    const bytes = parsed.value;
    if (bytes % 512 !== 0)
      return { problem: `${bytes} bytes is not a multiple of 512, the size of a sector` };
    if (bytes < min || bytes > max) {
      return {
        problem: `${formatSize(bytes)} is not between ${formatSize(min)} and ${formatSize(max)}: ${why}`,
      };
    }
    return { value: bytes };
  });
}

function duration(minMs: number, maxMs: number, tooShort: string, tooLong: string) {
  return leaf((input): Parsed<number> => {
    const parsed = parseDuration(input);
    if ('problem' in parsed) return parsed;
    const ms = parsed.value;
    if (ms < minMs) {
      return { problem: `${formatDuration(ms)} is less than ${formatDuration(minMs)}: ${tooShort}` };
    }
    if (ms > maxMs) {
      return { problem: `${formatDuration(ms)} is more than ${formatDuration(maxMs)}: ${tooLong}` };
    }
    return { value: ms };
  });
}

const filePath = textLike(FILE_PATH, FILE_PATH_RULE);

const absolutePath = leaf((input): Parsed<string> => {
  if (
    typeof input !== 'string' ||
    !FILE_PATH.test(input) ||
    !isAbsolute(input) ||
    input.split('/').includes('..')
  ) {
    return { problem: expected('an absolute path of letters, digits and "_./~+@:,=%-" without ".."', input) };
  }
  return { value: input };
});

const volumeGroup = leaf((input): Parsed<string> =>
  typeof input === 'string' && LVM_NAME.test(input) && input !== '.' && input !== '..'
    ? { value: input }
    : { problem: expected('a name of letters, digits and "_+.-" as LVM has it', input) },
);

const logicalVolume = leaf((input): Parsed<string> => {
  if (typeof input !== 'string') return { problem: expected('the name of a logical volume', input) };
  const problem = lvNameProblem(input);
  return problem === undefined ? { value: input } : { problem };
});

export const sshShape = strict({
  identityFiles: listOf(filePath, 'a list of key files').optional(),
  knownHostsFiles: listOf(filePath, 'a list of files').optional(),
});

export const rootShape = strict({
  ssh: sshShape.optional(),
  pairs: namedMap('a map of pairs by name'),
});

export const pairShape = strict({
  hosts: namedMap('a map of the two hosts by name'),
  arbiter: z.unknown().optional(),
  link: oneOf('tls', 'ssh').optional(),
  domains: namedMap('a map of domains by name'),
});

export const hostShape = strict({
  ssh: leaf(parseSshTarget),
  replication: leaf(parseReplicationAddress),
});

/** The short form of an etcd arbiter, and a part of the long one. */
export const endpointsShape = listOf(leaf(parseEndpoint), 'a list of URLs');

export const etcdShape = strict({
  endpoints: endpointsShape,
  user: textLike(USER, 'a user name').optional(),
  // On the hosts, whose programs claim: a secret needn't pass through the controller.
  passwordFile: absolutePath.optional(),
  caFile: absolutePath.optional(),
  certFile: absolutePath.optional(),
  keyFile: absolutePath.optional(),
});

export const sshArbiterShape = strict({
  ssh: leaf(parseSshTarget),
  directory: absolutePath.optional(),
});

/** An argument may be a password, so no message shows one. */
const argument = leaf((input): Parsed<string> => {
  if (typeof input === 'string' && ARGUMENT.test(input)) return { value: input };
  return { problem: `expected an argument made of ${ARGUMENT_RULE} only` };
});

export const fenceAgentShape = z.array(argument, {
  error: 'expected a command line as a list of arguments',
});

export const delayedFenceShape = strict({
  agent: fenceAgentShape,
  delay: duration(
    0,
    Limits.fenceDelayMsMax,
    'a time is expected',
    'nothing of the guest is heard until then after a failure',
  ).optional(),
});

/** Goes to the host as data and to no shell but the one it names. */
const drillCheck = leaf((input): Parsed<string[]> => {
  const what = 'a command line as a list of arguments, such as [/usr/local/bin/check-web, --quick]';
  if (!Array.isArray(input) || input.length === 0) return { problem: expected(what, input) };
  const all = input as unknown[];
  if (all.length > Limits.drillArgumentsMax) {
    return { problem: `${all.length} arguments; at most ${Limits.drillArgumentsMax}` };
  }
  const wrong = all.find(
    (each) => typeof each !== 'string' || each.length > Limits.drillArgumentCharsMax || each.includes('\0'),
  );
  if (wrong !== undefined || all[0] === '')
    return { problem: `expected ${what}, found ${show(wrong ?? '')}` };
  return { value: all as string[] };
});

const cpus = listOf(integer(0, Limits.cpuMax), 'a list of CPU numbers');

export const diskShape = strict({
  vdev: textLike(VDEV, 'a disk name such as xvda, sda or hda'),
  volumeGroup,
  size: size(
    Limits.diskBytesMin,
    Limits.diskBytesMax,
    'one LVM extent at least, and a bitmap that fits in memory at most',
  ).optional(),
  logicalVolume: logicalVolume.optional(),
});

export const domainShape = strict({
  config: filePath,
  primary: textLike(HOST_NAME, 'the name of a host'),
  engine: oneOf('journal', 'protocol-d').optional(),
  port: integer(PORT_MIN, PORT_MAX),
  linkPort: integer(PORT_MIN, PORT_MAX).optional(),
  minor: integer(0, MINOR_MAX).optional(),
  disks: listOf(z.unknown(), 'a list of disks'),
  journal: strict({
    volumeGroup: volumeGroup.optional(),
    size: size(
      Limits.journalBytesMin,
      Limits.journalBytesMax,
      'it holds the disk writes of several checkpoints, and its index is kept in memory',
    ).optional(),
  }).optional(),
  checkpoint: strict({
    interval: duration(
      Limits.intervalMsMin,
      Limits.intervalMsMax,
      'suspending and resuming the guest takes about as long',
      'every answer of the guest waits for the end of its checkpoint',
    ).optional(),
    failAfter: duration(
      Limits.failAfterMsMin,
      Limits.failAfterMsMax,
      'a busy host that answers late would be taken for dead',
      'the guest is down or its output held for all this time after a failure',
    ).optional(),
  }).optional(),
  pin: strict({ dom0: cpus, guest: cpus }).optional(),
  autoRecover: flag.optional(),
  onCrash: oneOf('stop', 'failover').optional(),
  drill: strict({
    check: drillCheck.optional(),
    timeout: duration(
      Limits.drillTimeoutMsMin,
      Limits.drillTimeoutMsMax,
      'a guest does not start as fast',
      'the snapshots slow the backup down meanwhile',
    ).optional(),
    snapshotSize: size(
      Limits.diskBytesMin,
      Limits.diskBytesMax,
      'one LVM extent at least, and no more than a disk may have',
    ).optional(),
  }).optional(),
});

/**
 * Checks a part of the file.
 *
 * @returns the part as it was understood, or undefined when the source has new problems for it
 */
export function readShape<T extends z.ZodType>(
  source: YamlSource,
  schema: T,
  raw: unknown,
  path: Path,
): z.output<T> | undefined {
  const result = schema.safeParse(raw);
  if (result.success) return result.data;
  const misspelt = new Set<string>();
  for (const issue of result.error.issues) {
    if (issue.code !== 'unrecognized_keys') continue;
    const known = issue.message.split(' ');
    for (const key of issue.keys) {
      const near = suggestion(key, known);
      if (near !== undefined) misspelt.add([...issue.path, near].join('.'));
    }
    unknownKeys(source, issue.keys, known, [...path, ...issue.path.map(segment)]);
  }
  for (const issue of result.error.issues) {
    if (issue.code === 'unrecognized_keys') continue;
    const missing = issue.message === 'is required';
    // Whoever is told "did you mean" needn't hear that the meant key is missing, too.
    if (missing && misspelt.has(issue.path.join('.'))) continue;
    source.add([...path, ...issue.path.map(segment)], issue.message, missing ? 'key' : 'value');
  }
  return undefined;
}

/** Adds a problem for each key that isn't known. */
export function unknownKeys(
  source: YamlSource,
  keys: readonly string[],
  known: readonly string[],
  path: Path,
): void {
  for (const key of keys) {
    if (known.includes(key)) continue;
    source.add([...path, key], withSuggestion('Unrecognized key', key, known), 'key');
  }
}

function segment(key: PropertyKey): string | number {
  return typeof key === 'symbol' ? String(key) : key;
}
