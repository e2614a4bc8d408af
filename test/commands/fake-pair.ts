/**
 * A fake pair: two hosts with one guest `web` in memory, which answer what the commands of protection ask of hosts, in
 * the tools' own formats. Units do at once what they are there for; a migration goes one stage further with each look
 * at its source.
 *
 * Every command that changes something counts as an act. `cutAfter` ends the controller (`Cut`) at one of them, before
 * it is done or behind it; the hosts stay as they are.
 */
import { readFileSync } from 'node:fs';
import { formatTerm, parseTerm, type TermRecord } from '../../src/core/claim/term.js';
import type { DomainLayout } from '../../src/core/model.js';
import { statePath } from '../../src/core/names.js';
import { parseOrder } from '../../src/core/protect/order.js';
import {
  DRILL_PHASES,
  formatDrillRecord,
  newDrillReport,
  parseDrillOrder,
} from '../../src/core/drill/records.js';
import type { DrillReport } from '../../src/core/drill/records.js';
import type { CommandResult, FileContent, Host, StreamOptions } from '../../src/edge/host.js';
import { FileError, HostError } from '../../src/edge/host.js';
import { loadExample } from '../core/examples.js';

export const DOMAIN = 'web';
const MEMORY_MIB = 96;
const NOW_S = 1_800_000_000;
const XL_INFO = readFileSync('test/data/real/xl-info/plain.txt', 'utf8');

/** The controller has died. */
export class Cut extends Error {}

/** Whether the controller died in it; any other failure is the test's. */
export async function isCut(work: Promise<unknown>): Promise<boolean> {
  try {
    await work;
    return false;
  } catch (error) {
    if (error instanceof Cut) return true;
    throw error;
  }
}

interface FakeGuest {
  state: string;
  memoryMiB: number;
}

export class FakeHost implements Host {
  readonly name: string;
  readonly pair: FakePair;
  readonly files = new Map<string, string>();
  readonly guests = new Map<string, FakeGuest>();
  readonly units = new Map<string, string>();
  role: 'Primary' | 'Secondary' = 'Secondary';
  freeMiB = 1000;
  isDead = false;
  /** It was reached, and does not answer. */
  diesLater = false;
  /** Connections that were opened and not closed. */
  open = 0;
  /** A file that is there and can't be read. */
  unreadable = '';
  /** What LVM prints, as JSON: rows of `vgs` and of `lvs`. */
  volumeGroups: object[] = [];
  volumes: object[] = [];
  /** What a drill here comes to, and its reports so far. */
  drillEnd: Partial<DrillReport> = { result: { outcome: 'passed', reason: 'the check ended with 0' } };
  #drillLooks = 0;
  /** What was run here, probes left out. */
  readonly ran: string[] = [];

  constructor(name: string, pair: FakePair) {
    this.name = name;
    this.pair = pair;
  }

  get peer(): FakeHost {
    return this.pair.hosts[0] === this ? this.pair.hosts[1] : this.pair.hosts[0];
  }

  unit(kind: string): string {
    return this.units.get(`remus-${kind}@${DOMAIN}.service`) ?? 'inactive';
  }

  setUnit(kind: string, state: string): void {
    this.units.set(`remus-${kind}@${DOMAIN}.service`, state);
  }

  get term(): TermRecord | undefined {
    const text = this.files.get(statePath(DOMAIN, 'term.json'));
    return text === undefined ? undefined : parseTerm(text);
  }

  run(argv: readonly string[]): Promise<CommandResult> {
    if (this.isDead) return Promise.reject(new HostError(this.name, 'not-run', 'is not there'));
    const result = this.pair.act(`${this.name}: ${argv.join(' ')}`, () => {
      this.ran.push(argv.join(' '));
      const problem = this.#command(argv);
      return Promise.resolve({ exitCode: problem === '' ? 0 : 1, stdout: '', stderr: problem });
    });
    return result;
  }

