/**
 * Resources of the 8.3 module as the others see them: in the words of `drbdsetup events2`, which 8.3 does not have.
 * /proc/drbd knows only minors; which resource has which is in the configuration.
 */
import { ReplicationStates, understood } from '../facts.js';
import type { ConfiguredResource, ConnectionState, ReplicationState, RunningResource } from '../facts.js';
import type { DomainFile } from '../domain-file.js';
import { parseDeferringDrbd } from './proc-drbd.js';
import type { DeferringDevice } from './proc-drbd.js';

/** States of a connection that is not there, which 8.4 calls by other names or by the same. */
const WITHOUT_PEER: Partial<Record<DeferringDevice['connection'], ConnectionState>> = {
  StandAlone: 'StandAlone',
  Disconnecting: 'Disconnecting',
  Unconnected: 'Unconnected',
  Timeout: 'Timeout',
  BrokenPipe: 'BrokenPipe',
  NetworkFailure: 'NetworkFailure',
  ProtocolError: 'ProtocolError',
  TearDown: 'TearDown',
  WFConnection: 'Connecting',
  WFReportParams: 'Connecting',
};

export interface ModuleView {
  /** Undefined where the module has no such device. */
  resource: RunningResource | undefined;
  protocol: string | null;
}

/** Whether this `/proc/drbd` is of DRBD 8.3, with protocol D or without. */
export function isModule83(procDrbd: string): boolean {
  return /^version: 8\.3\./.test(procDrbd);
}

/**
 * All that runs on a host. A device that its configuration does not have is called `minor N`.
 *
 * @throws ParseError where the module is not one with protocol D
 */
export function moduleResources(
  procDrbd: string,
  configured: readonly ConfiguredResource[],
  nodeName: string,
): RunningResource[] {
  const nameOf = (minor: number): string | undefined =>
    configured.find(({ hosts }) =>
      hosts.some(({ name, volumes }) => name === nodeName && volumes.some((each) => each.minor === minor)),
    )?.name;
  return [...parseDeferringDrbd(procDrbd).values()].map((device) =>
    asRunning(nameOf(device.minor) ?? `minor ${device.minor}`, device),
  );
}

/**
 * The resource with this minor.
 *
 * @throws OperatorError where the module is not one with protocol D
 */
export function moduleResource(
  host: string,
  name: string,
  minor: number,
  procDrbd: string,
): RunningResource | undefined {
  const device = understood(host, () => parseDeferringDrbd(procDrbd)).get(minor);
  return device === undefined ? undefined : asRunning(name, device);
}

/**
 * @param domainFile /etc/remus-drbd/domains/DOMAIN.json of the host, if it is there
 * @param procDrbd /proc/drbd of the host, if it is there
 * @returns null where the domain has another engine, or is not set up on a host with another DRBD
 * @throws OperatorError where the module is not one with protocol D
 */
export function readModule(
  host: string,
  domainFile: string | undefined,
  procDrbd: string | undefined,
): ModuleView | null {
  const nothing: ModuleView = { resource: undefined, protocol: null };
  if (domainFile === undefined) return procDrbd !== undefined && isModule83(procDrbd) ? nothing : null;
  const { domain, engine, volumes } = JSON.parse(domainFile) as DomainFile;
  if (engine !== 'protocol-d') return null;
  if (procDrbd === undefined) return nothing;
  const devices = understood(host, () => parseDeferringDrbd(procDrbd));
  const device = devices.get(volumes[0]?.minor ?? -1);
  if (device === undefined) return nothing;
  return { resource: asRunning(domain, device), protocol: device.protocol ?? null };
}

function asRunning(name: string, device: DeferringDevice): RunningResource {
  const { minor, connection, role, peerRole, disk, peerDisk, outOfSyncBytes, suspended } = device;
  const replication = replicationOf(connection);
  const peerVolume = { volume: 0, replication, peerDisk, resyncSuspended: 'no', outOfSyncBytes };
  return {
    name,
    role,
    suspended: suspended ? 'user' : 'no',
    volumes: { 0: { volume: 0, minor, disk } },
    connections: [
      {
        peer: 'peer',
        connection: WITHOUT_PEER[connection] ?? 'Connected',
        peerRole,
        volumes: { 0: peerVolume },
      },
    ],
  };
}

function replicationOf(connection: DeferringDevice['connection']): ReplicationState {
  if (WITHOUT_PEER[connection] !== undefined) return 'Off';
  // 8.3 has one word for both; all that are left are states of the replication.
  return ReplicationStates.find((state) => state === connection) ?? 'Established';
}
