/**
 * The receiver on an embedded host: the real receiver (`src/protect/receiver.ts`), link, epoch journal and NBD server;
 * the mirror, the gate and `xl migrate-receive` are the embedded host's, asked over the channel to it and reached by a
 * unix socket.
 */
import { once } from 'node:events';
import { connect } from 'node:net';
import { join } from 'node:path';
import { DirectoryArbiter } from '../../arbiter/directory.js';
import { judgeHello } from '../../core/link/judge.js';
import { listenLink } from '../../link/server.js';
import { TermStore } from '../../edge/term-store.js';
import { claimFrom } from '../../protect/claim.js';
import { noteClaim } from '../../protect/decision.js';
import { identityOf } from '../../protect/host-domain.js';
import { onCleanup, takeSession } from '../../protect/receiver-host.js';
import { Receiver } from '../../protect/receiver.js';
import type { BackupDisks, Copy, CopyEvents, ReceiverEdges } from '../../protect/receiver.js';
import { EmbeddedDisks } from './backup-disks.js';
import { performCut } from './cuts.js';
import type { CutPoint } from './cuts.js';
import { Ipc } from './ipc.js';
import { DOMAIN, FAIL_AFTER_MS, PROGRAM, XL_SOCKET } from './jobs.js';
import type { ArmedCut, LogLine, PartCalls, ReceiverCalls, TermJob } from './jobs.js';
import { readJob } from './program.js';

const FACTS_MS = 100;
const STEP_ATTEMPTS_MAX = 3;

export async function runReceiverPart(): Promise<void> {
  const job = readJob<TermJob>();
  const part = new ReceiverPart(job);
  await part.run();
  process.exit(0);
}

class ReceiverPart {
  readonly #job: TermJob;
  readonly #ipc: Ipc<ReceiverCalls, PartCalls>;
  readonly #disks: EmbeddedDisks;
  readonly #receiver: Receiver;
  #session: string | null = null;
  #armed: ArmedCut | null = null;

