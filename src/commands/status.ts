/** `remus-drbd status`: reads everything from the hosts, changes nothing. */
import Table from 'cli-table3';
import { parseTerm, RecordError, type TermRecord } from '../core/claim/term.js';
import { ExitCode, OperatorError } from '../core/errors.js';
import { drbdCommand, parseDrbdRunning, type RunningResource } from '../core/facts.js';
import type { DomainLayout, HostConfig } from '../core/model.js';
import { parseXlList } from '../core/parse/xen.js';
import { domainStatus, type DomainStatus, type HostAnswer } from '../core/status.js';
import { formatSize } from '../core/units.js';
import { domainFilePath, statePath } from '../core/names.js';
import type { FiguresSummary, Measure } from '../core/protect/figures.js';
import { INTENT_FILE, parseIntent } from '../core/protect/switchover.js';
import type { SwitchoverIntent } from '../core/protect/switchover.js';
import { readModule } from '../core/protocol-d/running.js';
import type { CommandResult, FileContent, Host } from '../edge/host.js';
import { eachHost } from '../edge/pool.js';
import { readReports, reportProbes } from './reports.js';

export interface StatusResult {
  domains: DomainStatus[];
  /** Guarantee 5: anything but full protection of every domain shows in the exit code too. */
  exitCode: ExitCode;
}

/** What a host said, before it is known of which domain: resources and running guests. */
interface HostState {
  resources: RunningResource[];
  guests: string[];
  /** By domain. */
  reports: Map<string, Pick<HostAnswer & { reached: true }, 'sender' | 'receiver' | 'term' | 'intent'>>;
}

/** Reads the state of all domains, all hosts side by side. A host that can't be reached is part of the state. */
export async function readStatus(
  layouts: readonly DomainLayout[],
  connect: (host: HostConfig) => Promise<Host>,
): Promise<StatusResult> {
  const hosts = new Map(layouts.flatMap((layout) => layout.hosts).map((host) => [host.name, host]));
  const outcomes = await eachHost([...hosts.values()], async (config) => {
    const host = await connect(config);
    try {
      const domains = layouts
        .filter((layout) => layout.hosts.some(({ name }) => name === config.name))
        .map(({ domain }) => domain.name);
      return await readHost(host, domains);
    } finally {
      await host.close();
    }
  });
  const states = new Map(outcomes.map((outcome) => [outcome.item.name, outcome]));
  const domains = layouts.map((layout) => {
    const answers: Record<string, HostAnswer> = {};
    for (const { name } of layout.hosts) {
      const outcome = states.get(name);
      if (outcome === undefined || 'error' in outcome) {
        answers[name] = { reached: false, reason: errorText(outcome?.error) };
      } else {
        answers[name] = {
          reached: true,
          resource: outcome.value.resources.find((resource) => resource.name === layout.domain.name),
          guestRuns: outcome.value.guests.includes(layout.domain.name),
          ...outcome.value.reports.get(layout.domain.name),
        };
      }
    }
    return domainStatus(layout, answers);
  });
  return {
    domains,
    exitCode: exitCodeOf(
      domains,
      outcomes.some((outcome) => 'error' in outcome),
    ),
  };
}

function exitCodeOf(domains: readonly DomainStatus[], unreachable: boolean): ExitCode {
  if (unreachable) return ExitCode.unreachable;
  return domains.every((domain) => domain.protection === 'protected') ? ExitCode.ok : ExitCode.failed;
}

