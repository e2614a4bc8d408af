/**
 * `remus-drbd check`: looks at all hosts side by side, measures the links between them, and says what is in
 * the way of protection. It changes nothing.
 *
 * Call order: connect and observe every host; measure each pair's link in both directions, one after the
 * other so that they don't disturb each other; let each host that has the program ask its arbiter; decide (`core/check.ts`). A host that can't be reached is a
 * point that failed, and the others are checked all the same.
 */
import Table from 'cli-table3';
import picocolors from 'picocolors';
import {
  check,
  checkExitCode,
  type CheckResult,
  type ClockMeasurement,
  type GuestReading,
  type HostReading,
  type LinkMeasurement,
  type Verdict,
} from '../core/check.js';
import type { ReachAnswer } from '../core/claim/types.js';
import { ExitCode, OperatorError } from '../core/errors.js';
import { type HostFacts, parseFacts, probeCommands } from '../core/facts.js';
import { layoutsOfHost } from '../core/layout.js';
import type { Config, DomainLayout, HostConfig, Pair } from '../core/model.js';
import { Paths } from '../core/names.js';
import { parsePing } from '../core/parse/network.js';
import { parseClock } from '../core/parse/system.js';
import { ParseError } from '../core/parse/text.js';
import {
  listeningPort,
  NOT_CONNECTED,
  parseThroughput,
  receiverCommand,
  senderCommand,
  THROUGHPUT_DEADLINE_MS,
} from '../core/throughput.js';
import { type Host, HostError } from '../edge/host.js';
import { eachHost } from '../edge/pool.js';
import type { Progress } from '../edge/progress.js';

export interface CheckDependencies {
  connect: (host: HostConfig) => Promise<Host>;
  /** The controller's clock; milliseconds since 1970. */
  nowMs: () => number;
  progress: Progress;
}

export interface CheckReport {
  results: CheckResult[];
  exitCode: ExitCode;
}

const PING_COUNT = 5;
const PING_DEADLINE_S = 5;
const PING_MS = (PING_DEADLINE_S + 10) * 1000;
const CLOCK_SAMPLES = 3;
/** A tool that is not installed, as a shell says it. */
const NOT_FOUND = 127;

interface Observed {
  host: Host;
  facts: HostFacts;
  clock: ClockMeasurement;
}

/**
 * @param guests what was read of the guests' own configurations, by domain
 */
export async function runCheck(
  config: Config,
  layouts: readonly DomainLayout[],
  guests: Readonly<Record<string, GuestReading>>,
  dependencies: CheckDependencies,
): Promise<CheckReport> {
  const { progress } = dependencies;
  const opened: Host[] = [];
  try {
    const configs = config.pairs.flatMap((pair) => pair.hosts);
    progress.state(`looking at ${configs.length} hosts`);
    const outcomes = await eachHost(configs, async (host) => {
      const connection = await dependencies.connect(host);
      opened.push(connection);
      const observed = await observe(host, connection, layouts, guests, dependencies);
      progress.line(`${host.name}: looked at`);
      return observed;
    });
    const readings: Record<string, HostReading> = {};
    const observed = new Map<string, Observed>();
    for (const outcome of outcomes) {
      const { name } = outcome.item;
      if ('error' in outcome) {
        readings[name] = readingOf(outcome.error);
        progress.line(`${name}: could not be looked at`);
      } else {
        readings[name] = { reached: true, facts: outcome.value.facts };
        observed.set(name, outcome.value);
      }
    }

    const measured = await eachHost(config.pairs, (pair) => measurePair(pair, layouts, observed, progress));
    const links = measured.flatMap((outcome) => {
      if ('error' in outcome) throw outcome.error;
      return outcome.value;
    });
    const clocks = Object.fromEntries([...observed].map(([name, { clock }]) => [name, clock]));
    const arbiters = await reachArbiters(config, layouts, observed, progress);
    const results = check(config.pairs, layouts, guests, readings, { links, clocks, arbiters });
    return { results, exitCode: checkExitCode(results, readings) };
  } finally {
    await Promise.allSettled(opened.map((host) => host.close()));
  }
}

