/**
 * `remus-drbd switchover`: a running guest moves to its other host, planned and with nothing lost, and is protected in
 * the other direction from there.
 *
 * What is to be done next is asked of `core/protect/switchover.ts`, done, and both hosts are looked at again. The
 * migration runs in units on the hosts, so it goes on without the controller; the next run finds it, and undoes what
 * it needed.
 */
import { randomBytes } from 'node:crypto';
import { formatTerm, nextTerm } from '../core/claim/term.js';
import type { TermRecord } from '../core/claim/term.js';
import { ExitCode, OperatorError } from '../core/errors.js';
import type { DomainLayout } from '../core/model.js';
import { Paths, runPath, statePath, switchoverTargetUnit, switchoverUnit } from '../core/names.js';
import {
  awayName,
  formatIntent,
  INTENT_FILE,
  nextSwitchoverStep,
  openIntents,
} from '../core/protect/switchover.js';
import type { SwitchoverHost, SwitchoverIntent, SwitchoverStep } from '../core/protect/switchover.js';
import { latestWanted } from '../core/protect/wanted.js';
import { formatSize } from '../core/units.js';
import type { Host } from '../edge/host.js';
import { mustRun } from './host-command.js';
import { protectDomain, unprotectDomain } from './protect.js';
import type { ProtectDependencies } from './protect.js';
import { isActive, readBoth } from './protection-view.js';
import type { ProtectionView } from './protection-view.js';
import { recoverDomain } from './recover.js';

export interface SwitchoverOptions {
  /** The host to move to; null for the one where the guest does not run. */
  to: string | null;
  dryRun: boolean;
}

const COMMAND_MS = 120_000;
const POLL_MS = 1_000;
/** A migration of which nothing more is sent for so long is reported; it goes on all the same. */
const STUCK_MS = 600_000;
/** How long DRBD may take to be whole again when protection has ended. */
const READY_MS = 60_000;
/** A step that is still asked for after it was done is an error, not a loop. */
const AGAIN_MAX = 3;
const STEPS_MAX = 1_000;
const LOG_LINES = 12;

/** @returns what was done, in words */
export async function switchoverDomain(
  layout: DomainLayout,
  hosts: readonly [Host, Host],
  options: SwitchoverOptions,
  deps: ProtectDependencies,
): Promise<string> {
  const { name, engine } = layout.domain;
  if (engine !== 'journal') {
    throw new OperatorError(
      `${name}: switchover is for the engine journal; DRBD 8.3 can't change its protocol at run time. Nothing was changed.`,
      ExitCode.refused,
    );
  }
  if (options.to !== null && !hosts.some((host) => host.name === options.to)) {
    const names = hosts.map((host) => host.name).join(' and ');
    throw new OperatorError(
      `--to ${options.to}: the hosts of ${name} are ${names}; nothing was changed`,
      ExitCode.usage,
    );
  }
  const views = await readBoth(hosts, name);
  const left = leftIntent(name, views);
  if (left !== undefined) {
    // Cut short, or still under way: it ends first. Where it is to be taken back, a guest that did not move stays.
    const isWanted = options.to === null || options.to === left.to;
    const begun = `${name}: a switchover from ${left.from} to ${left.to} was begun`;
    if (options.dryRun) {
      const step = nextStep(layout, views, left, !isWanted);
      if (step.do === 'refuse') throw refused(name, step.reason);
      return `${begun}; would ${isWanted ? 'go on with it' : 'end it'}, first: ${titleOf(step, left)}: ${step.reason}`;
    }
    deps.tell(`${begun}; ${isWanted ? 'going on with it' : 'ending it'}`);
    const moved = await run(layout, hosts, left, !isWanted, deps);
    if (isWanted || !moved) return resultText(name, left, moved);
  }
  return begin(layout, hosts, options, deps);
}

