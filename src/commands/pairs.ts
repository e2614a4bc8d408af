/** Runs setup or teardown over all pairs with progress, and reports what came of each. */
import { ExitCode, OperatorError } from '../core/errors.js';
import { HostError } from '../edge/host.js';
import { showJobs, type Progress, type ProgressOptions } from '../edge/progress.js';
import type { DoneStep, PairResult, PairWork } from './converge.js';

export interface PairOutcome {
  pair: string;
  changes: DoneStep[];
  /** Absent where the pair is as it has to be. */
  error?: { message: string; exitCode: ExitCode };
}

/**
 * Works on all pairs side by side.
 *
 * @throws whatever is not meant for the operator: a programming error
 */
export async function overPairs(
  works: readonly PairWork[],
  one: (work: PairWork, progress: Progress) => Promise<PairResult>,
  options: ProgressOptions,
): Promise<PairOutcome[]> {
  const outcomes = works.map(({ pair }): PairOutcome => ({ pair: pair.name, changes: [] }));
  const errors = await showJobs(
    works.map((work, index) => ({
      title: work.pair.name,
      work: async (progress) => {
        outcomes[index]!.changes = (await one(work, progress)).changes;
      },
    })),
    options,
  );
  errors.forEach((error, index) => {
    if (error !== undefined) outcomes[index]!.error = operatorError(error);
  });
  return outcomes;
}

/** A lost connection between two steps has no step to name; any other error but the operator's is a bug. */
function operatorError(error: unknown): { message: string; exitCode: ExitCode } {
  if (error instanceof OperatorError) return { message: error.message, exitCode: error.exitCode };
  if (error instanceof HostError) {
    return {
      message: `${error.message}; what was done before is in place. Run it again: it looks first and does what is missing.`,
      exitCode: ExitCode.unreachable,
    };
  }
  throw new Error('a pair ended with a programming error', { cause: error });
}

/** The gravest exit code among the outcomes. */
export function outcomesExitCode(outcomes: readonly PairOutcome[]): ExitCode {
  return Math.max(
    ExitCode.ok,
    ...outcomes.map((outcome) => outcome.error?.exitCode ?? ExitCode.ok),
  ) as ExitCode;
}

/** What was done, in words: a line a pair, and of a dry run every command and every difference, by host. */
export function outcomesText(outcomes: readonly PairOutcome[], dryRun: boolean): string {
  return outcomes
    .map((outcome) => {
      const lines: string[] = [];
      if (dryRun) lines.push(...dryRunLines(outcome));
      const count = `${outcome.changes.length} change${outcome.changes.length === 1 ? '' : 's'}`;
      if (outcome.error !== undefined) {
        lines.push(`${outcome.pair}: failed: ${outcome.error.message}`);
      } else if (dryRun) {
        lines.push(`${outcome.pair}: ${count} would be made; nothing was touched`);
      } else {
        lines.push(`${outcome.pair}: ${count}, everything is in place`);
      }
      return lines.join('\n');
    })
    .join('\n');
}

function dryRunLines({ pair, changes }: PairOutcome): string[] {
  const hosts = [...new Set(changes.map((change) => change.host))].sort();
  return hosts.flatMap((host) => [
    `== ${pair}, ${host}`,
    ...changes
      .filter((change) => change.host === host)
      .flatMap((change) => [`# ${change.title} (${change.reason})`, change.detail, '']),
  ]);
}
