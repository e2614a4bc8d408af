/* eslint-disable no-console -- a skipped file says so */
/**
 * The SSH edge against the real sshd, started here on a loopback port with keys of its own: what the embedded
 * one can't show, namely how real processes end.
 */
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import ssh2 from 'ssh2';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { OperatorError } from '../../src/core/errors.js';
import { REMOTE_PATH } from '../../src/core/remote.js';
import { HostError, OutputLimitError, type Host } from '../../src/edge/host.js';
import { connectHost } from '../../src/edge/ssh.js';
import { embeddedKey } from '../../src/embedded/sshd.js';
import { Home, hostConfig } from './support.js';

const SSHD = '/usr/sbin/sshd';
const test = suite('ssh with a real sshd');

let home: Home;
let sshd: ChildProcess;
let port: number;
let hosts: Host[];

test.before.each(async () => {
  home = new Home();
  hosts = [];
  await startSshd();
});
test.after.each(async () => {
  await Promise.all(hosts.map((host) => host.close()));
  await stopSshd();
  home.remove();
});

async function startSshd(more = ''): Promise<void> {
  const hostKey = embeddedKey();
  const path = (name: string): string => join(home.directory, name);
  writeFileSync(path('host_key'), hostKey.private, { mode: 0o600 });
  writeFileSync(path('authorized_keys'), `${home.key.public}\n`, { mode: 0o600 });
  port = await freePort();
  writeFileSync(
    path('sshd_config'),
    `Port ${port}\nListenAddress 127.0.0.1\nHostKey ${path('host_key')}\nPidFile none\n` +
      `AuthorizedKeysFile ${path('authorized_keys')}\nStrictModes no\nPermitRootLogin yes\n${more}`,
  );
  writeFileSync(home.knownHostsFile, `[127.0.0.1]:${port} ${hostKey.public}\n`);
  // Started as root, sshd wants this directory, which its service unit makes.
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

async function stopSshd(): Promise<void> {
  if (sshd.exitCode !== null) return;
  const exited = once(sshd, 'exit');
  sshd.kill();
  await exited;
}

async function connected(limits: Parameters<Home['connect']>[1] = {}): Promise<Host> {
  const host = await connectHost(hostConfig(port, userInfo().username), home.settings, home.deps(limits));
  hosts.push(host);
  return host;
}

/** A host whose temporary files go to a directory of the test. */
async function connectedWithTmp(directory: string): Promise<Host> {
  await stopSshd();
  await startSshd(`SetEnv TMPDIR=${directory}\n`);
  return connected();
}

test('runs commands in a known environment, with input, output and exit code as they are', async () => {
  const host = await connected();
  const { stdout } = await host.run([
    'sh',
    '-c',
    'echo "$LC_ALL $PATH $#: $*"',
    'sh',
    "it's",
    '$(id)',
    'a\nb',
  ]);
  assert.is(stdout, `C ${REMOTE_PATH} 3: it's $(id) a\nb\n`);
  const input = 'x'.repeat(5_000_000);
  assert.is((await host.run(['cat'], { input })).stdout, input);
  assert.equal(await host.run(['sh', '-c', 'echo no >&2; exit 5']), {
    exitCode: 5,
    stdout: '',
    stderr: 'no\n',
  });
  assert.is((await host.run(['no-such-program'])).exitCode, 127);
  assert.is((await host.run(['sh', '-c', 'kill -9 $$'])).exitCode, 137);
});

test('probes and files', async () => {
  const host = await connected();
  const replies = await host.probe(
    new Map([
      ['a', ['uname', '-n']],
      ['b', ['false']],
    ]),
  );
  assert.match(replies.get('a')?.stdout ?? '', /^\S+\n$/);
  assert.is(replies.get('b')?.exitCode, 1);

  const path = join(home.directory, 'new/directory/file');
  const content = Buffer.from(Array.from({ length: 300_000 }, (_, n) => (n * 7) % 256));
  await host.writeFile(path, content, 0o640);
  assert.ok(readFileSync(path).equals(content));
  assert.is(statSync(path).mode & 0o7777, 0o640);
  assert.equal(readdirSync(join(home.directory, 'new/directory')), ['file']);
  const files = await host.readFiles([path, `${path}.none`, join(home.directory, 'none/none')]);
  assert.ok(content.equals(files.get(path)?.content ?? Buffer.alloc(0)));
  assert.is(files.get(path)?.mode, 0o640);
  assert.is(files.get(`${path}.none`), undefined);
  for (const [wrong, why] of [
    [home.directory, /Is a directory|no regular file/],
    [`${path}/below`, /Not a directory/],
    ['/dev/null', /no regular file/],
  ] as const) {
    assert.match((await failure(host.readFile(wrong))).message, why);
  }
  assert.match((await failure(host.writeFile('/dev/null/a', content, 0o644))).message, /not written/);
});

test('a command is ended on the host at its deadline', async () => {
  const host = await connected();
  const file = join(home.directory, 'pid');
  const command = ['sh', '-c', 'echo $$ > "$1.new" && mv "$1.new" "$1" && exec sleep 1000', 'sh', file];
  const error = await failure(host.run(command, { deadlineMs: 3_000 }));
  assert.instance(error, HostError);
  assert.is((error as HostError).outcome, 'unknown');
  assert.match(error.message, /was ended at its deadline of 3000 ms/);
  assert.not(alive(Number(readFileSync(file, 'utf8'))));
});

test('a batch tells which of its commands has no answer, and leaves nothing on the host', async () => {
  const host = await connectedWithTmp(home.directory);
  const commands = new Map([
    ['a', ['true']],
    ['b', ['sleep', '1000']],
  ]);
  const error = await failure(host.probe(commands, { deadlineMs: 10_000 }));
  assert.match(
    error.message,
    /was ended at its deadline of 10000 ms; `(sleep 1000|true)` gave no answer|no whole answer/,
  );
  const left = (): string[] => readdirSync(home.directory).filter((name) => name.includes('probes'));
  assert.equal(left(), []);
  assert.is((await host.probe(commands.set('b', ['echo', 'b']))).get('b')?.stdout, 'b\n');
  assert.equal(left(), []);
});

test('a batch with an endless answer fails with its command, one without room with why', async () => {
  const host = await connected();
  const error = await failure(
    host.probe(
      new Map([
        ['a', ['true']],
        ['b', ['yes']],
      ]),
    ),
  );
  assert.instance(error, OutputLimitError);
  assert.match(error.message, /^alpha: `yes` printed more than/);
  await stopSshd();
  const full = await failure((await connectedWithTmp('/nonexistent')).probe(new Map([['a', ['true']]])));
  assert.instance(full, HostError);
  assert.match(
    full.message,
    /^alpha: probe of 1 commands gave no whole answer \(exit code 1: mktemp: .*\/nonexistent.*no directory/s,
  );
});

test('killed in the middle, sshd leaves the command running, and the outcome is unknown', async () => {
  const host = await connected();
  const [started, ended] = [join(home.directory, 'started'), join(home.directory, 'ended')];
  const fifo = join(home.directory, 'fifo');
  await host.run(['mkfifo', fifo]);
  const script = 'echo $$ > "$1.new"; mv "$1.new" "$1"; read line < "$3"; echo "$line" > "$2"';
  const running = failure(host.run(['sh', '-c', script, 'sh', started, ended, fifo]));
  await until(() => existsSync(started));
  process.kill(sessionOf(Number(readFileSync(started, 'utf8'))), 'SIGKILL');
  const error = await running;
  assert.is((error as HostError).outcome, 'unknown');
  assert.match(error.message, /connection lost: .* may or may not have run/);
  assert.not(existsSync(ended));
  await host.run(['sh', '-c', 'echo line > "$1"', 'sh', fifo]);
  await until(() => existsSync(ended) && readFileSync(ended, 'utf8') === 'line\n');
});

test('a lock held by a stream is free after its end, and after the loss of its connection', async () => {
  const lock = join(home.directory, 'lock');
  const holder = ['flock', '-n', lock, 'sh', '-c', 'echo "$$"; exec cat'];
  const [first, second] = [await connected(), await connected()];

  const abort = new AbortController();
  const held = first.stream(holder, () => abort.abort(), { signal: abort.signal });
  await held;
  const free = ['flock', '-n', lock, 'true'];
  assert.is((await second.run(free)).exitCode, 0);

  let locked: (pid: number) => void;
  const holderPid = new Promise<number>((resolve) => (locked = resolve));
  const lost = failure(first.stream(holder, (line) => locked(Number(line)), {}));
  const pid = await holderPid;
  assert.is((await second.run(free)).exitCode, 1);
  process.kill(sessionOf(pid), 'SIGKILL');
  assert.is(((await lost) as HostError).outcome, 'unknown');
  await until(async () => (await second.run(free)).exitCode === 0);
});

test('stays within MaxSessions, also where that is lower than expected', async () => {
  await stopSshd();
  await startSshd('MaxSessions 2\n');
  const host = await connected({ retries: 20 });
  const runs = Array.from({ length: 12 }, (_, n) => host.run(['echo', String(n)]));
  const results = await Promise.all(runs);
  assert.equal(
    results.map((result) => result.stdout),
    Array.from({ length: 12 }, (_, n) => `${n}\n`),
  );
});

test("an agent's key that belongs to the identity file is offered first", async () => {
  const socket = join(home.directory, 'agent');
  const agent = spawn('ssh-agent', ['-D', '-a', socket], { stdio: 'ignore' });
  try {
    await until(() => existsSync(socket));
    // sshd ends a connection after six tries, and the key that counts is the last of nine.
    for (let n = 0; n < 9; n += 1) {
      const file = join(home.directory, `key-${n}`);
      writeFileSync(file, n === 8 ? home.key.private : embeddedKey().private, { mode: 0o600 });
      execFileSync('ssh-add', ['-q', file], {
        env: { ...process.env, SSH_AUTH_SOCK: socket },
        stdio: 'ignore',
      });
    }
    // As an encrypted one, of which only the public part can be read.
    writeFileSync(home.identityFile, ENCRYPTED);
    const connect = (): Promise<Host> =>
      connectHost(hostConfig(port, userInfo().username), home.settings, {
        ...home.deps(),
        agentSocket: socket,
      });
    const error = await failure(connect());
    assert.instance(error, OperatorError);
    assert.match(error.message, /does not let \S+ in \(Too many authentication failures.*is encrypted/);
    writeFileSync(`${home.identityFile}.pub`, home.key.public);
    hosts.push(await connect());
  } finally {
    agent.kill();
  }
});

const ENCRYPTED = ssh2.utils.generateKeyPairSync('ed25519', {
  passphrase: 'embedded',
  cipher: 'aes256-cbc',
  rounds: 1,
}).private;

test('a login shell that does not pass commands on is told of', async () => {
  await stopSshd();
  await startSshd('ForceCommand echo noise\n');
  const error = await failure(connected());
  assert.instance(error, OperatorError);
  assert.match(error.message, /login shell .* gave "noise\\n" and exit code 0/);
});

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const address = server.address() as AddressInfo;
      server.close(() => resolve(address.port));
    });
  });
}

