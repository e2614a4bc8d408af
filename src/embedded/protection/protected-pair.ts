/**
 * An embedded pair under protection: two hosts as process trees on this machine, their guest, its clients outside, and
 * everything that a story or a test does with them.
 *
 *     start -> protect -> cut -> (undecided -> giveArbiter) -> decided -> verify -> bringBack -> recover -> compare
 *                 ^                                                                                            |
 *                 +--------------------------------------------------------------------------------------------+
 */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import { join } from 'node:path';
import { nextTerm } from '../../core/claim/term.js';
import { checkLedger } from '../../core/ledger.js';
import type { LedgerViolation } from '../../core/ledger.js';
import type { Order } from '../../core/protect/order.js';
import { nextRecoveryStep } from '../../core/protect/recovery.js';
import type { RecoveryHost, RecoveryStep } from '../../core/protect/recovery.js';
import { TermStore } from '../../edge/term-store.js';
import { EmbeddedClients } from './clients.js';
import type { ClientAnswer } from './clients.js';
import { CUT_FILE, ON_BACKUP, performCut } from './cuts.js';
import type { Cut, CutAction, CutKind } from './cuts.js';
import { EMBEDDED_VOLUMES } from './devices.js';
import { EmbeddedHosts, HOSTS } from './hosts.js';
import type { HostName, RunningHost } from './hosts.js';
import { DOMAIN, PAIR } from './jobs.js';
import type { Break, HostStatus, LedgerFacts, LogLine, SenderFacts, TermJob } from './jobs.js';
import type { MirrorState } from './mirror.js';
import { recoveryHost } from './recovery-view.js';
import { embeddedWords } from './words.js';

/** For how long it is watched that nothing happens. */
const WATCH_MS = 1_000;
/** What had left before is with the clients by then. */
const ARRIVED_MS = 200;
const LOOK_MS = 20;

export interface PairOptions {
  intervalMs: number;
  clients: number;
  thinkMs: number;
  broken: Break | null;
  /** What the disks hold at first comes of it. */
  seed: number;
  /** Leaves the folder when it ends. */
  keep: boolean;
}

/** The backup has taken over. */
export interface Failover {
  /** By the wall clock of this machine. */
  times: { detectionMs: number; claimMs: number; diskMs: number; startMs: number };
  /** The epoch that the guest went on from. */
  epoch: number;
  discardedBytes: number;
  /** What was wrong before its first instruction. */
  violations: LedgerViolation[];
  answers: number;
  count: number;
}

export interface Outcome {
  /** The host that goes on. */
  host: HostName;
  /** Null where the guest goes on where it was, without protection. */
  failover: Failover | null;
  /** From the cut until it was decided. */
  decidedMs: number;
  /** From the cut until a client was answered again. */
  answeredMs: number;
  /** What the host that goes on says of its protection. */
  says: string;
}

/** What was seen while nobody could decide. */
export interface Undecided {
  forMs: number;
  /** That came in this time. */
  answers: number;
  /** Guests that run beyond the one that was cut off. */
  started: number;
  heldPackets: number;
  says: string;
}

export interface Comparison {
  volumes: { name: string; same: boolean }[];
  heldMs: number;
}

export interface Recovery {
  /** What the real recovery did, and why. */
  steps: string[];
  blocks: number;
  ms: number;
}

interface MadeCut extends Cut {
  atMs: number;
  primary: HostName;
  backup: HostName;
  /** Answers that had come by then. */
  answers: number;
}

export class ProtectedPair {
  readonly clients: EmbeddedClients;
  readonly #hosts: EmbeddedHosts;
  readonly #options: PairOptions;
  #primary: HostName = HOSTS[0];
  #logAtProtect = 0;
  /** Of each host, at the begin of this protection. */
  #resyncs = new Map<HostName, number>();
  #cut: MadeCut | null = null;

  private constructor(hosts: EmbeddedHosts, options: PairOptions) {
    this.#hosts = hosts;
    this.#options = options;
    this.clients = new EmbeddedClients(options.clients, options.thinkMs);
  }