async function readHost(host: Host, domains: readonly string[]): Promise<HostState> {
  const paths = domains.flatMap((domain) => [
    statePath(domain, 'term.json'),
    statePath(domain, INTENT_FILE),
    domainFilePath(domain),
  ]);
  const files = await host.readFiles(paths);
  const results = await host.probe(
    new Map<string, readonly string[]>([
      ...reportProbes(domains),
      ['events2', drbdCommand()],
      ['xl-list', ['xl', 'list']],
      ['proc', ['cat', '/proc/drbd']],
    ]),
  );
  const events = results.get('events2');
  const list = results.get('xl-list');
  if (events === undefined || list === undefined) throw new Error(`${host.name}: no answer`);
  const resources = readResources(host.name, domains, files, events, results.get('proc'));
  if (list.exitCode !== 0) throw new OperatorError(`${host.name}: xl list failed: ${list.stderr.trim()}`);
  const term = (domain: string): { term?: TermRecord } => {
    const file = files.get(statePath(domain, 'term.json'));
    if (file === undefined) return {};
    try {
      return { term: parseTerm(new TextDecoder().decode(file.content)) };
    } catch (error) {
      if (!(error instanceof RecordError)) throw error;
      throw new OperatorError(`${host.name}: ${statePath(domain, 'term.json')}: ${error.message}`);
    }
  };
  const intent = (domain: string): { intent?: SwitchoverIntent | string } => {
    const file = files.get(statePath(domain, INTENT_FILE));
    if (file === undefined) return {};
    try {
      return { intent: parseIntent(new TextDecoder().decode(file.content)) };
    } catch {
      return { intent: `can't be read: ${statePath(domain, INTENT_FILE)}` };
    }
  };
  return {
    resources,
    guests: parseXlList(list.stdout).map((guest) => guest.name),
    reports: new Map(
      domains.map((domain) => [
        domain,
        { ...readReports(host.name, domain, results), ...term(domain), ...intent(domain) },
      ]),
    ),
  };
}

/** A pair has one engine: with `protocol-d` none of its domains is in the answer of events2, which 8.3 doesn't have. */
function readResources(
  host: string,
  domains: readonly string[],
  files: ReadonlyMap<string, FileContent | undefined>,
  events: CommandResult,
  proc: CommandResult | undefined,
): RunningResource[] {
  const procDrbd = proc?.exitCode === 0 ? proc.stdout : undefined;
  const modules = domains.flatMap((domain) => {
    const file = files.get(domainFilePath(domain));
    const text = file === undefined ? undefined : new TextDecoder().decode(file.content);
    const module = readModule(host, text, procDrbd);
    return module === null ? [] : [module];
  });
  if (modules.length > 0)
    return modules.flatMap(({ resource }) => (resource === undefined ? [] : [resource]));
  const resources = parseDrbdRunning(host, events);
  if (!resources.known) throw new OperatorError(`${host}: DRBD could not be asked: ${resources.reason}`);
  return resources.value;
}

function errorText(error: unknown): string {
  return error instanceof Error ? (error.message.split('\n')[0] ?? '') : 'no answer';
}

/** The table for people: a line a domain, its reason below it. */
export function statusTable(domains: readonly DomainStatus[], color: boolean): string {
  const table = new Table({
    head: ['pair', 'domain', 'protection', 'primary', 'backup', 'role', 'connection', 'disks', 'out of sync'],
    style: color ? {} : { head: [], border: [] },
  });
  for (const domain of domains) {
    const { resource } = domain;
    table.push([
      domain.pair,
      domain.domain,
      domain.protection,
      domain.primary,
      domain.backup,
      resource === null ? '-' : `${resource.role}/${resource.peerRole}`,
      resource === null ? '-' : resource.connectionState,
      resource === null ? '-' : `${resource.diskState}/${resource.peerDiskState}`,
      resource === null ? '-' : formatSize(resource.outOfSyncBytes),
    ]);
  }
  const lines = domains.flatMap((domain) => {
    const line = `${domain.domain} is ${domain.protection}: ${domain.reason}`;
    return domain.figures === null ? [line] : [line, `  ${figuresText(domain.figures)}`];
  });
  return [table.toString(), ...lines].join('\n');
}

function figuresText({ count, p50, p99 }: FiguresSummary): string {
  const ms = (measure: Measure): string => `${p50[measure].toFixed(1)}/${p99[measure].toFixed(1)} ms`;
  return [
    `last ${count} checkpoints (p50/p99): pause ${ms('pauseMs')}`,
    `marker ${ms('markerMs')}`,
    `transfer ${ms('transferMs')}`,
    `commit ${ms('commitMs')}`,
    `release ${ms('releaseMs')}`,
    `memory ${formatSize(Math.round(p50.dirtyBytes))}/${formatSize(Math.round(p99.dirtyBytes))}`,
  ].join(', ');
}
