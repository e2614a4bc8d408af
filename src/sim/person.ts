/**
 * What people and the controller do once the faults are over, as `remus-drbd failover`, `continue`, `recover` and
 * `protect` do it: wait for what decides by itself, decide where only a person can, start a guest that runs nowhere,
 * and ask the production machine of recovery for the next step until protection can begin again.
 */
import type { RecoveryHost, RecoveryStep } from '../core/protect/recovery.js';
import type { Host } from './host.js';
import { Owner } from './model-time.js';
import type { World } from './world.js';

/** What waits for nobody is over by then. */
const PATIENCE_MS = 130_000;

function view(world: World, host: Host): RecoveryHost {
  const isActive = (owner: Owner | null | undefined): boolean => owner?.alive === true;
  const isPrimary = world.terms.at(-1)?.primary === host;
  const guests: { name: string }[] = [];
  if (host.guest !== null || host.ended !== null) guests.push({ name: 'web' });
  if (host.hasCopy) guests.push({ name: 'web--incoming' });
  return {
    name: host.name,
    resource: world.drbd.resource(world.drbd.of(host)),
    guests: guests as RecoveryHost['guests'],
    term: host.files.term,
    senderActive: isPrimary && [world.senderUnit, world.cleanup, world.cleanupDue].some(isActive),
    // It is waited for below.
    undecided: null,
    receiverActive: !isPrimary && (isActive(world.receiver?.owner) || isActive(world.receiverCleanup)),
  };
}

export class Person {
  readonly #world: World;
  readonly #sinceMs: number;
  #isBusy = false;

  constructor(world: World) {
    this.#world = world;
    this.#sinceMs = world.time.nowMs;
  }

  /** One look and one act. @returns 'protect' when both hosts are right again, or what is waited for */
  act(): string {
    const world = this.#world;
    const { receiver, term, hosts } = world;
    for (const host of hosts) if (!host.isUp) world.powerOn(host);
    if (this.#isBusy) return 'an act is under way';
    const views = [view(world, hosts[0]), view(world, hosts[1])] as const;
    if (receiver?.owner.alive === true) {
      this.#decideIfAsked();
      const { phase } = receiver.state;
      if (phase === 'waiting' && world.senderUnit?.alive !== true && receiver.isListening) {
        receiver.stop('there is no sender');
      } else if (world.time.nowMs - this.#sinceMs > PATIENCE_MS && world.arbiter.kind === 'operator') {
        receiver.stop('stopped by a person');
      }
      return `the receiver is ${phase} ${receiver.state.step ?? ''}: ${receiver.state.reason}`;
    }
    if (world.receiverCleanup?.alive === true) return 'the clean-up of the receiver';
    for (const host of hosts) {
      if (host.isBooting) return `${host.name} is starting`;
      if (host.journalFault !== null) {
        world.coverage.outcome('a lying flush was proven by the journal');
        world.invalidate(host);
        return `the journal of ${host.name} can't be read`;
      }
      if (host.files.journalActive) return this.#decideJournal(host);
      if (!world.drbd.of(host).isUp) return `DRBD on ${host.name}`;
    }
    if (views.some(({ senderActive }) => senderActive)) {
      this.#decideIfAsked();
      return `the sender is ${world.sender?.state.phase ?? ''}`;
    }
    for (const host of hosts) {
      if (host.files.discarded.length > 0) {
        const owner = this.#begin(host);
        world.markNoted(host, owner, () => this.#end(owner));
        return 'marking what was discarded';
      }
    }
    if (hosts.some(({ ended }) => ended !== null)) return 'the end of the guest is being seen to';
    if (!hosts.some(({ guest }) => guest !== null)) {
      const winner =
        world.machines.winnerOf(views)?.name ?? world.arbiter.winners.get(term.number) ?? term.primary.name;
      const host = hosts.find(({ name }) => name === winner) ?? hosts[0];
      const error = world.coldStart(host);
      return error === null ? 'started' : `${host.name} can't start the guest: ${error}`;
    }
    return this.#recover(views, world.machines.nextRecoveryStep('web', views));
  }

  #begin(host: Host): Owner {
    this.#isBusy = true;
    const owner = new Owner('recover', host.owner);
    owner.onDeath(() => (this.#isBusy = false));
    return owner;
  }

  #end(owner: Owner): void {
    owner.die('ended');
  }

  #recover(views: readonly [RecoveryHost, RecoveryHost], step: RecoveryStep): string {
    const world = this.#world;
    const host = (name: string): Host => world.hosts.find((each) => each.name === name) as Host;
    switch (step.do) {
      case 'protect':
        return 'protect';
      case 'destroy': {
        if (step.guest !== 'web') host(step.host).hasCopy = false;
        else {
          const owner = this.#begin(host(step.host));
          world.destroyGuest(host(step.host), owner, () => this.#end(owner));
        }
        break;
      }
      case 'demote':
        world.drbd.demote(world.drbd.of(host(step.host)));
        break;
      case 'connect':
        world.drbd.connect(world.drbd.of(host(step.loser)), step.discard);
        world.drbd.connect(world.drbd.of(host(step.survivor)), false);
        break;
      case 'bring-up':
        world.recoverJournal(host(step.host), true);
        break;
      case 'wait':
      case 'done':
      case 'refuse':
        break;
      default:
        throw new Error(`step ${String(step satisfies never)}`);
    }
    world.say(`recover: ${step.do}: ${step.reason}`);
    return `${step.do}: ${step.reason} (${views.map(({ resource }) => resource?.role ?? 'down').join(', ')})`;
  }

  /** A journal that was left for a person, because the arbiter may have decided for this host. */
  #decideJournal(host: Host): string {
    const world = this.#world;
    const { number, primary } = world.term;
    const { files } = host;
    const winner = world.arbiter.winners.get(number);
    if (files.claimAsked === number && files.decision?.term !== number) {
      const isPrimaryAsking = world.senderUnit?.alive === true || world.cleanup?.alive === true;
      if (winner === undefined && isPrimaryAsking) {
        this.#decideIfAsked();
        return 'the primary asks who goes on';
      }
      if (winner === undefined) world.arbiter.winners.set(number, primary.name);
      const goesBack = world.arbiter.winners.get(number) === host.name;
      files.decision = { term: number, outcome: goesBack ? 'discard' : 'roll-forward' };
      if (files.term?.term === number) {
        files.term = { ...files.term, phase: 'ended', outcome: goesBack ? 'won' : 'lost' };
      }
      world.say(`a person decides about the journal of ${host.name}: ${files.decision.outcome}`);
    }
    world.recoverJournal(host, false);
    return `the journal of ${host.name}`;
  }

  /** Where the arbiter is a person: tells both hosts, the loser first. */
  #decideIfAsked(): void {
    const world = this.#world;
    const { arbiter, term, random } = world;
    if (arbiter.kind !== 'operator' || arbiter.winners.has(term.number)) return;
    const asked = arbiter.asked.get(term.number);
    if (asked === undefined) return;
    const isPrimaryThere = term.primary.guest !== null || term.primary.ended !== null;
    const canCopyStart = world.receiverOn(term.backup, term)?.state.phase === 'claiming';
    const toBackup = canCopyStart && (!isPrimaryThere || random.chance(0.5));
    const [winner, loser] = toBackup ? [term.backup, term.primary] : [term.primary, term.backup];
    world.say(`the operator decides for ${winner.name}`);
    arbiter.decide(term.number, winner.name, [loser.name, winner.name]);
  }
}
