/**
 * The epoch journal below an unpatched DRBD on two real hosts, with protocol A and writers on the primary:
 * switched in and out while connected, epochs that end at their marker, a discard and the resync after it, and
 * the death of the process that serves it.
 *
 * alpha has the resource as primary and writes numbered blocks; beta's devices stand on the journal. What beta's
 * LVs hold is read directly, below everything.
 */
import { randomBytes } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { lab, until, type LabHost } from '../../scripts/lab/hosts.js';
import { hostNames, limits, volumeGroupName } from '../../scripts/lab/plan.js';
import { encodeMarker } from '../../src/core/journal/format.js';
import type { VolumeRange } from '../../src/core/journal/types.js';
import { BARRIER_VOLUME, journalName, lvPath, mapperPath, volumeName } from '../../src/core/names.js';
import type { JournalState } from '../../src/journal/journal.js';
import { switchToJournal, switchToLvs } from '../../src/journal/switch.js';
import type { Executor, SwitchVolume } from '../../src/journal/switch.js';
import { BLOCK_BYTES, place } from './journal-area.js';
import type { HostCall, MarkerAnswer, Numbers } from './journal-host.js';
import { Link } from './journal-link.js';
import { assertEpoch, assertSame, forEachBlock } from './journal-numbers.js';
import { Product, TWO_DISKS } from './product.js';
import { step } from './steps.js';

const EPOCHS = Number(process.env['JOURNAL_EPOCHS'] ?? 100);
const DOMAIN = 'web';
const DISKS = [0, 1];
const VOLUMES = [...DISKS, BARRIER_VOLUME];

const test = suite('the epoch journal under DRBD on real hosts');
const alpha = lab.host('alpha');
const beta = lab.host('beta');
const configPath = '/root/journal.json';
const socketPath = '/run/remus-lab-journal.sock';
const controlPath = '/run/remus-lab-journal.control';
const unit = 'remus-lab-journal.service';
const programPath = '/root/journal-host.cjs';

let product: Product;
let volumes: SwitchVolume[];
let diskBlocks: number[];
/** The writers, on alpha. */
let writer: Link;
/** The reader, on beta. */
let reader: Link;
let control: Link;
let term = 0;
let session: Buffer;
let epoch = 0;
/** What the LVs held at the last commit. */
let committed: Numbers;

let isBroken = false;

/** A step that needs all those before it: after a failure it fails at once. */
function stage(name: string, body: () => Promise<void>): void {
  step(test, name, async () => {
    assert.not(isBroken, 'an earlier step failed');
    isBroken = true;
    await body();
    isBroken = false;
  });
}

async function both<T>(work: (host: LabHost) => Promise<T>): Promise<T[]> {
  return Promise.all(hostNames.map((name) => work(lab.host(name))));
}

function drbdPath(volume: number): string {
  return `/dev/drbd/by-res/${DOMAIN}/${volume}`;
}

function ask<T>(link: Link, call: HostCall): Promise<T> {
  return link.call<T>({ ...call });
}

/** Runs commands on beta; at its limit a command is killed there, and `timeout` lives to say so. */
const exec: Executor = async (argv, { timeoutMs }) => {
  // Slow for emulation only: everything else is as the switch asks.
  const seconds = (timeoutMs * 3) / 1000;
  const { code, stdout, stderr } = await beta.ssh(
    ['timeout', '--foreground', '-s', 'KILL', String(seconds), ...argv],
    {
      check: false,
    },
  );
  return { code: code === 137 ? null : code, stdout, stderr };
};

async function startServing(): Promise<void> {
  // One that was killed has left its sockets.
  await beta.sh(
    `rm -f ${socketPath} ${controlPath}; systemd-run --quiet --collect --unit=${unit} remus-drbd journal serve ${configPath}`,
  );
  await beta.waitFor('the journal to be served', `test -S ${controlPath}`);
  control = new Link('beta', `nc -N -U ${controlPath}`);
}

async function stopServing(): Promise<void> {
  await control.call({ call: 'stop' });
  await control.close();
  await beta.waitFor('the journal to be closed', `! systemctl is-active --quiet ${unit}`);
}

