/** The picture of the demo comes from what the demo said, and says it when something did not hold. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

function picture(recorded: object): { svg: string; code: number | null } {
  const result = spawnSync(process.execPath, ['--import', 'tsx', 'scripts/demo-picture.ts'], {
    input: JSON.stringify(recorded),
    encoding: 'utf8',
  });
  return { svg: result.stdout, code: result.status };
}

const told = [
  'An embedded pair.',
  '',
  '1. embedded-a runs a guest',
  '   epoch    7 committed | a < b & c > d',
  `   yes  the guest is protected: ${'very '.repeat(30)}long`,
  '5. embedded-a is switched on again',
  '6. protect: the other way round',
  '   what comes later',
];

test('lines of the story, wrapped, with what XML needs escaped, up to the end of the first act', () => {
  const { svg, code } = picture({ embedded: true, seed: 7, told, claims: [{ claim: 'it', held: true }] });
  assert.is(code, 0);
  assert.match(svg, /^<svg [^>]*>\n/);
  assert.match(svg, /a &lt; b &amp; c &gt; d/);
  assert.match(svg, /embedded-a is switched on again/);
  assert.not.match(svg, /what comes later/);
  assert.match(svg, /3 chapters.*seed 7/);
  assert.match(svg, /embedded pair: all 1 claims held/);
  for (const [, line] of svg.matchAll(/<text [^>]*>([^<]*)</g)) assert.ok((line ?? '').length <= 130, line);
});

test('a claim that did not hold is in the picture', () => {
  const claims = [
    { claim: 'one', held: true },
    { claim: 'two', held: false },
  ];
  assert.match(picture({ embedded: true, seed: 7, told, claims }).svg, /1 of 2 claims did NOT hold/);
});

test('anything else is no picture', () => {
  assert.is.not(picture({ rounds: [] }).code, 0);
});

test('the picture that is shown was made by this script', () => {
  const svg = readFileSync('docs/demo.svg', 'utf8');
  assert.match(svg, /<title>The demo of remus-drbd on an embedded pair<\/title>/);
  assert.match(svg, /embedded pair: all \d+ claims held/);
});

test.run();
