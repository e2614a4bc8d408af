/**
 * The sender as a process: xl's transport on the primary. Carries out what `core/protect/sender.ts` decides.
 *
 *     xl remus --pipe--> [decoder, gate] --bulk--> receiver --> xl migrate-receive
 *                              |                      |
 *              marks on network and barrier      committed N --> output of epoch N leaves
 *
 * The stream is read exactly up to each header (`core/stream/decoder.ts`), so nothing is ever read ahead of the
 * gate. Everything that touches the world comes in as `SenderEdges`, so that the embedded pair and the tests run
 * this very code.
 */
import { senderProtection, senderStep, newSender } from '../core/protect/sender.js';
import type { SenderEffect, SenderInput, SenderOptions, SenderState } from '../core/protect/sender.js';
import { FiguresHistory } from '../core/protect/figures.js';
import type { CheckpointFigures, FiguresSummary } from '../core/protect/figures.js';
import { tickMs } from '../core/protect/types.js';
import type { Decision, GuestEnd, Identity } from '../core/protect/types.js';
import { CHECKPOINT_BYTES_MAX } from '../core/link/bulk.js';
import type { FromModule, ToModule } from '../core/link/messages.js';
import { StreamDecoder } from '../core/stream/decoder.js';
import { StreamError } from '../core/stream/error.js';
import { startGate, stepGate } from '../core/stream/gate.js';
import type { GateEffect, GateInput, GateState } from '../core/stream/gate.js';
import type { Question } from './claim.js';

/** What comes from xl. */
export interface StreamInput {
  /** At most `bytes`, in memory that is reused by the next call but one; empty at the end of the stream. */
  readUpTo(bytes: number): Promise<Buffer>;
  /** Asks for one page. @returns false while more than a page is in the pipe */
  narrow(): boolean;
  widen(): void;
  /** Ends the stream from our side: xl's next write fails, and it gives up. */
  close(): void;
}

/** The connections to the receiver, once it has welcomed us. */
export interface SenderLink {
  heartbeat(state: string): void;
  end(reason: string, guest: GuestEnd | null): void;
  /** Bytes of an epoch's memory. Resolves when more may follow; the bytes may then change. */
  data(epoch: number, bytes: Buffer): Promise<void>;
  /** The end of a checkpoint, from the record CHECKPOINT to CHECKPOINT_END; `folded` for one that could not be held. */
  checkpoint(epoch: number, folded: boolean, bytes: Uint8Array): Promise<void>;
  /** To the module's host; of use with `engine: protocol-d` alone. */
  module?(message: ToModule): void;
  close(): void;
}

/**
 * What closes an epoch on the disks. The epoch journal needs a marker and nothing else; the rest is for a DRBD module
 * that does the journal's part itself (`protocol-d-barrier.ts`).
 */
export interface Barrier {
  /**
   * With the guest suspended. Resolves when its memory may follow.
   *
   * Of a module it then also stays paused until the module has acknowledged the barrier.
   */
  write(epoch: number): Promise<void>;
  close(): Promise<void>;
  /** The link is there. */
  begin?(link: SenderLink, events: BarrierEvents): void;
  heard?(message: FromModule): void;
  /** Why the disks are not known to follow the checkpoints yet; null where they are. */
  doubt?(): string | null;
  /** Protection is to end in order. Resolves when it may, whether this went well or not. */
  finish?(reason: string): Promise<void>;
  /** No barrier leaves any more; the guest need not wait for one. */
  halt?(): void;
}

export interface BarrierEvents {
  failed(reason: string): void;
  /** The guest of this epoch goes on only now. */
  resumed(epoch: number): void;
}

export interface LinkEvents {
  heard(): void;
  committed(identity: Identity, epoch: number): void;
  ended(decision: Decision, reason: string): void;
  /** What xl on the backup says back. */
  back(bytes: Buffer): void;
  module?(message: FromModule): void;
  lost(reason: string): void;
}

