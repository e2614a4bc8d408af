/** Pins a domain on a host, and undoes it, from the controller; what is done and why is in `core/pin.ts`. */
import { OperatorError } from '../core/errors.js';
import { understood } from '../core/facts.js';
import { PIN_COMMANDS, pinFiles, planPin, planUnpin, readPinState } from '../core/pin.js';
import type { Pin, PinState, PinStep } from '../core/pin.js';
import { quoteCommand } from '../core/quote.js';
import { HostError } from '../edge/host.js';
import type { Host } from '../edge/host.js';
import { mustRun } from './host-command.js';

const COMMAND_MS = 60_000;

/**
 * The dom0 of both hosts, and the guest where it runs. It is for speed alone: where it fails, what it was done for
 * goes on, and people are told.
 *
 * @param pin undefined undoes it
 * @returns the commands that changed a host, or in a dry run would, each with its reason
 */
export async function pinHosts(
  hosts: readonly Host[],
  domain: string,
  pin: Pin | undefined,
  tell: (text: string) => void,
  dryRun: boolean,
): Promise<string[]> {
  const told: string[] = [];
  for (const host of hosts) {
    try {
      const state = await readState(host, domain);
      const steps = pin === undefined ? planUnpin(domain, state) : planPin(pin, domain, state);
      told.push(...(await carryOut(host, steps, dryRun)));
    } catch (error) {
      if (!(error instanceof OperatorError || error instanceof HostError)) throw error;
      const what = pin === undefined ? 'the CPUs that "pin" gave it could not be taken back' : 'not pinned';
      tell(`${domain}: ${what} on ${host.name}: ${error.message}`);
    }
  }
  return told;
}

async function readState(host: Host, domain: string): Promise<PinState> {
  const [results, files] = await Promise.all([host.probe(PIN_COMMANDS), host.readFiles(pinFiles(domain))]);
  const list = results.get('vcpus');
  if (list === undefined || list.exitCode !== 0) {
    throw new OperatorError(`${host.name}: xl vcpu-list failed: ${list?.stderr.trim() ?? 'no answer'}`);
  }
  const found = results.get('files')?.stdout.split('\n') ?? [];
  return understood(host.name, () =>
    readPinState(domain, list.stdout, found, (path) => {
      const file = files.get(path);
      return file === undefined ? undefined : new TextDecoder().decode(file.content);
    }),
  );
}

async function carryOut(host: Host, steps: readonly PinStep[], dryRun: boolean): Promise<string[]> {
  const told: string[] = [];
  for (const step of steps) {
    if (step.kind === 'run') told.push(`${host.name}: ${quoteCommand(step.argv)}: ${step.reason}`);
    if (dryRun) continue;
    switch (step.kind) {
      case 'write':
        await host.writeFile(step.path, new TextEncoder().encode(step.text), 0o644);
        break;
      case 'run':
        await mustRun(host, step.argv, COMMAND_MS);
        break;
      case 'remove':
        await mustRun(host, ['rm', '-f', '--', step.path], COMMAND_MS);
        break;
    }
  }
  return told;
}
