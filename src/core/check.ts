/**
 * `remus-drbd check`: from the configuration, the guests' own configurations and what was found on the
 * hosts, whether protection can work. Each point says what was found, what is needed and how to mend it.
 *
 * The points of a host, of its storage, of the guests and of the network are in files of their own beside
 * this one. Nothing here guesses: what could not be found out never passes.
 */
import { guestFindings, guestMemoryFindings } from './check-guest.js';
import { arbiterReachFinding, hostFindings, pairFindings } from './check-host.js';
import {
  clockFindings,
  clocksFitFindings,
  linkFindings,
  replicationAddressFindings,
} from './check-network.js';
import { storageFindings, storagePairFindings } from './check-storage.js';
import type { ReachAnswer } from './claim/types.js';
import { ExitCode } from './errors.js';
import type { HostFacts } from './facts.js';
import { layoutsOfHost } from './layout.js';
import type { DomainLayout, Pair } from './model.js';
import type { PingSummary } from './parse/network.js';

export type Verdict = 'pass' | 'warn' | 'fail';

/** One point of the check without its place. */
export interface Finding {
  /** Constant name of the point, for scripts. */
  id: string;
  verdict: Verdict;
  found: string;
  needed: string;
  /** What to do; empty where it passed. */
  mend: string;
}

export interface CheckResult extends Finding {
  pair: string;
  host?: string;
  domain?: string;
}

/** What matters here of a guest's xl configuration. */
export interface GuestFacts {
  name: string;
  type: 'pv' | 'pvh' | 'hvm';
  kernel?: string;
  ramdisk?: string;
  bootloader?: string;
  memoryMiB: number;
  maxMemoryMiB: number;
  vcpus: number;
  /** Keys of devices that can't follow the guest, such as `pci`. */
  hostDevices?: string[];
}

export type GuestReading = { readable: true; guest: GuestFacts } | { readable: false; reason: string };

/** A host as the check could look at it. */
export type HostReading =
  | { reached: true; facts: HostFacts }
  /** `failed`: it answered, but it let nobody in, or its answers were not understood. */
  | { reached: false; cause: 'unreachable' | 'failed'; reason: string };

/** From one host's replication address to the other's. */
export interface LinkMeasurement {
  from: string;
  to: string;
  ping: { measured: true; summary: PingSummary } | { measured: false; reason: string };
  throughput:
    | { measured: true; bytesPerSecond: number }
    /** `blockedPort`: nothing got through to a port that protection needs, although something listened there. */
    | { measured: false; reason: string; blockedPort?: number };
}

/** A host's clock against the controller's: half the round trip is how far it can be wrong. */
export interface ClockMeasurement {
  offsetMs: number;
  uncertaintyMs: number;
}

export interface Measurements {
  links: LinkMeasurement[];
  /** By host. */
  clocks: Readonly<Record<string, ClockMeasurement>>;
  /** By host: what it says of its pair's arbiter; only of hosts that have the program. */
  arbiters?: Readonly<Record<string, ReachAnswer>>;
}

/** A finding; what to do is dropped where nothing has to be done. */
export function finding(id: string, verdict: Verdict, found: string, needed: string, mend: string): Finding {
  return { id, verdict, found, needed, mend: verdict === 'pass' ? '' : mend };
}

/**
 * All points, in the order of the configuration: of each pair first its hosts, then its domains.
 *
 * @param guests by domain
 * @param hosts by name in the configuration
 */
export function check(
  pairs: readonly Pair[],
  layouts: readonly DomainLayout[],
  guests: Readonly<Record<string, GuestReading>>,
  hosts: Readonly<Record<string, HostReading>>,
  measurements: Measurements,
): CheckResult[] {
  const results: CheckResult[] = [];
  for (const pair of pairs) {
    const ours = layouts.filter((layout) => layout.pair.name === pair.name);
    const add = (findings: Finding[], host?: string, domain?: string): void => {
      const place = { ...(host === undefined ? {} : { host }), ...(domain === undefined ? {} : { domain }) };
      for (const one of findings) results.push({ pair: pair.name, ...place, ...one });
    };

    const reached: HostFacts[] = [];
    for (const host of pair.hosts) {
      const reading = hosts[host.name];
      add([reachableFinding(reading)], host.name);
      if (reading?.reached !== true) continue;
      const { facts } = reading;
      add([rootFinding(facts)], host.name);
      // Most of what an ordinary user sees of a host is that it may not look.
      if (facts.uid !== 0) continue;
      reached.push(facts);
      const layoutsHere = layoutsOfHost(ours, host.name);
      add(hostFindings(facts, layoutsHere), host.name);
      add(guestMemoryFindings(facts, layoutsHere, guests), host.name);
      const peer = pair.hosts.find((other) => other.name !== host.name);
      const peerReading = peer && hosts[peer.name];
      add(
        replicationAddressFindings(host, facts, peerReading?.reached ? peerReading.facts : undefined),
        host.name,
      );
      const arbiter = measurements.arbiters?.[host.name];
      if (arbiter) add([arbiterReachFinding(pair.arbiter, arbiter, facts)], host.name);
      const clock = measurements.clocks[host.name];
      if (clock) add(clockFindings(clock, facts), host.name);
      for (const layout of layoutsHere) add(storageFindings(layout, facts), host.name, layout.domain.name);
    }

    add([...pairFindings(pair, reached), ...clocksFitFindings(pair.hosts, measurements.clocks)]);
    for (const link of measurements.links) {
      if (pair.hosts.some((host) => host.name === link.from)) add(linkFindings(link, ours), link.from);
    }
    for (const layout of ours) {
      const { name } = layout.domain;
      add(storagePairFindings(layout, reached), undefined, name);
      for (const { host, ...one } of guestFindings(layout, guests[name], reached)) add([one], host, name);
    }
  }
  return results;
}

function reachableFinding(reading: HostReading | undefined): Finding {
  if (reading?.reached === true) return finding('reachable', 'pass', 'it answers', 'an answer over SSH', '');
  return finding(
    'reachable',
    'fail',
    reading?.reason ?? 'it was not asked',
    'an answer over SSH that is understood',
    'mend what the reason says; nothing else on this host was checked',
  );
}

function rootFinding(facts: HostFacts): Finding {
  return finding(
    'root',
    facts.uid === 0 ? 'pass' : 'fail',
    `the user has uid ${facts.uid}`,
    "uid 0, since Xen, LVM and DRBD are root's",
    'connect as root ("ssh: root@HOST" in the configuration); nothing else on this host was checked',
  );
}

/** What `check` exits with: warnings are no failure. */
export function checkExitCode(
  results: readonly CheckResult[],
  hosts: Readonly<Record<string, HostReading>>,
): ExitCode {
  const unreachable = Object.values(hosts).some((host) => !host.reached && host.cause === 'unreachable');
  if (unreachable) return ExitCode.unreachable;
  return results.some((result) => result.verdict === 'fail') ? ExitCode.failed : ExitCode.ok;
}
