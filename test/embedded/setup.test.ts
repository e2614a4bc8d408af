/**
 * The real setup, over real SSH, on embedded hosts: to the end, a second time, cut anywhere, over reboots, and
 * back again by teardown.
 */
import { appendFile } from 'node:fs/promises';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { PairWork } from '../../src/commands/converge.js';
import { outcomesExitCode, overPairs } from '../../src/commands/pairs.js';
import { setupPair, type SetupOptions } from '../../src/commands/setup.js';
import { readStatus } from '../../src/commands/status.js';
import { teardownPair } from '../../src/commands/teardown.js';
import { ExitCode, OperatorError } from '../../src/core/errors.js';
import type { Engine } from '../../src/core/model.js';
import type { Progress } from '../../src/edge/progress.js';
import { embeddedKey } from '../../src/embedded/sshd.js';
import { ZERO } from '../../src/embedded/volumes.js';
import { EmbeddedWorld, type WorldOptions } from '../../src/embedded/world.js';
import { TEST_LIMITS } from '../edge/support.js';

const test = suite('setup on embedded hosts');
const GIB = 1024 ** 3;
const EXT4 = { id: 'a file system', signatures: [{ type: 'ext4', offsetBytes: 1080 }] };
const silent: Progress = { line: () => undefined, state: () => undefined };
/** With `protocol-d` the hosts have DRBD 8.3. */
const ENGINES: readonly Engine[] = ['journal', 'protocol-d'];
const plain: SetupOptions = { overwrite: new Set(), dryRun: false, wait: true };

/** What an operator is told where it fails. */
async function failure(work: Promise<unknown>): Promise<OperatorError> {
  const error: unknown = await work.then(
    () => assert.unreachable(),
    (reason: unknown) => reason,
  );
  assert.instance(error, OperatorError);
  return error as OperatorError;
}

async function inWorld(
  options: WorldOptions,
  use: (
    world: EmbeddedWorld,
    setUp: (more?: Partial<SetupOptions>, progress?: Progress) => Promise<string[]>,
  ) => Promise<void>,
): Promise<void> {
  const world = await EmbeddedWorld.start({ limits: TEST_LIMITS, ...options });
  try {
    await use(world, async (more = {}, progress = silent) => {
      const { loaded, works } = await world.load();
      const dependencies = { ...world.dependencies(loaded), pause: soon };
      const [outcome] = await overPairs(
        works.slice(0, 1),
        (work) => setupPair(work, dependencies, { ...plain, ...more }, progress),
        { live: false, write: () => undefined, nowMs: () => 0 },
      );
      if (outcome?.error !== undefined)
        throw new OperatorError(outcome.error.message, outcome.error.exitCode);
      const changes = outcome?.changes ?? [];
      return changes.map(({ host, title }) => `${host} ${title}`);
    });
    assert.equal(world.unknown, [], 'commands that no embedded tool knows');
  } finally {
    await world.close();
  }
}

