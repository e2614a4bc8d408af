/**
 * An embedded SSH server: stands for a host, in this process, on a loopback port, with no root and no sshd.
 *
 * It speaks the real protocol and takes only the requests that `src/core/remote.ts` renders, unquoted
 * strictly; what they do is up to an `EmbeddedBackend`. Delay and faults can be set at any time, also between
 * two commands. It gives nobody a shell: a request that is not recognised is refused and recorded.
 */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import ssh2 from 'ssh2';
import type { Connection, ParsedKey, ServerChannel } from 'ssh2';
import {
  HELLO_ARGV,
  HELLO_TEXT,
  PROBE_ARGV,
  parseProbes,
  parseRequest,
  parseUpload,
  renderProbeReplies,
  type ProbeReply,
} from '../core/remote.js';
import { delayed } from './delay.js';

export interface EmbeddedResult {
  exitCode: number;
  stdout: string | Uint8Array;
  stderr: string;
}

/** A running stream, as its command sees it. */
export interface EmbeddedStream {
  /** Prints one line on standard output. */
  line: (text: string) => void;
  /** Resolves when its standard input ends, or the connection is lost: the command has to end then. */
  ended: Promise<void>;
}

/** What an embedded host does when it is asked; see `machine.ts`. */
export interface EmbeddedBackend {
  run(argv: readonly string[], input: Buffer): EmbeddedResult | Promise<EmbeddedResult>;
  /** Puts a file in place with its parents, atomically. Throws an Error whose message goes to the client. */
  putFile(path: string, content: Buffer, mode: number): void;
  stream(argv: readonly string[], stream: EmbeddedStream): Promise<EmbeddedResult>;
}

/** One request as it arrived. A batch of probes is one request with several commands. */
export interface EmbeddedRequest {
  kind: 'run' | 'probe' | 'upload' | 'stream' | 'refused';
  /** Of a run or stream: its argument list; of an upload: path, mode and sum; of a refused one: its text. */
  argv: readonly string[];
  /** Of a probe batch. */
  commands: readonly (readonly string[])[];
}

/**
 * What goes wrong with a request. `dropBefore`: the connection is lost and the command does not run;
 * `dropAfter`: it runs, and the connection is lost before the answer; `hang`: no answer, ever.
 */
export type EmbeddedFault = 'dropBefore' | 'dropAfter' | 'hang';

export interface EmbeddedSshdOptions {
  backend: EmbeddedBackend;
  /** Public keys that are let in, in OpenSSH's format; nobody else is. */
  authorizedKeys: readonly string[];
  /** Private host keys in OpenSSH's format; a new ed25519 key without. */
  hostKeys?: readonly string[];
  /** Port on 127.0.0.1; a free one without. */
  port?: number;
  /** How long bytes take, in each direction. */
  delayMs?: number;
  /** Channels at once on one connection, as sshd's MaxSessions. */
  sessionsMax?: number;
  /** Asked for each request but the check of the shell, with its number from 0. */
  fault?: (request: EmbeddedRequest, index: number) => EmbeddedFault | undefined;
}

export class EmbeddedSshd {
  readonly #options: EmbeddedSshdOptions;
  readonly hostKeys: readonly string[];
  readonly #listener: Server;
  readonly #sockets = new Set<Socket>();
  readonly #ssh: ssh2.Server;
  /** All requests so far but the check of the shell, in order of arrival. */
  readonly requests: EmbeddedRequest[] = [];
  /** Connections accepted so far, failed log-ins included. */
  connections = 0;
  delayMs: number;
  sessionsMax: number;
  fault: EmbeddedSshdOptions['fault'];

