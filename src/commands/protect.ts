/**
 * `remus-drbd protect` and `unprotect`: begin and end the protection of a running guest. Both may be run again at
 * any time; each first looks at what is there.
 *
 *     protect     good state? -> new term on both hosts -> receiver -> sender -> first commit
 *     unprotect   stop the sender, which ends the term by agreement -> the receiver has ended too
 */
import { randomBytes } from 'node:crypto';
import { formatTerm, mayFollow, nextTerm } from '../core/claim/term.js';
import type { TermRecord } from '../core/claim/term.js';
import { ExitCode, OperatorError } from '../core/errors.js';
import type { DomainLayout } from '../core/model.js';
import { receiverUnit, runPath, senderUnit, statePath } from '../core/names.js';
import { formatOrder } from '../core/protect/order.js';
import type { Order } from '../core/protect/order.js';
import type { SenderReport } from '../core/protect/report.js';
import { judgeReadiness } from '../core/protect/readiness.js';
import { formatSize } from '../core/units.js';
import type { Host } from '../edge/host.js';
import { mustRun } from './host-command.js';
import { pinHosts } from './pin.js';
import { isActive, readBoth, readProtection } from './protection-view.js';
import type { ProtectionView } from './protection-view.js';
import { rememberWanted } from './wanted.js';

export interface ProtectOptions {
  intervalMs: number | null;
  network: boolean;
  disk: boolean;
  dryRun: boolean;
}

export interface ProtectDependencies {
  nowMs: () => number;
  pause: (ms: number) => Promise<void>;
  /** A line of progress. */
  tell: (text: string) => void;
}

const POLL_MS = 1_000;
const COMMAND_MS = 60_000;
/** How long nothing at all may change while protection starts or ends. */
const STUCK_MS = 600_000;
const LOG_LINES = 15;

interface Both {
  primary: Host;
  backup: Host;
  primaryView: ProtectionView;
  backupView: ProtectionView;
}

/** @returns what was done, in words */
export async function protectDomain(
  layout: DomainLayout,
  hosts: readonly [Host, Host],
  options: ProtectOptions,
  deps: ProtectDependencies,
): Promise<string> {
  const { name } = layout.domain;
  const intervalMs = options.intervalMs ?? layout.domain.checkpoint.intervalMs;
  const { pin } = layout.domain;
  const applyPin = (): Promise<string[]> =>
    pin === undefined ? Promise.resolve([]) : pinHosts(hosts, name, pin, deps.tell, options.dryRun);
  const wish = { protect: options.network && options.disk, intervalMs: options.intervalMs };
  let views = await readBoth(hosts, name);
  const running = views.find(({ senderActive }) => senderActive);
  if (running !== undefined) {
    const { sender } = running;
    if (typeof sender === 'string' || (sender.intervalMs === intervalMs && coversThat(sender, options))) {
      if (typeof sender !== 'string' && sender.protection === 'protected') {
        if (!options.dryRun) await rememberWanted(name, hosts, views, wish);
        const told = [`${name} is protected already: term ${sender.term}, ${sender.reason}`];
        return told.concat(await applyPin()).join('\n  ');
      }
      if (options.dryRun) return `${name}: protection is starting already`;
      return waitForProtection(layout, hosts, options, deps);
    }
    const found = `${sender.intervalMs} ms${partText(sender.covers)}`;
    const wanted = `${intervalMs} ms${partText(options)}`;
    if (options.dryRun) return `${name}: would start anew with an interval of ${wanted}`;
    deps.tell(`${name}: the interval is ${found}; starting anew with ${wanted}`);
    await unprotectDomain(layout, hosts, deps);
    views = await readBoth(hosts, name);
  }
  const ready = judgeReadiness(layout, views);
  if (ready.problems.length > 0) {
    throw new OperatorError(
      `${name}: protection can't start; nothing was changed:\n${ready.problems.map((each) => `  ${each}`).join('\n')}`,
      ExitCode.refused,
    );
  }
  const both = sides(hosts, views, ready.primary);
  if (both.backupView.receiverActive) {
    if (options.dryRun) return `${name}: would end a receiver that waits for nobody, and start protection`;
    deps.tell(`${name}: a receiver without a sender is left on ${both.backup.name}; ending it`);
    await stop(both.backup, receiverUnit(name));
  }
  const term = nextTerm(both.primaryView.term?.term, both.backupView.term?.term);
  if (options.dryRun) {
    const told = `${name}: would start term ${term} from ${ready.primary} to ${ready.backup}, every ${intervalMs} ms`;
    return [told, ...(await applyPin())].join('\n  ');
  }
  for (const line of await applyPin()) deps.tell(`${name}: ${line}`);
  await rememberWanted(name, hosts, views, wish);
  const order: Order = {
    format: 1,
    pair: layout.pair.name,
    domain: name,
    term,
    session: randomBytes(16).toString('hex'),
    primary: ready.primary,
    backup: ready.backup,
    intervalMs,
    network: options.network,
    disk: options.disk,
  };
  // The backup first: a primary never believes itself protected by a host that doesn't know of the term.
  await writeOrder(both.backup, both.backupView, order, 'backup');
  await writeOrder(both.primary, both.primaryView, order, 'primary');
  deps.tell(`${name}: term ${term}: putting the journal under DRBD on ${ready.backup}`);
  await start(both.backup, receiverUnit(name));
  await waitFor(
    async () => {
      const view = await readProtection(both.backup, name);
      if (!isActive(view.receiverUnit)) await unitFailed(both.backup, receiverUnit(name), 'the receiver');
      if (typeof view.receiver === 'string' || view.receiver.term !== term) return null;
      return view.receiver.phase === 'waiting' ? 'ready' : null;
    },
    () => '',
    deps,
  );
  deps.tell(`${name}: sending the memory of ${formatSize(ready.guestMemoryBytes)}`);
  await start(both.primary, senderUnit(name));
  return waitForProtection(layout, hosts, options, deps);
}

