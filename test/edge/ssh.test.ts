/**
 * The SSH edge against the embedded sshd: trust, retries, what is never sent twice, limits, files, streams.
 */
import { createServer, type AddressInfo, type Socket } from 'node:net';
import { appendFileSync, rmSync, writeFileSync } from 'node:fs';
import { once } from 'node:events';
import ssh2 from 'ssh2';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { OperatorError } from '../../src/core/errors.js';
import { FileError, HostError, OutputLimitError, type Host } from '../../src/edge/host.js';
import type { SshLimits } from '../../src/edge/ssh.js';
import { EmbeddedSshd, embeddedKey, type EmbeddedFault } from '../../src/embedded/sshd.js';
import { EchoBackend, Home } from './support.js';

const test = suite('ssh');

let home: Home;
let backend: EchoBackend;
let sshd: EmbeddedSshd;
let hosts: Host[];

test.before.each(async () => {
  home = new Home();
  backend = new EchoBackend();
  sshd = await EmbeddedSshd.start({ backend, authorizedKeys: [home.key.public] });
  writeFileSync(home.knownHostsFile, sshd.knownHosts);
  hosts = [];
});
test.after.each(async () => {
  await Promise.all(hosts.map((host) => host.close()));
  await sshd.close();
  home.remove();
});

async function connected(port = sshd.port, limits: Partial<SshLimits> = {}): Promise<Host> {
  const host = await home.connect(port, limits);
  hosts.push(host);
  return host;
}

/** The Nth request from now on, counted from 0, meets a fault; all others are served. */
function faultAt(index: number, fault: EmbeddedFault): void {
  const first = sshd.requests.length + index;
  sshd.fault = (_request, at) => (at === first ? fault : undefined);
}

// --- Commands

test('runs a command with its arguments, input and output as they are', async () => {
  const host = await connected();
  const argv = ['echo', "it's", '$(reboot)', 'a\nb', '', 'ü'];
  assert.equal(await host.run(argv), { exitCode: 0, stdout: `${argv.slice(1).join(' ')}\n`, stderr: '' });
  const input = 'x'.repeat(3_000_000);
  assert.is((await host.run(['cat'], { input })).stdout, input);
  assert.equal(await host.run(['nonsense']), { exitCode: 127, stdout: '', stderr: 'nonsense: not found\n' });
});

test('probes in one request, in order, a failing one among them', async () => {
  const host = await connected();
  const commands = new Map([
    ['a', ['echo', 'one']],
    ['b', ['nonsense']],
    ['c', ['echo', 'a\nb\'"']],
  ]);
  const replies = await host.probe(commands);
  assert.equal([...replies.keys()], ['a', 'b', 'c']);
  assert.equal(
    [...replies.values()].map((reply) => [reply.exitCode, reply.stdout]),
    [
      [0, 'one\n'],
      [127, ''],
      [0, 'a\nb\'"\n'],
    ],
  );
  assert.equal(
    sshd.requests.map((request) => request.kind),
    ['probe'],
  );
  assert.is((await host.probe(new Map())).size, 0);
});

test('calls side by side share one connection, within the limit on sessions', async () => {
  sshd.sessionsMax = 4;
  const host = await connected(sshd.port, { sessionsMax: 4 });
  const results = await Promise.all(Array.from({ length: 40 }, (_, n) => host.run(['echo', String(n)])));
  assert.equal(
    results.map((result) => result.stdout.trim()),
    Array.from({ length: 40 }, (_, n) => String(n)),
  );
  assert.is(sshd.connections, 1);
});

test('a host that allows fewer sessions than expected is asked for fewer', async () => {
  sshd.sessionsMax = 2;
  const host = await connected(sshd.port, { sessionsMax: 8, retries: 20 });
  const results = await Promise.all(Array.from({ length: 20 }, (_, n) => host.run(['echo', String(n)])));
  assert.is(results.length, 20);
  assert.is(backend.ran.length, 20);
});