export interface SenderEdges {
  input: StreamInput;
  /** To xl's standard input. */
  back(bytes: Buffer): void;
  connect(events: LinkEvents): Promise<SenderLink>;
  /** Records, durably, that there may soon be a checkpoint that the backup could go on with. Called once. */
  enter(): Promise<void>;
  /** Null where output isn't held. */
  network: {
    mark(epoch: number): Promise<void>;
    release(epoch: number): Promise<void>;
    /** Everything flows again; nothing of ours is left. */
    open(): Promise<void>;
    /** What is held is dropped with the devices that hold it; the guest is gone by then. */
    drop(): Promise<void>;
    dropped(): number;
    onFailed(callback: (reason: string) => void): void;
  } | null;
  /** Null where disks aren't protected. */
  barrier: Barrier | null;
  /** Calls back with whether DRBD has its peer, now and at each change. */
  watchDisk(onState: (connected: boolean, reason: string) => void): { close(): void };
  /** Asks until there is an answer, the arbiter and the receiver's host; reports in between. */
  claim(
    question: Question,
    onUndecided: (reason: string) => void,
  ): Promise<{ decision: Decision; reason: string }>;
  /** What became of the guest; null while it lives. */
  guestEnd(): Promise<GuestEnd | null>;
  destroyGuest(): Promise<void>;
  /** For whoever comes later on this host. Who decided has recorded it already. */
  record(decision: Decision, reason: string): Promise<void>;
  nowMs(): number;
  log(level: 'debug' | 'info' | 'warn' | 'error', message: string, fields: Record<string, unknown>): void;
}

export interface SenderView {
  state: SenderState;
  sentBytes: number;
  figures: FiguresSummary | null;
  droppedPackets: number;
  protection: ReturnType<typeof senderProtection>;
}

/** A commit older than this is late: ten intervals, but not less than three seconds. */
export function lateMs(intervalMs: number): number {
  return Math.max(10 * intervalMs, 3_000);
}

/**
 * A session that has not begun by then is not waited for any longer. Until it has, the receiver looks at DRBD and
 * makes two flushes.
 */
export const BEGIN_MS = 40_000;

const READ_BYTES = 1 << 20;

interface Timing {
  beganMs: number;
  markedMs: number;
  resumedMs: number;
  sentMs: number;
  committedMs: number;
  bytes: number;
}

export class Sender {
  #state: SenderState;
  readonly #edges: SenderEdges;
  #link: SenderLink | null = null;
  #sentBytes = 0;
  #dropsStream = false;
  #gateState: GateState = startGate();
  #openGate: (() => void) | null = null;
  /** From the CHECKPOINT record on, of the checkpoint that is being read; null before it. */
  #tail: Buffer[] | null = null;
  /** What was sent without waiting for room. */
  #room: Promise<void>[] = [];
  /** What the checkpoint that has just become whole counts as. */
  #counts: number | 'before' | 'folded' = 'before';
  #epoch = 0;
  #entered: Promise<void> | null = null;
  readonly #timings = new Map<number, Timing>();
  readonly #figures = new FiguresHistory();
  readonly #pending = new Set<Promise<void>>();
  #finish: (() => void) | null = null;
  #failure: Error | null = null;

  constructor(options: SenderOptions, edges: SenderEdges) {
    this.#state = newSender(options);
    this.#edges = edges;
  }

