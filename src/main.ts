/**
 * The command line. Each command's code is imported only when it runs, because start-up time counts on
 * slow hosts; what a command does is in `src/commands`.
 */

import { inspect } from 'node:util';
import { isMainThread } from 'node:worker_threads';
import { Command, CommanderError } from 'commander';
import { ExitCode, OperatorError } from './core/errors.js';
import type { LogLevel } from './edge/log.js';

/** Set by the bundler. */
declare const PROGRAM_VERSION: string | undefined;

interface GlobalOptions {
  config: string;
  json?: true;
  verbose?: true;
}

/** What a command has beside its own options: where to write, and how. */
interface Terminal {
  config: string;
  json: boolean;
  logLevel: LogLevel;
}

function terminalOf(command: Command): Terminal {
  const { config, json, verbose } = command.optsWithGlobals<GlobalOptions>();
  return { config, json: json === true, logLevel: verbose === true ? 'debug' : 'warn' };
}

function print(text: string): void {
  process.stdout.write(text.endsWith('\n') ? text : `${text}\n`);
}

function collect(value: string, before: string[]): string[] {
  return [...before, value];
}

let exitCode: ExitCode = ExitCode.ok;

function program(): Command {
  const root = new Command('remus-drbd')
    .description('Keeps a Xen guest and its disks running through the loss of a host.')
    .version(typeof PROGRAM_VERSION === 'string' ? PROGRAM_VERSION : 'from source')
    .option('-c, --config <file>', 'the configuration', './pair.yaml')
    .option('--json', 'the result as JSON')
    .option('-v, --verbose', 'log what is done, each command too')
    .showHelpAfterError('(--help shows what there is)')
    .configureHelp({ showGlobalOptions: true })
    .exitOverride();

  root
    .command('render')
    .description('write the files that setup would install, without talking to any host')
    .requiredOption('--out <dir>', 'where to; a folder for each host is made in it')
    .action(async (options: { out: string }, command: Command) => {
      const { config, json } = terminalOf(command);
      const { render, renderText } = await import('./commands/render.js');
      const result = await render(config, options.out);
      print(json ? JSON.stringify(result, null, 2) : renderText(result));
    });

  root
    .command('check')
    .description('tell what is in the way of protection, and how to mend it; nothing is changed')
    .action(async (_options: unknown, command: Command) => {
      const { runCheckCommand } = await import('./commands/run-setup.js');
      exitCode = await runCheckCommand({ ...terminalOf(command), print });
    });

  root
    .command('setup')
    .description('make the hosts ready: devices, DRBD, scripts, certificates; safe to run again')
    .option('--dry-run', 'show every command and every file difference, change nothing')
    .option('--no-wait', 'do not wait for the first sync')
    .option(
      '--overwrite <host:vg/lv>',
      'let this volume lose what is on it (may be given several times)',
      collect,
      [],
    )
    .option('--watch', 'go on and apply each change of the files')
    .action(
      async (
        options: { dryRun?: true; wait: boolean; overwrite: string[]; watch?: true },
        command: Command,
      ) => {
        const { runSetup } = await import('./commands/run-setup.js');
        exitCode = await runSetup({
          ...terminalOf(command),
          dryRun: options.dryRun === true,
          wait: options.wait,
          overwrite: new Set(options.overwrite),
          watch: options.watch === true,
          print,
        });
      },
    );

  root
    .command('teardown')
    .description('take domains away from their hosts; their data is kept unless it is named')
    .argument('[domain...]', 'the domains')
    .option('--all', 'all domains of the configuration')
    .option(
      '--delete-data <domain>',
      'delete the data of this domain too (may be given several times)',
      collect,
      [],
    )
    .option('--dry-run', 'show every command, change nothing')
    .action(
      async (
        domains: string[],
        options: { all?: true; deleteData: string[]; dryRun?: true },
        command: Command,
      ) => {
        const { runTeardown } = await import('./commands/run-setup.js');
        exitCode = await runTeardown({
          ...terminalOf(command),
          dryRun: options.dryRun === true,
          domains: options.all === true ? 'all' : domains,
          deleteData: options.deleteData,
          print,
        });
      },
    );

  root
    .command('status')
    .description('what each domain is: read from the hosts, nothing is changed')
    .action(async (_options: unknown, command: Command) => {
      const { runStatus } = await import('./commands/run-setup.js');
      exitCode = await runStatus({ ...terminalOf(command), print });
    });

  root
    .command('import')
    .description(
      'make a pair.yaml of old guest and DRBD configurations, with questions where they do not say enough',
    )
    .argument('<file...>', "guests' configurations of xm or xl, DRBD's resource files, global_common.conf")
    .option(
      '--out <file>',
      'where pair.yaml goes, with new guest configurations beside it; else standard output',
    )
    .option('--force', 'write over files that are there; never over one that is imported')
    .action(async (files: string[], options: { out?: string; force?: true }, command: Command) => {
      const { runImport } = await import('./commands/import.js');
      exitCode = await runImport({
        files,
        ...(options.out === undefined ? {} : { out: options.out }),
        force: options.force === true,
        json: terminalOf(command).json,
        print,
        printReport: (text) => void process.stderr.write(text),
      });
    });

  addProtection(root);
  addRecovery(root);
  addPlanned(root);
  addDrill(root);
  addJournal(root);
  addOnHost(root);

  root
    .command('demo')
    .description(
      'show protection at work on an embedded pair: no Xen, no root, nothing on this machine is changed',
    )
    .option('--setup', 'show check, setup, status and teardown in its place')
    .option(
      '--cut <what>',
      'what is cut first, by default the power of the primary; `list` shows what can be',
    )
    .option('--cut-at <point>', 'where in a checkpoint it is cut; `list` shows the points')
    .option('--arbiter <who>', 'which hosts reach the arbiter at the cut: both, primary, backup, none')
    .option('--rounds <number>', 'so many random cuts, each checked like the story, which is not told')
    .option('--seed <number>', 'of what is random')
    .option('--keep', 'leave the files of the embedded hosts')
    .addOption(root.createOption('--embedded-part <part>').hideHelp())
    .action(async (options: Record<string, string | true>, command: Command) => {
      const { runDemo } = await import('./commands/demo.js');
      exitCode = await runDemo(options, { json: terminalOf(command).json, print });
    });
  return root;
}

