/**
 * A switchover on the hosts: xl's live migration with the link between the hosts as its transport, as the sender and
 * the receiver have it for checkpoints, so that no host has to log in on the other one.
 *
 *     xl migrate -> switchover-source ==== link ====> switchover-target -> xl migrate-receive
 *
 * Bytes of the stream go as `data`, what xl there answers as `back`; nothing of it is understood here. Whichever end
 * is lost, the other xl sees the end of its input: before its permission to start it drops its copy, and the guest
 * goes on where it was (core/protect/switchover.ts says what happens behind that).
 */
import { spawn } from 'node:child_process';
import { closeSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { Socket } from 'node:net';
import { join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { ExitCode, OperatorError } from '../core/errors.js';
import { BULK_FRAME_BYTES_MAX } from '../core/link/bulk.js';
import { judgeHello } from '../core/link/judge.js';
import type { Verdict } from '../core/link/judge.js';
import { parseXlList } from '../core/parse/xen.js';
import { awayName, INTENT_FILE, parseIntent } from '../core/protect/switchover.js';
import type { SwitchoverIntent } from '../core/protect/switchover.js';
import { REPORT_EVERY_MS } from '../core/protect/report.js';
import type { Log } from '../edge/log.js';
import { makePipe } from '../edge/pipe.js';
import { connectLink } from '../link/client.js';
import type { ReceiverLink, SenderLink } from '../link/link.js';
import type { Loss } from '../link/loss.js';
import { listenLink } from '../link/server.js';
import { exec, must } from './exec.js';
import { linkListen, readHostDomain, routeTo } from './host-domain.js';
import type { HostDomain } from './host-domain.js';
import { systemdNotify } from './notify.js';
import { resumeIfSuspended } from './sender-cleanup.js';
import { replaceFile } from './sender-host.js';

const COMMAND_MS = 30_000;
const CONNECT_MS = 20_000;
/** A target that nobody comes to ends. */
const WAIT_MS = 120_000;
/** Without a sign of life for so long the other side is taken for dead; nothing waits for it but the guest itself. */
const SILENCE_MS = 20_000;
const HEARTBEAT_MS = 1_000;
const CLOSE_MS = 5_000;
/** Pieces of the stream that may be on their way to the kernel. */
const PIECES_MAX = 8;
const STDERR_CHARS_MAX = 2_000;

/** xl on the target's host, as it is seen from here. */
export interface ArrivingXl {
  input: Writable;
  output: Readable;
  /** Its exit code, when it has ended; null when a signal ended it. */
  exited: Promise<number | null>;
}

async function readIntent(here: HostDomain, role: 'from' | 'to'): Promise<SwitchoverIntent> {
  const path = join(here.stateDirectory, INTENT_FILE);
  let intent: SwitchoverIntent;
  try {
    intent = parseIntent(await readFile(path, 'utf8'));
  } catch (error) {
    throw new OperatorError(
      `${here.domain.domain}: ${path}: ${(error as Error).message}; remus-drbd switchover writes it`,
      ExitCode.usage,
      error,
    );
  }
  if (intent[role] === here.host) return intent;
  throw new OperatorError(
    `${intent.domain}: it is to move from ${intent.from} to ${intent.to}, and this host is ${here.host}`,
    ExitCode.refused,
  );
}

/** `remus-drbd switchover-source DOMAIN`, which xl starts as its transport: standard input and output are its pipes. */
export async function runSwitchoverSource(name: string, program: string, log: Log): Promise<ExitCode> {
  const here = await readHostDomain(name);
  const intent = await readIntent(here, 'from');
  const { pair, domain, term, session } = intent;
  const link = await connectLink({
    route: routeTo(here),
    peer: here.peer.name,
    hello: { program, pair, domain, from: here.host, term, session, intervalMs: HEARTBEAT_MS },
    timeoutMs: CONNECT_MS,
  });
  let sentBytes = 0;
  const path = join(here.runDirectory, 'switchover-progress.json');
  const report = setInterval(() => {
    void replaceFile(path, JSON.stringify({ session, sentBytes })).catch(() => undefined);
  }, REPORT_EVERY_MS);
  try {
    const problem = await sendGuest(link, process.stdin, process.stdout, (bytes) => (sentBytes += bytes));
    if (problem === null) return ExitCode.ok;
    log.error('the transport has failed', { domain, reason: problem });
    return ExitCode.failed;
  } finally {
    clearInterval(report);
  }
}

/**
 * Carries what xl writes to the target, and what comes back to xl, until either has ended.
 * @returns null, or why the link was lost
 */
export async function sendGuest(
  link: SenderLink,
  input: Readable,
  output: Writable,
  onSent: (bytes: number) => void,
): Promise<string | null> {
  const beat = heartbeats((message) => void link.control.send(message));
  const over = new Promise<string | null>((resolve) => {
    startControl(link, resolve);
    link.bulk.start({
      item: (item) => {
        if (item.type === 'back') return written(output, item.bytes);
        if (item.type === 'end') resolve(null);
        return undefined;
      },
      lost: ({ reason }) => resolve(reason),
    });
    void (async () => {
      const flying: Promise<boolean>[] = [];
      for await (const bytes of input as AsyncIterable<Buffer>) {
        onSent(bytes.length);
        for (let at = 0; at < bytes.length; at += BULK_FRAME_BYTES_MAX) {
          const piece = bytes.subarray(at, at + BULK_FRAME_BYTES_MAX);
          flying.push(link.bulk.send({ type: 'data', epoch: 0 }, piece));
          if (flying.length >= PIECES_MAX && !(await flying.shift())) return;
        }
      }
      resolve(null);
    })().catch((error: unknown) => resolve((error as Error).message));
  });
  const problem = await over;
  clearInterval(beat);
  await closeLink(link, problem === null);
  input.destroy();
  await new Promise<void>((resolve) => output.end(() => resolve()));
  return problem;
}

/** `remus-drbd switchover-target DOMAIN`, run by its unit on the host where the guest is to run. */
export async function runSwitchoverTarget(name: string, program: string, log: Log): Promise<ExitCode> {
  const here = await readHostDomain(name);
  const intent = await readIntent(here, 'to');
  const { pair, domain, term, session } = intent;
  let taken = false;
  const authorise = (hello: Parameters<typeof judgeHello>[0]): Verdict => {
    const used = new Set(taken ? [session] : []);
    const verdict = judgeHello(hello, { pair, domain, peer: here.peer.name, term, usedSessions: used });
    if (!verdict.take || hello.purpose !== 'control') return verdict;
    if (hello.session !== session) {
      return { take: false, code: 'not-ready', reason: `session ${session} is expected` };
    }
    taken = true;
    return verdict;
  };
  const stop = new AbortController();
  process.on('SIGTERM', () => stop.abort()).on('SIGINT', () => stop.abort());
  let arrived: (link: ReceiverLink) => void = () => undefined;
  const coming = new Promise<ReceiverLink | null>((resolve) => {
    arrived = resolve;
    setTimeout(() => resolve(null), WAIT_MS).unref();
    stop.signal.addEventListener('abort', () => resolve(null));
  });
  const listener = await listenLink({
    listen: linkListen(here),
    program,
    host: here.host,
    log,
    authorise,
    onSession: (link) => arrived(link),
    onCleanup: (control) => void control.close(),
  });
  systemdNotify()('READY=1');
  try {
    const link = await coming;
    if (link === null) {
      log.error('nobody has come', { domain, term });
      return ExitCode.failed;
    }
    const code = await receiveGuest(link, startXl(domain, log), stop.signal, log);
    log.info('xl has ended', { domain, term, exitCode: code });
    return code === 0 ? ExitCode.ok : ExitCode.failed;
  } finally {
    await listener.close();
  }
}

/**
 * Carries the stream to xl and its answers back, until xl has ended.
 * @returns xl's exit code
 */
export async function receiveGuest(
  link: ReceiverLink,
  xl: ArrivingXl,
  stop: AbortSignal,
  log: Pick<Log, 'warn'>,
): Promise<number | null> {
  const beat = heartbeats((message) => void link.control.send(message));
  const lost = (reason: string): void => {
    if (xl.input.destroyed) return;
    log.warn('the source is lost', { reason });
    // xl sees the end of its input.
    xl.input.destroy();
  };
  xl.input.on('error', () => undefined);
  stop.addEventListener('abort', () => lost('this was stopped'), { once: true });
  startControl(link, lost);
  link.bulk.start({
    item: (item) => {
      if (item.type === 'data') return written(xl.input, item.bytes);
      if (item.type === 'end') xl.input.end();
      return undefined;
    },
    lost: ({ reason }) => lost(reason),
  });
  const said = (async () => {
    for await (const bytes of xl.output as AsyncIterable<Buffer>) {
      await link.bulk.send({ type: 'back' }, bytes);
    }
  })().catch(() => undefined);
  const code = await xl.exited;
  // The xl that stays for the guest might hold it open.
  await Promise.race([said, later(CLOSE_MS)]);
  clearInterval(beat);
  await closeLink(link, code === 0);
  xl.input.destroy();
  return code;
}

function startXl(domain: string, log: Log): ArrivingXl {
  // libxl waits for ever, busily, at the end of a socket: it has to be a pipe.
  const ends = makePipe();
  const child = spawn('xl', ['migrate-receive'], { stdio: [ends.read, 'pipe', 'pipe'] });
  closeSync(ends.read);
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    log.info('xl says', { domain, text: text.trim().slice(0, STDERR_CHARS_MAX) });
  });
  if (child.stdout === null) throw new Error('xl has no output');
  return {
    input: new Socket({ fd: ends.write, readable: false, writable: true }),
    output: child.stdout,
    exited: new Promise((resolve) => {
      child.on('error', () => resolve(null));
      child.on('exit', (code) => resolve(code));
    }),
  };
}

