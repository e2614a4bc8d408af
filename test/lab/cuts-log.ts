/**
 * What the test of power cuts asks of the programs with eyes on the hosts (`cuts-sender.ts`, `cuts-receiver.ts`), and
 * what they tell it, a line of JSON for each thing.
 */
import type { LedgerPage } from './ledger-format.js';

export const CUTS_DIRECTORY = '/run/remus-lab-cuts';
/** On each host: words, of the points at which to stop and the faults to make there. */
export const ASKED_FILE = `${CUTS_DIRECTORY}/asked`;
/** What the sender or the receiver of this host tells. */
export const EYES_LOG = `${CUTS_DIRECTORY}/eyes.jsonl`;
/** What the outside client of this host tells (ledger-client.ts). */
export const CLIENT_LOG = `${CUTS_DIRECTORY}/client.jsonl`;

/** The start of a disk as it was when the guest went on. */
export function areaPath(disk: number): string {
  return `${CUTS_DIRECTORY}/disk-${disk}`;
}

/** The steps of a checkpoint at which power is cut, in their order, and whose program stops there. */
export const POINTS = {
  /** The guest is suspended; nothing has been done about it. */
  'epoch-begun': 'primary',
  /** The guest is seen to be suspended and the network has its mark; the marker is not written. */
  'gate-shut': 'primary',
  /** The marker is given to DRBD, and its end is not waited for. */
  'marker-issued': 'primary',
  'marker-written': 'primary',
  /** Half as much memory as of the epoch before is on its way. */
  'memory-half': 'primary',
  /** All of it, and the guest runs on; the record that makes the checkpoint whole is not sent. */
  'memory-sent': 'primary',
  /** That record is sent, and from here on the sender hears of no commit. */
  'checkpoint-sent': 'primary',
  /** The backup has marker and memory; the commit is not written. */
  'received-whole': 'backup',
  /** The commit is durable; nobody knows of it. */
  'commit-recorded': 'backup',
  /** The first committed blocks are written to the disks and not flushed. */
  draining: 'backup',
  /** The acknowledgement has reached the primary; nothing has been done about it. */
  acknowledging: 'primary',
  /** The commit is known; its output is not released. */
  acknowledged: 'primary',
  /** The output has been released. */
  released: 'primary',
} as const;
export type Point = keyof typeof POINTS;
export const POINT_NAMES = Object.keys(POINTS) as Point[];

/**
 * - `still`: the sender stops with the guest suspended and both marks made, for as long as it is asked to
 * - `no-claim`: the sender does not ask the arbiter
 * - `skip-claim`: the receiver takes the term for won and asks nobody
 * - `no-mark`: the receiver forgets the discarded blocks unmarked
 * - `early-commit`: the receiver commits an epoch when its marker comes, before its memory is there
 */
export type Ask = Point | 'still' | 'no-claim' | 'skip-claim' | 'no-mark' | 'early-commit';

export type EyesLine =
  | { event: 'point'; point: Point | 'still'; epoch: number; isSuspended: boolean | null; timeMs: number }
  /** The receiver has the marker of an epoch in its journal. */
  | { event: 'marker'; epoch: number; isCommitted: boolean }
  | { event: 'claim' | 'claimed'; timeMs: number; text: string }
  | { event: 'step'; step: string; beganMs: number; endedMs: number }
  /** The memory that the guest is about to go on with; the disks beside it are at `areaPath`. */
  | { event: 'resume'; epoch: number; memory: LedgerPage | null; tookMs: number };

export type ClientLine =
  | { event: 'connected'; timeMs: number }
  | { event: 'answer'; count: number; token: string; timeMs: number }
  /** A packet that the guest sent to everyone. */
  | { event: 'packet'; count: number; timeMs: number }
  | { event: 'closed'; reason: string; timeMs: number };
