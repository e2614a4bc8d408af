/**
 * The arbiter `operator`: a person decides, with `remus-drbd failover` on the backup or `remus-drbd continue` on
 * the primary. The decision is a file on the host that is told:
 *
 *     /var/lib/remus-drbd/DOMAIN/operator-TERM   {"format":1,"term":7,"winner":"beta","by":"root","reason":"..."}
 *
 * It is made by a link, so the first decision on a host stays. Two hosts that can't hear each other have a
 * directory each: that both are not told different things is what the person has to see to, and the command has
 * to tell the loser first wherever it can be reached.
 */
import { watch } from 'node:fs';
import { join } from 'node:path';
import {
  answerOf,
  checkClaimant,
  CLAIM_BYTES_MAX,
  claimName,
  isHostName,
  type Arbiter,
  type ArbiterOptions,
  type ClaimAnswer,
  type ClaimKey,
  type LookAnswer,
  type ReachAnswer,
} from '../core/claim/types.js';
import { ExitCode, OperatorError } from '../core/errors.js';
import { createDurably, makeDirectory, readSmall } from '../edge/durable-file.js';

export interface OperatorDecision {
  term: number;
  /** The host that goes on. */
  winner: string;
  /** Who decided, for the log. */
  by: string;
  reason: string;
}

const FILE_MODE = 0o644;
const RETRY_MS = 1_000;
/** Of `by` and of `reason`, so that the file stays within its bound. */
const TEXT_CHARS_MAX = 100;

/**
 * Writes a decision on this host. Durable when it returns.
 *
 * @param directory `Paths.state/DOMAIN` on a host
 * @throws OperatorError refused: it was decided for the other host; or the file can't be written or read
 */
export async function decide(domain: string, directory: string, decision: OperatorDecision): Promise<void> {
  const { term, winner } = decision;
  checkClaimant(winner);
  const path = pathOf(directory, term);
  const [by, reason] = [decision.by, decision.reason].map((text) => text.slice(0, TEXT_CHARS_MAX));
  const text = `${JSON.stringify({ format: 1, term, winner, by, reason })}\n`;
  let decided: OperatorDecision | undefined;
  try {
    await makeDirectory(directory);
    await createDurably(path, text, FILE_MODE);
    decided = await read(path, term);
  } catch (error) {
    throw new OperatorError(
      `${domain}: the decision for ${winner} could not be written: ${(error as Error).message}; whether it is ` +
        `there is not known. Do the same again.`,
      ExitCode.failed,
      error,
    );
  }
  if (decided?.winner === winner) return;
  throw new OperatorError(
    `${domain}: refusing to let ${winner} go on: term ${term} was decided for ${decided?.winner ?? 'nobody'} by ` +
      `${decided?.by ?? 'nobody'} (${decided?.reason ?? ''}); nothing was changed. See remus-drbd status.`,
    ExitCode.refused,
  );
}

export class OperatorArbiter implements Arbiter {
  readonly name = 'operator';
  readonly #directory: string;
  readonly #closing = new AbortController();

  /** @param directory `Paths.state/DOMAIN` on a host */
  constructor(directory: string) {
    this.#directory = directory;
  }

  /** Waits for the decision for as long as it may. */
  async claim(key: ClaimKey, host: string, options: ArbiterOptions): Promise<ClaimAnswer> {
    checkClaimant(host);
    const where = `the operator's decision on ${host}`;
    const outcome = await this.#wait(key, options.timeoutMs);
    if ('reason' in outcome) return { kind: 'undecided', reason: outcome.reason, retryMs: RETRY_MS };
    return answerOf(key, host, outcome.winner, where);
  }

  async look(key: ClaimKey): Promise<LookAnswer> {
    claimName(key);
    const outcome = await this.#read(key);
    if (outcome === undefined) return { kind: 'free' };
    return 'reason' in outcome
      ? { kind: 'undecided', reason: outcome.reason }
      : { kind: 'won-by', host: outcome.winner };
  }

  reach(): Promise<ReachAnswer> {
    return Promise.resolve({
      reached: true,
      detail: 'a person decides, with remus-drbd failover or continue',
    });
  }

  close(): Promise<void> {
    this.#closing.abort();
    return Promise.resolve();
  }

  async #wait(key: ClaimKey, timeoutMs: number): Promise<{ winner: string } | { reason: string }> {
    const { domain, term } = key;
    claimName(key);
    const open: { reason: string } = {
      reason:
        `term ${term} of ${domain} waits for a person: remus-drbd failover ${domain} if the primary is dead, ` +
        `remus-drbd continue ${domain} if the backup is`,
    };
    return new Promise((resolve) => {
      const end = (outcome: { winner: string } | { reason: string }): void => {
        clearTimeout(timer);
        watcher?.close();
        this.#closing.signal.removeEventListener('abort', onClose);
        resolve(outcome);
      };
      const onClose = (): void => end({ reason: 'this arbiter was closed' });
      const lookAgain = (): void => {
        void this.#read(key).then((outcome) => {
          if (outcome !== undefined) end(outcome);
        });
      };
      const timer = setTimeout(() => end(open), timeoutMs);
      // Where the directory isn't there yet or can't be watched, the next claim looks again.
      const watcher = watchQuietly(this.#directory, lookAgain);
      this.#closing.signal.addEventListener('abort', onClose);
      if (this.#closing.signal.aborted) onClose();
      else lookAgain();
    });
  }

  async #read({ term }: ClaimKey): Promise<{ winner: string } | { reason: string } | undefined> {
    try {
      const decision = await read(pathOf(this.#directory, term), term);
      return decision && { winner: decision.winner };
    } catch (error) {
      return { reason: `the operator's decision can't be read: ${(error as Error).message}` };
    }
  }
}

function pathOf(directory: string, term: number): string {
  return join(directory, `operator-${term}`);
}

async function read(path: string, term: number): Promise<OperatorDecision | undefined> {
  const text = await readSmall(path, CLAIM_BYTES_MAX);
  if (text === undefined) return undefined;
  const broken = (): Error => new Error(`${path} holds no decision`);
  let raw: Partial<Record<'format' | 'term' | 'winner' | 'by' | 'reason', unknown>> | null;
  try {
    raw = JSON.parse(text) as typeof raw;
  } catch {
    throw broken();
  }
  const { format, winner, by, reason } = raw ?? {};
  if (format !== 1 || raw?.term !== term || typeof winner !== 'string' || !isHostName(winner)) throw broken();
  if (typeof by !== 'string' || typeof reason !== 'string') throw broken();
  return { term, winner, by, reason };
}

function watchQuietly(directory: string, onChange: () => void): { close: () => void } | undefined {
  try {
    const watcher = watch(directory, { persistent: false }, onChange);
    watcher.on('error', () => watcher.close());
    return watcher;
  } catch {
    return undefined;
  }
}
