import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { DirectoryArbiter } from '../../src/arbiter/directory.js';
import { claimName } from '../../src/core/claim/types.js';
import { REAL_STEPS, type FileSteps } from '../../src/edge/durable-file.js';
import { contract, freshKey, lostTo, undecided, won } from './contract.js';

const test = suite('embedded arbiter');
let root: string;
let directory: string;

test.before.each(() => {
  root = mkdtempSync(join(tmpdir(), 'remus-arbiter-'));
  directory = join(root, 'claims');
  mkdirSync(directory);
});
test.after.each(() => rmSync(root, { recursive: true }));

contract(test, () => ({
  open: () => Promise.resolve(new DirectoryArbiter(directory)),
  cut: () => Promise.resolve(renameSync(directory, `${directory}.away`)),
  mend: () => Promise.resolve(renameSync(`${directory}.away`, directory)),
  races: 100,
  termsAtOnce: 10,
}));

test('says that it is embedded', async () => {
  const arbiter = new DirectoryArbiter(directory);
  const answer = await arbiter.claim(freshKey(), 'alpha');
  assert.is(arbiter.name, 'embedded');
  assert.match(answer.kind === 'won' ? answer.reason : '', /^embedded arbiter/);
});

test('leaves one file for a claim, and none beside it', async () => {
  const key = freshKey();
  await Promise.all(['alpha', 'beta'].map((host) => new DirectoryArbiter(directory).claim(key, host)));
  assert.equal(readdirSync(directory), [claimName(key)]);
});

/** What fails is named; everything before it is done. */
const FAILURES: [step: keyof FileSteps, decided: boolean][] = [
  ['create', false],
  ['syncFile', false],
  ['link', false],
  ['syncDirectory', true],
];
for (const [step, decided] of FAILURES) {
  test(`a claim whose ${step} fails is undecided; the same host can claim again`, async () => {
    const broken = { ...REAL_STEPS, [step]: () => Promise.reject(new Error(`no ${step}`)) };
    const key = freshKey();
    undecided(new RegExp(`no ${step}`), await new DirectoryArbiter(directory, broken).claim(key, 'alpha'));
    const whole = new DirectoryArbiter(directory);
    if (decided) lostTo('alpha', await whole.claim(key, 'beta'));
    won(await whole.claim(key, 'alpha'));
    lostTo('alpha', await whole.claim(key, 'beta'));
  });
}

test('nothing is won before the directory is on disk, also where the file was there', async () => {
  const synced: string[] = [];
  const steps: FileSteps = {
    ...REAL_STEPS,
    syncFile: (path) => {
      synced.push(readFileSync(path, 'utf8'));
      return REAL_STEPS.syncFile(path);
    },
    syncDirectory: (path) => {
      synced.push(path);
      return REAL_STEPS.syncDirectory(path);
    },
  };
  const arbiter = new DirectoryArbiter(directory, steps);
  const key = freshKey();
  won(await arbiter.claim(key, 'alpha'));
  assert.equal(synced, ['alpha\n', directory]);
  synced.length = 0;
  won(await arbiter.claim(key, 'alpha'));
  await arbiter.look(key);
  assert.equal(synced.slice(-2), [directory, directory]);
});

test('a file that names nobody decides nothing', async () => {
  const arbiter = new DirectoryArbiter(directory);
  for (const text of ['', 'alpha', '\n', 'alpha\nbeta\n', '../x\n', 'x'.repeat(10_000)]) {
    const key = freshKey();
    writeFileSync(join(directory, claimName(key)), text);
    undecided(/holds no name of a host|longer than/, await arbiter.claim(key, 'alpha'));
    undecided(/holds no name of a host|longer than/, await arbiter.look(key));
  }
});

test('the same reason comes in the same words, so that it is logged once', async () => {
  rmSync(directory, { recursive: true });
  const arbiter = new DirectoryArbiter(directory);
  const key = freshKey();
  assert.equal(await arbiter.claim(key, 'alpha'), await arbiter.claim(key, 'alpha'));
});

test('a directory that is missing is not made', async () => {
  rmSync(directory, { recursive: true });
  const arbiter = new DirectoryArbiter(directory);
  undecided(/no such file or directory/i, await arbiter.claim(freshKey(), 'alpha'));
  assert.equal(readdirSync(root), []);
  assert.is((await arbiter.reach()).reached, false);
});

test.run();
