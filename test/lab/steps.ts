/**
 * A uvu test on the lab that says on standard output when it starts and how long it took: end-to-end tests
 * take minutes, and uvu is silent until a file has ended.
 */
import type { Test } from 'uvu';

export function step(test: Test, name: string, body: () => Promise<void>): void {
  test(name, async () => {
    const startedMs = performance.now();
    process.stdout.write(`\n  ${name} ...\n`);
    try {
      await body();
    } finally {
      process.stdout.write(`  ${name}: ${((performance.now() - startedMs) / 1000).toFixed(1)} s `);
    }
  });
}
