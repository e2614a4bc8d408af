/**
 * `link: ssh`: a connection of the link through OpenSSH, for a network where nothing else is let through.
 *
 *     sender -> unix socket here (0600, in a folder of its own) -> ssh -L -> sshd -> the receiver's unix socket (0600)
 *
 * Each connection has an ssh process of its own, so that a full bulk stream can't hold up the control connection.
 * The receiver needs no port: its socket is open to root on its host alone, whom sshd has authenticated.
 *
 * The remote command says when the forwarding is in place (ssh(1) sets it up before it runs a command) and ends
 * with our end of its standard input, so that an ssh process never outlives its sender.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { join } from 'node:path';

export interface SshTunnel {
  /** `user@host` or `host`. */
  target: string;
  /** The receiver's unix socket on that host. */
  remotePath: string;
  /** Where a folder for the socket on this side can be made; it has to be writable for this user alone. */
  directory: string;
  /** More arguments for ssh, such as `-p PORT`, `-i FILE` or `-o OPTION`. */
  options?: readonly string[];
}

const READY = 'remus-drbd-link';
const STDERR_BYTES_MAX = 4096;

const OPTIONS = [
  'BatchMode=yes',
  'StrictHostKeyChecking=yes',
  'ExitOnForwardFailure=yes',
  'StreamLocalBindMask=0177',
  // A connection of its own, not one shared with whatever else goes to that host.
  'ControlMaster=no',
  'ControlPath=none',
  'Compression=no',
  'ForwardAgent=no',
  'ForwardX11=no',
  'ServerAliveInterval=5',
  'ServerAliveCountMax=3',
  // First of those that both sides have: twice as fast as the default on processors with AES instructions.
  'Ciphers=^aes128-gcm@openssh.com',
];

/**
 * Starts ssh, and connects through it.
 * @throws Error with what ssh said on standard error; it is ended then
 */
export async function openTunnel(tunnel: SshTunnel, timeoutMs: number): Promise<Socket> {
  const folder = await mkdtemp(join(tunnel.directory, 'link-'));
  const local = join(folder, 'socket');
  const child = spawn(
    'ssh',
    [
      '-T',
      ...OPTIONS.flatMap((option) => ['-o', option]),
      ...['-L', `${local}:${tunnel.remotePath}`],
      ...(tunnel.options ?? []),
      ...['--', tunnel.target, `echo ${READY}; exec cat >/dev/null`],
    ],
    { stdio: ['pipe', 'pipe', 'pipe'] },
  );
  let said = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(-STDERR_BYTES_MAX);
  });
  child.stdin.on('error', () => undefined);
  const stop = (): void => {
    child.stdin.destroy();
    child.kill();
  };
  const late = setTimeout(stop, timeoutMs);
  try {
    await new Promise<void>((resolve, reject) => {
      let heard = '';
      child.stdout.setEncoding('utf8').on('data', (text: string) => {
        heard = (heard + text).slice(-STDERR_BYTES_MAX);
        if (heard.split('\n').includes(READY)) resolve();
      });
      child.once('error', reject);
      child.once('close', (code, signal) => {
        const why = said.trim() || `ended with ${signal ?? `exit code ${code}`}`;
        reject(new Error(`ssh ${tunnel.target}: ${why}`));
      });
    });
    const socket = connect({ path: local });
    socket.on('error', () => undefined);
    socket.once('close', stop);
    await once(socket, 'connect');
    return socket;
  } catch (error) {
    stop();
    throw error;
  } finally {
    clearTimeout(late);
    // The connection is made: nobody else can come this way.
    await rm(folder, { recursive: true, force: true });
  }
}
