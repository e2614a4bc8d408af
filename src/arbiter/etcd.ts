/**
 * The arbiter `etcd`: a claim is a key, its value the winner's name.
 *
 *     /remus-drbd/claims/PAIR@DOMAIN@TERM = HOST
 *
 * One transaction decides: if the key was never created, put it; otherwise get it. etcd answers when a majority of
 * its members has it on disk, and reads go through the same majority, so whatever member is asked gives the one
 * decision. Whether our transaction or an earlier one of ours, whose answer was lost, made the key is the same:
 * only its value counts.
 *
 * The members are asked one after the other, the next one when one fails or says nothing for its share of the
 * time; those asked before are still listened to. Name them by address: a name service that is down holds up
 * more than the claim.
 *
 * Nothing deletes a key: it is what keeps a host that comes back years later from going on in that term.
 */
import {
  answerOf,
  checkClaimant,
  claimName,
  isHostName,
  type Arbiter,
  type ArbiterOptions,
  type ClaimAnswer,
  type ClaimKey,
  type LookAnswer,
  type ReachAnswer,
} from '../core/claim/types.js';
import { EtcdError, EtcdMember, type EtcdCredentials } from './etcd-gateway.js';

export interface EtcdSettings extends EtcdCredentials {
  /** Base URLs of members, such as `https://192.0.2.9:2379`. */
  endpoints: readonly string[];
}

const PREFIX = '/remus-drbd/claims/';
const RETRY_MS = 250;
/** No key was ever written this often (the largest int64). */
const NO_VERSION = '9223372036854775807';

type Outcome<T> = { value: T; endpoint: string } | { reason: string };

export class EtcdArbiter implements Arbiter {
  readonly name = 'etcd';
  readonly #members: EtcdMember[];
  readonly #closing = new AbortController();

  constructor({ endpoints, ...credentials }: EtcdSettings) {
    if (endpoints.length === 0) throw new RangeError('etcd needs an endpoint');
    this.#members = endpoints.map((endpoint) => new EtcdMember(endpoint, credentials));
  }

