/**
 * The receiver on a modelled host: carries out the effects of the production machine as `src/protect/receiver.ts` and
 * `backup-disks.ts` do, with the real epoch journal on modelled disks, and can die before or after each effect.
 */
import { formatJournal, EpochJournal } from '../journal/journal.js';
import { newReceiver } from '../core/protect/receiver.js';
import type {
  FailoverStep,
  GiveUpStep,
  ReceiverEffect,
  ReceiverInput,
  ReceiverOptions,
  ReceiverState,
} from '../core/protect/receiver.js';
import { tickMs } from '../core/protect/types.js';
import type { Decision, GuestEnd, Identity } from '../core/protect/types.js';
import { claimFrom } from './claiming.js';
import type { Asked, Outcome } from './claiming.js';
import { CommittedView } from './committed-view.js';
import { JournalLower, volumeBytes } from './host.js';
import type { Host } from './host.js';
import { BARRIER, VOLUMES } from './model-drbd.js';
import { decodeCell } from './model-guest.js';
import type { Block } from './model-drbd.js';
import type { End, ModelConnection } from './model-network.js';
import { Owner } from './model-time.js';
import type { Snapshot } from './sender-process.js';
import type { Term, World } from './world.js';

export type ControlMessage =
  | { type: 'heartbeat' }
  | { type: 'committed'; identity: Identity; epoch: number }
  | { type: 'end'; reason: string; guest: GuestEnd | null }
  | { type: 'ended'; decision: Decision; reason: string }
  | { type: 'undecided'; reason: string }
  | { type: 'begun' };

export type BulkMessage =
  | { type: 'data'; epoch: number }
  | { type: 'checkpoint'; epoch: number; folded: boolean; snapshot: Snapshot };

interface Waiting {
  snapshot: Snapshot;
  /** The commit that it waits for. */
  needs: number;
  /** Its memory is that of the commit; false where it lies between two. */
  isExact: boolean;
}

type Asker = (decision: Decision | null, reason: string) => void;

/** A journal that has been full for this long is given up, as by src/protect/backup-disks.ts. */
const FULL_MS = 5_000;
const NOTE_AGAIN_MS = 1_000;
const LEAVE_MS = 1_000;
/** More than the modelled DRBD has under way. */
const RESERVE_BYTES = 32 << 10;

export const volumeSpecs = Array.from({ length: VOLUMES }, (_, volume) => ({
  name: String(volume),
  sizeBytes: volumeBytes(volume),
  barrier: volume === BARRIER,
}));

/** Opens the journal of a host for one process. */
export async function openJournal(
  host: Host,
  owner: Owner,
  onMarker: (epoch: number) => void,
  onFailed: (reason: string) => void,
  onFull: () => void = () => undefined,
): Promise<EpochJournal> {
  const { time } = host;
  const disk = host.journalDisk.open(time, owner);
  const targets = host.lvs.map((each) => each.open(time, owner));
  if (!host.isFormatted) {
    await formatJournal(disk, {
      domain: 'web',
      volumes: volumeSpecs,
      segmentBytes: 64 << 10,
      journalId: Buffer.alloc(16, host.name),
    });
    host.isFormatted = true;
  }
  let opened: EpochJournal | null = null;
  const journal = await EpochJournal.open(disk, targets, volumeSpecs, {
    clock: {
      nowMs: () => host.wallClockMs(),
      monotonicMs: () => time.nowMs,
      soon: (action) => time.later(0, owner, promising(host, action)),
      later: (action, delayMs) => time.later(delayMs, owner, promising(host, action)),
    },
    drain: { delayMs: 5, spanBytes: 64 << 10 },
    reserveBytes: RESERVE_BYTES,
    onMarker: ({ epoch }) => owner.alive && onMarker(epoch),
    onChange: () => {
      const failure = opened?.failed ?? null;
      if (failure !== null && owner.alive) onFailed(failure.message);
      const since = opened?.state().full?.sinceMs ?? null;
      if (since === null) return;
      onFull();
      time.later(FULL_MS, owner, () => {
        if (opened?.state().full?.sinceMs === since) onFailed(`it has been full for ${FULL_MS} ms`);
      });
    },
  });
  opened = journal;
  return journal;
}

