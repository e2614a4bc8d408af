/** `remus-drbd import` with files: what is written where, and what is never written over. */
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { suite } from 'uvu';
import * as assert from 'uvu/assert';

import { runImport } from '../../src/commands/import.js';
import type { ImportOptions } from '../../src/commands/import.js';
import { ExitCode, OperatorError } from '../../src/core/errors.js';

const GUEST = "name = 'web'\nbuilder = 'hvm'\nmemory = 64\ndisk = [ 'phy:vg0/web,xvda,w' ]\n";

const test = suite<{ root: string }>('remus-drbd import');

test.before.each((context) => {
  context.root = mkdtempSync(join(tmpdir(), 'remus-drbd-'));
});
test.after.each(({ root }) => rmSync(root, { recursive: true }));

async function run(
  options: Partial<ImportOptions> & { files: string[] },
): Promise<{ out: string; report: string; code: number }> {
  let out = '';
  let report = '';
  const code = await runImport({
    force: false,
    json: false,
    print: (text) => void (out += text),
    printReport: (text) => void (report += text),
    ...options,
  });
  return { out, report, code };
}

async function refused(work: Promise<unknown>, says: RegExp, exitCode: number): Promise<void> {
  try {
    await work;
  } catch (error) {
    assert.instance(error, OperatorError);
    assert.match((error as OperatorError).message, says);
    assert.is((error as OperatorError).exitCode, exitCode);
    return;
  }
  assert.unreachable('it was not refused');
}

test('without --out pair.yaml is printed, the report apart from it, and nothing is written', async ({
  root,
}) => {
  const old = join(root, 'old.cfg');
  writeFileSync(old, GUEST);
  const { out, report, code } = await run({ files: [old] });
  assert.is(code, ExitCode.ok);
  assert.match(out, /^pairs:$/m);
  assert.match(report, /Nothing was written; with --out FILE, pair\.yaml is, and web\.cfg beside it/);
  assert.match(report, /4 {2}disk = .*\n +taken: disks\[0\]/);
  assert.not(existsSync(join(root, 'web.cfg')));
});

test('with --out the files are written, the guest for its owner only', async ({ root }) => {
  const old = join(root, 'old.cfg');
  const out = join(root, 'pair.yaml');
  writeFileSync(old, GUEST);
  const result = await run({ files: [old], out });
  assert.match(readFileSync(out, 'utf8'), /config: web\.cfg/);
  assert.match(readFileSync(join(root, 'web.cfg'), 'utf8'), /^name = "web"$/m);
  assert.is(statSync(join(root, 'web.cfg')).mode & 0o777, 0o600);
  assert.match(result.out, /Written: .*pair\.yaml, .*web\.cfg/);
});

test('a file that is there is refused without --force, and then none is written', async ({ root }) => {
  const old = join(root, 'old.cfg');
  const out = join(root, 'pair.yaml');
  writeFileSync(old, GUEST);
  writeFileSync(join(root, 'web.cfg'), 'mine');
  await refused(run({ files: [old], out }), /web\.cfg: there already; nothing was written/, ExitCode.refused);
  assert.not(existsSync(out));
  assert.is(readFileSync(join(root, 'web.cfg'), 'utf8'), 'mine');
  await run({ files: [old], out, force: true });
  assert.match(readFileSync(join(root, 'web.cfg'), 'utf8'), /name = "web"/);
});

test('an input is never written over, by whatever name it was given', async ({ root }) => {
  const old = join(root, 'web.cfg');
  const link = join(root, 'link');
  writeFileSync(old, GUEST);
  symlinkSync(old, link);
  for (const file of [old, link]) {
    const out = join(root, 'pair.yaml');
    await run({ files: [file], out, force: true });
    assert.is(readFileSync(old, 'utf8'), GUEST);
    assert.match(readFileSync(out, 'utf8'), /config: web-2\.cfg/);
  }
  await refused(run({ files: [old], out: old, force: true }), /one of the files to import/, ExitCode.refused);
  assert.is(readFileSync(old, 'utf8'), GUEST);
});

test('files that are missing, too large or no text are refused by name', async ({ root }) => {
  await refused(
    run({ files: [join(root, 'none.cfg')] }),
    /none\.cfg: there is no such file; nothing was written/,
    ExitCode.usage,
  );
  writeFileSync(join(root, 'nul'), 'a\0b');
  await refused(run({ files: [join(root, 'nul')] }), /nul: is not a text file/, ExitCode.usage);
  writeFileSync(join(root, 'large'), Buffer.alloc(2 ** 20 + 1, 'a'));
  await refused(run({ files: [join(root, 'large')] }), /large: is larger than/, ExitCode.usage);
});

test('comments in Latin-1 are read', async ({ root }) => {
  const old = join(root, 'old.cfg');
  writeFileSync(old, Buffer.from(`# gr\u00f6\u00dfer\n${GUEST}`, 'latin1'));
  const { report } = await run({ files: [old] });
  assert.match(report, /gr\u00f6\u00dfer/);
});

test('--json has the files, the lines and the questions', async ({ root }) => {
  const old = join(root, 'old.cfg');
  writeFileSync(old, GUEST);
  const { out } = await run({ files: [old], json: true });
  const result = JSON.parse(out) as Record<string, unknown[]>;
  assert.equal(Object.keys(result).sort(), ['guests', 'inputs', 'pairYaml', 'questions', 'steps', 'written']);
  assert.equal(result.written, []);
  assert.ok((result.questions?.length ?? 0) > 0);
});

test.run();
