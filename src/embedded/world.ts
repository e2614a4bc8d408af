/**
 * Embedded pairs with a real configuration in front of them: a folder with pair.yaml, the guests'
 * configurations, a client key and known_hosts, and the work that the real commands make of it. The
 * controller's code and its SSH are the real ones; only the hosts behind them are embedded.
 */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pairWorks } from '../commands/context.js';
import type { Dependencies, PairWork } from '../commands/converge.js';
import { parseKnownHosts } from '../core/knownhosts.js';
import type { Engine, HostConfig } from '../core/model.js';
import { Paths } from '../core/names.js';
import { textFile, type DesiredFile } from '../core/setup/files.js';
import { loadAssets } from '../edge/assets.js';
import type { Host } from '../edge/host.js';
import { loadConfiguration, type Loaded } from '../edge/load.js';
import { createLog, type Log } from '../edge/log.js';
import { connectHost, type SshLimits } from '../edge/ssh.js';
import { EmbeddedPair } from './pair.js';
import { embeddedKey } from './sshd.js';
import type { MachineOptions } from './machine.js';

export interface WorldOptions {
  /** How many pairs; their hosts are `embedded-1a`, `embedded-1b` and so on, their guests `guest1`... */
  pairs?: number;
  /** Of each guest, as entries of `disks`. */
  disks?: readonly string[];
  /** One way, between the controller and the hosts. */
  delayMs?: number;
  volumeGroups?: MachineOptions['volumeGroups'];
  /** More lines of every pair's configuration, such as `link: ssh`. */
  pairLines?: readonly string[];
  limits?: Partial<SshLimits>;
  /** `protocol-d`: the hosts have DRBD 8.3 with it. */
  engine?: Engine;
}

const KERNEL = '/var/lib/embedded/vmlinuz';
const FIRST_PORT = 7790;

/** In the place of the program for hosts, which embedded hosts don't run. */
const STAND_IN_PROGRAM: DesiredFile = textFile(
  Paths.bundle,
  0o755,
  '// embedded: stands for the program on a real host\n',
);

export class EmbeddedWorld {
  readonly folder: string;
  readonly pairs: readonly EmbeddedPair[];
  readonly #log: Log;
  readonly #limits: Partial<SshLimits>;
  readonly #pairLines: readonly string[];
  readonly #engine: Engine;

  private constructor(folder: string, pairs: readonly EmbeddedPair[], options: WorldOptions) {
    this.folder = folder;
    this.pairs = pairs;
    this.#limits = options.limits ?? {};
    this.#pairLines = options.pairLines ?? [];
    this.#engine = options.engine ?? 'journal';
    this.#log = createLog({ level: 'error', json: false });
  }

  static async start(options: WorldOptions = {}): Promise<EmbeddedWorld> {
    const folder = await mkdtemp(join(tmpdir(), 'remus-drbd-embedded-'));
    const key = embeddedKey();
    const hostKeys = [embeddedKey().private];
    const pairs: EmbeddedPair[] = [];
    for (let index = 1; index <= (options.pairs ?? 1); index++) {
      pairs.push(
        await EmbeddedPair.start({
          names: [`embedded-${index}a`, `embedded-${index}b`],
          replication: [`192.0.2.${2 * index}`, `192.0.2.${2 * index + 1}`],
          authorizedKeys: [key.public],
          hostKeys,
          files: { [KERNEL]: 'embedded: stands for a kernel\n' },
          ...(options.engine === 'protocol-d' ? { drbdModule: '8.3' as const } : {}),
          ...(options.delayMs === undefined ? {} : { delayMs: options.delayMs }),
          ...(options.volumeGroups === undefined ? {} : { volumeGroups: options.volumeGroups }),
        }),
      );
    }
    await writeFile(join(folder, 'id_ed25519'), key.private, { mode: 0o600 });
    await writeFile(join(folder, 'known_hosts'), pairs.map((pair) => pair.knownHosts).join(''));
    const world = new EmbeddedWorld(folder, pairs, options);
    await world.configure(options.disks ?? ['{ vdev: xvda, volumeGroup: vg0, size: 1GiB }']);
    return world;
  }

  /** Writes pair.yaml anew, with these disks for every guest. */
  async configure(disks: readonly string[]): Promise<void> {
    const lines = ['ssh:', '  identityFiles: [ id_ed25519 ]', '  knownHostsFiles: [ known_hosts ]', 'pairs:'];
    for (const [place, pair] of this.pairs.entries()) {
      const name = `guest${place + 1}`;
      lines.push(`  pair${place + 1}:`, '    hosts:');
      for (const { config } of pair.hosts) {
        const { user, host, port } = config.ssh;
        lines.push(
          `      ${config.name}: { ssh: "${user}@${host}:${port}", replication: ${config.replication} }`,
        );
      }
      lines.push(
        ...this.#pairLines.map((line) => `    ${line}`),
        '    domains:',
        `      ${name}:`,
        `        config: ${name}.cfg`,
        `        primary: ${pair.hosts[0].config.name}`,
        `        port: ${FIRST_PORT + place}`,
        ...(this.#engine === 'protocol-d'
          ? ['        engine: protocol-d', `        minor: ${1 + place}`]
          : []),
        '        disks:',
        ...disks.map((disk) => `          - ${disk}`),
      );
      await writeFile(
        join(this.folder, `${name}.cfg`),
        `name = "${name}"\ntype = "pvh"\nkernel = "${KERNEL}"\nmemory = 96\n`,
      );
    }
    await writeFile(this.configFile, `${lines.join('\n')}\n`);
  }

  get configFile(): string {
    return join(this.folder, 'pair.yaml');
  }

  async load(): Promise<{ loaded: Loaded; works: PairWork[] }> {
    const loaded = await loadConfiguration(this.configFile);
    const file = join(this.folder, 'known_hosts');
    const known = parseKnownHosts(await readFile(file, 'utf8'), file);
    return { loaded, works: pairWorks(loaded, await loadAssets(), [STAND_IN_PROGRAM], known.lines) };
  }

  /** What the real commands need, with a connection over real SSH. */
  dependencies(loaded: Loaded): Dependencies {
    return {
      connect: (host: HostConfig): Promise<Host> =>
        connectHost(host, loaded.config.ssh, { log: this.#log, home: this.folder, limits: this.#limits }),
      nowMs: () => performance.now(),
      pause: (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
    };
  }

  /** Commands that no embedded tool knew: a hole in the model, or a wrong command. */
  get unknown(): string[] {
    return this.pairs.flatMap((pair) => pair.unknown);
  }

  async close(): Promise<void> {
    await Promise.all(this.pairs.map((pair) => pair.close()));
    await rm(this.folder, { recursive: true, force: true });
  }
}
