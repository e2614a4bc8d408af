/**
 * The receiver as a process: the backup of one guest. Carries out what `core/protect/receiver.ts` decides.
 *
 *     bulk --> queue --> xl migrate-receive          the end of epoch N waits in the queue for commit N
 *     DRBD --> NBD --> epoch journal --marker N-->   commit N when both are here
 *
 * libxl applies a checkpoint only when it has read the record CHECKPOINT_END, and must never be left waiting between
 * CHECKPOINT and that one, so all from CHECKPOINT on is what is held back:
 * at the end of its input xl starts the guest from the last checkpoint that it was given whole.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { ExitCode, OperatorError } from '../core/errors.js';
import { newReceiver, receiverReason, receiverStep } from '../core/protect/receiver.js';
import type {
  FailoverStep,
  GiveUpStep,
  ReceiverEffect,
  ReceiverInput,
  ReceiverOptions,
  ReceiverState,
} from '../core/protect/receiver.js';
import type { FromModule, ToModule } from '../core/link/messages.js';
import { LIVE_ROUND, tickMs } from '../core/protect/types.js';
import type { Decision, GuestEnd, Identity } from '../core/protect/types.js';

/** xl with the copy of the guest. */
export interface Copy {
  /** Resolves when more may follow; the bytes may then change. */
  write(bytes: Uint8Array): Promise<void>;
  /** Ends its input and resolves when the guest runs. Rejects when it doesn't. */
  start(): Promise<void>;
  /** Ends xl and removes the copy for good. Safe to repeat, and where there is none. */
  drop(): Promise<void>;
}

export interface CopyEvents {
  /** What xl says to xl on the primary. */
  back(bytes: Buffer): void;
  /** It ended, and nobody asked it to. */
  ended(reason: string): void;
}

/** The epoch journal and what stands on it; or the DRBD module that does its part itself (`deferring-disks.ts`). */
export interface BackupDisks {
  startSession(identity: Identity): Promise<void>;
  commit(epoch: number): Promise<void>;
  /** @returns of `discard`, where that isn't the last commit: the epoch that the disks are at */
  step(
    step: Exclude<FailoverStep, 'start-guest'> | 'roll-forward' | 'leave-journal',
  ): Promise<void | { atEpoch: number }>;
  /** Of a module: an epoch's memory is complete here. @returns its `/proc/drbd` at that time */
  memoryComplete?(epoch: number): Promise<string>;
  /** Of a module: does what the sender asks. @returns its `/proc/drbd` after it */
  ask?(what: 'look' | 'promote' | 'demote'): Promise<string>;
  used(): { usedBytes: number; totalBytes: number };
}

/** The connection of the session, as far as the receiver talks to it. */
export interface ReceiverLink {
  /** The session is open on the disks: from now on markers close epochs. */
  begun(): void;
  heartbeat(state: string): void;
  committed(identity: Identity, epoch: number): void;
  ended(decision: Decision, reason: string): void;
  /** The session is over and nothing is decided. */
  undecided(reason: string): void;
  back(bytes: Buffer): void;
  /** To the sender; of use with `engine: protocol-d` alone. */
  module?(message: FromModule): void;
}

export interface ReceiverEdges {
  startCopy(events: CopyEvents): Copy;
  disks: BackupDisks;
  /** Records, durably, that this host may go on from now on. Called once, before the first commit. */
  enter(): Promise<void>;
  /**
   * Asks the arbiter until there is an answer, or nobody wants it any more.
   * @param wanted aborts when it was decided otherwise: from then on the arbiter may not be asked
   * @returns null when it was aborted
   */
  claim(
    onUndecided: (reason: string, mayHaveWon: boolean) => void,
    wanted: AbortSignal,
  ): Promise<{ decision: Decision; reason: string } | null>;
  /** Durable when it resolves. */
  record(decision: Decision, reason: string): Promise<void>;
  nowMs(): number;
  log(level: 'debug' | 'info' | 'warn' | 'error', message: string, fields: Record<string, unknown>): void;
}

const REASON_CHARS_MAX = 4000;
/** Bytes that may wait for xl before the bulk connection is no longer read. */
const QUEUE_BYTES_MAX = 64 << 20;
const RECORD_AGAIN_MS = 1_000;

/** `needsMore`: it can be passed on only when the epoch behind it is here, so that has to find room. */
type Queued = { type: 'data'; bytes: Buffer } | { type: 'checkpoint'; bytes: Buffer; needsMore: boolean };

