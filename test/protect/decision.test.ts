/** What a host does with a term whose receiver died: gives it up, keeps what was decided, and never guesses. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { TermRecord } from '../../src/core/claim/term.js';
import { OperatorError } from '../../src/core/errors.js';
import { REAL_STEPS } from '../../src/edge/durable-file.js';
import type { FileSteps } from '../../src/edge/durable-file.js';
import { TermStore } from '../../src/edge/term-store.js';
import { decisionWithoutCopy, endDecidedTerm, noteClaim } from '../../src/protect/decision.js';

const test = suite('a term without its copy');

function unexpected(reason: string): never {
  throw new Error(reason);
}

const record: TermRecord = {
  term: 5,
  session: 'ab'.repeat(16),
  role: 'backup',
  phase: 'starting',
  boot: 'b-1',
};

async function onHost(body: (directory: string, store: TermStore) => Promise<void>): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'remus-decision-'));
  try {
    await body(directory, new TermStore('web', directory));
  } finally {
    await rm(directory, { recursive: true });
  }
}

test('is given up, durably, and ends as lost', () =>
  onHost(async (directory, store) => {
    await store.writeTerm(record);
    assert.is(await decisionWithoutCopy('web', 'beta', directory, store, 5, unexpected), 'roll-forward');
    assert.is((await store.readDecision())?.outcome, 'roll-forward');
    await endDecidedTerm(store);
    assert.is((await store.readTerm())?.outcome, 'lost');
  }));

test('is given up although the record of it has no room: any later look decides the same', () =>
  onHost(async (directory) => {
    const full: FileSteps = {
      ...REAL_STEPS,
      create: () => Promise.reject(Object.assign(new Error('ENOSPC: no space left'), { code: 'ENOSPC' })),
    };
    const reasons: string[] = [];
    const note = (reason: string): void => void reasons.push(reason);
    const store = new TermStore('web', directory, full);
    assert.is(await decisionWithoutCopy('web', 'beta', directory, store, 5, note), 'roll-forward');
    assert.match(reasons.join(), /decision could not be written: ENOSPC/);
    await endDecidedTerm(store);
  }));

test('keeps what was decided before', () =>
  onHost(async (directory, store) => {
    await store.writeTerm(record);
    await store.writeDecision({ term: 5, outcome: 'discard', by: 'beta', reason: 'won' });
    assert.is(await decisionWithoutCopy('web', 'beta', directory, store, 5, unexpected), 'discard');
    await endDecidedTerm(store);
    assert.is((await store.readTerm())?.outcome, 'won');
  }));

test('a decision of an earlier term decides nothing now', () =>
  onHost(async (directory, store) => {
    await store.writeDecision({ term: 4, outcome: 'discard', by: 'beta', reason: 'won' });
    await store.writeTerm(record);
    await endDecidedTerm(store);
    assert.is((await store.readTerm())?.phase, 'starting');
    assert.is(await decisionWithoutCopy('web', 'beta', directory, store, 5, unexpected), 'roll-forward');
  }));

test('is refused where the arbiter may have decided for this host', () =>
  onHost(async (directory, store) => {
    await store.writeTerm(record);
    await noteClaim(directory, 5);
    let refused: unknown;
    await decisionWithoutCopy('web', 'beta', directory, store, 5, unexpected).catch((error: unknown) => {
      refused = error;
    });
    assert.instance(refused, OperatorError);
    assert.match((refused as OperatorError).message, /while it was claiming term 5/);
    assert.is(await store.readDecision(), undefined);
    // Of another term the note means nothing.
    assert.is(await decisionWithoutCopy('web', 'beta', directory, store, 6, unexpected), 'roll-forward');
  }));

test('a host that was the primary is left alone', () =>
  onHost(async (_directory, store) => {
    await store.writeTerm({ ...record, role: 'primary' });
    await store.writeDecision({ term: 5, outcome: 'discard', by: 'beta', reason: 'won' });
    await endDecidedTerm(store);
    assert.is((await store.readTerm())?.phase, 'starting');
  }));

test.run();