test('a host that allows no session says what to look at', async () => {
  sshd.sessionsMax = 0;
  const error = await failure(connected());
  assert.instance(error, OperatorError);
  assert.match(
    error.message,
    /alpha: sshd allows no further session .*MaxSessions.*; `check of the login shell` was not run/,
  );
});

// --- Lost connections

for (const fault of ['dropBefore', 'dropAfter'] as const) {
  test(`${fault}: a command that may have started is not sent again`, async () => {
    const host = await connected();
    faultAt(0, fault);
    const error = await failure(host.run(['echo', 'once']));
    assert.instance(error, HostError);
    assert.is((error as HostError).outcome, 'unknown');
    assert.match(error.message, /^alpha: connection lost: .*; `echo once` may or may not have run$/);
    assert.equal(backend.ran, fault === 'dropAfter' ? ['echo once'] : []);
    assert.is(sshd.requests.length, 1);
    assert.is((await host.run(['echo', 'next'])).stdout, 'next\n');
    assert.is(sshd.connections, 2);
  });

  test(`${fault}: what is safe to repeat is sent again`, async () => {
    const host = await connected();
    faultAt(0, fault);
    assert.is((await host.run(['echo', 'twice'], { repeatable: true })).stdout, 'twice\n');
    faultAt(0, fault);
    assert.is((await host.probe(new Map([['a', ['echo', 'probe']]]))).get('a')?.stdout, 'probe\n');
    faultAt(0, fault);
    await host.writeFile('/etc/a', Buffer.from('content'), 0o600);
    faultAt(0, fault);
    assert.is((await host.readFile('/etc/a'))?.content.toString(), 'content');
    assert.is(sshd.requests.length, 8);
  });
}

test('a command on a connection that was lost earlier is sent on a new one', async () => {
  const host = await connected();
  sshd.cut();
  assert.is((await host.run(['echo', 'a'])).stdout, 'a\n');
  assert.equal(backend.ran, ['echo a']);
});

test('many calls after a loss make one new connection', async () => {
  const host = await connected();
  sshd.cut();
  await Promise.all(Array.from({ length: 8 }, () => host.run(['echo', 'a'], { repeatable: true })));
  assert.is(sshd.connections, 2);
});

