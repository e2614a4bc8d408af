/**
 * An outside client of the lab's guest with a ledger (scripts/lab/guest/ledger.c): one TCP connection for as long as it
 * lives, on which it asks with tokens that nobody uses twice and tells each answer; and the packets that the guest sends
 * to everyone. Once it is connected it never connects again: that its connection lives on is what it is there to show.
 */
import { createSocket } from 'node:dgram';
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import type { ClientLine } from './cuts-log.js';
import { packetCount, PORT } from './ledger-packet.js';

/** Requests that are asked and not answered. */
const WINDOW = 4;
/** Before it is connected at all. */
const AGAIN_MS = 500;

/** The lines of a client's connection, in either direction. */
export class Asking {
  readonly #name: string;
  readonly #waiting: string[] = [];
  #asked = 0;
  #rest = '';

  /** @param name of no other client, ever */
  constructor(name: string) {
    this.#name = name;
  }

  /** @returns what is to be sent now */
  ask(): string {
    let text = '';
    while (this.#waiting.length < WINDOW) {
      const token = `${this.#name}-${++this.#asked}`;
      this.#waiting.push(token);
      text += `${token}\n`;
    }
    return text;
  }

  /**
   * @returns the answers that are whole now
   * @throws Error for an answer to what was not asked, or in another order
   */
  take(text: string): { count: number; token: string }[] {
    const lines = (this.#rest + text).split('\n');
    this.#rest = lines.pop() ?? '';
    return lines.map((line) => {
      const [, count = '', token = ''] = /^([1-9][0-9]*) (\S+)$/.exec(line) ?? [];
      const expected = this.#waiting.shift();
      if (token === '' || token !== expected) {
        throw new Error(`the answer to ${expected ?? 'nothing'} is ${JSON.stringify(line)}`);
      }
      return { count: Number(count), token };
    });
  }
}

export interface ClientOptions {
  name: string;
  host: string;
  port?: number;
  tell: (line: ClientLine) => void;
}

/** Asks until its connection ends. @returns what stops it */
export function keepAsking({ name, host, port = PORT, tell }: ClientOptions): { stop(): void } {
  const asking = new Asking(name);
  const everyone = createSocket({ type: 'udp4', reuseAddr: true });
  everyone.on('message', (packet) => {
    const count = packetCount(packet);
    if (count !== null) tell({ event: 'packet', count, timeMs: Date.now() });
  });
  everyone.on('error', () => undefined);
  everyone.bind(port);
  let socket: Socket;
  let isStopped = false;
  const begin = (): void => {
    let isConnected = false;
    let reason = 'the guest ended it';
    socket = connect({ host, port, noDelay: true });
    socket.setEncoding('latin1');
    socket.on('connect', () => {
      isConnected = true;
      tell({ event: 'connected', timeMs: Date.now() });
      socket.write(asking.ask());
    });
    socket.on('data', (text: string) => {
      try {
        for (const answer of asking.take(text)) tell({ event: 'answer', ...answer, timeMs: Date.now() });
        socket.write(asking.ask());
      } catch (error) {
        reason = (error as Error).message;
        socket.destroy();
      }
    });
    socket.on('error', (error) => (reason = error.message));
    socket.on('close', () => {
      if (isStopped) return;
      if (isConnected) tell({ event: 'closed', reason, timeMs: Date.now() });
      else setTimeout(begin, AGAIN_MS);
    });
  };
  begin();
  const stop = (): void => {
    isStopped = true;
    socket.destroy();
    everyone.close();
  };
  return { stop };
}
