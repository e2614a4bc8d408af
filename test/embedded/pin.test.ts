/** "pin" on embedded hosts: `xl vcpu-pin` by the controller and by the receiver, and all as it was after it. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { pinHosts } from '../../src/commands/pin.js';
import { setupPair } from '../../src/commands/setup.js';
import { teardownPair } from '../../src/commands/teardown.js';
import { DOM0_PIN_PATH, pinPath } from '../../src/core/pin.js';
import type { Pin } from '../../src/core/pin.js';
import type { Host } from '../../src/edge/host.js';
import type { EmbeddedMachine } from '../../src/embedded/machine.js';
import { EmbeddedWorld } from '../../src/embedded/world.js';
import { pinHere } from '../../src/protect/pin-here.js';
import { TEST_LIMITS } from '../edge/support.js';

const test = suite('pin on embedded hosts');
const PIN: Pin = { dom0: [0], guest: [1, 2] };
const GUEST = 'guest1';

interface Embedded {
  world: EmbeddedWorld;
  machines: readonly EmbeddedMachine[];
  /** Pins, or undoes it without a `pin`. */
  apply: (pin: Pin | undefined, dryRun?: boolean) => Promise<{ told: string[]; warned: string[] }>;
}

async function inWorld(use: (embedded: Embedded) => Promise<void>): Promise<void> {
  const world = await EmbeddedWorld.start({ limits: TEST_LIMITS });
  const hosts: Host[] = [];
  try {
    const { loaded } = await world.load();
    const [pair] = loaded.config.pairs;
    for (const host of pair?.hosts ?? []) hosts.push(await world.dependencies(loaded).connect(host));
    const machines = (world.pairs[0]?.hosts ?? []).map(({ machine }) => machine);
    machines[0]?.guests.push({ name: GUEST, memoryMiB: 128 });
    await use({
      world,
      machines,
      apply: async (pin, dryRun = false) => {
        const warned: string[] = [];
        const told = await pinHosts(hosts, GUEST, pin, (text) => warned.push(text), dryRun);
        return { told, warned };
      },
    });
    assert.equal(world.unknown, [], 'commands that no embedded tool knows');
  } finally {
    await Promise.all(hosts.map((host) => host.close()));
    await world.close();
  }
}

const affinity = (machines: readonly EmbeddedMachine[]): unknown =>
  machines.map((machine) => Object.fromEntries(machine.affinity));
const notes = (machines: readonly EmbeddedMachine[]): unknown =>
  machines.map(({ files }) => [DOM0_PIN_PATH, pinPath(GUEST)].filter((path) => files.exists(path)));

test('the dom0 of both hosts and the guest where it runs; again changes nothing; undone, all is as before', async () => {
  await inWorld(async ({ machines, apply }) => {
    machines[0]?.affinity.set('Domain-0', '0,1');
    const dry = await apply(PIN, true);
    assert.is(dry.told.length, 3);
    assert.match(
      dry.told[1] ?? '',
      /^embedded-1a: xl vcpu-pin guest1 all 1,2 -: vCPU 0 of guest1 may run on all CPUs/,
    );
    assert.equal(affinity(machines), [{ 'Domain-0': '0,1' }, {}]);
    assert.equal(notes(machines), [[], []]);

    assert.equal((await apply(PIN)).told, dry.told);
    assert.equal(affinity(machines), [{ 'Domain-0': '0', guest1: '1,2' }, { 'Domain-0': '0' }]);
    assert.equal(await apply(PIN), { told: [], warned: [] });

    await apply(undefined);
    assert.equal(affinity(machines), [{ 'Domain-0': '0,1', guest1: 'all' }, { 'Domain-0': 'all' }]);
    assert.equal(notes(machines), [[], []]);
    assert.equal(await apply(undefined), { told: [], warned: [] });
  });
});

test('a host that can not do it is told of, and the other one is pinned all the same', async () => {
  await inWorld(async ({ machines, apply }) => {
    const { told, warned } = await apply({ dom0: [9], guest: [1] });
    assert.equal(told, []);
    assert.is(warned.length, 2);
    assert.match(
      warned[0] ?? '',
      /^guest1: not pinned on embedded-1a: .*vcpu-pin Domain-0 all 9 - failed.*Invalid range/,
    );
    assert.equal(affinity(machines), [{}, {}]);
  });
});

test('a guest that was taken over is pinned by its receiver, and unpinned by the controller', async () => {
  await inWorld(async ({ machines, apply }) => {
    await apply(PIN);
    const [primary, backup] = machines;
    if (primary === undefined || backup === undefined) throw new Error('a pair has two hosts');
    primary.powerCut();
    backup.guests.push({ name: GUEST, memoryMiB: 128 });
    const reasons = await pinHere(GUEST, PIN, {
      exec: async (argv) => {
        const { exitCode, stdout, stderr } = await backup.run(argv);
        return { code: exitCode, stdout: String(stdout), stderr };
      },
      read: (path) => Promise.resolve(backup.files.text(path)),
      write: (path, text, mode) => Promise.resolve(backup.putFile(path, Buffer.from(text), mode)),
    });
    assert.equal(reasons, ['vCPU 0 of guest1 may run on all CPUs, "pin" says CPU 1,2']);
    assert.equal(affinity(machines), [{}, { 'Domain-0': '0', guest1: '1,2' }]);
    await apply(undefined);
    assert.equal(affinity(machines), [{}, { 'Domain-0': 'all', guest1: 'all' }]);
  });
});

test('teardown gives the dom0 its CPUs back where nobody has before', async () => {
  await inWorld(async ({ world, machines, apply }) => {
    const { loaded, works } = await world.load();
    const [work] = works;
    if (work === undefined) throw new Error('no pair');
    const dependencies = {
      ...world.dependencies(loaded),
      pause: () => new Promise<void>((resolve) => setImmediate(resolve)),
    };
    const progress = { line: () => undefined, state: () => undefined };
    await setupPair(work, dependencies, { overwrite: new Set(), dryRun: false, wait: true }, progress);
    await apply(PIN);
    for (const machine of machines) machine.guests = [];
    const options = { domains: new Set([GUEST]), deleteData: new Set<string>(), dryRun: false };
    const { changes } = await teardownPair(work, dependencies, options, progress);
    assert.ok(changes.some(({ title }) => title === 'give vCPU 0 of the dom0 its CPUs back'));
    for (const machine of machines) assert.is(machine.affinity.get('Domain-0'), 'all');
    assert.equal(notes(machines), [[], []]);
  });
});

test.run();
