/**
 * The calls of drbdadm that differ between DRBD 8.4 or 9 and 8.3 (drbdadm(8) of each). In 8.3 a resource has one
 * volume, and what drbdadm is to hand on to drbdsetup or drbdmeta stands before the command, behind `--`: an option
 * behind the command is ignored without a word.
 */
import type { Domain } from '../model.js';

type Of = Pick<Domain, 'name' | 'engine'>;

/** Makes meta-data, without questions. */
export function createMetaData({ name, engine }: Of, volume: number): string[] {
  return engine === 'protocol-d'
    ? ['drbdadm', '--', '--force', 'create-md', name]
    : ['drbdadm', 'create-md', '--force', `${name}/${volume}`];
}

/** Declares both sides of a volume that was just created equal. */
export function skipFirstSync({ name, engine }: Of, volume: number): string[] {
  return engine === 'protocol-d'
    ? ['drbdadm', '--', '--clear-bitmap', 'new-current-uuid', name]
    : ['drbdadm', 'new-current-uuid', '--clear-bitmap', `${name}/${volume}`];
}

/** Declares this side the one with the data. */
export function promoteByForce({ name, engine }: Of): string[] {
  return engine === 'protocol-d'
    ? ['drbdadm', '--', '--overwrite-data-of-peer', 'primary', name]
    : ['drbdadm', 'primary', '--force', name];
}
