/**
 * Setup on embedded pairs: a configuration for them, and the commands of the program against it over SSH.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pairWorks } from '../../src/commands/context.js';
import type { Dependencies, PairResult, PairWork } from '../../src/commands/converge.js';
import { setupPair, type SetupOptions } from '../../src/commands/setup.js';
import { teardownPair } from '../../src/commands/teardown.js';
import { Paths } from '../../src/core/names.js';
import { textFile } from '../../src/core/setup/files.js';
import type { TeardownOptions } from '../../src/core/setup/teardown.js';
import { loadAssets } from '../../src/edge/assets.js';
import { loadConfiguration, type Loaded } from '../../src/edge/load.js';
import { connectHost, type SshLimits } from '../../src/edge/ssh.js';
import { EmbeddedPair, type EmbeddedPairOptions } from '../../src/embedded/pair.js';
import { Home } from '../edge/support.js';

const GUEST = `name = "web"
type = "pvh"
kernel = "/boot/vmlinuz-guest"
memory = 1024
vcpus = 1
disk = [ 'phy:/dev/vg0/web,xvda,w' ]
`;

/** Disks of the guest `web` as lines for pair.yaml. */
export const TWO_NEW_DISKS = [
  '{ vdev: xvda, volumeGroup: vg0, size: 1GiB }',
  '{ vdev: xvdb, volumeGroup: vg0, size: 512MiB }',
];

export class EmbeddedLab {
  readonly home: Home;
  readonly pairs: EmbeddedPair[];
  readonly directory: string;
  readonly #limits: Partial<SshLimits>;

  private constructor(home: Home, pairs: EmbeddedPair[], limits: Partial<SshLimits>) {
    this.home = home;
    this.pairs = pairs;
    this.#limits = limits;
    this.directory = mkdtempSync(join(tmpdir(), 'remus-drbd-test-'));
  }

  static async start(
    count = 1,
    options: Partial<EmbeddedPairOptions> = {},
    limits: Partial<SshLimits> = {},
  ): Promise<EmbeddedLab> {
    const home = new Home();
    const pairs: EmbeddedPair[] = [];
    for (let n = 0; n < count; n += 1) {
      const suffix = n === 0 ? '' : String(n);
      pairs.push(
        await EmbeddedPair.start({
          names: [`alpha${suffix}`, `beta${suffix}`],
          replication: [`10.0.${n}.1`, `10.0.${n}.2`],
          authorizedKeys: [home.key.public],
          files: { '/boot/vmlinuz-guest': 'embedded kernel' },
          ...options,
        }),
      );
    }
    const lab = new EmbeddedLab(home, pairs, limits);
    writeFileSync(home.knownHostsFile, pairs.map((pair) => pair.knownHosts).join(''));
    return lab;
  }

  get pair(): EmbeddedPair {
    return this.pairs[0] as EmbeddedPair;
  }

  /** Writes the configuration for all pairs and reads it as the program does. */
  async load(disks: readonly string[] = TWO_NEW_DISKS): Promise<{ loaded: Loaded; works: PairWork[] }> {
    const pairs = this.pairs.map((pair, n) => {
      const hosts = pair.hosts.map(({ config: { name, ssh, replication } }) => {
        return `      ${name}: { ssh: "root@127.0.0.1:${ssh.port}", replication: ${replication} }\n`;
      });
      const domain = n === 0 ? 'web' : `web${n}`;
      writeFileSync(join(this.directory, `${domain}.cfg`), GUEST.replace('"web"', `"${domain}"`));
      return (
        `  pair${n}:\n    hosts:\n${hosts.join('')}    arbiter: operator\n    domains:\n      ${domain}:\n` +
        `        config: ${domain}.cfg\n        primary: ${pair.hosts[0].machine.name}\n        port: ${7790 + 10 * n}\n` +
        `        disks:\n${disks.map((disk) => `          - ${disk}\n`).join('')}`
      );
    });
    const file = join(this.directory, 'pair.yaml');
    writeFileSync(file, `pairs:\n${pairs.join('')}`);
    const loaded = await loadConfiguration(file);
    const bundle = [textFile(Paths.bundle, 0o755, 'embedded: stands for the bundle\n')];
    return { loaded, works: pairWorks(loaded, await loadAssets(), bundle) };
  }

  get dependencies(): Dependencies {
    const settings = { identityFiles: [], knownHostsFiles: [this.home.knownHostsFile] };
    let ms = 0;
    return {
      connect: (host) => connectHost(host, settings, this.home.deps(this.#limits)),
      // Time passes only where the program waits.
      nowMs: () => ms,
      pause: (pauseMs) => {
        ms += pauseMs;
        return Promise.resolve();
      },
    };
  }

  async setup(work: PairWork, options: Partial<SetupOptions> = {}): Promise<PairResult> {
    const all = { overwrite: new Set<string>(), dryRun: false, wait: true, ...options };
    return setupPair(work, this.dependencies, all, QUIET);
  }

  async teardown(work: PairWork, options: Partial<TeardownOptions> = {}): Promise<PairResult> {
    const domains = new Set(work.layouts.map(({ domain }) => domain.name));
    const all = { domains, deleteData: new Set<string>(), dryRun: false, ...options };
    return teardownPair(work, this.dependencies, all, QUIET);
  }

  async close(): Promise<void> {
    await Promise.all(this.pairs.map((pair) => pair.close()));
    this.home.remove();
    rmSync(this.directory, { recursive: true });
  }
}

const QUIET = { line: (): void => undefined, state: (): void => undefined };
