/**
 * `remus-drbd drill`: a failover tried on a snapshot of the backup's disks, without network, and thrown away. What runs on
 * the backup is a unit (`src/protect/drill.ts`), which cleans up whatever it dies of; it is stopped when the connection
 * of this command is lost.
 */
import { randomBytes } from 'node:crypto';
import { drillHindrance } from '../core/drill/guest.js';
import { judgeDrill } from '../core/drill/readiness.js';
import type { HostFactsForDrill } from '../core/drill/readiness.js';
import { formatDrillRecord, parseDrillReport } from '../core/drill/records.js';
import type { DrillOrder, DrillReport } from '../core/drill/records.js';
import { planSnapshots } from '../core/drill/snapshots.js';
import { ExitCode, OperatorError } from '../core/errors.js';
import { understood } from '../core/facts.js';
import type { LogicalVolume, VolumeGroup } from '../core/facts.js';
import type { DomainLayout } from '../core/model.js';
import { drillGuest, drillUnit, guestConfigPath, runPath } from '../core/names.js';
import { LVM_OPTIONS, LVS_COLUMNS, parseLvs, parseVgs, VGS_COLUMNS } from '../core/parse/lvm.js';
import { formatSize } from '../core/units.js';
import { describeGuest, parseXlConfig } from '../core/xlconfig.js';
import type { Host } from '../edge/host.js';
import { mustRun } from './host-command.js';
import type { ProtectDependencies } from './protect.js';
import { readBoth } from './protection-view.js';
import type { ProtectionView } from './protection-view.js';

export interface DrillOptions {
  /** For the backup's shell; null for the configured one. */
  check: string | null;
  timeoutMs: number | null;
  dryRun: boolean;
}

export interface DrillResult {
  text: string;
  exitCode: ExitCode;
  /** Absent of a dry run. */
  drill?: DrillReport & { host: string };
}

const COMMAND_MS = 60_000;
/** An earlier drill is removed in it. */
const STOP_MS = 900_000;
const POLL_MS = 1_000;
/** Beyond what the check may take. */
const STUCK_MS = 1_800_000;
const UNIT_DIRECTORY = '/etc/systemd/system';
/** Stops the unit when its standard input ends, which a lost connection makes it do. */
const LEASH = `trap '' TERM; cat >/dev/null; exec systemctl stop --no-block "$1"`;

/** @throws OperatorError where it can't be tried; one that was tried and did not pass is a result */
export async function drillDomain(
  layout: DomainLayout,
  hosts: readonly [Host, Host],
  options: DrillOptions,
  deps: ProtectDependencies,
): Promise<DrillResult> {
  const { name } = layout.domain;
  const views = await readBoth(hosts, name);
  const [one, other] = views;
  const config = await readConfig(name, hosts, views);
  const ready = judgeDrill(layout, [factsOf(one), factsOf(other)], config.memoryMiB);
  const backup = hosts[0].name === ready.backup ? hosts[0] : hosts[1];
  const { volumeGroups, volumes, hasUnit } = await readBackup(backup, name);
  const { domain } = layout;
  const planned = planSnapshots(layout, backup.name, domain.drill.snapshotBytes, volumeGroups, volumes);
  const problems = [...ready.problems, ...planned.problems];
  if (config.hindrance !== undefined) problems.push(config.hindrance);
  if (!hasUnit) problems.push(`${backup.name} has no unit for drills; run setup`);
  if (problems.length > 0) {
    throw new OperatorError(
      `${name}: no drill is possible; nothing was changed:\n${problems.map((each) => `  ${each}`).join('\n')}`,
      ExitCode.refused,
    );
  }
  const order: DrillOrder = {
    format: 1,
    id: randomBytes(16).toString('hex'),
    domain: name,
    source: ready.source,
    mappers: ready.source === 'replicated' ? layout.volumes.map(({ mapper }) => mapper) : [],
    snapshots: planned.snapshots,
    check: options.check === null ? (domain.drill.check ?? null) : ['sh', '-c', options.check],
    timeoutMs: options.timeoutMs ?? domain.drill.timeoutMs,
    cpus: domain.pin?.guest ?? null,
  };
  if (options.dryRun) return { text: foretell(order, backup.name), exitCode: ExitCode.ok };
  const report = await run(order, backup, deps);
  return {
    text: resultText(order, report, backup.name),
    exitCode: exitCodeOf(report),
    drill: { host: backup.name, ...report },
  };
}