  /** @returns what is wrong; empty where it was done */
  #command(argv: readonly string[]): string {
    const [program = '', verb = '', ...rest] = argv;
    const fault = this.pair.faults.get(argv.join(' '));
    if (fault !== undefined) return fault;
    switch (program) {
      case 'systemctl':
        return this.#systemctl(verb, rest.at(-1) ?? '');
      case 'drbdadm':
        return this.#drbdadm(verb, rest);
      case 'xl':
        return this.#xl(verb, rest);
      case 'rm':
        this.files.delete(argv.at(-1) ?? '');
        return '';
      case 'journalctl':
        return '';
      case '/usr/sbin/remus-drbd':
        if (verb === 'decide') return this.#decide(rest[2] ?? '');
        if (verb !== 'switchover-cleanup') return `not modelled: ${verb}`;
        if (this.guests.get(DOMAIN)?.state === '---ss-') this.guests.get(DOMAIN)!.state = '-b----';
        return '';
      default:
        return `not modelled: ${argv.join(' ')}`;
    }
  }

  /** The sender goes on as soon as it is told; a receiver is told by its signal to look. */
  #decide(winner: string): string {
    if (winner === this.name && this.term?.role === 'primary') this.pair.endProtection();
    return '';
  }

  #systemctl(verb: string, unit: string): string {
    const kind = /^remus-(.*)@web\.service$/.exec(unit)?.[1] ?? '';
    switch (verb) {
      case 'reset-failed':
        if (this.unit(kind) === 'failed') this.setUnit(kind, 'inactive');
        return '';
      case 'start':
        if (this.unit(kind) !== 'active') this.#start(kind);
        return '';
      case 'stop':
        if (kind === 'sender' && this.unit(kind) === 'active') this.pair.endProtection();
        this.setUnit(kind, 'inactive');
        if (kind === 'receiver') this.guests.delete(`${DOMAIN}--incoming`);
        return '';
      case 'kill':
        this.pair.failOver(this);
        return '';
      default:
        return `not modelled: systemctl ${verb}`;
    }
  }

  #start(kind: string): void {
    this.setUnit(kind, 'active');
    if (kind === 'receiver') {
      this.files.set(`/var/lib/remus-drbd/${DOMAIN}/gate`, 'shut it is protected here\n');
      this.#report('receiver', 'waiting');
    }
    if (kind === 'sender') {
      this.#report('sender', 'running');
      this.peer.#report('receiver', 'on');
      this.peer.guests.set(`${DOMAIN}--incoming`, { state: '--p---', memoryMiB: MEMORY_MIB });
      this.pair.changeTerm({ phase: 'protected' });
    }
    if (kind === 'switchover') this.pair.migration = 1;
    if (kind === 'drill') this.#drillLooks = 0;
  }

  /** Its unit goes one phase further with each look at it. */
  #drillOn(): void {
    if (this.unit('drill') !== 'active') return;
    const { id } = parseDrillOrder(this.files.get(`/run/remus-drbd/${DOMAIN}/drill-order.json`) ?? '');
    const phase = DRILL_PHASES[this.#drillLooks++] ?? 'ended';
    const report = { ...newDrillReport(id), phase, ...(phase === 'ended' ? this.drillEnd : {}) };
    this.files.set(`/run/remus-drbd/${DOMAIN}/drill.json`, formatDrillRecord(report));
    if (phase === 'ended') this.setUnit('drill', 'inactive');
  }

  setReceiverPhase(phase: string): void {
    this.#report('receiver', phase);
  }

  #report(role: 'sender' | 'receiver', phase: string): void {
    const { pair, domain, term, session, intervalMs } = parseOrder(
      this.files.get(`/run/remus-drbd/${DOMAIN}/order.json`) ?? '',
    );
    const head = { format: 1, pid: 1, updatedMs: NOW_S * 1000, pair, domain, term, session };
    const more =
      role === 'sender'
        ? { protection: 'protected', intervalMs, sentBytes: 1, figures: null, droppedPackets: 0 }
        : { receivedBytes: 1, journalUsedBytes: 1, journalTotalBytes: 2 };
    const report = { ...head, role, phase, reason: 'epoch 1 is committed', committedEpoch: 1, ...more };
    this.files.set(`/run/remus-drbd/${DOMAIN}/${role}.json`, JSON.stringify(report));
  }

  #drbdadm(verb: string, rest: string[]): string {
    const { pair } = this;
    switch (verb) {
      case 'net-options': {
        const isDual = rest.includes('--allow-two-primaries=yes');
        if (!isDual && this.role === 'Primary' && this.peer.role === 'Primary') {
          return 'Failure: (139) --allow-two-primaries: both are Primary';
        }
        // DRBD tells its peer.
        pair.protocol = rest.includes('--protocol=C') ? 'C' : 'A';
        pair.twoPrimaries = isDual;
        return '';
      }
      case 'secondary':
        if ([...this.guests.keys()].includes(DOMAIN)) return 'State change failed: (-12) Device is held open';
        this.role = 'Secondary';
        return '';
      case 'disconnect':
        pair.connection = 'StandAlone';
        return '';
      case 'connect':
        pair.connection = 'Connected';
        return '';
      default:
        return `not modelled: drbdadm ${verb}`;
    }
  }

  #xl(verb: string, [one = '', other = '']: string[]): string {
    const guest = this.guests.get(one);
    if (guest === undefined) return `${one} is an invalid domain identifier`;
    switch (verb) {
      case 'destroy':
        this.guests.delete(one);
        if (one !== DOMAIN || !this.guests.has(DOMAIN)) this.role = 'Secondary';
        return '';
      case 'rename':
        this.guests.delete(one);
        this.guests.set(other, guest);
        return '';
      case 'unpause':
        guest.state = '-b----';
        return '';
      default:
        return `not modelled: xl ${verb}`;
    }
  }

  probe(commands: ReadonlyMap<string, readonly string[]>): Promise<Map<string, CommandResult>> {
    if (this.isDead) return Promise.reject(new HostError(this.name, 'not-run', 'is not there'));
    this.pair.looked(this);
    const results = new Map<string, CommandResult>();
    for (const [key, argv] of commands) results.set(key, this.#probed(argv));
    return Promise.resolve(results);
  }

  #probed(argv: readonly string[]): CommandResult {
    const [program, path = ''] = argv;
    if (program !== 'cat' || !path.startsWith('/run/')) {
      return { exitCode: 0, stdout: this.#answer(argv), stderr: '' };
    }
    const text = this.files.get(path);
    if (text !== undefined) return { exitCode: 0, stdout: text, stderr: '' };
    return { exitCode: 1, stdout: '', stderr: `cat: ${path}: No such file or directory\n` };
  }

  #answer(argv: readonly string[]): string {
    const line = argv.join(' ');
    if (line.includes('events2')) return this.#events();
    if (line === `drbdsetup show ${DOMAIN}`) return this.pair.show();
    if (line === 'xl list') {
      const guest = ([name, { state, memoryMiB }]: [string, FakeGuest], at: number): string =>
        `${name} ${at + 1} ${memoryMiB} 1 ${state} 1.0\n`;
      return `Name ID Mem VCPUs\tState\tTime(s)\nDomain-0 0 1024 1 r----- 9.9\n${[...this.guests].map(guest).join('')}`;
    }
    if (line === 'xl info') {
      const used = [...this.guests.values()].reduce((sum, { memoryMiB }) => sum + memoryMiB, 0);
      return XL_INFO.replace(/free_memory +: \d+/, `free_memory : ${this.freeMiB - used}`);
    }
    if (line === 'xl vcpu-list') {
      return 'Name ID VCPU CPU State Time(s) Affinity (Hard / Soft)\nDomain-0 0 0 0 r-- 9.9 all / all\n';
    }
    if (argv[0] === 'find') return '';
    if (line === 'cat /proc/drbd') return 'version: 8.4.11 (api:1/proto:86-101)\nsrcversion: FAKE \n';
    if (line.startsWith('cat /proc/sys/kernel/random/boot_id'))
      return '0b4d6c1e-0000-0000-0000-000000000001\n';
    if (line.startsWith('date')) return `${NOW_S}.000000000\n`;
    if (argv[0] === 'vgs') return JSON.stringify({ report: [{ vg: this.volumeGroups }] });
    if (argv[0] === 'lvs') return JSON.stringify({ report: [{ lv: this.volumes }] });
    if (line === 'systemctl show --property=ActiveState remus-drill@web.service') this.#drillOn();
    if (argv[0] === 'systemctl')
      return `ActiveState=${this.units.get(argv.at(-1) ?? '') ?? 'inactive'}\nResult=success\n`;
    throw new Error(`not modelled: ${line}`);
  }

  #events(): string {
    const { connection, outOfSync } = this.pair;
    const isUp = connection === 'Connected';
    const replication = !isUp ? 'Off' : outOfSync > 0 ? 'SyncSource' : 'Established';
    const peerDisk = !isUp ? 'DUnknown' : outOfSync > 0 ? 'Inconsistent' : 'UpToDate';
    const volumes = [0, 15];
    return [
      `exists resource name:${DOMAIN} role:${this.role} suspended:no write-ordering:flush`,
      `exists connection name:${DOMAIN} peer-node-id:0 conn-name:peer connection:${connection} role:${isUp ? this.peer.role : 'Unknown'} congested:no`,
      ...volumes.map(
        (volume) =>
          `exists device name:${DOMAIN} volume:${volume} minor:${volume} disk:UpToDate size:65532 read:0 written:0 al-writes:0 bm-writes:0 upper-pending:0 lower-pending:0 al-suspended:no blocked:no`,
      ),
      ...volumes.map(
        (volume) =>
          `exists peer-device name:${DOMAIN} peer-node-id:0 conn-name:peer volume:${volume} replication:${replication} peer-disk:${peerDisk} resync-suspended:no received:0 sent:0 out-of-sync:${outOfSync} pending:0 unacked:0`,
      ),
      'exists -\n',
    ].join('\n');
  }

  /** Until it is ended. */
  stream(
    argv: readonly string[],
    _onLine: (line: string) => void,
    { signal }: StreamOptions,
  ): Promise<CommandResult> {
    this.ran.push(argv.join(' '));
    return new Promise((resolve) => {
      signal?.addEventListener('abort', () => resolve({ exitCode: 0, stdout: '', stderr: '' }));
    });
  }

  async readFile(path: string): Promise<FileContent | undefined> {
    return (await this.readFiles([path])).get(path);
  }

  readFiles(paths: readonly string[]): Promise<Map<string, FileContent | undefined>> {
    if (this.isDead) return Promise.reject(new HostError(this.name, 'not-run', 'is not there'));
    if (paths.includes(this.unreadable)) {
      return Promise.reject(new FileError(this.name, this.unreadable, 'not read: Input/output error'));
    }
    const files = paths.map((path): [string, FileContent | undefined] => {
      const text = this.files.get(path);
      return [path, text === undefined ? undefined : { content: Buffer.from(text), mode: 0o644 }];
    });
    return Promise.resolve(new Map(files));
  }

  async writeFile(path: string, content: Uint8Array): Promise<void> {
    if (this.isDead) throw new HostError(this.name, 'not-run', 'is not there');
    await this.pair.act(`${this.name}: write ${path}`, () => {
      this.files.set(path, new TextDecoder().decode(content));
      return Promise.resolve();
    });
  }

  close(): Promise<void> {
    this.open--;
    return Promise.resolve();
  }
}

