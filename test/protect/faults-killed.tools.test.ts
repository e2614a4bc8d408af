/* eslint-disable no-console -- a skipped file says so */
/**
 * Sender, receiver and their clean-ups as processes on two fake hosts (`hosts.ts`), each of them killed, stopped or
 * starved: the guest is never left suspended nor its output held, what the hosts say is not `protected`, and each end
 * follows from what was decided. The arbiter is a person who says nothing, unless it is told.
 */
import { once } from 'node:events';
import { setTimeout as pause } from 'node:timers/promises';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { assertFree, assertGivenUp, onPair } from './faults.js';
import { missingForHosts, until } from './hosts.js';
import type { FakePair } from './hosts.js';

const test = suite('sender and receiver as processes, killed and stopped');

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

/**
 * With the sender stopped a checkpoint is too much for the pipe: xl dies in the middle of the pages, with the guest
 * suspended.
 * @returns what is settled when somebody reads on, or nobody can any more
 */
async function killXlInCheckpoint(pair: FakePair): Promise<{ broken: Promise<unknown> }> {
  pair.sender?.kill('SIGSTOP');
  const broken = pair.xl.checkpoint();
  await until('the guest is suspended', () => pair.alpha.guest('web') === '---ss-');
  pair.xl.die();
  return { broken };
}

test('sender and xl are killed in a checkpoint: the guest is resumed, and watched from then on', () =>
  onPair(async (pair) => {
    await pair.protect(1);
    const { broken } = await killXlInCheckpoint(pair);
    const cleaned = pair.endAndCleanUp('sender', 'SIGKILL');
    await broken;
    assert.is(await cleaned, 0);
    assert.is(await pair.endAndCleanUp('receiver', null), 0);
    assertFree(pair);
    assert.ok(pair.alpha.calls().includes('xl fake-resume'));
    assert.ok(pair.alpha.calls().some((call) => /^systemctl start .*remus-watch@web/.test(call)));
  }));

test('xl alone is killed in a checkpoint: the sender ends by agreement, and its clean-up resumes the guest', () =>
  onPair(async (pair) => {
    await pair.protect(1);
    const { broken } = await killXlInCheckpoint(pair);
    await broken;
    pair.sender?.kill('SIGCONT');
    assert.is(await pair.endAndCleanUp('sender', null), 0);
    assert.is(await pair.endAndCleanUp('receiver', null), 0);
    assertFree(pair);
    assertGivenUp(pair);
    assert.match(pair.receiverReport()?.reason ?? '', /xl has ended its stream|can't be read/);
  }));

test("DRBD's link is lost and control lives: output waits, then protection ends by agreement", () =>
  onPair(async (pair) => {
    await pair.protect(1);
    pair.alpha.setDrbd('Primary', 'Connecting');
    pair.beta.setDrbd('Secondary', 'Connecting');
    await until('it is not called protected', () => pair.senderReport()?.protection === 'suspended');
    assert.match(pair.senderReport()?.reason ?? '', /DRBD is not connected: Connecting/);
    assert.ok(pair.alpha.isPlugged, 'output waits');
    assert.is(await pair.endAndCleanUp('sender', null), 0);
    assert.is(await pair.endAndCleanUp('receiver', null), 0);
    assertFree(pair);
    assertGivenUp(pair);
    assert.match(pair.senderReport()?.reason ?? '', /DRBD has been without its peer for 5000 ms/);
    // It comes back by a resync, which `recover` or `watch` waits for.
    assert.ok(pair.beta.calls().includes('drbdadm adjust web'));
    assert.not.match(pair.logs(), /claiming/);
  }));

test('the clean-up of the sender is killed too, while nobody has decided: it runs again', () =>
  onPair(async (pair) => {
    await pair.protect(2);
    // Nobody answers the clean-up.
    pair.receiver?.kill('SIGSTOP');
    pair.sender?.kill('SIGKILL');
    const unit = pair.unitCleanUp('sender', pair.alpha, 'signal');
    const ended = once(unit, 'exit');
    const asks = (): number | undefined => {
      const { pid, reason } = pair.senderReport() ?? {};
      return /the sender died; output is held until/.test(reason ?? '') ? pid : undefined;
    };
    const first = await until('the clean-up asks', asks);
    process.kill(first, 'SIGKILL');
    await until('another one asks', () => ![undefined, first].includes(asks()));
    assert.ok(pair.alpha.isPlugged, 'undecided, output is held');
    pair.receiver?.kill('SIGCONT');
    assert.equal(await ended, [0, null]);
    assert.is(await pair.endAndCleanUp('receiver', null), 0);
    assertFree(pair);
    assertGivenUp(pair);
    assert.match(pair.alpha.log(), /clean-up web: sender-cleanup ended with status 137; again in 2 s/);
  }));

test('the clean-up of the receiver is killed too: it runs again, and the disks are back on their LVs', () =>
  onPair(async (pair) => {
    await pair.protect(1);
    // The first thing that it runs hangs.
    pair.beta.hold('dmsetup');
    pair.receiver?.kill('SIGKILL');
    if (pair.receiver !== null) await once(pair.receiver, 'exit');
    const unit = pair.unitCleanUp('receiver', pair.beta, 'signal');
    const ended = once(unit, 'exit');
    process.kill(await until('it hangs', () => pair.beta.held()), 'SIGKILL');
    pair.beta.hold(null);
    assert.equal(await ended, [0, null]);
    assert.is(await pair.endAndCleanUp('sender', null), 0);
    assertFree(pair);
    assertGivenUp(pair);
    assert.match(pair.beta.log(), /clean-up web: receiver-cleanup ended with status 137/);
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

const missing = missingForHosts();
if (missing === undefined) test.run();
else if (process.env['CI'] === 'true') throw new Error(missing);
else {
  console.log(`skipped: ${missing}`);
  suite('sender and receiver as processes, killed and stopped: skipped').run();
}
