/**
 * The sender's side: makes a link's two connections, one after the other, each with its hello.
 *
 *     connect -> (TLS: their certificate is the pinned one) -> hello -> welcome
 */
import { once } from 'node:events';
import { connect as connectPlain } from 'node:net';
import type { Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { ExitCode, OperatorError } from '../core/errors.js';
import { encodeControl } from '../core/link/control-frames.js';
import { LINK_PROTOCOL, readFromReceiver, readHelloAnswer } from '../core/link/messages.js';
import type { Hello, RefusalCode, Welcome } from '../core/link/messages.js';
import { BulkChannel } from './bulk.js';
import { ControlChannel } from './control.js';
import { readFirstFrame } from './hello.js';
import { makeLink } from './link.js';
import type { SenderControl, SenderLink } from './link.js';
import { lossOf } from './loss.js';
import type { LossKind } from './loss.js';
import { tuneSocket } from './sockets.js';
import { openTunnel } from './ssh.js';
import type { SshTunnel } from './ssh.js';
import { loadTls, pinProblem } from './tls.js';
import type { TlsFiles } from './tls.js';

/** The way to the receiver. */
export type Route =
  | { kind: 'tls'; host: string; port: number; tls: TlsFiles }
  /** A receiver on the same host, for tests and the embedded pair. */
  | { kind: 'local'; path: string }
  | ({ kind: 'ssh' } & SshTunnel);

export interface ConnectOptions {
  route: Route;
  /** The name of the receiver's host, which its welcome has to say. */
  peer: string;
  hello: Omit<Hello, 'type' | 'protocol' | 'purpose'>;
  /** For everything, until the link is there. */
  timeoutMs: number;
}

/** The receiver answered, and does not take this session. */
export class LinkRefused extends OperatorError {
  readonly code: RefusalCode;

  constructor(message: string, code: RefusalCode) {
    super(message, ExitCode.refused);
    this.name = 'LinkRefused';
    this.code = code;
  }
}

/** There is no link, and `loss` says what may be concluded from that. */
export class LinkFailed extends OperatorError {
  readonly loss: LossKind;

  constructor(message: string, loss: LossKind, cause: unknown) {
    super(message, ExitCode.unreachable, cause);
    this.name = 'LinkFailed';
    this.loss = loss;
  }
}

/**
 * Begins a session: both connections.
 * @throws LinkRefused, LinkFailed; OperatorError for certificates that can't be read
 */
export async function connectLink(options: ConnectOptions): Promise<SenderLink> {
  const deadline = performance.now() + options.timeoutMs;
  const first = await openConnection(options, 'control', deadline);
  const control: SenderControl = new ControlChannel(first.socket, readFromReceiver, first.rest);
  try {
    const second = await openConnection(options, 'bulk', deadline);
    const bulk = new BulkChannel(second.socket, second.rest);
    return makeLink({ hello: first.hello, welcome: first.welcome, control, bulk });
  } catch (error) {
    await control.close(0);
    throw error;
  }
}

/**
 * Opens the control connection of a cleanup, after its sender has died.
 * @throws as `connectLink`
 */
export async function connectCleanup(options: ConnectOptions): Promise<SenderControl> {
  const { socket, rest } = await openConnection(options, 'cleanup', performance.now() + options.timeoutMs);
  return new ControlChannel(socket, readFromReceiver, rest);
}

interface Opened {
  socket: Socket;
  hello: Hello;
  welcome: Welcome;
  rest: Buffer;
}

async function openConnection(
  options: ConnectOptions,
  purpose: Hello['purpose'],
  deadline: number,
): Promise<Opened> {
  const { route, peer } = options;
  const subject = `${options.hello.domain}: no link to the receiver on ${peer} (${routeText(route)})`;
  const hello: Hello = { type: 'hello', protocol: LINK_PROTOCOL, purpose, ...options.hello };
  let answer, rest, socket;
  try {
    socket = await open(route, deadline);
    socket.on('error', () => undefined);
    tuneSocket(socket);
    socket.write(encodeControl(hello));
    const first = await readFirstFrame(socket, left(deadline));
    rest = first.rest;
    answer = readHelloAnswer(first.json);
  } catch (error) {
    socket?.destroy();
    if (error instanceof OperatorError) throw error;
    const hint =
      socket !== undefined && route.kind === 'tls'
        ? '; if its log says that the certificate was refused, run setup again'
        : '';
    throw new LinkFailed(
      `${subject}: ${(error as Error).message}${hint}. Nothing was changed`,
      lossOf(error as Error).kind,
      error,
    );
  }
  if (answer.type === 'refused') {
    socket.destroy();
    throw new LinkRefused(
      `${subject}: refused (${answer.code}): ${answer.reason}. Nothing was changed`,
      answer.code,
    );
  }
  if (answer.protocol !== LINK_PROTOCOL || answer.host !== peer) {
    socket.destroy();
    const observed = `host ${answer.host}, link protocol ${answer.protocol}`;
    throw new LinkRefused(
      `${subject}: it says ${observed}; ${peer} and ${LINK_PROTOCOL} are required. Nothing was changed`,
      answer.protocol !== LINK_PROTOCOL ? 'protocol-version' : 'wrong-peer',
    );
  }
  return { socket, hello, welcome: answer, rest };
}

async function open(route: Route, deadline: number): Promise<Socket> {
  switch (route.kind) {
    case 'local':
      return connected(connectPlain({ path: route.path }), 'connect', deadline);
    case 'ssh':
      return openTunnel(route, left(deadline));
    case 'tls': {
      const identity = await loadTls(route.tls);
      const socket = connectTls({
        ...identity.options,
        host: route.host,
        port: route.port,
        // Not a name is checked but the certificate itself, below.
        checkServerIdentity: () => undefined,
      });
      await connected(socket, 'secureConnect', deadline);
      const problem = pinProblem(socket, identity);
      if (problem === undefined) return socket;
      socket.destroy();
      throw new Error(problem);
    }
  }
}

/** Waits for the event, the socket's error, or the deadline. */
async function connected<T extends Socket>(socket: T, event: string, deadline: number): Promise<T> {
  const timeoutMs = left(deadline);
  const timer = setTimeout(() => {
    const error: NodeJS.ErrnoException = new Error(`no connection within ${Math.ceil(timeoutMs / 1000)} s`);
    error.code = 'ETIMEDOUT';
    socket.destroy(error);
  }, timeoutMs);
  try {
    await once(socket, event);
    return socket;
  } catch (error) {
    socket.destroy();
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

function left(deadline: number): number {
  return Math.max(1, deadline - performance.now());
}

function routeText(route: Route): string {
  switch (route.kind) {
    case 'tls':
      return `${route.host} port ${route.port}`;
    case 'local':
      return route.path;
    case 'ssh':
      return `ssh ${route.target}`;
  }
}
