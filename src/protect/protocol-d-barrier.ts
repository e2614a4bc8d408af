/**
 * The barrier on the primary for `engine: protocol-d`. Carries out what `core/protocol-d/engine.ts` decides.
 *
 *     xl suspends the guest    -> it is paused as well, so that it stays held when xl resumes it
 *     its memory is complete   -> barrier (ioctl 20) -> acknowledgement (ioctl 30) -> the backup is told -> unpaused
 *
 * The pause is what lets the barrier follow the memory: xl resumes the guest as soon as the last page is in its pipe,
 * and a write of the next epoch that came before the barrier would belong to this one.
 */
import { stepProtocolD, protocolDOff, protocolDReason } from '../core/protocol-d/engine.js';
import type { ProtocolDEffect, ProtocolDInput } from '../core/protocol-d/engine.js';
import { deferringDevice } from '../core/protocol-d/proc-drbd.js';
import type { BothSides } from '../core/protocol-d/proc-drbd.js';
import type { FromModule } from '../core/link/messages.js';
import type { ProtocolDDevice } from '../engine/protocol-d/device.js';
import type { Barrier, BarrierEvents, SenderLink } from './sender.js';

/** Of the host that the guest runs on. */
export interface ModuleHost {
  minor: number;
  device: ProtocolDDevice;
  /** `/proc/drbd`. */
  procDrbd(): Promise<string>;
  pauseGuest(): Promise<void>;
  /** Also where it is gone. */
  unpauseGuest(): Promise<void>;
  log(level: 'info' | 'error', message: string, fields: Record<string, unknown>): void;
}

/** The module itself waits for an acknowledgement for twice its ping-timeout, which is 4 s as rendered. */
const IOCTL_MS = 10_000;
const ASK_MS = 60_000;

export interface BarrierLimits {
  /** Longest time that the guest may be held for one checkpoint. */
  holdMs: number;
  /** Longest time that an end in order may take. */
  finishMs: number;
}

type Waiting = { resolve: (procDrbd: string) => void; reject: (error: Error) => void };

export class ProtocolDBarrier implements Barrier {
  readonly #host: ModuleHost;
  readonly #limits: BarrierLimits;
  #state = protocolDOff;
  #link: SenderLink | null = null;
  #events: BarrierEvents | null = null;
  /** Resolves when the session runs, or has failed. */
  #begun: () => void = () => undefined;
  readonly #isBegun = new Promise<void>((resolve) => (this.#begun = resolve));
  #asked = new Map<number, Waiting>();
  #number = 0;
  /** The backup's side when the memory under way was complete. */
  #atMemory: string | null = null;
  /** Ioctl 20, while it is under way: until it has returned the guest can't be let go. */
  #sending: Promise<unknown> | null = null;
  #failure: string | null = null;
  #isHalted = false;
  #isPaused = false;
  /** From here on the backup writes through, so the guest stays held until it has given its copy up. */
  #isDemoting = false;
  #holdTimer: NodeJS.Timeout | null = null;
  #finished: (() => void) | null = null;

  constructor(host: ModuleHost, limits: BarrierLimits) {
    this.#host = host;
    this.#limits = limits;
  }

  begin(link: SenderLink, events: BarrierEvents): void {
    this.#link = link;
    this.#events = events;
    // One disk: more are refused by the configuration.
    this.#input({ kind: 'start', disks: 1 });
  }

  async write(epoch: number): Promise<void> {
    await this.#isBegun;
    if (this.#failure !== null) throw new Error(this.#failure);
    // Before the call, so that one that dies in it is undone as well.
    this.#isPaused = true;
    await this.#host.pauseGuest();
    const { holdMs } = this.#limits;
    this.#holdTimer = setTimeout(() => {
      this.#input({ kind: 'failed', reason: `the guest was held for ${holdMs} ms in epoch ${epoch}` });
    }, holdMs);
    this.#input({ kind: 'suspended', checkpoint: epoch });
    if (this.#failure !== null) throw new Error(this.#failure);
  }

  heard(message: FromModule): void {
    if (message.type === 'module-side' && message.of === 'memory') {
      this.#atMemory = message.procDrbd;
      this.#input({ kind: 'memory-complete', checkpoint: message.number });
      return;
    }
    const waiting = this.#asked.get(message.number);
    this.#asked.delete(message.number);
    if (message.type === 'module-side') waiting?.resolve(message.procDrbd);
    else waiting?.reject(new Error(`the backup: ${message.reason}`));
  }

