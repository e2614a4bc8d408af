/**
 * The claim: who goes on alone when a term of protection ends by a failure.
 *
 * Both hosts may ask, at any time and as often as they like. An arbiter answers by a test-and-set on
 * (pair, domain, term): the first claim that takes effect is the decision, and no later one changes it.
 *
 * What whoever asks has to know:
 * - `won` is given only when the decision is durable, and to one of the hosts only, for ever.
 * - `undecided` says nothing about the decision. The claim may have taken effect, or may yet: an answer can be
 *   lost on its way, and a request can arrive late. So after a claim there is no way back but to ask again:
 *   whoever stops asking has to behave as if the other one had won, and the other one as if this one had.
 * - A term is claimed by those that took part in it. A new term starts only where `look` says `free`, so that a
 *   decision left over from an earlier life of the same names is never taken for one of now.
 */
import { HOST_NAME, NAME } from '../patterns.js';

/** What is decided: who goes on with this domain when this term is over. */
export interface ClaimKey {
  pair: string;
  domain: string;
  /** From 1. */
  term: number;
}

/** The answer to a claim; `reason` is for the log and for `status`. */
export type ClaimAnswer =
  | { kind: 'won'; reason: string }
  | { kind: 'lost'; winner: string; reason: string }
  /** `retryMs`: how long to wait before it makes sense to ask again. */
  | { kind: 'undecided'; reason: string; retryMs: number };

/** Who has won so far. */
export type LookAnswer =
  { kind: 'won-by'; host: string } | { kind: 'free' } | { kind: 'undecided'; reason: string };

/** Whether the arbiter could decide now. */
export type ReachAnswer = { reached: true; detail: string } | { reached: false; reason: string };

export interface ArbiterOptions {
  /** The call is answered within this long, `undecided` at the latest. */
  timeoutMs: number;
}

/**
 * Something that decides. None of its calls throws for what can go wrong in operation (network, disk, refused
 * password): that is `undecided`, with the reason. It throws RangeError for a key or a host that can't be one.
 */
export interface Arbiter {
  /** As in the configuration, such as `etcd`. */
  readonly name: string;

  /** Claims the term for `host`. Asking again, after an answer or instead of one, never changes a decision. */
  claim(key: ClaimKey, host: string, options: ArbiterOptions): Promise<ClaimAnswer>;

  /** Who has won, without claiming anything. */
  look(key: ClaimKey, options: ArbiterOptions): Promise<LookAnswer>;

  /** Whether a claim would get an answer, for `check` and `status`. Changes nothing. */
  reach(options: ArbiterOptions): Promise<ReachAnswer>;

  /** Lets go of connections and ends what it started. Claims that are under way end `undecided`. */
  close(): Promise<void>;
}

/** Names of hosts and numbers need less, but no claim is ever longer than this. */
export const CLAIM_BYTES_MAX = 512;

/**
 * The name of a claim, the same with every arbiter that keeps claims by name: `PAIR@DOMAIN@TERM`. `@` is in
 * neither name, so no two claims have the same one.
 *
 * @throws RangeError for what is no key
 */
export function claimName({ pair, domain, term }: ClaimKey): string {
  if (!NAME.test(pair) || !NAME.test(domain) || !Number.isSafeInteger(term) || term < 1) {
    throw new RangeError(
      `no claim: pair ${JSON.stringify(pair)}, domain ${JSON.stringify(domain)}, term ${term}`,
    );
  }
  return `${pair}@${domain}@${term}`;
}

/** @throws RangeError for what is no name of a host */
export function checkClaimant(host: string): void {
  if (!isHostName(host)) throw new RangeError(`no name of a host: ${JSON.stringify(host)}`);
}

export function isHostName(text: string): boolean {
  return HOST_NAME.test(text);
}

/**
 * What a host that claimed is told, from the winner that the arbiter has recorded.
 *
 * @param where names the arbiter and the place, such as `etcd https://192.0.2.9:2379`
 */
export function answerOf(key: ClaimKey, host: string, winner: string, where: string): ClaimAnswer {
  const what = `term ${key.term} of ${key.domain}`;
  return winner === host
    ? { kind: 'won', reason: `${where} has ${what} for ${host}` }
    : { kind: 'lost', winner, reason: `${where} has ${what} for ${winner}, not for ${host}` };
}