/** Begins a session: all that was written before counts, and is the commit to compare with. */
async function startSession(): Promise<void> {
  session = randomBytes(16);
  term++;
  epoch = 0;
  await control.call({ call: 'startSession', term, session: session.toString('hex') });
  await control.call({ call: 'drained' });
  committed = await onLvs();
}

/** What lies below beta's devices: `lv`, or a name. */
async function below(): Promise<string[]> {
  const { stdout } = await beta.sh(
    volumes
      .map(
        ({ device, lv }) =>
          `echo $(dmsetup info -c --noheadings -o suspended ${device}) $(basename $(readlink -f ${lv})) $(dmsetup deps -o blkdevname ${device})`,
      )
      .join('; '),
  );
  return stdout
    .trim()
    .split('\n')
    .map((line) => {
      const [, suspended, lv, found] = /^(\S+) (\S+) .*\((.*)\)$/.exec(line) ?? [];
      if (suspended !== 'Active') return line;
      return found === lv ? 'lv' : (found ?? line);
    });
}

const ON_LVS = VOLUMES.map(() => 'lv');
const ON_JOURNAL = VOLUMES.map((_, index) => `nbd${index}`);

/** Every volume's connection and disks in one line, as DRBD says. */
const STATES = `echo $(drbdadm cstate ${DOMAIN} | sort -u) $(drbdadm dstate ${DOMAIN} | sort -u)`;
const HEALTHY = 'Connected UpToDate/UpToDate';

async function assertHealthy(): Promise<void> {
  const states = await both(async (host) => (await host.sh(STATES)).stdout.trim());
  assert.equal(states, [HEALTHY, HEALTHY]);
}

async function waitUntilInSync(): Promise<void> {
  await both((host) => host.waitFor('the disks to be in sync', `test "$(${STATES})" = "${HEALTHY}"`));
}

/** What beta's LVs hold. */
function onLvs(): Promise<Numbers> {
  return ask(reader, {
    call: 'read',
    devices: volumes.slice(0, DISKS.length).map(({ lv }) => lv),
    blocks: diskBlocks,
  });
}

/** What alpha's disks hold, through DRBD. */
function onAlpha(): Promise<Numbers> {
  return ask(writer, { call: 'read', devices: DISKS.map(drbdPath), blocks: diskBlocks });
}

/** Waits until beta's LVs hold what alpha's disks hold: with protocol A a write is complete before it is there. */
async function waitUntilArrived(): Promise<void> {
  const expected = await onAlpha();
  const arrived = async (): Promise<boolean> => JSON.stringify(await onLvs()) === JSON.stringify(expected);
  await until('the writes to arrive on the backup', arrived, limits.commandMs, 500);
}

async function startWriters(): Promise<void> {
  // DRBD 8.4 acknowledges epochs of several volumes out of order, and then disconnects ("BAD! BarrierAck"), when
  // its receiver gets ahead of the work queue that acknowledges, as it does on a busy host.
  await beta.sh(`renice -n 19 -p $(pgrep -x drbd_r_${DOMAIN}) >/dev/null`);
  writer = new Link('alpha', `UV_THREADPOOL_SIZE=16 exec node ${programPath}`);
  const firstNumber = committed === undefined ? 0 : Math.max(...committed.flat()) + 1_000_000;
  await ask(writer, {
    call: 'write',
    devices: DISKS.map(drbdPath),
    blocks: diskBlocks,
    barrier: drbdPath(BARRIER_VOLUME),
    firstNumber,
  });
}

/** Writes the next marker on alpha and waits until it has closed its epoch on beta. */
async function closeEpoch(): Promise<MarkerAnswer> {
  epoch++;
  const block = encodeMarker({ domain: DOMAIN, term, session, epoch }).toString('base64');
  const answer = await ask<MarkerAnswer>(writer, { call: 'marker', block });
  await control.event(
    `marker ${epoch}`,
    (message) => message['event'] === 'marker' && message['epoch'] === epoch,
  );
  return answer;
}