test('gives up after a bounded number of tries and says that nothing was run', async () => {
  const host = await connected(sshd.port, { retries: 3 });
  await sshd.close();
  const error = await failure(host.run(['echo', 'a']));
  assert.instance(error, HostError);
  assert.is((error as HostError).outcome, 'not-run');
  assert.match(error.message, /can't connect to 127.0.0.1 port \d+: .*ECONNREFUSED.*; `echo a` was not run/);
  sshd = await EmbeddedSshd.start({ backend, authorizedKeys: [] });
});

test('a host key that changed while connected is refused, not retried', async () => {
  const host = await connected();
  const { port } = sshd;
  await sshd.close();
  sshd = await EmbeddedSshd.start({ backend, authorizedKeys: [home.key.public], port });
  const error = await failure(host.run(['echo', 'a']));
  assert.instance(error, OperatorError);
  assert.is((error as OperatorError).exitCode, 3);
  assert.is(sshd.connections, 1);
  assert.equal(backend.ran, []);
});

test('an unreachable host is told of with what to do', async () => {
  const { port } = sshd;
  await sshd.close();
  const error = await failure(connected(port, { retries: 2 }));
  assert.instance(error, OperatorError);
  assert.is((error as OperatorError).exitCode, 4);
  assert.match(
    error.message,
    new RegExp(
      `^alpha: can't connect to 127.0.0.1 port ${port}: .*ECONNREFUSED.*nothing was changed.*ssh -p ${port} root@127.0.0.1 true`,
    ),
  );
  sshd = await EmbeddedSshd.start({ backend, authorizedKeys: [] });
});

test('a host that accepts the connection and says nothing is given up in time', async () => {
  const sockets: Socket[] = [];
  const silent = createServer((socket) => sockets.push(socket)).listen(0, '127.0.0.1');
  await once(silent, 'listening');
  try {
    const { port } = silent.address() as AddressInfo;
    const error = await failure(home.connect(port, { connectMs: 50, retries: 1 }));
    assert.match(error.message, /Timed out while waiting for handshake/);
    assert.is((error as OperatorError).exitCode, 4);
    assert.is(sockets.length, 2);
  } finally {
    for (const socket of sockets) socket.destroy();
    silent.close();
  }
});

// --- Deadlines and bounds

test('a command without an answer fails after its deadline, with an unknown outcome', async () => {
  const host = await connected(sshd.port, { graceMs: 10 });
  faultAt(0, 'hang');
  const error = await failure(host.run(['echo', 'a'], { deadlineMs: 20, repeatable: true }));
  assert.is((error as HostError).outcome, 'unknown');
  assert.match(error.message, /`echo a` passed its deadline of 20 ms .* may still be running/);
  assert.is(sshd.requests.length, 1, 'it is not sent again');
  assert.is((await host.run(['echo', 'b'])).stdout, 'b\n');
});

test('waiting for a session is bounded', async () => {
  let open = (): void => undefined;
  backend.gate = new Promise((resolve) => (open = resolve));
  const host = await connected(sshd.port, { sessionsMax: 1 });
  const first = host.run(['wait']);
  const error = await failure(host.run(['echo', 'a'], { deadlineMs: 20 }));
  assert.is((error as HostError).outcome, 'not-run');
  assert.match(error.message, /waited 20 ms for one of 1 sessions/);
  open();
  assert.is((await first).stdout, 'waited');
  assert.equal(backend.ran, ['wait']);
});

test('output is bounded', async () => {
  const host = await connected(sshd.port, { outputBytesMax: 1_000_000 });
  assert.is((await host.run(['big', '1000000'])).stdout.length, 1_000_000);
  const error = await failure(host.run(['big', '1000001']));
  assert.instance(error, OutputLimitError);
  assert.is((error as HostError).outcome, 'unknown');
  assert.is((await host.run(['echo', 'b'])).stdout, 'b\n');
});

test('a command longer than a host takes is refused before it is sent', async () => {
  const host = await connected();
  const error = await failure(host.run(['echo', 'x'.repeat(131_072)]));
  assert.is((error as HostError).outcome, 'not-run');
  assert.equal(sshd.requests, []);
});

test('nothing is sent after close', async () => {
  const host = await connected();
  await host.close();
  assert.is(((await failure(host.run(['echo', 'a']))) as HostError).outcome, 'not-run');
  assert.equal(backend.ran, []);
  await host.close();
});

// --- Files

test('reads and writes files with any bytes', async () => {
  const host = await connected();
  const content = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
  await host.writeFile("/etc/it's", content, 0o640);
  const file = await host.readFile("/etc/it's");
  assert.ok(content.equals(file?.content ?? Buffer.alloc(0)));
  assert.is(file?.mode, 0o640);
  const files = await host.readFiles(['/none', "/etc/it's"]);
  assert.is(files.get('/none'), undefined);
  assert.is(files.get("/etc/it's")?.mode, 0o640);
  assert.is(sshd.requests.length, 3);
});

test('says why a file is not read or written', async () => {
  const host = await connected();
  await host.writeFile('/etc/a', Buffer.from('four'), 0o600);
  assert.is((await host.readFile('/etc/a', 4))?.content.byteLength, 4);
  const cases: [() => Promise<unknown>, string][] = [
    [() => host.readFile('/etc/a', 3), 'alpha: /etc/a: not read: it is longer than the 3 bytes allowed'],
    [() => host.readFile('/directory'), 'alpha: /directory: not read: Is a directory'],
    [
      () => host.writeFile('/full/a', Buffer.from(''), 0o600),
      'alpha: /full/a: not written: cat: write error: No space left on device; what was there before is unchanged',
    ],
  ];
  for (const [act, message] of cases) {
    const error = await failure(act());
    assert.instance(error, FileError);
    assert.is(error.message, message);
  }
});

// --- Streams

test('passes each line of a stream on, and its end', async () => {
  const host = await connected();
  const lines: string[] = [];
  const result = await host.stream(['lines', 'a', 'b  c', ''], (line) => lines.push(line), {});
  assert.equal(lines, ['a', 'b  c', '', 'last']);
  assert.equal(result, { exitCode: 3, stdout: '', stderr: 'why\n' });
});

test('a stream that is told to end ends on the host', async () => {
  const host = await connected();
  const abort = new AbortController();
  const result = await host.stream(['hold'], () => abort.abort(), { signal: abort.signal });
  assert.is(result.exitCode, 143);
  assert.equal(backend.ran, ['stream hold', 'released']);
  const error = await failure(host.stream(['hold'], () => undefined, { signal: abort.signal }));
  assert.is((error as HostError).outcome, 'not-run');
});

test('a stream whose connection is lost ends on both sides and is not started again', async () => {
  const host = await connected();
  const error = await failure(host.stream(['hold'], () => sshd.cut(), {}));
  assert.is((error as HostError).outcome, 'unknown');
  await host.run(['echo', 'a']);
  assert.equal(backend.ran, ['stream hold', 'released', 'echo a']);
});

test('an error in a line handler ends the stream with that error', async () => {
  const host = await connected();
  const fail = (): never => {
    throw new Error('no such state');
  };
  assert.is((await failure(host.stream(['hold'], fail, {}))).message, 'no such state');
});

// --- Trust

const refusals: { name: string; prepare: () => void; exitCode: number; says: RegExp }[] = [
  {
    name: 'unknown',
    prepare: () => rmSync(home.knownHostsFile),
    exitCode: 4,
    says: /^alpha: 127\.0\.0\.1 port \d+ offers the host key ssh-ed25519 SHA256:\S{43}, which is not known; .*nothing was sent\. .*ssh-keygen -lf \/etc\/ssh\/ssh_host_ed25519_key\.pub.*`ssh-keyscan -t ed25519 -p \d+ 127\.0\.0\.1 >> \S+known_hosts`/,
  },
  {
    name: 'changed',
    prepare: () => writeFileSync(home.knownHostsFile, `# first\n${other('ed25519')}`),
    exitCode: 3,
    says: /another one is recorded at \S+known_hosts:2 \(ssh-ed25519 SHA256:\S{43}\); refused, .*`ssh-keygen -f \S+known_hosts -R '\[127\.0\.0\.1\]:\d+'` .*`ssh-keyscan -t ed25519 /,
  },
  {
    name: 'of a type that was never recorded',
    prepare: () => writeFileSync(home.knownHostsFile, other('ecdsa')),
    exitCode: 3,
    says: /only another type is recorded, at \S+known_hosts:1 \(ecdsa-sha2-nistp256 SHA256:/,
  },
  {
    name: 'revoked',
    prepare: () => appendFileSync(home.knownHostsFile, `@revoked ${sshd.knownHosts}`),
    exitCode: 3,
    says: /marked @revoked at \S+known_hosts:2/,
  },
];
for (const { name, prepare, exitCode, says } of refusals) {
  test(`a host key that is ${name} is refused`, async () => {
    prepare();
    const error = await failure(connected());
    assert.instance(error, OperatorError);
    assert.match(error.message, says);
    assert.is((error as OperatorError).exitCode, exitCode);
    assert.is(sshd.connections, 1, 'it is not tried again');
  });
}

test('a damaged line is told of when the key is unknown', async () => {
  writeFileSync(home.knownHostsFile, sshd.knownHosts.replace(/=*\n$/, '').slice(0, -10));
  assert.match((await failure(connected())).message, /Lines that were not used|another one is recorded/);
  writeFileSync(home.knownHostsFile, sshd.knownHosts.replace('AAAA', 'BAAA'));
  assert.match((await failure(connected())).message, /known_hosts:1: it holds no ssh-ed25519 key/);
});

test('asks for the type of key that is recorded', async () => {
  const ecdsa = ssh2.utils.generateKeyPairSync('ecdsa', { bits: 256 }).private;
  const both = await EmbeddedSshd.start({
    backend,
    authorizedKeys: [home.key.public],
    hostKeys: [embeddedKey().private, ecdsa],
  });
  try {
    const lines = both.knownHosts.split('\n');
    for (const line of lines.slice(0, 2)) {
      writeFileSync(home.knownHostsFile, `${line}\n`);
      await connected(both.port);
    }
  } finally {
    await Promise.all(hosts.splice(0).map((host) => host.close()));
    await both.close();
  }
});

test('a user who is not let in is told what was tried', async () => {
  writeFileSync(home.identityFile, embeddedKey().private);
  const error = await failure(connected());
  assert.instance(error, OperatorError);
  assert.is((error as OperatorError).exitCode, 4);
  assert.match(
    error.message,
    /does not let root in .*offered: \S+id_ed25519 \(ssh-ed25519 SHA256:.*ssh-copy-id -p \d+ root@127\.0\.0\.1/,
  );
  assert.is(sshd.connections, 1, 'it is not tried again');
});

test('an encrypted key without an agent is told of', async () => {
  const { private: encrypted } = ssh2.utils.generateKeyPairSync('ed25519', {
    passphrase: 'secret',
    cipher: 'aes256-cbc',
    rounds: 1,
  });
  writeFileSync(home.identityFile, encrypted);
  const error = await failure(connected());
  assert.match(error.message, /id_ed25519 is encrypted, load it with `ssh-add \S+id_ed25519`/);
});

test('a host without any key to offer is told of, and a missing file that was named', async () => {
  rmSync(home.identityFile);
  assert.match((await failure(connected())).message, /no key was found to offer/);
  home.settings.identityFiles = ['~/.ssh/other'];
  const error = await failure(connected());
  assert.is((error as OperatorError).exitCode, 2);
  assert.match(error.message, /identity file can't be read: .*\.ssh\/other/);
});

test('an agent that is gone is no obstacle to the key files', async () => {
  const host = await home.connect(sshd.port, {}, { agentSocket: '/nonexistent/agent' });
  hosts.push(host);
  assert.is((await host.run(['echo', 'a'])).stdout, 'a\n');
  writeFileSync(home.identityFile, embeddedKey().private);
  const error = await failure(home.connect(sshd.port, {}, { agentSocket: '/nonexistent/agent' }));
  assert.match(error.message, /agent: Failed to connect to agent/);
});

test('logs commands, and nothing of their input or output', async () => {
  const host = await connected();
  await host.run(['cat'], { input: 'shared-secret' });
  await host.writeFile('/etc/a', Buffer.from('shared-secret'), 0o600);
  await host.readFile('/etc/a');
  const text = home.logged.join('');
  assert.match(text, '"command":"cat"');
  assert.not.match(text, 'shared-secret');
});

function other(type: 'ed25519' | 'ecdsa'): string {
  const pair = type === 'ecdsa' ? ssh2.utils.generateKeyPairSync('ecdsa', { bits: 256 }) : embeddedKey();
  return `[127.0.0.1]:${sshd.port} ${pair.public}\n`;
}

async function failure(promise: Promise<unknown>): Promise<Error> {
  try {
    await promise;
  } catch (error) {
    return error as Error;
  }
  throw new Error('it was expected to fail');
}

test.run();
