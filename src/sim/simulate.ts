/**
 * One simulated run: episode after episode of protection, faults, the end of all faults, recovery, and the look
 * whether everything is right again. A function of the seed and of the machines.
 */
import type { Coverage } from './coverage.js';
import { planFaults } from './faults.js';
import { productionMachines } from './machines.js';
import type { Machines } from './machines.js';
import { Person } from './person.js';
import { Random } from './random.js';
import { Violation, World } from './world.js';

export interface RunOptions {
  machines?: Machines;
  /** Steps after which no new episode is begun. */
  steps: number;
  trace?: (line: string) => void;
}

export interface RunResult {
  seed: number;
  violation: Violation | null;
  steps: number;
  episodes: number;
  checkpoints: number;
  failovers: number;
  virtualMs: number;
  coverage: Coverage;
}

/** Everything is right again by then, or never will be. */
const RECOVERY_MS = 600_000;
const LOOK_MS = 250;
/** With nothing broken a checkpoint is committed, or protection has ended. */
const COMMIT_MS = 60_000;

class Over extends Error {}

export async function simulate(seed: number, options: RunOptions): Promise<RunResult> {
  const random = new Random(seed);
  const world = new World(
    random,
    options.machines ?? productionMachines,
    random.chance(0.75) ? 'test-and-set' : 'operator',
  );
  world.trace = options.trace ?? null;
  const run = new Run(world, seed);
  let episodes = 0;
  try {
    await run.begin();
    while (run.steps < options.steps) {
      await run.episode();
      episodes++;
    }
  } catch (error) {
    if (error instanceof Violation) world.found ??= error;
    else if (!(error instanceof Over)) {
      world.found ??= new Violation('program', (error as Error).stack ?? '', world.time.nowMs);
    }
  }
  return {
    seed,
    violation: world.found,
    steps: run.steps,
    episodes,
    checkpoints: world.checkpoints,
    failovers: world.terms.filter(({ backupStarted }) => backupStarted).length,
    virtualMs: world.time.nowMs,
    coverage: world.coverage,
  };
}

class Run {
  readonly #world: World;
  readonly #seed: number;
  steps = 0;

  constructor(world: World, seed: number) {
    this.#world = world;
    this.#seed = seed;
  }

  /** Lets virtual time go on. @throws Over at the first violation */
  async #pass(forMs: number): Promise<void> {
    const { time } = this.#world;
    const untilMs = time.nowMs + forMs;
    for (;;) {
      const { nextMs } = time;
      if (nextMs === undefined || nextMs > untilMs) break;
      this.steps++;
      time.step();
      if (time.hasPromises) {
        time.hasPromises = false;
        await settle();
      }
      if (this.#world.found !== null) throw new Over();
    }
    time.nowMs = Math.max(time.nowMs, untilMs);
  }

