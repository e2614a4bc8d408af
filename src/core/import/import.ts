/**
 * `import` as a whole, without files: from the texts of old configurations to a pair.yaml, new guest
 * configurations, and what became of each line.
 */

import type { DrbdFile } from './drbd.js';
import { readDrbdFile } from './drbd.js';
import type { GuestFile } from './guest.js';
import { readGuestFile } from './guest.js';
import { ImportError, inputText } from './ledger.js';
import type { LineEntry } from './ledger.js';
import { planPairs } from './pairs.js';
import type { ImportedFiles } from './write.js';
import { writeImport } from './write.js';

export interface Input {
  /** How reports name it. */
  file: string;
  text: string;
}

export interface ImportResult extends ImportedFiles {
  /** In the order of the inputs. */
  inputs: { file: string; kind: 'guest' | 'drbd'; lines: LineEntry[] }[];
}

/**
 * Imports configurations of guests and of DRBD together.
 *
 * @param taken file names that no new guest configuration may get
 * @throws {ImportError} when an input is no text, or nothing in them is a guest or a resource
 */
export function importConfigurations(inputs: readonly Input[], taken: readonly string[] = []): ImportResult {
  const read = inputs.map(({ file, text }) => {
    const clean = inputText(text, file);
    return kindOf(clean) === 'drbd'
      ? { kind: 'drbd' as const, drbd: readDrbdFile(clean, file) }
      : { kind: 'guest' as const, guest: readGuestFile(clean, file) };
  });
  const guests: GuestFile[] = read.flatMap((one) => (one.kind === 'guest' ? [one.guest] : []));
  const files: DrbdFile[] = read.flatMap((one) => (one.kind === 'drbd' ? [one.drbd] : []));
  const real = guests.filter((guest) => !isEmpty(guest));
  const pairs = planPairs(real, files);
  if (pairs.length === 0) {
    throw new ImportError(
      inputs.map(({ file }) => file).join(', '),
      'neither a guest (with "name", "disk", ...) nor a DRBD resource is in it',
    );
  }
  const written = writeImport(
    pairs,
    inputs.map(({ file }) => file),
    taken,
  );
  return {
    ...written,
    inputs: read.map((one) => {
      const { file, ledger } = one.kind === 'drbd' ? one.drbd : one.guest;
      return { file, kind: one.kind, lines: ledger.entries() };
    }),
  };
}

/** A file of DRBD begins with one of its sections; anything else is taken for a guest's. */
function kindOf(text: string): 'drbd' | 'guest' {
  const line = text.split('\n').find((one) => !/^\s*(?:#|$)/.test(one)) ?? '';
  return /^\s*(?:global|common|resource|include|skip)\b\s*(?!=)(?:[^\s=]|$)/.test(line) ? 'drbd' : 'guest';
}

/** Nothing in it was a key of a guest: it is some other file. */
function isEmpty(guest: GuestFile): boolean {
  return (
    guest.name === undefined && guest.disks.length === 0 && guest.config.every(({ value }) => value === '')
  );
}
