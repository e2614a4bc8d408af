/**
 * Runs the end-to-end tests: every `*.lab.ts` here (or those whose name contains an argument), one after the
 * other, each in a process of its own with a hard limit, on a lab that is up.
 *
 *   node --import tsx test/lab/run.ts [--fresh] [--limit-minutes=N] [NAME...]
 *
 * `npm run test:lab` names those that CI runs, `npm run test:lab:long` the others, which take too long for it.
 * `--fresh` starts with two new hosts. Exit code 1 when a file fails, runs into its limit or runs no test
 * (uvu alone is content with that). The last line is `N passed, N failed`.
 */
import { spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { lab } from '../../scripts/lab/hosts.js';

const words = process.argv.slice(2);
const names = words.filter((word) => !word.startsWith('--'));
const limit = /^--limit-minutes=([1-9][0-9]*)$/m.exec(words.join('\n'))?.[1];
/** For one file; ends a hang. */
const fileLimitMs = Number(limit ?? 45) * 60_000;

interface Outcome {
  readonly passed: number;
  readonly total: number;
  readonly reason: string | undefined;
}

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

function runFile(path: string): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, ['--import', 'tsx', path], {
      stdio: ['ignore', 'pipe', 'inherit'],
      env: { ...process.env, ...lab.environment() },
    });
    let output = '';
    let isLate = false;
    const timer = setTimeout(() => {
      isLate = true;
      child.kill('SIGKILL');
    }, fileLimitMs);
    child.stdout.on('data', (chunk: Buffer) => {
      process.stdout.write(chunk);
      output += chunk.toString();
    });
    child.on('error', reject);
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      const count = (word: string) => Number(new RegExp(`${word}:\\s+(\\d+)`).exec(output)?.[1] ?? 0);
      const passed = count('Passed');
      const total = count('Total');
      const reason = isLate
        ? `not done after ${fileLimitMs / 60_000} minutes`
        : code !== 0
          ? `ended with ${signal ?? `exit code ${code}`}`
          : total === 0
            ? 'ran no test'
            : passed !== total
              ? `${total - passed} of ${total} tests failed or were skipped`
              : undefined;
      resolve({ passed, total, reason });
    });
  });
}

const directory = dirname(fileURLToPath(import.meta.url));
const files = readdirSync(directory)
  .filter((file) => file.endsWith('.lab.ts'))
  .filter((file) => names.length === 0 || names.some((name) => file.includes(name)))
  .sort();

await lab.reserve(say);
await (words.includes('--fresh') ? lab.fresh(say) : lab.up(say));

let passed = 0;
let failed = files.length === 0 ? 1 : 0;
if (files.length === 0) say(`no *.lab.ts matches ${names.join(' ')}`);
for (const file of files) {
  const startedMs = performance.now();
  say(`--- ${file}`);
  const outcome = await runFile(join(directory, file));
  const seconds = ((performance.now() - startedMs) / 1000).toFixed(0);
  say(`--- ${file}: ${outcome.reason ?? 'ok'} (${outcome.passed}/${outcome.total}, ${seconds} s)`);
  passed += outcome.passed;
  failed += Math.max(outcome.total - outcome.passed, outcome.reason === undefined ? 0 : 1);
}
say(`${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