  view(): SenderView {
    const { intervalMs } = this.#state.options;
    const protection = senderProtection(this.#state, this.#edges.nowMs(), lateMs(intervalMs));
    const doubt = protection.protection === 'protected' ? (this.#edges.barrier?.doubt?.() ?? null) : null;
    return {
      state: this.#state,
      sentBytes: this.#sentBytes,
      figures: this.#figures.summary(),
      droppedPackets: this.#edges.network?.dropped() ?? 0,
      protection: doubt === null ? protection : { protection: 'starting', reason: doubt },
    };
  }

  /** Ends protection by agreement. */
  stop(reason: string): void {
    const stop = (): void => this.#input({ type: 'stop', reason, nowMs: this.#edges.nowMs() });
    const { barrier } = this.#edges;
    if (barrier?.finish === undefined) stop();
    else void barrier.finish(reason).then(stop);
  }

  /**
   * Runs until it is decided who goes on and everything that follows from it is done.
   * @returns the decision
   */
  async run(): Promise<Decision> {
    const edges = this.#edges;
    const { failAfterMs } = this.#state.options;
    const finished = new Promise<void>((resolve) => {
      this.#finish = resolve;
    });
    const disk = edges.watchDisk((connected, reason) => {
      this.#input({ type: 'disk', connected, reason, nowMs: edges.nowMs() });
    });
    edges.network?.onFailed((reason) => {
      this.#input({ type: 'network-failed', reason, nowMs: edges.nowMs() });
    });
    const timer = setInterval(() => {
      // What has arrived by now is handled before the silence is judged.
      setImmediate(() => this.#tick());
    }, tickMs(failAfterMs));
    try {
      await this.#connect();
      if (this.#link !== null) {
        void this.#pump().catch((error: unknown) => {
          void this.#streamEnded(error);
        });
      }
      await finished;
      await Promise.allSettled([...this.#pending]);
    } finally {
      clearInterval(timer);
      disk.close();
      this.#link?.close();
    }
    if (this.#failure !== null) throw this.#failure;
    if (this.#state.decision === null) throw new Error('the sender ended without a decision');
    return this.#state.decision;
  }

  async #connect(): Promise<void> {
    const edges = this.#edges;
    try {
      this.#link = await edges.connect({
        heard: () => this.#input({ type: 'heard', nowMs: edges.nowMs() }),
        committed: (identity, epoch) => {
          this.#committed(epoch);
          this.#input({ type: 'committed', identity, epoch, nowMs: edges.nowMs() });
        },
        ended: (decision, reason) => {
          this.#input({ type: 'receiver-ended', decision, reason, nowMs: edges.nowMs() });
        },
        back: (bytes) => edges.back(bytes),
        module: (message) => edges.barrier?.heard?.(message),
        lost: (reason) => this.#input({ type: 'link-lost', reason, nowMs: edges.nowMs() }),
      });
      this.#input({ type: 'welcomed', nowMs: edges.nowMs() });
      edges.barrier?.begin?.(this.#link, {
        failed: (reason) => this.#input({ type: 'marker-failed', reason, nowMs: edges.nowMs() }),
        resumed: (epoch) => this.#resumed(epoch),
      });
    } catch (error) {
      const reason = `the receiver can't be reached: ${(error as Error).message}`;
      this.#input({ type: 'link-lost', reason, nowMs: edges.nowMs() });
    }
  }

  /** Reads xl's stream, header by header. */
  async #pump(): Promise<void> {
    const { input } = this.#edges;
    const decoder = new StreamDecoder();
    for (;;) {
      const need = decoder.need();
      if (need.kind === 'end') return this.#streamEnded(null);
      const bytes = await input.readUpTo(Math.min(need.bytes, READ_BYTES));
      if (bytes.length === 0) return this.#streamEnded(null);
      const event = decoder.push(bytes);
      const effect = this.#gate({ type: 'read', event });
      if (effect?.type === 'shrink') this.#gate({ type: 'shrunk', done: input.narrow() });
      if (effect?.type === 'hold') await this.#hold();
      if (effect?.type === 'missed') {
        this.#input({ type: 'epoch-missed', reason: effect.reason, nowMs: this.#edges.nowMs() });
      }
      if (event?.kind === 'checkpoint') this.#beginTail();
      // The header of a held record is sent with its epoch, behind the gate.
      if (this.#tail === null) await this.#send(bytes);
      else this.#keep(this.#tail, bytes);
      if (event?.kind === 'checkpoint-end') await this.#checkpointEnd();
    }
  }

  #gate(input: GateInput): GateEffect | null {
    const { state, effect } = stepGate(this.#gateState, input);
    this.#gateState = state;
    return effect;
  }

  /**
   * While the pipe is to become small nothing is waited for but the pipe: a few KiB behind the pages go out as they
   * come, from memory of their own. Otherwise the bytes are the reader's again when there is room for more.
   */
  async #send(bytes: Buffer): Promise<void> {
    if (this.#dropsStream || this.#link === null) return;
    this.#sentBytes += bytes.length;
    const timing = this.#timings.get(this.#epoch);
    if (timing !== undefined) timing.bytes += bytes.length;
    if (this.#gateState.pipe === 'shrinking') {
      this.#room.push(this.#link.data(this.#epoch, Buffer.from(bytes)));
      return;
    }
    await Promise.all([...this.#room.splice(0), this.#link.data(this.#epoch, bytes)]);
  }

  /** The guest is suspended and stays so until the gate opens. */
  async #hold(): Promise<void> {
    const nowMs = this.#edges.nowMs();
    if (!this.#dropsStream) {
      this.#entered ??= this.#edges.enter();
      await this.#entered;
    }
    if (!this.#dropsStream) {
      const opened = new Promise<void>((resolve) => {
        this.#openGate = resolve;
      });
      this.#input({ type: 'epoch-begins', nowMs });
      await opened;
    }
    const timing = this.#timings.get(this.#epoch);
    if (timing !== undefined) timing.beganMs = nowMs;
    this.#gate({ type: 'release' });
    this.#edges.input.widen();
  }

  /** The CHECKPOINT record was read: all of the guest's memory is here, and Xen resumes it. */
  #beginTail(): void {
    this.#resumed();
    this.#tail = [];
  }

  #keep(tail: Buffer[], bytes: Buffer): void {
    const total = tail.reduce((sum, each) => sum + each.length, bytes.length);
    if (total > CHECKPOINT_BYTES_MAX) {
      throw new Error(`behind its memory a checkpoint has more than ${CHECKPOINT_BYTES_MAX} bytes`);
    }
    tail.push(Buffer.from(bytes));
  }

