/**
 * Processes of the lab: run one to its end, start one that outlives us, end one by its id and nothing else.
 *
 * A process is known by its id and its start time (field 22 of /proc/PID/stat), so that an id that the
 * kernel has given to someone else is never taken for ours.
 */
import { spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';

export interface Result {
  readonly stdout: string;
  readonly stderr: string;
  /** Exit code; -1 when a signal ended it. */
  readonly code: number;
  readonly durationMs: number;
}

export interface RunOptions {
  readonly input?: string | Buffer;
  readonly timeoutMs: number;
  readonly cwd?: string;
  readonly env?: NodeJS.ProcessEnv;
  /** False: a non-zero exit is returned, not thrown. */
  readonly check?: boolean;
  /** Show the output as it comes, instead of keeping it. */
  readonly inherit?: boolean;
}

const outputBytesMax = 64 * 1024 * 1024;

/**
 * Runs a command to its end.
 * @throws Error with command, exit code and stderr when it fails (unless `check` is false), always when it
 *   can't be started, is killed for its time or prints more than 64 MiB
 */
export function run(argv: readonly string[], options: RunOptions): Promise<Result> {
  const [command, ...rest] = argv;
  if (command === undefined) throw new Error('run: no command');
  return new Promise((resolve, reject) => {
    const startedMs = performance.now();
    const output = options.inherit ? 'inherit' : 'pipe';
    const child = spawn(command, rest, {
      stdio: [options.input === undefined ? 'ignore' : 'pipe', output, output],
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
      ...(options.env === undefined ? {} : { env: options.env }),
    });
    const chunks = { stdout: [] as Buffer[], stderr: [] as Buffer[] };
    let bytes = 0;
    let ended: string | undefined;
    const end = (why: string) => {
      ended ??= why;
      child.kill('SIGKILL');
    };
    const timer = setTimeout(() => end(`not done after ${options.timeoutMs} ms`), options.timeoutMs);
    for (const name of ['stdout', 'stderr'] as const) {
      child[name]?.on('data', (chunk: Buffer) => {
        bytes += chunk.length;
        if (bytes > outputBytesMax) end(`more than ${outputBytesMax} bytes of output`);
        else chunks[name].push(chunk);
      });
    }
    child.on('error', (error) => {
      clearTimeout(timer);
      reject(new Error(`${command}: can't be started: ${error.message}`, { cause: error }));
    });
    child.on('close', (code) => {
      clearTimeout(timer);
      const result: Result = {
        stdout: Buffer.concat(chunks.stdout).toString(),
        stderr: Buffer.concat(chunks.stderr).toString(),
        code: code ?? -1,
        durationMs: performance.now() - startedMs,
      };
      if (ended === undefined && (result.code === 0 || options.check === false)) resolve(result);
      else {
        const why = ended ?? `exit code ${result.code}`;
        reject(new Error(`${argv.join(' ')}: ${why}\n${result.stderr}${result.stdout}`.trim()));
      }
    });
    child.stdin?.on('error', () => {
      // The command may end without reading its input; its exit code tells.
    });
    child.stdin?.end(options.input);
  });
}

export interface ProcessIdentity {
  readonly pid: number;
  readonly startTicks: string;
}

function startTicksOf(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The name in parentheses may contain anything; the fields are counted after its end.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    // A leader is a zombie from its own end on; its other threads hold files and ports until theirs.
    const isGone = fields[0] === 'Z' && Number(fields[17]) <= 1;
    return isGone ? undefined : fields[19];
  } catch {
    return undefined;
  }
}

export function isAlive(identity: ProcessIdentity): boolean {
  return startTicksOf(identity.pid) === identity.startTicks;
}

/** This process. */
export function ownIdentity(): ProcessIdentity {
  return { pid: process.pid, startTicks: startTicksOf(process.pid) ?? '' };
}

/** Starts a process that goes on when we end; its output is added to a file. */
export function startDetached(
  argv: readonly string[],
  options: { cwd: string; log: string },
): ProcessIdentity {
  const [command, ...rest] = argv;
  if (command === undefined) throw new Error('startDetached: no command');
  const log = openSync(options.log, 'a');
  try {
    const child = spawn(command, rest, { cwd: options.cwd, detached: true, stdio: ['ignore', log, log] });
    child.on('error', () => {
      // Seen by the caller as a process without an id.
    });
    child.unref();
    if (child.pid === undefined) throw new Error(`${command}: can't be started; is it installed?`);
    return { pid: child.pid, startTicks: startTicksOf(child.pid) ?? '' };
  } finally {
    closeSync(log);
  }
}

/** Kills a process with SIGKILL and returns when it is gone. */
export async function kill(identity: ProcessIdentity, timeoutMs: number): Promise<void> {
  if (!isAlive(identity)) return;
  process.kill(identity.pid, 'SIGKILL');
  await until(`process ${identity.pid} to end`, () => !isAlive(identity), timeoutMs, 10);
}

/**
 * Asks again and again until the answer is neither undefined nor false. For what has no event to wait for.
 * @throws Error that says what was waited for, and the last error, after `timeoutMs`
 */
export async function until<T>(
  what: string,
  ask: () => T | undefined | false | Promise<T | undefined | false>,
  timeoutMs: number,
  pauseMs = 200,
): Promise<T> {
  const deadline = performance.now() + timeoutMs;
  let last: unknown;
  for (;;) {
    try {
      const answer = await ask();
      if (answer !== undefined && answer !== false) return answer;
    } catch (error) {
      last = error;
    }
    if (performance.now() > deadline) {
      const detail = last instanceof Error ? `: ${last.message}` : '';
      throw new Error(`waited ${timeoutMs} ms for ${what}${detail}`);
    }
    await delay(pauseMs);
  }
}