/** The sshd process that serves the session in which process `pid` runs. */
function sessionOf(pid: number): number {
  for (let at = pid; at > 1;) {
    const stat = /^\d+ \((.*)\) \S (\d+)/s.exec(readFileSync(`/proc/${at}/stat`, 'latin1'));
    if (stat?.[1]?.startsWith('sshd')) return at;
    at = Number(stat?.[2]);
  }
  throw new Error(`process ${pid} is not under sshd`);
}

/** True while the process runs; one that has ended and waits for its parent counts as ended. */
function alive(pid: number): boolean {
  const stat = `/proc/${pid}/stat`;
  return existsSync(stat) && !/\) Z/.test(readFileSync(stat, 'latin1'));
}

/** Polls what has no event; the limit is only there so that a failure ends. */
async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  const limit = Date.now() + 60_000;
  while (!(await condition())) {
    if (Date.now() > limit) throw new Error('it did not happen within 60 s');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

async function failure(promise: Promise<unknown>): Promise<Error> {
  try {
    await promise;
  } catch (error) {
    return error as Error;
  }
  throw new Error('it was expected to fail');
}

if (existsSync(SSHD)) {
  test.run();
} else if (process.env['CI'] === 'true') {
  throw new Error('needs sshd (apt install openssh-server)');
} else {
  console.log('skipped: needs sshd (apt install openssh-server)');
  suite('ssh with a real sshd, skipped').run();
}
