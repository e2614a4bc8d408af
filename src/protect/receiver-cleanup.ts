/**
 * After the receiver's process, however it ended: `remus-drbd receiver-cleanup DOMAIN`, run by its unit. Nothing may
 * hang on its NBD devices, no copy of the guest may be left, and the primary has to learn who goes on.
 *
 *     it ended in order -> only look that nothing was left
 *     it did not        -> the copy goes, the journal goes the way that is decided (`decision.ts`); and while the
 *                          disks are seen to, the primary's question is answered: nobody else could answer it
 *
 * Without that answer a primary whose arbiter is a person would hold its guest's output until somebody looks.
 */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { judgeHello } from '../core/link/judge.js';
import type { Order } from '../core/protect/order.js';
import type { Log } from '../edge/log.js';
import { TermStore } from '../edge/term-store.js';
import { listenLink } from '../link/server.js';
import type { LinkListener } from '../link/server.js';
import { decisionWithoutCopy, endDecidedTerm } from './decision.js';
import { openDisks } from './disk-engine.js';
import { linkListen, readHostDomain, readHostOrder } from './host-domain.js';
import type { HostDomain } from './host-domain.js';
import { destroyGuest } from './xl.js';

/** How long the primary is given to ask; it asks several times a second. */
const ANSWER_MS = 30_000;

/** What the unit's process ended with, as systemd tells the commands after it (systemd.exec(5)). */
const IN_ORDER = 'success';

type Outcome = 'roll-forward' | 'discard';

/**
 * @param result of the unit's process
 * @returns whether there was anything to do
 */
export async function cleanUpReceiver(
  name: string,
  program: string,
  log: Log,
  result = process.env['SERVICE_RESULT'],
): Promise<boolean> {
  const here = await readHostDomain(name);
  const store = new TermStore(name, here.stateDirectory);
  const disks = openDisks(
    here,
    { onMarker: () => undefined, onFailed: () => undefined, onProgress: () => undefined },
    log,
  );
  const answer = result === IN_ORDER ? null : new Answer(here, program, log);
  try {
    const before = await store.readDecision();
    const isOver = before?.term === (await store.readTerm())?.term;
    // A copy that was to be started here may be on its way up.
    if (answer !== null && !(isOver && before?.outcome === 'discard')) {
      // One that is left takes memory and no more: the gate is shut, so it can't have its disks.
      await destroyGuest(`${name}--incoming`).catch((error: unknown) => {
        log.error('the copy could not be removed', { domain: name, reason: (error as Error).message });
      });
    }
    const done = await disks.recover(async (term) => {
      const unrecorded = (reason: string): void => void log.error('not recorded', { domain: name, reason });
      const { host, stateDirectory } = here;
      const outcome = await decisionWithoutCopy(name, host, stateDirectory, store, term, unrecorded);
      // The disks may take long.
      await answer?.open(term, outcome);
      return outcome;
    });
    await endDecidedTerm(store);
    if (isOver && before !== undefined) await answer?.open(before.term, before.outcome);
    await rm(join(here.runDirectory, 'receiver.pid'), { force: true });
    await answer?.given();
    return done;
  } finally {
    await answer?.close();
  }
}

/** Tells the primary's sender or clean-up, which asks on a connection of its own, who goes on. */
class Answer {
  readonly #here: HostDomain;
  readonly #program: string;
  readonly #log: Log;
  readonly #closed = new AbortController();
  #listener: LinkListener | null = null;
  #told: Promise<void> = Promise.resolve();

  constructor(here: HostDomain, program: string, log: Log) {
    this.#here = here;
    this.#program = program;
    this.#log = log;
  }

  /** From here on whoever asks is told. Does nothing where the term is not that of the last order. */
  async open(term: number, outcome: Outcome): Promise<void> {
    const here = this.#here;
    const order = await readHostOrder(here.domain.domain).catch(() => null);
    if (this.#listener !== null || order?.term !== term) return;
    let tell = (): void => undefined;
    const told = new Promise<void>((resolve) => (tell = resolve));
    const reason = 'the receiver has ended, and with it the copy of the guest';
    this.#listener = await listenLink({
      listen: linkListen(here),
      program: this.#program,
      host: here.host,
      log: this.#log,
      authorise: (hello) => judgeHello(hello, expected(here, order)),
      onSession: (link) => void link.close(false),
      onCleanup: (control) => {
        control.start({ message: () => undefined, lost: () => undefined }, 0);
        const said = outcome === 'roll-forward' ? 'rolled-forward' : 'claimed';
        control.send({ type: 'ended', outcome: said, reason });
        this.#log.info('the primary was told who goes on', { domain: order.domain, term, outcome });
        void control.close().then(tell);
      },
    });
    this.#told = Promise.race([
      told,
      pause(ANSWER_MS, undefined, { signal: this.#closed.signal }).catch(() => undefined),
    ]);
  }

  /** Resolves when it was told, or nobody has asked for long. */
  given(): Promise<void> {
    return this.#told;
  }

  async close(): Promise<void> {
    this.#closed.abort();
    await this.#listener?.close();
  }
}

/** Only the clean-up connection of the last order's session: no session can begin. */
function expected(
  here: HostDomain,
  { pair, domain, term, session }: Order,
): Parameters<typeof judgeHello>[1] {
  const notReady = `the receiver of term ${term} has ended`;
  return { pair, domain, peer: here.peer.name, term, usedSessions: new Set([session]), notReady };
}
