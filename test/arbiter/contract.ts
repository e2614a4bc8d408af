/**
 * What every arbiter that decides between two hosts has to do, as tests that a suite takes over. An arbiter's own
 * test says how to make one and how to put it out of reach.
 */
import type { Test } from 'uvu';
import * as assert from 'uvu/assert';
import type { Arbiter, ClaimAnswer, ClaimKey } from '../../src/core/claim/types.js';

export interface Harness {
  /** An arbiter as a program on this host has it. Closed by the contract. */
  open(host: string): Promise<Arbiter>;
  /** Puts the arbiter out of reach of both hosts, and back. */
  cut(): Promise<void>;
  mend(): Promise<void>;
  /** How many terms are raced for; an arbiter with a connection for each claim takes seconds for each. */
  races: number;
  /** Claims of this many terms at once, so that a slow arbiter's test doesn't take minutes. */
  termsAtOnce: number;
}

/** Long enough for any machine; what is tested is who wins. */
export const PATIENT = { timeoutMs: 60_000 };
/** How much later than asked an answer may come on a machine that is busy with other things. */
const SLACK_MS = 20_000;

let lastTerm = 0;
/** Terms are never used twice in a process, since claims stay. */
export function freshKey(domain = 'web'): ClaimKey {
  lastTerm += 1;
  return { pair: 'rack1', domain, term: lastTerm };
}

export function contract(test: Test, harness: () => Harness): void {
  const withBoth = async (body: (alpha: Arbiter, beta: Arbiter) => Promise<void>): Promise<void> => {
    const [alpha, beta] = await Promise.all([harness().open('alpha'), harness().open('beta')]);
    try {
      await body(alpha, beta);
    } finally {
      await Promise.all([alpha.close(), beta.close()]);
    }
  };

  test('of two hosts that claim at once one wins, time after time', () =>
    withBoth(async (alpha, beta) => {
      const keys = Array.from({ length: harness().races }, () => freshKey());
      while (keys.length > 0) {
        await Promise.all(
          keys.splice(0, harness().termsAtOnce).map(async (key, index) => {
            const claimAlpha = (): Promise<ClaimAnswer> => alpha.claim(key, 'alpha', PATIENT);
            const claimBeta = (): Promise<ClaimAnswer> => beta.claim(key, 'beta', PATIENT);
            // Neither has a head start over all of the rounds.
            const answers =
              index % 2 === 0
                ? await Promise.all([claimAlpha(), claimBeta()])
                : (await Promise.all([claimBeta(), claimAlpha()])).reverse();
            const winner = oneWinner(answers as [ClaimAnswer, ClaimAnswer]);
            const loser = winner === 'alpha' ? 'beta' : 'alpha';
            const at = { alpha, beta };
            won(await at[winner].claim(key, winner, PATIENT));
            lostTo(winner, await at[loser].claim(key, loser, PATIENT));
            assert.equal(await at[loser].look(key, PATIENT), { kind: 'won-by', host: winner });
          }),
        );
      }
    }));

  test('a look claims nothing, and claims of other names and terms are others', () =>
    withBoth(async (alpha, beta) => {
      const key = freshKey();
      assert.equal(await alpha.look(key, PATIENT), { kind: 'free' });
      assert.equal(await beta.look(key, PATIENT), { kind: 'free' });
      won(await beta.claim(key, 'beta', PATIENT));
      assert.equal(await alpha.look(key, PATIENT), { kind: 'won-by', host: 'beta' });
      for (const other of [{ ...key, domain: 'web.1' }, { ...key, pair: 'rack2' }, freshKey()]) {
        assert.equal(await alpha.look(other, PATIENT), { kind: 'free' });
        won(await alpha.claim(other, 'alpha', PATIENT));
      }
      lostTo('beta', await alpha.claim(key, 'alpha', PATIENT));
    }));

  test('out of reach it is undecided in time, and decides when it is back', () =>
    withBoth(async (alpha, beta) => {
      const [decided, open] = [freshKey(), freshKey()];
      won(await alpha.claim(decided, 'alpha', PATIENT));
      assert.is((await beta.reach(PATIENT)).reached, true);
      await harness().cut();
      const timeoutMs = 1_000;
      for (const ask of [
        () => alpha.claim(open, 'alpha', { timeoutMs }),
        () => beta.claim(decided, 'beta', { timeoutMs }),
        () => beta.look(decided, { timeoutMs }),
      ]) {
        const began = performance.now();
        const answer = await ask();
        const tookMs = performance.now() - began;
        assert.is(answer.kind, 'undecided', JSON.stringify(answer));
        assert.match((answer as { reason: string }).reason, /\S+ \S+/);
        assert.ok(tookMs < timeoutMs + SLACK_MS, `${tookMs} ms`);
      }
      const reach = await alpha.reach({ timeoutMs });
      assert.is(reach.reached, false);
      await harness().mend();
      lostTo('alpha', await decide(() => beta.claim(decided, 'beta', PATIENT)));
      // What was claimed in vain may have been decided all the same, but for nobody else.
      won(await decide(() => alpha.claim(open, 'alpha', PATIENT)));
      lostTo('alpha', await decide(() => beta.claim(open, 'beta', PATIENT)));
    }));

  test('what is no key is refused before anything is asked', () =>
    withBoth(async (alpha) => {
      for (const [key, host] of [
        [{ pair: 'a@b', domain: 'web', term: 1 }, 'alpha'],
        [{ pair: 'a', domain: '../web', term: 1 }, 'alpha'],
        [{ pair: 'a', domain: 'web', term: 0 }, 'alpha'],
        [{ pair: 'a', domain: 'web', term: 1.5 }, 'alpha'],
        [freshKey(), 'alpha\n'],
        [freshKey(), ''],
      ] as const) {
        const error = await alpha.claim(key, host, PATIENT).then(
          (answer) => assert.unreachable(JSON.stringify(answer)),
          (reason: unknown) => reason,
        );
        assert.instance(error, RangeError);
      }
    }));
}

export function won(answer: ClaimAnswer): void {
  assert.is(answer.kind, 'won', JSON.stringify(answer));
}

export function lostTo(winner: string, answer: ClaimAnswer): void {
  assert.is(answer.kind, 'lost', JSON.stringify(answer));
  assert.is((answer as { winner: string }).winner, winner);
}

/** Undecided, for a reason like this one. */
export function undecided(like: RegExp, answer: { kind: string }): void {
  assert.is(answer.kind, 'undecided', JSON.stringify(answer));
  assert.match((answer as unknown as { reason: string }).reason, like);
}

/** Asks until there is a decision, as whoever claims does. */
export async function decide(ask: () => Promise<ClaimAnswer>): Promise<ClaimAnswer> {
  const limit = Date.now() + PATIENT.timeoutMs;
  for (;;) {
    const answer = await ask();
    if (answer.kind !== 'undecided' || Date.now() > limit) return answer;
    await new Promise((resolve) => setTimeout(resolve, Math.min(answer.retryMs, 50)));
  }
}

function oneWinner([alpha, beta]: [ClaimAnswer, ClaimAnswer]): 'alpha' | 'beta' {
  if (alpha.kind === 'won') {
    lostTo('alpha', beta);
    return 'alpha';
  }
  won(beta);
  lostTo('beta', alpha);
  return 'beta';
}