/** Beginning and ending the protection of running guests. */
function addProtection(root: Command): void {
  root
    .command('protect')
    .description('protect running guests; safe to run again')
    .argument('[domain...]', 'the domains')
    .option('--all', 'all domains of the configuration')
    .option(
      '--interval <time>',
      'between checkpoints, instead of the configured one; starts a running protection anew',
    )
    .option(
      '--no-network',
      'let output leave before its checkpoint is committed: no protection, a first step to it',
    )
    .option('--no-disk', 'no disk epochs: no protection, a first step to it')
    .option('--dry-run', 'tell what would be done, change nothing')
    .action(
      async (
        domains: string[],
        options: { all?: true; interval?: string; network: boolean; disk: boolean; dryRun?: true },
        command: Command,
      ) => {
        const { runProtect } = await import('./commands/run-protect.js');
        exitCode = await runProtect({
          ...terminalOf(command),
          domains,
          all: options.all === true,
          ...(options.interval === undefined ? {} : { interval: options.interval }),
          network: options.network,
          disk: options.disk,
          dryRun: options.dryRun === true,
          print,
        });
      },
    );
  root
    .command('unprotect')
    .description('end protection; the guests run on')
    .argument('[domain...]', 'the domains')
    .option('--all', 'all domains of the configuration')
    .action(async (domains: string[], options: { all?: true }, command: Command) => {
      const { runUnprotect } = await import('./commands/run-protect.js');
      exitCode = await runUnprotect({ ...terminalOf(command), domains, all: options.all === true, print });
    });
}

/** After the loss of a host. */
function addRecovery(root: Command): void {
  for (const [what, description, risk] of [
    ['failover', 'let the backup take a guest over now', 'although the guest runs on the primary'],
    ['continue', 'let the primary go on alone', 'although the receiver on the backup lives'],
  ] as const) {
    root
      .command(what)
      .description(`${description}; the arbiter decides all the same`)
      .argument('<domain>', 'the domain')
      .option('--force', `${risk}: what it did since the last commit is lost`)
      .action(async (domain: string, options: { force?: true }, command: Command) => {
        const { runDecide } = await import('./commands/run-protect.js');
        const force = options.force === true;
        exitCode = await runDecide({ ...terminalOf(command), domain, what, force, print });
      });
  }
  root
    .command('recover')
    .description(
      'after the loss of a host: resync while the guest runs, then protect it in its new direction',
    )
    .argument('[domain...]', 'the domains')
    .option('--all', 'all domains of the configuration')
    .action(async (domains: string[], options: { all?: true }, command: Command) => {
      const { runRecover } = await import('./commands/run-protect.js');
      exitCode = await runRecover({ ...terminalOf(command), domains, all: options.all === true, print });
    });
}

