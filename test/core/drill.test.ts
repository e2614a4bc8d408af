import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { drillGuestConfig, drillHindrance } from '../../src/core/drill/guest.js';
import { newDrillReport, parseDrillOrder, parseDrillReport } from '../../src/core/drill/records.js';
import { drillVolumes, parseSnapshotStatus, planSnapshots } from '../../src/core/drill/snapshots.js';
import type { LogicalVolume } from '../../src/core/facts.js';
import { drillGuest, drillLv } from '../../src/core/names.js';
import { ParseError } from '../../src/core/parse/text.js';
import { NAME } from '../../src/core/patterns.js';
import { describeGuest, parseXlConfig } from '../../src/core/xlconfig.js';
import { loadExample } from './examples.js';

const test = suite('drill');
const MIB = 2 ** 20;
const UUID = '0f0e0d0c-0b0a-4908-8706-050403020100';

const volume = (name: string, sizeBytes: number, tags: string[] = []): LogicalVolume => ({
  ...{ volumeGroup: 'vg0', name, sizeBytes, tags, active: true, open: true, segmentType: 'linear' },
});

const snapshot = (vdev: string, number: number) => ({
  ...{
    volume: number,
    vdev,
    volumeGroup: 'vg0',
    origin: `remus-web-${number}`,
    name: drillLv('web', number),
  },
  ...{ deviceBytes: 64 * MIB - 4096, sizeBytes: 64 * MIB },
});

test('the guest of a drill is the domain with other disks, no network, and a name that no domain can have', () => {
  const text = `# ours
name = "web"
uuid = "11111111-1111-4111-8111-111111111111"
type = "hvm"
memory = 96
vif = [ 'mac=00:16:3e:00:00:10,bridge=xenbr0' ]
on_crash = "restart"
disk = [
  'vdev=xvda,access=w,script=block-drbd,target=web/0',
  'vdev=xvdb,access=w,script=block-drbd,target=web/1',
  'vdev=hdc,devtype=cdrom,target=/srv/a.iso',
]
`;
  const snapshots = [snapshot('xvda', 0), snapshot('xvdb', 1)];
  const config = parseXlConfig(
    drillGuestConfig(text, 'web.cfg', 'web', snapshots, UUID, [2, 3]),
    'drill.cfg',
  );
  const guest = describeGuest(config);
  assert.is(guest.name, 'web+drill');
  assert.not(NAME.test(guest.name));
  assert.is(guest.memoryMiB, 96);
  assert.equal(guest.vifs, []);
  assert.equal(
    guest.disks.map(({ vdev, target }) => [vdev, target]),
    [
      ['xvda', '/dev/mapper/remus-web-0-drill'],
      ['xvdb', '/dev/mapper/remus-web-1-drill'],
      ['hdc', '/srv/a.iso'],
    ],
  );
  const last = (key: string): unknown => {
    const { value } = config.assignments.filter((each) => each.key === key).at(-1)!;
    return value.kind === 'atom' ? value.text : value.items;
  };
  assert.is(last('uuid'), UUID);
  assert.is(last('cpus'), '2,3');
  for (const event of ['poweroff', 'reboot', 'watchdog', 'crash']) assert.is(last(`on_${event}`), 'destroy');
});

test('a guest with devices of the host can not be there twice', () => {
  assert.is(drillHindrance("name='web'\nmemory=96\n", 'web.cfg'), undefined);
  assert.match(drillHindrance("name='web'\nmemory=96\npci=['01:00.0']\n", 'web.cfg') ?? '', /pci/);
});

test('the name of the guest of a drill', () => assert.is(drillGuest('web'), 'web+drill'));

test('what device-mapper says of a snapshot', () => {
  assert.is(parseSnapshotStatus('0 98304 snapshot 16/131072 16\n'), 0);
  assert.is(parseSnapshotStatus('0 98304 snapshot 65536/131072 256'), 50);
  for (const word of ['Invalid', 'Overflow', 'Merge failed', 'Unknown']) {
    assert.is(parseSnapshotStatus(`0 98304 snapshot ${word}`), word);
  }
  for (const text of [
    '',
    '0 98304 linear 254:0 0',
    '0 98304 snapshot',
    '0 98304 snapshot Fine',
    '0 1 snapshot 1/0 0',
  ]) {
    assert.throws(
      () => parseSnapshotStatus(text),
      (error: unknown) => error instanceof ParseError,
      text,
    );
  }
});

test('each snapshot has a tenth of its disk, at least 64 MiB, and no more than it can use', async () => {
  const { layouts } = await loadExample('minimal');
  const layout = layouts[0]!;
  const group = { name: 'vg0', sizeBytes: 2 ** 40, freeBytes: 2 ** 40, extentBytes: 4 * MIB };
  const bytes = (originBytes: number, wanted?: number): number =>
    planSnapshots(layout, 'beta', wanted, [group], [volume('remus-web-0', originBytes)]).snapshots[0]!
      .sizeBytes;
  assert.is(bytes(10_000 * MIB), 1000 * MIB);
  assert.is(bytes(200 * MIB), 64 * MIB);
  assert.is(bytes(20 * MIB), 32 * MIB);
  assert.is(bytes(10_000 * MIB, 5000 * MIB), 5000 * MIB);
  assert.is(bytes(200 * MIB, 5000 * MIB), 212 * MIB);
  const [planned] = planSnapshots(
    layout,
    'beta',
    undefined,
    [group],
    [volume('remus-web-0', 52 * MIB)],
  ).snapshots;
  // As large as the disk that the guest has under DRBD.
  assert.is(planned?.deviceBytes, 52 * MIB - 4096);
  const { problems } = planSnapshots(layout, 'beta', undefined, [group], []);
  assert.equal(problems, ['beta has no /dev/vg0/remus-web-0; run setup']);
});

test('a volume is taken for a drill’s by its tag and its name together', () => {
  const tag = 'remus-drbd.drill=web';
  const ours = volume('remus-web-0-drill', MIB, [tag]);
  const others = [
    volume('remus-web-0', MIB, [tag]),
    volume('remus-web-0-drill', MIB),
    volume('remus-web-0-drill', MIB, ['remus-drbd.drill=web2']),
    volume('data', MIB, [tag]),
  ];
  assert.equal(drillVolumes('web', [...others, ours]), [ours]);
});

test('records that are not whole are refused', () => {
  const report = newDrillReport('0'.repeat(32));
  assert.equal(parseDrillReport(JSON.stringify(report)), report);
  assert.throws(() => parseDrillReport(JSON.stringify({ ...report, phase: 'sleeping' })));
  assert.throws(() => parseDrillOrder('{}'));
});

test.run();
