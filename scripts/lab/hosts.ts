/**
 * The lab as a library: two real Xen hosts under QEMU's emulation. `lab.ts` is its command line, end-to-end
 * tests import it.
 *
 *   await lab.up();
 *   const alpha = lab.host('alpha');
 *   await alpha.ssh(['drbdadm', 'status']);
 *   await lab.cut('alpha');             // a power cut
 *   await lab.boot('alpha');
 *   await lab.link(false);              // the cable between the hosts
 *
 * Three layers of disks: the image (image.ts), the *saved machines* (`image-KEY/ready/`: both hosts booted
 * once from the image, `vg0` made, and their memory saved), and the running lab (`run/`: overlays). New hosts
 * start from saved memory in seconds; a host that was cut or stopped boots from its disks as a real one does.
 *
 * Everything that is waited for is a condition with a generous limit. Processes are ended by id only.
 */
import {
  existsSync,
  mkdirSync,
  linkSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import {
  guestDirectory,
  hostNames,
  hostPlans,
  limits,
  cacheDirectory,
  runDirectory,
  sshConfigPath,
} from './plan.js';
import * as plan from './plan.js';
import type { HostName, HostPlan } from './plan.js';
import { LabGuest } from './guest.js';
import { buildImage, imageDirectory, install, type Say } from './image.js';
import { isAlive, kill, ownIdentity, run, startDetached, until } from './processes.js';
import type { ProcessIdentity, Result } from './processes.js';
import { Qmp } from './qmp.js';
import { kernelArguments, machineArguments, recipeKey, xenArguments } from './recipe.js';

export type { HostName, Result };
export { until };

export interface CommandOptions {
  readonly input?: string | Buffer;
  /** Limit in milliseconds; default `limits.commandMs`. */
  readonly timeoutMs?: number;
  /** False: a non-zero exit code is returned, not thrown. */
  readonly check?: boolean;
}

/** Quotes one argument for a POSIX shell. */
export function quote(argument: string): string {
  return /^[A-Za-z0-9_@%+=:,./-]+$/.test(argument) ? argument : `'${argument.replaceAll("'", `'\\''`)}'`;
}

/** One QEMU process and its files in a directory. */
class Machine {
  readonly plan: HostPlan;
  readonly directory: string;

  constructor(name: HostName, directory: string) {
    this.plan = hostPlans[name];
    this.directory = directory;
  }

  path(suffix: string): string {
    return join(this.directory, `${this.plan.name}${suffix}`);
  }

  identity(): ProcessIdentity | undefined {
    try {
      return JSON.parse(readFileSync(this.path('.process.json'), 'utf8')) as ProcessIdentity;
    } catch {
      return undefined;
    }
  }

  isRunning(): boolean {
    const identity = this.identity();
    return identity !== undefined && isAlive(identity);
  }

  hasDisks(): boolean {
    return existsSync(this.path('.qcow2')) && existsSync(this.path('-vg0.raw'));
  }

  /**
   * Powers on. With `savedMemory`, goes on where the machine was saved instead of booting.
   * @throws Error with QEMU's last words when it does not stay up
   */
  async start(image: string, savedMemory?: string): Promise<void> {
    const { name, sshPort, linkPort, peer } = this.plan;
    rmSync(this.path('.qmp'), { force: true });
    // A machine starts with its cable plugged.
    rmSync(this.path('.link'), { force: true });
    writeFileSync(this.path('.qemu.log'), '');
    const inImage = (file: string) => {
      const path = join(image, file);
      if (/[ ,']/.test(path))
        throw new Error(`${path}: QEMU's boot loader takes no blank, comma or quote in a path`);
      return path;
    };
    const argv = [
      'qemu-system-x86_64',
      ...['-name', `lab-${name}`],
      ...machineArguments(this.plan),
      ...['-kernel', inImage('xen'), '-append', xenArguments],
      ...['-initrd', `${inImage('vmlinuz')} ${kernelArguments},${inImage('initrd.img')}`],
      // A qcow2 keeps its tables in memory until a flush: with `unsafe` a power cut would lose flushed data.
      ...['-drive', `if=none,id=root,file=${name}.qcow2,format=qcow2,cache=writeback,discard=unmap`],
      ...['-drive', `if=none,id=vg0,file=${name}-vg0.raw,format=raw,cache=unsafe,discard=unmap`],
      ...['-netdev', `user,id=control,hostfwd=tcp:127.0.0.1:${sshPort}-:22`],
      ...[
        '-netdev',
        [
          'dgram,id=link',
          `local.type=inet,local.host=127.0.0.1,local.port=${linkPort}`,
          `remote.type=inet,remote.host=127.0.0.1,remote.port=${hostPlans[peer].linkPort}`,
        ].join(','),
      ],
      ...['-chardev', `file,id=console,path=${name}.console.log`, '-serial', 'chardev:console'],
      ...['-qmp', `unix:${name}.qmp,server=on,wait=off`],
      ...(savedMemory === undefined ? [] : ['-incoming', `exec:zstd -q -dc ${quote(savedMemory)}`]),
    ];
    const identity = startDetached(argv, { cwd: this.directory, log: this.path('.qemu.log') });
    writeFileSync(this.path('.process.json'), JSON.stringify(identity));
    const running = async () => {
      if (!isAlive(identity)) return 'ended';
      return this.monitor(async (qmp) => {
        const { status } = (await qmp.execute('query-status')) as { status: string };
        // One that was saved wakes as it was saved: stopped.
        if (status === 'paused') await qmp.execute('cont');
        return status === 'running' && 'running';
      });
    };
    const state = await until(`${name} to be powered on`, running, limits.processMs, 50);
    if (state === 'ended') {
      throw new Error(`${name}: QEMU did not start: ${readFileSync(this.path('.qemu.log'), 'utf8').trim()}`);
    }
  }

  async monitor<T>(use: (qmp: Qmp) => Promise<T>): Promise<T> {
    const qmp = await Qmp.open(this.path('.qmp'), limits.processMs);
    try {
      return await use(qmp);
    } finally {
      qmp.close();
    }
  }

  /**
   * Writes memory and devices to a file and powers off; the disks stay as the memory knows them.
   *
   * Stopped first: of a running machine, emulation misses some of the pages written while memory is being
   * saved, and what wakes then has a stale stack under its registers.
   */
  async save(path: string): Promise<void> {
    await this.monitor(async (qmp) => {
      await qmp.execute('stop');
      await qmp.execute('migrate-set-parameters', { 'max-bandwidth': 2 ** 40 });
      await qmp.execute('migrate', { uri: `exec:zstd -q -1 -f -o ${quote(path)}` });
      const saved = async () => {
        const { status } = (await qmp.execute('query-migrate')) as { status: string };
        return ['completed', 'failed', 'cancelled'].includes(status) && status;
      };
      const status = await until(`${this.plan.name} to be saved`, saved, limits.bootMs, 100);
      if (status !== 'completed') throw new Error(`${this.plan.name}: saving its memory ${status}`);
      await qmp.execute('quit');
    });
    const identity = this.identity();
    if (identity) await until('QEMU to end', () => !isAlive(identity), limits.processMs, 50);
  }

  /** SIGKILL, at once. Nothing when it is not running. */
  async cut(): Promise<void> {
    const identity = this.identity();
    if (identity) await kill(identity, limits.processMs);
    rmSync(this.path('.process.json'), { force: true });
    rmSync(this.path('.qmp'), { force: true });
    await closeSshMaster(this.plan.name);
  }
}