async function begin(
  layout: DomainLayout,
  hosts: readonly [Host, Host],
  options: SwitchoverOptions,
  deps: ProtectDependencies,
): Promise<string> {
  const { name } = layout.domain;
  const views = await readBoth(hosts, name);
  const running = views.filter(({ guests }) => guests.some((guest) => guest.name === name));
  const [source] = running;
  if (source === undefined || running.length !== 1) {
    throw new OperatorError(
      `${name} runs on ${source === undefined ? 'neither host' : 'both hosts'}, and one is required; nothing was changed. See remus-drbd status.`,
      ExitCode.refused,
    );
  }
  const target = views[0] === source ? views[1] : views[0];
  if (options.to === source.name) return `${name} runs on ${source.name} already; nothing was changed`;
  const intent: SwitchoverIntent = {
    format: 1,
    pair: layout.pair.name,
    domain: name,
    term: nextTerm(source.term?.term, target.term?.term),
    session: randomBytes(16).toString('hex'),
    from: source.name,
    to: target.name,
    protect: source.senderActive,
  };
  if (options.dryRun) return foretell(layout, views, intent);
  return resultText(name, intent, await run(layout, hosts, intent, false, deps));
}

function resultText(name: string, { from, to, protect }: SwitchoverIntent, moved: boolean): string {
  if (moved) return `${name} runs on ${to} and is protected by ${from}`;
  return `${name} runs on ${from}${protect ? ` and is protected by ${to}` : ''}; the switchover to ${to} was ended`;
}

/** What a run would do, or why it would refuse. */
function foretell(
  layout: DomainLayout,
  views: readonly [ProtectionView, ProtectionView],
  intent: SwitchoverIntent,
): string {
  const { name } = layout.domain;
  const step = nextStep(layout, views, intent, false);
  if (step.do === 'refuse') throw refused(name, step.reason);
  const protectedNow = views.some(({ senderActive, receiverActive }) => senderActive || receiverActive);
  const source = views.find((view) => view.name === intent.from);
  const bytes = source?.guests.find((guest) => guest.name === name)?.memoryBytes ?? 0;
  return [
    `${name}: would move from ${intent.from} to ${intent.to}:`,
    ...(protectedNow ? ['  end protection by agreement'] : []),
    '  let both hosts be Primary, with protocol C, for as long as the migration takes',
    `  send its memory, ${formatSize(bytes)}, while it runs (xl migrate)`,
    '  one Primary again, with protocol A',
    `  protect it from ${intent.to} to ${intent.from}`,
  ].join('\n');
}

/** What an earlier run has left. */
function leftIntent(
  name: string,
  views: readonly [ProtectionView, ProtectionView],
): SwitchoverIntent | undefined {
  const [intent, another] = openIntents(views);
  if (another !== undefined) {
    throw new OperatorError(
      `${name}: ${statePath(name, INTENT_FILE)} is of two different switchovers on ${views[0].name} and ${views[1].name}; ` +
        `nothing was changed. Remove the older one.`,
      ExitCode.refused,
    );
  }
  return intent;
}

/**
 * @param stay the guest is not to move any more, if it has not yet
 * @returns whether the guest runs on its new host; false where it was to stay
 */
