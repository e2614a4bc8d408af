/** The clean-up of a unit runs until it has come to its end, however often it is killed. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { HostTree, shells } from './hosttree.js';

const test = suite('clean-up');

for (const shell of shells) {
  const on = (
    name: string,
    body: (host: HostTree, run: (...args: string[]) => ReturnType<HostTree['run']>) => void,
  ): void =>
    test(`${shell.name}: ${name}`, () => {
      const host = new HostTree();
      try {
        host.fake('fake-tool', ['remus-drbd', 'sleep']);
        const script = host.install('clean-up', 'usr/lib/remus-drbd/clean-up');
        body(host, (...args) => host.run(shell, script, args));
      } finally {
        host.close();
      }
    });

  on('killed or failed, it runs again', (host, run) => {
    host.answer('remus-drbd', 'case $n in 1) kill -9 $$ ;; 2) exit 1 ;; esac');
    const { status, stderr } = run('sender-cleanup', 'web');
    assert.is(status, 0);
    assert.equal(host.callsOf('remus-drbd'), Array(3).fill('remus-drbd sender-cleanup web'));
    assert.match(
      stderr,
      /clean-up web: sender-cleanup ended with status 137; again in 2 s\n.*status 1; again/,
    );
  });

  on('what a person has to see to is not tried again', (host, run) => {
    for (const status of [2, 3, 4]) {
      host.answer('remus-drbd', `exit ${status}`);
      host.forgetCalls();
      assert.is(run('receiver-cleanup', 'web').status, status);
      assert.is(host.callsOf('remus-drbd').length, 1);
    }
    assert.is(run('web').status, 2);
  });
}

test.run();