function factsOf(view: ProtectionView): HostFactsForDrill {
  const { receiver } = view;
  return { ...view, receiverPhase: typeof receiver === 'string' ? null : receiver.phase };
}

/** The guest's configuration as it is on the host that would start it. */
async function readConfig(
  name: string,
  hosts: readonly [Host, Host],
  views: readonly [ProtectionView, ProtectionView],
): Promise<{ memoryMiB: number; hindrance: string | undefined }> {
  const running = views.findIndex(({ guests }) => guests.some((guest) => guest.name === name));
  const host = running === 0 ? hosts[1] : hosts[0];
  const path = guestConfigPath(name);
  const file = await host.readFile(path);
  if (file === undefined) return { memoryMiB: 0, hindrance: `${host.name} has no ${path}; run setup` };
  const text = new TextDecoder().decode(file.content);
  return {
    memoryMiB: describeGuest(parseXlConfig(text, path)).memoryMiB,
    hindrance: drillHindrance(text, path),
  };
}

async function readBackup(
  host: Host,
  name: string,
): Promise<{ volumeGroups: VolumeGroup[]; volumes: LogicalVolume[]; hasUnit: boolean }> {
  const unitFile = `${UNIT_DIRECTORY}/${drillUnit('')}`;
  const answers = await host.probe(
    new Map([
      ['vgs', ['vgs', ...LVM_OPTIONS, '--options', VGS_COLUMNS]],
      ['lvs', ['lvs', ...LVM_OPTIONS, '--options', LVS_COLUMNS]],
    ]),
  );
  const text = (key: string): string => {
    const answer = answers.get(key);
    if (answer?.exitCode === 0) return answer.stdout;
    throw new OperatorError(
      `${name}: ${key} on ${host.name}: ${answer?.stderr.trim() ?? 'no answer'}; nothing was changed`,
    );
  };
  return {
    volumeGroups: understood(host.name, () => parseVgs(text('vgs'))),
    volumes: understood(host.name, () => parseLvs(text('lvs'))),
    hasUnit: (await host.readFile(unitFile)) !== undefined,
  };
}

function foretell({ domain, source, snapshots, check, timeoutMs }: DrillOrder, host: string): string {
  const sizes = snapshots.map(({ vdev, sizeBytes }) => `${vdev} ${formatSize(sizeBytes)}`).join(', ');
  const at =
    source === 'protected' ? 'while the receiver holds them at a commit' : 'while they are suspended';
  return [
    `${domain}: would, on ${host}:`,
    `  make snapshots of its disks ${at} (room: ${sizes})`,
    `  start ${drillGuest(domain)} from them, without network`,
    check === null
      ? '  see that it stays up for 30 s: there is no check'
      : `  run the check, which may take ${seconds(timeoutMs)}: ${check.join(' ')}`,
    '  remove the guest and the snapshots',
  ].join('\n');
}

async function run(order: DrillOrder, host: Host, deps: ProtectDependencies): Promise<DrillReport> {
  const { domain, id } = order;
  const unit = drillUnit(domain);
  // One that an earlier run has left behind, with all that it has made.
  await mustRun(host, ['systemctl', 'stop', unit], STOP_MS);
  await host.run(['systemctl', 'reset-failed', unit], { deadlineMs: COMMAND_MS, repeatable: true });
  const text = new TextEncoder().encode(formatDrillRecord(order));
  await host.writeFile(runPath(domain, 'drill-order.json'), text, 0o600);
  const leash = new AbortController();
  const stopped = host
    .stream(['sh', '-c', LEASH, 'sh', unit], () => undefined, { signal: leash.signal })
    // What it is there for has happened; the next look at the host says so.
    .catch(() => undefined);
  try {
    await mustRun(host, ['systemctl', 'start', unit], COMMAND_MS);
    return await waitForEnd(domain, id, order.timeoutMs + STUCK_MS, host, deps);
  } finally {
    leash.abort();
    await stopped;
  }
}

