/**
 * Runs the uvu test files, each in a process of its own, and ends with a line `N passed, N failed`.
 *
 *   node scripts/test.mjs [--suffix .test.ts] [--one-at-a-time] [--limit-minutes N] [WORD...]
 *
 * A WORD selects the files whose path contains it. uvu alone exits 0 for a file that never calls `.run()`,
 * for skipped tests, for a suite whose `before` throws, and when there is no file at all, and waits for ever on a leaked
 * server; each of these is a failure here.
 */
import { spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { availableParallelism, cpus } from 'node:os';
import { join } from 'node:path';

const { suffix, words, jobs, limitMinutes } = readArguments(process.argv.slice(2));
const files = readdirSync('test', { recursive: true })
  .map((name) => join('test', String(name)))
  .filter((name) => name.endsWith(suffix) && words.every((word) => name.includes(word)))
  .sort();

let passed = 0;
let failed = 0;
if (files.length === 0) {
  console.log(`no test file matches ${suffix} ${words.join(' ')}`);
  failed++;
}

const queue = [...files];
await Promise.all(
  Array.from({ length: jobs }, async () => {
    for (let file = queue.shift(); file !== undefined; file = queue.shift())
      report(file, await runFile(file));
  }),
);
console.log(`\n${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);

function readArguments(args) {
  const result = {
    suffix: '.test.ts',
    words: [],
    // Many of them wait for processes most of the time.
    jobs: Math.min(2, availableParallelism?.() ?? cpus().length) + 1,
    limitMinutes: 10,
  };
  for (let i = 0; i < args.length; i++) {
    if (args[i] === '--suffix') result.suffix = args[++i];
    else if (args[i] === '--one-at-a-time') result.jobs = 1;
    else if (args[i] === '--limit-minutes') result.limitMinutes = Number(args[++i]);
    else if (args[i].startsWith('--')) throw new Error(`unknown option ${args[i]}`);
    else result.words.push(args[i]);
  }
  return result;
}

/** Runs one file. Its output is kept back until it ends, except when only one runs at a time. */
function runFile(file) {
  const source = readFileSync(file, 'utf8');
  if (!/\.run\(\)/.test(source)) return { problem: 'never calls .run(), so it tests nothing', output: '' };
  if (/\.only\(/.test(source)) return { problem: 'has a test.only left in it', output: '' };
  return new Promise((resolve) => {
    const started = Date.now();
    const child = spawn(process.execPath, ['--import', 'tsx', file], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, FORCE_COLOR: '0', NO_COLOR: '1' },
    });
    let output = '';
    let problem;
    const take = (chunk) => {
      output += chunk;
      if (jobs === 1) process.stdout.write(chunk);
    };
    child.stdout.setEncoding('utf8').on('data', take);
    child.stderr.setEncoding('utf8').on('data', take);
    const timer = setTimeout(() => {
      problem = `did not end within ${limitMinutes} minutes: a test hangs or leaves something open`;
      child.kill('SIGKILL');
    }, limitMinutes * 60_000);
    child.on('error', (error) => (problem = error.message));
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      const total = count(output, 'Total');
      const done = count(output, 'Passed');
      if (code !== 0) problem ??= `ended with ${signal ?? `exit code ${code}`}`;
      if (count(output, 'Skipped') > 0) problem ??= 'skips tests, which then show nothing';
      if (total === 0) problem ??= 'ran no test';
      if (done !== total) problem ??= `${done} of ${total} tests passed; a hook of the suite failed`;
      resolve({ problem, output, total, done, seconds: (Date.now() - started) / 1000 });
    });
  });
}

/** The number in uvu's closing lines `  Total:     3`. */
function count(output, label) {
  const found = new RegExp(`^\\s+${label}:\\s+(\\d+)`, 'm').exec(output);
  return found ? Number(found[1]) : 0;
}

function report(file, { problem, output, total = 0, done = 0, seconds = 0 }) {
  passed += done;
  if (problem === undefined) {
    const notes = output.split('\n').filter((line) => line.startsWith('skipped: '));
    console.log(`ok    ${file}  ${done} tests, ${seconds.toFixed(1)} s`);
    for (const note of notes) console.log(`      ${note}`);
    return;
  }
  failed += Math.max(1, total - done);
  if (jobs !== 1) console.log(output);
  console.log(`FAIL  ${file}: ${problem}`);
}
