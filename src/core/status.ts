/**
 * What `status` says of each domain, from what was read on both hosts. The states are DRBD's own words; of
 * several volumes the worst is shown.
 */
import type {
  ConnectionState,
  DiskState,
  ReplicationState,
  Role,
  RunningConnection,
  RunningResource,
} from './facts.js';
import type { TermRecord } from './claim/term.js';
import { DiskStates, ReplicationStates } from './facts.js';
import type { DomainLayout } from './model.js';
import type { FiguresSummary } from './protect/figures.js';
import type { ReceiverReport, SenderReport } from './protect/report.js';
import { openIntents } from './protect/switchover.js';
import type { SwitchoverIntent } from './protect/switchover.js';

export type Protection = 'unprotected' | 'starting' | 'protected' | 'suspended' | 'failed-over' | 'resyncing';

export interface ResourceStatus {
  role: Role;
  peerRole: Role;
  connectionState: ConnectionState;
  diskState: DiskState;
  peerDiskState: DiskState;
  replicationState: ReplicationState;
  outOfSyncBytes: number;
}

export interface DomainStatus {
  pair: string;
  domain: string;
  protection: Protection;
  /** Why it is not `protected`; what to do where something is wrong. */
  reason: string;
  primary: string;
  backup: string;
  term: number | null;
  committedEpoch: number | null;
  intervalMs: number;
  /** What checkpoints cost lately; null while there are none. */
  figures: FiguresSummary | null;
  /** As the primary sees it, or the backup where the primary can't be asked; null where neither has it. */
  resource: ResourceStatus | null;
}

/** What one host answered: the domain's resource in its kernel and whether its guest runs there. */
export type HostAnswer =
  | {
      reached: true;
      resource: RunningResource | undefined;
      guestRuns: boolean;
      /** What its sender and receiver said of themselves lately; undefined where there was never one. */
      sender?: SenderReport | string | undefined;
      receiver?: ReceiverReport | string | undefined;
      /** The latest term that it took part in. */
      term?: TermRecord;
      /** Of a switchover that it took part in and that may not have ended; in words where it can't be read. */
      intent?: SwitchoverIntent | string;
    }
  | { reached: false; reason: string };

/**
 * @param answers by host name, for both hosts of the domain
 */
export function domainStatus(
  layout: DomainLayout,
  answers: Readonly<Record<string, HostAnswer>>,
): DomainStatus {
  const { domain } = layout;
  const [primary, backup] = parts(layout, answers);
  const seen = [primary, backup]
    .map((host) => answers[host])
    .find((answer) => answer?.reached === true && answer.resource !== undefined);
  const resource =
    seen?.reached === true && seen.resource !== undefined ? resourceStatus(seen.resource) : null;
  const switchovers = openSwitchovers(domain.name, primary, backup, answers);
  const inOrder = (term: TermStatus): DomainStatus => ({
    pair: layout.pair.name,
    domain: domain.name,
    protection: term.protection,
    reason: [term.reason, ...switchovers].join('; '),
    primary,
    backup,
    term: term.term,
    committedEpoch: term.committedEpoch,
    intervalMs: term.intervalMs,
    resource,
    figures: term.figures,
  });
  const term = termStatus(answers, primary, backup, resource);
  if (term !== null) return inOrder(term);
  const takenOver = takenOverTerm(answers[primary]);
  const reason = reasonOf(layout, answers, resource);
  return inOrder({
    protection: isSyncing(resource) ? 'resyncing' : takenOver === null ? 'unprotected' : 'failed-over',
    reason:
      takenOver === null
        ? reason
        : `${primary} took the guest over in term ${takenOver}; ${reason}; when ${backup} is back: remus-drbd recover ${domain.name}`,
    term: takenOver,
    committedEpoch: null,
    intervalMs: domain.checkpoint.intervalMs,
    figures: null,
  });
}

