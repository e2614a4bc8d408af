/** The commands `protect` and `unprotect` as the command line runs them. */
import { setTimeout as pause } from 'node:timers/promises';
import { ExitCode, OperatorError } from '../core/errors.js';
import { Limits } from '../core/config-schema.js';
import { parseDuration } from '../core/units.js';
import type { DomainLayout } from '../core/model.js';
import { loadWithProblems, type Loaded } from '../edge/load.js';
import { HostError, type Host } from '../edge/host.js';
import { closeLog, createLog } from '../edge/log.js';
import type { LogLevel } from '../edge/log.js';
import { sshConnector } from './context.js';
import { withHosts } from './converge.js';
import { drillDomain } from './drill.js';
import { decideDomain, recoverDomain } from './recover.js';
import { protectDomain, unprotectDomain } from './protect.js';
import type { ProtectDependencies } from './protect.js';
import { wantNoProtection } from './wanted.js';
import { watchProtection } from './watch-protection.js';
import { switchoverDomain } from './switchover.js';
import type { SwitchoverOptions } from './switchover.js';

interface Terminal {
  config: string;
  json: boolean;
  logLevel: LogLevel;
  print: (text: string) => void;
}

export interface ProtectArguments {
  domains: string[];
  all: boolean;
  interval?: string;
  network: boolean;
  disk: boolean;
  dryRun: boolean;
}

/** What came of one domain: in words, or with an exit code of its own and more for --json. */
type Outcome = string | { text: string; exitCode: ExitCode; more: object };
type Act = (
  layout: DomainLayout,
  hosts: readonly [Host, Host],
  deps: ProtectDependencies,
) => Promise<Outcome>;

/** Domains are worked on one after the other: each takes its hosts' locks. */
async function overDomains(
  options: Terminal & { domains: string[]; all: boolean; readOnly: boolean },
  act: Act,
): Promise<ExitCode> {
  const loaded = await loadWithProblems(options.config);
  const layouts = options.all ? loaded.layouts : layoutsOf(loaded, options.config, options.domains);
  if (layouts.length === 0) {
    throw new OperatorError(
      `the names of the domains are needed, or --all; in the configuration are: ${namesOf(loaded)}`,
      ExitCode.usage,
    );
  }
  const log = createLog({ level: options.logLevel, json: options.json });
  const deps = dependencies();
  const connect = sshConnector(loaded, log);
  const results: { domain: string; result?: string; error?: string }[] = [];
  let code: ExitCode = ExitCode.ok;
  try {
    for (const layout of layouts) {
      const domain = layout.domain.name;
      try {
        const outcome = await withHosts(layout.pair, { connect }, options.readOnly, async (hosts) => {
          const [first, second] = hosts;
          if (first === undefined || second === undefined) throw new Error('a pair has two hosts');
          return act(layout, [first, second], deps);
        });
        const { text, exitCode, more } =
          typeof outcome === 'string' ? { text: outcome, exitCode: ExitCode.ok, more: {} } : outcome;
        results.push({ domain, result: text, ...more });
        if (!options.json) options.print(text);
        code = Math.max(code, exitCode) as ExitCode;
      } catch (caught) {
        const error = caught instanceof HostError ? hostLost(domain, caught) : caught;
        if (!(error instanceof OperatorError)) throw error;
        results.push({ domain, error: error.message });
        if (!options.json) process.stderr.write(`${error.message}\n`);
        code = Math.max(code, error.exitCode) as ExitCode;
      }
    }
  } finally {
    await closeLog(log);
  }
  if (options.json) options.print(JSON.stringify({ domains: results }, null, 2));
  return code;
}

/** @throws OperatorError (usage) for a name that the configuration does not have */
function layoutsOf(loaded: Loaded, config: string, names: readonly string[]): DomainLayout[] {
  const unknown = names.find((name) => !loaded.layouts.some(({ domain }) => domain.name === name));
  if (unknown !== undefined) {
    throw new OperatorError(`${config} has no domain ${unknown}; it has: ${namesOf(loaded)}`, ExitCode.usage);
  }
  return loaded.layouts.filter(({ domain }) => names.includes(domain.name));
}

function namesOf({ layouts }: Loaded): string {
  return layouts.map(({ domain }) => domain.name).join(', ');
}

/** A host that was lost on the way: what was begun goes on there without us, and the next run looks first. */
function hostLost(domain: string, error: HostError): OperatorError {
  return new OperatorError(
    `${domain}: ${error.message}; what was begun on the hosts goes on there. Run the command again when the host answers: it looks first.`,
    ExitCode.unreachable,
    error,
  );
}

export async function runProtect(options: Terminal & ProtectArguments): Promise<ExitCode> {
  const { network, disk, dryRun } = options;
  const intervalMs = options.interval === undefined ? null : parseInterval(options.interval);
  return overDomains({ ...options, readOnly: dryRun }, (layout, hosts, deps) =>
    protectDomain(layout, hosts, { intervalMs, network, disk, dryRun }, deps),
  );
}