function sshArgv(name: HostName, ...options: string[]): string[] {
  return ['ssh', '-F', sshConfigPath, ...options, name];
}

/** A shared connection dies with its host; one that has not noticed yet must not serve the next command. */
async function closeSshMaster(name: HostName): Promise<void> {
  if (!existsSync(join(runDirectory, `${name}.ssh`))) return;
  await run(sshArgv(name, '-O', 'exit'), { timeoutMs: limits.processMs, check: false });
  rmSync(join(runDirectory, `${name}.ssh`), { force: true });
}

function writeSshConfig(image: string): void {
  const hosts = hostNames.map(
    (name) => `Host ${name}\n  HostName 127.0.0.1\n  Port ${hostPlans[name].sshPort}\n`,
  );
  const common = `Host *
  User root
  IdentityFile "${join(image, 'id_ed25519')}"
  IdentitiesOnly yes
  UserKnownHostsFile "${join(image, 'known_hosts')}"
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  UpdateHostKeys no
  BatchMode yes
  ControlMaster no
  ControlPath "${join(runDirectory, '%n.ssh')}"
  ServerAliveInterval 15
  ServerAliveCountMax 20
  LogLevel ERROR
`;
  writeFileSync(sshConfigPath, hosts.join('') + common);
}

/** QEMU takes the connection before the host does, so only what the host sends says that it is there. */
const bannerMs = 5_000;

