/**
 * Words that the sender and the receiver of one term share.
 */

/** Names one period of protection. Every message, marker and claim carries it; any other is refused. */
export interface Identity {
  pair: string;
  domain: string;
  /** Grows with each period of protection and never goes back, also over reboots. */
  term: number;
  /** 16 random bytes as 32 hexadecimal digits. */
  session: string;
}

export function sameIdentity(a: Identity, b: Identity): boolean {
  return a.pair === b.pair && a.domain === b.domain && a.term === b.term && a.session === b.session;
}

/**
 * Who goes on with the guest after a term.
 * - `primary`: the backup has given its copy up, or the primary has won the claim. The journal is rolled forward.
 * - `backup`: the backup has won the claim. The primary has to destroy its guest with its output still held.
 */
export type Decision = 'primary' | 'backup';

/** How a guest stopped of its own accord: `xl list` shows it, or it is gone. */
export type GuestEnd = 'poweroff' | 'reboot' | 'crash' | 'gone';

/** Checkpoints are numbered from 1; 0 is the live round, which can't be held and is never committed. */
export const LIVE_ROUND = 0;

export type LogLevel = 'debug' | 'info' | 'warn' | 'error';

/** One line for the log, the status and the transcript: the same words everywhere. */
export interface LogEffect {
  type: 'log';
  level: LogLevel;
  message: string;
  fields?: Record<string, string | number | boolean | null>;
}

/**
 * Counts silence in ticks that were really seen. A process that was itself stopped or starved sees one late tick,
 * not many: its own pause never passes for the peer's.
 */
export interface Silence {
  /** Ticks since something was last heard. */
  ticks: number;
  lastTickMs: number | null;
}

export const newSilence = (): Silence => ({ ticks: 0, lastTickMs: null });

/** The tick is expected this often: a tenth of the time after which a peer counts as gone. */
export function tickMs(failAfterMs: number): number {
  return Math.max(10, Math.floor(failAfterMs / 10));
}

/** One tick later. A tick that comes long after the one before counts once. */
export function tickSilence(silence: Silence, nowMs: number): Silence {
  return { ticks: silence.ticks + 1, lastTickMs: nowMs };
}

/** @param patience how many times `failAfterMs` the peer is given */
export function isSilent(silence: Silence, failAfterMs: number, patience: number): boolean {
  return silence.ticks * tickMs(failAfterMs) >= failAfterMs * patience;
}
