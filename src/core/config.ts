/**
 * pair.yaml: from text to a validated `Config`, or to every problem of it at once.
 *
 * Nothing is touched on any host before this has passed, so it is strict: unknown keys are refused, and
 * what would clash on a host (ports, minors, volumes, names, one host in two roles) is found across the
 * whole file. The keys and their defaults are described in the README, section "Configuration".
 */

import { isIP } from 'node:net';
import { dirname, join } from 'node:path';

import type { z } from 'zod';

import { readArbiter } from './config-arbiter.js';
import { findClashes } from './config-clashes.js';
import {
  Defaults,
  diskShape,
  domainShape,
  hostShape,
  isRecord,
  Limits,
  pairShape,
  readShape,
  rootShape,
} from './config-schema.js';
import type { sshShape } from './config-schema.js';
import { ExitCode, OperatorError, OperatorErrors } from './errors.js';
import type { Arbiter, Config, Disk, Domain, Engine, HostConfig, Pair, SshSettings } from './model.js';
import {
  BARRIER_VOLUME,
  defaultMinor,
  DISKS_MAX,
  MINOR_MAX,
  PORT_MAX,
  volumeName,
  VOLUMES_PER_DOMAIN,
} from './names.js';
import { HOST_NAME, HOST_NAME_RULE, lvNameProblem, NAME, NAME_RULE } from './patterns.js';
import { withSuggestion } from './suggest.js';
import { formatDuration, show } from './units.js';
import type { Path } from './yaml-source.js';
import { YamlSource } from './yaml-source.js';

/**
 * Parses and validates pair.yaml.
 *
 * @param text the file's content
 * @param file how messages name the file
 * @param directory what relative paths in the file are relative to
 * @throws {OperatorErrors} with all the problems, each `FILE:LINE:COLUMN: KEY: MESSAGE`; exit code 2
 */
export function parseConfig(text: string, file: string, directory = dirname(file)): Config {
  const source = new YamlSource(text, file);
  const config = source.problems.length === 0 ? new Reader(source, directory).read() : undefined;
  if (config === undefined || source.problems.length > 0) {
    throw new OperatorErrors(source.messages().map((message) => new OperatorError(message, ExitCode.usage)));
  }
  return config;
}

/** What is known of a pair while it is read: enough to look for clashes even where parts of it are wrong. */
interface PairFacts {
  name: string;
  path: Path;
  hostNames: string[];
  hosts: HostConfig[];
  domains: Domain[];
  arbiter: Arbiter;
  link: 'tls' | 'ssh';
}

class Reader {
  readonly #source: YamlSource;
  readonly #directory: string;

  constructor(source: YamlSource, directory: string) {
    this.#source = source;
    this.#directory = directory;
  }

