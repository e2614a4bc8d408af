/** The product as its users run it, on the lab: the built bundle, a pair.yaml, its exit codes. */
import { spawn } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { guestConfig } from '../../scripts/lab/guest.js';
import { lab } from '../../scripts/lab/hosts.js';
import { volumeGroupName } from '../../scripts/lab/plan.js';
import { run, type Result } from '../../scripts/lab/processes.js';
import type { DomainStatus } from '../../src/core/status.js';

/** Ends a hang; a setup under emulation takes minutes. */
const LIMIT_MS = 30 * 60_000;
const STATUS_MS = 15 * 60_000;

/** `disks` of a guest with two of them, as YAML. */
export const TWO_DISKS = [
  '{ vdev: xvda, volumeGroup: vg0, size: 48MiB }',
  '{ vdev: xvdb, volumeGroup: vg0, size: 24MiB }',
];
/** Under emulation a checkpoint takes longer than the second after which a host counts as lost. */
export const SLOW_CHECKPOINT = 'checkpoint: { interval: 200ms, failAfter: 10s }';

export interface DomainOptions {
  name: string;
  port: number;
  /** Entries of `disks`, as YAML. */
  disks: string[];
  /** Address of the guest on the bridge, with its prefix length. */
  address?: string;
  more?: string;
}

export interface PairOptions {
  /** As YAML; without it the default. */
  arbiter?: string;
}

export class Product {
  readonly folder: string;

  private constructor(folder: string) {
    this.folder = folder;
  }

  /** Writes pair.yaml and the guests' configurations for the lab's two hosts. */
  static async make(domains: readonly DomainOptions[], options: PairOptions = {}): Promise<Product> {
    const product = new Product(await mkdtemp(join(tmpdir(), 'remus-lab-')));
    await product.configure(domains, options);
    return product;
  }

  async configure(domains: readonly DomainOptions[], { arbiter }: PairOptions = {}): Promise<void> {
    const env = lab.environment();
    const hosts = ['ALPHA', 'BETA'].map(
      (host) =>
        `      ${host.toLowerCase()}: { ssh: "${env[`REMUS_LAB_${host}_SSH`]}", replication: ${env[`REMUS_LAB_${host}_REPLICATION`]} }`,
    );
    const lines = [
      'ssh:',
      `  identityFiles: [ "${env['REMUS_LAB_KEY']}" ]`,
      `  knownHostsFiles: [ "${env['REMUS_LAB_KNOWN_HOSTS']}" ]`,
      'pairs:',
      '  lab:',
      '    hosts:',
      ...hosts,
      ...(arbiter === undefined ? [] : [`    arbiter: ${arbiter}`]),
      '    domains:',
    ];
    for (const { name, port, disks, address, more = '' } of domains) {
      lines.push(
        `      ${name}:`,
        `        config: ${name}.cfg`,
        '        primary: alpha',
        `        port: ${port}`,
        `        journal: { volumeGroup: ${volumeGroupName}, size: 64MiB }`,
        '        disks:',
        ...disks.map((disk) => `          - ${disk}`),
        ...(more === '' ? [] : [`        ${more}`]),
      );
      await writeFile(
        join(this.folder, `${name}.cfg`),
        guestConfig({ name, ...(address === undefined ? {} : { address }) }),
      );
    }
    await writeFile(join(this.folder, 'pair.yaml'), `${lines.join('\n')}\n`);
  }

  argv(words: readonly string[]): string[] {
    return [process.execPath, 'dist/remus-drbd.cjs', '-c', join(this.folder, 'pair.yaml'), ...words];
  }

  /** Runs a command of the product to its end, whatever its exit code. */
  async run(...words: string[]): Promise<Result> {
    const result = await run(this.argv(words), { timeoutMs: LIMIT_MS, check: false });
    process.stdout.write(
      `    remus-drbd ${words.join(' ')}: exit ${result.code}, ${(result.durationMs / 1000).toFixed(0)} s\n`,
    );
    return result;
  }

  /** Runs it and demands an exit code; what it said is in the error. */
  async expect(code: number, ...words: string[]): Promise<Result> {
    const result = await this.run(...words);
    if (result.code !== code) {
      throw new Error(
        `remus-drbd ${words.join(' ')} ended with ${result.code}, ${code} is expected\n${result.stdout}\n${result.stderr}`,
      );
    }
    return result;
  }

  /** What `status` says of one domain. */
  async status(domain: string): Promise<DomainStatus> {
    const { stdout } = await this.run('status', '--json');
    const { domains } = JSON.parse(stdout) as { domains: DomainStatus[] };
    const found = domains.find((each) => each.domain === domain);
    if (found === undefined) throw new Error(`status has no ${domain}: ${stdout}`);
    return found;
  }

  /** Waits until status says so; what it says in the end is in the error. */
  async waitForStatus(
    domain: string,
    what: string,
    holds: (status: DomainStatus) => boolean,
  ): Promise<DomainStatus> {
    const deadline = Date.now() + STATUS_MS;
    for (;;) {
      const now = await this.status(domain);
      if (holds(now)) return now;
      if (Date.now() > deadline) throw new Error(`${what}: not yet: ${JSON.stringify(now)}`);
    }
  }

  /**
   * Runs it and kills it (SIGKILL) as soon as its progress matches.
   *
   * @throws Error when it ended before
   */
  killAt(pattern: RegExp, ...words: string[]): Promise<void> {
    const [program, ...rest] = this.argv(words);
    return new Promise((resolve, reject) => {
      const child = spawn(program ?? '', rest, { stdio: ['ignore', 'ignore', 'pipe'] });
      let said = '';
      let killed = false;
      const timer = setTimeout(() => child.kill('SIGKILL'), LIMIT_MS);
      child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
        said += chunk;
        if (killed || !pattern.test(said)) return;
        killed = true;
        child.kill('SIGKILL');
      });
      child.on('error', reject);
      child.on('close', (code) => {
        clearTimeout(timer);
        if (killed) resolve();
        else reject(new Error(`it ended with ${code} before ${String(pattern)}:\n${said}`));
      });
    });
  }

  async clean(): Promise<void> {
    await rm(this.folder, { recursive: true, force: true });
  }
}
