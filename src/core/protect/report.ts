/**
 * /run/remus-drbd/DOMAIN/sender.json and receiver.json: what the two processes of a term say of themselves, written
 * anew at least every second. Whoever reads one compares its time with the host's clock: an old one is no report.
 */
import { z } from 'zod';
import { MEASURES } from './figures.js';
import type { Measure } from './figures.js';
import type { Order } from './order.js';

/** A report is written this often. */
export const REPORT_EVERY_MS = 1_000;
/** One older than this is not believed: its writer is dead, stopped or starved. */
export const REPORT_STALE_MS = 5_000;

const measures = z.object(
  Object.fromEntries(MEASURES.map((measure) => [measure, z.number()])) as Record<Measure, z.ZodNumber>,
);
const common = {
  format: z.literal(1),
  pid: z.number().int(),
  updatedMs: z.number(),
  pair: z.string(),
  domain: z.string(),
  term: z.number().int(),
  session: z.string(),
  reason: z.string(),
  committedEpoch: z.number().int(),
};

const senderReport = z.object({
  ...common,
  role: z.literal('sender'),
  phase: z.string(),
  protection: z.enum(['unprotected', 'starting', 'protected', 'suspended', 'failed-over']),
  intervalMs: z.number(),
  sentBytes: z.number(),
  figures: z.object({ count: z.number(), p50: measures, p99: measures }).nullable(),
  /** Packets that were dropped because the output buffer was full. */
  droppedPackets: z.number(),
  /** What the checkpoints have beside memory; false after `protect --no-network` and `--no-disk`. */
  covers: z.object({ network: z.boolean(), disk: z.boolean() }).optional(),
});
export type SenderReport = z.output<typeof senderReport>;

const receiverReport = z.object({
  ...common,
  role: z.literal('receiver'),
  phase: z.string(),
  receivedBytes: z.number(),
  journalUsedBytes: z.number(),
  journalTotalBytes: z.number(),
});
export type ReceiverReport = z.output<typeof receiverReport>;

const anyReport = z.discriminatedUnion('role', [senderReport, receiverReport]);
export type Report = z.output<typeof anyReport>;

/**
 * What both kinds of report begin with.
 * @param updatedMs wall clock of the host
 */
export function reportHead(
  order: Pick<Order, 'pair' | 'domain' | 'term' | 'session'>,
  pid: number,
  updatedMs: number,
): Pick<Report, 'format' | 'pid' | 'updatedMs' | 'pair' | 'domain' | 'term' | 'session'> {
  const { pair, domain, term, session } = order;
  return { format: 1, pid, updatedMs, pair, domain, term, session };
}

/** @returns the report, or in words why there is none to go by */
export function readReport(text: string, nowMs: number): Report | string {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return 'its report is no JSON';
  }
  const parsed = anyReport.safeParse(value);
  if (!parsed.success) return `its report is unreadable: ${parsed.error.issues[0]?.path.join('.') ?? ''}`;
  const ageMs = nowMs - parsed.data.updatedMs;
  if (ageMs > REPORT_STALE_MS) return `it has not reported for ${Math.round(ageMs / 1000)} s`;
  return parsed.data;
}
