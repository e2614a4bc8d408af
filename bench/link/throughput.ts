/**
 * The link between two processes on loopback, beside OpenSSH (default cipher) and socat, in one run, interleaved.
 * All read the same file of zeroes and write to /dev/null; the link also acknowledges every epoch. Prints medians,
 * ratios and CPU, and what an epoch costs beyond its transfer. Needs the Debian packages openssh-server,
 * openssh-client, openssl and socat.
 *
 *     node --import tsx bench/link/throughput.ts [--rounds N] [--mib N]
 *
 * ssh is timed from the first word of its remote command, so its handshake is not counted, and what it sent
 * before that word (at most its window of 2 MiB) isn't either.
 */
import { execFileSync, spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdirSync, openSync, closeSync, readFileSync, readSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { loadavg, tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { connectLink } from '../../src/link/client.js';
import type { Route } from '../../src/link/client.js';
import type { SenderLink } from '../../src/link/link.js';
import { makeCertificate } from '../../test/link/support.js';

const MIB = 1 << 20;
const TICKS = 100;
const receiveScript = fileURLToPath(new URL('receive.ts', import.meta.url));

function argument(name: string, fallback: number): number {
  const at = process.argv.indexOf(`--${name}`);
  return at < 0 ? fallback : Number(process.argv[at + 1]);
}

const rounds = argument('rounds', 5);
const totalMib = argument('mib', 512);

interface Sample {
  mibPerSecond: number;
  cpuSecondsPerGib: number;
  /** Of the link: how long an epoch took from its first byte to its acknowledgement, one at a time. */
  epochMs?: number[];
  /** The same for a checkpoint with no memory in it: what every epoch costs beyond its transfer. */
  emptyMs?: number[];
}

type Kind = 'tls' | 'local';

/** Reads the source over and over into a few buffers, as a sender does from its pipe. */
class Source {
  readonly #fd: number;
  readonly #free: Buffer[] = Array.from({ length: 3 }, () => Buffer.allocUnsafeSlow(MIB));
  #waiting: (() => void) | undefined;

  constructor(path: string) {
    this.#fd = openSync(path, 'r');
  }

  async sendEpoch(link: SenderLink, epoch: number, bytes: number): Promise<void> {
    for (let at = 0; at < bytes; at += MIB) {
      if (this.#free.length === 0) await new Promise<void>((resolve) => (this.#waiting = resolve));
      const buffer = this.#free.pop() as Buffer;
      const piece = buffer.subarray(0, Math.min(MIB, bytes - at));
      readSync(this.#fd, piece, 0, piece.length, 0);
      void link.bulk.send({ type: 'data', epoch }, piece).then(() => {
        this.#free.push(buffer);
        this.#waiting?.();
        this.#waiting = undefined;
      });
    }
    void link.bulk.send({ type: 'checkpoint', epoch }, Buffer.alloc(8));
  }

  close(): void {
    closeSync(this.#fd);
  }
}

async function linkSample(base: string, kind: Kind, epochMib: number): Promise<Sample> {
  const child = spawn(process.execPath, ['--import', 'tsx', receiveScript, base, kind], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const words = new Map<string, (value: number) => void>();
  const word = (name: string): Promise<number> => new Promise((resolve) => words.set(name, resolve));
  const [port, cpu, exited] = [word('port'), word('cpu'), once(child, 'exit')];
  createInterface(child.stdout).on('line', (line) => {
    const [name = '', value] = line.split(' ');
    words.get(name)?.(Number(value));
  });
  const path = (name: string): string => join(base, name);
  const route: Route =
    kind === 'tls'
      ? {
          kind: 'tls',
          host: '127.0.0.1',
          port: await port,
          tls: { certPath: path('alpha.crt'), keyPath: path('alpha.key'), peerCertPath: path('beta.crt') },
        }
      : (await port, { kind: 'local', path: path('link.sock') });
  const link = await connectLink({
    route,
    peer: 'beta',
    timeoutMs: 60_000,
    hello: {
      program: '0',
      pair: 'bench',
      domain: 'bench',
      from: 'alpha',
      term: 1,
      session: randomBytes(16).toString('hex'),
      intervalMs: 100,
    },
  });
  let committed = 0;
  let reached: { epoch: number; call: () => void } | undefined;
  link.bulk.start({ item: () => undefined, lost: (loss) => console.error(loss) });
  link.control.start(
    {
      message: (message) => {
        if (message.type !== 'committed') return;
        committed = message.epoch;
        if (committed === reached?.epoch) reached.call();
      },
      lost: () => undefined,
    },
    0,
  );
  const commit = (epoch: number): Promise<void> =>
    new Promise((call) => {
      if (committed >= epoch) call();
      else reached = { epoch, call };
    });
  const source = new Source(path('source'));
  let epoch = 0;
  let sentMib = 0;
  const oneAtATime = async (bytes: number, count: number): Promise<number[]> => {
    const times: number[] = [];
    for (let n = 0; n < count; n++) {
      const begun = performance.now();
      await source.sendEpoch(link, ++epoch, bytes);
      await commit(epoch);
      times.push(performance.now() - begun);
      sentMib += bytes / MIB;
    }
    return times;
  };
  await oneAtATime(epochMib * MIB, Math.max(1, 32 / epochMib));

  const epochs = Math.ceil(totalMib / epochMib);
  const cpuBefore = process.cpuUsage();
  const begun = performance.now();
  for (let n = 0; n < epochs; n++) await source.sendEpoch(link, ++epoch, epochMib * MIB);
  await commit(epoch);
  const seconds = (performance.now() - begun) / 1000;
  const { user, system } = process.cpuUsage(cpuBefore);
  const ownCpu = (user + system) / 1e6;
  const streamed = epochs * epochMib;

  const epochMs = await oneAtATime(epochMib * MIB, epochMib > 8 ? 4 : 100);
  const emptyMs = await oneAtATime(0, 200);
  await link.close(true);
  const peerMib = sentMib + streamed;
  const peerCpu = await cpu;
  await exited;
  source.close();
  return {
    mibPerSecond: streamed / seconds,
    cpuSecondsPerGib: (ownCpu / streamed + peerCpu / peerMib) * 1024,
    epochMs,
    emptyMs,
  };
}

/** CPU seconds of this process's ended children, and of another one's. */
function childrenCpu(pid: number | 'self'): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'latin1')
    .replace(/^.*\) /s, '')
    .split(' ');
  return (Number(fields[13]) + Number(fields[14])) / TICKS;
}

interface Sshd {
  child: ChildProcess;
  argv: string[];
}

async function startSshd(base: string): Promise<Sshd> {
  for (const name of ['host_key', 'user_key']) {
    execFileSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', join(base, name)]);
  }
  const port = await freePort();
  const config = join(base, 'sshd_config');
  writeFileSync(
    config,
    `Port ${port}\nListenAddress 127.0.0.1\nHostKey ${base}/host_key\nPidFile none\n` +
      `AuthorizedKeysFile ${base}/user_key.pub\nStrictModes no\nPermitRootLogin yes\n`,
  );
  const key = readFileSync(join(base, 'host_key.pub'), 'utf8');
  writeFileSync(join(base, 'known_hosts'), `[127.0.0.1]:${port} ${key}`);
  if (userInfo().uid === 0) mkdirSync('/run/sshd', { recursive: true, mode: 0o755 });
  const child = spawn('/usr/sbin/sshd', ['-D', '-e', '-f', config], { stdio: ['ignore', 'ignore', 'pipe'] });
  for await (const line of createInterface(child.stderr)) if (line.includes('listening')) break;
  const options = ['-F', 'none', '-i', join(base, 'user_key'), '-p', String(port), '-T'];
  return {
    child,
    argv: [
      ...options,
      '-o',
      `UserKnownHostsFile=${join(base, 'known_hosts')}`,
      `${userInfo().username}@127.0.0.1`,
    ],
  };
}

async function sshSample(base: string, sshd: Sshd): Promise<Sample> {
  const source = openSync(join(base, 'source'), 'r');
  const before = childrenCpu('self') + childrenCpu(sshd.child.pid ?? 0);
  const child = spawn('ssh', [...sshd.argv, 'echo begun; cat >/dev/null; echo done'], {
    stdio: [source, 'pipe', 'inherit'],
  });
  const exited = once(child, 'exit');
  let begun = 0;
  let seconds = 0;
  for await (const line of createInterface(child.stdout as Readable)) {
    if (line === 'begun') begun = performance.now();
    if (line === 'done') seconds = (performance.now() - begun) / 1000;
  }
  await exited;
  closeSync(source);
  // sshd collects its child a moment later.
  const spent = await settled(() => childrenCpu('self') + childrenCpu(sshd.child.pid ?? 0) - before);
  return { mibPerSecond: totalMib / seconds, cpuSecondsPerGib: (spent / totalMib) * 1024 };
}

async function settled(read: () => number): Promise<number> {
  let last = read();
  for (let same = 0; same < 10;) {
    await new Promise((resolve) => setTimeout(resolve, 20));
    const now = read();
    same = now === last ? same + 1 : 0;
    last = now;
  }
  return last;
}

async function socatSample(base: string, over: 'tcp' | 'unix'): Promise<Sample> {
  const before = childrenCpu('self');
  const port = over === 'tcp' ? await freePort() : 0;
  const socket = join(base, 'socat.sock');
  const [listen, connect] =
    over === 'tcp'
      ? [`TCP-LISTEN:${port},bind=127.0.0.1,nodelay`, `TCP:127.0.0.1:${port},nodelay`]
      : [`UNIX-LISTEN:${socket}`, `UNIX-CONNECT:${socket}`];
  const sizes = ['-b', '1048576', '-u'];
  const server = spawn('socat', ['-d', '-d', ...sizes, listen, 'OPEN:/dev/null'], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  const served = once(server, 'exit');
  const lines = createInterface(server.stderr);
  await new Promise<void>((resolve) => lines.on('line', (line) => line.includes('listening') && resolve()));
  const begun = performance.now();
  const client = spawn('socat', [...sizes, `OPEN:${join(base, 'source')},rdonly`, connect], {
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  await once(client, 'exit');
  await served;
  const seconds = (performance.now() - begun) / 1000;
  await rm(socket, { force: true });
  return {
    mibPerSecond: totalMib / seconds,
    cpuSecondsPerGib: ((childrenCpu('self') - before) / totalMib) * 1024,
  };
}

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address() as AddressInfo;
      server.close(() => resolve(port));
    });
  });
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const [low = 0, high = 0] = [sorted[middle - 1], sorted[middle]];
  return sorted.length % 2 === 1 ? high : (low + high) / 2;
}

const ROWS = [
  'ssh',
  'link tls, 2 MiB epochs',
  'link tls, 64 MiB epochs',
  'socat tcp',
  'socat unix',
  'link unencrypted, 2 MiB epochs',
  'link unencrypted, 64 MiB epochs',
] as const;
type Row = (typeof ROWS)[number];

async function main(): Promise<void> {
  const missing = ['/usr/sbin/sshd', '/usr/bin/ssh', '/usr/bin/socat'].filter((path) => !existsSync(path));
  if (missing.length > 0) {
    console.log(`left out: needs ${missing.join(', ')} (apt install openssh-server openssh-client socat)`);
    return;
  }
  const base = await mkdtemp(join(tmpdir(), 'remus-drbd-bench-'));
  makeCertificate(base, 'alpha');
  makeCertificate(base, 'beta');
  await writeFile(join(base, 'source'), '');
  await truncate(join(base, 'source'), totalMib * MIB);
  const sshd = await startSshd(base);
  const samples = new Map<Row, Sample[]>(ROWS.map((row) => [row, []]));
  const measure: Record<Row, () => Promise<Sample>> = {
    ssh: () => sshSample(base, sshd),
    'socat tcp': () => socatSample(base, 'tcp'),
    'socat unix': () => socatSample(base, 'unix'),
    'link tls, 2 MiB epochs': () => linkSample(base, 'tls', 2),
    'link tls, 64 MiB epochs': () => linkSample(base, 'tls', 64),
    'link unencrypted, 2 MiB epochs': () => linkSample(base, 'local', 2),
    'link unencrypted, 64 MiB epochs': () => linkSample(base, 'local', 64),
  };
  try {
    console.log(`${totalMib} MiB a sample, ${rounds} rounds, load at the start ${loadavg()[0]?.toFixed(1)}`);
    for (let round = 0; round < rounds; round++) {
      for (const row of ROWS) samples.get(row)?.push(await measure[row]());
    }
    report(samples);
  } finally {
    sshd.child.kill();
    await rm(base, { recursive: true });
  }
}

function report(samples: Map<Row, Sample[]>): void {
  const of = (row: Row): Sample[] => samples.get(row) ?? [];
  /** Of each round, so that what disturbed a round disturbs both. */
  const ratio = (row: Row, to: Row): string =>
    median(of(row).map((each, n) => each.mibPerSecond / (of(to)[n]?.mibPerSecond ?? NaN))).toFixed(2);
  for (const row of ROWS) {
    const rates = of(row).map((each) => each.mibPerSecond);
    const spread = `${Math.min(...rates).toFixed(0)} to ${Math.max(...rates).toFixed(0)}`;
    const cpu = median(of(row).map((each) => each.cpuSecondsPerGib)).toFixed(2);
    const peers: Row[] = row.startsWith('link tls')
      ? ['ssh']
      : row.startsWith('link')
        ? ['socat tcp', 'socat unix']
        : [];
    const ratios = peers.map((peer) => `${ratio(row, peer)} x ${peer}`).join(', ');
    console.log(
      `${row.padEnd(34)} ${median(rates).toFixed(0).padStart(6)} MiB/s (${spread})`.padEnd(64),
      `CPU ${cpu} s/GiB  ${ratios}`,
    );
    const epochMs = of(row).flatMap((each) => each.epochMs ?? []);
    const epochMib = Number(/(\d+) MiB/.exec(row)?.[1]);
    if (epochMs.length === 0) continue;
    const added = of(row).map((each) => median(each.epochMs ?? []) - (epochMib / each.mibPerSecond) * 1000);
    const emptyMs = of(row).flatMap((each) => each.emptyMs ?? []);
    console.log(
      `  an epoch alone, to its acknowledgement: ${median(epochMs).toFixed(2)} ms, ` +
        `beyond its share of the stream: ${median(added).toFixed(2)} ms; an empty one: ${median(emptyMs).toFixed(2)} ms`,
    );
  }
  console.log(`load at the end ${loadavg()[0]?.toFixed(1)}`);
}

void main();
