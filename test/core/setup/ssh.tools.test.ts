/* eslint-disable no-console -- a skipped file says so */
/**
 * The line in root's authorized_keys, the known_hosts and the arguments that setup makes for `link: ssh`, tried on
 * the real sshd and ssh: what the link needs works, and nothing else that can be told apart does.
 */
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { parseKnownHosts } from '../../../src/core/knownhosts.js';
import type { Pair } from '../../../src/core/model.js';
import {
  knownHostsFile,
  linkKeyLine,
  linkSshOptions,
  SSH_KEY,
  SSH_KNOWN_HOSTS,
} from '../../../src/core/setup/ssh.js';
import { openTunnel } from '../../../src/link/ssh.js';

const SSHD = '/usr/sbin/sshd';
const test = suite('keys for the link');
const HARD_LIMIT_MS = 60_000;

let root: string;
let sshd: ChildProcess;
let sshdPort: number;
let tcp: Server;
let receiver: Server;
let secret: Server;
const path = (name: string): string => join(root, name);
const { username } = userInfo();
const peer = { name: 'alpha', ssh: { user: 'root', host: '127.0.0.1', port: 22 }, replication: '127.0.0.1' };

/** What setup gives ssh, with this test's files in the place of the host's. */
function options(replication = '127.0.0.1'): string[] {
  const own = linkSshOptions({ replication }).map((word) =>
    word.replace(SSH_KNOWN_HOSTS, path('known_hosts')).replace(SSH_KEY, path('id_ed25519')),
  );
  return [...own, '-p', String(sshdPort)];
}

test.before(async () => {
  root = mkdtempSync(join(tmpdir(), 'remus-link-keys-'));
  for (const name of ['host_key', 'id_ed25519']) {
    await run('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-C', 'test', '-f', path(name)]);
  }
  receiver = createServer((socket) => socket.end('the receiver\n')).listen(path('link.sock'));
  secret = createServer((socket) => socket.end('the secret\n')).listen(path('secret.sock'));
  tcp = createServer((socket) => socket.end('a service\n')).listen(0, '127.0.0.1');
  const free = createServer().listen(0, '127.0.0.1');
  await Promise.all([receiver, secret, tcp, free].map((server) => once(server, 'listening')));
  sshdPort = portOf(free);
  await new Promise((resolve) => free.close(resolve));
  await startSshd();
});
test.after(async () => {
  const ended = once(sshd, 'exit');
  sshd.kill();
  await ended;
  await Promise.all([receiver, secret, tcp].map((server) => new Promise((resolve) => server.close(resolve))));
  rmSync(root, { recursive: true });
});

async function startSshd(): Promise<void> {
  const publicKey = readFileSync(path('id_ed25519.pub'), 'utf8').split(' ').slice(0, 2).join(' ');
  writeFileSync(
    path('authorized_keys'),
    `${linkKeyLine(peer, publicKey, [path('link.sock'), path('other.sock')])}\n`,
    { mode: 0o600 },
  );
  const hostKey = readFileSync(path('host_key.pub'), 'utf8');
  const known = parseKnownHosts(`[192.0.2.2]:2222 ${hostKey}`, 'known_hosts');
  const beta = {
    name: 'beta',
    ssh: { user: 'root', host: '192.0.2.2', port: 2222 },
    replication: '127.0.0.1',
  };
  const pair: Pair = {
    name: 'p',
    hosts: [peer, beta],
    arbiter: { kind: 'operator' },
    link: 'ssh',
    domains: [],
  };
  const { text, missing } = knownHostsFile(pair, 'alpha', known.lines);
  assert.equal(missing, []);
  writeFileSync(path('known_hosts'), text);
  writeFileSync(
    path('sshd_config'),
    `Port ${sshdPort}\nListenAddress 127.0.0.1\nHostKey ${path('host_key')}\nPidFile none\n` +
      `AuthorizedKeysFile ${path('authorized_keys')}\nStrictModes no\nPermitRootLogin yes\n`,
  );
  if (userInfo().uid === 0) mkdirSync('/run/sshd', { recursive: true, mode: 0o755 });
  sshd = spawn(SSHD, ['-D', '-e', '-f', path('sshd_config')], { stdio: ['ignore', 'ignore', 'pipe'] });
  let said = '';
  await new Promise<void>((resolve, reject) => {
    sshd.once('exit', () => reject(new Error(`sshd did not start: ${said}`)));
    sshd.stderr?.on('data', (chunk: Buffer) => {
      said += chunk.toString();
      if (said.includes('listening')) resolve();
    });
  });
}

