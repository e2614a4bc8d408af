/**
 * The xl configuration of a drill's guest: that of the domain, with what must differ put behind it. xl takes the last of
 * several assignments (core/xlconfig.ts).
 *
 * No network: its addresses are those of the guest that runs. It gives way to what runs on the host: dom0 is where the
 * backup's part of production runs.
 */
import { drillGuest, mapperPath } from '../names.js';
import { describeGuest, parseXlConfig, replaceDisks } from '../xlconfig.js';
import type { DrillSnapshot } from './records.js';

/** Of the credit scheduler, whose default is 256: xl.cfg(5), "cpu_weight". */
const CPU_WEIGHT = 64;

/**
 * @param text the domain's configuration as setup has written it
 * @param uuid of its own
 * @param cpus those that guests have on this host; null for any
 * @throws XlConfigError
 */
export function drillGuestConfig(
  text: string,
  file: string,
  domain: string,
  snapshots: readonly DrillSnapshot[],
  uuid: string,
  cpus: readonly number[] | null,
): string {
  const disks = snapshots.map(({ vdev, name }) => ({
    vdev,
    text: `vdev=${vdev},access=w,format=raw,target=${mapperPath(name)}`,
  }));
  return [
    replaceDisks(parseXlConfig(text, file), disks).trimEnd(),
    '',
    '# A drill: thrown away afterwards.',
    `name = '${drillGuest(domain)}'`,
    `uuid = '${uuid}'`,
    'vif = []',
    "on_poweroff = 'destroy'",
    "on_reboot = 'destroy'",
    "on_watchdog = 'destroy'",
    "on_crash = 'destroy'",
    `cpu_weight = ${CPU_WEIGHT}`,
    ...(cpus === null ? [] : [`cpus = '${cpus.join(',')}'`]),
    '',
  ].join('\n');
}

/** Why a guest can't have a second copy on its backup; undefined where it can. */
export function drillHindrance(text: string, file: string): string | undefined {
  const { hostDevices } = describeGuest(parseXlConfig(text, file));
  const [key] = hostDevices;
  return key === undefined
    ? undefined
    : `its configuration has ${key}, a device of the host that it can't share`;
}
