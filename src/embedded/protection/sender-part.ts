/**
 * The sender on an embedded host: the transport that the embedded `xl remus` starts. The real sender
 * (`src/protect/sender.ts`) with the real pipe and the real link; the mirror, the output buffer and the guest are the
 * embedded host's, asked over the channel to it.
 */
import { DirectoryArbiter } from '../../arbiter/directory.js';
import type { SenderOptions } from '../../core/protect/sender.js';
import { TermStore } from '../../edge/term-store.js';
import { encodeMarker } from '../../core/journal/format.js';
import type { ConnectOptions } from '../../link/client.js';
import { decideForPrimary } from '../../protect/claim.js';
import { identityOf } from '../../protect/host-domain.js';
import { hostLink, pipeInput, pipeOutput } from '../../protect/sender-host.js';
import { Sender } from '../../protect/sender.js';
import type { SenderEdges } from '../../protect/sender.js';
import { performCut } from './cuts.js';
import type { CutPoint } from './cuts.js';
import { DOMAIN, FAIL_AFTER_MS, PROGRAM } from './jobs.js';
import type { ArmedCut, PartCalls, SenderCalls, SenderJob } from './jobs.js';
import { Ipc } from './ipc.js';
import { readJob } from './program.js';

const CONNECT_MS = 60_000;
const FACTS_MS = 100;
/** Generous: on a busy machine a checkpoint may take long, and that is no fault. A mirror without its peer is one. */
const LIMITS = { inFlightMax: 8, holdLimitMs: 60_000, agreeLimitMs: 60_000, diskLimitMs: 2_000 };

export async function runSenderPart(): Promise<void> {
  const job = readJob<SenderJob>();
  let armed: ArmedCut | null = null;
  /** How many packets wait for each epoch. */
  const output = new Map<number, number>();
  const passes = (point: CutPoint, epoch: number | null = null): void => {
    if (armed?.point !== point || (epoch !== null && (output.get(epoch) ?? 0) === 0)) return;
    const { action } = armed;
    armed = null;
    performCut(action);
  };
  let onDisk: ((connected: boolean, reason: string) => void) | null = null;
  let disk = { connected: true, reason: '' };
  const ipc = new Ipc<SenderCalls, PartCalls>(process as never, {
    disk: (state) => {
      disk = state;
      onDisk?.(state.connected, state.reason);
    },
    stop: (reason) => sender.stop(reason),
    arm: (cut) => void (armed = cut),
  });
  process.on('disconnect', () => process.exit(1));
  const connect = connectOptions(job);
  const arbiter = new DirectoryArbiter(job.arbiter);
  const edges: SenderEdges = {
    input: pipeInput(),
    back: pipeOutput(process.stdout),
    connect: (events) => hostLink(connect, events),
    enter: () => Promise.resolve(),
    network: {
      mark: async (epoch) => void output.set(epoch, await ipc.call('mark', epoch)),
      release: (epoch) => ipc.call('release', epoch),
      open: () => ipc.call('openOutput', null),
      drop: () => ipc.call('dropOutput', null),
      dropped: () => 0,
      onFailed: () => undefined,
    },
    barrier: {
      write: (epoch) => {
        const { domain, term, session } = job.order;
        return ipc.call(
          'marker',
          encodeMarker({ domain, term, session: Buffer.from(session, 'hex'), epoch }),
        );
      },
      close: () => Promise.resolve(),
    },
    watchDisk: (onState) => {
      onDisk = onState;
      onState(disk.connected, disk.reason);
      return { close: () => void (onDisk = null) };
    },
    claim: (question, onUndecided) => decideForPrimary(arbiter, job.order, connect, question, onUndecided),
    guestEnd: () => ipc.call('guestEnd', null),
    destroyGuest: () => ipc.call('destroyGuest', null),
    record: async (decision) => {
      const { term, session } = job.order;
      const outcome = decision === 'primary' ? 'won' : 'lost';
      await new TermStore(DOMAIN, job.directory).writeTerm({
        ...{ term, session, role: 'primary', phase: 'ended', boot: job.boot, outcome },
      });
    },
    nowMs: () => performance.now(),
    log: (level, message, fields) => {
      if (level === 'debug') return;
      ipc.tell('log', { part: 'sender', host: job.host, atMs: Date.now(), level, message, fields });
    },
  };
  if (job.broken === 'release-on-send') releaseOnSend(edges);
  const options: SenderOptions = {
    identity: identityOf(job.order),
    intervalMs: job.order.intervalMs,
    failAfterMs: FAIL_AFTER_MS,
    network: true,
    disk: true,
    onCrash: 'stop',
    ...LIMITS,
  };
  const sender = new Sender(options, withCuts(edges, passes));
  const report = async (): Promise<void> => {
    const { state, sentBytes, figures, protection } = sender.view();
    await ipc.call('facts', {
      ...protection,
      phase: state.phase,
      committedEpoch: state.lastCommitted,
      sentBytes,
      figures,
    });
  };
  const timer = setInterval(() => void report().catch(() => undefined), FACTS_MS);
  try {
    await sender.run();
  } finally {
    clearInterval(timer);
    await report().catch(() => undefined);
  }
  process.exit(0);
}

function connectOptions({ order, host, peer, port, tls }: SenderJob): ConnectOptions {
  const { pair, domain, term, session, intervalMs } = order;
  return {
    route: { kind: 'tls', host: '127.0.0.1', port, tls },
    peer,
    hello: { program: PROGRAM, pair, domain, from: host, term, session, intervalMs },
    timeoutMs: CONNECT_MS,
  };
}

/**
 * The same edges, with every point of a checkpoint that the primary comes by.
 * @param passes told of an epoch where it is to have output
 */
function withCuts(edges: SenderEdges, passes: (point: CutPoint, epoch?: number) => void): SenderEdges {
  const { network, barrier } = edges;
  if (network === null || barrier === null) throw new Error('the embedded sender holds output and disks');
  let parts = 0;
  return {
    ...edges,
    network: {
      ...network,
      mark: async (epoch) => {
        passes('guest-held');
        await network.mark(epoch);
        passes('output-marked');
      },
      release: async (epoch) => {
        passes('acknowledged', epoch);
        await network.release(epoch);
        passes('output-released', epoch);
      },
    },
    barrier: {
      ...barrier,
      write: async (epoch) => {
        const written = barrier.write(epoch);
        setImmediate(() => passes('marker-sent'));
        await written;
        passes('marker-written');
      },
    },
    connect: async (events) => {
      const link = await edges.connect(events);
      return {
        ...link,
        data: async (epoch, bytes) => {
          await link.data(epoch, bytes);
          // The first part of an epoch is the header of its first record, the second one has pages.
          parts++;
          if (parts === 2) passes('memory-begun', epoch);
        },
        checkpoint: async (epoch, folded, bytes) => {
          parts = 0;
          passes('memory-sent', epoch);
          await link.checkpoint(epoch, folded, bytes);
          passes('checkpoint-sent', epoch);
        },
      };
    },
  };
}

/** Breaks the second guarantee: output leaves as soon as the memory of its epoch begins to be sent. */
function releaseOnSend(edges: SenderEdges): void {
  const { network } = edges;
  const connect = edges.connect.bind(edges);
  if (network === null) throw new Error('the embedded sender holds output');
  let released = 0;
  edges.connect = async (events) => {
    const link = await connect(events);
    return {
      ...link,
      data: async (epoch, bytes) => {
        if (epoch > released) {
          released = epoch;
          await network.release(epoch);
        }
        await link.data(epoch, bytes);
      },
    };
  };
  edges.network = { ...network, release: () => Promise.resolve() };
}
