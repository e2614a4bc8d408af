/** A conversation of JSON lines with a command on a lab host: calls with their answers, and events between them. */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { createInterface } from 'node:readline';
import type { HostName } from '../../scripts/lab/plan.js';
import { limits, sshConfigPath } from '../../scripts/lab/plan.js';

type Message = Record<string, unknown>;

interface Waiter {
  matches: (message: Message) => boolean;
  take: (message: Message) => void;
  fail: (error: Error) => void;
}

export class Link {
  readonly name: string;
  private readonly child: ChildProcess;
  private readonly waiters = new Set<Waiter>();
  private readonly events: Message[] = [];
  private nextId = 1;
  private said = '';
  private ended: Error | undefined;

  /** @param script a line of shell, whose standard input and output are the conversation */
  constructor(host: HostName, script: string) {
    this.name = `${script} on ${host}`;
    this.child = spawn('ssh', ['-F', sshConfigPath, host, script], { stdio: 'pipe' });
    this.child.stderr?.setEncoding('utf8').on('data', (text: string) => (this.said += text));
    this.child.stdin?.on('error', () => {
      // Its end tells.
    });
    this.child.on('error', (error) => this.end(error.message));
    this.child.on('close', (code) => this.end(`ended with ${code} ${this.said}`.trim()));
    if (this.child.stdout)
      createInterface({ input: this.child.stdout }).on('line', (line) => this.take(line));
  }

  /**
   * Calls and waits for the answer.
   * @throws Error with the other side's words when it says no, ends, or does not answer in time
   */
  async call<T>(call: Message, timeoutMs: number = limits.commandMs): Promise<T> {
    const id = this.nextId++;
    const answer = this.wait(
      JSON.stringify(call).slice(0, 100),
      (message) => message['id'] === id,
      timeoutMs,
    );
    this.child.stdin?.write(`${JSON.stringify({ id, ...call })}\n`);
    const message = await answer;
    if (message['ok'] !== true) {
      throw Object.assign(new Error(`${this.name}: ${String(message['error'])}`), { code: message['code'] });
    }
    return message['result'] as T;
  }

  /** The first event that matches, of those that came and those that come; it is taken. */
  event(what: string, matches: (message: Message) => boolean): Promise<Message> {
    const found = this.events.findIndex(matches);
    if (found >= 0) return Promise.resolve(this.events.splice(found, 1)[0] as Message);
    return this.wait(what, (message) => message['event'] !== undefined && matches(message), limits.commandMs);
  }

  /** Closes the other side's input and waits for its end. */
  async close(): Promise<void> {
    if (this.ended) return;
    const closed = new Promise((resolve) => this.child.once('close', resolve));
    this.child.stdin?.end();
    const timer = setTimeout(() => this.child.kill('SIGKILL'), limits.processMs);
    await closed;
    clearTimeout(timer);
  }

  private wait(what: string, matches: Waiter['matches'], timeoutMs: number): Promise<Message> {
    if (this.ended) return Promise.reject(this.ended);
    return new Promise((resolve, reject) => {
      const settle = (): void => {
        clearTimeout(timer);
        this.waiters.delete(waiter);
      };
      const waiter: Waiter = {
        matches,
        take: (message) => (settle(), resolve(message)),
        fail: (error) => (settle(), reject(error)),
      };
      const timer = setTimeout(() => waiter.fail(new Error(`${this.name}: waited for ${what}`)), timeoutMs);
      this.waiters.add(waiter);
    });
  }

  private take(line: string): void {
    const message = JSON.parse(line) as Message;
    for (const waiter of this.waiters) {
      if (!waiter.matches(message)) continue;
      waiter.take(message);
      return;
    }
    if (message['event'] !== undefined) this.events.push(message);
  }

  private end(why: string): void {
    this.ended ??= new Error(`${this.name}: ${why}`);
    for (const waiter of [...this.waiters]) waiter.fail(this.ended);
  }
}
