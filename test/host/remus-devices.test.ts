import { suite } from 'uvu';
import * as assert from 'uvu/assert';

import { lvPath, mapperPath, volumeName } from '../../src/core/names.js';
import type { Result, Shell } from './hosttree.js';
import { HostTree, shells } from './hosttree.js';

const file = [
  '# made by a test',
  '0 remus-web-0 /dev/vg0/remus-web-0',
  '1 remus-web-1 /dev/vg0/data',
  '15 remus-web-barrier /dev/vg0/remus-web-barrier',
].join('\n');
const tables = {
  'remus-web-0': '0 8184 linear 253:16 0',
  'remus-web-1': '0 8184 linear 253:17 0',
  'remus-web-barrier': '0 8184 linear 253:18 0',
};
const names = Object.keys(tables) as (keyof typeof tables)[];
const active = 'var/lib/remus-drbd/web/journal-active';
const hook = 'usr/lib/remus-drbd/journal-recover';

class Host extends HostTree {
  readonly script = this.install('remus-devices', 'usr/lib/remus-drbd/remus-devices');

  constructor(readonly shell: Shell) {
    super();
    this.write('etc/remus-drbd/devices/web', `${file}\n`);
    // The numbers are in hex, as stat has them.
    this.write('dev/vg0/remus-web-0', 'fd:10\n');
    this.write('dev/vg0/data', 'fd:11\n');
    this.write('dev/vg0/remus-web-barrier', 'fd:12\n');
    this.write('proc/drbd', 'version: 8.4.11 (api:1/proto:86-101)\n');
    this.answer('blockdev', 'echo 8192');
    this.answer('drbdadm-sh-ip', 'echo 10.0.0.1; echo 10.0.0.1');
    this.answer('ip', 'echo "3: eth1 inet 10.0.0.1/24 scope global eth1"');
  }

  call(command: string, domain = 'web'): Result {
    return this.run(this.shell, this.script, [command, domain]);
  }

  ok(command: string): void {
    const result = this.call(command);
    assert.is(result.status, 0, result.stderr);
  }

  fails(command: string, status: number, like: RegExp): void {
    const result = this.call(command);
    assert.is(result.status, status, result.stderr);
    assert.match(result.stderr, like);
  }

  table(name: string, table: string): void {
    this.write(`dm/${name}/table`, table);
  }

  mapped(): void {
    for (const name of names) assert.is(this.read(`dm/${name}/table`), tables[name]);
  }

  /** What was changed, in order. */
  changes(): string[] {
    return this.calls().filter((call) =>
      /^(dmsetup (create|load|resume|remove)|lvchange|modprobe|drbdadm (?!sh-ip)|hook)/.test(call),
    );
  }

  journal(answer: string): void {
    this.write(active, '');
    // The hook is called by its path, so there it is a line that calls the fake, which records.
    this.fake('fake-tool', ['journal-recover']);
    this.program(hook, `#!/bin/sh\nexec ${this.root}/usr/bin/journal-recover "$@"\n`);
    this.answer('journal-recover', answer);
  }
}

const creates = names.map((name) => {
  const lv = name === 'remus-web-1' ? 'data' : name;
  return `dmsetup create ${name} --table 0 8184 linear /dev/vg0/${lv} 0`;
});
const removes = names.map((name) => `dmsetup remove --retry ${name}`);