/** One side that ends closes both connections in order; what is still on its way in the bulk connection comes first. */
function startControl(link: SenderLink | ReceiverLink, lost: (reason: string) => void): void {
  const onLost = ({ kind, reason }: Loss): void => {
    if (kind === 'closed') void later(CLOSE_MS).then(() => lost(reason));
    else lost(reason);
  };
  link.control.start({ message: () => undefined, lost: onLost }, SILENCE_MS);
}

type Heartbeat = { type: 'heartbeat'; sequence: number; sentMs: number; state: string };

function heartbeats(send: (message: Heartbeat) => void): NodeJS.Timeout {
  let sequence = 0;
  return setInterval(() => {
    send({
      type: 'heartbeat',
      sequence: sequence++,
      sentMs: Math.round(performance.now()),
      state: 'switchover',
    });
  }, HEARTBEAT_MS);
}

/** Resolves when the bytes may be used for something else; what can't be written any more is dropped. */
function written(stream: Writable, bytes: Buffer): Promise<void> {
  return new Promise((resolve) => {
    if (stream.destroyed || stream.writableEnded) resolve();
    else stream.write(bytes, () => resolve());
  });
}

async function closeLink(link: SenderLink | ReceiverLink, clean: boolean): Promise<void> {
  await Promise.race([link.close(clean), later(CLOSE_MS)]);
}

