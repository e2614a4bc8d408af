/** The faults of one episode: what happens to whom, and when. */
import { ALL_EFFECTS } from './coverage.js';
import type { CrashPlan, MomentPlan, World } from './world.js';

/** Longest time after the first commit in which faults begin. */
const SPREAD_MS = 2_500;

type Fault = (world: World) => void;

/** With how often each is chosen. */
const FAULTS: [number, Fault][] = [
  [14, (world) => powerCut(world, 'primary')],
  [5, (world) => powerCut(world, 'backup')],
  [3, (world) => world.sender?.owner.die('killed')],
  [3, (world) => world.receiver?.owner.die('killed')],
  [2, (world) => world.killXl()],
  [1, (world) => world.receiver?.xlDied()],
  [1, (world) => world.cleanup?.die('killed')],
  [1, (world) => world.receiverCleanup?.die('killed')],
  [6, (world) => cutBetweenHosts(world)],
  [3, (world) => cutArbiter(world)],
  [2, (world) => (world.network.slowUntilMs = world.time.nowMs + world.random.between(500, 8_000))],
  [3, (world) => resetLink(world)],
  [3, (world) => world.drbd.interrupt()],
  [4, (world) => pause(world)],
  [1, (world) => (world.term.backup.journalDisk.failNext = world.random.pick(['write', 'flush']))],
  [1, (world) => (world.random.pick(world.term.backup.lvs).failNext = world.random.pick(['write', 'flush']))],
  [1, (world) => world.sender?.failNetwork()],
  [2, (world) => world.sender?.owner.alive && world.sender.stop('unprotect')],
  [1, (world) => world.receiver?.stop('the receiver was stopped')],
  [1, (world) => world.receiver?.askFailover('failover was asked for')],
  [1, (world) => world.guestEnds()],
  [4, (world) => world.sender?.owner.alive && world.sender.strayAcknowledgement()],
  [6, (world) => isolatePrimary(world)],
  [4, (world) => loseAnswer(world)],
  [2, (world) => stopAndFailOver(world)],
];

const WEIGHT = FAULTS.reduce((sum, [weight]) => sum + weight, 0);

function choose(world: World): Fault {
  let at = world.random.below(WEIGHT);
  for (const [weight, fault] of FAULTS) {
    at -= weight;
    if (at < 0) return fault;
  }
  throw new Error('no fault');
}

/** @returns how long the episode lasts before everything is mended, ms */
export function planFaults(world: World): number {
  const { random, time } = world;
  const count = random.chance(0.5) ? 1 : 1 + random.below(5);
  // Mostly after protection is on, now and then while it is beginning.
  const fromMs = random.chance(0.85) ? random.between(600, 1_200) : 0;
  let atMs = fromMs + random.between(0, SPREAD_MS);
  for (let each = 0; each < count; each++) {
    const fault = choose(world);
    time.later(atMs, null, () => {
      if (world.isHealing) return;
      fault(world);
    });
    // The next one often comes while the first one is being dealt with.
    atMs += random.chance(0.5) ? random.between(0, 300) : random.between(0, 4_000);
  }
  if (random.chance(0.85)) world.crashPlan = planCrash(world);
  world.momentPlan = random.chance(0.2) ? random.pick(MOMENTS) : null;
  world.faultChance = random.chance(0.2) ? 0.1 : 0;
  return atMs + random.between(500, random.chance(0.15) ? 30_000 : 4_000);
}

const EACH_CHECKPOINT = /mark|read-on|send-check|release|commit|pass|acknowledge/;

function planCrash(world: World): CrashPlan {
  const { random } = world;
  // What every checkpoint does is come by often enough.
  const isRare = random.chance(0.7);
  const effects = ALL_EFFECTS.filter((name) => !isRare || !EACH_CHECKPOINT.test(name));
  const [role, ...rest] = random.pick(effects).split(' ') as ['sender' | 'receiver', ...string[]];
  return {
    role,
    effect: rest.join(' '),
    when: random.pick(['before', 'after']),
    skip: isRare || random.chance(0.5) ? 0 : random.below(12),
    what: random.chance(0.6) ? 'kill' : 'power-cut',
  };
}

