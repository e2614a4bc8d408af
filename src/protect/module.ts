/** What is read of the DRBD module with protocol D on a host. It has no events, so it is looked at again and again. */
import { readFile } from 'node:fs/promises';
import type { DomainFile } from '../core/domain-file.js';
import { deferringDevice } from '../core/protocol-d/proc-drbd.js';
import type { DeferringDevice } from '../core/protocol-d/proc-drbd.js';

const LOOK_EVERY_MS = 200;

export function procDrbd(): Promise<string> {
  return readFile('/proc/drbd', 'utf8');
}

/** @throws Error where the domain has another number of volumes than one, which the configuration refuses */
export function moduleMinor(domain: DomainFile): number {
  const [volume, ...more] = domain.volumes;
  if (volume === undefined || more.length > 0) {
    throw new Error(`${domain.domain} has ${domain.volumes.length} volumes; with protocol-d it has one`);
  }
  return volume.minor;
}

/** @returns null where every write of the primary reaches the backup, or in DRBD's words why not */
function moduleFault({ connection, disk, peerDisk }: DeferringDevice): string | null {
  if (connection !== 'Connected') return connection;
  if (disk !== 'UpToDate') return `its disk is ${disk} here`;
  return peerDisk === 'UpToDate' ? null : `its disk is ${peerDisk} on the peer`;
}

/** @param onFault called at once and at each change */
export function watchModule(
  minor: number,
  onFault: (fault: string | null) => void,
  read: () => Promise<string> = procDrbd,
): { close(): void } {
  let last: string | null | undefined;
  const look = async (): Promise<void> => {
    let fault: string | null;
    try {
      fault = moduleFault(deferringDevice(await read(), minor));
    } catch (error) {
      fault = (error as Error).message;
    }
    if (fault === last) return;
    last = fault;
    onFault(fault);
  };
  void look();
  const timer = setInterval(() => void look(), LOOK_EVERY_MS);
  return { close: () => clearInterval(timer) };
}
