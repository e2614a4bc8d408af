/**
 * `remus-drbd failover`, `continue` and `recover`: what people do when a host is lost, and when it is back.
 *
 * `recover` asks `core/protect/recovery.ts` what is to be done next, does it, and looks again, until protection is on
 * in the direction in which the guest runs now.
 */
import { ExitCode, OperatorError } from '../core/errors.js';
import type { DomainLayout, Engine } from '../core/model.js';
import { nextRecoveryStep } from '../core/protect/recovery.js';
import type { RecoveryStep } from '../core/protect/recovery.js';
import { latestWanted } from '../core/protect/wanted.js';
import { syncProgress } from '../core/setup/sync.js';
import type { SyncSample } from '../core/setup/sync.js';
import { Paths, receiverUnit, unitName } from '../core/names.js';
import type { Host } from '../edge/host.js';
import { HostError } from '../edge/host.js';
import { protectDomain } from './protect.js';
import type { ProtectDependencies } from './protect.js';
import { mustRun } from './host-command.js';
import { readBoth, readProtection } from './protection-view.js';
import type { ProtectionView } from './protection-view.js';

const COMMAND_MS = 120_000;
const POLL_MS = 1_000;
/** What to do where a wait does not end. */
const remedy = {
  decision: 'let that host reach the arbiter',
  sender: 'look at its unit there',
  connection: 'look at DRBD on both hosts',
  sync: 'look at DRBD on both hosts',
};
const WAIT_MS = 600_000;
const STEPS_MAX = 10_000;

/**
 * @param waits false: where only time is needed, as for a resync, it ends and is to be run again later
 * @returns what was done, in words
 */
export async function recoverDomain(
  layout: DomainLayout,
  hosts: readonly [Host, Host],
  deps: ProtectDependencies,
  waits = true,
): Promise<string> {
  const { name } = layout.domain;
  const samples: SyncSample[] = [];
  let last = '';
  let told = '';
  let sinceMs = deps.nowMs();
  for (let count = 0; count < STEPS_MAX; count++) {
    const views = await readBoth(hosts, name);
    const step = nextRecoveryStep(name, views);
    const key = JSON.stringify(step);
    if (key !== last) sinceMs = deps.nowMs();
    last = key;
    switch (step.do) {
      case 'refuse':
        throw new OperatorError(
          `${name}: recovery is refused: ${step.reason}. Nothing was changed.`,
          ExitCode.refused,
        );
      case 'done':
        return step.reason;
      case 'protect':
        deps.tell(`${name}: ${step.reason}; protecting`);
        return protectDomain(
          layout,
          hosts,
          {
            intervalMs: latestWanted(views[0].wanted, views[1].wanted)?.intervalMs ?? null,
            network: true,
            disk: true,
            dryRun: false,
          },
          deps,
        );
      case 'wait':
        if (!waits) return step.reason;
        if (step.for === 'sync') {
          samples.push({ atMs: deps.nowMs(), outOfSyncBytes: step.outOfSyncBytes });
          deps.tell(`${name}: resync: ${syncProgress(samples).text}`);
        } else if (key !== told) deps.tell(`${name}: ${step.reason}`);
        told = key;
        if (deps.nowMs() - sinceMs > WAIT_MS) {
          throw new OperatorError(
            `${name}: ${step.reason}, and nothing has changed for ${WAIT_MS / 60_000} minutes; ${remedy[step.for]}, and run recover again`,
          );
        }
        await deps.pause(POLL_MS);
        break;
      default:
        deps.tell(`${name}: ${titleOf(step)}: ${step.reason}`);
        await act(name, layout.domain.engine, step, hosts);
        if (deps.nowMs() - sinceMs > WAIT_MS) {
          throw new OperatorError(
            `${name}: ${titleOf(step)} was done again and again and is still needed: ${step.reason}`,
          );
        }
    }
  }
  throw new OperatorError(`${name}: recovery does not come to an end; the hosts keep changing`);
}

function titleOf(step: RecoveryStep): string {
  switch (step.do) {
    case 'destroy':
      return `destroying ${step.guest} on ${step.host}`;
    case 'bring-up':
      return `bringing DRBD up on ${step.host}`;
    case 'demote':
      return `demoting ${step.host}`;
    case 'connect':
      return `connecting ${step.loser} to ${step.survivor}`;
    default:
      return step.do;
  }
}

async function act(
  domain: string,
  engine: Engine,
  step: RecoveryStep,
  hosts: readonly [Host, Host],
): Promise<void> {
  const host = (name: string): Host => (hosts[0].name === name ? hosts[0] : hosts[1]);
  switch (step.do) {
    case 'destroy':
      return mustRun(host(step.host), ['xl', 'destroy', step.guest], COMMAND_MS);
    case 'bring-up':
      // Started at boot already, and failed or done with then: `restart` runs it again.
      return mustRun(host(step.host), ['systemctl', 'restart', unitName(domain)], COMMAND_MS);
    case 'demote':
      return mustRun(host(step.host), ['drbdadm', 'secondary', domain], COMMAND_MS);
    case 'connect': {
      const [loser, survivor] = [host(step.loser), host(step.survivor)];
      const options = { deadlineMs: COMMAND_MS, repeatable: true };
      // The loser first, so that it already waits with its answer when the survivor asks. It may stand alone by now,
      // and the survivor may be connecting: those two are allowed to fail, the next look tells.
      await loser.run(['drbdadm', 'disconnect', domain], options);
      // The engine's DRBD: 8.3 takes options of drbdsetup behind "--", before the command.
      const discard = step.discard ? ['--discard-my-data'] : [];
      const connect =
        engine === 'protocol-d'
          ? ['drbdadm', ...(step.discard ? ['--', ...discard] : []), 'connect', domain]
          : ['drbdadm', 'connect', ...discard, domain];
      await mustRun(loser, connect, COMMAND_MS);
      await survivor.run(['drbdadm', 'connect', domain], options);
      return;
    }
    default:
      throw new Error(`step ${step.do} is no act`);
  }
}

