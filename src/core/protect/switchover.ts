/**
 * A switchover: a running guest is moved to its other host by live migration, and protected in the other direction
 * from there. A pure decision on what both hosts say now: it is asked again after each act, so that a controller may
 * die anywhere, and the next run goes on.
 *
 *     note the intent on both hosts
 *     -> unprotect -> open the gate there -> two primaries, protocol C -> migrate
 *     -> the guest runs there: nothing of it is left here -> one primary, protocol A -> record who has it -> protect
 *     -> forget the intent
 *     -> or it still runs here: one primary, protocol A -> protect as before -> forget the intent
 *
 * What xl does (tools/xl/xl_migrate.c of 4.17): it renames the guest to NAME--migratedaway before it gives the other
 * side permission to start its copy, and destroys it when that has started. So a suspended guest under its own name
 * may be resumed here: nobody was given permission. One of the other name may not, before the other host was asked.
 *
 * /var/lib/remus-drbd/DOMAIN/switchover.json, on both hosts from before anything happens until all is done:
 *
 *     {"format":1,"pair":"rack1","domain":"web","term":8,"session":"HEX","from":"alpha","to":"beta","protect":true}
 */
import { z } from 'zod';
import type { TermRecord } from '../claim/term.js';
import type { DomainLayout } from '../model.js';
import { HOST_NAME, NAME } from '../patterns.js';
import { judgeReadiness } from './readiness.js';
import type { HostFactsForProtection } from './readiness.js';

const schema = z.strictObject({
  format: z.literal(1),
  pair: z.string().regex(NAME),
  domain: z.string().regex(NAME),
  /** In this term the guest is moved and `to` becomes its primary; its record tells recovery whose disks count. */
  term: z.number().int().min(1),
  session: z.string().regex(/^[0-9a-f]{32}$/),
  from: z.string().regex(HOST_NAME),
  to: z.string().regex(HOST_NAME),
  /** Whether the guest was protected when it began, and is to be again if it can't be moved. */
  protect: z.boolean(),
});

export type SwitchoverIntent = z.output<typeof schema>;

export const INTENT_FILE = 'switchover.json';

export function formatIntent(intent: SwitchoverIntent): string {
  return `${JSON.stringify(schema.parse(intent))}\n`;
}

/** @throws Error for anything but a whole intent */
export function parseIntent(text: string): SwitchoverIntent {
  return schema.parse(JSON.parse(text));
}

export interface SwitchoverHost extends HostFactsForProtection {
  /** Whether DRBD lets both hosts be Primary. */
  twoPrimaries: boolean;
  term: TermRecord | undefined;
  intent: SwitchoverIntent | undefined;
  gate: 'open' | 'shut';
  /** The unit that sends the guest is at work on this host, or the one that takes it. */
  sourceActive: boolean;
  targetActive: boolean;
  /** What the sender on this host says of itself; null where it says nothing. */
  senderSays: { protection: string; reason: string } | null;
}

export type SwitchoverStep =
  | { do: 'refuse'; reason: string }
  | { do: 'note'; reason: string }
  | { do: 'unprotect'; reason: string }
  | { do: 'open-gate'; host: string; reason: string }
  | { do: 'two-primaries'; reason: string }
  | { do: 'migrate'; memoryBytes: number; reason: string }
  | { do: 'wait'; reason: string }
  | { do: 'stop-target'; host: string; reason: string }
  | { do: 'destroy'; host: string; guest: string; reason: string }
  | { do: 'rename-back'; host: string; reason: string }
  | { do: 'resume'; host: string; reason: string }
  | { do: 'unpause'; host: string; reason: string }
  | { do: 'demote'; host: string; reason: string }
  | { do: 'one-primary'; reason: string }
  | { do: 'record'; reason: string }
  | { do: 'protect'; reason: string }
  | { do: 'forget'; reason: string }
  /** It did not move: the guest runs where it was, and everything is as before but its protection. */
  | { do: 'give-up'; reason: string };

type Noted = Pick<SwitchoverHost, 'name' | 'term' | 'intent'>;

/**
 * The switchovers that the hosts know of and that have not ended; two where their files are of two different ones.
 * One host alone has the file where a run was cut at its beginning or its end.
 */
