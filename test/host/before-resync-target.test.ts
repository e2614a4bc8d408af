/** DRBD's handler that keeps a resync out of the journal of an open session. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { HostTree, shells } from './hosttree.js';

const test = suite('before-resync-target');

for (const shell of shells) {
  test(`${shell.name}: refuses while a session of that very resource is open`, () => {
    const host = new HostTree();
    try {
      const script = host.install('before-resync-target', 'usr/lib/remus-drbd/before-resync-target');
      const run = (resource: string | undefined): number | null =>
        host.run(shell, script, [], resource === undefined ? {} : { DRBD_RESOURCE: resource }).status;
      assert.is(run('web'), 0);
      host.write('run/remus-drbd/web/session', '3\n');
      assert.is(run('web'), 1);
      assert.is(run('db'), 0);
      host.remove('run/remus-drbd/web/session');
      assert.is(run('web'), 0);
      // Not knowing which one it is about is no reason to let it through.
      for (const none of [undefined, '', '../web', 'a b']) assert.is(run(none), 1);
    } finally {
      host.close();
    }
  });
}

test.run();
