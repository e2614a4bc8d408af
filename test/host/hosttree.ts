/**
 * A directory that looks to one of our host scripts like the root of a host, with fake programs in it.
 *
 * The scripts take nothing from their environment that could move them to another root: a copy is made
 * here with the one line `root=''` changed, and nothing else.
 */
import { spawn, spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';

/**
 * Absolute paths, since the scripts get no PATH. Debian's busybox can't be one of them: its shell runs its
 * own `timeout`, `grep` and `sleep` before it looks at PATH, so no fake would be called.
 */
const candidates: Shell[] = [
  { name: 'dash', command: ['/bin/dash'] },
  { name: 'bash --posix', command: ['/bin/bash', '--posix'] },
];

export interface Shell {
  name: string;
  command: string[];
}

/** The shells of this machine that the scripts have to run under. */
export const shells: Shell[] = candidates.filter((shell) => existsSync(shell.command[0]!));

/** What a shell calls itself has to be there: a test that runs under none of them tests nothing. */
if (shells.length === 0) throw new Error('neither dash nor bash is on this machine');

const real = ['flock', 'grep', 'mkdir', 'timeout', 'cat', 'rm'];

export interface Result {
  status: number | null;
  stderr: string;
}

export class HostTree {
  readonly root = mkdtempSync(join(tmpdir(), 'remus-host-'));

  constructor() {
    for (const directory of [
      'usr/bin',
      'bin',
      'answers',
      'counts',
      'proc/self',
      'run',
      'var/run',
      'var/log/xen',
      'dev',
      'etc',
    ]) {
      mkdirSync(join(this.root, directory), { recursive: true });
    }
    this.write('calls', '');
    this.write('xenstore', '');
    this.write('proc/uptime', '1000.00 900.00\n');
    this.write('proc/self/mountinfo', '25 1 254:1 / / rw,relatime - ext4 /dev/vda1 rw\n');
    this.fake('fake-tool', ['drbdadm', 'drbdsetup', 'logger', 'sleep', 'udevadm', 'lvchange']);
    this.fake('fake-tool', ['blockdev', 'stat', 'modprobe', 'ip']);
    this.fake('fake-xenstore', ['xenstore-ls', 'xenstore-read', 'xenstore-write', 'xenstore-rm']);
    this.fake('fake-dmsetup', ['dmsetup']);
    // These run for real, and are recorded as well.
    this.fake('fake-tool', ['flock', 'grep', 'mkdir', 'timeout']);
    for (const tool of real) this.answer(tool, `exec ${which(tool)} "$@"`);
    for (const tool of ['cat', 'rm', 'mkdir']) symlinkSync(which(tool), join(this.root, 'bin', tool));
    // A second passes with each sleep, and only with it.
    this.answer(
      'sleep',
      'read -r up rest <"$root/proc/uptime"; echo "$((${up%.*} + 1)).00 900" >"$root/proc/uptime"',
    );
    // A device file in the tree holds the numbers that stat would show.
    this.answer(
      'stat',
      'for file do :; done; read -r d <"$file"; case $3 in *:*) ;; *) d="${d%:*} ${d#*:}" ;; esac; echo "$d"',
    );
  }

  /** Puts a copy of one of our scripts where it is on a host. */
  install(script: string, path: string): string {
    const text = readFileSync(resolve('scripts/host', script), 'utf8');
    if (text.split("\nroot=''\n").length !== 2) throw new Error(`${script}: no single line root=''`);
    this.write(path, text.replace("\nroot=''\n", `\nroot='${this.root}'\n`));
    chmodSync(join(this.root, path), 0o755);
    return join(this.root, path);
  }

  fake(fake: string, names: string[]): void {
    for (const name of names) {
      rmSync(join(this.root, 'usr/bin', name), { force: true });
      symlinkSync(resolve('test/host/fakes', fake), join(this.root, 'usr/bin', name));
    }
  }

  /** What a fake program does when it is called: a piece of shell. */
  answer(call: string, shell: string): void {
    this.write(`answers/${call}`, `${shell}\n`);
  }

  write(path: string, text: string): void {
    mkdirSync(dirname(join(this.root, path)), { recursive: true });
    writeFileSync(join(this.root, path), text);
  }

  program(path: string, text: string): void {
    this.write(path, text);
    chmodSync(join(this.root, path), 0o755);
  }

  link(path: string, target: string): void {
    symlinkSync(target, join(this.root, path));
  }

  read(path: string): string {
    return readFileSync(join(this.root, path), 'utf8');
  }

  has(path: string): boolean {
    return existsSync(join(this.root, path));
  }

  remove(path: string): void {
    rmSync(join(this.root, path), { recursive: true, force: true });
  }

  /** Runs a script to its end. Its process id is in ROOT/pid, for a fake that kills it. */
  run(shell: Shell, script: string, args: string[], env: Record<string, string> = {}): Result {
    const keepPid = ['-c', 'echo $$ >"$0"; exec "$@"', join(this.root, 'pid')];
    const done = spawnSync('/bin/sh', [...keepPid, ...shell.command, script, ...args], {
      env: { ...hostile, ...env },
      encoding: 'utf8',
      timeout: 60_000,
    });
    return { status: done.status, stderr: done.stderr };
  }

  async start(
    shell: Shell,
    script: string,
    args: string[],
    env: Record<string, string>,
  ): Promise<number | null> {
    const [program, ...rest] = shell.command;
    const child = spawn(program!, [...rest, script, ...args], {
      env: { ...hostile, ...env },
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    child.stdout.resume();
    return new Promise((done, failed) => {
      // What it has left in the background has ended as well then.
      child.on('close', done);
      child.on('error', failed);
    });
  }

  /** Programs that were started, with their arguments, in order, with the tree's own path taken out. */
  calls(): string[] {
    return this.read('calls')
      .split('\n')
      .filter(Boolean)
      .map((line) => line.replaceAll(this.root, ''));
  }

  /** Only the calls that change something, of those programs. */
  callsOf(...programs: string[]): string[] {
    return this.calls().filter((call) => programs.includes(call.split(' ')[0]!));
  }

  forgetCalls(): void {
    this.write('calls', '');
  }

  /** One value of the fake xenstore. */
  xenstore(path: string): string | undefined {
    const start = `${path} = "`;
    const line = this.read('xenstore')
      .split('\n')
      .find((each) => each.startsWith(start));
    return line?.slice(start.length, -1);
  }

  setXenstore(values: Record<string, string>): void {
    const lines = Object.entries(values).map(([path, value]) => `${path} = "${value}"\n`);
    this.write('xenstore', this.read('xenstore') + lines.join(''));
  }

  close(): void {
    rmSync(this.root, { recursive: true, force: true });
  }
}

/** What somebody could have in their environment, and must not matter. */
const hostile = {
  PATH: '/nonexistent',
  root: '/nonexistent',
  ROOT: '/nonexistent',
  REMUS_ROOT: '/nonexistent',
  IFS: '/:',
  CDPATH: '/',
  ours: 'false',
  took: 'true',
  LC_ALL: 'C.UTF-8',
};

function which(tool: string): string {
  for (const directory of ['/usr/bin', '/bin', '/usr/sbin', '/sbin']) {
    if (existsSync(join(directory, tool))) return join(directory, tool);
  }
  throw new Error(`${tool} is not on this machine; the tests of the host scripts need it`);
}
