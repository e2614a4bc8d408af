/**
 * The sender on a real host: `remus-drbd sender DOMAIN`, which xl starts as its transport. Standard input and output
 * are xl's pipes; standard error is the unit's log.
 */
import { closeSync } from 'node:fs';
import { mkdir, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Writable } from 'node:stream';
import { openArbiter } from '../arbiter/open.js';
import { ExitCode, OperatorError } from '../core/errors.js';
import { BARRIER_VOLUME } from '../core/names.js';
import type { Order } from '../core/protect/order.js';
import { REPORT_EVERY_MS, reportHead } from '../core/protect/report.js';
import type { SenderReport } from '../core/protect/report.js';
import type { SenderOptions } from '../core/protect/sender.js';
import type { Decision } from '../core/protect/types.js';
import { readSmall } from '../edge/durable-file.js';
import type { Log } from '../edge/log.js';
import { readBootId, TermStore } from '../edge/term-store.js';
import { connectLink } from '../link/client.js';
import type { ConnectOptions } from '../link/client.js';
import { PipeReader } from '../edge/pipe.js';
import { openDevice } from '../engine/protocol-d/device.js';
import { BarrierDevice } from './barrier.js';
import { decideForPrimary } from './claim.js';
import { watchReplication } from './drbd-watch.js';
import { must } from './exec.js';
import { identityOf, readHostDomain, readHostOrder, routeTo } from './host-domain.js';
import type { HostDomain } from './host-domain.js';
import { moduleMinor, procDrbd } from './module.js';
import { holdNetwork } from './network.js';
import { systemdNotify } from './notify.js';
import { ProtocolDBarrier } from './protocol-d-barrier.js';
import { BEGIN_MS, Sender } from './sender.js';
import type { Barrier, LinkEvents, SenderEdges, SenderLink, StreamInput } from './sender.js';
import { destroyGuest, guestEnd, unpauseGuest } from './xl.js';

const PAGE_BYTES = 4096;
const WIDE_BYTES = 1 << 20;
const CONNECT_MS = 20_000;
const CLOSE_MS = 2_000;
const XL_MS = 30_000;
const ENDED_BYTES_MAX = 1_000;
/** Frames of the bulk connection that may be on their way to the kernel. */
const FRAMES_MAX = 2;

const LIMITS = { inFlightMax: 8, holdLimitMs: 20_000, agreeLimitMs: 60_000, diskLimitMs: 5_000 };

/** @returns the decision, when everything that follows from it is done */
export async function runSenderHost(name: string, program: string, log: Log): Promise<Decision> {
  const here = await readHostDomain(name);
  const order = await readHostOrder(name);
  if (order.primary !== here.host) {
    throw new OperatorError(
      `${name}: ${order.primary} is the primary of term ${order.term}`,
      ExitCode.refused,
    );
  }
  const begun = await new TermStore(name, here.stateDirectory).readTerm();
  if (begun?.term !== order.term || begun.phase !== 'starting') {
    // An earlier sender may have sent checkpoints: this one knows nothing of them, and could decide wrongly.
    throw new OperatorError(
      `${name}: term ${order.term} was begun already; remus-drbd protect begins a new one`,
      ExitCode.refused,
    );
  }
  const notify = systemdNotify();
  // From the start: what comes before the first report takes its time on a slow host, and has limits of its own.
  notify('WATCHDOG=1');
  const beat = setInterval(() => notify('WATCHDOG=1'), REPORT_EVERY_MS).unref();
  await mkdir(here.runDirectory, { recursive: true });
  await replaceFile(join(here.runDirectory, 'sender.pid'), `${process.pid}\n`);
  const identity = identityOf(order);
  const { checkpoint } = here.domain;
  const options: SenderOptions = {
    identity,
    intervalMs: order.intervalMs,
    failAfterMs: checkpoint.failAfterMs,
    network: order.network,
    disk: order.disk,
    onCrash: here.domain.onCrash,
    ...LIMITS,
  };
  const arbiter = await openArbiter(here.domain.arbiter, {
    host: here.host,
    peer: here.peer.name,
    domain: name,
    log,
  });
  const network = order.network ? await holdNetwork(name) : null;
  const barrier = order.disk ? await openBarrier(here, order, log) : null;
  const connect = connectOptions(here, order, program);
  const edges: SenderEdges = {
    input: pipeInput(),
    back: pipeOutput(process.stdout),
    connect: (events) => hostLink(connect, events),
    enter: () => enterProtection(new TermStore(name, here.stateDirectory), order, 'primary'),
    network,
    barrier,
    watchDisk: (onState) => watchReplication(here.domain, (fault) => onState(fault === null, fault ?? '')),
    claim: (question, onUndecided) => decideForPrimary(arbiter, order, connect, question, onUndecided),
    guestEnd: () => guestEnd(name),
    destroyGuest: () => destroyGuest(name),
    record: (decision) => recordEnd(here, order, decision),
    nowMs: () => performance.now(),
    log: (level, message, fields) => void log.log(level, message, fields),
  };
  const sender = new Sender(options, edges);
  const report = (): Promise<void> => writeReport(here, order, sender);
  const timer = setInterval(() => void report().catch(() => undefined), REPORT_EVERY_MS);
  const stop = (): void => sender.stop('protection was ended by an operator');
  process.on('SIGTERM', stop).on('SIGINT', stop);
  try {
    await report().catch(() => undefined);
    return await sender.run();
  } finally {
    clearInterval(timer);
    await report().catch(() => undefined);
    await arbiter.close();
    clearInterval(beat);
  }
}

