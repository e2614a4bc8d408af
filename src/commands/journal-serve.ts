/**
 * `remus-drbd journal serve`: a process that serves one domain's journal, controlled over a unix socket. The
 * receiver embeds the same journal; this is for running it without one.
 *
 * Control: one JSON object a line.
 *     in:   { "id": 7, "call": "commit", "epoch": 12 }
 *     out:  { "id": 7, "ok": true, "result": ... }  or  { "id": 7, "ok": false, "code": "epoch-not-closed", "error": "..." }
 *     out:  { "event": "marker", "epoch": 12, ... }, { "event": "marker-ignored", ... }, { "event": "change", ... }
 *
 * Calls: state, startSession { term, session: hex }, commit { epoch }, rollForward, discard, discarded,
 * discardMarked, drained, flush, stop. A line that is too long or no JSON ends the connection.
 */
import { rm } from 'node:fs/promises';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import type { Server, Socket } from 'node:net';
import { z } from 'zod';
import { ExitCode, OperatorError } from '../core/errors.js';
import { JournalError } from '../core/journal/types.js';
import { openDisks, readJournalConfig, volumeSpecs } from '../journal/config.js';
import { EpochJournal } from '../journal/journal.js';
import type { JournalState } from '../journal/journal.js';
import { serveNbd } from '../journal/nbd-server.js';
import type { NbdLog, NbdServer } from '../journal/nbd-server.js';
import { protectProcess } from '../journal/protect.js';

const LINE_BYTES_MAX = 64 << 10;
const CONTROLS_MAX = 8;

const callSchema = z.discriminatedUnion('call', [
  z.strictObject({ id: z.number(), call: z.literal('state') }),
  z.strictObject({
    id: z.number(),
    call: z.literal('startSession'),
    term: z.number().int().nonnegative(),
    session: z.string().regex(/^[0-9a-f]{32}$/),
  }),
  z.strictObject({ id: z.number(), call: z.literal('commit'), epoch: z.number().int().nonnegative() }),
  z.strictObject({ id: z.number(), call: z.literal('rollForward') }),
  z.strictObject({ id: z.number(), call: z.literal('discard') }),
  z.strictObject({ id: z.number(), call: z.literal('discarded') }),
  z.strictObject({ id: z.number(), call: z.literal('discardMarked') }),
  z.strictObject({ id: z.number(), call: z.literal('drained') }),
  z.strictObject({ id: z.number(), call: z.literal('flush') }),
  z.strictObject({ id: z.number(), call: z.literal('stop') }),
]);
type Call = z.infer<typeof callSchema>;

export interface ServeOptions {
  configPath: string;
  log: NbdLog;
  /** Protect the process from the out-of-memory killer and keep it in memory. */
  protect?: boolean;
}

export interface RunningJournal {
  journal: EpochJournal;
  servers: NbdServer[];
  /** Resolves when a `stop` was carried out. */
  stopped: Promise<void>;
  stop: () => Promise<void>;
}

/**
 * Opens the journal and serves it. A session found open stays undecided until the control decides it.
 * @throws OperatorError
 */