function later(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms).unref());
}

/**
 * After `xl migrate`, however it ended: `remus-drbd switchover-cleanup DOMAIN`. A guest that is suspended under its own
 * name was given to nobody, and goes on here.
 */
export async function cleanUpSwitchover(name: string, log: Log): Promise<ExitCode> {
  await readHostDomain(name);
  await resumeIfSuspended(name, log);
  const guests = parseXlList(await must(['xl', 'list'], COMMAND_MS)).map((guest) => guest.name);
  if (guests.includes(awayName(name))) {
    log.error(
      'the guest has left, and whether it arrived only its other host can say: remus-drbd switchover',
      {
        domain: name,
      },
    );
  }
  if (guests.includes(name)) {
    // The xl that watched it has ended with its suspend (scripts/host/remus-watch).
    await must(['systemctl', 'start', '--no-block', `remus-watch@${name}.service`], COMMAND_MS);
  }
  // DRBD refuses it where both are Primary; then the next run of the command does it.
  const back = ['drbdadm', 'net-options', '--protocol=A', '--allow-two-primaries=no', name];
  const { code, stderr } = await exec(back, { timeoutMs: COMMAND_MS });
  if (code !== 0) log.warn('DRBD still allows two primaries', { domain: name, reason: stderr.trim() });
  return ExitCode.ok;
}
