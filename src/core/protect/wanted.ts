/**
 * /var/lib/remus-drbd/DOMAIN/wanted.json, on both hosts: whether people want a domain to be protected. `protect` and
 * `unprotect` write it; protection that comes back by itself goes by it, so that it never comes back against them.
 *
 *     {"format":1,"sequence":4,"protect":true,"intervalMs":null}
 *
 * The two may differ after a controller that died between its two writes; the higher sequence counts.
 */
import { z } from 'zod';

const schema = z.strictObject({
  format: z.literal(1),
  /** One higher with each change. */
  sequence: z.number().int().min(1),
  /** False also for a protection without its disks or its network, which is none. */
  protect: z.boolean(),
  /** Asked for with `--interval`; null for the configured one. */
  intervalMs: z.number().int().min(1).nullable(),
});

export type Wanted = z.output<typeof schema>;

export const WANTED_FILE = 'wanted.json';

export function formatWanted(wanted: Wanted): string {
  return `${JSON.stringify(schema.parse(wanted))}\n`;
}

/** @throws Error for anything but a whole record */
export function parseWanted(text: string): Wanted {
  return schema.parse(JSON.parse(text));
}

/** What counts of both hosts' records; undefined where protection was never asked for. */
export function latestWanted(one: Wanted | undefined, other: Wanted | undefined): Wanted | undefined {
  if (one === undefined || other === undefined) return one ?? other;
  return other.sequence > one.sequence ? other : one;
}
