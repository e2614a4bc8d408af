/** What status says of a domain, from the answers of its two hosts. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { RunningResource } from '../../src/core/facts.js';
import { domainStatus, type HostAnswer } from '../../src/core/status.js';
import { desiredFrom } from './setup/views.js';

const test = suite('status');
const layout = desiredFrom().layouts[0]!;

function resource(more: {
  role?: 'Primary' | 'Secondary';
  disks?: ['UpToDate' | 'Inconsistent' | 'Diskless', 'UpToDate' | 'Inconsistent' | 'DUnknown'][];
  connection?: 'Connected' | 'Connecting' | 'StandAlone';
  replication?: 'Established' | 'SyncSource' | 'PausedSyncS' | 'Off';
  outOfSyncBytes?: number;
}): RunningResource {
  const disks = more.disks ?? [['UpToDate', 'UpToDate']];
  return {
    name: 'web',
    role: more.role ?? 'Secondary',
    suspended: 'no',
    volumes: Object.fromEntries(disks.map(([disk], volume) => [volume, { volume, minor: volume, disk }])),
    connections: [
      {
        peer: 'peer',
        connection: more.connection ?? 'Connected',
        peerRole: 'Secondary',
        volumes: Object.fromEntries(
          disks.map(([, peerDisk], volume) => [
            volume,
            {
              volume,
              peerDisk,
              replication: more.replication ?? 'Established',
              resyncSuspended: 'no',
              outOfSyncBytes: more.outOfSyncBytes ?? 0,
            },
          ]),
        ),
      },
    ],
  };
}

function answer(one: RunningResource | undefined, guestRuns = false): HostAnswer {
  return { reached: true, resource: one, guestRuns };
}

test('is never more than unprotected while no checkpoints are sent', () => {
  const status = domainStatus(layout, {
    alpha: answer(resource({ role: 'Primary' }), true),
    beta: answer(resource({})),
  });
  assert.is(status.protection, 'unprotected');
  assert.is(status.reason, 'no checkpoints are being sent');
  assert.equal(
    [status.primary, status.backup, status.term, status.committedEpoch],
    ['alpha', 'beta', null, null],
  );
  assert.equal(status.resource, {
    role: 'Primary',
    peerRole: 'Secondary',
    connectionState: 'Connected',
    diskState: 'UpToDate',
    peerDiskState: 'UpToDate',
    replicationState: 'Established',
    outOfSyncBytes: 0,
  });
});

test('the primary is where the guest runs, else where DRBD is Primary, else as configured', () => {
  const secondary = answer(resource({}));
  const primary = answer(resource({ role: 'Primary' }));
  const parts = (alpha: HostAnswer, beta: HostAnswer): string[] => {
    const { primary: one, backup } = domainStatus(layout, { alpha, beta });
    return [one, backup];
  };
  assert.equal(parts(primary, answer(resource({}), true)), ['beta', 'alpha']);
  assert.equal(parts(secondary, primary), ['beta', 'alpha']);
  assert.equal(parts(secondary, secondary), ['alpha', 'beta']);
});

test('of several volumes the worst is shown, and amounts are added up', () => {
  const { resource: found } = domainStatus(layout, {
    alpha: answer(
      resource({
        disks: [
          ['UpToDate', 'UpToDate'],
          ['Diskless', 'Inconsistent'],
        ],
        outOfSyncBytes: 4096,
      }),
    ),
    beta: answer(resource({})),
  });
  assert.equal(
    [found?.diskState, found?.peerDiskState, found?.outOfSyncBytes],
    ['Diskless', 'Inconsistent', 8192],
  );
});

for (const [what, alpha, beta, protection, words] of [
  [
    'a host that can not be asked',
    answer(resource({})),
    { reached: false, reason: 'connect ECONNREFUSED' } as HostAnswer,
    'unprotected',
    /^beta can't be asked: connect ECONNREFUSED; /,
  ],
  [
    'a resource that is not up',
    answer(undefined),
    answer(resource({})),
    'unprotected',
    /not up on alpha \("remus-drbd setup"/,
  ],
  [
    'a lost connection',
    answer(resource({ connection: 'StandAlone', disks: [['UpToDate', 'DUnknown']], replication: 'Off' })),
    answer(resource({})),
    'unprotected',
    /DRBD is StandAlone; disks are UpToDate\/DUnknown/,
  ],
  [
    'a resync',
    answer(
      resource({ replication: 'SyncSource', disks: [['UpToDate', 'Inconsistent']], outOfSyncBytes: 512 }),
    ),
    answer(resource({})),
    'resyncing',
    /SyncSource, 512 bytes left/,
  ],
  [
    'a resync that was paused',
    answer(resource({ replication: 'PausedSyncS' })),
    answer(resource({})),
    'resyncing',
    /PausedSyncS/,
  ],
  [
    'two copies',
    answer(resource({}), true),
    answer(resource({}), true),
    'unprotected',
    /the guest runs on BOTH hosts/,
  ],
  ['no guest', answer(resource({})), answer(resource({})), 'unprotected', /the guest does not run/],
] as const) {
  test(`says so: ${what}`, () => {
    const status = domainStatus(layout, { alpha, beta });
    assert.is(status.protection, protection);
    assert.match(status.reason, words);
  });
}

test('says that neither host has it', () => {
  const status = domainStatus(layout, { alpha: answer(undefined), beta: answer(undefined) });
  assert.is(status.resource, null);
});

test.run();
