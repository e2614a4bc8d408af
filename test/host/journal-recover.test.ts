/** The hook of `remus-devices up`: it hands its domain to the bundle, and the bundle's exit status back. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';

import { Paths } from '../../src/core/names.js';
import { shells } from './hosttree.js';

const test = suite('journal-recover');
const script = readFileSync('scripts/host/journal-recover', 'utf8');

test('it is where remus-devices looks for it, and names the bundle that setup installs', () => {
  assert.match(readFileSync('scripts/host/remus-devices', 'utf8'), `${Paths.lib}/journal-recover`);
  assert.match(script, `exec node ${Paths.bundle} journal recover-domain "$@"\n`);
});

for (const shell of shells) {
  test(`${shell.name}: arguments and exit status are passed on`, () => {
    const folder = mkdtempSync(join(tmpdir(), 'journal-recover-'));
    try {
      const seen = join(folder, 'seen');
      writeFileSync(join(folder, 'node'), `#!/bin/sh\nprintf '%s\\n' "$@" >'${seen}'\nexit 3\n`, {
        mode: 0o755,
      });
      const [program = '', ...args] = shell.command;
      const done = spawnSync(program, [...args, resolve('scripts/host/journal-recover'), 'web'], {
        env: { PATH: folder },
        timeout: 60_000,
      });
      assert.is(done.status, 3);
      assert.equal(readFileSync(seen, 'utf8').split('\n'), [
        Paths.bundle,
        'journal',
        'recover-domain',
        'web',
        '',
      ]);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
}

test.run();