/** Devices whose content is not the same on both hosts, read below DRBD. */
async function differingVolumes(): Promise<string[]> {
  const different: string[] = [];
  for (const { device } of volumes) {
    const [one, other] = await both(async (host) => {
      const path = mapperPath(device);
      const { stdout } = await host.sh(
        `blockdev --getsize64 ${path}; dd if=${path} bs=1M iflag=direct 2>/dev/null | sha256sum`,
      );
      return stdout.trim();
    });
    assert.match(one ?? '', /^[1-9][0-9]+\n[0-9a-f]{64} /);
    if (one !== other) different.push(device);
  }
  return different;
}

async function assertEqualVolumes(): Promise<void> {
  assert.equal(await differingVolumes(), []);
}

stage('two hosts with a replicated domain, and a journal on the backup', async () => {
  await lab.fresh();
  product = await Product.make([
    {
      name: DOMAIN,
      port: 7790,
      disks: TWO_DISKS,
    },
  ]);
  await product.expect(0, 'setup');
  const { outputFiles } = await build({
    entryPoints: [fileURLToPath(new URL('journal-host.ts', import.meta.url))],
    bundle: true,
    platform: 'node',
    target: 'node18',
    write: false,
  });
  await both((host) => host.write(programPath, outputFiles[0]?.text ?? ''));
  const names = VOLUMES.map((volume) => volumeName(DOMAIN, volume));
  const { stdout } = await beta.sh(`modprobe nbd && blockdev --getsize64 ${names.map(mapperPath).join(' ')}`);
  const sizes = stdout.trim().split('\n').map(Number);
  volumes = names.map((device, index) => ({
    device,
    lv: lvPath(volumeGroupName, device),
    nbd: `/dev/nbd${index}`,
    exportName: device,
    sizeBytes: sizes[index] as number,
  }));
  diskBlocks = DISKS.map((disk) => Math.floor((sizes[disk] as number) / BLOCK_BYTES));
  const config = {
    domain: DOMAIN,
    journal: lvPath(volumeGroupName, journalName(DOMAIN)),
    socket: socketPath,
    control: controlPath,
    volumes: volumes.map(({ exportName, lv, sizeBytes }, index) => ({
      name: exportName,
      target: lv,
      sizeBytes,
      barrier: VOLUMES[index] === BARRIER_VOLUME,
    })),
  };
  await beta.write(configPath, JSON.stringify(config, null, 2));
  await beta.ssh(['remus-drbd', 'journal', 'format', '--overwrite', configPath]);
  reader = new Link('beta', `exec node ${programPath}`);
  await assertHealthy();
});

test.after(async () => {
  await writer?.close();
  await reader?.close();
  await control?.close();
  await product?.clean();
});

stage('the process that serves is protected from the out-of-memory killer', async () => {
  await startServing();
  const { stdout } = await beta.sh(
    `p=$(systemctl show -P MainPID ${unit}); cat /proc/$p/oom_score_adj; grep VmLck /proc/$p/status; journalctl -q -o cat -u ${unit}`,
  );
  const [score, locked = '', ...log] = stdout.trim().split('\n');
  assert.is(score, '-1000');
  assert.ok(Number(/\d+/.exec(locked)?.[0]) > 0, locked);
  assert.not.match(log.join('\n'), /not protected|not locked/);
});

/** Lets commands run, but the first one that matches fails without having been run. */
function failingAt(command: string): Executor {
  let isSpent = false;
  return (argv, options) => {
    if (isSpent || !argv.join(' ').startsWith(command)) return exec(argv, options);
    isSpent = true;
    return Promise.resolve({ code: 1, stdout: '', stderr: 'made to fail' });
  };
}

/** Nothing of a switch is left: no second table, no NBD device in use, and DRBD has noticed nothing. */
async function assertUntouched(what: string): Promise<void> {
  assert.equal(await below(), ON_LVS, what);
  const { stdout } = await beta.sh(
    `dmsetup info ${volumes.map(({ device }) => device).join(' ')} | grep -c INACTIVE; cat /sys/block/nbd*/pid 2>/dev/null | wc -l`,
    { check: false },
  );
  assert.equal(stdout.trim().split('\n'), ['0', '0'], what);
  await assertHealthy();
}