  doubt(): string | null {
    return protocolDReason(this.#state) ?? null;
  }

  finish(reason: string): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(() => this.#finished?.(), this.#limits.finishMs);
      this.#finished = (): void => {
        clearTimeout(timer);
        resolve();
      };
      this.#input({ kind: 'end', reason });
    });
  }

  halt(): void {
    if (this.#isHalted) return;
    this.#isHalted = true;
    this.#input({ kind: 'failed', reason: 'protection has ended' });
    for (const { reject } of this.#asked.values()) reject(new Error('protection has ended'));
    if (this.#isDemoting) return;
    // One that is stuck in the kernel may still leave: then the guest waits until it is decided who goes on.
    Promise.resolve(this.#sending).then(
      () => void this.#unpause(),
      () => undefined,
    );
  }

  async close(): Promise<void> {
    this.halt();
    await this.#unpause();
    this.#host.device.close();
  }

  #input(input: ProtocolDInput): void {
    const { state, effects } = stepProtocolD(this.#state, input);
    this.#state = state;
    if (state.phase === 'running') this.#begun();
    for (const effect of effects) this.#carryOut(effect);
  }

  #carryOut(effect: ProtocolDEffect): void {
    switch (effect.kind) {
      case 'look':
        this.#do(this.#look().then((sides) => ({ kind: 'sides', sides })));
        return;
      case 'promote-backup':
        this.#do(this.#ask('promote').then(() => ({ kind: 'promoted' })));
        return;
      case 'demote-backup':
        this.#isDemoting = true;
        this.#do(this.#ask('demote').then(() => ({ kind: 'demoted' })));
        return;
      case 'send-barrier':
        this.#do(this.#send(effect.checkpoint));
        return;
      case 'wait-for-acknowledgement':
        this.#do(
          this.#host.device.waitForAcknowledgement(IOCTL_MS).then(() => ({
            kind: 'acknowledged',
            checkpoint: effect.checkpoint,
          })),
        );
        return;
      case 'commit':
        this.#link?.module?.({ type: 'module-barrier', epoch: effect.checkpoint });
        return;
      case 'resume-guest':
        this.#events?.resumed(this.#state.checkpoint);
        void this.#unpause();
        return;
      case 'protected':
        this.#host.log('info', 'the backup holds writes back', { reason: effect.reason });
        return;
      case 'ended':
        this.#finished?.();
        return;
      case 'refused':
      case 'unprotected':
        this.#fail(effect.reason);
        return;
      default:
        throw new Error(`effect ${String(effect satisfies never)}`);
    }
  }

  #do(work: Promise<ProtocolDInput>): void {
    work.then(
      (input) => this.#input(input),
      (error: unknown) => this.#input({ kind: 'failed', reason: (error as Error).message }),
    );
  }

  #fail(reason: string): void {
    this.#failure ??= reason;
    if (this.#holdTimer !== null) clearTimeout(this.#holdTimer);
    this.#begun();
    if (!this.#isHalted) this.#events?.failed(reason);
    this.#finished?.();
  }

  async #send(checkpoint: number): Promise<ProtocolDInput> {
    if (this.#isHalted) throw new Error('protection has ended');
    const sending = this.#host.device.sendBarrier(IOCTL_MS);
    this.#sending = sending;
    return { kind: 'barrier-sent', checkpoint, result: await sending };
  }

  async #look(): Promise<BothSides> {
    const { minor } = this.#host;
    const backup = this.#atMemory ?? (await this.#ask('look'));
    this.#atMemory = null;
    return {
      primary: deferringDevice(await this.#host.procDrbd(), minor),
      backup: deferringDevice(backup, minor),
    };
  }

  #ask(what: 'look' | 'promote' | 'demote'): Promise<string> {
    const number = this.#number++;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#asked.delete(number);
        reject(new Error(`the backup has not answered in ${ASK_MS} ms (${what})`));
      }, ASK_MS);
      const settle = <T>(use: (value: T) => void) => {
        return (value: T): void => {
          clearTimeout(timer);
          use(value);
        };
      };
      this.#asked.set(number, { resolve: settle(resolve), reject: settle(reject) });
      this.#link?.module?.({ type: 'module-ask', what, number });
    });
  }

  async #unpause(): Promise<void> {
    if (this.#holdTimer !== null) clearTimeout(this.#holdTimer);
    if (!this.#isPaused) return;
    this.#isPaused = false;
    try {
      await this.#host.unpauseGuest();
    } catch (error) {
      // It is tried once more at the end, and by the clean-up.
      this.#isPaused = true;
      const reason = `the guest is still paused: ${(error as Error).message}`;
      this.#host.log('error', 'the guest could not be unpaused', { reason });
      this.#input({ kind: 'failed', reason });
    }
  }
}
