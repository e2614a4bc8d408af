/** What status says of a domain, from the answers of its two hosts. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { RunningResource } from '../../src/core/facts.js';
import type { TermRecord } from '../../src/core/claim/term.js';
import type { ReceiverReport, SenderReport } from '../../src/core/protect/report.js';
import { domainStatus, type HostAnswer } from '../../src/core/status.js';
import type { SwitchoverIntent } from '../../src/core/protect/switchover.js';
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

const sender: SenderReport = {
  format: 1,
  role: 'sender',
  phase: 'running',
  protection: 'protected',
  reason: 'epoch 7 is committed',
  pid: 1,
  updatedMs: 0,
  pair: 'rack1',
  domain: 'web',
  term: 3,
  session: 'ab'.repeat(16),
  committedEpoch: 7,
  intervalMs: 50,
  sentBytes: 1,
  figures: null,
  droppedPackets: 0,
};
const receiver: ReceiverReport = {
  format: 1,
  role: 'receiver',
  phase: 'on',
  reason: 'epoch 7 is committed',
  pid: 1,
  updatedMs: 0,
  pair: 'rack1',
  domain: 'web',
  term: 3,
  session: sender.session,
  committedEpoch: 7,
  receivedBytes: 1,
  journalUsedBytes: 1,
  journalTotalBytes: 2,
};

/** Both sides of a term in which all is well, but for what is given. */
function termOf(more: {
  sender?: Partial<SenderReport> | string;
  receiver?: Partial<ReceiverReport> | string | null;
  drbd?: Parameters<typeof resource>[0];
  beta?: HostAnswer;
}): string {
  const said = <T>(good: T, part: Partial<T> | string | null | undefined): T | string | undefined =>
    part === null ? undefined : typeof part === 'string' ? part : { ...good, ...part };
  const alpha = said(sender, more.sender);
  const beta = said(receiver, more.receiver);
  const status = domainStatus(layout, {
    alpha: {
      reached: true,
      resource: resource({ role: 'Primary', ...more.drbd }),
      guestRuns: true,
      ...(alpha === undefined ? {} : { sender: alpha }),
    },
    beta: more.beta ?? {
      reached: true,
      resource: resource({}),
      guestRuns: false,
      ...(beta === undefined ? {} : { receiver: beta }),
    },
  });
  return `${status.protection}: ${status.reason}`;
}

test('protected only where sender, receiver and DRBD all say so', () => {
  assert.is(termOf({}), 'protected: epoch 7 is committed');
  assert.match(termOf({ sender: 'it has not reported for 9 s' }), /^unprotected: /);
  assert.is(
    termOf({ receiver: 'it has not reported for 9 s' }),
    'suspended: the receiver on beta: it has not reported for 9 s',
  );
  assert.is(termOf({ receiver: null }), 'suspended: there is no receiver on beta');
  assert.is(
    termOf({ receiver: { term: 2 } }),
    'suspended: the receiver on beta is in term 2, the sender in 3',
  );
  assert.match(termOf({ receiver: { session: 'cd'.repeat(16) } }), /^suspended: /);
  assert.match(
    termOf({ receiver: { phase: 'claiming', reason: 'silence' } }),
    /^suspended: .* phase claiming: silence/,
  );
  assert.is(termOf({ drbd: { connection: 'Connecting' } }), 'suspended: DRBD is Connecting');
  assert.match(
    termOf({ drbd: { disks: [['UpToDate', 'Inconsistent']] } }),
    /^suspended: disks are UpToDate\/Inconsistent/,
  );
  assert.match(
    termOf({ beta: { reached: false, reason: 'no route' } }),
    /^suspended: beta can't be asked: no route/,
  );
  assert.is(
    termOf({ sender: { protection: 'suspended', reason: 'no commit for 4000 ms' } }),
    'suspended: no commit for 4000 ms',
  );
});

test('a switchover that has not ended is said, with how to go on with it and how to take it back', () => {
  const intent: SwitchoverIntent = {
    ...{ format: 1, pair: 'rack1', domain: 'web', term: 8, session: 'cd'.repeat(16) },
    ...{ from: 'alpha', to: 'beta', protect: true },
  };
  const reason = (alpha: object, beta: HostAnswer): string =>
    domainStatus(layout, {
      alpha: { reached: true, resource: resource({ role: 'Primary' }), guestRuns: true, ...alpha },
      beta,
    }).reason;
  const there: HostAnswer = { reached: true, resource: resource({}), guestRuns: false };
  const said =
    /^no checkpoints are being sent; a switchover from alpha to beta \(term 8\) was begun and has not ended: .*switchover web --to beta, or take it back with --to alpha$/;
  assert.match(reason({ intent }, { ...there, intent }), said);
  // A host that can't be reached hides nothing that the other one knows.
  assert.match(reason({ intent }, { reached: false, reason: 'no route' }), /was begun and has not ended/);
  assert.match(
    reason({ intent: "can't be read: x" }, there),
    /the note of a switchover on alpha can't be read: x$/,
  );
  // In a later term alpha was the primary: it is history.
  const later: TermRecord = {
    ...{ term: 9, session: 'ab'.repeat(16), role: 'primary', phase: 'protected', boot: 'b' },
  };
  assert.not.match(reason({ intent, term: later }, { ...there, intent }), /switchover/);
  assert.match(
    termOf({ sender: {}, beta: { ...there, receiver, intent } }),
    /^protected: epoch 7 is committed; a switchover from alpha to beta/,
  );
});

test('a guest that was taken over is failed-over until it is protected again', () => {
  const won: TermRecord = {
    term: 4,
    session: 'ab'.repeat(16),
    role: 'backup',
    phase: 'ended',
    boot: 'b',
    outcome: 'won',
  };
  const status = domainStatus(layout, {
    alpha: { reached: false, reason: 'no route' },
    beta: {
      reached: true,
      resource: resource({ role: 'Primary', connection: 'StandAlone' }),
      guestRuns: true,
      term: won,
    },
  });
  assert.is(status.protection, 'failed-over');
  assert.is(status.term, 4);
  assert.match(status.reason, /^beta took the guest over in term 4; .*remus-drbd recover web$/);
  assert.is(status.primary, 'beta');
});

test.run();
