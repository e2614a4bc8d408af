/**
 * One simulated pair: two hosts, their network and arbiter, one guest, and what must hold after every step. The
 * world knows everything, so it can say of each packet and of each start of a copy whether it was right.
 */
import type { Decision, GuestEnd } from '../core/protect/types.js';
import { Coverage } from './coverage.js';
import { Host } from './host.js';
import type { Machines } from './machines.js';
import { ModelArbiter } from './model-arbiter.js';
import type { ArbiterKind } from './model-arbiter.js';
import { ModelDrbd } from './model-drbd.js';
import type { Block } from './model-drbd.js';
import {
  copyMemory,
  decodeCell,
  disagreement,
  memoryFromDisks,
  ModelGuest,
  newMemory,
} from './model-guest.js';
import type { Memory } from './model-guest.js';
import { ModelNetwork } from './model-network.js';
import type { Packet } from './model-output.js';
import { ModelTime, Owner } from './model-time.js';
import type { Random } from './random.js';
import { ReceiverProcess } from './receiver-process.js';
import { SenderProcess } from './sender-process.js';
import type { Snapshot } from './sender-process.js';
import { ModelXl } from './model-xl.js';
import { blocksOf, openJournal } from './receiver-process.js';
import { decideForPrimary } from './claiming.js';
import type { Outcome } from './claiming.js';

export const FAIL_AFTER_MS = 1_000;
const IN_FLIGHT_MAX = 3;
const JOURNAL_BYTES = 3 << 20;
/** The smallest that a journal can be: it is full when a second or two go by without a commit. */
const SMALL_JOURNAL_BYTES = 300 << 10;
/** How long a primary whose guest has crashed leaves the claim to a backup that says nothing. */
const FIRST_WORD_MS = 10_000;
/** A few seconds: within this status says that the guest is not protected. */
const SILENT_MS = 5_000;

/** What a run can break: DESIGN's five guarantees, that all ends well, that policy is kept, that nothing throws. */
export const GUARANTEES = [
  'atomic',
  'output',
  'two',
  'lost',
  'disks',
  'silent',
  'progress',
  'policy',
  'program',
] as const;
export type Guarantee = (typeof GUARANTEES)[number];

const ANSWER_MS = 30_000;

/** What a journal or a disk says when a request failed. */
const DISK_ERRORS = new Set(['EIO', 'ENOSPC', 'failed', 'closed']);

/** What a process that has died waits for. */
const NEVER = new Promise<never>(() => undefined);

export class Violation extends Error {
  readonly guarantee: Guarantee;
  readonly atMs: number;

  constructor(guarantee: Guarantee, message: string, atMs: number) {
    super(`${guarantee}: ${message} (at ${Math.round(atMs)} ms)`);
    this.guarantee = guarantee;
    this.atMs = atMs;
  }
}

/** One period of protection, with what the world knows of it. */
export interface Term {
  number: number;
  session: string;
  primary: Host;
  backup: Host;
  /** Newest snapshot of which output has left the primary. */
  leftSnapshot: number;
  /** Ordinal of the last snapshot that was really committed. */
  committed: number;
  committedAtMs: number;
  primaryOpened: boolean;
  backupStarted: boolean;
  /** The backup was told that the guest had ended of itself, and is not to go on with it. */
  endedForGood: boolean;
  onCrash: 'stop' | 'failover';
  /** When the guest crashed, where its copy is to go on. */
  crashedAtMs: number | null;
}

/** What one seed is like throughout, so that what needs slowness or haste is met often by some. */
export interface Weather {
  /** Chance that a write to the barrier volume takes long on the primary. */
  slowMarker: number;
  /** Chance that a write takes long below DRBD on the backup, so that others overtake it. */
  overtaken: number;
  /** Chance that the pipe is not small in time for a checkpoint. */
  missed: number;
  /** Longest time between two operations of the guest. */
  thinkMs: number;
  /** Longest time between two pieces of the first round of memory, while which nothing is committed. */
  firstRoundMs: number;
}

export interface CrashPlan {
  role: string;
  effect: string;
  when: string;
  /** Of the times that it comes by. */
  skip: number;
  what: 'kill' | 'power-cut';
}

