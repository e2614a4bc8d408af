/** The points of `check` that are about the link between two hosts, and about their clocks. */
import { isIPv6 } from 'node:net';
import { type ClockMeasurement, finding, type Finding, type LinkMeasurement } from './check.js';
import type { HostFacts } from './facts.js';
import type { DomainLayout, HostConfig } from './model.js';
import { formatDuration } from './units.js';

/** Half of what a gigabit link carries; checkpoints of a busy guest need more than that. */
const THROUGHPUT_MIN_BYTES_PER_SECOND = 50 * 2 ** 20;
/** Logs of two hosts that differ by more can't be put in order. */
const CLOCK_WARN_MS = 1_000;
/** A certificate that was just made on one host is not valid yet on a host that is so far behind. */
const CLOCK_FAIL_MS = 300_000;

export function replicationAddressFindings(
  config: HostConfig,
  facts: HostFacts,
  peer: HostFacts | undefined,
): Finding[] {
  const id = 'replication-address';
  const { replication } = config;
  const needed = `${replication} on an interface that is up`;
  if (!facts.addresses.known) {
    return [finding(id, 'fail', `ip: ${facts.addresses.reason}`, needed, 'apt install iproute2')];
  }
  const own = facts.addresses.value.find((entry) => sameAddress(entry.address, replication));
  if (own) {
    return [
      finding(
        id,
        own.up ? 'pass' : 'fail',
        `${replication} on ${own.interface}${own.up ? '' : ', which is down'}`,
        needed,
        `ip link set ${own.interface} up, and in the configuration of the network`,
      ),
    ];
  }
  const elsewhere =
    peer?.addresses.known === true &&
    peer.addresses.value.some((entry) => sameAddress(entry.address, replication));
  return [
    finding(
      id,
      'fail',
      elsewhere && peer ? `it has no ${replication}; ${peer.host} has it` : `it has no ${replication}`,
      needed,
      elsewhere
        ? 'the replication addresses of the two hosts are exchanged in the configuration, or their ssh addresses are'
        : 'give the host that address, or correct "replication" in the configuration',
    ),
  ];
}

/** IPv6 addresses have many spellings. */
export function sameAddress(a: string, b: string): boolean {
  return canonical(a) === canonical(b);
}

function canonical(address: string): string {
  return isIPv6(address) && !address.includes('%') ? new URL(`http://[${address}]`).hostname : address;
}

/** Both directions are measured, since a firewall or a route can be wrong in one of them only. */
export function linkFindings(link: LinkMeasurement, layouts: readonly DomainLayout[]): Finding[] {
  return [roundTripFinding(link, layouts), throughputFinding(link)];
}

function roundTripFinding({ from, to, ping }: LinkMeasurement, layouts: readonly DomainLayout[]): Finding {
  const id = 'round-trip';
  const intervalMs = Math.min(...layouts.map((layout) => layout.domain.checkpoint.intervalMs));
  const bounded = Number.isFinite(intervalMs);
  const needed = `an answer from ${to}${bounded ? ` in less than the checkpoint interval (${formatDuration(intervalMs)})` : ''}`;
  const look = `look at cabling, routes and firewall between the replication addresses of ${from} and ${to}`;
  if (!ping.measured) return finding(id, 'fail', `${to} was not reached: ${ping.reason}`, needed, look);
  const { sent, received, averageMs } = ping.summary;
  if (received === 0 || averageMs === undefined) {
    return finding(id, 'fail', `${to} answered none of ${sent} pings`, needed, look);
  }
  const found = `${to} answers in ${averageMs.toFixed(averageMs < 10 ? 2 : 0)} ms`;
  if (received < sent)
    return finding(id, 'warn', `${found}, but only ${received} of ${sent} times`, needed, look);
  if (bounded && averageMs >= intervalMs) {
    return finding(id, 'warn', found, needed, 'take a faster link, or a longer checkpoint interval');
  }
  return finding(id, 'pass', found, needed, '');
}

function throughputFinding({ from, to, throughput }: LinkMeasurement): Finding {
  const id = 'throughput';
  const rate = (bytesPerSecond: number): string =>
    `${(bytesPerSecond / 2 ** 20).toFixed(bytesPerSecond < 2 ** 23 ? 1 : 0)} MiB/s`;
  const needed = `${rate(THROUGHPUT_MIN_BYTES_PER_SECOND)} to ${to} (half of a gigabit link)`;
  if (!throughput.measured && throughput.blockedPort !== undefined) {
    return finding(
      id,
      'fail',
      `TCP port ${throughput.blockedPort} of ${to} was not reached: ${throughput.reason}`,
      needed,
      `open the TCP ports of all domains ("port" and "linkPort") between the replication addresses in the firewall`,
    );
  }
  if (!throughput.measured) {
    return finding(
      id,
      'warn',
      `not measured: ${throughput.reason}`,
      needed,
      `measure it by hand between ${from} and ${to}`,
    );
  }
  return finding(
    id,
    throughput.bytesPerSecond >= THROUGHPUT_MIN_BYTES_PER_SECOND ? 'pass' : 'warn',
    `${rate(throughput.bytesPerSecond)} to ${to}`,
    needed,
    'take a faster link: what a guest changes between two checkpoints has to get through it',
  );
}

/** The clock of a host against the controller's; that the controller's is the wrong one is possible too. */
export function clockFindings({ offsetMs, uncertaintyMs }: ClockMeasurement, facts: HostFacts): Finding[] {
  return [
    finding(
      'clock',
      surely(offsetMs, uncertaintyMs) >= CLOCK_WARN_MS ? 'warn' : 'pass',
      `${spell(Math.abs(offsetMs))} ${offsetMs < 0 ? 'behind' : 'ahead of'} this machine (to within ${spell(uncertaintyMs)})`,
      `less than ${formatDuration(CLOCK_WARN_MS)}`,
      `set the clock of ${facts.host} or of this machine and keep both right (chrony)`,
    ),
  ];
}

/** The clocks of the two hosts against each other. */
export function clocksFitFindings(
  [a, b]: readonly [HostConfig, HostConfig],
  clocks: Readonly<Record<string, ClockMeasurement>>,
): Finding[] {
  const [left, right] = [clocks[a.name], clocks[b.name]];
  if (!left || !right) return [];
  const differenceMs = left.offsetMs - right.offsetMs;
  const uncertaintyMs = left.uncertaintyMs + right.uncertaintyMs;
  const sureMs = surely(differenceMs, uncertaintyMs);
  const [ahead, behind] = differenceMs < 0 ? [b.name, a.name] : [a.name, b.name];
  return [
    finding(
      'clocks-fit',
      sureMs >= CLOCK_FAIL_MS ? 'fail' : sureMs >= CLOCK_WARN_MS ? 'warn' : 'pass',
      `${ahead} is ${spell(Math.abs(differenceMs))} ahead of ${behind} (to within ${spell(uncertaintyMs)})`,
      `less than ${formatDuration(CLOCK_WARN_MS)}; from ${formatDuration(CLOCK_FAIL_MS)} on a new certificate of one host is refused by the other`,
      'set the clock that is wrong and keep both right (chrony)',
    ),
  ];
}

/** What the measurement can't tell apart is in the hosts' favour. */
function surely(differenceMs: number, uncertaintyMs: number): number {
  return Math.max(0, Math.abs(differenceMs) - uncertaintyMs);
}

function spell(ms: number): string {
  return ms < 10_000 ? `${Math.round(ms)} ms` : `${Math.round(ms / 1000)} s`;
}
