/**
 * The points of `check` that are about a guest: its configuration, what the hypervisor can do for its type,
 * its files on both hosts, memory, CPUs, and who else starts it.
 */
import { finding, type Finding, type GuestFacts, type GuestReading } from './check.js';
import { DOM0_AVAILABLE_MIN_BYTES, mebibytes } from './check-host.js';
import type { HostFacts, XenFacts } from './facts.js';
import type { CpuPlace } from './parse/vcpu.js';
import { sharedCores } from './pin.js';
import type { DomainLayout } from './model.js';

/**
 * What Xen needs for a guest beyond its memory: 1 MiB for each vCPU and 8 KiB for each MiB, for its page
 * tables (libxl_get_required_shadow_memory), and a little for its own structures.
 */
const OVERHEAD_FIXED_MIB = 8;
const OVERHEAD_PER_VCPU_MIB = 1;
const OVERHEAD_PER_MIB = 8 / 1024;

export interface GuestFinding extends Finding {
  /** Absent for what is about both hosts. */
  host?: string;
}

/** Memory that a guest takes on a host; in bytes. */
export function guestMemoryBytes({ maxMemoryMiB, vcpus }: GuestFacts): number {
  const mib =
    maxMemoryMiB +
    OVERHEAD_FIXED_MIB +
    OVERHEAD_PER_VCPU_MIB * vcpus +
    Math.ceil(OVERHEAD_PER_MIB * maxMemoryMiB);
  return mib * 2 ** 20;
}

/** A guest's copy has this name while it arrives (libxl's migrate-receive). */
function isThere(facts: HostFacts, domain: string): boolean {
  return (
    facts.guests.known &&
    facts.guests.value.some((guest) => guest.name === domain || guest.name === `${domain}--incoming`)
  );
}

/** Whether a host has memory for all guests of its pair together that it doesn't hold yet. */
export function guestMemoryFindings(
  facts: HostFacts,
  layouts: readonly DomainLayout[],
  guests: Readonly<Record<string, GuestReading>>,
): Finding[] {
  if (!facts.xen.known || !facts.guests.known) return [];
  const missing = layouts.flatMap(({ domain }) => {
    const reading = guests[domain.name];
    if (reading?.readable !== true || isThere(facts, domain.name)) return [];
    return [{ name: domain.name, bytes: guestMemoryBytes(reading.guest) }];
  });
  const neededBytes = missing.reduce((sum, guest) => sum + guest.bytes, 0);
  const { freeMemoryBytes, commandLine = '' } = facts.xen.value;
  const names = missing.map((guest) => guest.name).join(', ');
  // With `dom0_mem` xl leaves dom0 alone; without it xl takes what dom0 has over (xl.conf(5), autoballoon).
  const fromDom0Bytes = /(^|\s)dom0_mem=/.test(commandLine)
    ? 0
    : Math.max(0, facts.memory.availableBytes - DOM0_AVAILABLE_MIN_BYTES);
  const enough = neededBytes <= freeMemoryBytes;
  const enoughWithDom0 = neededBytes <= freeMemoryBytes + fromDom0Bytes;
  return [
    finding(
      'memory',
      enough ? 'pass' : enoughWithDom0 ? 'warn' : 'fail',
      `${mebibytes(freeMemoryBytes)} free in Xen${!enough && enoughWithDom0 ? ', the rest would have to come from dom0' : ''}`,
      missing.length === 0
        ? 'none: it holds all guests of the pair already'
        : `${mebibytes(neededBytes)} for ${names} (memory, and what Xen needs beside it)`,
      "free memory in Xen: give dom0 a fixed, smaller amount (dom0_mem on Xen's command line), or move other guests away",
    ),
  ];
}