/** Something that happens at a moment of the run, once. */
export interface MomentPlan {
  moment: 'a checkpoint was not held' | 'the first commit';
  then: (world: World) => void;
}

export class World {
  readonly random: Random;
  readonly time: ModelTime;
  readonly network: ModelNetwork;
  readonly arbiter: ModelArbiter;
  readonly hosts: readonly [Host, Host];
  readonly drbd: ModelDrbd;
  readonly machines: Machines;
  readonly coverage = new Coverage();
  readonly intervalMs: number;
  readonly weather: Weather;
  readonly terms: Term[] = [];
  /** Highest number that left any host. */
  left = 0;
  checkpoints = 0;
  crashPlan: CrashPlan | null = null;
  momentPlan: MomentPlan | null = null;
  /** By operation, the sectors that it wrote on each disk. */
  readonly operations: number[][] = [];
  /** By disk and sector, the last operation that was seen outside and wrote it. */
  readonly seen = newMemory().cells;
  /** Chance that an act fails where failing is modelled. */
  faultChance = 0;
  sender: SenderProcess | null = null;
  senderUnit: Owner | null = null;
  xl: Owner | null = null;
  cleanup: Owner | null = null;
  /** The host on which a clean-up that was killed will be run again. */
  cleanupDue: Owner | null = null;
  receiver: ReceiverProcess | null = null;
  receiverCleanup: Owner | null = null;
  /** What the clean-up of a receiver that died says to a primary that asks, and how long it waits for it. */
  #answer: { term: number; decision: Decision; owner: Owner; untilMs: number } | null = null;
  isHealing = false;
  found: Violation | null = null;
  #lastTickMs = 0;
  #goesOnMs = 0;
  /** Lines for people who look into a seed. */
  trace: ((line: string) => void) | null = null;

  constructor(random: Random, machines: Machines, arbiter: ArbiterKind) {
    this.random = random;
    this.machines = machines;
    this.time = new ModelTime(random);
    this.network = new ModelNetwork(this.time);
    this.arbiter = new ModelArbiter(arbiter, this.network);
    const leave = (host: Host, packet: Packet): void => this.#leave(host, packet);
    this.weather = {
      slowMarker: random.pick([0.1, 0.2, 0.5]),
      overtaken: random.pick([0.1, 0.1, 0.4]),
      missed: random.pick([0.05, 0.05, 0.2]),
      thinkMs: random.pick([45, 45, 15]),
      firstRoundMs: random.pick([1, 1, 1_500]),
    };
    const journalBytes = random.chance(0.2) ? SMALL_JOURNAL_BYTES : JOURNAL_BYTES;
    const host = (name: string): Host => new Host(name, this.time, this.weather, journalBytes, leave);
    this.hosts = [host('alpha'), host('beta')];
    for (const each of this.hosts) {
      each.clockRate = random.chance(0.3) ? random.between(0.95, 1.05) : 1;
      each.startedMs = random.between(0, 1e9);
      each.wallMs = random.between(1e12, 2e12);
    }
    this.drbd = new ModelDrbd(this.time, this.network, this.hosts, this.weather);
    this.drbd.admitsResync = machines.skips.has('before-resync-target');
    this.intervalMs = random.pick([25, 50, 100]);
    for (const { journalDisk } of this.hosts) journalDisk.lies = machines.skips.has('flush');
    for (const each of this.hosts) this.drbd.bringUp(this.drbd.of(each), each.lv);
    const [alpha] = this.hosts;
    this.drbd.promote(this.drbd.of(alpha));
    this.drbd.of(alpha).wroteAlone = false;
    alpha.guest = this.makeGuest(alpha, newMemory());
  }

  makeGuest(host: Host, memory: Memory): ModelGuest {
    return new ModelGuest(
      host,
      this.drbd,
      memory,
      (operation, cells) => (this.operations[operation] = cells),
    );
  }

  get term(): Term {
    const term = this.terms.at(-1);
    if (term === undefined) throw new Error('no term');
    return term;
  }

  say(line: string): void {
    this.trace?.(`${this.time.nowMs.toFixed(1).padStart(10)} ${line}`);
  }

  violation(guarantee: Guarantee, message: string): void {
    this.found ??= new Violation(guarantee, message, this.time.nowMs);
    this.say(`VIOLATION ${guarantee}: ${message}`);
  }