/** The first bytes that a port on loopback sends; empty when it sends none. */
function firstBytes(port: number, timeoutMs: number): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect({ host: '127.0.0.1', port });
    const end = (text: string) => {
      clearTimeout(timer);
      socket.destroy();
      resolve(text);
    };
    const timer = setTimeout(() => end(''), timeoutMs);
    socket.on('data', (data) => end(data.toString('latin1')));
    socket.on('error', () => end(''));
    socket.on('close', () => end(''));
  });
}

/** Waits until the host's ssh port answers with its banner, then until systemd has finished booting. */
async function waitUntilBooted(machine: Machine): Promise<string> {
  const { name, sshPort } = machine.plan;
  const banner = async () => {
    if (!machine.isRunning()) return 'off';
    return (await firstBytes(sshPort, bannerMs)).startsWith('SSH-') && 'banner';
  };
  if ((await until(`ssh on ${name}`, banner, limits.bootMs)) === 'off') {
    throw new Error(`${name}: was powered off while booting; see ${machine.path('.console.log')}`);
  }
  await closeSshMaster(name);
  const timeoutMs = limits.bootMs;
  // The master's descriptors must not be ours: it lives on.
  await run(['sh', '-c', `${sshArgv(name, '-MNf').map(quote).join(' ')} </dev/null >/dev/null 2>&1`], {
    timeoutMs,
  });
  const state = await run([...sshArgv(name), 'systemctl is-system-running --wait'], {
    timeoutMs,
    check: false,
  });
  const word = state.stdout.trim();
  if (word !== 'running' && word !== 'degraded') {
    throw new Error(`${name}: systemd says "${word}" after boot ${state.stderr}`.trim());
  }
  return word;
}

/** One host of the running lab. */
export class LabHost {
  readonly name: HostName;
  readonly plan: HostPlan;
  readonly #machine: Machine;

  constructor(name: HostName) {
    this.name = name;
    this.plan = hostPlans[name];
    this.#machine = new Machine(name, runDirectory);
  }

  isRunning(): boolean {
    return this.#machine.isRunning();
  }

  /**
   * Runs a command as root. Arguments are quoted: what is given is what the program gets.
   * @throws Error with exit code and stderr when it fails, unless `check` is false
   */
  ssh(argv: readonly string[], options: CommandOptions = {}): Promise<Result> {
    return this.sh(argv.map(quote).join(' '), options);
  }

  /** Runs a line of shell as root. */
  sh(script: string, options: CommandOptions = {}): Promise<Result> {
    return run([...sshArgv(this.name), script], { timeoutMs: limits.commandMs, ...options });
  }

  /** Writes a file, whole or not at all. */
  async write(path: string, content: string | Buffer, mode = 0o644): Promise<void> {
    const part = quote(`${path}.part`);
    const place = `cat >${part} && chmod ${mode.toString(8)} ${part} && mv ${part} ${quote(path)}`;
    await this.sh(`mkdir -p "$(dirname ${quote(path)})" && ${place}`, { input: content });
  }

  async read(path: string): Promise<string> {
    return (await this.ssh(['cat', path])).stdout;
  }

