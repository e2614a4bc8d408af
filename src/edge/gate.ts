/**
 * The gate of a domain on a host: whether the hotplug script `block-drbd` may connect the guest's disks here.
 * A host that holds the backup of a protected guest keeps it shut.
 *
 *     /run/remus-drbd/DOMAIN/gate        counts while it is there
 *     /var/lib/remus-drbd/DOMAIN/gate    counts otherwise: it is what a host finds after its restart
 *
 * One line: `shut` or `open`, a space, and why. Without either file the gate is open. Each file is replaced by
 * a rename, so that the script never reads half of one.
 */
import { join } from 'node:path';
import { Paths } from '../core/names.js';
import { readSmall, REAL_STEPS, removeDurably, writeDurably, type FileSteps } from './durable-file.js';

export type GateState = 'shut' | 'open';

export interface GateDirectories {
  /** `Paths.run` on a host. */
  run: string;
  /** `Paths.state` on a host. */
  state: string;
}

const HOST_DIRECTORIES: GateDirectories = { run: Paths.run, state: Paths.state };
const FILE_MODE = 0o644;
const REASON_CHARS_MAX = 500;
const FILE_BYTES_MAX = 4096;

/**
 * Sets the gate, now and for after a restart. The lasting file comes first: were it the other way round, a
 * crash in between would bring back what was before.
 *
 * @param reason shown to whoever is refused; one line, longer ones are cut
 * @throws NodeJS.ErrnoException; the gate then is what it was or what it was to be
 */
export async function setGate(
  domain: string,
  state: GateState,
  reason: string,
  directories: GateDirectories = HOST_DIRECTORIES,
  steps: FileSteps = REAL_STEPS,
): Promise<void> {
  const line = `${state} ${reason.replace(/\s+/g, ' ').trim().slice(0, REASON_CHARS_MAX)}\n`;
  await writeDurably(join(directories.state, domain, 'gate'), line, FILE_MODE, steps);
  await writeDurably(join(directories.run, domain, 'gate'), line, FILE_MODE, steps);
}

/**
 * Takes the gate away, so that the domain's disks are like any others: for a domain that is torn down.
 *
 * @throws NodeJS.ErrnoException; the gate may then be as it was
 */
export async function removeGate(
  domain: string,
  directories: GateDirectories = HOST_DIRECTORIES,
  steps: FileSteps = REAL_STEPS,
): Promise<void> {
  await removeDurably(join(directories.state, domain, 'gate'), steps);
  await removeDurably(join(directories.run, domain, 'gate'), steps);
}

/**
 * The gate as the script sees it, with the reason in it. What can't be understood is shut, as it is there.
 */
export async function readGate(
  domain: string,
  directories: GateDirectories = HOST_DIRECTORIES,
): Promise<{ state: GateState; reason: string }> {
  for (const directory of [directories.run, directories.state]) {
    const path = join(directory, domain, 'gate');
    let text: string | undefined;
    try {
      text = await readSmall(path, FILE_BYTES_MAX);
    } catch (error) {
      return { state: 'shut', reason: `${path} can't be read: ${(error as Error).message}` };
    }
    if (text === undefined) continue;
    const line = text.split('\n', 1)[0] ?? '';
    const [, word, reason] = /^[ \t]*(\S*)[ \t]*(.*)$/.exec(line) ?? [];
    if (word === 'shut' || word === 'open') return { state: word, reason: (reason ?? '').trim() };
    return { state: 'shut', reason: `${path} says '${word ?? ''}'; needed is 'open' or 'shut'` };
  }
  return { state: 'open', reason: 'there is no gate' };
}