export function openIntents(hosts: readonly [Noted, Noted]): SwitchoverIntent[] {
  const open = hosts.flatMap(({ intent }) => (intent === undefined || isOver(intent, hosts) ? [] : [intent]));
  return open.filter(({ session }, at) => open.findIndex((each) => each.session === session) === at);
}

/** A later term with another primary: that switchover is history. */
function isOver({ term, to }: SwitchoverIntent, hosts: readonly [Noted, Noted]): boolean {
  return hosts.some((host) => {
    if (host.term === undefined || host.term.term <= term) return false;
    const peer = hosts[0] === host ? hosts[1] : hosts[0];
    return (host.term.role === 'primary' ? host : peer).name !== to;
  });
}

/**
 * @param hosts both hosts of the domain, in any order
 * @param intent what is to be done; it may be in no host's file yet
 * @param attempted in this run the migration was tried, or is not wanted any more: where the guest did not move it stays
 */
export function nextSwitchoverStep(
  layout: DomainLayout,
  hosts: readonly [SwitchoverHost, SwitchoverHost],
  intent: SwitchoverIntent,
  attempted: boolean,
): SwitchoverStep {
  const { name } = layout.domain;
  const [source, target] = hosts[0].name === intent.from ? hosts : [hosts[1], hosts[0]];
  if (source.sourceActive) return { do: 'wait', reason: `${name} is on its way to ${target.name}` };
  if (target.targetActive) {
    return { do: 'stop-target', host: target.name, reason: 'nothing is sent to it any more' };
  }
  const here = guestOn(source, name);
  const there = guestOn(target, name);
  if (here !== undefined && there !== undefined) {
    return {
      do: 'refuse',
      reason: `${name} runs on both hosts; find out which one is right, and destroy the other`,
    };
  }
  if (there !== undefined) return afterMove(name, source, target, hosts, intent, there.state);
  const copy = guestOn(target, `${name}--incoming`);
  if (copy !== undefined && !target.receiverActive) {
    return { do: 'destroy', host: target.name, guest: copy.name, reason: 'a copy that never started' };
  }
  if (here !== undefined) return beforeMove(layout, source, target, hosts, intent, attempted, here.state);
  if (guestOn(source, awayName(name)) !== undefined) {
    // The other host has neither the guest nor anything that could start it.
    return { do: 'rename-back', host: source.name, reason: `it did not start on ${target.name}` };
  }
  return {
    do: 'refuse',
    reason: `${name} runs on neither host; start it on ${source.name}, where its disks are right, and run this again`,
  };
}

/** xl's name for a guest that has left, until its other host says that it runs there. */
export function awayName(domain: string): string {
  return `${domain}--migratedaway`;
}

function guestOn(host: SwitchoverHost, name: string): SwitchoverHost['guests'][number] | undefined {
  return host.guests.find((guest) => guest.name === name);
}

/** DRBD is not as it has to be outside of a migration. Without its peer it has no protocol, and nothing to undo. */
function isDual({ resource, protocol, twoPrimaries }: SwitchoverHost): boolean {
  if (twoPrimaries) return true;
  const connection = resource?.connections[0]?.connection;
  return connection !== undefined && connection !== 'StandAlone' && protocol !== 'A';
}

function afterMove(
  name: string,
  source: SwitchoverHost,
  target: SwitchoverHost,
  hosts: readonly [SwitchoverHost, SwitchoverHost],
  intent: SwitchoverIntent,
  state: string,
): SwitchoverStep {
  const away = guestOn(source, awayName(name));
  if (away !== undefined) {
    return { do: 'destroy', host: source.name, guest: away.name, reason: `${name} runs on ${target.name}` };
  }
  if (state[2] === 'p' && !target.senderActive) {
    return { do: 'unpause', host: target.name, reason: 'it has arrived and was not started' };
  }
  if (source.resource?.role === 'Primary') {
    return { do: 'demote', host: source.name, reason: `${name} runs on ${target.name}` };
  }
  if (hosts.some(isDual)) return { do: 'one-primary', reason: `${name} has moved` };
  if (hosts.some(({ term }) => (term?.term ?? 0) < intent.term)) {
    return { do: 'record', reason: `${target.name} has the guest from term ${intent.term} on` };
  }
  if (target.senderSays?.protection === 'protected' && target.senderActive) {
    return { do: 'forget', reason: `${name} runs on ${target.name} and is protected by ${source.name}` };
  }
  return { do: 'protect', reason: `from ${target.name} to ${source.name}` };
}

