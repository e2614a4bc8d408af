/**
 * Setting 20 pairs up beside setting one up, over real SSH to embedded hosts with 50 ms of delay in all
 * (25 ms each way). The peer is the same program with one pair, in the same run; the ratio is what counts.
 *
 *   node --import tsx bench/setup-pairs.ts [PAIRS [DELAY_MS [RUNS]]]
 */
import { EmbeddedWorld } from '../src/embedded/world.js';
import { overPairs } from '../src/commands/pairs.js';
import { setupPair } from '../src/commands/setup.js';

const [pairs = 20, delayMs = 50, runs = 3] = process.argv.slice(2).map(Number);

/** Seconds for a whole setup of so many new pairs. */
async function timeSetup(count: number): Promise<number> {
  const world = await EmbeddedWorld.start({ pairs: count, delayMs: delayMs / 2 });
  try {
    const { loaded, works } = await world.load();
    const startedMs = performance.now();
    const outcomes = await overPairs(
      works,
      (work, progress) =>
        setupPair(
          work,
          world.dependencies(loaded),
          { overwrite: new Set(), dryRun: false, wait: true },
          progress,
        ),
      { live: false, write: () => undefined, nowMs: () => performance.now() },
    );
    const seconds = (performance.now() - startedMs) / 1000;
    const failed = outcomes.find(({ error }) => error !== undefined);
    if (failed?.error !== undefined) throw new Error(failed.error.message);
    return seconds;
  } finally {
    await world.close();
  }
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}

console.log(
  `setup of embedded pairs, ${delayMs} ms round trip, ${runs} runs each, one after the other in turn`,
);
const one: number[] = [];
const many: number[] = [];
for (let run = 0; run < runs; run++) {
  one.push(await timeSetup(1));
  many.push(await timeSetup(pairs));
  console.log(`  1 pair ${one[run]?.toFixed(2)} s, ${pairs} pairs ${many[run]?.toFixed(2)} s`);
}
const ratios = many.map((seconds, run) => seconds / (one[run] ?? Number.NaN));
console.log(
  `median: 1 pair ${median(one).toFixed(2)} s, ${pairs} pairs ${median(many).toFixed(2)} s, ` +
    `ratio ${median(ratios).toFixed(2)} (goal: below 2)`,
);
