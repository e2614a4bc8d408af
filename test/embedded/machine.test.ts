/** The embedded hosts: that what they print is understood, and that their DRBD decides as DRBD does. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { setupPair } from '../../src/commands/setup.js';
import type { Fact, HostFacts } from '../../src/core/facts.js';
import { parseView, viewCommands, type CommandOutput } from '../../src/core/setup/view.js';
import type { EmbeddedPair } from '../../src/embedded/pair.js';
import { EmbeddedWorld } from '../../src/embedded/world.js';
import { TEST_LIMITS } from '../edge/support.js';

const test = suite('embedded machine');

let world: EmbeddedWorld;
let pair: EmbeddedPair;
test.before.each(async () => {
  world = await EmbeddedWorld.start({ limits: TEST_LIMITS });
  pair = world.pairs[0]!;
});
test.after.each(() => world.close());

async function setUp(): Promise<void> {
  const { loaded, works } = await world.load();
  const pause = (): Promise<void> => Promise.resolve();
  const options = { overwrite: new Set<string>(), dryRun: false, wait: true };
  const quiet = { line: () => undefined, state: () => undefined };
  await setupPair(works[0]!, { ...world.dependencies(loaded), pause }, options, quiet);
}

/** DRBD as both machines see it: role, then the disks of each volume. */
function drbd(): string[] {
  return pair.hosts.map(({ machine }) =>
    [...machine.kernel.resources.values()]
      .map(({ name, role, connection, volumes }) => {
        const disks = [...volumes.values()].map((one) => `${one.volume}:${one.disk}`);
        return `${name} ${role} ${connection} ${disks.join(' ')}`;
      })
      .join('; '),
  );
}

const IN_PLACE = 'guest1 Secondary Connected 0:UpToDate 15:UpToDate';

test('every tool is understood, on a new host and on one that is set up', async () => {
  const { layouts } = (await world.load()).works[0]!;
  const look = async (): Promise<HostFacts> => {
    const { machine } = pair.hosts[0];
    const commands = viewCommands(layouts, machine.name, ['/etc/drbd.conf'], []);
    const results = new Map<string, CommandOutput>();
    for (const [key, argv] of commands) {
      const { exitCode, stdout, stderr } = await machine.run(argv);
      results.set(key, { exitCode, stdout: stdout.toString(), stderr });
    }
    return parseView(machine.name, results).facts;
  };
  for (const state of ['new', 'set up'] as const) {
    const facts = await look();
    const unknown = Object.entries(facts as unknown as Record<string, Partial<Fact<never>> | undefined>)
      .filter(([, fact]) => fact?.known === false)
      .map(([name]) => name);
    assert.equal(unknown, state === 'new' ? ['certificate', 'sshPublicKey'] : ['sshPublicKey']);
    assert.is(facts.nodeName, 'embedded-1a');
    if (state === 'new') await setUp();
  }
  assert.equal(pair.unknown, []);
});

test('a crashed primary comes back as the one that is resynchronised', async () => {
  await setUp();
  const { drbd: network, hosts } = pair;
  const [alpha, beta] = hosts;
  network.primary(alpha.machine.kernel, 'guest1', false);
  network.write(alpha.machine.kernel, 'guest1', 0, 'written on alpha');
  await alpha.powerCut();
  network.primary(beta.machine.kernel, 'guest1', false);
  network.write(beta.machine.kernel, 'guest1', 0, 'written on beta');
  network.syncBytesPerLook = 1;
  await alpha.powerOn();
  assert.is(drbd()[0], 'guest1 Secondary Connected 0:Inconsistent 15:Inconsistent');
  network.syncBytesPerLook = Number.POSITIVE_INFINITY;
  network.look();
  assert.is(drbd()[0], IN_PLACE);
  assert.is(alpha.machine.lvs.find(({ name }) => name === 'remus-guest1-0')?.content.id, 'written on beta');
});

test('a crashed primary whose backup stayed one is the source of what it may have written last', async () => {
  await setUp();
  const { drbd: network, hosts } = pair;
  const [alpha, beta] = hosts;
  network.primary(alpha.machine.kernel, 'guest1', false);
  await alpha.powerCut();
  network.syncBytesPerLook = 1;
  await alpha.powerOn();
  assert.is(drbd()[1], 'guest1 Secondary Connected 0:Inconsistent 15:Inconsistent');
  const { stdout } = await beta.machine.run(['drbdsetup', 'events2', '--now', '--statistics']);
  assert.match(String(stdout), /volume:0 replication:SyncTarget peer-disk:UpToDate .* out-of-sync:\d+/);
  network.syncBytesPerLook = Number.POSITIVE_INFINITY;
  network.look();
  assert.equal(drbd(), [IN_PLACE, IN_PLACE]);
  // Once is enough.
  network.setLink(false);
  network.setLink(true);
  assert.equal(drbd(), [IN_PLACE, IN_PLACE]);
});

test('two sides that both have data of their own do not connect', async () => {
  await setUp();
  const { drbd: network, hosts } = pair;
  network.setLink(false);
  for (const { machine } of hosts) network.primary(machine.kernel, 'guest1', false);
  for (const { machine } of hosts) network.secondary(machine.kernel, 'guest1');
  network.setLink(true);
  assert.ok(drbd().every((text) => text.startsWith('guest1 Secondary StandAlone')));
});

test('what no tool answers is recorded, and fails', async () => {
  const { machine } = pair.hosts[0];
  for (const argv of [['halt'], ['lvs', '--other'], ['dmsetup', 'remove', 'x']]) {
    assert.is((await machine.run(argv)).exitCode, 127);
  }
  assert.equal(
    pair.unknown,
    ['halt', 'lvs --other', 'dmsetup remove x'].map((text) => `embedded-1a: ${text}`),
  );
});

test.run();
