/** The plan of setup: its order, that it can be cut anywhere, and that it never loses data. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ExitCode, OperatorError } from '../../../src/core/errors.js';
import { planSetup, type Desired } from '../../../src/core/setup/plan.js';
import { Paths } from '../../../src/core/names.js';
import { textFile } from '../../../src/core/setup/files.js';
import { SSH_KEY } from '../../../src/core/setup/ssh.js';
import type { Round } from '../../../src/core/setup/step.js';
import type { HostView, Views } from '../../../src/core/setup/view.js';
import { commands, desiredFrom, freshViews, GIB, protect, simulate, titles } from './views.js';

const test = suite('plan of setup');
const nothing = { overwrite: new Set<string>() };

function planner(desired: Desired, overwrite: string[] = []): (views: Views) => Round {
  return (views) => planSetup(desired, views, { overwrite: new Set(overwrite) });
}

/** A pair on which setup has come to its end. */
function doneViews(desired: Desired): Views {
  const views = freshViews();
  assert.ok(simulate(views, planner(desired)).ended);
  return views;
}

function lvs(
  view: HostView,
): { name: string; tags: string[]; sizeBytes: number; open: boolean; active: boolean }[] {
  assert.ok(view.facts.logicalVolumes.known);
  return view.facts.logicalVolumes.known ? view.facts.logicalVolumes.value : [];
}

function resource(views: Views, host: string) {
  const { drbdRunning } = views[host]!.facts;
  const found = drbdRunning.known ? drbdRunning.value.find((one) => one.name === 'web') : undefined;
  if (found === undefined) throw new Error(`web is not up on ${host}`);
  return found;
}

