/**
 * QEMU's monitor protocol (QMP): JSON lines over a Unix socket. The greeting, `qmp_capabilities`, then
 * commands with an id; events come in between. QEMU serves one connection at a time; more wait for it.
 *
 * Source: "QEMU Machine Protocol Specification".
 */
import { connect, type Socket } from 'node:net';

interface Message {
  readonly QMP?: unknown;
  readonly id?: number;
  readonly return?: unknown;
  readonly error?: { readonly class: string; readonly desc: string };
  readonly event?: string;
}

export class Qmp {
  readonly #socket: Socket;
  readonly #pending = new Map<
    number,
    { resolve: (value: unknown) => void; reject: (error: Error) => void }
  >();
  readonly #waiting: { event: string; resolve: () => void; reject: (error: Error) => void }[] = [];
  #nextId = 1;
  #failure: Error | undefined;

  private constructor(socket: Socket, onGreeting: () => void, onFailure: (error: Error) => void) {
    this.#socket = socket;
    let rest = '';
    socket.setEncoding('utf8');
    socket.on('data', (text: string) => {
      const lines = (rest + text).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) this.#take(JSON.parse(line) as Message, onGreeting);
    });
    const fail = (error: Error) => {
      this.#failure ??= error;
      onFailure(this.#failure);
      for (const pending of this.#pending.values()) pending.reject(this.#failure);
      this.#pending.clear();
      for (const waiting of this.#waiting.splice(0)) waiting.reject(this.#failure);
    };
    socket.on('error', fail);
    socket.on('close', () => fail(new Error('QEMU closed its monitor')));
  }

  /** @param timeoutMs for the connection and the greeting */
  static async open(path: string, timeoutMs: number): Promise<Qmp> {
    const socket = connect(path);
    let timer: NodeJS.Timeout | undefined;
    try {
      const qmp = await new Promise<Qmp>((resolve, reject) => {
        const made: Qmp = new Qmp(socket, () => resolve(made), reject);
        timer = setTimeout(() => reject(new Error(`${path}: no greeting in ${timeoutMs} ms`)), timeoutMs);
      });
      await qmp.execute('qmp_capabilities');
      return qmp;
    } catch (error) {
      socket.destroy();
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  execute(command: string, args: Record<string, unknown> = {}): Promise<unknown> {
    if (this.#failure) return Promise.reject(this.#failure);
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve, reject });
      this.#socket.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
    });
  }

  /** The next event of this name. */
  async event(event: string, timeoutMs: number): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    try {
      await new Promise<void>((resolve, reject) => {
        if (this.#failure) return reject(this.#failure);
        this.#waiting.push({ event, resolve, reject });
        timer = setTimeout(
          () => reject(new Error(`no event ${event} from QEMU in ${timeoutMs} ms`)),
          timeoutMs,
        );
      });
    } finally {
      clearTimeout(timer);
    }
  }

  close(): void {
    this.#socket.destroy();
  }

  #take(message: Message, onGreeting: () => void): void {
    if (message.QMP !== undefined) onGreeting();
    else if (message.event !== undefined) this.#event(message.event);
    else if (message.id !== undefined) {
      const pending = this.#pending.get(message.id);
      this.#pending.delete(message.id);
      if (message.error) pending?.reject(new Error(`QEMU: ${message.error.class}: ${message.error.desc}`));
      else pending?.resolve(message.return);
    }
  }

  #event(name: string): void {
    for (let index = this.#waiting.length - 1; index >= 0; index--) {
      if (this.#waiting[index]?.event === name) this.#waiting.splice(index, 1)[0]?.resolve();
    }
  }
}
