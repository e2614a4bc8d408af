/**
 * Brings the hosts of one pair to what a plan asks for: lock both hosts, observe, then rounds of steps (see
 * `core/setup/step.ts`) until the plan is empty. `setup` and `teardown` differ only in their plans.
 */
import { createTwoFilesPatch } from 'diff';
import type { GuestReading } from '../core/check.js';
import { ExitCode, OperatorError } from '../core/errors.js';
import type { DomainLayout, HostConfig, Pair } from '../core/model.js';
import { Paths } from '../core/names.js';
import { moduleResource } from '../core/protocol-d/running.js';
import type { DesiredFile } from '../core/setup/files.js';
import type { Round, Step, Wait } from '../core/setup/step.js';
import type { RunningResource } from '../core/facts.js';
import { parseView, viewCommands, type HostView, type Views } from '../core/setup/view.js';
import { syncProgress, type SyncSample } from '../core/setup/sync.js';
import { quoteCommand } from '../core/quote.js';
import { drbdCommand, parseDrbdRunning } from '../core/facts.js';
import { HostError, type Host } from '../edge/host.js';
import type { Progress } from '../edge/progress.js';

export interface PairWork {
  pair: Pair;
  layouts: DomainLayout[];
  /** Machines that hosts log in on and whose host key the controller doesn't know, in words. */
  unknownMachines: string[];
  /** What the guests' own configurations say, by domain. */
  guests: Record<string, GuestReading>;
  /** By host name. */
  files: Record<string, DesiredFile[]>;
  /** Kernels and ramdisks that the guests need on each host. */
  guestFiles: string[];
}

export interface Dependencies {
  connect: (host: HostConfig) => Promise<Host>;
  nowMs: () => number;
  /** Resolves after so many milliseconds. */
  pause: (ms: number) => Promise<void>;
}

export interface ConvergeOptions {
  /** Only tell what would be done. */
  dryRun: boolean;
  /** Wait until the first sync is done. */
  wait: boolean;
}

export interface PairResult {
  pair: string;
  /** Steps that changed a host; in a dry run, that would. */
  changes: DoneStep[];
}

export interface DoneStep {
  host: string;
  domain?: string;
  title: string;
  reason: string;
  /** The command as a shell would take it, or the difference a file was written with. */
  detail: string;
}

/** A plan that is right needs a handful of rounds; more means that it does not get anywhere. */
const ROUNDS_MAX = 30;
/** How often a wait looks again. */
const POLL_MS = 1_000;
/** How long two hosts that are both up may take to connect. */
const CONNECT_MS = 120_000;
/** A sync that moved nothing for so long is reported as stuck. */
const STUCK_MS = 120_000;

/** Connects and locks the hosts of a pair, and lets both go whatever happens. */
export async function withHosts<T>(
  pair: Pair,
  dependencies: Pick<Dependencies, 'connect'>,
  readOnly: boolean,
  use: (hosts: Host[]) => Promise<T>,
): Promise<T> {
  const opened = await Promise.allSettled(pair.hosts.map((host) => dependencies.connect(host)));
  const hosts = opened.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []));
  try {
    for (const one of opened) if (one.status === 'rejected') throw one.reason;
    if (readOnly) return await use(hosts);
    const locks: Lock[] = [];
    try {
      // In order of names, so that two controllers can't hold one host each.
      for (const host of [...hosts].sort((a, b) => (a.name < b.name ? -1 : 1))) locks.push(await lock(host));
      return await use(hosts);
    } finally {
      for (const held of locks) await held.release();
    }
  } finally {
    await Promise.all(hosts.map((host) => host.close()));
  }
}

interface Lock {
  release: () => Promise<void>;
}

/**
 * One controller at a time changes a host. The lock is a process there that ends with our connection, so
 * that a controller that dies never leaves it behind.
 */
async function lock(host: Host): Promise<Lock> {
  const abort = new AbortController();
  let locked: () => void = () => undefined;
  const isLocked = new Promise<void>((resolve) => {
    locked = resolve;
  });
  const ended = host
    .stream(
      ['flock', '--nonblock', Paths.lock, 'sh', '-c', 'echo locked; exec cat'],
      (line) => {
        if (line === 'locked') locked();
      },
      { signal: abort.signal },
    )
    .then(
      (result) => result,
      (error: unknown) => {
        if (!abort.signal.aborted) throw error;
        return undefined;
      },
    );
  const first = await Promise.race([isLocked.then(() => 'locked' as const), ended]);
  if (first !== 'locked') {
    throw new OperatorError(
      first?.exitCode === 1
        ? `${host.name}: another remus-drbd is changing this host (it holds ${Paths.lock}); nothing was changed. ` +
            `Wait for it, or find it: fuser -v ${Paths.lock}`
        : `${host.name}: ${Paths.lock} could not be locked: ${first?.stderr.trim() ?? 'the command ended'}; nothing was changed.`,
      ExitCode.refused,
    );
  }
  // If it ends later, the connection is gone, and the next command on the host says so.
  ended.catch(() => undefined);
  return {
    release: async () => {
      abort.abort();
      await ended.catch(() => undefined);
    },
  };
}

