/** The faults of one episode: what happens to whom, and when. */
import { ALL_EFFECTS, PLACES } from './coverage.js';
import type { CrashPlan, MomentPlan, World } from './world.js';

/** Longest time after the first commit in which faults begin. */
const SPREAD_MS = 2_500;
/** Longest time that is waited for a planned crash. */
const DIRECTED_MS = 15_000;

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
  [3, (world) => cutArbiter(world, world.random.pick([world.hosts, [world.random.pick(world.hosts)]]))],
  [2, (world) => slowNetwork(world)],
  [3, (world) => resetLink(world)],
  [3, (world) => world.drbd.interrupt()],
  [5, (world) => pause(world)],
  [1, (world) => setClock(world)],
  [2, (world) => failDisk(world)],
  [4, (world) => fillDisk(world)],
  [1, (world) => world.sender?.failNetwork()],
  [2, (world) => stop(world)],
  [1, (world) => world.receiver?.stop('the receiver was stopped')],
  [1, (world) => world.receiver?.askFailover('failover was asked for')],
  [6, (world) => world.guestEnds(world.random.pick(['poweroff', 'reboot', 'crash', 'crash', 'gone']))],
  [8, (world) => strayAcknowledgement(world)],
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

/** What leads to a place that is not come by at every checkpoint, as the beginning of its name has it. */
const LEADS_TO: [string, Fault[]][] = [
  ['sender send-end', [stop]],
  ['sender drop-stream', [stop, resetLink]],
  ['sender claim', [resetLink, (world) => world.receiver?.owner.die('killed')]],
  ['sender go-on', [stop, resetLink]],
  ['sender give-way', [isolatePrimary, loseAnswer]],
  ['receiver claim', [isolatePrimary, (world) => powerCut(world, 'primary')]],
  ['receiver decide', [stop, (world) => powerCut(world, 'primary')]],
  ['receiver answer-undecided', [loseAnswer]],
  ['receiver answer-ended', [stop]],
  ['receiver step drop-copy', [stop]],
  ['receiver step roll-forward', [stop]],
  ['receiver step leave-journal', [stop]],
  ['receiver step', [isolatePrimary, (world) => powerCut(world, 'primary')]],
  ['sender-cleanup destroy', [killPrimarySide]],
  ['sender-cleanup', [(world) => world.sender?.owner.die('killed'), (world) => world.killXl()]],
  ['receiver-cleanup note', [leaveDiscard]],
  ['receiver-cleanup mark', [leaveDiscard]],
  ['receiver-cleanup', [(world) => world.receiver?.owner.die('killed')]],
];

/**
 * Every seed has one place where something dies, so that as many seeds in a row as there are places leave none out.
 * In every other episode whatever leads there comes first.
 */
function placeOf(seed: number): string {
  return PLACES[seed % PLACES.length] as string;
}

export interface FaultPlan {
  /** How long the episode lasts before everything is mended, ms. */
  lastsMs: number;
  /** How much longer it may last while the crash that was planned has not come, ms. */
  patienceMs: number;
}

export function planFaults(world: World, seed: number): FaultPlan {
  const { random, time } = world;
  if (random.chance(0.05)) return planLie(world);
  const place = random.chance(0.5) ? placeOf(seed) : null;
  const leads = LEADS_TO.find(([name]) => place?.startsWith(name) === true)?.[1] ?? null;
  const count = random.chance(0.5) ? 1 : 1 + random.below(5);
  // Mostly after protection is on, now and then while it is beginning.
  const fromMs = leads !== null || random.chance(0.85) ? random.between(600, 1_200) : 0;
  let atMs = fromMs + random.between(0, SPREAD_MS);
  for (let each = 0; each < count; each++) {
    const fault = each === 0 && leads !== null ? random.pick(leads) : choose(world);
    time.later(atMs, null, () => {
      if (world.isHealing) return;
      fault(world);
    });
    // The next one often comes while the first one is being dealt with.
    atMs += random.chance(0.5) ? random.between(0, 300) : random.between(0, 4_000);
  }
  if (place !== null) world.crashPlan = crashAt(world, place);
  else world.crashPlan = random.chance(0.7) ? planCrash(world) : null;
  world.momentPlan = random.chance(0.2) ? random.pick(MOMENTS) : null;
  world.faultChance = random.chance(0.2) ? 0.1 : 0;
  return {
    lastsMs: atMs + random.between(500, random.chance(0.15) ? 30_000 : 4_000),
    patienceMs: place === null ? 0 : DIRECTED_MS,
  };
}

/**
 * The backup's journal is on a disk that lies about flushes, and the backup alone loses its power. The primary is not
 * touched by it, so everything but the equality of the disks has to hold. Nothing else happens: a host whose own disk
 * lies and that goes on from it has lost what any host with such a disk loses.
 */
function planLie(world: World): FaultPlan {
  const { random, time } = world;
  const { backup } = world.term;
  const fromMs = random.between(0, 2_000);
  const cutMs = fromMs + random.between(200, 2_500);
  backup.isLiedTo = true;
  time.later(fromMs, null, () => (backup.journalDisk.lies = true));
  time.later(cutMs, null, () => {
    world.powerCut(backup);
    backup.journalDisk.lies = world.machines.skips.has('flush');
    time.later(random.between(300, 5_000), null, () => world.powerOn(backup));
  });
  world.crashPlan = world.momentPlan = null;
  world.faultChance = 0;
  return { lastsMs: cutMs + random.between(5_000, 12_000), patienceMs: 0 };
}

