/* eslint-disable no-console -- a skipped test says so */
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';

import { Paths, unitName } from '../../src/core/names.js';

const test = suite('host scripts and units, with the tools for them');
const scripts = readdirSync('scripts/host').map((name) => join('scripts/host', name));
const unit = readFileSync('templates/units/remus-drbd@.service', 'utf8');

/** Without the tool: one line here, a failure in CI. */
function needs(tool: string, body: () => void): () => void {
  return () => {
    const there = (process.env['PATH'] ?? '')
      .split(':')
      .some((directory) => existsSync(join(directory, tool)));
    if (there) return body();
    if (process.env['CI'] === 'true')
      throw new Error(`${tool} is missing; scripts/install-tools installs it`);
    console.log(`skipped: ${tool} is not installed`);
  };
}

function run(program: string, args: string[]): { status: number | null; output: string } {
  const done = spawnSync(program, args, { encoding: 'utf8', timeout: 60_000 });
  if (done.error) throw done.error;
  return { status: done.status, output: done.stdout + done.stderr };
}

test('there are scripts to look at', () => assert.ok(scripts.length >= 3));

for (const script of scripts) {
  test(
    `${script} is clean for ShellCheck`,
    needs('shellcheck', () => {
      const result = run('shellcheck', ['-s', 'sh', script]);
      assert.is(result.status, 0, result.output);
    }),
  );
  for (const [shell, ...args] of [['dash'], ['busybox', 'sh']] as [string, ...string[]][]) {
    test(
      `${shell} can read ${script}`,
      needs(shell, () => {
        const result = run(shell, [...args, '-n', script]);
        assert.is(result.status, 0, result.output);
      }),
    );
  }
}

test(
  'systemd finds nothing wrong with the unit, also for a guest with dashes in its name',
  needs('systemd-analyze', () => {
    const root = mkdtempSync(join(tmpdir(), 'remus-unit-'));
    try {
      // The program and the units it names have to be there.
      const program = join(root, 'remus-devices');
      writeFileSync(program, '#!/bin/sh\n');
      chmodSync(program, 0o755);
      const units = join(root, 'units');
      mkdirSync(units);
      const text = unit.replaceAll(Paths.devicesScript, program).replace(/^Documentation=.*\n/m, '');
      for (const name of ['remus-drbd@.service', unitName('web'), unitName('web-1.a')]) {
        writeFileSync(join(units, name), text);
        const result = run('systemd-analyze', ['verify', '--man=no', join(units, name)]);
        assert.is(result.output, '', name);
        assert.is(result.status, 0, name);
      }
      writeFileSync(join(units, 'broken@.service'), text.replace('oneshot', 'twoshot'));
      assert.match(
        run('systemd-analyze', ['verify', '--man=no', join(units, 'broken@.service')]).output,
        /twoshot/,
      );
    } finally {
      rmSync(root, { recursive: true, force: true });
    }
  }),
);

test(
  'a guest’s name is a systemd instance as it is, and would not be one when escaped',
  needs('systemd-escape', () => {
    const escaped = run('systemd-escape', ['--template=remus-drbd@.service', 'web-1']).output.trim();
    assert.is(escaped, 'remus-drbd@web\\x2d1.service');
    assert.is(unitName('web-1'), 'remus-drbd@web-1.service');
    // %I of that unit: what the unit must not use.
    assert.is(
      run('systemd-escape', ['--unescape', '--instance', 'remus-drbd@web-1.service']).output.trim(),
      'web/1',
    );
    assert.not.match(unit.replace(/^#.*$/gm, ''), /%I/);
  }),
);

test('the unit names what is on a host', () => {
  assert.match(unit, new RegExp(`^ExecStart=${Paths.devicesScript} up %i$`, 'm'));
  assert.match(unit, new RegExp(`^ExecStop=${Paths.devicesScript} down %i$`, 'm'));
  assert.match(unit, new RegExp(`^ConditionPathExists=${Paths.devices}/%i$`, 'm'));
  assert.match(unit, /^Before=.*\bxendomains\.service\b.*\bdrbd\.service$/m);
});

test.run();
