/**
 * The sender on a modelled host: carries out the effects of the production machine as `src/protect/sender.ts` does,
 * in virtual time, and can die before or after each of them.
 */
import { newSender, senderProtection } from '../core/protect/sender.js';
import type { SenderEffect, SenderInput, SenderOptions, SenderState } from '../core/protect/sender.js';
import { tickMs } from '../core/protect/types.js';
import type { Decision, GuestEnd } from '../core/protect/types.js';
import { encodeMarker } from '../core/journal/format.js';
import { BEGIN_MS, lateMs } from '../protect/sender.js';
import type { Host } from './host.js';
import { decideForPrimary } from './claiming.js';
import { BARRIER } from './model-drbd.js';
import { ModelNetworkBuffer } from './model-output.js';
import type { Memory } from './model-guest.js';
import type { ModelConnection } from './model-network.js';
import { Owner } from './model-time.js';
import type { BulkMessage, ControlMessage } from './receiver-process.js';
import type { Term, World } from './world.js';

/** What comes through the pipe from xl. */
export type PipeItem =
  | { kind: 'data' }
  /** The header of an epoch's first PAGE_DATA record. `isHeld`: the pipe was small in time. */
  | { kind: 'begin'; isHeld: boolean }
  | { kind: 'checkpoint-record' }
  | { kind: 'checkpoint-end'; snapshot: Snapshot };

export interface Snapshot {
  ordinal: number;
  memory: Memory;
}

export class SenderProcess {
  readonly owner: Owner;
  readonly host: Host;
  readonly term: Term;
  state: SenderState;
  readonly network: ModelNetworkBuffer;
  readonly #world: World;
  #control: ModelConnection<ControlMessage> | null = null;
  #bulk: ModelConnection<BulkMessage> | null = null;
  #dropsStream = false;
  #openGate: (() => void) | null = null;
  #counts: number | 'before' | 'folded' = 'before';
  #epoch = 0;
  #pending = 0;
  #isFinished = false;
  #waiting: (() => void) | null = null;

  constructor(world: World, term: Term, options: SenderOptions, unit: Owner) {
    this.#world = world;
    this.term = term;
    this.host = term.primary;
    this.owner = new Owner('sender', unit);
    this.state = newSender(options);
    this.network = new ModelNetworkBuffer(this.host, this.owner, world.machines);
    this.network.onOpen = () => world.primaryOpened(term);
    const side = world.drbd.of(this.host);
    const watch = (): void => {
      world.time.later(world.time.random.between(2, 60), this.owner, () => {
        const fault = world.drbd.fault(side);
        this.input({
          type: 'disk',
          connected: fault === null,
          reason: fault ?? '',
          nowMs: this.host.nowMs(),
        });
      });
    };
    side.watchers.add(watch);
    this.owner.onDeath(() => side.watchers.delete(watch));
    watch();
    this.#tick(tickMs(options.failAfterMs));
    this.#connect();
  }

  input(input: SenderInput): void {
    this.#world.coverage.input('sender', this.state.phase, input.type);
    const { state, effects } = this.#world.machines.senderStep(this.state, input);
    this.state = state;
    for (const effect of effects) {
      if (!this.owner.alive) return;
      this.#carryOut(effect);
    }
  }

  stop(reason: string): void {
    this.input({ type: 'stop', reason, nowMs: this.host.nowMs() });
  }

  /**
   * An acknowledgement that no receiver of this session would send now: of another term, of another session, of an
   * epoch behind the one that is due, or one that was there before.
   */
  strayAcknowledgement(kind: 'term' | 'session' | 'ahead' | 'again'): void {
    const { identity } = this.state.options;
    const { phase, lastSent, lastCommitted } = this.state;
    if (phase !== 'running' && phase !== 'holding') return;
    // Where it could do harm: for something that was sent and is not committed.
    if (lastSent - lastCommitted < (kind === 'ahead' ? 2 : 1) || lastCommitted === 0) {
      this.#world.time.later(5, this.owner, () => this.strayAcknowledgement(kind));
      return;
    }
    const stray = {
      term: { identity: { ...identity, term: identity.term - 1 }, epoch: lastCommitted + 1 },
      session: { identity: { ...identity, session: 'f'.repeat(32) }, epoch: lastCommitted + 1 },
      ahead: { identity, epoch: lastSent },
      again: { identity, epoch: lastCommitted },
    }[kind];
    this.#world.say(`an acknowledgement of epoch ${stray.epoch} that is not due (${kind})`);
    this.input({ type: 'committed', ...stray, nowMs: this.host.nowMs() });
  }

  failNetwork(): void {
    this.network.failNext = true;
  }

