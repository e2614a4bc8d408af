/**
 * Errors that are meant for the operator, and the exit codes they end with.
 *
 * A message names its subject, what failed, what was observed against what is required, the state things
 * were left in, and the next step.
 */

/** Exit codes of the command line, as documented in the README. */
export const ExitCode = {
  ok: 0,
  failed: 1,
  /** Wrong usage or an invalid configuration; nothing was touched. */
  usage: 2,
  /** Refused because going on could lose data or run two copies. */
  refused: 3,
  unreachable: 4,
} as const;

export type ExitCode = (typeof ExitCode)[keyof typeof ExitCode];

/** An error the operator can act on. It is printed without a stack trace. */
export class OperatorError extends Error {
  readonly exitCode: ExitCode;

  /**
   * @param message the whole text for the operator
   * @param exitCode what the process exits with when nothing handles the error
   * @param cause the underlying error, logged at debug level
   */
  constructor(message: string, exitCode: ExitCode = ExitCode.failed, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'OperatorError';
    this.exitCode = exitCode;
  }
}

/** Several independent errors, each shown on a line of its own; ends with the gravest exit code. */
export class OperatorErrors extends OperatorError {
  readonly errors: readonly OperatorError[];

  constructor(errors: readonly OperatorError[]) {
    super(
      errors.map((error) => error.message).join('\n'),
      Math.max(...errors.map((e) => e.exitCode)) as ExitCode,
    );
    this.name = 'OperatorErrors';
    this.errors = errors;
  }
}
