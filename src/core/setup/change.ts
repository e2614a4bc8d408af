/**
 * Which changes of a domain's configuration can't be made to a domain that is set up. What is installed is
 * read back from the hosts (the layout that setup left there), so that this holds whoever changed the file
 * and whenever.
 */
import type { DomainLayout, VolumeLayout } from '../model.js';
import { Json } from '../parse/text.js';
import { formatSize } from '../units.js';

/** What of an installed layout counts here; everything else can be changed while the guest runs. */
export interface InstalledLayout {
  engine: string;
  hosts: string[];
  volumes: InstalledVolume[];
  journal?: { volumeGroup: string; lv: string; sizeBytes: number };
}

export interface InstalledVolume {
  volume: number;
  minor: number;
  volumeGroup: string;
  dataLv: string;
  sizeBytes?: number;
}

/**
 * Reads what counts here of a domain file (`domain-file.ts`) that an earlier setup left on a host.
 *
 * @throws ParseError when it is not one
 */
export function parseInstalled(path: string, text: string): InstalledLayout {
  const file = Json.parse(path, text);
  const journal = file.get('journal');
  return {
    engine: file.get('engine').string(),
    hosts: file
      .get('hosts')
      .array()
      .map((host) => host.get('name').string()),
    volumes: file
      .get('volumes')
      .array()
      .map((volume) => ({
        volume: volume.get('volume').integer(),
        minor: volume.get('minor').integer(),
        volumeGroup: volume.get('volumeGroup').string(),
        dataLv: volume.get('dataLv').string(),
        ...(volume.get('sizeBytes').absent ? {} : { sizeBytes: volume.get('sizeBytes').integer() }),
      })),
    ...(journal.absent
      ? {}
      : {
          journal: {
            volumeGroup: journal.get('volumeGroup').string(),
            lv: journal.get('lv').string(),
            sizeBytes: journal.get('sizeBytes').integer(),
          },
        }),
  };
}

/**
 * Why a layout can't take the place of the installed one, each with what to do; empty where it can.
 *
 * Possible while everything runs: addresses, ports, DRBD's options, checkpoint settings, more disks.
 */
export function changeProblems(before: InstalledLayout, after: DomainLayout): string[] {
  const problems: string[] = [];
  const domain = after.domain.name;
  const redo = `Tear ${domain} down with the old configuration first (remus-drbd teardown ${domain}; its data is kept), or set the value back.`;
  if (before.engine !== after.domain.engine) {
    problems.push(`the engine was ${before.engine}, now ${after.domain.engine}. ${redo}`);
  }
  const hosts = after.hosts.map((host) => host.name);
  if (hosts.some((host) => !before.hosts.includes(host))) {
    problems.push(`its hosts were ${before.hosts.join(' and ')}, now ${hosts.join(' and ')}. ${redo}`);
  }
  for (const old of before.volumes) {
    const now = after.volumes.find((volume) => volume.volume === old.volume);
    if (now === undefined) {
      problems.push(`volume ${old.volume} is not in the configuration any more. ${redo}`);
    } else {
      problems.push(...volumeProblems(old, now).map((problem) => `${problem}. ${redo}`));
    }
  }
  const was = before.journal;
  const is = after.journal;
  if (was !== undefined && is !== undefined) {
    if (was.volumeGroup !== is.volumeGroup || was.lv !== is.lv || was.sizeBytes !== is.sizeBytes) {
      problems.push(
        `its journal was ${was.volumeGroup}/${was.lv} (${formatSize(was.sizeBytes)}), now ${is.volumeGroup}/${is.lv} (${formatSize(is.sizeBytes)}). ${redo}`,
      );
    }
  }
  return problems;
}

function volumeProblems(old: InstalledVolume, now: VolumeLayout): string[] {
  const problems: string[] = [];
  const name = `volume ${old.volume}`;
  if (old.minor !== now.minor) {
    problems.push(`${name} had DRBD minor ${old.minor}, now ${now.minor}; a guest may have that device open`);
  }
  if (old.volumeGroup !== now.volumeGroup || old.dataLv !== now.dataLv) {
    problems.push(
      `${name} was on ${old.volumeGroup}/${old.dataLv}, now ${now.volumeGroup}/${now.dataLv}; that would leave its data behind`,
    );
  }
  // A larger size is fine once the LV has it, which the plan looks at.
  if (old.sizeBytes !== undefined && now.sizeBytes !== undefined && now.sizeBytes < old.sizeBytes) {
    problems.push(
      `${name} had the size ${formatSize(old.sizeBytes)}, now ${formatSize(now.sizeBytes)}; a disk in use can't shrink`,
    );
  }
  return problems;
}
