/** What the processes of the embedded pair are told, and what they say to each other. */
import type { Order } from '../../core/protect/order.js';
import type { FiguresSummary } from '../../core/protect/figures.js';
import type { VolumeRange } from '../../core/journal/types.js';
import type { GuestEnd } from '../../core/protect/types.js';
import type { TlsFiles } from '../../link/tls.js';
import type { CutAction, CutPoint } from './cuts.js';
import type { MirrorState } from './mirror.js';

export const PAIR = 'embedded';
export const DOMAIN = 'embedded-guest';
/** The version that both ends say on the link. */
export const PROGRAM = 'embedded';
export const FAIL_AFTER_MS = 1000;
/** In a host's folder: the standard input and output of its `xl migrate-receive`. */
export const XL_SOCKET = 'xl.sock';

/**
 * Guarantees that tests break on purpose, to see that it is noticed:
 * - `release-on-send`: output leaves when its checkpoint is being sent
 * - `ack-before-commit`: the backup acknowledges a checkpoint before its commit
 * - `skip-marking`: discarded blocks are not written back through the mirror
 * - `skip-discard`: the journal is not taken back to the last commit at a failover
 */
export const BREAKS = ['release-on-send', 'ack-before-commit', 'skip-marking', 'skip-discard'] as const;
export type Break = (typeof BREAKS)[number];

export interface HostJob {
  host: string;
  directory: string;
  /** Where its mirror finds the other one; null for the one that waits to be found. */
  peerPort: number | null;
}

/** To be done when a checkpoint comes by the point; where that is behind its output's mark, one that has output. */
export interface ArmedCut {
  point: CutPoint;
  action: CutAction;
}

/** Both processes of a term. */
export interface TermJob {
  host: string;
  peer: string;
  directory: string;
  arbiter: string;
  boot: string;
  order: Order;
  tls: TlsFiles;
  broken: Break | null;
}

export interface SenderJob extends TermJob {
  /** Of the receiver's link. */
  port: number;
}

export interface LogLine {
  part: 'host' | 'sender' | 'receiver';
  host: string;
  atMs: number;
  level: 'debug' | 'info' | 'warn' | 'error';
  message: string;
  fields: Record<string, unknown>;
}

export interface SenderFacts {
  phase: string;
  protection: string;
  reason: string;
  committedEpoch: number;
  sentBytes: number;
  figures: FiguresSummary | null;
}

export interface ReceiverFacts {
  phase: string;
  reason: string;
  committedEpoch: number;
}

/** Plain data, so that it can travel between processes. */
export interface LedgerFacts {
  count: number;
  entries: [number, string][];
  pending: [number, number[]][];
  disks: [number, string][][];
}

/** What a host does for its sender. */
export interface SenderCalls {
  [name: string]: (argument: never) => unknown;
  /** Resolves with the number of packets that wait for the epoch. */
  mark: (epoch: number) => number;
  release: (epoch: number) => void;
  openOutput: (argument: null) => void;
  dropOutput: (argument: null) => void;
  marker: (bytes: Uint8Array) => void;
  guestEnd: (argument: null) => GuestEnd | null;
  destroyGuest: (argument: null) => void;
  log: (line: LogLine) => void;
  facts: (facts: SenderFacts) => void;
}

/** What a host does for its receiver. */
export interface ReceiverCalls {
  [name: string]: (argument: never) => unknown;
  listening: (port: number) => void;
  suspendDevices: (argument: null) => void;
  loadDevices: (socket: string | null) => void;
  gate: (gate: { open: boolean; reason: string }) => void;
  disconnect: (argument: null) => void;
  /** Where it stands alone: looks for its peer again. */
  connectMirror: (argument: null) => void;
  promote: (argument: null) => void;
  writeBack: (range: VolumeRange) => void;
  /** Resolves when the guest runs. */
  guestStarted: (argument: null) => void;
  dropCopy: (argument: null) => void;
  log: (line: LogLine) => void;
  facts: (facts: ReceiverFacts) => void;
}

/** What a sender or a receiver does for its host. */
export interface PartCalls {
  [name: string]: (argument: never) => unknown;
  disk: (state: { connected: boolean; reason: string }) => void;
  stop: (reason: string) => void;
  arm: (cut: ArmedCut) => void;
}

/** What a host does for the controller. */
export interface HostCalls {
  [name: string]: (argument: never) => unknown;
  ports: (argument: null) => { mirror: number; guest: number };
  /** Recovers a journal that was left, and then brings the mirror up. */
  bringUp: (argument: null) => void;
  boot: (argument: null) => void;
  connectMirror: (argument: { discard: boolean }) => void;
  disconnectMirror: (argument: null) => void;
  demote: (argument: null) => void;
  destroyGuest: (argument: null) => void;
  /** Resolves with the port of the link. */
  startReceiver: (job: TermJob) => number;
  startRemus: (job: SenderJob) => void;
  arm: (cut: ArmedCut) => void;
  stop: (reason: string) => void;
  status: (argument: null) => HostStatus;
  /** Holds the guest, waits until both hosts have everything. */
  hold: (argument: null) => void;
  letGo: (argument: null) => void;
  /** SHA-256 of each volume's file. */
  sums: (argument: null) => string[];
  ledger: (argument: null) => LedgerFacts;
  /** As it was restored, before it ran. */
  restored: (argument: null) => { checkpoint: number; ledger: LedgerFacts } | null;
}

export interface HostStatus {
  mirror: MirrorState;
  guest: 'none' | 'running' | 'suspended';
  count: number;
  /** Output that waits for a commit. */
  heldPackets: number;
  senderActive: boolean;
  receiverActive: boolean;
  failure: string | null;
}

/** What the controller does for a host. */
export interface ControllerCalls {
  [name: string]: (argument: never) => unknown;
  log: (line: LogLine) => void;
  senderFacts: (facts: SenderFacts) => void;
  receiverFacts: (facts: ReceiverFacts) => void;
  mirror: (state: MirrorState) => void;
  remusEnded: (error: string | null) => void;
}
