/**
 * DRBD's configuration files as `import` takes them: the resources with their hosts, volumes and addresses.
 * All options of DRBD itself are rendered anew by `setup`, so of them only is said why they aren't needed, or
 * what is lost with one.
 *
 * Sources: drbd.conf(5) of 8.3, 8.4 and 9. Files that are named with `include` are not followed.
 */

import { show } from '../units.js';
import { parseDrbdSyntax } from './drbd-syntax.js';
import type { DrbdStatement } from './drbd-syntax.js';
import { Ledger } from './ledger.js';

export interface DrbdVolume {
  volume: number;
  minor?: number;
  disk?: string;
  meta?: 'internal' | 'indexed' | 'flexible';
  line: number;
}

export interface DrbdHost {
  /** Absent for `floating`, which has no host names. */
  name?: string;
  /** `line` is where it is written. */
  address?: { address: string; port: number; line: number };
  volumes: DrbdVolume[];
  line: number;
}

export interface DrbdResource {
  name: string;
  /** Which input it is in. */
  file: string;
  hosts: DrbdHost[];
  /** Of the resource, or else of `common` in the same file. */
  protocol?: string;
  line: number;
}

export interface DrbdFile {
  file: string;
  ledger: Ledger;
  resources: DrbdResource[];
  /** Protocol of a `common` section, which counts for resources in other files as well. */
  commonProtocol?: string;
}

/** Reads one file. Never fails: what can't be read is noted in the ledger. */
export function readDrbdFile(text: string, file: string): DrbdFile {
  return new Reader(text, file).read();
}

/** The statements that say where a volume's data is. */
interface Parts {
  disk?: DrbdStatement;
  device?: DrbdStatement;
  meta?: DrbdStatement;
}

/** Volumes, and what a host's section inherits from its resource. */
interface Scope extends Parts {
  volumes: Map<number, Parts & { line: number }>;
}

const SECTIONS_NOT_NEEDED: Readonly<Record<string, string>> = {
  startup: 'setup renders how long a host waits at its boot',
  net: 'setup renders the options of the network',
  disk: 'setup renders the options of the disks',
  syncer: 'setup renders the options of the resync',
  handlers: 'nothing of DRBD decides here: the arbiter does',
  options: 'setup renders the options of the resource',
  proxy: 'DRBD Proxy is not used',
};

/** Options of which more is to be said than that setup renders its own. */
const OPTIONS: Readonly<Record<string, { fate: 'not-needed' | 'cannot'; note: string }>> = {
  'allow-two-primaries': {
    fate: 'not-needed',
    note: 'two primaries are allowed only for as long as something needs them',
  },
  'become-primary-on': { fate: 'not-needed', note: 'who is primary follows from where the guest runs' },
  'after-sb-0pri': {
    fate: 'not-needed',
    note: 'the arbiter decides which side goes on; DRBD never throws data away by itself',
  },
  'after-sb-1pri': {
    fate: 'not-needed',
    note: 'the arbiter decides which side goes on; DRBD never throws data away by itself',
  },
  'after-sb-2pri': {
    fate: 'not-needed',
    note: 'the arbiter decides which side goes on; DRBD never throws data away by itself',
  },
  fencing: {
    fate: 'not-needed',
    note: 'fencing is the arbiter\'s: see "arbiter" in conf-examples/README.md',
  },
  'fence-peer': {
    fate: 'not-needed',
    note: 'fencing is the arbiter\'s: see "arbiter" in conf-examples/README.md',
  },
  'outdate-peer': {
    fate: 'not-needed',
    note: 'fencing is the arbiter\'s: see "arbiter" in conf-examples/README.md',
  },
  'shared-secret': {
    fate: 'cannot',
    note: 'peers are not asked for a password by DRBD: give replication a network of its own',
  },
  'cram-hmac-alg': {
    fate: 'cannot',
    note: 'peers are not asked for a password by DRBD: give replication a network of its own',
  },
  'no-disk-flushes': {
    fate: 'not-needed',
    note: 'what DRBD says is on disk has to be there after a power cut, so flushes stay on',
  },
  'no-disk-barrier': {
    fate: 'not-needed',
    note: 'what DRBD says is on disk has to be there after a power cut, so flushes stay on',
  },
  'no-md-flushes': {
    fate: 'not-needed',
    note: 'what DRBD says is on disk has to be there after a power cut, so flushes stay on',
  },
  'disk-flushes': {
    fate: 'not-needed',
    note: 'what DRBD says is on disk has to be there after a power cut, so flushes stay on',
  },
  'disk-barrier': {
    fate: 'not-needed',
    note: 'what DRBD says is on disk has to be there after a power cut, so flushes stay on',
  },
  'md-flushes': {
    fate: 'not-needed',
    note: 'what DRBD says is on disk has to be there after a power cut, so flushes stay on',
  },
  'on-congestion': {
    fate: 'not-needed',
    note: "with a slow link the guest's writes wait: running ahead would leave no epoch to commit",
  },
};