  async claim(key: ClaimKey, host: string, options: ArbiterOptions): Promise<ClaimAnswer> {
    checkClaimant(host);
    const [name, value] = [encode(PREFIX + claimName(key)), encode(host)];
    const transaction = {
      compare: [{ key: name, target: 'CREATE', result: 'EQUAL', create_revision: '0' }],
      success: [{ request_put: { key: name, value } }],
      failure: [{ request_range: { key: name } }],
    };
    const outcome = await this.#ask(options.timeoutMs, async (member, signal) => {
      const answer = await member.call('/v3/kv/txn', transaction, signal);
      clusterOf(answer);
      return answer['succeeded'] === true ? host : winnerOfFailed(answer);
    });
    if ('reason' in outcome) return { kind: 'undecided', reason: outcome.reason, retryMs: RETRY_MS };
    return answerOf(key, host, outcome.value, `etcd at ${outcome.endpoint}`);
  }

  async look(key: ClaimKey, options: ArbiterOptions): Promise<LookAnswer> {
    const name = encode(PREFIX + claimName(key));
    const outcome = await this.#ask(options.timeoutMs, async (member, signal) => {
      const answer = await member.call('/v3/kv/range', { key: name }, signal);
      clusterOf(answer);
      return readRange(answer);
    });
    if ('reason' in outcome) return { kind: 'undecided', reason: outcome.reason };
    return outcome.value === undefined ? { kind: 'free' } : { kind: 'won-by', host: outcome.value };
  }

  async reach(options: ArbiterOptions): Promise<ReachAnswer> {
    // A transaction that never puts. It needs a majority and the right to write, like a claim.
    const key = encode(`${PREFIX}@`);
    const transaction = {
      compare: [{ key, target: 'VERSION', result: 'EQUAL', version: NO_VERSION }],
      success: [{ request_put: { key, value: '' } }],
      failure: [{ request_range: { key } }],
    };
    const signal = AbortSignal.timeout(options.timeoutMs);
    const [clusters, failed] = [new Map<string, string>(), [] as string[]];
    await Promise.all(
      this.#members.map(async (member) => {
        try {
          clusters.set(member.endpoint, clusterOf(await member.call('/v3/kv/txn', transaction, signal)));
        } catch (error) {
          failed.push(`${member.endpoint}: ${said(error)}`);
        }
      }),
    );
    if (clusters.size === 0) return { reached: false, reason: `etcd gave no answer: ${failed.join('; ')}` };
    if (new Set(clusters.values()).size > 1) {
      // Each of them would give the same term to whoever asks it.
      const each = [...clusters].map(([endpoint, id]) => `${endpoint} is of cluster ${id}`);
      return { reached: false, reason: `the endpoints are not of one etcd cluster: ${each.join(', ')}` };
    }
    const count = `${clusters.size} of ${this.#members.length} etcd endpoints decide`;
    return { reached: true, detail: [count, ...failed].join('; ') };
  }

  async close(): Promise<void> {
    this.#closing.abort();
    await Promise.resolve();
  }

  /** The first good answer of any member, or what each of them said within the time. */
  async #ask<T>(
    timeoutMs: number,
    call: (member: EtcdMember, signal: AbortSignal) => Promise<T>,
  ): Promise<Outcome<T>> {
    const ended = new AbortController();
    const end = (): void => ended.abort();
    if (this.#closing.signal.aborted) return { reason: 'this arbiter was closed' };
    this.#closing.signal.addEventListener('abort', end);
    const shareMs = timeoutMs / (this.#members.length + 1);
    const timers = [setTimeout(end, timeoutMs)];
    const reasons: string[] = [];

    const outcome = await new Promise<Outcome<T>>((resolve) => {
      const left = [...this.#members];
      let asked = 0;
      const askNext = (): void => {
        const member = left.shift();
        if (member === undefined || ended.signal.aborted) return;
        asked += 1;
        timers.push(setTimeout(askNext, shareMs));
        call(member, ended.signal).then(
          (value) => resolve({ value, endpoint: member.endpoint }),
          (error: unknown) => {
            reasons.push(`${member.endpoint}: ${said(error)}`);
            askNext();
            if (reasons.length === asked) resolve({ reason: '' });
          },
        );
      };
      // What doesn't end on its signal, such as a look-up of a name, is not waited for.
      ended.signal.addEventListener('abort', () => resolve({ reason: '' }));
      askNext();
    });

    timers.forEach(clearTimeout);
    this.#closing.signal.removeEventListener('abort', end);
    // Those still asked are let go of. What they were asked for may still be done; it is the same claim.
    end();
    if ('value' in outcome) return outcome;
    const silent = this.#members
      .map(({ endpoint }) => endpoint)
      .filter((endpoint) => !reasons.some((reason) => reason.startsWith(`${endpoint}: `)))
      .map((endpoint) => `${endpoint}: no answer in ${timeoutMs} ms`);
    return { reason: `etcd gave no answer: ${[...reasons, ...silent].join('; ')}` };
  }
}

/** The cluster that an answer is of. Every answer of etcd's has that; nothing else does. */
function clusterOf(answer: Record<string, unknown>): string {
  const id = asRecord(answer['header'])['cluster_id'];
  if (typeof id !== 'string') throw new EtcdError('its answer is not understood');
  return id;
}

/** The winner, from the answer of a transaction whose key was there already. */
function winnerOfFailed(answer: Record<string, unknown>): string {
  const responses = answer['responses'];
  const first: unknown = Array.isArray(responses) && responses.length === 1 ? responses[0] : undefined;
  const range = asRecord(first)['response_range'];
  const winner = readRange(asRecord(range));
  // Not created before, but not put either: no transaction of ours gives this.
  if (winner === undefined) throw new EtcdError('its answer has no winner in it');
  return winner;
}

/** The one value of a range, undefined for none. */
function readRange(range: Record<string, unknown>): string | undefined {
  const values = range['kvs'] ?? [];
  if (!Array.isArray(values) || values.length > 1) throw new EtcdError('its answer is not understood');
  if (values.length === 0) return undefined;
  const value = asRecord(values[0])['value'];
  const winner = typeof value === 'string' ? Buffer.from(value, 'base64').toString('utf8') : '';
  if (!isHostName(winner)) throw new EtcdError('the key holds no name of a host');
  return winner;
}

/** Anything but an EtcdError is a mistake in here, which still must not let a claim throw. */
function said(error: unknown): string {
  return error instanceof EtcdError ? error.message : String(error);
}

function asRecord(value: unknown): Record<string, unknown> {
  if (typeof value === 'object' && value !== null) return value as Record<string, unknown>;
  throw new EtcdError('its answer is not understood');
}

function encode(text: string): string {
  return Buffer.from(text, 'utf8').toString('base64');
}
