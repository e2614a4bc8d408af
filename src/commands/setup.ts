/**
 * `remus-drbd setup`: makes the hosts of each pair what the configuration says, all pairs side by side.
 *
 * Running it again finishes what is missing and changes nothing that is right. A pair that fails does not
 * stop the others.
 */
import { check } from '../core/check.js';
import { ExitCode, OperatorError, OperatorErrors } from '../core/errors.js';
import type { Pair } from '../core/model.js';
import { arbiterAdvice } from '../core/setup/ssh.js';
import type { Round } from '../core/setup/step.js';
import type { Views } from '../core/setup/view.js';
import { KEY_TITLE, planSetup, type Desired, type PlanOptions } from '../core/setup/plan.js';
import type { Progress } from '../edge/progress.js';
import {
  converge,
  observe,
  withHosts,
  type ConvergeOptions,
  type Dependencies,
  type PairResult,
  type PairWork,
} from './converge.js';

export type SetupOptions = PlanOptions & ConvergeOptions;

/**
 * Sets one pair up.
 *
 * @throws OperatorError naming the step that failed and its state
 */
export async function setupPair(
  work: PairWork,
  dependencies: Dependencies,
  options: SetupOptions,
  progress: Progress,
): Promise<PairResult> {
  refuseUnknownMachines(work);
  const desired: Desired = { pair: work.pair, layouts: work.layouts, files: work.files };
  return withHosts(work.pair, dependencies, options.dryRun, async (hosts) => {
    const look = (): Promise<Views> => observe(work, hosts);
    const first = await look();
    refuseFailedChecks(work, first);
    const plan = (views: Views): Round => planSetup(desired, views, options);
    const result = await converge(work.pair, hosts, first, look, plan, dependencies, options, progress);
    await tellArbiterKeys(work.pair, result, look, progress);
    return result;
  });
}

/** A key of a host that was made in this run is of no use before somebody has put it on the arbiter's machine. */
async function tellArbiterKeys(
  { arbiter, hosts }: Pair,
  { changes }: PairResult,
  look: () => Promise<Views>,
  progress: Progress,
): Promise<void> {
  if (arbiter.kind !== 'ssh') return;
  const made = hosts.filter(({ name }) =>
    changes.some(({ host, title }) => host === name && title === KEY_TITLE),
  );
  if (made.length === 0) return;
  const views = await look();
  for (const { name } of made) {
    const { publicKey } = views[name]?.ssh ?? {};
    if (publicKey !== undefined) progress.line(`to do: ${arbiterAdvice(arbiter, name, publicKey)}`);
  }
}

/** Hosts would refuse such a machine, and for the arbiter that would be found out at a failure. */
function refuseUnknownMachines({ pair, unknownMachines }: PairWork): void {
  if (unknownMachines.length === 0) return;
  throw new OperatorError(
    `${pair.name}: the host key of ${unknownMachines.join(', ')} is not known here, and its hosts need it to log in ` +
      `there; nothing was changed. Compare the key on its own console (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub) ` +
      `and add it to the known hosts of this machine (ssh-keyscan), then run setup again.`,
    ExitCode.refused,
  );
}

/** The plan itself decides on the content of volumes, because it knows which of them may be overwritten. */
const DECIDED_BY_PLAN = new Set(['data']);

/** What `check` finds wrong on the hosts would make setup fail half-way; nothing is touched then. */
function refuseFailedChecks(work: PairWork, views: Views): void {
  const readings = Object.fromEntries(
    Object.entries(views).map(([name, { facts }]) => [name, { reached: true as const, facts }]),
  );
  const failed = check([work.pair], work.layouts, work.guests, readings, { links: [], clocks: {} }).filter(
    ({ verdict, id }) => verdict === 'fail' && !DECIDED_BY_PLAN.has(id),
  );
  if (failed.length === 0) return;
  throw new OperatorErrors(
    failed.map(
      ({ pair, host, domain, found, needed, mend }) =>
        new OperatorError(
          `${[domain, host ?? pair].filter((word) => word !== undefined).join(' on ')}: ${found}; needed: ${needed}; ` +
            `nothing was changed. ${mend}`,
          ExitCode.refused,
        ),
    ),
  );
}
