/* eslint-disable no-console -- a skipped file says so */
/**
 * A drill as its unit runs it, on the backup of two fake hosts (`hosts.ts`): real receiver, journal and drill; LVM,
 * device-mapper and xl are fakes. A snapshot is a copy of the file that is the volume, so what it holds can be compared.
 */
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { formatDrillRecord, parseDrillReport } from '../../src/core/drill/records.js';
import type { DrillOrder, DrillReport } from '../../src/core/drill/records.js';
import { assertGivenUp, cutPower, decideForBackup, onPair } from './faults.js';
import type { FakePair } from './hosts.js';
import { missingForHosts, until } from './hosts.js';

const test = suite('a drill as processes');
/** Nothing of these tests waits for it but the failover. */
const SLOW = { failAfter: '5s' };
const OFFSET = 64 << 10;
let count = 0;

function order(change: Partial<DrillOrder> = {}): DrillOrder {
  return {
    ...{ format: 1, id: String(++count).padStart(32, '0'), domain: 'web', source: 'protected', mappers: [] },
    snapshots: [
      {
        ...{ volume: 0, vdev: 'xvda', volumeGroup: 'vg0', origin: 'remus-web-0', name: 'remus-web-0-drill' },
        ...{ deviceBytes: (4 << 20) - 4096, sizeBytes: 4 << 20 },
      },
    ],
    ...{ check: ['sh', '-c', 'exit 0'], timeoutMs: 200_000, cpus: null },
    ...change,
  };
}

function start(
  { beta, program }: { beta: FakePair['beta']; program: string[] },
  what: DrillOrder,
): ChildProcess {
  writeFileSync(join(beta.root, 'run/web/drill-order.json'), formatDrillRecord(what));
  writeFileSync(
    join(beta.root, 'etc/domains/web.cfg'),
    "name = 'web'\nmemory = 96\ntype = 'pvh'\nvif = [ 'bridge=xenbr0' ]\ndisk = [ 'vdev=xvda,access=w,script=block-drbd,target=web/0' ]\n",
  );
  return beta.spawn(program, 'ignore');
}

const startDrill = (pair: FakePair, what: DrillOrder): ChildProcess =>
  start({ beta: pair.beta, program: pair.program('drill-run', 'web') }, what);

/** What the unit runs when the drill has ended, however. */
async function cleanUp(pair: FakePair): Promise<DrillReport> {
  const cleanup = pair.beta.spawn(pair.program('drill-cleanup', 'web'), 'ignore');
  const [code] = (await once(cleanup, 'exit')) as [number | null];
  assert.is(code, 0);
  return report(pair);
}

async function drill(pair: FakePair, what: DrillOrder): Promise<DrillReport> {
  await once(startDrill(pair, what), 'exit');
  return cleanUp(pair);
}

function report({ beta }: FakePair): DrillReport {
  return parseDrillReport(readFileSync(join(beta.root, 'run/web/drill.json'), 'utf8'));
}

function phaseIs(pair: FakePair, id: string, phase: string): boolean {
  try {
    const now = report(pair);
    return now.id === id && now.phase === phase;
  } catch {
    return false;
  }
}

/** Nothing that a drill makes is there, and nothing stands still. */
function assertNothingLeft({ beta }: FakePair): void {
  assert.is(beta.guest('web+drill'), undefined);
  assert.not(existsSync(join(beta.root, 'vg0/remus-web-0-drill')));
  assert.is(beta.run('sh', '-c', 'ls /dev/mapper 2>/dev/null || :'), '');
  for (const device of ['remus-web-0', 'remus-web-barrier']) assert.is.not(beta.below(device), 'suspended');
}

/** The fake guest takes no checkpoints by itself, and without any it would be told to be unprotected. */
async function assertProtected(pair: FakePair, nextEpoch: number): Promise<void> {
  await pair.checkpoint(nextEpoch);
  assert.is(pair.senderReport()?.protection, 'protected');
}

/** The first byte of the block that the tests write, on the backup's disk or on its snapshot. */
function content({ beta }: FakePair, lv: string): number | undefined {
  return readFileSync(join(beta.root, 'vg0', lv))[OFFSET];
}

/** Lets lvcreate hang, or go on. */
function holdLvcreate({ beta }: FakePair, holds: boolean): void {
  const path = join(beta.world, 'hold-lvcreate');
  if (holds) writeFileSync(path, '');
  else rmSync(path);
}

/** Two whole epochs, and the beginning of a third one with other data. */
async function protectedPair(pair: FakePair): Promise<void> {
  await pair.protect(1);
  const disk = await pair.nbd('remus-web-0');
  await disk.write(OFFSET, Buffer.alloc(4096, 2));
  await pair.checkpoint(2);
  await disk.write(OFFSET, Buffer.alloc(4096, 3));
  disk.destroy();
}