stage('a switch that fails is undone, wherever it fails, under writes', async () => {
  await alpha.ssh(['drbdadm', 'primary', DOMAIN]);
  await startWriters();
  await ask(writer, { call: 'go' });
  const [first, last] = [volumes[0], volumes.at(-1)] as [SwitchVolume, SwitchVolume];
  const but = (change: Partial<SwitchVolume>): SwitchVolume[] => [
    ...volumes.slice(0, -1),
    { ...last, ...change },
  ];
  const attempts: [string, SwitchVolume[], string, Executor][] = [
    ['no server', volumes, '/run/nothing.sock', exec],
    ['no such export', but({ exportName: 'nothing' }), socketPath, exec],
    ['another size', but({ sizeBytes: last.sizeBytes - 512 }), socketPath, exec],
    ['no such device', but({ device: 'remus-nothing' }), socketPath, exec],
    ['no suspension', volumes, socketPath, failingAt(`dmsetup suspend --nolockfs ${last.device}`)],
    ['no resumption of the first', volumes, socketPath, failingAt(`dmsetup resume ${first.device}`)],
    ['no resumption of the last', volumes, socketPath, failingAt(`dmsetup resume ${last.device}`)],
  ];
  for (const [what, those, socket, run] of attempts) {
    let said = '';
    await switchToJournal(those, socket, { exec: run }).catch((error: unknown) => (said = String(error)));
    assert.match(said, /everything is as before/, what);
    await assertUntouched(what);
  }
  await ask(writer, { call: 'pause' });
  await waitUntilArrived();
  await writer.close();
});

stage('the journal is put under the connected secondary, taken away and put there again', async () => {
  await startWriters();
  await ask(writer, { call: 'go' });
  await switchToJournal(volumes, socketPath, { exec });
  assert.equal(await below(), ON_JOURNAL);
  await assertHealthy();
  const refusal = new Error('not drained');
  let said = '';
  await switchToLvs(volumes, () => Promise.reject(refusal), { exec }).catch(
    (error: unknown) => (said = String(error)),
  );
  assert.match(said, /not drained; everything is as before/);
  assert.equal(await below(), ON_JOURNAL);
  await assertHealthy();
  await switchToLvs(volumes, () => control.call({ call: 'drained' }), { exec });
  assert.equal(await below(), ON_LVS);
  await assertHealthy();
  await switchToJournal(volumes, socketPath, { exec });
  await ask(writer, { call: 'pause' });
  assert.equal(await below(), ON_JOURNAL);
  await assertHealthy();
});

/** One epoch, committed and compared. @param isStill nothing is in flight at its marker */
async function wholeEpoch(isStill: boolean): Promise<MarkerAnswer> {
  if (isStill) await ask(writer, { call: 'pause' });
  const answer = await closeEpoch();
  if (isStill) {
    assertSame(answer.completed, answer.issued, 'the writers are still');
    await ask(writer, { call: 'go' });
  }
  assertSame(await onLvs(), committed, 'nothing reaches the LVs before its commit');
  await control.call({ call: 'commit', epoch });
  await control.call({ call: 'drained' });
  const found = await onLvs();
  assertEpoch(found, answer, committed, epoch);
  committed = found;
  return answer;
}

stage(`${EPOCHS} epochs: the LVs hold each as it was at its marker, and only once committed`, async () => {
  await startSession();
  let inFlight = 0;
  await ask(writer, { call: 'go' });
  for (let count = 0; count < EPOCHS; count++) {
    const before = committed;
    // Of a suspended guest nothing is in flight; of a running one writes may be on either side.
    const { completed, issued } = await wholeEpoch(count % 2 === 1);
    forEachBlock(issued, (number, disk, block) => {
      if (number !== completed[disk]?.[block]) inFlight++;
    });
    let changed = 0;
    forEachBlock(committed, (number, disk, block) => {
      if (number !== before[disk]?.[block]) changed++;
    });
    assert.ok(changed > 0, 'an epoch without a write shows nothing');
  }
  process.stdout.write(`    ${inFlight} blocks were in flight at markers\n`);
  assert.ok(inFlight > 0, 'no marker was written among writes');
  await assertHealthy();
});

