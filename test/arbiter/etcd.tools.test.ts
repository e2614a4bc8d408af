/* eslint-disable no-console -- a skipped file says so */
/**
 * The etcd arbiter against Debian's etcd: a cluster of three with TLS, client certificates and a password, and a
 * single member behind a proxy that loses answers.
 */
import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import { connect, createServer as createTcpServer, type AddressInfo, type Socket } from 'node:net';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { EtcdArbiter, type EtcdSettings } from '../../src/arbiter/etcd.js';
import type { Arbiter } from '../../src/core/claim/types.js';
import { contract, decide, freshKey, lostTo, PATIENT, undecided, won } from './contract.js';
import { EtcdCluster, missingTools } from './etcd-server.js';

const missing = missingTools();
const three = suite('etcd, three members');
const one = suite('etcd, one member');
const PASSWORD = 'p"ä$ word';

let cluster: EtcdCluster;
let settings: EtcdSettings;

three.before(async () => {
  cluster = await EtcdCluster.start(3, { tls: true });
  const { ca, clientCert, clientKey } = cluster.certificates!;
  const credentials = { caFile: ca, certFile: clientCert, keyFile: clientKey };
  await cluster.requireUsers('remus', PASSWORD, credentials);
  const passwordFile = cluster.password('password', `${PASSWORD}\n`);
  settings = { endpoints: cluster.endpoints, user: 'remus', passwordFile, ...credentials };
});
three.after(() => cluster.remove());

async function withArbiter(
  changes: Partial<EtcdSettings>,
  body: (arbiter: Arbiter) => Promise<void>,
): Promise<void> {
  const arbiter = new EtcdArbiter({ ...settings, ...changes });
  try {
    await body(arbiter);
  } finally {
    await arbiter.close();
  }
}

contract(three, () => ({
  open: () => Promise.resolve(new EtcdArbiter(settings)),
  cut: () => cluster.kill([0, 1]),
  mend: () => cluster.startMembers([0, 1]),
  races: 100,
  termsAtOnce: 10,
}));

three('one member killed, whichever it is: it still decides', async () => {
  for (const dead of [0, 1, 2]) {
    await withArbiter({}, async (arbiter) => {
      const [before, after] = [freshKey(), freshKey()];
      won(await arbiter.claim(before, 'alpha', PATIENT));
      await cluster.kill([dead]);
      // There may be no leader for a moment.
      lostTo('alpha', await decide(() => arbiter.claim(before, 'beta', PATIENT)));
      won(await decide(() => arbiter.claim(after, 'beta', PATIENT)));
      const reach = await arbiter.reach(PATIENT);
      assert.match(reach.reached ? reach.detail : '', /^2 of 3 etcd endpoints decide; .*ECONNREFUSED/);
      await cluster.startMembers([dead]);
      lostTo('beta', await decide(() => arbiter.claim(after, 'alpha', PATIENT)));
    });
  }
});

three('a claim made while no majority was there is decided once there is one', async () => {
  await withArbiter({}, async (arbiter) => {
    const key = freshKey();
    await cluster.kill([1, 2]);
    undecided(/127\.0\.0\.1/, await arbiter.claim(key, 'alpha', { timeoutMs: 1_500 }));
    await cluster.startMembers([1, 2]);
    // Which of the two it is depends on whether the first claim is still on its way; both hear the same.
    const beta = await decide(() => arbiter.claim(key, 'beta', PATIENT));
    const alpha = await decide(() => arbiter.claim(key, 'alpha', PATIENT));
    assert.equal([alpha.kind, beta.kind].sort(), ['lost', 'won']);
  });
});

three('members that are alive and silent: undecided in time, later decided', async () => {
  await withArbiter({}, async (arbiter) => {
    const key = freshKey();
    won(await arbiter.claim(key, 'alpha', PATIENT));
    cluster.signal('SIGSTOP');
    const began = performance.now();
    undecided(/no answer in/, await arbiter.claim(key, 'alpha', { timeoutMs: 1_000 }));
    assert.ok(performance.now() - began < 20_000);
    cluster.signal('SIGCONT');
    won(await decide(() => arbiter.claim(key, 'alpha', PATIENT)));
  });
});