type Covers = NonNullable<SenderReport['covers']>;

function coversThat({ covers }: SenderReport, { network, disk }: Covers): boolean {
  return covers === undefined || (covers.network === network && covers.disk === disk);
}

function partText(covers: Covers | undefined): string {
  const { network, disk } = covers ?? { network: true, disk: true };
  return `${network ? '' : ', output not held'}${disk ? '' : ', disks not protected'}`;
}

/** Waits for the first commit, with progress. */
async function waitForProtection(
  layout: DomainLayout,
  hosts: readonly [Host, Host],
  options: ProtectOptions,
  deps: ProtectDependencies,
): Promise<string> {
  const { name } = layout.domain;
  let progress = '';
  let told = '';
  return waitFor(
    async () => {
      const views = await readBoth(hosts, name);
      const primary = views.find((view) => view.guests.some((guest) => guest.name === name)) ?? views[0];
      const sender = views.find(({ senderActive }) => senderActive);
      if (sender === undefined) {
        const host = hosts.find((each) => each.name === primary.name) ?? hosts[0];
        await unitFailed(host, senderUnit(name), 'the sender');
      }
      if (sender === undefined || typeof sender.sender === 'string') return null;
      const { protection, reason, sentBytes, committedEpoch, term } = sender.sender;
      const total = sender.guests.find((guest) => guest.name === name)?.memoryBytes ?? 0;
      progress = `${sentBytes}`;
      const line = `${name}: ${reason}: ${formatSize(sentBytes)} of about ${formatSize(total)}`;
      if (protection === 'starting' && line !== told) {
        deps.tell(line);
        told = line;
      }
      const isPartial = !options.network || !options.disk;
      const isOn = protection === 'protected' || (isPartial && protection === 'unprotected');
      return isOn && committedEpoch > 0 ? `${name} is ${protection}: term ${term}, ${reason}` : null;
    },
    () => progress,
    deps,
  );
}