/** What is planned, and what comes by itself. */
function addPlanned(root: Command): void {
  root
    .command('watch')
    .description(
      'bring protection back by itself where autoRecover is set, and tell each change; does not end',
    )
    .argument('[domain...]', 'the domains; all of the configuration where none is named')
    .action(async (domains: string[], _options: unknown, command: Command) => {
      const { runWatch } = await import('./commands/run-protect.js');
      exitCode = await runWatch({ ...terminalOf(command), domains, print });
    });
  root
    .command('switchover')
    .description('move running guests to their other host, and protect them from there; safe to run again')
    .argument('[domain...]', 'the domains')
    .option('--all', 'all domains of the configuration')
    .option('--to <host>', 'where to, so that a guest that runs there already stays')
    .option('--dry-run', 'tell what would be done, change nothing')
    .action(
      async (domains: string[], options: { all?: true; to?: string; dryRun?: true }, command: Command) => {
        const { runSwitchover } = await import('./commands/run-protect.js');
        exitCode = await runSwitchover({
          ...terminalOf(command),
          domains,
          all: options.all === true,
          to: options.to ?? null,
          dryRun: options.dryRun === true,
          print,
        });
      },
    );
}

/** What is tried without any harm to what runs. */
function addDrill(root: Command): void {
  root
    .command('drill')
    .description(
      "try a failover on a snapshot of the backup's disks, without network, and throw it away; production goes on",
    )
    .argument('[domain...]', 'the domains')
    .option('--all', 'all domains of the configuration')
    .option(
      '--check <command>',
      "for the backup's shell, instead of the configured one; its exit code decides, and $REMUS_DRILL_GUEST is the guest's name",
    )
    .option('--timeout <time>', 'what the check may take, instead of the configured one')
    .option('--dry-run', 'tell what would be done, change nothing')
    .action(
      async (
        domains: string[],
        options: { all?: true; check?: string; timeout?: string; dryRun?: true },
        command: Command,
      ) => {
        const { runDrillCommand } = await import('./commands/run-protect.js');
        exitCode = await runDrillCommand({
          ...terminalOf(command),
          domains,
          all: options.all === true,
          ...(options.check === undefined ? {} : { check: options.check }),
          ...(options.timeout === undefined ? {} : { timeout: options.timeout }),
          dryRun: options.dryRun === true,
          print,
        });
      },
    );
}

/** Run by the units on a host, not by people. */
function addOnHost(root: Command): void {
  root
    .command('arbiter-reach', { hidden: true })
    .argument('<domain>')
    .action(async (domain: string) => {
      const { runArbiterReach } = await import('./commands/arbiter-reach.js');
      exitCode = await runArbiterReach(domain, print);
    });
  root
    .command('decide', { hidden: true })
    .argument('<domain>')
    .argument('<term>')
    .argument('<winner>')
    .action(async (domain: string, term: string, winner: string) => {
      const { decideOnHost } = await import('./commands/on-host.js');
      exitCode = await decideOnHost(domain, term, winner);
    });
  for (const name of [
    'sender',
    'receiver',
    'sender-cleanup',
    'receiver-cleanup',
    'switchover-source',
    'switchover-target',
    'switchover-cleanup',
    'drill-run',
    'drill-cleanup',
  ] as const) {
    root
      .command(name, { hidden: true })
      .argument('<domain>')
      // xl appends what it would run on the other host.
      .allowExcessArguments()
      .action(async (domain: string, _options: unknown, command: Command) => {
        const { runOnHost } = await import('./commands/on-host.js');
        exitCode = await runOnHost(name, domain, programVersion(), terminalOf(command).logLevel);
      });
  }
}

function programVersion(): string {
  return typeof PROGRAM_VERSION === 'string' ? PROGRAM_VERSION : '0.0.0-source';
}

