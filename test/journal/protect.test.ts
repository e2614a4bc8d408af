/** A protected process goes on through what V8 does with memory that it gives back; as root, it has locked pages. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { test } from 'uvu';
import * as assert from 'uvu/assert';

const program = `
  import { readFileSync } from 'node:fs';
  import { getHeapSnapshot } from 'node:v8';
  import { protectProcess } from ${JSON.stringify(new URL('../../src/journal/protect.ts', import.meta.url).href)};
  const protection = await protectProcess();
  // Fragments the heap; a snapshot first collects everything and gives free pages back.
  for (let round = 0; round < 3; round++) {
    globalThis.kept = Array.from({ length: 300_000 }, (_, index) => ({ index })).filter(({ index }) => index % 50 === 0);
    for await (const chunk of getHeapSnapshot()) void chunk;
  }
  const locked = Number(/VmLck:\\s+(\\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1]);
  console.log(JSON.stringify({ ...protection, locked }));
`;

test('a protected process survives a collection of garbage that gives memory back', async () => {
  const { stdout } = await promisify(execFile)(
    process.execPath,
    ['--import', 'tsx', '--input-type=module', '-e', program],
    { timeout: 300_000 },
  );
  const { lockedMemory, locked } = JSON.parse(stdout) as { lockedMemory: string | null; locked: number };
  if (lockedMemory === null) assert.ok(locked > 1000, `${locked} KiB are locked`);
  else assert.match(lockedMemory, /mlock2 failed|this host swaps/);
});

test.run();
