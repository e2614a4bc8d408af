/**
 * What has to be done after one host of a protected guest was lost and is back: a pure decision on what both hosts
 * say now. It is asked again after each act, like the plan of setup, so that it can be cut short anywhere.
 *
 *     the guest runs on one host only, and that host has won the last term
 *     -> the other one: no copy of the guest, DRBD up and Secondary
 *     -> connect; the loser discards its data if both had written
 *     -> resync -> protection in the direction that the guest runs now
 */
import type { TermRecord } from '../claim/term.js';
import type { RunningGuest, RunningResource } from '../facts.js';
import { awayName } from './switchover.js';

export interface RecoveryHost {
  name: string;
  resource: RunningResource | undefined;
  guests: RunningGuest[];
  term: TermRecord | undefined;
  senderActive: boolean;
  receiverActive: boolean;
  /** A switchover's unit is at work there. */
  moving?: boolean;
  /** Its sender or receiver waits to learn who goes on, and why it does not know; null where nothing waits. */
  undecided: string | null;
}

export type RecoveryStep =
  | { do: 'refuse'; reason: string }
  /** The loser's copy is destroyed; its output was never released. */
  | { do: 'destroy'; host: string; guest: string; reason: string }
  | { do: 'bring-up'; host: string; reason: string }
  | { do: 'demote'; host: string; reason: string }
  /** `discard`: of both hosts' writes since the cut, those of `loser` go. */
  | { do: 'connect'; survivor: string; loser: string; discard: boolean; reason: string }
  | { do: 'wait'; for: 'decision' | 'sender' | 'connection' | 'sync'; reason: string; outOfSyncBytes: number }
  | { do: 'protect'; reason: string }
  | { do: 'done'; reason: string };

/** @param hosts both hosts of the domain, in any order */
export function nextRecoveryStep(domain: string, hosts: readonly [RecoveryHost, RecoveryHost]): RecoveryStep {
  const runs = (host: RecoveryHost): boolean => host.guests.some(({ name }) => name === domain);
  const [one, other] = hosts;
  const waits = hosts.find(({ undecided }) => undecided !== null);
  if (waits !== undefined) return whoWaits(domain, waits, hosts);
  // Its term is over, and xl may take a minute to see that its guest is gone: that is no protection.
  const ending = hosts.find(({ senderActive, term }) => senderActive && term?.phase === 'ended');
  if (ending !== undefined) {
    return {
      do: 'wait',
      for: 'sender',
      reason: `the sender of ${domain} on ${ending.name} is ending`,
      outOfSyncBytes: 0,
    };
  }
  if (hosts.some(({ senderActive }) => senderActive)) {
    return { do: 'done', reason: `protection of ${domain} is running or starting already` };
  }
  if (hosts.some(({ moving }) => moving === true)) {
    return { do: 'refuse', reason: `${domain} is being moved; remus-drbd switchover ${domain} ends that` };
  }
  if (hosts.some(({ guests }) => guests.some(({ name }) => name === awayName(domain)))) {
    return {
      do: 'refuse',
      reason: `a switchover of ${domain} was cut short; remus-drbd switchover ${domain} ends it`,
    };
  }
  if (!runs(one) && !runs(other)) {
    return {
      do: 'refuse',
      reason: `${domain} runs on neither host; start it where its disks are right, which is ${winnerOf(hosts)?.name ?? 'for you to find out'}`,
    };
  }
  if (runs(one) && runs(other)) return bothRun(domain, hosts);
  const [survivor, loser] = runs(one) ? [one, other] : [other, one];
  const copy = loser.guests.find(({ name }) => name === `${domain}--incoming`);
  if (copy !== undefined && !loser.receiverActive) {
    return { do: 'destroy', host: loser.name, guest: copy.name, reason: 'a paused copy was left there' };
  }
  if (loser.resource === undefined) {
    return { do: 'bring-up', host: loser.name, reason: 'DRBD has no such resource there' };
  }
  const attached = Object.values(loser.resource.volumes).every(({ disk }) => disk !== 'Diskless');
  if (!attached) return { do: 'bring-up', host: loser.name, reason: 'DRBD has no disk there' };
  if (loser.resource.role === 'Primary') {
    return { do: 'demote', host: loser.name, reason: 'the guest does not run there, and DRBD is Primary' };
  }
  return replicationStep(domain, survivor, loser, hosts);
}

