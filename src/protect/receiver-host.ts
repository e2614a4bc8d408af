/**
 * The receiver on a real host: `remus-drbd receiver DOMAIN`, run by its unit for one term.
 *
 *     journal under DRBD -> listen -> one session -> ... -> the devices are back on their LVs -> exit
 */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { openArbiter } from '../arbiter/open.js';
import { ExitCode, OperatorError } from '../core/errors.js';
import { judgeHello } from '../core/link/judge.js';
import type { Verdict } from '../core/link/judge.js';
import type { Hello, OtherHello } from '../core/link/messages.js';
import type { Order } from '../core/protect/order.js';
import type { ReceiverState } from '../core/protect/receiver.js';
import { REPORT_EVERY_MS, reportHead } from '../core/protect/report.js';
import type { ReceiverReport } from '../core/protect/report.js';
import type { Decision, GuestEnd, Identity } from '../core/protect/types.js';
import { readSmall, writeDurably } from '../edge/durable-file.js';
import type { Log } from '../edge/log.js';
import { readBootId, TermStore } from '../edge/term-store.js';
import type { ReceiverControl, ReceiverLink as Link } from '../link/link.js';
import { listenLink } from '../link/server.js';
import type { ListenOptions } from '../link/server.js';
import { protectProcess } from '../journal/protect.js';
import { claimFrom } from './claim.js';
import { decisionWithoutCopy, noteClaim } from './decision.js';
import { openDisks } from './disk-engine.js';
import type { DiskEngine } from './disk-engine.js';
import { watchReplication } from './drbd-watch.js';
import { identityOf, linkListen, readHostDomain, readHostOrder } from './host-domain.js';
import type { HostDomain } from './host-domain.js';
import { systemdNotify } from './notify.js';
import { pinHere } from './pin-here.js';
import { Receiver } from './receiver.js';
import type { ReceiverEdges, ReceiverLink } from './receiver.js';
import { enterProtection, replaceFile } from './sender-host.js';
import { HOLD_SOCKET, serveHolds } from './target-hold.js';
import type { HoldTargets } from './target-hold.js';
import { startCopy } from './xl.js';

const STEP_ATTEMPTS_MAX = 5;
const CLOSE_MS = 5_000;
const NOTE_AGAIN_MS = 1_000;

/** @returns the state in which the term ended */
export async function runReceiverHost(name: string, program: string, log: Log): Promise<ReceiverState> {
  const here = await readHostDomain(name);
  const order = await readHostOrder(name);
  if (order.backup !== here.host) {
    throw new OperatorError(`${name}: ${order.backup} is the backup of term ${order.term}`, ExitCode.refused);
  }
  await mkdir(here.runDirectory, { recursive: true });
  await replaceFile(join(here.runDirectory, 'receiver.pid'), `${process.pid}\n`);
  const notify = systemdNotify();
  const { outOfMemoryKiller, lockedMemory } = await protectProcess();
  if (outOfMemoryKiller !== null) {
    log.warn('not protected from the out-of-memory killer', { reason: outOfMemoryKiller });
  }
  if (lockedMemory !== null) log.warn('memory not locked', { reason: lockedMemory });
  const host = new ReceiverHost(here, order, program, log, notify);
  return host.run();
}

class ReceiverHost {
  readonly #here: HostDomain;
  readonly #order: Order;
  readonly #program: string;
  readonly #log: Log;
  readonly #notify: (state: string) => void;
  readonly #store: TermStore;
  readonly #disks: DiskEngine;
  #receiver: Receiver | null = null;
  #session: string | null = null;

