/**
 * /run/remus-drbd/DOMAIN/drill-order.json, what a drill is asked to do, and drill.json, what it says of itself. Both are
 * on the backup alone and of one drill; `id` tells it from any earlier one.
 *
 *     drill (controller)  --drill-order.json-->  remus-drill@DOMAIN  --drill.json-->  drill (controller)
 */
import { z } from 'zod';

/** The disks of a drill are at one commit of a term, or all at one point of DRBD's plain replication. */
export type DrillSource = 'protected' | 'replicated';

const snapshot = z.strictObject({
  volume: z.number().int(),
  vdev: z.string(),
  volumeGroup: z.string(),
  /** The LV with the backup's data. */
  origin: z.string(),
  /** Of the snapshot, and of the device-mapper device over it, which is as large as that under DRBD. */
  name: z.string(),
  deviceBytes: z.number().int().min(512),
  /** Room for what differs from the origin. */
  sizeBytes: z.number().int().min(1),
});
export type DrillSnapshot = z.output<typeof snapshot>;

const order = z.strictObject({
  format: z.literal(1),
  id: z.string().regex(/^[0-9a-f]{32}$/),
  domain: z.string(),
  source: z.enum(['protected', 'replicated']),
  /** The device-mapper devices of all its disks, for a source that is replicated. */
  mappers: z.array(z.string()),
  snapshots: z.array(snapshot).min(1),
  /** Null: without a check the guest only has to stay up. */
  check: z.array(z.string()).min(1).nullable(),
  timeoutMs: z.number().int().min(1),
  cpus: z.array(z.number().int()).nullable(),
});
export type DrillOrder = z.output<typeof order>;

export const DRILL_PHASES = [
  'removing leftovers',
  'snapshots',
  'starting',
  'checking',
  'removing',
  'ended',
] as const;
export type DrillPhase = (typeof DRILL_PHASES)[number];

/** Durations in ms; absent where it never came to that. */
const timings = z.strictObject({
  /** Until the backup's disks stood at one commit. */
  hold: z.number().optional(),
  /** While they stood there, the snapshots were made. */
  snapshots: z.number().optional(),
  /** Until xl had made the guest. */
  start: z.number().optional(),
  /** Until the check had ended. */
  check: z.number().optional(),
  /** Until nothing of the drill was left. */
  removal: z.number().optional(),
});

const report = z.strictObject({
  format: z.literal(1),
  id: z.string(),
  phase: z.enum(DRILL_PHASES),
  /** `refused`: it could not be tried, which says nothing of the guest. */
  result: z.strictObject({ outcome: z.enum(['passed', 'failed', 'refused']), reason: z.string() }).nullable(),
  /** Of a protected guest: the commit that its disks are at. */
  term: z.number().int().nullable(),
  epoch: z.number().int().nullable(),
  timingsMs: timings,
  check: z
    .strictObject({
      /** Null where it was ended. */
      exitCode: z.number().int().nullable(),
      /** The end of what it printed. */
      output: z.string(),
    })
    .nullable(),
  /** By vdev: how much of each snapshot's room was used. */
  usedPercent: z.record(z.string(), z.number()),
  /** What could not be removed, with the reason. */
  left: z.array(z.string()),
});
export type DrillReport = z.output<typeof report>;

export function newDrillReport(id: string): DrillReport {
  return {
    format: 1,
    id,
    phase: 'removing leftovers',
    result: null,
    term: null,
    epoch: null,
    timingsMs: {},
    check: null,
    usedPercent: {},
    left: [],
  };
}

/** @throws Error for anything but a whole order */
export function parseDrillOrder(text: string): DrillOrder {
  return order.parse(JSON.parse(text));
}

/** @throws Error for anything but a whole report */
export function parseDrillReport(text: string): DrillReport {
  return report.parse(JSON.parse(text));
}

export function formatDrillRecord(record: DrillOrder | DrillReport): string {
  return `${JSON.stringify(record)}\n`;
}
