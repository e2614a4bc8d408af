/**
 * The command line. Each command's code is imported only when it runs, because start-up time counts on
 * slow hosts; what a command does is in `src/commands`.
 */

import { Command, CommanderError } from 'commander';
import { ExitCode, OperatorError } from './core/errors.js';

/** Set by the bundler. */
declare const PROGRAM_VERSION: string | undefined;

function program(): Command {
  const root = new Command('remus-drbd')
    .description('Keeps a Xen guest and its disks running through the loss of a host.')
    .version(typeof PROGRAM_VERSION === 'string' ? PROGRAM_VERSION : 'from source')
    .option('-c, --config <file>', 'the configuration', './pair.yaml')
    .showHelpAfterError('(--help shows what there is)')
    .exitOverride();
  return root;
}

async function main(argv: string[]): Promise<number> {
  let exitCode: number = ExitCode.ok;
  try {
    await program().parseAsync(argv);
  } catch (error) {
    if (error instanceof CommanderError) {
      exitCode = error.exitCode === 0 ? ExitCode.ok : ExitCode.usage;
    } else if (error instanceof OperatorError) {
      process.stderr.write(`${error.message}\n`);
      exitCode = error.exitCode;
    } else {
      // A programming error: the stack is what helps.
      process.stderr.write(`${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
      exitCode = ExitCode.failed;
    }
  }
  return exitCode;
}

void main(process.argv).then((exitCode) => {
  process.exitCode = exitCode;
});
