/**
 * Rounds on the embedded pair, one after the other, each an act like those of the story: what is cut, where and who
 * reaches the arbiter comes of the seed, from a deck with one of each, so that a full deck leaves nothing out.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { runAct, Story, waitForAnswers } from './act.js';
import { cutDeck } from './cuts.js';
import type { Cut } from './cuts.js';
import type { Break } from './jobs.js';
import { ProtectedPair } from './protected-pair.js';
import { randomOf } from './random.js';
import { CLIENTS, INTERVAL_MS, THINK_MS } from './story.js';

/** Of a pair; its ledger is bounded. */
const ROUNDS_EACH = 10;

export interface Round {
  round: number;
  cut: Cut;
  /** The host that went on; null where the round came to no end. */
  host: string | null;
  violations: string[];
  outageMs: number;
}

export interface RoundsOptions {
  rounds: number;
  seed: number;
  /** What is not left to chance. */
  fixed: Partial<Cut>;
  broken: Break | null;
  keep: boolean;
  onRound: (round: Round) => void;
  /** Told where the files of a pair are, with `keep`. */
  onKept: (folder: string) => void;
}

/** A round that comes to no end has broken a promise, too; the next one gets a new pair. */
export async function runRounds(options: RoundsOptions): Promise<Round[]> {
  const random = randomOf(options.seed);
  const done: Round[] = [];
  let deck: Cut[] = [];
  while (done.length < options.rounds) {
    const pair = await ProtectedPair.start({
      ...{ intervalMs: INTERVAL_MS, clients: CLIENTS, thinkMs: THINK_MS, broken: options.broken },
      seed: options.seed + done.length,
      keep: options.keep,
    });
    try {
      for (let each = 0; each < ROUNDS_EACH && done.length < options.rounds; each++) {
        if (deck.length === 0) deck = deckWith(options.fixed, random);
        const cut = deck.pop();
        if (cut === undefined) throw new RangeError('an empty deck');
        const round = await tryRound(pair, done.length + 1, cut, random);
        done.push(round);
        options.onRound(round);
        if (round.host === null) break;
      }
    } finally {
      await pair.close();
      if (options.keep) options.onKept(pair.folder);
    }
  }
  return done;
}

function deckWith(fixed: Partial<Cut>, random: () => number): Cut[] {
  const deck = cutDeck(random);
  const { kind } = fixed;
  return deck.filter((cut) => kind === undefined || cut.kind === kind).map((cut) => ({ ...cut, ...fixed }));
}

async function tryRound(pair: ProtectedPair, round: number, cut: Cut, random: () => number): Promise<Round> {
  try {
    return await oneRound(pair, round, cut, random);
  } catch (error) {
    return { round, cut, host: null, violations: [(error as Error).message], outageMs: 0 };
  }
}

async function oneRound(pair: ProtectedPair, round: number, cut: Cut, random: () => number): Promise<Round> {
  // While processes start there is nothing to be seen, and on a busy machine they start the sooner.
  pair.clients.stop();
  await pair.protect();
  pair.clients.start();
  await waitForAnswers(pair, CLIENTS);
  await pause(100 + random() * 300);
  const story = new Story(() => undefined, 1);
  const { host, answeredMs } = await runAct(pair, cut, story);
  const violations = story.claims.filter(({ held }) => !held).map(({ claim, found }) => `${claim}: ${found}`);
  return { round, cut, host, violations, outageMs: answeredMs };
}
