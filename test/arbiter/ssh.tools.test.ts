/* eslint-disable no-console -- a skipped file says so */
/** The ssh arbiter against the real sshd, on a loopback port with keys of its own, and its script on its own. */
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { CLAIM_SCRIPT } from '../../src/arbiter/ssh-script.js';
import { SshArbiter, type SshArbiterSettings } from '../../src/arbiter/ssh.js';
import { claimName } from '../../src/core/claim/types.js';
import { createLog } from '../../src/edge/log.js';
import { embeddedKey } from '../../src/embedded/sshd.js';
import { contract, freshKey, PATIENT, undecided, won } from './contract.js';
import { freePorts } from './etcd-server.js';

const SSHD = '/usr/sbin/sshd';
/** Each is eight programs that wait for the disk twice; it takes a tenth of a second where nothing else runs. */
const SCRIPT_RACES = 8;
const test = suite('ssh arbiter');
const run = promisify(execFile);
const log = createLog({ level: 'error', json: true });

let root: string;
let directory: string;
let sshd: ChildProcess;
let settings: SshArbiterSettings;
const path = (name: string): string => join(root, name);

test.before(async () => {
  root = mkdtempSync(join(tmpdir(), 'remus-arbiter-ssh-'));
  directory = path('claims');
  mkdirSync(directory);
  const [hostKey, userKey] = [embeddedKey(), embeddedKey()];
  const [port = 0] = await freePorts(1);
  writeFileSync(path('host_key'), hostKey.private, { mode: 0o600 });
  writeFileSync(path('id_ed25519'), userKey.private, { mode: 0o600 });
  writeFileSync(path('authorized_keys'), `${userKey.public}\n`, { mode: 0o600 });
  writeFileSync(path('known_hosts'), `[127.0.0.1]:${port} ${hostKey.public}\n`);
  writeFileSync(
    path('sshd_config'),
    `Port ${port}\nListenAddress 127.0.0.1\nHostKey ${path('host_key')}\nPidFile none\nMaxStartups 100\n` +
      `AuthorizedKeysFile ${path('authorized_keys')}\nStrictModes no\nPermitRootLogin yes\n`,
  );
  const { username: user } = userInfo();
  const files = { identityFile: path('id_ed25519'), knownHostsFile: path('known_hosts') };
  settings = { user, host: '127.0.0.1', port, directory, ...files };
  await startSshd();
});
test.after(async () => {
  await stopSshd();
  rmSync(root, { recursive: true });
});

async function startSshd(): Promise<void> {
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
  const exited = once(sshd, 'exit');
  sshd.kill();
  await exited;
}

function open(changes: Partial<SshArbiterSettings> = {}): SshArbiter {
  return new SshArbiter({ ...settings, ...changes }, log);
}

contract(test, () => ({
  open: () => Promise.resolve(open()),
  cut: stopSshd,
  mend: startSshd,
  races: 4,
  termsAtOnce: 4,
}));

test('a machine that is alive and silent: undecided in time', async () => {
  sshd.kill('SIGSTOP');
  try {
    undecided(/no answer in|Timed out/i, await open().claim(freshKey(), 'alpha', { timeoutMs: 1_000 }));
  } finally {
    sshd.kill('SIGCONT');
  }
});

test('what is refused is undecided, with the reason', async () => {
  writeFileSync(path('other_hosts'), `[127.0.0.1]:${settings.port} ${embeddedKey().public}\n`);
  writeFileSync(path('other_key'), embeddedKey().private, { mode: 0o600 });
  for (const [changes, like] of [
    [{ knownHostsFile: path('other_hosts') }, /host key|another one is recorded/],
    [{ knownHostsFile: path('none') }, /not known/],
    [{ identityFile: path('other_key') }, /does not let \S+ in/],
    [{ identityFile: path('none') }, /ENOENT/],
    [{ directory: path('none') }, /none/],
  ] as const) {
    const arbiter = open(changes);
    undecided(like, await arbiter.claim(freshKey(), 'alpha', PATIENT));
    undecided(like, await arbiter.look(freshKey(), PATIENT));
    assert.is((await arbiter.reach(PATIENT)).reached, false);
  }
  assert.not(existsSync(path('none')));
});

test('a file that names nobody decides nothing; a directory that comes back decides as before', async () => {
  const [broken, key] = [freshKey(), freshKey()];
  writeFileSync(join(directory, claimName(broken)), 'alpha beta\n');
  undecided(/not understood/, await open().claim(broken, 'alpha', PATIENT));
  won(await open().claim(key, 'alpha', PATIENT));
  renameSync(directory, path('away'));
  undecided(/claims/, await open().claim(key, 'beta', PATIENT));
  renameSync(path('away'), directory);
  assert.is((await open().claim(key, 'beta', PATIENT)).kind, 'lost');
});

test(`of eight scripts at once one wins, ${SCRIPT_RACES} times, and all name it; nothing else is left`, async () => {
  const claims = path('parallel');
  mkdirSync(claims);
  for (let round = 0; round < SCRIPT_RACES; round += 1) {
    const name = claimName(freshKey());
    const said = await Promise.all(
      Array.from({ length: 8 }, (_, n) =>
        run('sh', ['-c', CLAIM_SCRIPT, 'claim', claims, name, `host${n}`]).then(({ stdout }) => stdout),
      ),
    );
    assert.is(new Set(said).size, 1, JSON.stringify(said));
    assert.match(said[0] ?? '', /^winner host[0-7]\n$/);
  }
  assert.is(readdirSync(claims).length, SCRIPT_RACES);
});

if (existsSync(SSHD)) {
  test.run();
} else if (process.env['CI'] === 'true') {
  throw new Error('needs sshd (apt install openssh-server)');
} else {
  console.log('skipped: needs sshd (apt install openssh-server)');
  suite('ssh arbiter, skipped').run();
}