function promising(host: Host, action: () => void): () => void {
  return () => {
    host.time.hasPromises = true;
    action();
  };
}

export class ReceiverProcess {
  readonly owner: Owner;
  readonly host: Host;
  readonly term: Term;
  state: ReceiverState;
  readonly #world: World;
  #journal: EpochJournal | null = null;
  #view: CommittedView | null = null;
  #isSwitched = false;
  isListening = false;
  wasBegun = false;
  #control: ModelConnection<ControlMessage> | null = null;
  /** Checkpoints that wait for xl. */
  #queue: Waiting[] = [];
  #hasFolded = false;
  #passes = 0;
  #isPumping = false;
  #lastMemory: number | null = null;
  #hasCopy = false;
  #snapshots = new Map<number, Snapshot>();
  /** The last whole checkpoint that xl was given. */
  applied: Snapshot | null = null;
  #askers: Asker[] = [];
  /** It gave way, and there was no room to say so. */
  #isUnrecorded = false;
  isDone = false;

  constructor(world: World, term: Term, options: ReceiverOptions) {
    this.#world = world;
    this.term = term;
    this.host = term.backup;
    this.owner = new Owner('receiver', this.host.owner);
    this.state = newReceiver(options);
    this.owner.onDeath((death) => {
      if (death === 'power-cut') return;
      this.host.processKilled();
      // xl outlives it, and its input has ended.
      if (this.#hasCopy && !this.isDone) world.copyIsLeft(this.host, this.term, this.applied);
    });
    this.#prepare().catch((error: unknown) => world.programError(error, this.owner));
    this.#tick(tickMs(options.failAfterMs));
  }

  get canBegin(): boolean {
    return this.isListening && !this.wasBegun && this.state.phase === 'waiting';
  }

  get journal(): EpochJournal | null {
    return this.#journal;
  }

  async #prepare(): Promise<void> {
    const { host } = this;
    this.#world.time.hasPromises = true;
    const side = this.#world.drbd.of(host);
    const journal = await openJournal(
      host,
      this.owner,
      (epoch) => {
        this.#view?.closed(epoch);
        this.input({ type: 'marker', epoch, nowMs: host.nowMs() });
      },
      (reason) => this.input({ type: 'journal-failed', reason, nowMs: host.nowMs() }),
      () => this.#world.coverage.outcome('the journal was full'),
    );
    if (!this.owner.alive) return;
    this.#journal = journal;
    host.files.journalActive = true;
    const lower = new JournalLower(journal, this.owner, this.#world.time, (block, bytes) => {
      this.#view?.written(block, decodeCell(bytes), journal.state().mode === 'through');
    });
    this.#world.drbd.exchange(side, lower, () => {
      if (!this.owner.alive) return;
      this.#view = new CommittedView((block) => this.#world.peek(host, block));
      this.#isSwitched = true;
      host.files.gate = 'shut';
      const watch = (): void => {
        this.#world.time.later(this.#world.time.random.between(2, 60), this.owner, () => {
          this.input({ type: 'disk', connected: this.#world.drbd.fault(side) === null, nowMs: host.nowMs() });
        });
      };
      side.watchers.add(watch);
      this.owner.onDeath(() => side.watchers.delete(watch));
      watch();
      this.isListening = true;
    });
  }

  controlEnd(): End<ControlMessage> {
    return {
      host: this.host,
      owner: this.owner,
      onMessage: (message) => {
        const nowMs = this.host.nowMs();
        this.input({ type: 'heard', nowMs });
        if (message.type === 'end') this.#ended(message.reason, message.guest, nowMs);
      },
      onLost: (reason, peerLives) => this.#linkLost(reason, peerLives),
    };
  }

  bulkEnd(): End<BulkMessage> {
    return {
      host: this.host,
      owner: this.owner,
      onMessage: (message) => {
        const nowMs = this.host.nowMs();
        this.input({ type: 'heard', nowMs });
        if (message.type === 'data') return;
        const { epoch, folded, snapshot } = message;
        const counts = folded ? 'folded' : epoch === this.#lastMemory ? 'before' : epoch;
        if (!folded) this.#lastMemory = epoch;
        if (typeof counts === 'number') this.#snapshots.set(counts, snapshot);
        // One that is folded into the next epoch may come only together with that, and so may what follows it.
        this.#hasFolded = folded || (counts === 'before' && this.#hasFolded);
        this.#queue.push({
          snapshot,
          needs: this.#hasFolded ? epoch + 1 : epoch,
          // The live round is of no epoch, and nothing may start from it.
          isExact: !this.#hasFolded && epoch > 0,
        });
        this.#pump();
        this.input({ type: 'memory', counts, nowMs });
      },
      onLost: (reason, peerLives) => this.#linkLost(reason, peerLives),
    };
  }

  begin(control: ModelConnection<ControlMessage>): void {
    this.#control = control;
    this.wasBegun = true;
    const { number, session } = this.term;
    this.input({
      type: 'session',
      identity: { pair: 'rack1', domain: 'web', term: number, session },
      nowMs: this.host.nowMs(),
    });
  }

  dropTerm(term: number, { reason, crashed }: Asked, answer: Asker): void {
    this.#askers.push(answer);
    this.input({ type: 'drop-term', term, reason, crashed, nowMs: this.host.nowMs() });
  }

  stop(reason: string): void {
    this.input({ type: 'stop', reason, nowMs: this.host.nowMs() });
  }

  askFailover(reason: string): void {
    this.input({ type: 'failover-asked', reason, nowMs: this.host.nowMs() });
  }

  xlDied(): void {
    if (!this.#hasCopy) return;
    this.#hasCopy = false;
    this.applied = null;
    this.input({ type: 'copy-ended', reason: 'xl migrate-receive ended', nowMs: this.host.nowMs() });
  }

  input(input: ReceiverInput): void {
    if (!this.owner.alive) return;
    this.#world.coverage.input('receiver', this.state.phase, input.type);
    const { state, effects } = this.#world.machines.receiverStep(this.state, input);
    this.state = state;
    for (const effect of effects) {
      if (!this.owner.alive) return;
      this.#carryOut(effect);
    }
    if (state.phase === 'ended' || state.phase === 'failed-over' || state.phase === 'stuck') {
      this.isDone = state.phase !== 'stuck';
      // Where a fault of the disk or of the copy itself is the cause a person goes on from the disks.
      if (state.phase === 'stuck' && state.decision === 'backup' && !/modelled|no copy/.test(state.reason)) {
        this.#world.violation('progress', `the failover is stuck: ${state.reason}`);
      }
      this.#control?.close(1);
      this.#world.time.later(5, this.owner, () => this.owner.die('ended'));
    }
  }

  #ended(reason: string, guest: GuestEnd | null, nowMs: number): void {
    const { phase, options } = this.state;
    const isTaken = phase === 'live' || phase === 'on';
    // What was on its way before, as a claim, may still have another end.
    if (guest !== null && isTaken && !(guest === 'crash' && options.onCrash === 'failover')) {
      this.term.endedForGood = true;
    }
    this.input({ type: 'end', reason, guest, nowMs });
  }

  #linkLost(reason: string, peerLives: boolean): void {
    this.input({ type: 'link-lost', reason, peerLives, nowMs: this.host.nowMs() });
  }

  #tick(everyMs: number): void {
    this.#world.time.later(everyMs / this.host.clockRate, this.owner, () => {
      this.#control?.send(1, { type: 'heartbeat' });
      this.input({ type: 'tick', nowMs: this.host.nowMs() });
      this.#tick(everyMs);
    });
  }

  /** Writes to xl, one piece after the other. */
  #pump(): void {
    if (this.#isPumping || !this.#hasCopy) return;
    const [item] = this.#queue;
    if (item === undefined || this.#passes === 0) return;
    this.#passes--;
    this.#queue.shift();
    this.#isPumping = true;
    const { time } = this.#world;
    time.later(time.random.between(0.1, time.random.chance(0.03) ? 80 : 2), this.owner, () => {
      this.#isPumping = false;
      if (this.#hasCopy) this.#apply(item);
      this.#pump();
    });
  }

  /** xl has a whole checkpoint: from here on the copy would start with it. */
  #apply({ snapshot, needs, isExact }: Waiting): void {
    this.applied = snapshot;
    this.#world.copyIsAt(needs, isExact ? snapshot : null, this.#view?.at(needs) ?? null);
  }

  #act(
    name: string,
    work: (done: (error: string | null) => void) => void,
    then: (error: string | null) => void,
  ): void {
    if (this.#world.crashPoint('receiver', name, 'before', this.host, this.owner)) return;
    work((error) => {
      if (!this.owner.alive) return;
      if (this.#world.crashPoint('receiver', name, 'after', this.host, this.owner)) return;
      then(error);
    });
  }

  /** Waits for a promise of the journal, as long as this process lives. */
  #wait(work: Promise<unknown>, done: (error: string | null) => void): void {
    this.#world.time.hasPromises = true;
    work.then(
      () => this.#world.time.later(0, this.owner, () => done(null)),
      (error: unknown) => this.#world.time.later(0, this.owner, () => done((error as Error).message)),
    );
  }

  #carryOut(effect: ReceiverEffect): void {
    const { host } = this;
    const world = this.#world;
    const nowMs = (): number => host.nowMs();
    const journal = this.#journal;
    switch (effect.type) {
      case 'log':
        return;
      case 'begin':
        this.#act(
          'begin',
          (done) => {
            const { domain, term, session } = effect.identity;
            if (journal === null) throw new Error('no journal');
            const side = world.drbd.of(host);
            side.hasSession = true;
            const fault = world.drbd.fault(side);
            if (fault === null)
              this.#wait(journal.startSession({ domain, term, id: Buffer.from(session, 'hex') }), done);
            else world.time.later(1, this.owner, () => done(`DRBD is not as a session needs it: ${fault}`));
          },
          (error) => {
            if (error !== null) {
              this.input({ type: 'journal-failed', reason: error, nowMs: nowMs() });
              return;
            }
            this.#hasCopy = true;
            host.hasCopy = true;
            this.#control?.send(1, { type: 'begun' });
            this.#pump();
          },
        );
        return;
      case 'commit':
        this.#act(
          'commit',
          (done) => {
            if (journal === null) throw new Error('no journal');
            const { closedEpoch } = journal.state();
            if (effect.epoch > (closedEpoch ?? 0)) {
              world.violation(
                'atomic',
                `commit ${effect.epoch} was asked for, and the last marker is ${closedEpoch}`,
              );
            }
            this.#wait(journal.commit(effect.epoch), (error) => {
              if (error === null) {
                this.#view?.committed(effect.epoch);
                const disks = this.#view?.at(effect.epoch) ?? null;
                world.committed(this.term, effect.epoch, this.#snapshots.get(effect.epoch) ?? null, disks);
                this.#snapshots.delete(effect.epoch - 4);
              }
              done(error);
            });
          },
          (error) => {
            if (error === null) this.input({ type: 'commit-durable', epoch: effect.epoch, nowMs: nowMs() });
            else this.input({ type: 'journal-failed', reason: error, nowMs: nowMs() });
          },
        );
        return;
      case 'pass-checkpoint':
        this.#act(
          'pass-checkpoint',
          (done) => {
            this.#passes++;
            this.#pump();
            done(null);
          },
          () => undefined,
        );
        return;
      case 'acknowledge':
        this.#act(
          'acknowledge',
          (done) => {
            if (this.state.identity !== null)
              this.#control?.send(1, {
                type: 'committed',
                identity: this.state.identity,
                epoch: effect.epoch,
              });
            done(null);
          },
          () => undefined,
        );
        return;
      case 'claim': {
        let outcome: Outcome | null = null;
        this.#act(
          'claim',
          (done) => {
            const mayHaveWon = world.arbiter.kind !== 'operator';
            const ask = (): void =>
              claimFrom(
                world,
                this.term,
                host,
                this.owner,
                () => !this.owner.alive || this.state.decision !== null,
                (reason) => this.input({ type: 'undecided', reason, mayHaveWon, nowMs: nowMs() }),
                (decided) => {
                  outcome = decided;
                  done(null);
                },
              );
            if (!mayHaveWon) ask();
            else this.#noteClaim(ask);
          },
          () => {
            if (outcome !== null) this.input({ type: 'claimed', ...outcome, nowMs: nowMs() });
          },
        );
        return;
      }
      case 'leave-session':
        this.#act(
          'leave-session',
          (done) => {
            this.#control?.send(1, { type: 'undecided', reason: effect.reason });
            done(null);
          },
          () => undefined,
        );
        return;
      case 'decide':
        this.#act(
          'decide',
          (done) => this.#record(effect.decision, () => done(null)),
          () => this.input({ type: 'decision-durable', nowMs: nowMs() }),
        );
        return;
      case 'step':
        this.#act(
          `step ${effect.step}`,
          (done) => this.#perform(effect.step, done),
          (error) => {
            if (error === null) this.input({ type: 'step-done', step: effect.step, nowMs: nowMs() });
            else this.input({ type: 'step-failed', step: effect.step, reason: error, nowMs: nowMs() });
          },
        );
        return;
      case 'answer-ended':
        this.#act(
          'answer-ended',
          (done) => {
            const { decision, reason } = effect;
            this.#control?.send(1, { type: 'ended', decision, reason });
            for (const answer of this.#askers.splice(0)) answer(decision, reason);
            done(null);
          },
          () => undefined,
        );
        return;
      case 'answer-undecided':
        this.#act(
          'answer-undecided',
          (done) => {
            for (const answer of this.#askers.splice(0)) answer(null, effect.reason);
            done(null);
          },
          () => undefined,
        );
        return;
      default:
        throw new Error(`effect ${String(effect satisfies never)}`);
    }
  }

  #durably(write: () => void, done: () => void): void {
    const { time } = this.#world;
    time.later(time.random.between(0.5, 10), this.owner, () => {
      write();
      time.later(0.1, this.owner, done);
    });
  }

  /** Nobody is asked before it is noted, and nothing is agreed with the primary after that. */
  #noteClaim(ask: () => void, isFirst = true): void {
    const { host } = this;
    const say = (reason: string, mayHaveWon: boolean): void =>
      this.input({ type: 'undecided', reason, mayHaveWon, nowMs: host.nowMs() });
    if (this.state.decision !== null) return;
    if (!host.isStateFull) {
      this.#durably(
        () => (host.files.claimAsked = this.term.number),
        () => {
          if (this.state.decision !== null) return;
          if (!isFirst) say('the arbiter is being asked', true);
          ask();
        },
      );
      return;
    }
    say('nobody is asked before it is noted', false);
    this.#world.time.later(NOTE_AGAIN_MS, this.owner, () => this.#noteClaim(ask, false));
  }

  /** Who gives way needs no record: without one, giving way is what a later process does. */
  #record(decision: Decision, done: () => void): void {
    const { files, isStateFull } = this.host;
    const { number } = this.term;
    if (isStateFull) {
      this.#isUnrecorded = decision === 'primary';
      if (decision === 'primary') done();
      else this.#world.time.later(NOTE_AGAIN_MS, this.owner, () => this.#record(decision, done));
      return;
    }
    this.#durably(
      () => {
        if (files.decision?.term !== number) {
          files.decision = { term: number, outcome: decision === 'primary' ? 'roll-forward' : 'discard' };
        }
      },
      () =>
        this.#durably(() => {
          if (files.term?.term === number) {
            files.term = { ...files.term, phase: 'ended', outcome: decision === 'backup' ? 'won' : 'lost' };
          }
        }, done),
    );
  }

  #perform(step: FailoverStep | GiveUpStep, done: (error: string | null) => void): void {
    const { host } = this;
    const world = this.#world;
    const { time, drbd } = world;
    const side = drbd.of(host);
    const outcome = this.state.phase === 'failing-over' ? 'discard' : 'roll-forward';
    const { decision } = host.files;
    if ((decision?.term !== this.term.number || decision.outcome !== outcome) && !this.#isUnrecorded) {
      world.violation('two', `${step} was begun, and what is recorded is ${decision?.outcome ?? 'nothing'}`);
    }
    if (world.takesFault()) {
      time.later(time.random.between(1, 50), this.owner, () => done('modelled failure'));
      return;
    }
    if (world.machines.skips.has(step)) {
      done(null);
      return;
    }
    const journal = this.#journal;
    if (journal === null) throw new Error('no journal');
    switch (step) {
      case 'disconnect':
        // DRBD waits for its writes, and those for room in the journal.
        if (world.machines.skips.has('open-reserve early')) journal.openReserve();
        else if (!world.machines.skips.has('open-reserve'))
          time.later(LEAVE_MS, this.owner, () => journal.openReserve());
        time.later(time.random.between(1, 100), this.owner, () => drbd.disconnect(side, () => done(null)));
        return;
      case 'discard':
        this.#wait(journal.state().mode === 'epochs' ? journal.discard() : Promise.resolve(), (error) => {
          if (error === null) side.hasSession = false;
          done(error);
        });
        return;
      case 'promote':
        time.later(time.random.between(1, 100), this.owner, () => done(drbd.promote(side)));
        return;
      case 'mark-discarded':
        this.#markDiscarded(journal, done);
        return;
      case 'open-gate':
        this.#durably(
          () => (host.files.gate = 'open'),
          () => done(null),
        );
        return;
      case 'start-guest':
        this.#startGuest(done);
        return;
      case 'drop-copy':
        time.later(time.random.between(1, 500), this.owner, () => {
          this.#hasCopy = false;
          this.applied = null;
          host.hasCopy = false;
          this.#queue = [];
          done(null);
        });
        return;
      case 'roll-forward':
        this.#wait(journal.state().mode === 'epochs' ? journal.rollForward() : Promise.resolve(), (error) => {
          if (error === null) side.hasSession = false;
          done(error);
        });
        return;
      case 'settle':
      case 'leave-journal':
        this.#leave(journal, done);
        return;
      default:
        throw new Error(`step ${String(step satisfies never)}`);
    }
  }

  #startGuest(done: (error: string | null) => void): void {
    if (!this.#hasCopy) {
      done('there is no copy');
      return;
    }
    if (this.#isPumping || this.#passes > 0) {
      this.#pump();
      this.#world.time.later(1, this.owner, () => this.#startGuest(done));
      return;
    }
    this.#world.time.later(this.#world.time.random.between(5, 300), this.owner, () => {
      const error = this.#world.startCopy(this.host, this.term, this.applied);
      if (error === null) this.#hasCopy = false;
      done(error);
    });
  }

  #markDiscarded(journal: EpochJournal, done: (error: string | null) => void): void {
    let blocks: Block[] = [];
    this.#wait(
      journal.discarded().then((discarded) => {
        blocks = (discarded?.ranges ?? []).flatMap(({ volume, offsetBytes, lengthBytes }) =>
          blocksOf(Number(volume), offsetBytes, lengthBytes),
        );
      }),
      (error) => {
        if (error !== null) {
          done(error);
          return;
        }
        this.#world.writeBack(this.host, this.owner, [...blocks, ...this.host.files.discarded], () => {
          this.host.files.discarded = [];
          this.#wait(journal.discardMarked(), done);
        });
      },
    );
  }

  #leave(journal: EpochJournal, done: (error: string | null) => void): void {
    const { host } = this;
    const end = (): void => {
      this.#wait(journal.close(), (error) => {
        if (error === null) host.files.journalActive = false;
        if (this.state.phase === 'giving-up') {
          host.files.gate = undefined;
          // Where a resync was refused DRBD stands alone; it may come now.
          for (const side of this.#world.drbd.sides) this.#world.drbd.connect(side, false);
        }
        done(error);
      });
    };
    if (!this.#isSwitched) {
      end();
      return;
    }
    this.#wait(journal.drained(), (error) => {
      if (error !== null) {
        done(error);
        return;
      }
      // The devices are held while the last of it drains.
      const side = this.#world.drbd.of(host);
      const settle = (): void => {
        this.#wait(journal.drained(), (failure) => {
          if (failure !== null) {
            side.isFrozen = false;
            done(failure);
            return;
          }
          this.#world.drbd.exchange(side, host.lv, () => {
            this.#isSwitched = false;
            end();
          });
        });
      };
      this.#world.drbd.freeze(side, settle);
    });
  }
}

/** The blocks of a range that a journal names. */
export function blocksOf(volume: number, offsetBytes: number, lengthBytes: number): Block[] {
  if (volume === BARRIER) return [{ volume, cell: 0 }];
  const blocks: Block[] = [];
  for (let at = offsetBytes; at < offsetBytes + lengthBytes; at += 512)
    blocks.push({ volume, cell: at / 512 });
  return blocks;
}
