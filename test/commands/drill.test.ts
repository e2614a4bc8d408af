/** `remus-drbd drill` on fake hosts, whose drill is a unit that goes one phase further with each look. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { drillDomain } from '../../src/commands/drill.js';
import type { DrillOptions, DrillResult } from '../../src/commands/drill.js';
import { protectDomain } from '../../src/commands/protect.js';
import { parseDrillOrder } from '../../src/core/drill/records.js';
import { ExitCode, OperatorError } from '../../src/core/errors.js';
import type { DomainLayout } from '../../src/core/model.js';
import { fakeDependencies, fakeLayout, FakePair } from './fake-pair.js';
import type { FakeHost } from './fake-pair.js';

const test = suite('drill');
const GO: DrillOptions = { check: 'test -s "$REMUS_DRILL_CONSOLE"', timeoutMs: null, dryRun: false };
const GIB = 2 ** 30;
let layout: DomainLayout;

test.before(async () => {
  layout = await fakeLayout();
});

const lv = (name: string, sizeBytes: number, tags = ''): object => ({
  ...{ vg_name: 'vg0', lv_name: name, lv_size: String(sizeBytes), lv_tags: tags, lv_active: 'active' },
  ...{ lv_device_open: 'open', lv_kernel_major: '254', lv_kernel_minor: '0', segtype: 'linear' },
});
const group = (freeBytes: number): object => ({
  ...{ vg_name: 'vg0', vg_size: String(64 * GIB), vg_free: String(freeBytes), vg_extent_size: '4194304' },
});

/** As setup leaves them. */
function furnish(host: FakeHost): void {
  host.volumeGroups = [group(10 * GIB)];
  host.volumes = [lv('remus-web-0', 20 * GIB + 4 * 2 ** 20, 'remus-drbd')];
  host.files.set('/etc/systemd/system/remus-drill@.service', '[Unit]\n');
  host.files.set(
    '/etc/remus-drbd/domains/web.cfg',
    "name = 'web'\nmemory = 96\ndisk = [ 'vdev=xvda,access=w,script=block-drbd,target=web/0' ]\n",
  );
}

async function protectedPair(): Promise<FakePair> {
  const pair = FakePair.start();
  pair.hosts.forEach(furnish);
  const options = { intervalMs: null, network: true, disk: true, dryRun: false };
  await protectDomain(layout, pair.hosts, options, fakeDependencies());
  return pair;
}

function unprotectedPair(): FakePair {
  const pair = FakePair.start();
  pair.hosts.forEach(furnish);
  return pair;
}

function go(pair: FakePair, options: Partial<DrillOptions> = {}, of = layout): Promise<DrillResult> {
  return drillDomain(of, pair.hosts, { ...GO, ...options }, fakeDependencies());
}

async function refusal(pair: FakePair, of = layout): Promise<string> {
  const before = pair.hosts.map(({ ran }) => ran.length);
  try {
    await go(pair, {}, of);
  } catch (error) {
    if (!(error instanceof OperatorError)) throw error;
    assert.is(error.exitCode, ExitCode.refused);
    assert.equal(
      pair.hosts.map(({ ran }) => ran.length),
      before,
      'nothing was done',
    );
    return error.message;
  }
  throw new Error('it was not refused');
}

function orderOf(host: FakeHost): ReturnType<typeof parseDrillOrder> {
  return parseDrillOrder(host.files.get('/run/remus-drbd/web/drill-order.json') ?? '');
}

test('on the backup of a protected guest, from the commit that the receiver holds', async () => {
  const pair = await protectedPair();
  const beta = pair.host('beta');
  beta.ran.length = 0;
  beta.drillEnd = {
    ...beta.drillEnd,
    ...{ term: 1, epoch: 42, usedPercent: { xvda: 1.5 } },
    timingsMs: { hold: 300, snapshots: 1_200, start: 4_000, check: 12_000, removal: 1_500 },
  };
  const told: string[] = [];
  const { text, exitCode, drill } = await drillDomain(layout, pair.hosts, GO, fakeDependencies(told));
  assert.is(exitCode, ExitCode.ok);
  assert.is(
    text,
    `web: the drill on beta passed: the check ended with 0
  the disks were those of commit 42 of term 1
  hold 0.3 s, snapshots 1.2 s, start 4.0 s, check 12.0 s, removal 1.5 s; 19.0 s in all
  of the snapshots' room was used: xvda 1.5 %`,
  );
  assert.is(drill?.host, 'beta');
  assert.equal(told.slice(0, 2), ['web: removing leftovers', 'web: snapshots']);
  const { source, check, snapshots, mappers } = orderOf(beta);
  assert.equal([source, check, mappers], ['protected', ['sh', '-c', GO.check], []]);
  assert.equal(
    snapshots.map(({ origin, name, sizeBytes }) => [origin, name, sizeBytes]),
    // A tenth of the volume, in whole extents.
    [['remus-web-0', 'remus-web-0-drill', 513 * 4 * 2 ** 20]],
  );
  assert.equal(
    beta.ran.map((line) => line.replace(/^sh -c trap.*systemctl stop --no-block "\$1" sh/, 'LEASH')),
    [
      'systemctl stop remus-drill@web.service',
      'systemctl reset-failed remus-drill@web.service',
      'LEASH remus-drill@web.service',
      'systemctl start remus-drill@web.service',
    ],
  );
  assert.equal(pair.violations, []);
  assert.ok(pair.isProtected);
});