  /** Reads everything; the result counts only when the source has no problems afterwards. */
  read(): Config | undefined {
    const raw = this.#source.value;
    if (raw === null || raw === undefined) {
      this.#source.add([], 'the file is empty; expected a map with the key pairs');
      return undefined;
    }
    const root = readShape(this.#source, rootShape, raw, []);
    if (!isRecord(raw)) return undefined;
    const pairs = Object.entries(isRecord(raw.pairs) ? raw.pairs : {});
    if (pairs.length > Limits.pairsMax) {
      this.#source.add(['pairs'], `${pairs.length} pairs; at most ${Limits.pairsMax} in one file`, 'key');
      return undefined;
    }
    const facts = pairs.map(([name, value]) => this.#pair(name, value));
    findClashes(this.#source, facts);
    return {
      file: this.#source.file,
      ssh: this.#ssh(root?.ssh),
      pairs: facts.map(({ name, hosts, arbiter, link, domains }): Pair => {
        return { name, hosts: hosts as [HostConfig, HostConfig], arbiter, link, domains };
      }),
    };
  }

  #ssh(settings: z.output<typeof sshShape> | undefined): SshSettings {
    return {
      identityFiles: settings?.identityFiles ?? [],
      knownHostsFiles: settings?.knownHostsFiles ?? [...Defaults.knownHostsFiles],
    };
  }

  #pair(name: string, raw: unknown): PairFacts {
    const path: Path = ['pairs', name];
    this.#name(path, name, NAME, NAME_RULE, 'pair');
    const shape = readShape(this.#source, pairShape, raw, path);
    const parts = isRecord(raw) ? raw : {};
    const hostNames = Object.keys(isRecord(parts.hosts) ? parts.hosts : {});
    const hosts = this.#hosts(parts.hosts, [...path, 'hosts']);
    const facts: PairFacts = {
      name,
      path,
      hostNames,
      hosts,
      arbiter:
        readArbiter(this.#source, parts.arbiter, [...path, 'arbiter'], hostNames, hosts) ?? Defaults.arbiter,
      link: shape?.link ?? Defaults.link,
      domains: [],
    };
    const domains = Object.entries(isRecord(parts.domains) ? parts.domains : {});
    if (domains.length > Limits.domainsPerPairMax) {
      const message = `${domains.length} domains; at most ${Limits.domainsPerPairMax} in one pair`;
      this.#source.add([...path, 'domains'], message, 'key');
      return facts;
    }
    for (const [domainName, value] of domains) {
      const domain = this.#domain(domainName, value, facts);
      if (domain !== undefined) facts.domains.push(domain);
    }
    return facts;
  }

  #hosts(raw: unknown, path: Path): HostConfig[] {
    if (!isRecord(raw) || Object.keys(raw).length === 0) return [];
    const names = Object.keys(raw);
    if (names.length !== 2) {
      this.#source.add(path, `expected exactly two hosts, found ${names.length}`, 'key');
    }
    const hosts: HostConfig[] = [];
    for (const [name, value] of Object.entries(raw)) {
      this.#name([...path, name], name, HOST_NAME, HOST_NAME_RULE, 'host');
      const host = readShape(this.#source, hostShape, value, [...path, name]);
      if (host !== undefined) hosts.push({ name, ...host });
    }
    const [first, second] = hosts;
    if (first !== undefined && second !== undefined && names.length === 2) {
      const at = [...path, second.name, 'replication'];
      if (isIP(first.replication) !== isIP(second.replication)) {
        this.#source.add(at, `${first.name} and ${second.name} need addresses of one family, IPv4 or IPv6`);
      }
    }
    return hosts;
  }

  #domain(name: string, raw: unknown, pair: PairFacts): Domain | undefined {
    const path = [...pair.path, 'domains', name];
    this.#name(path, name, NAME, NAME_RULE, 'domain');
    this.#domainName(path, name);
    const shape = readShape(this.#source, domainShape, raw, path);
    const parts = isRecord(raw) ? raw : {};
    const engine: Engine = parts.engine === 'protocol-d' ? 'protocol-d' : Defaults.engine;
    const disks = this.#disks(parts.disks, [...path, 'disks'], engine);
    this.#primary(parts.primary, pair, path);
    if (shape === undefined) return undefined;
    if (engine === 'protocol-d') this.#protocolD(shape, path);
    this.#timing(shape.checkpoint, path);
    this.#pin(shape.pin, [...path, 'pin']);

    const linkPort = shape.linkPort ?? shape.port + Defaults.linkPortOffset;
    if (linkPort > PORT_MAX) {
      this.#source.add(
        path,
        `linkPort is required here: port + ${Defaults.linkPortOffset} is beyond ${PORT_MAX}`,
        'key',
      );
    }
    const minor = shape.minor ?? defaultMinor(shape.port);
    if (engine === 'journal' && minor + VOLUMES_PER_DOMAIN - 1 > MINOR_MAX) {
      const message = `a domain takes ${VOLUMES_PER_DOMAIN} minors, and ${minor + VOLUMES_PER_DOMAIN - 1} is beyond ${MINOR_MAX}`;
      this.#source.add([...path, 'minor'], message);
    }
    const journalGroup = shape.journal?.volumeGroup ?? disks[0]?.volumeGroup;
    return {
      name,
      pair: pair.name,
      // A path below the user's home is for the loader to resolve, which knows where that is.
      configFile: /^~?\//.test(shape.config) ? shape.config : join(this.#directory, shape.config),
      primary: shape.primary,
      backup: pair.hostNames.find((host) => host !== shape.primary) ?? '',
      engine,
      port: shape.port,
      linkPort,
      minor,
      disks,
      ...(engine === 'journal' && journalGroup !== undefined
        ? { journal: { volumeGroup: journalGroup, sizeBytes: shape.journal?.size ?? Defaults.journalBytes } }
        : {}),
      checkpoint: {
        intervalMs: shape.checkpoint?.interval ?? Defaults.intervalMs,
        failAfterMs: shape.checkpoint?.failAfter ?? Defaults.failAfterMs,
      },
      ...(shape.pin === undefined ? {} : { pin: { dom0: shape.pin.dom0, guest: shape.pin.guest } }),
      autoRecover: shape.autoRecover ?? false,
      onCrash: shape.onCrash ?? 'stop',
      drill: {
        ...(shape.drill?.check === undefined ? {} : { check: shape.drill.check }),
        timeoutMs: shape.drill?.timeout ?? Defaults.drillTimeoutMs,
        ...(shape.drill?.snapshotSize === undefined ? {} : { snapshotBytes: shape.drill.snapshotSize }),
      },
    };
  }

  /** Names that NAME lets through but some tool on the host reads as something else. */
  #domainName(path: Path, name: string): void {
    if (!NAME.test(name)) return;
    const lvProblem = lvNameProblem(volumeName(name, BARRIER_VOLUME));
    if (name === 'all' || /^minor-/.test(name)) {
      this.#source.add(path, `drbdadm reads ${show(name)} as something else than a resource's name`, 'key');
    } else if (name.startsWith('Domain-')) {
      this.#source.add(path, 'Xen gives names that start with "Domain-" itself', 'key');
    } else if (lvProblem !== undefined) {
      this.#source.add(path, lvProblem, 'key');
    }
  }

  #primary(primary: unknown, pair: PairFacts, path: Path): void {
    if (typeof primary !== 'string' || pair.hostNames.length === 0 || pair.hostNames.includes(primary))
      return;
    const message = withSuggestion(`${show(primary)} is not a host of this pair`, primary, pair.hostNames);
    this.#source.add(
      [...path, 'primary'],
      `${message} (${pair.hostNames.map((host) => show(host)).join(', ')})`,
    );
  }

  #disks(raw: unknown, path: Path, engine: Engine): Disk[] {
    if (!Array.isArray(raw)) return [];
    if (raw.length === 0) this.#source.add(path, 'is empty; a domain needs at least one disk', 'key');
    if (raw.length > DISKS_MAX) {
      this.#source.add(
        path,
        `${raw.length} disks; at most ${DISKS_MAX}, as volume ${BARRIER_VOLUME} is the barrier`,
        'key',
      );
      return [];
    }
    if (engine === 'protocol-d' && raw.length > 1) {
      const why = 'its disks commit one by one, so after a failover they could be of different checkpoints';
      this.#source.add(path, `engine protocol-d can protect one disk, found ${raw.length}: ${why}`, 'key');
    }
    const disks: Disk[] = [];
    for (const [volume, item] of raw.entries()) {
      const disk = this.#disk(volume, item, [...path, volume]);
      if (disk === undefined) continue;
      const same = disks.find(({ vdev }) => vdev === disk.vdev);
      if (same !== undefined) {
        this.#source.add(
          [...path, volume, 'vdev'],
          `${disk.vdev} is already disk ${same.volume} of this domain`,
        );
      }
      disks.push(disk);
    }
    return disks;
  }

  #disk(volume: number, raw: unknown, path: Path): Disk | undefined {
    const shape = readShape(this.#source, diskShape, raw, path);
    if (isRecord(raw)) {
      const made = Object.hasOwn(raw, 'size');
      const existing = Object.hasOwn(raw, 'logicalVolume');
      if (made === existing) {
        const found = made ? 'both' : 'neither';
        const message = `expected either size (setup makes the volume) or logicalVolume (it exists), found ${found}`;
        this.#source.add(path, message);
        return undefined;
      }
    }
    if (shape === undefined) return undefined;
    const { vdev, volumeGroup: group, size: sizeBytes, logicalVolume: existingLv } = shape;
    if (existingLv !== undefined) {
      return { volume, vdev, volumeGroup: group, source: { kind: 'existing', logicalVolume: existingLv } };
    }
    return { volume, vdev, volumeGroup: group, source: { kind: 'new', sizeBytes: sizeBytes ?? 0 } };
  }

  #protocolD(shape: z.output<typeof domainShape>, path: Path): void {
    const max = Limits.protocolDMinorMax;
    if (shape.minor === undefined) {
      this.#source.add(
        path,
        `minor is required with engine protocol-d (0 to ${max}): DRBD 8.3 has no larger ones`,
        'key',
      );
    } else if (shape.minor > max) {
      this.#source.add([...path, 'minor'], `${shape.minor} is beyond ${max}, the largest minor of DRBD 8.3`);
    }
    if (shape.journal !== undefined) {
      this.#source.add(
        [...path, 'journal'],
        'has no use with engine protocol-d, whose module buffers the writes itself',
        'key',
      );
    }
  }

  #timing(checkpoint: z.output<typeof domainShape>['checkpoint'], path: Path): void {
    const intervalMs = checkpoint?.interval ?? Defaults.intervalMs;
    const failAfterMs = checkpoint?.failAfter ?? Defaults.failAfterMs;
    if (failAfterMs < 2 * intervalMs) {
      const message = `failAfter ${formatDuration(failAfterMs)} is less than two intervals of ${formatDuration(intervalMs)}: one late checkpoint would be taken for a failure`;
      const key = checkpoint?.failAfter === undefined ? 'interval' : 'failAfter';
      this.#source.add([...path, 'checkpoint', key], message);
    }
  }

  #pin(pin: Domain['pin'], path: Path): void {
    if (pin === undefined) return;
    for (const part of ['dom0', 'guest'] as const) {
      const list = pin[part];
      if (list.length === 0) this.#source.add([...path, part], 'is empty; expected CPU numbers');
      for (const [index, cpu] of list.entries()) {
        if (list.indexOf(cpu) !== index)
          this.#source.add([...path, part, index], `CPU ${cpu} is listed twice`);
      }
    }
    for (const [index, cpu] of pin.guest.entries()) {
      if (pin.dom0.includes(cpu)) {
        this.#source.add(
          [...path, 'guest', index],
          `CPU ${cpu} is given to the dom0 too; the two would take turns on it`,
        );
      }
    }
  }

  #name(path: Path, name: string, pattern: RegExp, rule: string, what: string): void {
    if (!pattern.test(name)) this.#source.add(path, `the name of a ${what} is ${rule}`, 'key');
  }
}
