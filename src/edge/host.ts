/**
 * What the controller needs of a host, whoever provides it: a real one over SSH (`ssh.ts`) or an embedded
 * stand-in (`src/embedded`). Commands are argument lists; only the implementation turns them into text.
 *
 * A command runs with LC_ALL=C and a fixed PATH. Its program is a file, never a shell built-in.
 */
import { OperatorError } from '../core/errors.js';

export interface CommandResult {
  /** As a shell shows it: a command that signal N ended has 128 + N, one that is not installed 127. */
  exitCode: number;
  stdout: string;
  stderr: string;
}

export interface RunOptions {
  /** The command is ended on the host, and the call fails with `HostError`, after this long. */
  deadlineMs?: number;
  /** Bytes for its standard input, which is empty otherwise. */
  input?: string | Uint8Array;
  /**
   * Running it twice does no harm: after a lost connection it is sent again. Without this it never is once it
   * may have started.
   */
  repeatable?: boolean;
}

export interface StreamOptions {
  /**
   * Ends the command: its standard input, which is open and empty until then, reaches its end, and its
   * process group gets SIGTERM. A lost connection does the same on the host.
   */
  signal?: AbortSignal;
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

/** A command printed more than is kept; it has been cut off from its output and its outcome is unknown. */
export class OutputLimitError extends HostError {
  constructor(host: string, command: string, bytesMax: number) {
    super(host, 'unknown', `\`${command}\` printed more than the ${bytesMax} bytes that are kept`);
    this.name = 'OutputLimitError';
  }
}

/** A file on a host that can't be read or put in place; the text says why and what state it was left in. */
export class FileError extends OperatorError {
  readonly host: string;
  readonly path: string;

  constructor(host: string, path: string, message: string) {
    super(`${host}: ${path}: ${message}`);
    this.name = 'FileError';
    this.host = host;
    this.path = path;
  }
}

export interface Host {
  /** Name in the configuration. */
  readonly name: string;

  /**
   * Runs one command. A non-zero exit is a result, not an error.
   *
   * @throws HostError when it did not run or its end is not known
   */
  run(argv: readonly string[], options?: RunOptions): Promise<CommandResult>;

  /**
   * Runs several read-only commands in one round trip, in order; neither a failing one nor one that hangs
   * stops the rest (the latter ends with exit code 124). Safe to repeat, so a lost connection is retried
   * within. `deadlineMs` is that of the whole batch.
   *
   * @throws HostError when no whole answer can be had
   */
  probe(
    commands: ReadonlyMap<string, readonly string[]>,
    options?: Pick<RunOptions, 'deadlineMs'>,
  ): Promise<Map<string, CommandResult>>;

  /**
   * Runs a command for as long as it lasts or until `signal` aborts; each line of its standard output is
   * passed on, without its newline. The result has its standard error and an empty standard output.
   *
   * @throws HostError when it did not run or the connection was lost meanwhile
   */
  stream(
    argv: readonly string[],
    onLine: (line: string) => void,
    options: StreamOptions,
  ): Promise<CommandResult>;

  /**
   * Reads a regular file; undefined when there is none.
   *
   * @throws FileError for anything but a regular file and for one over `bytesMax`
   */
  readFile(path: string, bytesMax?: number): Promise<FileContent | undefined>;

  /** Reads several files in one round trip. */
  readFiles(paths: readonly string[], bytesMax?: number): Promise<Map<string, FileContent | undefined>>;

  /**
   * Puts a file in place atomically: temporary name beside it, written, checked by its SHA-256, fsynced,
   * renamed, directory fsynced. Makes missing parent directories (0755). Safe to repeat, so a lost connection
   * is retried within. A symbolic link in its place is replaced, not followed.
   *
   * @throws FileError when the host could not; the old file is then untouched
   */
  writeFile(path: string, content: Uint8Array, mode: number): Promise<void>;

  close(): Promise<void>;
}
