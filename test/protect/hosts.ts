/**
 * Two hosts for tests of sender and receiver as the processes that they are on a host: the bundled program, with its
 * own files in /etc, /run and /var/lib, in a mount namespace of its own (`unshare`, needs root) whose programs are fakes
 * (`fakes/fake-host`): xl, DRBD, device-mapper, nbd-client, ip, tc.
 *
 * The test itself is xl on the primary (`FakeXl`): it writes the checkpoints into the sender's pipe, and the guest is
 * suspended for as long as that takes. And it is DRBD's link: a marker that the sender wrote is passed on to the journal.
 * With `engine: protocol-d` it is the module, which the hosts ask by a fifo (`module-hosts.ts`).
 */
import { build } from 'esbuild';
import koffi from 'koffi';
import { execFileSync, spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  constants,
  createWriteStream,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { parseTerm } from '../../src/core/claim/term.js';
import type { TermRecord } from '../../src/core/claim/term.js';
import { formatTerm } from '../../src/core/claim/term.js';
import { parseConfig } from '../../src/core/config.js';
import { domainFile } from '../../src/core/domain-file.js';
import { decodeMarker, MARKER_BYTES } from '../../src/core/journal/format.js';
import { domainLayouts } from '../../src/core/layout.js';
import { formatOrder } from '../../src/core/protect/order.js';
import type { Order } from '../../src/core/protect/order.js';
import type { ReceiverReport, SenderReport } from '../../src/core/protect/report.js';
import {
  encodeCheckpoint,
  encodeCheckpointEnd,
  encodeImageHeaders,
  encodePages,
  encodePreamble,
  encodeStaticDataEnd,
  encodeTscInfo,
} from '../../src/core/stream/encoder.js';
import type { Parts } from '../../src/core/stream/encoder.js';
import type { Engine } from '../../src/core/model.js';
import { makeEmbeddedCertificate } from '../../src/embedded/protection/certificate.js';
import { TestClient } from '../nbd/client.js';
import { MINOR } from './fake-module.js';
import { buildIoctl, ioctlLibrary, ownProc } from './module-hosts.js';

/** Only so that a test that would hang ends; the slowest machine is faster. */
const LIMIT_MS = 240_000;
const LOOK_MS = 25;
const LV_BYTES = 4 << 20;
const JOURNAL_BYTES = 32 << 20;
const STATE_KIB = 64;
const TOOLS = [
  ...['xl', 'xenstore-ls', 'drbdsetup', 'drbdadm', 'systemctl', 'modprobe', 'blockdev', 'dd', 'nbd-client'],
  ...['dmsetup', 'ip', 'tc', 'lvcreate', 'lvremove', 'lvs', 'fake-module'],
];
const PAGE_BYTES = 4096;
const F_GETPIPE_SZ = 1032;
const fcntl = koffi.load('libc.so.6').func('int fcntl(int fd, int command, ...)') as (
  ...args: unknown[]
) => number;
const pipeBytes = (fd: number): number => fcntl(fd, F_GETPIPE_SZ);
const GUEST = 'web 3 96 1';
const RUNS = '-b----';
const SUSPENDED = '---ss-';

/** @returns what is missing for these tests on this machine */
export function missingForHosts(): string | undefined {
  if (process.getuid?.() !== 0) return 'needs root';
  for (const tool of ['gcc', 'nsenter', 'unshare']) {
    if (!['/usr/bin', '/bin'].some((folder) => existsSync(join(folder, tool)))) return `needs ${tool}`;
  }
  return undefined;
}

/** Waits for something that other processes do. */
export async function until<T>(what: string, look: () => T | null | undefined | false): Promise<T> {
  const deadline = performance.now() + LIMIT_MS;
  for (;;) {
    const found = look();
    if (found !== null && found !== undefined && found !== false) return found;
    if (performance.now() > deadline) throw new Error(`${what}: not within ${LIMIT_MS} ms`);
    await pause(LOOK_MS);
  }
}

/** One host: a process that holds its namespace, and the folder that is its file system. */
class FakeHost {
  readonly name: string;
  readonly root: string;
  readonly world: string;
  #init: ChildProcess | null = null;
  readonly #children = new Set<ChildProcess>();
  readonly #onExit = (): void => {
    for (const child of this.#children) child.kill('SIGKILL');
  };

  /** @param module the hosts have `/proc/drbd`, and the ioctls of the module with protocol D */
  constructor(
    place: string,
    name: string,
    readonly module: boolean,
  ) {
    this.name = name;
    this.root = join(place, name);
    this.world = join(this.root, 'world');
    for (const folder of ['world', 'etc/domains', 'etc/tls', 'run/web', 'bin', 'lib64', 'vg0']) {
      mkdirSync(join(this.root, folder), { recursive: true });
    }
    for (const tool of TOOLS)
      symlinkSync(resolve('test/protect/fakes/fake-host'), join(this.root, 'bin', tool));
    writeFileSync(join(this.world, 'calls'), '');
    writeFileSync(join(this.world, 'guests'), '');
    this.#buildLibxl(place);
    process.on('exit', this.#onExit);
  }

  /** What `sender-cleanup` resumes a guest with, in place of libxl. */
  #buildLibxl(place: string): void {
    const source = join(place, 'fake-libxl.c');
    writeFileSync(
      source,
      `#include <stdlib.h>
int libxl_ctx_alloc(void **c, int v, unsigned f, void *l) { *c = malloc(1); return 0; }
int libxl_ctx_free(void *c) { free(c); return 0; }
int libxl_domain_resume(void *c, unsigned id, int cancel, void *how) { return system("xl fake-resume"); }
void *xtl_createlogger_stdiostream(void *s, int level, unsigned f) { return malloc(1); }\n`,
    );
    for (const name of ['libxenlight.so.4.17', 'libxentoollog.so.1']) {
      const library = join(this.root, 'lib64', name);
      execFileSync('gcc', ['-shared', '-fPIC', '-w', '-o', library, source]);
    }
  }

  async start(): Promise<void> {
    const { root } = this;
    const script = `set -e
      cp -a /usr/lib64/. ${root}/lib64/ 2>/dev/null || :
      mkdir ${root}/etc-copy && cp -L /etc/passwd /etc/group /etc/hosts /etc/nsswitch.conf /etc/ld.so.cache ${root}/etc-copy/
      [ ! -d /usr/lib64 ] || mount --bind ${root}/lib64 /usr/lib64
      mount --bind ${root}/etc-copy /etc
      for folder in /run /var/lib /sys; do mount -t tmpfs fake $folder; done
      mkdir /etc/remus-drbd /run/remus-drbd /var/lib/remus-drbd
      mount --bind ${root}/etc /etc/remus-drbd
      mount --bind ${root}/run /run/remus-drbd
      mount -t tmpfs -o size=${STATE_KIB}k fake /var/lib/remus-drbd
      mkdir -p /sys/module/drbd /sys/class/net/vif3.0 /sys/dev/block /var/lib/remus-drbd/web
      ${this.module ? ownProc(root) : ''}
      for n in 0 1 2 3; do mkdir -p /sys/block/nbd$n; ln -s ../../block/nbd$n /sys/dev/block/43:$n; done
      mount -t tmpfs fake /dev
      mknod -m 666 /dev/null c 1 3; mknod -m 666 /dev/zero c 1 5
      mknod -m 666 /dev/random c 1 8; mknod -m 666 /dev/urandom c 1 9
      ln -s /proc/self/fd /dev/fd; mkdir /dev/shm
      ln -s ${root}/vg0 /dev/vg0
      hostname ${this.name}
      echo ready; exec tail --pid=${process.pid} -f /dev/null`;
    this.#init = spawn('unshare', ['-m', '-u', '--propagation', 'private', 'sh', '-c', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const said = (await once(this.#init.stdout as NodeJS.EventEmitter, 'data')) as [Buffer];
    if (!String(said[0]).includes('ready')) throw new Error(`${this.name}: ${String(said[0])}`);
  }

  /** The arguments that run a program on this host. */
  #enter(argv: readonly string[]): [string, string[]] {
    const pid = String(this.#init?.pid ?? 0);
    return ['nsenter', ['-t', pid, '-m', '-u', ...argv]];
  }

  spawn(argv: readonly string[], stdin: number | 'ignore', more: Record<string, string> = {}): ChildProcess {
    const [program, args] = this.#enter(argv);
    const child = spawn(program, args, {
      stdio: [stdin, 'pipe', 'pipe'],
      env: { ...this.#environment(), ...more },
    });
    child.stderr?.pipe(createWriteStream(join(this.root, 'log'), { flags: 'a' }), { end: false });
    child.stdout?.resume();
    this.#children.add(child);
    child.once('exit', () => this.#children.delete(child));
    return child;
  }

  /** Runs to its end. @returns what it wrote */
  run(...argv: string[]): string {
    const [program, args] = this.#enter(argv);
    return execFileSync(program, args, { encoding: 'utf8', env: this.#environment() });
  }

  #environment(): NodeJS.ProcessEnv {
    return {
      PATH: `${join(this.root, 'bin')}:/usr/sbin:/usr/bin:/sbin:/bin`,
      FAKE_HOST: this.world,
      ...(this.module ? { LD_PRELOAD: ioctlLibrary(join(this.root, '..')) } : {}),
    };
  }

  log(): string {
    const path = join(this.root, 'log');
    return existsSync(path) ? readFileSync(path, 'utf8') : '';
  }

  calls(): string[] {
    return readFileSync(join(this.world, 'calls'), 'utf8').split('\n');
  }

  /** The letters of `xl list`; undefined where there is no such guest. */
  guest(name: string): string | undefined {
    const lines = readFileSync(join(this.world, 'guests'), 'utf8').split('\n');
    return lines.find((line) => line.startsWith(`${name} `))?.split(' ')[4];
  }

  /** A guest that is paused stays so. */
  setGuest(state: string): void {
    const isPaused = this.guest('web')?.[2] === 'p';
    const letters = isPaused ? `${state.slice(0, 2)}p${state.slice(3)}` : state;
    writeFileSync(join(this.world, 'guests'), `${GUEST} ${letters} 1.0\n`);
  }

  /** Whether the guest's output is held. */
  get isPlugged(): boolean {
    const path = join(this.world, 'plug');
    return existsSync(path) && readFileSync(path, 'utf8').trim() === 'shut';
  }

  /** What lies below the device of a volume, and that none of them stands still. */
  below(device: string): string {
    if (existsSync(join(this.world, `dm-${device}.suspended`))) return 'suspended';
    const path = join(this.world, `dm-${device}`);
    return !existsSync(path) || readFileSync(path, 'utf8').includes(' 253:') ? 'lv' : 'nbd';
  }

  setDrbd(role: 'Primary' | 'Secondary', connection: string): void {
    const on = connection === 'Connected';
    const peer = role === 'Primary' ? 'Secondary' : 'Primary';
    const lines = [`exists resource name:web role:${role} suspended:no write-ordering:flush`];
    const link = `connection:${connection} role:${on ? peer : 'Unknown'} congested:no`;
    lines.push(`exists connection name:web peer-node-id:0 conn-name:peer ${link}`);
    for (const [volume, minor] of VOLUMES) {
      lines.push(
        `exists device name:web volume:${volume} minor:${minor} disk:UpToDate size:4092 read:0 written:0 al-writes:0 bm-writes:0 upper-pending:0 lower-pending:0 al-suspended:no blocked:no`,
      );
      const disk = on ? 'replication:Established peer-disk:UpToDate' : 'replication:Off peer-disk:DUnknown';
      lines.push(
        `exists peer-device name:web peer-node-id:0 conn-name:peer volume:${volume} ${disk} resync-suspended:no received:0 sent:0 out-of-sync:0 pending:0 unacked:0`,
      );
    }
    writeFileSync(join(this.world, 'events2'), `${lines.join('\n')}\nexists -\n`);
  }

  term(): TermRecord | undefined {
    try {
      return parseTerm(this.run('cat', '/var/lib/remus-drbd/web/term.json'));
    } catch {
      return undefined;
    }
  }

  report<T extends SenderReport | ReceiverReport>(role: T['role']): T | null {
    try {
      return JSON.parse(readFileSync(join(this.root, `run/web/${role}.json`), 'utf8')) as T;
    } catch {
      return null;
    }
  }

  /** DRBD does not let go of its peer yet. */
  holdDisconnect(holds: boolean): void {
    const path = join(this.world, 'hold-disconnect');
    if (holds) writeFileSync(path, '');
    else rmSync(path);
  }

  /** A tool of this host does not come to its end, until it is told to; null: no more. */
  hold(tool: string | null): void {
    rmSync(join(this.world, 'held-by'), { force: true });
    if (tool === null) rmSync(join(this.world, 'hold'), { force: true });
    else writeFileSync(join(this.world, 'hold'), tool);
  }

  /** The process that has called the tool which is held. */
  held(): number | undefined {
    const path = join(this.world, 'held-by');
    const text = existsSync(path) ? readFileSync(path, 'utf8') : '';
    return text.endsWith('\n') ? Number(text) : undefined;
  }

  /** The disk with this host's records has no room any more. */
  fillState(): void {
    this.run('sh', '-c', 'cat /dev/zero >/var/lib/remus-drbd/fill 2>/dev/null || :');
  }

  freeState(): void {
    this.run('rm', '-f', '/var/lib/remus-drbd/fill');
  }

  async close(): Promise<void> {
    process.off('exit', this.#onExit);
    for (const child of [...this.#children, this.#init]) {
      if (child === null || child.exitCode !== null || child.signalCode !== null) continue;
      const exited = once(child, 'exit');
      child.kill('SIGKILL');
      await exited;
    }
  }
}

const VOLUMES = [
  [0, 108256],
  [15, 108271],
] as const;

/** xl on the primary: it writes the guest's checkpoints, and the guest is suspended for as long as one takes. */
class FakeXl {
  readonly #host: FakeHost;
  readonly #path: string;
  #fd = -1;
  #writtenBytes = 0;
  /** How much was written up to the end of each whole checkpoint; the live round is 0. */
  readonly ends: number[] = [];
  /** Set when the other end is gone. As xl does then, the guest runs again; unless xl itself is dead. */
  isDead = false;
  isBroken = false;

  constructor(host: FakeHost) {
    this.#host = host;
    this.#path = join(host.world, 'to-sender');
    execFileSync('mkfifo', [this.#path]);
  }

  /** What the sender gets as its standard input. */
  openForSender(): number {
    return openSync(this.#path, constants.O_RDONLY | constants.O_NONBLOCK);
  }

  /** @throws Error (ENXIO) while nobody has the other end */
  open(): void {
    this.#fd = openSync(this.#path, constants.O_WRONLY | constants.O_NONBLOCK);
  }

  async liveRound(): Promise<void> {
    await this.#write([
      ...encodePreamble(Buffer.from('{}'), true),
      ...encodeImageHeaders({ version: 3, xenMajor: 4, xenMinor: 17 }),
      ...encodeStaticDataEnd(),
      ...this.#pages(),
      ...encodeCheckpoint(),
    ]);
    await this.#end();
  }

  async #end(): Promise<void> {
    await this.#write(encodeCheckpointEnd());
    this.ends.push(this.#writtenBytes);
    await this.#narrow();
  }

  /**
   * Resolves when the sender has made the pipe small, as it does long before the interval is over: an epoch that began
   * before that could not be held.
   */
  async #narrow(): Promise<void> {
    await until(
      'the pipe is small',
      () => this.isBroken || this.#fd < 0 || pipeBytes(this.#fd) === PAGE_BYTES,
    );
  }

  /** Resolves when all of it is written, or the other end is gone. */
  async checkpoint(): Promise<void> {
    this.#host.setGuest(SUSPENDED);
    await this.#write([...this.#pages(), ...encodeCheckpoint()]);
    if (!this.isDead) this.#host.setGuest(RUNS);
    await this.#end();
  }

  /** Ends without a word, as by SIGKILL. */
  die(): void {
    this.isDead = true;
    this.close();
  }

  close(): void {
    if (this.#fd >= 0) closeSync(this.#fd);
    this.#fd = -1;
  }

  #pages(): Parts {
    const pages = Array.from({ length: 16 }, (_, pfn) => ({ pfn, bytes: Buffer.alloc(4096, pfn) }));
    return [...encodePages(pages), ...encodeTscInfo(0, 1, 0n, 1)];
  }

  /**
   * Never leaves a write to the thread pool: one that waited there while `close` gave the descriptor back would go into
   * whatever has its number next.
   */
  async #write(parts: Parts): Promise<void> {
    const bytes = Buffer.concat(parts);
    for (let at = 0; at < bytes.length && !this.isBroken && this.#fd >= 0;) {
      try {
        const written = writeSync(this.#fd, bytes, at);
        at += written;
        this.#writtenBytes += written;
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'EAGAIN') await pause(LOOK_MS);
        else this.isBroken = true;
      }
    }
  }
}

export interface PairChanges {
  engine?: Engine;
  arbiter?: string;
  failAfter?: string;
  onCrash?: 'stop' | 'failover';
}

export class FakePair {
  readonly place: string;
  readonly alpha: FakeHost;
  readonly beta: FakeHost;
  readonly xl: FakeXl;
  readonly order: Order;
  readonly engine: Engine;
  readonly #program: string;
  #minors: number[] = [];
  sender: ChildProcess | null = null;
  receiver: ChildProcess | null = null;
  readonly #marker = Buffer.alloc(MARKER_BYTES);
  #barrier: TestClient | null = null;

  private constructor(place: string, program: string, changes: PairChanges) {
    this.place = place;
    this.#program = program;
    this.engine = changes.engine ?? 'journal';
    const hasModule = this.engine === 'protocol-d';
    if (hasModule) buildIoctl(place);
    this.alpha = new FakeHost(place, 'alpha', hasModule);
    this.beta = new FakeHost(place, 'beta', hasModule);
    this.xl = new FakeXl(this.alpha);
    const text = `pairs:
  rack1:
    hosts:
      alpha: { ssh: root@192.0.2.1, replication: 10.0.0.1 }
      beta: { ssh: root@192.0.2.2, replication: 10.0.0.2 }
${changes.arbiter ?? ''}    domains:
      web:
        config: web.cfg
        primary: alpha
        port: 7790
${hasModule ? `        engine: protocol-d\n        minor: ${MINOR}\n` : ''}        onCrash: ${changes.onCrash ?? 'stop'}
        checkpoint: { interval: 200ms, failAfter: ${changes.failAfter ?? '1s'} }
        disks: [{ vdev: xvda, volumeGroup: vg0, size: 20GiB }]
`;
    const [layout] = domainLayouts(parseConfig(text, 'pair.yaml', place));
    if (layout === undefined) throw new Error('no domain');
    // A port that nothing else on this machine has.
    const port = 20_000 + (process.pid % 20_000);
    const described = domainFile(layout);
    const hosts = described.hosts.map((host, index) => ({ ...host, replication: `127.0.0.${index + 1}` }));
    const file = { ...described, hosts, linkPort: port };
    this.order = {
      ...{ format: 1, pair: 'rack1', domain: 'web', term: 1, session: 'ab'.repeat(16) },
      ...{ primary: 'alpha', backup: 'beta', intervalMs: 200, network: true, disk: true },
    };
    const certificates = { alpha: makeEmbeddedCertificate('alpha'), beta: makeEmbeddedCertificate('beta') };
    for (const [host, own, peer] of [
      [this.alpha, 'alpha', 'beta'],
      [this.beta, 'beta', 'alpha'],
    ] as const) {
      const put = (path: string, content: string | Buffer): void =>
        writeFileSync(join(host.root, path), content);
      put('etc/domains/web.json', JSON.stringify(file));
      put('etc/tls/host.key', certificates[own].key);
      put('etc/tls/host.crt', certificates[own].certificate);
      put(`etc/tls/peer-${peer}.crt`, certificates[peer].certificate);
      put('run/web/order.json', formatOrder(this.order));
      for (const { dataLv } of file.volumes) {
        put(`vg0/${dataLv}`, '');
        truncateSync(join(host.root, `vg0/${dataLv}`), LV_BYTES);
      }
      put('vg0/remus-web-journal', '');
      truncateSync(join(host.root, 'vg0/remus-web-journal'), JOURNAL_BYTES);
      this.#minors = file.volumes.map(({ minor }) => minor);
      for (const minor of this.#minors) put(`vg0/drbd${minor}`, Buffer.alloc(LV_BYTES));
      for (const [index, minor] of hasModule ? [] : this.#minors.entries()) {
        const expected = VOLUMES[index]?.[1];
        if (minor !== expected)
          throw new Error(`minor ${minor}, ${String(expected)} is in the fake's tables`);
      }
    }
  }

  /** Both hosts, DRBD connected, the guest on alpha; nothing is protected yet. */
  static async start(changes: PairChanges = {}): Promise<FakePair> {
    const place = mkdtempSync(join(tmpdir(), 'remus-hosts-'));
    const program = join(place, 'remus-drbd.cjs');
    await build({
      ...{ entryPoints: ['src/main.ts'], outfile: program, bundle: true, platform: 'node', format: 'cjs' },
      external: ['*.node', 'cpu-features', '@koromix/*', '@node-rs/crc32-*'],
      define: { 'import.meta.url': 'importMetaUrl' },
      banner: { js: "const importMetaUrl = require('node:url').pathToFileURL(__filename).href;" },
      logLevel: 'error',
    });
    symlinkSync(resolve('node_modules'), join(place, 'node_modules'));
    const pair = new FakePair(place, program, changes);
    try {
      await Promise.all([pair.alpha.start(), pair.beta.start()]);
      for (const [host, role] of [
        [pair.alpha, 'primary'],
        [pair.beta, 'backup'],
      ] as const) {
        host.setDrbd(role === 'primary' ? 'Primary' : 'Secondary', 'Connected');
        const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim();
        const { term, session } = pair.order;
        const record = formatTerm({ term, session, role, phase: 'starting', boot });
        host.run(
          'sh',
          '-c',
          `printf %s '${record}' >/var/lib/remus-drbd/web/term.json; echo >>/var/lib/remus-drbd/web/term.json`,
        );
        for (const minor of pair.#minors) host.run('ln', '-s', `/dev/vg0/drbd${minor}`, `/dev/drbd${minor}`);
      }
      pair.alpha.setGuest(RUNS);
      return pair;
    } catch (error) {
      await pair.close();
      throw error;
    }
  }

  /** A program of ours on a host. */
  program(...args: string[]): string[] {
    return [process.execPath, this.#program, ...args];
  }

  async startReceiver(): Promise<void> {
    this.receiver = this.beta.spawn(this.program('receiver', 'web'), 'ignore');
    await until(
      'the receiver listens',
      () => this.beta.report<ReceiverReport>('receiver')?.phase === 'waiting',
    );
  }

  /** Both processes, the live round, and as many whole checkpoints. */
  async protect(epochs: number): Promise<void> {
    await this.startReceiver();
    await this.startSender();
    for (let epoch = 1; epoch <= epochs; epoch++) await this.checkpoint(epoch);
  }

  async startSender(): Promise<void> {
    const stdin = this.xl.openForSender();
    this.xl.open();
    this.sender = this.alpha.spawn(this.program('sender', 'web', '--'), stdin);
    closeSync(stdin);
    await this.xl.liveRound();
    if (this.engine === 'journal') this.#barrier = await this.nbd('remus-web-barrier');
  }

  /** DRBD's way to a volume of the backup. */
  nbd(name: string): Promise<TestClient> {
    return TestClient.connect(join(this.beta.root, 'run/web/nbd.sock'), name);
  }

  /** One whole checkpoint, committed. */
  async checkpoint(epoch: number): Promise<void> {
    const written = this.xl.checkpoint();
    if (this.engine === 'journal') {
      await this.marker(epoch);
      await this.passMarker();
    }
    await written;
    await until(`epoch ${epoch} is committed`, () => this.senderReport()?.committedEpoch === epoch);
  }

  senderReport(): SenderReport | null {
    return this.alpha.report<SenderReport>('sender');
  }

  receiverReport(): ReceiverReport | null {
    return this.beta.report<ReceiverReport>('receiver');
  }

  /** Waits until the sender has written this marker. The guest is held, or was just now. */
  async marker(epoch: number): Promise<void> {
    const path = join(this.alpha.root, `vg0/drbd${VOLUMES[1][1]}`);
    await until(`marker ${epoch}`, () => {
      const fd = openSync(path, 'r');
      readSync(fd, this.#marker, 0, MARKER_BYTES, 0);
      closeSync(fd);
      const found = decodeMarker(this.#marker);
      return found !== null && typeof found !== 'string' && found.epoch === epoch;
    });
  }

  /** DRBD brings it to the backup's journal. */
  async passMarker(): Promise<void> {
    const answer = await this.#barrier?.write(0, this.#marker);
    if (answer?.error !== 0)
      throw new Error(`the journal answered the marker with ${answer?.error ?? 'nothing'}`);
  }

  /** Ends a process, and runs what its unit runs afterwards. Resolves when that has ended too. */
  async endAndCleanUp(role: 'sender' | 'receiver', signal: NodeJS.Signals | null): Promise<number | null> {
    const [host, child] = role === 'sender' ? [this.alpha, this.sender] : [this.beta, this.receiver];
    if (child === null) throw new Error(`no ${role}`);
    if (signal !== null) child.kill(signal);
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
    return (await this.cleanUp(role, host, child.exitCode === 0 ? 'success' : 'signal')).ended;
  }

  /** Runs a unit's clean-up. */
  cleanUp(role: 'sender' | 'receiver', host: FakeHost, result: string): Promise<{ ended: number | null }> {
    const cleanup = host.spawn(this.program(`${role}-cleanup`, 'web'), 'ignore', { SERVICE_RESULT: result });
    return once(cleanup, 'exit').then(([code]) => ({ ended: code as number | null }));
  }

  /** What a unit runs after its end, as it is written there: the clean-up, again where it is killed. */
  unitCleanUp(role: 'sender' | 'receiver', host: FakeHost, result: string): ChildProcess {
    const root = join(host.root, 'unit');
    mkdirSync(join(root, 'usr/sbin'), { recursive: true });
    for (const folder of ['usr/bin', 'bin']) symlinkSync(join('/', folder), join(root, folder));
    const program = this.program().map((word) => `'${word}'`);
    const wrapper = `#!/bin/sh\nPATH=${join(host.root, 'bin')}:/usr/sbin:/usr/bin:/sbin:/bin exec ${program.join(' ')} "$@"\n`;
    writeFileSync(join(root, 'usr/sbin/remus-drbd'), wrapper, { mode: 0o755 });
    const script = readFileSync('scripts/host/clean-up', 'utf8').replace("\nroot=''\n", `\nroot='${root}'\n`);
    writeFileSync(join(root, 'clean-up'), script, { mode: 0o755 });
    return host.spawn([join(root, 'clean-up'), `${role}-cleanup`, 'web'], 'ignore', {
      SERVICE_RESULT: result,
    });
  }

  logs(): string {
    return `alpha:\n${this.alpha.log()}\nbeta:\n${this.beta.log()}`;
  }

  async close(): Promise<void> {
    this.#barrier?.destroy();
    this.xl.close();
    await Promise.all([this.alpha.close(), this.beta.close()]);
    rmSync(this.place, { recursive: true, force: true });
  }
}
