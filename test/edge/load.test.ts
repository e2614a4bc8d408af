/** Reading pair.yaml and the guests' configurations from disk, and finding the package's own files. */
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import { suite } from 'uvu';
import * as assert from 'uvu/assert';

import { OperatorError } from '../../src/core/errors.js';
import { loadAssets, packageDirectory } from '../../src/edge/assets.js';
import { loadConfiguration } from '../../src/edge/load.js';

interface Context {
  root: string;
}

const test = suite<Context>('loading');

test.before.each((context) => {
  context.root = mkdtempSync(join(tmpdir(), 'remus-drbd-load-'));
});
test.after.each(({ root }) => rmSync(root, { recursive: true }));

async function problem(file: string): Promise<string> {
  try {
    await loadConfiguration(file);
  } catch (error) {
    assert.instance(error, OperatorError);
    assert.is((error as OperatorError).exitCode, 2);
    return (error as OperatorError).message;
  }
  throw new Error('it was accepted');
}

test('paths are relative to the file, and ~ is the home of the user', async () => {
  const { config, layouts, guests } = await loadConfiguration('conf-examples/two-pairs/pair.yaml');
  assert.equal(config.ssh, {
    identityFiles: [join(homedir(), '.ssh/id_ed25519')],
    knownHostsFiles: [resolve('conf-examples/two-pairs/known_hosts')],
  });
  assert.equal(
    layouts.map(({ domain }) => domain.name),
    ['web', 'database', 'mail'],
  );
  assert.equal([...guests.keys()], ['web', 'database', 'mail']);
  assert.is(guests.get('web')?.text, readFileSync('conf-examples/two-pairs/web.cfg', 'utf8'));
});

test('a guest below the home of the user', async ({ root }) => {
  const home = process.env.HOME;
  process.env.HOME = root;
  try {
    cpSync('conf-examples/minimal', root, { recursive: true });
    mkdirSync(join(root, 'conf'));
    const text = readFileSync(join(root, 'pair.yaml'), 'utf8').replace('web.cfg', '~/web.cfg');
    writeFileSync(join(root, 'conf', 'pair.yaml'), text);
    const { config } = await loadConfiguration(join(root, 'conf', 'pair.yaml'));
    assert.is(config.pairs[0]?.domains[0]?.configFile, join(root, 'web.cfg'));
  } finally {
    if (home === undefined) delete process.env.HOME;
    else process.env.HOME = home;
  }
});

test('a file that is not there', async ({ root }) => {
  assert.is(await problem(join(root, 'pair.yaml')), `${join(root, 'pair.yaml')}: there is no such file`);
});

test('a directory in its place', async ({ root }) => {
  assert.is(await problem(root), `${root}: it can't be read (EISDIR)`);
});

test('all problems of all guests are told at once', async ({ root }) => {
  cpSync('conf-examples/two-pairs', root, { recursive: true });
  rmSync(join(root, 'web.cfg'));
  writeFileSync(join(root, 'database.cfg'), Buffer.from([0x61, 0x20, 0x3d, 0xff]));
  writeFileSync(join(root, 'mail.cfg'), "name = 'mail'\nmemory = lots\n");
  assert.equal((await problem(join(root, 'pair.yaml'))).split('\n'), [
    `${join(root, 'web.cfg')}: there is no such file`,
    `${join(root, 'database.cfg')}: is not a text in UTF-8`,
    `${join(root, 'mail.cfg')}:2: expected a number, a quoted text or a list, found "lots"`,
  ]);
});

test('a file that is far too large', async ({ root }) => {
  writeFileSync(join(root, 'pair.yaml'), Buffer.alloc(1024 * 1024 + 1, '#'));
  assert.match(await problem(join(root, 'pair.yaml')), /pair\.yaml: is larger than 1048576 bytes$/);
});

test('the package is found from any depth below it', async ({ root }) => {
  mkdirSync(join(root, 'dist', 'deep'), { recursive: true });
  writeFileSync(join(root, 'package.json'), '{ "name": "remus-drbd" }');
  writeFileSync(join(root, 'dist', 'package.json'), '{ "name": "another" }');
  writeFileSync(join(root, 'dist', 'deep', 'package.json'), 'no JSON');
  assert.is(await packageDirectory(join(root, 'dist', 'deep')), root);
});

test('a program away from its package says so', async ({ root }) => {
  try {
    await packageDirectory(root);
  } catch (error) {
    assert.instance(error, OperatorError);
    assert.match(
      (error as Error).message,
      /^the templates of remus-drbd can't be found: no package\.json .*; run the program from its package$/,
    );
    return;
  }
  throw new Error('a package was found');
});

test('units are no templates', async () => {
  const { templates, units, scripts } = await loadAssets();
  assert.ok(templates.has('drbd/resource.res.hbs'));
  assert.equal(
    [...templates.keys()].filter((name) => name.startsWith('units/')),
    [],
  );
  assert.ok(units.has('remus-drbd@.service'));
  assert.ok(scripts.has('block-drbd'));
});

test.run();
