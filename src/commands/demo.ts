/**
 * `remus-drbd demo`: protection at work on an embedded pair, with no root and no packages. The hosts are process trees
 * on this machine with stand-ins for Xen, DRBD and tc (`src/embedded/protection`); sender, receiver, link, journal,
 * claim and failover are the real ones. It tells what it does and checks each claim that it makes.
 */
import { randomInt } from 'node:crypto';
import { ExitCode, OperatorError } from '../core/errors.js';
import { choosePoint, CUT_POINT_NAMES, CUT_POINTS } from '../embedded/protection/cuts.js';
import type { CutPoint } from '../embedded/protection/cuts.js';
import { BREAKS } from '../embedded/protection/jobs.js';
import type { Break } from '../embedded/protection/jobs.js';
import type { Claim, Round } from '../embedded/protection/story.js';

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
  const { embeddedPart, cutAt, rounds } = options;
  if (embeddedPart !== undefined) return runPart(String(embeddedPart));
  if (options['setup'] === true) return (await import('./demo-setup.js')).runSetupDemo(output);
  if (cutAt === 'list') {
    output.print(CUT_POINT_NAMES.map((name) => `${name.padEnd(22)} ${CUT_POINTS[name]}`).join('\n'));
    return ExitCode.ok;
  }
  const seed = readNumber('--seed', options['seed'], 0, SEED_MAX) ?? randomInt(SEED_MAX);
  const point = readPoint(cutAt);
  const common = {
    seed,
    cutAt: point === null ? choosePoint : () => point,
    broken: readBreak(),
    keep: options['keep'] === true,
  };
  const wanted = readNumber('--rounds', rounds, 1, ROUNDS_MAX);
  return wanted === null ? runStory(common, output) : runManyRounds({ ...common, rounds: wanted }, output);
}

interface Common {
  seed: number;
  cutAt: (random: () => number) => CutPoint;
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
  const claims = await tellStory({ ...common, tell: json ? () => undefined : print });
  if (json) print(JSON.stringify({ embedded: true, seed: common.seed, claims }, null, 2));
  else print(await claimsTable(claims));
  return claims.every(({ held }) => held) ? ExitCode.ok : ExitCode.failed;
}

async function runManyRounds(
  common: Common & { rounds: number },
  { json, print }: DemoOutput,
): Promise<ExitCode> {
  const { runRounds } = await import('../embedded/protection/story.js');
  if (!json) print(`An embedded pair; ${common.rounds} failovers, seed ${common.seed}`);
  const rounds = await runRounds({
    ...common,
    onRound: (round) => {
      if (!json) print(roundText(round));
    },
  });
  const bad = rounds.filter(({ violations }) => violations.length > 0).length;
  if (json) print(JSON.stringify({ embedded: true, seed: common.seed, rounds }, null, 2));
  else if (bad === 0)
    print(`embedded pair: ${rounds.length} rounds, every guarantee held; seed ${common.seed}`);
  else print(`embedded pair: ${bad} of ${rounds.length} rounds broke a guarantee; --seed ${common.seed}`);
  return bad === 0 ? ExitCode.ok : ExitCode.failed;
}

function roundText({ round, point, violations, outageMs }: Round): string {
  const head = `embedded round ${String(round).padStart(3)}  ${point.padEnd(20)} answered again after ${Math.round(outageMs)} ms`;
  return [head, ...violations.map((text) => `    VIOLATION: ${text}`)].join('\n');
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

function readPoint(text: string | true | undefined): CutPoint | null {
  if (text === undefined) return null;
  const found = CUT_POINT_NAMES.find((name) => name === text);
  if (found !== undefined) return found;
  throw new OperatorError(
    `--cut-at ${String(text)}: one of these is required: ${CUT_POINT_NAMES.join(', ')}`,
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
