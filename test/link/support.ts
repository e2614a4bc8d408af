/** What the tests of the link share: certificates, a listener and a client for them, and a log to look at. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Verdict } from '../../src/core/link/judge.js';
import type { Hello, OtherHello } from '../../src/core/link/messages.js';
import type { ConnectOptions } from '../../src/link/client.js';
import type { LinkLog, ReceiverControl, ReceiverLink } from '../../src/link/link.js';
import { listenLink } from '../../src/link/server.js';
import type { LinkListener, ListenOptions } from '../../src/link/server.js';
import type { TlsFiles } from '../../src/link/tls.js';

/** Only so that a test that would hang ends; a slow machine never reaches it. */
export const LIMIT_MS = 120_000;

export interface LogLine {
  message: string;
  fields: Record<string, unknown>;
}

/** A place with the keys and certificates of two hosts, `alpha` (the primary) and `beta`, and of a stranger. */
export class Place {
  readonly directory = mkdtempSync(join(tmpdir(), 'remus-drbd-link-'));
  readonly lines: LogLine[] = [];
  readonly log: LinkLog = {
    info: (message, fields) => this.lines.push({ message, fields }),
    warn: (message, fields) => {
      this.lines.push({ message, fields });
      for (const wake of this.#wakers.splice(0)) wake();
    },
  };
  readonly #wakers: (() => void)[] = [];

  constructor() {
    for (const host of ['alpha', 'beta', 'stranger']) makeCertificate(this.directory, host);
  }

  path(name: string): string {
    return join(this.directory, name);
  }

  /** The files of one host that has pinned another one. */
  tls(own: string, peer: string): TlsFiles {
    return {
      certPath: this.path(`${own}.crt`),
      keyPath: this.path(`${own}.key`),
      peerCertPath: this.path(`${peer}.crt`),
    };
  }

  /** Resolves when a refusal that matches is in the log. */
  async refusal(pattern: RegExp): Promise<string> {
    for (;;) {
      for (const { fields } of this.lines) {
        const reason = String(fields['reason']);
        if (pattern.test(reason)) return reason;
      }
      await new Promise<void>((resolve) => this.#wakers.push(resolve));
    }
  }

  remove(): void {
    rmSync(this.directory, { recursive: true });
  }
}

/** As setup makes them on a host (`planCertificates`). */
export function makeCertificate(directory: string, host: string): void {
  const [key, certificate] = [join(directory, `${host}.key`), join(directory, `${host}.crt`)];
  execFileSync(
    'openssl',
    [
      ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'],
      ...['-days', '36500', '-subj', `/CN=${host}`, '-addext', `subjectAltName=DNS:${host}`],
      ...['-keyout', key, '-out', certificate],
    ],
    { stdio: 'ignore' },
  );
}

export const SESSION = '0123456789abcdef0123456789abcdef';

export function helloParts(more: Partial<ConnectOptions['hello']> = {}): ConnectOptions['hello'] {
  return {
    program: '0.1.0',
    pair: 'rack1',
    domain: 'web',
    from: 'alpha',
    term: 3,
    session: SESSION,
    intervalMs: 100,
    ...more,
  };
}

export interface Listening {
  listener: LinkListener;
  /** The next link, in the order in which they came. */
  nextLink: () => Promise<ReceiverLink>;
  nextCleanup: () => Promise<ReceiverControl>;
}

export async function listening(
  place: Place,
  more: Partial<ListenOptions> & { verdict?: (hello: Hello | OtherHello) => Verdict | Promise<Verdict> } = {},
): Promise<Listening> {
  const links = new Queue<ReceiverLink>();
  const cleanups = new Queue<ReceiverControl>();
  const { verdict, ...rest } = more;
  const listener = await listenLink({
    listen: { address: '127.0.0.1', port: 0, tls: place.tls('beta', 'alpha') },
    program: '0.1.0',
    host: 'beta',
    log: place.log,
    authorise: verdict ?? (() => ({ take: true, reason: 'a test' })),
    onSession: (link) => links.push(link),
    onCleanup: (control) => cleanups.push(control),
    helloMs: LIMIT_MS,
    ...rest,
  });
  return { listener, nextLink: () => links.next(), nextCleanup: () => cleanups.next() };
}

/** Options of a client that may come in. */
export function connecting(place: Place, port: number, more: Partial<ConnectOptions> = {}): ConnectOptions {
  return {
    route: { kind: 'tls', host: '127.0.0.1', port, tls: place.tls('alpha', 'beta') },
    peer: 'beta',
    hello: helloParts(),
    timeoutMs: LIMIT_MS,
    ...more,
  };
}

/** Hands over in order, to whoever asks, now or later. */
export class Queue<T> {
  readonly #items: T[] = [];
  readonly #takers: ((item: T) => void)[] = [];

  push(item: T): void {
    const taker = this.#takers.shift();
    if (taker === undefined) this.#items.push(item);
    else taker(item);
  }

  next(): Promise<T> {
    return this.#items.length > 0
      ? Promise.resolve(this.#items.shift() as T)
      : new Promise((resolve) => this.#takers.push(resolve));
  }
}

export async function failure(promise: Promise<unknown>): Promise<Error> {
  try {
    await promise;
  } catch (error) {
    return error as Error;
  }
  throw new Error('it was expected to fail');
}
