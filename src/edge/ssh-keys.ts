/**
 * Both directions of trust before a connection is of use: whether the host is the one it should be
 * (known_hosts), and which keys of the user can be offered to it (the agent's, and files).
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import ssh2 from 'ssh2';
import type {
  AnyAuthMethod,
  AuthHandlerMiddleware,
  AuthenticationType,
  ParsedKey,
  ServerHostKeyAlgorithm,
} from 'ssh2';
import { ExitCode, OperatorError } from '../core/errors.js';
import {
  fingerprint,
  keyTypeOf,
  lookupName,
  parseKnownHosts,
  type KeyVerdict,
  type KnownHosts,
  type KnownHostsLine,
} from '../core/knownhosts.js';
import type { HostConfig, SshSettings } from '../core/model.js';
import { quoteCommand } from '../core/quote.js';

/** Names in ~/.ssh that are tried when the configuration names no identity files, in ssh's own order. */
const DEFAULT_IDENTITIES = ['id_ed25519', 'id_ecdsa', 'id_rsa'];

/** SHA-1 signatures (`ssh-rsa` as an algorithm) are left out, as in OpenSSH since 8.8. */
const HOST_KEY_ALGORITHMS: readonly (readonly [type: string, algorithms: ServerHostKeyAlgorithm[]])[] = [
  ['ssh-ed25519', ['ssh-ed25519']],
  ['ecdsa-sha2-nistp256', ['ecdsa-sha2-nistp256']],
  ['ecdsa-sha2-nistp384', ['ecdsa-sha2-nistp384']],
  ['ecdsa-sha2-nistp521', ['ecdsa-sha2-nistp521']],
  ['ssh-rsa', ['rsa-sha2-512', 'rsa-sha2-256']],
];

/**
 * The host key algorithms to ask for, those of recorded keys first, as OpenSSH orders them. The others stay
 * in the list so that a host that has none of the recorded ones still shows a key to judge and to tell of.
 */
export function hostKeyAlgorithms(recorded: readonly string[]): ServerHostKeyAlgorithm[] {
  const known = HOST_KEY_ALGORITHMS.filter(([type]) => recorded.includes(type));
  const others = HOST_KEY_ALGORITHMS.filter(([type]) => !recorded.includes(type));
  return [...known, ...others].flatMap(([, algorithms]) => algorithms);
}

export function hostKeyRefusal(
  config: HostConfig,
  verdict: Exclude<KeyVerdict, { verdict: 'known' }>,
  key: Uint8Array,
  knownHosts: KnownHosts,
): OperatorError {
  const { host, port } = config.ssh;
  const type = keyTypeOf(key) ?? 'unreadable';
  const offered = `${type} ${fingerprint(key)}`;
  const place = (line: KnownHostsLine): string =>
    `${line.file}:${line.line} (${line.keyType} ${fingerprint(line.key)})`;
  const subject = `${config.name}: ${host} port ${port} offers the host key ${offered}`;
  const keyFile = `/etc/ssh/ssh_host_${shortType(type)}_key.pub`;
  const compare = `on the host's own console compare it with \`ssh-keygen -lf ${keyFile}\``;
  const [file] = [...new Set(knownHosts.lines.map((line) => line.file)), '~/.ssh/known_hosts'];
  const scan =
    `\`ssh-keyscan -t ${shortType(type)} ${port === 22 ? '' : `-p ${port} `}` +
    `${quoteCommand(['x', host]).slice(2)} >> ${file}\``;
  const forget = (line: KnownHostsLine): string =>
    `\`${quoteCommand(['ssh-keygen', '-f', line.file, '-R', lookupName(host, port)])}\``;

  switch (verdict.verdict) {
    case 'revoked':
      return new OperatorError(
        `${subject}, which is marked @revoked at ${place(verdict.at)}; refused, nothing was sent. Give the host ` +
          `a new key.`,
        ExitCode.refused,
      );
    case 'changed':
      return new OperatorError(
        `${subject}, but another one is recorded at ${verdict.recorded.map(place).join(', ')}; refused, since ` +
          `this may be another machine, and nothing was sent. If the host was installed anew, ${compare}; if ` +
          `they are the same, remove the old key with ${forget(verdict.recorded[0])} and add the new one with ${scan}.`,
        ExitCode.refused,
      );
    case 'unknown': {
      const [other] = verdict.others;
      if (other !== undefined) {
        return new OperatorError(
          `${subject}, but only another type is recorded, at ${verdict.others.map(place).join(', ')}; refused, ` +
            `since this may be another machine, and nothing was sent. If the host was given other keys, ` +
            `${compare}; if they are the same, remove the old key with ${forget(other)} and add the new one ` +
            `with ${scan}.`,
          ExitCode.refused,
        );
      }
      const damaged = knownHosts.ignored.map(({ file, line, reason }) => `${file}:${line}: ${reason}`);
      return new OperatorError(
        `${subject}, which is not known; refused, since this may be another machine, and nothing was sent. ` +
          `${capital(compare)}; if they are the same, add it with ${scan}.` +
          (damaged.length === 0 ? '' : ` Lines that were not used: ${damaged.slice(0, 5).join('; ')}.`),
        ExitCode.unreachable,
      );
    }
  }
}

function shortType(keyType: string): string {
  return keyType.startsWith('ecdsa') ? 'ecdsa' : keyType.replace(/^ssh-/, '');
}

function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

