/**
 * The DRBD device of the module with protocol D: its two ioctls (drbd_main.c of that module), made by a worker
 * thread, since the second one blocks.
 *
 *     20  send the barrier of a checkpoint   1: nothing was written, nothing is sent; 0: queued; -1: errno
 *     30  wait for its acknowledgement       0: there; -1: errno, also when none came within twice the
 *                                            resource's ping-timeout
 *
 * Anything else they give is a failure. After any failure the device is of no more use: an acknowledgement has no
 * number, so one that comes late could be taken for that of the next barrier.
 */

import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';

import { OperatorError } from '../../core/errors.js';

const SEND_BARRIER = 20;
const WAIT_FOR_ACKNOWLEDGEMENT = 30;

/** What the worker is asked for and answers. */
export interface IoctlRequest {
  id: number;
  request: typeof SEND_BARRIER | typeof WAIT_FOR_ACKNOWLEDGEMENT;
}
export type DeviceMessage =
  | { kind: 'open' }
  | { kind: 'open-failed'; message: string }
  | { kind: 'result'; id: number; result: number; errno: number };

/** Tells the worker thread what it is for. */
export interface DeviceJob {
  remusDrbdWorker: 'protocol-d-device';
  path: string;
}

/** The part of a worker thread that is used here, so that tests can put a fake in its place. */
export interface DeviceWorker {
  postMessage(request: IoctlRequest): void;
  on(event: 'message', listener: (message: DeviceMessage) => void): unknown;
  on(event: 'error', listener: (error: Error) => void): unknown;
  on(event: 'exit', listener: (code: number) => void): unknown;
  terminate(): Promise<unknown>;
}

/** A checkpoint on the device failed; the session has to end. */
export class BarrierError extends OperatorError {
  constructor(path: string, message: string, cause?: unknown) {
    super(`${path}: ${message}`, undefined, cause);
    this.name = 'BarrierError';
  }
}

export interface ProtocolDDevice {
  /**
   * Sends the barrier that ends the epoch of a checkpoint. It does not block.
   *
   * @throws {BarrierError}
   */
  sendBarrier(deadlineMs: number): Promise<'queued' | 'nothing-to-send'>;
  /**
   * Waits until the backup has acknowledged the barrier that was queued.
   *
   * @param deadlineMs after which it counts as failed, even if the kernel still waits
   * @throws {BarrierError}
   */
  waitForAcknowledgement(deadlineMs: number): Promise<void>;
  /** Safe to call again. Does not wait for a call that is stuck in the kernel. */
  close(): void;
}

/**
 * Opens the device, such as `/dev/drbd1`, and finds out that a thread can ask it.
 *
 * @param start where the thread comes from; tests give a fake
 * @throws {BarrierError}
 */
export async function openDevice(
  path: string,
  start: (job: DeviceJob) => DeviceWorker = startWorker,
): Promise<ProtocolDDevice> {
  const device = new Device(path, start({ remusDrbdWorker: 'protocol-d-device', path }));
  await device.opened;
  return device;
}

/** This module and the worker's are in one file, the bundle, which serves the device when it is started as a worker. */
function startWorker(job: DeviceJob): Worker {
  return new Worker(fileURLToPath(import.meta.url), { workerData: job });
}

interface Waiting {
  id: number;
  resolve: (message: DeviceMessage & { kind: 'result' }) => void;
  reject: (error: BarrierError) => void;
}

class Device implements ProtocolDDevice {
  readonly opened: Promise<void>;
  readonly #path: string;
  readonly #worker: DeviceWorker;
  #waiting: Waiting | undefined;
  #broken: BarrierError | undefined;
  #queued = false;
  #closed = false;
  #nextId = 1;

  constructor(path: string, worker: DeviceWorker) {
    this.#path = path;
    this.#worker = worker;
    this.opened = new Promise((resolve, reject) => {
      worker.on('message', (message) => {
        if (message.kind === 'open') resolve();
        else if (message.kind === 'open-failed') reject(this.#break(`can't be opened: ${message.message}`));
        else this.#result(message);
      });
      worker.on('error', (error) => reject(this.#break(`its thread failed: ${error.message}`, error)));
      worker.on('exit', (code) => {
        if (!this.#closed) reject(this.#break(`its thread ended (${code})`));
      });
    });
    // It is awaited by openDevice; a thread that ends later has been told of by then.
    this.opened.catch(() => undefined);
  }

  async sendBarrier(deadlineMs: number): Promise<'queued' | 'nothing-to-send'> {
    if (this.#queued)
      throw this.#break('a barrier is out already, and its acknowledgement was not waited for');
    const { result, errno } = await this.#call(SEND_BARRIER, deadlineMs, 'sending a barrier');
    if (result === 1) return 'nothing-to-send';
    if (result !== 0) throw this.#failed('the barrier was not sent', result, errno);
    this.#queued = true;
    return 'queued';
  }

  async waitForAcknowledgement(deadlineMs: number): Promise<void> {
    if (!this.#queued) throw this.#break('no barrier is out, so there is no acknowledgement to wait for');
    const { result, errno } = await this.#call(WAIT_FOR_ACKNOWLEDGEMENT, deadlineMs, 'the acknowledgement');
    if (result !== 0) throw this.#failed('the barrier was not acknowledged', result, errno);
    this.#queued = false;
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#break('was closed');
    // A call that is stuck in the kernel keeps the thread; nobody waits for it.
    this.#worker.terminate().catch(() => undefined);
  }

  #call(
    request: IoctlRequest['request'],
    deadlineMs: number,
    what: string,
  ): Promise<DeviceMessage & { kind: 'result' }> {
    if (this.#broken !== undefined) return Promise.reject(this.#broken);
    if (this.#waiting !== undefined) return Promise.reject(this.#break('is asked for two things at once'));
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#break(`${what} took longer than ${deadlineMs} ms`);
      }, deadlineMs);
      const settle = <T>(use: (value: T) => void) => {
        return (value: T): void => {
          clearTimeout(timer);
          this.#waiting = undefined;
          use(value);
        };
      };
      this.#waiting = { id, resolve: settle(resolve), reject: settle(reject) };
      this.#worker.postMessage({ id, request });
    });
  }

  #result(message: DeviceMessage & { kind: 'result' }): void {
    // What comes after the deadline counts no more.
    if (this.#waiting?.id === message.id) this.#waiting.resolve(message);
  }

  #failed(what: string, result: number, errno: number): BarrierError {
    return this.#break(
      `${what}: ${result === -1 ? errnoText(errno) : `the module gave ${result}, which it never does`}`,
    );
  }

  /** The first reason stays: what comes after it follows from it. */
  #break(message: string, cause?: unknown): BarrierError {
    this.#broken ??= new BarrierError(this.#path, message, cause);
    this.#waiting?.reject(this.#broken);
    return this.#broken;
  }
}

/** What the module means by these; errno.h of Linux. */
function errnoText(errno: number): string {
  switch (errno) {
    case 4:
      return 'EINTR, a signal came';
    case 12:
      return 'ENOMEM, the kernel has no memory for the next barrier';
    case 22:
      return 'EINVAL: the resource has no connection configured, or its protocol is not D';
    case 25:
      return 'ENOTTY: this DRBD module has no protocol D';
    case 71:
      return "EPROTO: the peer isn't connected, its disk isn't consistent, or it did not answer within twice the ping-timeout";
    default:
      return `errno ${errno}`;
  }
}
