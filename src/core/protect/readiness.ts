/**
 * Whether protection of a domain can start, by what both hosts said. Protection starts only from a good state:
 * everything that is not right is named, all of it at once.
 */
import type { RunningGuest, RunningResource } from '../facts.js';
import type { DomainLayout } from '../model.js';

/** What one host of the domain said. */
export interface HostFactsForProtection {
  name: string;
  resource: RunningResource | undefined;
  guests: RunningGuest[];
  freeMemoryBytes: number;
  /** DRBD's replication protocol of the resource as it runs: A, B or C, or D of the module that has it. */
  protocol: string | null;
  senderActive: boolean;
  receiverActive: boolean;
}

export interface Readiness {
  primary: string;
  backup: string;
  guestMemoryBytes: number;
  /** Why it can't start, each with what to do; empty when it can. */
  problems: string[];
}

/** Xen itself needs some memory for a guest beyond the guest's own. */
export const MEMORY_OVERHEAD_BYTES = 16 << 20;

/** @param hosts both hosts of the domain, in any order */
export function judgeReadiness(
  layout: DomainLayout,
  hosts: readonly [HostFactsForProtection, HostFactsForProtection],
): Readiness {
  const { name } = layout.domain;
  const problems: string[] = [];
  const running = hosts.filter(({ guests }) => guests.some((guest) => guest.name === name));
  const primary = running[0]?.name ?? layout.domain.primary;
  const [one, other] = hosts;
  const [here, there] = one.name === primary ? [one, other] : [other, one];
  const guest = here.guests.find((each) => each.name === name);
  if (running.length === 2) {
    problems.push(`${name} runs on both hosts; stop one of the copies, and find out which disks are right`);
  } else if (guest === undefined) {
    problems.push(`${name} runs on neither host; start it: xl create /etc/remus-drbd/domains/${name}.cfg`);
  } else if (guest.state[3] === 's' || guest.state[2] === 'p') {
    problems.push(`${name} on ${here.name} does not run (xl list: ${guest.state})`);
  }
  const copy = there.guests.find((each) => each.name === `${name}--incoming`);
  if (copy !== undefined && !there.receiverActive) {
    problems.push(`a paused copy ${copy.name} is left on ${there.name}; remove it: xl destroy ${copy.name}`);
  }
  const protocol = layout.domain.engine === 'protocol-d' ? 'D' : 'A';
  problems.push(...resourceProblems(name, protocol, here, there));
  const guestMemoryBytes = guest?.memoryBytes ?? 0;
  const needed = guestMemoryBytes + MEMORY_OVERHEAD_BYTES;
  if (there.freeMemoryBytes < needed) {
    problems.push(
      `${there.name} has ${mib(there.freeMemoryBytes)} MiB of memory free and ${mib(needed)} MiB are required for the copy`,
    );
  }
  return { primary: here.name, backup: there.name, guestMemoryBytes, problems };
}

function resourceProblems(
  name: string,
  protocol: 'A' | 'D',
  here: HostFactsForProtection,
  there: HostFactsForProtection,
): string[] {
  const { resource } = here;
  if (resource === undefined) return [`DRBD on ${here.name} has no resource ${name}; run setup`];
  const problems: string[] = [];
  if (resource.role !== 'Primary') {
    problems.push(`DRBD's ${name} is ${resource.role} on ${here.name}, Primary is required`);
  }
  const [connection] = resource.connections;
  if (connection?.connection !== 'Connected') {
    problems.push(
      `DRBD's ${name} is ${connection?.connection ?? 'StandAlone'}, Connected is required; run drbdadm adjust ${name} on both hosts`,
    );
    return problems;
  }
  if (connection.peerRole !== 'Secondary') {
    problems.push(`DRBD's ${name} is ${connection.peerRole} on ${there.name}, Secondary is required`);
  }
  for (const [volume, { disk }] of Object.entries(resource.volumes)) {
    if (disk !== 'UpToDate')
      problems.push(`volume ${volume} is ${disk} on ${here.name}, UpToDate is required`);
  }
  for (const [volume, { peerDisk }] of Object.entries(connection.volumes)) {
    if (peerDisk !== 'UpToDate') {
      problems.push(`volume ${volume} is ${peerDisk} on ${there.name}, UpToDate is required`);
    }
  }
  if (here.protocol !== protocol) {
    problems.push(
      `DRBD's ${name} runs with protocol ${here.protocol ?? 'unknown'}, ${protocol} is required; run drbdadm adjust ${name}`,
    );
  }
  return problems;
}

function mib(bytes: number): number {
  return Math.ceil(bytes / 2 ** 20);
}
