/** The commands `check`, `setup`, `teardown` and `status` as the command line runs them. */
import { join, resolve } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { ExitCode, OperatorError } from '../core/errors.js';
import type { DomainLayout } from '../core/model.js';
import { overwriteName } from '../core/setup/content.js';
import { packageDirectory } from '../edge/assets.js';
import { loadWithProblems } from '../edge/load.js';
import { closeLog, createLog, type Log, type LogLevel } from '../edge/log.js';
import type { ProgressOptions } from '../edge/progress.js';
import { checkJson, renderCheck, runCheck } from './check.js';
import { guestReadings, loadWork, sshConnector } from './context.js';
import type { Dependencies } from './converge.js';
import { outcomesExitCode, outcomesText, overPairs, type PairOutcome } from './pairs.js';
import { setupPair } from './setup.js';
import { readStatus, statusTable } from './status.js';
import { teardownPair } from './teardown.js';
import { watchFiles } from './watch.js';

interface Terminal {
  config: string;
  json: boolean;
  logLevel: LogLevel;
  print: (text: string) => void;
}

export async function runCheckCommand(options: Terminal): Promise<ExitCode> {
  const { problems, ...loaded } = await loadWithProblems(options.config);
  const live = process.stderr.isTTY && !options.json;
  const show = (text: string): void => void process.stderr.write(`${text}\n`);
  const report = await withLog(options, (log) =>
    runCheck(loaded.config, loaded.layouts, guestReadings(loaded, problems), {
      connect: sshConnector(loaded, log),
      nowMs: Date.now,
      progress: { line: live ? () => undefined : show, state: show },
    }),
  );
  const terminal = { terminal: process.stdout.isTTY, columns: process.stdout.columns || 120 };
  options.print(options.json ? checkJson(report) : renderCheck(report, terminal));
  return report.exitCode;
}

export async function runSetup(
  options: Terminal & { dryRun: boolean; wait: boolean; overwrite: ReadonlySet<string>; watch: boolean },
): Promise<ExitCode> {
  const apply = async (): Promise<{ dependsOn: string[]; code: ExitCode }> => {
    const { loaded, works } = await loadWork(options.config);
    refuseUnknownVolumes(loaded.layouts, options.overwrite);
    const outcomes = await withLog(options, (log) =>
      overPairs(
        works,
        (work, progress) => setupPair(work, dependencies(sshConnector(loaded, log)), options, progress),
        progressOptions(options),
      ),
    );
    report(options, outcomes);
    return {
      dependsOn: loaded.layouts.map(({ domain }) => domain.configFile),
      code: outcomesExitCode(outcomes),
    };
  };
  if (!options.watch) return (await apply()).code;

  const abort = new AbortController();
  const stop = (): void => abort.abort();
  process.once('SIGINT', stop).once('SIGTERM', stop);
  await watchFiles({
    configFile: options.config,
    templatesFolder: join(await packageDirectory(), 'templates'),
    signal: abort.signal,
    apply: async () => {
      const { dependsOn } = await apply();
      return { dependsOn: dependsOn.map((path) => resolve(path)) };
    },
    report: options.print,
  });
  return ExitCode.ok;
}

/** A name that was mistyped must not look as if it had been taken. */
function refuseUnknownVolumes(layouts: readonly DomainLayout[], overwrite: ReadonlySet<string>): void {
  const known = layouts.flatMap(({ hosts, volumes }) =>
    volumes
      .filter(({ role }) => role === 'disk')
      .flatMap((volume) => hosts.map(({ name }) => overwriteName(name, volume))),
  );
  for (const name of overwrite) {
    if (known.includes(name)) continue;
    throw new OperatorError(
      `--overwrite ${name}: the configuration has no such volume; nothing was changed. It has: ${known.join(', ')}`,
      ExitCode.usage,
    );
  }
}

export async function runTeardown(
  options: Terminal & { dryRun: boolean; domains: 'all' | string[]; deleteData: string[] },
): Promise<ExitCode> {
  const { loaded, works } = await loadWork(options.config);
  const all = loaded.layouts.map(({ domain }) => domain.name);
  const domains = new Set(options.domains === 'all' ? all : options.domains);
  if (domains.size === 0) {
    throw new OperatorError(
      `teardown needs the names of the domains to take away, or --all; in the configuration are: ${all.join(', ')}`,
      ExitCode.usage,
    );
  }
  for (const name of [...domains, ...options.deleteData]) {
    if (all.includes(name)) continue;
    throw new OperatorError(
      `${options.config} has no domain ${name}; it has: ${all.join(', ')}`,
      ExitCode.usage,
    );
  }
  const stray = options.deleteData.find((name) => !domains.has(name));
  if (stray !== undefined) {
    throw new OperatorError(
      `--delete-data ${stray}: ${stray} is not among the domains to take away; nothing was changed`,
      ExitCode.usage,
    );
  }
  const concerned = works.filter(({ layouts }) => layouts.some(({ domain }) => domains.has(domain.name)));
  const outcomes = await withLog(options, (log) =>
    overPairs(
      concerned,
      (work, progress) =>
        teardownPair(
          work,
          dependencies(sshConnector(loaded, log)),
          { domains, deleteData: new Set(options.deleteData), dryRun: options.dryRun },
          progress,
        ),
      progressOptions(options),
    ),
  );
  report(options, outcomes);
  return outcomesExitCode(outcomes);
}

export async function runStatus(options: Terminal): Promise<ExitCode> {
  const loaded = await loadWithProblems(options.config);
  const result = await withLog(options, (log) => readStatus(loaded.layouts, sshConnector(loaded, log)));
  options.print(
    options.json
      ? JSON.stringify({ domains: result.domains }, null, 2)
      : statusTable(result.domains, process.stdout.isTTY),
  );
  return result.exitCode;
}

function dependencies(connect: Dependencies['connect']): Dependencies {
  return {
    connect,
    nowMs: () => performance.now(),
    pause: async (ms) => {
      await pause(ms);
    },
  };
}

function progressOptions(options: Terminal & { dryRun: boolean }): ProgressOptions {
  return {
    live: process.stderr.isTTY && !options.json && !options.dryRun,
    // Standard output is for the result.
    write: (text) => process.stderr.write(text),
    nowMs: () => performance.now(),
  };
}

async function withLog<T>(options: Terminal, use: (log: Log) => Promise<T>): Promise<T> {
  const log = createLog({ level: options.logLevel, json: options.json });
  try {
    return await use(log);
  } finally {
    await closeLog(log);
  }
}

function report(options: Terminal & { dryRun: boolean }, outcomes: readonly PairOutcome[]): void {
  options.print(
    options.json ? JSON.stringify({ pairs: outcomes }, null, 2) : outcomesText(outcomes, options.dryRun),
  );
}
