/**
 * The receiver's listener: takes connections, and makes links of those that it was told to take.
 *
 *     TCP, TLS 1.3 with both certificates pinned (or a unix socket, for ssh) -> hello -> authorise -> welcome
 *
 * A session is a control connection that was authorised, and then a bulk connection with the same hello. While the
 * second is awaited no other session begins. What is not authorised yet is bounded in number and in time, and is
 * refused with a reason that also goes to the log.
 */
import { chmod, rm } from 'node:fs/promises';
import { createServer as createPlainServer } from 'node:net';
import type { Server, Socket } from 'node:net';
import { createServer as createTlsServer } from 'node:tls';
import { encodeControl } from '../core/link/control-frames.js';
import { LinkError } from '../core/link/errors.js';
import { sameSession } from '../core/link/judge.js';
import type { Verdict } from '../core/link/judge.js';
import { LINK_PROTOCOL, readFromSender, readHello } from '../core/link/messages.js';
import type { Hello, OtherHello, RefusalCode, Welcome } from '../core/link/messages.js';
import { BulkChannel } from './bulk.js';
import { ControlChannel } from './control.js';
import { readFirstFrame } from './hello.js';
import { makeLink } from './link.js';
import type { LinkLog, ReceiverControl, ReceiverLink } from './link.js';
import { closeSocket, tuneSocket } from './sockets.js';
import { loadTls, pinProblem } from './tls.js';
import type { TlsFiles, TlsIdentity } from './tls.js';

export interface ListenOptions {
  /** A unix socket is reached by those who may write to it, and has no encryption: it is for `link: ssh`. */
  listen: { address: string; port: number; tls: TlsFiles } | { path: string };
  program: string;
  /** This host. */
  host: string;
  log: LinkLog;
  /**
   * Decides on a control or cleanup connection, one at a time. A session that was taken has to be remembered as
   * used, durably, before this resolves. Its link may never come about.
   */
  authorise: (hello: Hello | OtherHello) => Verdict | Promise<Verdict>;
  onSession: (link: ReceiverLink) => void;
  onCleanup: (control: ReceiverControl, hello: Hello) => void;
  /** How long a connection may take to say what it is, and a session to become whole. */
  helloMs?: number;
  /** Open connections, those of a session included. */
  connectionsMax?: number;
}

/**
 * Listens.
 * @throws OperatorError for certificates that can't be read, or the error of listen(2)
 */
export async function listenLink(options: ListenOptions): Promise<LinkListener> {
  const identity = 'tls' in options.listen ? await loadTls(options.listen.tls) : undefined;
  const listener = new LinkListener(options, identity);
  await listener.listen();
  return listener;
}

export class LinkListener {
  readonly #options: ListenOptions;
  readonly #helloMs: number;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  /** A control connection that was taken and has no bulk connection yet. */
  #awaiting: { hello: Hello; socket: Socket; timer: NodeJS.Timeout } | undefined;
  #judging: Promise<unknown> = Promise.resolve();