/** What is no answer of a host, or none that can be used, is a point; anything else is a bug and goes on up. */
function readingOf(error: unknown): HostReading {
  if (error instanceof HostError) return { reached: false, cause: 'unreachable', reason: error.message };
  if (error instanceof OperatorError) {
    const cause = error.exitCode === ExitCode.unreachable ? 'unreachable' : 'failed';
    return { reached: false, cause, reason: error.message };
  }
  throw error;
}

async function observe(
  config: HostConfig,
  host: Host,
  layouts: readonly DomainLayout[],
  guests: Readonly<Record<string, GuestReading>>,
  { nowMs }: CheckDependencies,
): Promise<Observed> {
  const files = layoutsOfHost(layouts, config.name).flatMap(({ domain }) => {
    const reading = guests[domain.name];
    return reading?.readable === true ? [reading.guest.kernel, reading.guest.ramdisk] : [];
  });
  const guestFiles = [...new Set(files.filter((file): file is string => file !== undefined))];
  const results = await host.probe(probeCommands(layouts, config.name, guestFiles));
  return { host, facts: parseFacts(config.name, results), clock: await measureClock(host, nowMs) };
}

/** The sample with the shortest round trip is the most exact; the host's answer is taken to lie in its middle. */
async function measureClock(host: Host, nowMs: () => number): Promise<ClockMeasurement> {
  let best: ClockMeasurement | undefined;
  for (let sample = 0; sample < CLOCK_SAMPLES; sample++) {
    const beforeMs = nowMs();
    const { stdout } = await host.run(['date', '+%s.%N'], { repeatable: true });
    const afterMs = nowMs();
    const uncertaintyMs = (afterMs - beforeMs) / 2;
    if (best && best.uncertaintyMs <= uncertaintyMs) continue;
    best = { offsetMs: readClock(host.name, stdout) - (beforeMs + uncertaintyMs), uncertaintyMs };
  }
  return best as ClockMeasurement;
}

function readClock(host: string, text: string): number {
  try {
    return parseClock(text);
  } catch (error) {
    if (!(error instanceof ParseError)) throw error;
    throw new OperatorError(`${host}: ${error.message}. Nothing was changed.`, ExitCode.failed, error);
  }
}

/** Each host is asked by its own program, with its own keys and files, as it would ask at a failure. */
async function reachArbiters(
  config: Config,
  layouts: readonly DomainLayout[],
  observed: ReadonlyMap<string, Observed>,
  progress: Progress,
): Promise<Record<string, ReachAnswer>> {
  const asked = config.pairs.flatMap((pair) => {
    const domain = layouts.find((layout) => layout.pair.name === pair.name)?.domain.name;
    const asks = ['etcd', 'ssh', 'fence'].includes(pair.arbiter.kind) && domain !== undefined;
    return asks ? pair.hosts.flatMap(({ name }) => (observed.has(name) ? [{ name, domain }] : [])) : [];
  });
  if (asked.length === 0) return {};
  progress.state(`asking ${asked.length} hosts for their arbiters`);
  const outcomes = await eachHost(asked, async ({ name, domain }) => {
    const host = observed.get(name)?.host;
    const result = (await host?.probe(new Map([['reach', reachCommand(domain)]])))?.get('reach');
    return result === undefined ? undefined : readReach(result);
  });
  const answers: Record<string, ReachAnswer> = {};
  for (const outcome of outcomes) {
    const { name } = outcome.item;
    if ('error' in outcome) {
      const reading = readingOf(outcome.error);
      if (!reading.reached) answers[name] = { reached: false, reason: reading.reason };
    } else if (outcome.value !== undefined) {
      answers[name] = outcome.value;
    }
  }
  return answers;
}

/** Only where setup has been: before that there is no program to ask. */
function reachCommand(domain: string): string[] {
  const command = ['-maxdepth', '0', '-exec', Paths.command, 'arbiter-reach', domain, ';'];
  return ['find', `${Paths.domains}/${domain}.json`, ...command];
}