const PROTOCOL_NOTE = 'the protocol follows from what runs: A while protected, C during a planned migration';

class Reader {
  readonly #text: string;
  readonly #file: string;
  readonly #ledger: Ledger;
  readonly #resources: DrbdResource[] = [];
  #commonProtocol: string | undefined;

  constructor(text: string, file: string) {
    this.#text = text;
    this.#file = file;
    this.#ledger = new Ledger(text);
  }

  read(): DrbdFile {
    const { statements, problems } = parseDrbdSyntax(this.#text);
    for (const { line, message } of problems) this.#ledger.note(line, line, 'cannot', message);
    for (const statement of statements) this.#topLevel(statement);
    for (const resource of this.#resources) {
      if (resource.protocol === undefined && this.#commonProtocol !== undefined)
        resource.protocol = this.#commonProtocol;
    }
    return {
      file: this.#file,
      ledger: this.#ledger,
      resources: this.#resources,
      ...(this.#commonProtocol === undefined ? {} : { commonProtocol: this.#commonProtocol }),
    };
  }

  #topLevel(statement: DrbdStatement): void {
    const [keyword = '', name] = statement.words;
    if (keyword === 'resource' && name !== undefined && statement.children !== undefined) {
      this.#resource(statement, name);
    } else if (keyword === 'common' && statement.children !== undefined) {
      this.#frame(statement, 'not-needed', 'setup renders the options of each resource in its own file');
      for (const child of statement.children) this.#commonPart(child);
    } else if (keyword === 'global' && statement.children !== undefined) {
      this.#whole(statement, 'not-needed', 'setup renders the global section');
    } else if (keyword === 'skip') {
      this.#whole(statement, 'not-needed', 'DRBD skips it too');
    } else if (keyword === 'include') {
      const what = show(statement.words.slice(1).join(' '));
      this.#whole(
        statement,
        'cannot',
        `files are not looked for: give ${what} to import as well, if it is yours`,
      );
    } else {
      this.#whole(statement, 'cannot', `DRBD has no ${show(statement.words.join(' '))} here`);
    }
  }

  #commonPart(statement: DrbdStatement): void {
    const protocol = protocolOf(statement);
    if (protocol !== undefined) this.#commonProtocol = protocol;
    this.#options(statement);
  }

  #resource(statement: DrbdStatement, name: string): void {
    const scope: Scope = { volumes: new Map() };
    const hosts: { statement: DrbdStatement; names: (string | undefined)[] }[] = [];
    const connections: DrbdStatement[] = [];
    const resource: DrbdResource = { name, file: this.#file, hosts: [], line: statement.line };
    this.#frame(statement, 'taken', `resource ${name}`);
    for (const child of statement.children ?? []) {
      const [keyword = '', first] = child.words;
      const section = child.children !== undefined;
      if (keyword === 'on' && section) hosts.push({ statement: child, names: child.words.slice(1) });
      else if (keyword === 'floating' && section) hosts.push({ statement: child, names: [undefined] });
      else if (keyword === 'stacked-on-top-of' && section) {
        this.#whole(
          child,
          'cannot',
          'a third host cannot follow: each guest is replicated to one other host',
        );
      } else if (keyword === 'connection' && section) connections.push(child);
      else if (keyword === 'connection-mesh' && section) {
        const count = child.children?.find(({ words }) => words[0] === 'hosts')?.words.length ?? 0;
        if (count > 3)
          this.#whole(child, 'cannot', 'each guest is replicated to one other host; name two hosts only');
        else this.#whole(child, 'not-needed', 'the two hosts are connected to each other');
      } else if (this.#scoped(child, scope)) continue;
      else {
        const protocol = protocolOf(child);
        if (protocol !== undefined) resource.protocol = protocol;
        if (keyword === 'protocol' && first === undefined) this.#whole(child, 'cannot', 'names no protocol');
        else this.#options(child);
      }
    }
    for (const { statement: section, names } of hosts) this.#host(section, names, scope, resource);
    // They name hosts whose volumes are those of the resource.
    for (const connection of connections) this.#connection(connection, scope, resource);
    this.#resources.push(resource);
  }

