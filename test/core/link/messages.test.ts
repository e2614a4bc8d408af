/** What is read as a message, and which hello is taken. */
import fc from 'fast-check';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { LinkError } from '../../../src/core/link/errors.js';
import { judgeHello, sameSession } from '../../../src/core/link/judge.js';
import type { Expected } from '../../../src/core/link/judge.js';
import {
  LINK_PROTOCOL,
  readFromReceiver,
  readFromSender,
  readHello,
  readHelloAnswer,
} from '../../../src/core/link/messages.js';
import type { Hello } from '../../../src/core/link/messages.js';

const session = 'a'.repeat(32);
const hello: Hello = {
  type: 'hello',
  protocol: LINK_PROTOCOL,
  program: '0.1.0',
  purpose: 'control',
  pair: 'rack1',
  domain: 'web',
  from: 'alpha',
  term: 7,
  session,
  intervalMs: 100,
};

test('each direction reads its own messages and no other', () => {
  const beat = { type: 'heartbeat', sequence: 1, sentMs: 2.5, state: '' };
  const fromSender = [
    beat,
    { type: 'guest-ended', how: 'poweroff' },
    { type: 'end', reason: 'unprotect', detail: '' },
    { type: 'drop-term', reason: 'x' },
  ];
  const fromReceiver = [
    beat,
    { type: 'committed', domain: 'web', term: 7, session, epoch: 0 },
    { type: 'begun' },
    { type: 'ended', outcome: 'claimed', reason: 'x' },
  ];
  for (const each of fromSender) assert.equal(readFromSender(each), each);
  for (const each of fromReceiver) assert.equal(readFromReceiver(each), each);
  for (const each of fromSender.slice(1))
    assert.throws(() => readFromReceiver(each), /no message of the receiver/);
  for (const each of fromReceiver.slice(1))
    assert.throws(() => readFromSender(each), /no message of the sender/);
  assert.equal(readHello(hello), hello);
  assert.throws(() => readFromSender(hello), /no message of the sender/);
  const refused = { type: 'refused', code: 'busy', reason: 'x' };
  assert.equal(readHelloAnswer(refused), refused);
  assert.equal(readFromSender({ ...beat, later: 'a key of a newer peer' }), beat);
});

test('a value out of its range is an error that names its key', () => {
  const committed = { type: 'committed', domain: 'web', term: 7, session, epoch: 0 };
  for (const [change, key] of [
    [{ epoch: -1 }, 'epoch'],
    [{ epoch: 1.5 }, 'epoch'],
    [{ epoch: 2 ** 53 }, 'epoch'],
    [{ epoch: '1' }, 'epoch'],
    [{ session: 'A'.repeat(32) }, 'session'],
    [{ session: 'a'.repeat(31) }, 'session'],
    [{ term: 0 }, 'term'],
    [{ domain: '../web' }, 'domain'],
  ] as const) {
    assert.throws(
      () => readFromReceiver({ ...committed, ...change }),
      (error: unknown) => error instanceof LinkError && error.message.includes(`: ${key}: `),
    );
  }
  for (const change of [{ from: 'a b' }, { intervalMs: 0 }, { purpose: 'other' }, { program: 'x y' }]) {
    assert.throws(
      () => readHello({ ...hello, ...change }),
      (error: unknown) => error instanceof LinkError,
    );
  }
});

test('no JSON value makes a reader throw anything but a LinkError', () => {
  fc.assert(
    fc.property(fc.jsonValue(), (json) => {
      for (const read of [readFromSender, readFromReceiver, readHello, readHelloAnswer]) {
        try {
          read(json);
        } catch (error) {
          assert.instance(error, LinkError);
        }
      }
    }),
  );
});

test('of another protocol only its number is read', () => {
  assert.equal(readHello({ type: 'hello', protocol: 2, purpose: ['new'] }), {
    type: 'hello',
    protocol: 2,
    purpose: 'unknown',
  });
});

const expected: Expected = { pair: 'rack1', domain: 'web', peer: 'alpha', term: 6, usedSessions: new Set() };

test('a hello is judged by version, domain, host, term, session and what runs, in that order', () => {
  const other = 'b'.repeat(32);
  const now: Partial<Expected> = { term: 7, usedSessions: new Set([session]) };
  const running = { ...now, current: { term: 7, session } };
  const table: [Partial<Hello>, Partial<Expected>, string][] = [
    [{}, {}, 'take'],
    [{ term: 6 }, {}, 'take'],
    [{ protocol: 2 }, {}, 'protocol-version'],
    [{ pair: 'rack2' }, {}, 'wrong-domain'],
    [{ domain: 'db' }, {}, 'wrong-domain'],
    [{ from: 'beta' }, {}, 'wrong-peer'],
    [{ term: 5 }, {}, 'old-term'],
    [{ term: 5, session: other }, running, 'old-term'],
    [{}, now, 'replayed-session'],
    [{}, running, 'replayed-session'],
    [{ session: other }, now, 'take'],
    [{ session: other }, running, 'busy'],
    [{ session: other, term: 8 }, running, 'busy'],
    [{}, { notReady: 'the journal is not in place' }, 'not-ready'],
    [{ purpose: 'cleanup' }, running, 'take'],
    [{ purpose: 'cleanup' }, now, 'take'],
    [{ purpose: 'cleanup' }, {}, 'not-ready'],
    [{ purpose: 'cleanup', session: other }, running, 'not-ready'],
    [{ purpose: 'cleanup', term: 6 }, running, 'old-term'],
    [{ purpose: 'cleanup', from: 'beta' }, running, 'wrong-peer'],
  ];
  for (const [change, knows, wanted] of table) {
    const verdict = judgeHello({ ...hello, ...change }, { ...expected, ...knows });
    assert.is(verdict.take ? 'take' : verdict.code, wanted, JSON.stringify([change, knows]));
    assert.ok(verdict.reason.length > 0);
  }
  assert.match(judgeHello({ type: 'hello', protocol: 9, purpose: 'unknown' }, expected).reason, /protocol 9/);
});

test('the same session is the same in every part but the purpose', () => {
  assert.ok(sameSession(hello, { ...hello, purpose: 'bulk' }));
  for (const change of [
    { session: 'b'.repeat(32) },
    { term: 8 },
    { domain: 'db' },
    { pair: 'rack2' },
    { from: 'beta' },
    { program: '0.2.0' },
    { intervalMs: 50 },
  ]) {
    assert.not(sameSession(hello, { ...hello, ...change }));
  }
});

test.run();