test('without protection, from disks that are suspended meanwhile', async () => {
  const pair = unprotectedPair();
  const { text } = await go(pair);
  assert.match(text, /^web: the drill on beta passed/);
  const { source, mappers } = orderOf(pair.host('beta'));
  assert.equal([source, mappers], ['replicated', ['remus-web-0', 'remus-web-barrier']]);
});

test('a check that fails is told with what it said, and exit code 1', async () => {
  const pair = await protectedPair();
  pair.host('beta').drillEnd = {
    result: { outcome: 'failed', reason: 'the check ended with 3' },
    check: { exitCode: 3, output: 'no database\n' },
  };
  const { text, exitCode } = await go(pair);
  assert.is(exitCode, ExitCode.failed);
  assert.match(text, /failed: the check ended with 3\n.*the check said:\n    no database$/s);
});

test('what could not be done has exit code 3, what is left is named', async () => {
  const pair = await protectedPair();
  pair.host('beta').drillEnd = {
    result: { outcome: 'refused', reason: 'the term ends: disconnect' },
    left: ['snapshot vg0/remus-web-0-drill: in use'],
  };
  const { text, exitCode } = await go(pair);
  assert.is(exitCode, ExitCode.refused);
  assert.match(text, /could not be done: the term ends/);
  assert.match(
    text,
    /left on beta: snapshot vg0\/remus-web-0-drill: in use; the next drill removes it first/,
  );
});

test('a dry run tells, and does nothing', async () => {
  const pair = await protectedPair();
  pair.host('beta').ran.length = 0;
  const { text, drill } = await go(pair, { dryRun: true });
  assert.is(drill, undefined);
  assert.match(text, /would, on beta:\n.*holds them at a commit \(room: xvda 2052MiB\)/);
  assert.match(text, /start web\+drill from them, without network/);
  assert.equal(pair.host('beta').ran, []);
});

test('the configured check and its limit are taken where the command line has none', async () => {
  const pair = await protectedPair();
  const drill = { check: ['/usr/local/bin/check', '--quick'], timeoutMs: 9_000, snapshotBytes: GIB };
  const configured = { ...layout, domain: { ...layout.domain, drill } };
  await go(pair, { check: null }, configured);
  const { check, timeoutMs, snapshots } = orderOf(pair.host('beta'));
  assert.equal([check, timeoutMs, snapshots[0]?.sizeBytes], [drill.check, 9_000, GIB]);
});

for (const [what, change, says] of [
  ['no room', (host) => void (host.volumeGroups = [group(GIB)]), /1GiB free in vg0 and 2052MiB are required/],
  ['no memory', (host) => void (host.freeMiB = 200), /104 MiB of memory free and 112 MiB are required/],
  [
    'a volume of that name that no drill has made',
    (host) => host.volumes.push(lv('remus-web-0-drill', GIB)),
    /remus-web-0-drill on beta was not made by a drill of web/,
  ],
  [
    'no unit',
    (host) => host.files.delete('/etc/systemd/system/remus-drill@.service'),
    /has no unit .*run setup/,
  ],
  [
    'a device of the host',
    (host) =>
      host.pair.hosts.forEach(({ files }) =>
        files.set('/etc/remus-drbd/domains/web.cfg', "name='web'\nmemory=96\npci=['01:00.0']\n"),
      ),
    /its configuration has pci/,
  ],
  [
    'a failover',
    (host) => host.setReceiverPhase('failing-over'),
    /the receiver on beta is failing-over; see remus-drbd status/,
  ],
  ['protection that starts', (host) => host.setReceiverPhase('live'), /is starting; wait/],
  ['a switchover', (host) => host.setUnit('switchover-target', 'active'), /switchover is under way on beta/],
] as [string, (host: FakeHost) => unknown, RegExp][]) {
  test(`refused with the reason: ${what}`, async () => {
    const pair = await protectedPair();
    change(pair.host('beta'));
    assert.match(await refusal(pair), says);
  });
}

test('refused with the reason: a backup that is behind, and one that is not connected', async () => {
  const pair = unprotectedPair();
  pair.connection = 'StandAlone';
  assert.match(await refusal(pair), /DRBD's web is StandAlone, Connected is required/);
});

test('refused with the reason: the engine protocol-d', async () => {
  const pair = unprotectedPair();
  const of = { ...layout, domain: { ...layout.domain, engine: 'protocol-d' as const } };
  assert.match(await refusal(pair, of), /for the engine journal/);
});

test('the room and the memory of what an earlier drill has left count as free', async () => {
  const pair = await protectedPair();
  const beta = pair.host('beta');
  beta.volumeGroups = [group(GIB)];
  beta.volumes.push(lv('remus-web-0-drill', 2 * GIB, 'remus-drbd.drill=web'));
  beta.freeMiB = 96 + 112;
  beta.guests.set('web+drill', { state: '-b----', memoryMiB: 96 });
  const { exitCode } = await go(pair);
  assert.is(exitCode, ExitCode.ok);
});

test.run();