  /** `disk PATH;`, `device ...;`, `meta-disk ...;` and `volume N {...}`, of a resource or of one host. */
  #scoped(statement: DrbdStatement, scope: Scope): boolean {
    const [keyword = '', first] = statement.words;
    if (keyword === 'volume' && statement.children !== undefined) {
      const volume = wholeNumber(first, 65535);
      if (volume === undefined) {
        this.#whole(statement, 'cannot', 'the volume has no number');
        return true;
      }
      const parts: Parts & { line: number } = { line: statement.line };
      this.#frame(statement, 'taken', `volume ${volume}`);
      for (const child of statement.children ?? []) {
        if (!this.#take(child, parts)) this.#options(child);
      }
      scope.volumes.set(volume, { ...scope.volumes.get(volume), ...parts });
      return true;
    }
    return this.#take(statement, scope);
  }

  /** Takes a statement that says where a volume's data is. */
  #take(statement: DrbdStatement, into: Parts): boolean {
    if (statement.children !== undefined) return false;
    const part = { disk: 'disk', device: 'device', 'meta-disk': 'meta', 'flexible-meta-disk': 'meta' }[
      statement.words[0] ?? ''
    ] as keyof Parts | undefined;
    if (part === undefined) return false;
    into[part] = statement;
    this.#ledger.noteMinor(statement.line, statement.endLine, 'not-needed', 'setup renders it');
    return true;
  }

  #host(
    section: DrbdStatement,
    names: (string | undefined)[],
    inherited: Scope,
    resource: DrbdResource,
  ): void {
    const scope: Scope = { ...inherited, volumes: new Map(inherited.volumes) };
    let address: DrbdHost['address'];
    const floating = section.words[0] === 'floating';
    this.#frame(section, 'taken', floating ? 'a host without a name' : `host ${names.join(', ')}`);
    if (floating) address = this.#address(section, section.words.slice(1), true);
    for (const child of section.children ?? []) {
      const [keyword = ''] = child.words;
      if (this.#scoped(child, scope)) continue;
      if (keyword === 'address' && child.children === undefined)
        address = this.#address(child, child.words.slice(1), false);
      else if (keyword === 'node-id') this.#whole(child, 'not-needed', 'setup numbers the hosts');
      else this.#options(child);
    }
    const volumes = this.#volumes(scope, section);
    for (const name of names.length === 0 ? [undefined] : names) {
      resource.hosts.push({
        ...(name === undefined ? {} : { name }),
        ...(address === undefined ? {} : { address }),
        volumes,
        line: section.line,
      });
    }
  }

  #volumes(scope: Scope, section: DrbdStatement): DrbdVolume[] {
    const all = new Map(scope.volumes);
    if (scope.disk !== undefined || scope.device !== undefined) {
      all.set(0, { line: section.line, ...pick(scope), ...all.get(0) });
    }
    return [...all]
      .sort(([a], [b]) => a - b)
      .map(([volume, parts]) => this.#volume(volume, { ...pick(scope), ...parts }));
  }

  #volume(volume: number, parts: Parts & { line: number }): DrbdVolume {
    const result: DrbdVolume = { volume, line: parts.disk?.line ?? parts.line };
    if (parts.device !== undefined) {
      const minor = minorOf(parts.device);
      if (minor === undefined) this.#whole(parts.device, 'cannot', 'the device has no minor');
      else {
        result.minor = minor;
        this.#whole(
          parts.device,
          'not-needed',
          'a domain has minors of its own, which follow from its port (only protocol-d wants one named)',
        );
      }
    }
    if (parts.disk !== undefined) {
      result.disk = parts.disk.words[1] ?? '';
    }
    if (parts.meta !== undefined) {
      const [keyword, target = ''] = parts.meta.words;
      result.meta =
        target === 'internal'
          ? 'internal'
          : /\[\s*\d+\s*\]$/.test(parts.meta.words.slice(1).join(''))
            ? 'indexed'
            : 'flexible';
      const what = keyword === 'flexible-meta-disk' ? 'flexible' : result.meta;
      if (result.meta === 'internal') {
        this.#whole(
          parts.meta,
          'not-needed',
          'meta-data gets an LV of its own; the old one has to be wiped off the disk',
        );
      } else this.#whole(parts.meta, 'not-needed', `meta-data gets an LV of its own (this one is ${what})`);
    }
    return result;
  }

  #address(statement: DrbdStatement, words: string[], floating: boolean): DrbdHost['address'] {
    const text = words.join(' ');
    const match = /^(?:(ipv4|ipv6|ssocks|sdp)\s+)?(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):(\d{1,5})$/.exec(text);
    const note = (fate: 'taken' | 'cannot', what: string): void => {
      if (floating) this.#ledger.note(statement.line, statement.endLine, fate, what);
      else this.#whole(statement, fate, what);
    };
    if (match === null) {
      note('cannot', `${show(text)} is no address with a port`);
      return undefined;
    }
    const [, family, v6, v4 = '', port] = match;
    if (family === 'ssocks' || family === 'sdp') {
      note('cannot', `DRBD over ${family} isn't set up here; TCP over the same address is`);
    } else note('taken', 'replication address, port');
    return { address: v6 ?? v4, port: Number(port), line: statement.line };
  }

  /** DRBD 9: the addresses of a resource's hosts, in a section of their own. */
  #connection(statement: DrbdStatement, scope: Scope, resource: DrbdResource): void {
    this.#frame(statement, 'taken', 'a connection');
    for (const child of statement.children ?? []) {
      const [keyword = '', name] = child.words;
      if (keyword === 'host' && name !== undefined && child.children === undefined) {
        const at = child.words.indexOf('address');
        const host = resource.hosts.find((one) => one.name === name) ?? {
          name,
          volumes: this.#volumes(scope, child),
          line: child.line,
        };
        if (at < 0) this.#whole(child, 'taken', `host ${name}`);
        else {
          const address = this.#address(child, child.words.slice(at + 1), false);
          if (address !== undefined) host.address = address;
        }
        if (!resource.hosts.includes(host)) resource.hosts.push(host);
      } else if (keyword === 'path' && child.children !== undefined) this.#connection(child, scope, resource);
      else this.#options(child);
    }
  }

  /** An option, or a section of options. */
  #options(statement: DrbdStatement): void {
    const [keyword = ''] = statement.words;
    if (statement.children === undefined) {
      this.#option(statement, 'setup renders it');
      return;
    }
    const reason = Object.hasOwn(SECTIONS_NOT_NEEDED, keyword) ? SECTIONS_NOT_NEEDED[keyword] : undefined;
    if (reason === undefined) {
      this.#whole(statement, 'cannot', `DRBD has no section ${show(keyword)} here`);
      return;
    }
    this.#frame(statement, 'not-needed', reason);
    for (const child of statement.children) this.#option(child, reason);
  }

  #option(statement: DrbdStatement, reason: string): void {
    const [keyword = ''] = statement.words;
    const protocol = protocolOf(statement);
    const known = Object.hasOwn(OPTIONS, keyword) ? OPTIONS[keyword] : undefined;
    if (protocol === 'D') {
      this.#whole(
        statement,
        'question',
        'which engine: the module with protocol D, or the journal that needs none',
      );
    } else if (protocol !== undefined) this.#whole(statement, 'not-needed', PROTOCOL_NOTE);
    else if (known !== undefined) this.#whole(statement, known.fate, known.note);
    else this.#whole(statement, 'not-needed', reason);
  }

  /** Notes a statement and all that is in it. */
  #whole(statement: DrbdStatement, fate: 'taken' | 'not-needed' | 'cannot' | 'question', note: string): void {
    this.#ledger.note(statement.line, lastLine(statement), fate, note);
  }

  /** Notes a section's first line and its closing brace, not what is in it. */
  #frame(statement: DrbdStatement, fate: 'taken' | 'not-needed', note: string): void {
    this.#ledger.noteMinor(statement.line, statement.endLine, fate, note);
    const close = statement.closeLine;
    if (close !== undefined) {
      this.#ledger.noteMinor(close, close, 'not-needed', `the end of what begins on line ${statement.line}`);
    }
  }
}

