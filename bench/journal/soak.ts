/** Rounds of SIGKILL under load from fio: soak.ts [ROUNDS] [SEED]. Ends with the first thing that is wrong. */
import { killRounds } from '../../test/journal/kill-rounds.js';

async function main(): Promise<void> {
  const rounds = Number(process.argv[2] ?? '200');
  const seed = Number(process.argv[3] ?? '1');
  const seen = await killRounds(rounds, { fio: true, seed, say: (line) => console.log(line) });
  console.log(
    `${rounds} rounds, seed ${seed}: ${seen.flushes} flushes and ${seen.commits} commits, nothing lost`,
  );
}

void main();
