/** What recovery does next, for what both hosts say: a table. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { TermRecord } from '../../../src/core/claim/term.js';
import type { RunningGuest, RunningPeerVolume, RunningResource } from '../../../src/core/facts.js';
import { nextRecoveryStep } from '../../../src/core/protect/recovery.js';
import type { RecoveryHost } from '../../../src/core/protect/recovery.js';

const guest = (name: string): RunningGuest => ({ name, id: 1, memoryBytes: 0, vcpus: 1, state: 'r-----' });

function resource(
  role: 'Primary' | 'Secondary',
  connection: 'StandAlone' | 'Connecting' | 'Connected',
  peer: Partial<RunningPeerVolume> = {},
): RunningResource {
  const volume: RunningPeerVolume = {
    ...{
      volume: 0,
      replication: 'Established',
      peerDisk: 'UpToDate',
      resyncSuspended: 'no',
      outOfSyncBytes: 0,
    },
    ...peer,
  };
  return {
    ...{ name: 'web', role, suspended: 'no', volumes: { 0: { volume: 0, minor: 0, disk: 'UpToDate' } } },
    connections: [{ peer: 'peer', connection, peerRole: 'Unknown', volumes: { 0: volume } }],
  };
}

function term(role: 'primary' | 'backup', outcome?: 'won' | 'lost'): TermRecord {
  const end = outcome === undefined ? { phase: 'protected' as const } : { phase: 'ended' as const, outcome };
  return { term: 7, session: '00'.repeat(16), role, boot: 'boot', ...end };
}

function host(name: string, change: Partial<RecoveryHost> = {}): RecoveryHost {
  return {
    name,
    resource: resource('Secondary', 'Connected'),
    guests: [],
    term: undefined,
    senderActive: false,
    receiverActive: false,
    undecided: null,
    ...change,
  };
}

/** beta has taken over, alpha was the primary. */
const winner = (change: Partial<RecoveryHost> = {}): RecoveryHost =>
  host('beta', {
    guests: [guest('web')],
    term: term('backup', 'won'),
    resource: resource('Primary', 'StandAlone'),
    ...change,
  });

const cases: [string, [RecoveryHost, RecoveryHost], Record<string, unknown>][] = [
  [
    'the loser is back and has no resource',
    [host('alpha', { resource: undefined }), winner()],
    { do: 'bring-up', host: 'alpha' },
  ],
  [
    'the loser still has the guest: it goes, and the record of the last term says which one is the loser',
    [host('alpha', { guests: [guest('web')], term: term('primary') }), winner()],
    { do: 'destroy', host: 'alpha', guest: 'web' },
  ],
  [
    'both have the guest and neither knows who won',
    [host('alpha', { guests: [guest('web')], term: term('primary') }), winner({ term: term('backup') })],
    { do: 'refuse' },
  ],
  [
    'a paused copy was left on the loser',
    [host('alpha', { guests: [guest('web--incoming')] }), winner()],
    { do: 'destroy', host: 'alpha', guest: 'web--incoming' },
  ],
  [
    'the loser is still Primary',
    [host('alpha', { resource: resource('Primary', 'StandAlone') }), winner()],
    { do: 'demote', host: 'alpha' },
  ],
  [
    'both stand alone: the writes of the loser give way',
    [host('alpha', { resource: resource('Secondary', 'StandAlone') }), winner()],
    { do: 'connect', survivor: 'beta', loser: 'alpha', discard: true },
  ],
  [
    'they stand alone and nobody knows who won: nothing is discarded',
    [host('alpha', { resource: resource('Secondary', 'StandAlone') }), winner({ term: undefined })],
    { do: 'connect', survivor: 'beta', loser: 'alpha', discard: false },
  ],
  [
    'the guest runs where the last term was not won',
    [host('alpha', { term: term('primary', 'won') }), winner({ term: term('backup', 'lost') })],
    { do: 'refuse' },
  ],
  [
    'they look for each other',
    [host('alpha'), winner({ resource: resource('Primary', 'Connecting') })],
    { do: 'wait', for: 'connection' },
  ],
  [
    'the resync runs',
    [
      host('alpha'),
      winner({
        resource: resource('Primary', 'Connected', {
          replication: 'SyncSource',
          peerDisk: 'Inconsistent',
          outOfSyncBytes: 4096,
        }),
      }),
    ],
    { do: 'wait', for: 'sync', outOfSyncBytes: 4096 },
  ],
  [
    'everything is the same again',
    [host('alpha'), winner({ resource: resource('Primary', 'Connected') })],
    { do: 'protect' },
  ],
  ['protection runs already', [host('alpha', { senderActive: true }), winner()], { do: 'done' }],
  [
    'the loser has given way, and its xl has not ended: that is no protection',
    [host('alpha', { senderActive: true, term: term('primary', 'lost') }), winner()],
    { do: 'wait', for: 'sender', reason: 'the sender of web on alpha is ending' },
  ],
  [
    'the loser has not learnt that it lost: that is no protection',
    [
      host('alpha', {
        guests: [guest('web')],
        term: term('primary'),
        senderActive: true,
        undecided: 'the arbiter does not answer',
      }),
      winner(),
    ],
    {
      do: 'wait',
      for: 'decision',
      reason:
        'alpha does not know who goes on with web (it was decided for beta) and holds what it has: the arbiter does not answer',
    },
  ],
  [
    'nobody knows, and nothing runs beyond the guest that is held',
    [
      host('alpha', { guests: [guest('web')], senderActive: true, undecided: 'no answer' }),
      host('beta', { receiverActive: true, undecided: 'no answer' }),
    ],
    { do: 'wait', for: 'decision' },
  ],
  ['it runs nowhere', [host('alpha'), host('beta')], { do: 'refuse' }],
];

for (const [name, hosts, expected] of cases) {
  test(name, () => {
    for (const order of [hosts, [hosts[1], hosts[0]] as const]) {
      const step: Record<string, unknown> = nextRecoveryStep('web', order);
      for (const [key, value] of Object.entries(expected)) assert.is(step[key], value, JSON.stringify(step));
    }
  });
}

test.run();
