/** `render --out DIR`: what it writes, what it refuses, and that it can be run again. */
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { suite } from 'uvu';
import * as assert from 'uvu/assert';

import { render, renderText } from '../../src/commands/render.js';
import { OperatorError } from '../../src/core/errors.js';

const EXAMPLE = 'conf-examples/two-pairs/pair.yaml';

interface Context {
  root: string;
}

const test = suite<Context>('render --out');

test.before.each((context) => {
  context.root = mkdtempSync(join(tmpdir(), 'remus-drbd-render-'));
});
test.after.each(({ root }) => rmSync(root, { recursive: true }));

/** Every file below a directory, with its mode and content. */
function tree(root: string): [string, string, string][] {
  return readdirSync(root, { recursive: true, encoding: 'utf8' })
    .sort()
    .filter((name) => statSync(join(root, name)).isFile())
    .map((name) => {
      return [
        name,
        (statSync(join(root, name)).mode & 0o777).toString(8),
        readFileSync(join(root, name), 'utf8'),
      ];
    });
}

async function refusal(run: () => Promise<unknown>): Promise<OperatorError> {
  try {
    await run();
  } catch (error) {
    assert.instance(error, OperatorError);
    return error as OperatorError;
  }
  throw new Error('it was not refused');
}

test('writes each host below its name, the same bytes again', async ({ root }) => {
  const out = join(root, 'new', 'out');
  const umask = process.umask(0o077);
  try {
    const result = await render(EXAMPLE, out);
    assert.equal(
      result.hosts.map(({ name }) => name),
      ['alpha', 'beta', 'gamma', 'delta'],
    );
    assert.match(renderText(result), /^.*alpha: \d+ files\n/);
  } finally {
    process.umask(umask);
  }
  const first = tree(out);
  const modes = new Map(first.map(([name, mode]) => [name, mode]));
  assert.is(modes.get('alpha/etc/drbd.d/remus-web.res'), '644');
  assert.is(modes.get('delta/etc/remus-drbd/domains/mail.json'), '600');
  assert.is(modes.get('beta/etc/xen/scripts/block-drbd'), '755');
  await render(EXAMPLE, out);
  assert.equal(tree(out), first);
});

test('what is no longer rendered goes away', async ({ root }) => {
  const out = join(root, 'out');
  await render(EXAMPLE, out);
  await render('conf-examples/minimal/pair.yaml', out);
  assert.equal(readdirSync(out).sort(), ['.remus-drbd-render', 'alpha', 'beta']);
  assert.not.ok(existsSync(join(out, 'alpha/etc/drbd.d/remus-database.res')));
});

test('a directory with anything else in it is left alone', async ({ root }) => {
  writeFileSync(join(root, 'precious'), 'mine');
  mkdirSync(join(root, 'alpha'));
  const error = await refusal(() => render(EXAMPLE, root));
  assert.is(error.exitCode, 3);
  assert.is(
    error.message,
    `${root} is not empty and was not written by "remus-drbd render"; nothing was changed in it. Name a new or empty directory.`,
  );
  assert.equal(readdirSync(root).sort(), ['alpha', 'precious']);
});

test('a file in the place of the directory is reported', async ({ root }) => {
  const out = join(root, 'file');
  writeFileSync(out, '');
  const error = await refusal(() => render(EXAMPLE, out));
  assert.match(error.message, /can't be written to: .*; nothing was changed$/);
});

test('a configuration that is wrong leaves what was rendered before', async ({ root }) => {
  const conf = join(root, 'conf');
  const out = join(root, 'out');
  cpSync('conf-examples/minimal', conf, { recursive: true });
  await render(join(conf, 'pair.yaml'), out);
  const before = tree(out);
  chmodSync(join(conf, 'web.cfg'), 0o644);
  writeFileSync(join(conf, 'web.cfg'), 'name = "other"\nmemory = 1\n');
  const error = await refusal(() => render(join(conf, 'pair.yaml'), out));
  assert.is(error.exitCode, 2);
  assert.match(error.message, /web\.cfg:1: name is "other", but this is the configuration of domain web$/);
  assert.equal(tree(out), before);
});

test.run();