for (const shell of shells) {
  const test = suite(`remus-devices under ${shell.name}`);
  const on = (name: string, body: (host: Host) => void): void => {
    test(name, () => {
      const host = new Host(shell);
      try {
        body(host);
      } finally {
        host.close();
      }
    });
  };

  on('the test has the names that setup gives', () => {
    assert.equal(
      [0, 1, 15].map((volume) => volumeName('web', volume)),
      names,
    );
    assert.is(mapperPath('a'), '/dev/mapper/a');
    assert.is(lvPath('vg0', 'data'), '/dev/vg0/data');
  });

  on('map makes what is missing, and the second time nothing', (host) => {
    host.ok('map');
    assert.equal(host.changes(), creates);
    host.mapped();
    host.forgetCalls();
    host.ok('map');
    assert.equal(host.changes(), []);
  });

  on('map goes on after a run that was cut short', (host) => {
    host.table('remus-web-0', tables['remus-web-0']);
    host.table('remus-web-1', ''); // created, its table not loaded yet
    host.ok('map');
    assert.equal(host.changes(), [
      'dmsetup load remus-web-1 --table 0 8184 linear /dev/vg0/data 0',
      'dmsetup resume remus-web-1',
      creates[2],
    ]);
    host.mapped();
  });

  on('map leaves a receiver’s device alone and says so', (host) => {
    host.table('remus-web-1', '0 8184 linear 43:32 0');
    const result = host.call('map');
    assert.is(result.status, 0);
    assert.match(result.stderr, /remus-web-1: held by a receiver \(0 8184 linear 43:32 0\); left alone/);
    assert.equal(host.changes(), [creates[0], creates[2]]);
  });

  for (const table of [
    '0 8184 linear 253:99 0',
    '0 8184 linear 253:17 8',
    '0 4096 linear 253:17 0',
    '0 8184 linear 2534:17 0',
    '0 8184 linear 430:17 0',
    '0 8184 linear 253:170 0',
    '0 8192 striped 2 128 43:0 0 43:1 0',
    '0 4096 linear 253:17 0\n4096 4096 linear 43:0 0',
    '0 8192 error',
  ]) {
    on(`map refuses the table ${JSON.stringify(table)}`, (host) => {
      host.table('remus-web-1', table);
      host.fails('map', 1, /remus-web-1: its table is '0 [^]*'; needed is '0 8184 linear 253:17 0'/);
      assert.equal(host.changes(), [creates[0]]);
      assert.is(host.read('dm/remus-web-1/table'), table);
    });
  }

  on('map does not wake a suspended device up', (host) => {
    host.table('remus-web-0', tables['remus-web-0']);
    host.write('dm/remus-web-0/suspended', 'Suspended');
    host.fails('map', 1, /remus-web-0: is suspended[^]*dmsetup resume remus-web-0/);
    assert.equal(host.changes(), []);
  });

  on('map says what dmsetup said', (host) => {
    host.answer('dmsetup-table', 'echo "Incompatible libdevmapper" >&2; exit 1');
    host.fails('map', 1, /remus-web-0: dmsetup table failed: Incompatible libdevmapper/);
    assert.equal(host.changes(), []);
  });

  on('map says which create failed', (host) => {
    host.answer('dmsetup-create', 'case $2 in *-1) exit 1 ;; esac');
    host.fails('map', 1, /remus-web-1: dmsetup create failed; needed is the table '0 8184 linear 253:17 0'/);
    host.remove('answers/dmsetup-create');
    host.ok('map');
    host.mapped();
  });

  on('map waits for a late volume, and activates it', (host) => {
    host.remove('dev/vg0/data');
    host.answer('udevadm', '[ $n -lt 3 ] || echo fd:11 >"$root/dev/vg0/data"');
    host.ok('map');
    assert.equal(host.changes(), ['lvchange -ay /dev/vg0/data', ...creates]);
  });

  on('map gives a volume up that never comes; nothing is half done', (host) => {
    host.remove('dev/vg0/data');
    host.answer('lvchange', 'echo "Volume group vg0 not found" >&2; exit 5');
    host.fails(
      'map',
      1,
      /remus-web-1: \/dev\/vg0\/data has not come up in 60 s \(Volume group vg0 not found\)/,
    );
    assert.equal(host.changes(), ['lvchange -ay /dev/vg0/data']);
  });

  for (const size of ['', '0', 'x', '-1', '1 2']) {
    on(`map refuses the size ${JSON.stringify(size)}`, (host) => {
      host.answer('blockdev', `echo "${size}"`);
      host.fails('map', 1, /blockdev --getsz .* said '.*'; needed is a number of sectors/);
      assert.equal(host.changes(), []);
    });
  }

  on('map refuses what is no block device', (host) => {
    host.write('dev/vg0/data', '0:0\n');
    host.fails('map', 1, /remus-web-1: \/dev\/vg0\/data is no block device/);
  });

  // The file.

  const bad: [text: string, like: RegExp][] = [
    ['', /no volumes in it/],
    ['# only\n\n', /no volumes in it/],
    ['0 remus-web-0', /line 1: 2 words/],
    ['0 remus-web-0 /dev/vg0/a b', /line 1: 4 words/],
    ['16 remus-web-16 /dev/vg0/a', /line 1: '16' is no volume/],
    ['00 remus-web-00 /dev/vg0/a', /line 1: '00' is no volume/],
    ['x remus-web-x /dev/vg0/a', /line 1: 'x' is no volume/],
    ['0 remus-web-1 /dev/vg0/a', /line 1: the name of volume 0 is 'remus-web-1'; needed is remus-web-0/],
    ['0 remus-other-0 /dev/vg0/a', /needed is remus-web-0/],
    ['15 remus-web-15 /dev/vg0/a', /needed is remus-web-barrier/],
    ['0 remus-web-0 /dev/vg0/a\n0 remus-web-0 /dev/vg0/b', /line 2: volume 0 is there twice/],
    ['0 remus-web-0 /dev/vg0/a\n1 remus-web-1 /dev/vg0/a', /line 2: \/dev\/vg0\/a is there twice/],
    ['0 remus-web-0 vg0/a', /no path of a device/],
    ['0 remus-web-0 /etc/passwd', /no path of a device/],
    ['0 remus-web-0 /dev/', /no plain path/],
    ['0 remus-web-0 /dev/vg0/../sda', /no plain path/],
    ['0 remus-web-0 /dev/vg0/..', /no plain path/],
    ['0 remus-web-0 /dev//sda', /no plain path/],
    ['0 remus-web-0 /dev/mapper/remus-web-0', /can't be on itself/],
    ['0 remus-web-0 /dev/vg0/$(reboot)', /line 1: a character/],
    ['0 remus-web-0 /dev/vg0/`reboot`', /line 1: a character/],
    ['0 remus-web-0 /dev/vg0/a;reboot', /line 1: a character/],
    ['0 remus-web-0 /dev/vg0/a&', /line 1: a character/],
    ['0 remus-web-0 /dev/vg0/*', /line 1: a character/],
    ['0 remus-web-0 "/dev/vg0/a"', /line 1: a character/],
    ["0 remus-web-0 '/dev/vg0/a'", /line 1: a character/],
    ['0 remus-web-0 /dev/vg0/a\\', /line 1: a character/],
    ['0\tremus-web-0\t/dev/vg0/a', /line 1: a character/],
    ['0 remus-web-0 /dev/vg0/a\r', /line 1: a character/],
    ['0 remus-web-0 /dev/vg0/é', /line 1: a character/],
    ['0 remus-web-0 /dev/vg0/a\n$(touch /tmp/x)', /line 2: a character/],
    ['root=/tmp', /line 1: a character/],
  ];
  for (const [text, like] of bad) {
    on(`refuses the file ${JSON.stringify(text)}`, (host) => {
      host.write('etc/remus-drbd/devices/web', text);
      for (const command of ['map', 'unmap', 'up', 'down']) host.fails(command, 2, like);
      assert.equal(host.calls(), []);
    });
  }

  on('reads a file without a last newline', (host) => {
    host.write('etc/remus-drbd/devices/web', file);
    host.ok('map');
    host.mapped();
  });

  on('refuses without the file', (host) => {
    host.remove('etc/remus-drbd/devices/web');
    host.fails('up', 2, /devices\/web: needed is a readable file/);
    assert.equal(host.calls(), []);
  });

  on('refuses other domain names and commands', (host) => {
    host.write('etc/remus-drbd/web', `${file}\n`);
    host.write(`etc/remus-drbd/devices/${'w'.repeat(49)}`, `${file}\n`);
    const strange = [
      '',
      '../web',
      'web/',
      '-web',
      '.',
      '1web',
      'web\\x2d1',
      'we b',
      'web;',
      '$(x)',
      'wéb',
      'w'.repeat(49),
    ];
    for (const domain of strange) assert.is(host.call('map', domain).status, 2, domain);
    assert.is(host.call('start').status, 2);
    assert.is(host.run(shell, host.script, ['map']).status, 2);
    assert.is(host.run(shell, host.script, ['map', 'web', 'web']).status, 2);
    assert.equal(host.calls(), []);
  });

  on('a domain with dashes and dots', (host) => {
    host.write('etc/remus-drbd/devices/web-1.a', '0 remus-web-1.a-0 /dev/vg0/data\n');
    assert.is(host.call('up', 'web-1.a').status, 0);
    assert.equal(host.changes(), [
      'dmsetup create remus-web-1.a-0 --table 0 8184 linear /dev/vg0/data 0',
      'drbdadm adjust web-1.a',
    ]);
  });

  on('one at a time for one domain', (host) => {
    host.answer('flock', 'exit 1');
    host.fails('up', 1, /another remus-devices has held .*remus-devices\.web for 60 s/);
    assert.equal(host.changes(), []);
  });

  // up and down.

  on('up maps and adjusts; the second time it only adjusts', (host) => {
    host.ok('up');
    assert.equal(host.changes(), [...creates, 'drbdadm adjust web']);
    host.forgetCalls();
    host.ok('up');
    assert.equal(host.changes(), ['drbdadm adjust web']);
  });

  on('up loads the module where it is missing', (host) => {
    host.remove('proc/drbd');
    host.ok('up');
    assert.equal(host.changes(), [...creates, 'modprobe drbd', 'drbdadm adjust web']);
    host.answer('modprobe', 'exit 1');
    host.fails('up', 1, /module drbd can't be loaded; the devices are mapped/);
  });

  on('up says what adjust said', (host) => {
    host.answer('drbdadm-adjust', 'exit 20');
    host.fails('up', 1, /drbdadm adjust failed with status 20; the devices are mapped/);
  });

  on('up attaches nothing when a device is wrong', (host) => {
    host.table('remus-web-1', '0 8192 error');
    host.fails('up', 1, /its table is '0 8192 error'/);
    assert.equal(host.callsOf('drbdadm'), []);
  });

  on('up waits for its own address, with a bound', (host) => {
    host.answer('ip', '[ $n -lt 3 ] || echo yes');
    host.ok('up');
    assert.equal(host.callsOf('ip')[0], 'ip -o address show to 10.0.0.1');
    assert.is(host.callsOf('ip').length, 3);
    host.answer('ip', '');
    const result = host.call('up');
    assert.is(result.status, 0);
    assert.match(result.stderr, /address 10\.0\.0\.1 is not on this host after 30 s/);
    assert.match(host.changes().join('\n'), /drbdadm adjust web$/);
  });

  on('up does not wait for an address it does not know', (host) => {
    for (const answer of ['exit 1', 'echo "; reboot"', 'true']) {
      host.answer('drbdadm-sh-ip', answer);
      host.ok('up');
    }
    assert.equal(host.callsOf('ip'), []);
  });

  // The journal.

  on('up recovers an active journal before DRBD sees the devices', (host) => {
    host.journal('/bin/rm "$root/var/lib/remus-drbd/web/journal-active"');
    host.ok('up');
    const calls = host.calls();
    const recovered = calls.indexOf('journal-recover web');
    assert.ok(recovered >= 0);
    assert.ok(recovered < calls.indexOf(creates[0]!));
    assert.ok(calls.indexOf(creates[2]!) < calls.indexOf('drbdadm adjust web'));
  });

  const lost: [name: string, set: (host: Host) => void, like: RegExp][] = [
    ['there is no hook', (host) => host.write(active, ''), /no\n.*journal-recover to recover them/],
    ['the hook fails', (host) => host.journal('exit 7'), /journal-recover failed with status 7/],
    ['the hook leaves the file', (host) => host.journal('exit 0'), /journal-active is still there/],
    [
      'the hook leaves a link that leads nowhere',
      (host) => host.journal('/bin/ln -sf /nonexistent/x "$root/var/lib/remus-drbd/web/journal-active"'),
      /journal-active is still there/,
    ],
    [
      'the file is a link that leads nowhere',
      (host) => {
        host.write('var/lib/remus-drbd/web/x', '');
        host.link(active, '/nonexistent/x');
      },
      /Refusing to attach DRBD/,
    ],
  ];
  for (const [name, set, like] of lost) {
    on(`up refuses to attach the bare volumes when ${name}`, (host) => {
      set(host);
      host.fails('up', 3, like);
      assert.equal(host.changes(), []);
    });
  }

  on('up never recovers a journal that a receiver has', (host) => {
    host.journal('exit 0');
    for (const name of names) host.table(name, '0 8184 linear 43:32 0');
    host.write('dm/remus-web-0/open', '2');
    const result = host.call('up');
    assert.is(result.status, 0, result.stderr);
    assert.match(result.stderr, /journal belongs to a receiver/);
    assert.equal(host.callsOf('journal-recover'), []);
    assert.equal(host.changes(), ['drbdadm adjust web']);
  });

  on('up never recovers a journal below devices that are in use', (host) => {
    host.journal('exit 0');
    for (const name of names) host.table(name, tables[name]);
    host.write('dm/remus-web-1/open', '1');
    host.fails('up', 3, /these devices are open: remus-web-1\. Refusing to recover/);
    assert.equal(host.callsOf('journal-recover'), []);
    assert.equal(host.changes(), []);
  });

  on('up refuses when it can’t tell who uses the devices', (host) => {
    host.journal('exit 0');
    host.table('remus-web-0', tables['remus-web-0']);
    host.write('dm/remus-web-0/open', 'many');
    host.fails('up', 1, /dmsetup info said 'many'[^]*nothing was attached/);
    assert.equal(host.callsOf('journal-recover'), []);
  });

  on('down takes everything away; the second time nothing', (host) => {
    host.ok('up');
    host.forgetCalls();
    host.ok('down');
    assert.equal(host.changes(), ['drbdadm down web', ...removes]);
    host.forgetCalls();
    host.ok('down');
    assert.equal(host.changes(), ['drbdadm down web']);
  });

  on('down without the module only unmaps', (host) => {
    host.ok('map');
    host.remove('proc/drbd');
    host.forgetCalls();
    host.ok('down');
    assert.equal(host.changes(), removes);
  });

  on('down waits for a guest’s backend to let go', (host) => {
    host.ok('map');
    host.answer(
      'drbdadm-down',
      '[ $n -gt 3 ] || { echo "0: State change failed: (-12) Device is held open" >&2; exit 11; }',
    );
    host.ok('down');
    assert.match(host.changes().join('\n'), /dmsetup remove --retry remus-web-barrier$/);
  });

  on('down leaves everything where DRBD is in use', (host) => {
    host.ok('map');
    host.forgetCalls();
    host.answer(
      'drbdadm-down',
      'echo "0: State change failed: (-12) Device is held open by someone" >&2; exit 11',
    );
    host.fails('down', 1, /drbdadm down failed: .*held open by someone.*left mapped/);
    assert.equal(host.callsOf('dmsetup'), []);
    host.answer('drbdadm-down', 'echo "config broken" >&2; exit 20');
    host.forgetCalls();
    host.fails('down', 1, /config broken/);
    assert.equal(host.callsOf('sleep'), []);
  });

  on('unmap refuses a receiver’s device and one that is not ours', (host) => {
    host.table('remus-web-0', '0 8184 linear 43:32 0');
    host.fails('unmap', 3, /remus-web-0: refusing to remove it: a receiver holds it/);
    host.table('remus-web-0', '0 8184 linear 253:99 0');
    host.fails('unmap', 3, /remus-web-0: refusing to remove it: its table is '0 8184 linear 253:99 0'/);
    assert.equal(host.changes(), []);
  });

  on('unmap takes away what was half made, or has another length since', (host) => {
    host.table('remus-web-0', '');
    host.table('remus-web-1', '0 4096 linear 253:17 0');
    host.ok('unmap');
    assert.equal(host.changes(), [removes[0], removes[1]]);
    assert.not(host.has('dm/remus-web-1'));
  });

  on('unmap needs no volume where there is no device', (host) => {
    host.remove('dev/vg0');
    host.ok('unmap');
  });

  on('unmap says which device is in use', (host) => {
    host.ok('map');
    host.write('dm/remus-web-1/open', '1');
    host.fails('unmap', 1, /remus-web-1: dmsetup remove failed; it was left as it is/);
    host.write('dm/remus-web-1/open', '0');
    host.ok('unmap');
    assert.not(host.has('dm/remus-web-barrier'));
  });

  test.run();
}