function beforeMove(
  layout: DomainLayout,
  source: SwitchoverHost,
  target: SwitchoverHost,
  hosts: readonly [SwitchoverHost, SwitchoverHost],
  intent: SwitchoverIntent,
  attempted: boolean,
  state: string,
): SwitchoverStep {
  const { name } = layout.domain;
  // Under protection it is suspended at each checkpoint.
  if (state[3] === 's' && state[4] === 's' && !source.senderActive) {
    return { do: 'resume', host: source.name, reason: 'a migration was cut short' };
  }
  if (target.resource?.role === 'Primary') {
    return { do: 'demote', host: target.name, reason: `${name} runs on ${source.name}` };
  }
  const isNoted = hosts.every(({ intent: noted }) => noted?.session === intent.session);
  if (attempted) {
    if (hosts.some(isDual)) return { do: 'one-primary', reason: `${name} stays on ${source.name}` };
    return { do: 'give-up', reason: `${name} runs on ${source.name} as before` };
  }
  const problems = switchoverProblems(layout, hosts, source, target);
  if (problems.length > 0) {
    // Two primaries that an earlier run has left must not outlive a refusal.
    if (hosts.some(isDual)) return { do: 'one-primary', reason: `${name} can't be moved now` };
    return { do: 'refuse', reason: problems.join('\n  ') };
  }
  if (!isNoted) return { do: 'note', reason: `${name} is to run on ${target.name}` };
  if (hosts.some(({ senderActive, receiverActive }) => senderActive || receiverActive)) {
    return { do: 'unprotect', reason: 'a guest can be sent to one place at a time' };
  }
  if (target.gate === 'shut') {
    return { do: 'open-gate', host: target.name, reason: 'the guest is to have its disks there' };
  }
  if (!hosts.every(({ twoPrimaries, protocol }) => twoPrimaries && protocol !== 'A')) {
    return { do: 'two-primaries', reason: 'the copy opens its disks before the guest here has closed them' };
  }
  const memoryBytes = guestOn(source, name)?.memoryBytes ?? 0;
  return { do: 'migrate', memoryBytes, reason: `from ${source.name} to ${target.name}` };
}

/** Why the guest can't be moved, all of it; the same as what protection in this direction needs. */
function switchoverProblems(
  layout: DomainLayout,
  hosts: readonly [SwitchoverHost, SwitchoverHost],
  source: SwitchoverHost,
  target: SwitchoverHost,
): string[] {
  const undecided = source.senderActive && source.senderSays?.protection === 'suspended';
  if (undecided) return [`protection is in doubt: ${source.senderSays?.reason ?? ''}; see remus-drbd status`];
  const views = hosts.map((host) => withoutProtection(host, layout.domain.name));
  const [one, other] = views;
  if (one === undefined || other === undefined) throw new Error('a domain has two hosts');
  const { primary, problems } = judgeReadiness(layout, [one, other]);
  if (primary !== source.name) throw new Error(`${layout.domain.name} does not run on ${source.name}`);
  const connection = source.resource?.connections[0];
  const busy = Object.entries(connection?.volumes ?? {}).find(
    ([, { replication }]) => replication !== 'Established',
  );
  if (connection?.connection === 'Connected' && busy !== undefined) {
    problems.push(`volume ${busy[0]} is ${busy[1].replication} to ${target.name}, Established is required`);
  }
  return problems;
}

/** A host as it will be when protection has ended: the copy and its memory are gone, and the guest just runs. */
function withoutProtection(host: SwitchoverHost, domain: string): SwitchoverHost {
  const copy = guestOn(host, `${domain}--incoming`);
  return {
    ...host,
    freeMemoryBytes: host.freeMemoryBytes + (copy?.memoryBytes ?? 0),
    guests: host.guests.map((guest) =>
      guest.name === domain && host.senderActive ? { ...guest, state: '-b----' } : guest,
    ),
    protocol: host.twoPrimaries ? 'A' : host.protocol,
  };
}