test('its disks are those of one commit, production goes on, and nothing is left', () =>
  onPair(async (pair) => {
    await protectedPair(pair);
    const go = join(pair.beta.world, 'go');
    const what = order({
      check: [
        'sh',
        '-c',
        `until [ -e ${go} ]; do sleep 0.1; done; echo "$REMUS_DRILL_GUEST $REMUS_DRILL_DISKS $REMUS_DRILL_COMMIT"; cat "$REMUS_DRILL_CONSOLE"`,
      ],
    });
    const running = startDrill(pair, what);
    const ended = once(running, 'exit');
    await until('the check runs', () => phaseIs(pair, what.id, 'checking'));
    assert.is(content(pair, 'remus-web-0-drill'), 2);
    assert.is(pair.beta.guest('web+drill'), '-b----');
    const config = readFileSync(join(pair.beta.world, 'drill.cfg'), 'utf8');
    assert.match(config, /target=\/dev\/mapper\/remus-web-0-drill'/);
    assert.match(config, /^vif = \[\]$/m);
    assert.is(config.includes('script=block-drbd'), false);
    // The epochs behind it are committed and drained beside the snapshot.
    await pair.checkpoint(3);
    await until('epoch 3 is on the disk', () => content(pair, 'remus-web-0') === 3);
    assert.is(content(pair, 'remus-web-0-drill'), 2);
    writeFileSync(go, '');
    await ended;
    const { result, term, epoch, timingsMs, check, left, usedPercent } = await cleanUp(pair);
    assert.is(result?.outcome, 'passed', result?.reason);
    assert.equal([term, epoch, left, usedPercent], [1, 2, [], { xvda: 1 }]);
    assert.match(
      check?.output ?? '',
      /^web\+drill xvda=\/dev\/mapper\/remus-web-0-drill 1\/2\nthe guest is up\n/,
    );
    assert.equal(Object.keys(timingsMs).sort(), ['check', 'hold', 'removal', 'snapshots', 'start']);
    assertNothingLeft(pair);
    await assertProtected(pair, 4);
    assert.is(pair.beta.guest('web--incoming'), '--p---');
  }, SLOW));

test('a check that fails, one that does not end, and a guest that does not start fail the drill', () =>
  onPair(async (pair) => {
    await protectedPair(pair);
    const failed = await drill(pair, order({ check: ['sh', '-c', 'echo no database; exit 3'] }));
    assert.equal(failed.result, { outcome: 'failed', reason: 'the check ended with 3' });
    assert.equal(failed.check, { exitCode: 3, output: 'no database\n' });
    assertNothingLeft(pair);
    const late = await drill(pair, order({ check: ['sh', '-c', 'sleep 3600 & wait'], timeoutMs: 300 }));
    assert.equal(late.result, { outcome: 'failed', reason: 'the check had not ended after 0.3 s' });
    assert.is(late.check?.exitCode, null);
    assertNothingLeft(pair);
    const missing = await drill(pair, order({ check: ['/no/such/check'] }));
    assert.match(missing.result?.reason ?? '', /could not be run: .*ENOENT/);
    writeFileSync(join(pair.beta.world, 'fail-create'), '');
    const dead = await drill(pair, order());
    assert.is(dead.result?.outcome, 'failed');
    assert.match(dead.result?.reason ?? '', /the guest does not start: xl create/);
    assertNothingLeft(pair);
    await assertProtected(pair, 3);
  }, SLOW));

test('a snapshot that is full is told from a check that fails', () =>
  onPair(async (pair) => {
    await protectedPair(pair);
    const what = order({ check: ['sh', '-c', 'sleep 3600 & wait'] });
    const ended = once(startDrill(pair, what), 'exit');
    await until('the check runs', () => phaseIs(pair, what.id, 'checking'));
    writeFileSync(join(pair.beta.world, 'snapshot-status'), '0 8192 snapshot Invalid\n');
    await ended;
    const { result } = await cleanUp(pair);
    assert.is(result?.outcome, 'refused');
    assert.match(result?.reason ?? '', /snapshot of xvda .*Invalid.* 4 MiB .*drill\.snapshotSize/);
    assertNothingLeft(pair);
    await assertProtected(pair, 3);
  }, SLOW));

test('killed while the disks are held: they are released at once, and what it made goes', () =>
  onPair(async (pair) => {
    await protectedPair(pair);
    holdLvcreate(pair, true);
    const running = startDrill(pair, order());
    const ended = once(running, 'exit');
    await until('lvcreate runs', () => pair.beta.calls().some((call) => call.startsWith('lvcreate')));
    await pair.checkpoint(3);
    assert.is(content(pair, 'remus-web-0'), 2, 'held at the commit');
    running.kill('SIGKILL');
    await ended;
    await until('epoch 3 is on the disk', () => content(pair, 'remus-web-0') === 3);
    // Its unit ends the processes of the drill before the clean-up.
    holdLvcreate(pair, false);
    await until('lvcreate has ended', () => existsSync(join(pair.beta.world, 'lv-remus-web-0-drill')));
    const { result } = await cleanUp(pair);
    assert.equal(result, { outcome: 'refused', reason: 'it was ended at: snapshots' });
    assertNothingLeft(pair);
  }, SLOW));

test('what a drill has left whose host lost its power is removed by the next one', () =>
  onPair(async (pair) => {
    await protectedPair(pair);
    const what = order({ check: ['sh', '-c', 'sleep 3600'] });
    const running = startDrill(pair, what);
    const ended = once(running, 'exit');
    await until('the check runs', () => phaseIs(pair, what.id, 'checking'));
    running.kill('SIGKILL');
    await ended;
    assert.is(pair.beta.guest('web+drill'), '-b----');
    const { result, epoch } = await drill(pair, order());
    assert.is(result?.outcome, 'passed', result?.reason);
    assert.is(epoch, 2);
    assertNothingLeft(pair);
  }, SLOW));

test('a failover while the disks are held does not wait for the drill, and ends it', () =>
  onPair(async (pair) => {
    await protectedPair(pair);
    holdLvcreate(pair, true);
    const ended = once(startDrill(pair, order()), 'exit');
    await until('lvcreate runs', () => pair.beta.calls().some((call) => call.startsWith('lvcreate')));
    const received = once(pair.receiver as ChildProcess, 'exit');
    cutPower(pair);
    await until('it claims', () => pair.receiverReport()?.phase === 'claiming');
    decideForBackup(pair);
    await received;
    assert.is(pair.receiverReport()?.phase, 'failed-over');
    assert.is(pair.beta.guest('web'), '-b----');
    holdLvcreate(pair, false);
    await ended;
    const { result } = await cleanUp(pair);
    assert.is(result?.outcome, 'refused');
    assert.match(result?.reason ?? '', /^the term ends: disconnect$/);
    assertNothingLeft(pair);
    assert.is(pair.beta.guest('web'), '-b----');
    assert.is(content(pair, 'remus-web-0'), 2);
  }, SLOW));

test('the end of protection during the check ends the drill', () =>
  onPair(async (pair) => {
    await protectedPair(pair);
    const what = order({ check: ['sh', '-c', 'sleep 3600 & wait'] });
    const ended = once(startDrill(pair, what), 'exit');
    await until('the check runs', () => phaseIs(pair, what.id, 'checking'));
    pair.sender?.kill('SIGTERM');
    await ended;
    const { result } = await cleanUp(pair);
    assert.is(result?.outcome, 'refused');
    assert.match(result?.reason ?? '', /^the receiver is .*: production comes first$/);
    assertNothingLeft(pair);
    await pair.endAndCleanUp('sender', null);
    await pair.endAndCleanUp('receiver', null);
    assertGivenUp(pair);
  }, SLOW));

test('without protection the devices stand still while the snapshots are made, and never longer', () =>
  onPair(async (pair) => {
    const mappers = ['remus-web-0', 'remus-web-barrier'];
    const what = order({ source: 'replicated', mappers });
    const { result, term, timingsMs } = await drill(pair, what);
    assert.is(result?.outcome, 'passed', result?.reason);
    assert.is(term, null);
    assert.ok((timingsMs.snapshots ?? 0) > 0);
    const acts = pair.beta.calls().filter((call) => /^(?:lvcreate|dmsetup (?:suspend|resume))/.test(call));
    assert.equal(
      acts.slice(0, 3).map((call) => call.split(' ').slice(0, 2).join(' ')),
      ['dmsetup suspend', 'dmsetup suspend', 'lvcreate --snapshot'],
    );
    assert.equal(
      acts.slice(3).sort(),
      mappers.map((name) => `dmsetup resume ${name}`),
    );
    assertNothingLeft(pair);

    holdLvcreate(pair, true);
    const killed = startDrill(pair, order({ source: 'replicated', mappers }));
    const ended = once(killed, 'exit');
    await until('they stand still', () => pair.beta.below('remus-web-barrier') === 'suspended');
    killed.kill('SIGKILL');
    await ended;
    holdLvcreate(pair, false);
    await cleanUp(pair);
    for (const name of mappers) assert.is(pair.beta.below(name), 'lv', name);
  }, SLOW));

const missing = missingForHosts();
if (missing === undefined) test.run();
else if (process.env['CI'] === 'true') throw new Error(missing);
else {
  console.log(`skipped: ${missing}`);
  suite('a drill as processes: skipped').run();
}
