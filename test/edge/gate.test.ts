import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { REAL_STEPS } from '../../src/edge/durable-file.js';
import { readGate, removeGate, setGate, type GateDirectories } from '../../src/edge/gate.js';

const test = suite('gate');
let root: string;
let at: GateDirectories;

test.before.each(() => {
  root = mkdtempSync(join(tmpdir(), 'remus-gate-'));
  at = { run: join(root, 'run'), state: join(root, 'state') };
});
test.after.each(() => rmSync(root, { recursive: true }));

/** What a restart of the host does to /run. */
function restart(): void {
  rmSync(at.run, { recursive: true, force: true });
}

test('is open where nobody has shut it', async () => {
  assert.is((await readGate('web', at)).state, 'open');
});

test('stays as it was set through a restart, and says why', async () => {
  for (const state of ['shut', 'open', 'shut'] as const) {
    await setGate('web', state, 'backup of alpha,\n term 3', at);
    assert.equal(await readGate('web', at), { state, reason: 'backup of alpha, term 3' });
    assert.is(readFileSync(join(at.run, 'web/gate'), 'utf8'), `${state} backup of alpha, term 3\n`);
    restart();
    assert.equal(await readGate('web', at), { state, reason: 'backup of alpha, term 3' });
  }
  await removeGate('web', at);
  await removeGate('web', at);
  assert.is((await readGate('web', at)).state, 'open');
});

test('a change that fails between the two files is lasting already', async () => {
  await setGate('web', 'open', '', at);
  let renames = 0;
  const steps = {
    ...REAL_STEPS,
    rename: (from: string, to: string): Promise<void> => {
      renames += 1;
      return renames === 2 ? Promise.reject(new Error('dead')) : REAL_STEPS.rename(from, to);
    },
  };
  await setGate('web', 'shut', 'term 3', at, steps).then(
    () => assert.unreachable(),
    () => undefined,
  );
  restart();
  assert.equal(await readGate('web', at), { state: 'shut', reason: 'term 3' });
});

test('what can’t be understood is shut', async () => {
  for (const text of ['', 'opened\n', '\nopen\n', 'Open\n']) {
    mkdirSync(join(at.state, 'web'), { recursive: true });
    writeFileSync(join(at.state, 'web/gate'), text);
    assert.is((await readGate('web', at)).state, 'shut', JSON.stringify(text));
  }
  mkdirSync(join(at.run, 'web/gate'), { recursive: true });
  assert.is((await readGate('web', at)).state, 'shut');
});

test.run();
