/**
 * What the inputs of `import` come to together: the pairs, their hosts and their domains, as far as it is
 * known. A guest is joined with the DRBD resources that its disks name; a resource that no guest names is a
 * domain by itself. What isn't known is a question, never a guess.
 */

import { PORT_MIN } from '../names.js';
import { NAME, parseReplicationAddress } from '../patterns.js';
import { show } from '../units.js';
import type { DrbdFile, DrbdResource } from './drbd.js';
import type { GuestFile } from './guest.js';
import { planDisks } from './plan-disks.js';
import type { DiskPlan } from './plan-disks.js';

/** A value, or what has to be asked for it. */
export type Answer<T> = { value: T; remark?: string } | { question: string };

export interface HostPlan {
  /** Absent where no input names it. */
  name?: string;
  nameQuestion?: string;
  replication: Answer<string>;
}

export interface DomainPlan {
  /** Absent where the guest's configuration doesn't say it. */
  name?: string;
  nameQuestion?: string;
  guest?: GuestFile;
  primary: Answer<string>;
  port: Answer<number>;
  /** Some input has protocol D, with this minor for its first disk. */
  protocolD?: { minor?: number };
  disks: DiskPlan[];
  /** Some disks of the old file would have to be computed. */
  disksUnread: boolean;
  remarks: string[];
}

export interface PairPlan {
  name: string;
  hosts: [HostPlan, HostPlan];
  domains: DomainPlan[];
  questions: string[];
}

/** The first port that is taken where the inputs have none. */
const PORT_FIRST = 7790;

/** Joins what was read. Notes in the ledgers what became of the lines that only now can be told. */
export function planPairs(guests: readonly GuestFile[], files: readonly DrbdFile[]): PairPlan[] {
  const resources = distinctResources(files);
  const used = new Set<DrbdResource>();
  const pending: { domain: DomainPlan; own: DrbdResource[]; remus?: string }[] = [];
  for (const guest of guests) {
    const { disks, own } = planDisks(guest, resources);
    for (const resource of own) used.add(resource);
    const remus = guest.disks.find(({ disk }) => disk.remus !== undefined)?.disk.remus;
    const domain = planDomain(guest.name, disks, own, remus?.port);
    domain.guest = guest;
    domain.disksUnread = guest.disksUnread;
    domain.remarks.push(...guest.remarks);
    pending.push({ domain, own, ...(remus === undefined ? {} : { remus: remus.host }) });
  }
  for (const resource of resources.all) {
    if (used.has(resource)) continue;
    const { disks } = planDisks(resource, resources);
    pending.push({ domain: planDomain(resource.name, disks, [resource], undefined), own: [resource] });
  }
  nameTwice(pending.map(({ domain }) => domain));
  const pairs = assignPairs(pending);
  for (const pair of pairs) {
    for (const { domain, own } of pending) {
      if (pair.domains.includes(domain)) noteQuestions(pair, domain, own, resources);
    }
  }
  return pairs;
}

function nameTwice(domains: readonly DomainPlan[]): void {
  const names = new Set<string>();
  for (const domain of domains) {
    const { name } = domain;
    if (name === undefined) continue;
    if (names.has(name))
      domain.nameQuestion ??= `${show(name)} is there twice: which of the two, or what is this one called?`;
    names.add(name);
  }
}

/** What came of the addresses is known only now. */
function noteQuestions(
  pair: PairPlan,
  domain: DomainPlan,
  own: readonly DrbdResource[],
  resources: Resources,
): void {
  for (const resource of own) {
    for (const { name, address } of resource.hosts) {
      if (address === undefined) continue;
      const ask = (question: string): void => {
        resources.ledgerOf(resource)?.note(address.line, address.line, 'question', question);
      };
      const host = pair.hosts.find((one) => name !== undefined && one.name === name);
      if (host !== undefined && 'question' in host.replication) ask('which address?');
      if (resource === own[0] && 'question' in domain.port) ask('which port?');
    }
  }
}

export interface Resources {
  all: DrbdResource[];
  ledgerOf: (resource: DrbdResource) => DrbdFile['ledger'] | undefined;
}

/** The same resource in several files (those of both hosts) counts once. */
function distinctResources(files: readonly DrbdFile[]): Resources {
  const common = files.find(({ commonProtocol }) => commonProtocol !== undefined)?.commonProtocol;
  const all: DrbdResource[] = [];
  for (const { resources, ledger } of files) {
    for (const resource of resources) {
      const same = all.find(({ name }) => name === resource.name);
      if (same !== undefined) {
        const where = `the first one counts (${show(same.file)}, line ${same.line})`;
        ledger.note(
          resource.line,
          resource.line,
          'not-needed',
          `a resource of this name is there already: ${where}`,
        );
        continue;
      }
      all.push({
        ...resource,
        ...(resource.protocol === undefined && common !== undefined ? { protocol: common } : {}),
      });
    }
  }
  const byFile = new Map(files.map((file) => [file.file, file.ledger]));
  return { all, ledgerOf: (resource) => byFile.get(resource.file) };
}