  #resumed(epoch = this.#epoch): void {
    const timing = this.#timings.get(epoch);
    if (timing !== undefined) timing.resumedMs = this.#edges.nowMs();
  }

  /** The record that makes a checkpoint whole for libxl was read; it is sent with all that the receiver holds back. */
  async #checkpointEnd(): Promise<void> {
    const tail = Buffer.concat(this.#tail ?? []);
    this.#tail = null;
    const before = this.#state.phase;
    this.#input({ type: 'checkpoint', nowMs: this.#edges.nowMs() });
    if (before !== 'live' && before !== 'running') return;
    this.#sentBytes += tail.length;
    const timing = this.#timings.get(this.#epoch);
    if (timing !== undefined) timing.bytes += tail.length;
    const sent = this.#link?.checkpoint(this.#epoch, this.#counts === 'folded', tail);
    if (this.#gateState.pipe === 'shrinking') this.#room.push(sent ?? Promise.resolve());
    else await sent;
    if (timing !== undefined && timing.sentMs === 0) timing.sentMs = this.#edges.nowMs();
  }

  async #streamEnded(error: unknown): Promise<void> {
    if (this.#state.phase === 'decided') return;
    let guest: GuestEnd | null = null;
    let reason = 'xl has ended its stream';
    if (error instanceof StreamError) reason = `the stream of xl can't be read: ${error.message}`;
    else if (error !== null) reason = `the stream of xl can't be passed on: ${(error as Error).message}`;
    try {
      guest = await this.#edges.guestEnd();
    } catch (failure) {
      reason = `${reason}; ${(failure as Error).message}`;
    }
    if (guest !== null) reason = guest === 'gone' ? 'the guest is gone' : `the guest ended: ${guest}`;
    this.#input({ type: 'stream-ended', reason, guest, nowMs: this.#edges.nowMs() });
  }

  #committed(epoch: number): void {
    const timing = this.#timings.get(epoch);
    if (timing === undefined) return;
    timing.committedMs = this.#edges.nowMs();
    if (this.#edges.network === null) this.#released(epoch);
  }

  #released(epoch: number): void {
    const timing = this.#timings.get(epoch);
    if (timing === undefined) return;
    this.#timings.delete(epoch);
    const { beganMs, markedMs, resumedMs, sentMs, committedMs, bytes } = timing;
    const figures: CheckpointFigures = {
      epoch,
      pauseMs: resumedMs - beganMs,
      markerMs: markedMs - beganMs,
      transferMs: resumedMs - markedMs,
      dirtyBytes: bytes,
      commitMs: committedMs - sentMs,
      releaseMs: this.#edges.nowMs() - committedMs,
    };
    this.#figures.add(figures);
    this.#edges.log('debug', 'checkpoint', { ...figures });
  }

  #tick(): void {
    const nowMs = this.#edges.nowMs();
    this.#link?.heartbeat(this.#state.phase);
    const dropped = this.#edges.network?.dropped() ?? 0;
    if (dropped > 0 && !this.#state.outputDropped) {
      this.#input({ type: 'output-dropped', packets: dropped, nowMs });
    }
    this.#input({ type: 'tick', nowMs });
  }

  #input(input: SenderInput): void {
    const { state, effects } = senderStep(this.#state, input);
    this.#state = state;
    for (const effect of effects) this.#carryOut(effect);
  }

  /** Keeps account of what is under way; a failure that nobody expected ends the process. */
  #do(work: Promise<void>): void {
    const tracked = work
      .catch((error: unknown) => {
        this.#failure ??= error as Error;
        this.#finish?.();
      })
      .finally(() => this.#pending.delete(tracked));
    this.#pending.add(tracked);
  }

  #carryOut(effect: SenderEffect): void {
    const edges = this.#edges;
    switch (effect.type) {
      case 'log':
        edges.log(effect.level, effect.message, effect.fields ?? {});
        return;
      case 'mark-network':
        this.#do(
          this.#mark(edges.network?.mark(effect.epoch), 'network-failed', (nowMs) => {
            this.#input({ type: 'network-marked', epoch: effect.epoch, nowMs });
          }),
        );
        return;
      case 'write-marker':
        this.#do(
          this.#mark(edges.barrier?.write(effect.epoch), 'marker-failed', (nowMs) => {
            this.#input({ type: 'marker-written', epoch: effect.epoch, nowMs });
          }),
        );
        return;
      case 'read-on': {
        if (effect.epoch !== null) {
          this.#epoch = effect.epoch;
          const nowMs = edges.nowMs();
          this.#timings.set(effect.epoch, {
            beganMs: nowMs,
            markedMs: nowMs,
            resumedMs: 0,
            sentMs: 0,
            committedMs: 0,
            bytes: 0,
          });
        }
        this.#open();
        return;
      }
      case 'drop-stream':
        edges.barrier?.halt?.();
        this.#dropsStream = true;
        this.#open();
        return;
      case 'send-checkpoint':
        // Sent by the pump, which has the record and waits for room.
        this.#counts = effect.counts;
        return;
      case 'release-network':
        this.#do(
          (edges.network?.release(effect.epoch) ?? Promise.resolve()).then(
            () => this.#released(effect.epoch),
            (error: unknown) => {
              const reason = `output of epoch ${effect.epoch} could not be released: ${(error as Error).message}`;
              this.#input({ type: 'network-failed', reason, nowMs: edges.nowMs() });
            },
          ),
        );
        return;
      case 'send-end':
        this.#link?.end(effect.reason, effect.guest);
        return;
      case 'claim':
        // Not waited for at the end: where the receiver has decided first, nobody may ever answer this one.
        edges
          .claim(effect, (reason) => {
            this.#input({ type: 'undecided', reason, nowMs: edges.nowMs() });
          })
          .then(
            ({ decision, reason }) => {
              this.#input({ type: 'claimed', decision, reason, nowMs: edges.nowMs() });
            },
            (error: unknown) => {
              if (this.#state.phase === 'decided') return;
              this.#failure ??= error as Error;
              this.#finish?.();
            },
          );
        return;
      case 'go-on':
        this.#do(this.#goOn(effect.reason));
        return;
      case 'give-way':
        this.#do(this.#giveWay(effect.reason));
        return;
      default:
        throw new Error(`effect ${String(effect satisfies never)}`);
    }
  }

  async #mark(
    work: Promise<void> | undefined,
    failed: 'network-failed' | 'marker-failed',
    done: (nowMs: number) => void,
  ): Promise<void> {
    try {
      await work;
    } catch (error) {
      const what = failed === 'network-failed' ? 'the network mark' : 'the marker on the barrier volume';
      const reason = `${what} failed: ${(error as Error).message}`;
      this.#input({ type: failed, reason, nowMs: this.#edges.nowMs() });
      return;
    }
    done(this.#edges.nowMs());
  }

  #open(): void {
    this.#openGate?.();
    this.#openGate = null;
  }

  async #goOn(reason: string): Promise<void> {
    // Output first: it has waited long enough, and nothing can forbid it any more.
    await this.#edges.network?.open();
    await this.#record('primary', reason);
    await this.#edges.barrier?.close();
    this.#dropsStream = true;
    this.#open();
    this.#edges.input.close();
    this.#finish?.();
  }

  /** A full disk must neither hold output back nor keep a guest alive: who decided has its own record. */
  async #record(decision: Decision, reason: string): Promise<void> {
    try {
      await this.#edges.record(decision, reason);
    } catch (error) {
      this.#edges.log('error', 'the decision could not be recorded here', {
        decision,
        reason: (error as Error).message,
      });
    }
  }

  async #giveWay(reason: string): Promise<void> {
    await this.#edges.destroyGuest();
    await this.#edges.network?.drop();
    await this.#record('backup', reason);
    await this.#edges.barrier?.close();
    this.#dropsStream = true;
    this.#open();
    this.#edges.input.close();
    this.#finish?.();
  }
}
