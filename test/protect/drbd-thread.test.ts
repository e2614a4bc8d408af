/** A process of the thread's name stands in for DRBD's receiver thread: it yields, and is as before afterwards. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { getPriority } from 'node:os';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { restoreReceiver, yieldReceiver } from '../../src/protect/drbd-thread.js';

test('the receiver of one resource yields, and no other one', async () => {
  const named = async (resource: string) => {
    const script = `echo drbd_r_${resource} >/proc/$$/comm && echo named && read -r end`;
    const child = spawn('sh', ['-c', script], { stdio: ['pipe', 'pipe', 'inherit'] });
    await once(child.stdout, 'data');
    return { child, pid: child.pid ?? 0 };
  };
  const [ours, other] = await Promise.all([named('t1'), named('t12')]);
  const before = getPriority(other.pid);
  try {
    await yieldReceiver('t1');
    assert.is(getPriority(ours.pid), 19);
    assert.is(getPriority(other.pid), before);
    // Only a privileged process may take it back.
    if (process.getuid?.() === 0) {
      await restoreReceiver('t1');
      assert.is(getPriority(ours.pid), 0);
    }
  } finally {
    const ended = [ours, other].map(({ child }) => once(child, 'close'));
    for (const { child } of [ours, other]) child.stdin.end();
    await Promise.all(ended);
  }
});

test('a resource without such a thread is left alone', async () => {
  await yieldReceiver('no-such-resource');
});

test.run();
