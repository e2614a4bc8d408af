/**
 * `remus-drbd demo --setup`: the project's own commands on an embedded pair, with no root and no packages. The hosts
 * are stand-ins in this process (`src/embedded`), reached over real SSH on loopback; what runs against them
 * is the real check, setup, status and teardown. It tells what it does and checks each claim that it makes.
 */
import Table from 'cli-table3';
import { ExitCode } from '../core/errors.js';
import type { Progress } from '../edge/progress.js';
import { EmbeddedWorld } from '../embedded/world.js';
import { runCheck } from './check.js';
import { guestReadings } from './context.js';
import { overPairs, type PairOutcome } from './pairs.js';
import { setupPair } from './setup.js';
import { readStatus } from './status.js';
import { teardownPair } from './teardown.js';

export interface DemoOutput {
  json: boolean;
  print: (text: string) => void;
}

interface Claim {
  claim: string;
  held: boolean;
  found: string;
}

const DISKS = [
  '{ vdev: xvda, volumeGroup: vg0, size: 2GiB }',
  '{ vdev: xvdb, volumeGroup: vg0, size: 512MiB }',
];

/** Runs the story. Exit code 0 only if every claim held. */
export async function runSetupDemo({ json, print }: DemoOutput): Promise<ExitCode> {
  const tell = json ? (): void => undefined : print;
  const world = await EmbeddedWorld.start({ disks: DISKS });
  try {
    const claims = await story(world, tell);
    if (json) print(JSON.stringify({ embedded: true, claims }, null, 2));
    else print(claimsTable(claims));
    return claims.every(({ held }) => held) ? ExitCode.ok : ExitCode.failed;
  } finally {
    await world.close();
  }
}

async function story(world: EmbeddedWorld, tell: (text: string) => void): Promise<Claim[]> {
  const claims: Claim[] = [];
  const claim = (text: string, held: boolean, found: string): void => {
    claims.push({ claim: text, held, found });
    tell(`   ${held ? 'yes' : 'NO '}  ${text}: ${found}`);
  };
  const { loaded, works } = await world.load();
  const dependencies = world.dependencies(loaded);
  const silent: Progress = { line: () => undefined, state: () => undefined };
  const overAll = async (one: Parameters<typeof overPairs>[1]): Promise<PairOutcome> => {
    const [outcome] = await overPairs(works, one, {
      live: false,
      write: () => undefined,
      nowMs: dependencies.nowMs,
    });
    if (outcome === undefined) throw new Error('the embedded world has no pair');
    return outcome;
  };
  const setUp = (progress: Progress): Promise<PairOutcome> =>
    overAll((work) =>
      setupPair(work, dependencies, { overwrite: new Set(), dryRun: false, wait: true }, progress),
    );
  const [pair] = world.pairs;
  if (pair === undefined) throw new Error('the embedded world has no pair');
  const [first, second] = pair.hosts;
  const { name: here } = first.machine;
  const { name: there } = second.machine;

  tell(
    `An embedded pair: ${here} and ${there} are stand-ins in this process, not Xen hosts. The commands are`,
  );
  tell('the real ones, over real SSH on loopback. The embedded guest has two disks, of 2 GiB and 512 MiB.');

  tell('\n1. check: can this work?');
  const report = await runCheck(loaded.config, loaded.layouts, guestReadings(loaded), {
    connect: dependencies.connect,
    nowMs: Date.now,
    progress: silent,
  });
  const count = (verdict: string): number => report.results.filter((one) => one.verdict === verdict).length;
  claim('nothing is in the way', count('fail') === 0, `${count('pass')} points pass, ${count('warn')} warn`);

  tell('\n2. setup of the embedded hosts: volumes, devices, DRBD, the hotplug script, certificates');
  const startedMs = dependencies.nowMs();
  const made = await setUp({
    ...silent,
    // The steps on the other host are the same ones.
    line: (text) => {
      if (text.startsWith(`${here}: `)) tell(`        ${text}`);
    },
  });
  tell(`        (and the same on ${there}, side by side)`);
  claim(
    'setup ends without an error',
    made.error === undefined,
    made.error?.message ??
      `${made.changes.length} changes in ${((dependencies.nowMs() - startedMs) / 1000).toFixed(1)} s`,
  );
  const disks = async (): Promise<string> => {
    const { domains } = await readStatus(loaded.layouts, dependencies.connect);
    const resource = domains[0]?.resource;
    return resource
      ? `${resource.connectionState}, ${resource.diskState}/${resource.peerDiskState}`
      : 'no resource';
  };
  const ready = 'Connected, UpToDate/UpToDate';
  let state = await disks();
  claim('both embedded hosts have the same data', state === ready, state);

  tell('\n3. setup again: nothing is left to do');
  const again = await setUp(silent);
  claim(
    'the second run changes nothing',
    again.changes.length === 0 && again.error === undefined,
    `${again.changes.length} changes`,
  );

  tell(`\n4. the power of ${there} is cut, and comes back`);
  await second.powerCut();
  const { domains } = await readStatus(loaded.layouts, dependencies.connect);
  const reason = domains[0]?.reason ?? '';
  claim('status says so', reason.includes(`${there} can't be asked`), firstOf(reason));
  await second.powerOn();
  state = await disks();
  claim('its embedded devices and DRBD are back by themselves', state === ready, state);

  tell('\n5. teardown: the mirror image of setup');
  const gone = await overAll((work) =>
    teardownPair(
      work,
      dependencies,
      { domains: new Set(['guest1']), deleteData: new Set(['guest1']), dryRun: false },
      silent,
    ),
  );
  const left = pair.hosts.flatMap(({ machine }) => machine.volumeGroups.flatMap(({ lvs }) => lvs));
  claim(
    'nothing is left on the embedded hosts',
    gone.error === undefined && left.length === 0,
    gone.error?.message ?? `${gone.changes.length} changes, ${left.length} volumes left`,
  );
  claim(
    'every command was one that the embedded hosts know',
    world.unknown.length === 0,
    world.unknown.join('; ') || 'all known',
  );
  tell('');
  return claims;
}

function firstOf(reason: string): string {
  return reason.split('; ')[0] ?? '';
}

function claimsTable(claims: readonly Claim[]): string {
  const table = new Table({
    head: ['embedded pair', 'held', 'found'],
    style: { head: [], border: [] },
    colWidths: [46, 6, 62],
    wordWrap: true,
  });
  for (const { claim, held, found } of claims) table.push([claim, held ? 'yes' : 'NO', found]);
  return table.toString();
}