const EACH_CHECKPOINT =
  /^(sender (mark|write|read|send-check|release)|receiver (commit|pass|acknowledge)|xl )/;

function planCrash(world: World): CrashPlan {
  const { random } = world;
  // What every checkpoint does is come by often enough.
  const isRare = random.chance(0.7);
  const effects = ALL_EFFECTS.filter((name) => !isRare || !EACH_CHECKPOINT.test(name));
  return crashAt(world, `${random.pick(effects)} ${random.pick(['before', 'after'])}`);
}

function crashAt(world: World, place: string): CrashPlan {
  const { random } = world;
  const words = place.split(' ');
  const isEach = EACH_CHECKPOINT.test(place);
  return {
    role: words[0] ?? '',
    effect: words.slice(1, -1).join(' '),
    when: words.at(-1) ?? '',
    skip: isEach && random.chance(0.5) ? random.below(40) : 0,
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

function stop(world: World): void {
  if (world.sender?.owner.alive === true) world.sender.stop('unprotect');
}

/** Protection is ended, and while it ends somebody asks for the failover. */
function stopAndFailOver(world: World): void {
  if (world.sender?.owner.alive !== true) return;
  stop(world);
  world.time.later(world.random.between(1, 500), null, () =>
    world.receiver?.askFailover('failover was asked for'),
  );
}

/** The backup wins while the primary is alone, and what the primary has to do about it is left to its clean-up. */
function killPrimarySide(world: World): void {
  isolatePrimary(world);
  world.time.later(world.random.between(1_500, 3_000), null, () => world.sender?.owner.die('killed'));
}

/** The receiver dies after it has decided to go back, so that its clean-up does it. */
function leaveDiscard(world: World): void {
  const { receiver } = world;
  powerCut(world, 'primary');
  const look = (): void => {
    if (receiver?.owner.alive !== true) return;
    if (receiver.state.phase === 'failing-over') receiver.owner.die('killed');
    else world.time.later(1, receiver.owner, look);
  };
  look();
}

function slowNetwork(world: World): void {
  world.network.slowUntilMs = world.time.nowMs + world.random.between(500, 8_000);
}

function strayAcknowledgement(world: World): void {
  const { sender, random } = world;
  if (sender?.owner.alive !== true) return;
  const kind = random.pick(['term', 'session', 'ahead', 'again'] as const);
  // So that there is something that was sent and is not committed, now and then more than one checkpoint.
  slowNetwork(world);
  sender.strayAcknowledgement(kind);
}

/** One request to a disk fails. */
function failDisk(world: World): void {
  const { backup } = world.term;
  const disk = world.random.chance(0.5) ? backup.journalDisk : world.random.pick(backup.lvs);
  disk.failNext = world.random.pick(['write', 'flush']);
}

/**
 * A disk of the backup has no room for what was promised to it, as a thin one: every write fails until it has. Or a
 * host has none in /var/lib, and nothing can be recorded.
 */
function fillDisk(world: World): void {
  const { backup } = world.term;
  if (world.random.chance(0.4)) {
    const host = world.random.pick(world.hosts);
    host.isStateFull = true;
    world.say(`nothing can be recorded on ${host.name}`);
    world.time.later(world.random.between(200, 6_000), null, () => (host.isStateFull = false));
    return;
  }
  const disk = world.random.chance(0.5) ? backup.journalDisk : world.random.pick(backup.lvs);
  disk.isFull = true;
  world.say(`a disk of ${backup.name} is full`);
  world.time.later(world.random.between(200, 6_000), null, () => (disk.isFull = false));
}

/** Somebody sets a host's wall clock. */
function setClock(world: World): void {
  const host = world.random.pick(world.hosts);
  host.wallMs += world.random.between(-1e8, 1e8);
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

function cutArbiter(world: World, hosts: readonly { name: string }[]): void {
  const ways = hosts.flatMap((host): [string, string][] => [
    [host.name, 'arbiter'],
    ['arbiter', host.name],
  ]);
  cut(world, world.random.chance(0.6) ? ways : [world.random.pick(ways)]);
}

function resetLink(world: World): void {
  const { sender } = world;
  if (sender !== null) world.network.resetSome((connection) => connection.ends[0].owner === sender.owner);
}

function pause(world: World): void {
  const processes = [
    world.sender?.owner,
    world.receiver?.owner,
    world.senderUnit,
    world.xl,
    world.cleanup,
    world.receiverCleanup,
    world.term.primary.guest?.owner,
  ].filter((owner) => owner?.alive === true);
  const owner = world.random.pick([...world.hosts.map((host) => host.owner), ...processes]);
  if (owner === null || owner === undefined) return;
  const forMs = world.random.between(50, world.random.chance(0.3) ? 20_000 : 2_500);
  world.say(`pause of ${owner.name} for ${Math.round(forMs)} ms`);
  owner.pause(world.time.nowMs + forMs);
}