/** It ends by itself as soon as the arbiter answers it; until then it must not pass for protection. */
function whoWaits(
  domain: string,
  { name, undecided }: RecoveryHost,
  hosts: readonly [RecoveryHost, RecoveryHost],
): RecoveryStep {
  const winner = winnerOf(hosts);
  const decided =
    winner === undefined || winner.name === name
      ? 'nobody has decided yet'
      : `it was decided for ${winner.name}`;
  return {
    do: 'wait',
    for: 'decision',
    reason: `${name} does not know who goes on with ${domain} (${decided}) and holds what it has: ${undecided ?? ''}`,
    outOfSyncBytes: 0,
  };
}

function replicationStep(
  domain: string,
  survivor: RecoveryHost,
  loser: RecoveryHost,
  hosts: readonly [RecoveryHost, RecoveryHost],
): RecoveryStep {
  const [connection] = survivor.resource?.connections ?? [];
  const state = connection?.connection ?? 'StandAlone';
  const theirs = loser.resource?.connections[0]?.connection ?? 'StandAlone';
  if (state === 'StandAlone' || theirs === 'StandAlone') {
    // Only the last term says whose writes nobody was told of. Without it a person has to.
    const winner = winnerOf(hosts);
    if (winner !== undefined && winner.name !== survivor.name) {
      return {
        do: 'refuse',
        reason: `${domain} runs on ${survivor.name}, but the last term was decided for ${winner.name}; find out which disks are right`,
      };
    }
    const discard = winner !== undefined;
    return {
      do: 'connect',
      survivor: survivor.name,
      loser: loser.name,
      discard,
      reason: discard
        ? `writes of ${loser.name} after the last commit were never released to anyone and are discarded`
        : 'DRBD is not connected',
    };
  }
  if (connection === undefined || state !== 'Connected') {
    return { do: 'wait', for: 'connection', reason: `DRBD is ${state}`, outOfSyncBytes: 0 };
  }
  const peers = Object.values(connection.volumes);
  const outOfSyncBytes = peers.reduce((sum, peer) => sum + peer.outOfSyncBytes, 0);
  const syncing = peers.find(
    ({ replication, peerDisk }) => replication !== 'Established' || peerDisk !== 'UpToDate',
  );
  if (syncing !== undefined) {
    const reason = `DRBD is ${syncing.replication}, the disk on ${loser.name} is ${syncing.peerDisk}`;
    return { do: 'wait', for: 'sync', reason, outOfSyncBytes };
  }
  return { do: 'protect', reason: `both hosts' disks of ${domain} are UpToDate` };
}

/** Only a claim that one of them has lost says which one has to go. */
function bothRun(domain: string, hosts: readonly [RecoveryHost, RecoveryHost]): RecoveryStep {
  const winner = winnerOf(hosts);
  if (winner === undefined) {
    return {
      do: 'refuse',
      reason: `${domain} runs on both hosts, and neither has a record of who won the last term`,
    };
  }
  const loser = hosts[0] === winner ? hosts[1] : hosts[0];
  return {
    do: 'destroy',
    host: loser.name,
    guest: domain,
    reason: `the last term was decided for ${winner.name}`,
  };
}

/** The host that the newest decided term was won by; undefined where none is known. */
export function winnerOf(hosts: readonly [RecoveryHost, RecoveryHost]): RecoveryHost | undefined {
  const newest = Math.max(...hosts.map(({ term }) => term?.term ?? 0));
  const of = (host: RecoveryHost): TermRecord | undefined =>
    host.term !== undefined && host.term.term === newest ? host.term : undefined;
  const [one, other] = hosts;
  for (const [host, peer] of [
    [one, other],
    [other, one],
  ] as const) {
    const outcome = of(host)?.outcome;
    if (outcome === 'won') return host;
    if (outcome === 'lost') return peer;
  }
  return undefined;
}