export class Receiver {
  #state: ReceiverState;
  readonly #edges: ReceiverEdges;
  #link: ReceiverLink | null = null;
  #copy: Copy | null = null;
  #queue: Queued[] = [];
  #queuedBytes = 0;
  #roomWaiters: (() => void)[] = [];
  /** CHECKPOINT_ENDs that may be passed on. */
  #passes = 0;
  #pumping = false;
  #pumpDone: (() => void)[] = [];
  #lastMemory: number | null = null;
  #receivedBytes = 0;
  #askers: ((answer: { decision: Decision } | { undecided: string }, reason: string) => void)[] = [];
  #timer: NodeJS.Timeout | null = null;
  #entered: Promise<void> | null = null;
  readonly #claiming = new AbortController();
  #finish: ((state: ReceiverState) => void) | null = null;
  #fail: ((error: Error) => void) | null = null;
  /** Resolves at `ended`, `failed-over` or `stuck`. */
  readonly finished: Promise<ReceiverState>;

  constructor(options: ReceiverOptions, edges: ReceiverEdges) {
    this.#state = newReceiver(options);
    this.#edges = edges;
    this.finished = new Promise((resolve, reject) => {
      this.#finish = resolve;
      this.#fail = reject;
    });
    this.#timer = setInterval(() => {
      // What has arrived by now is handled before the silence is judged.
      setImmediate(() => this.#tick());
    }, tickMs(options.failAfterMs));
  }

  view(): {
    state: ReceiverState;
    reason: string;
    receivedBytes: number;
    usedBytes: number;
    totalBytes: number;
  } {
    const { usedBytes, totalBytes } = this.#edges.disks.used();
    return {
      state: this.#state,
      reason: receiverReason(this.#state),
      receivedBytes: this.#receivedBytes,
      usedBytes,
      totalBytes,
    };
  }

  /** A sender was welcomed. */
  begin(identity: Identity, link: ReceiverLink): void {
    this.#link = link;
    this.#input({ type: 'session', identity, nowMs: this.#edges.nowMs() });
  }

  heard(): void {
    this.#input({ type: 'heard', nowMs: this.#edges.nowMs() });
  }

  linkLost(reason: string, peerLives: boolean): void {
    this.#input({ type: 'link-lost', reason, peerLives, nowMs: this.#edges.nowMs() });
  }

  end(reason: string, guest: GuestEnd | null): void {
    this.#input({ type: 'end', reason, guest, nowMs: this.#edges.nowMs() });
  }

  /** Bytes of the stream. Resolves when more may follow; `bytes` belong to the receiver from now on. */
  data(bytes: Buffer): Promise<void> {
    this.#receivedBytes += bytes.length;
    return this.#enqueue({ type: 'data', bytes });
  }

  /**
   * The record that ends a checkpoint: everything before it is here.
   * @param epoch of the last one with a number; the same again counts with it
   * @param folded it waits for the epoch after that one
   */
  checkpoint(epoch: number, folded: boolean, bytes: Buffer): Promise<void> {
    const counts = folded ? 'folded' : epoch === this.#lastMemory ? 'before' : epoch;
    if (!folded) this.#lastMemory = epoch;
    const room = this.#enqueue({ type: 'checkpoint', bytes, needsMore: folded });
    this.#input({ type: 'memory', counts, nowMs: this.#edges.nowMs() });
    if (typeof counts === 'number' && counts > LIVE_ROUND) this.#memoryComplete(counts);
    return room;
  }

  marker(epoch: number): void {
    this.#input({ type: 'marker', epoch, nowMs: this.#edges.nowMs() });
  }

  /** What the sender says to this host's module. */
  module(message: ToModule): void {
    if (message.type === 'module-barrier') {
      this.marker(message.epoch);
      return;
    }
    const { what, number } = message;
    const { disks } = this.#edges;
    const answer = disks.ask?.(what) ?? Promise.reject(new Error('this host has no such module'));
    answer.then(
      (procDrbd) => this.#link?.module?.({ type: 'module-side', of: 'answer', number, procDrbd }),
      (error: unknown) => {
        const reason = (error as Error).message.slice(0, REASON_CHARS_MAX);
        this.#link?.module?.({ type: 'module-failed', number, reason });
      },
    );
  }

  #memoryComplete(epoch: number): void {
    this.#edges.disks.memoryComplete?.(epoch).then(
      (procDrbd) => this.#link?.module?.({ type: 'module-side', of: 'memory', number: epoch, procDrbd }),
      (error: unknown) => this.journalFailed((error as Error).message),
    );
  }

  journalFailed(reason: string): void {
    this.#input({ type: 'journal-failed', reason, nowMs: this.#edges.nowMs() });
  }

  disk(connected: boolean): void {
    this.#input({ type: 'disk', connected, nowMs: this.#edges.nowMs() });
  }

  /** Gives the copy up, as far as nothing has been decided yet. */
  stop(reason: string): void {
    this.#input({ type: 'stop', reason, nowMs: this.#edges.nowMs() });
  }

  askFailover(reason: string): void {
    this.#input({ type: 'failover-asked', reason, nowMs: this.#edges.nowMs() });
  }

  /** The primary's clean-up asks who goes on. Answers once. */
  dropTerm(
    { term, reason, crashed }: { term: number; reason: string; crashed: boolean },
    answer: (result: { decision: Decision } | { undecided: string }, reason: string) => void,
  ): void {
    this.#askers.push(answer);
    this.#input({ type: 'drop-term', term, reason, crashed, nowMs: this.#edges.nowMs() });
  }

  /** Ends timers; for a receiver that is thrown away. */
  close(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
    this.#claiming.abort();
  }

  #tick(): void {
    this.#link?.heartbeat(this.#state.phase);
    this.#input({ type: 'tick', nowMs: this.#edges.nowMs() });
  }

  #enqueue(item: Queued): Promise<void> {
    this.#queue.push(item);
    this.#queuedBytes += item.bytes.length;
    this.#pump();
    if (this.#hasRoom()) return Promise.resolve();
    return new Promise((resolve) => this.#roomWaiters.push(resolve));
  }

  #pump(): void {
    if (this.#pumping) return;
    this.#pumping = true;
    void this.#pumpLoop().catch((error: unknown) => {
      this.#pumping = false;
      this.#release(true);
      this.#input({ type: 'copy-ended', reason: (error as Error).message, nowMs: this.#edges.nowMs() });
    });
  }

  async #pumpLoop(): Promise<void> {
    for (;;) {
      const [item] = this.#queue;
      if (item === undefined || this.#copy === null) break;
      if (item.type === 'checkpoint') {
        if (this.#passes === 0) {
          this.#release(false);
          break;
        }
        this.#passes--;
      }
      this.#queue.shift();
      await this.#copy.write(item.bytes);
      this.#queuedBytes -= item.bytes.length;
      this.#release(false);
    }
    this.#pumping = false;
    for (const done of this.#pumpDone.splice(0)) done();
  }

  #hasRoom(): boolean {
    const [first] = this.#queue;
    if (first?.type === 'checkpoint' && first.needsMore && this.#passes === 0) return true;
    return this.#queuedBytes < QUEUE_BYTES_MAX;
  }

  #release(all: boolean): void {
    if (!all && !this.#hasRoom()) return;
    for (const resolve of this.#roomWaiters.splice(0)) resolve();
  }

  /** Gives xl everything up to the last checkpoint that may be passed on, and drops what is behind it. */
  async #settleCopy(): Promise<void> {
    while (this.#pumping || this.#passes > 0) {
      if (!this.#pumping) {
        // A pass without its record can't be: the record is queued before the machine hears of it.
        if (this.#queue.length === 0)
          throw new Error('a checkpoint was committed and its record is not here');
        this.#pump();
      }
      await new Promise<void>((resolve) => this.#pumpDone.push(resolve));
    }
    this.#queue = [];
    this.#queuedBytes = 0;
    this.#release(true);
  }

  #input(input: ReceiverInput): void {
    const { state, effects } = receiverStep(this.#state, input);
    this.#state = state;
    if (state.decision !== null) this.#claiming.abort();
    for (const effect of effects) this.#carryOut(effect);
    if (state.phase === 'ended' || state.phase === 'failed-over' || state.phase === 'stuck') {
      this.close();
      this.#finish?.(state);
    }
  }

  #do(work: Promise<void>): void {
    work.catch((error: unknown) => {
      this.close();
      this.#fail?.(error as Error);
    });
  }

  #carryOut(effect: ReceiverEffect): void {
    const edges = this.#edges;
    switch (effect.type) {
      case 'log':
        edges.log(effect.level, effect.message, effect.fields ?? {});
        return;
      case 'begin':
        this.#do(this.#begin(effect.identity));
        return;
      case 'commit':
        this.#do(
          this.#commit(effect.epoch).then(
            () => this.#input({ type: 'commit-durable', epoch: effect.epoch, nowMs: edges.nowMs() }),
            (error: unknown) => this.journalFailed((error as Error).message),
          ),
        );
        return;
      case 'pass-checkpoint':
        this.#passes++;
        this.#pump();
        return;
      case 'acknowledge':
        if (this.#state.identity !== null) this.#link?.committed(this.#state.identity, effect.epoch);
        return;
      case 'claim':
        this.#do(
          edges
            .claim((reason, mayHaveWon) => {
              this.#input({ type: 'undecided', reason, mayHaveWon, nowMs: edges.nowMs() });
            }, this.#claiming.signal)
            .then((outcome) => {
              if (outcome !== null) this.#input({ type: 'claimed', ...outcome, nowMs: edges.nowMs() });
            }),
        );
        return;
      case 'leave-session':
        this.#link?.undecided(effect.reason);
        return;
      case 'decide':
        this.#do(
          this.#record(effect.decision, effect.reason).then(() =>
            this.#input({ type: 'decision-durable', nowMs: edges.nowMs() }),
          ),
        );
        return;
      case 'step':
        this.#do(this.#step(effect.step));
        return;
      case 'answer-ended':
        this.#link?.ended(effect.decision, effect.reason);
        for (const answer of this.#askers.splice(0)) answer({ decision: effect.decision }, effect.reason);
        return;
      case 'answer-undecided':
        for (const answer of this.#askers.splice(0)) answer({ undecided: effect.reason }, effect.reason);
        return;
      default:
        throw new Error(`effect ${String(effect satisfies never)}`);
    }
  }

  async #commit(epoch: number): Promise<void> {
    this.#entered ??= this.#edges.enter();
    await this.#entered;
    await this.#edges.disks.commit(epoch);
  }

  /**
   * A full disk must not end the process, and the only copy of the guest with it. Who takes over waits until the
   * record is there. Who gives way needs none: without one, giving way is what a later process does (`decision.ts`).
   */
  async #record(decision: Decision, reason: string): Promise<void> {
    for (;;) {
      try {
        await this.#edges.record(decision, reason);
        return;
      } catch (error) {
        // It was decided otherwise: a broken invariant, and nothing may go on.
        if (error instanceof OperatorError && error.exitCode === ExitCode.refused) throw error;
        this.#edges.log('error', 'the decision could not be recorded', {
          decision,
          reason: (error as Error).message,
        });
        if (decision === 'primary') return;
      }
      await pause(RECORD_AGAIN_MS);
    }
  }

  async #begin(identity: Identity): Promise<void> {
    try {
      await this.#edges.disks.startSession(identity);
    } catch (error) {
      this.journalFailed((error as Error).message);
      return;
    }
    this.#copy = this.#edges.startCopy({
      back: (bytes) => this.#link?.back(bytes),
      ended: (reason) => this.#input({ type: 'copy-ended', reason, nowMs: this.#edges.nowMs() }),
    });
    this.#link?.begun();
    this.#pump();
  }

  async #step(step: FailoverStep | GiveUpStep): Promise<void> {
    const startedMs = this.#edges.nowMs();
    let atEpoch: number | undefined;
    try {
      atEpoch = (await this.#perform(step))?.atEpoch;
    } catch (error) {
      const reason = (error as Error).message;
      this.#input({ type: 'step-failed', step, reason, nowMs: this.#edges.nowMs() });
      return;
    }
    const nowMs = this.#edges.nowMs();
    this.#edges.log('info', 'a step is done', { step, durationMs: nowMs - startedMs });
    this.#input({ type: 'step-done', step, ...(atEpoch === undefined ? {} : { atEpoch }), nowMs });
  }

  async #perform(step: FailoverStep | GiveUpStep): Promise<void | { atEpoch: number }> {
    switch (step) {
      case 'drop-copy':
        await this.#copy?.drop();
        this.#queue = [];
        this.#queuedBytes = 0;
        this.#release(true);
        return;
      case 'start-guest':
        if (this.#copy === null) throw new Error('there is no copy');
        await this.#settleCopy();
        await this.#copy.start();
        return;
      default:
        return this.#edges.disks.step(step);
    }
  }
}
