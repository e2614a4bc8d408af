/** What the units on a host run: `sender`, `receiver` and their clean-ups. Their log is the journal of the unit. */
import { hostname } from 'node:os';
import { join } from 'node:path';
import { ExitCode, OperatorError } from '../core/errors.js';
import { Paths } from '../core/names.js';
import { closeLog, createLog } from '../edge/log.js';
import type { Log, LogLevel } from '../edge/log.js';
import { TermStore } from '../edge/term-store.js';
import { unitError } from '../protect/unit-error.js';
import type { UnitProgram } from '../protect/unit-error.js';

/** Something that keeps the process from ending is not worth a unit that never stops. */
const LINGER_MS = 5_000;

export async function runOnHost(
  program: UnitProgram,
  domain: string,
  version: string,
  logLevel: LogLevel,
): Promise<ExitCode> {
  const log = createLog({ level: logLevel === 'warn' ? 'info' : logLevel, json: false });
  try {
    return await run(program, domain, version, log);
  } catch (error) {
    throw await unitError(program, domain, error);
  } finally {
    await closeLog(log);
    setTimeout(() => process.exit(), LINGER_MS).unref();
  }
}

async function run(program: UnitProgram, domain: string, version: string, log: Log): Promise<ExitCode> {
  switch (program) {
    case 'sender': {
      const { runSenderHost } = await import('../protect/sender-host.js');
      await runSenderHost(domain, version, log);
      return ExitCode.ok;
    }
    case 'receiver': {
      const { runReceiverHost } = await import('../protect/receiver-host.js');
      const { phase } = await runReceiverHost(domain, version, log);
      return phase === 'stuck' ? ExitCode.failed : ExitCode.ok;
    }
    case 'sender-cleanup': {
      const { cleanUpSender } = await import('../protect/sender-cleanup.js');
      await cleanUpSender(domain, version, log);
      return ExitCode.ok;
    }
    case 'receiver-cleanup': {
      const { cleanUpReceiver } = await import('../protect/receiver-cleanup.js');
      await cleanUpReceiver(domain, version, log);
      return ExitCode.ok;
    }
    case 'switchover-source':
      return (await import('../protect/switchover.js')).runSwitchoverSource(domain, version, log);
    case 'switchover-target':
      return (await import('../protect/switchover.js')).runSwitchoverTarget(domain, version, log);
    case 'switchover-cleanup':
      return (await import('../protect/switchover.js')).cleanUpSwitchover(domain, log);
    case 'drill-run':
      await (await import('../protect/drill.js')).runDrill(domain, log);
      return ExitCode.ok;
    case 'drill-cleanup':
      await (await import('../protect/drill-cleanup.js')).cleanUpDrill(domain, log);
      return ExitCode.ok;
  }
}

/** `remus-drbd decide`, which `failover` and `continue` run on the hosts: what a person has decided about a term. */
export async function decideOnHost(domain: string, term: string, winner: string): Promise<ExitCode> {
  const number = Number(term);
  if (!Number.isSafeInteger(number) || number < 1) {
    throw new OperatorError(`${term} is no term`, ExitCode.usage);
  }
  const { decide } = await import('../arbiter/operator.js');
  const reason = 'told to by an operator';
  await decide(domain, join(Paths.state, domain), { term: number, winner, by: 'operator', reason });
  return ExitCode.ok;
}

/** What becomes of a journal on a host that was started anew (see protect/decision.ts). */
export async function decideWithoutCopyHere(
  domain: string,
  term: number,
): Promise<'roll-forward' | 'discard'> {
  const { decisionWithoutCopy, endDecidedTerm } = await import('../protect/decision.js');
  const stateDirectory = join(Paths.state, domain);
  const store = new TermStore(domain, stateDirectory);
  const say = (reason: string): void => void process.stderr.write(`${domain}: ${reason}\n`);
  const outcome = await decisionWithoutCopy(domain, hostname(), stateDirectory, store, term, say);
  await endDecidedTerm(store);
  return outcome;
}
