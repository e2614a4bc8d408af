/* eslint-disable no-console -- a skipped file says so */
/**
 * `engine: protocol-d` with sender, receiver and their clean-ups as processes on two fake hosts (`hosts.ts`), and a fake
 * of the module behind their `/proc/drbd`, `drbdadm` and ioctls (`module-hosts.ts`). What a copy goes on from has to be
 * what its disk is at, and no guest is left paused.
 */
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { assertFree, decideForBackup, onPair } from './faults.js';
import { missingForHosts, until } from './hosts.js';
import type { FakePair } from './hosts.js';
import { ModuleOfHosts } from './module-hosts.js';

const test = suite('protocol D, with processes');

/** @param body with epoch 1, in which nothing was written, and epoch 2, in which something was */
function protectedPair(body: (pair: FakePair, hosts: ModuleOfHosts) => Promise<void>): Promise<void> {
  return onPair(
    async (pair) => {
      const hosts = new ModuleOfHosts(pair);
      try {
        await pair.protect(1);
        assert.is(pair.senderReport()?.protection, 'starting');
        assert.match(pair.senderReport()?.reason ?? '', /no write was seen held back on the backup yet/);
        await guestRuns(pair);
        hosts.write();
        assert.is(hosts.module.disks.backup, 0, 'held back');
        await pair.checkpoint(2);
        await until('it is protected', () => pair.senderReport()?.protection === 'protected');
        await guestRuns(pair);
        await body(pair, hosts);
      } finally {
        hosts.close();
      }
    },
    { engine: 'protocol-d' },
  );
}

async function guestRuns(pair: FakePair): Promise<void> {
  await until('the guest runs', () => pair.alpha.guest('web') === '-b----');
}

/** The last checkpoint that the copy was given whole; the live round is 0. */
function copyIsAt({ beta, xl }: FakePair): number {
  const { size } = statSync(join(beta.world, 'stream'));
  return xl.ends.filter((end) => end <= size).length - 1;
}

test('the guest is paused until its barrier is acknowledged; an end in order needs no resync', () =>
  protectedPair(async (pair, { asked, module }) => {
    assert.equal(asked, ['beta drbdadm primary web', 'alpha ioctl 20', 'alpha ioctl 20', 'alpha ioctl 30']);
    assert.equal([module.disks.backup, module.backup.role], [1, 'Primary']);
    const paused = pair.alpha.calls().filter((call) => /^xl (?:un)?pause/.test(call));
    assert.equal(paused, ['xl pause web', 'xl unpause web', 'xl pause web', 'xl unpause web']);
    assert.ok(pair.alpha.isPlugged);
    const from = asked.length;
    pair.sender?.kill('SIGTERM');
    const last = pair.xl.checkpoint();
    assert.is(await pair.endAndCleanUp('sender', null), 0);
    await last;
    assert.is(await pair.endAndCleanUp('receiver', null), 0);
    assert.equal(asked.slice(from), ['alpha ioctl 20', 'beta drbdadm secondary web']);
    assertFree(pair);
    assert.is(pair.beta.guest('web--incoming'), undefined);
    assert.equal([pair.alpha.term()?.outcome, pair.beta.term()?.outcome], ['won', 'lost']);
  }));

for (const [cutAt, epoch] of [
  ['before-barrier', 2],
  ['after-barrier', 3],
] as const) {
  test(`the primary dies ${cutAt.replace('-', ' its ')} 3: the guest goes on from memory ${epoch} on its disk`, () =>
    protectedPair(async (pair, hosts) => {
      const { module } = hosts;
      hosts.write();
      const disk = cutAt === 'before-barrier' ? 1 : 2;
      module.cutAt = cutAt;
      module.onCut = (): void => {
        pair.xl.die();
        pair.sender?.kill('SIGKILL');
      };
      await pair.xl.checkpoint();
      await until('the backup claims', () => pair.receiverReport()?.phase === 'claiming');
      assert.is(pair.beta.guest('web'), undefined, 'undecided, no copy runs');
      decideForBackup(pair);
      assert.is(await pair.endAndCleanUp('receiver', null), 0);
      assert.is(pair.beta.guest('web'), '-b----');
      assert.equal([copyIsAt(pair), module.disks.backup], [epoch, disk]);
      assert.is(module.backup.role, 'Primary');
    }));
}

test('a sender that dies with the guest paused: its clean-up unpauses it, and the backup is resynchronised', () =>
  protectedPair(async (pair, hosts) => {
    const { module } = hosts;
    hosts.write();
    // It never says that it has the memory.
    pair.receiver?.kill('SIGSTOP');
    const written = pair.xl.checkpoint();
    await until('it is paused, and xl has let it go', () => pair.alpha.guest('web') === '-bp---');
    const cleaned = pair.endAndCleanUp('sender', 'SIGKILL');
    pair.receiver?.kill('SIGCONT');
    pair.xl.close();
    await written;
    assert.is(await cleaned, 0);
    assert.is(await pair.endAndCleanUp('receiver', null), 0);
    await guestRuns(pair);
    assertFree(pair);
    assert.match(pair.alpha.log(), /the guest was left paused/);
    assert.equal([module.backup.role, module.backup.connection], ['Secondary', 'Connected']);
    assert.is(module.disks.backup, module.disks.primary);
  }));

test('a receiver that dies: its clean-up makes the backup secondary, and what was held back is copied again', () =>
  protectedPair(async (pair, hosts) => {
    const { module } = hosts;
    hosts.write();
    const cleaned = pair.endAndCleanUp('receiver', 'SIGKILL');
    assert.is(await pair.endAndCleanUp('sender', null), 0);
    assert.is(await cleaned, 0);
    assertFree(pair);
    assert.is(pair.senderReport()?.protection, 'unprotected');
    assert.equal([module.backup.role, module.backup.connection], ['Secondary', 'Connected']);
    assert.is(module.disks.backup, module.disks.primary);
  }));

const missing = missingForHosts();
if (missing === undefined) test.run();
else if (process.env['CI'] === 'true') throw new Error(missing);
else {
  console.log(`skipped: ${missing}`);
  suite('protocol D, with processes: skipped').run();
}
