import { suite } from 'uvu';
import * as assert from 'uvu/assert';

import type { Result, Shell } from './hosttree.js';
import { HostTree, shells } from './hosttree.js';

/** DRBD as the fakes show it: [volume, minor, role, disk]. */
type Volume = [volume: number, minor: number, role: string, disk: string];

const disk = 'backend/vbd/7/51712';
const secondary: Volume[] = [
  [0, 7790, 'Secondary', 'UpToDate'],
  [1, 7791, 'Secondary', 'UpToDate'],
  [15, 7805, 'Secondary', 'UpToDate'],
];
const primary = secondary.map(([volume, minor, , state]): Volume => [volume, minor, 'Primary', state]);
const promote = 'drbdadm primary web';
const demote = 'drbdadm secondary web';

class Host extends HostTree {
  readonly script = this.install('block-drbd', 'etc/xen/scripts/block-drbd');

  constructor(readonly shell: Shell) {
    super();
    this.guest(disk, 'web/0');
    this.drbd(primary);
    this.ours();
    this.answer('drbdadm-primary', this.becomes(primary));
    this.answer('drbdadm-secondary', this.becomes(secondary));
  }

  ours(): void {
    const lines = [0, 1, 15].map((volume) => `${volume} remus-web-${volume} /dev/vg0/remus-web-${volume}\n`);
    this.write('etc/remus-drbd/devices/web', `# VOLUME NAME LV\n${lines.join('')}`);
    this.write('run/remus-drbd/web/session', '');
  }

  foreign(): void {
    this.remove('etc/remus-drbd');
    this.remove('run/remus-drbd');
  }

  guest(path: string, target: string, more: Record<string, string> = {}): void {
    const values = {
      type: 'phy',
      params: target,
      mode: 'w',
      state: '2',
      'frontend-id': path.split('/')[2]!,
      ...more,
    };
    this.setXenstore(
      Object.fromEntries(Object.entries(values).map(([key, value]) => [`${path}/${key}`, value])),
    );
  }

  /** The resource is in this state now. */
  drbd(volumes: Volume[], version = '8.4.11', name = 'web'): void {
    for (const [path, text] of drbdFiles(volumes, version, name)) this.write(path, text);
    for (const [, minor] of volumes) {
      this.write(`sys/class/block/drbd${minor}/dev`, `147:${minor}\n`);
      this.write(`dev/drbd${minor}`, '');
    }
    this.answer('drbdsetup', 'cat "$root/events2"');
  }

  /** A piece of shell with which a fake program puts the resource into this state. */
  becomes(volumes: Volume[], version = '8.4.11', name = 'web'): string {
    const files = drbdFiles(volumes, version, name);
    return files.map(([path, text]) => `/bin/cat >"$root/${path}" <<'END'\n${text}END`).join('\n');
  }

  add(path = disk): Result {
    return this.run(this.shell, this.script, ['add'], xenbus(path));
  }

  removeDisk(path = disk): Result {
    return this.run(this.shell, this.script, ['remove'], xenbus(path));
  }

  log(): string {
    return this.read('var/log/xen/xen-hotplug.log');
  }

  /** `add` is refused with a reason like this one; nothing of the device was given out. */
  refused(like: RegExp, status = 'error'): void {
    const result = this.add();
    assert.is(result.status, 1, `it was not refused: ${result.stderr}`);
    assert.match(this.xenstore(`${disk}/hotplug-error`) ?? '', like);
    assert.is(this.xenstore(`${disk}/hotplug-status`), status);
    assert.is(this.xenstore(`${disk}/physical-device`), undefined);
    assert.match(this.log(), like);
    assert.match(this.callsOf('logger').join('\n'), like);
  }

  connected(path: string, minor: number): void {
    assert.is(this.xenstore(`${path}/hotplug-error`), undefined);
    assert.is(this.xenstore(`${path}/hotplug-status`), 'connected');
    assert.is(this.xenstore(`${path}/physical-device`), `93:${minor.toString(16)}`);
    assert.is(this.xenstore(`${path}/physical-device-path`), `${this.root}/dev/drbd${minor}`);
  }
}

function xenbus(path: string): Record<string, string> {
  return {
    XENBUS_PATH: path,
    XENBUS_TYPE: 'vbd',
    XENBUS_BASE_PATH: 'backend',
    script: '/etc/xen/scripts/block-drbd',
  };
}

