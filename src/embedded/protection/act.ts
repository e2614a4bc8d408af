/**
 * One act of a story on the embedded pair: something is cut while the guest is protected, one copy goes on, what was cut
 * comes back, and both hosts are the same again. Each thing that is promised is looked at as it happens.
 */
import type { LedgerViolation } from '../../core/ledger.js';
import { BLOCK_BYTES } from './bitmap.js';
import { CUT_KINDS, CUT_POINTS } from './cuts.js';
import type { Cut } from './cuts.js';
import { EMBEDDED_VOLUMES } from './devices.js';
import { formatBytes, formatMs, formatSeconds } from './figures.js';
import type { Outcome, ProtectedPair, Recovery } from './protected-pair.js';

export interface Claim {
  claim: string;
  held: boolean;
  found: string;
}

/** Keeps what was claimed, and tells it. */
export class Story {
  readonly claims: Claim[] = [];
  readonly #tell: (text: string) => void;
  #number: number;

  /** @param number of its first chapter */
  constructor(tell: (text: string) => void, number: number) {
    this.#tell = tell;
    this.#number = number;
  }

  tell(text: string): void {
    this.#tell(text);
  }

  chapter(text: string): void {
    this.#tell(`\n${this.#number++}. ${text}`);
  }

  claim(claim: string, held: boolean, found: string): void {
    this.claims.push({ claim, held, found });
    this.#tell(`   ${held ? 'yes' : 'NO '}  ${claim}: ${found}`);
  }
}

/** Of the clients: so many answers, in which whoever is off misses something. */
const MISSED = 320;

/** The guest is protected, and clients ask it. Afterwards it can be protected again, in either direction. */
export async function runAct(pair: ProtectedPair, cut: Cut, story: Story): Promise<Outcome> {
  await cutAndTell(pair, cut, story);
  const undecided = await pair.undecided();
  if (undecided !== null) {
    const { answers, started, heldPackets, forMs, says } = undecided;
    story.tell(`   ${says}`);
    story.claim(
      'while nobody can decide, nothing leaves and nothing starts',
      answers === 0 && started === 0,
      `for ${formatSeconds(forMs)}: ${answers} answers, ${started} copies started, ${heldPackets} packets held`,
    );
    await pair.giveArbiter();
    story.tell('   the embedded arbiter can be reached again');
  }
  const before = pair.primary;
  const outcome = await pair.decided();
  story.chapter(
    outcome.failover === null
      ? `${before} goes on with the guest, unprotected`
      : `${outcome.host} takes over`,
  );
  tellOutcome(outcome, story);
  const guests = await pair.settled();
  story.claim(
    'exactly one copy of the embedded guest is left',
    guests.length === 1 && guests[0] === outcome.host,
    guests.length === 0 ? 'on no host' : `on ${guests.join(' and ')}`,
  );
  await waitForAnswers(pair, MISSED);
  const violations = await pair.verify();
  story.claim(
    'the embedded guest goes on where it was, and its counter never went back',
    violations.length === 0 && pair.clients.nonsense.length === 0,
    violations.length === 0 && pair.clients.nonsense.length === 0
      ? `${pair.clients.answers.length} answers in all, in order, none twice`
      : [violationsText(violations), ...pair.clients.nonsense.slice(0, 3)].join('; '),
  );
  await comeBack(pair, cut, story);
  return outcome;
}

async function cutAndTell(pair: ProtectedPair, cut: Cut, story: Story): Promise<void> {
  const { kind, point } = cut;
  const isPower = kind === 'primary' || kind === 'backup';
  const dead = kind === 'primary' ? pair.primary : pair.backup;
  story.chapter(
    isPower
      ? `the power of ${dead} is cut (SIGKILL for its whole tree), at "${point}":`
      : `cut at "${point}": ${CUT_KINDS[kind]}`,
  );
  story.tell(`   ${CUT_POINTS[point]}`);
  if (cut.arbiter !== 'both') {
    const who = {
      primary: `only ${pair.primary} reaches`,
      backup: `only ${pair.backup} reaches`,
      none: 'nobody reaches',
    };
    story.tell(`   ${who[cut.arbiter]} the embedded arbiter`);
  }
  await pair.cut(cut);
}