  /** Makes disks and certificates, and starts both hosts with the guest on the first. */
  static async start(options: PairOptions): Promise<ProtectedPair> {
    const hosts = await EmbeddedHosts.make(options.seed, options.keep);
    const pair = new ProtectedPair(hosts, options);
    try {
      await Promise.all(HOSTS.map((name) => hosts.start(name)));
      for (const { ipc } of hosts.running) await ipc.call('bringUp', null);
      await hosts.until('the mirror is connected', () => {
        return HOSTS.every((name) => hosts.mirrors.get(name)?.replication === 'Connected');
      });
      await hosts.get(HOSTS[0]).ipc.call('boot', null);
      pair.#setPlaces();
      return pair;
    } catch (error) {
      await pair.close();
      throw error;
    }
  }

  get folder(): string {
    return this.#hosts.folder;
  }

  /** The host with the guest. */
  get primary(): HostName {
    return this.#primary;
  }

  get backup(): HostName {
    return this.#primary === HOSTS[0] ? HOSTS[1] : HOSTS[0];
  }

  get sender(): SenderFacts | null {
    return this.#hosts.sender;
  }

  /** Of the host with the guest. */
  get mirror(): MirrorState | undefined {
    return this.#hosts.mirrors.get(this.#primary);
  }

  /**
   * Protects the guest where it is. Resolves at the first commit.
   * @throws Error when that does not come about
   */
  async protect(): Promise<void> {
    const order = await this.#newOrder();
    const hosts = this.#hosts;
    hosts.sender = null;
    hosts.receiver = null;
    this.#cut = null;
    this.#logAtProtect = hosts.log.length;
    this.#resyncs = new Map([...hosts.mirrors].map(([name, { resyncs }]) => [name, resyncs]));
    const [primary, backup] = [hosts.get(this.#primary), hosts.get(this.backup)];
    const listens = backup.ipc.call('startReceiver', this.#termJob(backup, order));
    hosts.controlWire.leadTo(await hosts.limited('the receiver listens', listens));
    const port = hosts.controlWire.port;
    await primary.ipc.call('startRemus', { ...this.#termJob(primary, order), port });
    await hosts.until('the first commit', () => this.sender?.protection === 'protected');
  }

  /** Ends protection by agreement: the guest runs on where it is, and its output flows. */
  async unprotect(): Promise<void> {
    await this.#hosts.get(this.#primary).ipc.call('stop', 'protection was ended by an operator');
    await this.#hosts.until('the end of protection', () => {
      return this.#hosts.receiver?.phase === 'ended' && this.sender?.protection === 'unprotected';
    });
  }

  /**
   * The next time that a checkpoint comes by its point, the cut is made; the clients have to be asking. Resolves when
   * it has been.
   */
  async cut(cut: Cut): Promise<void> {
    const { kind, point, arbiter } = cut;
    const hosts = this.#hosts;
    const [primary, backup] = [this.#primary, this.backup];
    await hosts.reachArbiter(primary, arbiter === 'both' || arbiter === 'primary');
    await hosts.reachArbiter(backup, arbiter === 'both' || arbiter === 'backup');
    const action = this.#actionOf(kind);
    if (point === 'between-checkpoints') performCut(action);
    // Whoever is told may be cut before it can answer.
    else hosts.get(ON_BACKUP.has(point) ? backup : primary).ipc.tell('arm', { point, action });
    const [first] = action.notes;
    let atMs: number | null = null;
    await hosts.until(
      `the cut at ${point}`,
      () => action.notes.every(noteTime) && (atMs = noteTime(first ?? '')) !== null,
      LOOK_MS,
    );
    this.#cut = { ...cut, atMs: atMs ?? 0, primary, backup, answers: this.clients.answers.length };
    const off = kind === 'primary' ? primary : kind === 'backup' ? backup : null;
    if (off !== null)
      await hosts.until(`${off} is off`, () => hosts.running.every(({ name }) => name !== off));
  }

  /**
   * Where nobody who could decide reaches the arbiter: waits until all of them say so, and watches for a while.
   * @returns null where somebody does
   */
  async undecided(): Promise<Undecided | null> {
    const cut = this.#made();
    const asks = { primary: cut.kind !== 'primary', backup: cut.kind !== 'backup' };
    const isReached = cut.arbiter === 'both' || (cut.arbiter !== 'none' && asks[cut.arbiter]);
    // What the hosts can agree on needs no arbiter.
    if (cut.kind === 'mirror-link' || isReached) return null;
    const hosts = this.#hosts;
    const says = (): string[] => {
      const { sender, receiver } = hosts;
      const said: string[] = [];
      if (asks.primary && sender?.phase === 'claiming') said.push(`${cut.primary}: ${sender.reason}`);
      if (asks.backup && receiver?.phase === 'claiming') said.push(`${cut.backup}: ${receiver.reason}`);
      return said;
    };
    const askers = Number(asks.primary) + Number(asks.backup);
    await hosts.until('everyone says that it is undecided', () => says().length === askers);
    await pause(ARRIVED_MS);
    const { length } = this.clients.answers;
    await pause(WATCH_MS);
    const statuses = await this.#statuses();
    const guests = [...statuses.values()].filter(({ guest }) => guest !== 'none').length;
    return {
      forMs: WATCH_MS,
      answers: this.clients.answers.length - length,
      started: guests - (asks.primary ? 1 : 0),
      heldPackets: statuses.get(cut.primary)?.heldPackets ?? 0,
      says: says().join('; '),
    };
  }

  /** From now on both hosts reach the arbiter. */
  async giveArbiter(): Promise<void> {
    for (const name of HOSTS) await this.#hosts.reachArbiter(name, true);
  }

  /** Waits until one host goes on, and looks at what it goes on with. */
  async decided(): Promise<Outcome> {
    const cut = this.#made();
    const hosts = this.#hosts;
    await hosts.until('the decision', () => {
      if (hosts.receiver?.phase === 'stuck') {
        throw new Error(`embedded receiver: it is stuck: ${hosts.receiver.reason}`);
      }
      return this.#said('failover is complete') !== undefined || this.sender?.protection === 'unprotected';
    });
    // The loser may not reach it: until it does it holds what it has, and the clients that it has with it.
    await this.giveArbiter();
    const failover = this.#said('failover is complete') === undefined ? null : await this.#failover(cut);
    if (failover !== null) this.#primary = cut.backup;
    const decidedAtMs = this.#said(
      failover === null ? 'the primary goes on alone' : 'this host takes the guest over',
    );
    const host = hosts.get(this.#primary);
    return {
      host: host.name,
      failover,
      decidedMs: (decidedAtMs?.atMs ?? cut.atMs) - cut.atMs,
      answeredMs: (await this.#answerAfter(decidedAtMs?.atMs ?? cut.atMs, host.life)) - cut.atMs,
      says:
        failover === null
          ? `${this.sender?.protection ?? ''}: ${this.sender?.reason ?? ''}`
          : `failed over: ${hosts.receiver?.reason ?? ''}`,
    };
  }

  /** Waits until every host that lives knows how it was decided. @returns the hosts that have the guest */
  async settled(): Promise<HostName[]> {
    await this.giveArbiter();
    let statuses = new Map<HostName, HostStatus>();
    await this.#hosts.until(
      'every host knows how it was decided',
      async () => {
        statuses = await this.#statuses();
        return [...statuses.values()].every((each) => !each.senderActive && !each.receiverActive);
      },
      LOOK_MS,
    );
    return [...statuses].filter(([, { guest }]) => guest !== 'none').map(([name]) => name);
  }

  /** With the clients at rest: memory and both disks agree, and every answer ever given is in all three. */
  async verify(): Promise<LedgerViolation[]> {
    this.clients.stop();
    await this.#hosts.until('the clients are at rest', () => this.clients.waiting === 0, 10);
    const facts = await this.#hosts.get(this.#primary).ipc.call('ledger', null);
    const violations = check(facts, this.clients.answers);
    this.clients.start();
    return violations;
  }

  /** Mends what was cut: the wires, or a host is switched on again, with no guest. */
  async bringBack(): Promise<void> {
    const hosts = this.#hosts;
    for (const name of HOSTS) if (hosts.running.every((each) => each.name !== name)) await hosts.start(name);
    await hosts.mirrorWire.mend();
    await hosts.controlWire.mend();
    this.#setPlaces();
  }

  /**
   * Does what the real recovery says, step by step, until it says that the guest can be protected.
   * @param onProgress of the resync, with the blocks that are left, and how many they were
   * @throws Error when it refuses
   */
  async recover(onProgress: (leftBlocks: number, blocks: number) => void): Promise<Recovery> {
    const startedMs = performance.now();
    const steps: string[] = [];
    for (;;) {
      const step = nextRecoveryStep(DOMAIN, await this.#recoveryHosts());
      if (step.do === 'protect') break;
      if (step.do === 'refuse' || step.do === 'done')
        throw new Error(`embedded recovery: ${step.do}: ${embeddedWords(step.reason)}`);
      if (step.do === 'wait') {
        const { mirror } = this;
        if (step.for === 'sync' && mirror !== undefined)
          onProgress(mirror.differingBlocks, mirror.resyncBlocks);
        await this.#hosts.nextReport(LOOK_MS);
        continue;
      }
      const host = step.do === 'connect' ? step.loser : step.host;
      steps.push(`${step.do} on ${host}: ${embeddedWords(step.reason)}`);
      await this.#act(step);
    }
    const { mirror } = this;
    const isNew = mirror !== undefined && mirror.resyncs > (this.#resyncs.get(this.#primary) ?? 0);
    return { steps, blocks: isNew ? mirror.resyncBlocks : 0, ms: performance.now() - startedMs };
  }

  /** Both hosts' disks byte for byte, while the guest is held so that nothing moves. */
  async compare(): Promise<Comparison> {
    const [primary, backup] = [this.#hosts.get(this.#primary), this.#hosts.get(this.backup)];
    const startedMs = performance.now();
    await this.#hosts.limited('the mirror is drained', primary.ipc.call('hold', null));
    const [here, there] = await Promise.all([primary.ipc.call('sums', null), backup.ipc.call('sums', null)]);
    await primary.ipc.call('letGo', null);
    return {
      volumes: EMBEDDED_VOLUMES.map(({ name }, volume) => ({ name, same: here[volume] === there[volume] })),
      heldMs: performance.now() - startedMs,
    };
  }

  /** Of the hosts that are on. */
  pids(): number[] {
    return this.#hosts.running.map(({ child }) => child.pid ?? 0);
  }

  /** Ends every process that was started. */
  async close(): Promise<void> {
    await this.clients.close();
    await this.#hosts.close();
  }

  #made(): MadeCut {
    if (this.#cut === null) throw new Error('embedded pair: nothing was cut');
    return this.#cut;
  }

  #actionOf(kind: CutKind): CutAction {
    const { mirrorWire, controlWire } = this.#hosts;
    const power = (name: HostName): CutAction => {
      const { directory, child } = this.#hosts.get(name);
      return { notes: [join(directory, CUT_FILE)], groups: [child.pid ?? 0] };
    };
    switch (kind) {
      case 'primary':
        return power(this.#primary);
      case 'backup':
        return power(this.backup);
      case 'mirror-link':
        return { notes: [mirrorWire.note], groups: [] };
      case 'control-link':
        return { notes: [controlWire.note], groups: [] };
      case 'both-links':
        return { notes: [mirrorWire.note, controlWire.note], groups: [] };
      default:
        throw new Error(`cut ${String(kind satisfies never)}`);
    }
  }

  async #failover(cut: MadeCut): Promise<Failover> {
    const backup = this.#hosts.get(cut.backup);
    const restored = await backup.ipc.call('restored', null);
    if (restored === null) throw new Error('embedded host: it started no guest');
    const { answers } = this.clients;
    // What the other host's sockets still delivered after the cut was sent before.
    const earlier = answers.filter(({ from }, index) => index < cut.answers || from !== backup.life);
    const at = (message: string): number => this.#said(message)?.atMs ?? cut.atMs;
    const step = (name: string): number => this.#step(name)?.atMs ?? cut.atMs;
    const [claiming, taking] = [at('claiming the term'), at('this host takes the guest over')];
    return {
      times: {
        detectionMs: claiming - cut.atMs,
        claimMs: taking - claiming,
        diskMs: step('open-gate') - taking,
        startMs: step('start-guest') - step('open-gate'),
      },
      epoch: this.#hosts.receiver?.committedEpoch ?? 0,
      discardedBytes: Number(this.#said('embedded blocks discarded')?.fields['bytes'] ?? 0),
      violations: check(restored.ledger, earlier),
      answers: earlier.length,
      count: restored.ledger.count,
    };
  }

  async #statuses(): Promise<Map<HostName, HostStatus>> {
    const found = new Map<HostName, HostStatus>();
    for (const { name, ipc } of this.#hosts.running) found.set(name, await ipc.call('status', null));
    return found;
  }

  async #recoveryHosts(): Promise<[RecoveryHost, RecoveryHost]> {
    const view = async (name: HostName): Promise<RecoveryHost> => {
      const host = this.#hosts.get(name);
      const term = await new TermStore(DOMAIN, host.directory).readTerm();
      const { sender, receiver } = this.#hosts;
      const undecided =
        name === this.#cut?.primary && sender?.phase === 'claiming'
          ? sender.reason
          : name === this.#cut?.backup && receiver?.phase === 'claiming'
            ? receiver.reason
            : null;
      return recoveryHost(name, await host.ipc.call('status', null), term, undecided);
    };
    return [await view(HOSTS[0]), await view(HOSTS[1])];
  }

  async #act(step: RecoveryStep): Promise<void> {
    const host = (name: string): RunningHost => this.#hosts.get(name as HostName);
    switch (step.do) {
      case 'destroy':
        return host(step.host).ipc.call('destroyGuest', null);
      case 'bring-up':
        return host(step.host).ipc.call('bringUp', null);
      case 'demote':
        return host(step.host).ipc.call('demote', null);
      case 'connect':
        await host(step.loser).ipc.call('disconnectMirror', null);
        await host(step.loser).ipc.call('connectMirror', { discard: step.discard });
        return host(step.survivor).ipc.call('connectMirror', { discard: false });
      default:
        throw new Error(`step ${step.do} is no act`);
    }
  }

  #setPlaces(): void {
    this.clients.places(this.#hosts.running.map(({ ports, life }) => ({ port: ports.guest, life })));
  }

  async #newOrder(): Promise<Order> {
    const terms = await Promise.all(
      HOSTS.map((name) => new TermStore(DOMAIN, this.#hosts.directory(name)).readTerm()),
    );
    return {
      format: 1,
      pair: PAIR,
      domain: DOMAIN,
      term: nextTerm(...terms.map((each) => each?.term)),
      session: randomBytes(16).toString('hex'),
      primary: this.#primary,
      backup: this.backup,
      intervalMs: this.#options.intervalMs,
      network: true,
      disk: true,
    };
  }

  #termJob(host: RunningHost, order: Order): TermJob {
    const peer = host.name === this.#primary ? this.backup : this.#primary;
    const file = (name: string, suffix: string): string => join(this.folder, 'tls', `${name}.${suffix}`);
    return {
      host: host.name,
      peer,
      directory: host.directory,
      arbiter: this.#hosts.arbiter(host.name),
      boot: host.boot,
      order,
      tls: {
        certPath: file(host.name, 'crt'),
        keyPath: file(host.name, 'key'),
        peerCertPath: file(peer, 'crt'),
      },
      broken: this.#options.broken,
    };
  }

  /** In this term. */
  #said(message: string): LogLine | undefined {
    return this.#hosts.log.slice(this.#logAtProtect).find((line) => line.message === message);
  }

  #step(step: string): LogLine | undefined {
    const isIt = (line: LogLine): boolean =>
      line.message === 'a step is done' && line.fields['step'] === step;
    return this.#hosts.log.slice(this.#logAtProtect).find(isIt);
  }

  /** @returns when this host answered a client first, from this time on */
  async #answerAfter(sinceMs: number, life: string): Promise<number> {
    for (;;) {
      const found = this.clients.answers.find(({ from, atMs }) => from === life && atMs >= sinceMs);
      if (found !== undefined) return found.atMs;
      await this.#hosts.limited('a client is answered again', this.clients.nextAnswer());
    }
  }
}

/** When something was cut; null where it was not. */
function noteTime(note: string): number | null {
  try {
    const text = readFileSync(note, 'latin1');
    return text === '' ? null : Number(text);
  } catch {
    return null;
  }
}

function check(facts: LedgerFacts, answers: readonly ClientAnswer[]): LedgerViolation[] {
  return checkLedger({
    answers,
    memory: { count: facts.count, entries: new Map(facts.entries), pending: new Map(facts.pending) },
    disks: facts.disks.map((entries) => new Map(entries)),
  });
}
