/** Where the lab programs of the ledger say what they saw, a line of JSON for each thing, and what may be asked of them. */
import { appendFileSync, readFileSync } from 'node:fs';
import type { Found, LedgerPage } from './ledger-format.js';

export const LEDGER_DIRECTORY = '/run/remus-lab-ledger';
/** On the backup. */
export const COMMITS_LOG = `${LEDGER_DIRECTORY}/commits.jsonl`;
/** On the primary. */
export const SENDER_LOG = `${LEDGER_DIRECTORY}/sender.jsonl`;
/** On the primary: the fault that the sender is to make from now on. */
export const FAULT_FILE = `${LEDGER_DIRECTORY}/fault`;

/** What the backup had when epoch N was committed and N+1 was not. */
export interface CommitLine {
  epoch: number;
  memory: LedgerPage | null;
  /** The highest count on each disk. */
  tops: number[];
  violations: Found[];
  /** For draining, reading and comparing. */
  checkMs: number;
}

/**
 * - `none`
 * - `slow-marker`: the marker is written 1.5 s after the guest was suspended; with the gate nothing may come of it
 * - `gate-off`: the same, and nobody waits for it, so that nothing holds the guest until its marker is written
 * - `early-barrier`: marker N is written when memory N-1 has been sent, with the guest running, not when it is suspended
 * - `release-at-send`: output of epoch N leaves when memory N has been sent, not when it is committed
 */
export const FAULTS = ['none', 'slow-marker', 'gate-off', 'early-barrier', 'release-at-send'] as const;
export type Fault = (typeof FAULTS)[number];

export type SenderLine =
  | { event: 'marker' | 'release'; epoch: number; fault: Fault; timeMs: number }
  /** What the hypervisor said of the guest at both ends of its marker, and for how long its CPUs ran in between. */
  | { event: 'gate'; epoch: number; fault: Fault; wasSuspended: boolean; ranNs: number }
  /** The receiver's acknowledgement has come. */
  | { event: 'committed'; epoch: number; timeMs: number };

export function tell(path: string, line: CommitLine | SenderLine): void {
  appendFileSync(path, `${JSON.stringify(line)}\n`);
}

/** @returns whole lines only */
export function parseLines<T>(text: string): T[] {
  const lines = text.split('\n');
  return lines.slice(0, -1).map((line) => JSON.parse(line) as T);
}

export function currentFault(): Fault {
  try {
    const word = readFileSync(FAULT_FILE, 'utf8').trim();
    return FAULTS.find((fault) => fault === word) ?? 'none';
  } catch {
    return 'none';
  }
}