/** Where a migration may fail; what becomes of the guest is what xl does then. */
export type MigrationFault = 'connect' | 'live' | 'devices' | 'away' | 'report';

export class FakePair {
  readonly hosts: readonly [FakeHost, FakeHost] = [new FakeHost('alpha', this), new FakeHost('beta', this)];
  connection: 'Connected' | 'StandAlone' | 'Connecting' = 'Connected';
  outOfSync = 0;
  protocol: 'A' | 'C' = 'A';
  twoPrimaries = false;
  /** 0: none; else the stage that is reached. */
  migration = 0;
  migrationFault: MigrationFault | null = null;
  /** Commands that fail, with what they say. */
  readonly faults = new Map<string, string>();
  acts: string[] = [];
  /** Ends the controller before this act, counted from 1, or behind it. */
  cutAt: { act: number; when: 'before' | 'behind' } | null = null;
  /** More than one running copy was ever seen, or one whose disks are open on both sides. */
  readonly violations: string[] = [];

  static start(): FakePair {
    const pair = new FakePair();
    pair.host('alpha').guests.set(DOMAIN, { state: '-b----', memoryMiB: MEMORY_MIB });
    pair.host('alpha').role = 'Primary';
    return pair;
  }

  host(name: string): FakeHost {
    const found = this.hosts.find((host) => host.name === name);
    if (found === undefined) throw new Error(`no host ${name}`);
    return found;
  }