/** Writes that are not committed, some of them in a closed epoch. @returns the marker's answer */
async function writeUncommitted(): Promise<MarkerAnswer> {
  await ask(writer, { call: 'go' });
  const answer = await closeEpoch();
  const { counters } = await control.call<JournalState>({ call: 'state' });
  await until(
    'writes behind the marker',
    async () => (await control.call<JournalState>({ call: 'state' })).counters.writes > counters.writes + 50,
    limits.commandMs,
  );
  return answer;
}

/**
 * What the backup does at a failover, up to where the guest would start: discard, go back to the LVs, promote,
 * and write the discarded blocks back through DRBD, which marks them as out of sync.
 * @param isMarked false leaves that last step out
 */
async function takeOver(isMarked = true): Promise<VolumeRange[]> {
  const discarded = await control.call<{ committedEpoch: number; exact: boolean; ranges: VolumeRange[] }>({
    call: 'discard',
  });
  assert.ok(discarded.exact);
  assert.ok(discarded.ranges.length > 0);
  await switchToLvs(volumes, () => control.call({ call: 'drained' }), { exec });
  assert.equal(await below(), ON_LVS);
  assertSame(await onLvs(), committed, 'what is not committed is gone');
  await beta.ssh(['drbdadm', 'primary', DOMAIN]);
  const ranges = discarded.ranges.map(({ volume, offsetBytes, lengthBytes }) => {
    const index = volumes.findIndex(({ exportName }) => exportName === volume);
    return { device: drbdPath(VOLUMES[index] ?? -1), offsetBytes, lengthBytes };
  });
  if (isMarked) await ask(reader, { call: 'rewrite', ranges });
  await control.call({ call: 'discardMarked' });
  await stopServing();
  return discarded.ranges;
}

stage(
  'after a discard the LVs hold the last commit, and a resync of the marked blocks is enough',
  async () => {
    const last = await writeUncommitted();
    await ask(writer, { call: 'pause' });
    await alpha.ssh(['drbdadm', 'disconnect', DOMAIN]);
    const onPrimary = await onAlpha();
    const ranges = await takeOver();
    // All that had arrived before the last marker; what came later may have been lost with the connection.
    let dropped = 0;
    forEachBlock(onPrimary, (number, disk, block) => {
      if (number === committed[disk]?.[block] || number !== last.completed[disk]?.[block]) return;
      dropped++;
      const offsetBytes = place(diskBlocks[disk] ?? 0, block) * BLOCK_BYTES;
      const isListed = ranges.some(
        (range) =>
          range.volume === volumes[disk]?.exportName &&
          range.offsetBytes <= offsetBytes &&
          offsetBytes + BLOCK_BYTES <= range.offsetBytes + range.lengthBytes,
      );
      assert.ok(isListed, `disk ${disk}, block ${block} was discarded and not listed`);
    });
    assert.ok(dropped > 0);
    process.stdout.write(`    ${dropped} blocks had to be listed, there are ${ranges.length} ranges\n`);
    await resyncFromBeta();
    await assertEqualVolumes();
    assertSame(await onLvs(), committed, 'the resync went the right way');
    await beta.ssh(['drbdadm', 'secondary', DOMAIN]);
  },
);

/** alpha, which has not lost its power, gives up what it had beyond the commit. */
async function resyncFromBeta(): Promise<void> {
  await writer.close();
  await alpha.sh(`drbdadm secondary ${DOMAIN} && drbdadm connect --discard-my-data ${DOMAIN}`);
  await waitUntilInSync();
}

stage('found: discarded blocks that are not written back leave the disks different', async () => {
  await protect();
  await writeUncommitted();
  await ask(writer, { call: 'pause' });
  await alpha.ssh(['drbdadm', 'disconnect', DOMAIN]);
  await takeOver(false);
  await resyncFromBeta();
  const different = await differingVolumes();
  process.stdout.write(`    DRBD says ${HEALTHY}, and different are: ${different.join(' ')}\n`);
  assert.ok(different.length > 0);
  await alpha.ssh(['drbdadm', 'invalidate', DOMAIN]);
  await waitUntilInSync();
  await assertEqualVolumes();
  await beta.ssh(['drbdadm', 'secondary', DOMAIN]);
});

