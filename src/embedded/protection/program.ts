/**
 * Starts this same program once more as a part of the embedded pair: `demo --embedded-part PART`, which is no command
 * for people. From source with the loaders that this process has, or the bundle.
 */
import { spawn } from 'node:child_process';
import type { ChildProcess, StdioOptions } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Where its job is handed over; an environment is not shown to other users. */
const JOB = 'REMUS_EMBEDDED_JOB';

export type PartName = 'host' | 'sender' | 'receiver';

export function startPart(
  part: PartName,
  job: object,
  options: { stdio: StdioOptions; detached?: boolean },
): ChildProcess {
  const here = fileURLToPath(import.meta.url);
  const program = here.endsWith('.ts') ? join(dirname(here), '../../main.ts') : here;
  return spawn(process.execPath, [...process.execArgv, program, 'demo', '--embedded-part', part], {
    stdio: options.stdio,
    detached: options.detached ?? false,
    serialization: 'advanced',
    env: { ...process.env, [JOB]: JSON.stringify(job) },
  });
}

/** Of a part. @throws Error where it was not started by `startPart` */
export function readJob<T>(): T {
  const text = process.env[JOB];
  if (text === undefined || process.send === undefined) {
    throw new Error('a part of the embedded pair is started by the demo only');
  }
  return JSON.parse(text) as T;
}