/** Nothing here waits for time to pass; the embedded hosts go on whenever they are asked. */
function soon(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

function only(works: PairWork[]): PairWork {
  const [work] = works;
  if (work === undefined) throw new Error('no pair');
  return work;
}

function pairOf(world: EmbeddedWorld) {
  const [pair] = world.pairs;
  if (pair === undefined) throw new Error('no pair');
  return pair;
}

/** Everything on the disks of both hosts that setup could have changed. */
function disks(world: EmbeddedWorld): unknown {
  return pairOf(world).hosts.map(({ machine }) => ({
    files: machine.files.below('/'),
    volumes: machine.volumeGroups.flatMap(({ lvs }) => lvs.map(({ name, tags }) => [name, ...tags])),
    diversions: machine.diversions,
    enabled: [...machine.units].filter(([, unit]) => unit.enabled).map(([name]) => name),
  }));
}

async function assertReady(world: EmbeddedWorld): Promise<void> {
  const { loaded } = await world.load();
  const { domains } = await readStatus(loaded.layouts, world.dependencies(loaded).connect);
  for (const { resource } of domains) {
    assert.equal(
      [resource?.connectionState, resource?.diskState, resource?.peerDiskState, resource?.outOfSyncBytes],
      ['Connected', 'UpToDate', 'UpToDate', 0],
    );
  }
}

test('from nothing to replicated disks; a second run changes nothing', async () => {
  await inWorld(
    {
      disks: [
        '{ vdev: xvda, volumeGroup: vg0, size: 1GiB }',
        '{ vdev: xvdb, volumeGroup: vg0, size: 512MiB }',
      ],
    },
    async (world, setUp) => {
      assert.ok((await setUp()).length > 60);
      await assertReady(world);
      const before = disks(world);
      assert.equal(await setUp(), []);
      assert.equal(disks(world), before);
    },
  );
});

for (const engine of ENGINES) {
  test(`${engine}: a dry run tells the very steps that the run then does, and changes nothing`, async () => {
    await inWorld({ engine }, async (world, setUp) => {
      const before = disks(world);
      const told = await setUp({ dryRun: true });
      assert.equal(disks(world), before);
      assert.equal([...(await setUp())].sort(), [...told].sort());
      await assertReady(world);
      assert.equal(await setUp(), []);
    });
  });
}

for (const engine of ENGINES) {
  test(`${engine}: existing data is copied from the primary, with progress; the backup is refused while it holds data`, async () => {
    await inWorld(
      { engine, disks: ['{ vdev: xvda, volumeGroup: vg0, logicalVolume: root }'] },
      async (world, setUp) => {
        const [one, other] = pairOf(world).hosts;
        const volume = { volumeGroup: 'vg0', name: 'root', sizeBytes: GIB };
        one.machine.addLv({ ...volume, content: EXT4 });
        const lost = other.machine.addLv({ ...volume, content: EXT4 });
        const error = await failure(setUp());
        assert.is(error.exitCode, ExitCode.refused);
        assert.match(error.message, /it holds data \(ext4\)/);
        lost.content = ZERO;
        pairOf(world).drbd.syncBytesPerLook = GIB / 8;
        const states: string[] = [];
        await setUp({}, { line: () => undefined, state: (text) => states.push(text) });
        assert.ok(
          states.some((text) => /first sync: \d+%/.test(text)),
          states.join('\n'),
        );
        await assertReady(world);
      },
    );
  });

  test(`${engine}: both hosts come back from a reboot by themselves`, async () => {
    await inWorld({ engine }, async (world, setUp) => {
      await setUp();
      for (const { machine } of pairOf(world).hosts) machine.reboot();
      await assertReady(world);
      assert.equal(await setUp(), []);
    });
  });

  test(`${engine}: teardown leaves nothing but the data; with the data named, nothing at all`, async () => {
    for (const deleteData of [new Set<string>(), new Set(['guest1'])]) {
      await inWorld({ engine }, async (world, setUp) => {
        const untouched = disks(world);
        await setUp();
        const { loaded, works } = await world.load();
        const dependencies = { ...world.dependencies(loaded), pause: soon };
        const options = { domains: new Set(['guest1']), deleteData, dryRun: false };
        await teardownPair(only(works), dependencies, options, silent);
        if (deleteData.size > 0) {
          assert.equal(disks(world), untouched);
          return;
        }
        assert.equal(await teardownPair(only(works), dependencies, options, silent), {
          pair: 'pair1',
          changes: [],
        });
        const again = await setUp();
        assert.not.ok(
          again.some((title) => /meta-data|zeroes|first sync/.test(title)),
          again.join('\n'),
        );
        await assertReady(world);
      });
    }
  });
}

test('a host that is off is reported as unreachable, and the other pair is set up all the same', async () => {
  await inWorld({ pairs: 2, limits: { ...TEST_LIMITS, retries: 1 } }, async (world) => {
    await pairOf(world).hosts[1].powerCut();
    const { loaded, works } = await world.load();
    const dependencies = { ...world.dependencies(loaded), pause: soon };
    const outcomes = await overPairs(
      works,
      (work, progress) => setupPair(work, dependencies, plain, progress),
      {
        live: false,
        write: () => undefined,
        nowMs: () => 0,
      },
    );
    assert.equal(
      outcomes.map(({ error }) => error?.exitCode),
      [ExitCode.unreachable, undefined],
    );
    assert.is(outcomesExitCode(outcomes), ExitCode.unreachable);
    assert.match(outcomes[0]?.error?.message ?? '', /embedded-1b/);
    assert.ok((outcomes[1]?.changes.length ?? 0) > 40);
  });
});

test('two controllers never change a pair at the same time', async () => {
  await inWorld({}, async (world, setUp) => {
    const outcomes = await Promise.allSettled([setUp(), setUp()]);
    const refused = outcomes.flatMap((one) => (one.status === 'rejected' ? [one.reason as Error] : []));
    assert.is(refused.length, 1);
    assert.match(refused[0]?.message ?? '', /another remus-drbd is changing this host/);
    await assertReady(world);
    assert.equal(await setUp(), []);
  });
});

test('what check finds wrong on a host is refused before anything is touched', async () => {
  await inWorld({}, async (world, setUp) => {
    const absent = { exitCode: 127, stdout: '', stderr: 'node: not found\n' };
    pairOf(world).hosts[1].machine.replace('node', () => absent);
    const before = disks(world);
    const error = await failure(setUp());
    assert.is(error.exitCode, ExitCode.refused);
    assert.match(error.message, /embedded-1b: .*node.*nothing was changed/is);
    assert.equal(disks(world), before);
  });
});

test('a step that has no effect is an error, not a loop', async () => {
  await inWorld({}, async (world, setUp) => {
    const { machine } = pairOf(world).hosts[0];
    machine.replace('modprobe', () => ({ exitCode: 0, stdout: '', stderr: '' }));
    const error = await failure(setUp());
    assert.match(
      error.message,
      /"load kernel modules" was done and reported no error, but it is still needed/,
    );
  });
});

test('a command that fails ends the pair with the reason first, then the command', async () => {
  await inWorld({}, async (world, setUp) => {
    const { machine } = pairOf(world).hosts[0];
    machine.replace('lvcreate', () => ({
      exitCode: 5,
      stdout: '',
      stderr: '  Volume group "vg0" has insufficient free space\n',
    }));
    const error = await failure(setUp());
    assert.match(
      error.message,
      /^embedded-1a: could not make LV vg0\/remus-guest1-0 \(1GiB\): Volume group "vg0" has insufficient free space\n {2}command: lvcreate .*\(exit code 5\)/,
    );
  });
});

test('link and arbiter over ssh: keys that stay on their hosts, made known where they are used; teardown takes them', async () => {
  const pairLines = ['link: ssh', 'arbiter: { ssh: arb@192.0.2.99, directory: /srv/claims }'];
  await inWorld({ pairLines }, async (world, setUp) => {
    try {
      await setUp();
      assert.unreachable();
    } catch (error) {
      assert.is((error as OperatorError).exitCode, ExitCode.refused);
      assert.match(
        (error as Error).message,
        /the host key of the arbiter 192\.0\.2\.99 port 22 is not known here/,
      );
    }
    const key = embeddedKey().public.split(' ').slice(0, 2).join(' ');
    await appendFile(join(world.folder, 'known_hosts'), `192.0.2.99 ${key}\n`);
    const before = disks(world);
    const told = await setUp({ dryRun: true });
    assert.equal(disks(world), before);
    const lines: string[] = [];
    const done = await setUp({}, { line: (text) => lines.push(text), state: () => undefined });
    assert.equal([...done].sort(), [...told].sort());
    const advice = lines.filter((line) => line.startsWith('to do: '));
    assert.is(advice.length, 2, lines.join('\n'));
    assert.match(
      advice[0] ?? '',
      /on 192\.0\.2\.99.*install -d -o arb \/srv\/claims.*: restrict ssh-ed25519 [\w+/=]+ remus-drbd:embedded-1a$/,
    );
    assert.equal(await setUp(), []);
    const [one, other] = pairOf(world).hosts;
    const known = one.machine.files.text('/etc/remus-drbd/ssh/known_hosts') ?? '';
    assert.match(
      known,
      new RegExp(`^192\\.0\\.2\\.99 ${key.replace(/\+/g, '\\+')}\n${other.machine.replication} `),
    );
    const allowed = other.machine.files.text('/root/.ssh/authorized_keys') ?? '';
    const own = one.machine.files.text('/etc/remus-drbd/ssh/id_ed25519.pub')?.trim() ?? 'none';
    assert.ok(allowed.endsWith(` ${own} remus-drbd:embedded-1a\n`), allowed);
    assert.is(other.machine.files.text('/etc/remus-drbd/ssh/id_ed25519')?.includes(own), false);

    const { loaded, works } = await world.load();
    const dependencies = { ...world.dependencies(loaded), pause: soon };
    const options = { domains: new Set(['guest1']), deleteData: new Set<string>(), dryRun: false };
    await teardownPair(only(works), dependencies, options, silent);
    for (const { machine } of [one, other]) {
      assert.equal(machine.files.below('/etc/remus-drbd'), []);
      assert.is(machine.files.text('/root/.ssh/authorized_keys'), '');
    }
  });
});

test('systemd reads a unit of the protection again after a run that died before it', async () => {
  await inWorld({}, async (world, setUp) => {
    await setUp();
    const { machine } = pairOf(world).hosts[1];
    machine.units.set('remus-receiver@guest1.service', {
      enabled: false,
      active: 'inactive',
      loaded: '# older',
    });
    assert.equal(await setUp(), ['embedded-1b let systemd read its units again']);
    assert.equal(await setUp(), []);
  });
});

test('teardown is refused while the guest is protected', async () => {
  await inWorld({}, async (world, setUp) => {
    await setUp();
    const { machine } = pairOf(world).hosts[0];
    const text = machine.files.text('/etc/systemd/system/remus-sender@.service') ?? '';
    machine.units.set('remus-sender@guest1.service', { enabled: false, active: 'active', loaded: text });
    assert.equal(await setUp(), []);
    const before = disks(world);
    const { loaded, works } = await world.load();
    const options = { domains: new Set(['guest1']), deleteData: new Set<string>(), dryRun: false };
    await teardownPair(only(works), { ...world.dependencies(loaded), pause: soon }, options, silent).then(
      () => assert.unreachable(),
      (error: unknown) => {
        assert.is((error as OperatorError).exitCode, ExitCode.refused);
        assert.match(
          (error as Error).message,
          /remus-sender@guest1\.service is active.*remus-drbd unprotect guest1/,
        );
      },
    );
    assert.equal(disks(world), before);
  });
});

test.run();
