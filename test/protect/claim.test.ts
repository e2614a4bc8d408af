/**
 * Whom a primary asks who goes on, and when: over a real connection to the receiver's host, with an arbiter that notes
 * what it is asked.
 */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Arbiter, ClaimAnswer } from '../../src/core/claim/types.js';
import type { FromReceiver } from '../../src/core/link/messages.js';
import type { Order } from '../../src/core/protect/order.js';
import { decideForPrimary } from '../../src/protect/claim.js';
import type { Outcome, Question } from '../../src/protect/claim.js';
import { connecting, LIMIT_MS, listening, Place, SESSION } from '../link/support.js';

const test = suite('who goes on, as the primary asks');
const order: Order = {
  ...{ format: 1, pair: 'rack1', domain: 'web', term: 3, session: SESSION, intervalMs: 100 },
  ...{ primary: 'alpha', backup: 'beta', network: true, disk: true },
};
const nowMs = (): number => performance.now();
/** Never over while a test runs. */
const LONG = { silentMs: LIMIT_MS, undecidedMs: LIMIT_MS, nowMs };
const CRASHED: Question = { reason: 'the guest ended: crash', crashed: true };
const LOST: Question = { reason: 'reset', crashed: false };
type Ended = Extract<FromReceiver, { type: 'ended' }>;
const REFUSED: Ended = { type: 'ended', outcome: 'refused', reason: 'this host has asked the arbiter' };

let place: Place;
test.before(() => {
  place = new Place();
});
test.after(() => place.remove());

interface Case {
  name?: string;
  answer?: ClaimAnswer;
  /** What the receiver's host says, one answer a question, and the last one for ever. None: it can't be reached. */
  receiver: readonly Ended[];
  question: Question;
  firstWord?: typeof LONG;
  onAnswer?: () => void;
}

/** @returns the outcome, whether the arbiter was asked, and what the receiver's host was asked */
async function decide(each: Case): Promise<{ outcome: Outcome; claims: string[]; questions: unknown[] }> {
  const claims: string[] = [];
  const questions: unknown[] = [];
  const { listener, nextCleanup } = await listening(place);
  const { port } = listener;
  if (each.receiver.length === 0) await listener.close();
  const answers = [...each.receiver];
  let isOver = false;
  const answering = async (): Promise<void> => {
    for (;;) {
      const control = await nextCleanup();
      if (isOver) return;
      control.start(
        {
          message: (message) => {
            questions.push(message);
            each.onAnswer?.();
            control.send((answers.length > 1 ? answers.shift() : answers[0]) as Ended);
          },
          lost: () => undefined,
        },
        0,
      );
    }
  };
  if (each.receiver.length > 0) void answering();
  const arbiter = {
    name: each.name ?? 'etcd',
    claim: (_key, host) => {
      claims.push(host);
      return Promise.resolve(each.answer ?? { kind: 'won', reason: 'it was free' });
    },
  } as Partial<Arbiter> as Arbiter;
  const connect = connecting(place, port);
  const { question, firstWord } = each;
  const outcome = await decideForPrimary(arbiter, order, connect, question, () => undefined, firstWord);
  isOver = true;
  await listener.close();
  return { outcome, claims, questions };
}

test('a lost session: the arbiter is asked at once', async () => {
  const { outcome, claims } = await decide({ receiver: [REFUSED], question: LOST });
  assert.equal(outcome, { decision: 'primary', reason: 'it was free' });
  assert.equal(claims, ['alpha']);
});

test('a crash: the receiver has won, and the primary never claimed', async () => {
  const won: Ended = { type: 'ended', outcome: 'claimed', reason: 'the arbiter has it for beta' };
  const receiver = [REFUSED, REFUSED, won];
  const { outcome, claims, questions } = await decide({ receiver, question: CRASHED, firstWord: LONG });
  assert.equal(outcome, { decision: 'backup', reason: 'beta: the arbiter has it for beta' });
  assert.equal(claims, []);
  assert.equal(questions[0], { type: 'drop-term', reason: 'the guest ended: crash', crashed: true });
});

test('a crash, and the receiver gives its copy up: the primary goes on without a claim', async () => {
  const ended: Ended = { type: 'ended', outcome: 'rolled-forward', reason: 'no copy' };
  const { outcome, claims } = await decide({ receiver: [ended], question: CRASHED, firstWord: LONG });
  assert.is(outcome.decision, 'primary');
  assert.equal(claims, []);
});

test("a crash, and the receiver's host is silent: after a bounded time the primary claims", async () => {
  const startedMs = performance.now();
  const firstWord = { ...LONG, silentMs: 400 };
  const { outcome, claims } = await decide({ receiver: [], question: CRASHED, firstWord });
  assert.is(outcome.decision, 'primary');
  assert.equal(claims, ['alpha']);
  assert.ok(performance.now() - startedMs >= 400);
});

test('a crash, and the receiver stays undecided: after a longer time the primary claims too', async () => {
  const firstWord = { ...LONG, undecidedMs: 400 };
  const { outcome, questions } = await decide({ receiver: [REFUSED], question: CRASHED, firstWord });
  assert.is(outcome.decision, 'primary');
  assert.ok(questions.length > 0, 'it was asked first');
});

test('an answer of the receiver that says nothing yet is no silence', async () => {
  let clockMs = 0;
  const won: Ended = { type: 'ended', outcome: 'claimed', reason: 'the arbiter has it for beta' };
  const { outcome, claims } = await decide({
    receiver: [REFUSED, REFUSED, REFUSED, REFUSED, won],
    question: CRASHED,
    firstWord: { silentMs: 1_000, undecidedMs: LIMIT_MS, nowMs: () => clockMs },
    onAnswer: () => (clockMs += 600),
  });
  assert.is(outcome.decision, 'backup');
  assert.equal(claims, []);
});

test('a crash where a person decides: what they say on this host counts at once', async () => {
  const lost: ClaimAnswer = { kind: 'lost', winner: 'beta', reason: 'a person has said so' };
  const { outcome, claims } = await decide({
    ...{ name: 'operator', answer: lost, receiver: [REFUSED], question: CRASHED, firstWord: LONG },
  });
  assert.equal(outcome, { decision: 'backup', reason: 'a person has said so' });
  assert.equal(claims, ['alpha']);
});

test.run();
