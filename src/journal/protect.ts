/**
 * Keeps the process that serves a journal alive and answering when memory is short. Under DRBD it is part of
 * the write path: the kernel may need it to write pages back before it can free any.
 */
import { writeFile } from 'node:fs/promises';
import { native } from './native.js';

/** Lowest value of proc(5) `oom_score_adj`: never chosen by the out-of-memory killer. */
const OOM_NEVER = -1000;

export interface Protection {
  /** Null when in force, or in words why not. */
  outOfMemoryKiller: string | null;
  lockedMemory: string | null;
}

/** Asks for both protections; a process without the privilege goes on without, and says so. */
export async function protectProcess(): Promise<Protection> {
  let outOfMemoryKiller: string | null = null;
  try {
    await writeFile('/proc/self/oom_score_adj', String(OOM_NEVER));
  } catch (error) {
    outOfMemoryKiller = error instanceof Error ? error.message : String(error);
  }
  return { outOfMemoryKiller, lockedMemory: native().lockMemory() };
}
