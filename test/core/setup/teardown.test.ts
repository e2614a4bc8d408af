/** The plan of teardown: the mirror image of setup's, and data stays unless it is named. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ExitCode, OperatorError } from '../../../src/core/errors.js';
import { protectionUnits } from '../../../src/core/facts.js';
import { planSetup, type Desired } from '../../../src/core/setup/plan.js';
import { planTeardown } from '../../../src/core/setup/teardown.js';
import type { Views } from '../../../src/core/setup/view.js';
import { commands, desiredFrom, freshViews, protect, simulate, titles } from './views.js';

const test = suite('plan of teardown');

function setUp(desired: Desired): Views {
  const views = freshViews();
  assert.ok(simulate(views, (now) => planSetup(desired, now, { overwrite: new Set() })).ended);
  return views;
}

const options = (deleteData: string[] = [], domains = ['web']) => ({
  domains: new Set(domains),
  deleteData: new Set(deleteData),
});

test('takes away what setup made, in the other order, and keeps the data', () => {
  const desired = desiredFrom();
  const views = setUp(desired);
  const { steps, ended } = simulate(views, (now) => planTeardown(desired, now, options()));
  assert.ok(ended);
  assert.equal(titles(steps, 'alpha'), [
    'stop and disable remus-drbd@web.service',
    'remove the files of web',
    'remove LV vg0/remus-web-journal',
    'remove the files that all domains share',
    "put the distribution's /etc/xen/scripts/block-drbd back",
    "put the distribution's /etc/drbd.d/global_common.conf back",
    'remove the folders that are empty now',
    'let systemd forget the units',
  ]);
  const { logicalVolumes, diversions, dm, drbdRunning } = views['alpha']!.facts;
  assert.equal(logicalVolumes.known && logicalVolumes.value.map((volume) => volume.name), [
    'remus-web-0',
    'remus-web-0-md',
    'remus-web-barrier',
    'remus-web-barrier-md',
  ]);
  assert.equal(
    [diversions, dm, drbdRunning].map((fact) => fact.known && fact.value.length),
    [0, 0, 0],
  );
  assert.equal(views['alpha']!.files, {});
});

test('what is done is not done again, and the distribution has its files back', () => {
  const desired = desiredFrom();
  const views = setUp(desired);
  simulate(views, (now) => planTeardown(desired, now, options()));
  for (const path of ['/etc/xen/scripts/block-drbd', '/etc/drbd.d/global_common.conf']) {
    views['alpha']!.files[path] = { sha256: "the distribution's", mode: 0o755 };
  }
  assert.equal(planTeardown(desired, views, options()), { lanes: [], waits: [] });
});

test('cut after any step, the next run finishes', () => {
  const desired = desiredFrom();
  const whole = simulate(setUp(desired), (now) => planTeardown(desired, now, options())).steps.length;
  for (let cut = 0; cut < whole; cut++) {
    const views = setUp(desired);
    simulate(views, (now) => planTeardown(desired, now, options()), cut);
    assert.ok(simulate(views, (now) => planTeardown(desired, now, options())).ended, `cut after ${cut}`);
    assert.equal(views['beta']!.files, {});
  }
});

test('deletes the data of a domain that is named, but never a volume that the user brought', () => {
  const desired = desiredFrom();
  const removed = commands(
    simulate(setUp(desired), (now) => planTeardown(desired, now, options(['web']))).steps,
  ).filter((command) => command.startsWith('lvremove'));
  assert.is(removed.length, 10);

  const existing = desiredFrom('- { vdev: xvda, volumeGroup: vg0, logicalVolume: web-root }');
  const views = freshViews();
  for (const host of ['alpha', 'beta']) {
    const { facts } = views[host]!;
    if (facts.logicalVolumes.known) {
      facts.logicalVolumes.value.push({
        volumeGroup: 'vg0',
        name: 'web-root',
        sizeBytes: 2 ** 30,
        tags: [],
        active: true,
        open: false,
        segmentType: 'linear',
      });
    }
    facts.devices['/dev/vg0/web-root'] = { state: 'read', sizeBytes: 2 ** 30, signatures: [] };
  }
  simulate(views, (now) => planSetup(existing, now, { overwrite: new Set() }));
  const rest = commands(simulate(views, (now) => planTeardown(existing, now, options(['web']))).steps);
  assert.ok(rest.includes('lvremove --yes vg0/remus-web-0-md'));
  assert.not.ok(rest.some((command) => command.includes('web-root')));
});

test('refused while a guest or anything else uses the resource, with nothing planned', () => {
  const desired = desiredFrom();
  for (const [break_, words] of [
    [
      (views: Views): void => {
        const { guests } = views['beta']!.facts;
        if (guests.known)
          guests.value.push({ name: 'web', id: 3, memoryBytes: 0, vcpus: 1, state: '-b----' });
      },
      /web on beta: refusing to tear down: the guest runs there; nothing was changed/,
    ],
    [
      (views: Views): void => {
        const { drbdRunning } = views['alpha']!.facts;
        if (drbdRunning.known) drbdRunning.value[0]!.role = 'Primary';
      },
      /web on alpha: refusing to tear down: DRBD is Primary there/,
    ],
  ] as const) {
    const views = setUp(desired);
    break_(views);
    try {
      planTeardown(desired, views, options());
      assert.unreachable();
    } catch (error) {
      assert.instance(error, OperatorError);
      assert.is((error as OperatorError).exitCode, ExitCode.refused);
      assert.match((error as OperatorError).message, words);
    }
  }
});

test('setup after it takes the kept data up again without a new sync', () => {
  const desired = desiredFrom();
  const views = setUp(desired);
  simulate(views, (now) => planTeardown(desired, now, options()));
  const { steps, ended } = simulate(views, (now) => planSetup(desired, now, { overwrite: new Set() }));
  assert.ok(ended);
  assert.equal(
    commands(steps).filter((command) =>
      /create-md|blkdiscard|remus-web-0 |--force (?!--zeroout)/.test(command),
    ),
    [],
  );
});

function refusedFor(act: () => unknown, ...words: RegExp[]): void {
  try {
    act();
  } catch (error) {
    assert.instance(error, OperatorError);
    assert.is((error as OperatorError).exitCode, ExitCode.refused);
    for (const word of words) assert.match((error as OperatorError).message, word);
    return;
  }
  assert.unreachable('it was not refused');
}

test('refused while a domain is protected, while its journal may hold data, and while its term is open', () => {
  const desired = desiredFrom();
  const views = setUp(desired);
  protect(views);
  const plan = (): unknown => planTeardown(desired, views, options());
  const unitsOf = (host: string) => {
    const { units } = views[host]!.facts;
    return units.known ? units.value : {};
  };
  refusedFor(plan, /web on alpha: .*\(remus-sender@web\.service is active\)/, /unprotect web/);
  unitsOf('alpha')['remus-sender@web.service']!.activeState = 'deactivating';
  refusedFor(plan, /remus-sender@web\.service is deactivating/);
  unitsOf('alpha')['remus-sender@web.service']!.activeState = 'inactive';
  refusedFor(plan, /term 3 has not ended there/, /remus-drbd recover web/);
  views['alpha']!.terms['web'] = 'unreadable';
  refusedFor(plan, /term\.json can't be read/);
  delete views['alpha']!.terms['web'];
  refusedFor(plan, /web on beta: .*remus-receiver@web\.service is active/);
  unitsOf('beta')['remus-receiver@web.service']!.activeState = 'failed';
  refusedFor(plan, /web on beta: .*journal-active is there/, /systemctl restart remus-drbd@web\.service/);
});

test('what a protection has left goes, but the number of its last term stays, even when the data is deleted', () => {
  const desired = desiredFrom();
  const views = setUp(desired);
  protect(views);
  for (const host of ['alpha', 'beta']) {
    const { units, guests, drbdRunning } = views[host]!.facts;
    if (units.known) for (const unit of protectionUnits('web')) delete units.value[unit];
    if (guests.known) guests.value.length = 0;
    if (drbdRunning.known) for (const resource of drbdRunning.value) resource.role = 'Secondary';
    const state = views[host]!.folders['/var/lib/remus-drbd']!;
    views[host]!.folders['/var/lib/remus-drbd'] = state.filter((path) => !path.endsWith('journal-active'));
    const term = views[host]!.terms['web'];
    if (typeof term === 'object') views[host]!.terms['web'] = { ...term, phase: 'ended', outcome: 'agreed' };
  }
  const { steps, ended } = simulate(views, (now) => planTeardown(desired, now, options(['web'])));
  assert.ok(ended);
  assert.ok(
    commands(steps).includes('rm -f -- /var/lib/remus-drbd/web/gate /run/remus-drbd/web/order.json'),
    commands(steps).join('\n'),
  );
  for (const host of ['alpha', 'beta']) {
    assert.equal(views[host]!.folders, { '/var/lib/remus-drbd': ['/var/lib/remus-drbd/web/term.json'] });
  }
});

test('what a drill has left goes first; one that runs is waited for', () => {
  const desired = desiredFrom();
  const views = setUp(desired);
  const { facts } = views['beta']!;
  const [units, guests, dm, volumes] = [facts.units, facts.guests, facts.dm, facts.logicalVolumes];
  if (!units.known || !guests.known || !dm.known || !volumes.known) throw new Error('the views are whole');
  const unit = { loadState: 'loaded', activeState: 'deactivating', fileState: 'static' };
  units.value['remus-drill@web.service'] = unit;
  refusedFor(
    () => planTeardown(desired, views, options()),
    /web on beta: .*a drill runs there/,
    /systemctl stop remus-drill@web\.service/,
  );
  unit.activeState = 'failed';
  guests.value.push({ name: 'web+drill', id: 9, memoryBytes: 0, vcpus: 1, state: '-b----' });
  const name = 'remus-web-0-drill';
  dm.value.push({ name, device: '254:9', openCount: 1, suspended: false, segments: [] });
  const lv = { volumeGroup: 'vg0', sizeBytes: 1, active: true, open: true, segmentType: 'linear' };
  volumes.value.push({ ...lv, name, tags: ['remus-drbd.drill=web'] });
  const { steps, ended } = simulate(views, (now) => planTeardown(desired, now, options(['web'])));
  assert.ok(ended);
  assert.equal(titles(steps, 'beta').slice(0, 4), [
    'remove guest web+drill',
    `remove device ${name}`,
    `remove snapshot vg0/${name}`,
    'stop and disable remus-drbd@web.service',
  ]);
});

test('keys for SSH go with the last domain, and lines of others in authorized_keys stay', () => {
  const plain = desiredFrom();
  const desired: Desired = { ...plain, pair: { ...plain.pair, link: 'ssh' } };
  const views = freshViews();
  views['beta']!.ssh.authorizedKeys = '# by hand\nssh-rsa AAAA admin\n';
  assert.ok(simulate(views, (now) => planSetup(desired, now, { overwrite: new Set() })).ended);
  assert.match(views['beta']!.ssh.authorizedKeys, /remus-drbd:alpha/);
  assert.ok(simulate(views, (now) => planTeardown(desired, now, options())).ended);
  assert.is(views['beta']!.ssh.authorizedKeys, '# by hand\nssh-rsa AAAA admin\n');
  assert.equal(Object.keys(views['beta']!.files), ['/root/.ssh/authorized_keys']);
});

test.run();
