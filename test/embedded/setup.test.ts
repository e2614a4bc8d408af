/**
 * Setup and teardown of an embedded pair over SSH, end to end: from nothing, again, cut at every step, after
 * the loss of a host, back to nothing.
 */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { EmbeddedLab } from './pair-support.js';

const test = suite('setup of an embedded pair');

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

test('setup from nothing ends connected and up to date, and a second run changes nothing', async () => {
  const { works } = await lab.load();
  const first = await lab.setup(works[0]!);
  assert.ok(first.changes.length > 10);
  assert.equal(drbd(), [IN_PLACE, IN_PLACE]);
  const second = await lab.setup(works[0]!);
  assert.equal(second.changes, []);
  const [alpha, beta] = lab.pair.hosts;
  for (const lv of alpha.machine.lvs.filter(({ name }) => /-(\d|barrier)$/.test(name))) {
    const other = beta.machine.lvs.find(({ name }) => name === lv.name);
    assert.is(lv.content.id, other?.content.id, lv.name);
  }
  assert.equal(lab.pair.unknown, []);
});

test('an existing volume with data is the source, and is copied', async () => {
  for (const { machine } of lab.pair.hosts) {
    const content = {
      id: machine.unique('old data'),
      signatures: machine.name === 'alpha' ? [{ type: 'ext4', offsetBytes: 0x438 }] : [],
      ...(machine.name === 'alpha' ? { firstDataAt: 1080 } : {}),
    };
    machine.addLv({ volumeGroup: 'vg0', name: 'web-data', sizeBytes: 2 ** 30, content });
  }
  lab.pair.drbd.syncBytesPerLook = 400 * 2 ** 20;
  const { works } = await lab.load(['{ vdev: xvda, volumeGroup: vg0, logicalVolume: web-data }']);
  await lab.setup(works[0]!);
  const [alpha, beta] = lab.pair.hosts.map(({ machine }) =>
    machine.lvs.find(({ name }) => name === 'web-data'),
  );
  assert.is(alpha?.content.id, 'old data 1 of alpha');
  assert.is(beta?.content.id, 'old data 1 of alpha');
  assert.equal((await lab.setup(works[0]!)).changes, []);
  assert.equal(lab.pair.unknown, []);
});

test('after the loss of a host everything is back by itself', async () => {
  const { works } = await lab.load();
  await lab.setup(works[0]!);
  for (const host of lab.pair.hosts) {
    await host.powerCut();
    assert.is(drbd().filter((text) => text === '').length, 1);
    await host.powerOn();
    assert.equal(drbd(), [IN_PLACE, IN_PLACE]);
  }
  assert.equal((await lab.setup(works[0]!)).changes, []);
});

// Skipped until teardown leaves alone what it has put back: it takes the distribution's own files for ours
// once the diversion is gone, and asks find for a folder that was never made.
test.skip('teardown keeps the data, setup takes it up again, and teardown with its name deletes it', async () => {
  const { works } = await lab.load();
  const work = works[0]!;
  await lab.setup(work);
  const { machine } = lab.pair.hosts[0];
  lab.pair.drbd.primary(machine.kernel, 'web', false);
  lab.pair.drbd.write(machine.kernel, 'web', 0, 'of the guest');
  lab.pair.drbd.secondary(machine.kernel, 'web');
  await lab.teardown(work);
  assert.equal(drbd(), ['', '']);
  assert.equal(machine.mappings, []);
  assert.equal(machine.diversions, []);
  assert.equal((await lab.teardown(work)).changes, []);
  await lab.setup(work);
  assert.equal(drbd(), [IN_PLACE, IN_PLACE]);
  assert.is(machine.lvs.find(({ name }) => name === 'remus-web-0')?.content.id, 'of the guest');
  await lab.teardown(work, { deleteData: new Set(['web']) });
  assert.equal(machine.lvs, []);
  assert.equal(lab.pair.unknown, []);
});

// Skipped until setup demotes a resource that an earlier run promoted by force and was cut off after.
for (const fault of ['dropBefore', 'dropAfter'] as const) {
  test.skip(`a connection that is lost at every single step (${fault}) costs nothing but another run`, async () => {
    const { works } = await lab.load();
    for (const { machine, sshd } of lab.pair.hosts) {
      const seen = new Set<string>();
      sshd.fault = ({ kind, argv }) => {
        const isStep = (kind === 'run' || kind === 'stream') && argv[0] !== 'flock';
        const step = `${machine.name} ${argv.join(' ')}`;
        if (!isStep || seen.has(step)) return undefined;
        seen.add(step);
        return fault;
      };
    }
    let runs = 0;
    for (let done = false; !done; runs += 1) {
      assert.ok(runs < 200, 'it does not get anywhere');
      try {
        await lab.setup(works[0]!);
        done = true;
      } catch (error) {
        assert.match((error as Error).message, /it may or may not have been done; .*\n.*Run setup again/);
      }
    }
    assert.ok(runs > 10);
    assert.equal(drbd(), [IN_PLACE, IN_PLACE]);
    assert.equal((await lab.setup(works[0]!)).changes, []);
    assert.equal(lab.pair.unknown, []);
  });
}

test('two controllers at once: the second is refused', async () => {
  const { works } = await lab.load();
  lab.pair.hosts[0].machine.locks.add('/run/lock/remus-drbd.lock');
  try {
    await lab.setup(works[0]!);
    assert.unreachable();
  } catch (error) {
    assert.match((error as Error).message, /another remus-drbd is changing this host/);
  }
});

test.run();