/** A new session with alpha as primary. */
async function protect(): Promise<void> {
  await startServing();
  await alpha.ssh(['drbdadm', 'primary', DOMAIN]);
  await startWriters();
  await switchToJournal(volumes, socketPath, { exec });
  await startSession();
  await ask(writer, { call: 'go' });
  await wholeEpoch(false);
}

/** Ends a server without asking it, and brings what its journal holds to the LVs: the primary goes on. */
async function killAndRecover(): Promise<void> {
  await beta.sh(
    `systemctl kill -s KILL ${unit} 2>/dev/null; while systemctl is-active --quiet ${unit}; do sleep 0.1; done; ` +
      `remus-drbd journal recover --forward ${configPath}`,
  );
  await control.close();
}

/** As the product does (src/protect/drbd-reattach.ts): not while connected. */
async function takeDisksBack(): Promise<void> {
  await beta.sh(`drbdadm disconnect ${DOMAIN} && drbdadm adjust ${DOMAIN}`);
}

/** Ends a session in which nothing went wrong, and compares both hosts. */
async function unprotect(): Promise<void> {
  await ask(writer, { call: 'pause' });
  await closeEpoch();
  await assertHealthy();
  await control.call({ call: 'rollForward' });
  await switchToLvs(volumes, () => control.call({ call: 'drained' }), { exec });
  await stopServing();
  await compareAfterWriting();
}

async function compareAfterWriting(): Promise<void> {
  await ask(writer, { call: 'pause' });
  await waitUntilArrived();
  await writer.close();
  await alpha.ssh(['drbdadm', 'secondary', DOMAIN]);
  await assertEqualVolumes();
}

stage('the process that serves is killed: nothing is lost, and it starts again', async () => {
  await protect();
  await writeUncommitted();
  await beta.ssh(['systemctl', 'kill', '-s', 'KILL', unit]);
  // What comes later fails at once, and DRBD detaches; what was under way waits until somebody ends it.
  const { requestsFailed } = await switchToLvs(volumes, killAndRecover, { exec, dead: true });
  assert.ok(requestsFailed);
  assert.equal(await below(), ON_LVS);
  await takeDisksBack();
  await waitUntilInSync();
  await ask(writer, { call: 'pause' });
  await startServing();
  await switchToJournal(volumes, socketPath, { exec });
  await startSession();
  await ask(writer, { call: 'go' });
  await wholeEpoch(true);
  await unprotect();
});

stage('a server that has stopped answering is left within a bounded time, and nothing is lost', async () => {
  await protect();
  await writeUncommitted();
  await assertHealthy();
  await beta.ssh(['systemctl', 'kill', '-s', 'STOP', unit]);
  await beta.waitFor(
    'requests that nobody answers',
    `cat /sys/block/nbd[01]/inflight | awk '{ n += $2 } END { exit !n }'`,
  );
  const startedMs = performance.now();
  const { requestsFailed, ran } = await switchToLvs(volumes, killAndRecover, { exec, suspendMs: 2000 });
  const seconds = ((performance.now() - startedMs) / 1000).toFixed(0);
  process.stdout.write(`    free after ${seconds} s and ${ran.length} commands\n`);
  assert.ok(requestsFailed);
  assert.equal(await below(), ON_LVS);
  await takeDisksBack();
  await waitUntilInSync();
  await compareAfterWriting();
});

stage('after a power cut of the primary its disks become the same again', async () => {
  await protect();
  await writeUncommitted();
  await lab.cut('alpha');
  await beta.waitFor('the loss', `test "$(drbdadm cstate ${DOMAIN} | sort -u)" = WFConnection`);
  await takeOver();
  await lab.boot('alpha');
  await waitUntilInSync();
  await assertEqualVolumes();
  assertSame(await onLvs(), committed, 'the resync went the right way');
  await beta.ssh(['drbdadm', 'secondary', DOMAIN]);
});

test.run();
