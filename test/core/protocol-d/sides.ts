/** The texts in test/data/proc-drbd, of `/proc/drbd` as devices. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { parseDeferringDrbd } from '../../../src/core/protocol-d/proc-drbd.js';
import type { DeferringDevice } from '../../../src/core/protocol-d/proc-drbd.js';

export function read(name: string): string {
  return readFileSync(join('test/data/proc-drbd', name), 'utf8');
}

/** The device with minor 1. */
export function device(name: string): DeferringDevice {
  const found = parseDeferringDrbd(read(name)).get(1);
  if (found === undefined) throw new Error(`${name} has no minor 1`);
  return found;
}
