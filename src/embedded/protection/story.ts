/**
 * The story of the embedded pair: a guest is protected, its host loses power, it goes on where it was on the other one,
 * and so once more the other way round. Each thing that is promised is looked at as it happens.
 */
import { setTimeout as pause } from 'node:timers/promises';
import type { LedgerViolation } from '../../core/ledger.js';
import { CUT_POINTS } from './cuts.js';
import type { CutPoint } from './cuts.js';
import type { Break } from './jobs.js';
import { ProtectedPair } from './protected-pair.js';
import type { Comparison, Failover } from './protected-pair.js';

export interface Claim {
  claim: string;
  held: boolean;
  found: string;
}

export interface StoryOptions {
  seed: number;
  /** Where each cut is. */
  cutAt: (random: () => number) => CutPoint;
  broken: Break | null;
  tell: (text: string) => void;
  /** Leaves the files, and says where. */
  keep: boolean;
}

const INTERVAL_MS = 50;
const CLIENTS = 16;
const THINK_MS = 25;
const RATE_EVERY_MS = 500;
const RATE_LINES = 5;
const BLOCK_BYTES = 4096;
/** Of a pair; its ledger is bounded. */
const ROUNDS_EACH = 10;

/** Numbers from 0 to below 1, the same for the same seed (mulberry32). */
export function randomOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 0x1_0000_0000;
  };
}

class Story {
  readonly claims: Claim[] = [];
  readonly #tell: (text: string) => void;

  constructor(tell: (text: string) => void) {
    this.#tell = tell;
  }

  tell(text: string): void {
    this.#tell(text);
  }

  claim(claim: string, held: boolean, found: string): void {
    this.claims.push({ claim, held, found });
    this.#tell(`   ${held ? 'yes' : 'NO '}  ${claim}: ${found}`);
  }
}

/** Tells the whole story. */
export async function tellStory(options: StoryOptions): Promise<Claim[]> {
  const { tell, seed, broken, keep } = options;
  const random = randomOf(seed);
  const story = new Story(tell);
  tell(
    'An embedded pair: two hosts are process trees on this machine, with an embedded hypervisor, mirror and',
  );
  tell(
    'network in the place of Xen, DRBD and tc. Sender, receiver, link (TLS 1.3), epoch journal, claim and',
  );
  tell(`failover are those of real hosts. Nothing outside of a temporary folder is changed. Seed ${seed}.`);
  const pair = await ProtectedPair.start({
    intervalMs: INTERVAL_MS,
    clients: CLIENTS,
    thinkMs: THINK_MS,
    broken,
    seed,
    keep,
  });
  try {
    tell(
      `\n1. ${pair.primary} runs a guest of 8 MiB with two disks; ${CLIENTS} clients ask it to count, over TCP`,
    );
    tell('   Each count goes into its memory and onto both disks before the client is answered.');
    pair.clients.start();
    for (let act = 0; act < 2; act++) {
      await protection(pair, story, 2 + 4 * act);
      await cutAndFailover(pair, story, 3 + 4 * act, options.cutAt(random));
      await comeBack(pair, story, 5 + 4 * act);
    }
    tell('');
    return story.claims;
  } finally {
    await pair.close();
    if (keep) tell(`The files of the embedded hosts are in ${pair.folder}`);
  }
}

async function protection(pair: ProtectedPair, story: Story, number: number): Promise<void> {
  story.tell(
    `\n${number}. protect: ${pair.primary} sends a checkpoint to ${pair.backup} every ${INTERVAL_MS} ms`,
  );
  const startedMs = performance.now();
  await pair.protect();
  story.tell(
    `   the first checkpoint is committed after ${seconds(performance.now() - startedMs)}; from now on`,
  );
  story.tell(
    '   no answer leaves before the backup has committed the memory and the disks that it comes from',
  );
  for (let line = 0; line < RATE_LINES; line++) {
    const before = {
      answers: pair.clients.answers.length,
      sent: pair.sender?.sentBytes ?? 0,
      atMs: performance.now(),
    };
    await pause(RATE_EVERY_MS);
    const elapsed = (performance.now() - before.atMs) / 1000;
    const { sender } = pair;
    const rate = (pair.clients.answers.length - before.answers) / elapsed;
    const sent = ((sender?.sentBytes ?? 0) - before.sent) / elapsed;
    const pauseMs = sender?.figures?.p50.pauseMs ?? 0;
    const commitMs = sender?.figures?.p50.commitMs ?? 0;
    story.tell(
      `   epoch ${pad(sender?.committedEpoch ?? 0, 4)} committed | ${pad(Math.round(rate), 4)} answers/s | ` +
        `${formatBytes(Math.round(sent)).padStart(9)}/s | guest held ${pauseMs.toFixed(1)} ms | ` +
        `commit after ${commitMs.toFixed(1)} ms (medians)`,
    );
  }
  const { protection: word, reason } = pair.sender ?? { protection: 'unprotected', reason: 'no sender' };
  story.claim('the guest is protected', word === 'protected', `${word}: ${reason}`);
}

