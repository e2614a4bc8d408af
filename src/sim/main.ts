/**
 * The simulator as a program: `npm run sim -- --seed N --steps N`. Runs seeds one after the other, from the given one
 * on, until so many steps are taken; ends with exit code 1 at the first violation, and where an effect was never
 * crashed at. Exit code 2 is wrong usage.
 *
 *     --seed N      the first seed; by default a fresh one, which is printed
 *     --steps N     steps in all (events of virtual time); default 20,000,000 (about two minutes)
 *     --run-steps N steps of one seed; default 20,000
 *     --trace       with one seed: what happens, line by line
 *     --no-holes    an effect that was never crashed at does not fail the run
 */
import { randomInt } from 'node:crypto';
import { parseArgs } from 'node:util';
import { Coverage } from './coverage.js';
import { simulate } from './simulate.js';

const print = (line: string): void => void process.stdout.write(`${line}\n`);

/** @throws Error with what is wrong with the arguments */
function readOptions(): { first: number; steps: number; runSteps: number; trace: boolean; noHoles: boolean } {
  const { values } = parseArgs({
    options: {
      seed: { type: 'string' },
      steps: { type: 'string', default: '20000000' },
      'run-steps': { type: 'string', default: '20000' },
      trace: { type: 'boolean', default: false },
      'no-holes': { type: 'boolean', default: false },
    },
  });
  const number = (option: 'seed' | 'steps' | 'run-steps', text: string): number => {
    const value = Number(text);
    if (/^\d+$/.test(text) && Number.isSafeInteger(value)) return value;
    throw new Error(`--${option} ${text}: a whole number is required`);
  };
  return {
    first: values.seed === undefined ? randomInt(1 << 30) : number('seed', values.seed),
    steps: values.trace ? 1 : number('steps', values.steps),
    runSteps: number('run-steps', values['run-steps']),
    trace: values.trace,
    noHoles: values['no-holes'],
  };
}

function optionsOrExit(): ReturnType<typeof readOptions> {
  try {
    return readOptions();
  } catch (error) {
    process.stderr.write(`sim: ${(error as Error).message}\n`);
    process.exit(2);
  }
}

const { first, steps, runSteps, trace, noHoles } = optionsOrExit();
print(`first seed ${first}, ${steps} steps`);
const coverage = new Coverage();
const sum = { steps: 0, episodes: 0, checkpoints: 0, failovers: 0, virtualMs: 0, runs: 0 };
const startedMs = performance.now();
const startedCpu = process.cpuUsage();
let failed = false;
for (let seed = first; sum.steps < steps && !failed; seed++) {
  const result = await simulate(seed, { steps: runSteps, ...(trace ? { trace: print } : {}) });
  coverage.merge(result.coverage);
  sum.runs++;
  for (const key of ['steps', 'episodes', 'checkpoints', 'failovers', 'virtualMs'] as const)
    sum[key] += result[key];
  if (result.violation === null) continue;
  failed = true;
  print(`seed ${seed}: ${result.violation.message}`);
  print(`again: npm run sim -- --seed ${seed} --run-steps ${runSteps} --trace`);
}
const seconds = (performance.now() - startedMs) / 1000;
const used = process.cpuUsage(startedCpu);
const cpuSeconds = (used.user + used.system) / 1e6;
const rate = (count: number): string => Math.round(count / cpuSeconds).toLocaleString('en');
print(
  `${sum.runs} seeds, ${sum.episodes} episodes of faults, ${sum.failovers} failovers, ${sum.checkpoints} checkpoints, ` +
    `${sum.steps} steps, ${Math.round(sum.virtualMs / 1000)} s of virtual time in ${seconds.toFixed(1)} s (${cpuSeconds.toFixed(1)} s of processor)`,
);
print(`${rate(sum.checkpoints)} checkpoints with faults and ${rate(sum.steps)} steps a second of processor`);
const holes = coverage.holes();
print(
  `${coverage.inputs.size} pairs of phase and input, ${coverage.effects.size} effects; never crashed at: ${holes.length}`,
);
if (!trace) {
  for (const counts of [coverage.inputs, coverage.effects, coverage.crashes, coverage.outcomes]) {
    print('');
    for (const [key, count] of [...counts].sort(([a], [b]) => (a < b ? -1 : 1)))
      print(`${String(count).padStart(9)} ${key}`);
  }
}
if (!trace) for (const hole of holes) print(`never crashed at: ${hole}`);
process.exitCode = failed || (holes.length > 0 && !noHoles && !trace) ? 1 : 0;