/** The epoch journal of one domain, on the host that has it. */
function addJournal(root: Command): void {
  const journal = root.command('journal').description('look at, recover, make or serve an epoch journal');
  const show = (line: string): void => void process.stderr.write(`${line}\n`);

  for (const verb of ['inspect', 'verify'] as const) {
    journal
      .command(verb)
      .description(verb === 'inspect' ? 'what is in a journal' : 'whether a journal is sound')
      .argument('<path>', 'the file or device')
      .action(async (path: string, _options: unknown, command: Command) => {
        const { inspectJournal, journalReportText, verifyExitCode } = await import('./commands/journal.js');
        const report = await inspectJournal(path, Date.now());
        const { json } = terminalOf(command);
        print(json ? JSON.stringify(report, null, 2) : journalReportText(report, verb === 'verify'));
        if (verb === 'verify') exitCode = verifyExitCode(report);
      });
  }

  journal
    .command('recover')
    .description('end the session that a crash left in a journal; safe to run again')
    .argument('<file>', "the journal's configuration, JSON")
    .option('--forward', 'all that was written counts: the primary goes on')
    .option('--back', 'only what was committed counts: this host takes over')
    .option('--marked', 'the discarded blocks were written back through DRBD: forget them')
    .action(
      async (
        configPath: string,
        options: { forward?: true; back?: true; marked?: true },
        command: Command,
      ) => {
        if ((options.forward === true) === (options.back === true)) {
          throw new OperatorError(
            'journal recover needs to be told which way: --forward or --back; nothing was changed',
            ExitCode.usage,
          );
        }
        const { recoverJournal, recoverReportText } = await import('./commands/journal.js');
        const report = await recoverJournal({
          configPath,
          direction: options.forward === true ? 'forward' : 'back',
          marked: options.marked === true,
          progress: show,
        });
        print(terminalOf(command).json ? JSON.stringify(report, null, 2) : recoverReportText(report));
      },
    );

  journal
    .command('format')
    .description('make an empty journal')
    .argument('<file>', "the journal's configuration, JSON")
    .option('--overwrite', 'although something is there')
    .action(async (configPath: string, options: { overwrite?: true }) => {
      const { formatJournalFrom } = await import('./commands/journal.js');
      await formatJournalFrom({ configPath, overwrite: options.overwrite === true, progress: show });
    });

  journal
    .command('recover-domain')
    .description("bring what an ended receiver left in a domain's journal to its volumes")
    .argument('<domain>', 'the domain, on this host')
    .action(async (domain: string, _options: unknown, command: Command) => {
      const { recoverDomain, recoverDomainText } = await import('./commands/journal-recover.js');
      const { decideWithoutCopyHere } = await import('./commands/on-host.js');
      const decide = (term: number): Promise<'roll-forward' | 'discard'> =>
        decideWithoutCopyHere(domain, term);
      const report = await recoverDomain({ domain, progress: show, decide });
      print(terminalOf(command).json ? JSON.stringify(report, null, 2) : recoverDomainText(report));
    });
  journal
    .command('serve')
    .description('serve a journal over NBD until it is told to stop')
    .argument('<file>', "the journal's configuration, JSON")
    .action(async (configPath: string, _options: unknown, command: Command) => {
      const [{ serveJournal }, { closeLog, createLog }] = await Promise.all([
        import('./commands/journal-serve.js'),
        import('./edge/log.js'),
      ]);
      const { json, logLevel } = terminalOf(command);
      const log = createLog({ level: logLevel, json });
      try {
        const running = await serveJournal({ configPath, log, protect: true });
        const stop = (): void => void running.stop();
        process.once('SIGTERM', stop).once('SIGINT', stop);
        await running.stopped;
      } finally {
        await closeLog(log);
      }
    });
}

async function main(argv: string[]): Promise<ExitCode> {
  try {
    await program().parseAsync(argv);
    return exitCode;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? ExitCode.ok : ExitCode.usage;
    if (error instanceof OperatorError) {
      process.stderr.write(`${error.message}\n`);
      return error.exitCode;
    }
    // A programming error: the stack is what helps.
    process.stderr.write(`${inspect(error)}\n`);
    return ExitCode.failed;
  }
}

if (isMainThread) {
  void main(process.argv).then((code) => {
    process.exitCode = code;
  });
} else {
  // The bundle is one file, and its only thread is this one.
  void import('./engine/protocol-d/device-worker.js');
}
