/**
 * What clashes across the whole of pair.yaml: each value is fine by itself, but two of them can't be on one
 * host. It looks at whatever parts of the file could be read, so that all problems are told at once.
 */

import { Defaults } from './config-schema.js';
import { BARRIER_VOLUME, journalName, metaName, volumeName, VOLUMES_PER_DOMAIN } from './names.js';
import type { Domain, HostConfig } from './model.js';
import { lvmMapperLength, MAPPER_NAME_MAX } from './patterns.js';
import type { Path, YamlSource } from './yaml-source.js';

/** What could be read of a pair. */
export interface PairFacts {
  path: Path;
  hosts: HostConfig[];
  domains: Domain[];
}

/** Adds a problem to the source for each clash. */
export function findClashes(source: YamlSource, pairs: readonly PairFacts[]): void {
  hostClashes(source, pairs);
  const names = new Claims(source);
  for (const pair of pairs) {
    for (const domain of pair.domains) {
      names.claim(domain.name, pathOf(pair, domain), `domain ${domain.name}`, 'key');
    }
    portClashes(source, pair);
    volumeClashes(source, pair);
    minorClashes(source, pair);
    pinClashes(source, pair);
    engineClashes(source, pair);
  }
}

/**
 * A host belongs to one pair. Pairs are worked on side by side, each as the only one that changes its
 * hosts, and a host under two names would hide clashes of ports, minors and volumes.
 */
function hostClashes(source: YamlSource, pairs: readonly PairFacts[]): void {
  const why = '; a host belongs to one pair, once';
  const claims = new Claims(source, why);
  for (const pair of pairs) {
    for (const { name, ssh, replication } of pair.hosts) {
      const path = [...pair.path, 'hosts', name];
      claims.claim(`name ${name}`, path, `host ${name}`, 'key');
      // Two ports of one address can be two machines behind it.
      claims.claim(`ssh ${ssh.host} ${ssh.port}`, [...path, 'ssh'], `${ssh.host} port ${ssh.port}`);
      claims.claim(`replication ${replication}`, [...path, 'replication'], replication);
    }
  }
}

/** Both hosts of a pair have every port of every domain, as the domains' parts can swap. */
function portClashes(source: YamlSource, pair: PairFacts): void {
  const claims = new Claims(source);
  for (const domain of pair.domains) {
    const path = pathOf(pair, domain);
    const free = claims.claim(String(domain.port), [...path, 'port'], `port ${domain.port}`);
    // What follows from a port that clashes need not be told, too.
    if (!free && domain.linkPort === domain.port + Defaults.linkPortOffset) continue;
    claims.claim(String(domain.linkPort), [...path, 'linkPort'], `linkPort ${domain.linkPort}`);
  }
}

function volumeClashes(source: YamlSource, pair: PairFacts): void {
  const claims = new Claims(source);
  const claim = (group: string, lv: string, path: Path): void => {
    claims.claim(`${group}/${lv}`, path, `volume ${group}/${lv}`);
    const length = lvmMapperLength(group, lv);
    if (length > MAPPER_NAME_MAX) {
      const limit = `at most ${MAPPER_NAME_MAX}, hyphens count twice`;
      source.add(path, `the device-mapper name of ${group}/${lv} has ${length} characters; ${limit}`);
    }
  };
  // Ours first, so that a clash is told at the user's own choice.
  for (const domain of pair.domains) {
    const path = pathOf(pair, domain);
    for (const disk of domain.disks) {
      const at = [...path, 'disks', disk.volume, 'volumeGroup'];
      if (disk.source.kind === 'new') claim(disk.volumeGroup, volumeName(domain.name, disk.volume), at);
      claim(disk.volumeGroup, metaName(domain.name, disk.volume), at);
    }
    const group = domain.disks[0]?.volumeGroup;
    if (domain.journal === undefined || group === undefined) continue;
    const at = [...path, 'disks', 0, 'volumeGroup'];
    claim(group, volumeName(domain.name, BARRIER_VOLUME), at);
    claim(group, metaName(domain.name, BARRIER_VOLUME), at);
    claim(domain.journal.volumeGroup, journalName(domain.name), [...path, 'journal', 'volumeGroup']);
  }
  for (const domain of pair.domains) {
    for (const disk of domain.disks) {
      if (disk.source.kind === 'new') continue;
      const at = [...pathOf(pair, domain), 'disks', disk.volume, 'logicalVolume'];
      claim(disk.volumeGroup, disk.source.logicalVolume, at);
    }
  }
}

function minorClashes(source: YamlSource, pair: PairFacts): void {
  const seen: { domain: Domain; first: number; last: number }[] = [];
  for (const domain of pair.domains) {
    const count = domain.engine === 'protocol-d' ? 1 : VOLUMES_PER_DOMAIN;
    const block = { domain, first: domain.minor, last: domain.minor + count - 1 };
    const other = seen.find(({ first, last }) => block.first <= last && first <= block.last);
    if (other !== undefined && other.domain.port !== domain.port) {
      const message = `minors ${range(block)} overlap with ${range(other)} of ${other.domain.name}`;
      source.add([...pathOf(pair, domain), 'minor'], message);
    }
    seen.push(block);
  }
}

function range({ first, last }: { first: number; last: number }): string {
  return first === last ? String(first) : `${first} to ${last}`;
}

/** A host has one dom0 for all its domains, and every domain of a pair can be on both hosts. */
function pinClashes(source: YamlSource, pair: PairFacts): void {
  const sorted = (cpus: readonly number[]): string => [...cpus].sort((a, b) => a - b).join(', ');
  const first = pair.domains.find(({ pin }) => pin !== undefined);
  for (const domain of pair.domains) {
    if (first?.pin === undefined || domain.pin === undefined) continue;
    const ours = sorted(domain.pin.dom0);
    const theirs = sorted(first.pin.dom0);
    if (ours !== theirs) {
      const message = `CPUs ${ours}, but ${first.name} gives the dom0 ${theirs}; a host has one dom0 for all domains`;
      source.add([...pathOf(pair, domain), 'pin', 'dom0'], message);
    }
  }
}

function engineClashes(source: YamlSource, pair: PairFacts): void {
  const [first, ...others] = pair.domains;
  for (const domain of others) {
    if (first === undefined || domain.engine === first.engine) continue;
    const message = `${domain.engine}, but ${first.name} has ${first.engine}: they need different DRBD modules, and a host can load one`;
    source.add([...pathOf(pair, domain), 'engine'], message);
  }
}

function pathOf(pair: PairFacts, domain: Domain): Path {
  return [...pair.path, 'domains', domain.name];
}

/** What is taken, and by which key of the file. */
class Claims {
  readonly #source: YamlSource;
  readonly #why: string;
  readonly #taken = new Map<string, { path: Path; at: 'value' | 'key' }>();

  constructor(source: YamlSource, why = '') {
    this.#source = source;
    this.#why = why;
  }

  /** Takes something for a key of the file, or records that an earlier key has it. True if it was free. */
  claim(what: string, path: Path, subject: string, at: 'value' | 'key' = 'value'): boolean {
    const earlier = this.#taken.get(what);
    if (earlier === undefined) {
      this.#taken.set(what, { path, at });
      return true;
    }
    const { line } = this.#source.position(earlier.path, earlier.at);
    const owner = `${earlier.path.join('.')} on line ${line}`;
    this.#source.add(path, `${subject} is already taken by ${owner}${this.#why}`, at);
    return false;
  }
}
