/**
 * Keeping the dom0 and a guest on CPUs of their own, as `pin: { dom0: [0], guest: [1] }` asks for: the dom0 sends
 * the checkpoints, so a guest that is busy on its CPU delays them.
 *
 * Hard affinity is set with `xl vcpu-pin` (xl(1)). It holds until the host or the guest restarts, and a guest that
 * arrives on the other host has that of its configuration there. So `protect` applies it, to the dom0 of both hosts
 * and to the guest where it runs, and the receiver to a guest that it has taken over. `unprotect` and `teardown`
 * undo it.
 *
 * What was there before is kept on the host before anything is changed, in /run, because it ends with the host's run
 * as the affinity itself does:
 *
 *     /run/remus-drbd/DOMAIN/pin.json    this domain is pinned here, and what its guest had before
 *     /run/remus-drbd/dom0-pin.json      what the dom0 had; it gets that back when no domain is pinned here any more
 */
import { z } from 'zod';
import { ExitCode, OperatorError } from './errors.js';
import type { Domain } from './model.js';
import { Paths, runPath } from './names.js';
import type { CpuPlace, Vcpu } from './parse/vcpu.js';
import { parseXlVcpuList } from './parse/vcpu.js';

export type Pin = NonNullable<Domain['pin']>;

/** Xen's name for the dom0. */
const DOM0 = 'Domain-0';

const cpus = z.array(z.number().int().min(0));
const affinity = z.strictObject({
  /** Of the domain that had it; another one is another guest, or the same one started anew. */
  domainId: z.number().int().min(0),
  /** What it was given by us. */
  pinned: cpus,
  before: z.array(z.strictObject({ vcpu: z.number().int().min(0), hard: z.union([z.literal('all'), cpus]) })),
});
const dom0File = z.strictObject({ format: z.literal(1), ...affinity.shape });
/** `guest`: null where it doesn't run. */
const domainFile = z.strictObject({ format: z.literal(1), guest: affinity.nullable() });
type Affinity = z.output<typeof affinity>;

export const DOM0_PIN_PATH = `${Paths.run}/dom0-pin.json`;

export function pinPath(domain: string): string {
  return runPath(domain, 'pin.json');
}

export type PinStep =
  | { kind: 'write'; path: string; text: string }
  /** `reason`: what was found, and why it is changed. */
  | { kind: 'run'; argv: string[]; reason: string }
  | { kind: 'remove'; path: string };

/** One host as it is. */
export interface PinState {
  vcpus: Vcpu[];
  dom0: Affinity | undefined;
  domain: { guest: Affinity | null } | undefined;
  /** Other domains that are pinned there. */
  others: string[];
}

/** What is to be read of a host for `readPinState`: the commands, by key, and the files. */
export const PIN_COMMANDS: ReadonlyMap<string, readonly string[]> = new Map([
  ['vcpus', ['xl', 'vcpu-list']],
  ['files', ['find', Paths.run, '!', '-type', 'd']],
]);

export function pinFiles(domain: string): string[] {
  return [DOM0_PIN_PATH, pinPath(domain)];
}

/**
 * @param vcpuList what `xl vcpu-list` printed
 * @param files the paths below /run/remus-drbd
 * @param read the text of a file, if it is there
 * @throws {ParseError} for a list that isn't understood
 * @throws {OperatorError} for a file that isn't
 */
export function readPinState(
  domain: string,
  vcpuList: string,
  files: readonly string[],
  read: (path: string) => string | undefined,
): PinState {
  const own = pinPath(domain);
  return {
    vcpus: parseXlVcpuList(vcpuList),
    dom0: parseNote(DOM0_PIN_PATH, read(DOM0_PIN_PATH), dom0File),
    domain: parseNote(own, read(own), domainFile),
    others: pinnedDomains(files).filter((name) => name !== domain),
  };
}

/** @throws OperatorError */
export function parseDom0Pin(text: string | undefined): PinState['dom0'] {
  return parseNote(DOM0_PIN_PATH, text, dom0File);
}

function parseNote<T>(path: string, text: string | undefined, schema: z.ZodType<T>): T | undefined {
  if (text === undefined) return undefined;
  try {
    return schema.parse(JSON.parse(text));
  } catch (error) {
    const next = `Which CPUs there were before is lost; set them with "xl vcpu-pin", and remove the file`;
    throw new OperatorError(`${path} can't be read. ${next}`, ExitCode.failed, error);
  }
}

/** The domains that are pinned on a host, by the paths below /run/remus-drbd. */
export function pinnedDomains(files: readonly string[]): string[] {
  return files.flatMap((path) => {
    const name = path.startsWith(`${Paths.run}/`)
      ? path.slice(Paths.run.length + 1, -'/pin.json'.length)
      : '';
    return path === pinPath(name) ? [name] : [];
  });
}

