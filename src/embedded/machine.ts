/**
 * An embedded Xen host: a model of Debian with Xen, LVM and DRBD that answers, in the real tools' formats,
 * what this project asks of a host. It runs nothing and stores nothing outside of this process.
 *
 * A tool is one small function in `tools-*.ts`. A command that no tool answers, or an option that a tool
 * doesn't know, is recorded in `unknown` and fails, so that a test can insist that there was none. `replace`
 * puts another tool in the place of one, to model a host that is broken in some way.
 */
import { FileSystem } from './file-system.js';
import type { EmbeddedDrbd, DrbdKernel } from './drbd.js';
import { NotModelled } from './results.js';
import type { EmbeddedBackend, EmbeddedResult, EmbeddedStream } from './sshd.js';
import { drbdTools } from './tools-drbd.js';
import { procDrbd83 } from './tools-drbd-83.js';
import { fileTools } from './tools-files.js';
import { storageTools } from './tools-storage.js';
import { loadModules, startEnabledUnits, systemTools, type Unit } from './tools-system.js';
import { lvMapperName, type Lv, type Mapping, type Vg } from './volumes.js';

/** A tool: what a program does with its arguments (without its own name). */
export type Tool = (
  machine: EmbeddedMachine,
  args: readonly string[],
  input: Buffer,
) => EmbeddedResult | Promise<EmbeddedResult>;

export interface EmbeddedGuest {
  name: string;
  memoryMiB: number;
}

export interface MachineOptions {
  /** What `uname -n` prints. */
  name: string;
  replication: string;
  /** Shared by the two machines of a pair, with each one's place in it. */
  drbd: EmbeddedDrbd;
  place: 0 | 1;
  /** By name: size in bytes. */
  volumeGroups?: Record<string, number>;
  files?: Record<string, string>;
  /** Of the kernel; 8.3 is that with protocol D. */
  drbdModule?: '8.3' | '8.4';
}

const EXTENT_BYTES = 4 * 1024 * 1024;
const DEFAULT_GROUPS = { vg0: 64 * 1024 ** 3 };
/** Where Debian's packages put files that matter here; the texts are made up. */
const PACKAGED_FILES: Record<string, string> = {
  '/etc/drbd.conf': 'include "drbd.d/global_common.conf";\ninclude "drbd.d/*.res";\n',
  '/etc/drbd.d/global_common.conf': 'global {\n}\ncommon {\n}\n',
  '/etc/xen/scripts/block-drbd': '#!/bin/sh\n# embedded: stands for the script of drbd-utils\n',
};

export class EmbeddedMachine implements EmbeddedBackend {
  readonly name: string;
  readonly replication: string;
  readonly drbd: EmbeddedDrbd;
  readonly kernel: DrbdKernel;
  readonly drbdModule: '8.3' | '8.4';
  readonly files: FileSystem;
  readonly packagedFiles = PACKAGED_FILES;
  readonly volumeGroups: Vg[];
  readonly diversions: { path: string; to: string }[] = [];
  /** By name; what is enabled stays over a reboot. */
  readonly units = new Map<string, Unit>();
  guests: EmbeddedGuest[] = [];
  /** By domain: the CPUs that its vCPU 0 may run on, as xl prints them; `all` where there is none. */
  readonly affinity = new Map<string, string>();
  /** In the kernel now. */
  modules = new Set<string>();
  mappings: Mapping[] = [];
  /** Files that a stream holds a lock on. */
  readonly locks = new Set<string>();
  /** Commands that no tool answers, as they came. Empty at the end of a good test. */
  readonly unknown: string[][] = [];
  /** All commands in the order they ran, and uploads as `upload PATH`; probes too. */
  readonly ran: string[][] = [];
  clockOffsetMs = 0;
  /** How often a reboot has taken place. */
  boots = 0;
  #sequence = 0;
  readonly #tools = new Map<string, Tool>([...fileTools, ...storageTools, ...drbdTools, ...systemTools]);