  /** One piece of the stream. @param taken when xl may go on writing */
  read(item: PipeItem, taken: () => void): void {
    if (this.state.phase === 'connecting') {
      this.#waiting = () => this.read(item, taken);
      return;
    }
    switch (item.kind) {
      case 'data':
      case 'checkpoint-record':
        if (!this.#dropsStream) this.#bulk?.send(0, { type: 'data', epoch: this.#epoch });
        taken();
        return;
      case 'begin':
        if (!item.isHeld) {
          this.input({ type: 'epoch-missed', reason: 'read too late', nowMs: this.host.nowMs() });
          taken();
        } else if (this.#dropsStream) taken();
        else {
          this.#openGate = taken;
          this.input({ type: 'epoch-begins', nowMs: this.host.nowMs() });
        }
        return;
      case 'checkpoint-end': {
        const before = this.state.phase;
        this.input({ type: 'checkpoint', nowMs: this.host.nowMs() });
        if (!this.owner.alive) return;
        if (before === 'live' || before === 'running') {
          this.#act('send-checkpoint', (done) => {
            this.#bulk?.send(0, {
              type: 'checkpoint',
              epoch: this.#epoch,
              folded: this.#counts === 'folded',
              snapshot: item.snapshot,
            });
            done();
          });
        }
        taken();
        return;
      }
      default:
        throw new Error(`item ${String(item satisfies never)}`);
    }
  }

  /** End of the pipe. */
  streamEnded(): void {
    if (this.state.phase === 'decided') return;
    this.#world.time.later(this.#world.time.random.between(1, 300), this.owner, () => {
      const guest: GuestEnd | null = this.host.guest === null ? (this.host.ended ?? 'gone') : null;
      this.input({
        type: 'stream-ended',
        reason: guest === null ? 'xl has ended its stream' : `the guest ended: ${guest}`,
        guest,
        nowMs: this.host.nowMs(),
      });
    });
  }

  #tick(everyMs: number): void {
    this.#world.time.later(everyMs / this.host.clockRate, this.owner, () => {
      const nowMs = this.host.nowMs();
      this.#control?.send(0, { type: 'heartbeat' });
      this.input({ type: 'tick', nowMs });
      if (!this.owner.alive) return;
      const { intervalMs } = this.state.options;
      this.#world.checkProtection(this, senderProtection(this.state, nowMs, lateMs(intervalMs)).protection);
      this.#tick(everyMs);
    });
  }

  #connect(): void {
    const { time, network } = this.#world;
    const { backup } = this.term;
    let isOver = false;
    let hasBegun = false;
    const lost = (reason: string): void => {
      if (isOver) return;
      isOver = true;
      this.input({ type: 'link-lost', reason, nowMs: this.host.nowMs() });
    };
    const failed = (): void => lost("the receiver can't be reached");
    time.later(time.random.between(10, 200), this.owner, () => {
      const receiver = this.#world.receiverOn(backup, this.term);
      const isUp = network.isUp(this.host.name, backup.name) && network.isUp(backup.name, this.host.name);
      if (receiver === null || !isUp || !receiver.canBegin) {
        time.later(receiver === null ? 10 : 5_000, this.owner, failed);
        return;
      }
      const end = (what: string): { host: Host; owner: Owner; onLost: (reason: string) => void } => ({
        host: this.host,
        owner: this.owner,
        onLost: (reason) => lost(`the ${what} connection is lost: ${reason}`),
      });
      this.#control = network.connect<ControlMessage>(
        {
          ...end('control'),
          onMessage: (message) => {
            const nowMs = this.host.nowMs();
            this.input({ type: 'heard', nowMs });
            if (message.type === 'begun') {
              hasBegun = true;
              this.input({ type: 'welcomed', nowMs });
              this.#wake();
            } else if (message.type === 'committed') {
              this.input({ type: 'committed', identity: message.identity, epoch: message.epoch, nowMs });
            } else if (message.type === 'undecided') lost(message.reason);
            else if (message.type === 'ended') {
              isOver = true;
              this.input({
                type: 'receiver-ended',
                decision: message.decision,
                reason: message.reason,
                nowMs,
              });
            }
          },
        },
        receiver.controlEnd(),
      );
      this.#bulk = network.connect<BulkMessage>(
        { ...end('bulk'), onMessage: () => undefined },
        receiver.bulkEnd(),
      );
      receiver.begin(this.#control);
      time.later(BEGIN_MS, this.owner, () => {
        if (!hasBegun) lost(`the session has not begun: not within ${BEGIN_MS} ms`);
      });
    });
  }

  #wake(): void {
    const waiting = this.#waiting;
    this.#waiting = null;
    waiting?.();
  }

  /**
   * One effect, with a chance to die before it and after it.
   * @param work calls back when it is done
   */
  #act(name: string, work: (done: () => void) => void, then: () => void = () => undefined): void {
    if (this.#world.crashPoint('sender', name, 'before', this.host, this.owner)) return;
    // Decided in another way meanwhile, nobody waits for the arbiter any more.
    const counts = name === 'claim' ? 0 : 1;
    this.#pending += counts;
    work(() => {
      if (!this.owner.alive) return;
      this.#pending -= counts;
      if (this.#world.crashPoint('sender', name, 'after', this.host, this.owner)) return;
      then();
      this.#end();
    });
  }

  #end(): void {
    if (!this.#isFinished || this.#pending > 0 || !this.owner.alive) return;
    this.owner.die('ended');
  }

  #open(): void {
    const open = this.#openGate;
    this.#openGate = null;
    if (open !== null) this.#world.time.later(0, this.owner, open);
  }

  #carryOut(effect: SenderEffect): void {
    const { host } = this;
    const nowMs = (): number => host.nowMs();
    switch (effect.type) {
      case 'log':
        return;
      case 'mark-network': {
        let error: string | null = null;
        this.#act(
          'mark-network',
          (done) =>
            this.network.mark(effect.epoch, (failure) => {
              error = failure;
              done();
            }),
          () => {
            if (error === null) this.input({ type: 'network-marked', epoch: effect.epoch, nowMs: nowMs() });
            else this.input({ type: 'network-failed', reason: error, nowMs: nowMs() });
          },
        );
        return;
      }
      case 'write-marker': {
        let isGood = false;
        this.#act(
          'write-marker',
          (done) => {
            const { domain, term, session } = this.state.options.identity;
            const bytes = encodeMarker({
              domain,
              term,
              epoch: effect.epoch,
              session: Buffer.from(session, 'hex'),
            });
            this.#world.drbd.write(this.#world.drbd.of(host), { volume: BARRIER, cell: 0 }, bytes, (good) => {
              isGood = good && !this.#world.takesFault();
              done();
            });
          },
          () => {
            if (isGood) this.input({ type: 'marker-written', epoch: effect.epoch, nowMs: nowMs() });
            else this.input({ type: 'marker-failed', reason: 'EIO', nowMs: nowMs() });
          },
        );
        return;
      }
      case 'read-on':
        this.#act('read-on', (done) => {
          if (effect.epoch !== null) this.#epoch = effect.epoch;
          this.#open();
          done();
        });
        return;
      case 'drop-stream':
        this.#act('drop-stream', (done) => {
          this.#dropsStream = true;
          this.#open();
          this.#wake();
          done();
        });
        return;
      case 'send-checkpoint':
        this.#counts = effect.counts;
        return;
      case 'release-network': {
        let error: string | null = null;
        this.#act(
          'release-network',
          (done) =>
            this.network.release(effect.epoch, (failure) => {
              error = failure;
              done();
            }),
          () => {
            if (error !== null) this.input({ type: 'network-failed', reason: error, nowMs: nowMs() });
          },
        );
        return;
      }
      case 'send-end':
        this.#act('send-end', (done) => {
          this.#control?.send(0, { type: 'end', reason: effect.reason, guest: effect.guest });
          done();
        });
        return;
      case 'claim': {
        let outcome: { decision: Decision; reason: string } | null = null;
        this.#act(
          'claim',
          (done) =>
            decideForPrimary(
              this.#world,
              this.term,
              this.owner,
              effect,
              (reason) => this.input({ type: 'undecided', reason, nowMs: nowMs() }),
              (decided) => {
                outcome = decided;
                done();
              },
              () => this.state.phase === 'decided',
            ),
          () => {
            if (outcome !== null) this.input({ type: 'claimed', ...outcome, nowMs: nowMs() });
          },
        );
        return;
      }
      case 'go-on':
        this.#act('go-on', (done) => {
          this.network.open(() => {
            this.#record('primary', () => this.#finish(done));
          });
        });
        return;
      case 'give-way':
        this.#act('give-way', (done) => {
          const destroyed = (): void => {
            host.plug.drop();
            this.#record('backup', () => this.#finish(done));
          };
          if (this.#world.machines.skips.has('destroy')) destroyed();
          else this.#world.destroyGuest(host, this.owner, destroyed);
        });
        return;
      default:
        throw new Error(`effect ${String(effect satisfies never)}`);
    }
  }

  #record(decision: Decision, done: () => void): void {
    this.#world.recordPrimary(this.term, decision, this.owner, done);
  }

  #finish(done: () => void): void {
    this.#dropsStream = true;
    this.#open();
    this.#isFinished = true;
    done();
    this.#end();
  }
}
