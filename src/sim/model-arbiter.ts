/**
 * The modelled arbiter. `test-and-set` is on a third machine: it may be out of reach, slow, or decide and have its
 * answer lost. `operator` is a person who answers late or never, and tells the host that goes on, and the other one
 * first where it can be reached.
 */
import type { ClaimAnswer } from '../core/claim/types.js';
import type { Host } from './host.js';
import type { ModelNetwork } from './model-network.js';
import type { Owner } from './model-time.js';

export type ArbiterKind = 'test-and-set' | 'operator';

const NODE = 'arbiter';
const RETRY_MS = 500;

export class ModelArbiter {
  readonly kind: ArbiterKind;
  readonly #network: ModelNetwork;
  /** By term. */
  readonly winners = new Map<number, string>();
  /** What the operator has told which host, `TERM HOST`. */
  readonly told = new Map<string, string>();
  /** Terms for which a host asks and has no answer. */
  readonly asked = new Map<number, Set<string>>();

  constructor(kind: ArbiterKind, network: ModelNetwork) {
    this.kind = kind;
    this.#network = network;
  }

  claim(
    host: Host,
    owner: Owner,
    term: number,
    timeoutMs: number,
    answer: (answer: ClaimAnswer) => void,
  ): void {
    const { time } = this.#network;
    let isAnswered = false;
    const once = (value: ClaimAnswer): void => {
      if (isAnswered || !owner.alive) return;
      isAnswered = true;
      answer(value);
    };
    time.later(timeoutMs, owner, () =>
      once({ kind: 'undecided', reason: 'no answer in time', retryMs: RETRY_MS }),
    );
    const hosts = this.asked.get(term) ?? new Set();
    this.asked.set(term, hosts.add(host.name));
    if (this.kind === 'operator') {
      this.#wait(host, owner, term, timeoutMs, once, () => isAnswered);
      return;
    }
    if (!this.#network.isUp(host.name, NODE)) {
      time.later(time.random.between(1, 2000), owner, () =>
        once({ kind: 'undecided', reason: 'connection refused', retryMs: RETRY_MS }),
      );
      return;
    }
    // Now and then a request is under way for longer than anybody waits for it.
    const extraMs = time.random.chance(0.05) ? time.random.between(0, timeoutMs * 1.5) : 0;
    time.later(extraMs, null, () => {
      this.#network.deliver(host.name, NODE, null, () => {
        const winner = this.winners.get(term) ?? host.name;
        this.winners.set(term, winner);
        this.#network.deliver(NODE, host.name, owner, () => once(answerFor(host, winner)));
      });
    });
  }

  /** The person decides, once. @param reached the hosts that can be told, the loser first */
  decide(term: number, winner: string, reached: readonly string[]): void {
    if (this.winners.has(term)) return;
    this.winners.set(term, winner);
    for (const host of reached) this.told.set(`${term} ${host}`, winner);
  }

  #wait(
    host: Host,
    owner: Owner,
    term: number,
    leftMs: number,
    answer: (answer: ClaimAnswer) => void,
    isAnswered: () => boolean,
  ): void {
    if (isAnswered()) return;
    const winner = this.told.get(`${term} ${host.name}`);
    if (winner !== undefined) answer(answerFor(host, winner));
    else
      this.#network.time.later(200, owner, () =>
        this.#wait(host, owner, term, leftMs - 200, answer, isAnswered),
      );
  }
}

function answerFor(host: Host, winner: string): ClaimAnswer {
  return winner === host.name
    ? { kind: 'won', reason: 'the arbiter has it for this host' }
    : { kind: 'lost', winner, reason: `the arbiter has it for ${winner}` };
}