/** A switchover that was begun and has not ended, and what to do where nobody is at it any more. */
function openSwitchovers(
  domain: string,
  primary: string,
  backup: string,
  answers: Readonly<Record<string, HostAnswer>>,
): string[] {
  const unread: string[] = [];
  const noted = (name: string): Parameters<typeof openIntents>[0][number] => {
    const answer = answers[name];
    const { term, intent } = answer?.reached === true ? answer : {};
    if (typeof intent === 'string') unread.push(`the note of a switchover on ${name} ${intent}`);
    return { name, term, intent: typeof intent === 'string' ? undefined : intent };
  };
  const open = openIntents([noted(primary), noted(backup)]);
  return [
    ...unread,
    ...open.map(
      ({ from, to, term }) =>
        `a switchover from ${from} to ${to} (term ${term}) was begun and has not ended: unless it is under way now, go ` +
        `on with remus-drbd switchover ${domain} --to ${to}, or take it back with --to ${from}`,
    ),
  ];
}

/** The term in which the host where the guest runs was the backup and took it over; null where it was not. */
function takenOverTerm(answer: HostAnswer | undefined): number | null {
  if (answer?.reached !== true || !answer.guestRuns || answer.term === undefined) return null;
  const { role, phase, outcome, term } = answer.term;
  return role === 'backup' && phase === 'ended' && outcome === 'won' ? term : null;
}

type TermStatus = Pick<
  DomainStatus,
  'protection' | 'reason' | 'term' | 'committedEpoch' | 'intervalMs' | 'figures'
>;

/**
 * What the processes of a term say, each checked against the other and against DRBD: `protected` only where all agree.
 * @returns null where no term is under way
 */
function termStatus(
  answers: Readonly<Record<string, HostAnswer>>,
  primary: string,
  backup: string,
  resource: ResourceStatus | null,
): TermStatus | null {
  const [here, there] = [answers[primary], answers[backup]];
  const sender = here?.reached === true ? here.sender : undefined;
  const receiver = there?.reached === true ? there.receiver : undefined;
  if (sender === undefined || typeof sender === 'string') return null;
  // Its last word. What counts afterwards is what DRBD and xl say.
  if (sender.phase === 'decided') return null;
  const status: TermStatus = {
    protection: sender.protection,
    reason: sender.reason,
    term: sender.term,
    committedEpoch: sender.committedEpoch === 0 ? null : sender.committedEpoch,
    intervalMs: sender.intervalMs,
    figures: sender.figures,
  };
  if (sender.protection !== 'protected') return status;
  const doubt = doubtOf(sender, receiver, there, resource, backup);
  return doubt === null ? status : { ...status, protection: 'suspended', reason: doubt };
}

/** Why a sender that calls itself protected is not believed. */
function doubtOf(
  sender: SenderReport,
  receiver: ReceiverReport | string | undefined,
  there: HostAnswer | undefined,
  resource: ResourceStatus | null,
  backup: string,
): string | null {
  if (there === undefined || !there.reached)
    return `${backup} can't be asked: ${there?.reason ?? 'no answer'}`;
  if (receiver === undefined) return `there is no receiver on ${backup}`;
  if (typeof receiver === 'string') return `the receiver on ${backup}: ${receiver}`;
  if (receiver.term !== sender.term || receiver.session !== sender.session) {
    return `the receiver on ${backup} is in term ${receiver.term}, the sender in ${sender.term}`;
  }
  if (receiver.phase !== 'on')
    return `the receiver on ${backup} is in phase ${receiver.phase}: ${receiver.reason}`;
  if (resource?.connectionState !== 'Connected') return `DRBD is ${resource?.connectionState ?? 'not up'}`;
  if (resource.diskState !== 'UpToDate' || resource.peerDiskState !== 'UpToDate') {
    return `disks are ${resource.diskState}/${resource.peerDiskState}`;
  }
  return null;
}

