/**
 * The arbiter `ssh`: a directory on a third machine, where one link decides (see ssh-script.ts).
 *
 *     DIRECTORY/PAIR@DOMAIN@TERM   the winner's name and a newline
 *
 * It runs on a host, in its units, so with a key of the host's own and with the third machine's key pinned:
 *
 *     /etc/remus-drbd/ssh/id_ed25519    made on the host by setup, and never leaves it
 *     /etc/remus-drbd/ssh/known_hosts   the third machine's keys, as the controller knows them
 *
 * Each claim has a connection of its own: a kept one may have been dead for hours when it is needed.
 */
import { OperatorError } from '../core/errors.js';
import {
  answerOf,
  checkClaimant,
  claimName,
  isHostName,
  type Arbiter,
  type ArbiterOptions,
  type ClaimAnswer,
  type ClaimKey,
  type LookAnswer,
  type ReachAnswer,
} from '../core/claim/types.js';
import { HostError } from '../edge/host.js';
import type { Log } from '../edge/log.js';
import { connectHost } from '../edge/ssh.js';
import { CLAIM_SCRIPT, LOOK_SCRIPT } from './ssh-script.js';

export interface SshArbiterSettings {
  user: string;
  /** Name or address of the third machine; an address needs no name service at the worst moment. */
  host: string;
  port: number;
  /** On the third machine. Has to be there: one that is missing may be one that isn't mounted. */
  directory: string;
  identityFile: string;
  knownHostsFile: string;
}

const RETRY_MS = 500;
/** Looked at to see whether the directory can be used; no claim has this name. */
const NO_CLAIM = '@';

type Outcome = { winner: string } | { free: true } | { reason: string };

export class SshArbiter implements Arbiter {
  readonly name = 'ssh';
  readonly #settings: SshArbiterSettings;
  readonly #log: Log;
  readonly #where: string;

  constructor(settings: SshArbiterSettings, log: Log) {
    this.#settings = settings;
    this.#log = log;
    const { host, port, directory } = settings;
    this.#where = `arbiter ${host.includes(':') ? `[${host}]` : host}:${port} (${directory})`;
  }

  async claim(key: ClaimKey, host: string, options: ArbiterOptions): Promise<ClaimAnswer> {
    checkClaimant(host);
    const argv = ['sh', '-c', CLAIM_SCRIPT, 'claim', this.#settings.directory, claimName(key), host];
    const outcome = await this.#run(argv, options.timeoutMs);
    if ('winner' in outcome) return answerOf(key, host, outcome.winner, this.#where);
    const reason = 'reason' in outcome ? outcome.reason : `${this.#where}: its answer names no winner`;
    return { kind: 'undecided', reason, retryMs: RETRY_MS };
  }

  async look(key: ClaimKey, options: ArbiterOptions): Promise<LookAnswer> {
    const outcome = await this.#look(claimName(key), options);
    if ('winner' in outcome) return { kind: 'won-by', host: outcome.winner };
    return 'free' in outcome ? { kind: 'free' } : { kind: 'undecided', reason: outcome.reason };
  }

  async reach(options: ArbiterOptions): Promise<ReachAnswer> {
    const outcome = await this.#look(NO_CLAIM, options);
    if ('reason' in outcome) return { reached: false, reason: outcome.reason };
    return { reached: true, detail: `${this.#where} lets this host in` };
  }

  close(): Promise<void> {
    // Nothing is kept: what a call has begun ends with the call's own limits.
    return Promise.resolve();
  }

  #look(name: string, options: ArbiterOptions): Promise<Outcome> {
    return this.#run(['sh', '-c', LOOK_SCRIPT, 'look', this.#settings.directory, name], options.timeoutMs);
  }

  async #run(argv: readonly string[], timeoutMs: number): Promise<Outcome> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<Outcome>((resolve) => {
      const reason = `${this.#where}: no answer in ${timeoutMs} ms`;
      timer = setTimeout(() => resolve({ reason }), timeoutMs);
    });
    const asked = this.#ask(argv, timeoutMs).catch((error: unknown): Outcome => {
      const known = error instanceof OperatorError || error instanceof HostError;
      return { reason: `${this.#where}: ${known ? error.message : String(error)}` };
    });
    try {
      return await Promise.race([asked, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  async #ask(argv: readonly string[], timeoutMs: number): Promise<Outcome> {
    const { user, host, port, identityFile, knownHostsFile } = this.#settings;
    const connection = await connectHost(
      { name: 'arbiter', ssh: { user, host, port }, replication: host },
      { identityFiles: [identityFile], knownHostsFiles: [knownHostsFile] },
      {
        log: this.#log,
        home: '/',
        // The caller asks again, so nothing is tried again in here.
        limits: { connectMs: timeoutMs, runMs: timeoutMs, graceMs: 1_000, retries: 0 },
      },
    );
    try {
      const { exitCode, stdout, stderr } = await connection.run(argv, { deadlineMs: timeoutMs });
      if (exitCode !== 0) {
        return { reason: `${this.#where}: ${clip(stderr) || `exit status ${exitCode}`}` };
      }
      if (stdout === 'free\n') return { free: true };
      const winner = /^winner (.*)\n$/.exec(stdout)?.[1] ?? '';
      if (!isHostName(winner)) {
        return { reason: `${this.#where}: not understood: ${JSON.stringify(clip(stdout))}` };
      }
      return { winner };
    } finally {
      // The answer doesn't wait for the connection's end.
      void connection.close();
    }
  }
}

function clip(text: string): string {
  const line = text.replace(/\s+/g, ' ').trim();
  return line.length > 300 ? `${line.slice(0, 300)}...` : line;
}
