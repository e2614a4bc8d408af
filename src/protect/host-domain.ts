/** What a process on a host has to know of its domain: the files that setup and `protect` left there. */
import { readFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import type { DomainFile } from '../core/domain-file.js';
import { DOMAIN_FILE_FORMAT } from '../core/domain-file.js';
import { ExitCode, OperatorError } from '../core/errors.js';
import { Paths, runPath } from '../core/names.js';
import { parseOrder } from '../core/protect/order.js';
import type { Order } from '../core/protect/order.js';
import type { Identity } from '../core/protect/types.js';
import { TLS_CERTIFICATE } from '../core/facts.js';
import { linkSocketPath, linkSshOptions } from '../core/setup/ssh.js';
import { peerCertificatePath, TLS_KEY } from '../core/setup/view.js';
import type { Route } from '../link/client.js';
import type { ListenOptions } from '../link/server.js';
import type { TlsFiles } from '../link/tls.js';

export interface HostDomain {
  domain: DomainFile;
  /** This host and the other one of the pair, by their names in the configuration. */
  host: string;
  peer: DomainFile['hosts'][number];
  own: DomainFile['hosts'][number];
  stateDirectory: string;
  runDirectory: string;
}

/** @throws OperatorError where setup has not been here, or this is no host of the domain */
export async function readHostDomain(name: string): Promise<HostDomain> {
  const path = join(Paths.domains, `${name}.json`);
  let domain: DomainFile;
  try {
    domain = JSON.parse(await readFile(path, 'utf8')) as DomainFile;
  } catch (error) {
    throw new OperatorError(
      `${name}: ${path}: ${(error as Error).message}; run setup`,
      ExitCode.usage,
      error,
    );
  }
  if (domain.format !== DOMAIN_FILE_FORMAT) {
    throw new OperatorError(
      `${name}: ${path} has format ${String(domain.format)}; run setup`,
      ExitCode.usage,
    );
  }
  const host = hostname();
  const own = domain.hosts.find((each) => each.name === host);
  const peer = domain.hosts.find((each) => each.name !== host);
  if (own === undefined || peer === undefined) {
    throw new OperatorError(`${name}: this host is ${host}, which is not one of its hosts`, ExitCode.usage);
  }
  return {
    domain,
    host,
    own,
    peer,
    stateDirectory: join(Paths.state, name),
    runDirectory: join(Paths.run, name),
  };
}

export function orderPath(domain: string): string {
  return runPath(domain, 'order.json');
}

/** @throws OperatorError where `protect` has not been here since the host was started */
export async function readHostOrder(name: string): Promise<Order> {
  try {
    return parseOrder(await readFile(orderPath(name), 'utf8'));
  } catch (error) {
    throw new OperatorError(
      `${name}: ${orderPath(name)}: ${(error as Error).message}; remus-drbd protect writes it`,
      ExitCode.usage,
      error,
    );
  }
}

export function identityOf(order: Order): Identity {
  const { pair, domain, term, session } = order;
  return { pair, domain, term, session };
}

function tlsFiles(peer: string): TlsFiles {
  return { certPath: TLS_CERTIFICATE, keyPath: TLS_KEY, peerCertPath: peerCertificatePath(peer) };
}

/** Where the receiver of a domain listens on this host. */
export function linkListen({ domain, own, peer }: HostDomain): ListenOptions['listen'] {
  return domain.link === 'ssh'
    ? { path: linkSocketPath(domain.domain) }
    : { address: own.replication, port: domain.linkPort, tls: tlsFiles(peer.name) };
}

/** The way from the sender to the receiver. */
export function routeTo({ domain, own, peer, runDirectory }: HostDomain): Route {
  if (domain.link === 'ssh') {
    return {
      kind: 'ssh',
      target: `root@${peer.replication}`,
      remotePath: linkSocketPath(domain.domain),
      directory: runDirectory,
      options: linkSshOptions(own),
    };
  }
  return { kind: 'tls', host: peer.replication, port: domain.linkPort, tls: tlsFiles(peer.name) };
}
