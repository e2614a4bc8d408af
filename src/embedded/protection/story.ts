/**
 * The story of the embedded pair: a guest is protected, something is cut, it goes on where it was, what was cut comes
 * back, the guest is protected again, and the power of its host is cut once more.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { runAct, Story } from './act.js';
import type { Claim } from './act.js';
import { choose, CUT_POINT_NAMES } from './cuts.js';
import type { CutKind, CutPoint, Reach } from './cuts.js';
import { formatBytes, formatSeconds } from './figures.js';
import type { Break } from './jobs.js';
import { ProtectedPair } from './protected-pair.js';
import { randomOf } from './random.js';

export interface StoryOptions {
  seed: number;
  /** What is cut first. */
  kind: CutKind;
  /** Where in a checkpoint; null for anywhere. */
  point: CutPoint | null;
  arbiter: Reach;
  broken: Break | null;
  tell: (text: string) => void;
  /** Leaves the files, and says where. */
  keep: boolean;
}

export const INTERVAL_MS = 50;
export const CLIENTS = 16;
export const THINK_MS = 25;
const RATE_EVERY_MS = 500;
const RATE_LINES = 5;

/** Tells the whole story. */
export async function tellStory(options: StoryOptions): Promise<Claim[]> {
  const { tell, seed, broken, keep } = options;
  const random = randomOf(seed);
  const story = new Story(tell, 1);
  tell(
    'An embedded pair: two hosts are process trees on this machine, with an embedded hypervisor, mirror and',
  );
  tell('network in the place of Xen, DRBD and tc. Sender, receiver, link (TLS 1.3), epoch journal, claim,');
  tell(`failover and recovery are those of real hosts. Only a temporary folder is written to. Seed ${seed}.`);
  const pair = await ProtectedPair.start({
    ...{ intervalMs: INTERVAL_MS, clients: CLIENTS, thinkMs: THINK_MS },
    ...{ broken, seed, keep },
  });
  try {
    story.chapter(
      `${pair.primary} runs a guest of 8 MiB with two disks; ${CLIENTS} clients ask it to count, over TCP`,
    );
    tell('   Each count goes into its memory and onto both disks before the client is answered.');
    pair.clients.start();
    for (const first of [true, false]) {
      await protection(pair, story);
      const point = options.point ?? choose(CUT_POINT_NAMES, random);
      const cut = first
        ? { kind: options.kind, point, arbiter: options.arbiter }
        : { kind: 'primary' as const, point, arbiter: 'both' as const };
      await runAct(pair, cut, story);
    }
    tell('');
    return story.claims;
  } finally {
    await pair.close();
    if (keep) tell(`The files of the embedded hosts are in ${pair.folder}`);
  }
}

async function protection(pair: ProtectedPair, story: Story): Promise<void> {
  story.chapter(`protect: ${pair.primary} sends a checkpoint to ${pair.backup} every ${INTERVAL_MS} ms`);
  const startedMs = performance.now();
  await pair.protect();
  story.tell(
    `   the first checkpoint is committed after ${formatSeconds(performance.now() - startedMs)}; from now on`,
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
      `   epoch ${pad(sender?.committedEpoch ?? 0)} committed | ${pad(Math.round(rate))} answers/s | ` +
        `${formatBytes(Math.round(sent)).padStart(9)}/s | guest held ${pauseMs.toFixed(1)} ms | ` +
        `commit after ${commitMs.toFixed(1)} ms (medians)`,
    );
  }
  const { protection: word, reason } = pair.sender ?? { protection: 'unprotected', reason: 'no sender' };
  story.claim('the guest is protected', word === 'protected', `${word}: ${reason}`);
}

const pad = (value: number): string => String(value).padStart(4);
