/**
 * Setup whose connection is lost at every single step, one after the other, on both hosts: each run gets one
 * step further, and the last one ends where a run that was never disturbed does.
 */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { setupPair } from '../../src/commands/setup.js';
import { EmbeddedWorld } from '../../src/embedded/world.js';
import { TEST_LIMITS } from '../edge/support.js';

const test = suite('interrupted setup');

/** Far more than a setup has steps. */
const RUNS_MAX = 200;
const DISKS = [
  '{ vdev: xvda, volumeGroup: vg0, size: 1GiB }',
  '{ vdev: xvdb, volumeGroup: vg0, size: 512MiB }',
];

for (const fault of ['dropBefore', 'dropAfter'] as const) {
  test(`lost at every step (${fault}), it costs nothing but another run`, async () => {
    const world = await EmbeddedWorld.start({ limits: TEST_LIMITS, disks: DISKS });
    try {
      const { loaded, works } = await world.load();
      const { hosts } = world.pairs[0]!;
      const setUp = () => {
        const dependencies = { ...world.dependencies(loaded), pause: () => Promise.resolve() };
        const options = { overwrite: new Set<string>(), dryRun: false, wait: true };
        const quiet = { line: () => undefined, state: () => undefined };
        return setupPair(works[0]!, dependencies, options, quiet);
      };
      for (const { sshd } of hosts) {
        const seen = new Set<string>();
        sshd.fault = ({ kind, argv }) => {
          const isStep = (kind === 'run' || kind === 'stream') && argv[0] !== 'flock';
          if (!isStep || seen.has(argv.join(' '))) return undefined;
          seen.add(argv.join(' '));
          return fault;
        };
      }
      let runs = 0;
      for (let done = false; !done; runs += 1) {
        assert.ok(runs < RUNS_MAX, 'it does not get anywhere');
        try {
          await setUp();
          done = true;
        } catch (error) {
          assert.match((error as Error).message, /it may or may not have been done/);
        }
      }
      assert.ok(runs > 10, `${runs} runs`);
      for (const { machine } of hosts) {
        const resource = machine.kernel.resources.get('guest1');
        assert.is(resource?.role, 'Secondary', machine.name);
        assert.equal(
          [...(resource?.volumes.values() ?? [])].map(({ volume, disk }) => `${volume} ${disk}`),
          ['0 UpToDate', '1 UpToDate', '15 UpToDate'],
        );
      }
      assert.equal((await setUp()).changes, []);
      assert.equal(world.unknown, []);
    } finally {
      await world.close();
    }
  });
}

test.run();
