/**
 * A host over SSH, by ssh2: one connection for each host, shared by everything that talks to it, made again
 * when it is lost.
 *
 * Call order: `connectHost` reads known_hosts and the keys, connects, checks the shell; then any number of
 * calls side by side; `close`.
 *
 * What is retried, and what never is:
 * - Network errors, a bounded number of times with a growing, random pause. An authentication that fails and
 *   a host key that isn't the recorded one are answers, not errors of the network.
 * - A request that surely did not start, because the connection was lost before it was sent.
 * - A request that may have started, only where it is known to be repeatable: probes, reads, uploads and what
 *   the caller says. Everything else fails with `HostError` and outcome `unknown`.
 */
import { createHash } from 'node:crypto';
import { connect } from 'node:net';
import { StringDecoder } from 'node:string_decoder';
import pRetry from 'p-retry';
import ssh2 from 'ssh2';
import type { ClientChannel } from 'ssh2';
import { ExitCode, OperatorError } from '../core/errors.js';
import { judgeKey, recordedKeyTypes, type KnownHosts } from '../core/knownhosts.js';
import type { HostConfig, SshSettings } from '../core/model.js';
import { quoteCommand } from '../core/quote.js';
import {
  COMMAND_BYTES_MAX,
  HELLO_ARGV,
  HELLO_TEXT,
  KILL_AFTER_MS,
  PROBE_ARGV,
  PROBE_LIMIT_EXIT,
  endedByDeadline,
  parseProbeReplies,
  probeFrameBytesMax,
  renderProbes,
  renderRun,
  renderStream,
  stoppedProbe,
  uploadArgv,
  type ProbeReply,
} from '../core/remote.js';
import {
  FileError,
  HostError,
  OutputLimitError,
  type CommandResult,
  type FileContent,
  type Host,
  type RunOptions,
  type StreamOptions,
} from './host.js';
import type { Log } from './log.js';
import { Gate } from './pool.js';
import {
  authentication,
  hostKeyAlgorithms,
  hostKeyRefusal,
  readIdentities,
  readKnownHosts,
  type Identities,
} from './ssh-keys.js';

/** Every bound that the edge keeps; the defaults suit hosts on a slow or lossy network. */
export interface SshLimits {
  /** From the TCP connection to the end of the authentication. */
  connectMs: number;
  /** Of a command whose caller names no deadline. */
  runMs: number;
  /** Of a batch of probes whose caller names no deadline, and of an upload. */
  batchMs: number;
  /** Of one probe in a batch. */
  probeMs: number;
  /** Beyond a deadline, for the host to end the command and say so. */
  graceMs: number;
  /** Keepalives are sent this often; after three without an answer the connection counts as lost. */
  keepaliveMs: number;
  /** Channels open at once on a connection; sshd's MaxSessions is 10 unless configured. */
  sessionsMax: number;
  /** Output kept of one command, standard output and error together. */
  outputBytesMax: number;
  /** One line of a stream. */
  lineBytesMax: number;
  retries: number;
  retryMinMs: number;
  retryMaxMs: number;
}

export const SSH_LIMITS: Readonly<SshLimits> = {
  connectMs: 15_000,
  runMs: 60_000,
  batchMs: 120_000,
  probeMs: 30_000,
  graceMs: KILL_AFTER_MS + 5_000,
  keepaliveMs: 5_000,
  sessionsMax: 8,
  outputBytesMax: 16 * 1024 * 1024,
  lineBytesMax: 1024 * 1024,
  retries: 4,
  retryMinMs: 250,
  retryMaxMs: 5_000,
};
const KEEPALIVES_MISSED_MAX = 3;
const FILE_BYTES_MAX = 4 * 1024 * 1024;
/** Standard error kept of a stream: its end, where the reason for a failure stands. */
const STREAM_ERROR_BYTES_MAX = 64 * 1024;

export interface SshDeps {
  log: Log;
  /** The user's home directory, for the default keys and known_hosts files. */
  home: string;
  /** The agent's socket, as in SSH_AUTH_SOCK. */
  agentSocket?: string | undefined;
  limits?: Partial<SshLimits>;
}

