/**
 * Whether protection is to come back by itself: a pure decision on what both hosts say, for `remus-drbd watch`.
 *
 * It does only what `recover` would do, and only where nobody decided otherwise: people want it (`wanted.ts`), the
 * configuration says `autoRecover: true`, the last term is decided and was won by the host where the guest runs, and
 * nothing is under way. Everything else is told and left alone.
 *
 * After a try that failed, and after a protection that did not last, it waits: half a minute, then twice as long each
 * time, up to a quarter of an hour.
 */
import type { TermRecord } from '../claim/term.js';
import { nextRecoveryStep, winnerOf } from './recovery.js';
import type { RecoveryHost } from './recovery.js';
import { latestWanted } from './wanted.js';
import type { Wanted } from './wanted.js';

export interface WatchHost extends RecoveryHost {
  wanted: Wanted | undefined;
  /** A switchover was begun and has not ended. */
  isSwitching: boolean;
  senderSays: { protection: string; reason: string } | null;
  receiverSays: { phase: string; reason: string } | null;
}

export type WatchStep =
  /** It is protected. */
  | { do: 'nothing'; reason: string }
  /** It is not as people want it, and that is not to be changed by itself now. */
  | { do: 'leave'; reason: string }
  | { do: 'recover'; reason: string };

/** What is remembered from one look to the next. */
export interface WatchMemory {
  failures: number;
  /** Not tried again before. */
  notBeforeMs: number;
  protectedSinceMs: number | null;
}

export const FIRST_DELAY_MS = 30_000;
export const DELAY_MS_MAX = 15 * 60_000;
/** A protection that lasted for so long counts as one that works. */
export const STEADY_MS = 10 * 60_000;

export const newWatchMemory = (): WatchMemory => ({ failures: 0, notBeforeMs: 0, protectedSinceMs: null });

export function watchStep(
  domain: string,
  autoRecover: boolean,
  hosts: readonly [WatchHost, WatchHost],
  memory: WatchMemory,
  nowMs: number,
): WatchStep {
  const leave = (reason: string): WatchStep => ({ do: 'leave', reason });
  const sender = hosts.find(({ senderActive }) => senderActive);
  if (sender !== undefined) {
    const { senderSays: says } = sender;
    if (says?.protection === 'protected') return { do: 'nothing', reason: 'protected' };
    return leave(`${says?.protection ?? 'starting'}: ${says?.reason ?? 'the sender has not reported yet'}`);
  }
  const receiver = hosts.find(({ receiverActive }) => receiverActive);
  // One that waits for a sender is what a `protect` that was cut short has left.
  if (receiver !== undefined && receiver.receiverSays?.phase !== 'waiting') {
    const { receiverSays: says } = receiver;
    return leave(
      `the receiver on ${receiver.name} is in phase ${says?.phase ?? 'unknown'}: ${says?.reason ?? ''}`,
    );
  }
  if (hosts.some(({ isSwitching }) => isSwitching)) {
    return leave(`a switchover is under way, or was cut short: remus-drbd switchover ${domain} ends it`);
  }
  const wanted = latestWanted(hosts[0].wanted, hosts[1].wanted);
  if (wanted === undefined) return leave('protection was never asked for');
  if (!wanted.protect) return leave('protection was ended by an operator');
  if (!autoRecover) {
    return leave(`autoRecover is not set for it; remus-drbd recover ${domain} brings protection back`);
  }
  const undecided = undecidedTerm(hosts);
  if (undecided !== null) {
    return leave(
      `who goes on after term ${undecided} is not decided: remus-drbd failover or continue ${domain}`,
    );
  }
  const winner = winnerOf(hosts);
  const running = hosts.filter(({ guests }) => guests.some(({ name }) => name === domain));
  if (winner !== undefined && running.length === 1 && running[0] !== winner) {
    return leave(`it runs on ${running[0]?.name ?? ''}, and the last term was decided for ${winner.name}`);
  }
  const next = nextRecoveryStep(domain, hosts);
  switch (next.do) {
    case 'refuse':
    case 'done':
      return leave(next.reason);
    case 'wait':
      if (next.for !== 'sync') return leave(next.reason);
      return leave(`${next.reason}; ${next.outOfSyncBytes} bytes are to be resynchronised`);
    default:
      if (nowMs < memory.notBeforeMs) {
        const seconds = Math.ceil((memory.notBeforeMs - nowMs) / 1000);
        return leave(
          `${next.reason}; ${memory.failures} times it failed or did not last, next try in ${seconds} s`,
        );
      }
      return { do: 'recover', reason: next.reason };
  }
}

/** A newest term under protection of which neither host knows the end. */
function undecidedTerm(hosts: readonly [WatchHost, WatchHost]): number | null {
  const newest = Math.max(...hosts.map(({ term }) => term?.term ?? 0));
  const records = hosts.flatMap(({ term }): TermRecord[] => (term?.term === newest ? [term] : []));
  const isOpen = records.some(({ phase }) => phase === 'protected');
  return isOpen && !records.some(({ phase }) => phase === 'ended') ? newest : null;
}

/** After a try that failed. */
export function afterFailure(memory: WatchMemory, nowMs: number): WatchMemory {
  const failures = memory.failures + 1;
  const delayMs = Math.min(DELAY_MS_MAX, FIRST_DELAY_MS * 2 ** (failures - 1));
  return { failures, notBeforeMs: nowMs + delayMs, protectedSinceMs: null };
}

/** After each look: how long protection has lasted, and whether it has ended too soon. */
export function afterLook(memory: WatchMemory, isProtected: boolean, nowMs: number): WatchMemory {
  const { protectedSinceMs } = memory;
  if (isProtected) {
    const sinceMs = protectedSinceMs ?? nowMs;
    const failures = nowMs - sinceMs >= STEADY_MS ? 0 : memory.failures;
    return { ...memory, failures, protectedSinceMs: sinceMs };
  }
  if (protectedSinceMs === null) return memory;
  if (nowMs - protectedSinceMs >= STEADY_MS) return newWatchMemory();
  return afterFailure(memory, nowMs);
}
