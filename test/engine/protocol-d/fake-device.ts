/**
 * A fake of the thread that asks the DRBD device: answers each ioctl as a script says. There is no DRBD, no device
 * and no thread behind it.
 */
import { EventEmitter } from 'node:events';

import type { DeviceMessage, DeviceWorker, IoctlRequest } from '../../../src/engine/protocol-d/device.js';

/** The result of an ioctl and its errno, or that it never returns, or that the thread dies of it. */
export type FakeAnswer = { result: number; errno?: number } | 'never' | 'die';

export class FakeWorker extends EventEmitter implements DeviceWorker {
  readonly asked: number[] = [];
  terminated = false;
  readonly #answers: FakeAnswer[];
  #last = 0;

  constructor(answers: FakeAnswer[], opening: DeviceMessage = { kind: 'open' }) {
    super();
    this.#answers = [...answers];
    queueMicrotask(() => this.emit('message', opening));
  }

  postMessage({ id, request }: IoctlRequest): void {
    this.asked.push(request);
    this.#last = id;
    const answer = this.#answers.shift() ?? 'never';
    if (answer === 'never') return;
    queueMicrotask(() => {
      if (answer === 'die') this.emit('exit', 134);
      else this.answerLate(answer);
    });
  }

  /** Answers the last request, when a test wants it. */
  answerLate({ result, errno = 0 }: { result: number; errno?: number }): void {
    this.emit('message', { kind: 'result', id: this.#last, result, errno } satisfies DeviceMessage);
  }

  terminate(): Promise<number> {
    this.terminated = true;
    return Promise.resolve(0);
  }
}
