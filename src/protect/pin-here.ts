/** Pins a domain on this host: after a failover nobody else may be there to do it. See `core/pin.ts`. */
import { PIN_COMMANDS, pinFiles, planPin, readPinState } from '../core/pin.js';
import type { Pin } from '../core/pin.js';
import { readSmall, writeDurably } from '../edge/durable-file.js';
import type { Executor } from '../journal/switch.js';
import { exec, must } from './exec.js';

/** What of this host is used, so that tests can put a fake in its place. */
interface Here {
  exec: Executor;
  read: (path: string, bytesMax: number) => Promise<string | undefined>;
  write: (path: string, text: string, mode: number) => Promise<void>;
}

const COMMAND_MS = 30_000;
const FILE_BYTES_MAX = 1 << 20;

/**
 * @returns the reasons of what was changed; empty where all was right
 * @throws Error; the guest runs all the same, and it can be done again
 */
export async function pinHere(
  domain: string,
  pin: Pin,
  here: Here = { exec, read: readSmall, write: writeDurably },
): Promise<string[]> {
  const [list, files] = [PIN_COMMANDS.get('vcpus') ?? [], PIN_COMMANDS.get('files') ?? []];
  const texts = new Map<string, string>();
  for (const path of pinFiles(domain)) {
    const text = await here.read(path, FILE_BYTES_MAX);
    if (text !== undefined) texts.set(path, text);
  }
  // Before the first domain there is no such folder.
  const found = await here.exec(files, { timeoutMs: COMMAND_MS });
  const state = readPinState(
    domain,
    await must(list, COMMAND_MS, here.exec),
    found.stdout.split('\n'),
    (path) => texts.get(path),
  );
  const reasons: string[] = [];
  for (const step of planPin(pin, domain, state)) {
    if (step.kind === 'write') await here.write(step.path, step.text, 0o644);
    if (step.kind !== 'run') continue;
    await must(step.argv, COMMAND_MS, here.exec);
    reasons.push(step.reason);
  }
  return reasons;
}