three('the first endpoint being silent does not use up the time', async () => {
  const silent = createTcpServer().listen(0, '127.0.0.1');
  await once(silent, 'listening');
  const endpoint = `https://127.0.0.1:${(silent.address() as AddressInfo).port}`;
  await withArbiter({ endpoints: [endpoint, ...cluster.endpoints] }, async (arbiter) => {
    won(await arbiter.claim(freshKey(), 'alpha', { timeoutMs: 40_000 }));
  });
  silent.close();
});

three('a token that etcd forgot is asked for again', async () => {
  await withArbiter({ endpoints: cluster.endpoints.slice(0, 1) }, async (arbiter) => {
    won(await arbiter.claim(freshKey(), 'alpha', PATIENT));
    await cluster.kill([0]);
    await cluster.startMembers([0]);
    const key = freshKey();
    const answer = await arbiter.claim(key, 'alpha', PATIENT);
    // No decide() here: a refused token may not cost a claim. Only a missing leader may.
    if (answer.kind === 'undecided') assert.not.match(answer.reason, /token/);
    won(await decide(() => arbiter.claim(key, 'alpha', PATIENT)));
  });
});

three('what is refused is undecided, with the reason', async () => {
  const wrong = cluster.password('wrong', 'wrong');
  const { otherCa } = cluster.certificates!;
  for (const [changes, like] of [
    [{ passwordFile: wrong }, /authentication failed, invalid user ID or password/],
    [{ passwordFile: `${wrong}.none` }, /ENOENT/],
    [{ user: 'guest' }, /permission denied/],
    [{ caFile: otherCa }, /certificate|self.signed/],
    [{ caFile: `${otherCa}.none` }, /ENOENT/],
  ] as const) {
    await withArbiter(changes, async (arbiter) => {
      undecided(like, await arbiter.claim(freshKey(), 'alpha', PATIENT));
      undecided(like, await arbiter.look(freshKey(), PATIENT));
      const reach = await arbiter.reach(PATIENT);
      assert.match(reach.reached ? '' : reach.reason, like);
    });
  }
  const { endpoints } = settings;
  const { ca, clientCert, clientKey } = cluster.certificates!;
  await withNew(
    { endpoints, caFile: ca, certFile: clientCert, keyFile: clientKey },
    /user name|permission denied/,
  );
  await withNew({ endpoints, caFile: ca }, /certificate required|bad certificate|alert/i);
});

async function withNew(other: EtcdSettings, like: RegExp): Promise<void> {
  const arbiter = new EtcdArbiter(other);
  undecided(like, await arbiter.claim(freshKey(), 'alpha', PATIENT));
  await arbiter.close();
}

three('a password that was corrected in its file is taken', async () => {
  const passwordFile = cluster.password('later', 'wrong');
  await withArbiter({ passwordFile }, async (arbiter) => {
    const key = freshKey();
    undecided(/invalid user ID or password/, await arbiter.claim(key, 'alpha', PATIENT));
    cluster.password('later', PASSWORD);
    won(await arbiter.claim(key, 'alpha', PATIENT));
  });
});

// Answers lost, wrong answers, and other clusters: without users and TLS, so that something can stand between.

let other: EtcdCluster;
one.before(async () => {
  [cluster, other] = await Promise.all([EtcdCluster.start(1), EtcdCluster.start(1)]);
  settings = { endpoints: cluster.endpoints };
});
one.after(async () => {
  await Promise.all([cluster.remove(), other.remove()]);
});

