/** docs/failures.md names a test for each row: all of them are there, under these names. */
import { readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';

const test = suite('docs/failures.md');
const [rows = ''] = readFileSync('docs/failures.md', 'utf8').split('\n## How soon');
const files = readdirSync('test', { recursive: true, encoding: 'utf8' })
  .filter((name) => name.endsWith('.test.ts'))
  .map((name) => join('test', name));

test('the files are there', () => {
  const named = [...rows.matchAll(/`([\w./-]+\.test\.ts)`/g)].map(([, name = '']) => name);
  assert.ok(named.length > 20);
  for (const name of named) {
    const isPath = name.includes('/');
    assert.ok(
      files.some((file) => (isPath ? file === name : basename(file) === name)),
      name,
    );
  }
});

test('the tests are there', () => {
  const all = files
    .filter((file) => !file.endsWith('failures-doc.test.ts'))
    .map((file) => readFileSync(file, 'utf8'));
  const named = [...rows.matchAll(/"([^"]+?)…?"/g)].map(([, name = '']) => name);
  assert.ok(named.length > 20);
  // A name with an apostrophe may be written either way.
  for (const name of named) {
    assert.ok(
      all.some((text) => text.includes(name) || text.includes(name.replaceAll("'", "\\'"))),
      name,
    );
  }
});

test.run();
