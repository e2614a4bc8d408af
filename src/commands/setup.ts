/**
 * `remus-drbd setup`: makes the hosts of each pair what the configuration says, all pairs side by side.
 *
 * Running it again finishes what is missing and changes nothing that is right. A pair that fails does not
 * stop the others.
 */
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
  return withHosts(work.pair, dependencies, options.dryRun, (hosts) =>
    converge(
      work.pair,
      hosts,
      () => observe(work, hosts),
      (views) => planSetup(desired, views, options),
      dependencies,
      options,
      progress,
    ),
  );
}