async function waitForEnd(
  domain: string,
  id: string,
  limitMs: number,
  host: Host,
  deps: ProtectDependencies,
): Promise<DrillReport> {
  const untilMs = deps.nowMs() + limitMs;
  const path = runPath(domain, 'drill.json');
  let told = '';
  for (;;) {
    const runs = await isRunning(host, domain);
    // Behind the unit's state: a report of the end that was written in between is not missed.
    const file = await host.readFile(path);
    const report = file === undefined ? null : readReport(file.content, id);
    if (report !== null && report.phase !== told) {
      told = report.phase;
      deps.tell(`${domain}: ${report.phase}`);
    }
    if (!runs) {
      if (report?.phase === 'ended') return report;
      throw new OperatorError(
        `${domain}: the drill on ${host.name} has ended without a word; see journalctl -u ${drillUnit(domain)} there. ` +
          'What it may have left is removed by the next drill.',
      );
    }
    if (deps.nowMs() > untilMs) {
      throw new OperatorError(
        `${domain}: the drill on ${host.name} does not end (${told}); it is being stopped`,
      );
    }
    await deps.pause(POLL_MS);
  }
}

async function isRunning(host: Host, domain: string): Promise<boolean> {
  const argv = ['systemctl', 'show', '--property=ActiveState', drillUnit(domain)];
  const answers = await host.probe(new Map([['unit', argv]]));
  return !/^ActiveState=(?:inactive|failed)$/m.test(answers.get('unit')?.stdout ?? '');
}

/** @returns null for one of another drill, of another version of this program too */
function readReport(content: Uint8Array, id: string): DrillReport | null {
  try {
    const report = parseDrillReport(new TextDecoder().decode(content));
    return report.id === id ? report : null;
  } catch {
    return null;
  }
}

function exitCodeOf({ result, left }: DrillReport): ExitCode {
  if (result?.outcome === 'refused') return ExitCode.refused;
  return result?.outcome === 'passed' && left.length === 0 ? ExitCode.ok : ExitCode.failed;
}

const VERDICTS = { passed: 'passed', failed: 'failed', refused: 'could not be done' } as const;

function resultText({ domain, source }: DrillOrder, report: DrillReport, host: string): string {
  const { result, term, epoch, timingsMs, check, usedPercent, left } = report;
  const verdict = result === null ? 'has no result' : `${VERDICTS[result.outcome]}: ${result.reason}`;
  const at =
    term !== null
      ? `the disks were those of commit ${epoch} of term ${term}`
      : source === 'replicated'
        ? 'the disks were those of plain replication at one point'
        : null;
  const parts = Object.entries(timingsMs).filter((part): part is [string, number] => part[1] !== undefined);
  const times = parts.map(([what, ms]) => `${what} ${seconds(ms)}`);
  const total = parts.reduce((sum, [, ms]) => sum + ms, 0);
  const used = Object.entries(usedPercent).map(([vdev, percent]) => `${vdev} ${percent} %`);
  const isLoud = result?.outcome !== 'passed' && check !== null && check.output.trim() !== '';
  return [
    `${domain}: the drill on ${host} ${verdict}`,
    ...(at === null || times.length < 2 ? [] : [`  ${at}`]),
    ...(times.length === 0 ? [] : [`  ${times.join(', ')}; ${seconds(total)} in all`]),
    ...(used.length === 0 ? [] : [`  of the snapshots' room was used: ${used.join(', ')}`]),
    ...(isLoud
      ? [
          '  the check said:',
          ...check.output
            .trimEnd()
            .split('\n')
            .map((line) => `    ${line}`),
        ]
      : []),
    ...left.map((each) => `  left on ${host}: ${each}; the next drill removes it first`),
  ].join('\n');
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`;
}