export async function runUnprotect(
  options: Terminal & { domains: string[]; all: boolean },
): Promise<ExitCode> {
  return overDomains({ ...options, readOnly: false }, async (layout, hosts, deps) => {
    // First, so that it can't come back by itself in between.
    await wantNoProtection(layout.domain.name, hosts);
    return unprotectDomain(layout, hosts, deps);
  });
}

export async function runRecover(options: Terminal & { domains: string[]; all: boolean }): Promise<ExitCode> {
  return overDomains({ ...options, readOnly: false }, (layout, hosts, deps) =>
    recoverDomain(layout, hosts, deps),
  );
}

export async function runSwitchover(
  options: Terminal & { domains: string[]; all: boolean } & SwitchoverOptions,
): Promise<ExitCode> {
  const { to, dryRun } = options;
  return overDomains({ ...options, readOnly: dryRun }, (layout, hosts, deps) =>
    switchoverDomain(layout, hosts, { to, dryRun }, deps),
  );
}

export async function runDrillCommand(
  options: Terminal & {
    domains: string[];
    all: boolean;
    check?: string;
    timeout?: string;
    dryRun: boolean;
  },
): Promise<ExitCode> {
  const { dryRun } = options;
  const timeoutMs = options.timeout === undefined ? null : parseTimeout(options.timeout);
  return overDomains({ ...options, readOnly: dryRun }, async (layout, hosts, deps) => {
    const drill = { check: options.check ?? null, timeoutMs, dryRun };
    const { text, exitCode, ...more } = await drillDomain(layout, hosts, drill, deps);
    return { text, exitCode, more };
  });
}

/** No lock is taken: the other host may be dead, and what is decided is decided once. */
export async function runDecide(
  options: Terminal & { domain: string; what: 'failover' | 'continue'; force: boolean },
): Promise<ExitCode> {
  const loaded = await loadWithProblems(options.config);
  const [layout] = layoutsOf(loaded, options.config, [options.domain]);
  if (layout === undefined) throw new Error(`no layout of ${options.domain}`);
  const log = createLog({ level: options.logLevel, json: options.json });
  try {
    const connector = sshConnector(loaded, log);
    const connect = async (name: string): Promise<Host> => {
      const host = layout.hosts.find((each) => each.name === name);
      if (host === undefined) throw new Error(`${name} is no host of ${options.domain}`);
      return connector(host);
    };
    const result = await decideDomain(
      layout,
      options.what,
      connect,
      { force: options.force },
      dependencies(),
    );
    options.print(options.json ? JSON.stringify({ domain: options.domain, result }, null, 2) : result);
    return ExitCode.ok;
  } catch (error) {
    throw error instanceof HostError ? hostLost(options.domain, error) : error;
  } finally {
    await closeLog(log);
  }
}

/** Until it is told to end: what it does on hosts may be cut between any two commands there. */
export async function runWatch(options: Terminal & { domains: string[] }): Promise<ExitCode> {
  const loaded = await loadWithProblems(options.config);
  const layouts =
    options.domains.length === 0 ? loaded.layouts : layoutsOf(loaded, options.config, options.domains);
  const log = createLog({
    level: options.logLevel === 'warn' ? 'info' : options.logLevel,
    json: options.json,
  });
  const connect = sshConnector(loaded, log);
  const abort = new AbortController();
  const stop = (): void => abort.abort();
  process.once('SIGTERM', stop).once('SIGINT', stop);
  try {
    await watchProtection(
      layouts,
      {
        ...dependencies(),
        pause: async (ms) => {
          await pause(ms, undefined, { signal: abort.signal });
        },
        tell: (text) => void log.info(text),
        connect,
        withLocks: (layout, use) =>
          withHosts(layout.pair, { connect }, false, async ([first, second]) => {
            if (first === undefined || second === undefined) throw new Error('a pair has two hosts');
            return use([first, second]);
          }),
        log: (level, message, fields) => void log.log(level, message, fields),
      },
      abort.signal,
    );
  } finally {
    await closeLog(log);
  }
  return ExitCode.ok;
}

function dependencies(): ProtectDependencies {
  return {
    nowMs: () => performance.now(),
    pause: async (ms) => {
      await pause(ms);
    },
    tell: (text) => void process.stderr.write(`${text}\n`),
  };
}

const INTERVAL_MS_MIN = 20;
const INTERVAL_MS_MAX = 3_600_000;

function parseTimeout(text: string): number {
  const { drillTimeoutMsMin: min, drillTimeoutMsMax: max } = Limits;
  const parsed = parseDuration(text);
  if (!('problem' in parsed) && parsed.value >= min && parsed.value <= max) return parsed.value;
  throw new OperatorError(
    `--timeout ${text}: a time from 1s to 1440m is required, such as 5m`,
    ExitCode.usage,
  );
}

function parseInterval(text: string): number {
  const parsed = parseDuration(text);
  if (!('problem' in parsed) && parsed.value >= INTERVAL_MS_MIN && parsed.value <= INTERVAL_MS_MAX) {
    return parsed.value;
  }
  throw new OperatorError(
    `--interval ${text}: a time from 20ms to 1h is required, such as 100ms`,
    ExitCode.usage,
  );
}