/**
 * Connects to a host and checks that commands can be run there.
 *
 * @throws OperatorError unreachable, or refused: its key is unknown, changed or revoked, or it lets none of
 *   the user's keys in
 */
export async function connectHost(config: HostConfig, settings: SshSettings, deps: SshDeps): Promise<Host> {
  const [knownHosts, identities] = await Promise.all([
    readKnownHosts(config, settings, deps.home),
    readIdentities(config, settings, deps.home, deps.agentSocket),
  ]);
  const host = new SshHost(config, knownHosts, identities, deps);
  try {
    await host.hello();
  } catch (error) {
    await host.close();
    if (error instanceof HostError) {
      throw new OperatorError(
        `${error.message}; nothing was changed. Check that the host is up and sshd listens, with ` +
          `\`${sshCommand(config)} true\`.`,
        ExitCode.unreachable,
        error,
      );
    }
    throw error;
  }
  return host;
}

/** The network failed: the request did not start (`not-run`) or may have (`unknown`). Never leaves this file. */
class NetworkError extends Error {
  readonly outcome: 'not-run' | 'unknown';

  constructor(outcome: 'not-run' | 'unknown', message: string, cause?: unknown) {
    super(message, { cause });
    this.name = 'NetworkError';
    this.outcome = outcome;
  }
}

interface Connection {
  client: ssh2.Client;
  gate: Gate;
  /** Why the connection is gone, once it is. */
  lost: Error | undefined;
}

interface Finished {
  exitCode: number;
  stdout: Buffer;
  stderr: Buffer;
}

class SshHost implements Host {
  readonly name: string;
  readonly #config: HostConfig;
  readonly #knownHosts: KnownHosts;
  readonly #identities: Identities;
  readonly #deps: SshDeps;
  readonly #limits: SshLimits;
  #connection: Promise<Connection> | undefined;
  #closed = false;

  constructor(config: HostConfig, knownHosts: KnownHosts, identities: Identities, deps: SshDeps) {
    this.name = config.name;
    this.#config = config;
    this.#knownHosts = knownHosts;
    this.#identities = identities;
    this.#deps = deps;
    this.#limits = { ...SSH_LIMITS, ...deps.limits };
  }