async function run(
  layout: DomainLayout,
  hosts: readonly [Host, Host],
  intent: SwitchoverIntent,
  stay: boolean,
  deps: ProtectDependencies,
): Promise<boolean> {
  const { name } = layout.domain;
  const told = { line: '', sinceMs: deps.nowMs() };
  let attempted = stay;
  let failure: string | null = null;
  /** When protection was ended for it; what DRBD needs to be whole again behind that is waited for. */
  let endedMs: number | null = null;
  let last = '';
  let again = 0;
  const fail = (reason: string): void => {
    deps.tell(`${name}: ${reason}`);
    failure = reason;
    attempted = true;
  };
  for (let count = 0; count < STEPS_MAX;) {
    const views = await readBoth(hosts, name);
    const step = nextStep(layout, views, intent, attempted);
    if (step.do === 'wait') {
      attempted = true;
      await waitForMigration(name, hosts, intent, step.reason, told, deps);
      continue;
    }
    if (step.do === 'refuse') {
      if (endedMs === null || attempted) throw refused(name, step.reason);
      if (deps.nowMs() - endedMs > READY_MS) fail(step.reason);
      else await deps.pause(POLL_MS);
      continue;
    }
    count++;
    again = step.do === last ? again + 1 : 0;
    last = step.do;
    if (again >= AGAIN_MAX) {
      throw new OperatorError(`${name}: ${step.do} was done and is still needed: ${step.reason}`);
    }
    switch (step.do) {
      case 'forget':
        await forget(name, hosts);
        return true;
      case 'give-up':
        await giveUp(layout, hosts, intent, stay ? null : (failure ?? 'the migration failed'), deps);
        return false;
      case 'unprotect':
        deps.tell(`${name}: ending protection: ${step.reason}`);
        await unprotectDomain(layout, hosts, deps);
        endedMs = deps.nowMs();
        break;
      case 'protect':
        deps.tell(`${name}: protecting ${step.reason}`);
        await protectAgain(layout, hosts, deps);
        break;
      default:
        deps.tell(`${name}: ${titleOf(step, intent)}: ${step.reason}`);
        try {
          await act(name, step, hosts, intent, views);
        } catch (error) {
          // The guest runs where it was: that is what is kept.
          if (!(error instanceof OperatorError) || attempted) throw error;
          fail(error.message);
        }
        if (step.do === 'migrate') attempted = true;
    }
  }
  throw new OperatorError(`${name}: the switchover does not come to an end; the hosts keep changing`);
}

/** Waits for a connection and a resync where they are needed, and for the first commit. */
async function protectAgain(
  layout: DomainLayout,
  hosts: readonly [Host, Host],
  deps: ProtectDependencies,
): Promise<void> {
  await recoverDomain(layout, hosts, deps);
  // Where protection was starting already, this is what waits for it.
  const [one, other] = await readBoth(hosts, layout.domain.name);
  const intervalMs = latestWanted(one.wanted, other.wanted)?.intervalMs ?? null;
  await protectDomain(layout, hosts, { intervalMs, network: true, disk: true, dryRun: false }, deps);
}

function titleOf(step: SwitchoverStep, { from, to }: SwitchoverIntent): string {
  switch (step.do) {
    case 'migrate':
      return `sending the memory of ${formatSize(step.memoryBytes)}`;
    case 'note':
      return 'noting it on both hosts';
    case 'open-gate':
      return `opening the gate on ${step.host}`;
    case 'two-primaries':
      return 'two primaries, protocol C';
    case 'one-primary':
      return 'one primary, protocol A';
    case 'destroy':
      return `destroying ${step.guest} on ${step.host}`;
    case 'rename-back':
      return `taking it back on ${step.host}`;
    case 'record':
      return `recording that ${to} has it, and not ${from}`;
    case 'resume':
    case 'unpause':
    case 'demote':
      return `${step.do} on ${step.host}`;
    default:
      return step.do;
  }
}

