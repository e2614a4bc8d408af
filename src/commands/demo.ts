/**
 * `remus-drbd demo`: protection at work on an embedded pair, with no root and no packages. The hosts are process trees
 * on this machine with stand-ins for Xen, DRBD and tc (`src/embedded/protection`); sender, receiver, link, journal,
 * claim and failover are the real ones. It tells what it does and checks each claim that it makes.
 */
import { randomInt } from 'node:crypto';
import { ExitCode, OperatorError } from '../core/errors.js';
import type { Claim } from '../embedded/protection/act.js';
import {
  CUT_KIND_NAMES,
  CUT_KINDS,
  CUT_POINT_NAMES,
  CUT_POINTS,
  cutText,
  REACHES,
} from '../embedded/protection/cuts.js';
import type { CutKind, CutPoint, Reach } from '../embedded/protection/cuts.js';
import { keptText } from '../embedded/protection/figures.js';
import { BREAKS } from '../embedded/protection/jobs.js';
import type { Break } from '../embedded/protection/jobs.js';
import type { Round } from '../embedded/protection/rounds.js';

export interface DemoOutput {
  json: boolean;
  print: (text: string) => void;
}

const SEED_MAX = 0xffff_ffff;
const ROUNDS_MAX = 100_000;

/** Runs the story, or rounds of it. Exit code 0 only if every claim held. */
export async function runDemo(
  options: Readonly<Record<string, string | true>>,
  output: DemoOutput,
): Promise<ExitCode> {
  const { embeddedPart, cut, cutAt, arbiter, rounds } = options;
  if (embeddedPart !== undefined) return runPart(String(embeddedPart));
  if (options['setup'] === true) {
    if (Object.keys(options).length > 1) {
      throw new OperatorError('demo --setup: none of the other options of demo goes with it', ExitCode.usage);
    }
    return (await import('./demo-setup.js')).runSetupDemo(output);
  }
  if (cut === 'list' || cutAt === 'list') {
    printLists(cut === 'list', cutAt === 'list', output);
    return ExitCode.ok;
  }
  const seed = readNumber('--seed', options['seed'], 0, SEED_MAX) ?? randomInt(SEED_MAX);
  const common: Common = {
    seed,
    kind: readWord('--cut', cut, CUT_KIND_NAMES),
    point: readWord('--cut-at', cutAt, CUT_POINT_NAMES),
    arbiter: readWord('--arbiter', arbiter, REACHES),
    broken: readBreak(),
    keep: options['keep'] === true,
  };
  const wanted = readNumber('--rounds', rounds, 1, ROUNDS_MAX);
  return wanted === null ? runStory(common, output) : runManyRounds({ ...common, rounds: wanted }, output);
}

function printLists(kinds: boolean, points: boolean, { json, print }: DemoOutput): void {
  const cut = kinds ? CUT_KINDS : undefined;
  const cutAt = points ? CUT_POINTS : undefined;
  if (json) {
    print(JSON.stringify({ embedded: true, cut, cutAt }, null, 2));
    return;
  }
  const list = (title: string, texts: Readonly<Record<string, string>>): void => {
    print(title);
    for (const [name, text] of Object.entries(texts)) print(`  ${name.padEnd(20)} ${text}`);
  };
  if (cut !== undefined) list('--cut, what is cut on the embedded pair:', cut);
  if (cutAt !== undefined) list('--cut-at, where in a checkpoint of the embedded pair:', cutAt);
}

interface Common {
  seed: number;
  /** Null for what is left open. */
  kind: CutKind | null;
  point: CutPoint | null;
  arbiter: Reach | null;
  broken: Break | null;
  keep: boolean;
}

/** Each with its own code only: a host of the story is up the sooner. */
async function runPart(part: string): Promise<ExitCode> {
  switch (part) {
    case 'host':
      await (await import('../embedded/protection/host-part.js')).runHostPart();
      break;
    case 'sender':
      await (await import('../embedded/protection/sender-part.js')).runSenderPart();
      break;
    case 'receiver':
      await (await import('../embedded/protection/receiver-part.js')).runReceiverPart();
      break;
    default:
      throw new OperatorError(`--embedded-part ${part}: there is no such part`, ExitCode.usage);
  }
  // They end by themselves, or with whoever started them.
  return ExitCode.ok;
}

