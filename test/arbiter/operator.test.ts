import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { decide, OperatorArbiter } from '../../src/arbiter/operator.js';
import { unsafeArbiter } from '../../src/arbiter/unsafe.js';
import type { ClaimAnswer } from '../../src/core/claim/types.js';
import { OperatorError } from '../../src/core/errors.js';
import { freshKey, lostTo, PATIENT, undecided, won } from './contract.js';

const test = suite('operator');
let root: string;
test.before.each(() => {
  root = mkdtempSync(join(tmpdir(), 'remus-operator-'));
});
test.after.each(() => rmSync(root, { recursive: true }));

const decision = { by: 'root', reason: 'alpha burns' };

test('is undecided until a person decides, and claims that wait hear of it', async () => {
  const key = freshKey();
  const arbiter = new OperatorArbiter(root);
  undecided(
    /waits for a person: remus-drbd failover web/,
    await arbiter.claim(key, 'beta', { timeoutMs: 20 }),
  );
  assert.equal(await arbiter.look(key), { kind: 'free' });
  const waiting = arbiter.claim(key, 'beta', PATIENT);
  await decide('web', root, { term: key.term, winner: 'beta', ...decision });
  won(await waiting);
  won(await arbiter.claim(key, 'beta', PATIENT));
  lostTo('beta', await arbiter.claim(key, 'alpha', PATIENT));
  assert.equal(await arbiter.look(key), { kind: 'won-by', host: 'beta' });
});

test('of two decisions at once one stands, 100 times', async () => {
  for (let round = 0; round < 100; round += 1) {
    const key = freshKey();
    const told = await Promise.allSettled(
      ['alpha', 'beta'].map((winner) => decide('web', root, { term: key.term, winner, ...decision })),
    );
    const refused = told.flatMap((each) => (each.status === 'rejected' ? [each.reason as unknown] : []));
    assert.is(refused.length, 1);
    assert.instance(refused[0], OperatorError);
    assert.match((refused[0] as Error).message, /was decided for (alpha|beta) by root \(alpha burns\)/);
    const answers: ClaimAnswer[] = await Promise.all(
      ['alpha', 'beta'].map((host) => new OperatorArbiter(root).claim(key, host, PATIENT)),
    );
    assert.equal(answers.map(({ kind }) => kind).sort(), ['lost', 'won']);
  }
});

test('the same decision again is no error, and another term is open', async () => {
  const key = freshKey();
  await decide('web', root, { term: key.term, winner: 'alpha', ...decision });
  await decide('web', root, { term: key.term, winner: 'alpha', by: 'other', reason: 'again' });
  assert.equal(await new OperatorArbiter(root).look(freshKey()), { kind: 'free' });
});

test('a file that holds no decision decides nothing', async () => {
  const arbiter = new OperatorArbiter(root);
  for (const text of [
    '',
    'null',
    '{}',
    '{"format":2}',
    '{"format":1,"term":1,"winner":"alpha"}',
    'x'.repeat(9999),
  ]) {
    const key = freshKey();
    writeFileSync(join(root, `operator-${key.term}`), text);
    undecided(/can't be read/, await arbiter.claim(key, 'alpha', PATIENT));
    undecided(/can't be read/, await arbiter.look(key));
  }
});

test('closing ends a claim that waits', async () => {
  const arbiter = new OperatorArbiter(root);
  const waiting = arbiter.claim(freshKey(), 'alpha', PATIENT);
  await arbiter.close();
  undecided(/closed/, await waiting);
});

test('unsafe-may-split says what it is', async () => {
  const answer = await unsafeArbiter.claim(freshKey(), 'alpha', PATIENT);
  assert.is(unsafeArbiter.name, 'unsafe-may-split');
  assert.match(answer.kind === 'won' ? answer.reason : '', /^UNSAFE: unsafe-may-split .* two copies/);
});

test.run();
