/**
 * The arbiter `fence`: whoever has switched the other host off goes on. When both try at once, the one that is
 * dead has lost; when both succeed, nobody goes on.
 *
 * Order: wait `delayMs`; switch the peer off (`off`); ask the device whether it is (`status`); record it in
 *
 *     /var/lib/remus-drbd/DOMAIN/fence-TERM   {"format":1,"term":7,"winner":"beta"}
 *
 * and only then say `won`. With the record the winner has won for ever, and doesn't switch off a peer that has
 * come back meanwhile.
 *
 * Power remembers no winner: a host that was switched off and is up again could switch the winner off in turn.
 * So a host claims only in the boot in which it entered the term, as its term record says; after a restart it
 * never does, and has to hear from the peer who won.
 *
 * Switching a machine off takes longer than a claim may. The work goes on after a claim has been answered
 * `undecided`, and the next claim waits for the same work.
 */
import { join } from 'node:path';
import {
  checkClaimant,
  CLAIM_BYTES_MAX,
  claimName,
  type Arbiter,
  type ArbiterOptions,
  type ClaimAnswer,
  type ClaimKey,
  type LookAnswer,
  type ReachAnswer,
} from '../core/claim/types.js';
import { readSmall, writeDurably } from '../edge/durable-file.js';
import { TermStore } from '../edge/term-store.js';
import {
  agentOptions,
  failureOf,
  powerOf,
  runAgent,
  type AgentAction,
  type AgentResult,
} from './fence-agent.js';

export interface FenceSettings {
  /** This host. */
  host: string;
  /** The other one, which the agent switches off. */
  peer: string;
  /** Program and options, as configured for the peer. */
  agent: readonly string[];
  /** `Paths.state/DOMAIN` on a host, with its term record. */
  directory: string;
  /** The kernel's boot_id now. */
  bootId: string;
  /**
   * Before the peer is switched off. Of the two hosts one should have a delay, longer than the agent takes, so
   * that a cut link doesn't end with both off.
   */
  delayMs: number;
  /** How long the agent may take for one action. */
  agentLimitMs?: number;
}

const FILE_MODE = 0o644;
const AGENT_LIMIT_MS = 120_000;
const RETRY_MS = 1_000;

type Work = { won: true } | { won: false; reason: string };

export class FenceArbiter implements Arbiter {
  readonly name = 'fence';
  readonly #settings: FenceSettings;
  readonly #program: string;
  readonly #options: readonly string[];
  readonly #closing = new AbortController();
  /** By claim: work under way. */
  readonly #working = new Map<string, Promise<Work>>();

  /** @throws OperatorError usage: the agent's command line can't be used */
  constructor(settings: FenceSettings) {
    const [program, ...words] = settings.agent;
    if (program === undefined) throw new RangeError('a fence agent needs a program');
    this.#settings = settings;
    this.#program = program;
    this.#options = agentOptions(program, words);
  }

  async claim(key: ClaimKey, host: string, options: ArbiterOptions): Promise<ClaimAnswer> {
    const { host: own, peer } = this.#settings;
    checkClaimant(host);
    if (host !== own) throw new RangeError(`${own} can't switch a host off for ${host}`);
    const name = claimName(key);
    let working = this.#working.get(name);
    if (working === undefined) {
      working = this.#work(key).finally(() => this.#working.delete(name));
      this.#working.set(name, working);
    }
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<Work>((resolve) => {
      const reason = `${peer} is being switched off with ${this.#program}`;
      timer = setTimeout(() => resolve({ won: false, reason }), options.timeoutMs);
    });
    const result = await Promise.race([working, late]).finally(() => clearTimeout(timer));
    if (!result.won) return { kind: 'undecided', reason: result.reason, retryMs: RETRY_MS };
    const reason = `${this.#program} has switched ${peer} off for term ${key.term} of ${key.domain}`;
    return { kind: 'won', reason };
  }

  async look(key: ClaimKey): Promise<LookAnswer> {
    claimName(key);
    const { host, peer } = this.#settings;
    try {
      if (await this.#recorded(key)) return { kind: 'won-by', host };
    } catch (error) {
      return { kind: 'undecided', reason: (error as Error).message };
    }
    const reason = `${host} has not switched ${peer} off; whether ${peer} has switched off ${host}, only ${peer} knows`;
    return { kind: 'undecided', reason };
  }

  async reach(options: ArbiterOptions): Promise<ReachAnswer> {
    const failure = failureOf(await this.#agent('monitor', options.timeoutMs));
    return failure === undefined
      ? { reached: true, detail: `${this.#program} reaches the power of ${this.#settings.peer}` }
      : { reached: false, reason: `${this.#program} (monitor): ${failure}` };
  }

  async close(): Promise<void> {
    this.#closing.abort();
    await Promise.all(this.#working.values());
  }

  /** Never rejects. */
  async #work(key: ClaimKey): Promise<Work> {
    const { peer, delayMs, agentLimitMs = AGENT_LIMIT_MS } = this.#settings;
    const failed = (reason: string): Work => ({ won: false, reason });
    try {
      if (await this.#recorded(key)) return { won: true };
      const obstacle = await this.#mayNotFence(key);
      if (obstacle !== undefined) return failed(`${peer} is not switched off: ${obstacle}`);
      await this.#delay(delayMs);
      if (this.#closing.signal.aborted) return failed('this arbiter was closed');

      const off = failureOf(await this.#agent('off', agentLimitMs));
      if (off !== undefined) return failed(`${this.#program} (off) for ${peer}: ${off}`);
      const power = powerOf(await this.#agent('status', agentLimitMs));
      if ('reason' in power) return failed(`${this.#program} (status) for ${peer}: ${power.reason}`);
      if (power.power !== 'off')
        return failed(`${this.#program}: ${peer} is on although it was switched off`);

      const record = { format: 1, term: key.term, winner: this.#settings.host };
      await writeDurably(this.#path(key), `${JSON.stringify(record)}\n`, FILE_MODE);
      return { won: true };
    } catch (error) {
      return failed(`fencing of ${peer}: ${(error as Error).message}`);
    }
  }

  /** Why this host may not switch the other one off for this term. */
  async #mayNotFence({ domain, term }: ClaimKey): Promise<string | undefined> {
    const { host, peer, directory, bootId } = this.#settings;
    const record = await new TermStore(domain, directory).readTerm();
    if (record?.term !== term) {
      return `${host} is not in term ${term} of ${domain}, its record has ${record?.term ?? 'none'}`;
    }
    if (record.phase !== 'protected') return `term ${term} of ${domain} is ${record.phase}, not protected`;
    if (record.boot !== bootId) {
      return `${host} was started anew during term ${term} of ${domain}, so ${peer} may have won it`;
    }
    return undefined;
  }

  async #recorded(key: ClaimKey): Promise<boolean> {
    const path = this.#path(key);
    const text = await readSmall(path, CLAIM_BYTES_MAX);
    if (text === undefined) return false;
    const record = { format: 1, term: key.term, winner: this.#settings.host };
    if (text === `${JSON.stringify(record)}\n`) return true;
    throw new Error(`${path} holds no record of ${this.#settings.host}`);
  }

  #path({ term }: ClaimKey): string {
    return join(this.#settings.directory, `fence-${term}`);
  }

  #agent(action: AgentAction, limitMs: number): Promise<AgentResult> {
    return runAgent(this.#program, this.#options, action, limitMs, this.#closing.signal);
  }

  async #delay(ms: number): Promise<void> {
    if (ms <= 0) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#closing.signal.addEventListener('abort', () => {
        clearTimeout(timer);
        resolve();
      });
    });
  }
}
