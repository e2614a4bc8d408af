/** What the probes of `facts.ts` answer on a host after setup, from `test/data/host`. */
import { readFileSync } from 'node:fs';
import type { ProbeResult } from '../../src/core/facts.js';

export function data(name: string): string {
  return readFileSync(new URL(`../data/host/${name}`, import.meta.url), 'utf8');
}

export function said(stdout: string): ProbeResult {
  return { exitCode: 0, stdout, stderr: '' };
}

/** Files that are not called like their probe. */
const FIXTURES: Readonly<Record<string, string>> = {
  'drbdadm-dump-xml': 'drbdadm-dump-xml-8.4.xml',
  events2: 'events2-connected',
};

/** @param keys of `probeCommands` */
export function hostAnswers(keys: Iterable<string>, host = 'alpha'): Map<string, ProbeResult> {
  const results = new Map<string, ProbeResult>();
  for (const key of keys) {
    const [kind = '', subject] = key.split(' ');
    if (kind === 'wipefs') results.set(key, said(data('wipefs-none')));
    else if (kind === 'sample') results.set(key, said(data('sample-zero')));
    else if (kind === 'drbdmeta') results.set(key, said(data('drbdmeta-v08-used')));
    else if (kind === 'sha256sum') results.set(key, said(`${'a'.repeat(64)}  ${subject}\n`));
    else if (kind === 'uname') results.set(key, said(data('uname').replace('alpha', host)));
    else results.set(key, said(data(FIXTURES[kind] ?? kind)));
  }
  return results;
}
