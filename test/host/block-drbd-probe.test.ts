import { suite } from 'uvu';
import * as assert from 'uvu/assert';

import { HostTree, shells } from './hosttree.js';

const line = (rest: string): string =>
  `version: 8.4.11 (api:1/proto:86-101)\nsrcversion: 0\n 7: cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate D r-----\n${rest}\n`;

/** Every exit code that the script documents, from what /proc/drbd says of minor 3. */
const cases: [name: string, code: number, proc: string, says: RegExp][] = [
  ['ready', 0, line(' 3: cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate D r-----'), /^$/],
  ['both promoted', 0, line(' 3: cs:Connected ro:Primary/Primary ds:UpToDate/UpToDate D r-----'), /^$/],
  [
    'protocol C',
    3,
    line(' 3: cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate C r-----'),
    /protocol C/,
  ],
  [
    'protocol A, not connected',
    3,
    line(' 3: cs:WFConnection ro:Primary/Unknown ds:UpToDate/DUnknown A r-----'),
    /A/,
  ],
  ['DRBD 9', 3, 'version: 9.2.8 (api:2/proto:86-121)\n', /no protocol D/],
  [
    'waits for its peer',
    4,
    line(' 3: cs:WFConnection ro:Primary/Unknown ds:UpToDate/DUnknown D r-----'),
    /WFConnection/,
  ],
  [
    'resyncs',
    4,
    line(' 3: cs:SyncSource ro:Primary/Secondary ds:UpToDate/Inconsistent D r-----'),
    /SyncSource/,
  ],
  [
    'without a connection',
    4,
    line(' 3: cs:StandAlone ro:Primary/Unknown ds:UpToDate/DUnknown   r-----'),
    /StandAlone/,
  ],
  [
    'secondary here',
    4,
    line(' 3: cs:Connected ro:Secondary/Primary ds:UpToDate/UpToDate D r-----'),
    /Primary here/,
  ],
  ['not configured', 4, line(' 3: cs:Unconfigured'), /not configured/],
  [
    'another minor',
    4,
    line('33: cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate D r-----'),
    /no minor 3/,
  ],
  [
    'a line that is not understood',
    2,
    line(' 3: cs:Connected st:Primary ds:UpToDate D r-----'),
    /not understood/,
  ],
  [
    'an unknown version',
    2,
    'version: 10.0.0\n 3: cs:Connected ro:Primary/Secondary ds:U/U D r---\n',
    /10\.0\.0/,
  ],
  ['an empty file', 2, '', /could not be read/],
];

for (const shell of shells) {
  const test = suite(`block-drbd-probe under ${shell.name}`);
  const on = (name: string, body: (host: HostTree, script: string) => void): void => {
    test(name, () => {
      const host = new HostTree();
      host.write('dev/drbd3', '93:3\n');
      try {
        body(host, host.install('block-drbd-probe', 'etc/xen/scripts/block-drbd-probe'));
      } finally {
        host.close();
      }
    });
  };

  for (const [name, code, proc, says] of cases) {
    on(`${name}: ${code}`, (host, script) => {
      host.write('proc/drbd', proc);
      const result = host.run(shell, script, [`${host.root}/dev/drbd3`]);
      assert.is(result.status, code, result.stderr);
      assert.match(result.stderr, says);
      assert.equal(host.calls().length, 1); // stat
    });
  }

  on('a minor is read in hex', (host, script) => {
    host.write('dev/drbd7790', '93:1e6e\n');
    host.write('proc/drbd', line('7790: cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate D r-----'));
    assert.is(host.run(shell, script, [`${host.root}/dev/drbd7790`]).status, 0);
  });

  on('not a DRBD device: 1', (host, script) => {
    host.write('proc/drbd', line(' 3: cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate D r-----'));
    host.write('dev/sda3', '8:3\n');
    for (const device of [
      `${host.root}/dev/sda3`,
      `${host.root}/dev/nothing`,
      'web',
      'web/0',
      '-x',
      '$(reboot)',
    ]) {
      const result = host.run(shell, script, [device]);
      assert.is(result.status, 1, device);
      assert.match(result.stderr, /not a DRBD device/);
    }
  });

  on('unknown errors: 2', (host, script) => {
    assert.is(host.run(shell, script, [`${host.root}/dev/drbd3`]).status, 2, 'no /proc/drbd');
    assert.is(host.run(shell, script, []).status, 2, 'no argument');
    assert.is(host.run(shell, script, ['']).status, 2, 'an empty argument');
    assert.is(host.run(shell, script, ['/dev/a', '/dev/b']).status, 2, 'two arguments');
    host.answer('stat', 'exit 1');
    assert.is(host.run(shell, script, [`${host.root}/dev/drbd3`]).status, 2, 'stat failed');
  });

  test.run();
}
