/**
 * `protect --no-network` and `--no-disk` on embedded hosts: what `protect` and `status` say of them. The units are
 * stand-ins that report what the real sender says in that case, and nothing runs behind them.
 */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { protectDomain } from '../../src/commands/protect.js';
import { setupPair } from '../../src/commands/setup.js';
import { readStatus, statusTable } from '../../src/commands/status.js';
import { receiverUnit, runPath, senderUnit } from '../../src/core/names.js';
import { parseOrder } from '../../src/core/protect/order.js';
import { reportHead } from '../../src/core/protect/report.js';
import { newSender, senderProtection, senderStep } from '../../src/core/protect/sender.js';
import type { SenderInput } from '../../src/core/protect/sender.js';
import type { Host } from '../../src/edge/host.js';
import type { EmbeddedMachine } from '../../src/embedded/machine.js';
import { failed, printed } from '../../src/embedded/results.js';
import type { EmbeddedResult } from '../../src/embedded/sshd.js';
import { EmbeddedWorld } from '../../src/embedded/world.js';
import { TEST_LIMITS } from '../edge/support.js';

const test = suite('protection in part, on embedded hosts');
const GUEST = 'guest1';

/** What the sender says after its first commit, by the order that `protect` wrote. */
function senderReport(machine: EmbeddedMachine): string {
  const order = parseOrder(machine.files.text(runPath(GUEST, 'order.json')) ?? '');
  const { pair, domain, term, session, intervalMs, network, disk } = order;
  const identity = { pair, domain, term, session };
  const limits = { inFlightMax: 4, holdLimitMs: 1, agreeLimitMs: 1, diskLimitMs: 1, failAfterMs: 1_000 };
  let state = newSender({ identity, intervalMs, network, disk, onCrash: 'stop', ...limits });
  const inputs: SenderInput[] = [
    { type: 'welcomed', nowMs: 0 },
    { type: 'checkpoint', nowMs: 0 },
    { type: 'epoch-begins', nowMs: 0 },
    { type: 'network-marked', epoch: 1, nowMs: 0 },
    { type: 'marker-written', epoch: 1, nowMs: 0 },
    { type: 'checkpoint', nowMs: 0 },
    { type: 'committed', identity, epoch: 1, nowMs: 0 },
  ];
  for (const input of inputs) state = senderStep(state, input).state;
  return JSON.stringify({
    ...reportHead(order, 1, machine.nowMs()),
    role: 'sender',
    phase: state.phase,
    ...senderProtection(state, 0, 3_000),
    committedEpoch: state.lastCommitted,
    intervalMs,
    sentBytes: 1,
    figures: null,
    droppedPackets: 0,
    covers: { network, disk },
  });
}

function receiverReport(machine: EmbeddedMachine, phase: 'waiting' | 'on'): string {
  const order = parseOrder(machine.files.text(runPath(GUEST, 'order.json')) ?? '');
  return JSON.stringify({
    ...reportHead(order, 1, machine.nowMs()),
    role: 'receiver',
    phase,
    reason: 'a stand-in',
    committedEpoch: 1,
    receivedBytes: 1,
    journalUsedBytes: 0,
    journalTotalBytes: 0,
  });
}

/** Units whose start and stop show, and whose processes are stand-ins. */
function standInUnits(machines: readonly EmbeddedMachine[]): void {
  for (const machine of machines) {
    const active = new Set<string>();
    machine.replace('systemctl', (_machine, args): EmbeddedResult => {
      const [command, ...rest] = args;
      const unit = rest.at(-1) ?? '';
      if (command === 'show')
        return printed(`ActiveState=${active.has(unit) ? 'active' : 'inactive'}\nResult=success\n`);
      if (command === 'reset-failed') return printed('');
      if (command === 'stop') {
        active.delete(unit);
        // The receiver ends with the term.
        if (unit === senderUnit(GUEST)) {
          for (const other of machines) void other.run(['systemctl', 'stop', receiverUnit(GUEST)]);
        }
        return printed('');
      }
      if (command !== 'start') return failed(1, `embedded systemctl ${args.join(' ')}`);
      active.add(unit);
      if (unit === receiverUnit(GUEST)) put(machine, 'receiver.json', receiverReport(machine, 'waiting'));
      if (unit === senderUnit(GUEST)) {
        put(machine, 'sender.json', senderReport(machine));
        for (const other of machines)
          if (other !== machine) put(other, 'receiver.json', receiverReport(other, 'on'));
      }
      return printed('');
    });
  }
}

