/**
 * The clients of the embedded guest, outside of both hosts: each asks, waits for the answer, and asks again. They find
 * the guest wherever it is, as a network finds a guest that has moved. Every answer is kept, for the checker.
 */
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import type { LedgerAnswer } from '../../core/ledger.js';

const AGAIN_MS = 20;

export interface ClientAnswer extends LedgerAnswer {
  /** The life of the host that answered. */
  from: string;
  /** Of the wall clock. */
  atMs: number;
}

/** Where a guest may be: the port, and the life of the host that has it. */
export interface Place {
  port: number;
  life: string;
}

export class EmbeddedClients {
  readonly answers: ClientAnswer[] = [];
  /** Something that no correct guest answers. */
  readonly nonsense: string[] = [];
  #places: readonly Place[] = [];
  #asks = false;
  #closed = false;
  readonly #thinkMs: number;
  readonly #loops: Promise<void>[] = [];
  readonly #sockets = new Set<Socket>();
  #wakers: (() => void)[] = [];
  #answerWakers: (() => void)[] = [];
  #open = 0;

  /** @param thinkMs between an answer and the next request */
  constructor(count: number, thinkMs: number) {
    this.#thinkMs = thinkMs;
    for (let n = 1; n <= count; n++) this.#loops.push(this.#run(`client-${n}`));
  }

  /** Requests that were sent and not answered. */
  get waiting(): number {
    return this.#open;
  }

  /** Where the guest may be from now on. */
  places(places: readonly Place[]): void {
    this.#places = places;
  }

  start(): void {
    this.#asks = true;
    for (const wake of this.#wakers.splice(0)) wake();
  }

  /** No client asks anything more; what was asked may still be answered. */
  stop(): void {
    this.#asks = false;
  }

  /** Resolves at the next answer. */
  nextAnswer(): Promise<void> {
    return new Promise((resolve) => this.#answerWakers.push(resolve));
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.start();
    for (const socket of this.#sockets) socket.destroy();
    await Promise.all(this.#loops);
  }

  async #run(client: string): Promise<void> {
    let number = 0;
    for (let turn = 0; !this.#closed; turn++) {
      if (!this.#asks) {
        await new Promise<void>((resolve) => this.#wakers.push(resolve));
        continue;
      }
      const place = this.#places[turn % Math.max(1, this.#places.length)];
      if (place === undefined) {
        await pause(AGAIN_MS);
        continue;
      }
      const socket = connect(place.port, '127.0.0.1');
      socket.setNoDelay(true);
      this.#sockets.add(socket);
      const lines = new Lines(socket);
      while (!this.#closed) {
        if (!this.#asks) {
          await new Promise<void>((resolve) => this.#wakers.push(resolve));
          continue;
        }
        const token = `${client}:${number++}`;
        socket.write(`${token}\n`);
        this.#open++;
        const line = await lines.next();
        this.#open--;
        if (line === null) break;
        this.#take(client, token, line, place.life);
        if (this.#thinkMs > 0) await pause(this.#thinkMs);
      }
      this.#sockets.delete(socket);
      socket.destroy();
      await pause(AGAIN_MS);
    }
  }

  #take(client: string, asked: string, line: string, from: string): void {
    const [, count, token] = /^(\d+) (\S+)$/.exec(line) ?? [];
    if (count === undefined || token !== asked) {
      this.nonsense.push(`${client} asked ${asked} and was answered ${JSON.stringify(line)}`);
      return;
    }
    this.answers.push({ client, count: Number(count), token, from, atMs: Date.now() });
    for (const wake of this.#answerWakers.splice(0)) wake();
  }
}

/** Whole lines of a connection; null when it is gone. */
class Lines {
  readonly #lines: string[] = [];
  #isGone = false;
  #waiter: ((line: string | null) => void) | null = null;

  constructor(socket: Socket) {
    let text = '';
    socket.setEncoding('latin1').on('data', (more: string) => {
      const lines = (text + more).split('\n');
      text = lines.pop() ?? '';
      this.#lines.push(...lines);
      this.#serve();
    });
    socket.on('error', () => undefined);
    socket.on('close', () => {
      this.#isGone = true;
      this.#serve();
    });
  }

  next(): Promise<string | null> {
    return new Promise((resolve) => {
      this.#waiter = resolve;
      this.#serve();
    });
  }

  #serve(): void {
    const waiter = this.#waiter;
    if (waiter === null || (this.#lines.length === 0 && !this.#isGone)) return;
    this.#waiter = null;
    waiter(this.#lines.shift() ?? null);
  }
}
