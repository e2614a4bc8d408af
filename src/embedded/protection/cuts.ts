/**
 * The points of a checkpoint at which the power of the embedded primary can be cut: SIGKILL for its whole process
 * group, so that nothing of it does anything more. In the order in which a checkpoint comes by them.
 */
import { writeFileSync } from 'node:fs';

export const CUT_POINTS = {
  'between-checkpoints': 'the guest runs; nothing is marked or sent',
  'guest-held': 'the guest is held; neither its output nor its disks are marked',
  'output-marked': 'its output is marked; the marker for its disks may be under way',
  'marker-sent': 'the marker is on its way to the other host',
  'marker-written': 'the marker has completed on the primary',
  'marker-in-journal': 'the marker is in the journal of the backup; memory is not whole there',
  'memory-begun': 'the first pages of the epoch are sent',
  'memory-sent': 'all pages are sent; the record that ends the checkpoint is not',
  'checkpoint-sent': 'the whole checkpoint is sent, and the guest runs again',
  'commit-begins': 'the backup has all of the epoch, and has not recorded the commit',
  'commit-durable': 'the commit is recorded; the primary has not been told',
  acknowledged: 'the primary has been told; the output of the epoch is still held',
  'output-released': 'the output of the epoch has just left',
} as const;

export type CutPoint = keyof typeof CUT_POINTS;
export const CUT_POINT_NAMES = Object.keys(CUT_POINTS) as CutPoint[];

/** Any of them. @param random from 0 to below 1 */
export function choosePoint(random: () => number): CutPoint {
  return CUT_POINT_NAMES[Math.floor(random() * CUT_POINT_NAMES.length)] ?? 'between-checkpoints';
}

/** Of these the backup knows first, and has the other host cut before it goes on. */
export const ON_BACKUP: ReadonlySet<CutPoint> = new Set([
  'marker-in-journal',
  'commit-begins',
  'commit-durable',
]);

export const CUT_FILE = 'embedded-cut';

/** A power cut of this very host: the process group, this process included. It does not return. */
export function cutPower(directory: string): void {
  writeFileSync(`${directory}/${CUT_FILE}`, String(Date.now()));
  process.kill(0, 'SIGKILL');
}
