/**
 * Debian's etcd on loopback ports, one member or several, with certificates and users where wanted. Each member is
 * a process of its own that can be killed, stopped and started again on its data.
 */
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { EtcdMember, type EtcdCredentials } from '../../src/arbiter/etcd-gateway.js';

export const ETCD = '/usr/bin/etcd';
export const OPENSSL = '/usr/bin/openssl';

interface Member {
  name: string;
  client: string;
  peer: string;
  process?: ChildProcess | undefined;
}

/** Files of a certificate authority and of what it has signed. */
export interface Certificates {
  ca: string;
  serverCert: string;
  serverKey: string;
  clientCert: string;
  clientKey: string;
  /** An authority that has signed nothing here. */
  otherCa: string;
}

export class EtcdCluster {
  readonly directory = mkdtempSync(join(tmpdir(), 'remus-etcd-'));
  readonly members: Member[] = [];
  certificates: Certificates | undefined;

  get endpoints(): string[] {
    return this.members.map(({ client }) => client);
  }

  /** Makes and starts the members; returns when each serves. */
  static async start(count: number, options: { tls: boolean } = { tls: false }): Promise<EtcdCluster> {
    const cluster = new EtcdCluster();
    if (options.tls) cluster.certificates = makeCertificates(cluster.directory);
    const ports = await freePorts(2 * count);
    for (let n = 0; n < count; n += 1) {
      cluster.members.push({
        name: `m${n}`,
        client: `${options.tls ? 'https' : 'http'}://127.0.0.1:${ports[2 * n]}`,
        peer: `http://127.0.0.1:${ports[2 * n + 1]}`,
      });
    }
    await cluster.startMembers(cluster.members.map((_, n) => n));
    return cluster;
  }

