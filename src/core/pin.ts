/**
 * Keeping the dom0 and a guest on CPUs of their own, as `pin: { dom0: [0], guest: [1] }` asks for: the dom0 sends
 * the checkpoints, so a guest that is busy on its CPU delays them.
 *
 * Hard affinity is set with `xl vcpu-pin` (xl(1)). It holds until the host or the guest restarts, and a guest that
 * arrives on the other host has that of its configuration there, so both are applied again: to the dom0 of both
 * hosts when protection starts, and to the guest where it runs, after a failover too.
 */

import type { Domain } from './model.js';
import type { CpuPlace, Vcpu } from './parse/vcpu.js';

export type Pin = NonNullable<Domain['pin']>;

/** Xen's name for the dom0. */
const DOM0 = 'Domain-0';

export interface PinCommand {
  argv: string[];
  /** What was found, and why it is changed. */
  reason: string;
}

/**
 * The commands that pin what isn't pinned yet on one host; none where all is right.
 *
 * @param vcpus of that host. A guest that doesn't run there needs nothing
 */
export function pinCommands(pin: Pin, domain: string, vcpus: readonly Vcpu[]): PinCommand[] {
  return [...commandsFor(DOM0, pin.dom0, vcpus), ...commandsFor(domain, pin.guest, vcpus)];
}

function commandsFor(domain: string, cpus: readonly number[], vcpus: readonly Vcpu[]): PinCommand[] {
  const wrong = vcpus.find((vcpu) => vcpu.domain === domain && !sameCpus(vcpu.hard, cpus));
  if (wrong === undefined) return [];
  const reason = `vCPU ${wrong.vcpu} of ${domain} may run on ${cpuText(wrong.hard)}, "pin" says ${cpuText(cpus)}`;
  // Soft affinity is left alone.
  return [{ argv: ['xl', 'vcpu-pin', domain, 'all', cpuArgument(cpus), '-'], reason }];
}

/**
 * The commands that undo it on one host.
 *
 * @param dom0StillPinned another domain's "pin" still wants the dom0 where it is
 */
export function unpinCommands(
  pin: Pin,
  domain: string,
  vcpus: readonly Vcpu[],
  dom0StillPinned: boolean,
): PinCommand[] {
  const parts: [string, readonly number[]][] = [[domain, pin.guest]];
  if (!dom0StillPinned) parts.push([DOM0, pin.dom0]);
  return parts.flatMap(([name, cpus]) => {
    // Another pinning than ours is somebody else's.
    const ours = vcpus.some((vcpu) => vcpu.domain === name && sameCpus(vcpu.hard, cpus));
    if (!ours) return [];
    return [
      {
        argv: ['xl', 'vcpu-pin', name, 'all', 'all', '-'],
        reason: `${name} is pinned to ${cpuText(cpus)} by "pin"`,
      },
    ];
  });
}

/**
 * Why this pinning can't be had on a host, or doesn't separate the two there. Empty where all is right.
 *
 * @param topology the CPUs that are online
 */
export function pinProblems({ dom0, guest }: Pin, topology: ReadonlyMap<number, CpuPlace>): string[] {
  const problems: string[] = [];
  for (const [who, cpus] of [
    ['dom0', dom0],
    ['the guest', guest],
  ] as const) {
    if (cpus.length === 0) problems.push(`"pin" has no CPU for ${who}`);
    const missing = cpus.filter((cpu) => !topology.has(cpu));
    if (missing.length > 0)
      problems.push(
        `CPU ${missing.join(', ')} of ${who} is not there (there are ${cpuText([...topology.keys()])})`,
      );
  }
  for (const cpu of guest) {
    if (dom0.includes(cpu)) {
      problems.push(`CPU ${cpu} is given to both`);
      continue;
    }
    const place = topology.get(cpu);
    const sibling = dom0.find((other) => place !== undefined && sameCore(place, topology.get(other)));
    if (sibling !== undefined) {
      problems.push(
        `CPU ${cpu} of the guest and CPU ${sibling} of dom0 are threads of one core, so a busy guest still slows dom0`,
      );
    }
  }
  return problems;
}

function sameCore(a: CpuPlace, b: CpuPlace | undefined): boolean {
  return b !== undefined && a.core === b.core && a.socket === b.socket;
}

/**
 * CPUs that Xen lets both the dom0 and a guest run on now; empty also where the guest isn't there.
 *
 * @param cpus how many CPUs the host has
 */
export function sharedCpus(domain: string, vcpus: readonly Vcpu[], cpus: number): number[] {
  const all = Array.from({ length: cpus }, (_, cpu) => cpu);
  const may = (name: string): Set<number> =>
    new Set(
      vcpus.filter((vcpu) => vcpu.domain === name).flatMap(({ hard }) => (hard === 'all' ? all : hard)),
    );
  const guest = may(domain);
  return [...may(DOM0)].filter((cpu) => guest.has(cpu)).sort((a, b) => a - b);
}

function sameCpus(found: Vcpu['hard'], wanted: readonly number[]): boolean {
  return found !== 'all' && found.length === wanted.length && wanted.every((cpu) => found.includes(cpu));
}

function cpuArgument(cpus: readonly number[]): string {
  return [...cpus].sort((a, b) => a - b).join(',');
}

function cpuText(cpus: Vcpu['hard']): string {
  if (cpus === 'all') return 'all CPUs';
  return cpus.length === 0 ? 'no CPU' : `CPU ${cpuArgument(cpus)}`;
}
