/**
 * The validated configuration, and the layout that follows from it: what each host has to have for each
 * domain. `config.ts` makes the first from pair.yaml, `layout.ts` the second; everything later reads these
 * types and never the file.
 */

export interface Config {
  /** Path of the file it came from, for messages. */
  file: string;
  ssh: SshSettings;
  pairs: Pair[];
}

export interface SshSettings {
  /** Private key files to offer, besides the agent's keys. Absolute, or relative to the configuration. */
  identityFiles: string[];
  /** Files in OpenSSH's known_hosts format. */
  knownHostsFiles: string[];
}

export interface Pair {
  name: string;
  hosts: [HostConfig, HostConfig];
  arbiter: Arbiter;
  /** How sender and receiver talk to each other. */
  link: 'tls' | 'ssh';
  domains: Domain[];
}

export interface HostConfig {
  /** Name in the configuration; it has to be what `uname -n` prints, because DRBD's `on` sections use that. */
  name: string;
  ssh: { user: string; host: string; port: number };
  /** Address for replication, IPv4 or IPv6, without brackets. */
  replication: string;
}

export type Arbiter =
  /** The files are on the hosts. */
  | {
      kind: 'etcd';
      endpoints: string[];
      user?: string;
      passwordFile?: string;
      caFile?: string;
      /** The host's own certificate for etcd, and its key. */
      certFile?: string;
      keyFile?: string;
    }
  | { kind: 'ssh'; user: string; host: string; port: number; directory: string }
  /**
   * One fence-agents command line (program and arguments) for each host of the pair: the one that powers it off.
   * `delaysMs`: how long its peer waits before it does so, where it does.
   */
  | { kind: 'fence'; agents: Record<string, string[]>; delaysMs?: Record<string, number> }
  | { kind: 'operator' }
  /** Goes on alone with no arbiter; both copies may run after a cut. */
  | { kind: 'unsafe-may-split' };

export type Engine = 'journal' | 'protocol-d';

export interface Domain {
  name: string;
  pair: string;
  /** The guest's xl configuration on the machine of the controller, absolute. */
  configFile: string;
  primary: string;
  backup: string;
  engine: Engine;
  /** TCP port of the DRBD resource, the same on both hosts. */
  port: number;
  /** TCP port of the receiver (bulk and control connections). */
  linkPort: number;
  /** First of the domain's 16 DRBD minors. */
  minor: number;
  disks: Disk[];
  /** Absent with `protocol-d`, where the DRBD module itself buffers on the backup. */
  journal?: { volumeGroup: string; sizeBytes: number };
  checkpoint: { intervalMs: number; failAfterMs: number };
  pin?: { dom0: number[]; guest: number[] };
  autoRecover: boolean;
  /** What the backup does when the guest itself crashes under protection. */
  onCrash: 'stop' | 'failover';
  drill: DrillSettings;
}

/** How a drill of a domain is done where the command line does not say otherwise. */
export interface DrillSettings {
  /** What is run on the backup; its exit code decides. */
  check?: string[];
  /** What the check may take. */
  timeoutMs: number;
  /** For the snapshot of each disk. */
  snapshotBytes?: number;
}

export interface Disk {
  /** Position in the list: the DRBD volume number. */
  volume: number;
  /** The guest's name of the disk, such as `xvda`. */
  vdev: string;
  volumeGroup: string;
  /** A size for an LV that setup makes, or the name of an LV that exists on both hosts. */
  source: { kind: 'new'; sizeBytes: number } | { kind: 'existing'; logicalVolume: string };
}

/** One volume of a domain's resource as it has to be on both of its hosts. */
export interface VolumeLayout {
  volume: number;
  minor: number;
  role: 'disk' | 'barrier';
  /** The guest's name for it; absent for the barrier volume. */
  vdev?: string;
  volumeGroup: string;
  /** The LV with the data. */
  dataLv: string;
  /** True where setup makes the data LV; false where the user's existing one is taken. */
  makeData: boolean;
  /** Size of an LV that setup makes; for an existing one it is known only from the hosts. */
  sizeBytes?: number;
  metaLv: string;
  /** The device-mapper device between DRBD and the LV. */
  mapper: string;
}

/** Everything both hosts of a domain have to have. It is the same on both, since their parts can swap. */
export interface DomainLayout {
  domain: Domain;
  pair: Pair;
  hosts: [HostConfig, HostConfig];
  volumes: VolumeLayout[];
  /** Absent with `protocol-d`. */
  journal?: { volumeGroup: string; lv: string; sizeBytes: number };
}
