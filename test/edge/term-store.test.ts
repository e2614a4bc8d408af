import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { DiskDecision, TermRecord } from '../../src/core/claim/term.js';
import { OperatorError } from '../../src/core/errors.js';
import { REAL_STEPS, type FileSteps } from '../../src/edge/durable-file.js';
import { TermStore } from '../../src/edge/term-store.js';

const test = suite('term store');
let root: string;
let directory: string;

test.before.each(() => {
  root = mkdtempSync(join(tmpdir(), 'remus-term-'));
  directory = join(root, 'web');
});
test.after.each(() => rmSync(root, { recursive: true }));

const first: TermRecord = {
  term: 7,
  session: '0123456789abcdef',
  role: 'backup',
  phase: 'starting',
  boot: '1-2',
};
const second: TermRecord = { ...first, term: 8, session: 'fedcba9876543210', role: 'primary' };
const discard: DiskDecision = { term: 7, outcome: 'discard', by: 'beta', reason: 'beta won' };

async function refused(promise: Promise<unknown>, like: RegExp): Promise<void> {
  const error = await promise.then(
    () => assert.unreachable('it was not refused'),
    (reason: unknown) => reason,
  );
  assert.instance(error, OperatorError);
  assert.is((error as OperatorError).exitCode, 3);
  assert.match((error as OperatorError).message, like);
}

test('keeps what was written, for whoever reads next', async () => {
  const store = new TermStore('web', directory);
  assert.is(await store.readTerm(), undefined);
  assert.is(await store.readDecision(), undefined);
  await store.writeTerm(first);
  await store.writeTerm({ ...first, phase: 'protected' });
  await store.writeTerm({ ...first, phase: 'ended', outcome: 'won' });
  await store.writeDecision(discard);
  const other = new TermStore('web', directory);
  assert.equal(await other.readTerm(), { ...first, phase: 'ended', outcome: 'won' });
  assert.equal(await other.readDecision(), discard);
  assert.is(
    readFileSync(join(directory, 'decision'), 'utf8'),
    '{"term":7,"outcome":"discard","by":"beta","reason":"beta won"}\n',
  );
  assert.equal(readdirSync(directory).sort(), ['decision', 'term.json']);
});

test('a term never goes back, nor a phase, nor an outcome', async () => {
  const store = new TermStore('web', directory);
  await store.writeTerm({ ...second, phase: 'protected' });
  await refused(store.writeTerm(first), /term 7 is before term 8/);
  await refused(store.writeTerm(second), /term 8 is protected already, and can't be starting again/);
  await refused(store.writeTerm({ ...second, session: first.session, phase: 'protected' }), /is taken/);
  await store.writeTerm({ ...second, phase: 'ended', outcome: 'lost' });
  await refused(store.writeTerm({ ...second, phase: 'ended', outcome: 'won' }), /ended as lost/);
  assert.equal(await store.readTerm(), { ...second, phase: 'ended', outcome: 'lost' });
});

test('a decision is never replaced by a different one of its term', async () => {
  const store = new TermStore('web', directory);
  await store.writeDecision(discard);
  await store.writeDecision({ ...discard, by: 'alpha', reason: 'again' });
  await refused(store.writeDecision({ ...discard, outcome: 'roll-forward' }), /decided as discard by beta/);
  await refused(store.writeDecision({ ...discard, term: 6 }), /term 6 is before term 7/);
  assert.equal(await store.readDecision(), discard);
  await store.writeDecision({ ...discard, term: 8, outcome: 'roll-forward' });
  assert.is((await store.readDecision())?.outcome, 'roll-forward');
});

test('of two writers in one process the second sees the first one’s record', async () => {
  const store = new TermStore('web', directory);
  const [later, earlier] = await Promise.allSettled([store.writeTerm(second), store.writeTerm(first)]);
  assert.is(later.status, 'fulfilled');
  assert.is(earlier.status, 'rejected');
  assert.equal(await store.readTerm(), second);
});

test('a file that is no record is an error for the reader and is not written over', async () => {
  const store = new TermStore('web', directory);
  await store.writeTerm(first);
  await store.writeDecision(discard);
  const files = [
    ['term.json', () => store.readTerm(), () => store.writeTerm(second)],
    ['decision', () => store.readDecision(), () => store.writeDecision({ ...discard, term: 9 })],
  ] as const;
  for (const [name, read, write] of files) {
    const path = join(directory, name);
    const whole = readFileSync(path, 'utf8');
    const damaged = [
      ...Array.from({ length: whole.length }, (_, length) => whole.slice(0, length)),
      whole.replace('"term":7', '"term":0'),
      whole.replace('"term":7', '"term":"7"'),
      whole.replace('"term":7', '"term":7,"more":1'),
      '\0'.repeat(whole.length),
      'null\n',
      '[]\n',
      `${' '.repeat(5000)}${whole}`,
    ];
    for (const text of damaged) {
      writeFileSync(path, text);
      await refused(read(), /can't be used/);
      await refused(write(), /can't be used/);
      assert.is(readFileSync(path, 'utf8'), text);
    }
  }
});

const STEPS = ['create', 'syncFile', 'rename', 'syncDirectory'] as const;

/** The real steps, of which `last` is done and fails all the same, or isn't done; nothing comes after it. */
function stopAt(last: (typeof STEPS)[number], done: boolean): FileSteps {
  let stopped = false;
  const steps: FileSteps = { ...REAL_STEPS };
  for (const name of [...STEPS, 'unlink'] as const) {
    const real = REAL_STEPS[name] as (...args: unknown[]) => Promise<void>;
    steps[name] = async (...args: unknown[]): Promise<void> => {
      if (stopped) throw new Error('the process is dead');
      stopped = name === last;
      if (!stopped || done) await real(...args);
      if (stopped) throw new Error('the process is dead');
    };
  }
  return steps;
}

for (const step of STEPS) {
  for (const done of [false, true]) {
    test(`stopped ${done ? 'after' : 'before'} ${step}, the record is the old or the new one`, async () => {
      await new TermStore('web', directory).writeTerm(first);
      const dying = new TermStore('web', directory, stopAt(step, done));
      await dying.writeTerm(second).then(
        () => assert.unreachable(),
        (error: unknown) => assert.match((error as Error).message, /could not be written/),
      );
      const renamed = step === 'syncDirectory' || (step === 'rename' && done);
      const after = new TermStore('web', directory);
      assert.equal(await after.readTerm(), renamed ? second : first);
      await after.writeTerm(second);
      assert.equal(await after.readTerm(), second);
    });
  }
}

test('the content is on disk before it has its name, and the name before the call returns', async () => {
  const done: string[] = [];
  const steps: FileSteps = { ...REAL_STEPS };
  for (const name of STEPS) {
    const real = REAL_STEPS[name] as (...args: unknown[]) => Promise<void>;
    steps[name] = async (...args: unknown[]): Promise<void> => {
      await real(...args);
      done.push(name);
    };
  }
  const store = new TermStore('web', directory, steps);
  await store.writeTerm(first);
  assert.equal(done, [...STEPS]);
  // The same again may be after a crash of another writer, before its last step.
  await store.writeTerm(first);
  assert.equal(done.slice(4), ['syncDirectory']);
});

test.run();
