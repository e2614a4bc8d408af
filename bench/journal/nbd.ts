/**
 * The journal beside nbdkit file, nbdkit memory and qemu-nbd, with fio's nbd engine on a unix socket: one run,
 * one file system, durable on flush. For each row all four servers are started, filled and warmed up, and then
 * measured in interleaved rounds, so that noise hits all alike. Prints medians; the ratio to `nbdkit file` is the
 * median of the rounds' own ratios. Also the spread, the CPU of the server for each operation, and how much of the
 * machine went to others meanwhile: with much of that the ratios say little.
 *
 *     node --import tsx bench/journal/nbd.ts [--rounds N] [--seconds N] [--folder DIR] [--only WORD,WORD]
 */
import { execFile, spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { cpus, loadavg, tmpdir } from 'node:os';
import { createInterface } from 'node:readline';
import type { Interface } from 'node:readline';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { build } from 'esbuild';

const run = promisify(execFile);
const root = fileURLToPath(new URL('../..', import.meta.url));
const serveScript = join(root, 'node_modules', '.cache', 'remus-drbd-bench', 'serve.cjs');
const MIB = 1 << 20;
const DISK_MIB = 512;
const TICKS = 100;

interface Row {
  name: string;
  args: string[];
  /** How the journal is fed: an epoch every 100 ms is committed and drains beside the writes, or none. */
  ours: 'epochs' | 'hold' | 'through';
  read?: boolean;
  /** Large enough for all that is written while nothing is committed. */
  journalMib?: number;
}

const fill = '--size=256m';
const rows: Row[] = [
  {
    name: '4 KiB random write, depth 1',
    args: ['--rw=randwrite', '--bs=4k', '--iodepth=1', fill],
    ours: 'hold',
    journalMib: 3072,
  },
  {
    name: '4 KiB random write, depth 32',
    args: ['--rw=randwrite', '--bs=4k', '--iodepth=32', fill],
    ours: 'hold',
    journalMib: 3072,
  },
  {
    name: '4 KiB random write, depth 1, flush every 32',
    args: ['--rw=randwrite', '--bs=4k', '--iodepth=1', '--fsync=32', fill],
    ours: 'hold',
    journalMib: 3072,
  },
  {
    name: '4 KiB random write, depth 32, flush every 32',
    args: ['--rw=randwrite', '--bs=4k', '--iodepth=32', '--fsync=32', fill],
    ours: 'hold',
    journalMib: 3072,
  },
  {
    name: '128 KiB sequential write, depth 8',
    args: ['--rw=write', '--bs=128k', '--iodepth=8', fill],
    ours: 'hold',
    journalMib: 4096,
  },
  {
    name: '128 KiB sequential write, depth 8, flush every 32',
    args: ['--rw=write', '--bs=128k', '--iodepth=8', '--fsync=32', fill],
    ours: 'hold',
    journalMib: 4096,
  },
  {
    name: '4 KiB random read from the journal, depth 32',
    args: ['--rw=randread', '--bs=4k', '--iodepth=32', fill],
    ours: 'hold',
    read: true,
  },
  {
    name: '4 KiB random read from the target, depth 32',
    args: ['--rw=randread', '--bs=4k', '--iodepth=32', fill],
    ours: 'through',
    read: true,
  },
  {
    name: '4 KiB random write, depth 32, epochs drain beside',
    args: ['--rw=randwrite', '--bs=4k', '--iodepth=32', fill],
    ours: 'epochs',
  },
  {
    name: '4 KiB random write, depth 1, epochs drain beside',
    args: ['--rw=randwrite', '--bs=4k', '--iodepth=1', fill],
    ours: 'epochs',
  },
];

const servers = ['journal', 'nbdkit file', 'nbdkit memory', 'qemu-nbd'] as const;
type ServerName = (typeof servers)[number];

interface Sample {
  iops: number;
  cpuUs: number;
  /** Of all CPU time there was, what neither the server nor fio used. */
  others: number;
}

interface Started {
  uri: string;
  child: ChildProcess;
  lines: Interface;
  stop: () => Promise<void>;
}

function argument(name: string, fallback: string): string {
  const at = process.argv.indexOf(`--${name}`);
  return at < 0 ? fallback : (process.argv[at + 1] ?? fallback);
}

const rounds = Number(argument('rounds', '5'));
const seconds = Number(argument('seconds', '2'));
const warmSeconds = 2;
const only = argument('only', '').split(',');

async function start(name: ServerName, row: Row, base: string): Promise<Started> {
  const folder = join(base, name.replace(' ', '-'));
  await mkdir(folder, { recursive: true });
  const socket = join(folder, 'sock');
  await rm(socket, { force: true });
  const image = join(folder, 'image');
  if (name !== 'journal') {
    await writeFile(image, '', { flag: 'a' });
    await truncate(image, DISK_MIB * MIB);
  }
  const [command, args] = ((): [string, string[]] => {
    switch (name) {
      case 'journal':
        return [
          process.execPath,
          [serveScript, folder, String(row.journalMib ?? 1280), String(DISK_MIB), row.ours],
        ];
      case 'nbdkit file':
        return ['nbdkit', ['-f', '-U', socket, 'file', image]];
      case 'nbdkit memory':
        return ['nbdkit', ['-f', '-U', socket, 'memory', `${DISK_MIB}M`]];
      case 'qemu-nbd':
        return [
          'qemu-nbd',
          ['-t', '-e', '4', '-k', socket, '-f', 'raw', '-x', '', '--cache=writeback', image],
        ];
      default:
        throw new Error(String(name satisfies never));
    }
  })();
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  while (!existsSync(socket)) {
    if (child.exitCode !== null) throw new Error(`${name} has ended`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return {
    lines: createInterface({ input: child.stdout }),
    uri: `nbd+unix:///${name === 'journal' ? 'disk0' : ''}?socket=${socket}`,
    child,
    stop: async () => {
      child.kill('SIGKILL');
      await exited;
    },
  };
}

/** Bundles the journal's server as the program is bundled: what tsx adds for debugging costs a third of a request. */
async function bundle(): Promise<void> {
  await build({
    entryPoints: [fileURLToPath(new URL('serve.ts', import.meta.url))],
    outfile: serveScript,
    bundle: true,
    platform: 'node',
    target: 'node18.19',
    format: 'cjs',
    external: ['*.node', '@koromix/*', '@node-rs/crc32-*'],
    define: { 'import.meta.url': 'importMetaUrl' },
    banner: { js: "const importMetaUrl = require('node:url').pathToFileURL(__filename).href;" },
  });
}

/** User and system time of a process and its threads, in microseconds. */
function cpuUs(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
  return ((Number(fields[11]) + Number(fields[12])) * 1e6) / TICKS;
}

/** Busy time of all CPUs so far, in microseconds. */
function busyUs(): number {
  let total = 0;
  for (const { times } of cpus()) total += times.user + times.nice + times.sys + times.irq;
  return total * 1000;
}

interface FioJob {
  read: { iops: number; total_ios: number; runtime: number };
  write: { iops: number; total_ios: number; runtime: number };
  usr_cpu: number;
  sys_cpu: number;
}

async function fio(uri: string, args: readonly string[]): Promise<FioJob> {
  const { stdout } = await run(
    'fio',
    [
      '--name=bench',
      '--ioengine=nbd',
      `--uri=${uri}`,
      '--randrepeat=0',
      '--norandommap',
      '--output-format=json',
      ...args,
    ],
    { maxBuffer: 16 * MIB, timeout: 120_000 },
  );
  const parsed = JSON.parse(stdout.slice(stdout.indexOf('{'))) as { jobs: FioJob[] };
  const job = parsed.jobs[0];
  if (job === undefined) throw new Error('fio has reported nothing');
  return job;
}

/** Makes every block exist, and lets the server's code and caches become warm. */
async function prepare(server: Started, row: Row): Promise<void> {
  await fio(server.uri, ['--rw=write', '--bs=1m', '--iodepth=4', '--size=256m', '--end_fsync=1']);
  if (row.read !== true || row.ours === 'through') await settle(server);
  await fio(server.uri, [...row.args, '--time_based', `--runtime=${warmSeconds}`]);
}

/** Has the journal roll forward and drain what the last round has left in it; the other servers have nothing to do. */
async function settle(server: Started): Promise<void> {
  if (!server.child.spawnargs.includes(serveScript)) return;
  const settled = once(server.lines, 'line');
  server.child.kill('SIGHUP');
  await settled;
}

async function sample(server: Started, row: Row): Promise<Sample> {
  if (row.read !== true) await settle(server);
  const pid = server.child.pid ?? 0;
  const before = cpuUs(pid);
  const busyBefore = busyUs();
  const begun = performance.now();
  const job = await fio(server.uri, [...row.args, '--time_based', `--runtime=${seconds}`]);
  const elapsedUs = (performance.now() - begun) * 1000;
  const used = cpuUs(pid) - before;
  const side = row.read === true ? job.read : job.write;
  const fioUs = ((job.usr_cpu + job.sys_cpu) / 100) * side.runtime * 1000;
  return {
    iops: side.iops,
    cpuUs: used / side.total_ios,
    others: Math.max(0, busyUs() - busyBefore - used - fioUs) / (elapsedUs * cpus().length),
  };
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1] ?? NaN;
}

function report(row: Row, results: Map<ServerName, Sample[]>): void {
  const peer = results.get('nbdkit file') ?? [];
  const others = median([...results.values()].flat().map((each) => each.others));
  console.log(`\n${row.name} (others had ${(others * 100).toFixed(0)} % of the CPUs)`);
  for (const [name, samples] of results) {
    const iops = samples.map((each) => each.iops);
    const ratio = median(samples.map((each, round) => each.iops / (peer[round]?.iops ?? NaN)));
    const spread = ((Math.max(...iops) - Math.min(...iops)) / median(iops)) * 100;
    const cpu = median(samples.map((each) => each.cpuUs));
    console.log(
      `  ${name.padEnd(14)} ${median(iops).toFixed(0).padStart(8)} /s  ${ratio.toFixed(2)} of nbdkit file  ${cpu
        .toFixed(1)
        .padStart(6)} us CPU  spread ${spread.toFixed(0)} %`,
    );
  }
}

async function main(): Promise<void> {
  const base = argument('folder', '') || (await mkdtemp(join(tmpdir(), 'bench-journal-')));
  console.log(
    `${rounds} rounds of ${seconds} s, load ${loadavg()[0]?.toFixed(2)} at the start, Node ${process.version}`,
  );
  await bundle();
  try {
    for (const row of rows) {
      if (!only.some((word) => row.name.includes(word))) continue;
      const started = new Map<ServerName, Started>();
      const results = new Map<ServerName, Sample[]>(servers.map((name) => [name, []]));
      try {
        for (const name of servers) started.set(name, await start(name, row, base));
        for (const server of started.values()) await prepare(server, row);
        for (let round = 0; round < rounds; round++) {
          for (const [name, server] of started) results.get(name)?.push(await sample(server, row));
        }
      } finally {
        for (const server of started.values()) await server.stop();
      }
      report(row, results);
    }
    console.log(`\nload ${loadavg()[0]?.toFixed(2)} at the end`);
  } finally {
    await rm(base, { recursive: true, force: true });
  }
}

void main();
