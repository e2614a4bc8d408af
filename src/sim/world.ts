/**
 * One simulated pair: two hosts, their network and arbiter, one guest, and what must hold after every step. The
 * world knows everything, so it can say of each packet and of each start of a copy whether it was right.
 */
import type { Decision } from '../core/protect/types.js';
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
/** A few seconds: within this status says that the guest is not protected. */
const SILENT_MS = 5_000;

export type Guarantee = 'atomic' | 'output' | 'two' | 'lost' | 'silent' | 'disks' | 'progress' | 'program';

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
}

export interface CrashPlan {
  role: 'sender' | 'receiver';
  effect: string;
  when: 'before' | 'after';
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
  receiver: ReceiverProcess | null = null;
  receiverCleanup: Owner | null = null;
  isHealing = false;
  found: Violation | null = null;
  /** Why this run says no more, without anything being wrong. */
  cutShort: string | null = null;
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
    this.hosts = [new Host('alpha', this.time, leave), new Host('beta', this.time, leave)];
    for (const host of this.hosts) host.clockRate = random.chance(0.3) ? random.between(0.95, 1.05) : 1;
    this.drbd = new ModelDrbd(this.time, this.network, this.hosts);
    this.drbd.admitsResync = machines.skips.has('before-resync-target');
    this.intervalMs = random.pick([25, 50, 100]);
    for (const host of this.hosts) this.drbd.bringUp(this.drbd.of(host), host.lv);
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

  programError(error: unknown, owner: Owner): void {
    if (!owner.alive) return;
    this.say(`${owner.name}: ${(error as Error).message}`);
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

  committed(term: Term, epoch: number, snapshot: Snapshot | null): void {
    if (snapshot === null) {
      this.violation('atomic', `epoch ${epoch} was committed without its memory`);
      return;
    }
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

  compareDisks(): void {
    const [one, other] = this.hosts;
    for (let volume = 0; volume < 2; volume++) {
      const [here, there] = [one.lvs[volume], other.lvs[volume]];
      if (here === undefined || there === undefined) throw new Error('no volume');
      const size = here.sizeBytes;
      for (let at = 0; at < size; at += 512) {
        if (here.view(at, 512).equals(there.view(at, 512))) continue;
        const values = [here, there].map((disk) => decodeCell(disk.view(at, 512)));
        this.violation(
          'disks',
          `disk ${volume} sector ${at / 512} has ${values.join(' and ')} after the resync`,
        );
        return;
      }
    }
  }

  // --- faults

  /** @returns whether the process is dead now */
  crashPoint(
    role: CrashPlan['role'],
    effect: string,
    when: 'before' | 'after',
    host: Host,
    owner: Owner,
  ): boolean {
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

  /** The guest powers off. */
  guestEnds(): void {
    const { guest } = this.term.primary;
    if (guest === null || guest.isSuspended) return;
    this.say('the guest powers off');
    guest.owner.die('ended');
    this.term.primary.guest = null;
    this.drbd.demote(this.drbd.of(this.term.primary));
  }

  /** When everything that was stopped goes on. */
  pausedUntilMs(): number {
    const owners = [
      ...this.hosts.map(({ owner }) => owner),
      this.senderUnit,
      this.sender?.owner,
      this.receiver?.owner,
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
    };
    this.terms.push(term);
    this.say(`term ${number} from ${primary.name} to ${backup.name}`);
    for (const [host, role] of [
      [primary, 'primary'],
      [backup, 'backup'],
    ] as const) {
      host.files.term = { term: number, session, role, phase: 'starting', boot: '0' };
    }
    this.receiver = new ReceiverProcess(this, term, {
      failAfterMs: FAIL_AFTER_MS,
      onCrash: 'stop',
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
      // Whoever is there runs it again.
      if (death === 'killed') {
        this.time.later(this.random.between(500, 3000), host.owner, () => this.#cleanSender(term));
      }
    });
    const finish = ({ decision, reason }: Outcome): void => {
      this.say(`sender-cleanup: ${decision}: ${reason}`);
      const end = (): void => this.recordPrimary(term, decision, owner, () => owner.die('ended'));
      if (decision === 'backup') {
        if (this.machines.skips.has('destroy')) end();
        else
          this.destroyGuest(host, owner, () => {
            host.plug.drop();
            end();
          });
        return;
      }
      this.time.later(this.random.between(1, 100), owner, () => {
        this.primaryOpened(term);
        host.plug.open();
        host.guest?.resume();
        end();
      });
    };
    this.time.later(this.random.between(5, 300), owner, () => {
      const { term: record } = host.files;
      if (record?.term === term.number && record.phase === 'ended') {
        finish({
          decision: record.outcome === 'lost' ? 'backup' : 'primary',
          reason: 'the sender ended in order',
        });
      } else decideForPrimary(this, term, owner, 'the sender died', () => undefined, finish);
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
    this.time.hasPromises = true;
    this.#recoverJournal(host, owner).then(
      (isDone) => {
        if (!owner.alive) return;
        if (isDone) {
          up();
          if (!isBoot && host.files.discarded.length > 0) {
            this.markNoted(host, owner, () => owner.die('ended'));
            return;
          }
        }
        owner.die('ended');
      },
      (error: unknown) => this.programError(error, owner),
    );
  }

  /** @returns false where a person has to decide */
  async #recoverJournal(host: Host, owner: Owner): Promise<boolean> {
    const { files } = host;
    const journal = await openJournal(
      host,
      owner,
      () => undefined,
      () => undefined,
    );
    const { undecided, term } = journal.state();
    if (undecided) {
      if (files.decision?.term !== term) {
        if (files.claimAsked === term) return false;
        files.decision = { term, outcome: 'roll-forward' };
      }
      this.say(`journal of ${host.name}: ${files.decision.outcome}`);
      if (files.decision.outcome === 'discard') await journal.discard();
      else await journal.rollForward();
    }
    await journal.drained();
    const discarded = await journal.discarded();
    if (discarded !== null) {
      for (const { volume, offsetBytes, lengthBytes } of discarded.ranges) {
        files.discarded.push(...blocksOf(Number(volume), offsetBytes, lengthBytes));
      }
      await journal.discardMarked();
    }
    await journal.close();
    // The receiver may have died between its two records: the decision and the end of the term.
    if (files.decision?.term === term && files.term?.term === term && files.term.phase !== 'ended') {
      const outcome = files.decision.outcome === 'discard' ? 'won' : 'lost';
      files.term = { ...files.term, phase: 'ended', outcome };
    }
    files.journalActive = false;
    return true;
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

  recordPrimary(term: Term, decision: Decision, owner: Owner, done: () => void): void {
    const { files } = term.primary;
    if (decision === 'backup' && term.primary.guest !== null) {
      this.violation('two', `${term.primary.name} has given way, and its guest is there`);
    }
    this.time.later(this.random.between(0.5, 10), owner, () => {
      if (files.term?.term === term.number) {
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
