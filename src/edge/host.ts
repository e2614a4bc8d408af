/**
 * What the controller needs of a host, whoever provides it: a real one over SSH (`ssh.ts`) or an embedded
 * stand-in (`src/embedded`). Commands are argument lists; only the implementation turns them into text.
 */

export interface CommandResult {
  exitCode: number;
  stdout: string;
  stderr: string;
}

export interface RunOptions {
  /** The command is ended, and the call fails with `HostError`, after this long. */
  deadlineMs?: number;
  /** Bytes for its standard input. */
  input?: string | Uint8Array;
}

export interface FileContent {
  content: Uint8Array;
  /** Permission bits, such as 0o644. */
  mode: number;
}

/** A command that was never run or whose end is not known: connection lost, deadline passed, refused. */
export class HostError extends Error {
  readonly host: string;
  /** `unknown`: it may or may not have run, look again before you go on. */
  readonly outcome: 'not-run' | 'unknown';

  constructor(host: string, outcome: 'not-run' | 'unknown', message: string, cause?: unknown) {
    super(`${host}: ${message}`, cause === undefined ? undefined : { cause });
    this.name = 'HostError';
    this.host = host;
    this.outcome = outcome;
  }
}

export interface Host {
  /** Name in the configuration. */
  readonly name: string;

  /** Runs one command. A non-zero exit is a result, not an error. */
  run(argv: readonly string[], options?: RunOptions): Promise<CommandResult>;

  /**
   * Runs several read-only commands in one round trip, in order; a failing one does not stop the rest.
   * Safe to repeat, so a lost connection is retried within.
   */
  probe(
    commands: ReadonlyMap<string, readonly string[]>,
    options?: RunOptions,
  ): Promise<Map<string, CommandResult>>;

  /** Runs a command for as long as it lasts or until `signal` aborts; each line of its output is passed on. */
  stream(
    argv: readonly string[],
    onLine: (line: string) => void,
    options: { signal?: AbortSignal },
  ): Promise<CommandResult>;

  /** Reads a regular file; undefined when there is none. Bounded: refuses files over `bytesMax`. */
  readFile(path: string, bytesMax?: number): Promise<FileContent | undefined>;

  /** Reads several files in one round trip. */
  readFiles(paths: readonly string[]): Promise<Map<string, FileContent | undefined>>;

  /**
   * Puts a file in place atomically: temporary name beside it, written, fsynced, checked by its SHA-256,
   * renamed, directory fsynced. Makes missing parent directories (0755).
   */
  writeFile(path: string, content: Uint8Array, mode: number): Promise<void>;

  close(): Promise<void>;
}
