/**
 * Calls between the processes of the embedded pair, over Node's own channel between a process and its child: a name
 * with an argument one way, its answer or its error the other, and events that nobody answers.
 */
import type { ChildProcess } from 'node:child_process';

/** What one side does for the other: argument and answer of each call. */
export type Calls = Record<string, (argument: never) => unknown>;

type Handlers<C extends Calls> = {
  [K in keyof C]: (argument: Parameters<C[K]>[0]) => ReturnType<C[K]> | Promise<ReturnType<C[K]>>;
};

type Message =
  | { kind: 'call'; id: number; name: string; argument: unknown }
  | { kind: 'answer'; id: number; value: unknown }
  | { kind: 'error'; id: number; message: string };

type End =
  Pick<ChildProcess, 'send' | 'on'> | (NodeJS.Process & { send: NonNullable<NodeJS.Process['send']> });

/** One end: `Theirs` can be called, `Ours` is what this side does. */
export class Ipc<Theirs extends Calls, Ours extends Calls> {
  readonly #end: End;
  readonly #handlers: Handlers<Ours>;
  readonly #waiting = new Map<
    number,
    { resolve: (value: unknown) => void; reject: (error: Error) => void }
  >();
  #id = 0;
  #closed = false;

  constructor(end: End, handlers: Handlers<Ours>) {
    this.#end = end;
    this.#handlers = handlers;
    (end as ChildProcess).on('message', (message) => this.#take(message as unknown as Message));
    (end as ChildProcess).on('disconnect', () => this.#close());
  }

  /** @throws Error with the other side's message, or when it is gone */
  call<K extends keyof Theirs & string>(
    name: K,
    argument: Parameters<Theirs[K]>[0],
  ): Promise<Awaited<ReturnType<Theirs[K]>>> {
    return new Promise((resolve, reject) => {
      if (this.#closed) {
        reject(new Error(`embedded ${name}: the other process is gone`));
        return;
      }
      const id = this.#id++;
      this.#waiting.set(id, { resolve: resolve as (value: unknown) => void, reject });
      this.#send({ kind: 'call', id, name, argument });
    });
  }

  /** A call whose answer does not matter. */
  tell<K extends keyof Theirs & string>(name: K, argument: Parameters<Theirs[K]>[0]): void {
    this.call(name, argument).catch(() => undefined);
  }

  #send(message: Message): void {
    // A process that was killed in between makes it fail; its exit says so, too.
    (this.#end as ChildProcess).send(message, () => undefined);
  }

  #close(): void {
    this.#closed = true;
    for (const { reject } of this.#waiting.values()) reject(new Error('embedded: the other process is gone'));
    this.#waiting.clear();
  }

  #take(message: Message): void {
    switch (message.kind) {
      case 'call':
        void this.#answer(message.id, message.name, message.argument);
        return;
      case 'answer':
        this.#waiting.get(message.id)?.resolve(message.value);
        break;
      case 'error':
        this.#waiting.get(message.id)?.reject(new Error(message.message));
        break;
      default:
        throw new Error(`message ${String(message satisfies never)}`);
    }
    this.#waiting.delete(message.id);
  }

  async #answer(id: number, name: string, argument: unknown): Promise<void> {
    try {
      const handler = this.#handlers[name];
      if (handler === undefined) throw new Error(`embedded: there is no call ${name}`);
      const value: unknown = await handler(argument as never);
      this.#send({ kind: 'answer', id, value });
    } catch (error) {
      this.#send({ kind: 'error', id, message: (error as Error).message });
    }
  }
}
