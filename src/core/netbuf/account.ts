/**
 * The books of one queue: may what has left it have left, and has what was released left?
 *
 * All that ever entered a queue is what left it and what is in it (see parse.ts), so a mark lies between that sum
 * just before the `block` and that sum just after it. The two are equal unless a packet came in between, which a
 * suspended guest's doesn't. More than the upper figure having left is a broken guarantee, seen by no other means;
 * less than the lower one for long is a queue that stands still.
 */
import type { QueueFacts } from './parse.js';

/** Where a mark lies, counted in bytes since the queue was made. */
export interface MarkPlace {
  lowBytes: number;
  highBytes: number;
}

export function markPlace(before: QueueFacts, after: QueueFacts): MarkPlace {
  return { lowBytes: entered(before), highBytes: entered(after) };
}

function entered(queue: QueueFacts): number {
  return queue.sentBytes + queue.backlogBytes;
}

/** Bytes that have left beyond the last released mark; above 0 they left early. */
export function earlyBytes(released: MarkPlace, now: QueueFacts): number {
  return Math.max(0, now.sentBytes - released.highBytes);
}

/** Whether all that was before a released mark has left. */
export function isSettled(released: MarkPlace, now: QueueFacts): boolean {
  return now.sentBytes >= released.lowBytes;
}

export interface BufferStatus {
  /** `full`: packets were dropped since the last look. The guest's peers send them again, slowly. */
  state: 'open' | 'held' | 'full';
  reason: string;
}

/**
 * @param droppedBefore of the last look, per interface
 */
export function bufferStatus(
  domain: string,
  held: boolean,
  queues: ReadonlyMap<string, QueueFacts>,
  droppedBefore: ReadonlyMap<string, number>,
  limitBytes: number,
): BufferStatus {
  const full: string[] = [];
  let bytes = 0;
  let packets = 0;
  for (const [vif, queue] of queues) {
    const dropped = queue.droppedPackets - (droppedBefore.get(vif) ?? 0);
    if (dropped > 0) full.push(`${vif} ${dropped} (${queue.backlogBytes} bytes held)`);
    bytes += queue.backlogBytes;
    packets += queue.backlogPackets;
  }
  if (full.length > 0) {
    return {
      state: 'full',
      reason:
        `${domain}: the network queue was full and packets of the guest were dropped: ${full.join(', ')}; ` +
        `the limit is ${limitBytes} bytes an interface. Commits are too slow for what the guest sends`,
    };
  }
  if (!held) return { state: 'open', reason: `${domain}: the network is open, packets are not held` };
  return { state: 'held', reason: `${domain}: ${packets} packets (${bytes} bytes) wait for a commit` };
}
