/**
 * How a host that can't hear the other one learns who goes on.
 *
 * The primary asks two: the arbiter, and the receiver's host on a connection of its own, which may well be alive
 * when only the session has died. The first one that decides has decided. An agreement is safe without an arbiter,
 * because the backup is the only other one that could go on, and it gives its copy up before it answers.
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
/** What a fence agent has done can't be taken back: a host whose processes answer is not switched off. */
const AGREE_BEFORE_FENCING_MS = 3_000;

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

/** Asks the receiver's host to end the term in the primary's favour, until it answers. */
export async function askReceiver(
  connect: ConnectOptions,
  reason: string,
  onUndecided: (reason: string) => void,
  signal: AbortSignal,
): Promise<Outcome | null> {
  while (!signal.aborted) {
    try {
      const outcome = await askOnce(connect, reason);
      if (typeof outcome !== 'string') return outcome;
      onUndecided(outcome);
    } catch (error) {
      onUndecided((error as Error).message);
    }
    await pause(AGAIN_MS, undefined, { signal }).catch(() => undefined);
  }
  return null;
}

/** @returns who goes on, or in words why the receiver can't say yet */
async function askOnce(connect: ConnectOptions, reason: string): Promise<Outcome | string> {
  const control = await connectCleanup(connect);
  try {
    return await new Promise<Outcome | string>((resolve) => {
      const timer = setTimeout(() => resolve('the receiver has not answered'), CLEANUP_MS);
      control.start(
        {
          message: (message) => {
            if (message.type !== 'ended') return;
            clearTimeout(timer);
            if (message.outcome === 'rolled-forward')
              resolve({ decision: 'primary', reason: `agreed with ${connect.peer}: ${message.reason}` });
            else if (message.outcome === 'claimed')
              resolve({ decision: 'backup', reason: `${connect.peer}: ${message.reason}` });
            else resolve(message.reason);
          },
          lost: (loss) => {
            clearTimeout(timer);
            resolve(loss.reason);
          },
        },
        0,
      );
      control.send({ type: 'drop-term', reason: reason.slice(0, 1000) });
    });
  } finally {
    await control.close();
  }
}

/** The primary's way: whichever of the two decides first. */
export async function decideForPrimary(
  arbiter: Arbiter,
  order: Order,
  connect: ConnectOptions,
  reason: string,
  onUndecided: (reason: string) => void,
): Promise<Outcome> {
  const abort = new AbortController();
  const said = { arbiter: 'not asked yet', receiver: 'not asked yet' };
  const tell = (who: keyof typeof said) => (why: string) => {
    said[who] = why;
    onUndecided(`the arbiter: ${said.arbiter}; the receiver: ${said.receiver}`);
  };
  const claim = async (): Promise<Outcome | null> => {
    if (arbiter.name === 'fence') {
      await pause(AGREE_BEFORE_FENCING_MS, undefined, { signal: abort.signal }).catch(() => undefined);
    }
    return claimFrom(arbiter, order, order.primary, tell('arbiter'), abort.signal);
  };
  const asking = [claim(), askReceiver(connect, reason, tell('receiver'), abort.signal)];
  try {
    const outcome = await Promise.race(asking);
    if (outcome === null) throw new Error('nobody was asked');
    return outcome;
  } finally {
    abort.abort();
  }
}
