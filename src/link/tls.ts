/**
 * TLS between the hosts of a pair: version 1.3, both sides show the certificate that setup made on them, and
 * each takes exactly the other's, as setup has pinned it. A certificate that the pinned key has signed is refused.
 */
import { X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { SecureContextOptions, TLSSocket } from 'node:tls';
import { OperatorError } from '../core/errors.js';

/** PEM files, as setup puts them on a host. */
export interface TlsFiles {
  certPath: string;
  keyPath: string;
  peerCertPath: string;
}

export interface TlsIdentity {
  options: SecureContextOptions & { requestCert: true; rejectUnauthorized: true };
  peer: X509Certificate;
}

/**
 * The cipher suites, the fastest on processors with AES instructions first; all are TLS 1.3's own.
 */
const CIPHERS = 'TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256';

/** @throws OperatorError naming the file */
export async function loadTls(files: TlsFiles): Promise<TlsIdentity> {
  const [cert, key, peerPem] = await Promise.all(
    [files.certPath, files.keyPath, files.peerCertPath].map(readPem),
  );
  let peer: X509Certificate;
  try {
    peer = new X509Certificate(peerPem ?? '');
  } catch (error) {
    throw new OperatorError(
      `${files.peerCertPath}: the peer's certificate can't be read (${(error as Error).message}); run setup again`,
      undefined,
      error,
    );
  }
  return {
    peer,
    options: {
      cert: cert ?? '',
      key: key ?? '',
      ca: peerPem ?? '',
      minVersion: 'TLSv1.3',
      maxVersion: 'TLSv1.3',
      ciphers: CIPHERS,
      requestCert: true,
      rejectUnauthorized: true,
    },
  };
}

async function readPem(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    throw new OperatorError(
      `${path}: can't be read (${(error as Error).message}); run setup, which makes and exchanges certificates`,
      undefined,
      error,
    );
  }
}

/** Why the certificate that the peer showed is not the pinned one; undefined when it is. */
export function pinProblem(socket: TLSSocket, identity: TlsIdentity): string | undefined {
  const shown = socket.getPeerX509Certificate();
  if (shown === undefined) return 'the peer showed no certificate';
  if (shown.raw.equals(identity.peer.raw)) return undefined;
  return `the peer showed the certificate ${shown.fingerprint256}, pinned is ${identity.peer.fingerprint256}`;
}