/** The hosts by their parts as they are now: where the guest runs, else where DRBD is Primary, else as configured. */
function parts(layout: DomainLayout, answers: Readonly<Record<string, HostAnswer>>): [string, string] {
  const names = [layout.domain.primary, layout.domain.backup];
  const active = (test: (answer: HostAnswer & { reached: true }) => boolean): string[] =>
    names.filter((name) => {
      const answer = answers[name];
      return answer?.reached === true && test(answer);
    });
  const runs = active((answer) => answer.guestRuns);
  const promoted = active((answer) => answer.resource?.role === 'Primary');
  const [only] = runs.length === 1 ? runs : promoted.length === 1 ? promoted : [];
  const primary = only ?? layout.domain.primary;
  return [primary, primary === layout.domain.primary ? layout.domain.backup : layout.domain.primary];
}

function resourceStatus(resource: RunningResource): ResourceStatus {
  const connection: RunningConnection | undefined = resource.connections[0];
  const volumes = Object.values(resource.volumes);
  const peers = Object.values(connection?.volumes ?? {});
  return {
    role: resource.role,
    peerRole: connection?.peerRole ?? 'Unknown',
    connectionState: connection?.connection ?? 'StandAlone',
    diskState: worst(
      volumes.map(({ disk }) => disk),
      DiskStates,
    ),
    peerDiskState: worst(
      peers.map(({ peerDisk }) => peerDisk),
      DiskStates,
      'DUnknown',
    ),
    replicationState: busiest(peers.map(({ replication }) => replication)),
    outOfSyncBytes: peers.reduce((sum, { outOfSyncBytes }) => sum + outOfSyncBytes, 0),
  };
}

/** The lists of states go from nothing to everything, as the kernel's `enum drbd_disk_state` does. */
function worst<T extends string>(states: readonly T[], order: readonly T[], none?: T): T {
  const [first] = [...states].sort((a, b) => order.indexOf(a) - order.indexOf(b));
  return first ?? none ?? order[0]!;
}

/** A sync of any volume shows; otherwise what all of them are. */
function busiest(states: readonly ReplicationState[]): ReplicationState {
  return (
    states.find((state) => state !== 'Established' && state !== 'Off') ?? states[0] ?? ReplicationStates[0]
  );
}

function isSyncing(resource: ResourceStatus | null): boolean {
  return (
    resource !== null &&
    /^(SyncSource|SyncTarget|PausedSync[ST]|WF\w+|StartingSync[ST])$/.test(resource.replicationState)
  );
}

function reasonOf(
  layout: DomainLayout,
  answers: Readonly<Record<string, HostAnswer>>,
  resource: ResourceStatus | null,
): string {
  const reasons: string[] = [];
  for (const { name } of layout.hosts) {
    const answer = answers[name];
    if (answer === undefined || !answer.reached) {
      reasons.push(`${name} can't be asked: ${answer?.reason ?? 'no answer'}`);
    } else if (answer.resource === undefined) {
      reasons.push(`the DRBD resource is not up on ${name} ("remus-drbd setup" brings it up)`);
    }
  }
  const running = layout.hosts.filter(({ name }) => {
    const answer = answers[name];
    return answer?.reached === true && answer.guestRuns;
  });
  if (running.length > 1) reasons.push('the guest runs on BOTH hosts');
  if (resource !== null) {
    if (resource.connectionState !== 'Connected') reasons.push(`DRBD is ${resource.connectionState}`);
    if (resource.diskState !== 'UpToDate' || resource.peerDiskState !== 'UpToDate') {
      reasons.push(`disks are ${resource.diskState}/${resource.peerDiskState}`);
    }
    if (isSyncing(resource))
      reasons.push(`${resource.replicationState}, ${resource.outOfSyncBytes} bytes left`);
  }
  reasons.push(running.length === 0 ? 'the guest does not run' : 'no checkpoints are being sent');
  return reasons.join('; ');
}
