/** The server on a unix socket and real files, with a client that can misbehave. */
import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { CommandFlag, encodeRequest } from '../../src/core/nbd/protocol.js';
import { openDisk } from '../../src/journal/file-disk.js';
import type { DiskMode, FileDisk } from '../../src/journal/file-disk.js';
import { EpochJournal, formatJournal } from '../../src/journal/journal.js';
import { serveNbd } from '../../src/journal/nbd-server.js';
import type { NbdServer, NbdServerOptions } from '../../src/journal/nbd-server.js';
import { Command, NbdErrno, TestClient } from './client.js';

const MIB = 1 << 20;

interface Context {
  folder: string;
  path: string;
  disks: FileDisk[];
  journal: EpochJournal;
  server: NbdServer;
  logged: { message: string; fields: Record<string, unknown> }[];
  clients: TestClient[];
  connect: (name?: string) => Promise<TestClient>;
  close: () => Promise<void>;
}

async function start(options: Partial<NbdServerOptions> = {}, mode: DiskMode = 'auto'): Promise<Context> {
  const folder = await mkdtemp(join(tmpdir(), 'nbd-test-'));
  const sizes: Record<string, number> = { journal: 24 * MIB, disk0: 96 * MIB, barrier: 4 * MIB };
  const disks: FileDisk[] = [];
  for (const [name, bytes] of Object.entries(sizes)) {
    await writeFile(join(folder, name), '');
    await truncate(join(folder, name), bytes);
    disks.push(await openDisk(join(folder, name), { mode: name === 'journal' ? 'buffered' : mode }));
  }
  const volumes = [
    { name: 'disk0', sizeBytes: 96 * MIB, barrier: false },
    { name: 'barrier', sizeBytes: 4 * MIB, barrier: true },
  ];
  const [disk, ...targets] = disks as [FileDisk, FileDisk, FileDisk];
  await formatJournal(disk, { domain: 'web', volumes, journalId: Buffer.alloc(16, 3) });
  const journal = await EpochJournal.open(disk, targets, volumes);
  const logged: Context['logged'] = [];
  const log = (message: string, fields: Record<string, unknown>): void =>
    void logged.push({ message, fields });
  const path = join(folder, 'sock');
  const server = await serveNbd(journal, { listen: { path }, log: { info: log, warn: log }, ...options });
  const clients: TestClient[] = [];
  return {
    folder,
    path,
    disks,
    journal,
    server,
    logged,
    clients,
    connect: async (name = 'disk0') => {
      const client = await TestClient.connect(path, name);
      clients.push(client);
      return client;
    },
    close: async () => {
      for (const client of clients) client.destroy();
      await server.close();
      await journal.close();
      for (const each of disks) await each.close();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

/** Far more than any answer takes, also on a machine that is busy. */
const HARD_LIMIT_MS = 60_000;

const test = suite('nbd server');

/** One test with a server of its own, that is closed whatever happens. */
function served(
  name: string,
  body: (context: Context) => Promise<void>,
  options: Partial<NbdServerOptions> = {},
): void {
  test(name, async () => {
    const context = await start(options);
    try {
      await within(body(context), HARD_LIMIT_MS);
    } finally {
      await context.close();
    }
  });
}

const pattern = (bytes: number, seed: number): Buffer => {
  const data = Buffer.alloc(bytes);
  for (let at = 0; at + 4 <= bytes; at += 4) data.writeUInt32LE((seed * 1_000_003 + at) >>> 0, at);
  return data;
};

for (const code of ['EIO', 'ENOSPC'] as const) {
  served(
    `${code} of the journal's disk reaches the client, and nothing succeeds after it`,
    async (context) => {
      const { disks, journal } = context;
      const client = await context.connect();
      assert.is((await client.write(0, pattern(4096, 1))).error, 0);
      (disks[0] as FileDisk).write = () => Promise.reject(Object.assign(new Error('it failed'), { code }));
      // So that DRBD detaches: it may not go on with a disk that has not what it was told.
      assert.is((await client.write(4096, pattern(4096, 2))).error, NbdErrno[code]);
      assert.is((await client.write(0, pattern(4096, 3))).error, NbdErrno.EIO);
      assert.is((await client.flush()).error, NbdErrno.EIO);
      assert.match(journal.state().failed ?? '', new RegExp(`journal write: .*${code}`));
    },
  );
}

served('what is written is read, in any 512-byte aligned piece', async ({ connect }) => {
  const client = await connect();
  assert.is(client.sizeBytes, 96 * MIB);
  const model = Buffer.alloc(MIB);
  for (let round = 0; round < 200; round++) {
    const offset = ((round * 7919) % 1900) * 512;
    const length = (1 + ((round * 31) % 60)) * 512;
    const data = pattern(length, round);
    assert.is((await client.write(offset, data)).error, 0);
    data.copy(model, offset);
  }
  assert.ok((await client.read(0, MIB)).data.equals(model));
  for (const [offset, length] of [
    [512, 512],
    [3584, 1024],
    [10 * 512, 77 * 512],
  ] as const) {
    assert.ok((await client.read(offset, length)).data.equals(model.subarray(offset, offset + length)));
  }
});

served('writes and reads of 32 MiB go through in pieces', async ({ connect, server }) => {
  const client = await connect();
  const data = pattern(32 * MIB, 5);
  assert.is((await client.write(MIB, data)).error, 0);
  assert.ok((await client.read(MIB, 32 * MIB)).data.equals(data));
  assert.is((await client.read(MIB, 32 * MIB + 512)).error, NbdErrno.EOVERFLOW);
  assert.is(server.connectionCount, 1);
});

served('nothing comes between the pieces of a long read', async ({ connect }) => {
  const client = await connect();
  const data = pattern(4 * MIB, 3);
  await client.write(0, data);
  const writes = Array.from({ length: 64 }, (_, index) =>
    client.write(8 * MIB + index * 4096, pattern(4096, index), CommandFlag.fua),
  );
  const long = client.read(0, 4 * MIB);
  const more = Array.from({ length: 64 }, (_, index) => client.read(8 * MIB + index * 4096, 4096));
  assert.ok((await long).data.equals(data));
  for (const { error } of await Promise.all([...writes, ...more])) assert.is(error, 0);
});

served('many requests in flight are all answered, whatever their order', async ({ connect }) => {
  const client = await connect();
  const writes = Array.from({ length: 2000 }, (_, index) =>
    client.write((index % 500) * 4096, pattern(4096, index)),
  );
  const reads = Array.from({ length: 200 }, (_, index) => client.read(index * 4096, 4096));
  for (const { error } of await Promise.all([...writes, ...reads])) assert.is(error, 0);
  for (const block of [0, 250, 499]) {
    assert.ok((await client.read(block * 4096, 4096)).data.equals(pattern(4096, 1500 + block)));
  }
});

served(
  'a flush on one connection makes durable what was answered on another',
  async ({ connect, journal }) => {
    const one = await connect();
    const two = await connect();
    await one.write(0, pattern(4096, 1));
    const before = journal.state().counters.flushes;
    assert.is((await two.flush()).error, 0);
    assert.ok(journal.state().counters.flushes > before);
    assert.ok((await two.read(0, 4096)).data.equals(pattern(4096, 1)));
  },
);

served('FUA is flushed before it is answered', async ({ connect, journal }) => {
  const client = await connect();
  const before = journal.state().counters.flushes;
  assert.is((await client.write(0, pattern(4096, 1), CommandFlag.fua)).error, 0);
  assert.ok(journal.state().counters.flushes > before);
});

served('trim and write-zeroes read as zeros', async ({ connect, journal }) => {
  const client = await connect();
  await client.write(0, pattern(MIB, 1));
  await client.write(20 * MIB, pattern(MIB, 2));
  assert.is((await client.request(Command.writeZeroes, 512, 1024)).error, 0);
  assert.is((await client.request(Command.trim, 8 * MIB, 88 * MIB)).error, 0);
  const expected = pattern(MIB, 1).fill(0, 512, 1536);
  assert.ok((await client.read(0, MIB)).data.equals(expected));
  assert.ok((await client.read(20 * MIB, MIB)).data.equals(Buffer.alloc(MIB)));
  await journal.drained();
  assert.ok((await client.read(0, MIB)).data.equals(expected));
  assert.ok((await client.read(20 * MIB, MIB)).data.equals(Buffer.alloc(MIB)));
});

served(
  'refused requests get their errno, a word in the log, and the connection goes on',
  async ({ connect, logged }) => {
    const client = await connect();
    assert.is((await client.write(1, pattern(512, 1))).error, NbdErrno.EINVAL);
    assert.is((await client.write(96 * MIB, pattern(512, 1))).error, NbdErrno.ENOSPC);
    assert.is((await client.write(0, pattern(33 * MIB, 1))).error, NbdErrno.EINVAL);
    assert.is((await client.read(0, 0)).error, NbdErrno.EINVAL);
    assert.is((await client.request(99, 0, 512)).error, NbdErrno.EINVAL);
    assert.is((await client.request(Command.cache, 0, 512)).error, NbdErrno.EINVAL);
    assert.is((await client.write(0, pattern(512, 4))).error, 0);
    assert.ok((await client.read(0, 512)).data.equals(pattern(512, 4)));
    const refusals = logged.filter(({ message }) => message === 'nbd request refused');
    assert.is(refusals.length, 6);
    assert.match(
      String(refusals[0]?.fields['reason']),
      /WRITE offset=1 length=512 flags=0x0: not in multiples of 512/,
    );
  },
);

served('a flood of refused requests does not flood the log', async ({ connect, logged }) => {
  const client = await connect();
  await Promise.all(Array.from({ length: 500 }, () => client.read(1, 512)));
  assert.is(logged.filter(({ message }) => message === 'nbd request refused').length, 10);
});

served('a request without its magic ends the connection', async ({ connect, logged }) => {
  const client = await connect();
  client.socket.write(Buffer.alloc(28));
  await client.closed;
  assert.ok(logged.some(({ fields }) => fields['reason'] === 'wrong magic'));
});

served(
  'more connections than allowed are refused',
  async ({ connect, path, logged }) => {
    await connect();
    await connect();
    const third = TestClient.open(path);
    await third.closed;
    assert.ok(logged.some(({ message }) => message === 'nbd connection refused'));
  },
  { connectionsMax: 2 },
);

served(
  'a client that never chooses an export is dropped',
  async ({ path, logged, server }) => {
    const client = TestClient.open(path);
    await client.closed;
    assert.ok(logged.some(({ fields }) => fields['reason'] === 'the handshake took too long'));
    assert.is(server.connectionCount, 0);
  },
  { handshakeMs: 50 },
);

served(
  'a client that reads no replies cannot make the server hold more than its share',
  async ({ path, connect }) => {
    const filler = await connect();
    await filler.write(0, pattern(MIB, 9));
    const greedy = await TestClient.connect(path, 'disk0');
    greedy.socket.pause();
    const asked = 2000;
    const before = process.memoryUsage();
    for (let index = 0; index < asked; index++) {
      greedy.socket.write(
        encodeRequest({
          flags: 0,
          type: Command.read,
          cookieHigh: 0,
          cookieLow: index,
          offset: 0,
          length: 128 << 10,
        }),
      );
    }
    // 250 MiB were asked for; another client is served all the while.
    for (let round = 0; round < 50; round++) assert.is((await filler.read(0, 4096)).error, 0);
    const after = process.memoryUsage();
    const grown = after.arrayBuffers + after.external - before.arrayBuffers - before.external;
    assert.ok(grown < 64 * MIB, `${Math.round(grown / MIB)} MiB more`);
    greedy.destroy();
  },
);

/** So that a connection that sleeps for good is a failure and not a test that never ends. */
async function within<T>(promise: Promise<T>, limitMs: number): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`not answered in ${limitMs} ms`)), limitMs);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