/** @returns undefined where there is no program to ask */
function readReach({ stdout, stderr }: { stdout: string; stderr: string }): ReachAnswer | undefined {
  if (stdout.trim() === '') {
    if (stderr.startsWith('find:') && stderr.includes('No such file or directory')) return undefined;
    return { reached: false, reason: failureOf('remus-drbd arbiter-reach', 1, stderr) };
  }
  try {
    const { reached, detail, reason } = (JSON.parse(stdout) ?? {}) as Record<string, unknown>;
    if (reached === true && typeof detail === 'string') return { reached, detail };
    if (reached === false && typeof reason === 'string') return { reached, reason };
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
  }
  return { reached: false, reason: `its answer is not understood: ${stdout.trim().slice(0, 200)}` };
}

async function measurePair(
  pair: Pair,
  layouts: readonly DomainLayout[],
  observed: ReadonlyMap<string, Observed>,
  progress: Progress,
): Promise<LinkMeasurement[]> {
  const [a, b] = pair.hosts;
  const links: LinkMeasurement[] = [];
  for (const [from, to] of [
    [a, b],
    [b, a],
  ] as const) {
    const [source, target] = [observed.get(from.name), observed.get(to.name)];
    if (!source) continue;
    progress.state(`${pair.name}: measuring ${from.name} to ${to.name}`);
    const ping = await measurePing(source.host, from.replication, to.replication);
    const port = layouts.find((layout) => layout.pair.name === pair.name)?.domain.linkPort;
    const throughput: LinkMeasurement['throughput'] = !target
      ? { measured: false, reason: `${to.name} was not reached` }
      : await measureThroughput(source.host, target, from.replication, to.replication, port);
    links.push({ from: from.name, to: to.name, ping, throughput });
  }
  return links;
}

async function measurePing(host: Host, from: string, to: string): Promise<LinkMeasurement['ping']> {
  const argv = [
    'ping',
    '-n',
    '-q',
    '-c',
    String(PING_COUNT),
    '-i',
    '0.2',
    '-w',
    String(PING_DEADLINE_S),
    '-I',
    from,
    to,
  ];
  return measurement(async () => {
    const { exitCode, stdout, stderr } = await host.run(argv, { deadlineMs: PING_MS, repeatable: true });
    // 1: some or all answers are missing, which the summary says.
    if (exitCode === 0 || exitCode === 1) return { measured: true, summary: parsePing(stdout) };
    return { measured: false, reason: failureOf('ping', exitCode, stderr) };
  });
}

/**
 * The transfer goes to the port of the first domain's receiver, so that a firewall shows; where something has
 * that port already (ours, most likely), to any.
 */
async function measureThroughput(
  source: Host,
  target: Observed,
  from: string,
  to: string,
  linkPort: number | undefined,
): Promise<LinkMeasurement['throughput']> {
  const { listeners } = target.facts;
  const taken = !listeners.known || listeners.value.some((listener) => listener.port === linkPort);
  const wanted = taken || linkPort === undefined ? 0 : linkPort;
  return measurement(async () => {
    const abort = new AbortController();
    let announce: (port: number) => void = () => undefined;
    const announced = new Promise<number>((resolve) => {
      announce = resolve;
    });
    const receiver = target.host.stream(
      receiverCommand(to, wanted, from),
      (line) => {
        const port = listeningPort(line);
        if (port !== undefined) announce(port);
      },
      { signal: abort.signal },
    );
    // What it ends with once the sender is done, or was never needed, is of no interest.
    receiver.catch(() => undefined);
    try {
      const first = await Promise.race([announced, receiver]);
      if (typeof first !== 'number') {
        return {
          measured: false,
          reason: `${target.host.name}: ${failureOf('node', first.exitCode, first.stderr)}`,
        };
      }
      const { exitCode, stdout, stderr } = await source.run(senderCommand(to, first, from), {
        deadlineMs: THROUGHPUT_DEADLINE_MS,
      });
      if (exitCode === 0) return { measured: true, bytesPerSecond: parseThroughput(stdout) };
      return {
        measured: false,
        reason: failureOf('node', exitCode, stderr),
        ...(exitCode === NOT_CONNECTED && wanted !== 0 ? { blockedPort: wanted } : {}),
      };
    } finally {
      abort.abort();
      await receiver.catch(() => undefined);
    }
  });
}

