/**
 * `status` and `protect` on embedded hosts whose `/proc/drbd` is a fake of the 8.3 module's: the module is read in the
 * place of DRBD's events, which it doesn't have.
 */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { protectDomain } from '../../src/commands/protect.js';
import { readStatus } from '../../src/commands/status.js';
import { OperatorError } from '../../src/core/errors.js';
import { domainFilePath, runPath } from '../../src/core/names.js';
import type { EmbeddedMachine } from '../../src/embedded/machine.js';
import { failed, printed } from '../../src/embedded/results.js';
import { EmbeddedWorld } from '../../src/embedded/world.js';
import { read } from '../core/protocol-d/sides.js';
import { TEST_LIMITS } from '../edge/support.js';

const test = suite('protocol D on embedded hosts');
const GUEST = 'guest1';

/** The hosts with these texts as their `/proc/drbd`, and the guest on the first. */
async function inWorld(
  primary: string,
  backup: string,
  use: (world: EmbeddedWorld, machines: readonly EmbeddedMachine[]) => Promise<void>,
): Promise<void> {
  const world = await EmbeddedWorld.start({ limits: TEST_LIMITS });
  try {
    const machines = (world.pairs[0]?.hosts ?? []).map(({ machine }) => machine);
    machines[0]?.guests.push({ name: GUEST, memoryMiB: 96 });
    for (const [index, machine] of machines.entries()) {
      const file = { domain: GUEST, engine: 'protocol-d', volumes: [{ volume: 0, minor: 1 }] };
      machine.files.write(domainFilePath(GUEST), Buffer.from(JSON.stringify(file)), 0o600);
      const procDrbd = read(index === 0 ? primary : backup);
      machine.replace('drbdsetup', () => failed(20, 'embedded: DRBD 8.3 has no events2\n'));
      machine.replace('cat', (_machine, [path = '']) => {
        const text = path === '/proc/drbd' ? procDrbd : machine.files.text(path);
        return text === undefined ? failed(1, `cat: ${path}: No such file or directory\n`) : printed(text);
      });
    }
    await use(world, machines);
    assert.equal(world.unknown, [], 'commands that no embedded tool knows');
  } finally {
    await world.close();
  }
}

async function dryRun(world: EmbeddedWorld): Promise<string> {
  const { loaded } = await world.load();
  const [layout] = loaded.layouts;
  if (layout === undefined) throw new Error('no domain');
  const { connect } = world.dependencies(loaded);
  const [one, other] = [await connect(layout.hosts[0]), await connect(layout.hosts[1])];
  try {
    const withModule = { ...layout, domain: { ...layout.domain, engine: 'protocol-d' as const } };
    const deps = { nowMs: () => 0, pause: () => Promise.resolve(), tell: () => undefined };
    const options = { intervalMs: null, network: true, disk: true, dryRun: true };
    return await protectDomain(withModule, [one, other], options, deps);
  } finally {
    await Promise.all([one.close(), other.close()]);
  }
}

test('protected: both sides primary, and both processes say so', async () => {
  await inWorld('primary-protected.txt', 'backup-deferring.txt', async (world, machines) => {
    const head = {
      format: 1,
      pid: 1,
      pair: 'pair1',
      domain: GUEST,
      term: 3,
      session: 'ab',
      committedEpoch: 9,
    };
    const put = (machine: EmbeddedMachine | undefined, role: 'sender' | 'receiver', report: object): void => {
      const text = JSON.stringify({ ...head, role, updatedMs: machine?.nowMs(), ...report });
      machine?.files.write(runPath(GUEST, `${role}.json`), Buffer.from(text), 0o644);
    };
    const reason = 'epoch 9 is committed';
    const figures = { sentBytes: 1, figures: null, droppedPackets: 0 };
    put(machines[0], 'sender', {
      phase: 'running',
      protection: 'protected',
      reason,
      intervalMs: 100,
      ...figures,
    });
    const journal = { receivedBytes: 1, journalUsedBytes: 0, journalTotalBytes: 0 };
    put(machines[1], 'receiver', { phase: 'on', reason, ...journal });
    const { loaded } = await world.load();
    const { domains, exitCode } = await readStatus(loaded.layouts, world.dependencies(loaded).connect);
    assert.is(exitCode, 0);
    const [domain] = domains;
    assert.equal([domain?.protection, domain?.reason], ['protected', reason]);
    const resource = domain?.resource;
    assert.equal(
      [
        ...[resource?.role, resource?.peerRole, resource?.connectionState],
        ...[resource?.diskState, resource?.peerDiskState],
      ],
      ['Primary', 'Primary', 'Connected', 'UpToDate', 'UpToDate'],
    );
  });
});

test('protection starts with protocol D, and says what is in its way', async () => {
  await inWorld('primary-before.txt', 'backup-before.txt', async (world) => {
    assert.match(await dryRun(world), /^guest1: would start term 1 from embedded-1a to embedded-1b/);
  });
  await inWorld('backup-after-loss.txt', 'backup-after-loss.txt', async (world) => {
    try {
      await dryRun(world);
      assert.unreachable();
    } catch (error) {
      assert.instance(error, OperatorError);
      assert.match((error as Error).message, /DRBD's guest1 is Connecting, Connected is required/);
    }
  });
});

test.run();