  /** Checks that the account's shell passes commands on unharmed. */
  async hello(): Promise<void> {
    const { stdout, stderr, exitCode } = await this.#run(
      HELLO_ARGV,
      { repeatable: true },
      'check of the login shell',
    );
    if (stdout.toString('utf8') === HELLO_TEXT) return;
    const { user } = this.#config.ssh;
    throw new OperatorError(
      `${this.name}: commands don't get through ${user}'s login shell unharmed: printing ` +
        `${JSON.stringify(HELLO_TEXT)} gave ${JSON.stringify(clip(String(stdout)))}` +
        `${stderr.byteLength === 0 ? '' : `, ${JSON.stringify(clip(String(stderr)))}`} and exit code ${exitCode}; nothing was ` +
        `changed. The shell has to be a POSIX one (\`chsh -s /bin/bash ${user}\`), with start-up files that ` +
        `print nothing in sessions without a terminal.`,
    );
  }

  async run(argv: readonly string[], options: RunOptions = {}): Promise<CommandResult> {
    const { exitCode, stdout, stderr } = await this.#run(argv, options);
    return { exitCode, stdout: stdout.toString('utf8'), stderr: stderr.toString('utf8') };
  }

  async probe(
    commands: ReadonlyMap<string, readonly string[]>,
    options: Pick<RunOptions, 'deadlineMs'> = {},
  ): Promise<Map<string, CommandResult>> {
    const replies = await this.#probe([...commands.values()], options.deadlineMs);
    return new Map(
      [...commands.keys()].map((key, index) => {
        const { exitCode, stdout, stderr } = replies[index] as ProbeReply;
        return [key, { exitCode, stdout: stdout.toString('utf8'), stderr: stderr.toString('utf8') }];
      }),
    );
  }

  async stream(
    argv: readonly string[],
    onLine: (line: string) => void,
    options: StreamOptions,
  ): Promise<CommandResult> {
    const command = this.#checkLength(renderStream(argv), argv);
    if (options.signal?.aborted === true) {
      throw new HostError(this.name, 'not-run', `\`${show(argv)}\` was given up before it began`);
    }
    return this.#attempt(show(argv), false, async (connection) => {
      const leave = await this.#enter(connection, this.#limits.runMs, show(argv));
      try {
        return await this.#stream(connection, command, argv, onLine, options.signal);
      } finally {
        leave();
      }
    });
  }

  async readFile(path: string, bytesMax: number = FILE_BYTES_MAX): Promise<FileContent | undefined> {
    return (await this.readFiles([path], bytesMax)).get(path);
  }

  async readFiles(
    paths: readonly string[],
    bytesMax: number = FILE_BYTES_MAX,
  ): Promise<Map<string, FileContent | undefined>> {
    const commands = paths.flatMap((path) => [
      ['stat', '-L', '-c', '%f', '--', path],
      // One byte more than allowed tells a file that is too long from one that just fits.
      ['head', '-c', String(bytesMax + 1), '--', path],
    ]);
    const replies = await this.#probe(commands, undefined);
    return new Map(
      paths.map((path, index) => {
        const [stat, head] = [replies[2 * index] as ProbeReply, replies[2 * index + 1] as ProbeReply];
        return [path, this.#fileContent(path, bytesMax, stat, head)];
      }),
    );
  }

  async writeFile(path: string, content: Uint8Array, mode: number): Promise<void> {
    if (!path.startsWith('/') || path.endsWith('/')) {
      throw new RangeError(`a file is written by its absolute path, not ${JSON.stringify(path)}`);
    }
    const sum = createHash('sha256').update(content).digest('hex');
    const { exitCode, stderr } = await this.#run(
      uploadArgv(path, mode, sum),
      { input: content, repeatable: true, deadlineMs: this.#limits.batchMs },
      `upload of ${path}`,
    );
    if (exitCode !== 0) {
      const reason = clip(stderr.toString('utf8').trim()) || `exit code ${exitCode}`;
      throw new FileError(this.name, path, `not written: ${reason}; what was there before is unchanged`);
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    const connection = await this.#connection?.catch(() => undefined);
    if (connection === undefined || connection.lost !== undefined) return;
    const closed = new Promise<void>((resolve) => connection.client.once('close', () => resolve()));
    connection.client.end();
    // A host that no longer answers must not hold the program up.
    const timer = setTimeout(() => connection.client.destroy(), 1_000);
    await closed;
    clearTimeout(timer);
  }

  #fileContent(path: string, bytesMax: number, stat: ProbeReply, head: ProbeReply): FileContent | undefined {
    const failure = stat.exitCode !== 0 ? stat : head;
    if (failure.exitCode !== 0) {
      const reason = failure.stderr.toString('utf8').trim();
      // A file that was removed between the two is not there either.
      if (reason.endsWith('No such file or directory')) return undefined;
      throw new FileError(this.name, path, `not read: ${clip(reason) || `exit code ${failure.exitCode}`}`);
    }
    const bits = Number.parseInt(stat.stdout.toString('latin1'), 16);
    if ((bits & 0o170000) !== 0o100000) {
      throw new FileError(this.name, path, `not read: it is no regular file`);
    }
    if (head.stdout.byteLength > bytesMax) {
      throw new FileError(this.name, path, `not read: it is longer than the ${bytesMax} bytes allowed`);
    }
    return { content: head.stdout, mode: bits & 0o7777 };
  }

  async #probe(commands: readonly (readonly string[])[], deadlineMs?: number): Promise<ProbeReply[]> {
    if (commands.length === 0) return [];
    const limits = this.#limits;
    const batchMs = deadlineMs ?? limits.batchMs;
    const input = renderProbes(commands, Math.min(batchMs, limits.probeMs));
    const named = `probe of ${commands.length} commands`;
    const stoppedAt = ({ stderr }: Finished): string | undefined => {
      const command = commands[stoppedProbe(stderr.toString('utf8')) ?? -1];
      return command === undefined ? undefined : show(command);
    };
    const finished = await this.#run(
      PROBE_ARGV,
      { input, repeatable: true, deadlineMs: batchMs },
      named,
      limits.outputBytesMax + probeFrameBytesMax(commands.length),
      (partial) => {
        const hanging = stoppedAt(partial);
        return hanging === undefined ? '' : `; \`${hanging}\` gave no answer`;
      },
    );
    if (finished.exitCode === PROBE_LIMIT_EXIT) {
      throw new OutputLimitError(this.name, stoppedAt(finished) ?? named, limits.outputBytesMax);
    }
    const result = parseProbeReplies(finished.stdout, commands.length);
    if (!result.whole) {
      const reason = clip(finished.stderr.toString('utf8').trim()) || result.reason;
      throw new HostError(
        this.name,
        'unknown',
        `${named} gave no whole answer (exit code ${finished.exitCode}: ${reason})`,
      );
    }
    return result.replies;
  }

  async #run(
    argv: readonly string[],
    options: RunOptions,
    named: string = show(argv),
    outputBytesMax: number = this.#limits.outputBytesMax,
    explain: (partial: Finished) => string = () => '',
  ): Promise<Finished> {
    const deadlineMs = options.deadlineMs ?? this.#limits.runMs;
    const command = this.#checkLength(renderRun(argv, deadlineMs), argv);
    const input = Buffer.from(options.input ?? '');
    return this.#attempt(named, options.repeatable === true, async (connection) => {
      const leave = await this.#enter(connection, deadlineMs, named);
      const began = performance.now();
      const elapsed = (): number => Math.round(performance.now() - began);
      try {
        const channel = await this.#open(connection, command, deadlineMs + this.#limits.graceMs, named);
        const finished = await this.#collect(connection, channel, {
          input,
          named,
          outputBytesMax,
          limitMs: deadlineMs + this.#limits.graceMs - elapsed(),
          explain,
          deadlineMs,
        });
        const { exitCode } = finished;
        this.#deps.log.debug('command ended', {
          host: this.name,
          command: named,
          exitCode,
          durationMs: elapsed(),
        });
        if (endedByDeadline(exitCode, elapsed(), deadlineMs)) {
          throw new HostError(
            this.name,
            'unknown',
            `\`${named}\` was ended at its deadline of ${deadlineMs} ms${explain(finished)}`,
          );
        }
        return finished;
      } finally {
        leave();
      }
    });
  }

  #checkLength(command: string, argv: readonly string[]): string {
    if (Buffer.byteLength(command) > COMMAND_BYTES_MAX) {
      throw new HostError(
        this.name,
        'not-run',
        `\`${show(argv)}\` is longer than the ${COMMAND_BYTES_MAX} bytes of a command`,
      );
    }
    return command;
  }

  /** Does `work` on a live connection; makes a new one and does it again as the head of this file says. */
  async #attempt<T>(
    named: string,
    repeatable: boolean,
    work: (connection: Connection) => Promise<T>,
  ): Promise<T> {
    const { retries, retryMinMs, retryMaxMs } = this.#limits;
    try {
      return await pRetry(async () => work(await this.#connected()), {
        retries,
        minTimeout: retryMinMs,
        maxTimeout: retryMaxMs,
        randomize: true,
        shouldRetry: (error) =>
          !this.#closed && error instanceof NetworkError && (repeatable || error.outcome === 'not-run'),
        onFailedAttempt: (error) => {
          if (!(error instanceof NetworkError)) return;
          this.#deps.log.debug('connection lost', {
            host: this.name,
            command: named,
            outcome: error.outcome,
            reason: error.message,
            attempt: error.attemptNumber,
          });
        },
      });
    } catch (error) {
      if (!(error instanceof NetworkError)) throw error;
      const what =
        error.outcome === 'not-run' ? `\`${named}\` was not run` : `\`${named}\` may or may not have run`;
      throw new HostError(this.name, error.outcome, `${error.message}; ${what}`, error);
    }
  }

  /** The live connection, or one attempt at a new one, shared by all who wait for it. */
  async #connected(): Promise<Connection> {
    if (this.#closed) throw new HostError(this.name, 'not-run', 'the connection was closed by this program');
    const current = await this.#connection;
    if (current !== undefined && current.lost === undefined) return current;
    // Others may have waited for the same loss and have begun to connect again meanwhile.
    if (current !== undefined && (await this.#connection) === current) this.#connection = undefined;
    if (this.#connection === undefined) {
      const attempt = this.#connect();
      this.#connection = attempt;
      attempt.catch(() => {
        if (this.#connection === attempt) this.#connection = undefined;
      });
    }
    return this.#connection;
  }

  async #connect(): Promise<Connection> {
    const { log } = this.#deps;
    const { host, port, user } = this.#config.ssh;
    const { connectMs, keepaliveMs, sessionsMax } = this.#limits;
    const began = performance.now();
    let refusal: OperatorError | undefined;
    const offers = authentication(this.#identities, user);
    const client = new ssh2.Client();
    const connection: Connection = { client, gate: new Gate(sessionsMax), lost: undefined };

    await new Promise<void>((resolve, reject) => {
      // The first error is the cause; what ssh2 says after it is that the connection has ended.
      let first: Error | undefined;
      client.on('ready', resolve);
      client.on('error', (error: Error & { level?: string }) => {
        // The agent failing only means that its keys can't be offered; the others still are.
        if (error.level === 'agent') offers.note(`agent: ${error.message}`);
        else first ??= error;
      });
      client.on('close', () => {
        connection.lost = first ?? new Error('the host closed the connection');
        reject(refusal ?? this.#connectFailure(connection.lost, offers.tried));
      });
      client.connect({
        // Without its native part ssh2 stalls on Nagle's algorithm.
        sock: connect({ host, port, noDelay: true }),
        username: user,
        readyTimeout: connectMs,
        keepaliveInterval: keepaliveMs,
        keepaliveCountMax: KEEPALIVES_MISSED_MAX,
        algorithms: {
          serverHostKey: hostKeyAlgorithms(recordedKeyTypes(this.#knownHosts.lines, host, port)),
          cipher: [
            'aes128-gcm@openssh.com',
            'aes256-gcm@openssh.com',
            'chacha20-poly1305@openssh.com',
            'aes128-ctr',
            'aes256-ctr',
          ],
        },
        hostVerifier: (key: Buffer) => {
          const verdict = judgeKey(this.#knownHosts.lines, host, port, key);
          if (verdict.verdict === 'known') return true;
          refusal = hostKeyRefusal(this.#config, verdict, key, this.#knownHosts);
          return false;
        },
        authHandler: offers.next,
      });
    });
    log.debug('connected', { host: this.name, address: host, port, durationMs: performance.now() - began });
    return connection;
  }

  /** Sorts the ways in which connecting fails into those of the network and those that are answers. */
  #connectFailure(error: Error & { level?: string; code?: string | number }, tried: string[]): Error {
    const { host, port, user } = this.#config.ssh;
    const at = `${host} port ${port}`;
    if (error.level === 'client-authentication' || /authentication failures/i.test(error.message)) {
      const offered = tried.length === 0 ? 'no key was found to offer' : `offered: ${tried.join('; ')}`;
      return new OperatorError(
        `${this.name}: ${at} does not let ${user} in (${error.message}; ${offered}); nothing was changed. ` +
          `Load a key with \`ssh-add\`, or put the public key in the host's authorized_keys with ` +
          `\`ssh-copy-id ${port === 22 ? '' : `-p ${port} `}${user}@${host}\`.`,
        ExitCode.unreachable,
        error,
      );
    }
    if (error.code === 'ENOTFOUND') {
      return new OperatorError(
        `${this.name}: there is no address for the name ${host}; nothing was changed. Correct \`ssh\` of the ` +
          `host in the configuration, or the name service.`,
        ExitCode.unreachable,
        error,
      );
    }
    if (error.level === 'handshake' && error.message.includes('no matching')) {
      return new OperatorError(
        `${this.name}: ${at} speaks no SSH algorithm that is accepted here (${error.message}); nothing was ` +
          `changed. See HostKeyAlgorithms, KexAlgorithms and Ciphers in its sshd_config.`,
        ExitCode.unreachable,
        error,
      );
    }
    return new NetworkError('not-run', `can't connect to ${at}: ${error.message}`, error);
  }

  async #enter(connection: Connection, waitMs: number, named: string): Promise<() => void> {
    const giveUp = new AbortController();
    const timer = setTimeout(() => giveUp.abort(), waitMs);
    try {
      return await connection.gate.enter(giveUp.signal);
    } catch (error) {
      throw new HostError(
        this.name,
        'not-run',
        `\`${named}\` waited ${waitMs} ms for one of ${connection.gate.held} sessions in use`,
        error,
      );
    } finally {
      clearTimeout(timer);
    }
  }

  /** Opens a channel and asks for the command. Resolves when the host has begun it. */
  async #open(
    connection: Connection,
    command: string,
    limitMs: number,
    named: string,
  ): Promise<ClientChannel> {
    const { client, gate } = connection;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        // A host that doesn't even answer a request for a channel is of no use to anyone.
        client.destroy();
        reject(new HostError(this.name, 'unknown', `\`${named}\` was not begun within ${limitMs} ms`));
      }, limitMs);
      const fail = (error: Error): void => {
        clearTimeout(timer);
        reject(error);
      };
      try {
        client.exec(command, (error: (Error & { reason?: unknown }) | undefined, channel) => {
          if (error === undefined) {
            clearTimeout(timer);
            resolve(channel);
          } else if (connection.lost !== undefined) {
            // ssh2 says this when the channel was not open yet, and so nothing had been asked.
            const outcome = error.message === 'No response from server' ? 'not-run' : 'unknown';
            fail(new NetworkError(outcome, `connection lost: ${connection.lost.message}`, error));
          } else if (error.reason !== undefined) {
            // The host allows fewer sessions than expected, or has not yet given one up: ask for fewer from
            // now on, and try again.
            if (gate.held > 1) gate.lower(gate.held - 1);
            const text = `sshd allows no further session (see MaxSessions in its sshd_config): ${error.message}`;
            fail(new NetworkError('not-run', text, error));
          } else {
            fail(
              new HostError(
                this.name,
                'not-run',
                `\`${named}\` was refused by sshd: ${error.message}`,
                error,
              ),
            );
          }
        });
      } catch (error) {
        fail(
          new NetworkError(
            'not-run',
            `connection lost: ${connection.lost?.message ?? 'it is closing'}`,
            error,
          ),
        );
      }
    });
  }

  /** Feeds a command, keeps its output, and waits for its end. */
  async #collect(
    connection: Connection,
    channel: ClientChannel,
    how: {
      input: Buffer;
      named: string;
      outputBytesMax: number;
      deadlineMs: number;
      limitMs: number;
      explain: (partial: Finished) => string;
    },
  ): Promise<Finished> {
    const { named, outputBytesMax } = how;
    const chunks: { stdout: Buffer[]; stderr: Buffer[] } = { stdout: [], stderr: [] };
    const output = (): Omit<Finished, 'exitCode'> => ({
      stdout: Buffer.concat(chunks.stdout),
      stderr: Buffer.concat(chunks.stderr),
    });
    let bytes = 0;
    return new Promise((resolve, reject) => {
      const give = (error: Error): void => {
        clearTimeout(timer);
        channel.close();
        reject(error);
      };
      const timer = setTimeout(
        () => {
          const partial = { exitCode: -1, ...output() };
          give(
            new HostError(
              this.name,
              'unknown',
              `\`${named}\` passed its deadline of ${how.deadlineMs} ms and the host did not say that it has ended; ` +
                `it may still be running${how.explain(partial)}`,
            ),
          );
        },
        Math.max(how.limitMs, 1),
      );
      const keep = (list: Buffer[]) => (chunk: Buffer) => {
        bytes += chunk.byteLength;
        if (bytes > outputBytesMax) give(new OutputLimitError(this.name, named, outputBytesMax));
        else list.push(chunk);
      };
      channel.on('data', keep(chunks.stdout));
      channel.stderr.on('data', keep(chunks.stderr));
      this.#onClose(connection, channel, (exitCode) => {
        clearTimeout(timer);
        if (exitCode instanceof Error) reject(exitCode);
        else resolve({ exitCode, ...output() });
      });
      channel.end(how.input);
    });
  }

  async #stream(
    connection: Connection,
    command: string,
    argv: readonly string[],
    onLine: (line: string) => void,
    signal?: AbortSignal,
  ): Promise<CommandResult> {
    const named = show(argv);
    const channel = await this.#open(connection, command, this.#limits.runMs, named);
    const decoder = new StringDecoder('utf8');
    let [line, stderr] = ['', ''];
    let timer: NodeJS.Timeout | undefined;
    let onAbort: (() => void) | undefined;
    try {
      const exitCode = await new Promise<number>((resolve, reject) => {
        const give = (error: Error): void => {
          channel.close();
          reject(error);
        };
        onAbort = () => {
          channel.end();
          timer = setTimeout(() => {
            const text = `\`${named}\` was told to end, and the host did not say that it has`;
            give(new HostError(this.name, 'unknown', text));
          }, this.#limits.graceMs);
        };
        signal?.addEventListener('abort', onAbort, { once: true });
        if (signal?.aborted === true) onAbort();
        channel.on('data', (chunk: Buffer) => {
          const lines = (line + decoder.write(chunk)).split('\n');
          line = lines.pop() ?? '';
          try {
            lines.forEach(onLine);
          } catch (error) {
            give(error as Error);
          }
          if (line.length > this.#limits.lineBytesMax) {
            give(new OutputLimitError(this.name, named, this.#limits.lineBytesMax));
          }
        });
        channel.stderr.on('data', (chunk: Buffer) => {
          stderr = (stderr + chunk.toString('utf8')).slice(-STREAM_ERROR_BYTES_MAX);
        });
        this.#onClose(connection, channel, (code) => {
          if (code instanceof Error) reject(code);
          else resolve(code);
        });
      });
      if (line !== '') onLine(line);
      return { exitCode, stdout: '', stderr };
    } finally {
      clearTimeout(timer);
      if (onAbort !== undefined) signal?.removeEventListener('abort', onAbort);
    }
  }

  /** Calls back once, with the exit code or with why there is none. */
  #onClose(connection: Connection, channel: ClientChannel, then: (exit: number | Error) => void): void {
    channel.on('close', (code?: number | null, signal?: string) => {
      if (typeof code === 'number') {
        then(code);
      } else if (code === null) {
        then(128 + (SIGNALS[signal ?? ''] ?? 0));
      } else {
        const reason = connection.lost?.message ?? 'the host ended the session without an exit code';
        then(new NetworkError('unknown', `connection lost: ${reason}`, connection.lost));
      }
    });
    // Writing to a command that has ended is no failure: its exit code tells.
    channel.on('error', () => undefined);
  }
}

/** Numbers of the signals that commonly end a command, as a shell counts them. */
const SIGNALS: Partial<Record<string, number>> = {
  SIGHUP: 1,
  SIGINT: 2,
  SIGQUIT: 3,
  SIGILL: 4,
  SIGABRT: 6,
  SIGFPE: 8,
  SIGKILL: 9,
  SIGSEGV: 11,
  SIGPIPE: 13,
  SIGALRM: 14,
  SIGTERM: 15,
};

function sshCommand(config: HostConfig): string {
  const { host, port, user } = config.ssh;
  return quoteCommand(['ssh', ...(port === 22 ? [] : ['-p', String(port)]), `${user}@${host}`]);
}

/** A command as it is shown to people: quoted, on one line, cut short. */
function show(argv: readonly string[]): string {
  return clip(quoteCommand(argv).replaceAll('\n', ' '));
}

const SHOWN_CHARACTERS_MAX = 300;
function clip(text: string): string {
  return text.length > SHOWN_CHARACTERS_MAX ? `${text.slice(0, SHOWN_CHARACTERS_MAX)}...` : text;
}
