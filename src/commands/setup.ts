/**
 * `remus-drbd setup`: makes the hosts of each pair what the configuration says, all pairs side by side.
 *
 * Running it again finishes what is missing and changes nothing that is right. A pair that fails does not
 * stop the others.
 */
import { check } from '../core/check.js';
import { ExitCode, OperatorError, OperatorErrors } from '../core/errors.js';
import type { Round } from '../core/setup/step.js';
import type { Views } from '../core/setup/view.js';
import { planSetup, type Desired, type PlanOptions } from '../core/setup/plan.js';
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
  const desired: Desired = { pair: work.pair, layouts: work.layouts, files: work.files };
  return withHosts(work.pair, dependencies, options.dryRun, async (hosts) => {
    const look = (): Promise<Views> => observe(work, hosts);
    const first = await look();
    refuseFailedChecks(work, first);
    const plan = (views: Views): Round => planSetup(desired, views, options);
    return converge(work.pair, hosts, first, look, plan, dependencies, options, progress);
  });
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
