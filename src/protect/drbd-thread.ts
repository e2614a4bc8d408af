/**
 * DRBD's receiver thread of a resource on the backup, which takes what the primary sends (`drbd_r_RESOURCE`).
 *
 * DRBD 8.4 acknowledges the end of a write-ordering epoch for a whole resource, but counts its finished writes volume
 * by volume, in a work queue. Where the receiver gets an epoch ahead of that queue, acknowledgements of two volumes
 * overtake each other; the primary calls it "BAD! BarrierAck" and drops the connection (drbd_main.c, tl_release). It
 * takes a host that is short of CPU. A receiver with the least priority of all lets the queue run first.
 */
import { readdir, readFile } from 'node:fs/promises';
import { setPriority } from 'node:os';

const LEAST = 19;
const USUAL = 0;

/** A resource that stands alone has no such thread, and a later one begins as usual. */
export function yieldReceiver(resource: string): Promise<void> {
  return prioritise(resource, LEAST);
}

/** Undoes `yieldReceiver`. */
export function restoreReceiver(resource: string): Promise<void> {
  return prioritise(resource, USUAL);
}

async function prioritise(resource: string, nice: number): Promise<void> {
  const name = `drbd_r_${resource}`;
  for (const pid of await readdir('/proc')) {
    if (!/^[0-9]+$/.test(pid)) continue;
    const comm = (await readFile(`/proc/${pid}/comm`, 'utf8').catch(() => '')).trimEnd();
    if (comm === name) setPriority(Number(pid), nice);
  }
}
