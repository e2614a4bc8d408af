/**
 * How a host that can't hear the other one learns who goes on.
 *
 * The primary asks two: the arbiter, and the receiver's host on a connection of its own, which may well be alive
 * when only the session has died. The first one that decides has decided. An agreement is safe without an arbiter,
 * because the backup is the only other one that could go on, and it gives its copy up before it answers.
 *
 * Where the guest has crashed and its copy is to go on (`onCrash: failover`), a primary that claimed at once could win
 * a term in which nothing of the guest is left here. So it asks the receiver's host alone, and the arbiter only when
 * that does not answer, or can't get its own claim through: nobody leaves the guest dead on both hosts.
 */
import { setTimeout as pause } from 'node:timers/promises';
import type { Arbiter, ClaimKey } from '../core/claim/types.js';
import type { Order } from '../core/protect/order.js';
import type { Decision } from '../core/protect/types.js';
import { connectCleanup } from '../link/client.js';
import type { ConnectOptions } from '../link/client.js';

const CLAIM_MS = 10_000;
const CLEANUP_MS = 5_000;
const AGAIN_MS = 500;
const TURN_MS = 100;
/** What a fence agent has done can't be taken back: a host whose processes answer is not switched off. */
const AGREE_BEFORE_FENCING_MS = 3_000;
/** After a crash: how long the receiver's host may be silent, and how long it may stay undecided. */
const FIRST_WORD = { silentMs: 10_000, undecidedMs: 60_000, nowMs: () => performance.now() };

/** What the primary asks. */
export interface Question {
  reason: string;
  /** The guest has crashed, and its copy is to go on. */
  crashed: boolean;
}

export interface Outcome {
  decision: Decision;
  reason: string;
}

/** Asks the arbiter for this host until it decides. */
export async function claimFrom(
  arbiter: Arbiter,
  order: Order,
  host: string,
  onUndecided: (reason: string) => void,
  signal: AbortSignal,
): Promise<Outcome | null> {
  const key: ClaimKey = { pair: order.pair, domain: order.domain, term: order.term };
  while (!signal.aborted) {
    const answer = await arbiter.claim(key, host, { timeoutMs: CLAIM_MS });
    if (answer.kind === 'undecided') {
      onUndecided(answer.reason);
      await pause(answer.retryMs, undefined, { signal }).catch(() => undefined);
      continue;
    }
    const winner = answer.kind === 'won' ? host : answer.winner;
    return { decision: winner === order.primary ? 'primary' : 'backup', reason: answer.reason };
  }
  return null;
}

/**
 * Asks the receiver's host to end the term in the primary's favour, until it answers.
 * @param onAnswered it can be reached, and can't say yet
 */
async function askReceiver(
  connect: ConnectOptions,
  question: Question,
  onUndecided: (reason: string) => void,
  onAnswered: () => void,
  signal: AbortSignal,
): Promise<Outcome | null> {
  while (!signal.aborted) {
    try {
      const answer = await askOnce(connect, question);
      if ('decision' in answer) return answer;
      if (answer.isReached) onAnswered();
      onUndecided(answer.undecided);
    } catch (error) {
      onUndecided((error as Error).message);
    }
    await pause(AGAIN_MS, undefined, { signal }).catch(() => undefined);
  }
  return null;
}

type Answer = Outcome | { undecided: string; isReached: boolean };

/** @returns who goes on, or in words why the receiver can't say yet */
async function askOnce(connect: ConnectOptions, { reason, crashed }: Question): Promise<Answer> {
  const control = await connectCleanup(connect);
  try {
    return await new Promise<Answer>((resolve) => {
      const unreached = (undecided: string): void => resolve({ undecided, isReached: false });
      const timer = setTimeout(() => unreached('the receiver has not answered'), CLEANUP_MS);
      control.start(
        {
          message: (message) => {
            if (message.type !== 'ended') return;
            clearTimeout(timer);
            if (message.outcome === 'rolled-forward')
              resolve({ decision: 'primary', reason: `agreed with ${connect.peer}: ${message.reason}` });
            else if (message.outcome === 'claimed')
              resolve({ decision: 'backup', reason: `${connect.peer}: ${message.reason}` });
            else resolve({ undecided: message.reason, isReached: true });
          },
          lost: (loss) => {
            clearTimeout(timer);
            unreached(loss.reason);
          },
        },
        0,
      );
      control.send({
        type: 'drop-term',
        reason: reason.slice(0, 1000),
        ...(crashed ? { crashed } : {}),
      });
    });
  } finally {
    await control.close();
  }
}

/**
 * The primary's way: whichever of the two decides first.
 * @param firstWord after a crash, how long the arbiter is left to the receiver's host: this long without an answer of
 *   it, and this long in all
 */
export async function decideForPrimary(
  arbiter: Arbiter,
  order: Order,
  connect: ConnectOptions,
  question: Question,
  onUndecided: (reason: string) => void,
  firstWord = FIRST_WORD,
): Promise<Outcome> {
  const abort = new AbortController();
  const { signal } = abort;
  const said = { arbiter: 'not asked yet', receiver: 'not asked yet' };
  const tell = (who: keyof typeof said) => (why: string) => {
    said[who] = why;
    onUndecided(`the arbiter: ${said.arbiter}; the receiver: ${said.receiver}`);
  };
  const { silentMs, undecidedMs, nowMs } = firstWord;
  const beganMs = nowMs();
  let answeredMs = beganMs;
  const isOurTurn = (): boolean => {
    const askedMs = nowMs() - beganMs;
    // A person who is asked on both hosts decides between them.
    if (question.crashed && arbiter.name !== 'operator') {
      return nowMs() - answeredMs >= silentMs || askedMs >= undecidedMs;
    }
    return arbiter.name !== 'fence' || askedMs >= AGREE_BEFORE_FENCING_MS;
  };
  const claim = async (): Promise<Outcome | null> => {
    while (!signal.aborted && !isOurTurn()) {
      await pause(TURN_MS, undefined, { signal }).catch(() => undefined);
    }
    return claimFrom(arbiter, order, order.primary, tell('arbiter'), signal);
  };
  const answered = (): void => void (answeredMs = nowMs());
  const asking = [claim(), askReceiver(connect, question, tell('receiver'), answered, signal)];
  try {
    const outcome = await Promise.race(asking);
    if (outcome === null) throw new Error('nobody was asked');
    return outcome;
  } finally {
    abort.abort();
  }
}
