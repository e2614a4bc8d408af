/** The embedded hosts: that what they print is understood, and that their DRBD decides as DRBD does. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Fact, HostFacts } from '../../src/core/facts.js';
import { parseView, viewCommands, type CommandOutput } from '../../src/core/setup/view.js';
import { EmbeddedLab } from './pair-support.js';

const test = suite('embedded machine');

let lab: EmbeddedLab;
test.before.each(async () => {
  lab = await EmbeddedLab.start();
});
test.after.each(() => lab.close());

/** DRBD as both machines see it: role, then the disks of each volume. */
function drbd(): string[] {
  return lab.pair.hosts.map(({ machine }) =>
    [...machine.kernel.resources.values()]
      .map(({ name, role, connection, volumes }) => {
        const disks = [...volumes.values()].map((one) => `${one.volume}:${one.disk}`);
        return `${name} ${role} ${connection} ${disks.join(' ')}`;
      })
      .join('; '),
  );
}

const IN_PLACE = 'web Secondary Connected 0:UpToDate 1:UpToDate 15:UpToDate';

test('every tool is understood, on a new host and on one that is set up', async () => {
  const { works } = await lab.load();
  const work = works[0]!;
  const look = async (): Promise<HostFacts> => {
    const { machine } = lab.pair.hosts[0];
    const commands = viewCommands(work.layouts, 'alpha', ['/etc/drbd.conf'], ['/boot/vmlinuz-guest']);
    const results = new Map<string, CommandOutput>();
    for (const [key, argv] of commands) {
      const { exitCode, stdout, stderr } = await machine.run(argv);
      results.set(key, { exitCode, stdout: stdout.toString(), stderr });
    }
    return parseView('alpha', results).facts;
  };
  for (const state of ['new', 'set up'] as const) {
    const facts = await look();
    const unknown = Object.entries(facts as unknown as Record<string, Partial<Fact<never>> | undefined>)
      .filter(([, fact]) => fact?.known === false)
      .map(([name]) => name);
    assert.equal(unknown, state === 'new' ? ['certificate'] : []);
    assert.is(facts.nodeName, 'alpha');
    if (state === 'new') await lab.setup(work);
  }
  assert.equal(lab.pair.unknown, []);
});

test('a crashed primary comes back as the one that is resynchronised', async () => {
  const { works } = await lab.load();
  await lab.setup(works[0]!);
  const { drbd: network, hosts } = lab.pair;
  const [alpha, beta] = hosts;
  network.primary(alpha.machine.kernel, 'web', false);
  network.write(alpha.machine.kernel, 'web', 0, 'written on alpha');
  await alpha.powerCut();
  network.primary(beta.machine.kernel, 'web', false);
  network.write(beta.machine.kernel, 'web', 0, 'written on beta');
  network.syncBytesPerLook = 1;
  await alpha.powerOn();
  assert.is(drbd()[0], 'web Secondary Connected 0:Inconsistent 1:Inconsistent 15:Inconsistent');
  network.syncBytesPerLook = Number.POSITIVE_INFINITY;
  network.look();
  assert.is(drbd()[0], IN_PLACE);
  assert.is(alpha.machine.lvs.find(({ name }) => name === 'remus-web-0')?.content.id, 'written on beta');
});

test('a crashed primary whose backup stayed one is the source of what it may have written last', async () => {
  const { works } = await lab.load();
  await lab.setup(works[0]!);
  const { drbd: network, hosts } = lab.pair;
  const [alpha, beta] = hosts;
  network.primary(alpha.machine.kernel, 'web', false);
  await alpha.powerCut();
  network.syncBytesPerLook = 1;
  await alpha.powerOn();
  assert.is(drbd()[1], 'web Secondary Connected 0:Inconsistent 1:Inconsistent 15:Inconsistent');
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
  const { works } = await lab.load();
  await lab.setup(works[0]!);
  const { drbd: network, hosts } = lab.pair;
  network.setLink(false);
  for (const { machine } of hosts) network.primary(machine.kernel, 'web', false);
  for (const { machine } of hosts) network.secondary(machine.kernel, 'web');
  network.setLink(true);
  assert.ok(drbd().every((text) => text.startsWith('web Secondary StandAlone')));
});

test('what no tool answers is recorded, and fails', async () => {
  const { machine } = lab.pair.hosts[0];
  for (const argv of [['halt'], ['lvs', '--other'], ['dmsetup', 'remove', 'x']]) {
    assert.is((await machine.run(argv)).exitCode, 127);
  }
  assert.equal(lab.pair.unknown, ['alpha: halt', 'alpha: lvs --other', 'alpha: dmsetup remove x']);
});

test.run();