function pick({ disk, device, meta }: Parts): Parts {
  return { ...(disk && { disk }), ...(device && { device }), ...(meta && { meta }) };
}

function lastLine(statement: DrbdStatement): number {
  const own = Math.max(statement.endLine, statement.closeLine ?? 0);
  return (statement.children ?? []).reduce((last, child) => Math.max(last, lastLine(child)), own);
}

function protocolOf(statement: DrbdStatement): string | undefined {
  if (statement.children !== undefined) {
    if (statement.words[0] !== 'net') return undefined;
    return statement.children.map(protocolOf).find((found) => found !== undefined);
  }
  return statement.words[0] === 'protocol' ? statement.words[1] : undefined;
}

/** `device /dev/drbd1;`, `device minor 1;`, `device drbd_web minor 1;` */
function minorOf({ words }: DrbdStatement): number | undefined {
  const at = words.indexOf('minor');
  if (at > 0) return wholeNumber(words[at + 1], 1_048_575);
  return wholeNumber(/^\/dev\/drbd(?:_\S*_)?(\d+)$/.exec(words[1] ?? '')?.[1], 1_048_575);
}

function wholeNumber(text: string | undefined, max: number): number | undefined {
  if (text === undefined || !/^\d{1,7}$/.test(text)) return undefined;
  const value = Number(text);
  return value <= max ? value : undefined;
}
