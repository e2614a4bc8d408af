/**
 * After `xl remus` and the sender, however they ended: `remus-drbd sender-cleanup DOMAIN`, run by the sender's unit.
 * No guest is left suspended and no network plugged; who goes on is decided, never guessed.
 *
 *     the sender ended in order -> only look that nothing was left
 *     it did not                -> agree with the receiver, or claim; until then output stays held. A guest that has
 *                                  crashed is left to the receiver where its copy is to go on
 *     the primary goes on       -> the network opens, a suspended guest is resumed, its end is watched for
 *     the backup goes on        -> the guest here is destroyed, its held output with it
 */
import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { openArbiter } from '../arbiter/open.js';
import { parseXlList } from '../core/parse/xen.js';
import type { Order } from '../core/protect/order.js';
import { REPORT_EVERY_MS, reportHead } from '../core/protect/report.js';
import type { SenderReport } from '../core/protect/report.js';
import type { Decision } from '../core/protect/types.js';
import { removeBuffers } from '../edge/netbuf.js';
import type { Log } from '../edge/log.js';
import { TermStore } from '../edge/term-store.js';
import { decideForPrimary } from './claim.js';
import type { Outcome } from './claim.js';
import { must } from './exec.js';
import { readHostDomain, readHostOrder } from './host-domain.js';
import type { HostDomain } from './host-domain.js';
import { dropOutput } from './network.js';
import { connectOptions, pausedPath, readEnd, recordEnd, replaceFile } from './sender-host.js';
import { resumeGuest } from './xen-resume.js';
import { destroyGuest, guestEnd, unpauseGuest } from './xl.js';

const COMMAND_MS = 30_000;

/** @returns who goes on */
export async function cleanUpSender(name: string, program: string, log: Log): Promise<Decision> {
  const here = await readHostDomain(name);
  const order = await readHostOrder(name);
  const ended = await readEnd(here, order);
  const record = await new TermStore(name, here.stateDirectory).readTerm();
  let outcome: Outcome;
  if (ended !== null) {
    outcome = { decision: ended, reason: 'the sender ended in order' };
  } else if (record?.term === order.term && record.phase === 'starting') {
    outcome = { decision: 'primary', reason: 'the sender died before the backup had a whole checkpoint' };
  } else {
    log.warn('the sender died; deciding who goes on', { domain: name, term: order.term });
    outcome = await decide(here, order, program, log);
  }
  const { decision, reason } = outcome;
  if (decision === 'backup') {
    await destroyGuest(name);
    await dropOutput(name);
  } else {
    const { removed, lostPackets } = await removeBuffers(name);
    if (removed.length > 0) log.warn('the network was still plugged', { domain: name, removed, lostPackets });
    await resumeIfSuspended(name, log);
    await unpauseIfPaused(here, log);
    // From the first checkpoint on no xl watches the guest (scripts/host/remus-watch).
    await must(['systemctl', 'start', '--no-block', `remus-watch@${name}.service`], COMMAND_MS);
  }
  await recordEnd(here, order, decision).catch((error: unknown) => {
    log.error('the decision could not be recorded here', { domain: name, reason: (error as Error).message });
  });
  log.info('clean', { domain: name, term: order.term, goesOn: decision, reason });
  return decision;
}

async function decide(here: HostDomain, order: Order, program: string, log: Log): Promise<Outcome> {
  const { domain } = order;
  const arbiter = await openArbiter(here.domain.arbiter, {
    host: here.host,
    peer: here.peer.name,
    domain,
    log,
  });
  let undecided = 'nobody was asked yet';
  const report = (): void => {
    void replaceFile(
      join(here.runDirectory, 'sender.json'),
      JSON.stringify(undecidedReport(order, undecided)),
    ).catch(() => undefined);
  };
  const timer = setInterval(report, REPORT_EVERY_MS);
  try {
    return await decideForPrimary(
      arbiter,
      order,
      connectOptions(here, order, program),
      { reason: 'the sender died', crashed: await hasCrashed(here, log) },
      (reason) => {
        if (reason !== undecided) log.warn('undecided; output stays held', { domain, reason });
        undecided = reason;
        report();
      },
    );
  } finally {
    clearInterval(timer);
    await arbiter.close();
  }
}

/** True where the guest has crashed and its copy is to go on. */
async function hasCrashed({ domain: { domain, onCrash } }: HostDomain, log: Log): Promise<boolean> {
  if (onCrash !== 'failover') return false;
  try {
    return (await guestEnd(domain)) === 'crash';
  } catch (error) {
    // Then the term is decided as for a guest that runs: nobody can tell here that it does not.
    log.warn('whether the guest has crashed is not known', { domain, reason: (error as Error).message });
    return false;
  }
}

function undecidedReport(order: Order, undecided: string): SenderReport {
  return {
    ...reportHead(order, process.pid, Date.now()),
    role: 'sender',
    phase: 'claiming',
    protection: 'suspended',
    reason: `the sender died; output is held until it is decided who goes on: ${undecided}`,
    committedEpoch: 0,
    intervalMs: order.intervalMs,
    sentBytes: 0,
    figures: null,
    droppedPackets: 0,
  };
}

/** With `engine: protocol-d` the sender holds a guest by pausing it. */
async function unpauseIfPaused(here: HostDomain, log: Log): Promise<void> {
  const { domain } = here.domain;
  if (!existsSync(pausedPath(here))) return;
  const guest = parseXlList(await must(['xl', 'list'], COMMAND_MS)).find(({ name }) => name === domain);
  if (guest?.state[2] === 'p') {
    log.warn('the guest was left paused; unpausing it', { domain });
    await unpauseGuest(domain);
  }
  await rm(pausedPath(here), { force: true });
}

/** Resumes a guest that a dead `xl` has left suspended here. @throws Error when it still is */
export async function resumeIfSuspended(name: string, log: Log): Promise<void> {
  const find = async (): Promise<{ id: number; state: string } | undefined> =>
    parseXlList(await must(['xl', 'list'], COMMAND_MS)).find((guest) => guest.name === name);
  const guest = await find();
  if (guest === undefined) return;
  if (guest.state[3] !== 's' || guest.state[4] !== 's') return;
  log.warn('the guest was left suspended; resuming it', { domain: name });
  resumeGuest(guest.id);
  const after = await find();
  if (after?.state[3] === 's') throw new Error(`${name}: it is still suspended (xl list: ${after.state})`);
}
