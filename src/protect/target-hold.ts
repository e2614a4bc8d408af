/**
 * Holds the backup's disks at one commit for whoever asks on the host: a drill, for as long as it takes to make snapshots
 * of them. A unix socket in the domain's runtime directory; messages are lines of JSON.
 *
 *     connected  ->
 *                <-  {"held":{"term":3,"epoch":42}}     the disks are at it, flushed
 *     "release"  ->
 *                <-  {"released":true}                  they were at it until now
 *
 * At any time instead: {"ended":"why"}, and the connection is closed: it was not held, or not until now. A connection that
 * is closed releases, and so does the time limit. Whatever production needs comes first: see `EpochJournal.holdTargets`.
 */
import { once } from 'node:events';
import { chmod, rm } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import type { Socket } from 'node:net';
import { createInterface } from 'node:readline';
import type { Log } from '../edge/log.js';

/** In the domain's runtime directory. */
export const HOLD_SOCKET = 'hold.sock';

/** How long they are held at most. Commits wait in the journal meanwhile. */
export const HOLD_MS_MAX = 30_000;
const LINE_CHARS_MAX = 4096;

/** @see EpochJournal.holdTargets */
export type HoldTargets = (
  ended: (reason: string) => void,
) => Promise<{ term: number; epoch: number; release: () => void }>;

/**
 * @returns what ends it, and with it every hold
 * @throws Error where it can't listen there
 */
export async function serveHolds(
  path: string,
  hold: HoldTargets,
  log: Pick<Log, 'info'>,
  limitMs = HOLD_MS_MAX,
): Promise<{ close: () => Promise<void> }> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    void serveHold(socket, hold, log, limitMs);
  });
  await rm(path, { force: true });
  server.listen(path);
  await once(server, 'listening');
  await chmod(path, 0o600);
  server.on('error', (error) => void log.info('the socket for holds', { reason: error.message }));
  return {
    close: async () => {
      for (const socket of sockets) socket.destroy();
      server.close();
      await rm(path, { force: true });
    },
  };
}

async function serveHold(
  socket: Socket,
  hold: HoldTargets,
  log: Pick<Log, 'info'>,
  limitMs: number,
): Promise<void> {
  let release: (() => void) | null = null;
  let isOver = false;
  let timer: NodeJS.Timeout | null = null;
  const end = (reason: string, answer: object): void => {
    if (isOver) return;
    isOver = true;
    if (timer !== null) clearTimeout(timer);
    release?.();
    log.info('the disks are held no longer', { reason });
    socket.end(`${JSON.stringify(answer)}\n`);
  };
  const stop = (reason: string): void => end(reason, { ended: reason });
  socket.on('error', () => undefined).on('close', () => stop('whoever asked is gone'));
  socket.on('data', (bytes: Buffer) => {
    if (release !== null && bytes.toString('latin1') === 'release\n') end('released', { released: true });
    else stop('it said something else than release');
  });
  socket.on('end', () => stop('whoever asked is gone'));
  try {
    const held = await hold(stop);
    release = held.release;
    if (isOver) {
      release();
      return;
    }
    const { term, epoch } = held;
    timer = setTimeout(() => stop(`they were held for ${limitMs / 1000} s`), limitMs);
    log.info('the disks are held at a commit', { term, epoch });
    socket.write(`${JSON.stringify({ held: { term, epoch } })}\n`);
  } catch (error) {
    stop((error as Error).message);
  }
}

/** The disks stood at a commit while `use` ran. */
export interface HeldAt<T> {
  term: number;
  epoch: number;
  /** How long it took until they did, and then `use`. */
  holdMs: number;
  useMs: number;
  result: T;
}

/**
 * Runs `use` while the receiver holds the disks.
 * @throws Error where it did not hold them, or not until the end; whatever `use` throws
 */
export async function withTargetsHeld<T>(path: string, use: () => Promise<T>): Promise<HeldAt<T>> {
  const socket = connect(path);
  const lines = createInterface({ input: socket })[Symbol.asyncIterator]();
  // Without a connection its lines end.
  let failure = 'the receiver has closed the connection';
  socket.on('error', (error) => (failure = error.message));
  const next = async (): Promise<Record<string, unknown>> => {
    const { done, value } = (await lines.next()) as IteratorResult<string, undefined>;
    if (done === true || value.length > LINE_CHARS_MAX) throw new Error(failure);
    const answer = JSON.parse(value) as Record<string, unknown>;
    if (typeof answer['ended'] === 'string') throw new Error(answer['ended']);
    return answer;
  };
  try {
    const beganMs = performance.now();
    const { held } = (await next()) as { held?: { term: number; epoch: number } };
    if (held === undefined) throw new Error('the receiver answered something else');
    const heldMs = performance.now();
    const result = await use();
    const usedMs = performance.now();
    socket.write('release\n');
    if ((await next())['released'] !== true) throw new Error('the receiver answered something else');
    return { ...held, holdMs: heldMs - beganMs, useMs: usedMs - heldMs, result };
  } finally {
    socket.destroy();
  }
}
