/** `remus-drbd teardown`: the mirror image of `setup` for some or all domains; data stays unless named. */
import { planTeardown, type TeardownOptions } from '../core/setup/teardown.js';
import type { Desired } from '../core/setup/plan.js';
import type { Views } from '../core/setup/view.js';
import type { Progress } from '../edge/progress.js';
import {
  converge,
  observe,
  withHosts,
  type PairResult,
  type PairWork,
  type Dependencies,
} from './converge.js';

/**
 * Takes domains of one pair away.
 *
 * @throws OperatorError (refused) when a guest uses one of them; nothing was changed then
 */
export async function teardownPair(
  work: PairWork,
  dependencies: Dependencies,
  options: TeardownOptions & { dryRun: boolean },
  progress: Progress,
): Promise<PairResult> {
  const desired: Desired = { pair: work.pair, layouts: work.layouts, files: work.files };
  return withHosts(work.pair, dependencies, options.dryRun, async (hosts) => {
    const look = (): Promise<Views> => observe(work, hosts);
    return converge(
      work.pair,
      hosts,
      await look(),
      look,
      (views) => planTeardown(desired, views, options),
      dependencies,
      { dryRun: options.dryRun, wait: false },
      progress,
    );
  });
}