async function act(
  domain: string,
  step: SwitchoverStep,
  hosts: readonly [Host, Host],
  intent: SwitchoverIntent,
  views: readonly [ProtectionView, ProtectionView],
): Promise<void> {
  const host = (name: string): Host => (hosts[0].name === name ? hosts[0] : hosts[1]);
  const onBoth = async (argv: readonly string[]): Promise<void> => {
    for (const each of hosts) await mustRun(each, argv, COMMAND_MS);
  };
  switch (step.do) {
    case 'note':
      for (const each of hosts) await write(each, statePath(domain, INTENT_FILE), formatIntent(intent));
      return;
    case 'open-gate': {
      const line = `open ${domain} is to move here from ${intent.from}\n`;
      // As in edge/gate.ts: the lasting one first.
      await write(host(step.host), statePath(domain, 'gate'), line);
      await write(host(step.host), runPath(domain, 'gate'), line);
      return;
    }
    case 'two-primaries':
      return onBoth(['drbdadm', 'net-options', '--protocol=C', '--allow-two-primaries=yes', domain]);
    case 'one-primary':
      return onBoth(['drbdadm', 'net-options', '--protocol=A', '--allow-two-primaries=no', domain]);
    case 'migrate':
      return migrate(domain, hosts, intent);
    case 'stop-target':
      return mustRun(host(step.host), ['systemctl', 'stop', switchoverTargetUnit(domain)], STUCK_MS);
    case 'destroy':
      return mustRun(host(step.host), ['xl', 'destroy', step.guest], COMMAND_MS);
    case 'rename-back':
      return mustRun(host(step.host), ['xl', 'rename', awayName(domain), domain], COMMAND_MS);
    case 'resume':
      return mustRun(host(step.host), [Paths.command, 'switchover-cleanup', domain], COMMAND_MS);
    case 'unpause':
      return mustRun(host(step.host), ['xl', 'unpause', domain], COMMAND_MS);
    case 'demote':
      return mustRun(host(step.host), ['drbdadm', 'secondary', domain], COMMAND_MS);
    case 'record':
      // The new primary first: from then on its word counts.
      await writeTerm(host(intent.to), domain, intent, views, 'primary');
      await writeTerm(host(intent.from), domain, intent, views, 'backup');
      return;
    default:
      throw new Error(`step ${step.do} is no act`);
  }
}

/** The term of the move, which is over when it is written: whoever recovers the pair later finds whose disks count. */
async function writeTerm(
  host: Host,
  domain: string,
  { term, session }: SwitchoverIntent,
  views: readonly [ProtectionView, ProtectionView],
  role: TermRecord['role'],
): Promise<void> {
  const view = views[0].name === host.name ? views[0] : views[1];
  if ((view.term?.term ?? 0) >= term) return;
  const outcome = role === 'primary' ? 'won' : 'lost';
  const record: TermRecord = { term, session, role, phase: 'ended', boot: view.boot, outcome };
  await write(host, statePath(domain, 'term.json'), formatTerm(record));
}

async function migrate(
  domain: string,
  hosts: readonly [Host, Host],
  { from, to }: SwitchoverIntent,
): Promise<void> {
  const [source, target] = hosts[0].name === from ? hosts : [hosts[1], hosts[0]];
  const units = [
    [target, switchoverTargetUnit(domain)],
    [source, switchoverUnit(domain)],
  ] as const;
  await write(source, runPath(domain, 'switchover.env'), `TARGET=${to}\n`);
  for (const [host, unit] of units) {
    // One that never failed has nothing to reset, and says so.
    await host.run(['systemctl', 'reset-failed', unit], { deadlineMs: COMMAND_MS, repeatable: true });
    // It is active when it listens, or when xl has been started.
    await mustRun(host, ['systemctl', 'start', unit], COMMAND_MS);
  }
}

async function waitForMigration(
  name: string,
  hosts: readonly [Host, Host],
  { from, session }: SwitchoverIntent,
  reason: string,
  told: { sinceMs: number; line: string },
  deps: ProtectDependencies,
): Promise<void> {
  const source = hosts[0].name === from ? hosts[0] : hosts[1];
  const sent = await sentBytes(source, name, session);
  const line = `${name}: ${reason}: ${sent === null ? 'connecting' : `${formatSize(sent)} sent`}`;
  if (line !== told.line) {
    deps.tell(line);
    told.line = line;
    told.sinceMs = deps.nowMs();
  }
  if (deps.nowMs() - told.sinceMs > STUCK_MS) {
    throw new OperatorError(
      `${name}: the migration has not moved for ${STUCK_MS / 60_000} minutes; it was left as it is. ` +
        `systemctl stop ${switchoverUnit(name)} on ${from} ends it with the guest there; then run switchover again.`,
    );
  }
  await deps.pause(POLL_MS);
}

