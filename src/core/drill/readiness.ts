/** Whether a drill of a domain can be tried, by what both hosts said: everything that is in the way is named. */
import type { DomainLayout } from '../model.js';
import type { HostFactsForProtection } from '../protect/readiness.js';
import { MEMORY_OVERHEAD_BYTES } from '../protect/readiness.js';
import { drillGuest } from '../names.js';
import type { DrillSource } from './records.js';

/** What one host of the domain said. */
export interface HostFactsForDrill extends HostFactsForProtection {
  /** Of a switchover: under way, or begun and not ended. */
  moving: boolean;
  intent: object | undefined;
  /** The receiver's phase; null where it has not reported. */
  receiverPhase: string | null;
}

export interface DrillReadiness {
  backup: string;
  source: DrillSource;
  /** Empty where it can be tried. */
  problems: string[];
}

/**
 * @param hosts both hosts of the domain, in any order
 * @param memoryMiB of the guest by its configuration
 */
export function judgeDrill(
  layout: DomainLayout,
  hosts: readonly [HostFactsForDrill, HostFactsForDrill],
  memoryMiB: number,
): DrillReadiness {
  const { name, engine } = layout.domain;
  const problems: string[] = [];
  const running = hosts.filter(({ guests }) => guests.some((guest) => guest.name === name));
  const [primary] = running;
  const [one, other] = hosts;
  const here = primary ?? (one.name === layout.domain.primary ? one : other);
  const there = here === one ? other : one;
  const source = there.receiverActive ? 'protected' : 'replicated';
  if (engine !== 'journal') {
    problems.push('a drill is for the engine journal: the module of protocol D can not hold its disks');
  }
  if (running.length !== 1) {
    problems.push(`${name} runs on ${running.length === 0 ? 'neither host' : 'both hosts'}; one is required`);
  }
  for (const host of hosts) {
    if (host.moving || host.intent !== undefined) {
      problems.push(`a switchover is under way on ${host.name}; end it: remus-drbd switchover ${name}`);
    }
  }
  problems.push(
    ...(source === 'protected' ? receiverProblems(name, there) : replicationProblems(name, here, there)),
  );
  // Of an earlier drill, which is removed first.
  const left = there.guests.find((guest) => guest.name === drillGuest(name));
  const free = there.freeMemoryBytes + (left?.memoryBytes ?? 0);
  const guest = here.guests.find((each) => each.name === name);
  const needed = Math.max(guest?.memoryBytes ?? 0, memoryMiB * 2 ** 20) + MEMORY_OVERHEAD_BYTES;
  if (free < needed) {
    problems.push(
      `${there.name} has ${mib(free)} MiB of memory free and ${mib(needed)} MiB are required for the drill's guest` +
        (source === 'protected' ? ', beside the copy that is there' : ''),
    );
  }
  return { backup: there.name, source, problems };
}

function receiverProblems(name: string, there: HostFactsForDrill): string[] {
  const { receiverPhase: phase } = there;
  if (phase === 'on') return [];
  if (phase === 'waiting' || phase === 'live') {
    return [`protection of ${name} is starting; wait for its first commit`];
  }
  return [
    phase === null
      ? `the receiver on ${there.name} does not report; see remus-drbd status`
      : `the receiver on ${there.name} is ${phase}; see remus-drbd status`,
  ];
}

function replicationProblems(name: string, here: HostFactsForDrill, there: HostFactsForDrill): string[] {
  const { resource } = there;
  if (resource === undefined) return [`DRBD on ${there.name} has no resource ${name}; run setup`];
  if (here.senderActive) return [`protection of ${name} is starting or ending; see remus-drbd status`];
  const problems: string[] = [];
  if (resource.role !== 'Secondary') {
    problems.push(`DRBD's ${name} is ${resource.role} on ${there.name}, Secondary is required`);
  }
  const [connection] = resource.connections;
  if (connection?.connection !== 'Connected') {
    problems.push(`DRBD's ${name} is ${connection?.connection ?? 'StandAlone'}, Connected is required`);
  }
  for (const [volume, { disk }] of Object.entries(resource.volumes)) {
    if (disk !== 'UpToDate') {
      problems.push(`volume ${volume} is ${disk} on ${there.name}, UpToDate is required`);
    }
  }
  return problems;
}

function mib(bytes: number): number {
  return Math.floor(bytes / 2 ** 20);
}
