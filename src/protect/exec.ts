/** Runs a command on this host with a deadline: argument lists only, never a shell. */
import { spawn } from 'node:child_process';
import type { ExecResult, Executor } from '../journal/switch.js';

const OUTPUT_BYTES_MAX = 4 << 20;

/** An `Executor`: at its deadline the command gets SIGKILL and the result has code null. */
export const exec: Executor = (argv, { timeoutMs }) =>
  new Promise<ExecResult>((resolve) => {
    const [program, ...args] = argv;
    const child = spawn(program ?? '', args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, LC_ALL: 'C' },
    });
    let stdout = '';
    let stderr = '';
    let isLate = false;
    let isOver = false;
    const finish = (result: ExecResult): void => {
      if (isOver) return;
      isOver = true;
      clearTimeout(timer);
      resolve(result);
    };
    const timer = setTimeout(() => {
      isLate = true;
      child.kill('SIGKILL');
      // A process in an uninterruptible wait outlives its SIGKILL for as long as the wait lasts.
      child.stdout.destroy();
      child.stderr.destroy();
      child.unref();
      finish({ code: null, stdout, stderr });
    }, timeoutMs);
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      if (stdout.length < OUTPUT_BYTES_MAX) stdout += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      if (stderr.length < OUTPUT_BYTES_MAX) stderr += text;
    });
    child.on('error', (error) => finish({ code: 127, stdout, stderr: error.message }));
    child.on('close', (code) => finish({ code: isLate ? null : (code ?? 128), stdout, stderr }));
  });

/** A tool that has failed; its message has the command and what it said. */
export class ToolError extends Error {}

/**
 * Runs a command that has to succeed.
 * @returns its standard output
 * @throws ToolError with the command and what it said
 */
export async function must(
  argv: readonly string[],
  timeoutMs: number,
  run: Executor = exec,
): Promise<string> {
  const { code, stdout, stderr } = await run(argv, { timeoutMs });
  if (code === 0) return stdout;
  const why = code === null ? `no end after ${timeoutMs} ms` : `exit code ${code}`;
  throw new ToolError(
    `${argv.join(' ')}: ${why}: ${(stderr.trim() || stdout.trim() || 'no output').slice(0, 500)}`,
  );
}
