/** Compares the numbers of writes that journal-host.ts reads, block by block. */
import * as assert from 'uvu/assert';
import type { MarkerAnswer, Numbers } from './journal-host.js';

export function forEachBlock(
  numbers: Numbers,
  work: (number: number, disk: number, block: number) => void,
): void {
  for (const [disk, each] of numbers.entries())
    for (const [block, number] of each.entries()) work(number, disk, block);
}

export function assertSame(found: Numbers, expected: Numbers, what: string): void {
  forEachBlock(found, (number, disk, block) => {
    const other = expected[disk]?.[block];
    if (number !== other)
      assert.unreachable(
        `${what}: disk ${disk}, block ${block} holds write ${number}, ${String(other)} is expected`,
      );
  });
}

/** Every write that had completed before the marker is there, and none that was issued after it. */
export function assertEpoch(
  found: Numbers,
  { completed, issued }: MarkerAnswer,
  before: Numbers,
  epoch: number,
): void {
  forEachBlock(found, (number, disk, block) => {
    // The writers know only of their own writes.
    const least = completed[disk]?.[block] || before[disk]?.[block] || 0;
    const most = issued[disk]?.[block] || before[disk]?.[block] || 0;
    if (number < least || number > most)
      assert.unreachable(
        `epoch ${epoch}, disk ${disk}, block ${block}: holds write ${number}; ${least} had completed before the marker, ${most} was the last one issued before its end`,
      );
  });
}
