/**
 * The embedded sshd itself: that it is no more lenient than a host, and that its network has the delay it
 * was given.
 */
import { PassThrough, Duplex } from 'node:stream';
import { writeFileSync } from 'node:fs';
import ssh2 from 'ssh2';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { delayed } from '../../src/embedded/delay.js';
import { EmbeddedSshd } from '../../src/embedded/sshd.js';
import { EchoBackend, Home } from '../edge/support.js';

const test = suite('embedded sshd');

let home: Home;
let backend: EchoBackend;
let sshd: EmbeddedSshd;
test.before.each(async () => {
  home = new Home();
  backend = new EchoBackend();
  sshd = await EmbeddedSshd.start({ backend, authorizedKeys: [home.key.public] });
  writeFileSync(home.knownHostsFile, sshd.knownHosts);
});
test.after.each(async () => {
  await sshd.close();
  home.remove();
});

test('refuses and records text that this project would not send', async () => {
  const texts = ['reboot', 'env LC_ALL=C reboot', 'echo "a"', 'a;b'];
  const codes = [];
  for (const text of texts) codes.push(await exec(text));
  assert.equal(codes, [255, 255, 255, 255]);
  assert.equal(backend.ran, []);
  assert.equal(
    sshd.requests.map((request) => [request.kind, request.argv[0]]),
    texts.map((text) => ['refused', text]),
  );
});

test('bytes take their time in each direction, and keep their order', async () => {
  const [here, there] = [new PassThrough(), new PassThrough()];
  const line = delayed(Duplex.from({ readable: here, writable: there }), 20);
  for (const [from, to] of [
    [here, line],
    [line, there],
  ] as const) {
    const began = performance.now();
    let received = '';
    const arrived = new Promise<number>((resolve) =>
      to.on('data', (chunk: Buffer) => {
        received += chunk.toString();
        if (received.length === 3) resolve(performance.now() - began);
      }),
    );
    for (const letter of 'abc') from.write(letter);
    assert.ok((await arrived) >= 19);
    assert.is(received, 'abc');
  }
  line.destroy();
});

test('a host far away answers the same', async () => {
  sshd.delayMs = 5;
  const host = await home.connect(sshd.port);
  const input = 'x'.repeat(1_000_000);
  assert.is((await host.run(['cat'], { input })).stdout, input);
  await host.close();
});

test('a batch costs as many round trips as one command', async () => {
  const host = await home.connect(sshd.port);
  const commands = new Map(Array.from({ length: 100 }, (_, n) => [`${n}`, ['echo', `${n}`]]));
  const replies = await host.probe(commands);
  assert.is(replies.get('99')?.stdout, '99\n');
  assert.is(sshd.requests.length, 1);
  await host.close();
});

test('a batch carries any bytes', async () => {
  const content = Buffer.from(Array.from({ length: 1000 }, (_, n) => (n * 7) % 256));
  backend.files.set('/a', { content, mode: 0o600 });
  const host = await home.connect(sshd.port);
  assert.ok(content.equals((await host.readFile('/a'))?.content ?? Buffer.alloc(0)));
  await host.close();
});

test('a cut is immediate: what is still under way is lost', async () => {
  const [here, there] = [new PassThrough(), new PassThrough()];
  const line = delayed(Duplex.from({ readable: here, writable: there }), 10);
  const received: Buffer[] = [];
  line.on('data', (chunk: Buffer) => received.push(chunk));
  here.write('late');
  await new Promise((resolve) => setImmediate(resolve));
  line.destroy();
  await new Promise((resolve) => setTimeout(resolve, 30));
  assert.equal(received, []);
});

/** Sends raw text, as no part of this project does. */
function exec(text: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const client = new ssh2.Client();
    client.on('error', reject);
    client.on('ready', () => {
      client.exec(text, (error, channel) => {
        if (error) return reject(error);
        channel.resume();
        channel.stderr.resume();
        channel.on('close', (code: number) => {
          client.end();
          resolve(code);
        });
        channel.end();
      });
    });
    client.connect({ host: '127.0.0.1', port: sshd.port, username: 'root', privateKey: home.key.private });
  });
}

test.run();