/** @param reached the hosts that could be looked at */
export function guestFindings(
  layout: DomainLayout,
  reading: GuestReading | undefined,
  reached: readonly HostFacts[],
): GuestFinding[] {
  const { domain } = layout;
  const findings: GuestFinding[] = [
    ...runningFindings(layout, reached),
    ...autostartFindings(layout, reached),
  ];
  if (reading?.readable !== true) {
    const reason = reading?.reason ?? 'it was not read';
    findings.unshift(
      finding(
        'guest-configuration',
        'fail',
        reason,
        `an xl configuration in ${domain.configFile}`,
        'mend the file, or name another one with "config"; the guest itself was not checked',
      ),
    );
    return findings;
  }
  const { guest } = reading;
  findings.unshift(
    finding('guest-configuration', 'pass', domain.configFile, 'an xl configuration that can be read', ''),
    finding(
      'guest-name',
      guest.name === domain.name ? 'pass' : 'fail',
      `name = "${guest.name}" in ${domain.configFile}`,
      `"${domain.name}", as the domain is called in the configuration`,
      `write name = "${domain.name}" there, or call the domain "${guest.name}"`,
    ),
    hostDevicesFinding(guest),
  );
  for (const facts of reached) {
    const here = (one: Finding): void => {
      findings.push({ ...one, host: facts.host });
    };
    if (facts.xen.known) {
      here(typeFinding(guest, facts.xen.value));
      if (domain.pin) here(pinCountFinding(domain.pin, facts.xen.value));
      else if (facts.xen.value.cpus > 1) here(notPinnedFinding(facts.xen.value));
    }
    if (domain.pin && facts.topology !== undefined) here(pinCoresFinding(domain.pin, facts.topology));
  }
  for (const file of [guest.kernel, guest.ramdisk]) {
    if (file !== undefined)
      findings.push(...fileFindings(file, file === guest.kernel ? 'kernel' : 'ramdisk', reached));
  }
  if (domain.pin) findings.push(pinSharedFinding(domain.pin));
  return findings;
}

function hostDevicesFinding({ hostDevices = [] }: GuestFacts): Finding {
  return finding(
    'guest-devices',
    hostDevices.length === 0 ? 'pass' : 'fail',
    hostDevices.length === 0 ? 'no devices of the host' : `devices of the host: ${hostDevices.join(', ')}`,
    "none: they stay behind when the guest's other copy goes on",
    `take ${hostDevices.join(', ')} out of the guest's configuration`,
  );
}

function typeFinding(guest: GuestFacts, xen: XenFacts): Finding {
  const id = 'guest-type';
  const can = `this Xen has ${xen.capabilities.join(' ') || 'no capabilities'}`;
  if (guest.type === 'pv') {
    return finding(
      id,
      xen.capabilities.includes('shadow') ? 'pass' : 'fail',
      `a PV guest; ${can}`,
      'shadow paging, without which the memory that a PV guest changes can\'t be followed ("shadow" in virt_caps of xl info)',
      'make it a PVH guest: type = "pvh" (Debian\'s hypervisor is built without shadow paging, and a PV guest can\'t be protected on it)',
    );
  }
  const missing = ['hvm', 'hap'].filter((word) => !xen.capabilities.includes(word));
  return finding(
    id,
    missing.length === 0 ? 'pass' : 'fail',
    `a ${guest.type.toUpperCase()} guest; ${can}`,
    'hardware virtualisation with nested paging ("hvm" and "hap" in virt_caps of xl info)',
    "switch on virtualisation (VT-x with EPT, or AMD-V with NPT) in the host's firmware",
  );
}

function fileFindings(
  file: string,
  what: 'kernel' | 'ramdisk',
  reached: readonly HostFacts[],
): GuestFinding[] {
  const id = `guest-${what}`;
  const needed = `the guest's ${what} ${file}, the same on both hosts`;
  const found: GuestFinding[] = [];
  const digests = new Set<string>();
  for (const facts of reached) {
    const read = facts.guestFiles[file];
    if (read?.known === true) {
      digests.add(read.value);
      found.push({ host: facts.host, ...finding(id, 'pass', `${file} can be read`, needed, '') });
    } else {
      const reason = read?.reason ?? 'it was not looked for';
      found.push({
        host: facts.host,
        ...finding(
          id,
          'fail',
          `${file} can't be read: ${reason}`,
          needed,
          `copy ${file} from the other host`,
        ),
      });
    }
  }
  if (digests.size > 1) {
    found.push(
      finding(
        id,
        'warn',
        `${file} differs between the hosts`,
        needed,
        `copy it from one to the other: a guest that reboots on the other host would boot another ${what}`,
      ),
    );
  }
  return found;
}