  async startMembers(which: readonly number[]): Promise<void> {
    await Promise.all(which.map((n) => this.#startMember(this.members[n]!)));
  }

  /** A power cut for these members. */
  async kill(which: readonly number[]): Promise<void> {
    await Promise.all(
      which.map(async (n) => {
        const { process: child } = this.members[n]!;
        this.members[n]!.process = undefined;
        if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
        const exited = once(child, 'exit');
        child.kill('SIGKILL');
        await exited;
      }),
    );
  }

  /** SIGSTOP or SIGCONT: alive to the network, and silent. */
  signal(name: 'SIGSTOP' | 'SIGCONT'): void {
    for (const { process: child } of this.members) child?.kill(name);
  }

  async remove(): Promise<void> {
    this.signal('SIGCONT');
    await this.kill(this.members.map((_, n) => n));
    rmSync(this.directory, { recursive: true, force: true });
  }

  /** Writes a password file. */
  password(name: string, text: string): string {
    const path = join(this.directory, name);
    writeFileSync(path, text, { mode: 0o600 });
    return path;
  }

  /** Turns authentication on, with a user that may use claims only. */
  async requireUsers(user: string, password: string, credentials: EtcdCredentials): Promise<void> {
    const admin = new EtcdMember(this.endpoints[0]!, credentials);
    const call = (path: string, body: object): Promise<unknown> =>
      admin.call(path, body, AbortSignal.timeout(60_000));
    const base64 = (text: string): string => Buffer.from(text).toString('base64');
    await call('/v3/auth/user/add', { name: 'root', password: 'root-password' });
    await call('/v3/auth/role/add', { name: 'root' });
    await call('/v3/auth/user/grant', { user: 'root', role: 'root' });
    await call('/v3/auth/role/add', { name: 'claims' });
    const [key, range_end] = [base64('/remus-drbd/claims/'), base64('/remus-drbd/claims0')];
    await call('/v3/auth/role/grant', { name: 'claims', perm: { permType: 'READWRITE', key, range_end } });
    await call('/v3/auth/user/add', { name: user, password });
    await call('/v3/auth/user/grant', { user, role: 'claims' });
    await call('/v3/auth/user/add', { name: 'guest', password });
    await call('/v3/auth/enable', {});
  }

  async #startMember(member: Member): Promise<void> {
    const cluster = this.members.map(({ name, peer }) => `${name}=${peer}`).join(',');
    const tls = this.certificates;
    const argv = [
      ['--name', member.name, '--data-dir', join(this.directory, member.name)],
      ['--listen-client-urls', member.client, '--advertise-client-urls', member.client],
      ['--listen-peer-urls', member.peer, '--initial-advertise-peer-urls', member.peer],
      ['--initial-cluster', cluster, '--initial-cluster-token', this.directory],
      ['--heartbeat-interval', '100', '--election-timeout', '1000', '--logger', 'zap', '--bcrypt-cost', '4'],
      tls === undefined
        ? []
        : ['--cert-file', tls.serverCert, '--key-file', tls.serverKey, '--trusted-ca-file', tls.ca],
      tls === undefined ? [] : ['--client-cert-auth'],
    ].flat();
    const child = spawn(ETCD, argv, { stdio: ['ignore', 'ignore', 'pipe'] });
    member.process = child;
    let said = '';
    await new Promise<void>((resolve, reject) => {
      child.once('exit', () => reject(new Error(`etcd ${member.name} did not start: ${said.slice(-3000)}`)));
      child.stderr.setEncoding('utf8').on('data', (text: string) => {
        said = (said + text).slice(-100_000);
        if (/ready to serve client requests|serving (?:insecure )?client/i.test(said)) resolve();
      });
    });
  }
}

export async function freePorts(count: number): Promise<number[]> {
  const servers = await Promise.all(
    Array.from({ length: count }, async () => {
      const server = createServer().listen(0, '127.0.0.1');
      await once(server, 'listening');
      return server;
    }),
  );
  const ports = servers.map((server) => (server.address() as AddressInfo).port);
  await Promise.all(servers.map((server) => once(server.close(), 'close')));
  return ports;
}

function makeCertificates(directory: string): Certificates {
  const path = (name: string): string => join(directory, name);
  const openssl = (...argv: string[]): void => {
    execFileSync(OPENSSL, argv, { stdio: 'pipe', cwd: directory });
  };
  const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2'];
  for (const name of ['ca', 'other']) {
    openssl(
      'req',
      '-x509',
      ...newKey,
      '-subj',
      `/CN=${name}`,
      '-keyout',
      `${name}.key`,
      '-out',
      `${name}.crt`,
    );
  }
  // etcd's gateway is a client of its own server, so the server's certificate has to be one for both.
  const uses = { server: 'serverAuth,clientAuth', client: 'clientAuth' };
  for (const [name, usage] of Object.entries(uses)) {
    // With users, etcd's gateway takes no certificate that has a common name.
    const subject = name === 'client' ? '/O=remus-drbd' : `/CN=${name}`;
    openssl('req', ...newKey.slice(0, -2), '-subj', subject, '-keyout', `${name}.key`, '-out', `${name}.csr`);
    writeFileSync(path('extensions'), `subjectAltName=IP:127.0.0.1\nextendedKeyUsage=${usage}\n`);
    const signedBy = ['-CA', 'ca.crt', '-CAkey', 'ca.key', '-CAcreateserial', '-days', '2'];
    openssl(
      'x509',
      '-req',
      '-in',
      `${name}.csr`,
      ...signedBy,
      '-extfile',
      'extensions',
      '-out',
      `${name}.crt`,
    );
  }
  return {
    ca: path('ca.crt'),
    serverCert: path('server.crt'),
    serverKey: path('server.key'),
    clientCert: path('client.crt'),
    clientKey: path('client.key'),
    otherCa: path('other.crt'),
  };
}

export function missingTools(): string | undefined {
  if (!existsSync(ETCD)) return 'needs etcd (apt install etcd-server)';
  return existsSync(OPENSSL) ? undefined : 'needs openssl (apt install openssl)';
}
