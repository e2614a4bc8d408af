/** How the embedded tools end. */
import type { EmbeddedResult } from './sshd.js';

export function printed(stdout: string | Uint8Array): EmbeddedResult {
  return { exitCode: 0, stdout, stderr: '' };
}

export function failed(exitCode: number, stderr: string): EmbeddedResult {
  return { exitCode, stdout: '', stderr: stderr.endsWith('\n') ? stderr : `${stderr}\n` };
}

export const NO_SUCH_FILE = 'No such file or directory';

/** Thrown by a tool for arguments that it doesn't model; never the answer of a real one. */
export class NotModelled extends Error {}