function planDomain(
  name: string | undefined,
  disks: DiskPlan[],
  own: readonly DrbdResource[],
  remusPort: number | undefined,
): DomainPlan {
  const withD = own.find(({ protocol }) => protocol === 'D');
  const minor = withD?.hosts[0]?.volumes[0]?.minor;
  return {
    ...(name === undefined ? {} : { name }),
    ...nameQuestion(name),
    primary: { question: '' },
    port: planPort(own, remusPort),
    ...(withD === undefined ? {} : { protocolD: minor === undefined ? {} : { minor } }),
    disks,
    disksUnread: false,
    remarks:
      own.length > 1
        ? [`the resources ${own.map((one) => one.name).join(', ')} become one, with a volume for each`]
        : [],
  };
}

function nameQuestion(name: string | undefined): { nameQuestion?: string } {
  if (name === undefined)
    return { nameQuestion: 'what is the guest called? Write its name here and in its configuration' };
  if (NAME.test(name)) return {};
  return {
    nameQuestion: `${show(name)} can't be the name of a domain: give it another one here and in its configuration`,
  };
}

function planPort(own: readonly DrbdResource[], remusPort: number | undefined): Answer<number> {
  const ports = [
    ...new Set(own[0]?.hosts.flatMap(({ address }) => (address === undefined ? [] : [address.port]))),
  ];
  const [port] = ports;
  if (ports.length > 1)
    return { question: `the hosts have the ports ${ports.join(' and ')}: which one, the same on both?` };
  const found = port ?? remusPort;
  if (found === undefined) return { question: '' };
  if (found < PORT_MIN)
    return { question: `${found} is a port of system services: which one from ${PORT_MIN} on?` };
  return { value: found };
}

// --- Pairs ------------------------------------------------------------------------------------------------

type Pending = { domain: DomainPlan; own: DrbdResource[]; remus?: string };

function assignPairs(pending: readonly Pending[]): PairPlan[] {
  const pairs = new Map<string, PairPlan>();
  for (const { domain, own } of pending) {
    const [resource, ...others] = own;
    if (resource === undefined) continue;
    const key = pairKey(resource);
    let pair = pairs.get(key);
    if (pair === undefined) {
      pair = newPair(resource, pairs.size);
      pairs.set(key, pair);
    }
    pair.domains.push(domain);
    const elsewhere = others.find((other) => pairKey(other) !== key);
    if (elsewhere !== undefined) {
      pair.questions.push(
        `${domain.name ?? 'a guest'} has disks on other hosts as well (resource ${elsewhere.name}): all of them have to be on one pair of hosts`,
      );
    }
    for (const one of own) compareAddresses(pair, one);
  }
  const known = [...pairs.values()];
  for (const { domain, own, remus } of pending) {
    if (own.length > 0) continue;
    const named = known.find(({ hosts }) => hosts.some((host) => remus !== undefined && isHost(host, remus)));
    const only = known.length === 1 && remus === undefined ? known[0] : undefined;
    const key = `unknown ${remus ?? ''}`;
    let pair = named ?? only ?? pairs.get(key);
    if (pair === undefined) {
      pair = unknownPair(remus, pairs.size);
      pairs.set(key, pair);
    }
    if (only !== undefined)
      domain.remarks.push('no input says which hosts it is on; these are the only ones that were named');
    pair.domains.push(domain);
  }
  const all = [...pairs.values()];
  for (const { domain, remus } of pending) {
    const pair = all.find(({ domains }) => domains.includes(domain));
    if (pair !== undefined) domain.primary = planPrimary(pair, remus);
  }
  nameApart(all);
  hostsInTwoPairs(all);
  choosePorts(all);
  return all;
}

function pairKey({ hosts }: DrbdResource): string {
  return hosts
    .map(({ name, address }) => name ?? address?.address ?? '?')
    .sort()
    .join(' ');
}

function newPair(resource: DrbdResource, index: number): PairPlan {
  const [first, second, third] = resource.hosts;
  const names = resource.hosts.slice(0, 2).map(({ name }) => name ?? '');
  const joined = names.join('-');
  const questions: string[] = [];
  if (third !== undefined) {
    const found = resource.hosts.map(({ name }) => name ?? 'a host without a name').join(', ');
    questions.push(`the resource ${resource.name} has more than two hosts (${found}): which two?`);
  }
  const host = (found: typeof first): HostPlan => {
    const { name, address } = found ?? {};
    return {
      ...(name === undefined
        ? {
            nameQuestion: `how is ${address === undefined ? 'this host' : `the host with ${address.address}`} called ("uname -n" on it)? Write it in place of the "?"`,
          }
        : { name }),
      replication: planReplication(address?.address, name),
    };
  };
  return {
    name:
      names.length === 2 && NAME.test(joined) && !joined.startsWith('-') && !joined.endsWith('-')
        ? joined
        : `pair${index + 1}`,
    hosts: [host(first), host(second)],
    domains: [],
    questions,
  };
}