async function openBarrier(here: HostDomain, order: Order, log: Log): Promise<Barrier> {
  if (here.domain.engine === 'protocol-d') return openModule(here, order, log);
  const volume = here.domain.volumes.find((each) => each.volume === BARRIER_VOLUME);
  if (volume === undefined) throw new OperatorError(`${order.domain}: it has no barrier volume; run setup`);
  return BarrierDevice.open(`/dev/drbd${volume.minor}`, identityOf(order));
}

/** The DRBD module that closes epochs itself. */
async function openModule(here: HostDomain, order: Order, log: Log): Promise<Barrier> {
  const { domain } = order;
  const minor = moduleMinor(here.domain);
  const { holdLimitMs } = LIMITS;
  const host = {
    minor,
    device: await openDevice(`/dev/drbd${minor}`),
    procDrbd,
    pauseGuest: async () => void (await must(['xl', 'pause', domain], XL_MS)),
    unpauseGuest: () => unpauseGuest(domain),
    log: (level: 'info' | 'error', message: string, fields: Record<string, unknown>) =>
      void log.log(level, message, { domain, ...fields }),
  };
  // For the clean-up, should this process die: a guest that is paused was paused from here.
  await writeFile(pausedPath(here), '');
  return new ProtocolDBarrier(host, {
    holdMs: holdLimitMs,
    finishMs: order.intervalMs + 2 * holdLimitMs,
  });
}

/** There from the first moment at which the sender may have paused the guest. */
export function pausedPath(here: HostDomain): string {
  return join(here.runDirectory, 'pauses-guest');
}

/** Connection to the receiver of a term, for the session and for its clean-up. */
export function connectOptions(here: HostDomain, order: Order, program: string): ConnectOptions {
  const { pair, domain, term, session, intervalMs } = order;
  return {
    route: routeTo(here),
    peer: here.peer.name,
    hello: { program, pair, domain, from: here.host, term, session, intervalMs },
    timeoutMs: CONNECT_MS,
  };
}

/** xl's pipe as standard input. */
export function pipeInput(): StreamInput {
  // What was read stays as it is while frames with it are on their way.
  const reader = new PipeReader(0, { buffers: FRAMES_MAX + 2, bufferBytes: WIDE_BYTES });
  return {
    readUpTo: (bytes) => reader.readUpTo(bytes),
    narrow: () => reader.resize(PAGE_BYTES) === PAGE_BYTES,
    widen: () => void reader.resize(WIDE_BYTES),
    close: () => {
      reader.close();
      // xl's next write fails, and it gives up.
      closeSync(0);
    },
  };
}

/** xl's other pipe. Its end is seen on the input: an xl that was killed must not take the sender with it. */
export function pipeOutput(output: Writable): SenderEdges['back'] {
  output.on('error', () => undefined);
  return (bytes) => void output.write(bytes);
}

/**
 * The link of a session, as the sender uses it, from when the session is open on the receiver's disks.
 *
 * @throws as `connectLink`; Error when the session does not begin, of which the events may have told already
 */
