/** Stops a program with eyes where the test of power cuts has asked it to (cuts-log.ts), until it asks no more. */
import { appendFileSync, readFileSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import { ASKED_FILE, EYES_LOG } from './cuts-log.js';
import type { Ask, EyesLine, Point } from './cuts-log.js';

const AGAIN_MS = 50;

export function tellEyes(line: EyesLine): void {
  appendFileSync(EYES_LOG, `${JSON.stringify(line)}\n`);
}

export function isAsked(word: Ask): boolean {
  try {
    return readFileSync(ASKED_FILE, 'utf8').trim().split(/\s+/).includes(word);
  } catch {
    return false;
  }
}

/** Resolves when it is no longer asked for. */
export async function whileAsked(word: Ask): Promise<void> {
  while (isAsked(word)) await pause(AGAIN_MS);
}

/**
 * Tells that a point is reached, where it is asked for.
 * @param isSuspended what the hypervisor says of the guest; null where nobody looked
 * @returns whether it was asked for
 */
export function reached(
  point: Point | 'still',
  epoch: number,
  isSuspended: (() => boolean) | null = null,
): boolean {
  if (!isAsked(point)) return false;
  tellEyes({ event: 'point', point, epoch, isSuspended: isSuspended?.() ?? null, timeMs: Date.now() });
  return true;
}

/** The same, and stops there. */
export async function stopAt(...words: Parameters<typeof reached>): Promise<void> {
  if (reached(...words)) await whileAsked(words[0]);
}
