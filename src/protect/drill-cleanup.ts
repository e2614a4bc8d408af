/**
 * Takes away what a drill has made on this host, however it ended: the guest, the devices over the snapshots, the
 * snapshots. Each by a name or a tag that nothing else has. Run by the drill itself for what an earlier one has left, and
 * behind it, by its unit (`remus-drbd drill-cleanup DOMAIN`), when all its processes have ended.
 */
import { existsSync } from 'node:fs';
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import {
  formatDrillRecord,
  newDrillReport,
  parseDrillOrder,
  parseDrillReport,
} from '../core/drill/records.js';
import type { DrillOrder, DrillReport } from '../core/drill/records.js';
import { drillVolumes } from '../core/drill/snapshots.js';
import { OperatorError } from '../core/errors.js';
import { drillGuest, drillLv, lvmMapperName, volumeName } from '../core/names.js';
import { parseDmInfo } from '../core/parse/dm.js';
import { LVM_OPTIONS, LVS_COLUMNS, parseLvs } from '../core/parse/lvm.js';
import type { Log } from '../edge/log.js';
import { must } from './exec.js';
import { readHostDomain } from './host-domain.js';
import type { HostDomain } from './host-domain.js';
import { replaceFile } from './sender-host.js';
import { destroyGuest } from './xl.js';

export const DRILL_ORDER = 'drill-order.json';
export const DRILL_REPORT = 'drill.json';
/** There while a drill has the devices under DRBD suspended. */
export const SUSPENDED_MARK = 'drill-suspended';

const COMMAND_MS = 30_000;
/** LVM has no reason to take so long, and is not killed before: one that dies with a volume suspended leaves it so. */
const LVM_MS = 600_000;
/** The backend of a guest that was destroyed lets go of its disks a little later. */
const BUSY_MS = 60_000;
const AGAIN_MS = 500;

/** @throws Error where there is no order, or none that can be read */
export async function readDrillOrder(here: HostDomain): Promise<DrillOrder> {
  return parseDrillOrder(await readFile(join(here.runDirectory, DRILL_ORDER), 'utf8'));
}

export async function writeDrillReport(here: HostDomain, report: DrillReport): Promise<void> {
  await replaceFile(join(here.runDirectory, DRILL_REPORT), formatDrillRecord(report));
}

/** Ends a drill: nothing of it is left, and its report says so. */
export async function cleanUpDrill(name: string, log: Log): Promise<void> {
  const here = await readHostDomain(name);
  const order = await readDrillOrder(here);
  const report = await lastReport(here, order.id);
  const { phase } = report;
  if (phase === 'ended') return;
  report.result ??= { outcome: 'refused', reason: `it was ended at: ${phase}` };
  await writeDrillReport(here, { ...report, phase: 'removing' });
  const beganMs = performance.now();
  const left = await removeDrill(here);
  await writeDrillReport(here, {
    ...report,
    phase: 'ended',
    timingsMs: { ...report.timingsMs, removal: performance.now() - beganMs },
    left,
  });
  if (left.length > 0) {
    throw new OperatorError(
      `${name}: of a drill is left: ${left.join('; ')}; the next drill removes it first`,
    );
  }
  log.info('nothing of the drill is left', { domain: name });
}

async function lastReport(here: HostDomain, id: string): Promise<DrillReport> {
  try {
    const report = parseDrillReport(await readFile(join(here.runDirectory, DRILL_REPORT), 'utf8'));
    if (report.id === id) return report;
  } catch {
    // It was ended before it had written one.
  }
  return newDrillReport(id);
}

/** @returns what could not be removed, each with the reason */
export async function removeDrill(here: HostDomain): Promise<string[]> {
  const { domain, volumes } = here.domain;
  const left: string[] = [];
  const attempt = async (what: string, work: () => Promise<unknown>): Promise<void> => {
    await work().catch((error: unknown) => left.push(`${what}: ${(error as Error).message}`));
  };
  // What production waits for comes first.
  await attempt('suspended devices', () => resumeDevices(here));
  await attempt(`guest ${drillGuest(domain)}`, () => destroyGuest(drillGuest(domain)));
  for (const { volume, vdev } of volumes) {
    const name = drillLv(domain, volume);
    if (vdev === undefined || !existsSync(`/dev/mapper/${name}`)) continue;
    await attempt(`device ${name}`, () => whileBusy(['dmsetup', 'remove', name], COMMAND_MS));
  }
  await attempt('snapshots', async () => {
    const text = await must(['lvs', ...LVM_OPTIONS, '--options', LVS_COLUMNS], LVM_MS);
    for (const { volumeGroup, name } of drillVolumes(domain, parseLvs(text))) {
      await attempt(`snapshot ${volumeGroup}/${name}`, () =>
        whileBusy(['lvremove', '--yes', `${volumeGroup}/${name}`], LVM_MS),
      );
    }
  });
  return left;
}

/**
 * Nothing stands still because of a drill any more: not the devices under DRBD, which it may have suspended itself, nor
 * an origin that LVM had suspended when it was killed. A device that the receiver has suspended is not touched: what it
 * would go on with is not ready.
 */
async function resumeDevices(here: HostDomain): Promise<void> {
  const { domain, volumes } = here.domain;
  const mark = join(here.runDirectory, SUSPENDED_MARK);
  const names = volumes.flatMap(({ volumeGroup, dataLv }) => {
    const origin = lvmMapperName(volumeGroup, dataLv);
    return [`${origin}-real`, origin];
  });
  if (existsSync(mark)) names.push(...volumes.map(({ volume }) => volumeName(domain, volume)));
  const devices = parseDmInfo(await must(['dmsetup', 'info'], COMMAND_MS));
  for (const name of names) {
    if (devices.some((device) => device.name === name && device.suspended)) {
      await must(['dmsetup', 'resume', name], COMMAND_MS);
    }
  }
  await rm(mark, { force: true });
}

async function whileBusy(argv: readonly string[], timeoutMs: number): Promise<void> {
  const deadlineMs = performance.now() + BUSY_MS;
  for (;;) {
    try {
      await must(argv, timeoutMs);
      return;
    } catch (error) {
      if (performance.now() > deadlineMs) throw error;
    }
    await pause(AGAIN_MS);
  }
}
