/* eslint-disable no-console -- a skipped file says so */
/**
 * Sender, receiver and their clean-ups as processes on two fake hosts (`hosts.ts`), without room for their records or
 * in the journal, after the loss of the primary host, and at a guest's own end. As in `faults-killed.tools.test.ts`.
 */
import { once } from 'node:events';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { assertFree, assertGivenUp, cutPower, decideForBackup, onPair } from './faults.js';
import { missingForHosts, until } from './hosts.js';

const test = suite('sender and receiver as processes, without room');

for (const [where, why] of [
  ['alpha', /can't be passed on: .*term\.json could not be written: ENOSPC/],
  ['beta', /the journal can't go on: .*term\.json could not be written: ENOSPC/],
] as const) {
  test(`no room on ${where} for the record that protection begins: it ends, with the reason`, () =>
    onPair(async (pair) => {
      await pair.startReceiver();
      await pair.startSender();
      pair[where].fillState();
      const written = pair.xl.checkpoint();
      if (where === 'beta') {
        await pair.marker(1);
        await pair.passMarker();
      }
      assert.is(await pair.endAndCleanUp('sender', null), 0);
      await written;
      assert.is(await pair.endAndCleanUp('receiver', null), 0);
      assertFree(pair);
      assertGivenUp(pair);
      assert.is(pair.senderReport()?.protection, 'unprotected');
      assert.match(pair.senderReport()?.reason ?? '', why);
    }));
}

test('no room for the receiver to begin: it says how much is missing, and its disks are as they were', () =>
  onPair(async (pair) => {
    pair.beta.fillState();
    const receiver = pair.beta.spawn(pair.program('receiver', 'web'), 'ignore');
    assert.equal(await once(receiver, 'exit'), [1, null]);
    assert.match(
      pair.beta.log(),
      /web: the receiver failed: \/var\/lib\/remus-drbd\/web\/journal-active: ENOSPC.* \(0 bytes and \d+ files free in \/var\/lib\/remus-drbd\/web, 4096 bytes and 1 file are needed\)\. .*run remus-drbd protect web/,
    );
    assert.not.match(pair.beta.log(), /\n +at /, 'no stack');
    assertGivenUp(pair);
    assert.is(pair.beta.run('ls', '/var/lib/remus-drbd/web').trim(), 'term.json');
  }));

test('a sender that has no barrier device to write to says so, and what to do', () =>
  onPair(async (pair) => {
    await pair.startReceiver();
    pair.alpha.run('rm', '/dev/drbd108271');
    const sender = pair.alpha.spawn(pair.program('sender', 'web', '--'), 'ignore');
    assert.equal(await once(sender, 'exit'), [1, null]);
    assert.match(pair.alpha.log(), /web: the sender failed: .*drbd108271.*run remus-drbd protect web/);
    assert.not.match(pair.alpha.log(), /\n +at /, 'no stack');
    assert.is((await pair.cleanUp('sender', pair.alpha, 'exit-code')).ended, 0);
    assertFree(pair);
  }));

test('no room on either host when the receiver is killed: the guest is freed all the same', () =>
  onPair(async (pair) => {
    await pair.protect(1);
    pair.alpha.fillState();
    pair.beta.fillState();
    const cleaned = pair.endAndCleanUp('receiver', 'SIGKILL');
    assert.is(await pair.endAndCleanUp('sender', null), 0);
    assert.is(await cleaned, 0);
    assertFree(pair);
    assertGivenUp(pair);
    assert.match(pair.alpha.log(), /clean .*reason="the sender ended in order"/);
  }));

test('the primary host dies and a person decides: the guest runs on the backup', () =>
  onPair(async (pair) => {
    await pair.protect(2);
    cutPower(pair);
    await until('the backup waits', () => /waits for a person/.test(pair.receiverReport()?.reason ?? ''));
    decideForBackup(pair);
    assert.is(await pair.endAndCleanUp('receiver', null), 0);
    assert.is(pair.beta.guest('web'), '-b----');
    assert.is(pair.beta.term()?.outcome, 'won');
    assert.is(pair.beta.below('remus-web-0'), 'lv');
    const drbd = pair.beta.calls().filter((call) => call.startsWith('drbdadm'));
    assert.equal(drbd, ['drbdadm disconnect --force web', 'drbdadm primary web']);
  }));

test('no room on the backup when it takes over: it waits for room with the copy, and then takes over', () =>
  onPair(async (pair) => {
    await pair.protect(2);
    cutPower(pair);
    await until('the backup waits', () => /waits for a person/.test(pair.receiverReport()?.reason ?? ''));
    pair.receiver?.kill('SIGSTOP');
    decideForBackup(pair);
    pair.beta.fillState();
    pair.receiver?.kill('SIGCONT');
    await until('it says so', () => /could not be recorded.*ENOSPC/.test(pair.beta.log()));
    assert.is(pair.beta.guest('web'), undefined, 'nothing follows before it is recorded');
    pair.beta.freeState();
    assert.is(await pair.endAndCleanUp('receiver', null), 0);
    assert.is(pair.beta.guest('web'), '-b----');
  }));

test('a journal that stays full ends protection by agreement, and says so', () =>
  onPair(async (pair) => {
    await pair.protect(1);
    const disk = await pair.nbd('remus-web-0');
    const block = Buffer.alloc(1 << 20, 1);
    let isFull = false;
    const writing = (async () => {
      for (let n = 0; n < 64 && !isFull; n++) await disk.write((n % 3) << 20, block);
    })();
    assert.is(await pair.endAndCleanUp('sender', null), 0);
    isFull = true;
    assert.is(await pair.endAndCleanUp('receiver', null), 0);
    disk.destroy();
    await writing;
    assertFree(pair);
    assertGivenUp(pair);
    assert.match(pair.senderReport()?.reason ?? '', /it has been full for 5000 ms/);
  }));

test("a journal that is full when the primary dies: DRBD's disconnect gets its writes to their end", () =>
  onPair(async (pair) => {
    await pair.protect(1);
    const disk = await pair.nbd('remus-web-0');
    cutPower(pair);
    await until('the backup claims', () => pair.receiverReport()?.phase === 'claiming');
    // More than three quarters of the journal, less than all of it; none of it is ever committed. One after the other,
    // so that each has a frame of its own, and what of a segment stays unused is known.
    const block = Buffer.alloc(64 << 10, 1);
    const writing = (async () => {
      for (let n = 0; n < 400; n++) await disk.write((n % 48) * block.length, block);
    })();
    await until('the journal is full', () => /journal full: no space/.test(pair.beta.log()));
    // As DRBD does: it lets go of its peer when all that it has under way is answered.
    pair.beta.holdDisconnect(true);
    decideForBackup(pair);
    await writing;
    pair.beta.holdDisconnect(false);
    assert.is(await pair.endAndCleanUp('receiver', null), 0);
    disk.destroy();
    assert.is(pair.beta.guest('web'), '-b----');
  }));

for (const [state, how] of [
  ['---s--', 'poweroff'],
  ['---sr-', 'reboot'],
  ['---sc-', 'crash'],
] as const) {
  test(`the guest's own end (${how}) is no dead host: the term ends, and the guest's end is seen to`, () =>
    onPair(async (pair) => {
      await pair.protect(1);
      pair.alpha.setGuest(state);
      pair.xl.die();
      assert.is(await pair.endAndCleanUp('sender', null), 0);
      assert.is(await pair.endAndCleanUp('receiver', null), 0);
      assert.is(pair.alpha.guest('web'), state, 'that is for remus-watch');
      assert.ok(pair.alpha.calls().some((call) => /^systemctl start .*remus-watch@web/.test(call)));
      assert.not(pair.alpha.isPlugged);
      assert.match(pair.senderReport()?.reason ?? '', new RegExp(`the guest ended: ${how}`));
      assert.match(pair.receiverReport()?.reason ?? '', new RegExp(`the guest ended: ${how}`));
      assertGivenUp(pair);
    }));
}

test('a guest that crashes goes on from the last checkpoint where the policy says so', () =>
  onPair(
    async (pair) => {
      await pair.protect(1);
      pair.alpha.setGuest('---sc-');
      pair.xl.die();
      await until('the backup waits', () => /waits for a person/.test(pair.receiverReport()?.reason ?? ''));
      assert.match(pair.receiverReport()?.reason ?? '', /the guest ended: crash; onCrash: failover/);
      pair.alpha.run(...pair.program('decide', 'web', '1', 'beta'));
      decideForBackup(pair);
      assert.is(await pair.endAndCleanUp('receiver', null), 0);
      assert.is(await pair.endAndCleanUp('sender', null), 0);
      assert.is(pair.beta.guest('web'), '-b----');
      assert.is(pair.alpha.guest('web'), undefined, 'the crashed one is gone');
      assert.is(pair.alpha.term()?.outcome, 'lost');
    },
    { onCrash: 'failover' },
  ));

test('a sender that is killed when the guest has crashed: its clean-up says so, and the copy is not given up', () =>
  onPair(
    async (pair) => {
      await pair.protect(1);
      pair.alpha.setGuest('---sc-');
      const cleaned = pair.endAndCleanUp('sender', 'SIGKILL');
      await until('the backup waits', () => /waits for a person/.test(pair.receiverReport()?.reason ?? ''));
      pair.alpha.run(...pair.program('decide', 'web', '1', 'beta'));
      decideForBackup(pair);
      assert.is(await pair.endAndCleanUp('receiver', null), 0);
      assert.is(await cleaned, 0);
      assert.is(pair.beta.guest('web'), '-b----');
      assert.is(pair.alpha.guest('web'), undefined, 'the crashed one is gone');
    },
    { onCrash: 'failover' },
  ));

const missing = missingForHosts();
if (missing === undefined) test.run();
else if (process.env['CI'] === 'true') throw new Error(missing);
else {
  console.log(`skipped: ${missing}`);
  suite('sender and receiver as processes, without room: skipped').run();
}