/** What is to be done on one host so that a domain is pinned there; nothing where all is right. */
export function planPin(pin: Pin, domain: string, state: PinState): PinStep[] {
  const dom0 = noteOf(DOM0, pin.dom0, state.vcpus, state.dom0);
  const guest = noteOf(domain, pin.guest, state.vcpus, state.domain?.guest ?? undefined) ?? null;
  const steps: PinStep[] = [];
  const note = (path: string, found: unknown, wanted: object): void => {
    if (JSON.stringify(found) === JSON.stringify(wanted)) return;
    steps.push({ kind: 'write', path, text: `${JSON.stringify(wanted)}\n` });
  };
  if (dom0 !== undefined) note(DOM0_PIN_PATH, state.dom0, { format: 1, ...dom0 });
  note(pinPath(domain), state.domain, { format: 1, guest });
  return [
    ...steps,
    ...commandsFor(DOM0, pin.dom0, state.vcpus),
    ...commandsFor(domain, pin.guest, state.vcpus),
  ];
}

/** What it has now, or had before it was first pinned by us; undefined where it isn't there. */
function noteOf(
  domain: string,
  pinned: readonly number[],
  vcpus: readonly Vcpu[],
  noted: Affinity | undefined,
): Affinity | undefined {
  const own = vcpus.filter((vcpu) => vcpu.domain === domain);
  const [first] = own;
  if (first === undefined) return undefined;
  const before =
    noted?.domainId === first.domainId
      ? noted.before
      : own.map(({ vcpu, hard }) => ({ vcpu, hard: hard === 'all' ? hard : [...hard] }));
  return { domainId: first.domainId, pinned: [...pinned], before };
}

function commandsFor(domain: string, wanted: readonly number[], vcpus: readonly Vcpu[]): PinStep[] {
  const wrong = vcpus.find((vcpu) => vcpu.domain === domain && !sameCpus(vcpu.hard, wanted));
  if (wrong === undefined) return [];
  const reason = `vCPU ${wrong.vcpu} of ${domain} may run on ${cpuText(wrong.hard)}, "pin" says ${cpuText(wanted)}`;
  // Soft affinity is left alone.
  return [{ kind: 'run', argv: ['xl', 'vcpu-pin', domain, 'all', cpuArgument(wanted), '-'], reason }];
}

/** What is to be done on one host so that a domain has there what it had before; nothing where it isn't pinned. */
export function planUnpin(domain: string, state: PinState): PinStep[] {
  const steps: PinStep[] = [];
  if (state.domain !== undefined) {
    if (state.domain.guest !== null) steps.push(...restore(domain, state.domain.guest, state.vcpus));
    steps.push({ kind: 'remove', path: pinPath(domain) });
  }
  if (state.dom0 !== undefined && state.others.length === 0) {
    steps.push(...restore(DOM0, state.dom0, state.vcpus), { kind: 'remove', path: DOM0_PIN_PATH });
  }
  return steps;
}

/** Only what still is as we have set it: another pinning is somebody else's, who has come after us. */
function restore(domain: string, { domainId, pinned, before }: Affinity, vcpus: readonly Vcpu[]): PinStep[] {
  return before.flatMap(({ vcpu, hard }): PinStep[] => {
    const now = vcpus.find(
      (each) => each.domain === domain && each.domainId === domainId && each.vcpu === vcpu,
    );
    if (now === undefined || !sameCpus(now.hard, pinned) || sameAffinity(now.hard, hard)) return [];
    const argument = hard === 'all' || hard.length === 0 ? 'all' : cpuArgument(hard);
    const reason = `vCPU ${vcpu} of ${domain} was pinned to ${cpuText(pinned)} by "pin", and had ${cpuText(hard)} before`;
    return [{ kind: 'run', argv: ['xl', 'vcpu-pin', domain, String(vcpu), argument, '-'], reason }];
  });
}

/**
 * CPUs of the guest that are threads of a core of the dom0's: a busy guest still slows the dom0 there. In words.
 *
 * @param topology the CPUs that are online
 */
export function sharedCores({ dom0, guest }: Pin, topology: ReadonlyMap<number, CpuPlace>): string[] {
  return guest.flatMap((cpu) => {
    const place = topology.get(cpu);
    const sibling = dom0.find(
      (other) => other !== cpu && place !== undefined && sameCore(place, topology.get(other)),
    );
    return sibling === undefined
      ? []
      : [`CPU ${cpu} of the guest and CPU ${sibling} of dom0 are threads of one core`];
  });
}

function sameCore(a: CpuPlace, b: CpuPlace | undefined): boolean {
  return b !== undefined && a.core === b.core && a.socket === b.socket;
}

function sameCpus(found: Vcpu['hard'], wanted: readonly number[]): boolean {
  return found !== 'all' && found.length === wanted.length && wanted.every((cpu) => found.includes(cpu));
}

function sameAffinity(a: Vcpu['hard'], b: Vcpu['hard']): boolean {
  return b === 'all' ? a === 'all' : sameCpus(a, b);
}

function cpuArgument(list: readonly number[]): string {
  return [...list].sort((a, b) => a - b).join(',');
}

function cpuText(list: Vcpu['hard']): string {
  if (list === 'all') return 'all CPUs';
  return list.length === 0 ? 'no CPU' : `CPU ${cpuArgument(list)}`;
}
