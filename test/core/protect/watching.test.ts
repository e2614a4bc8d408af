/** Whether protection is to come back by itself: a table of what both hosts may say. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { TermRecord } from '../../../src/core/claim/term.js';
import type { RunningResource } from '../../../src/core/facts.js';
import { latestWanted, type Wanted } from '../../../src/core/protect/wanted.js';
import {
  afterFailure,
  afterLook,
  DELAY_MS_MAX,
  FIRST_DELAY_MS,
  newWatchMemory,
  STEADY_MS,
  watchStep,
  type WatchHost,
  type WatchMemory,
} from '../../../src/core/protect/watching.js';

const WANTED: Wanted = { format: 1, sequence: 1, protect: true, intervalMs: null };

function term(role: TermRecord['role'], outcome: TermRecord['outcome'] | 'open'): TermRecord {
  const base = { term: 7, session: 'ab'.repeat(16), role, boot: '1' } as const;
  if (outcome === 'open') return { ...base, phase: 'protected' };
  return { ...base, phase: 'ended', ...(outcome === undefined ? {} : { outcome }) };
}

function resource(role: 'Primary' | 'Secondary', connection: 'Connected' | 'StandAlone'): RunningResource {
  return {
    name: 'web',
    role,
    suspended: 'no',
    volumes: { 0: { minor: 0, disk: 'UpToDate' } },
    connections: [
      {
        peer: 'peer',
        connection,
        peerRole: role === 'Primary' ? 'Secondary' : 'Primary',
        volumes: {
          0: { replication: 'Established', peerDisk: 'UpToDate', outOfSyncBytes: 0, resyncSuspended: 'no' },
        },
      },
    ],
  } as unknown as RunningResource;
}

/** Both hosts after alpha has lost its backup: the guest runs on alpha, which has won, and beta is back. */
function afterLoss(): [WatchHost, WatchHost] {
  const base = {
    senderActive: false,
    receiverActive: false,
    isSwitching: false,
    undecided: null,
    senderSays: null,
    receiverSays: null,
  };
  const guest = { name: 'web', id: 1, memoryBytes: 96 << 20, vcpus: 1, state: '-b----' };
  return [
    {
      ...base,
      name: 'alpha',
      resource: resource('Primary', 'Connected'),
      guests: [guest],
      term: term('primary', 'won'),
      wanted: WANTED,
    },
    {
      ...base,
      name: 'beta',
      resource: resource('Secondary', 'Connected'),
      guests: [],
      term: term('backup', 'open'),
      wanted: WANTED,
    },
  ];
}

type Change = (hosts: [WatchHost, WatchHost]) => void;

