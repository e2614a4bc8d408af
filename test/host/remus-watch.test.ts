/** What becomes of a guest that ends after its protection, where no xl watches it. */
import { mkdirSync, symlinkSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { HostTree, shells, type Shell } from './hosttree.js';

const test = suite('remus-watch');

const HEADER = 'Name                                        ID   Mem VCPUs\tState\tTime(s)';

function on(
  name: string,
  body: (run: (config?: string) => ReturnType<HostTree['run']>, host: HostTree) => void,
): void {
  for (const shell of shells) {
    test(`${shell.name}: ${name}`, () => {
      const host = new HostTree();
      try {
        body((config) => watch(host, shell, config), host);
      } finally {
        host.close();
      }
    });
  }
}

function watch(host: HostTree, shell: Shell, config = 'name = "web"\n'): ReturnType<HostTree['run']> {
  host.write('etc/remus-drbd/domains/web.cfg', config);
  host.fake('fake-tool', ['xl', 'xenstore-watch', 'readlink', 'sed', 'tail']);
  for (const tool of ['readlink', 'sed', 'tail']) host.answer(tool, `exec /usr/bin/${tool} "$@"`);
  return host.run(shell, host.install('remus-watch', 'usr/lib/remus-drbd/remus-watch'), ['web']);
}

/** `xl list` shows these states one call after the other, the last one for ever; null is no guest. */
function states(host: HostTree, ...list: (string | null)[]): void {
  const cases = list.map((state, index) => {
    const pattern = index === list.length - 1 ? '*' : String(index + 1);
    const line = state === null ? '' : `web                 3   96     1     ${state}     12.3`;
    return `${pattern}) printf '%s\\n' '${line}' ;;`;
  });
  host.answer(
    'xl-list',
    `echo '${HEADER}'; echo 'Domain-0   0  1024  1  r-----  9.9'; echo 'web-2   4  96  1  ---s--  1.0'\ncase $n in ${cases.join('\n')} esac`,
  );
}

const acts = (host: HostTree): string[] => host.callsOf('xl').filter((call) => call !== 'xl list');

on('a guest that powers off is taken away', (run, host) => {
  states(host, '-b----', 'r-----', '---s--');
  assert.is(run().status, 0);
  assert.equal(acts(host), ['xl destroy web']);
});

on('one that reboots is started again', (run, host) => {
  states(host, '---sr-');
  assert.is(run().status, 0);
  assert.equal(acts(host), ['xl destroy web', 'xl create /etc/remus-drbd/domains/web.cfg']);
});

on('its own configuration counts, the last line of it', (run, host) => {
  states(host, '---sc-');
  assert.is(run('on_crash = "destroy"\n  on_crash="restart" # again\n').status, 0);
  assert.equal(acts(host), ['xl destroy web', 'xl create /etc/remus-drbd/domains/web.cfg']);
});

on('what has to be preserved, or needs xl itself, is left as it is', (run, host) => {
  states(host, '---sc-');
  assert.is(run("on_crash = 'preserve'\n").status, 0);
  const { status, stderr } = run('on_crash = "coredump-destroy"\n');
  assert.is(status, 0);
  assert.match(stderr, /coredump-destroy is not done by this; the guest is left as it is/);
  assert.equal(acts(host), []);
});

on('a suspended guest is in a checkpoint, and is waited for', (run, host) => {
  states(host, '---ss-', '---ss-', '-b----', null);
  assert.is(run().status, 0);
  assert.equal(acts(host), []);
  assert.is(host.callsOf('xenstore-watch').length, 3);
});

on('where an xl watches the guest, it is left to it', (run, host) => {
  states(host, '---sr-');
  for (const [pid, log] of [
    ['700', 'xl-web.log'],
    ['701', 'xl-web-2.log'],
  ] as const) {
    const path = join(host.root, `proc/${pid}/fd/1`);
    mkdirSync(dirname(path), { recursive: true });
    symlinkSync(join(host.root, 'var/log/xen', log), path);
  }
  assert.is(run().status, 0);
  assert.equal(acts(host), []);
  // Another guest's xl is nobody's.
  host.remove('proc/700');
  host.forgetCalls();
  assert.is(run().status, 0);
  assert.is(acts(host).length, 2);
});

on('a failure is one, so that the unit tries again', (run, host) => {
  states(host, '---s--');
  host.answer('xl-destroy', 'exit 1');
  assert.is(run().status, 1);
  host.answer('xl-list', 'exit 1');
  assert.is(run().status, 1);
});

on('a domain that is none, or has no configuration, is refused', (_run, host) => {
  const script = host.install('remus-watch', 'usr/lib/remus-drbd/remus-watch');
  for (const args of [[], ['a/b'], ['../x'], ['web', 'more'], ['web']]) {
    for (const shell of shells) assert.is(host.run(shell, script, args).status, 2);
  }
});

test.run();