/** @returns what was done, in words */
export async function unprotectDomain(
  layout: DomainLayout,
  hosts: readonly [Host, Host],
  deps: ProtectDependencies,
): Promise<string> {
  const { name } = layout.domain;
  const views = await readBoth(hosts, name);
  const active = views.some((view) => view.senderActive || view.receiverActive);
  for (const line of await pinHosts(hosts, name, undefined, deps.tell, false)) deps.tell(`${name}: ${line}`);
  if (!active) return `${name} is not protected; there is nothing to end`;
  for (const [index, view] of views.entries()) {
    if (!view.senderActive) continue;
    deps.tell(`${name}: ending protection by agreement`);
    await stop(hosts[index] ?? hosts[0], senderUnit(name));
  }
  // The receiver ends with the term: it gives the copy up, rolls its journal forward and puts the disks back.
  const since = deps.nowMs();
  await waitFor(
    async () => {
      const now = await readBoth(hosts, name);
      const receiver = now.findIndex((view) => view.receiverActive);
      if (receiver < 0) return 'ended';
      const { receiver: report } = now[receiver] ?? now[0];
      // One that never had a sender, or whose sender died, is told to end.
      if (typeof report === 'string' || report.phase === 'waiting' || deps.nowMs() - since > 60_000) {
        await stop(hosts[receiver] ?? hosts[0], receiverUnit(name));
      }
      return null;
    },
    () => '',
    deps,
  );
  const after = await readBoth(hosts, name);
  for (const view of after) {
    const failed = [view.senderUnit, view.receiverUnit].some(({ activeState }) => activeState === 'failed');
    if (failed) {
      throw new OperatorError(
        `${name}: protection has ended, but not in order on ${view.name}; see journalctl -u ${senderUnit(name)} -u ${receiverUnit(name)} there`,
      );
    }
  }
  return `${name} is no longer protected and runs on`;
}

function sides(
  hosts: readonly [Host, Host],
  views: readonly [ProtectionView, ProtectionView],
  primary: string,
): Both {
  const [first, second] = hosts[0].name === primary ? [0, 1] : [1, 0];
  return {
    primary: hosts[first as 0 | 1],
    backup: hosts[second as 0 | 1],
    primaryView: views[first as 0 | 1],
    backupView: views[second as 0 | 1],
  };
}

async function writeOrder(
  host: Host,
  view: ProtectionView,
  order: Order,
  role: TermRecord['role'],
): Promise<void> {
  const { domain, term, session } = order;
  const record: TermRecord = { term, session, role, phase: 'starting', boot: view.boot };
  const succession = mayFollow(view.term, record);
  if (!succession.allowed) {
    throw new OperatorError(`${domain} on ${host.name}: ${succession.reason}`, ExitCode.refused);
  }
  const encode = (text: string): Uint8Array => new TextEncoder().encode(text);
  await host.writeFile(statePath(domain, 'term.json'), encode(formatTerm(record)), 0o644);
  await host.writeFile(runPath(domain, 'order.json'), encode(formatOrder(order)), 0o644);
  const environment = `INTERVAL_MS=${order.intervalMs}\nBACKUP=${order.backup}\n`;
  await host.writeFile(runPath(domain, 'sender.env'), encode(environment), 0o644);
}

async function start(host: Host, unit: string): Promise<void> {
  // One that never failed has nothing to reset, and says so.
  await host.run(['systemctl', 'reset-failed', unit], { deadlineMs: COMMAND_MS, repeatable: true });
  await mustRun(host, ['systemctl', 'start', '--no-block', unit], COMMAND_MS);
}

function stop(host: Host, unit: string): Promise<void> {
  return mustRun(host, ['systemctl', 'stop', unit], STUCK_MS);
}

async function unitFailed(host: Host, unit: string, what: string): Promise<never> {
  const { stdout } = await host.run(
    ['journalctl', '-u', unit, '-n', String(LOG_LINES), '--no-pager', '-o', 'cat'],
    {
      deadlineMs: COMMAND_MS,
      repeatable: true,
    },
  );
  throw new OperatorError(`${host.name}: ${what} has ended; its log says:\n${stdout.trim()}`);
}

/** Looks again and again until `look` gives an answer; gives up when nothing has changed for long. */
async function waitFor<T>(
  look: () => Promise<T | null>,
  progress: () => string,
  deps: ProtectDependencies,
): Promise<T> {
  let last = progress();
  let sinceMs = deps.nowMs();
  for (;;) {
    const found = await look();
    if (found !== null) return found;
    if (progress() !== last) {
      last = progress();
      sinceMs = deps.nowMs();
    }
    if (deps.nowMs() - sinceMs > STUCK_MS) {
      throw new OperatorError(
        `nothing has changed for ${STUCK_MS / 60_000} minutes; see remus-drbd status, and run the command again`,
      );
    }
    await deps.pause(POLL_MS);
  }
}
