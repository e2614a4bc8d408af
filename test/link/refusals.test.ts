/** Who is not let in, over real TLS on loopback, and that both sides say why. */
import { once } from 'node:events';
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { connect as connectPlain } from 'node:net';
import type { Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import type { ConnectionOptions } from 'node:tls';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { ExitCode, OperatorError } from '../../src/core/errors.js';
import { encodeControl } from '../../src/core/link/control-frames.js';
import { judgeHello } from '../../src/core/link/judge.js';
import type { Expected } from '../../src/core/link/judge.js';
import { LINK_PROTOCOL } from '../../src/core/link/messages.js';
import type { Hello } from '../../src/core/link/messages.js';
import { connectCleanup, connectLink, LinkFailed, LinkRefused } from '../../src/link/client.js';
import { connecting, failure, helloParts, listening, Place, SESSION } from './support.js';

let place: Place;
test.before(() => {
  place = new Place();
});
test.before.each(() => {
  place.lines.length = 0;
});
test.after(() => place.remove());

const EXPECTED: Expected = { pair: 'rack1', domain: 'web', peer: 'alpha', term: 3, usedSessions: new Set() };

/** A TLS client of our own making, with alpha's key. */
function tlsClient(port: number, more: ConnectionOptions = {}): Socket {
  const files = place.tls('alpha', 'beta');
  const socket = connectTls({
    host: '127.0.0.1',
    port,
    cert: readFileSync(files.certPath),
    key: readFileSync(files.keyPath),
    ca: readFileSync(files.peerCertPath),
    checkServerIdentity: () => undefined,
    ...more,
  });
  socket.on('error', () => undefined);
  return socket;
}

/** Waits until it is closed, with or without an error. */
async function ended(socket: Socket): Promise<void> {
  socket.resume();
  if (!socket.closed) await new Promise((resolve) => socket.once('close', resolve));
}

function hello(more: Partial<Hello> = {}): Buffer {
  return encodeControl({
    type: 'hello',
    protocol: LINK_PROTOCOL,
    purpose: 'control',
    ...helloParts(),
    ...more,
  });
}

function noHello(): never {
  throw new Error('no hello may arrive');
}

test('a sender with a certificate that is not pinned is refused, and both sides know', async () => {
  const { listener } = await listening(place);
  const options = connecting(place, listener.port);
  const tls = { ...place.tls('stranger', 'beta') };
  const error = await failure(
    connectLink({ ...options, route: { kind: 'tls', host: '127.0.0.1', port: listener.port, tls } }),
  );
  assert.instance(error, LinkFailed);
  assert.is((error as OperatorError).exitCode, ExitCode.unreachable);
  assert.match(
    error.message,
    /^web: no link to the receiver on beta \(127\.0\.0\.1 port \d+\): .*certificate/,
  );
  await place.refusal(/not the pinned one \(DEPTH_ZERO_SELF_SIGNED_CERT\)/);
  await listener.close();
});

test('a receiver with a certificate that is not pinned is refused before a byte is sent to it', async () => {
  const { listener } = await listening(place, {
    listen: { address: '127.0.0.1', port: 0, tls: place.tls('stranger', 'alpha') },
    authorise: noHello,
  });
  const error = await failure(connectLink(connecting(place, listener.port)));
  assert.instance(error, LinkFailed);
  assert.match(error.message, /self-signed certificate|the peer showed the certificate/);
  await place.refusal(/./);
  await listener.close();
});

test('a certificate that the pinned key has signed is not the pinned one', async () => {
  const { listener } = await listening(place);
  const path = (name: string): string => place.path(name);
  execFileSync(
    'openssl',
    [
      ...[
        'req',
        '-newkey',
        'ec',
        '-pkeyopt',
        'ec_paramgen_curve:prime256v1',
        '-nodes',
        '-subj',
        '/CN=signed',
      ],
      ...['-keyout', path('signed.key'), '-out', path('signed.csr')],
    ],
    { stdio: 'ignore' },
  );
  execFileSync(
    'openssl',
    [
      ...['x509', '-req', '-in', path('signed.csr'), '-CA', path('alpha.crt'), '-CAkey', path('alpha.key')],
      ...['-set_serial', '7', '-days', '10', '-out', path('signed.crt')],
    ],
    { stdio: 'ignore' },
  );
  const cert = Buffer.concat([readFileSync(path('signed.crt')), readFileSync(path('alpha.crt'))]);
  writeFileSync(path('chain.crt'), cert);
  const socket = tlsClient(listener.port, { cert, key: readFileSync(path('signed.key')) });
  socket.write(hello());
  await place.refusal(/the peer showed the certificate [0-9A-F:]{95}, pinned is /);
  await ended(socket);
  await listener.close();

  const other = await listening(place, {
    listen: {
      address: '127.0.0.1',
      port: 0,
      tls: { ...place.tls('beta', 'alpha'), certPath: path('chain.crt'), keyPath: path('signed.key') },
    },
    authorise: noHello,
  });
  const options = connecting(place, other.listener.port);
  const tls = place.tls('stranger', 'alpha');
  const error = await failure(
    connectLink({ ...options, route: { kind: 'tls', host: '127.0.0.1', port: other.listener.port, tls } }),
  );
  assert.match(error.message, /the peer showed the certificate [0-9A-F:]{95}, pinned is /);
  await other.listener.close();
});

test('no certificate, TLS 1.2, and what is no TLS at all are refused with their reasons', async () => {
  const { listener } = await listening(place, { authorise: noHello });
  const bare = connectTls({ host: '127.0.0.1', port: listener.port, rejectUnauthorized: false });
  bare.on('error', () => undefined);
  bare.write(hello());
  await place.refusal(/peer did not return a certificate/);
  await ended(bare);

  const old = tlsClient(listener.port, { minVersion: 'TLSv1.2', maxVersion: 'TLSv1.2' });
  await place.refusal(/unsupported protocol|version too low/);
  await ended(old);

  for (const garbage of ['GET / HTTP/1.1\r\n\r\n', `${'\0'.repeat(100)}`, hello()]) {
    place.lines.length = 0;
    const plain = connectPlain(listener.port, '127.0.0.1');
    plain.on('error', () => undefined);
    plain.write(garbage);
    await place.refusal(/wrong version number|http request|unknown|bad/);
    await ended(plain);
  }
  await listener.close();
});

test('a wrong domain, a wrong host, an old term and a replayed session are refused with code and reason', async () => {
  const used = new Set<string>();
  const { listener, nextLink } = await listening(place, {
    verdict: (asked) => {
      const verdict = judgeHello(asked, { ...EXPECTED, usedSessions: used });
      if (verdict.take && asked.purpose === 'control') used.add(asked.session);
      return verdict;
    },
  });
  const attempt = (more: Parameters<typeof helloParts>[0]): Promise<unknown> =>
    connectLink(connecting(place, listener.port, { hello: helloParts(more) }));
  for (const [more, code] of [
    [{ domain: 'db' }, 'wrong-domain'],
    [{ pair: 'rack2' }, 'wrong-domain'],
    [{ from: 'gamma' }, 'wrong-peer'],
    [{ term: 2 }, 'old-term'],
  ] as const) {
    const error = await failure(attempt(more));
    assert.instance(error, LinkRefused);
    assert.is((error as LinkRefused).code, code);
    assert.is((error as LinkRefused).exitCode, ExitCode.refused);
    await place.refusal(new RegExp(`^${code}: `));
  }
  const link = await connectLink(connecting(place, listener.port));
  const taken = await nextLink();
  const error = await failure(attempt({}));
  assert.is((error as LinkRefused).code, 'replayed-session');
  await place.refusal(new RegExp(`^replayed-session: session ${SESSION}`));
  await Promise.all([link.close(true), taken.close(true)]);
  await listener.close();
});

test('another protocol version is refused as that', async () => {
  const { listener } = await listening(place, { verdict: (asked) => judgeHello(asked, EXPECTED) });
  const socket = tlsClient(listener.port);
  socket.write(encodeControl({ type: 'hello', protocol: 2 } as unknown as Hello));
  const [answer] = (await once(socket, 'data')) as [Buffer];
  assert.match(answer.toString(), /"code":"protocol-version"/);
  await place.refusal(/^protocol-version: /);
  await ended(socket);
  await listener.close();
});

test('the answer has to be of the host that was meant', async () => {
  const { listener } = await listening(place, { host: 'gamma' });
  const error = await failure(connectLink(connecting(place, listener.port)));
  assert.is((error as LinkRefused).code, 'wrong-peer');
  assert.match(error.message, /it says host gamma/);
  await listener.close();
});

test('a bulk connection without its control connection, or of another session, is refused', async () => {
  const { listener } = await listening(place);
  const bulk = async (more: Partial<Hello>): Promise<string> => {
    const socket = tlsClient(listener.port);
    socket.write(hello({ purpose: 'bulk', ...more }));
    const [answer] = (await once(socket, 'data')) as [Buffer];
    await ended(socket);
    return answer.toString();
  };
  assert.match(await bulk({}), /"refused","code":"not-ready"/);
  const control = tlsClient(listener.port);
  control.write(hello());
  assert.match(((await once(control, 'data')) as [Buffer])[0].toString(), /"welcome"/);
  assert.match(await bulk({ session: 'f'.repeat(32) }), /"refused","code":"not-ready"/);
  assert.match(await bulk({ term: 4 }), /"refused","code":"not-ready"/);
  // Another session can't begin meanwhile.
  const error = await failure(connectLink(connecting(place, listener.port)));
  assert.is((error as LinkRefused).code, 'busy');
  control.destroy();
  await listener.close();
});

test('what is no hello, or more than one, ends the connection', async () => {
  const { listener } = await listening(place);
  for (const [bytes, reason] of [
    [encodeControl({ type: 'guest-ended', how: 'crash' }), /no message of the sender, to begin with/],
    [Buffer.from([0xff, 0xff, 0xff, 0xff]), /a control frame of 4294967295 bytes/],
    [Buffer.concat([hello(), hello()]), /bytes behind a hello/],
  ] as const) {
    const socket = tlsClient(listener.port);
    socket.write(bytes);
    await place.refusal(reason);
    await ended(socket);
  }
  await listener.close();
});

test('a hello that comes byte by byte, or not at all, has a deadline; so has a TLS handshake, and a bulk connection', async () => {
  const first = await listening(place, { helloMs: 100 });
  const silent = connectPlain(first.listener.port, '127.0.0.1');
  silent.on('error', () => undefined);
  await place.refusal(/handshake timeout/);
  await ended(silent);
  await first.listener.close();

  const { listener } = await listening(place, { helloMs: 1500 });
  const slow = tlsClient(listener.port);
  const bytes = hello();
  let at = 0;
  // Faster than a deadline on each byte would be, slower than the whole needs.
  const drip = setInterval(() => slow.write(bytes.subarray(at, ++at)), 20);
  await place.refusal(/nothing whole was heard within 1500 ms/);
  await ended(slow);
  clearInterval(drip);
  assert.ok(at < bytes.length);

  const control = tlsClient(listener.port);
  control.write(hello());
  await place.refusal(/no bulk connection followed/);
  await ended(control);
  await listener.close();
});

test('a connection whose peer has vanished while it is judged is dropped', async () => {
  let asked: () => void = () => undefined;
  const wasAsked = new Promise<void>((resolve) => (asked = resolve));
  let answer: () => void = () => undefined;
  const { listener, nextLink } = await listening(place, {
    verdict: async (said) => {
      if (said.purpose === 'control' && said.term === 4) {
        asked();
        await new Promise<void>((resolve) => (answer = resolve));
      }
      return { take: true, reason: 'a test' };
    },
  });
  const gone = tlsClient(listener.port);
  gone.write(hello({ term: 4 }));
  await wasAsked;
  gone.destroy();
  await ended(gone);
  const next = connectLink(connecting(place, listener.port, { hello: helloParts({ term: 5 }) }));
  answer();
  // Whether the dead one was seen to be dead or not, it may only be in the way until it is.
  const link = await next.catch(() =>
    connectLink(connecting(place, listener.port, { hello: helloParts({ term: 5 }) })),
  );
  const taken = await nextLink();
  assert.is(taken.hello.term, 5);
  await Promise.all([link.close(true), taken.close(true)]);
  await listener.close();
});

test('connections are bounded, and those beyond are refused at once', async () => {
  const { listener } = await listening(place, { connectionsMax: 3 });
  const open: Socket[] = [];
  for (let n = 0; n < 3; n++) {
    const socket = tlsClient(listener.port);
    await once(socket, 'secureConnect');
    open.push(socket);
  }
  const beyond = connectPlain(listener.port, '127.0.0.1');
  beyond.on('error', () => undefined);
  await ended(beyond);
  await place.refusal(/more than 3 connections/);
  for (const socket of open) socket.destroy();
  await Promise.all(open.map(ended));
  await listener.close();
});

test('nobody listening, nobody answering and unreadable certificates are told apart', async () => {
  const { listener } = await listening(place);
  const { port } = listener;
  await listener.close();
  const none = await failure(connectLink(connecting(place, port)));
  assert.instance(none, LinkFailed);
  assert.match(none.message, /ECONNREFUSED/);

  const mute = await listening(place, { verdict: () => new Promise(() => undefined) });
  const silent = await failure(connectCleanup(connecting(place, mute.listener.port, { timeoutMs: 500 })));
  assert.is((silent as LinkFailed).loss, 'timeout');
  await mute.listener.close();

  const tls = { ...place.tls('alpha', 'beta'), peerCertPath: place.path('none.crt') };
  const unread = await failure(
    connectLink(connecting(place, port, { route: { kind: 'tls', host: '127.0.0.1', port, tls } })),
  );
  assert.instance(unread, OperatorError);
  assert.match(unread.message, /none\.crt: can't be read .*run setup/);
  writeFileSync(place.path('bad.crt'), 'no certificate');
  const bad = await failure(
    connectLink(
      connecting(place, port, {
        route: { kind: 'tls', host: '127.0.0.1', port, tls: { ...tls, peerCertPath: place.path('bad.crt') } },
      }),
    ),
  );
  assert.match(bad.message, /bad\.crt: the peer's certificate can't be read/);
});

test.run();