served('a client that reads its replies late gets all of them', async ({ connect }) => {
  const client = await connect();
  await client.write(0, pattern(MIB, 9));
  const length = 128 << 10;
  client.socket.pause();
  const reads = Array.from({ length: 500 }, () => client.read(0, length));
  // 62 MiB are asked for, more than the server holds for one client, so it has to stop and go on.
  const other = await connect();
  assert.is((await other.read(0, 4096)).error, 0, 'it has come to the requests');
  client.socket.resume();
  for (const { error, data } of await within(Promise.all(reads), HARD_LIMIT_MS)) {
    assert.is(error, 0);
    assert.is(data.length, length);
  }
});

served('writes wait while the journal is full, and go on when it has room', async ({ connect, journal }) => {
  await journal.startSession({ domain: 'web', term: 1, id: Buffer.alloc(16, 1) });
  const client = await connect();
  const writes = Array.from({ length: 40 }, (_, index) => client.write(index * MIB, pattern(MIB, index)));
  let answered = 0;
  for (const write of writes) void write.then(() => answered++);
  const deadline = Date.now() + HARD_LIMIT_MS;
  while (journal.state().full === null) {
    assert.ok(Date.now() < deadline, 'the connection goes on until the journal is full');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  assert.ok(answered < 40);
  const other = await connect();
  assert.is((await other.read(0, 4096)).error, 0, 'reads go on');
  await journal.rollForward();
  for (const { error } of await within(Promise.all(writes), HARD_LIMIT_MS)) assert.is(error, 0);
  assert.ok((await client.read(39 * MIB, MIB)).data.equals(pattern(MIB, 39)));
});

served(
  'a client that goes away in the middle of a write leaves nothing behind',
  async ({ connect, server, path }) => {
    const client = await connect();
    client.socket.write(
      encodeRequest(
        { flags: 0, type: Command.write, cookieHigh: 0, cookieLow: 1, offset: 0, length: MIB },
        pattern(5000, 1),
      ),
    );
    void client.read(0, 512);
    client.destroy();
    const next = await TestClient.connect(path, 'disk0');
    assert.is((await next.write(0, pattern(4096, 2))).error, 0);
    next.destroy();
    while (server.connectionCount > 0) await new Promise((resolve) => setTimeout(resolve, 5));
  },
);

test('targets with O_DIRECT give the same', async () => {
  const context = await start({}, 'direct');
  try {
    const client = await context.connect();
    const data = pattern(3 * MIB, 8);
    await client.write(512, data);
    await context.journal.drained();
    assert.ok((await client.read(512, 3 * MIB)).data.equals(data));
    await client.request(Command.trim, 0, MIB);
    await context.journal.drained();
    assert.ok((await client.read(0, MIB)).data.equals(Buffer.alloc(MIB)));
  } finally {
    await context.close();
  }
});

test.run();