/** A host that may be dead. `host`: null where it does not answer; `problem`: why there is no view. */
type Asked = { host: Host; view: ProtectionView } | { host: Host | null; view: null; problem: string };

async function ask(connect: (name: string) => Promise<Host>, name: string, domain: string): Promise<Asked> {
  let host: Host | null = null;
  try {
    host = await connect(name);
    return { host, view: await readProtection(host, domain) };
  } catch (error) {
    if (!(error instanceof HostError || error instanceof OperatorError)) throw error;
    const problem = error.message.split('\n')[0] ?? '';
    if (error instanceof OperatorError) return { host, view: null, problem };
    await host?.close();
    return { host: null, view: null, problem };
  }
}

export interface DecideOptions {
  /** Go on although the other host is alive and has the guest. */
  force: boolean;
}

/**
 * `failover`: the backup takes the guest over now. `continue`: the primary goes on alone.
 *
 * @param connect by host name
 * @returns what was done, in words
 */
export async function decideDomain(
  layout: DomainLayout,
  what: 'failover' | 'continue',
  connect: (name: string) => Promise<Host>,
  options: DecideOptions,
  deps: ProtectDependencies,
): Promise<string> {
  const { name } = layout.domain;
  const asked = await Promise.all(layout.hosts.map((host) => ask(connect, host.name, name)));
  try {
    const role = what === 'failover' ? 'backup' : 'primary';
    const chosen = asked.find(({ view }) => view?.term?.role === role && view.term.phase !== 'ended');
    if (!chosen?.view) {
      const why = asked.flatMap((each) => (each.view === null ? [each.problem] : [])).join('; ');
      throw new OperatorError(
        `${name}: no host that can be reached is the ${role} of a term that is not over${why === '' ? '' : ` (${why})`}; nothing was changed`,
        ExitCode.refused,
      );
    }
    const peer = asked.find((each) => each !== chosen);
    if (!options.force) refuseIfAlive(name, what, peer);
    const term = chosen.view.term?.term ?? 0;
    const winner = chosen.view.name;
    // The loser is told first wherever it can be: two hosts must not be told two things.
    for (const each of [peer, chosen]) {
      if (!each?.host) continue;
      await mustRun(each.host, [Paths.command, 'decide', name, String(term), winner], COMMAND_MS);
    }
    if (what === 'failover') {
      await mustRun(
        chosen.host,
        ['systemctl', 'kill', '--kill-who=main', '--signal=USR1', receiverUnit(name)],
        COMMAND_MS,
      );
    }
    return await waitForDecision(name, what, chosen.host, term, deps);
  } finally {
    await Promise.all(asked.map(async ({ host }) => host?.close()));
  }
}

/** A host that answers and can't be understood may have the guest as well. */
function refuseIfAlive(name: string, what: 'failover' | 'continue', peer: Asked | undefined): void {
  if (!peer?.host) return;
  const { view } = peer;
  let state: string;
  if (view === null) state = `what the other host says can't be read (${peer.problem})`;
  else if (what === 'failover') {
    if (!view.guests.some((guest) => guest.name === name)) return;
    state = `${name} runs on ${view.name}`;
  } else {
    if (!view.receiverActive) return;
    state = `the receiver on ${view.name} lives`;
  }
  throw new OperatorError(
    `${name}: ${state}, so ${what} ${view === null ? 'could' : 'would'} end it there: what it did since the last commit is lost, though nobody was told of it. ` +
      `Nothing was changed. --force does it all the same.`,
    ExitCode.refused,
  );
}

async function waitForDecision(
  name: string,
  what: 'failover' | 'continue',
  host: Host,
  term: number,
  deps: ProtectDependencies,
): Promise<string> {
  const sinceMs = deps.nowMs();
  for (;;) {
    const view = await readProtection(host, name);
    const ended = view.term?.term === term && view.term.phase === 'ended';
    const runs = view.guests.some((guest) => guest.name === name);
    if (ended && view.term?.outcome === 'lost') {
      throw new OperatorError(
        `${name}: the term was decided for the other host; ${host.name} does not go on`,
      );
    }
    if (ended && runs) {
      return what === 'failover'
        ? `${name} runs on ${host.name} now; when the other host is back: remus-drbd recover ${name}`
        : `${name} runs on ${host.name} without protection; when the other host is back: remus-drbd recover ${name}`;
    }
    const { receiver, sender } = view;
    const report = what === 'failover' ? receiver : sender;
    deps.tell(`${name}: ${typeof report === 'string' ? report : report.reason}`);
    if (deps.nowMs() - sinceMs > WAIT_MS) {
      throw new OperatorError(
        `${name}: not decided after ${WAIT_MS / 60_000} minutes; see remus-drbd status`,
      );
    }
    await deps.pause(POLL_MS);
  }
}
