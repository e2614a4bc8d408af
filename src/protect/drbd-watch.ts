/**
 * Watches one DRBD resource: `drbdsetup events2` says that something has changed, and then the whole state is read
 * anew, so that what is reported is never older than the last event.
 */
import { spawn } from 'node:child_process';
import { drbdCommand, parseDrbdRunning } from '../core/facts.js';
import type { RunningResource } from '../core/facts.js';
import type { DomainFile } from '../core/domain-file.js';
import { exec } from './exec.js';
import { moduleMinor, watchModule } from './module.js';

const READ_MS = 10_000;
const AGAIN_MS = 1_000;

interface DrbdWatch {
  close(): void;
}

/**
 * @param onState called with the state now and after each change; null with the reason when it can't be read
 */
function watchDrbd(
  resource: string,
  onState: (state: RunningResource | null, reason: string) => void,
): DrbdWatch {
  let isClosed = false;
  let isReading = false;
  let isStale = true;
  let child: ReturnType<typeof spawn> | null = null;
  let timer: NodeJS.Timeout | null = null;

  const read = async (): Promise<void> => {
    isStale = true;
    if (isReading) return;
    isReading = true;
    while (isStale && !isClosed) {
      isStale = false;
      const [state, reason] = await readDrbd(resource);
      if (!isClosed) onState(state, reason);
    }
    isReading = false;
  };
  const start = (): void => {
    if (isClosed) return;
    child = spawn('drbdsetup', ['events2', resource], { stdio: ['ignore', 'pipe', 'ignore'] });
    child.stdout?.on('data', () => void read());
    child.on('error', () => undefined);
    child.on('close', () => {
      void read();
      if (!isClosed) timer = setTimeout(start, AGAIN_MS);
    });
  };
  start();
  return {
    close: () => {
      isClosed = true;
      if (timer !== null) clearTimeout(timer);
      child?.kill('SIGKILL');
    },
  };
}

/**
 * Whether every write of the primary reaches the backup's disks, now and at each change.
 *
 * @param onFault null where it does, or why not
 */
export function watchReplication(domain: DomainFile, onFault: (fault: string | null) => void): DrbdWatch {
  if (domain.engine === 'protocol-d') return watchModule(moduleMinor(domain), onFault);
  return watchDrbd(domain.domain, (state, reason) => {
    onFault(state === null ? reason : replicationFault(state));
  });
}

/** The state of one resource now, or null and why. */
export async function readDrbd(resource: string): Promise<[RunningResource | null, string]> {
  const result = await exec(drbdCommand(), { timeoutMs: READ_MS });
  try {
    const fact = parseDrbdRunning('this host', {
      exitCode: result.code ?? 124,
      stdout: result.stdout,
      stderr: result.stderr,
    });
    if (!fact.known) return [null, fact.reason];
    const found = fact.value.find(({ name }) => name === resource);
    return found === undefined ? [null, `DRBD has no resource ${resource}`] : [found, ''];
  } catch (error) {
    return [null, (error as Error).message];
  }
}

/**
 * Whether every write of the primary reaches the backup's disks.
 * @returns null when it does, or in DRBD's words why not
 */
export function replicationFault(state: RunningResource): string | null {
  const [connection] = state.connections;
  if (connection === undefined) return 'StandAlone';
  if (connection.connection !== 'Connected') return connection.connection;
  for (const [volume, { disk }] of Object.entries(state.volumes)) {
    if (disk !== 'UpToDate') return `volume ${volume} is ${disk} here`;
  }
  for (const [volume, peer] of Object.entries(connection.volumes)) {
    if (peer.peerDisk !== 'UpToDate') return `volume ${volume} is ${peer.peerDisk} on the peer`;
    if (peer.replication !== 'Established') return `volume ${volume} is ${peer.replication}`;
  }
  return null;
}