  constructor(options: MachineOptions) {
    this.name = options.name;
    this.replication = options.replication;
    this.drbd = options.drbd;
    this.kernel = options.drbd.kernels[options.place];
    this.drbdModule = options.drbdModule ?? '8.4';
    this.files = new FileSystem({ ...PACKAGED_FILES, ...options.files }, (path) => this.#special(path));
    this.volumeGroups = Object.entries(options.volumeGroups ?? DEFAULT_GROUPS).map(([name, sizeBytes]) => ({
      name,
      sizeBytes,
      extentBytes: EXTENT_BYTES,
      lvs: [],
    }));
    this.#boot();
  }

  // --- What a test does to it

  /** Puts another answer in the place of a program's. */
  replace(program: string, tool: Tool): void {
    this.#tools.set(program, tool);
  }

  /** A program that is not installed. */
  remove(program: string): void {
    this.#tools.delete(program);
  }

  /** A power cut and what comes up by itself afterwards. */
  reboot(): void {
    this.powerCut();
    this.powerOn();
  }

  /** Everything volatile is gone at once. */
  powerCut(): void {
    this.drbd.crash(this.kernel);
    this.mappings = [];
    this.modules = new Set();
    this.guests = [];
    this.affinity.clear();
    this.locks.clear();
    this.files.forgetVolatile();
    for (const unit of this.units.values()) {
      unit.active = 'inactive';
      delete unit.loaded;
    }
  }

  powerOn(): void {
    this.boots += 1;
    this.#boot();
    loadModules(this);
    startEnabledUnits(this);
  }

  /** An LV that is there before setup, with something on it. */
  addLv(lv: Partial<Lv> & Pick<Lv, 'volumeGroup' | 'name' | 'sizeBytes' | 'content'>): Lv {
    const vg = this.volumeGroups.find(({ name }) => name === lv.volumeGroup);
    if (vg === undefined) throw new Error(`no volume group ${lv.volumeGroup}`);
    const whole: Lv = { tags: [], active: true, minor: this.nextDmMinor(), ...lv };
    vg.lvs.push(whole);
    return whole;
  }

  // --- What tools use

  get lvs(): Lv[] {
    return this.volumeGroups.flatMap(({ lvs }) => lvs);
  }

  /** The LV behind a device path: its own node, its mapper node, or one of our mappings. */
  lvAt(path: string): Lv | undefined {
    const mapped = this.mappings.find(({ name }) => path === `/dev/mapper/${name}`);
    if (mapped !== undefined) return mapped.lv;
    return this.lvs.find(
      (lv) =>
        lv.active &&
        (path === `/dev/${lv.volumeGroup}/${lv.name}` || path === `/dev/mapper/${lvMapperName(lv)}`),
    );
  }

  /** Whether something has it open. */
  isOpen(lv: Lv): boolean {
    return lv.mounted !== undefined || this.mappings.some((mapping) => mapping.lv === lv) || this.#isMeta(lv);
  }

  nextDmMinor(): number {
    const used = [...this.lvs, ...this.mappings].map(({ minor }) => minor);
    for (let minor = 0; ; minor += 1) if (!used.includes(minor)) return minor;
  }

  /** A name for bytes or a key that nothing else on this machine has. */
  unique(what: string): string {
    this.#sequence += 1;
    return `${what} ${this.#sequence} of ${this.name}`;
  }

  nowMs(): number {
    return Date.now() + this.clockOffsetMs;
  }

  // --- What the sshd asks

  async run(argv: readonly string[], input: Buffer = Buffer.alloc(0)): Promise<EmbeddedResult> {
    this.ran.push([...argv]);
    const [program = '', ...args] = argv;
    const tool = this.#tools.get(program);
    if (tool === undefined) {
      if (!this.files.exists(program)) this.unknown.push([...argv]);
      return {
        exitCode: 127,
        stdout: '',
        stderr: `timeout: failed to run command '${program}': No such file or directory\n`,
      };
    }
    try {
      return await tool(this, args, input);
    } catch (error) {
      if (!(error instanceof NotModelled)) throw error;
      this.unknown.push([...argv]);
      return { exitCode: 127, stdout: '', stderr: `embedded ${program}: not modelled: ${error.message}\n` };
    }
  }

  putFile(path: string, content: Buffer, mode: number): void {
    this.ran.push(['upload', path]);
    this.files.write(path, content, mode);
  }

  async stream(argv: readonly string[], stream: EmbeddedStream): Promise<EmbeddedResult> {
    const [program, ...args] = argv;
    if (program === 'flock') {
      this.ran.push([...argv]);
      return this.#lock(args, stream);
    }
    if (program === 'node' && args[0] === '-e' && args[1]?.includes('createServer')) {
      this.ran.push([...argv]);
      stream.line('listening 40000');
      await stream.ended;
      return { exitCode: 143, stdout: '', stderr: '' };
    }
    return this.run(argv);
  }

  async #lock(args: readonly string[], stream: EmbeddedStream): Promise<EmbeddedResult> {
    const [option, file, ...command] = args;
    if (!['-n', '--nonblock'].includes(option ?? '') || file === undefined || command.length === 0) {
      throw new NotModelled('flock has to be called with -n FILE COMMAND');
    }
    if (this.locks.has(file)) return { exitCode: 1, stdout: '', stderr: '' };
    this.locks.add(file);
    try {
      stream.line('locked');
      await stream.ended;
    } finally {
      this.locks.delete(file);
    }
    return { exitCode: 143, stdout: '', stderr: '' };
  }

  #isMeta(lv: Lv): boolean {
    return [...this.kernel.resources.values()].some((resource) =>
      [...resource.volumes.values()].some(({ meta, disk }) => meta === lv && disk !== 'Diskless'),
    );
  }

  #boot(): void {
    this.modules = new Set(['dm_mod']);
    for (const lv of this.lvs) {
      lv.active = true;
      lv.minor = -1;
    }
    for (const lv of this.lvs) lv.minor = this.nextDmMinor();
  }

  /** Device nodes and the kernel's own files. */
  #special(path: string): string | undefined {
    if (path === '/proc/modules') {
      return [...this.modules]
        .map(
          (name) =>
            `${name} 16384 ${name === 'drbd' ? this.kernel.resources.size : 0} - Live 0xffffffffc0a00000\n`,
        )
        .join('');
    }
    if (path === '/proc/sys/kernel/random/boot_id') {
      return `00000000-0000-4000-8000-${String(this.boots).padStart(12, '0')}\n`;
    }
    if (path === '/proc/meminfo') {
      return 'MemTotal:        1000352 kB\nMemFree:          623612 kB\nMemAvailable:     741708 kB\n';
    }
    if (path === '/proc/drbd' && this.modules.has('drbd')) {
      if (this.drbdModule === '8.3') return procDrbd83(this);
      return 'version: 8.4.11 (api:1/proto:86-101)\nsrcversion: EMBEDDED0000000000000000 \n';
    }
    const module = /^\/sys\/module\/([^/]+)$/.exec(path)?.[1];
    if (module !== undefined && this.modules.has(module)) return '';
    return this.lvAt(path) === undefined ? undefined : '';
  }
}