  /** Waits on the host for a line of shell to succeed, asked five times a second. */
  async waitFor(what: string, condition: string, timeoutMs: number = limits.commandMs): Promise<void> {
    const loop = `until ${condition}; do sleep 0.2; done`;
    const seconds = Math.ceil(timeoutMs / 1000);
    const { code } = await this.ssh(['timeout', String(seconds), 'sh', '-c', loop], {
      timeoutMs: timeoutMs + limits.processMs,
      check: false,
    });
    if (code !== 0) throw new Error(`${this.name}: waited ${seconds} s for ${what} (exit code ${code})`);
  }

  /** What the host has printed on its serial console since it was powered on. */
  console(): string {
    return readFileSync(this.#machine.path('.console.log'), 'latin1');
  }

  waitForConsole(pattern: RegExp, timeoutMs: number = limits.bootMs): Promise<RegExpExecArray> {
    const what = `${String(pattern)} on the console of ${this.name}`;
    return until(what, () => pattern.exec(this.console()) ?? undefined, timeoutMs);
  }

  async bootId(): Promise<string> {
    return (await this.read('/proc/sys/kernel/random/boot_id')).trim();
  }

  guest(name: string): LabGuest {
    return new LabGuest(this, name);
  }
}

export interface HostStatus {
  readonly name: HostName;
  readonly power: 'on' | 'off' | 'absent';
  readonly pid: number | undefined;
  readonly link: 'up' | 'down' | undefined;
  readonly ssh: string;
}

const saveAttemptsMax = 3;

/** Held while the lab is built, started or stopped. */
const lockPath = join(cacheDirectory, 'lock');
/** Held by a run of tests for as long as it lasts: nobody else may change the lab under it. */
const reservationPath = join(cacheDirectory, 'reserved');
/** Tells the children of the holder of the reservation that it is theirs. */
const reservationVariable = 'REMUS_LAB_RESERVED_BY';

function holderOf(path: string): ProcessIdentity | undefined {
  try {
    const holder = JSON.parse(readFileSync(path, 'utf8')) as ProcessIdentity;
    return isAlive(holder) ? holder : undefined;
  } catch {
    return undefined;
  }
}

/** Waits for a lock and takes it; one whose holder is dead is free. It comes to be with its content in it. */
async function takeLock(path: string, say: Say, timeoutMs: number): Promise<void> {
  mkdirSync(cacheDirectory, { recursive: true });
  const own = `${path}.${process.pid}`;
  let told = false;
  const take = () => {
    try {
      linkSync(own, path);
      return true;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    }
    const holder = holderOf(path);
    if (holder === undefined) rmSync(path, { force: true });
    else if (!told) say(`waiting for process ${holder.pid}, which is at work on the lab`);
    told = holder !== undefined;
    return false;
  };
  writeFileSync(own, JSON.stringify(ownIdentity()));
  try {
    await until('the lab to be free', take, timeoutMs);
  } finally {
    rmSync(own, { force: true });
  }
}

/** @throws Error when a run of tests that we are no part of has reserved the lab */
function assertNotReserved(): void {
  const holder = holderOf(reservationPath);
  if (holder === undefined || holder.pid === process.pid) return;
  if (process.env[reservationVariable] === String(holder.pid)) return;
  throw new Error(`the lab is in use by process ${holder.pid}; nothing was changed. Wait for it to end.`);
}

/** Runs `work` while no other process builds, starts or stops the lab. */
async function locked<T>(say: Say, work: () => Promise<T>): Promise<T> {
  assertNotReserved();
  await takeLock(lockPath, say, limits.buildStepMs);
  try {
    return await work();
  } finally {
    rmSync(lockPath, { force: true });
  }
}

/**
 * Whether a host is sound: its kernel has complained of nothing, RCU grace periods end (`vgs` needs one),
 * and its end of the link is up.
 *
 * A saved machine is tried before it is taken, since every later one starts from it.
 */
async function isSound(name: HostName): Promise<boolean> {
  const address = hostPlans[name].linkAddress;
  const network = `bridge link show dev eth1 | grep -q forwarding && ip -br address | grep -q '${address}/'`;
  const probe = "timeout 60 vgs >/dev/null && ! dmesg | grep -E 'rcu: INFO|BUG:|Oops|blocked for more'";
  const result = await run([...sshArgv(name), `${network} && ${probe}`], {
    timeoutMs: limits.bootMs,
    check: false,
  });
  return result.code === 0;
}

/** Boots a host once from the image, makes `vg0`, saves the host as it is then, and tries the result. */
async function saveMachine(say: Say, image: string, machine: Machine): Promise<void> {
  const { name } = machine.plan;
  const timeoutMs = limits.commandMs;
  const started = performance.now();
  const seconds = () => ((performance.now() - started) / 1000).toFixed(0);
  const backing = ['-F', 'raw', '-b', join(image, `${name}.img`)];
  await run(['qemu-img', 'create', '-q', '-f', 'qcow2', ...backing, machine.path('.qcow2')], { timeoutMs });
  rmSync(machine.path('-vg0.raw'), { force: true });
  const size = `${plan.volumeGroupDiskSizeGib}G`;
  await run(['truncate', '-s', size, machine.path('-vg0.raw')], { timeoutMs });
  await machine.start(image);
  say(`${name}: first boot, ${await waitUntilBooted(machine)} after ${seconds()} s`);
  const prepare = `vgcreate -q ${plan.volumeGroupName} /dev/vdb && sync && echo 3 >/proc/sys/vm/drop_caches`;
  await run([...sshArgv(name), prepare], { timeoutMs });
  await closeSshMaster(name);
  await machine.save(machine.path('.state'));

  const trial = new Machine(name, join(machine.directory, 'trial'));
  mkdirSync(trial.directory, { recursive: true });
  await startNew(trial, image, machine.directory);
  await waitUntilBooted(trial);
  const sound = await isSound(name);
  await trial.cut();
  if (!sound) throw new Error(`${name}: woke unsound from its saved memory`);
  say(`${name}: saved and tried after ${seconds()} s`);
}

/** @returns the directory of the saved machines, made when they are not there */
async function saveMachines(say: Say, image: string): Promise<string> {
  const ready = join(image, 'ready');
  if (existsSync(ready)) return ready;
  const work = join(image, 'ready.part');
  const machines = hostNames.map((name) => new Machine(name, work));
  for (const machine of machines) {
    await machine.cut();
    await new Machine(machine.plan.name, join(work, 'trial')).cut();
  }
  rmSync(work, { recursive: true, force: true });
  mkdirSync(work, { recursive: true });
  const outcomes = await Promise.allSettled(
    machines.map(async (machine) => {
      for (let attempt = 1; ; attempt++) {
        try {
          return await saveMachine(say, image, machine);
        } catch (error) {
          await machine.cut();
          if (attempt === saveAttemptsMax) throw error;
          say(`${machine.plan.name}: ${(error as Error).message}; once more`);
        }
      }
    }),
  );
  for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
  rmSync(join(work, 'trial'), { recursive: true, force: true });
  for (const machine of machines) rmSync(machine.path('.process.json'), { force: true });
  // The overlays name their base by its path, which is that of the image: the rename does not touch it.
  renameSync(work, ready);
  return ready;
}

/** New disks for a host, and its saved memory. */
async function startNew(machine: Machine, image: string, ready: string): Promise<void> {
  const saved = new Machine(machine.plan.name, ready);
  const timeoutMs = limits.commandMs;
  const backing = ['-F', 'qcow2', '-b', saved.path('.qcow2')];
  await run(['qemu-img', 'create', '-q', '-f', 'qcow2', ...backing, machine.path('.qcow2')], { timeoutMs });
  await run(['cp', '--sparse=always', saved.path('-vg0.raw'), machine.path('-vg0.raw')], { timeoutMs });
  await machine.start(image, saved.path('.state'));
}

/** Makes each host run: goes on, boots from its disks, or starts new. */
async function start(say: Say, names: readonly HostName[]): Promise<void> {
  const image = await buildImage(say);
  mkdirSync(runDirectory, { recursive: true });
  const machines = names.map((name) => new Machine(name, runDirectory));
  const keyPath = join(runDirectory, 'recipe');
  const isOther = !existsSync(keyPath) || readFileSync(keyPath, 'utf8') !== recipeKey();
  const anyRunning = hostNames.some((name) => new Machine(name, runDirectory).isRunning());
  if (isOther && anyRunning) {
    say('the running lab was made by another recipe and is kept as it is; "fresh" replaces it');
  } else {
    if (isOther) for (const name of hostNames) removeDisks(name);
    writeSshConfig(image);
  }
  const ready = await saveMachines(say, image);
  writeFileSync(keyPath, isOther && anyRunning ? readFileSync(keyPath, 'utf8') : recipeKey());
  if (!anyRunning) removeOtherImages(image);
  await Promise.all(
    machines.map(async (machine) => {
      const { name } = machine.plan;
      if (machine.isRunning()) return;
      const started = performance.now();
      const how = machine.hasDisks() ? 'booted' : 'new';
      if (how === 'booted') await machine.start(image);
      else await startNew(machine, image, ready);
      const state = await waitUntilBooted(machine);
      // A saved machine wakes with the clock of the day it was saved.
      if (how === 'new')
        await new LabHost(name).ssh(['date', '-u', '-s', `@${(Date.now() / 1000).toFixed(3)}`]);
      say(`${name}: ${how}, ${state} after ${((performance.now() - started) / 1000).toFixed(1)} s`);
    }),
  );
}

/** Waits until each host reaches the other, where both run. */
async function waitForLink(): Promise<void> {
  const hosts = hostNames.map((name) => new LabHost(name));
  if (!hosts.every((host) => host.isRunning())) return;
  const peers = hosts.map((host) => [host, hostPlans[host.plan.peer].linkAddress] as const);
  await Promise.all(
    peers.map(([host, address]) =>
      host.waitFor(`an answer from ${address}`, `ping -q -c 1 -W 5 ${address} >/dev/null`),
    ),
  );
}

function removeDisks(name: HostName): void {
  for (const suffix of ['.qcow2', '-vg0.raw', '.console.log', '.qemu.log']) {
    rmSync(join(runDirectory, `${name}${suffix}`), { force: true });
  }
}

function removeOtherImages(image: string): void {
  for (const entry of readdirSync(cacheDirectory)) {
    if (entry.startsWith('image-') && join(cacheDirectory, entry) !== image) {
      rmSync(join(cacheDirectory, entry), { recursive: true, force: true });
    }
  }
}

const silent: Say = () => {};

export const lab = {
  host(name: HostName): LabHost {
    return new LabHost(name);
  },

  /**
   * Keeps everyone else from changing the lab until this process ends; its children may. Waits for another
   * reservation to end.
   */
  async reserve(say: Say = silent): Promise<void> {
    const holder = holderOf(reservationPath);
    if (holder && process.env[reservationVariable] === String(holder.pid)) return;
    await takeLock(reservationPath, say, limits.reservationMs);
    process.env[reservationVariable] = String(process.pid);
    process.on('exit', () => rmSync(reservationPath, { force: true }));
  },

  /** Both hosts run and answer when this returns; what runs already is left alone. */
  up(say: Say = silent): Promise<void> {
    return locked(say, async () => {
      await install(silent);
      await start(say, hostNames);
      await setLink(hostNames, true);
      await waitForLink();
    });
  },

  /** Both hosts off, at once. Their disks stay: `up` boots from them. */
  down(say: Say = silent): Promise<void> {
    return locked(say, async () => {
      for (const name of hostNames) await new Machine(name, runDirectory).cut();
    });
  },

  /** Throws the hosts away and starts two new ones. */
  fresh(say: Say = silent): Promise<void> {
    return locked(say, async () => {
      await install(silent);
      for (const name of hostNames) {
        await new Machine(name, runDirectory).cut();
        removeDisks(name);
      }
      await start(say, hostNames);
      await waitForLink();
    });
  },

  /** Only the image and the saved machines. */
  image(say: Say = silent): Promise<string> {
    return locked(say, async () => {
      await install(say);
      const image = await buildImage(say);
      if (!existsSync(join(image, 'ready'))) {
        if (hostNames.some((name) => new Machine(name, runDirectory).isRunning())) {
          throw new Error('the lab runs on an older image, whose ports the new one needs: "down" first');
        }
        mkdirSync(runDirectory, { recursive: true });
        writeSshConfig(image);
        await saveMachines(say, image);
      }
      return image;
    });
  },

  /** A power cut. What the host had written to its disks, flushed or not, is on them afterwards. */
  async cut(name: HostName): Promise<void> {
    assertNotReserved();
    await new Machine(name, runDirectory).cut();
  },

  /** Powers a host on and waits until it has booted; nothing when it is on. The link is up. */
  boot(name: HostName, say: Say = silent): Promise<void> {
    return locked(say, () => start(say, [name]));
  },

  /** A clean reboot, waited for. */
  async reboot(name: HostName): Promise<void> {
    assertNotReserved();
    const machine = new Machine(name, runDirectory);
    const host = new LabHost(name);
    await machine.monitor(async (qmp) => {
      const reset = qmp.event('RESET', limits.bootMs);
      // The command's own connection may end before its answer.
      await host.ssh(['systemctl', 'reboot'], { check: false });
      await reset;
    });
    await closeSshMaster(name);
    await waitUntilBooted(machine);
  },

  /** Plugs or pulls the cable between the hosts, at both ends. */
  async link(up: boolean): Promise<void> {
    assertNotReserved();
    await setLink(hostNames, up);
  },

  status(): HostStatus[] {
    return hostNames.map((name): HostStatus => {
      const machine = new Machine(name, runDirectory);
      const ssh = `root@127.0.0.1:${machine.plan.sshPort}`;
      if (!machine.isRunning()) {
        return { name, power: machine.hasDisks() ? 'off' : 'absent', pid: undefined, link: undefined, ssh };
      }
      return { name, power: 'on', pid: machine.identity()?.pid, link: readLink(name), ssh };
    });
  },

  /** What a command that works on the lab needs to know, as environment variables. */
  environment(): Record<string, string> {
    const image = imageDirectory();
    const perHost = hostNames.flatMap((name) => {
      const prefix = `REMUS_LAB_${name.toUpperCase()}`;
      const { sshPort, linkAddress } = hostPlans[name];
      return [
        [`${prefix}_SSH`, `root@127.0.0.1:${sshPort}`],
        [`${prefix}_REPLICATION`, linkAddress],
      ];
    });
    return {
      REMUS_LAB: '1',
      REMUS_LAB_SSH_CONFIG: sshConfigPath,
      REMUS_LAB_KEY: join(image, 'id_ed25519'),
      REMUS_LAB_KNOWN_HOSTS: join(image, 'known_hosts'),
      REMUS_LAB_VOLUME_GROUP: plan.volumeGroupName,
      REMUS_LAB_GUEST: guestDirectory,
      ...(Object.fromEntries(perHost) as Record<string, string>),
    };
  },
};

async function setLink(names: readonly HostName[], up: boolean): Promise<void> {
  await Promise.all(
    names.map(async (name) => {
      const machine = new Machine(name, runDirectory);
      if (!machine.isRunning()) return;
      await machine.monitor((qmp) => qmp.execute('set_link', { name: 'eth1', up }));
      writeFileSync(machine.path('.link'), up ? 'up' : 'down');
    }),
  );
}

/** QMP can't tell the state of a link, so it is noted where it is set; a machine starts with it up. */
function readLink(name: HostName): 'up' | 'down' {
  const path = join(runDirectory, `${name}.link`);
  return existsSync(path) && readFileSync(path, 'utf8') === 'down' ? 'down' : 'up';
}