/** Waits for so many more. */
export async function waitForAnswers(pair: ProtectedPair, count: number): Promise<void> {
  const { length } = pair.clients.answers;
  while (pair.clients.answers.length < length + count) await pair.clients.nextAnswer();
}

function tellOutcome({ failover, decidedMs, answeredMs, says }: Outcome, story: Story): void {
  if (failover === null) {
    story.tell(
      `   decided after ${formatSeconds(decidedMs)} | a client is answered again ${formatSeconds(answeredMs)} after the cut`,
    );
    story.claim(
      'the embedded guest says that it is not protected, and why',
      says.startsWith('unprotected: '),
      says,
    );
    return;
  }
  const { times, epoch, discardedBytes, violations, answers, count } = failover;
  const { detectionMs, claimMs, diskMs, startMs } = times;
  story.tell(
    `   detection ${formatSeconds(detectionMs)} | claim ${formatMs(claimMs)} | embedded disk ${formatMs(diskMs)} | start ${formatMs(startMs)}`,
  );
  story.tell(`   a client is answered again ${formatSeconds(answeredMs)} after the cut`);
  story.tell(
    `   the embedded guest went on from epoch ${epoch}; ${formatBytes(discardedBytes)} of later writes were discarded`,
  );
  story.claim(
    'memory and both disks of the embedded guest are of the same epoch, and no answer is missing',
    violations.length === 0,
    violations.length === 0
      ? `${answers} answers, each in memory and on both disks; it was at count ${count}`
      : violationsText(violations),
  );
}

async function comeBack(pair: ProtectedPair, cut: Cut, story: Story): Promise<void> {
  const isPower = cut.kind === 'primary' || cut.kind === 'backup';
  story.chapter(
    isPower
      ? `${pair.backup} is switched on again, as backup; what differs is sent to it`
      : `mended is what was cut; ${pair.backup} is backup, and what differs is sent to it`,
  );
  await pair.bringBack();
  let last = -1;
  const recovery = await pair.recover((left, of) => {
    const done = of === 0 ? 100 : Math.floor((100 * (of - left)) / of);
    const step = Math.floor(done / 25);
    if (step === last) return;
    last = step;
    story.tell(
      `   embedded resync ${String(done).padStart(3)} %, ${formatBytes(left * BLOCK_BYTES)} of ${formatBytes(of * BLOCK_BYTES)} left`,
    );
  });
  tellRecovery(recovery, story);
  await compareAndClaim(pair, story);
}

/** That both hosts have the same disks: the guest is held meanwhile. */
export async function compareAndClaim(pair: ProtectedPair, story: Story): Promise<void> {
  const { volumes, heldMs } = await pair.compare();
  story.claim(
    'both embedded hosts have the same disks, byte for byte',
    volumes.every(({ same }) => same),
    `${volumes.map(({ name, same }) => `${name} ${same ? 'same' : 'DIFFERS'}`).join(', ')} ` +
      `(the guest was held for ${formatMs(heldMs)} to compare)`,
  );
}

function tellRecovery({ steps, blocks, ms }: Recovery, story: Story): void {
  for (const step of steps) story.tell(`   recovery: ${step}`);
  const all = EMBEDDED_VOLUMES.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  story.tell(
    blocks === 0
      ? '   the embedded mirror had lost nothing'
      : `   the embedded mirror is resynchronised after ${formatSeconds(ms)}: ${formatBytes(blocks * BLOCK_BYTES)} of ${formatBytes(all)}`,
  );
}

function violationsText(violations: readonly LedgerViolation[]): string {
  return violations
    .map(({ text, times }) => (times > 1 ? `${text} (and ${times - 1} more)` : text))
    .join('; ');
}
