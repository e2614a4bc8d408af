/**
 * Which checkpoint the backup's disk is at when the primary is gone, with the module that has protocol D.
 *
 * The backup has acknowledged all memory of checkpoint N but has no commit N yet. If barrier N had arrived, the
 * module has applied epoch N and the guest has to start from memory N; if not, it has dropped what it held back
 * and the guest has to start from memory N-1. The module says so in `chkpt` only while it is connected: when the
 * connection goes, it sets the number to 0. What stays is `dw`, which grows when a write reaches the disk, and on
 * a backup that holds back only the writes of a barrier do.
 *
 * `dw` is in KiB: an epoch of a single write of 512 bytes can't be told from one whose barrier never arrived.
 */

import type { DeferringDevice } from './proc-drbd.js';

/** Connection states in which the module has dropped what it held back (drbd_disconnect). */
const SETTLED: readonly DeferringDevice['connection'][] = ['StandAlone', 'Unconnected', 'WFConnection'];

export type TakeOver =
  | { decision: 'take'; checkpoint: number; reason: string }
  /** Look again: the module hasn't finished yet. */
  | { decision: 'wait'; reason: string }
  /** Neither can be told; a person has to decide. */
  | { decision: 'refuse'; reason: string };

/**
 * @param committed the last checkpoint with a commit; undefined before the first
 * @param complete a later checkpoint whose memory was acknowledged as complete, if there is one
 * @param before the backup's side as it was read before that acknowledgement was given
 * @param after the backup's side now, with its connection gone
 */
export function takeOver(
  committed: number | undefined,
  complete: number | undefined,
  before: DeferringDevice | undefined,
  after: DeferringDevice,
): TakeOver {
  if (committed === undefined)
    return {
      decision: 'refuse',
      reason: 'no checkpoint was ever committed, so the backup has no whole copy',
    };
  if (after.disk !== 'UpToDate') {
    return { decision: 'refuse', reason: `the backup's disk is ${after.disk}, UpToDate is required` };
  }
  if (!SETTLED.includes(after.connection)) {
    return {
      decision: 'wait',
      reason: `the backup is ${after.connection}: the primary can still write until the connection is dropped`,
    };
  }
  if (after.deferredWrites > 0 || after.diskUses > 0) {
    const found = `${after.deferredWrites} writes held back, ${after.diskUses} uses of the disk`;
    return { decision: 'wait', reason: `${found}: the module has not finished yet` };
  }
  if (complete === undefined) {
    return {
      decision: 'take',
      checkpoint: committed,
      reason: `no later memory than ${committed} is complete, so no later barrier was sent`,
    };
  }
  if (complete !== committed + 1) {
    return {
      decision: 'refuse',
      reason: `memory ${complete} is complete but ${committed} is committed: one of the two is lost`,
    };
  }
  if (before === undefined) {
    return {
      decision: 'refuse',
      reason: `memory ${complete} is complete, and nobody looked at the disk before it was acknowledged`,
    };
  }
  // Each write that was held back then was one use of the disk; any other was still under way.
  if (before.diskUses !== before.deferredWrites) {
    return {
      decision: 'refuse',
      reason: 'writes of the epoch before were still under way when the disk was looked at',
    };
  }
  if (after.writtenKib < before.writtenKib) {
    return {
      decision: 'refuse',
      reason: `the count of what was written fell from ${before.writtenKib} to ${after.writtenKib} KiB: the disk was attached anew`,
    };
  }
  const written = after.writtenKib - before.writtenKib;
  return written > 0
    ? {
        decision: 'take',
        checkpoint: complete,
        reason: `${written} KiB were written since memory ${complete} was complete, so its barrier had arrived`,
      }
    : {
        decision: 'take',
        checkpoint: committed,
        reason: `nothing was written since memory ${complete} was complete, so its barrier had not arrived`,
      };
}