async function cutAndFailover(
  pair: ProtectedPair,
  story: Story,
  number: number,
  point: CutPoint,
): Promise<void> {
  const [dead, other] = [pair.primary, pair.backup];
  story.tell(`\n${number}. the power of ${dead} is cut (SIGKILL for its whole tree), at "${point}":`);
  story.tell(`   ${CUT_POINTS[point]}`);
  await pair.cutAt(point);
  const failover = await pair.failedOver();
  story.tell(`\n${number + 1}. ${other} takes over`);
  tellFailover(failover, story);
  story.claim(
    'memory and both disks are of the same epoch, and no answer is missing',
    failover.violations.length === 0,
    failover.violations.length === 0
      ? `${failover.answers} answers, each in memory and on both disks; the guest was at count ${failover.count}`
      : violationsText(failover.violations),
  );
  // So many that the one who is off misses something.
  await answers(pair, 20 * CLIENTS);
  const violations = await pair.verify();
  story.claim(
    'the guest goes on where it was, and its counter never went back',
    violations.length === 0 && pair.clients.nonsense.length === 0,
    violations.length === 0 && pair.clients.nonsense.length === 0
      ? `${pair.clients.answers.length} answers in all, in order, none twice`
      : [violationsText(violations), ...pair.clients.nonsense.slice(0, 3)].join('; '),
  );
}

/** Waits for so many more. */
async function answers(pair: ProtectedPair, count: number): Promise<void> {
  const { length } = pair.clients.answers;
  while (pair.clients.answers.length < length + count) await pair.clients.nextAnswer();
}

function tellFailover({ times, epoch, discardedBytes }: Failover, story: Story): void {
  const { detectionMs, claimMs, diskMs, startMs, answeredMs } = times;
  story.tell(
    `   detection ${seconds(detectionMs)} | claim ${ms(claimMs)} | disk ${ms(diskMs)} | start ${ms(startMs)}`,
  );
  story.tell(`   a client is answered again ${seconds(answeredMs)} after the cut`);
  story.tell(
    `   the guest went on from epoch ${epoch}; ${formatBytes(discardedBytes)} of later writes were discarded`,
  );
}

async function comeBack(pair: ProtectedPair, story: Story, number: number): Promise<void> {
  story.tell(`\n${number}. ${pair.backup} is switched on again, as backup; what differs is sent to it`);
  await pair.bringBack();
  let last = -1;
  const { blocks, ms: took } = await pair.resynchronised((left, of) => {
    const done = of === 0 ? 100 : Math.floor((100 * (of - left)) / of);
    const step = Math.floor(done / 25);
    if (step === last) return;
    last = step;
    story.tell(
      `   resync ${pad(done, 3)} %, ${formatBytes(left * BLOCK_BYTES)} of ${formatBytes(of * BLOCK_BYTES)} left`,
    );
  });
  story.tell(`   resynchronised in ${seconds(took)}: ${formatBytes(blocks * BLOCK_BYTES)} of 33 MiB`);
  const comparison = await pair.compare();
  story.claim(
    'both hosts have the same disks, byte for byte',
    isSame(comparison),
    `${comparison.volumes.map(({ name, same }) => `${name} ${same ? 'same' : 'DIFFERS'}`).join(', ')} ` +
      `(the guest was held for ${ms(comparison.heldMs)} to compare)`,
  );
}

export interface Round {
  round: number;
  point: CutPoint;
  violations: string[];
  outageMs: number;
}

export interface RoundsOptions extends Omit<StoryOptions, 'tell'> {
  rounds: number;
  onRound: (round: Round) => void;
}

/** Failovers one after the other, to and fro, each checked like the story's. */
export async function runRounds(options: RoundsOptions): Promise<Round[]> {
  const random = randomOf(options.seed);
  const done: Round[] = [];
  while (done.length < options.rounds) {
    const pair = await ProtectedPair.start({
      ...{ intervalMs: INTERVAL_MS, clients: CLIENTS, thinkMs: THINK_MS, broken: options.broken },
      seed: options.seed + done.length,
      keep: options.keep,
    });
    try {
      for (let each = 0; each < ROUNDS_EACH && done.length < options.rounds; each++) {
        const round = await oneRound(pair, done.length + 1, options.cutAt(random), random);
        done.push(round);
        options.onRound(round);
      }
    } finally {
      await pair.close();
    }
  }
  return done;
}

async function oneRound(
  pair: ProtectedPair,
  round: number,
  point: CutPoint,
  random: () => number,
): Promise<Round> {
  // While processes start there is nothing to be seen, and on a busy machine they start the sooner.
  pair.clients.stop();
  await pair.protect();
  pair.clients.start();
  await answers(pair, CLIENTS);
  await pause(100 + random() * 300);
  await pair.cutAt(point);
  const failover = await pair.failedOver();
  const violations = failover.violations.map(({ text }) => `as it was restored: ${text}`);
  violations.push(...(await pair.verify()).map(({ text }) => text), ...pair.clients.nonsense);
  await answers(pair, CLIENTS);
  pair.clients.stop();
  await pair.bringBack();
  await pair.resynchronised(() => undefined);
  for (const { name, same } of (await pair.compare()).volumes) {
    if (!same) violations.push(`${name} differs between the hosts after the resync`);
  }
  return { round, point, violations, outageMs: failover.times.answeredMs };
}

function isSame({ volumes }: Comparison): boolean {
  return volumes.every(({ same }) => same);
}

function violationsText(violations: readonly LedgerViolation[]): string {
  return violations
    .map(({ text, times }) => (times > 1 ? `${text} (and ${times - 1} more)` : text))
    .join('; ');
}

const pad = (value: number, width: number): string => String(value).padStart(width);
/** To be read at a glance, so rounded. */
function formatBytes(bytes: number): string {
  if (bytes >= 1 << 20) return `${(bytes / (1 << 20)).toFixed(1)} MiB`;
  return `${Math.round(bytes / 1024)} KiB`;
}

const seconds = (value: number): string => `${(value / 1000).toFixed(2)} s`;
const ms = (value: number): string => `${Math.round(value)} ms`;
