/** `npm run sim`: what it prints, and with which exit code it ends; holes in what was crashed at fail it. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { spawnSync } from 'node:child_process';
import { ALL_EFFECTS, Coverage, PLACES } from '../../src/sim/coverage.js';

const test = suite('simulator as a program');

function sim(...words: string[]): { code: number | null; stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    ['--import', 'tsx', 'src/sim/main.ts', ...words],
    { encoding: 'utf8' },
  );
  return { code: status, stdout, stderr };
}

test('a short run leaves places where nothing died: they are counted, printed, and fail it', () => {
  const { code, stdout } = sim('--seed', '1', '--steps', '1', '--run-steps', '5000');
  assert.is(code, 1, stdout);
  assert.match(stdout, /^first seed 1, 1 steps\n1 seeds, \d+ episodes of faults, /);
  const count = Number(/never crashed at: (\d+)$/m.exec(stdout)?.[1]);
  const holes = [...stdout.matchAll(/^never crashed at: (.+)$/gm)].map(([, place]) => place);
  assert.ok(count > 0);
  assert.is(holes.length, count);
  for (const hole of holes) assert.ok(PLACES.includes(hole ?? ''), hole);
});

test('holes that are allowed do not fail it', () => {
  const { code, stdout } = sim('--seed', '1', '--steps', '1', '--run-steps', '5000', '--no-holes');
  assert.is(code, 0, stdout);
  assert.match(stdout, /^never crashed at: \S/m);
});

test('with a trace it tells what happens', () => {
  const { code, stdout } = sim('--seed', '1', '--run-steps', '2000', '--trace');
  assert.is(code, 0, stdout);
  assert.match(stdout, /term 1 from alpha to beta/);
});

for (const words of [['--seed', 'x'], ['--steps', '1.5'], ['--run-steps', '-1'], ['--what'], ['more']]) {
  test(`wrong usage: ${words.join(' ')}`, () => {
    const { code, stdout, stderr } = sim(...words);
    assert.is(code, 2);
    assert.is(stdout, '');
    assert.match(stderr, /^sim: .+\n/);
    assert.not.match(stderr, /^ +at /m);
  });
}

test('a place is a hole until something has died there, and so is one of an effect that nobody has listed', () => {
  const coverage = new Coverage();
  assert.equal(coverage.holes(), PLACES);
  for (const effect of ALL_EFFECTS) {
    const [role = '', ...rest] = effect.split(' ');
    coverage.effect(role, rest.join(' '));
    for (const when of ['before', 'after']) coverage.crash(role, rest.join(' '), when);
  }
  assert.equal(coverage.holes(), []);
  coverage.effect('sender', 'new');
  assert.equal(coverage.holes(), ['sender new before', 'sender new after']);
});

test.run();
