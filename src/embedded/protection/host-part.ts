/**
 * An embedded host: one process that stands for a machine with its kernel, its hypervisor and its network. Sender and
 * receiver are its children, in its process group, so that a signal to the group is a power cut.
 */
import type { ChildProcess } from 'node:child_process';
import { createHash, randomInt } from 'node:crypto';
import { rm, readFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import type { AddressInfo, Server, Socket } from 'node:net';
import { once } from 'node:events';
import { join } from 'node:path';
import { LEDGER_BLOCK_BYTES, LEDGER_BLOCK_ENTRIES, readLedgerEntries } from '../../core/ledger.js';
import type { GuestEnd } from '../../core/protect/types.js';
import { BARRIER, EMBEDDED_VOLUMES, EmbeddedDevices, volumePath } from './devices.js';
import { GUEST_DISKS, LEDGER_BLOCKS, readMemoryLedger } from './guest.js';
import type { EmbeddedGuest } from './guest.js';
import { BANNER, EmbeddedHypervisor } from './hypervisor.js';
import type { IncomingGuest } from './hypervisor.js';
import type { EmbeddedMemory } from './memory.js';
import { Ipc } from './ipc.js';
import { recoverEmbeddedJournal } from './journal-recovery.js';
import { XL_SOCKET } from './jobs.js';
import type {
  ControllerCalls,
  HostCalls,
  HostJob,
  LedgerFacts,
  PartCalls,
  ReceiverCalls,
  SenderCalls,
  SenderJob,
  TermJob,
} from './jobs.js';
import { EmbeddedMirror } from './mirror.js';
import type { MirrorState } from './mirror.js';
import { EmbeddedOutputBuffer } from './output-buffer.js';
import { readJob, startPart } from './program.js';

/** So many blocks behind the last count are looked at, too: what is there would be ahead of memory. */
const LOOK_AHEAD_BLOCKS = 64;

/** They are kept in 32 bits; so many connections more are never made. */
const CONNECTION_MAX = 0x7fff_ffff;

export async function runHostPart(): Promise<void> {
  const host = new EmbeddedHost(readJob<HostJob>());
  // Without whoever tells its story there is nobody left to end it.
  process.on('disconnect', () => process.kill(0, 'SIGKILL'));
  await host.run();
}

class EmbeddedHost {
  readonly #job: HostJob;
  readonly #controller: Ipc<ControllerCalls, HostCalls>;
  readonly #devices: EmbeddedDevices;
  readonly #mirror: EmbeddedMirror;
  readonly #hypervisor: EmbeddedHypervisor;
  readonly #connections = new Map<number, Socket>();
  /** A restored guest still has numbers of the host that it came from: none may be the same. */
  #nextConnection = randomInt(CONNECTION_MAX);
  #output: EmbeddedOutputBuffer;
  #front: Server | null = null;
  #mirrorPort = 0;
  #sender: Ipc<PartCalls, SenderCalls> | null = null;
  #receiver: Ipc<PartCalls, ReceiverCalls> | null = null;
  #gate = { open: true, reason: 'it is not protected' };
  #copy: { incoming: IncomingGuest; socket: Socket } | null = null;
  #startedWaiters: ((error: Error | null) => void)[] = [];
  #startResult: { error: Error | null } | null = null;
  #restored: { checkpoint: number; copy: LedgerCopy } | null = null;

  constructor(job: HostJob) {
    this.#job = job;
    this.#devices = new EmbeddedDevices(job.directory);
    this.#mirror = new EmbeddedMirror(job, this.#devices, (state) => this.#mirrorSaid(state));
    this.#output = this.#newOutput();
    this.#hypervisor = new EmbeddedHypervisor({
      write: (disk, offsetBytes, bytes) => this.#mirror.write(disk, offsetBytes, bytes),
      send: (connection, text) => this.#output.send({ connection, text }),
    });
    this.#controller = new Ipc<ControllerCalls, HostCalls>(process as never, this.#handlers());
  }

  async run(): Promise<void> {
    this.#mirrorPort = await this.#mirror.listen();
    this.#front = createServer((socket) => this.#client(socket));
    this.#front.listen(0, '127.0.0.1');
    await once(this.#front, 'listening');
    const socketPath = join(this.#job.directory, XL_SOCKET);
    await rm(socketPath, { force: true });
    const xl = createServer({ allowHalfOpen: true }, (socket) => this.#migrateReceive(socket));
    xl.listen(socketPath);
    await once(xl, 'listening');
    this.#log('info', 'the embedded host is up', {});
  }

  #handlers(): ConstructorParameters<typeof Ipc<ControllerCalls, HostCalls>>[1] {
    return {
      ports: async () => {
        while (this.#front?.listening !== true) await new Promise((resolve) => setTimeout(resolve, 5));
        return { mirror: this.#mirrorPort, guest: (this.#front.address() as AddressInfo).port };
      },
      bringUp: async () => {
        const recovered = await recoverEmbeddedJournal(this.#job);
        if (recovered !== null) this.#log('info', 'the embedded journal was recovered', { ...recovered });
        this.#mirror.up();
      },
      boot: () => {
        this.#mirror.promote();
        this.#hypervisor.boot();
      },
      connectMirror: ({ discard }) => this.#mirror.connect(discard),
      disconnectMirror: () => this.#mirror.disconnect(),
      demote: () => this.#mirror.demote(),
      destroyGuest: () => this.#destroyGuest(),
      startReceiver: (job) => this.#startReceiver(job),
      startRemus: (job) => this.#startRemus(job),
      arm: async (cut) => {
        await this.#sender?.call('arm', cut);
        await this.#receiver?.call('arm', cut);
      },
      stop: async (reason) => void (await this.#sender?.call('stop', reason)),
      status: () => {
        const guest = this.#hypervisor.guest;
        return {
          mirror: this.#mirror.state(),
          guest: guest === null ? 'none' : guest.runs ? 'running' : 'suspended',
          count: guest?.count ?? 0,
          heldPackets: this.#output.held,
          senderActive: this.#sender !== null,
          receiverActive: this.#receiver !== null,
          failure: guest?.failure?.message ?? null,
        };
      },
      hold: async () => {
        this.#need().suspend('held');
        await this.#mirror.drained();
      },
      letGo: () => this.#need().resume('held'),
      sums: async () => {
        const sums: string[] = [];
        for (const volume of EMBEDDED_VOLUMES.keys()) {
          const bytes = await readFile(volumePath(this.#job.directory, volume));
          sums.push(createHash('sha256').update(bytes).digest('hex'));
        }
        return sums;
      },
      ledger: async () => readCopy(await this.#copyLedger(this.#need())),
      restored: () => {
        if (this.#restored === null) return null;
        const { checkpoint, copy } = this.#restored;
        return { checkpoint, ledger: readCopy(copy) };
      },
    };
  }

  #need(): EmbeddedGuest {
    const { guest } = this.#hypervisor;
    if (guest === null) throw new Error(`embedded host ${this.#job.host}: it has no guest`);
    return guest;
  }

  #newOutput(): EmbeddedOutputBuffer {
    return new EmbeddedOutputBuffer(
      ({ connection, text }) => void this.#connections.get(connection)?.write(text),
    );
  }

  /** A client of the guest: a line with a token is a request. */
  #client(socket: Socket): void {
    socket.on('error', () => undefined);
    if (this.#hypervisor.guest === null) {
      socket.destroy();
      return;
    }
    socket.setNoDelay(true);
    const connection = this.#nextConnection++;
    this.#connections.set(connection, socket);
    socket.on('close', () => this.#connections.delete(connection));
    let text = '';
    socket.setEncoding('latin1').on('data', (more: string) => {
      const lines = (text + more).split('\n');
      text = lines.pop() ?? '';
      for (const token of lines) this.#hypervisor.guest?.request(connection, token);
    });
  }

  #mirrorSaid(state: MirrorState): void {
    this.#controller.tell('mirror', state);
    const connected = state.replication === 'Connected';
    const said = { connected, reason: connected ? '' : state.replication };
    this.#sender?.tell('disk', said);
    this.#receiver?.tell('disk', said);
  }

  async #startReceiver(job: TermJob): Promise<number> {
    const child = startPart('receiver', job, { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
    this.#gate = { open: false, reason: 'the receiver is starting' };
    return new Promise((resolve, reject) => {
      child.once('exit', (code) => {
        this.#receiver = null;
        reject(new Error(`embedded receiver: it ended with ${code ?? 'a signal'}`));
      });
      this.#receiver = new Ipc<PartCalls, ReceiverCalls>(child, {
        listening: (port) => {
          // As it is now: until here nobody told it.
          this.#mirrorSaid(this.#mirror.state());
          resolve(port);
        },
        suspendDevices: () => this.#devices.suspend(),
        loadDevices: (socket) => this.#devices.load(socket),
        gate: (gate) => void (this.#gate = gate),
        disconnect: () => this.#mirror.disconnect(),
        connectMirror: () => this.#mirror.connect(false),
        promote: () => this.#mirror.promote(),
        writeBack: async ({ volume, offsetBytes, lengthBytes }) => {
          const index = EMBEDDED_VOLUMES.findIndex(({ name }) => name === volume);
          const bytes = await this.#mirror.read(index, offsetBytes, lengthBytes);
          await this.#mirror.write(index, offsetBytes, bytes);
        },
        guestStarted: () => this.#guestStarted(),
        dropCopy: () => this.#dropCopy(),
        log: (line) => this.#controller.tell('log', line),
        facts: (facts) => this.#controller.tell('receiverFacts', facts),
      });
    });
  }

  /** The embedded `xl remus`. */
  #startRemus(job: SenderJob): void {
    const ended = this.#hypervisor.remus(job.order.intervalMs, (stdin): ChildProcess => {
      const child = startPart('sender', job, { stdio: [stdin, 'pipe', 'inherit', 'ipc'] });
      this.#sender = new Ipc<PartCalls, SenderCalls>(child, {
        mark: (epoch) => this.#output.mark(epoch),
        release: (epoch) => this.#output.release(epoch),
        openOutput: () => this.#output.open(),
        dropOutput: () => this.#output.drop(),
        marker: (bytes) => this.#mirror.write(BARRIER, 0, bytes),
        guestEnd: (): GuestEnd | null => (this.#hypervisor.guest === null ? 'gone' : null),
        destroyGuest: () => this.#destroyGuest(),
        log: (line) => this.#controller.tell('log', line),
        facts: (facts) => this.#controller.tell('senderFacts', facts),
      });
      child.once('exit', () => (this.#sender = null));
      this.#mirrorSaid(this.#mirror.state());
      return child;
    });
    ended.then(
      () => this.#controller.tell('remusEnded', null),
      (error: unknown) => this.#controller.tell('remusEnded', (error as Error).message),
    );
  }

  #destroyGuest(): void {
    this.#hypervisor.destroy();
    for (const socket of this.#connections.values()) socket.destroy();
  }

  /** The embedded `xl migrate-receive -r`: one for each connection. */
  #migrateReceive(socket: Socket): void {
    const incoming = this.#hypervisor.receive();
    const copy = { incoming, socket };
    this.#copy = copy;
    this.#startResult = null;
    socket.on('error', () => undefined);
    socket.write(BANNER);
    socket.on('data', (bytes: Buffer) => {
      try {
        incoming.push(bytes);
      } catch (error) {
        this.#log('error', 'the embedded xl migrate-receive failed', { reason: (error as Error).message });
        socket.destroy();
      }
    });
    socket.on('end', () => {
      if (this.#copy !== copy) return;
      this.#startGuest(incoming).then(
        () => this.#started(null),
        (error: unknown) => this.#started(error as Error),
      );
    });
  }

  async #startGuest(incoming: IncomingGuest): Promise<void> {
    if (!this.#gate.open) throw new Error(`embedded block script: the gate is shut: ${this.#gate.reason}`);
    if (this.#mirror.state().role !== 'primary') throw new Error('embedded block script: it is not primary');
    const { guest, checkpoint } = incoming.finish();
    // What is there before its first instruction: memory and disks have to be of one moment.
    this.#restored = { checkpoint, copy: await this.#copyLedger(guest) };
    this.#output = this.#newOutput();
    guest.restart();
  }

  #started(error: Error | null): void {
    this.#copy?.socket.destroy();
    this.#copy = null;
    this.#startResult = { error };
    if (error !== null) this.#log('error', 'the copy was not started', { reason: error.message });
    for (const waiter of this.#startedWaiters.splice(0)) waiter(error);
  }

  #guestStarted(): Promise<void> {
    return new Promise((resolve, reject) => {
      const settle = (error: Error | null): void => {
        if (error === null) resolve();
        else reject(error);
      };
      if (this.#startResult === null) this.#startedWaiters.push(settle);
      else settle(this.#startResult.error);
    });
  }

  #dropCopy(): void {
    const copy = this.#copy;
    this.#copy = null;
    copy?.socket.destroy();
  }

  async #copyLedger(guest: EmbeddedGuest): Promise<LedgerCopy> {
    const memory = guest.memory.copy();
    const blocks = Math.min(LEDGER_BLOCKS, Math.ceil(guest.count / LEDGER_BLOCK_ENTRIES) + LOOK_AHEAD_BLOCKS);
    const disks: Buffer[] = [];
    for (let disk = 0; disk < GUEST_DISKS; disk++) {
      disks.push(await this.#mirror.read(disk, 0, blocks * LEDGER_BLOCK_BYTES));
    }
    return { memory, disks };
  }

  #log(level: 'info' | 'error', message: string, fields: Record<string, unknown>): void {
    const { host } = this.#job;
    this.#controller.tell('log', { part: 'host', host, atMs: Date.now(), level, message, fields });
  }
}

/** Of one moment; read later, since reading takes longer than a guest should wait. */
interface LedgerCopy {
  memory: EmbeddedMemory;
  disks: Buffer[];
}

function readCopy({ memory, disks }: LedgerCopy): LedgerFacts {
  const { count, entries, pending } = readMemoryLedger(memory);
  return {
    count,
    entries: [...entries],
    pending: [...pending].map(([each, missing]) => [each, [...missing]]),
    disks: disks.map((bytes) => [...readLedgerEntries(bytes)]),
  };
}
