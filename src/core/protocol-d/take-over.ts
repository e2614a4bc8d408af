/**
 * Which checkpoint the backup's disk is at when the primary is gone, with the module that has protocol D.
 *
 * The backup has acknowledged all memory of checkpoint N but has no commit N yet. If barrier N had arrived, the
 * module has applied epoch N and the guest has to start from memory N; if not, it has dropped what it held back
 * and the guest has to start from memory N-1. The module says so in `chkpt` only while it is connected: when the
 * connection goes, it sets the number to 0. What stays is `dw`, which grows when a write reaches the disk, and on
 * a backup that holds back only the writes of a barrier do; and `nr`, what was received, so that it can be seen
 * when only a part of what was held back was applied.
 *
 * Both are in KiB: an epoch of a single write of 512 bytes can't be told from one whose barrier never arrived.
 */

import type { DeferringDevice } from './proc-drbd.js';

export type TakeOver =
  | { decision: 'take'; checkpoint: number; reason: string }
  /** Look again: the module hasn't finished yet. */
  | { decision: 'wait'; reason: string }
  /** It can't be told; a person has to decide. */
  | { decision: 'refuse'; reason: string };

/** Connection states in which the module has dropped what it held back (drbd_disconnect). */
const SETTLED: readonly DeferringDevice['connection'][] = ['StandAlone', 'Unconnected', 'WFConnection'];

/** Two differences of amounts that are each cut to whole KiB. */
const ROUNDING_KIB = 2;

export interface TakeOverFacts {
  /** The last checkpoint with a commit; absent before the first. */
  committed?: number;
  /** The backup's side when the session began, with nothing held back. */
  start: DeferringDevice;
  /** A later checkpoint whose memory was acknowledged as complete, and the side as it was read before that. */
  complete?: { checkpoint: number; before: DeferringDevice };
  /** The backup's side now, with its connection gone. */
  after: DeferringDevice;
}

/** Decides which checkpoint the guest has to start from. */
export function takeOver({ committed, start, complete, after }: TakeOverFacts): TakeOver {
  if (committed === undefined)
    return refuse('no checkpoint was ever committed, so the backup has no whole copy');
  if (after.disk !== 'UpToDate') return refuse(`the backup's disk is ${after.disk}, UpToDate is required`);
  if (!SETTLED.includes(after.connection)) {
    return wait(
      `the backup is ${after.connection}: the primary can still write until the connection is dropped`,
    );
  }
  if (after.deferredWrites > 0 || after.diskUses > 0) {
    return wait(
      `${after.deferredWrites} writes held back, ${after.diskUses} uses of the disk: the module has not finished yet`,
    );
  }
  if (complete === undefined)
    return take(committed, `no later memory than ${committed} is complete, so no later barrier was sent`);
  const { checkpoint, before } = complete;
  if (checkpoint !== committed + 1)
    return refuse(`memory ${checkpoint} is complete but ${committed} is committed: one of the two is lost`);
  // Each write that was held back then was one use of the disk; any other was still under way.
  if (before.diskUses !== before.deferredWrites) {
    return refuse('writes of the epoch before were still under way when the disk was looked at');
  }
  if (
    before.writtenKib < start.writtenKib ||
    after.writtenKib < before.writtenKib ||
    before.receivedKib < start.receivedKib
  ) {
    return refuse(
      'the count of what was written or received fell: the disk was attached anew, or the network configured',
    );
  }
  const writtenKib = after.writtenKib - before.writtenKib;
  const heldKib = before.receivedKib - start.receivedKib - (before.writtenKib - start.writtenKib);
  if (writtenKib === 0)
    return take(
      committed,
      `nothing was written since memory ${checkpoint} was complete, so its barrier had not arrived`,
    );
  if (writtenKib + ROUNDING_KIB < heldKib) {
    return refuse(
      `${writtenKib} KiB of the ${heldKib} that were held back were written: epoch ${checkpoint} is on the disk in part`,
    );
  }
  return take(
    checkpoint,
    `${writtenKib} KiB were written since memory ${checkpoint} was complete, so its barrier had arrived`,
  );
}

function take(checkpoint: number, reason: string): TakeOver {
  return { decision: 'take', checkpoint, reason };
}

function wait(reason: string): TakeOver {
  return { decision: 'wait', reason };
}

function refuse(reason: string): TakeOver {
  return { decision: 'refuse', reason };
}