/** Reads both hosts of a pair, side by side. */
export async function observe(work: PairWork, hosts: readonly Host[]): Promise<Views> {
  const views = await Promise.all(
    hosts.map(async (host): Promise<[string, HostView]> => {
      const paths = (work.files[host.name] ?? []).map((file) => file.path);
      const commands = viewCommands(work.layouts, host.name, paths, work.guestFiles);
      return [host.name, parseView(host.name, await host.probe(commands))];
    }),
  );
  return Object.fromEntries(views);
}

/**
 * Rounds of observing, planning and acting until the plan is empty.
 *
 * @param first what was observed just now
 */
export async function converge(
  pair: Pair,
  hosts: readonly Host[],
  first: Views,
  look: () => Promise<Views>,
  plan: (views: Views) => Round,
  dependencies: Dependencies,
  options: ConvergeOptions,
  progress: Progress,
): Promise<PairResult> {
  const changes: DoneStep[] = [];
  const done = new Set<string>();
  let views = first;
  for (let round = 1; round <= ROUNDS_MAX; round++) {
    const { lanes, waits } = plan(views);
    if (lanes.length === 0 && waits.length === 0) return { pair: pair.name, changes };
    refuseStandstill(lanes, done, options.dryRun);
    const before = await readBefore(lanes, views, hosts);
    if (options.dryRun) {
      for (const step of lanes.flat()) {
        changes.push(describe(step, before));
        step.effect(views[step.host]!, views);
      }
      if (lanes.length === 0) for (const wait of waits) wait.effect(views);
      continue;
    }
    const outcomes = await Promise.allSettled(
      lanes.map(async (lane) => {
        for (const step of lane) {
          await act(step, hosts, progress);
          changes.push(describe(step, before));
          done.add(`${step.host} ${step.title}`);
        }
      }),
    );
    for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
    if (lanes.length === 0) {
      if (!options.wait && waits.every((wait) => wait.kind === 'sync')) return { pair: pair.name, changes };
      await Promise.all(waits.map((wait) => waitFor(wait, hosts, dependencies, progress)));
    }
    views = await look();
  }
  throw new OperatorError(
    `${pair.name}: still not as configured after ${ROUNDS_MAX} rounds; the hosts keep changing. Run it again, and look at the log of both hosts.`,
  );
}

/** After each act the hosts are looked at again; a step that is asked for twice did not do what it is for. */
function refuseStandstill(lanes: Step[][], done: ReadonlySet<string>, dryRun: boolean): void {
  if (dryRun) return;
  for (const step of lanes.flat()) {
    if (!done.has(`${step.host} ${step.title}`)) continue;
    throw new OperatorError(
      `${step.host}: "${step.title}" was done and reported no error, but it is still needed: ${step.reason}. ` +
        `Look at what the host says of it: ${commandText(step)}`,
    );
  }
}

async function act(step: Step, hosts: readonly Host[], progress: Progress): Promise<void> {
  const host = hostOf(hosts, step.host);
  progress.state(`${step.host}: ${step.title}`);
  try {
    if (step.action.kind === 'write') {
      await host.writeFile(step.action.path, step.action.content, step.action.mode);
      progress.line(`${step.host}: ${step.title}`);
      return;
    }
    const { argv } = step.action;
    const result =
      step.action.progress === true
        ? await host.stream(argv, (line) => progress.state(`${step.host}: ${step.title}: ${line}`), {})
        : await host.run(argv, { deadlineMs: step.deadlineMs });
    if (result.exitCode !== 0) {
      const said = (result.stderr.trim() || result.stdout.trim() || 'it said nothing').slice(-2000);
      throw new OperatorError(
        `${step.host}: could not ${step.title}: ${said}\n` +
          `  command: ${commandText(step)} (exit code ${result.exitCode})\n` +
          `  needed because: ${step.reason}\n` +
          `  Everything before it is in place; run setup again when the cause is mended.`,
      );
    }
  } catch (error) {
    if (!(error instanceof HostError)) throw error;
    throw new OperatorError(
      `${error.message}\n` +
        `  step: ${step.title}\n` +
        `  state: ${error.outcome === 'not-run' ? 'it was not run' : 'it may or may not have been done'}; everything before it is in place.\n` +
        `  Run setup again: it looks first and does what is missing.`,
      ExitCode.unreachable,
      error,
    );
  }
  progress.line(`${step.host}: ${step.title}`);
}

function hostOf(hosts: readonly Host[], name: string): Host {
  const host = hosts.find((one) => one.name === name);
  if (host === undefined) throw new Error(`no connection to ${name}`);
  return host;
}

function commandText(step: Step): string {
  return step.action.kind === 'run' ? quoteCommand(step.action.argv) : `write ${step.action.path}`;
}

/** By host and path: the content of files that a round is about to replace. */
type Before = Map<string, Map<string, Uint8Array | undefined>>;

