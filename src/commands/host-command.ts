/** Commands on hosts that have to succeed. */
import { OperatorError } from '../core/errors.js';
import { quoteCommand } from '../core/quote.js';
import type { Host } from '../edge/host.js';

/**
 * Runs a command that does no harm when it is run twice.
 * @param next what to do when it fails, for the error
 * @throws OperatorError with what it said; HostError when its end is not known
 */
export async function mustRun(
  host: Host,
  argv: readonly string[],
  deadlineMs: number,
  next = 'run the command again when the cause is mended',
): Promise<void> {
  const { exitCode, stderr } = await host.run(argv, { deadlineMs, repeatable: true });
  if (exitCode === 0) return;
  throw new OperatorError(
    `${host.name}: ${quoteCommand(argv)} failed with exit code ${exitCode}: ${stderr.trim()}; ${next}`,
  );
}
