import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  formatDecision,
  formatTerm,
  nextTerm,
  parseDecision,
  parseTerm,
  type TermRecord,
} from '../../../src/core/claim/term.js';
import { answerOf, claimName } from '../../../src/core/claim/types.js';

const test = suite('terms and claims');
const key = { pair: 'rack1', domain: 'web', term: 7 };

test('a new term is above both hosts’ latest', () => {
  assert.is(nextTerm(undefined, undefined), 1);
  assert.is(nextTerm(7, undefined), 8);
  assert.is(nextTerm(7, 9), 10);
});

test('records are read as they were written', () => {
  const record: TermRecord = {
    term: 7,
    session: '0123456789abcdef',
    role: 'backup',
    phase: 'ended',
    boot: '1-2',
    outcome: 'agreed',
  };
  assert.equal(parseTerm(formatTerm(record)), record);
  const open: TermRecord = {
    term: 7,
    session: record.session,
    role: 'backup',
    phase: 'protected',
    boot: '1-2',
  };
  assert.equal(parseTerm(formatTerm(open)), open);
  const decision = { term: 7, outcome: 'discard', by: 'beta', reason: 'x "y"\nz' } as const;
  assert.equal(parseDecision(formatDecision(decision)), decision);
  assert.is(formatDecision(decision).split('\n').length, 2);
  assert.is(parseDecision(formatDecision({ ...decision, reason: 'x'.repeat(9999) })).reason.length, 1000);
});

test('what could not be read again is not written', () => {
  const record: TermRecord = { term: 7, session: '01234567', role: 'backup', phase: 'starting', boot: '1' };
  for (const bad of [
    { term: 0 },
    { term: Number.NaN },
    { session: 'x' },
    { outcome: 'won' as const },
    { phase: 'ended' as const },
  ]) {
    assert.throws(() => formatTerm({ ...record, ...bad }), /no record/);
  }
});

test('names of claims are distinct, and answers name the winner', () => {
  assert.is(claimName(key), 'rack1@web@7');
  assert.is(answerOf(key, 'beta', 'beta', 'etcd').kind, 'won');
  assert.equal(answerOf(key, 'alpha', 'beta', 'etcd'), {
    kind: 'lost',
    winner: 'beta',
    reason: 'etcd has term 7 of web for beta, not for alpha',
  });
});

test.run();
