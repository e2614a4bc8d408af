/**
 * /etc/remus-drbd/domains/DOMAIN.json: what both hosts know of a domain. The programs on the hosts read it,
 * and setup compares it with what the configuration asks for now.
 *
 * It holds nothing of the machine that setup ran on, so it is the same whoever runs it. The fence agents'
 * arguments may be secret, so only root may read it.
 */

import type { Arbiter, DomainLayout, Engine, Pair, VolumeLayout } from './model.js';

export const DOMAIN_FILE_FORMAT = 1;

export interface DomainFile {
  format: typeof DOMAIN_FILE_FORMAT;
  domain: string;
  pair: string;
  engine: Engine;
  /** The parts as configured; a failover or switchover swaps them until `setup` is run again. */
  primary: string;
  backup: string;
  hosts: { name: string; ssh: { user: string; host: string; port: number }; replication: string }[];
  link: Pair['link'];
  port: number;
  linkPort: number;
  volumes: VolumeLayout[];
  journal?: { volumeGroup: string; lv: string; sizeBytes: number };
  checkpoint: { intervalMs: number; failAfterMs: number };
  pin?: { dom0: number[]; guest: number[] };
  autoRecover: boolean;
  onCrash: 'stop' | 'failover';
  arbiter: Arbiter;
}

/** The file's content as data; its keys always in this order. */
export function domainFile({ domain, pair, hosts, volumes, journal }: DomainLayout): DomainFile {
  return {
    format: DOMAIN_FILE_FORMAT,
    domain: domain.name,
    pair: pair.name,
    engine: domain.engine,
    primary: domain.primary,
    backup: domain.backup,
    hosts: hosts.map(({ name, ssh, replication }) => {
      return { name, ssh: { user: ssh.user, host: ssh.host, port: ssh.port }, replication };
    }),
    link: pair.link,
    port: domain.port,
    linkPort: domain.linkPort,
    volumes,
    ...(journal === undefined ? {} : { journal }),
    checkpoint: domain.checkpoint,
    ...(domain.pin === undefined ? {} : { pin: domain.pin }),
    autoRecover: domain.autoRecover,
    onCrash: domain.onCrash,
    arbiter: pair.arbiter,
  };
}