  private constructor(options: EmbeddedSshdOptions) {
    this.#options = options;
    this.hostKeys = options.hostKeys ?? [embeddedKey().private];
    this.delayMs = options.delayMs ?? 0;
    this.sessionsMax = options.sessionsMax ?? 10;
    this.fault = options.fault;
    this.#ssh = new ssh2.Server({ hostKeys: [...this.hostKeys], ident: 'remus-drbd-embedded' }, (client) =>
      this.#serve(client),
    );
    this.#listener = createServer({ noDelay: true }, (socket) => this.#accept(socket));
  }

  static async start(options: EmbeddedSshdOptions): Promise<EmbeddedSshd> {
    const sshd = new EmbeddedSshd(options);
    sshd.#listener.listen(options.port ?? 0, '127.0.0.1');
    await once(sshd.#listener, 'listening');
    return sshd;
  }

  get port(): number {
    return (this.#listener.address() as AddressInfo).port;
  }

  /** Lines for a known_hosts file. */
  get knownHosts(): string {
    return this.hostKeys
      .map((text) => parseKey(text))
      .map((key) => `[127.0.0.1]:${this.port} ${key.type} ${key.getPublicSSH().toString('base64')}\n`)
      .join('');
  }

  /** Cuts every connection now, as a lost host or network does; new ones are accepted. */
  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  async close(): Promise<void> {
    const closed = once(this.#listener, 'close');
    this.#listener.close();
    this.cut();
    await closed;
  }

  #accept(socket: Socket): void {
    this.connections += 1;
    this.#sockets.add(socket);
    socket.on('close', () => this.#sockets.delete(socket));
    socket.on('error', () => undefined);
    this.#ssh.injectSocket(this.delayMs > 0 ? (delayed(socket, this.delayMs) as Socket) : socket);
  }

  #serve(client: Connection): void {
    let sessions = 0;
    const gone = new Promise<void>((resolve) => client.once('close', resolve));
    const allowed = this.#options.authorizedKeys.map(parseKey);
    // A client that goes away is no error of the server.
    client.on('error', () => undefined);
    client.on('authentication', (context) => {
      if (context.method !== 'publickey') return context.reject(['publickey']);
      const key = allowed.find((candidate) => candidate.getPublicSSH().equals(context.key.data));
      const { blob, signature, hashAlgo } = context;
      const proven = signature === undefined || key?.verify(blob ?? Buffer.alloc(0), signature, hashAlgo);
      if (key !== undefined && proven === true) context.accept();
      else context.reject(['publickey']);
    });
    client.on('session', (accept, reject) => {
      if (sessions >= this.sessionsMax) return reject();
      sessions += 1;
      const session = accept();
      session.on('close', () => (sessions -= 1));
      session.on('exec', (acceptExec, _reject, { command }) => {
        void this.#execute(client, gone, acceptExec(), command);
      });
    });
  }

  async #execute(
    client: Connection,
    gone: Promise<void>,
    channel: ServerChannel,
    command: string,
  ): Promise<void> {
    channel.on('error', () => undefined);
    const closed = Promise.race([gone, new Promise<void>((resolve) => channel.once('close', resolve))]);
    const cut = (): void => (client as unknown as { _sock: Socket })._sock.destroy() as unknown as void;
    try {
      const request = parseRequest(command);
      const isStream = request.kind === 'stream';
      const input = isStream ? Buffer.alloc(0) : await readAll(channel, closed);
      const { recorded, work } = this.#interpret(request.argv, input, isStream, channel, closed);
      if (recorded !== undefined) {
        const fault = this.fault?.(recorded, this.requests.length);
        this.requests.push(recorded);
        if (fault === 'dropBefore') return cut();
        if (fault === 'hang') return;
        if (fault === 'dropAfter') {
          await work();
          return cut();
        }
      }
      finish(channel, await work());
    } catch (error) {
      this.requests.push({ kind: 'refused', argv: [command], commands: [] });
      finish(channel, { exitCode: 255, stdout: '', stderr: `embedded sshd: ${(error as Error).message}\n` });
    }
  }

  /** What a request is, and the work that it asks for. */
  #interpret(
    argv: readonly string[],
    input: Buffer,
    isStream: boolean,
    channel: ServerChannel,
    closed: Promise<void>,
  ): { recorded: EmbeddedRequest | undefined; work: () => Promise<EmbeddedResult> } {
    const { backend } = this.#options;
    if (isStream) {
      const ended = Promise.race([closed, new Promise<void>((resolve) => channel.once('end', resolve))]);
      channel.resume();
      const stream = { line: (text: string) => channel.write(`${text}\n`), ended: ended };
      return {
        recorded: { kind: 'stream', argv, commands: [] },
        work: () => backend.stream(argv, stream),
      };
    }
    if (same(argv, HELLO_ARGV)) {
      return {
        recorded: undefined,
        work: () => Promise.resolve({ exitCode: 0, stdout: HELLO_TEXT, stderr: '' }),
      };
    }
    const probes = same(argv, PROBE_ARGV) ? parseProbes(input.toString('utf8')) : undefined;
    if (probes !== undefined) {
      return {
        recorded: { kind: 'probe', argv: [], commands: probes },
        work: async () => {
          const replies: ProbeReply[] = [];
          for (const command of probes) {
            const { exitCode, stdout, stderr } = await backend.run(command, Buffer.alloc(0));
            replies.push({ exitCode, stdout: Buffer.from(stdout), stderr: Buffer.from(stderr) });
          }
          return { exitCode: 0, stdout: renderProbeReplies(replies), stderr: '' };
        },
      };
    }
    const upload = parseUpload(argv);
    if (upload !== undefined) {
      const { path, mode, sha256 } = upload;
      return {
        recorded: { kind: 'upload', argv: argv.slice(4), commands: [] },
        work: () => Promise.resolve(putFile(backend, path, mode, sha256, input)),
      };
    }
    return {
      recorded: { kind: 'run', argv, commands: [] },
      work: async () => backend.run(argv, input),
    };
  }
}

/** A new key pair for an embedded host or its client; never one that guards anything. */
export function embeddedKey(): { private: string; public: string } {
  // ssh2's generator drops leading zero bytes of an ed25519 public key, so one in 256 is unreadable.
  for (;;) {
    const pair = ssh2.utils.generateKeyPairSync('ed25519', { comment: 'embedded' });
    if (!(ssh2.utils.parseKey(pair.public) instanceof Error)) return pair;
  }
}

function parseKey(text: string): ParsedKey {
  const key = ssh2.utils.parseKey(text);
  if (key instanceof Error) throw key;
  return key;
}

function same(argv: readonly string[], other: readonly string[]): boolean {
  return argv.length === other.length && argv.every((word, index) => word === other[index]);
}

function putFile(
  backend: EmbeddedBackend,
  path: string,
  mode: number,
  sha256: string,
  content: Buffer,
): EmbeddedResult {
  if (createHash('sha256').update(content).digest('hex') !== sha256) {
    return { exitCode: 1, stdout: '', stderr: 'what arrived differs from what was sent\n' };
  }
  try {
    backend.putFile(path, content, mode);
    return { exitCode: 0, stdout: '', stderr: '' };
  } catch (error) {
    return { exitCode: 1, stdout: '', stderr: `${(error as Error).message}\n` };
  }
}

async function readAll(channel: ServerChannel, closed: Promise<void>): Promise<Buffer> {
  const chunks: Buffer[] = [];
  channel.on('data', (chunk: Buffer) => chunks.push(chunk));
  await Promise.race([closed, new Promise<void>((resolve) => channel.once('end', resolve))]);
  return Buffer.concat(chunks);
}

function finish(channel: ServerChannel, result: EmbeddedResult): void {
  if (!channel.writable) return;
  channel.write(Buffer.from(result.stdout));
  channel.stderr.write(result.stderr);
  channel.exit(result.exitCode);
  channel.end();
}