function powerCut(world: World, who: 'primary' | 'backup'): void {
  const host = world.term[who];
  world.powerCut(host);
  if (world.random.chance(0.4)) {
    world.time.later(world.random.between(300, 15_000), null, () => world.powerOn(host));
  }
}

/** Directions are cut for a while, one or both. */
function cut(world: World, ways: [string, string][]): void {
  for (const [from, to] of ways) world.network.cut(from, to);
  world.say(`cut ${ways.map((way) => way.join('>')).join(', ')}`);
  const isShort = world.random.chance(0.4);
  world.time.later(world.random.between(50, isShort ? 1_500 : 15_000), null, () => {
    for (const [from, to] of ways) world.network.mend(from, to);
    world.say(`mended ${ways.map((way) => way.join('>')).join(', ')}`);
  });
}

function cutBetweenHosts(world: World): void {
  const [one, other] = world.hosts;
  const ways: [string, string][] = [
    [one.name, other.name],
    [other.name, one.name],
  ];
  cut(world, world.random.chance(0.6) ? ways : [world.random.pick(ways)]);
}

/** What happens at a moment that is too short to be met by chance. */
const MOMENTS: readonly MomentPlan[] = [
  {
    moment: 'a checkpoint was not held',
    then: (world) => {
      world.time.later(world.random.between(0, 40), null, () => powerCut(world, 'primary'));
    },
  },
  { moment: 'the first commit', then: (world) => cutBetweenHosts(world) },
];

/** The arbiter decides for the backup, and neither host hears of it; then the primary asks the backup. */
function loseAnswer(world: World): void {
  const { primary, backup } = world.term;
  cut(world, [
    ['arbiter', backup.name],
    ['arbiter', primary.name],
    [primary.name, 'arbiter'],
  ]);
  world.receiver?.askFailover('failover was asked for');
  world.time.later(world.random.between(20, 400), null, () => resetLink(world));
}

/** Protection is ended, and while it ends somebody asks for the failover. */
function stopAndFailOver(world: World): void {
  if (world.sender?.owner.alive !== true) return;
  world.sender.stop('unprotect');
  world.time.later(world.random.between(1, 500), null, () =>
    world.receiver?.askFailover('failover was asked for'),
  );
}

/** From its peer and from the arbiter: the backup wins while the primary's guest runs. */
function isolatePrimary(world: World): void {
  const { primary, backup } = world.term;
  cut(
    world,
    [backup.name, 'arbiter'].flatMap((other): [string, string][] => [
      [primary.name, other],
      [other, primary.name],
    ]),
  );
}

function cutArbiter(world: World): void {
  const host = world.random.pick(world.hosts);
  const ways: [string, string][] = [
    [host.name, 'arbiter'],
    ['arbiter', host.name],
  ];
  cut(world, world.random.chance(0.6) ? ways : [world.random.pick(ways)]);
}

function resetLink(world: World): void {
  const { sender } = world;
  if (sender !== null) world.network.resetSome((connection) => connection.ends[0].owner === sender.owner);
}

function pause(world: World): void {
  const { sender, receiver, senderUnit } = world;
  const owner = world.random.pick([
    ...world.hosts.map((host) => host.owner),
    ...(sender === null ? [] : [sender.owner]),
    ...(receiver === null ? [] : [receiver.owner]),
    ...(senderUnit === null ? [] : [senderUnit]),
  ]);
  const forMs = world.random.between(50, world.random.chance(0.3) ? 20_000 : 2_500);
  world.say(`pause of ${owner.name} for ${Math.round(forMs)} ms`);
  owner.pause(world.time.nowMs + forMs);
}
