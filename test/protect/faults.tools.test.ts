/* eslint-disable no-console -- a skipped file says so */
/**
 * Sender, receiver and their clean-ups as processes on two fake hosts (`hosts.ts`), each of them killed, stopped, or
 * without room for its records: the guest is never left suspended nor its output held, what the hosts say is not
 * `protected`, and each end follows from what was decided. The arbiter is a person who says nothing, unless it is told.
 */
import { once } from 'node:events';
import { setTimeout as pause } from 'node:timers/promises';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { FakePair, missingForHosts, until } from './hosts.js';
import type { PairChanges } from './hosts.js';

const test = suite('sender and receiver as processes');

async function onPair(body: (pair: FakePair) => Promise<void>, changes: PairChanges = {}): Promise<void> {
  const pair = await FakePair.start(changes);
  try {
    await body(pair);
  } catch (error) {
    console.log(pair.logs());
    throw error;
  } finally {
    await pair.close();
  }
}

/** The guest runs on its host as if it had never been protected. */
function assertFree({ alpha }: FakePair): void {
  assert.is(alpha.guest('web'), '-b----');
  assert.not(alpha.isPlugged, 'output is held');
}

/** Nothing of the copy is on the backup, whose devices are on their LVs again. */
function assertGivenUp({ beta }: FakePair): void {
  assert.is(beta.guest('web'), undefined);
  assert.is(beta.guest('web--incoming'), undefined);
  assert.is(beta.below('remus-web-0'), 'lv');
  assert.is(beta.below('remus-web-barrier'), 'lv');
}

test('a term from its first checkpoint to its end by agreement: recorded on both sides before it counts', () =>
  onPair(async (pair) => {
    await pair.protect(3);
    assert.is(pair.senderReport()?.protection, 'protected');
    assert.ok(pair.alpha.isPlugged);
    assert.is(pair.alpha.term()?.phase, 'protected');
    assert.is(pair.beta.term()?.phase, 'protected');
    pair.sender?.kill('SIGTERM');
    assert.is(await pair.endAndCleanUp('sender', null), 0);
    assert.is(await pair.endAndCleanUp('receiver', null), 0);
    assertFree(pair);
    assertGivenUp(pair);
    assert.is(pair.alpha.term()?.outcome, 'won');
    assert.is(pair.beta.term()?.outcome, 'lost');
  }));

test('the receiver is killed: the primary learns from its clean-up that it goes on', () =>
  onPair(async (pair) => {
    await pair.protect(2);
    const cleaned = pair.endAndCleanUp('receiver', 'SIGKILL');
    assert.is(await pair.endAndCleanUp('sender', null), 0);
    assert.is(await cleaned, 0);
    assertFree(pair);
    assertGivenUp(pair);
    assert.is(pair.senderReport()?.protection, 'unprotected');
    assert.match(pair.senderReport()?.reason ?? '', /lost.*agreed with beta/);
  }));

test('the sender is killed: its clean-up agrees with the receiver', () =>
  onPair(async (pair) => {
    await pair.protect(2);
    assert.is(await pair.endAndCleanUp('sender', 'SIGKILL'), 0);
    assert.is(await pair.endAndCleanUp('receiver', null), 0);
    assertFree(pair);
    assertGivenUp(pair);
    assert.is(pair.alpha.term()?.outcome, 'won');
  }));

test('sender and xl are killed in a checkpoint: the guest is resumed, and watched from then on', () =>
  onPair(async (pair) => {
    await pair.protect(1);
    // Too much for the pipe: it ends in the middle of the pages, with the guest suspended.
    pair.sender?.kill('SIGSTOP');
    const broken = pair.xl.checkpoint();
    await until('the guest is suspended', () => pair.alpha.guest('web') === '---ss-');
    pair.xl.die();
    const cleaned = pair.endAndCleanUp('sender', 'SIGKILL');
    await broken;
    assert.is(await cleaned, 0);
    assert.is(await pair.endAndCleanUp('receiver', null), 0);
    assertFree(pair);
    assert.ok(pair.alpha.calls().includes('xl fake-resume'));
    assert.ok(pair.alpha.calls().some((call) => /^systemctl start .*remus-watch@web/.test(call)));
  }));