/** Reads what a round's files replace, in one round trip for each host; only of texts, for their difference. */
async function readBefore(lanes: Step[][], views: Views, hosts: readonly Host[]): Promise<Before> {
  const wanted = new Map<string, string[]>();
  for (const { host, action } of lanes.flat()) {
    if (action.kind !== 'write' || isBinary(action.content)) continue;
    if (views[host]?.files[action.path] === undefined) continue;
    wanted.set(host, [...(wanted.get(host) ?? []), action.path]);
  }
  const read = await Promise.all(
    [...wanted].map(async ([host, paths]): Promise<[string, Map<string, Uint8Array | undefined>]> => {
      const files = await hostOf(hosts, host).readFiles(paths);
      return [host, new Map([...files].map(([path, file]) => [path, file?.content]))];
    }),
  );
  return new Map(read);
}

function describe(step: Step, before: Before): DoneStep {
  const base = {
    host: step.host,
    ...(step.domain === undefined ? {} : { domain: step.domain }),
    title: step.title,
    reason: step.reason,
  };
  if (step.action.kind === 'run') return { ...base, detail: commandText(step) };
  const { path, content, mode } = step.action;
  return { ...base, detail: fileDifference(path, before.get(step.host)?.get(path), content, mode) };
}

/** A difference that people can read; of binary files only their sizes. */
function fileDifference(
  path: string,
  before: Uint8Array | undefined,
  after: Uint8Array,
  mode: number,
): string {
  const title = `${path} (mode ${mode.toString(8).padStart(4, '0')})`;
  if (before !== undefined && Buffer.compare(before, after) === 0) return title;
  if (isBinary(after)) return `${title}: a program of ${after.length} bytes`;
  const decode = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);
  const old = before === undefined ? '' : decode(before);
  const patch = createTwoFilesPatch(before === undefined ? '/dev/null' : path, path, old, decode(after));
  // Without the title and the ruler that jsdiff puts before a patch.
  return `${title}\n${patch.replace(/^(Index: .*\n)?=+\n/, '').trimEnd()}`;
}

/** Larger files are programs; a difference of them helps nobody. */
const TEXT_BYTES_MAX = 256 * 1024;

function isBinary(bytes: Uint8Array): boolean {
  return bytes.length > TEXT_BYTES_MAX || bytes.includes(0);
}

/** Waits until DRBD has connected, or has finished its sync, with a word on how far it is. */
async function waitFor(
  wait: Wait,
  hosts: readonly Host[],
  dependencies: Dependencies,
  progress: Progress,
): Promise<void> {
  const host = hostOf(hosts, wait.host);
  const startedMs = dependencies.nowMs();
  const samples: SyncSample[] = [];
  let last = wait.reason;
  for (;;) {
    const nowMs = dependencies.nowMs();
    const resource = await drbdNow(host, wait);
    const connection = resource?.connections[0];
    if (wait.kind === 'connect') {
      if (connection?.connection === 'Connected' || connection?.connection === 'StandAlone') return;
      last = `${wait.domain} on ${wait.host} is ${connection?.connection ?? 'not up'}, Connected is required`;
      progress.state(last);
      if (nowMs - startedMs > CONNECT_MS) {
        throw new OperatorError(
          `${last}: nothing connected within ${CONNECT_MS / 1000} s. Everything else is in place. Look at DRBD's ` +
            `log on both hosts (journalctl -k -g drbd), and at the replication addresses and a firewall between them ` +
            `("remus-drbd check" tries them); then run setup again.`,
          ExitCode.unreachable,
        );
      }
    } else {
      if (resource === undefined || connection?.connection !== 'Connected') return;
      const outOfSyncBytes = Object.values(connection.volumes).reduce(
        (sum, one) => sum + one.outOfSyncBytes,
        0,
      );
      const settled = Object.values(resource.volumes).every((one) => one.disk === 'UpToDate');
      const peersSettled = Object.values(connection.volumes).every((one) => one.peerDisk === 'UpToDate');
      if (settled && peersSettled) return;
      samples.push({ atMs: nowMs, outOfSyncBytes });
      const { text, stuckMs } = syncProgress(samples);
      progress.state(`${wait.domain}: first sync: ${text}`);
      if (stuckMs > STUCK_MS) {
        throw new OperatorError(
          `${wait.domain} on ${wait.host}: the first sync has not moved for ${Math.round(stuckMs / 1000)} s (${text}). ` +
            `It goes on by itself when DRBD can; look at its log on both hosts (journalctl -k -g drbd). Nothing else is missing.`,
        );
      }
    }
    await dependencies.pause(POLL_MS);
  }
}

/** The resource as it is in the host's kernel now; undefined when it is not up. */
async function drbdNow(host: Host, { domain, moduleMinor }: Wait): Promise<RunningResource | undefined> {
  const key = 'drbd';
  const command = moduleMinor === undefined ? drbdCommand() : ['cat', '/proc/drbd'];
  const result = (await host.probe(new Map([[key, command]]))).get(key);
  if (result === undefined) throw new Error(`${host.name}: no answer to ${key}`);
  if (moduleMinor !== undefined) {
    return result.exitCode === 0 ? moduleResource(host.name, domain, moduleMinor, result.stdout) : undefined;
  }
  const resources = parseDrbdRunning(host.name, result);
  return resources.known ? resources.value.find((resource) => resource.name === domain) : undefined;
}