  /** A process ends by an error: of its disks, or of its own. */
  programError(error: unknown, owner: Owner): void {
    if (!owner.alive) return;
    this.say(`${owner.name}: ${(error as Error).message}`);
    const { code } = error as { code?: unknown };
    const isOfDisk = typeof code === 'string' && DISK_ERRORS.has(code);
    if (!isOfDisk) this.violation('program', `${owner.name}: ${(error as Error).stack ?? ''}`);
    owner.die('killed');
  }

  otherHost(host: Host): Host {
    return this.hosts[0] === host ? this.hosts[1] : this.hosts[0];
  }

  // --- what the guarantees say

  #leave(host: Host, packet: Packet): void {
    for (let operation = this.left + 1; operation <= packet.count; operation++) {
      this.operations[operation]?.forEach(
        (cell, volume) => ((this.seen[volume] as number[])[cell] = operation),
      );
    }
    this.left = Math.max(this.left, packet.count);
    const term = this.terms.find(({ number }) => number === packet.term);
    if (term === undefined) return;
    if (host === term.backup) {
      if (term.primaryOpened) this.violation('two', `${host.name} sends, and the primary's output is open`);
      return;
    }
    if (term.primaryOpened) {
      if (term.backupStarted) this.violation('two', `${host.name} sends, and the copy runs`);
      return;
    }
    term.leftSnapshot = Math.max(term.leftSnapshot, packet.snapshot);
    // Before the first commit the backup can't take over; see `committed`.
    if (packet.snapshot <= term.committed || term.committed === 0) return;
    this.violation(
      'output',
      `packet ${packet.count} of snapshot ${packet.snapshot} left ${host.name}, committed is ${term.committed}`,
    );
  }

  moment(moment: MomentPlan['moment']): void {
    const plan = this.momentPlan;
    if (plan?.moment !== moment || this.isHealing) return;
    this.momentPlan = null;
    this.say(moment);
    plan.then(this);
  }

  /** @param disks as they would be if the guest were taken over now */
  committed(
    term: Term,
    epoch: number,
    snapshot: Snapshot | null,
    disks: ((block: Block) => number) | null,
  ): void {
    if (snapshot === null || disks === null) {
      this.violation('atomic', `epoch ${epoch} was committed without its memory`);
      return;
    }
    const differs = disagreement(snapshot.memory, disks);
    if (differs !== null) this.violation('atomic', `commit ${epoch}: ${differs}`);
    this.checkpoints++;
    if (term.committed === 0 && term.leftSnapshot > snapshot.ordinal && !term.primaryOpened) {
      this.violation(
        'output',
        `the first commit is of snapshot ${snapshot.ordinal}, and output of ${term.leftSnapshot} has left`,
      );
    }
    const isFirst = term.committed === 0;
    term.committed = snapshot.ordinal;
    if (isFirst) this.moment('the first commit');
    term.committedAtMs = this.time.nowMs;
  }

  /** @param snapshot null where its memory is between two epochs */
  copyIsAt(epoch: number, snapshot: Snapshot | null, disks: ((block: Block) => number) | null): void {
    if (disks === null) {
      this.violation('atomic', `the copy was given checkpoint ${epoch}, and it is not committed`);
      return;
    }
    const differs = snapshot === null ? null : disagreement(snapshot.memory, disks);
    if (differs !== null) this.violation('atomic', `the copy at checkpoint ${epoch}: ${differs}`);
  }

  checkProtection(sender: SenderProcess, protection: string): void {
    const { nowMs } = this.time;
    // One that was itself stopped knows nothing yet of what has happened meanwhile.
    if (nowMs - this.#lastTickMs > 500) this.#goesOnMs = nowMs;
    this.#lastTickMs = nowMs;
    if (protection !== 'protected') return;
    const { term } = sender;
    const silentMs = nowMs - Math.max(term.committedAtMs, this.#goesOnMs);
    if (silentMs > SILENT_MS) {
      this.violation('silent', `protected is said, and the last commit was ${Math.round(silentMs)} ms ago`);
    }
  }

  /** Also for what a clean-up opens. */
  primaryOpened(term: Term): void {
    this.say(`output of ${term.primary.name} is open, term ${term.number}`);
    term.primaryOpened = true;
    if (this.arbiter.kind === 'test-and-set' && this.arbiter.winners.get(term.number) === term.backup.name) {
      this.violation('two', `the primary goes on, and the arbiter has the term for ${term.backup.name}`);
    }
    if (term.backupStarted && term.primary.guest !== null) {
      this.violation('two', `the output of ${term.primary.name} was opened, and the copy runs`);
    }
  }

  /** xl at the end of its input. @returns why the guest does not run, or null when it does */
  startCopy(host: Host, term: Term, snapshot: Snapshot | null): string | null {
    host.hasCopy = false;
    if (snapshot === null) return 'there is no whole checkpoint';
    if (host.files.gate !== 'open') return 'block-drbd: the gate is shut';
    const side = this.drbd.of(host);
    if (!side.isPrimary) return 'block-drbd: not Primary';
    this.say(
      `the copy starts on ${host.name} from snapshot ${snapshot.ordinal}, count ${snapshot.memory.done}`,
    );
    term.backupStarted = true;
    if (term.endedForGood)
      this.violation('policy', 'the guest had ended of itself, and the copy was started');
    if (term.primaryOpened) this.violation('two', `the copy was started, and the primary's output is open`);
    if (snapshot.memory.done < this.left) {
      this.violation('lost', `the copy has count ${snapshot.memory.done}, and ${this.left} was seen outside`);
    }
    const differs = disagreement(snapshot.memory, (block) => this.peek(host, block));
    if (differs !== null) this.violation('atomic', `snapshot ${snapshot.ordinal}: ${differs}`);
    const guest = this.makeGuest(host, copyMemory(snapshot.memory));
    guest.term = term.number;
    host.guest = guest;
    return null;
  }

  peek(host: Host, block: Block): number {
    const lower = this.drbd.of(host).lower ?? host.lv;
    return decodeCell(lower.peek(block));
  }

  /** Started anew from its disks, by a person. @returns why not, or null */
  coldStart(host: Host): string | null {
    const side = this.drbd.of(host);
    const error = this.drbd.promote(side);
    if (error !== null) return error;
    const memory = memoryFromDisks((block) => this.peek(host, block));
    this.say(`cold start on ${host.name} with count ${memory.done}, outside ${this.left}`);
    if (memory.done < this.left) {
      this.violation(
        'lost',
        `${host.name} starts with count ${memory.done}, and ${this.left} was seen outside`,
      );
    }
    for (const [volume, cells] of this.seen.entries()) {
      cells.forEach((operation, cell) => {
        const found = memory.cells[volume]?.[cell] ?? 0;
        if (found >= operation) return;
        this.violation('lost', `disk ${volume} sector ${cell} has ${found}, ${operation} was seen outside`);
      });
    }
    // What nobody was told of and is there in part counts as it was found.
    for (let operation = this.left + 1; operation <= memory.done; operation++)
      this.operations[operation] = [];
    host.guest = this.makeGuest(host, memory);
    return null;
  }

  /** @returns where the two hosts' disks are not the same, in words */
  diskDifference(): string | null {
    const [one, other] = this.hosts;
    for (let volume = 0; volume < 2; volume++) {
      const [here, there] = [one.lvs[volume], other.lvs[volume]];
      if (here === undefined || there === undefined) throw new Error('no volume');
      const size = here.sizeBytes;
      for (let at = 0; at < size; at += 512) {
        if (here.view(at, 512).equals(there.view(at, 512))) continue;
        const values = [here, there].map((disk) => decodeCell(disk.view(at, 512)));
        return `disk ${volume} sector ${at / 512} has ${values.join(' and ')} after the resync`;
      }
    }
    return null;
  }

  /** All of a host's disks are taken from the other one: `drbdadm invalidate`, with a new journal. */
  invalidate(host: Host): void {
    this.say(`the disks of ${host.name} are taken from its peer as a whole`);
    host.isFormatted = false;
    host.journalFault = null;
    host.isLiedTo = false;
    host.journalDisk.hasBrokenItsWord = false;
    host.files.journalActive = false;
    const side = this.drbd.of(host);
    if (!side.isUp) this.drbd.bringUp(side, host.lv);
    this.drbd.invalidate(side);
  }

  // --- faults

  /** @returns whether the process is dead now */
  crashPoint(role: string, effect: string, when: 'before' | 'after', host: Host, owner: Owner): boolean {
    if (when === 'before') this.coverage.effect(role, effect);
    const plan = this.crashPlan;
    if (plan === null || plan.role !== role || plan.effect !== effect || plan.when !== when) return false;
    if (plan.skip-- > 0) return false;
    this.crashPlan = null;
    this.coverage.crash(role, effect, when);
    this.say(`${plan.what} of ${role} on ${host.name} ${when} ${effect}`);
    if (plan.what === 'kill') owner.die('killed');
    else this.powerCut(host);
    return true;
  }

  killXl(): void {
    this.xl?.die('killed');
  }

  /** The guest ends of itself. `gone`: something has removed it, as `xl destroy` does. */
  guestEnds(how: GuestEnd): void {
    const { primary } = this.term;
    const { guest } = primary;
    if (guest === null || guest.isSuspended) return;
    this.say(`the guest ends: ${how}`);
    guest.owner.die('ended');
    primary.guest = null;
    if (how === 'gone') {
      this.drbd.demote(this.drbd.of(primary));
      return;
    }
    primary.ended = how;
    if (how === 'crash' && this.term.onCrash === 'failover') this.term.crashedAtMs = this.time.nowMs;
    // While it is protected the sender sees it, and its clean-up has it watched: once it may go on here, and not while a
    // clean-up that was killed is due again.
    const isOver = this.senderUnit?.alive !== true && this.cleanup?.alive !== true;
    if (isOver && this.term.primaryOpened) this.watchGuest(primary);
  }

  /**
   * The primary asks the arbiter. Where it knows that the guest has crashed and its copy is to go on, the backup has the
   * first word for that long, or nothing of the guest may go on anywhere.
   */
  primaryClaims(term: Term): void {
    const { arbiter, sender, time } = this;
    if (arbiter.kind === 'operator' || term.crashedAtMs === null) return;
    if (sender?.state.ending?.guest !== 'crash' || sender.term !== term) return;
    const afterMs = time.nowMs - term.crashedAtMs;
    if (afterMs < FIRST_WORD_MS) {
      this.violation('policy', `the primary claims ${Math.round(afterMs)} ms after the guest has crashed`);
    }
  }

  /** `remus-watch`, once protection is over: what is left of the guest goes, and where it reboots it is started anew. */
  watchGuest(host: Host): void {
    const { ended } = host;
    if (ended === null) return;
    this.time.later(this.random.between(5, 200), host.owner, () => {
      host.ended = null;
      this.drbd.demote(this.drbd.of(host));
      if (ended !== 'reboot') return;
      const error = this.coldStart(host);
      this.say(`the guest reboots on ${host.name}: ${error ?? 'it runs'}`);
    });
  }

  /** When everything that was stopped goes on. */
  pausedUntilMs(): number {
    const owners = [
      ...this.hosts.map(({ owner }) => owner),
      this.senderUnit,
      this.sender?.owner,
      this.receiver?.owner,
      this.xl,
      this.cleanup,
      this.receiverCleanup,
      ...this.hosts.map(({ guest }) => guest?.owner),
    ];
    return Math.max(0, ...owners.map((owner) => (owner?.alive === true ? owner.pausedUntilMs : 0)));
  }

  takesFault(): boolean {
    return this.random.chance(this.faultChance);
  }

  powerCut(host: Host): void {
    if (!host.isUp) return;
    this.say(`power cut of ${host.name}`);
    host.powerCut();
    this.drbd.powerCut(this.drbd.of(host));
  }

  powerOn(host: Host): void {
    if (host.isUp) return;
    this.say(`${host.name} is back`);
    host.powerOn();
    this.network.hostIsBack();
    this.time.later(this.random.between(100, 1500), host.owner, () => {
      host.isBooting = false;
      this.recoverJournal(host, true);
    });
  }

  // --- what runs

  protect(primary: Host): void {
    const backup = this.otherHost(primary);
    const number = this.terms.length + 1;
    const session = number.toString(16).padStart(32, 'a');
    const term: Term = {
      number,
      session,
      primary,
      backup,
      leftSnapshot: 0,
      committed: 0,
      committedAtMs: this.time.nowMs,
      primaryOpened: false,
      backupStarted: false,
      endedForGood: false,
      onCrash: 'stop',
      crashedAtMs: null,
    };
    this.terms.push(term);
    this.say(`term ${number} from ${primary.name} to ${backup.name}`);
    for (const [host, role] of [
      [primary, 'primary'],
      [backup, 'backup'],
    ] as const) {
      host.files.term = { term: number, session, role, phase: 'starting', boot: '0' };
    }
    term.onCrash = this.random.pick(['stop', 'failover']);
    this.receiver = new ReceiverProcess(this, term, {
      failAfterMs: FAIL_AFTER_MS,
      onCrash: term.onCrash,
      disk: true,
      attemptsMax: 3,
    });
    const receiver = this.receiver;
    receiver.owner.onDeath((death) => {
      this.say(
        `receiver of term ${number}: ${death}, phase ${receiver.state.phase}: ${receiver.state.reason}`,
      );
      if (death !== 'power-cut') this.#cleanReceiver(term);
    });
    this.#awaitReceiver(term, receiver);
  }

  #awaitReceiver(term: Term, receiver: ReceiverProcess): void {
    this.time.later(20, term.primary.owner, () => {
      if (!receiver.owner.alive) return;
      if (!receiver.isListening) this.#awaitReceiver(term, receiver);
      else this.#startSender(term);
    });
  }

  #startSender(term: Term): void {
    const { guest } = term.primary;
    if (guest === null) return;
    guest.term = term.number;
    guest.snapshot = 1;
    const unit = new Owner('sender unit', term.primary.owner);
    this.senderUnit = unit;
    const sender = new SenderProcess(
      this,
      term,
      {
        identity: { pair: 'rack1', domain: 'web', term: term.number, session: term.session },
        intervalMs: this.intervalMs,
        failAfterMs: FAIL_AFTER_MS,
        network: true,
        disk: true,
        inFlightMax: IN_FLIGHT_MAX,
        holdLimitMs: 20_000,
        agreeLimitMs: 60_000,
        diskLimitMs: 5_000,
        onCrash: term.onCrash,
      },
      unit,
    );
    this.sender = sender;
    sender.owner.onDeath((death) => {
      const { phase, ending } = sender.state;
      this.say(`sender of term ${term.number}: ${death}, phase ${phase}: ${ending?.reason ?? ''}`);
    });
    const xl = new ModelXl(this, term, sender, unit);
    this.xl = xl.owner;
    xl.owner.onDeath((death) => {
      if (death === 'power-cut') return;
      // The unit's main process has ended: what is left of it is killed, and its clean-up runs.
      this.time.later(this.random.between(5, 400), unit, () => {
        unit.die('killed');
        this.#cleanSender(term);
      });
    });
  }

  #cleanSender(term: Term): void {
    const host = term.primary;
    const owner = new Owner('sender-cleanup', host.owner);
    this.cleanup = owner;
    owner.onDeath((death) => {
      // Whoever is there runs it again; it goes by the last order.
      if (death === 'killed') {
        this.cleanupDue = host.owner;
        this.time.later(this.random.between(500, 3000), host.owner, () => {
          this.cleanupDue = null;
          if (this.term === term) this.#cleanSender(term);
        });
      }
    });
    const act = (name: string, work: (done: () => void) => void, then: () => void): void => {
      const dies = (when: 'before' | 'after'): boolean =>
        this.crashPoint('sender-cleanup', name, when, host, owner);
      if (!dies('before')) work(() => owner.alive && !dies('after') && then());
    };
    const finish = ({ decision, reason }: Outcome): void => {
      this.say(`sender-cleanup: ${decision}: ${reason}`);
      const end = (): void =>
        act(
          'record',
          (done) => this.recordPrimary(term, decision, owner, done),
          () => owner.die('ended'),
        );
      if (decision === 'backup') {
        const destroy = (done: () => void): void => {
          if (this.machines.skips.has('destroy')) done();
          else this.destroyGuest(host, owner, done);
        };
        act('destroy', destroy, () => {
          host.plug.drop();
          end();
        });
        return;
      }
      const open = (done: () => void): void =>
        this.time.later(this.random.between(1, 100), owner, () => {
          this.primaryOpened(term);
          host.plug.open();
          host.guest?.resume();
          this.watchGuest(host);
          done();
        });
      act('open', open, end);
    };
    this.time.later(this.random.between(5, 300), owner, () => {
      const { term: record } = host.files;
      if (record?.term === term.number && record.phase === 'ended') {
        finish({
          decision: record.outcome === 'lost' ? 'backup' : 'primary',
          reason: 'the sender ended in order',
        });
      } else {
        let outcome: Outcome | null = null;
        act(
          'decide',
          (done) =>
            decideForPrimary(
              this,
              term,
              owner,
              { reason: 'the sender died', crashed: term.onCrash === 'failover' && host.ended === 'crash' },
              () => undefined,
              (decided) => {
                outcome = decided;
                done();
              },
            ),
          () => outcome !== null && finish(outcome),
        );
      }
    });
  }

  #cleanReceiver(term: Term): void {
    const { backup } = term;
    // The unit is not over before its clean-up is.
    const waiting = new Owner('receiver-cleanup', backup.owner);
    this.receiverCleanup = waiting;
    this.time.later(this.random.between(20, 500), waiting, () => {
      waiting.die('ended');
      this.recoverJournal(backup, false);
    });
  }

  /** What an ended receiver left behind, or what a boot finds. */
  recoverJournal(host: Host, isBoot: boolean): void {
    const side = this.drbd.of(host);
    const up = (): void => {
      // Not before: as long as the journal is undecided no resync may come.
      side.hasSession = false;
      // DRBD may not meet its peer before what was dropped is marked.
      if (host.files.discarded.length > 0) this.drbd.standAlone(side);
      if (isBoot || !side.isUp) this.drbd.bringUp(side, host.lv);
      else this.drbd.replaceDead(side, host.lv);
    };
    if (!host.files.journalActive) {
      if (isBoot) up();
      return;
    }
    const owner = new Owner('receiver-cleanup', host.owner);
    this.receiverCleanup = owner;
    owner.onDeath((death) => {
      if (death === 'killed') host.processKilled();
    });
    this.time.hasPromises = true;
    this.#recoverJournal(host, owner, isBoot).then(
      (isDone) => {
        if (!owner.alive) return;
        if (isDone) {
          up();
          if (!isBoot && host.files.discarded.length > 0) {
            const dies = (when: 'before' | 'after'): boolean =>
              this.crashPoint('receiver-cleanup', 'mark', when, host, owner);
            if (!dies('before')) this.markNoted(host, owner, () => !dies('after') && owner.die('ended'));
            return;
          }
        }
        owner.die('ended');
      },
      (error: unknown) => this.programError(error, owner),
    );
  }

  /** @returns false where a person has to decide */
  async #recoverJournal(host: Host, owner: Owner, isBoot: boolean): Promise<boolean> {
    const { files } = host;
    const act = async <T>(name: string, work: () => Promise<T>): Promise<T> => {
      if (this.crashPoint('receiver-cleanup', name, 'before', host, owner)) return NEVER;
      const result = await work();
      if (!owner.alive || this.crashPoint('receiver-cleanup', name, 'after', host, owner)) return NEVER;
      return result;
    };
    const journal = await act('open', () =>
      openJournal(
        host,
        owner,
        () => undefined,
        () => undefined,
      ).catch((error: unknown) => this.#unreadable(host, error)),
    );
    if (journal === null) return false;
    const { undecided, term } = journal.state();
    if (undecided) {
      if (files.decision?.term !== term) {
        if (files.claimAsked === term) return false;
        await act('decide', () => {
          files.decision = { term, outcome: 'roll-forward' };
          return Promise.resolve();
        });
      }
      const outcome = files.decision?.outcome;
      this.say(`journal of ${host.name}: ${outcome}`);
      await act('end', async () => {
        if (outcome === 'discard') await journal.discard();
        else await journal.rollForward();
      });
    }
    if (!isBoot && files.decision?.term === term) {
      const decision = files.decision.outcome === 'discard' ? 'backup' : 'primary';
      this.#answer = { term, decision, owner: host.owner, untilMs: this.time.nowMs + ANSWER_MS };
    }
    await act('drain', () => journal.drained());
    const discarded = await journal.discarded();
    if (discarded !== null) {
      await act('note', async () => {
        for (const { volume, offsetBytes, lengthBytes } of discarded.ranges) {
          files.discarded.push(...blocksOf(Number(volume), offsetBytes, lengthBytes));
        }
        await journal.discardMarked();
      });
    }
    await act('close', () => journal.close());
    // The receiver may have died between its two records: the decision and the end of the term.
    if (files.decision?.term === term && files.term?.term === term && files.term.phase !== 'ended') {
      const outcome = files.decision.outcome === 'discard' ? 'won' : 'lost';
      files.term = { ...files.term, phase: 'ended', outcome };
    }
    files.journalActive = false;
    return true;
  }

  /** A journal that says itself that something is missing. DRBD stays down until a person has seen to it. */
  #unreadable(host: Host, error: unknown): null {
    if ((error as { code?: unknown }).code !== 'corrupt') throw error;
    host.journalFault = (error as Error).message;
    this.say(`the journal of ${host.name} is not readable: ${host.journalFault}`);
    if (!host.wasLiedTo) this.violation('program', `no disk has lied: ${host.journalFault}`);
    return null;
  }

  /** Marks what a recovery without a copy has dropped. */
  markNoted(host: Host, owner: Owner, done: () => void): void {
    const side = this.drbd.of(host);
    const wasPrimary = side.isPrimary;
    this.drbd.disconnect(side, () => {
      const error = this.drbd.promote(side);
      if (error !== null) {
        this.say(`${host.name}: what was discarded can't be marked: ${error}`);
        done();
        return;
      }
      this.writeBack(host, owner, host.files.discarded, () => {
        host.files.discarded = [];
        if (!wasPrimary) this.drbd.demote(side);
        done();
      });
    });
  }

  writeBack(host: Host, owner: Owner, blocks: readonly Block[], done: () => void): void {
    const [block, ...rest] = blocks;
    if (block === undefined) {
      done();
      return;
    }
    const side = this.drbd.of(host);
    this.drbd.read(side, block, (bytes) => {
      this.drbd.write(side, block, bytes, () => {
        if (owner.alive) this.writeBack(host, owner, rest, done);
      });
    });
  }

  receiverOn(host: Host, term: Term): ReceiverProcess | null {
    const { receiver } = this;
    return receiver !== null && receiver.owner.alive && receiver.term === term && receiver.host === host
      ? receiver
      : null;
  }

  answerWithoutCopy(term: Term): Decision | null {
    const answer = this.#answer;
    if (answer === null || answer.term !== term.number || !answer.owner.alive) return null;
    return this.time.nowMs < answer.untilMs ? answer.decision : null;
  }

  recordPrimary(term: Term, decision: Decision, owner: Owner, done: () => void): void {
    const { files } = term.primary;
    if (decision === 'backup' && term.primary.guest !== null) {
      this.violation('two', `${term.primary.name} has given way, and its guest is there`);
    }
    this.time.later(this.random.between(0.5, 10), owner, () => {
      // Where there is no room it goes on all the same: who decided has its own record.
      if (files.term?.term === term.number && !term.primary.isStateFull) {
        files.term = { ...files.term, phase: 'ended', outcome: decision === 'primary' ? 'won' : 'lost' };
      }
      this.time.later(0.1, owner, done);
    });
  }

  destroyGuest(host: Host, owner: Owner, done: () => void): void {
    this.time.later(this.random.between(20, 800), owner, () => {
      this.say(`the guest on ${host.name} is destroyed`);
      host.guest?.owner.die('killed');
      host.guest = null;
      host.ended = null;
      this.drbd.demote(this.drbd.of(host));
      done();
    });
  }

  /** xl with the copy after its receiver died: its input has ended, so it tries to start the guest. */
  copyIsLeft(host: Host, term: Term, snapshot: Snapshot | null): void {
    this.time.later(this.random.between(1, 100), host.owner, () => {
      const error = this.startCopy(host, term, snapshot);
      this.say(`the copy that was left on ${host.name}: ${error ?? 'it runs'}`);
    });
  }
}
