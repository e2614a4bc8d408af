/**
 * The journal beside nbdkit file, nbdkit memory and qemu-nbd, with fio's nbd engine on a unix socket: one run,
 * one file system, durable on flush, rounds interleaved so that noise hits all alike. Prints medians, the ratio
 * to `nbdkit file`, the spread, and CPU of the server for each operation.
 *
 *     node --import tsx bench/journal/nbd.ts [--rounds N] [--seconds N] [--folder DIR] [--only WORD]
 */
import { execFile, spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const run = promisify(execFile);
const serveScript = fileURLToPath(new URL('serve.ts', import.meta.url));
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
  },
  {
    name: '4 KiB random write, depth 32',
    args: ['--rw=randwrite', '--bs=4k', '--iodepth=32', fill],
    ours: 'hold',
  },
  {
    name: '4 KiB random write, depth 1, flush every 32',
    args: ['--rw=randwrite', '--bs=4k', '--iodepth=1', '--fsync=32', fill],
    ours: 'hold',
  },
  {
    name: '4 KiB random write, depth 32, flush every 32',
    args: ['--rw=randwrite', '--bs=4k', '--iodepth=32', '--fsync=32', fill],
    ours: 'hold',
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
}

interface Started {
  uri: string;
  child: ChildProcess;
  stop: () => Promise<void>;
}

function argument(name: string, fallback: string): string {
  const at = process.argv.indexOf(`--${name}`);
  return at < 0 ? fallback : (process.argv[at + 1] ?? fallback);
}

const rounds = Number(argument('rounds', '3'));
const seconds = Number(argument('seconds', '2'));
const only = argument('only', '');

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
          [
            '--import',
            'tsx',
            serveScript,
            folder,
            String(row.journalMib ?? 1280),
            String(DISK_MIB),
            row.ours,
          ],
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
    uri: `nbd+unix:///${name === 'journal' ? 'disk0' : ''}?socket=${socket}`,
    child,
    stop: async () => {
      child.kill('SIGKILL');
      await exited;
    },
  };
}

/** User and system time of a process and its threads, in microseconds. */
function cpuUs(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
  return ((Number(fields[11]) + Number(fields[12])) * 1e6) / TICKS;
}

async function fio(uri: string, args: readonly string[], limit: readonly string[]): Promise<number> {
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
      ...limit,
    ],
    { maxBuffer: 16 * MIB, timeout: 120_000 },
  );
  const parsed = JSON.parse(stdout.slice(stdout.indexOf('{'))) as {
    jobs: { read: { iops: number }; write: { iops: number } }[];
  };
  const job = parsed.jobs[0];
  return (job?.read.iops ?? 0) + (job?.write.iops ?? 0);
}

async function sample(name: ServerName, row: Row, base: string): Promise<Sample> {
  const server = await start(name, row, base);
  try {
    // Every block is there before it is measured, and for reads from the journal it is there.
    await fio(server.uri, ['--rw=write', '--bs=1m', '--iodepth=4', '--size=256m', '--end_fsync=1'], []);
    if (row.read === true && row.ours === 'through')
      await new Promise((resolve) => setTimeout(resolve, 1500));
    const before = cpuUs(server.child.pid ?? 0);
    const iops = await fio(server.uri, row.args, ['--time_based', `--runtime=${seconds}`]);
    const used = cpuUs(server.child.pid ?? 0) - before;
    return { iops, cpuUs: used / (iops * seconds) };
  } finally {
    await server.stop();
  }
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1] ?? NaN;
}

async function main(): Promise<void> {
  const base = argument('folder', '') || (await mkdtemp(join(tmpdir(), 'bench-journal-')));
  console.log(
    `${rounds} rounds of ${seconds} s, load ${loadavg()[0]?.toFixed(2)} at the start, Node ${process.version}`,
  );
  try {
    for (const row of rows) {
      if (!row.name.includes(only)) continue;
      const results = new Map<ServerName, Sample[]>(servers.map((name) => [name, []]));
      for (let round = 0; round < rounds; round++) {
        for (const name of servers) results.get(name)?.push(await sample(name, row, base));
      }
      const reference = median((results.get('nbdkit file') ?? []).map(({ iops }) => iops));
      console.log(`\n${row.name}`);
      for (const name of servers) {
        const samples = results.get(name) ?? [];
        const iops = samples.map((each) => each.iops);
        const spread = ((Math.max(...iops) - Math.min(...iops)) / median(iops)) * 100;
        console.log(
          `  ${name.padEnd(14)} ${median(iops).toFixed(0).padStart(8)} /s  ${(median(iops) / reference).toFixed(2)} of nbdkit file  ${median(
            samples.map((each) => each.cpuUs),
          )
            .toFixed(1)
            .padStart(6)} us CPU  spread ${spread.toFixed(0)} %`,
        );
      }
    }
    console.log(`\nload ${loadavg()[0]?.toFixed(2)} at the end`);
  } finally {
    await rm(base, { recursive: true, force: true });
  }
}

void main();
