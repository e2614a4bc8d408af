/** An embedded host as the real recovery (`core/protect/recovery.ts`) looks at hosts: in DRBD's and xl's words. */
import type { TermRecord } from '../../core/claim/term.js';
import type { RunningPeerVolume, RunningResource } from '../../core/facts.js';
import type { RecoveryHost } from '../../core/protect/recovery.js';
import { BLOCK_BYTES } from './bitmap.js';
import { DOMAIN } from './jobs.js';
import type { HostStatus } from './jobs.js';
import type { MirrorState } from './mirror.js';

/** @param undecided what its sender or receiver says, where that waits to learn who goes on */
export function recoveryHost(
  name: string,
  status: HostStatus,
  term: TermRecord | undefined,
  undecided: string | null,
): RecoveryHost {
  const { mirror, guest, senderActive, receiverActive } = status;
  const running = { id: 1, memoryBytes: 0, vcpus: 1, state: guest === 'running' ? 'r-----' : '---ss-' };
  return {
    name,
    resource: mirror.isUp ? resourceOf(mirror) : undefined,
    guests: guest === 'none' ? [] : [{ name: DOMAIN, ...running }],
    term,
    senderActive,
    receiverActive,
    undecided,
  };
}

/** The volumes of a mirror are one to it. */
function resourceOf({ role, replication, differingBlocks }: MirrorState): RunningResource {
  const connects = replication === 'StandAlone' || replication === 'Connecting';
  const peer: RunningPeerVolume = {
    volume: 0,
    replication: connects ? 'Off' : replication === 'Connected' ? 'Established' : replication,
    peerDisk: connects ? 'DUnknown' : replication === 'SyncSource' ? 'Inconsistent' : 'UpToDate',
    resyncSuspended: 'no',
    outOfSyncBytes: differingBlocks * BLOCK_BYTES,
  };
  return {
    name: DOMAIN,
    role: role === 'primary' ? 'Primary' : 'Secondary',
    suspended: 'no',
    volumes: { 0: { volume: 0, minor: 0, disk: replication === 'SyncTarget' ? 'Inconsistent' : 'UpToDate' } },
    connections: [
      {
        peer: 'peer',
        connection: connects ? replication : 'Connected',
        peerRole: 'Unknown',
        volumes: { 0: peer },
      },
    ],
  };
}
