/**
 * The story of the embedded pair: a guest is protected, something is cut, it goes on where it was, what was cut comes
 * back, the guest is protected again, and the power of its host is cut once more.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { PAGE_BYTES } from '../../core/stream/format.js';
import { compareAndClaim, runAct, Story } from './act.js';
import type { Claim } from './act.js';
import { JOURNAL_BYTES } from './backup-disks.js';
import { BLOCK_BYTES } from './bitmap.js';
import { choose, CUT_POINT_NAMES } from './cuts.js';
import type { CutKind, CutPoint, Reach } from './cuts.js';
import { BARRIER, EMBEDDED_VOLUMES } from './devices.js';
import { formatBytes, formatSeconds, keptText } from './figures.js';
import { GUEST_DISKS, GUEST_PAGES } from './guest.js';
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

/** Tells the whole story. One that comes to no end has broken a promise, too. */
export async function tellStory(options: StoryOptions): Promise<Claim[]> {
  const { tell, seed, broken, keep } = options;
  const random = randomOf(seed);
  const story = new Story(tell, 1);
  tell(
    'An embedded pair: two hosts are process trees on this machine. Hypervisor, guest, mirror, network and',
  );
  tell(
    'arbiter are embedded ones, in the place of Xen, DRBD, tc and a third machine. Sender, receiver, link',
  );
  tell('(TLS 1.3), epoch journal, claim, failover and recovery are those of real hosts. Only a temporary');
  tell(`folder is written to. Seed ${seed}.`);
  const startedMs = performance.now();
  const pair = await ProtectedPair.start({
    ...{ intervalMs: INTERVAL_MS, clients: CLIENTS, thinkMs: THINK_MS },
    ...{ broken, seed, keep },
  });
  try {
    await setUp(pair, performance.now() - startedMs, story);
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
  } catch (error) {
    story.claim('the story of the embedded pair comes to its end', false, (error as Error).message);
  } finally {
    await pair.close();
    if (keep) tell(keptText(pair.folder));
  }
  return story.claims;
}

/** What there is before protection. The disks were written alike, which spares the first sync. */
async function setUp(pair: ProtectedPair, tookMs: number, story: Story): Promise<void> {
  const [primary, backup] = [pair.primary, pair.backup];
  const size = (volume: number): string => formatBytes(EMBEDDED_VOLUMES[volume]?.sizeBytes ?? 0);
  const differs = formatBytes((pair.mirror?.differingBlocks ?? 0) * BLOCK_BYTES);
  story.chapter(`set up: ${primary} and ${backup} are on after ${formatSeconds(tookMs)}`);
  story.tell(
    `   each has a key and a certificate, ${GUEST_DISKS} embedded disks of ${size(0)} and a barrier volume of ${size(BARRIER)}, written alike;`,
  );
  story.tell(
    `   an embedded mirror connects them, with ${differs} to synchronise; the backup's epoch journal gets ${formatBytes(JOURNAL_BYTES)}`,
  );
  story.tell(
    `   ${primary} runs an embedded guest of ${formatBytes(GUEST_PAGES * PAGE_BYTES)}; ${CLIENTS} clients ask it to count, over TCP`,
  );
  story.tell('   each count goes into its memory and onto both embedded disks before the client is answered');
  await compareAndClaim(pair, story);
}

async function protection(pair: ProtectedPair, story: Story): Promise<void> {
  story.chapter(`protect: ${pair.primary} sends a checkpoint to ${pair.backup} every ${INTERVAL_MS} ms`);
  const startedMs = performance.now();
  await pair.protect();
  story.tell(
    `   the first checkpoint is committed after ${formatSeconds(performance.now() - startedMs)}; from now on`,
  );
  story.tell(
    '   no answer leaves the embedded guest before the backup has committed the memory and the disks behind it',
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
      `   epoch ${pad(sender?.committedEpoch ?? 0)} | ${pad(Math.round(rate))} answers/s | ` +
        `${formatBytes(Math.round(sent)).padStart(9)}/s | embedded guest held ${pauseMs.toFixed(1)} ms | ` +
        `committed after ${commitMs.toFixed(1)} ms (medians)`,
    );
  }
  const { protection: word, reason } = pair.sender ?? { protection: 'unprotected', reason: 'no sender' };
  story.claim('the embedded guest is protected', word === 'protected', `${word}: ${reason}`);
}

const pad = (value: number): string => String(value).padStart(4);