const rows: [string, Change, 'recover' | 'leave' | 'nothing', RegExp][] = [
  ['the backup is back and in sync', () => undefined, 'recover', /UpToDate/],
  [
    'both stand alone: the loser discards',
    ([one, other]) => {
      one.resource = resource('Primary', 'StandAlone');
      other.resource = resource('Secondary', 'StandAlone');
    },
    'recover',
    /never released/,
  ],
  [
    'an operator has ended protection',
    ([one, other]) => (one.wanted = other.wanted = { ...WANTED, protect: false }),
    'leave',
    /ended by an operator/,
  ],
  [
    'an operator has ended it, and one host has not heard of it',
    ([one]) => (one.wanted = { ...WANTED, sequence: 2, protect: false }),
    'leave',
    /ended by an operator/,
  ],
  [
    'nobody ever wanted it',
    ([one, other]) => (one.wanted = other.wanted = undefined),
    'leave',
    /never asked for/,
  ],
  [
    'nobody has decided',
    ([one]) => (one.term = term('primary', 'open')),
    'leave',
    /after term 7 is not decided: remus-drbd failover or continue web/,
  ],
  [
    'the claim was won by the host where the guest does not run',
    ([one, other]) => {
      one.term = term('primary', 'lost');
      other.term = term('backup', 'won');
    },
    'leave',
    /it runs on alpha, and the last term was decided for beta/,
  ],
  ['the guest runs nowhere', ([one]) => (one.guests = []), 'leave', /runs on neither host/],
  [
    'the sender holds output, undecided',
    ([one]) => {
      one.senderActive = true;
      one.senderSays = { protection: 'suspended', reason: 'undecided' };
    },
    'leave',
    /^suspended: undecided/,
  ],
  [
    'it is protected',
    ([one]) => {
      one.senderActive = true;
      one.senderSays = { protection: 'protected', reason: 'epoch 3 is committed' };
    },
    'nothing',
    /^protected$/,
  ],
  [
    'the receiver is claiming',
    ([, other]) => {
      other.receiverActive = true;
      other.receiverSays = { phase: 'claiming', reason: 'the sender is lost' };
    },
    'leave',
    /in phase claiming: the sender is lost/,
  ],
  [
    'a receiver waits for a sender that never came',
    ([, other]) => {
      other.receiverActive = true;
      other.receiverSays = { phase: 'waiting', reason: 'waiting for the sender' };
    },
    'recover',
    /UpToDate/,
  ],
  [
    'a switchover is under way',
    ([one]) => (one.isSwitching = true),
    'leave',
    /remus-drbd switchover web ends it/,
  ],
  [
    'a resync needs time, and no locks',
    ([one]) => {
      const [connection] = one.resource!.connections;
      Object.assign(connection!.volumes[0]!, {
        replication: 'SyncSource',
        peerDisk: 'Inconsistent',
        outOfSyncBytes: 4096,
      });
    },
    'leave',
    /SyncSource.*4096 bytes are to be resynchronised/,
  ],
];

for (const [what, change, wanted, reason] of rows) {
  test(what, () => {
    const hosts = afterLoss();
    change(hosts);
    for (const order of [hosts, [hosts[1], hosts[0]] as [WatchHost, WatchHost]]) {
      const step = watchStep('web', true, order, newWatchMemory(), 0);
      assert.is(step.do, wanted, step.reason);
      assert.match(step.reason, reason);
    }
  });
}

test('without autoRecover nothing is ever done', () => {
  for (const [what, change] of rows) {
    const hosts = afterLoss();
    change(hosts);
    assert.is.not(watchStep('web', false, hosts, newWatchMemory(), 0).do, 'recover', what);
  }
});

test('a failure is tried again later each time, up to a limit', () => {
  let memory: WatchMemory = newWatchMemory();
  let nowMs = 0;
  const delays: number[] = [];
  for (let count = 0; count < 8; count++) {
    memory = afterFailure(memory, nowMs);
    delays.push(memory.notBeforeMs - nowMs);
    assert.match(
      watchStep('web', true, afterLoss(), memory, memory.notBeforeMs - 1).reason,
      /next try in 1 s/,
    );
    nowMs = memory.notBeforeMs;
    assert.is(watchStep('web', true, afterLoss(), memory, nowMs).do, 'recover');
  }
  assert.is(delays[0], FIRST_DELAY_MS);
  assert.is(delays[1], 2 * FIRST_DELAY_MS);
  assert.is(delays.at(-1), DELAY_MS_MAX);
});

test('a protection that does not last counts as a failure, one that lasts clears them', () => {
  let memory = afterLook(newWatchMemory(), true, 0);
  memory = afterLook(memory, false, STEADY_MS - 1);
  assert.is(memory.failures, 1);
  memory = afterLook(memory, false, STEADY_MS);
  assert.is(memory.failures, 1, 'each end counts once');
  memory = afterLook(memory, true, 2 * STEADY_MS);
  memory = afterLook(memory, true, 3 * STEADY_MS);
  assert.is(memory.failures, 0);
  memory = afterLook(memory, false, 3 * STEADY_MS + 1);
  assert.is(watchStep('web', true, afterLoss(), memory, 3 * STEADY_MS + 1).do, 'recover');
});

test('the later word counts, whichever host has it', () => {
  const later = { ...WANTED, sequence: 2, protect: false };
  assert.is(latestWanted(WANTED, later), later);
  assert.is(latestWanted(later, WANTED), later);
  assert.is(latestWanted(undefined, WANTED), WANTED);
  assert.is(latestWanted(undefined, undefined), undefined);
});

test.run();
