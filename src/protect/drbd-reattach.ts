/** DRBD gets back the disks that it has detached, and then its peer. */
import type { DiskState, RunningResource } from '../core/facts.js';
import type { Executor } from '../journal/switch.js';
import { readDrbd } from './drbd-watch.js';
import { exec, must } from './exec.js';

const COMMAND_MS = 30_000;
const ATTACH_MS = 60_000;
const DETACHED: readonly DiskState[] = ['Diskless', 'Detaching', 'Failed'];

/**
 * Attaches what is detached and connects, as the configuration says; changes nothing where all is as it should be.
 *
 * A disk is never attached while its peer is connected: with a primary that writes meanwhile, DRBD 8.4.11 was seen to
 * count blocks as out of sync on the primary of which the secondary never heard. The resync then ended on the
 * secondary alone, which called itself UpToDate, and the primary stayed SyncSource, stalled. When the connection is
 * made anew the bitmaps are exchanged with both disks there.
 *
 * @throws Error when the disk can't be attached or the resource can't be configured
 */
export async function reattach(
  resource: string,
  run: Executor = exec,
  read: (name: string) => Promise<[RunningResource | null, string]> = readDrbd,
): Promise<void> {
  const [state] = await read(resource);
  const isDetached = Object.values(state?.volumes ?? {}).some(({ disk }) => DETACHED.includes(disk));
  if (isDetached) await must(['drbdadm', 'disconnect', resource], COMMAND_MS, run);
  await must(['drbdadm', 'adjust', resource], ATTACH_MS, run);
}