type Pin = NonNullable<DomainLayout['domain']['pin']>;

function pinCountFinding(pin: Pin, xen: XenFacts): Finding {
  const beyond = [...new Set([...pin.dom0, ...pin.guest])].filter((cpu) => cpu >= xen.cpus);
  return finding(
    'pin-cpus',
    beyond.length === 0 ? 'pass' : 'fail',
    `CPUs 0 to ${xen.cpus - 1}`,
    `CPUs ${[...new Set([...pin.dom0, ...pin.guest])].sort((a, b) => a - b).join(', ')}, which "pin" names`,
    `take ${beyond.join(', ')} out of "pin"`,
  );
}

function pinSharedFinding(pin: Pin): Finding {
  const shared = pin.dom0.filter((cpu) => pin.guest.includes(cpu));
  return finding(
    'pin-shared',
    shared.length === 0 ? 'pass' : 'warn',
    shared.length === 0
      ? 'dom0 and the guest have CPUs of their own'
      : `dom0 and the guest share CPU ${shared.join(', ')}`,
    'CPUs of their own, so that a busy guest does not delay its own checkpoints and heartbeats',
    'give them different CPUs in "pin"',
  );
}

function pinCoresFinding(pin: Pin, topology: ReadonlyMap<number, CpuPlace>): Finding {
  const shared = sharedCores(pin, topology);
  return finding(
    'pin-cores',
    shared.length === 0 ? 'pass' : 'warn',
    shared.length === 0 ? 'dom0 and the guest have cores of their own' : shared.join('; '),
    'cores of their own: two threads of one core slow each other down',
    'give them CPUs of different cores in "pin"; "xl info -n" shows which are',
  );
}

/** Xen lets what isn't pinned run anywhere, so dom0 and the guest take turns on every CPU. */
function notPinnedFinding(xen: XenFacts): Finding {
  return finding(
    'pin-shared',
    'warn',
    `dom0 and the guest share all ${xen.cpus} CPUs, as nothing is pinned`,
    'CPUs of their own, so that a busy guest does not delay its own checkpoints and heartbeats',
    'give them different CPUs with "pin", such as pin: { dom0: [0], guest: [1] }',
  );
}

function runningFindings(layout: DomainLayout, reached: readonly HostFacts[]): Finding[] {
  const { name, primary } = layout.domain;
  const running = reached.filter(
    (facts) => facts.guests.known && facts.guests.value.some((guest) => guest.name === name),
  );
  const hosts = running.map((facts) => facts.host);
  const needed = `the guest on ${primary}, or not running`;
  if (hosts.length > 1) {
    return [
      finding(
        'guest-running',
        'fail',
        `${name} runs on ${hosts.join(' and on ')}`,
        needed,
        'destroy the copy that is not the right one (xl destroy) before anything else: both write',
      ),
    ];
  }
  const [host] = hosts;
  return [
    finding(
      'guest-running',
      host === undefined || host === primary ? 'pass' : 'warn',
      host === undefined ? 'it runs on no host that was reached' : `it runs on ${host}`,
      needed,
      `write "primary: ${host}" in the configuration, or move the guest to ${primary}`,
    ),
  ];
}

/** xendomains starts what is in /etc/xen/auto at boot, whatever the other host is doing. */
function autostartFindings(layout: DomainLayout, reached: readonly HostFacts[]): GuestFinding[] {
  const { name } = layout.domain;
  const starting = reached.flatMap((facts) => {
    const file = Object.entries(facts.autostart).find(([, guest]) => guest === name)?.[0];
    return file === undefined ? [] : [{ host: facts.host, file }];
  });
  const needed = 'no copy that xendomains starts at boot: after a failover the guest runs on the other host';
  if (starting.length === 0)
    return [finding('autostart', 'pass', 'in /etc/xen/auto of neither host', needed, '')];
  return starting.map(({ host, file }) => ({
    host,
    ...finding(
      'autostart',
      starting.length > 1 ? 'fail' : 'warn',
      starting.length > 1 ? `${file} starts it at boot, on both hosts` : `${file} starts it at boot`,
      needed,
      `remove ${file}`,
    ),
  }));
}
