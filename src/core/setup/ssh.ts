/**
 * SSH between hosts, and from hosts to the arbiter's machine: what setup makes for the arbiter `ssh` and for
 * `link: ssh`.
 *
 *     /etc/remus-drbd/ssh/id_ed25519    made on the host, and never leaves it
 *     /etc/remus-drbd/ssh/known_hosts   of the arbiter's machine and of the peer, as the controller knows them
 *     /root/.ssh/authorized_keys        with `link: ssh`: a line for the peer's key, marked `remus-drbd:PEER`
 *
 * The line lets the key do what `src/link/ssh.ts` does and no more: its command is always the one that says
 * "ready" and waits; it gets no terminal, agent or X11; it comes from the peer's replication address; and of
 * forwarding it gets what connects to the receivers' sockets (sshd(8), "AUTHORIZED_KEYS FILE FORMAT"). That
 * `permitopen` takes a unix socket, as a host in brackets with any port, is in no manual: sshd's channels.c compares
 * the path as it compares a host. A test tries all of it on the real sshd.
 */
import { judgeKey, lookupName, type KnownHostsLine } from '../knownhosts.js';
import type { HostConfig, Pair } from '../model.js';
import { Paths, runPath } from '../names.js';

export const SSH_DIRECTORY = `${Paths.etc}/ssh`;
export const SSH_KEY = `${SSH_DIRECTORY}/id_ed25519`;
/** ssh-keygen makes it beside the key; nothing reads it. */
export const SSH_PUBLIC_KEY = `${SSH_KEY}.pub`;
export const SSH_KNOWN_HOSTS = `${SSH_DIRECTORY}/known_hosts`;
export const ROOT_SSH = '/root/.ssh';
export const AUTHORIZED_KEYS = `${ROOT_SSH}/authorized_keys`;

const SSH_PORT = 22;
/** What `src/link/ssh.ts` asks for, and what it gets whatever it asks for. */
const READY_COMMAND = 'echo remus-drbd-link; exec cat >/dev/null';
/** sshd takes no "none" here; this is one that nobody asks for. */
const NO_LISTENING = 'permitlisten="127.0.0.1:1"';
const MARK = /(?:^|\s)remus-drbd:[A-Za-z0-9_.-]+$/;

/** Whether hosts of the pair log in anywhere by themselves. */
export function needsSshKey({ arbiter, link }: Pick<Pair, 'arbiter' | 'link'>): boolean {
  return arbiter.kind === 'ssh' || link === 'ssh';
}

/** A machine whose keys a host has to know, and where the controller knows them from. */
interface Machine {
  what: string;
  /** Under this name and port the controller has its keys. */
  known: { host: string; port: number };
  /** Under this name the host looks for them. */
  as: string;
}

function machines(pair: Pair, host: string): Machine[] {
  const found: Machine[] = [];
  const { arbiter } = pair;
  if (arbiter.kind === 'ssh') {
    found.push({
      what: `the arbiter ${arbiter.host} port ${arbiter.port}`,
      known: arbiter,
      as: lookupName(arbiter.host, arbiter.port),
    });
  }
  if (pair.link === 'ssh') {
    for (const { name, ssh, replication } of pair.hosts) {
      if (name === host) continue;
      found.push({ what: `${name} (${ssh.host})`, known: ssh, as: lookupName(replication, SSH_PORT) });
    }
  }
  return found;
}

/**
 * The known_hosts of a host.
 *
 * @param lines the controller's
 * @returns its text, and in words the machines whose key the controller doesn't know
 */
export function knownHostsFile(
  pair: Pair,
  host: string,
  lines: readonly KnownHostsLine[],
): { text: string; missing: string[] } {
  const missing: string[] = [];
  const text = machines(pair, host).flatMap(({ what, known, as }) => {
    const keys = lines.flatMap((line) => {
      const { verdict } = judgeKey(lines, known.host, known.port, line.key);
      if (verdict !== 'known' || line.revoked) return [];
      return [`${as} ${line.keyType} ${Buffer.from(line.key).toString('base64')}\n`];
    });
    if (keys.length === 0) missing.push(what);
    return [...new Set(keys)];
  });
  return { text: text.join(''), missing };
}

/** Where a domain's receiver listens with `link: ssh`. */
export function linkSocketPath(domain: string): string {
  return runPath(domain, 'link.sock');
}

/**
 * The line for a peer's key in root's authorized_keys.
 *
 * @param sockets what it may connect to; at least one, since sshd takes none for all
 */
export function linkKeyLine(
  peer: Pick<HostConfig, 'name' | 'replication'>,
  publicKey: string,
  sockets: readonly string[],
): string {
  const options = [
    'restrict',
    'port-forwarding',
    ...sockets.map((path) => `permitopen="[${path}]:*"`),
    NO_LISTENING,
    `from="${peer.replication}"`,
    `command="${READY_COMMAND}"`,
  ];
  return `${options.join(',')} ${publicKey} remus-drbd:${peer.name}`;
}

/** Arguments for the ssh with which a host makes the link, besides those of every link. */
export function linkSshOptions(own: Pick<HostConfig, 'replication'>): string[] {
  return [
    // Nothing that somebody set up for people on this host.
    ...['-F', 'none', '-i', SSH_KEY, '-o', 'IdentitiesOnly=yes'],
    ...['-o', `UserKnownHostsFile=${SSH_KNOWN_HOSTS}`, '-o', 'GlobalKnownHostsFile=/dev/null'],
    // The peer lets the key in from there only.
    ...['-b', own.replication],
  ];
}

/** The line for a host's key on the arbiter's machine, where the operator puts it. */
export function arbiterKeyLine(host: string, publicKey: string): string {
  return `restrict ${publicKey} remus-drbd:${host}`;
}

/** What to do on the arbiter's machine, in words. */
export function arbiterAdvice(
  arbiter: { user: string; host: string; directory: string },
  host: string,
  publicKey: string,
): string {
  const { user, directory } = arbiter;
  return (
    `on ${arbiter.host}, where nobody but you can do it: make the directory ${directory} for ${user} ` +
    `(install -d -o ${user} ${directory}), and put this line into the authorized_keys of ${user}: ` +
    arbiterKeyLine(host, publicKey)
  );
}

/**
 * An authorized_keys with exactly these lines of ours; all others stay as they are.
 *
 * @param text undefined where there is no such file
 * @returns undefined where nothing has to be changed
 */
export function withKeyLines(text: string | undefined, wanted: readonly string[]): string | undefined {
  const lines = (text ?? '').split('\n');
  const ours = lines.filter((line) => MARK.test(line));
  if (ours.length === wanted.length && wanted.every((line) => ours.includes(line))) return undefined;
  const others = lines.filter((line) => !MARK.test(line)).join('\n');
  const start = others === '' || others.endsWith('\n') ? others : `${others}\n`;
  return start + wanted.map((line) => `${line}\n`).join('');
}