  constructor(here: HostDomain, order: Order, program: string, log: Log, notify: (state: string) => void) {
    this.#here = here;
    this.#order = order;
    this.#program = program;
    this.#log = log;
    this.#notify = notify;
    this.#store = new TermStore(order.domain, here.stateDirectory);
    this.#disks = openDisks(
      here,
      {
        onMarker: ({ epoch }) => this.#receiver?.marker(epoch),
        onFailed: (reason) => this.#receiver?.journalFailed(reason),
        onProgress: (what, done, total) => log.info(what, { doneBytes: done, totalBytes: total }),
      },
      log,
    );
  }

  async run(): Promise<ReceiverState> {
    const { domain } = this.#order;
    const { host, stateDirectory } = this.#here;
    const unrecorded = (reason: string): void => void this.#log.error('not recorded', { domain, reason });
    const decide = (term: number): Promise<'roll-forward' | 'discard'> =>
      decisionWithoutCopy(domain, host, stateDirectory, this.#store, term, unrecorded);
    if (await this.#disks.recover(decide)) {
      this.#log.info('what an earlier receiver left in the journal is on the disks', { domain });
    }
    await this.#disks.prepare();
    const receiver = await this.#makeReceiver();
    this.#receiver = receiver;
    const watch = watchReplication(this.#here.domain, (fault) => receiver.disk(fault === null));
    const listener = await listenLink(this.#listenOptions(receiver));
    const holds = await this.#serveHolds(receiver);
    const report = async (): Promise<void> => {
      this.#notify('WATCHDOG=1');
      await this.#writeReport(receiver);
    };
    const timer = setInterval(() => void report().catch(() => undefined), REPORT_EVERY_MS);
    const stop = (): void => receiver.stop('the receiver was stopped');
    process.on('SIGTERM', stop).on('SIGINT', stop);
    process.on('SIGUSR1', () => receiver.askFailover('failover was asked for on this host'));
    await report();
    this.#notify('READY=1');
    try {
      const state = await receiver.finished;
      if (state.phase === 'failed-over') await this.#pin();
      return state;
    } finally {
      receiver.close();
      clearInterval(timer);
      await report().catch(() => undefined);
      watch.close();
      await holds?.close();
      await listener.close();
    }
  }

  /** The guest runs here now, and whoever protected it may be gone. */
  async #pin(): Promise<void> {
    const { domain, pin } = this.#here.domain;
    if (pin === undefined) return;
    try {
      for (const reason of await pinHere(domain, pin)) this.#log.info('pinned', { domain, reason });
    } catch (error) {
      this.#log.warn('the guest is not pinned', { domain, reason: (error as Error).message });
    }
  }

  async #makeReceiver(): Promise<Receiver> {
    const { domain } = this.#order;
    const arbiter = await openArbiter(this.#here.domain.arbiter, {
      host: this.#here.host,
      peer: this.#here.peer.name,
      domain,
      log: this.#log,
    });
    const edges: ReceiverEdges = {
      startCopy: (events) =>
        startCopy(domain, events, (text) => {
          // libxc tells of each checkpoint.
          const level = /^xc: info: All records (?:buffered|processed)/.test(text) ? 'debug' : 'info';
          this.#log.log(level, 'xl says', { domain, text });
        }),
      disks: this.#disks,
      enter: () => enterProtection(this.#store, this.#order, 'backup'),
      claim: async (onUndecided, wanted) => {
        // An operator who has not spoken can't have decided anything that nobody here knows of.
        const mayHaveWon = arbiter.name !== 'operator';
        // A later process has to know that the arbiter may have an answer for this host.
        if (mayHaveWon) await this.#noteClaim(onUndecided, wanted);
        return claimFrom(
          arbiter,
          this.#order,
          this.#here.host,
          (reason) => onUndecided(reason, mayHaveWon),
          wanted,
        );
      },
      record: (decision, reason) => this.#record(decision, reason),
      nowMs: () => performance.now(),
      log: (level, message, fields) => void this.#log.log(level, message, fields),
    };
    return new Receiver(
      {
        failAfterMs: this.#here.domain.checkpoint.failAfterMs,
        onCrash: this.#here.domain.onCrash,
        disk: this.#order.disk,
        attemptsMax: STEP_ATTEMPTS_MAX,
      },
      edges,
    );
  }

  /** Without it there are no drills, and all else is as it has to be. */
  async #serveHolds(receiver: Receiver): Promise<{ close: () => Promise<void> } | null> {
    const path = join(this.#here.runDirectory, HOLD_SOCKET);
    try {
      return await serveHolds(path, (ended) => this.#holdTargets(receiver, ended), this.#log);
    } catch (error) {
      this.#log.warn('no drill is possible', { reason: (error as Error).message });
      return null;
    }
  }

  /** Only while nothing else is afoot: a failover needs the disks for itself. */
  #holdTargets(receiver: Receiver, ended: (reason: string) => void): ReturnType<HoldTargets> {
    const { phase } = receiver.view().state;
    if (phase !== 'on') return Promise.reject(new Error(`the receiver is ${phase}, not on`));
    if (this.#disks.holdTargets === undefined) {
      return Promise.reject(new Error('this engine can not hold the disks'));
    }
    return this.#disks.holdTargets(ended);
  }

  /** A full disk must not keep the copy from ever being started: it waits until there is room. */
  async #noteClaim(
    onUndecided: (reason: string, mayHaveWon: boolean) => void,
    wanted: AbortSignal,
  ): Promise<void> {
    for (let isFirst = true; !wanted.aborted; isFirst = false) {
      try {
        await noteClaim(this.#here.stateDirectory, this.#order.term);
        // From here on nothing may be agreed with the primary any more.
        if (!isFirst && !wanted.aborted) onUndecided('the arbiter is being asked', true);
        return;
      } catch (error) {
        onUndecided(`nobody is asked before it is noted: ${(error as Error).message}`, false);
      }
      await pause(NOTE_AGAIN_MS, undefined, { signal: wanted }).catch(() => undefined);
    }
  }

  async #record(decision: Decision, reason: string): Promise<void> {
    await this.#store.writeDecision({
      term: this.#order.term,
      outcome: decision === 'primary' ? 'roll-forward' : 'discard',
      by: this.#here.host,
      reason,
    });
    const before = await this.#store.readTerm();
    await this.#store.writeTerm({
      term: this.#order.term,
      session: this.#order.session,
      role: 'backup',
      phase: 'ended',
      boot: before?.boot ?? (await readBootId()),
      outcome: decision === 'backup' ? 'won' : 'lost',
    });
  }

  #listenOptions(receiver: Receiver): ListenOptions {
    const { host } = this.#here;
    return {
      listen: linkListen(this.#here),
      program: this.#program,
      host,
      log: this.#log,
      authorise: (hello) => this.#authorise(hello),
      onSession: (link) => takeSession(receiver, identityOf(this.#order), link),
      onCleanup: (control, hello) => onCleanup(receiver, control, hello),
    };
  }

  /** A session is made by `protect` for this order alone, and taken once, also if this process is started again. */
  async #authorise(hello: Hello | OtherHello): Promise<Verdict> {
    const { pair, domain, term, session } = this.#order;
    const takenPath = join(this.#here.runDirectory, 'session-taken');
    const taken = await readSmall(takenPath, 64);
    const verdict = judgeHello(hello, {
      pair,
      domain,
      peer: this.#here.peer.name,
      term,
      // A sender that died before it came here has a clean-up all the same.
      usedSessions: new Set(
        hello.purpose === 'cleanup' ? [session] : taken === undefined ? [] : [taken.trim()],
      ),
      ...(this.#session === null ? {} : { current: { term, session: this.#session } }),
    });
    if (!verdict.take || hello.purpose !== 'control') return verdict;
    if (hello.session !== session) {
      return { take: false, code: 'not-ready', reason: `session ${session} is expected` };
    }
    await writeDurably(takenPath, `${session}\n`, 0o644);
    this.#session = session;
    return verdict;
  }

  async #writeReport(receiver: Receiver): Promise<void> {
    const { state, reason, receivedBytes, usedBytes, totalBytes } = receiver.view();
    const report: ReceiverReport = {
      ...reportHead(this.#order, process.pid, Date.now()),
      role: 'receiver',
      reason,
      phase: state.phase,
      committedEpoch: state.committed,
      receivedBytes,
      journalUsedBytes: usedBytes,
      journalTotalBytes: totalBytes,
    };
    await replaceFile(join(this.#here.runDirectory, 'receiver.json'), JSON.stringify(report));
  }
}

/** Leads what a session's connections bring to the receiver, until its term is over. */
export function takeSession(receiver: Receiver, identity: Identity, link: Link): void {
  const lost = (what: string) => (loss: { kind: string; reason: string }) => {
    receiver.linkLost(`${what}: ${loss.reason}`, loss.kind !== 'timeout');
  };
  let guest: GuestEnd | null = null;
  receiver.begin(identity, controlLink(link, identity.domain));
  link.control.start(
    {
      message: (message) => {
        receiver.heard();
        switch (message.type) {
          case 'guest-ended':
            guest = message.how === 'destroyed' ? 'gone' : message.how;
            return;
          case 'end':
            receiver.end(message.detail, guest);
            return;
          case 'module-ask':
          case 'module-barrier':
            receiver.module(message);
            return;
          default:
            return;
        }
      },
      lost: lost('the control connection is lost'),
    },
    0,
  );
  link.bulk.start({
    item: (item) => {
      receiver.heard();
      if (item.type === 'data') return receiver.data(Buffer.from(item.bytes));
      if (item.type === 'checkpoint') {
        return receiver.checkpoint(item.epoch, item.folded === true, Buffer.from(item.bytes));
      }
      return undefined;
    },
    lost: lost('the bulk connection is lost'),
  });
  void receiver.finished
    .catch(() => undefined)
    .then(() => Promise.race([link.close(true), new Promise((resolve) => setTimeout(resolve, CLOSE_MS))]));
}

function controlLink(link: Link, domain: string): ReceiverLink {
  let sequence = 0;
  return {
    heartbeat: (state) => {
      link.control.send({
        type: 'heartbeat',
        sequence: sequence++,
        sentMs: Math.round(performance.now()),
        state,
      });
    },
    begun: () => void link.control.send({ type: 'begun' }),
    committed: ({ term, session }, epoch) => {
      link.control.send({ type: 'committed', domain, term, session, epoch });
    },
    ended: (decision, reason) => {
      const outcome = decision === 'primary' ? 'rolled-forward' : 'claimed';
      link.control.send({ type: 'ended', outcome, reason: reason.slice(0, 4000) });
    },
    undecided: (reason) => {
      link.control.send({ type: 'ended', outcome: 'refused', reason: reason.slice(0, 4000) });
    },
    back: (bytes) => void link.bulk.send({ type: 'back' }, bytes),
    module: (message) => void link.control.send(message),
  };
}

/** Answers whoever asks, on a connection of its own, who goes on. */
export function onCleanup(receiver: Receiver, control: ReceiverControl, hello: Hello): void {
  control.start(
    {
      message: (message) => {
        if (message.type !== 'drop-term') return;
        const { reason: why, crashed = false } = message;
        receiver.dropTerm({ term: hello.term, reason: why, crashed }, (result, reason) => {
          if ('undecided' in result) {
            control.send({ type: 'ended', outcome: 'refused', reason: result.undecided });
          } else {
            const outcome = result.decision === 'primary' ? 'rolled-forward' : 'claimed';
            control.send({ type: 'ended', outcome, reason: reason.slice(0, 4000) });
          }
        });
      },
      lost: () => undefined,
    },
    0,
  );
}