async function runStory(common: Common, { json, print }: DemoOutput): Promise<ExitCode> {
  const { tellStory } = await import('../embedded/protection/story.js');
  const told: string[] = [];
  const claims = await tellStory({
    ...common,
    kind: common.kind ?? 'primary',
    arbiter: common.arbiter ?? 'both',
    tell: json ? (text) => void told.push(...text.split('\n')) : print,
  });
  if (json) print(JSON.stringify({ embedded: true, seed: common.seed, told, claims }, null, 2));
  else print(await claimsTable(claims));
  return claims.every(({ held }) => held) ? ExitCode.ok : ExitCode.failed;
}

async function runManyRounds(
  common: Common & { rounds: number },
  { json, print }: DemoOutput,
): Promise<ExitCode> {
  const { runRounds } = await import('../embedded/protection/rounds.js');
  const { seed, kind, point, arbiter } = common;
  const kept: string[] = [];
  if (!json) print(`An embedded pair; ${common.rounds} rounds, seed ${seed}`);
  const rounds = await runRounds({
    ...common,
    fixed: {
      ...(kind === null ? {} : { kind }),
      ...(point === null ? {} : { point }),
      ...(arbiter === null ? {} : { arbiter }),
    },
    onRound: (round) => {
      if (!json) print(roundText(round, again(common)));
    },
    onKept: (folder) => {
      kept.push(folder);
      if (!json) print(keptText(folder));
    },
  });
  const bad = rounds.filter(({ violations }) => violations.length > 0).length;
  if (json) print(JSON.stringify({ embedded: true, seed, rounds, kept }, null, 2));
  else if (bad === 0) print(`embedded pair: ${rounds.length} rounds, every guarantee held; seed ${seed}`);
  else print(`embedded pair: ${bad} of ${rounds.length} rounds broke a guarantee; --seed ${seed}`);
  return bad === 0 ? ExitCode.ok : ExitCode.failed;
}

/** The options that lead to the same rounds. */
function again({ seed, kind, point, arbiter }: Common): string {
  return [
    ...(kind === null ? [] : [`--cut ${kind}`]),
    ...(point === null ? [] : [`--cut-at ${point}`]),
    ...(arbiter === null ? [] : [`--arbiter ${arbiter}`]),
    `--seed ${seed}`,
  ].join(' ');
}

function roundText({ round, cut, host, violations, outageMs }: Round, options: string): string {
  const end = host === null ? 'came to no end' : `${host} goes on, answered after ${Math.round(outageMs)} ms`;
  return [
    `embedded round ${String(round).padStart(3)}  ${cutText(cut)}: ${end}`,
    ...violations.map((text) => `    VIOLATION on the embedded pair: ${text}`),
    ...(violations.length === 0 ? [] : [`    again with: --rounds ${round} ${options}`]),
  ].join('\n');
}

async function claimsTable(claims: readonly Claim[]): Promise<string> {
  const { default: Table } = await import('cli-table3');
  const table = new Table({
    head: ['embedded pair', 'held', 'found'],
    style: { head: [], border: [] },
    colWidths: [40, 6, 66],
    wordWrap: true,
  });
  for (const { claim, held, found } of claims) table.push([claim, held ? 'yes' : 'NO', found]);
  return table.toString();
}

function readNumber(
  option: string,
  text: string | true | undefined,
  min: number,
  max: number,
): number | null {
  if (text === undefined) return null;
  const value = Number(text);
  if (text !== true && /^\d+$/.test(text) && value >= min && value <= max) return value;
  throw new OperatorError(
    `${option} ${String(text)}: a number from ${min} to ${max} is required`,
    ExitCode.usage,
  );
}

function readWord<T extends string>(
  option: string,
  text: string | true | undefined,
  words: readonly T[],
): T | null {
  if (text === undefined) return null;
  const found = words.find((word) => word === text);
  if (found !== undefined) return found;
  throw new OperatorError(
    `${option} ${String(text)}: one of these is required: ${words.join(', ')}`,
    ExitCode.usage,
  );
}

/** For tests, which want to see that a broken guarantee is noticed. */
function readBreak(): Break | null {
  const text = process.env['REMUS_EMBEDDED_BREAK'];
  if (text === undefined) return null;
  const found = BREAKS.find((name) => name === text);
  if (found !== undefined) return found;
  throw new OperatorError(`REMUS_EMBEDDED_BREAK=${text}: one of ${BREAKS.join(', ')}`, ExitCode.usage);
}
