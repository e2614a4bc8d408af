/**
 * The two embedded hosts as this process has them: process trees that are switched on and cut, the two wires between
 * them, the directory that is their arbiter, and what their parts report.
 *
 *     FOLDER/HOST/           a host's disks, journal and records
 *     FOLDER/HOST/arbiter    a link to FOLDER/arbiter, while this host reaches it
 *     FOLDER/tls/            certificates
 *     FOLDER/cut-mirror, FOLDER/cut-control   while that wire is cut
 */
import type { ChildProcess } from 'node:child_process';
import { createHash, randomUUID } from 'node:crypto';
import { closeSync, openSync, rmSync } from 'node:fs';
import { mkdir, mkdtemp, rm, statfs, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { makeEmbeddedCertificate } from './certificate.js';
import { CUT_FILE } from './cuts.js';
import { EMBEDDED_VOLUMES, volumePath } from './devices.js';
import { Ipc } from './ipc.js';
import type { ControllerCalls, HostCalls, HostJob, LogLine, ReceiverFacts, SenderFacts } from './jobs.js';
import type { MirrorState } from './mirror.js';
import { startPart } from './program.js';
import { EmbeddedWire } from './wire.js';
import { embeddedWords } from './words.js';

export const HOSTS = ['embedded-a', 'embedded-b'] as const;
export type HostName = (typeof HOSTS)[number];

const ENDS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
/** Only so that something that hangs ends: the slowest machine is faster. */
const LIMIT_MS = 120_000;
const MEMORY_FOLDER = '/dev/shm';
/** Twice what both hosts write. */
const MEMORY_BYTES_MIN = 256 << 20;

export interface RunningHost {
  name: HostName;
  directory: string;
  child: ChildProcess;
  ipc: Ipc<HostCalls, ControllerCalls>;
  exited: Promise<void>;
  /** Between a switching on and a power cut; the clients know hosts by it. */
  life: string;
  boot: string;
  ports: { mirror: number; guest: number };
}

export class EmbeddedHosts {
  readonly folder: string;
  readonly mirrorWire: EmbeddedWire;
  readonly controlWire: EmbeddedWire;
  readonly log: LogLine[] = [];
  sender: SenderFacts | null = null;
  receiver: ReceiverFacts | null = null;
  readonly mirrors = new Map<HostName, MirrorState>();
  remusError: string | null = null;
  readonly #hosts = new Map<HostName, RunningHost>();
  #lives = 0;
  #wakers: (() => void)[] = [];
  readonly #keep: boolean;
  readonly #onExit = (): void => {
    this.#killAll();
    if (!this.#keep) rmSync(this.folder, { recursive: true, force: true });
  };
  readonly #onSignal = (signal: NodeJS.Signals): void => {
    this.#onExit();
    process.off(signal, this.#onSignal);
    process.kill(process.pid, signal);
  };

  private constructor(folder: string, wires: [EmbeddedWire, EmbeddedWire], keep: boolean) {
    this.folder = folder;
    [this.mirrorWire, this.controlWire] = wires;
    this.#keep = keep;
    process.on('exit', this.#onExit);
    for (const signal of ENDS) process.on(signal, this.#onSignal);
  }

  /**
   * Disks, certificates, wires and arbiter; both hosts are off.
   * @param seed what the disks hold at first comes of it
   * @param keep leaves the folder at the end
   */
  static async make(seed: number, keep: boolean): Promise<EmbeddedHosts> {
    const folder = await mkdtemp(join(await roomyFolder(), 'remus-drbd-embedded-'));
    await mkdir(join(folder, 'arbiter'));
    await mkdir(join(folder, 'tls'));
    const hosts = new EmbeddedHosts(
      folder,
      [
        await EmbeddedWire.lay(join(folder, 'cut-mirror')),
        await EmbeddedWire.lay(join(folder, 'cut-control')),
      ],
      keep,
    );
    try {
      for (const name of HOSTS) await hosts.#fill(name, seed);
      return hosts;
    } catch (error) {
      await hosts.close();
      throw error;
    }
  }

  /** @throws Error when the folder has no room */
  async #fill(name: HostName, seed: number): Promise<void> {
    const directory = this.directory(name);
    await mkdir(directory);
    await this.reachArbiter(name, true);
    const { key, certificate } = makeEmbeddedCertificate(name);
    await writeFile(join(this.folder, 'tls', `${name}.key`), key, { mode: 0o600 });
    await writeFile(join(this.folder, 'tls', `${name}.crt`), certificate);
    for (const [volume, { sizeBytes }] of EMBEDDED_VOLUMES.entries()) {
      await writeFile(volumePath(directory, volume), firstContent(seed, volume, sizeBytes));
    }
  }

  directory(name: HostName): string {
    return join(this.folder, name);
  }

  arbiter(name: HostName): string {
    return join(this.directory(name), 'arbiter');
  }

  /** @throws Error when it is off */
  get(name: HostName): RunningHost {
    const host = this.#hosts.get(name);
    if (host === undefined) throw new Error(`embedded pair: ${name} is off`);
    return host;
  }

  /** Those that are on. */
  get running(): RunningHost[] {
    return [...this.#hosts.values()];
  }

  /** Whether this host reaches the arbiter from now on. */
  async reachArbiter(name: HostName, reaches: boolean): Promise<void> {
    const path = this.arbiter(name);
    await rm(path, { force: true });
    if (reaches) await symlink(join(this.folder, 'arbiter'), path);
  }

  /** Switches a host on. Its mirror is not up yet. */
  async start(name: HostName): Promise<void> {
    const directory = this.directory(name);
    // The first one finds the other, over the wire.
    const job: HostJob = { host: name, directory, peerPort: name === HOSTS[0] ? this.mirrorWire.port : null };
    await rm(join(directory, CUT_FILE), { force: true });
    const stderr = openSync(join(directory, 'stderr.log'), 'a');
    // A group of its own: what a power cut kills.
    const child = startPart('host', job, { stdio: ['ignore', 'ignore', stderr, 'ipc'], detached: true });
    closeSync(stderr);
    const exited = new Promise<void>((resolve) => {
      child.once('exit', () => {
        this.#hosts.delete(name);
        this.mirrors.delete(name);
        this.#wake();
        resolve();
      });
    });
    const ipc = new Ipc<HostCalls, ControllerCalls>(child, {
      log: (line) => {
        this.log.push(line);
        this.#wake();
      },
      senderFacts: (facts) => {
        this.sender = { ...facts, reason: embeddedWords(facts.reason) };
        this.#wake();
      },
      receiverFacts: (facts) => {
        this.receiver = { ...facts, reason: embeddedWords(facts.reason) };
        this.#wake();
      },
      mirror: (state) => {
        this.mirrors.set(name, state);
        this.#wake();
      },
      remusEnded: (error) => {
        this.remusError = error;
        this.#wake();
      },
    });
    const host: RunningHost = {
      ...{ name, directory, child, ipc, exited, boot: randomUUID(), ports: { mirror: 0, guest: 0 } },
      life: `${name}#${++this.#lives}`,
    };
    this.#hosts.set(name, host);
    host.ports = await this.limited(`${name} is up`, ipc.call('ports', null));
    if (job.peerPort === null) this.mirrorWire.leadTo(host.ports.mirror);
  }

  /**
   * Waits for what the parts report, asking again at each report.
   * @throws Error when a part fails or after a limit that no machine needs
   */
  async until(what: string, isSo: () => boolean | Promise<boolean>, againMs = 1000): Promise<void> {
    const deadline = performance.now() + LIMIT_MS;
    while (!(await isSo())) {
      if (this.remusError !== null) throw new Error(`embedded xl remus: ${this.remusError}`);
      if (performance.now() > deadline) throw new Error(this.#tooLate(what));
      await this.nextReport(againMs);
    }
  }

  /** Resolves at the next report, or after a time. */
  nextReport(againMs: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, againMs);
      this.#wakers.push(() => {
        clearTimeout(timer);
        resolve();
      });
    });
  }

  /** @throws Error when it takes longer than any machine needs */
  async limited<T>(what: string, work: Promise<T>): Promise<T> {
    let timer: NodeJS.Timeout | null = null;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error(this.#tooLate(what))), LIMIT_MS);
    });
    try {
      return await Promise.race([work, late]);
    } finally {
      if (timer !== null) clearTimeout(timer);
    }
  }

  /** Ends every process that was started. */
  async close(): Promise<void> {
    process.off('exit', this.#onExit);
    for (const signal of ENDS) process.off(signal, this.#onSignal);
    const exits = this.running.map(({ exited }) => exited);
    this.#killAll();
    await Promise.all(exits);
    this.mirrorWire.close();
    this.controlWire.close();
    if (!this.#keep) await rm(this.folder, { recursive: true, force: true });
  }

  #killAll(): void {
    for (const { child } of this.#hosts.values()) killTree(child);
  }

  /** Everything that helps whoever has to find out why. */
  #tooLate(what: string): string {
    const { sender, receiver } = this;
    const last = this.log.slice(-12).map((line) => {
      return embeddedWords(`  ${line.host} ${line.part}: ${line.message} ${JSON.stringify(line.fields)}`);
    });
    return [
      `embedded pair: ${what}: not within ${LIMIT_MS} ms; the last that was said:`,
      `  sender ${sender?.protection ?? 'none'}: ${sender?.reason ?? ''}`,
      `  receiver ${receiver?.phase ?? 'none'}: ${receiver?.reason ?? ''}`,
      ...[...this.mirrors].map(([name, state]) => `  embedded mirror of ${name} ${JSON.stringify(state)}`),
      ...last,
    ].join('\n');
  }

  #wake(): void {
    for (const wake of this.#wakers.splice(0)) wake();
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

/** What a first sync has made equal: anything but zeroes, the same on both hosts. */
function firstContent(seed: number, volume: number, sizeBytes: number): Buffer {
  // The ledger begins empty.
  const bytes = Buffer.alloc(sizeBytes);
  const piece = createHash('sha512').update(`${seed} ${volume}`).digest();
  for (let at = 4 << 20; at < sizeBytes; at += piece.length) piece.copy(bytes, at);
  return bytes;
}
