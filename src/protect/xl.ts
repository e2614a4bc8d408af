/**
 * xl on this host, as sender and receiver use it (xl(1)).
 *
 * The copy: `xl migrate-receive -r` reads the stream from its standard input and keeps the guest as NAME--incoming,
 * paused, until its input ends; then it makes the guest's devices, renames it and lets it run. What it says to xl on
 * the primary comes from its standard output. Killed before its input ends it starts nothing and leaves the paused
 * guest behind, which has to be destroyed.
 */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { closeSync } from 'node:fs';
import { Socket } from 'node:net';
import { parseXlList } from '../core/parse/xen.js';
import { makePipe } from '../edge/pipe.js';
import type { GuestEnd } from '../core/protect/types.js';
import { exec, must } from './exec.js';
import type { Copy, CopyEvents } from './receiver.js';

const LIST_MS = 30_000;
const DESTROY_MS = 60_000;
const START_MS = 120_000;
const STDERR_CHARS_MAX = 2_000;

/** @returns what became of a guest; null while it lives */
export async function guestEnd(domain: string): Promise<GuestEnd | null> {
  const guests = parseXlList(await must(['xl', 'list'], LIST_MS));
  const guest = guests.find(({ name }) => name === domain);
  if (guest === undefined) return 'gone';
  switch (guest.state[4]) {
    case 'r':
      return 'reboot';
    case 'c':
    case 'w':
      return 'crash';
    default:
      // Letter 4 is the shutdown flag: with no reason behind it the guest has powered off.
      return guest.state[3] === 's' && guest.state[4] === '-' ? 'poweroff' : null;
  }
}

/** Destroys a guest if there is one of this name. @throws Error when it is still there afterwards */
export async function destroyGuest(name: string): Promise<void> {
  const exists = async (): Promise<boolean> => {
    const guests = parseXlList(await must(['xl', 'list'], LIST_MS));
    return guests.some((guest) => guest.name === name);
  };
  if (!(await exists())) return;
  const { stderr } = await exec(['xl', 'destroy', name], { timeoutMs: DESTROY_MS });
  if (await exists()) throw new Error(`xl destroy ${name} left it there: ${stderr.trim()}`);
}

/** Safe where there is no such guest. @throws Error where it is there and stays paused */
export async function unpauseGuest(name: string): Promise<void> {
  const { stderr } = await exec(['xl', 'unpause', name], { timeoutMs: LIST_MS });
  const guests = parseXlList(await must(['xl', 'list'], LIST_MS));
  const guest = guests.find((each) => each.name === name);
  if (guest?.state[2] === 'p') throw new Error(`xl unpause ${name} left it paused: ${stderr.trim()}`);
}

/** Starts xl for a copy. */
export function startCopy(domain: string, events: CopyEvents, onSaid: (text: string) => void): Copy {
  // libxl waits for ever, busily, at the end of a socket: it has to be a pipe.
  const ends = makePipe();
  const child = spawn('xl', ['migrate-receive', '-r'], { stdio: [ends.read, 'pipe', 'pipe'] });
  closeSync(ends.read);
  const input = new Socket({ fd: ends.write, readable: false, writable: true });
  return new XlCopy(domain, child, input, events, onSaid);
}

class XlCopy implements Copy {
  readonly #domain: string;
  readonly #child: ChildProcess;
  readonly #input: Socket;
  #isWanted = true;
  #stderr = '';
  readonly #exited: Promise<string>;

  constructor(
    domain: string,
    child: ChildProcess,
    input: Socket,
    events: CopyEvents,
    onSaid: (text: string) => void,
  ) {
    this.#domain = domain;
    this.#child = child;
    this.#input = input;
    child.stdout?.on('data', (bytes: Buffer) => events.back(bytes));
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      const news = text.replace(/^xc: info: All records.*\n/gm, '');
      this.#stderr = (this.#stderr + news).slice(-STDERR_CHARS_MAX);
      onSaid(text.trim());
    });
    input.on('error', () => undefined);
    this.#exited = new Promise((resolve) => {
      child.on('error', (error) => resolve(`xl could not be started: ${error.message}`));
      child.on('exit', (code, signal) => {
        resolve(code === 0 ? '' : `xl migrate-receive ended with ${signal ?? `exit code ${code}`}`);
      });
    });
    void this.#exited.then((why) => {
      if (this.#isWanted) events.ended(`${why || 'xl migrate-receive ended'}: ${this.#stderr.trim()}`);
    });
  }

  write(bytes: Uint8Array): Promise<void> {
    if (this.#input.destroyed) return Promise.reject(new Error('xl no longer reads'));
    return new Promise((resolve, reject) => {
      this.#input.write(bytes, (error) => {
        if (error) reject(error);
        else resolve();
      });
    });
  }

  async start(): Promise<void> {
    this.#isWanted = false;
    this.#input.end();
    const deadline = Date.now() + START_MS;
    // xl stays in the background for the guest's reboots, so what counts is the guest itself.
    for (;;) {
      const guests = parseXlList(await must(['xl', 'list'], LIST_MS));
      const guest = guests.find(({ name }) => name === this.#domain);
      if (guest !== undefined && guest.state[2] !== 'p') return;
      const why = await Promise.race([this.#exited, pause(50)]);
      if (why !== null && why !== '') throw new Error(`${why}: ${this.#stderr.trim()}`);
      if (Date.now() > deadline)
        throw new Error(`the copy does not run after ${START_MS} ms: ${this.#stderr.trim()}`);
    }
  }

  async drop(): Promise<void> {
    this.#isWanted = false;
    this.#child.kill('SIGKILL');
    await this.#exited;
    this.#input.destroy();
    await destroyGuest(`${this.#domain}--incoming`);
  }
}

function pause(ms: number): Promise<null> {
  return new Promise((resolve) => setTimeout(() => resolve(null), ms));
}