export async function readKnownHosts(
  config: HostConfig,
  settings: SshSettings,
  home: string,
): Promise<KnownHosts> {
  const chosen = settings.knownHostsFiles.map((file) => inHome(file, home));
  const files =
    chosen.length > 0
      ? chosen
      : [join(home, '.ssh/known_hosts'), join(home, '.ssh/known_hosts2'), '/etc/ssh/ssh_known_hosts'];
  const all: KnownHosts = { lines: [], ignored: [] };
  for (const file of files) {
    let text: string;
    try {
      text = await readFile(file, 'utf8');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') continue;
      throw new OperatorError(
        `${config.name}: known hosts can't be read: ${(error as Error).message}; nothing was changed.`,
        ExitCode.usage,
        error,
      );
    }
    const parsed = parseKnownHosts(text, file);
    all.lines.push(...parsed.lines);
    all.ignored.push(...parsed.ignored);
  }
  return all;
}

export interface Identities {
  keys: { file: string; key: ParsedKey }[];
  /** What could not be used, for the message when nothing else is let in. */
  unusable: string[];
  agent: ssh2.OpenSSHAgent | undefined;
  /** Public keys that belong to the identity files, encrypted ones too: the agent's copies are tried first. */
  preferred: Buffer[];
}

export async function readIdentities(
  config: HostConfig,
  settings: SshSettings,
  home: string,
  agentSocket: string | undefined,
): Promise<Identities> {
  const chosen = settings.identityFiles.length > 0;
  const files = chosen
    ? settings.identityFiles.map((file) => inHome(file, home))
    : DEFAULT_IDENTITIES.map((name) => join(home, '.ssh', name));
  const identities: Identities = {
    keys: [],
    unusable: [],
    agent: agentSocket ? new ssh2.OpenSSHAgent(agentSocket) : undefined,
    preferred: [],
  };
  for (const file of files) {
    let text: string;
    try {
      text = await readFile(file, 'utf8');
    } catch (error) {
      if (!chosen && (error as NodeJS.ErrnoException).code === 'ENOENT') continue;
      throw new OperatorError(
        `${config.name}: the identity file can't be read: ${(error as Error).message}; nothing was changed.`,
        ExitCode.usage,
        error,
      );
    }
    const key = ssh2.utils.parseKey(text);
    if (!(key instanceof Error) && key.isPrivateKey()) {
      identities.keys.push({ file, key });
      identities.preferred.push(key.getPublicSSH());
      continue;
    }
    const reason = !(key instanceof Error)
      ? 'holds no private key'
      : /encrypted/i.test(key.message)
        ? `is encrypted, load it with \`ssh-add ${file}\``
        : `can't be read (${key.message})`;
    identities.unusable.push(`${file} ${reason}`);
    const publicText = await readFile(`${file}.pub`, 'utf8').catch(() => undefined);
    const publicKey = publicText === undefined ? undefined : ssh2.utils.parseKey(publicText);
    if (publicKey !== undefined && !(publicKey instanceof Error)) {
      identities.preferred.push(publicKey.getPublicSSH());
    }
  }
  return identities;
}

function inHome(file: string, home: string): string {
  return file.startsWith('~/') ? join(home, file.slice(2)) : file;
}

/** The agent with the keys of the identity files first, because sshd ends a connection after a few tries. */
class OrderedAgent extends ssh2.BaseAgent<ParsedKey> {
  readonly #agent: ssh2.OpenSSHAgent;
  readonly #preferred: readonly Buffer[];

  constructor(agent: ssh2.OpenSSHAgent, preferred: readonly Buffer[]) {
    super();
    this.#agent = agent;
    this.#preferred = preferred;
  }

  override getIdentities(callback: ssh2.IdentityCallback<ParsedKey>): void {
    // The types allow for entries with the key inside, which this agent doesn't give.
    this.#agent.getIdentities((error, entries) => {
      if (error || entries === undefined) return callback(error);
      const keys = entries as ParsedKey[];
      const rank = (key: ParsedKey): number => {
        const at = this.#preferred.findIndex((preferred) => preferred.equals(key.getPublicSSH()));
        return at === -1 ? this.#preferred.length : at;
      };
      callback(
        undefined,
        [...keys].sort((a, b) => rank(a) - rank(b)),
      );
    });
  }

  override sign(
    key: ParsedKey,
    data: Buffer,
    options: ssh2.SigningRequestOptions | ssh2.SignCallback,
    callback?: ssh2.SignCallback,
  ): void {
    if (typeof options === 'function') this.#agent.sign(key, data, options);
    else this.#agent.sign(key, data, options, callback);
  }
}

/** The ways to prove who we are, one after the other, and a list of what was tried. */
export function authentication(
  identities: Identities,
  username: string,
): { next: AuthHandlerMiddleware; note: (text: string) => void; tried: string[] } {
  const methods: { text: string; method: AnyAuthMethod }[] = [];
  if (identities.agent !== undefined) {
    const agent = new OrderedAgent(identities.agent, identities.preferred);
    methods.push({ text: `keys of the agent`, method: { type: 'agent', username, agent } });
  }
  for (const { file, key } of identities.keys) {
    methods.push({
      text: `${file} (${key.type} ${fingerprint(key.getPublicSSH())})`,
      method: { type: 'publickey', username, key },
    });
  }
  const tried: string[] = [...identities.unusable];
  const next: AuthHandlerMiddleware = (_left, _partial, callback) => {
    const method = methods.shift();
    if (method === undefined) {
      callback(false as unknown as AuthenticationType);
      return;
    }
    tried.push(method.text);
    callback(method.method);
  };
  return { next, note: (text) => tried.push(text), tried };
}
