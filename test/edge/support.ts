/**
 * What the SSH tests share: a home directory of their own, quick limits, a quiet log, and a host that answers
 * a few commands.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import type { HostConfig, SshSettings } from '../../src/core/model.js';
import type { Host } from '../../src/edge/host.js';
import { createLog, type Log } from '../../src/edge/log.js';
import { connectHost, type SshDeps, type SshLimits } from '../../src/edge/ssh.js';
import type { EmbeddedBackend, EmbeddedResult, EmbeddedStream } from '../../src/embedded/sshd.js';
import { embeddedKey } from '../../src/embedded/sshd.js';

/** Retries at once, and gives up slowly: no test waits for a limit that a slow machine could reach. */
export const TEST_LIMITS: Partial<SshLimits> = { retryMinMs: 1, retryMaxMs: 5, connectMs: 60_000 };

/** A home directory with a client key, and the settings that name its files. */
export class Home {
  readonly directory = mkdtempSync(join(tmpdir(), 'remus-drbd-test-'));
  readonly key = embeddedKey();
  readonly identityFile = join(this.directory, '.ssh/id_ed25519');
  readonly knownHostsFile = join(this.directory, '.ssh/known_hosts');
  readonly settings: SshSettings = { identityFiles: [], knownHostsFiles: [this.knownHostsFile] };
  readonly logged: string[] = [];
  readonly log: Log = createLog({
    level: 'debug',
    json: true,
    stream: new Writable({
      write: (chunk: Buffer, _encoding, done) => {
        this.logged.push(chunk.toString());
        done();
      },
    }),
  });

  constructor() {
    mkdirSync(join(this.directory, '.ssh'));
    writeFileSync(this.identityFile, this.key.private, { mode: 0o600 });
  }

  deps(limits: Partial<SshLimits> = {}): SshDeps {
    return { log: this.log, home: this.directory, limits: { ...TEST_LIMITS, ...limits } };
  }

  connect(port: number, limits?: Partial<SshLimits>, deps: Partial<SshDeps> = {}): Promise<Host> {
    return connectHost(hostConfig(port), this.settings, { ...this.deps(limits), ...deps });
  }

  remove(): void {
    rmSync(this.directory, { recursive: true });
  }
}

export function hostConfig(port: number, user = 'root'): HostConfig {
  return { name: 'alpha', ssh: { user, host: '127.0.0.1', port }, replication: '10.0.0.1' };
}

/** Answers `echo` and `cat`, keeps files for `stat` and `head`, and counts what it ran. */
export class EchoBackend implements EmbeddedBackend {
  readonly ran: string[] = [];
  readonly files = new Map<string, { content: Buffer; mode: number }>();
  /** While set, `wait` ends only when this does. */
  gate: Promise<void> = Promise.resolve();

  async run(argv: readonly string[], input: Buffer): Promise<EmbeddedResult> {
    this.ran.push(argv.join(' '));
    const [program, ...rest] = argv;
    const file = this.files.get(rest.at(-1) ?? '');
    switch (program) {
      case 'echo':
        return { exitCode: 0, stdout: `${rest.join(' ')}\n`, stderr: '' };
      case 'cat':
        return { exitCode: 0, stdout: input, stderr: '' };
      case 'wait':
        await this.gate;
        return { exitCode: 0, stdout: 'waited', stderr: '' };
      case 'big':
        return { exitCode: 0, stdout: Buffer.alloc(Number(rest[0]), 'x'), stderr: '' };
      case 'stat':
        if (rest.at(-1) === '/directory') return { exitCode: 0, stdout: '41ed\n', stderr: '' };
        if (file === undefined) break;
        return { exitCode: 0, stdout: `${(0o100000 | file.mode).toString(16)}\n`, stderr: '' };
      case 'head':
        if (rest.at(-1) === '/directory') return { exitCode: 1, stdout: '', stderr: 'Is a directory\n' };
        if (file === undefined) break;
        return { exitCode: 0, stdout: file.content.subarray(0, Number(rest[1])), stderr: '' };
      default:
        return { exitCode: 127, stdout: '', stderr: `${program}: not found\n` };
    }
    return { exitCode: 1, stdout: '', stderr: `${program}: ${rest.at(-1)}: No such file or directory\n` };
  }

  putFile(path: string, content: Buffer, mode: number): void {
    if (path.startsWith('/full/')) throw new Error('cat: write error: No space left on device');
    this.ran.push(`put ${path}`);
    this.files.set(path, { content, mode });
  }

  async stream(argv: readonly string[], stream: EmbeddedStream): Promise<EmbeddedResult> {
    this.ran.push(`stream ${argv.join(' ')}`);
    if (argv[0] === 'hold') {
      stream.line('locked');
      await stream.ended;
      this.ran.push('released');
      return { exitCode: 143, stdout: '', stderr: '' };
    }
    for (const line of argv.slice(1)) stream.line(line);
    return { exitCode: 3, stdout: 'last', stderr: 'why\n' };
  }
}