  constructor(options: ListenOptions, identity: TlsIdentity | undefined) {
    this.#options = options;
    this.#helloMs = options.helloMs ?? 5_000;
    this.#server = identity === undefined ? this.#plainServer() : this.#tlsServer(identity);
    this.#server.maxConnections = options.connectionsMax ?? 16;
    this.#server.on('drop', (from) => {
      this.#refused(from?.remoteAddress, `more than ${this.#server.maxConnections} connections`);
    });
  }

  /** The port, for a listener that was given port 0. */
  get port(): number {
    const address = this.#server.address();
    return typeof address === 'object' && address !== null ? address.port : 0;
  }

  async listen(): Promise<void> {
    const { listen } = this.#options;
    if ('path' in listen) await rm(listen.path, { force: true });
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject);
      const where = 'path' in listen ? { path: listen.path } : { host: listen.address, port: listen.port };
      this.#server.listen(where, () => {
        this.#server.off('error', reject);
        resolve();
      });
    });
    if ('path' in listen) await chmod(listen.path, 0o600);
  }

  /** Stops listening and drops what is no link yet. Links that were handed over stay. */
  async close(): Promise<void> {
    // The callback waits for every connection, those of handed over links too: only the listening has to end.
    this.#server.close();
    this.#drop();
    for (const socket of this.#sockets) socket.destroy();
    const { listen } = this.#options;
    if ('path' in listen) await rm(listen.path, { force: true });
  }

  #plainServer(): Server {
    return createPlainServer({ pauseOnConnect: true }, (socket) => void this.#accept(socket));
  }

  #tlsServer(identity: TlsIdentity): Server {
    const server = createTlsServer({ ...identity.options, handshakeTimeout: this.#helloMs }, (socket) => {
      const problem = pinProblem(socket, identity);
      if (problem === undefined) {
        void this.#accept(socket);
        return;
      }
      this.#refused(addressOf(socket), problem);
      socket.on('error', () => undefined);
      socket.destroy();
    });
    // Asked for once, an address is remembered.
    server.on('connection', (socket: Socket) => socket.remoteAddress);
    server.on('tlsClientError', (error, socket) => {
      // Without an error of OpenSSL it was Node that found the certificate not to be the pinned one.
      // The types say Error; it is OpenSSL's name for the reason.
      const verify = socket.authorizationError as unknown as string | null;
      // Destroyed already, it knows its address no more; the socket below it does.
      const below = (socket as { _parent?: Socket })._parent;
      this.#refused(
        below?.remoteAddress,
        verify ? `the peer's certificate is not the pinned one (${verify})` : error.message,
      );
      socket.destroy();
    });
    return server;
  }

  async #accept(socket: Socket): Promise<void> {
    this.#sockets.add(socket);
    socket.once('close', () => this.#sockets.delete(socket));
    socket.on('error', () => undefined);
    tuneSocket(socket);
    const from = addressOf(socket);
    try {
      const { json, rest } = await readFirstFrame(socket, this.#helloMs);
      const hello = readHello(json);
      if (rest.length > 0) throw new LinkError('framing', 'bytes behind a hello that was not answered yet');
      await this.#greet(socket, hello);
    } catch (error) {
      this.#refused(from, (error as Error).message);
      socket.destroy();
    }
  }

  async #greet(socket: Socket, hello: Hello | OtherHello): Promise<void> {
    if (hello.purpose === 'bulk') {
      this.#joinBulk(socket, hello);
      return;
    }
    const judging = this.#judging.then(async () => {
      const verdict = await this.#judge(hello);
      if (socket.destroyed) return;
      if (!verdict.take || hello.purpose === 'unknown') {
        const { code, reason } = verdict.take ? UNKNOWN : verdict;
        this.#refuse(socket, code, reason);
      } else if (hello.purpose === 'cleanup') this.#cleanup(socket, hello);
      else this.#await(socket, hello);
    });
    this.#judging = judging.catch(() => undefined);
    await judging;
  }

  async #judge(hello: Hello | OtherHello): Promise<Verdict> {
    if (this.#awaiting !== undefined && hello.purpose === 'control') {
      const { term, session } = this.#awaiting.hello;
      return { take: false, code: 'busy', reason: `session ${session} of term ${term} is beginning` };
    }
    return this.#options.authorise(hello);
  }

  #cleanup(socket: Socket, hello: Hello): void {
    this.#welcome(socket);
    this.#sockets.delete(socket);
    this.#options.onCleanup(new ControlChannel(socket, readFromSender, EMPTY), hello);
  }

  #await(socket: Socket, hello: Hello): void {
    const timer = setTimeout(() => {
      this.#refused(addressOf(socket), `no bulk connection followed within ${this.#helloMs} ms`);
      this.#drop();
    }, this.#helloMs);
    this.#awaiting = { hello, socket, timer };
    socket.once('close', () => {
      if (this.#awaiting?.socket === socket) this.#drop();
    });
    this.#welcome(socket);
  }

  #joinBulk(socket: Socket, hello: Hello): void {
    const awaiting = this.#awaiting;
    if (awaiting === undefined || !sameSession(awaiting.hello, hello)) {
      this.#refuse(socket, 'not-ready', `no control connection of session ${hello.session} waits for it`);
      return;
    }
    clearTimeout(awaiting.timer);
    this.#awaiting = undefined;
    this.#sockets.delete(socket);
    this.#sockets.delete(awaiting.socket);
    const control: ReceiverControl = new ControlChannel(awaiting.socket, readFromSender, EMPTY);
    const bulk = new BulkChannel(socket, EMPTY);
    const welcome = this.#welcome(socket);
    this.#options.onSession(makeLink({ hello: awaiting.hello, welcome, control, bulk }));
  }

  #welcome(socket: Socket): Welcome {
    const { program, host } = this.#options;
    const welcome: Welcome = { type: 'welcome', protocol: LINK_PROTOCOL, program, host };
    socket.write(encodeControl(welcome));
    return welcome;
  }

  #refuse(socket: Socket, code: RefusalCode, reason: string): void {
    this.#refused(addressOf(socket), `${code}: ${reason}`);
    socket.write(encodeControl({ type: 'refused', code, reason }));
    void closeSocket(socket, this.#helloMs);
  }

  #refused(from: string | undefined, reason: string): void {
    this.#options.log.warn('link connection refused', { from: from ?? 'unknown', reason });
  }

  #drop(): void {
    const awaiting = this.#awaiting;
    if (awaiting === undefined) return;
    this.#awaiting = undefined;
    clearTimeout(awaiting.timer);
    awaiting.socket.destroy();
  }
}

const EMPTY = Buffer.alloc(0);
const UNKNOWN = {
  code: 'protocol-version' as const,
  reason: `this receiver speaks link protocol ${LINK_PROTOCOL}`,
};

/** Of a connection over a unix socket there is none. */
function addressOf(socket: Socket): string {
  return socket.remoteAddress ?? 'local';
}