/** As drbdsetup 9.22 and the modules print it. */
function drbdFiles(volumes: Volume[], version: string, name: string): [path: string, text: string][] {
  const role = volumes.some(([, , each]) => each === 'Primary') ? 'Primary' : 'Secondary';
  const proc = volumes.map(([, minor, each, state]) =>
    state === 'Unconfigured'
      ? `${minor}: cs:Unconfigured\n`
      : ` ${minor}: cs:Connected ro:${each}/Secondary ds:${state}/UpToDate A r-----\n` +
        `    ns:0 nr:0 dw:0 dr:664 al:0 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:f oos:0\n`,
  );
  const events = [
    `exists resource name:${name}2 role:Primary suspended:no`,
    `exists resource name:${name} role:${role} suspended:no`,
    `exists connection name:${name} peer-node-id:0 conn-name:peer connection:Connected role:Secondary`,
    ...volumes.map(
      ([volume, minor, , state]) =>
        `exists device name:${name} volume:${volume} minor:${minor} disk:${state === 'Unconfigured' ? 'Diskless' : state}`,
    ),
    ...volumes.map(
      ([volume]) => `exists peer-device name:${name} peer-node-id:0 volume:${volume} replication:Established`,
    ),
    'exists -',
  ];
  const header = `version: ${version} (api:1/proto:86-101)\nsrcversion: 0123456789ABCDEF\n\n`;
  return [
    [
      'proc/drbd',
      version.startsWith('9') ? `version: ${version} (api:2/proto:86-121)\n` : header + proc.join(''),
    ],
    ['events2', `${events.join('\n')}\n`],
  ];
}

/** drbdadm's and drbdsetup's words for a state change that DRBD refused. */
function stateChangeFailed(code: number, words: string): string {
  return `echo "7790: State change failed: (${code}) ${words}" >&2; echo "Command 'drbdsetup-84 primary 7790' terminated with exit code 11" >&2; exit 11`;
}