function planReplication(address: string | undefined, host: string | undefined): Answer<string> {
  const ask = `the address of ${host ?? 'this host'} that DRBD and the checkpoints go over`;
  if (address === undefined) return { question: ask };
  const parsed = parseReplicationAddress(address);
  return 'problem' in parsed ? { question: `${ask}; ${parsed.problem}` } : { value: parsed.value };
}

/** A host has one address here; DRBD's resources can each have their own. */
function compareAddresses(pair: PairPlan, resource: DrbdResource): void {
  for (const { name, address } of resource.hosts) {
    const host = pair.hosts.find((one) => name !== undefined && one.name === name);
    if (host === undefined || address === undefined || !('value' in host.replication)) continue;
    const parsed = parseReplicationAddress(address.address);
    if ('value' in parsed && parsed.value !== host.replication.value) {
      host.replication = {
        question: `${host.name} has ${host.replication.value} and ${parsed.value} (resource ${resource.name}): which one for all its guests?`,
      };
    }
  }
}

function isHost(host: HostPlan, named: string): boolean {
  const short = (text: string): string => text.replace(/\..*$/, '');
  if ('value' in host.replication && host.replication.value === named) return true;
  return (
    host.name !== undefined &&
    (host.name === named || (/[a-z]/i.test(named) && short(host.name) === short(named)))
  );
}

/** The hosts of a guest that only blktap2 replicated, or nothing did. */
function unknownPair(remus: string | undefined, index: number): PairPlan {
  const byAddress = remus !== undefined && /^[0-9.]+$|:/.test(remus);
  const ask = 'called ("uname -n" on it)? Write it in place of the "?"';
  const backup: HostPlan =
    remus === undefined
      ? { nameQuestion: `how is the other host ${ask}`, replication: planReplication(undefined, undefined) }
      : byAddress
        ? {
            nameQuestion: `how is the backup with ${remus} ${ask}`,
            replication: planReplication(remus, undefined),
          }
        : { name: remus, replication: planReplication(undefined, remus) };
  return {
    name: `pair${index + 1}`,
    hosts: [
      {
        nameQuestion: `how is the host that the guest runs on ${ask}`,
        replication: planReplication(undefined, undefined),
      },
      backup,
    ],
    domains: [],
    questions: [],
  };
}

function planPrimary(pair: PairPlan, remus: string | undefined): Answer<string> {
  const backup = remus === undefined ? undefined : pair.hosts.find((host) => isHost(host, remus));
  const other = backup === undefined ? undefined : pair.hosts.find((host) => host !== backup);
  if (other?.name !== undefined) return { value: other.name, remark: 'blktap2 replicated to the other one' };
  const names = pair.hosts.flatMap(({ name }) => name ?? []);
  const which =
    names.length === 2
      ? `which host does it run on, ${names.join(' or ')}?`
      : 'which of the two hosts does it run on?';
  return { question: `${which} Its disks are copied from there` };
}

/** Two pairs can come to the same name; a file can't have one twice. */
function nameApart(pairs: readonly PairPlan[]): void {
  const names = new Set<string>();
  for (const pair of pairs) {
    const { name } = pair;
    for (let count = 2; names.has(pair.name); count++) pair.name = `${name}-${count}`;
    names.add(pair.name);
  }
}

function hostsInTwoPairs(pairs: readonly PairPlan[]): void {
  const first = new Map<string, string>();
  for (const pair of pairs) {
    for (const { name } of pair.hosts) {
      if (name === undefined) continue;
      const before = first.get(name);
      if (before === undefined) first.set(name, pair.name);
      else
        pair.questions.push(`${name} is in ${before} too, and a host belongs to one pair: which of the two?`);
    }
  }
}

/** A port is free to choose, so it is no question; `check` tells if something listens on it. */
function choosePorts(pairs: readonly PairPlan[]): void {
  const domains = pairs.flatMap((pair) => pair.domains);
  const taken = new Set<number>();
  const take = (port: number): void => {
    // The receiver listens 1000 above.
    taken
      .add(port)
      .add(port + 1000)
      .add(port - 1000);
  };
  for (const { port } of domains) if ('value' in port) take(port.value);
  let next = PORT_FIRST;
  for (const domain of domains) {
    if (!('question' in domain.port) || domain.port.question !== '') continue;
    while (taken.has(next)) next += 1;
    take(next);
    domain.port = { value: next, remark: 'chosen: any that is free on both hosts will do' };
  }
}