export async function serveJournal(options: ServeOptions): Promise<RunningJournal> {
  const { log } = options;
  const config = await readJournalConfig(options.configPath);
  if (config.socket === undefined && config.tls === undefined) {
    throw new OperatorError(`${options.configPath}: socket or tls is required to serve`, ExitCode.usage);
  }
  if (options.protect === true) {
    const { outOfMemoryKiller, lockedMemory } = await protectProcess();
    if (outOfMemoryKiller !== null)
      log.warn('not protected from the out-of-memory killer', { reason: outOfMemoryKiller });
    if (lockedMemory !== null) log.warn('memory not locked', { reason: lockedMemory });
  }
  const { disk, targets, close } = await openDisks(config);
  const controls = new Set<Socket>();
  const tell = (event: Record<string, unknown>): void => {
    for (const socket of controls) send(socket, event);
  };
  let journal: EpochJournal;
  try {
    journal = await EpochJournal.open(disk, targets, volumeSpecs(config), {
      onMarker: (marker) => {
        tell({ event: 'marker', ...marker });
      },
      onMarkerIgnored: (reason) => {
        log.warn('journal marker ignored', { domain: config.domain, reason });
        tell({ event: 'marker-ignored', reason });
      },
      onChange: (reason) => {
        log.info('journal changed', { domain: config.domain, reason });
        tell({ event: 'change', reason });
      },
    });
  } catch (error) {
    await close();
    if (error instanceof JournalError)
      throw new OperatorError(`${config.journal}: ${error.message}`, ExitCode.failed, error);
    throw error;
  }
  const minBlockBytes = Math.max(...targets.map((target) => target.blockBytes));
  const common = { log, connectionsMax: config.connectionsMax, minBlockBytes };
  const servers: NbdServer[] = [];
  if (config.socket !== undefined)
    servers.push(await serveNbd(journal, { listen: { path: config.socket }, ...common }));
  if (config.tls !== undefined) {
    const { host, port } = config.tls;
    const tls = {
      cert: await readFile(config.tls.cert),
      key: await readFile(config.tls.key),
      ca: await readFile(config.tls.ca),
    };
    servers.push(await serveNbd(journal, { listen: { host, port, tls }, ...common }));
  }
  journal.onBatch = () => {
    for (const server of servers) server.flushDirty();
  };

  let control: Server | null = null;
  let resolveStopped: () => void = () => undefined;
  const stopped = new Promise<void>((resolve) => {
    resolveStopped = resolve;
  });
  let stopping: Promise<void> | null = null;
  const stop = (): Promise<void> => {
    stopping ??= (async () => {
      for (const server of servers) await server.close();
      await journal.close();
      await close();
      control?.close();
      for (const socket of controls) socket.end();
      log.info('journal stopped', { domain: config.domain });
      resolveStopped();
    })();
    return stopping;
  };
  if (config.control !== undefined) {
    control = await listenControl(config.control, controls, log, (call, socket) =>
      answer(call, journal, socket, stop),
    );
  }
  log.info('journal serving', { domain: config.domain, ...summary(journal.state()) });
  return { journal, servers, stopped, stop };
}

function summary(state: JournalState): Record<string, unknown> {
  const { mode, undecided, committedEpoch, closedEpoch, usedBytes, totalBytes } = state;
  return { mode, undecided, committedEpoch, closedEpoch, usedBytes, totalBytes };
}

async function answer(
  call: Call,
  journal: EpochJournal,
  socket: Socket,
  stop: () => Promise<void>,
): Promise<void> {
  try {
    const result = await perform(call, journal);
    send(socket, { id: call.id, ok: true, ...(result === undefined ? {} : { result }) });
    if (call.call === 'stop') await stop();
  } catch (error) {
    const code = error instanceof JournalError ? error.code : 'failed';
    send(socket, {
      id: call.id,
      ok: false,
      code,
      error: error instanceof Error ? error.message : String(error),
    });
  }
}

function perform(call: Call, journal: EpochJournal): unknown {
  switch (call.call) {
    case 'state':
      return journal.state();
    case 'startSession':
      return journal.startSession({
        domain: journal.domain,
        term: call.term,
        id: Buffer.from(call.session, 'hex'),
      });
    case 'commit':
      return journal.commit(call.epoch);
    case 'rollForward':
      return journal.rollForward();
    case 'discard':
      return journal.discard();
    case 'discarded':
      return journal.discarded();
    case 'discardMarked':
      return journal.discardMarked();
    case 'drained':
      return journal.drained();
    case 'flush':
      return journal.flush();
    case 'stop':
      return undefined;
    default:
      throw new Error(`call ${String(call satisfies never)}`);
  }
}

async function listenControl(
  path: string,
  controls: Set<Socket>,
  log: NbdLog,
  onCall: (call: Call, socket: Socket) => Promise<void>,
): Promise<Server> {
  await rm(path, { force: true });
  const server = createServer((socket) => {
    if (controls.size >= CONTROLS_MAX) {
      socket.destroy();
      return;
    }
    controls.add(socket);
    let pending = '';
    socket.setEncoding('utf8');
    socket.on('data', (text: string) => {
      pending += text;
      const lines = pending.split('\n');
      pending = lines.pop() ?? '';
      for (const line of lines) {
        const call = parseCall(line);
        if (typeof call === 'string') {
          log.warn('control line refused', { reason: call });
          send(socket, { ok: false, code: 'invalid', error: call });
          socket.end();
          return;
        }
        void onCall(call, socket);
      }
      if (pending.length > LINE_BYTES_MAX) {
        log.warn('control line refused', { reason: 'too long' });
        socket.destroy();
      }
    });
    socket.on('error', () => socket.destroy());
    socket.on('close', () => controls.delete(socket));
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(path, resolve);
  });
  return server;
}

function parseCall(line: string): Call | string {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    return 'not JSON';
  }
  const parsed = callSchema.safeParse(value);
  return parsed.success ? parsed.data : parsed.error.issues.map((each) => each.message).join('; ');
}

function send(socket: Socket, value: Record<string, unknown>): void {
  if (socket.writable) socket.write(`${JSON.stringify(value)}\n`);
}
