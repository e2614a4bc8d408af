/** What the units on a host run: `sender`, `receiver` and their clean-ups. Their log is the journal of the unit. */
import { ExitCode } from '../core/errors.js';
import { closeLog, createLog } from '../edge/log.js';
import type { Log, LogLevel } from '../edge/log.js';

export type HostProgram = 'sender' | 'receiver' | 'sender-cleanup' | 'receiver-cleanup';

/** Something that keeps the process from ending is not worth a unit that never stops. */
const LINGER_MS = 5_000;

export async function runOnHost(
  program: HostProgram,
  domain: string,
  version: string,
  logLevel: LogLevel,
): Promise<ExitCode> {
  const log = createLog({ level: logLevel === 'warn' ? 'info' : logLevel, json: false });
  try {
    return await run(program, domain, version, log);
  } finally {
    await closeLog(log);
    setTimeout(() => process.exit(), LINGER_MS).unref();
  }
}

async function run(program: HostProgram, domain: string, version: string, log: Log): Promise<ExitCode> {
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
      const { cleanUpReceiver } = await import('../protect/receiver-host.js');
      await cleanUpReceiver(domain, log);
      return ExitCode.ok;
    }
  }
}