/** A connection that was refused may be gone before anyone listens. */
async function closed(socket: Socket): Promise<void> {
  if (!socket.closed) await once(socket, 'close');
}

function portOf(server: Server): number {
  const address = server.address();
  return typeof address === 'object' && address !== null ? address.port : 0;
}

/** Never rejects. */
function run(program: string, argv: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    const child = execFile(program, argv, { timeout: HARD_LIMIT_MS }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code ?? 255), stdout, stderr });
    });
    child.stdin?.end();
  });
}

function ssh(...more: string[]): ReturnType<typeof run> {
  return run('ssh', ['-o', 'BatchMode=yes', '-o', 'StrictHostKeyChecking=yes', ...options(), ...more]);
}

test('the link gets through to the receiver', async () => {
  const socket = await openTunnel(
    { target: `${username}@127.0.0.1`, remotePath: path('link.sock'), directory: root, options: options() },
    HARD_LIMIT_MS,
  );
  const chunks: Buffer[] = [];
  socket.on('data', (chunk: Buffer) => chunks.push(chunk));
  await closed(socket);
  assert.is(Buffer.concat(chunks).toString(), 'the receiver\n');
});

test('no other socket can be reached', async () => {
  const why = await openTunnel(
    { target: `${username}@127.0.0.1`, remotePath: path('secret.sock'), directory: root, options: options() },
    HARD_LIMIT_MS,
  ).then(
    async (socket) => {
      const chunks: Buffer[] = [];
      socket.on('data', (chunk: Buffer) => chunks.push(chunk));
      await closed(socket);
      return Buffer.concat(chunks).toString();
    },
    (error: unknown) => String(error),
  );
  assert.not.match(why, /the secret/);
});

test('any other command is the ready command', async () => {
  const { stdout } = await ssh(`${username}@127.0.0.1`, `cat ${path('host_key')}`);
  assert.is(stdout, 'remus-drbd-link\n');
});

test('no port of the host can be reached, and none opened', async () => {
  const through = await ssh('-W', `127.0.0.1:${portOf(tcp)}`, `${username}@127.0.0.1`);
  assert.not.match(through.stdout, /a service/);
  assert.match(through.stderr, /administratively prohibited|forwarding failed/);
  const opened = await ssh(
    '-o',
    'ExitOnForwardFailure=yes',
    '-R',
    '0:127.0.0.1:9',
    `${username}@127.0.0.1`,
    'x',
  );
  assert.is.not(opened.code, 0);
  assert.match(opened.stderr, /remote port forwarding failed/);
});

test('no terminal', async () => {
  const { stderr } = await ssh('-tt', `${username}@127.0.0.1`);
  assert.match(stderr, /PTY allocation request failed/);
});

test('from another address it opens nothing', async () => {
  const argv = ['-o', 'BatchMode=yes', ...options('127.0.0.2'), `${username}@127.0.0.1`, 'x'];
  const { code, stdout, stderr } = await run('ssh', argv);
  assert.is(code, 255);
  assert.is(stdout, '');
  assert.match(stderr, /Permission denied/);
});

if (existsSync(SSHD) && existsSync('/usr/bin/ssh')) {
  test.run();
} else if (process.env['CI'] === 'true') {
  throw new Error('needs sshd and ssh (apt install openssh-server openssh-client)');
} else {
  console.log('skipped: needs sshd and ssh (apt install openssh-server openssh-client)');
  suite('keys for the link, skipped').run();
}
