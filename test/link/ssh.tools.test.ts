/** The link through a real sshd, started here on a loopback port with keys of its own. */
import { execFileSync, spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { userInfo } from 'node:os';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { BulkItem } from '../../src/core/link/bulk.js';
import { connectLink, LinkFailed } from '../../src/link/client.js';
import type { Route } from '../../src/link/client.js';
import type { Loss } from '../../src/link/loss.js';
import { connecting, failure, listening, Place, Queue } from './support.js';

const SSHD = '/usr/sbin/sshd';
const test = suite('the link through a real sshd');

let place: Place;
let sshd: ChildProcess;
let port: number;

test.before(async () => {
  place = new Place();
  for (const name of ['host_key', 'user_key']) {
    execFileSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', place.path(name)]);
  }
  port = await freePort();
  writeFileSync(
    place.path('sshd_config'),
    `Port ${port}\nListenAddress 127.0.0.1\nHostKey ${place.path('host_key')}\nPidFile none\n` +
      `AuthorizedKeysFile ${place.path('user_key.pub')}\nStrictModes no\nPermitRootLogin yes\n`,
  );
  const key = readFileSync(place.path('host_key.pub'), 'utf8');
  writeFileSync(place.path('known_hosts'), `[127.0.0.1]:${port} ${key}`);
  // Started as root, sshd wants this directory, which its service unit makes.
  if (userInfo().uid === 0) mkdirSync('/run/sshd', { recursive: true, mode: 0o755 });
  sshd = spawn(SSHD, ['-D', '-e', '-f', place.path('sshd_config')], { stdio: ['ignore', 'ignore', 'pipe'] });
  const said = createInterface(sshd.stderr as Readable);
  await new Promise<void>((resolve) => said.on('line', (line) => line.includes('listening') && resolve()));
});
test.after(() => {
  sshd.kill();
  place.remove();
});

function route(more: { knownHosts?: string; remotePath?: string } = {}): Route {
  mkdirSync(place.path('run'), { recursive: true });
  const knownHosts = more.knownHosts ?? place.path('known_hosts');
  return {
    kind: 'ssh',
    target: `${userInfo().username}@127.0.0.1`,
    remotePath: more.remotePath ?? place.path('link.sock'),
    directory: place.path('run'),
    options: [
      '-F',
      'none',
      '-p',
      `${port}`,
      '-i',
      place.path('user_key'),
      '-o',
      `UserKnownHostsFile=${knownHosts}`,
    ],
  };
}

test('messages and frames go through, the end is clean, and nothing is left behind', async () => {
  const { listener, nextLink } = await listening(place, { listen: { path: place.path('link.sock') } });
  assert.is(statSync(place.path('link.sock')).mode & 0o777, 0o600);
  const sender = await connectLink(connecting(place, 0, { route: route() }));
  const receiver = await nextLink();
  assert.equal(readdirSync(place.path('run')), []);

  const messages = new Queue<unknown>();
  receiver.control.start({ message: (m) => messages.push(m), lost: (loss) => messages.push(loss) }, 0);
  const items = new Queue<BulkItem | Loss>();
  receiver.bulk.start({
    item: (item) => items.push('bytes' in item ? { ...item, bytes: Buffer.from(item.bytes) } : item),
    lost: (loss) => items.push(loss),
  });
  sender.control.send({ type: 'guest-ended', how: 'reboot' });
  assert.equal(await messages.next(), { type: 'guest-ended', how: 'reboot' });
  const bytes = Buffer.alloc(1 << 20, 'remus');
  void sender.bulk.send({ type: 'data', epoch: 1 }, bytes);
  void sender.bulk.send({ type: 'checkpoint', epoch: 1 }, Buffer.from('record'));
  const came: Buffer[] = [];
  for (;;) {
    const item = await items.next();
    if (!('type' in item) || item.type !== 'data') {
      assert.equal(item, { type: 'checkpoint', epoch: 1, bytes: Buffer.from('record') });
      break;
    }
    came.push(item.bytes);
  }
  assert.ok(Buffer.concat(came).equals(bytes));
  const closing = sender.close(true);
  assert.equal(await items.next(), { type: 'end', clean: true });
  await Promise.all([closing, receiver.close(true)]);
  await listener.close();
  assert.not(existsSync(place.path('link.sock')));
});

test('the loss of the peer is seen through ssh', async () => {
  const { listener, nextLink } = await listening(place, { listen: { path: place.path('link.sock') } });
  const sender = await connectLink(connecting(place, 0, { route: route() }));
  const receiver = await nextLink();
  const lost = new Promise<Loss>((resolve) =>
    sender.control.start({ message: () => undefined, lost: resolve }, 0),
  );
  await Promise.all([receiver.control.close(0), receiver.bulk.close(false, 0)]);
  const control = await lost;
  await sender.close(false);
  assert.match(control.kind, /^(closed|reset)$/);
  await listener.close();
});

test('a host key that is not known, and a receiver that is not there, are told of in the words of ssh', async () => {
  writeFileSync(place.path('empty'), '');
  const unknown = await failure(
    connectLink(connecting(place, 0, { route: route({ knownHosts: place.path('empty') }) })),
  );
  assert.instance(unknown, LinkFailed);
  assert.match(unknown.message, /on beta \(ssh \S+\): ssh .*Host key verification failed/s);
  const none = await failure(
    connectLink(connecting(place, 0, { route: route({ remotePath: place.path('none.sock') }) })),
  );
  assert.instance(none, LinkFailed);
  assert.match(none.message, /closed|ECONNRESET|EPIPE/);
  assert.equal(readdirSync(place.path('run')), []);
});

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const address = server.address() as AddressInfo;
      server.close(() => resolve(address.port));
    });
  });
}

if (existsSync(SSHD)) {
  test.run();
} else if (process.env['CI'] === 'true') {
  throw new Error('needs sshd (apt install openssh-server)');
} else {
  process.stdout.write('skipped: needs sshd (apt install openssh-server)\n');
  suite('the link through a real sshd, skipped').run();
}
