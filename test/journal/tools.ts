/** Tools that some tests need, and temporary journals on real files for them. */
import { execFile, spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { formatJournalFrom } from '../../src/commands/journal.js';

const MIB = 1 << 20;

/** Debian packages of the tools. */
const PACKAGES: Record<string, string> = {
  fio: 'fio',
  nbdinfo: 'libnbd-bin',
  nbdcopy: 'libnbd-bin',
  'qemu-io': 'qemu-utils',
  'qemu-img': 'qemu-utils',
  openssl: 'openssl',
};

/**
 * Whether the tools are here. Without them it says so in one line; in CI, where all must be, it throws.
 */
export function haveTools(...tools: string[]): boolean {
  if (process.env['REMUS_TEST_TOOLS'] === '0') {
    process.stdout.write(`skipped: ${tools.join(', ')} (REMUS_TEST_TOOLS=0)\n`);
    return false;
  }
  const missing = tools.filter((tool) => !onPath(tool));
  if (missing.length === 0) return true;
  const words = missing.map((tool) => `${tool} (apt install ${PACKAGES[tool] ?? tool})`).join(', ');
  if (process.env['CI'] === 'true') throw new Error(`missing in CI: ${words}`);
  process.stdout.write(`skipped: needs ${words}\n`);
  return false;
}

function onPath(tool: string): boolean {
  return (process.env['PATH'] ?? '').split(delimiter).some((folder) => {
    try {
      accessSync(join(folder, tool), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

export interface Output {
  code: number;
  text: string;
}

export function runTool(command: string, args: readonly string[], timeoutMs = 60_000): Promise<Output> {
  return new Promise((resolve) => {
    // fio leaves files in its working folder.
    execFile(
      command,
      args,
      { timeout: timeoutMs, maxBuffer: 64 * MIB, cwd: tmpdir() },
      (error, stdout, stderr) => {
        const code = error === null ? 0 : typeof error.code === 'number' ? error.code : -1;
        resolve({ code, text: stdout + stderr });
      },
    );
  });
}

export interface Workplace {
  folder: string;
  configPath: string;
  socket: string;
  control: string;
  target: (volume: string) => string;
  journalPath: string;
  uri: (name: string) => string;
  remove: () => Promise<void>;
}

/** A folder with an empty journal and targets, and the configuration that names them. */
export async function makeWorkplace(
  options: { journalMib?: number; diskMib?: number; extra?: Record<string, unknown> } = {},
): Promise<Workplace> {
  const folder = await mkdtemp(join(tmpdir(), 'journal-test-'));
  const sizes: [string, number][] = [
    ['journal', (options.journalMib ?? 32) * MIB],
    ['disk0', (options.diskMib ?? 64) * MIB],
    ['disk1', 4 * MIB],
    ['barrier', MIB],
  ];
  for (const [name, bytes] of sizes) {
    await writeFile(join(folder, name), '');
    await truncate(join(folder, name), bytes);
  }
  const place: Workplace = {
    folder,
    configPath: join(folder, 'journal.json'),
    socket: join(folder, 'nbd.sock'),
    control: join(folder, 'control.sock'),
    target: (volume) => join(folder, volume),
    journalPath: join(folder, 'journal'),
    uri: (name) => `nbd+unix:///${name}?socket=${join(folder, 'nbd.sock')}`,
    remove: () => rm(folder, { recursive: true, force: true }),
  };
  await writeFile(
    place.configPath,
    JSON.stringify({
      domain: 'web',
      journal: place.journalPath,
      volumes: sizes.slice(1).map(([name, sizeBytes]) => ({
        name,
        target: join(folder, name),
        sizeBytes,
        barrier: name === 'barrier',
      })),
      socket: place.socket,
      control: place.control,
      ...options.extra,
    }),
  );
  await formatJournalFrom({ configPath: place.configPath });
  return place;
}

export interface ServeProcess {
  child: ChildProcess;
  kill: () => Promise<void>;
}

/** Starts a server in a process of its own, and waits until it serves. */
export async function startServeProcess(place: Workplace): Promise<ServeProcess> {
  const script = fileURLToPath(new URL('serve-process.ts', import.meta.url));
  const child = spawn(process.execPath, ['--import', 'tsx', script, place.configPath], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  await new Promise<void>((resolve, reject) => {
    child.stdout.once('data', () => resolve());
    child.once('exit', (code) => reject(new Error(`the server has ended with ${code}`)));
  });
  return {
    child,
    kill: async () => {
      child.kill('SIGKILL');
      await exited;
    },
  };
}
