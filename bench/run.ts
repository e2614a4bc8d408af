/**
 * Runs the benchmarks one after the other, or those whose name contains an argument. Each prints ratios against
 * a peer that it measured side by side in the same run; none of them passes or fails. Needs the Debian packages
 * fio, nbdkit and qemu-utils for the NBD rows, openssh-server and socat for the link's, apt for the hotplug script's.
 *
 *   npm run bench [-- NAME...]
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const benches = ['setup-pairs.ts', 'journal/limits.ts', 'journal/nbd.ts', 'link/throughput.ts', 'hotplug.ts'];
/** Those that need the two hosts of the lab (`npm run lab`), and run only when they are named. */
const inLab = ['lab/cost.ts'];

const words = process.argv.slice(2);
const chosen =
  words.length === 0
    ? benches
    : [...benches, ...inLab].filter((name) => words.some((word) => name.includes(word)));
if (chosen.length === 0) {
  console.error(`no benchmark matches ${words.join(' ')}; there are: ${[...benches, ...inLab].join(', ')}`);
  process.exitCode = 2;
}
for (const name of chosen) {
  console.log(`== ${name}`);
  const path = join(dirname(fileURLToPath(import.meta.url)), name);
  const child = spawn(process.execPath, ['--import', 'tsx', path], { stdio: 'inherit' });
  const [code] = (await once(child, 'close')) as [number | null];
  if (code !== 0) process.exitCode = 1;
}