test('a sender that died before the backup had a whole checkpoint asks nobody', () =>
  onPair(async (pair) => {
    await pair.startReceiver();
    await pair.startSender();
    // Nobody could answer it.
    pair.receiver?.kill('SIGSTOP');
    assert.is(await pair.endAndCleanUp('sender', 'SIGKILL'), 0);
    assertFree(pair);
    assert.match(pair.alpha.log(), /goesOn=primary reason="the sender died before the backup had/);
  }));

test('a sender of a term that was begun already is refused', () =>
  onPair(async (pair) => {
    await pair.protect(1);
    const second = pair.alpha.spawn(pair.program('sender', 'web', '--'), 'ignore');
    assert.equal(await once(second, 'exit'), [3, null]);
    assert.match(pair.alpha.log(), /term 1 was begun already/);
    await pair.checkpoint(2);
  }));

test('a stopped sender: the backup claims, nothing is called protected, and its watchdog frees the guest', () =>
  onPair(async (pair) => {
    await pair.protect(1);
    pair.sender?.kill('SIGSTOP');
    const held = pair.xl.checkpoint();
    await until('the backup claims', () => pair.receiverReport()?.phase === 'claiming');
    assert.match(pair.receiverReport()?.reason ?? '', /nothing was heard of the sender for 10000 ms/);
    assert.ok(pair.alpha.isPlugged, 'undecided, output is held');
    assert.is(pair.beta.guest('web'), undefined, 'undecided, no copy runs');
    // As systemd does after WatchdogSec.
    assert.is(await pair.endAndCleanUp('sender', 'SIGKILL'), 0);
    await held;
    assert.is(await pair.endAndCleanUp('receiver', null), 0);
    assertFree(pair);
    assertGivenUp(pair);
  }));

test('a sender that was stopped for a while goes on where it was', () =>
  onPair(async (pair) => {
    await pair.protect(1);
    pair.sender?.kill('SIGSTOP');
    const written = pair.xl.checkpoint();
    await pause(2_000);
    pair.sender?.kill('SIGCONT');
    await pair.marker(2);
    await pair.passMarker();
    await written;
    await until('the commit', () => pair.senderReport()?.committedEpoch === 2);
    assert.is(pair.senderReport()?.protection, 'protected');
    assert.is(pair.receiverReport()?.phase, 'on');
  }));

test('a stopped receiver: the primary notices and holds, and its watchdog frees the guest', () =>
  onPair(async (pair) => {
    await pair.protect(1);
    pair.receiver?.kill('SIGSTOP');
    const written = pair.xl.checkpoint();
    await until('it is not called protected', () => pair.senderReport()?.protection === 'suspended');
    await until('the primary claims', () => pair.senderReport()?.phase === 'claiming');
    assert.match(pair.senderReport()?.reason ?? '', /nothing was heard of the receiver for 10000 ms/);
    await written;
    assert.is(pair.alpha.guest('web'), '-b----', 'undecided, it runs');
    assert.ok(pair.alpha.isPlugged, 'undecided, output is held');
    const cleaned = pair.endAndCleanUp('receiver', 'SIGKILL');
    assert.is(await pair.endAndCleanUp('sender', null), 0);
    assert.is(await cleaned, 0);
    assertFree(pair);
    assertGivenUp(pair);
  }));

test('a receiver that is stopped without DRBD in between is missed within failAfter, not within ten times that', () =>
  onPair(async (pair) => {
    await pair.protect(1);
    pair.alpha.setDrbd('Primary', 'Connecting');
    pair.receiver?.kill('SIGSTOP');
    await until('the primary claims', () => pair.senderReport()?.phase === 'claiming');
    assert.match(pair.senderReport()?.reason ?? '', /nothing was heard of the receiver for 1000 ms/);
  }));

for (const starved of ['receiver', 'sender'] as const) {
  test(`a ${starved} starved of CPU for 20 seconds fails nothing over, and goes on committing`, () =>
    onPair(async (pair) => {
      await pair.protect(1);
      for (let n = 0; n < 16; n++) {
        pair[starved]?.kill('SIGSTOP');
        await pause(1_150);
        pair[starved]?.kill('SIGCONT');
        await pause(100);
      }
      assert.is(pair.receiverReport()?.phase, 'on');
      assert.not.match(pair.logs(), /claiming|is lost/);
      await pair.checkpoint(2);
      assert.is(pair.senderReport()?.protection, 'protected');
    }));
}

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

/** The primary host has lost its power: nothing of it answers any more. */
function cutPower(pair: FakePair): void {
  pair.xl.die();
  pair.sender?.kill('SIGKILL');
  pair.beta.setDrbd('Secondary', 'Connecting');
}

/** A person says so on the backup. */
function decideForBackup(pair: FakePair): void {
  pair.beta.run(...pair.program('decide', 'web', '1', 'beta'));
}

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
    // More than three quarters of the journal, less than all of it; none of it is ever committed.
    const block = Buffer.alloc(64 << 10, 1);
    const writes = Array.from({ length: 400 }, (_, n) => disk.write((n % 48) * block.length, block));
    await until('the journal is full', () => /journal full: no space/.test(pair.beta.log()));
    // As DRBD does: it lets go of its peer when all that it has under way is answered.
    pair.beta.holdDisconnect(true);
    decideForBackup(pair);
    await Promise.all(writes);
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

const missing = missingForHosts();
if (missing === undefined) test.run();
else if (process.env['CI'] === 'true') throw new Error(missing);
else {
  console.log(`skipped: ${missing}`);
  suite('sender and receiver as processes, skipped').run();
}