function put(machine: EmbeddedMachine, file: string, text: string): void {
  machine.files.write(runPath(GUEST, file), Buffer.from(text), 0o644);
}

type Part = { network: boolean; disk: boolean };

async function inWorld(
  use: (
    protect: (part: Part) => Promise<string>,
    status: () => Promise<{ line: string; exitCode: number }>,
  ) => Promise<void>,
): Promise<void> {
  const world = await EmbeddedWorld.start({ limits: TEST_LIMITS });
  const hosts: Host[] = [];
  try {
    const { loaded, works } = await world.load();
    const [work] = works;
    const [layout] = loaded.layouts;
    if (work === undefined || layout === undefined) throw new Error('no pair');
    const pause = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
    const dependencies = { ...world.dependencies(loaded), pause };
    const progress = { line: () => undefined, state: () => undefined };
    await setupPair(work, dependencies, { overwrite: new Set(), dryRun: false, wait: true }, progress);
    for (const host of layout.hosts) hosts.push(await dependencies.connect(host));
    const machines = (world.pairs[0]?.hosts ?? []).map(({ machine }) => machine);
    machines[0]?.guests.push({ name: GUEST, memoryMiB: 96 });
    await machines[0]?.run(['drbdadm', 'primary', GUEST]);
    standInUnits(machines);
    const [one, other] = hosts;
    if (one === undefined || other === undefined) throw new Error('a pair has two hosts');
    const deps = { nowMs: () => 0, pause, tell: () => undefined };
    await use(
      (part) => protectDomain(layout, [one, other], { intervalMs: null, ...part, dryRun: false }, deps),
      async () => {
        const { domains, exitCode } = await readStatus(loaded.layouts, dependencies.connect);
        return { line: statusTable(domains, false).split('\n').at(-1) ?? '', exitCode };
      },
    );
    assert.equal(world.unknown, [], 'commands that no embedded tool knows');
  } finally {
    await Promise.all(hosts.map((host) => host.close()));
    await world.close();
  }
}

const parts: [string, Part, string][] = [
  ['--no-network', { network: false, disk: true }, 'its output is not held (--no-network)'],
  ['--no-disk', { network: true, disk: false }, 'its disks are not (--no-disk)'],
  [
    '--no-network --no-disk',
    { network: false, disk: false },
    'its disks are not (--no-disk), its output is not held (--no-network)',
  ],
];

for (const [flags, part, missing] of parts) {
  test(`protect ${flags}: protect and status say what is not protected, and the exit code too`, async () => {
    await inWorld(async (protect, status) => {
      const reason = `only memory is checkpointed: ${missing}`;
      assert.is(await protect(part), `${GUEST} is unprotected: term 1, ${reason}`);
      assert.equal(await status(), { line: `${GUEST} is unprotected: ${reason}`, exitCode: 1 });
    });
  });
}

test('the whole protection after a part of it starts anew, and only then is it called protected', async () => {
  await inWorld(async (protect, status) => {
    await protect({ network: false, disk: true });
    assert.is(
      await protect({ network: true, disk: true }),
      `${GUEST} is protected: term 2, epoch 1 is committed`,
    );
    assert.equal(await status(), { line: `${GUEST} is protected: epoch 1 is committed`, exitCode: 0 });
  });
});

test.run();