  async #until(isSo: () => boolean, limitMs: number, everyMs: number): Promise<boolean> {
    const { time } = this.#world;
    const endMs = time.nowMs + limitMs;
    while (!isSo()) {
      if (time.nowMs >= endMs) return false;
      await this.#pass(everyMs);
    }
    return true;
  }

  /** Protection starts only from a good state. */
  async begin(): Promise<void> {
    const { drbd } = this.#world;
    await this.#until(() => drbd.fault(drbd.sides[0]) === null, 30_000, 100);
  }

  async episode(): Promise<void> {
    const world = this.#world;
    const primary = world.hosts.find(({ guest }) => guest !== null);
    if (primary === undefined) throw new Violation('progress', 'the guest runs nowhere', world.time.nowMs);
    world.isHealing = false;
    world.protect(primary);
    const { lastsMs, patienceMs } = planFaults(world, this.#seed);
    await this.#pass(lastsMs);
    if (patienceMs > 0) await this.#until(() => world.crashPlan === null, patienceMs, 100);
    await this.#heal();
    await this.#compare();
  }

  async #heal(): Promise<void> {
    const world = this.#world;
    world.say('the faults are over');
    world.isHealing = true;
    world.crashPlan = null;
    world.faultChance = 0;
    world.network.mendAll();
    for (const host of world.hosts) {
      host.isStateFull = false;
      for (const disk of [host.journalDisk, ...host.lvs]) {
        disk.failNext = null;
        disk.isFull = false;
      }
    }
    // With nothing broken protection goes on: it is ended in order, so that the next episode begins anew.
    const { sender } = world;
    await this.#pass(1_500);
    await this.#until(() => world.pausedUntilMs() <= world.time.nowMs, 60_000, 500);
    const isOn = (): boolean =>
      sender?.owner.alive === true &&
      ['connecting', 'live', 'running', 'holding'].includes(sender.state.phase);
    if (sender !== null && isOn()) {
      const { checkpoints } = world;
      if (!(await this.#until(() => world.checkpoints > checkpoints || !isOn(), COMMIT_MS, 50))) {
        world.violation('progress', `nothing is committed, the sender is ${sender.state.phase}`);
      }
      if (isOn()) sender.stop('end of the episode');
    }
    const person = new Person(world);
    let state = '';
    const isWhole = await this.#until(
      () => {
        const next = person.act();
        if (next !== state) world.say(`look: ${next}`);
        state = next;
        return state === 'protect';
      },
      RECOVERY_MS,
      LOOK_MS,
    );
    if (!isWhole) throw new Violation('progress', `it does not come to an end: ${state}`, world.time.nowMs);
  }

  /**
   * A disk said that a flush was done, and after a power cut it was not. Where nothing could prove it DRBD takes both
   * sides for equal: that is counted, and only a person who compares the disks finds it.
   */
  async #mendLie(): Promise<void> {
    const world = this.#world;
    const differs = world.diskDifference();
    world.coverage.outcome(differs === null ? 'a lying flush did no harm' : 'a lying flush went unnoticed');
    for (const host of world.hosts) if (host.wasLiedTo) world.invalidate(host);
    const isWhole = (): boolean => world.drbd.sides.every((side) => world.drbd.fault(side) === null);
    if (!(await this.#until(() => isWhole() && world.drbd.isIdle(), RECOVERY_MS, 100))) {
      throw new Violation('progress', 'the disks are not resynchronised as a whole', world.time.nowMs);
    }
  }

  /** Both hosts' disks are the same, byte for byte, and the guest's output flows. */
  async #compare(): Promise<void> {
    const world = this.#world;
    const running = world.hosts.filter(({ guest }) => guest !== null);
    const [host] = running;
    if (host === undefined || running.length > 1) {
      throw new Violation('two', `the guest runs on ${running.length} hosts`, world.time.nowMs);
    }
    if (host.guest?.isSuspended === true)
      throw new Violation('progress', 'the guest is suspended', world.time.nowMs);
    if (host.plug.holds) throw new Violation('progress', 'the output is held', world.time.nowMs);
    if (host.guest !== null) host.guest.isQuiet = true;
    const isIdle = (): boolean => world.drbd.isIdle() && host.guest?.memory.underWay.length === 0;
    if (!(await this.#until(isIdle, 30_000, 20))) {
      throw new Violation('progress', 'writes of the guest are not answered', world.time.nowMs);
    }
    const { left } = world;
    if (world.hosts.some(({ wasLiedTo }) => wasLiedTo)) await this.#mendLie();
    const differs = world.diskDifference();
    if (differs !== null) world.violation('disks', differs);
    if (world.found !== null) throw new Over();
    if (host.guest !== null) host.guest.isQuiet = false;
    if (!(await this.#until(() => world.left > left, 10_000, 50))) {
      throw new Violation('progress', 'the guest does not work', world.time.nowMs);
    }
  }
}

/** Every promise that can settle does. */
function settle(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
