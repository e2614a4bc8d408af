/**
 * Keeps the process that serves a journal alive and answering when memory is short. Under DRBD it is part of
 * the write path: the kernel may need it to write pages back before it can free any.
 *
 * Programs and libraries are locked in memory, from their first use on. The rest can't be: V8 gives pages of its
 * heap back by madvise(2), takes a refusal for a bug and ends the process, and locked pages are refused (seen
 * with mlockall(2) and Node 18). What is not from a file leaves memory only by swapping, so either there is no
 * swap, or the process's unit says `MemorySwapMax=0`.
 *
 * Sources: proc(5) for maps, swaps and cgroup; cgroup-v2 of the kernel's documentation for memory.swap.max.
 */
import { readFile, writeFile } from 'node:fs/promises';
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
  return {
    outOfMemoryKiller,
    lockedMemory: lockFiles(await readFile('/proc/self/maps', 'latin1')) ?? (await swap()),
  };
}

/** @param maps text of proc(5) `maps`: `7f00-7f08 r-xp 00000000 fe:00 1234   /usr/lib/libnode.so` */
function lockFiles(maps: string): string | null {
  for (const [, from = '', to = ''] of maps.matchAll(
    /^([0-9a-f]+)-([0-9a-f]+) r\S+ \S+ \S+ [1-9]\d* +\//gm,
  )) {
    const start = BigInt(`0x${from}`);
    const failure = native().lockPages(start, BigInt(`0x${to}`) - start);
    if (failure !== null) return failure;
  }
  return null;
}

/** Null when nothing of this process can be swapped out, or in words why it can. */
async function swap(): Promise<string | null> {
  const swaps = await readFile('/proc/swaps', 'utf8');
  if (swaps.trim().split('\n').length <= 1) return null;
  const group = /^0::(.*)$/m.exec(await readFile('/proc/self/cgroup', 'utf8'))?.[1] ?? '';
  const most = await readFile(`/sys/fs/cgroup${group}/memory.swap.max`, 'utf8').catch(() => 'not known');
  if (most.trim() === '0') return null;
  return `this host swaps, and memory.swap.max of the process is ${most.trim()}: MemorySwapMax=0 in its unit is required`;
}
