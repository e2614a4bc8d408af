/**
 * `remus-drbd arbiter-reach DOMAIN`, which `check` runs on the hosts: whether this host would get a decision of its
 * pair's arbiter now. One line of JSON, a `ReachAnswer`. It claims nothing; with `fence` it only asks the device.
 */
import { ExitCode } from '../core/errors.js';
import type { ReachAnswer } from '../core/claim/types.js';
import { openArbiter } from '../arbiter/open.js';
import { closeLog, createLog } from '../edge/log.js';
import { readHostDomain } from '../protect/host-domain.js';

/** A claim is to be decided in about the time of a failure's detection; an arbiter this slow is none. */
const REACH_MS = 5_000;

/** @throws OperatorError usage: setup has not been here, or what it left can't be used */
export async function runArbiterReach(domain: string, print: (text: string) => void): Promise<ExitCode> {
  const here = await readHostDomain(domain);
  const log = createLog({ level: 'error', json: false });
  try {
    const arbiter = await openArbiter(here.domain.arbiter, {
      host: here.host,
      peer: here.peer.name,
      domain,
      log,
    });
    let answer: ReachAnswer;
    try {
      answer = await arbiter.reach({ timeoutMs: REACH_MS });
    } finally {
      await arbiter.close();
    }
    print(JSON.stringify(answer));
    return ExitCode.ok;
  } finally {
    await closeLog(log);
  }
}