export async function hostLink(options: ConnectOptions, events: LinkEvents): Promise<SenderLink> {
  const link = await connectLink(options);
  const { pair } = options.hello;
  let sequence = 0;
  let isOver = false;
  let begun = (): void => undefined;
  let notBegun: (reason: string) => void = () => undefined;
  const beginning = new Promise<void>((resolve, reject) => {
    begun = resolve;
    notBegun = (reason) => reject(new Error(`the session has not begun: ${reason}`));
  });
  const lost = (reason: string): void => {
    if (isOver) return;
    isOver = true;
    events.lost(reason);
    notBegun(reason);
  };
  link.control.start(
    {
      message: (message) => {
        events.heard();
        switch (message.type) {
          case 'begun':
            begun();
            return;
          case 'committed': {
            const { domain, term, session, epoch } = message;
            events.committed({ pair, domain, term, session }, epoch);
            return;
          }
          case 'ended':
            if (message.outcome === 'refused') lost(message.reason);
            else {
              isOver = true;
              events.ended(message.outcome === 'claimed' ? 'backup' : 'primary', message.reason);
              notBegun(message.reason);
            }
            return;
          case 'module-side':
          case 'module-failed':
            events.module?.(message);
            return;
          default:
            return;
        }
      },
      lost: (loss) => lost(`the control connection is lost: ${loss.reason}`),
    },
    0,
  );
  link.bulk.start({
    item: (item) => {
      if (item.type === 'back') events.back(Buffer.from(item.bytes));
    },
    lost: (loss) => lost(`the bulk connection is lost: ${loss.reason}`),
  });
  const timer = setTimeout(() => notBegun(`not within ${BEGIN_MS} ms`), BEGIN_MS);
  try {
    await beginning;
  } catch (error) {
    isOver = true;
    await link.close(false);
    throw error;
  } finally {
    clearTimeout(timer);
  }
  const flying: Promise<boolean>[] = [];
  const room = async (sent: Promise<boolean>): Promise<void> => {
    flying.push(sent);
    if (flying.length >= FRAMES_MAX) await flying.shift();
  };
  return {
    heartbeat: (state) => {
      link.control.send({
        type: 'heartbeat',
        sequence: sequence++,
        sentMs: Math.round(performance.now()),
        state,
      });
    },
    end: (reason, guest) => {
      if (guest !== null) {
        link.control.send({ type: 'guest-ended', how: guest === 'gone' ? 'destroyed' : guest });
      }
      link.control.send({ type: 'end', reason: guest === null ? 'suspend' : 'guest-ended', detail: reason });
    },
    data: (epoch, bytes) => room(link.bulk.send({ type: 'data', epoch }, bytes)),
    checkpoint: (epoch, folded, bytes) =>
      room(link.bulk.send({ type: 'checkpoint', epoch, ...(folded ? { folded: true } : {}) }, bytes)),
    module: (message) => void link.control.send(message),
    close: () => {
      isOver = true;
      void Promise.race([link.close(true), new Promise((resolve) => setTimeout(resolve, CLOSE_MS))]);
    },
  };
}

/**
 * Records that from now on going on alone needs the claim. Durable when it returns.
 * @throws OperatorError as `TermStore.writeTerm`
 */
export async function enterProtection(
  store: TermStore,
  { term, session }: Order,
  role: 'primary' | 'backup',
): Promise<void> {
  const boot = (await store.readTerm())?.boot ?? (await readBootId());
  await store.writeTerm({ term, session, role, phase: 'protected', boot });
}

/** Where the decision is kept besides, for this boot: what is in memory has room when the disk has none. */
function endedPath(here: HostDomain): string {
  return join(here.runDirectory, 'sender-ended.json');
}

/** The term is over on this host. */
export async function recordEnd(here: HostDomain, order: Order, decision: Decision): Promise<void> {
  const { term, session } = order;
  await replaceFile(endedPath(here), JSON.stringify({ term, session, decision }));
  const store = new TermStore(order.domain, here.stateDirectory);
  const boot = (await store.readTerm())?.boot ?? (await readBootId());
  const outcome = decision === 'primary' ? 'won' : 'lost';
  await store.writeTerm({ term, session, role: 'primary', phase: 'ended', boot, outcome });
}

/** What this host's sender or an earlier clean-up has recorded of the order's term; null where it is not decided. */
export async function readEnd(here: HostDomain, order: Order): Promise<Decision | null> {
  const record = await new TermStore(order.domain, here.stateDirectory).readTerm();
  if (record?.term === order.term && record.phase === 'ended') {
    return record.outcome === 'lost' ? 'backup' : 'primary';
  }
  const text = await readSmall(endedPath(here), ENDED_BYTES_MAX);
  if (text === undefined) return null;
  const { term, session, decision } = JSON.parse(text) as Record<string, unknown>;
  const isOurs = term === order.term && session === order.session;
  return isOurs && (decision === 'primary' || decision === 'backup') ? decision : null;
}

async function writeReport(here: HostDomain, order: Order, sender: Sender): Promise<void> {
  const { state, sentBytes, figures, protection, droppedPackets } = sender.view();
  const report: SenderReport = {
    ...reportHead(order, process.pid, Date.now()),
    role: 'sender',
    phase: state.phase,
    protection: protection.protection,
    reason: protection.reason,
    committedEpoch: state.lastCommitted,
    intervalMs: order.intervalMs,
    sentBytes,
    figures,
    droppedPackets,
    covers: { network: order.network, disk: order.disk },
  };
  await replaceFile(join(here.runDirectory, 'sender.json'), JSON.stringify(report));
}

/**
 * For readers that must never see half of it; it need not last.
 * @throws NodeJS.ErrnoException with this path
 */
export async function replaceFile(path: string, text: string): Promise<void> {
  try {
    await writeFile(`${path}.new`, text);
    await rename(`${path}.new`, path);
  } catch (error) {
    throw Object.assign(error as Error, { path });
  }
}