for (const shell of shells) {
  const test = suite(`block-drbd under ${shell.name}`);
  const on = (name: string, body: (host: Host) => void | Promise<void>): void => {
    test(name, async () => {
      const host = new Host(shell);
      try {
        await body(host);
      } finally {
        host.close();
      }
    });
  };

  on('adds a disk of a promoted resource, with these programs and no others', (host) => {
    const result = host.add();
    assert.is(result.status, 0, result.stderr);
    host.connected(disk, 7790);
    const programs = host.calls().map((call) => call.split(' ')[0]);
    assert.equal(programs, [
      'xenstore-ls',
      'mkdir', // only the first time after a boot
      'flock',
      'drbdsetup',
      'flock',
      'grep',
      'xenstore-ls',
      'xenstore-write',
      'logger',
    ]);
    assert.is(host.read('run/remus-drbd/web/attached'), '0 7\n');
    assert.match(host.log(), /web\/0 connected as .*\/dev\/drbd7790, was Primary/);
  });

  on('promotes, and looks whether it is so', (host) => {
    host.drbd(secondary);
    assert.is(host.add().status, 0);
    host.connected(disk, 7790);
    assert.equal(host.callsOf('drbdadm'), [promote]);
    assert.is(host.xenstore(`${disk}/drbd-promoted`), 'web');
    assert.match(host.log(), /promoted/);

    const other = new Host(shell);
    other.drbd(secondary);
    other.answer('drbdadm-primary', '');
    other.refused(/drbdadm primary succeeded, but volume 0 is Secondary/);
    other.close();
  });

  on('works with DRBD 9, where the resource has the role', (host) => {
    host.drbd(secondary, '9.2.8');
    host.answer('drbdadm-primary', host.becomes(primary, '9.2.8'));
    assert.is(host.add().status, 0);
    host.connected(disk, 7790);
    assert.equal(host.callsOf('drbdadm'), [promote]);
  });

  on('works with DRBD 8.3, which has no events', (host) => {
    const one: Volume[] = [[0, 7790, 'Secondary', 'UpToDate']];
    host.drbd(one, '8.3.11');
    host.answer('drbdsetup', 'exit 20');
    host.answer('drbdadm-sh-dev', 'echo /dev/drbd7790');
    host.answer('drbdadm-primary', host.becomes([[0, 7790, 'Primary', 'UpToDate']], '8.3.11'));
    assert.is(host.add().status, 0);
    host.connected(disk, 7790);
  });

  on('goes by the role of the volume, not by the highest role of the resource', (host) => {
    host.drbd([
      [0, 7790, 'Primary', 'UpToDate'],
      [1, 7791, 'Secondary', 'UpToDate'],
    ]);
    host.guest('backend/vbd/7/51728', 'web/1');
    assert.is(host.add('backend/vbd/7/51728').status, 0);
    assert.equal(host.callsOf('drbdadm'), [promote]);
    // What was promoted before is not this disk's to take back.
    assert.is(host.xenstore('backend/vbd/7/51728/drbd-promoted'), undefined);
  });

  on('called twice does nothing more', (host) => {
    assert.is(host.add().status, 0);
    const before = host.read('xenstore');
    host.forgetCalls();
    assert.is(host.add().status, 0);
    assert.equal(host.calls(), [`xenstore-ls -f ${disk}`]);
    assert.is(host.read('xenstore'), before);
  });

  on('takes the prefix of the old disk syntax', (host) => {
    host.setXenstore({ [`${disk}/params`]: 'drbd:web/1' });
    assert.is(host.add().status, 0);
    host.connected(disk, 7791);
  });

  on('connects a drive without a medium, and has nothing to remove', (host) => {
    host.setXenstore({ [`${disk}/type`]: '' });
    assert.is(host.add().status, 0);
    assert.is(host.xenstore(`${disk}/hotplug-status`), 'connected');
    assert.is(host.xenstore(`${disk}/physical-device`), undefined);
    host.forgetCalls();
    assert.is(host.removeDisk().status, 0);
    assert.equal(host.callsOf('drbdadm', 'drbdsetup'), []);
  });

  // The gate.

  for (const text of ['open', 'open\n', 'open since the failover of term 3\n']) {
    on(`gate ${JSON.stringify(text)} lets a copy start`, (host) => {
      host.write('run/remus-drbd/web/gate', text);
      assert.is(host.add().status, 0);
      host.connected(disk, 7790);
    });
  }

  const shut: { name: string; set: (host: Host) => void; like: RegExp }[] = [
    {
      name: 'shut',
      set: (host) => host.write('run/remus-drbd/web/gate', 'shut backup of alpha, term 3\n'),
      like: /the gate is shut \(backup of alpha, term 3\)/,
    },
    {
      name: 'shut without a reason',
      set: (host) => host.write('run/remus-drbd/web/gate', 'shut'),
      like: /shut/,
    },
    { name: 'empty', set: (host) => host.write('run/remus-drbd/web/gate', ''), like: /says ''/ },
    {
      name: 'another word',
      set: (host) => host.write('run/remus-drbd/web/gate', 'opened\n'),
      like: /'opened'/,
    },
    {
      name: 'the word on the second line',
      set: (host) => host.write('run/remus-drbd/web/gate', '\nopen\n'),
      like: /says ''/,
    },
    { name: 'a directory', set: (host) => host.write('run/remus-drbd/web/gate/file', ''), like: /says ''/ },
    {
      name: 'a link that leads nowhere',
      set: (host) => host.link('run/remus-drbd/web/gate', '/nonexistent/gate'),
      like: /says ''/,
    },
  ];
  for (const { name, set, like } of shut) {
    on(`gate ${name}: nothing is touched`, (host) => {
      host.drbd(secondary);
      set(host);
      host.refused(like);
      assert.equal(host.callsOf('drbdadm', 'drbdsetup'), []);
      // libxl calls remove after a failed add, and what somebody else has promoted has to stay so.
      host.drbd(primary);
      assert.is(host.removeDisk().status, 0);
      assert.equal(host.callsOf('drbdadm', 'drbdsetup'), []);
    });
  }

  on('a gate that shuts during the promotion still holds, and the promotion is taken back', (host) => {
    host.drbd(secondary);
    host.answer('drbdadm-primary', `${host.becomes(primary)}\necho shut >"$root/run/remus-drbd/web/gate"`);
    host.refused(/the gate is shut.*demoted again/);
    assert.equal(host.callsOf('drbdadm'), [promote, demote]);
    assert.is(host.xenstore(`${disk}/drbd-promoted`), undefined);
  });

  on('the gate of one guest is not another one’s', (host) => {
    host.write('run/remus-drbd/web2/gate', 'shut\n');
    host.write('var/lib/remus-drbd/web2/gate', 'shut\n');
    assert.is(host.add().status, 0);
  });

  // The gate that is still there after a restart of the host, when /run is empty.

  const lasting = 'var/lib/remus-drbd/web/gate';
  const restarted: [text: string, like: RegExp][] = [
    ['shut backup of alpha, term 3\n', /the gate is shut \(backup of alpha, term 3\)/],
    ['', /var\/lib\/remus-drbd\/web\/gate says ''/],
    ['opened\n', /says 'opened'/],
  ];
  for (const [text, like] of restarted) {
    on(`lasting gate ${JSON.stringify(text)}: nothing is touched`, (host) => {
      host.remove('run/remus-drbd');
      host.drbd(secondary);
      host.write(lasting, text);
      host.refused(like);
      assert.equal(host.callsOf('drbdadm', 'drbdsetup'), []);
    });
  }

  on('a lasting gate that is open lets a copy start, with no program more than without', (host) => {
    host.write(lasting, 'open\n');
    assert.is(host.add().status, 0);
    host.connected(disk, 7790);
    const other = new Host(shell);
    other.add();
    assert.equal(host.calls(), other.calls());
    other.close();
  });

  on('the gate of /run counts before the lasting one', (host) => {
    host.write('run/remus-drbd/web/gate', 'open\n');
    host.write(lasting, 'shut\n');
    assert.is(host.add().status, 0);
    host.connected(disk, 7790);
    const other = new Host(shell);
    other.write('run/remus-drbd/web/gate', 'shut now\n');
    other.write(lasting, 'open\n');
    other.refused(/the gate is shut \(now\)/);
    other.close();
  });

  on('a lasting gate that is a link to nowhere is not an absent one', (host) => {
    host.write('var/lib/remus-drbd/web/term.json', '');
    host.link(lasting, '/nonexistent/gate');
    host.refused(/says ''/);
  });

  on('a lasting gate that shuts during the promotion still holds', (host) => {
    host.drbd(secondary);
    host.write('var/lib/remus-drbd/web/term.json', '');
    host.answer('drbdadm-primary', `${host.becomes(primary)}\necho shut >"$root/${lasting}"`);
    host.refused(/the gate is shut.*demoted again/);
    assert.equal(host.callsOf('drbdadm'), [promote, demote]);
  });

  // Refusals.

  const targets: [target: string, like: RegExp][] = [
    ['', /no resource name/],
    ['/0', /no resource name/],
    ['-web', /no resource name/],
    ['--help', /no resource name/],
    ['../../etc/passwd', /no resource name/],
    ['.', /no resource name/],
    ['web;reboot', /no resource name/],
    ['$(reboot)', /no resource name/],
    ['web`reboot`', /no resource name/],
    ['web\\n', /no resource name/],
    ['web x', /no resource name/],
    ['*', /no resource name/],
    ['web"', /no resource name/],
    ['web/', /no volume number/],
    ['web/x', /no volume number/],
    ['web/-1', /no volume number/],
    ['web/00', /no volume number/],
    ['web/0/1', /no volume number/],
    ['web/$((1))', /no volume number/],
    ['web/999999', /no volume number/],
    ['web/15', /closes the epochs/],
    ['web/16', /closes the epochs/],
    ['web/2', /has no volume 2; it has 0 1 15/],
    ['web', /has several volumes: 0 1 15\. Name one/],
  ];
  for (const [target, like] of targets) {
    on(`refuses the target ${JSON.stringify(target)}`, (host) => {
      host.drbd(secondary);
      host.write('xenstore', '');
      host.guest(disk, target);
      host.refused(like);
      assert.equal(host.callsOf('drbdadm'), []);
    });
  }

  on('takes a resource’s only disk without its number; the barrier volume is none', (host) => {
    host.drbd([primary[0]!, primary[2]!]);
    host.setXenstore({ [`${disk}/params`]: 'web' });
    host.write('xenstore', host.read('xenstore').replace(`${disk}/params = "web/0"\n`, ''));
    assert.is(host.add().status, 0);
    host.connected(disk, 7790);
  });

  for (const state of [
    'Inconsistent',
    'Outdated',
    'Diskless',
    'Failed',
    'Detaching',
    'DUnknown',
    'Unconfigured',
    'Wonderful',
  ]) {
    on(`refuses at once to promote with a disk ${state}`, (host) => {
      host.drbd([
        [0, 7790, 'Secondary', 'UpToDate'],
        [1, 7791, 'Secondary', state],
      ]);
      const shown = state === 'Unconfigured' ? 'Diskless' : state;
      host.refused(new RegExp(`web/1: refusing to promote: its disk is ${shown}, UpToDate is required`));
      assert.equal(host.callsOf('drbdadm', 'sleep'), []);
    });
  }

  on('never refuses a resource that is Primary already for the state of its disks', (host) => {
    host.drbd([
      [0, 7790, 'Primary', 'UpToDate'],
      [1, 7791, 'Primary', 'Diskless'],
    ]);
    assert.is(host.add().status, 0);
  });

  on('refuses without the kernel module', (host) => {
    host.remove('proc/drbd');
    host.refused(/kernel module is not loaded/);
  });

  for (const answer of ['echo "exists -"', 'echo "web: No such resource" >&2; exit 10', 'exit 20']) {
    on(`refuses a resource that is not up (${answer})`, (host) => {
      host.answer('drbdsetup', answer);
      host.refused(/no such resource up.*systemctl status remus-drbd@web/);
      assert.equal(host.callsOf('drbdadm'), []);
    });
  }

  on('refuses without the device', (host) => {
    host.remove('dev/drbd7790');
    host.refused(/there is no .*\/dev\/drbd7790/);
  });

  on('refuses without the device in sysfs, and takes its promotion back', (host) => {
    host.drbd(secondary);
    host.remove('sys/class/block/drbd7790/dev');
    host.refused(/there is no .*\/dev\/drbd7790 \(demoted again\)/);
    assert.equal(host.callsOf('drbdadm'), [promote, demote]);
  });

  on('refuses an unknown type of disk', (host) => {
    host.write('xenstore', '');
    host.guest(disk, 'web/0', { type: 'file' });
    host.refused(/type 'file' of the disk is unknown/);
  });

  on('says why when a lock can’t be had', (host) => {
    host.answer('flock', 'case $* in *" 8") exit 1 ;; esac; exit 0');
    host.refused(/another block-drbd has held its lock/);
    assert.equal(host.callsOf('drbdsetup', 'drbdadm'), []);
    host.answer('flock', 'case $* in *" 9") exit 1 ;; esac; exit 0');
    host.refused(/lock of Xen's block scripts/);
  });

  on('fails when xenstore can’t be written, and takes its promotion back', (host) => {
    host.drbd(secondary);
    host.answer('xenstore-write', 'case $1 in */physical-device) exit 1 ;; esac');
    host.refused(/writing the device to xenstore failed \(demoted again\)/);
    assert.equal(host.callsOf('drbdadm'), [promote, demote]);
  });

  on('fails when not even the error can be written, and the log has it', (host) => {
    host.answer('xenstore-write', 'exit 1');
    assert.is(host.add().status, 1);
    assert.match(
      host.log(),
      /reason of the next line could not be written[^]*writing the device to xenstore failed/,
    );
  });

  for (const path of ['', 'backend', '/etc/passwd']) {
    on(`refuses to run with XENBUS_PATH=${path}`, (host) => {
      const result = host.add(path);
      assert.is(result.status, 1);
      assert.match(host.log(), /XENBUS_PATH/);
      assert.equal(host.callsOf('drbdadm', 'xenstore-write'), []);
    });
  }

  on('refuses other commands', (host) => {
    for (const args of [[], ['online'], ['--help']]) {
      assert.is(host.run(shell, host.script, args, xenbus(disk)).status, 1);
    }
    assert.match(host.log(), /unknown command 'online'/);
    assert.equal(host.callsOf('drbdadm', 'xenstore-write'), []);
  });

  on('works without Xen’s log directory', (host) => {
    host.remove('var/log');
    const result = host.add();
    assert.is(result.status, 0);
    assert.match(result.stderr, /web\/0 connected/);
  });

  // Promotion: what time can mend, and what it can't.

  const mends: [code: number, words: string][] = [
    [-1, 'Multiple primaries not allowed by config'],
    [-10, 'State change was refused by peer node'],
    [-18, 'In transient state, retry after next state change'],
    [-19, 'Concurrent state changes detected and aborted'],
    [-20, 'Other vol primary on peer not allowed by config'],
    [-21, 'Interrupted state change'],
    [-23, 'Timeout in operation'],
  ];
  for (const [code, words] of mends) {
    on(`waits while DRBD says ${words}`, (host) => {
      host.drbd(secondary);
      host.answer(
        'drbdadm-primary',
        `[ $n -ge 4 ] || { ${stateChangeFailed(code, words)}; }\n${host.becomes(primary)}`,
      );
      assert.is(host.add().status, 0);
      host.connected(disk, 7790);
      assert.is(host.callsOf('drbdadm').length, 4);
      assert.is(host.callsOf('sleep').length, 3);
    });
  }

  on('gives up in time when the peer stays primary', (host) => {
    host.drbd(secondary);
    host.answer('drbdadm-primary', stateChangeFailed(-1, 'Multiple primaries not allowed by config'));
    host.refused(/drbdadm primary failed with status 11, tries: 11: .*Multiple primaries/);
    // The time that passed is less than libxl waits.
    assert.ok(Number(host.read('proc/uptime').split('.')[0]) - 1000 < 40);
  });

  const hopeless: [name: string, shell: string][] = [
    ['Need access to UpToDate data', stateChangeFailed(-2, 'Need access to UpToDate data')],
    ['peer not outdated', stateChangeFailed(-7, 'Refusing to be Primary while peer is not outdated')],
    ['unknown resource', 'echo "web: Failure: (158) Unknown resource" >&2; exit 10'],
    ['a broken configuration', 'echo "\'web\' not defined in your config (for this host)." >&2; exit 1'],
    [
      'one of two reasons',
      `echo "7790: State change failed: (-1) Multiple primaries" >&2; ${stateChangeFailed(-2, 'Need access')}`,
    ],
  ];
  for (const [name, answer] of hopeless) {
    on(`does not wait where time mends nothing: ${name}`, (host) => {
      host.drbd(secondary);
      host.answer('drbdadm-primary', answer);
      host.refused(/drbdadm primary failed with status \d+, tries: 1: /);
      assert.equal(host.callsOf('sleep'), []);
      assert.equal(host.callsOf('drbdadm'), [promote, demote]);
    });
  }

  on('waits for UpToDate data only while a disk is being attached', (host) => {
    host.drbd([[0, 7790, 'Secondary', 'Negotiating']]);
    const failed = stateChangeFailed(-2, 'Need access to UpToDate data');
    host.answer(
      'drbdadm-primary',
      `[ $n -ge 3 ] || { ${failed}; }\n${host.becomes([[0, 7790, 'Primary', 'UpToDate']])}`,
    );
    assert.is(host.add().status, 0);
    host.connected(disk, 7790);
  });

  on('a reason is not expanded by the shell', (host) => {
    host.drbd(secondary);
    host.answer('drbdadm-primary', "echo '/* $(reboot) ~' >&2; exit 1");
    host.refused(/: \/\* \$\(reboot\) ~ \(demoted again\)/);
  });

  on('a long reason is cut, and stays on one line', (host) => {
    host.drbd(secondary);
    host.answer(
      'drbdadm-primary',
      'i=0; while [ $i -lt 900 ]; do echo "line $i"; i=$((i + 1)); done; exit 1',
    );
    host.refused(/line 0 line 1 /);
    const error = host.xenstore(`${disk}/hotplug-error`)!;
    assert.ok(error.length < 1000, `${error.length} characters`);
  });

  // Sharing.

  on('refuses a device that another guest has', (host) => {
    host.guest('backend/vbd/9/51712', 'web/0', { 'physical-device': '93:1e6e' });
    host.setXenstore({ '/local/domain/7/vm': '/vm/aaa', '/local/domain/9/vm': '/vm/bbb' });
    host.refused(/drbd7790 is in use by domain 9/, 'busy');
  });

  on('refuses in time of a promotion too, and takes it back', (host) => {
    host.drbd(secondary);
    host.guest('backend/vbd/9/51712', 'web/0', { 'physical-device': '93:1E6E' });
    host.setXenstore({ '/local/domain/9/vm': '/vm/bbb' });
    host.refused(/in use by domain 9 \(demoted again\)/, 'busy');
  });

  const harmless: [name: string, set: (host: Host) => void][] = [
    [
      'of the same guest',
      (host) => host.setXenstore({ '/local/domain/7/vm': '/vm/a', '/local/domain/9/vm': '/vm/a' }),
    ],
    ['of a guest that is gone', (host) => host.setXenstore({ '/local/domain/7/vm': '/vm/a' })],
  ];
  for (const [name, set] of harmless) {
    on(`goes on with a device ${name}`, (host) => {
      host.guest('backend/vbd/9/51712', 'web/0', { 'physical-device': '93:1e6e' });
      set(host);
      assert.is(host.add().status, 0);
      host.connected(disk, 7790);
    });
  }

  on('goes on beside other devices, and odd ones', (host) => {
    host.setXenstore({ '/local/domain/7/vm': '/vm/aaa', '/local/domain/9/vm': '/vm/bbb' });
    const others = [
      '93:1e6f',
      'fd:1e6e',
      '93:',
      ':1e6e',
      '93:1e6e:0',
      '',
      'x',
      '93:$(reboot)',
      '93:1e6e]',
      '1e6e',
    ];
    others.forEach((physical, i) => host.guest(`backend/vbd/9/${i}`, 'x', { 'physical-device': physical }));
    assert.is(host.add().status, 0);
    host.connected(disk, 7790);
  });

  for (const line of [
    '36 25 147:7790 / /mnt rw - ext4 /dev/sdx rw',
    '36 25 0:42 / /mnt rw - btrfs DEVICE rw',
  ]) {
    on(`refuses a mounted device: ${line}`, (host) => {
      host.write('proc/self/mountinfo', `${line.replace('DEVICE', `${host.root}/dev/drbd7790`)}\n`);
      host.refused(/is mounted in the privileged domain/, 'busy');
    });
  }

  on('goes on beside mounted devices with similar numbers', (host) => {
    host.write('proc/self/mountinfo', `36 25 147:77901 / /mnt rw - ext4 ${host.root}/dev/drbd77901 rw\n`);
    assert.is(host.add().status, 0);
  });

  on('checks nothing in mode w!', (host) => {
    host.write('xenstore', '');
    host.guest(disk, 'web/0', { mode: 'w!' });
    host.guest('backend/vbd/9/51712', 'web/0', { 'physical-device': '93:1e6e' });
    host.setXenstore({ '/local/domain/9/vm': '/vm/bbb' });
    assert.is(host.add().status, 0);
  });

  on('refuses when the other disks can’t be read', (host) => {
    host.answer('xenstore-ls', 'case $2 in backend/vbd) exit 1 ;; esac');
    host.refused(/could not be read from xenstore/, 'busy');
  });

  on('takes Xen’s lock again when Xen’s script took the file away', (host) => {
    // As locking.sh releases it: the one who waited has locked a file that is at no path any more.
    host.answer(
      'flock',
      'case $* in *" 9") [ $n -gt 2 ] || /bin/rm "$root/var/run/xen-hotplug/block" ;; esac; exit 0',
    );
    assert.is(host.add().status, 0);
    assert.equal(
      host.callsOf('flock').map((call) => call.split(' ').pop()),
      ['8', '9', '9'],
    );
    assert.ok(host.has('var/run/xen-hotplug/block'));
  });

  // Removal.

  on('removes what it added: the last disk demotes', (host) => {
    host.drbd(secondary);
    assert.is(host.add().status, 0);
    host.forgetCalls();
    assert.is(host.removeDisk().status, 0);
    assert.equal(host.callsOf('drbdadm'), [demote]);
    assert.is(host.xenstore(`${disk}/physical-device`), undefined);
    assert.is(host.read('run/remus-drbd/web/attached'), '');
    assert.match(host.log(), /web removed, demoted/);
  });

  on('remove twice, and after its directory is gone', (host) => {
    assert.is(host.add().status, 0);
    assert.is(host.removeDisk().status, 0);
    host.forgetCalls();
    assert.is(host.removeDisk().status, 0);
    assert.equal(host.callsOf('drbdadm'), []);
    host.write('xenstore', '');
    host.forgetCalls();
    assert.is(host.removeDisk().status, 0);
    assert.equal(host.calls(), [`xenstore-ls -f ${disk}`]);
  });

  const second = 'backend/vbd/7/51728';

  on('of several disks only the last one to go demotes, while all are still in xenstore', (host) => {
    host.guest(second, 'web/1');
    assert.is(host.add().status, 0);
    assert.is(host.add(second).status, 0);
    host.forgetCalls();
    assert.is(host.removeDisk().status, 0);
    assert.equal(host.callsOf('drbdadm'), []);
    assert.match(host.log(), /it stays Primary for domain 7/);
    assert.is(host.removeDisk(second).status, 0);
    assert.equal(host.callsOf('drbdadm'), [demote]);
  });

  on('of several disks that go at the same time one demotes', async (host) => {
    host.guest(second, 'web/1');
    assert.is(host.add().status, 0);
    assert.is(host.add(second).status, 0);
    host.forgetCalls();
    const done = [disk, second].map((path) => host.start(shell, host.script, ['remove'], xenbus(path)));
    assert.equal(await Promise.all(done), [0, 0]);
    assert.equal(host.callsOf('drbdadm'), [demote]);
  });

  on('stays Primary for the other end of a migration within the host', (host) => {
    host.guest('backend/vbd/9/51712', 'web/0', { 'physical-device': '93:1e6e' });
    assert.is(host.add().status, 0);
    assert.is(host.removeDisk().status, 0);
    assert.equal(host.callsOf('drbdadm'), []);
    assert.match(host.log(), /it stays Primary for domain 9/);
  });

  on('waits for the backend to let go of the device', (host) => {
    assert.is(host.add().status, 0);
    const held = stateChangeFailed(-12, 'Device is held open by someone');
    host.answer('drbdadm-secondary', `[ $n -ge 3 ] || { ${held}; }\n${host.becomes(secondary)}`);
    assert.is(host.removeDisk().status, 0);
    assert.is(host.callsOf('drbdadm').length, 3);
  });

  on('says so when it can’t demote, and tries again when it is called again', (host) => {
    assert.is(host.add().status, 0);
    host.answer('drbdadm-secondary', stateChangeFailed(-12, 'Device is held open by someone'));
    assert.is(host.removeDisk().status, 1);
    assert.match(host.xenstore(`${disk}/hotplug-error`)!, /held open by someone.*it stays Primary/);
    assert.ok(Number(host.read('proc/uptime').split('.')[0]) - 1000 < 40);
    host.forgetCalls();
    host.answer('drbdadm-secondary', host.becomes(secondary));
    assert.is(host.removeDisk().status, 0);
    assert.equal(host.callsOf('drbdadm'), [demote]);
  });

  on('demotes after an add that was killed in the middle', (host) => {
    host.drbd(secondary);
    host.answer('drbdadm-primary', `${host.becomes(primary)}\nread -r pid <"$root/pid"; kill -9 "$pid"`);
    assert.is.not(host.add().status, 0);
    assert.is(host.xenstore(`${disk}/hotplug-status`), undefined);
    host.forgetCalls();
    assert.is(host.removeDisk().status, 0);
    assert.equal(host.callsOf('drbdadm'), [demote]);
  });

  on('removes nothing when the resource is down already', (host) => {
    assert.is(host.add().status, 0);
    host.drbd([]);
    host.answer('drbdsetup', 'echo "exists -"');
    assert.is(host.removeDisk().status, 0);
    assert.equal(host.callsOf('drbdadm'), []);
    assert.match(host.log(), /DRBD has no such resource up .*; nothing to demote/);
  });

  on('removing asks DRBD itself only where /proc/drbd and our own files do not say all of it', (host) => {
    const remove = (): string[] => {
      host.write('xenstore', '');
      host.guest(disk, 'web/0');
      host.drbd(secondary);
      assert.is(host.add().status, 0);
      host.forgetCalls();
      assert.is(host.removeDisk().status, 0);
      assert.equal(host.callsOf('drbdadm'), [demote]);
      return host.calls().map((call) => call.split(' ').slice(0, 2).join(' '));
    };
    assert.equal(remove(), [
      ...['xenstore-ls -f', 'flock -x', 'xenstore-rm backend/vbd/7/51712/physical-device'],
      ...['xenstore-ls -f', 'timeout 25', 'drbdadm secondary', 'logger -p'],
    ]);
    const asks = 'drbdsetup events2';
    host.write('etc/remus-drbd/devices/web', '0 remus-web-0 /dev/vg0/a\n2 remus-web-2 /dev/vg0/c\n');
    assert.ok(remove().includes(asks), 'a volume that is set up and not there');
    host.remove('etc/remus-drbd/devices/web');
    assert.ok(remove().includes(asks), 'no file of ours');
  });

  // Resources that are not ours.

  on('a foreign resource is handled as the distribution’s script does', (host) => {
    host.foreign();
    host.drbd([[0, 3, 'Secondary', 'Inconsistent']], '8.4.11', 'mail');
    host.write('xenstore', '');
    host.guest(disk, 'mail');
    host.answer('drbdadm-primary', host.becomes([[0, 3, 'Primary', 'Inconsistent']], '8.4.11', 'mail'));
    host.answer('drbdadm-secondary', host.becomes([[0, 3, 'Secondary', 'Inconsistent']], '8.4.11', 'mail'));
    // DRBD itself decides about the disk's state.
    assert.is(host.add().status, 0);
    host.connected(disk, 3);
    assert.is(host.removeDisk().status, 0);
    assert.equal(host.callsOf('drbdadm'), ['drbdadm primary mail', 'drbdadm secondary mail']);
    assert.not(host.has('run/remus-drbd'));
  });

  on('a foreign volume 15 is a disk like others; before DRBD 9 it has its own role', (host) => {
    host.foreign();
    host.write('xenstore', '');
    host.guest(disk, 'web/15');
    host.guest(second, 'web/1');
    host.drbd(secondary);
    assert.is(host.add().status, 0);
    assert.is(host.add(second).status, 0);
    assert.is(host.removeDisk().status, 0);
    assert.equal(host.callsOf('drbdadm'), ['drbdadm primary web/15', 'drbdadm secondary web/15']);
  });

  on('a foreign resource of DRBD 9 is promoted and demoted as a whole', (host) => {
    host.foreign();
    host.drbd(secondary, '9.2.8');
    host.guest(second, 'web/1');
    host.answer('drbdadm-primary', host.becomes(primary, '9.2.8'));
    host.answer('drbdadm-secondary', host.becomes(secondary, '9.2.8'));
    assert.is(host.add().status, 0);
    assert.is(host.add(second).status, 0);
    assert.is(host.removeDisk().status, 0);
    assert.is(host.removeDisk(second).status, 0);
    assert.equal(host.callsOf('drbdadm'), [promote, demote]);
  });

  on('names with dots and dashes are one name', (host) => {
    host.write('etc/remus-drbd/devices/web-1.a', '');
    host.write('xenstore', '');
    host.guest(disk, 'web-1.a/0');
    host.drbd(secondary, '8.4.11', 'web-1.a');
    host.answer('drbdadm-primary', host.becomes(primary, '8.4.11', 'web-1.a'));
    assert.is(host.add().status, 0);
    assert.equal(host.callsOf('drbdadm'), ['drbdadm primary web-1.a']);
  });

  on('other lines of /proc/drbd with the same numbers are not taken for it', (host) => {
    // Volume 1 has minor 0, volume 0 has minor 15, volume 15 has minor 1.
    const mixed: Volume[] = [
      [0, 15, 'Primary', 'UpToDate'],
      [1, 0, 'Secondary', 'UpToDate'],
      [15, 1, 'Secondary', 'UpToDate'],
    ];
    host.drbd(mixed);
    assert.is(host.add().status, 0);
    host.connected(disk, 15);
    assert.equal(host.callsOf('drbdadm'), []);
  });

  test.run();
}