function refused(act: () => unknown, ...words: (string | RegExp)[]): void {
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

test('from nothing: each thing before what needs it, and no first sync of new volumes', () => {
  const views = freshViews();
  const { steps, ended } = simulate(views, planner(desiredFrom()));
  assert.ok(ended);
  assert.equal(titles(steps, 'alpha'), [
    'make /etc/remus-drbd/tls',
    "keep the distribution's /etc/xen/scripts/block-drbd aside",
    "keep the distribution's /etc/drbd.d/global_common.conf aside",
    'write /etc/drbd.d/global_common.conf',
    'write /etc/drbd.d/remus-web.res',
    'write /etc/systemd/system/remus-drbd@.service',
    'write /etc/xen/scripts/block-drbd',
    'let systemd read its units again',
    'load kernel modules',
    'make the private key and certificate',
    'make LV vg0/remus-web-0 (1GiB)',
    'make LV vg0/remus-web-0-md (4MiB)',
    'make LV vg0/remus-web-barrier (4MiB)',
    'make LV vg0/remus-web-barrier-md (4MiB)',
    'make LV vg0/remus-web-journal (1GiB)',
    'fill /dev/vg0/remus-web-0 with zeroes',
    'tag LV vg0/remus-web-0 -remus-drbd.fresh +remus-drbd.zeroed',
    'fill /dev/vg0/remus-web-barrier with zeroes',
    'tag LV vg0/remus-web-barrier -remus-drbd.fresh +remus-drbd.zeroed',
    'map the devices of web',
    'make the DRBD meta-data of web/0 on /dev/vg0/remus-web-0-md',
    'make the DRBD meta-data of web/15 on /dev/vg0/remus-web-barrier-md',
    'enable and start remus-drbd@web.service',
    'write /etc/remus-drbd/tls/peer-beta.crt',
    'tag LV vg0/remus-web-0 -remus-drbd.zeroed',
    'take web/0 as equal on both sides, without a first sync',
    'tag LV vg0/remus-web-barrier -remus-drbd.zeroed',
    'take web/15 as equal on both sides, without a first sync',
  ]);
  assert.not.ok(commands(steps).some((command) => command.includes('primary --force')));
});

test('what is done is not done again', () => {
  const desired = desiredFrom();
  const views = doneViews(desired);
  assert.equal(planSetup(desired, views, nothing), { lanes: [], waits: [] });
});

test('cut after any step, the next run finishes, and a sync is left out only while both sides are known', () => {
  const desired = desiredFrom();
  const whole = simulate(freshViews(), planner(desired)).steps.length;
  for (let cut = 0; cut < whole; cut++) {
    const views = freshViews();
    const before = simulate(views, planner(desired), cut);
    const after = simulate(views, planner(desired));
    assert.ok(after.ended, `cut after ${cut}`);
    const all = commands([...before.steps, ...after.steps]);
    for (const volume of ['web/0', 'web/15']) {
      const skips = all.filter((one) => one === `drbdadm new-current-uuid --clear-bitmap ${volume}`).length;
      assert.ok(skips <= 1, `cut after ${cut}: ${volume} was taken as equal ${skips} times`);
    }
    for (const host of ['alpha', 'beta']) {
      assert.equal(
        lvs(views[host]!).flatMap((lv) => lv.tags.filter((tag) => tag !== 'remus-drbd')),
        [],
        `cut after ${cut}: tags left on ${host}`,
      );
      assert.ok(Object.values(resource(views, host).volumes).every((volume) => volume.disk === 'UpToDate'));
    }
  }
});

test('the knowledge that both sides are zero goes before it is used: a run that dies then copies everything', () => {
  const desired = desiredFrom();
  const views = freshViews();
  const all = simulate(freshViews(), planner(desired)).steps;
  const skip = all.findIndex((step) => step.title.startsWith('take web/0 as equal'));
  simulate(views, planner(desired), skip);
  const rest = commands(simulate(views, planner(desired)).steps);
  assert.ok(rest.includes('drbdadm primary --force web'), rest.join('\n'));
  assert.not.ok(rest.includes('drbdadm new-current-uuid --clear-bitmap web/0'));
});

test('a promotion that a dead run left behind is taken back, unless the guest runs by now', () => {
  const desired = desiredFrom(EXISTING);
  const whole = simulate(existingViews({ alpha: EXT4, beta: EMPTY }), planner(desired)).steps;
  const promoted = commands(whole).indexOf('drbdadm primary --force web') + 1;
  for (const guestRuns of [false, true]) {
    const views = existingViews({ alpha: EXT4, beta: EMPTY });
    simulate(views, planner(desired), promoted);
    assert.is(resource(views, 'alpha').role, 'Primary');
    const { guests } = views['alpha']!.facts;
    if (guestRuns && guests.known) {
      guests.value.push({ name: 'web', id: 1, memoryBytes: 0, vcpus: 1, state: '-b----' });
    }
    const rest = commands(simulate(views, planner(desired)).steps);
    assert.is(rest.includes('drbdadm secondary web'), !guestRuns);
    assert.is(rest.at(-1), 'lvchange --deltag remus-drbd.promoted vg0/remus-web-0-md');
    assert.equal(planSetup(desired, views, nothing), { lanes: [], waits: [] });
  }
});

test('a disk that is added to a running resource is made, taken as equal and nothing else is touched', () => {
  const views = doneViews(desiredFrom());
  const more = desiredFrom(
    '- { vdev: xvda, volumeGroup: vg0, size: 1GiB }\n          - { vdev: xvdb, volumeGroup: vg0, size: 1GiB }',
  );
  for (const host of ['alpha', 'beta']) views[host]!.adjust['web'] = ['drbdsetup-84 new-minor web 108257 1'];
  const all = commands(simulate(views, planner(more)).steps);
  assert.ok(all.indexOf('drbdadm create-md --force web/1') < all.indexOf('drbdadm adjust web'));
  assert.equal(
    all.filter((command) => /create-md|new-current-uuid|primary|blkdiscard/.test(command)),
    [
      ...['alpha', 'beta'].flatMap(() => [
        'blkdiscard --force --zeroout --verbose --step 1073741824 /dev/vg0/remus-web-1',
        'drbdadm create-md --force web/1',
      ]),
      'drbdadm new-current-uuid --clear-bitmap web/1',
    ],
  );
});

test('zeroes known on one side only: everything is copied', () => {
  const desired = desiredFrom();
  const views = freshViews();
  const up = simulate(freshViews(), planner(desired)).steps.findIndex((step) =>
    step.title.startsWith('tag LV vg0/remus-web-0 -remus-drbd.zeroed'),
  );
  simulate(views, planner(desired), up);
  const volume = lvs(views['beta']!).find((lv) => lv.name === 'remus-web-0');
  volume!.tags = ['remus-drbd'];
  const rest = commands(simulate(views, planner(desired)).steps);
  assert.ok(rest.includes('drbdadm primary --force web'), rest.join('\n'));
  assert.ok(rest.indexOf('drbdadm secondary web') > rest.indexOf('drbdadm primary --force web'));
});

test('a side that DRBD knows to be UpToDate is the source by itself; nothing is forced', () => {
  const desired = desiredFrom();
  const views = doneViews(desired);
  for (const host of ['alpha', 'beta']) {
    const { volumes, connections } = resource(views, host);
    if (host === 'alpha') connections[0]!.volumes[0]!.peerDisk = 'Inconsistent';
    else volumes[0]!.disk = 'Inconsistent';
  }
  const { lanes, waits } = planSetup(desired, views, nothing);
  assert.equal(lanes, []);
  assert.equal(
    waits.map(({ kind, reason }) => [kind, reason]),
    [['sync', 'web on alpha: volume 0 is UpToDate/Inconsistent, Established; UpToDate/UpToDate is required']],
  );
});

test('two hosts that are not connected yet are waited for, and nothing is decided', () => {
  const desired = desiredFrom();
  const views = doneViews(desired);
  for (const host of ['alpha', 'beta']) resource(views, host).connections[0]!.connection = 'Connecting';
  const { lanes, waits } = planSetup(desired, views, nothing);
  assert.equal(lanes, []);
  assert.equal(
    waits.map(({ kind }) => kind),
    ['connect'],
  );
});

test('StandAlone is refused: DRBD has dropped the connection for a reason', () => {
  const desired = desiredFrom();
  const views = doneViews(desired);
  resource(views, 'alpha').connections[0]!.connection = 'StandAlone';
  refused(
    () => planSetup(desired, views, nothing),
    /web on alpha: DRBD is StandAlone/,
    /docs\/operations\.md/,
  );
});

const EXISTING = '- { vdev: xvda, volumeGroup: vg0, logicalVolume: web-root }';

/** Both hosts have the LV; what is on it is given by host. */
function existingViews(content: Record<string, HostView['facts']['devices'][string]>): Views {
  const views = freshViews();
  for (const [host, one] of Object.entries(content)) {
    const { facts } = views[host]!;
    if (facts.logicalVolumes.known) {
      facts.logicalVolumes.value.push({
        volumeGroup: 'vg0',
        name: 'web-root',
        sizeBytes: GIB,
        tags: [],
        active: true,
        open: false,
        segmentType: 'linear',
      });
    }
    facts.devices['/dev/vg0/web-root'] = one;
  }
  return views;
}

type Content = HostView['facts']['devices'][string];

const EMPTY: Content = { state: 'read', sizeBytes: GIB, signatures: [] };
const EXT4: Content = {
  state: 'read',
  sizeBytes: GIB,
  signatures: [{ type: 'ext4', offsetBytes: 1024 }],
  firstDataAt: 1024,
};
const RAW: Content = { state: 'read', sizeBytes: GIB, signatures: [], firstDataAt: 512 };
const DRBD: Content = {
  state: 'read',
  sizeBytes: GIB,
  signatures: [{ type: 'drbd', offsetBytes: GIB - 4096 }],
  firstDataAt: 0,
};
const BROKEN: Content = { state: 'unreadable', reason: 'Input/output error' };

for (const [what, alpha, beta, words] of [
  [
    'a file system on the backup',
    EXT4,
    EXT4,
    /web on beta: refusing .* it holds data \(ext4\).* data of alpha.*--overwrite beta:vg0\/web-root/,
  ],
  [
    'data of no known kind on the backup',
    EXT4,
    RAW,
    /web on beta: refusing .* it holds data of no known kind \(at byte 512\)/,
  ],
  ['a backup that can not be read', EXT4, BROKEN, /could not be read \(Input\/output error\)/],
  [
    "another DRBD resource's meta-data on the source",
    DRBD,
    EMPTY,
    /web on alpha: refusing .* another resource/,
  ],
] as const) {
  test(`${what} is never overwritten unless it is named, and nothing is planned before that is said`, () => {
    const desired = desiredFrom(EXISTING);
    const views = existingViews({ alpha, beta });
    refused(() => planSetup(desired, views, nothing), words);
    const name = what.includes('source') ? 'alpha:vg0/web-root' : 'beta:vg0/web-root';
    refused(() => planSetup(desired, views, { overwrite: new Set(['beta:vg0/other']) }), words);
    assert.ok(simulate(views, planner(desired, [name])).ended);
  });
}

test('existing data on the source, nothing on the backup: the source is copied, the LV is only given its spare extent', () => {
  const desired = desiredFrom(EXISTING);
  const views = existingViews({ alpha: EXT4, beta: EMPTY });
  const { steps } = simulate(views, planner(desired));
  const all = commands(steps);
  assert.ok(all.includes('drbdadm primary --force web'));
  assert.equal(
    all.filter((command) => /blkdiscard|lv[a-z]+ .*web-root/.test(command) && command.includes('web-root')),
    ['alpha', 'beta'].flatMap(() => [
      'lvchange --addtag remus-drbd.data=1073741824 vg0/web-root',
      'lvextend --size 1073745920b vg0/web-root',
    ]),
  );
  assert.equal(steps.find((step) => commands([step])[0] === 'drbdadm primary --force web')?.host, 'alpha');
});

test('a run that died while it extended a volume does not extend it twice', () => {
  const desired = desiredFrom(EXISTING);
  const whole = commands(simulate(existingViews({ alpha: EXT4, beta: EMPTY }), planner(desired)).steps);
  const cuts = [
    whole.findIndex((one) => one.includes('remus-drbd.data')) + 1,
    whole.findIndex((one) => one.startsWith('lvextend')) + 1,
  ];
  for (const cut of cuts) {
    const views = existingViews({ alpha: EXT4, beta: EMPTY });
    const before = simulate(views, planner(desired), cut);
    const after = simulate(views, planner(desired));
    assert.ok(after.ended);
    const extended = commands([...before.steps, ...after.steps]).filter((one) => one.startsWith('lvextend'));
    assert.is(extended.length, 2, 'once on each host: LVM refuses a size that is there already');
    for (const host of ['alpha', 'beta']) {
      const volume = lvs(views[host]!).find((lv) => lv.name === 'web-root');
      assert.equal([volume?.sizeBytes, volume?.tags], [GIB + 4 * 2 ** 20, ['remus-drbd.data=1073741824']]);
    }
  }
});

test('an LV of our name that is not ours is refused', () => {
  const desired = desiredFrom();
  const views = freshViews();
  const { logicalVolumes } = views['beta']!.facts;
  if (logicalVolumes.known) {
    logicalVolumes.value.push({
      volumeGroup: 'vg0',
      name: 'remus-web-0',
      sizeBytes: GIB,
      tags: [],
      active: true,
      open: false,
      segmentType: 'linear',
    });
  }
  refused(
    () => planSetup(desired, views, nothing),
    /LV vg0\/remus-web-0 is there already and was not made by remus-drbd/,
  );
});

test('meta-data that can not be read is never made anew', () => {
  const desired = desiredFrom();
  for (const state of [{ state: 'unreadable', reason: 'killed' }, { state: 'absent' }] as const) {
    const views = doneViews(desired);
    views['beta']!.facts.drbdRunning = { known: true, value: [] };
    views['beta']!.facts.metaData['/dev/vg0/remus-web-0-md'] = state;
    refused(
      () => planSetup(desired, views, nothing),
      /whether \/dev\/vg0\/remus-web-0-md has DRBD meta-data/,
    );
  }
});

test('a volume that is not active is activated, and what is on it is looked at before anything else', () => {
  const desired = desiredFrom();
  const views = doneViews(desired);
  views['beta']!.facts.drbdRunning = { known: true, value: [] };
  lvs(views['beta']!).find((lv) => lv.name === 'remus-web-0-md')!.active = false;
  views['beta']!.facts.metaData['/dev/vg0/remus-web-0-md'] = { state: 'absent' };
  assert.equal(commands(planSetup(desired, views, nothing).lanes.flat()), [
    'lvchange --activate y vg0/remus-web-0-md',
  ]);
});

test('a volume marked as new that something has open is not filled with zeroes', () => {
  const desired = desiredFrom();
  const views = freshViews();
  const made = simulate(freshViews(), planner(desired)).steps.findIndex((step) =>
    step.title.startsWith('fill'),
  );
  simulate(views, planner(desired), made);
  lvs(views['alpha']!).find((lv) => lv.name === 'remus-web-0')!.open = true;
  refused(
    () => planSetup(desired, views, nothing),
    /web on alpha: \/dev\/vg0\/remus-web-0 has the tag "remus-drbd.fresh"/,
  );
});

test("DRBD's global file that its owner has changed is left alone", () => {
  const views = freshViews();
  views['alpha']!.ownGlobalFile = true;
  const { steps } = simulate(views, planner(desiredFrom()));
  const touched = (host: string): string[] =>
    commands(steps.filter((step) => step.host === host)).filter((one) => one.includes('global_common'));
  assert.equal(touched('alpha'), []);
  assert.is(touched('beta').length, 2);
});

test('a file that was changed on a host is written again, and a changed resource is adjusted', () => {
  const desired = desiredFrom();
  const views = doneViews(desired);
  views['beta']!.files['/etc/drbd.d/remus-web.res'] = { sha256: 'other', mode: 0o644 };
  views['beta']!.adjust['web'] = ['drbdsetup net-options 10.0.0.1 10.0.0.2 --protocol=A'];
  const { steps } = simulate(views, planner(desired));
  assert.equal(commands(steps), ['write /etc/drbd.d/remus-web.res', 'drbdadm adjust web']);
  assert.match(steps[1]!.reason, 'DRBD differs from its configuration: drbdsetup net-options');
});

test('what can not be changed while a domain is set up is refused, with the way out', () => {
  const before = desiredFrom();
  const view = doneViews(before);
  const layout = before.layouts[0]!;
  const installed = {
    engine: 'journal',
    hosts: ['alpha', 'beta'],
    volumes: layout.volumes.map((volume) => ({ ...volume })),
    journal: layout.journal!,
  };
  for (const [after, words] of [
    [
      desiredFrom('- { vdev: xvda, volumeGroup: vg0, size: 512MiB }'),
      /volume 0 had the size 1GiB, now 512MiB; a disk in use can't shrink/,
    ],
    [
      desiredFrom('- { vdev: xvda, volumeGroup: vg1, size: 1GiB }'),
      /volume 0 was on vg0\/remus-web-0, now vg1\/remus-web-0/,
    ],
  ] as const) {
    const views = structuredClone(view);
    views['alpha']!.installed['web'] = installed;
    refused(() => planSetup(after, views, nothing), words, /remus-drbd teardown web; its data is kept/);
  }
  const grown = structuredClone(view);
  grown['alpha']!.installed['web'] = installed;
  refused(
    () => planSetup(desiredFrom('- { vdev: xvda, volumeGroup: vg0, size: 2GiB }'), grown, nothing),
    /web on alpha: LV vg0\/remus-web-0 has 1028MiB, the configuration asks for 2GiB/,
    /"Growing a disk" in docs\/operations\.md/,
  );
  const more = desiredFrom(
    '- { vdev: xvda, volumeGroup: vg0, size: 1GiB }\n          - { vdev: xvdb, volumeGroup: vg0, size: 1GiB }',
  );
  const views = structuredClone(view);
  for (const host of ['alpha', 'beta']) {
    views[host]!.installed['web'] = installed;
    // What drbdadm says once the new resource file is there.
    views[host]!.adjust['web'] = ['drbdsetup new-minor web 108241 1'];
  }
  assert.ok(
    commands(planSetup(more, views, nothing).lanes.flat()).some((one) => one.includes('remus-web-1')),
  );
});

test('a running protection is left alone, and a change of its domain is refused; the host as a whole may change', () => {
  const desired = desiredFrom();
  const views = doneViews(desired);
  protect(views);
  assert.equal(planSetup(desired, views, nothing), { lanes: [], waits: [] });

  const changed = structuredClone(desired);
  changed.files['alpha'] = desired.files['alpha']!.map((file) =>
    file.domain === 'web' ? textFile(file.path, file.mode, 'resource web { net {} }\n', 'web') : file,
  );
  refused(
    () => planSetup(changed, views, nothing),
    /web on alpha: can't be changed while it is protected \(remus-sender@web\.service is active on alpha, /,
    /write \/etc\/drbd\.d\/remus-web\.res/,
    /remus-drbd unprotect web/,
  );
  // The same where only the journal is left of it.
  const left = structuredClone(views);
  for (const host of ['alpha', 'beta']) {
    const { units } = left[host]!.facts;
    if (units.known) {
      for (const [name, state] of Object.entries(units.value)) {
        if (/sender|receiver/.test(name)) state.activeState = 'failed';
      }
    }
  }
  assert.equal(planSetup(desired, left, nothing), { lanes: [], waits: [] });
  refused(() => planSetup(changed, left, nothing), /journal-active is there on beta/);

  const program = structuredClone(desired);
  program.files['alpha'] = [...desired.files['alpha']!, textFile(Paths.bundle, 0o755, '// newer\n')];
  assert.equal(titles(planSetup(program, views, nothing).lanes.flat()), [`write ${Paths.bundle}`]);
});

test('a unit file of any of the units lets systemd read them again, also after a run that died before it', () => {
  for (const name of ['remus-drbd@', 'remus-sender@', 'remus-receiver@']) {
    const desired = desiredFrom();
    const views = doneViews(desired);
    const file = textFile(`/etc/systemd/system/${name}.service`, 0o644, '[Unit]\n# newer\n');
    desired.files['alpha'] = [...desired.files['alpha']!.filter(({ path }) => path !== file.path), file];
    const steps = simulate(views, planner(desired)).steps;
    assert.equal(titles(steps), [
      `write /etc/systemd/system/${name}.service`,
      'let systemd read its units again',
    ]);
    views['alpha']!.reloadNeeded = true;
    assert.equal(titles(simulate(views, planner(desired)).steps), ['let systemd read its units again']);
  }
});

const linked = (): Desired => {
  const desired = desiredFrom();
  return { ...desired, pair: { ...desired.pair, link: 'ssh' } };
};

test('with link ssh each host makes a key, and lets that of its peer in, for the link only', () => {
  const desired = linked();
  const views = freshViews();
  for (const host of ['alpha', 'beta']) views[host]!.ssh.authorizedKeys = 'ssh-rsa AAAA admin';
  views['alpha']!.ssh.rootDirectory = false;
  const { steps } = simulate(views, planner(desired));
  assert.equal(
    titles(steps, 'alpha').filter((title) => /ssh|SSH/.test(title)),
    [
      'make /etc/remus-drbd/ssh',
      'make the key for SSH',
      'make /root/.ssh',
      'write /root/.ssh/authorized_keys',
    ],
  );
  assert.match(
    views['alpha']!.ssh.authorizedKeys ?? '',
    /^ssh-rsa AAAA admin\nrestrict,port-forwarding,permitopen="\[\/run\/remus-drbd\/web\/link\.sock\]:\*",permitlisten="127\.0\.0\.1:1",from="10\.0\.0\.2",command="[^"]*" \(the public key of beta, made in this run\) remus-drbd:beta\n$/,
  );
  assert.equal(planSetup(desired, views, nothing), { lanes: [], waits: [] });

  // A host that was installed anew has another key, and its old one goes.
  views['beta']!.ssh.publicKey = 'ssh-ed25519 NEW';
  simulate(views, planner(desired));
  const keys = views['alpha']!.ssh.authorizedKeys ?? '';
  assert.match(keys, /ssh-ed25519 NEW remus-drbd:beta\n$/);
  assert.is(keys.match(/remus-drbd:/g)?.length, 1);

  // Back to TLS: what lets the peer in goes.
  const tls = desiredFrom();
  assert.equal(
    titles(planSetup(tls, views, nothing).lanes.flat()),
    Array(2).fill('write /root/.ssh/authorized_keys'),
  );
  simulate(views, planner(tls));
  assert.is(views['alpha']!.ssh.authorizedKeys, 'ssh-rsa AAAA admin\n');
});

test('a key for SSH that others can read is closed, not made anew; one that is none is; no tool, no change', () => {
  const desired = linked();
  const views = doneViews(desired);
  const { ssh, files, facts } = views['alpha']!;
  files[SSH_KEY] = { sha256: '', mode: 0o644 };
  ssh.publicKey = undefined;
  assert.equal(titles(planSetup(desired, views, nothing).lanes.flat()), [
    `make ${SSH_KEY} readable for root only`,
  ]);
  files[SSH_KEY] = { sha256: '', mode: 0o600 };
  assert.equal(titles(planSetup(desired, views, nothing).lanes.flat()).slice(0, 2), [
    `remove ${SSH_KEY}`,
    'make the key for SSH',
  ]);
  facts.sshPublicKey = { known: false, cause: 'not-installed', reason: 'ssh-keygen is not installed' };
  refused(() => planSetup(desired, views, nothing), /ssh-keygen is not installed/, /nothing was changed/);
});

test.run();
