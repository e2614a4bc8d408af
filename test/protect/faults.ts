/* eslint-disable no-console -- the logs of a pair that failed */
/** What the tests of faults on two fake hosts share. */
import * as assert from 'uvu/assert';
import { FakePair } from './hosts.js';
import type { PairChanges } from './hosts.js';

export async function onPair(
  body: (pair: FakePair) => Promise<void>,
  changes: PairChanges = {},
): Promise<void> {
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
export function assertFree({ alpha }: FakePair): void {
  assert.is(alpha.guest('web'), '-b----');
  assert.not(alpha.isPlugged, 'output is held');
}

/** Nothing of the copy is on the backup, whose devices are on their LVs again. */
export function assertGivenUp({ beta }: FakePair): void {
  assert.is(beta.guest('web'), undefined);
  assert.is(beta.guest('web--incoming'), undefined);
  assert.is(beta.below('remus-web-0'), 'lv');
  assert.is(beta.below('remus-web-barrier'), 'lv');
}

/** The primary host has lost its power: nothing of it answers any more. */
export function cutPower(pair: FakePair): void {
  pair.xl.die();
  pair.sender?.kill('SIGKILL');
  pair.beta.setDrbd('Secondary', 'Connecting');
}

/** A person says so on the backup. */
export function decideForBackup(pair: FakePair): void {
  pair.beta.run(...pair.program('decide', 'web', '1', 'beta'));
}