  /** The host where the guest runs; the test's error where it is not exactly one. */
  get primary(): FakeHost {
    const running = this.hosts.filter(({ guests }) => guests.has(DOMAIN));
    const [only] = running;
    if (only === undefined || running.length !== 1)
      throw new Error(`the guest runs on ${running.length} hosts`);
    return only;
  }

  get isProtected(): boolean {
    return this.primary.unit('sender') === 'active' && this.primary.peer.unit('receiver') === 'active';
  }

  async act<T>(what: string, work: () => Promise<T>): Promise<T> {
    const number = this.acts.push(what);
    if (this.cutAt?.act === number && this.cutAt.when === 'before') throw new Cut(what);
    const result = await work();
    this.#check(what);
    if (this.cutAt?.act === number) throw new Cut(what);
    return result;
  }

  #check(what: string): void {
    const runs = ({ guests }: FakeHost): boolean => /^[r-][b-]--/.test(guests.get(DOMAIN)?.state ?? 'none');
    if (this.hosts.every(runs)) this.violations.push(`${what}: both run`);
    if (this.hosts.every(({ role }) => role === 'Primary') && !this.twoPrimaries) {
      this.violations.push(`${what}: both Primary`);
    }
  }

  show(): string {
    if (this.connection === 'StandAlone') return `resource ${DOMAIN} {\n}\n`;
    // What is the default is not shown, and C is.
    const protocol = this.protocol === 'C' ? '' : `        protocol        \t${this.protocol};\n`;
    const two = this.twoPrimaries ? '        allow-two-primaries\tyes;\n' : '';
    return `resource ${DOMAIN} {\n    net {\n${protocol}${two}    }\n}\n`;
  }

  /** Changes the record of the last term on both hosts. */
  changeTerm(change: Partial<TermRecord>): void {
    for (const host of this.hosts) {
      const { term } = host;
      if (term !== undefined)
        host.files.set(statePath(DOMAIN, 'term.json'), formatTerm({ ...term, ...change }));
    }
  }

  /** By agreement, as the sender and the receiver do it. */
  endProtection(): void {
    for (const host of this.hosts) {
      const { term } = host;
      host.setUnit('sender', 'inactive');
      host.setUnit('receiver', 'inactive');
      host.guests.delete(`${DOMAIN}--incoming`);
      host.files.delete(`/var/lib/remus-drbd/${DOMAIN}/gate`);
      if (term === undefined || term.phase === 'ended') continue;
      const outcome = term.role === 'primary' ? 'won' : 'lost';
      host.files.set(statePath(DOMAIN, 'term.json'), formatTerm({ ...term, phase: 'ended', outcome }));
    }
  }

  /** To this host, as its receiver and the loser's sender do it. */
  failOver(host: FakeHost): void {
    this.endProtection();
    host.guests.set(DOMAIN, { state: '-b----', memoryMiB: MEMORY_MIB });
    host.role = 'Primary';
    host.peer.guests.delete(DOMAIN);
    host.peer.role = 'Secondary';
    for (const each of this.hosts) {
      const { term } = each;
      if (term === undefined) continue;
      const outcome = each === host ? 'won' : 'lost';
      each.files.set(statePath(DOMAIN, 'term.json'), formatTerm({ ...term, outcome }));
    }
  }

  looked(host: FakeHost): void {
    if (host.unit('switchover') === 'active') this.stage();
  }

  /** xl's migration, one stage at a time (tools/xl/xl_migrate.c). */
  stage(): void {
    const source = this.hosts.find((host) => host.unit('switchover') === 'active');
    if (source === undefined) return;
    const target = source.peer;
    const stage = this.migration++;
    const fails = (fault: MigrationFault): boolean => this.migrationFault === fault;
    const end = (state: string): void => {
      this.migration = 0;
      source.setUnit('switchover', state);
      target.setUnit('switchover-target', state);
      if (source.role !== 'Primary' || target.role !== 'Primary') {
        this.protocol = 'A';
        this.twoPrimaries = false;
      }
    };
    const gate =
      target.files.get(`/run/remus-drbd/${DOMAIN}/gate`) ??
      target.files.get(`/var/lib/remus-drbd/${DOMAIN}/gate`);
    switch (stage) {
      case 1:
        if (fails('connect')) return end('failed');
        target.guests.set(`${DOMAIN}--incoming`, { state: '--p---', memoryMiB: MEMORY_MIB });
        return;
      case 2:
        if (fails('live') || gate?.startsWith('shut') === true || !this.twoPrimaries) {
          target.guests.delete(`${DOMAIN}--incoming`);
          return end('failed');
        }
        source.guests.get(DOMAIN)!.state = '---ss-';
        return;
      case 3:
        target.role = 'Primary';
        if (fails('devices')) {
          target.guests.delete(`${DOMAIN}--incoming`);
          target.role = 'Secondary';
          source.guests.get(DOMAIN)!.state = '-b----';
          return end('failed');
        }
        return;
      case 4: {
        const guest = source.guests.get(DOMAIN)!;
        source.guests.delete(DOMAIN);
        source.guests.set(`${DOMAIN}--migratedaway`, guest);
        // The permission to start never arrives: the target drops its copy, and xl here does not know of it.
        if (!fails('away')) return;
        target.guests.delete(`${DOMAIN}--incoming`);
        target.role = 'Secondary';
        return end('failed');
      }
      case 5: {
        const copy = target.guests.get(`${DOMAIN}--incoming`)!;
        target.guests.delete(`${DOMAIN}--incoming`);
        target.guests.set(DOMAIN, { ...copy, state: '-b----' });
        // It runs, and xl on the source never hears of it.
        if (fails('report')) return end('failed');
        return;
      }
      default:
        source.guests.delete(`${DOMAIN}--migratedaway`);
        source.role = 'Secondary';
        end('inactive');
    }
  }
}

/** A layout of the minimal example, with these hosts. */
export async function fakeLayout(): Promise<DomainLayout> {
  const { layouts } = await loadExample('minimal');
  const layout = layouts.find(({ domain }) => domain.name === DOMAIN);
  if (layout === undefined) throw new Error('the example has no web');
  return layout;
}

/** Time passes only while the command pauses. */
export function fakeDependencies(told: string[] = []): {
  nowMs: () => number;
  pause: (ms: number) => Promise<void>;
  tell: (text: string) => void;
} {
  let nowMs = 0;
  return {
    nowMs: () => nowMs,
    pause: (ms) => {
      nowMs += ms;
      return Promise.resolve();
    },
    tell: (text) => void told.push(text),
  };
}
