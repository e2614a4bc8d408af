/**
 * An embedded pair under protection: two hosts as process trees on this machine, their guest, its clients outside, and
 * everything that a story or a test does with them.
 *
 *     start -> protect -> (arm a cut | cut) -> failedOver -> verify -> bringBack -> resynchronised -> compare -> protect ...
 */
import type { ChildProcess } from 'node:child_process';
import { createHash, randomBytes, randomUUID } from 'node:crypto';
import { closeSync, openSync, rmSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, statfs, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { checkLedger } from '../../core/ledger.js';
import type { LedgerViolation } from '../../core/ledger.js';
import { nextTerm } from '../../core/claim/term.js';
import type { Order } from '../../core/protect/order.js';
import { TermStore } from '../../edge/term-store.js';
import { makeEmbeddedCertificate } from './certificate.js';
import { EmbeddedClients } from './clients.js';
import type { ClientAnswer } from './clients.js';
import { CUT_FILE, ON_BACKUP } from './cuts.js';
import type { CutPoint } from './cuts.js';
import { EMBEDDED_VOLUMES, volumePath } from './devices.js';
import { Ipc } from './ipc.js';
import { DOMAIN, PAIR } from './jobs.js';
import type {
  Break,
  ControllerCalls,
  HostCalls,
  HostJob,
  HostStatus,
  LedgerFacts,
  LogLine,
  ReceiverFacts,
  SenderFacts,
  TermJob,
} from './jobs.js';
import type { MirrorState } from './mirror.js';
import { startPart } from './program.js';

export const HOSTS = ['embedded-a', 'embedded-b'] as const;
export type HostName = (typeof HOSTS)[number];

const ENDS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
/** Only so that something that hangs ends: the slowest machine is faster. */
const LIMIT_MS = 120_000;

const MEMORY_FOLDER = '/dev/shm';
/** Twice what both hosts write. */
const MEMORY_BYTES_MIN = 256 << 20;

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

interface Host {
  name: HostName;
  directory: string;
  child: ChildProcess;
  ipc: Ipc<HostCalls, ControllerCalls>;
  exited: Promise<void>;
  life: string;
  boot: string;
  ports: { mirror: number; guest: number };
}

/** What a failover took, by the wall clock of this machine. */
export interface FailoverTimes {
  cutAtMs: number;
  detectionMs: number;
  claimMs: number;
  diskMs: number;
  startMs: number;
  /** From the cut until a client was answered again. */
  answeredMs: number;
}

export interface Failover {
  times: FailoverTimes;
  /** The epoch that the guest went on from. */
  epoch: number;
  discardedBytes: number;
  /** What was wrong before its first instruction. */
  violations: LedgerViolation[];
  answers: number;
  count: number;
}

export interface Comparison {
  volumes: { name: string; same: boolean }[];
  heldMs: number;
}

export class ProtectedPair {
  readonly folder: string;
  readonly clients: EmbeddedClients;
  readonly log: LogLine[] = [];
  /** Called with each line that the parts say. */
  onLog: ((line: LogLine) => void) | null = null;
  sender: SenderFacts | null = null;
  receiver: ReceiverFacts | null = null;
  mirror: MirrorState | null = null;
  remusError: string | null = null;
  readonly #options: PairOptions;
  readonly #hosts = new Map<HostName, Host>();
  #primary: HostName = HOSTS[0];
  #lives = 0;
  #wakers: (() => void)[] = [];
  #logAtProtect = 0;
  readonly #keeps: boolean;
  readonly #onExit = (): void => {
    this.#killAll();
    if (!this.#keeps) rmSync(this.folder, { recursive: true, force: true });
  };
  readonly #onSignal = (signal: NodeJS.Signals): void => {
    this.#onExit();
    process.off(signal, this.#onSignal);
    process.kill(process.pid, signal);
  };

  private constructor(folder: string, options: PairOptions) {
    this.folder = folder;
    this.#options = options;
    this.#keeps = options.keep;
    this.clients = new EmbeddedClients(options.clients, options.thinkMs);
    process.on('exit', this.#onExit);
    for (const signal of ENDS) process.on(signal, this.#onSignal);
  }

  /** Makes disks and certificates, and starts both hosts with the guest on the first. */
  static async start(options: PairOptions): Promise<ProtectedPair> {
    const folder = await mkdtemp(join(await roomyFolder(), 'remus-drbd-embedded-'));
    const pair = new ProtectedPair(folder, options);
    try {
      await pair.#makeFolder();
      await Promise.all(HOSTS.map((name) => pair.#startHost(name)));
      await pair.#host(HOSTS[0]).ipc.call('boot', null);
      await pair.#connectMirrors(HOSTS[0], HOSTS[1]);
      await pair.until('the mirror is connected', () => pair.mirror?.replication === 'Connected');
      pair.#setPlaces();
      return pair;
    } catch (error) {
      await pair.close();
      throw error;
    }
  }

  /** The host with the guest. */
  get primary(): HostName {
    return this.#primary;
  }

  get backup(): HostName {
    return this.#primary === HOSTS[0] ? HOSTS[1] : HOSTS[0];
  }

  /**
   * Protects the guest where it is. Resolves at the first commit.
   * @throws Error when that does not come about
   */
  async protect(): Promise<void> {
    const order = await this.#newOrder();
    this.sender = null;
    this.receiver = null;
    this.#logAtProtect = this.log.length;
    const [primary, backup] = [this.#host(this.#primary), this.#host(this.backup)];
    const port = await this.#limited(
      'the receiver listens',
      backup.ipc.call('startReceiver', this.#termJob(backup, order)),
    );
    await primary.ipc.call('startRemus', { ...this.#termJob(primary, order), port });
    await this.until('the first commit', () => this.sender?.protection === 'protected');
  }

  /** Ends protection by agreement: the guest runs on where it is, and its output flows. */
  async unprotect(): Promise<void> {
    await this.#host(this.#primary).ipc.call('stop', 'protection was ended by an operator');
    await this.until('the end of protection', () => {
      return this.receiver?.phase === 'ended' && this.sender?.protection === 'unprotected';
    });
  }

  /** The next time that a checkpoint comes by this point, the primary's power is cut. Resolves when it has been. */
  async cutAt(point: CutPoint): Promise<void> {
    const host = this.#host(this.#primary);
    if (point === 'between-checkpoints') {
      await this.#kill(host, Date.now());
    } else {
      // It may be cut before it can answer.
      this.#host(ON_BACKUP.has(point) ? this.backup : this.#primary).ipc.tell('arm', point);
      await this.#limited(`the power cut at ${point}`, host.exited);
    }
  }

  /** Waits until the other host has taken over, and compares what it began with. */
  async failedOver(): Promise<Failover> {
    const cutAtMs = await this.#cutTime();
    const backup = this.#host(this.backup);
    const dead = this.#host(this.#primary);
    await this.until('the failover', () => {
      if (this.#said('failover is complete') !== undefined) return true;
      if (this.receiver?.phase === 'ended' || this.receiver?.phase === 'stuck') {
        throw new Error(`embedded receiver: it is ${this.receiver.phase}: ${this.receiver.reason}`);
      }
      return false;
    });
    const restored = await backup.ipc.call('restored', null);
    if (restored === null) throw new Error('embedded host: it started no guest');
    this.#primary = backup.name;
    this.#hosts.delete(dead.name);
    const answeredAtMs = await this.#firstAnswer(backup.life);
    // What the dead host's sockets still delivered after it was gone was sent before.
    const answers = this.clients.answers.filter(({ from }) => from !== backup.life);
    const violations = check(restored.ledger, answers);
    const at = (message: string): number => this.#said(message)?.atMs ?? cutAtMs;
    const step = (name: string): number => this.#step(name)?.atMs ?? cutAtMs;
    const [claiming, taking] = [at('claiming the term'), at('this host takes the guest over')];
    return {
      times: {
        cutAtMs,
        detectionMs: claiming - cutAtMs,
        claimMs: taking - claiming,
        diskMs: step('open-gate') - taking,
        startMs: step('start-guest') - step('open-gate'),
        answeredMs: answeredAtMs - cutAtMs,
      },
      epoch: this.receiver?.committedEpoch ?? 0,
      discardedBytes: Number(this.#said('embedded blocks discarded')?.fields['bytes'] ?? 0),
      violations,
      answers: answers.length,
      count: restored.ledger.count,
    };
  }

  /** With the clients at rest: memory and both disks agree, and every answer ever given is in all three. */
  async verify(): Promise<LedgerViolation[]> {
    this.clients.stop();
    await this.until('the clients are at rest', () => this.clients.waiting === 0, 10);
    const facts = await this.#host(this.#primary).ipc.call('ledger', null);
    const violations = check(facts, this.clients.answers);
    this.clients.start();
    return violations;
  }

  /** Switches the dead host on again: no guest there, its mirror a sync target. */
  async bringBack(): Promise<void> {
    await this.#startHost(this.backup);
    this.mirror = null;
    await this.#connectMirrors(this.#primary, this.backup);
    this.#setPlaces();
  }

  /** @param onProgress with what is left, and how much it was */
  async resynchronised(
    onProgress: (leftBlocks: number, blocks: number) => void,
  ): Promise<{ blocks: number; ms: number }> {
    const startedMs = performance.now();
    let blocks = 0;
    await this.until('the resync', () => {
      const state = this.mirror;
      if (state === null) return false;
      blocks = Math.max(blocks, state.resyncBlocks);
      if (state.replication === 'SyncSource') onProgress(state.differingBlocks, blocks);
      return state.replication === 'Connected';
    });
    return { blocks, ms: performance.now() - startedMs };
  }

  /** Both hosts' disks byte for byte, while the guest is held so that nothing moves. */
  async compare(): Promise<Comparison> {
    const [primary, backup] = [this.#host(this.#primary), this.#host(this.backup)];
    const startedMs = performance.now();
    await this.#limited('the mirror is drained', primary.ipc.call('hold', null));
    const [here, there] = await Promise.all([primary.ipc.call('sums', null), backup.ipc.call('sums', null)]);
    await primary.ipc.call('letGo', null);
    return {
      volumes: EMBEDDED_VOLUMES.map(({ name }, volume) => ({ name, same: here[volume] === there[volume] })),
      heldMs: performance.now() - startedMs,
    };
  }

  /** Of the hosts that are on. */
  pids(): number[] {
    return [...this.#hosts.values()].map(({ child }) => child.pid ?? 0);
  }

  /** @returns the state of the host that has the guest */
  status(): Promise<HostStatus> {
    return this.#host(this.#primary).ipc.call('status', null);
  }

  /**
   * Waits for what the parts report, asking again at each report.
   * @throws Error when a part fails or after a limit that no machine needs
   */
  async until(what: string, isSo: () => boolean, againMs = 1000): Promise<void> {
    const deadline = performance.now() + LIMIT_MS;
    while (!isSo()) {
      if (this.remusError !== null) throw new Error(`embedded xl remus: ${this.remusError}`);
      if (performance.now() > deadline) throw new Error(this.#tooLate(what));
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, againMs);
        this.#wakers.push(() => {
          clearTimeout(timer);
          resolve();
        });
      });
    }
  }

  /** Ends every process that was started. */
  async close(): Promise<void> {
    process.off('exit', this.#onExit);
    for (const signal of ENDS) process.off(signal, this.#onSignal);
    await this.clients.close();
    const exits = [...this.#hosts.values()].map(({ exited }) => exited);
    this.#killAll();
    await Promise.all(exits);
    if (!this.#keeps) await rm(this.folder, { recursive: true, force: true });
  }

  #killAll(): void {
    for (const { child } of this.#hosts.values()) killTree(child);
  }

  #host(name: HostName): Host {
    const host = this.#hosts.get(name);
    if (host === undefined) throw new Error(`embedded pair: ${name} is off`);
    return host;
  }

  #directory(name: HostName): string {
    return join(this.folder, name);
  }

  async #makeFolder(): Promise<void> {
    await mkdir(join(this.folder, 'arbiter'));
    await mkdir(join(this.folder, 'tls'));
    for (const name of HOSTS) {
      await mkdir(this.#directory(name));
      const { key, certificate } = makeEmbeddedCertificate(name);
      await writeFile(join(this.folder, 'tls', `${name}.key`), key, { mode: 0o600 });
      await writeFile(join(this.folder, 'tls', `${name}.crt`), certificate);
      for (const [volume, { sizeBytes }] of EMBEDDED_VOLUMES.entries()) {
        await writeFile(
          volumePath(this.#directory(name), volume),
          firstContent(this.#options.seed, volume, sizeBytes),
        );
      }
    }
  }

  async #startHost(name: HostName): Promise<void> {
    const directory = this.#directory(name);
    const job: HostJob = { host: name, directory };
    await rm(join(directory, CUT_FILE), { force: true });
    const stderr = openSync(join(directory, 'stderr.log'), 'a');
    // A group of its own: what a power cut kills.
    const child = startPart('host', job, { stdio: ['ignore', 'ignore', stderr, 'ipc'], detached: true });
    closeSync(stderr);
    const exited = new Promise<void>((resolve) => {
      child.once('exit', () => {
        this.#wake();
        resolve();
      });
    });
    const ipc = new Ipc<HostCalls, ControllerCalls>(child, {
      log: (line) => {
        this.log.push(line);
        this.onLog?.(line);
        this.#wake();
      },
      senderFacts: (facts) => {
        this.sender = facts;
        this.#wake();
      },
      receiverFacts: (facts) => {
        this.receiver = facts;
        this.#wake();
      },
      mirror: (state) => {
        if (name === this.#primary) this.mirror = state;
        this.#wake();
      },
      cutPeer: () => this.#kill(this.#host(this.#primary), Date.now()),
      remusEnded: (error) => {
        this.remusError = error;
        this.#wake();
      },
    });
    const host: Host = {
      ...{ name, directory, child, ipc, exited, boot: randomUUID(), ports: { mirror: 0, guest: 0 } },
      life: `${name}#${++this.#lives}`,
    };
    this.#hosts.set(name, host);
    host.ports = await this.#limited(`${name} is up`, ipc.call('ports', null));
  }

  #setPlaces(): void {
    this.clients.places([...this.#hosts.values()].map(({ ports, life }) => ({ port: ports.guest, life })));
  }

  async #connectMirrors(from: HostName, to: HostName): Promise<void> {
    await this.#host(from).ipc.call('connectMirror', this.#host(to).ports.mirror);
  }

  async #newOrder(): Promise<Order> {
    const terms = await Promise.all(
      HOSTS.map((name) => new TermStore(DOMAIN, this.#directory(name)).readTerm()),
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

  #termJob(host: Host, order: Order): TermJob {
    const peer = host.name === this.#primary ? this.backup : this.#primary;
    const file = (name: string, suffix: string): string => join(this.folder, 'tls', `${name}.${suffix}`);
    return {
      host: host.name,
      peer,
      directory: host.directory,
      arbiter: join(this.folder, 'arbiter'),
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

  async #kill(host: Host, nowMs: number): Promise<void> {
    await writeFile(join(host.directory, CUT_FILE), String(nowMs));
    killTree(host.child);
    await host.exited;
  }

  async #cutTime(): Promise<number> {
    return Number(await readFile(join(this.#directory(this.#primary), CUT_FILE), 'utf8'));
  }

  /** In this term. */
  #said(message: string): LogLine | undefined {
    return this.log.slice(this.#logAtProtect).find((line) => line.message === message);
  }

  #step(step: string): LogLine | undefined {
    const isIt = (line: LogLine): boolean =>
      line.message === 'a step is done' && line.fields['step'] === step;
    return this.log.slice(this.#logAtProtect).find(isIt);
  }

  async #firstAnswer(life: string): Promise<number> {
    for (;;) {
      const found = this.clients.answers.find(({ from }) => from === life);
      if (found !== undefined) return found.atMs;
      await this.#limited('a client is answered again', this.clients.nextAnswer());
    }
  }

  /** Everything that helps whoever has to find out why. */
  #tooLate(what: string): string {
    const { sender, receiver, mirror } = this;
    const last = this.log.slice(-12).map((line) => {
      return `  ${line.host} ${line.part}: ${line.message} ${JSON.stringify(line.fields)}`;
    });
    return [
      `embedded pair: ${what}: not within ${LIMIT_MS} ms; the last that was said:`,
      `  sender ${sender?.protection ?? 'none'}: ${sender?.reason ?? ''}`,
      `  receiver ${receiver?.phase ?? 'none'}: ${receiver?.reason ?? ''}`,
      `  mirror ${JSON.stringify(mirror)}`,
      ...last,
    ].join('\n');
  }

  #wake(): void {
    for (const wake of this.#wakers.splice(0)) wake();
  }

  async #limited<T>(what: string, work: Promise<T>): Promise<T> {
    let timer: NodeJS.Timeout | null = null;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(
        () => reject(new Error(`embedded pair: ${what}: not within ${LIMIT_MS} ms`)),
        LIMIT_MS,
      );
    });
    try {
      return await Promise.race([work, late]);
    } finally {
      if (timer !== null) clearTimeout(timer);
    }
  }
}

/**
 * Memory, where there is enough: a power cut here is the end of processes, not of the kernel with its page cache, so
 * a disk would only make it slower.
 */
async function roomyFolder(): Promise<string> {
  try {
    const { bavail, bsize } = await statfs(MEMORY_FOLDER);
    if (bavail * bsize >= MEMORY_BYTES_MIN) return MEMORY_FOLDER;
  } catch {
    // There is none.
  }
  return tmpdir();
}

/** A process and all that it has started. Those that are gone already are none of our business. */
function killTree(child: ChildProcess): void {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  try {
    process.kill(-child.pid, 'SIGKILL');
  } catch {
    child.kill('SIGKILL');
  }
}

function check(facts: LedgerFacts, answers: readonly ClientAnswer[]): LedgerViolation[] {
  return checkLedger({
    answers,
    memory: { count: facts.count, entries: new Map(facts.entries), pending: new Map(facts.pending) },
    disks: facts.disks.map((entries) => new Map(entries)),
  });
}

/** What a first sync has made equal: anything but zeroes, the same on both hosts. */
function firstContent(seed: number, volume: number, sizeBytes: number): Buffer {
  // The ledger begins empty.
  const bytes = Buffer.alloc(sizeBytes);
  const piece = createHash('sha512').update(`${seed} ${volume}`).digest();
  for (let at = 4 << 20; at < sizeBytes; at += piece.length) piece.copy(bytes, at);
  return bytes;
}
