/**
 * Two embedded hosts with one embedded DRBD between them, each behind an embedded sshd: what setup, check and
 * the others are tried on where there is no Xen. The guests' kernels are there as files that name themselves.
 */
import type { HostConfig } from '../core/model.js';
import { EmbeddedDrbd } from './drbd.js';
import { EmbeddedMachine, type MachineOptions } from './machine.js';
import { EmbeddedSshd, type EmbeddedSshdOptions } from './sshd.js';

export interface EmbeddedPairOptions {
  /** Names of the two hosts. */
  names: readonly [string, string];
  /** Their replication addresses. */
  replication: readonly [string, string];
  authorizedKeys: readonly string[];
  /** One way, for what is between the controller and the hosts. */
  delayMs?: number;
  /** One for many hosts saves making keys. */
  hostKeys?: readonly string[];
  volumeGroups?: MachineOptions['volumeGroups'];
  files?: MachineOptions['files'];
  drbdModule?: MachineOptions['drbdModule'];
}

export class EmbeddedHost {
  readonly machine: EmbeddedMachine;
  readonly #options: EmbeddedSshdOptions;
  sshd: EmbeddedSshd;

  private constructor(machine: EmbeddedMachine, options: EmbeddedSshdOptions, sshd: EmbeddedSshd) {
    this.machine = machine;
    this.#options = options;
    this.sshd = sshd;
  }

  static async start(machine: EmbeddedMachine, options: EmbeddedSshdOptions): Promise<EmbeddedHost> {
    const sshd = await EmbeddedSshd.start(options);
    // The key has to stay over a reboot.
    const kept = { ...options, hostKeys: sshd.hostKeys, port: sshd.port };
    return new EmbeddedHost(machine, kept, sshd);
  }

  /** For the configuration of the controller. */
  get config(): HostConfig {
    const ssh = { user: 'root', host: '127.0.0.1', port: this.sshd.port };
    return { name: this.machine.name, ssh, replication: this.machine.replication };
  }

  /** The power is cut: connections are lost and refused from now on. */
  async powerCut(): Promise<void> {
    this.machine.powerCut();
    await this.sshd.close();
  }

  async powerOn(): Promise<void> {
    this.machine.powerOn();
    this.sshd = await EmbeddedSshd.start({ ...this.#options, delayMs: this.sshd.delayMs });
  }
}

export class EmbeddedPair {
  readonly drbd: EmbeddedDrbd;
  readonly hosts: readonly [EmbeddedHost, EmbeddedHost];

  private constructor(drbd: EmbeddedDrbd, hosts: readonly [EmbeddedHost, EmbeddedHost]) {
    this.drbd = drbd;
    this.hosts = hosts;
  }

  static async start(options: EmbeddedPairOptions): Promise<EmbeddedPair> {
    const { names, replication, authorizedKeys, delayMs, hostKeys, volumeGroups, files, drbdModule } =
      options;
    const drbd = new EmbeddedDrbd();
    const start = (place: 0 | 1): Promise<EmbeddedHost> => {
      const machine = new EmbeddedMachine({
        name: names[place],
        replication: replication[place],
        drbd,
        place,
        ...(volumeGroups === undefined ? {} : { volumeGroups }),
        ...(files === undefined ? {} : { files }),
        ...(drbdModule === undefined ? {} : { drbdModule }),
      });
      return EmbeddedHost.start(machine, {
        backend: machine,
        authorizedKeys,
        ...(delayMs === undefined ? {} : { delayMs }),
        ...(hostKeys === undefined ? {} : { hostKeys }),
      });
    };
    return new EmbeddedPair(drbd, [await start(0), await start(1)]);
  }

  /** Lines for a known_hosts file. */
  get knownHosts(): string {
    return this.hosts.map(({ sshd }) => sshd.knownHosts).join('');
  }

  /** Commands that no embedded tool answers; a test fails when there is one. */
  get unknown(): string[] {
    return this.hosts.flatMap(({ machine }) =>
      machine.unknown.map((argv) => `${machine.name}: ${argv.join(' ')}`),
    );
  }

  async close(): Promise<void> {
    await Promise.all(this.hosts.map(({ sshd }) => sshd.close()));
  }
}