/** A measurement that could not be made says why; it does not end the check. */
async function measurement<T>(
  measure: () => Promise<T | { measured: false; reason: string }>,
): Promise<T | { measured: false; reason: string }> {
  try {
    return await measure();
  } catch (error) {
    if (error instanceof HostError || error instanceof ParseError)
      return { measured: false, reason: error.message };
    throw error;
  }
}

function failureOf(tool: string, exitCode: number, stderr: string): string {
  if (exitCode === NOT_FOUND) return `${tool} is not installed`;
  const said = stderr.split('\n').find((line) => line.trim() !== '');
  return said === undefined ? `${tool} ended with exit code ${exitCode}` : said.trim().slice(0, 300);
}

// --- What is printed ----------------------------------------------------------------------------------------

export interface RenderOptions {
  /** A table with colours; otherwise a line for each point. */
  terminal: boolean;
  /** Of the terminal, in characters. */
  columns: number;
}

const COLUMNS_MIN = 80;

/** What hosts say goes to a terminal, so nothing in it may steer one. */
function printable(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}]+/gu, ' ').trim();
}

/** The report for people. */
export function renderCheck({ results }: CheckReport, { terminal, columns }: RenderOptions): string {
  const summary = countText(results);
  if (!terminal) return `${[...results.map(plainLine), summary].join('\n')}\n`;
  const colors = picocolors.createColors(true);
  const paint: Record<Verdict, (text: string) => string> = {
    pass: colors.green,
    warn: colors.yellow,
    fail: colors.red,
  };
  const parts = [...new Set(results.map((result) => result.pair))].map((pair) => {
    const ours = results.filter((result) => result.pair === pair);
    const where = Math.max(8, ...ours.map((result) => placeOf(result).length)) + 2;
    const id = Math.max(8, ...ours.map((result) => result.id.length)) + 2;
    // Six borders, and the verdict's column.
    const left = Math.max(COLUMNS_MIN, columns) - where - id - 6 - 6;
    const table = new Table({
      head: ['', 'where', 'point', 'found', 'what to do'],
      colWidths: [6, where, id, Math.floor(left / 2), Math.ceil(left / 2)],
      wordWrap: true,
      style: { head: ['bold'], border: ['gray'] },
    });
    for (const result of ours) {
      table.push([
        paint[result.verdict](result.verdict),
        placeOf(result),
        result.id,
        printable(result.found),
        result.verdict === 'pass' ? '' : printable(`needed: ${result.needed}. ${result.mend}`),
      ]);
    }
    return `${colors.bold(pair)}\n${table.toString()}`;
  });
  return `${[...parts, summary].join('\n')}\n`;
}

function placeOf({ host, domain }: CheckResult): string {
  return [domain, host].filter((part) => part !== undefined).join(' on ') || 'pair';
}

function plainLine(result: CheckResult): string {
  const start = `${result.verdict} ${result.pair}: ${placeOf(result)}: ${result.id}: ${printable(result.found)}`;
  if (result.verdict === 'pass') return start;
  return `${start}; needed: ${printable(result.needed)}; to do: ${printable(result.mend)}`;
}

function count(results: readonly CheckResult[]): Record<Verdict, number> {
  const counts: Record<Verdict, number> = { pass: 0, warn: 0, fail: 0 };
  for (const { verdict } of results) counts[verdict] += 1;
  return counts;
}

function countText(results: readonly CheckResult[]): string {
  const { pass, warn, fail } = count(results);
  return `${pass} passed, ${warn} ${warn === 1 ? 'warning' : 'warnings'}, ${fail} failed`;
}

/** The report for programs. */
export function checkJson({ results }: CheckReport): string {
  return `${JSON.stringify({ summary: count(results), results }, undefined, 2)}\n`;
}