  constructor(job: TermJob) {
    this.#job = job;
    this.#ipc = new Ipc<ReceiverCalls, PartCalls>(process as never, {
      disk: ({ connected }) => this.#receiver.disk(connected),
      stop: (reason) => this.#receiver.stop(reason),
      arm: (cut) => void (this.#armed = cut),
    });
    process.on('disconnect', () => process.exit(1));
    const events = {
      onMarker: (epoch: number) => {
        this.#passes('marker-in-journal');
        this.#receiver.marker(epoch);
      },
      onFailed: (reason: string) => this.#receiver.journalFailed(reason),
    };
    this.#disks = new EmbeddedDisks(job, this.#ipc, events, {
      info: (message, fields) => {
        if (message.startsWith('embedded')) this.#log('info', message, fields);
      },
      warn: (message, fields) => this.#log('warn', message, fields),
    });
    this.#receiver = new Receiver(
      { failAfterMs: FAIL_AFTER_MS, onCrash: 'stop', disk: true, attemptsMax: STEP_ATTEMPTS_MAX },
      this.#edges(),
    );
  }

  async run(): Promise<void> {
    const { order, tls, host } = this.#job;
    const receiver = this.#receiver;
    await this.#disks.prepare();
    const identity = identityOf(order);
    const listener = await listenLink({
      listen: { address: '127.0.0.1', port: 0, tls },
      program: PROGRAM,
      host,
      log: {
        info: (message, fields) => this.#log('info', message, fields),
        warn: (message, fields) => this.#log('warn', message, fields),
      },
      authorise: (hello) => {
        const verdict = judgeHello(hello, {
          pair: order.pair,
          domain: order.domain,
          peer: this.#job.peer,
          term: order.term,
          usedSessions: new Set(this.#session === null ? [] : [this.#session]),
          ...(this.#session === null ? {} : { current: { term: order.term, session: this.#session } }),
        });
        if (verdict.take && hello.purpose === 'control') this.#session = order.session;
        return verdict;
      },
      onSession: (link) => takeSession(receiver, identity, link),
      onCleanup: (control, hello) => onCleanup(receiver, control, hello),
    });
    const timer = setInterval(() => void this.#report().catch(() => undefined), FACTS_MS);
    await this.#ipc.call('listening', listener.port);
    try {
      await receiver.finished;
    } finally {
      clearInterval(timer);
      await this.#report().catch(() => undefined);
      await listener.close();
    }
  }

  #edges(): ReceiverEdges {
    const { order, host, directory, arbiter } = this.#job;
    return {
      startCopy: (events) => new EmbeddedCopy(directory, this.#ipc, events),
      disks: this.#disksWithCuts(),
      enter: () => Promise.resolve(),
      claim: async (onUndecided, wanted) => {
        await noteClaim(directory, order.term);
        return claimFrom(
          new DirectoryArbiter(arbiter),
          order,
          host,
          (reason) => onUndecided(reason, true),
          wanted,
        );
      },
      record: async (decision, reason) => {
        const store = new TermStore(DOMAIN, directory);
        const { term, session } = order;
        const outcome = decision === 'primary' ? 'roll-forward' : 'discard';
        await store.writeDecision({ term, outcome, by: host, reason });
        await store.writeTerm({
          ...{ term, session, role: 'backup', phase: 'ended', boot: this.#job.boot },
          outcome: decision === 'backup' ? 'won' : 'lost',
        });
      },
      nowMs: () => performance.now(),
      log: (level, message, fields) => this.#log(level, message, fields),
    };
  }

  #disksWithCuts(): BackupDisks {
    const disks = this.#disks;
    return {
      startSession: (identity) => disks.startSession(identity),
      commit: async (epoch) => {
        this.#passes('commit-begins');
        await disks.commit(epoch);
        this.#passes('commit-durable');
      },
      step: (step) => disks.step(step),
      used: () => disks.used(),
    };
  }

  #passes(point: CutPoint): void {
    if (this.#armed?.point !== point) return;
    const { action } = this.#armed;
    this.#armed = null;
    performCut(action);
  }

  #log(level: LogLine['level'], message: string, fields: Record<string, unknown>): void {
    if (level === 'debug') return;
    this.#ipc.tell('log', {
      part: 'receiver',
      host: this.#job.host,
      atMs: Date.now(),
      level,
      message,
      fields,
    });
  }

  async #report(): Promise<void> {
    const { state, reason } = this.#receiver.view();
    await this.#ipc.call('facts', {
      phase: state.phase,
      reason,
      committedEpoch: state.committed,
    });
  }
}

/** The embedded `xl migrate-receive`: its standard input and output are a socket of the host's. */
class EmbeddedCopy implements Copy {
  readonly #socket;
  readonly #host: Ipc<ReceiverCalls, PartCalls>;
  #isWanted = true;

  constructor(directory: string, host: Ipc<ReceiverCalls, PartCalls>, events: CopyEvents) {
    this.#host = host;
    // The other direction still works when this one has ended.
    this.#socket = connect({ path: join(directory, XL_SOCKET), allowHalfOpen: true });
    this.#socket.on('data', (bytes: Buffer) => events.back(bytes));
    this.#socket.on('error', () => undefined);
    this.#socket.on('close', () => {
      if (this.#isWanted) events.ended('the embedded xl migrate-receive ended');
    });
  }

  write(bytes: Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#socket.write(bytes, (error) => {
        if (error) reject(error);
        else resolve();
      });
    });
  }

  async start(): Promise<void> {
    this.#isWanted = false;
    this.#socket.end();
    await this.#host.call('guestStarted', null);
  }

  async drop(): Promise<void> {
    this.#isWanted = false;
    await this.#host.call('dropCopy', null);
    if (this.#socket.destroyed) return;
    const closed = once(this.#socket, 'close');
    this.#socket.destroy();
    await closed;
  }
}