/** Passes connections on to etcd; `lose` cuts one off when its answer comes. */
async function startProxy(target: string): Promise<{ endpoint: string; lose: boolean; close: () => void }> {
  const sockets = new Set<Socket>();
  const server = createTcpServer((inner) => {
    const { hostname, port } = new URL(target);
    const outer = connect(Number(port), hostname);
    for (const [from, to] of [
      [inner, outer],
      [outer, inner],
    ] as const) {
      sockets.add(from);
      from.on('error', () => to.destroy());
      from.on('close', () => to.destroy());
      from.on('data', (chunk: Buffer) => {
        if (from === outer && proxy.lose) inner.destroy();
        else to.write(chunk);
      });
    }
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const proxy = {
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    lose: false,
    close: (): void => {
      sockets.forEach((socket) => socket.destroy());
      server.close();
    },
  };
  return proxy;
}

one('an answer that is lost after the decision: asking again gives the decision', async () => {
  const proxy = await startProxy(cluster.endpoints[0]!);
  await withArbiter({ endpoints: [proxy.endpoint] }, async (arbiter) => {
    const key = freshKey();
    proxy.lose = true;
    undecided(/socket hang up|ECONNRESET/, await arbiter.claim(key, 'alpha', PATIENT));
    proxy.lose = false;
    // It was decided all the same, as another way to etcd shows.
    await withArbiter({}, async (direct) => {
      lostTo('alpha', await direct.claim(key, 'beta', PATIENT));
    });
    won(await arbiter.claim(key, 'alpha', PATIENT));
  });
  proxy.close();
});

one('an answer that is lost is asked for by the next endpoint at once', async () => {
  const proxy = await startProxy(cluster.endpoints[0]!);
  proxy.lose = true;
  await withArbiter({ endpoints: [proxy.endpoint, cluster.endpoints[0]!] }, async (arbiter) => {
    const key = freshKey();
    won(await arbiter.claim(key, 'alpha', PATIENT));
    lostTo('alpha', await arbiter.claim(key, 'beta', PATIENT));
  });
  proxy.close();
});

async function startLiar(status: number, text: string): Promise<{ server: Server; endpoint: string }> {
  const server = createServer((request, response) => {
    request.resume().on('end', () => response.writeHead(status).end(text));
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { server, endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}` };
}

one('what is no answer of etcd decides nothing', async () => {
  const value = (text: string): string => Buffer.from(text).toString('base64');
  const failed = (kvs: unknown): string =>
    JSON.stringify({ header: { cluster_id: '1' }, responses: [{ response_range: { kvs } }] });
  for (const [status, text] of [
    [200, ''],
    [200, '{}'],
    [200, '[]'],
    [200, 'null'],
    [200, '{"succeeded":"true"}'],
    [200, '{"succeeded":false,"responses":[]}'],
    [200, '<html>log in</html>'],
    [200, failed([])],
    [200, failed([{ value: value('') }])],
    [200, failed([{ value: value('alpha beta') }])],
    [200, failed([{ value: 7 }])],
    [200, failed([{ value: value('alpha') }, { value: value('alpha') }])],
    [200, `{"succeeded":true,"x":"${'x'.repeat(100_000)}"}`],
    [302, '{"succeeded":true}'],
    [500, '{"succeeded":true}'],
    [503, '{"error":"etcdserver: no leader","code":14}'],
  ] as const) {
    const { server, endpoint } = await startLiar(status, text);
    await withArbiter({ endpoints: [endpoint] }, async (arbiter) => {
      undecided(/127\.0\.0\.1/, await arbiter.claim(freshKey(), 'alpha', PATIENT));
      // As the answer to a look, one with nothing but a header means that there is no such key.
      if (text.includes('cluster_id')) return;
      const look = await arbiter.look(freshKey(), PATIENT);
      assert.is(look.kind, 'undecided', `${text}: ${JSON.stringify(look)}`);
    });
    server.close();
  }
});

one('endpoints of different clusters are told of', async () => {
  await withArbiter({ endpoints: [...cluster.endpoints, ...other.endpoints] }, async (arbiter) => {
    const reach = await arbiter.reach(PATIENT);
    assert.match(reach.reached ? '' : reach.reason, /not of one etcd cluster: http.* is of cluster \d+, /);
  });
});

one('reach puts nothing, and a closed arbiter asks nobody', async () => {
  const arbiter = new EtcdArbiter(settings);
  assert.equal(await arbiter.reach(PATIENT), { reached: true, detail: '1 of 1 etcd endpoints decide' });
  const key = freshKey();
  await arbiter.close();
  undecided(/closed/, await arbiter.claim(key, 'alpha', PATIENT));
  await withArbiter({}, async (open) => {
    assert.equal(await open.look(key, PATIENT), { kind: 'free' });
  });
});

if (missing === undefined) {
  three.run();
  one.run();
} else if (process.env['CI'] === 'true') {
  throw new Error(missing);
} else {
  console.log(`skipped: ${missing}`);
  suite('etcd, skipped').run();
}