async function sentBytes(source: Host, name: string, session: string): Promise<number | null> {
  const file = await source.readFile(runPath(name, 'switchover-progress.json'));
  if (file === undefined) return null;
  try {
    const said = JSON.parse(new TextDecoder().decode(file.content)) as {
      session?: string;
      sentBytes?: number;
    };
    return said.session === session && typeof said.sentBytes === 'number' ? said.sentBytes : null;
  } catch {
    return null;
  }
}

/**
 * Leaves everything as it was before, protection too.
 * @param failure why it did not move; null where it was not to
 * @throws OperatorError where it was to move, or is not as protected as before
 */
async function giveUp(
  layout: DomainLayout,
  hosts: readonly [Host, Host],
  { from, to, protect }: SwitchoverIntent,
  failure: string | null,
  deps: ProtectDependencies,
): Promise<void> {
  const { name } = layout.domain;
  const source = hosts[0].name === from ? hosts[0] : hosts[1];
  const logs = failure === null ? '' : await unitLogs(name, hosts, source);
  let problem: string | null = null;
  if (protect) {
    deps.tell(`${name}: protecting it as before, from ${from} to ${to}`);
    try {
      await protectAgain(layout, hosts, deps);
    } catch (error) {
      if (!(error instanceof OperatorError)) throw error;
      problem = error.message;
    }
  }
  // Not before: whoever goes on after a cut reads there that it is to be protected.
  await forget(name, hosts);
  const state =
    problem !== null
      ? `is NOT protected any more: ${problem}`
      : protect
        ? 'is protected as before'
        : 'is not protected, as before';
  if (failure !== null) {
    throw new OperatorError(
      `${name} did not move to ${to}: ${failure}. It runs on ${from} and ${state}. The log of the migration:\n${logs}`,
    );
  }
  if (problem !== null) throw new OperatorError(`${name} runs on ${from} and ${state}`);
}

async function unitLogs(domain: string, hosts: readonly [Host, Host], source: Host): Promise<string> {
  const logs = hosts.map(async (host) => {
    const unit = host === source ? switchoverUnit(domain) : switchoverTargetUnit(domain);
    const argv = ['journalctl', '-u', unit, '-n', String(LOG_LINES), '--no-pager', '-o', 'cat'];
    const { stdout } = await host.run(argv, { deadlineMs: COMMAND_MS, repeatable: true });
    return stdout
      .trim()
      .split('\n')
      .map((line) => `  ${host.name}: ${line}`)
      .join('\n');
  });
  return (await Promise.all(logs)).join('\n');
}

async function forget(domain: string, hosts: readonly [Host, Host]): Promise<void> {
  for (const host of hosts) {
    await mustRun(host, ['rm', '-f', '--', statePath(domain, INTENT_FILE)], COMMAND_MS);
  }
}

async function write(host: Host, path: string, text: string): Promise<void> {
  await host.writeFile(path, new TextEncoder().encode(text), 0o644);
}

function refused(name: string, reason: string): OperatorError {
  return new OperatorError(
    `${name}: switchover is refused:\n  ${reason}\nThe guest was left where it is.`,
    ExitCode.refused,
  );
}

function nextStep(
  layout: DomainLayout,
  views: readonly [ProtectionView, ProtectionView],
  intent: SwitchoverIntent,
  attempted: boolean,
): SwitchoverStep {
  return nextSwitchoverStep(layout, [switchoverHost(views[0]), switchoverHost(views[1])], intent, attempted);
}

function switchoverHost(view: ProtectionView): SwitchoverHost {
  const { sender } = view;
  return {
    ...view,
    sourceActive: isActive(view.sourceUnit),
    targetActive: isActive(view.targetUnit),
    senderSays: typeof sender === 'string' ? null : { protection: sender.protection, reason: sender.reason },
  };
}
