/**
 * The primary loses its power at each step of a checkpoint, on two real Xen hosts: a guest counts in memory, onto two
 * disks and for an outside client (scripts/lab/guest/ledger.c); the backup finds out, claims the term of an arbiter that
 * is no part of the pair, and goes on; the other host comes back, is recovered, and is the next one to lose its power.
 *
 * After each cut: no answer that a client ever had is missing, memory and both disks agree, the client is answered on
 * the connection that it had, one copy lives. After each recovery the disks of both hosts are compared byte for byte,
 * with the guest suspended. The same with one thing wrong at a time, which has to be found.
 *
 * Both hosts run the product with eyes (eyes.ts), so that a cut is where it is meant to be. CUTS=26 cuts at each point
 * in both directions; CUTS_AT=memory-half,draining at these. The arbiter is Debian's etcd, on this machine.
 */
import { build } from 'esbuild';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { guestConfig } from '../../../scripts/lab/guest.js';
import { lab, until, type HostName, type LabHost } from '../../../scripts/lab/hosts.js';
import { bridgeName } from '../../../scripts/lab/plan.js';
import { EtcdArbiter } from '../../../src/arbiter/etcd.js';
import type { LedgerAnswer } from '../../../src/core/ledger.js';
import { EtcdCluster } from '../../arbiter/etcd-server.js';
import { answersOf, copiesOf, judgeFailover, resumeOf, splitOf, startMs, summarise } from '../cuts-check.js';
import type { Split, Violation } from '../cuts-check.js';
import {
  areaPath,
  ASKED_FILE,
  CLIENT_LOG,
  CUTS_DIRECTORY,
  EYES_LOG,
  POINT_NAMES,
  POINTS,
} from '../cuts-log.js';
import type { Ask, ClientLine, EyesLine, Point } from '../cuts-log.js';
import { openEyes, PROGRAMS } from '../eyes.js';
import { layLedger } from '../ledger-guest.js';
import { parseLines } from '../ledger-log.js';
import { Product, TWO_DISKS } from '../product.js';
import { step } from '../steps.js';

const CUTS = Number(process.env['CUTS'] ?? 3);
/** Coprime to the number of points: a few cuts are far apart, and each point is met from both sides. */
const STRIDE = 5;
const points: Point[] =
  process.env['CUTS_AT'] === undefined
    ? Array.from({ length: CUTS }, (_, cut) => POINT_NAMES[(cut * STRIDE) % POINT_NAMES.length] as Point)
    : (process.env['CUTS_AT'].split(',') as Point[]);
const SLOW_MS = 15 * 60_000;
/** What a client has before a cut, and again behind it. */
const ANSWERS = 8;
const PAUSE_MS = 300;
const FAIL_AFTER_SECONDS = 10;
const CLIENT = `${PROGRAMS}/cuts-client.cjs`;
/** This machine, for a host on its control network (QEMU's user network). */
const OUTSIDE = '10.0.2.2';
const GUEST = '10.0.0.10';
const GUEST_MAC = '00:16:3e:00:00:10';
const EYES = {
  'src/protect/receiver.ts': 'test/lab/cuts-receiver.ts',
  'src/protect/sender.ts': 'test/lab/cuts-sender.ts',
  'src/journal/journal.ts': 'test/lab/cuts-journal.ts',
};
const web = {
  name: 'web',
  port: 7790,
  address: `${GUEST}/24`,
  disks: TWO_DISKS,
  more: `checkpoint: { interval: 200ms, failAfter: ${FAIL_AFTER_SECONDS}s }`,
};

const test = suite('power cuts at each step of a checkpoint');
const hosts = [lab.host('alpha'), lab.host('beta')];
let product: Product;
let etcd: EtcdCluster;
let primary: HostName = 'alpha';
let backup: HostName = 'beta';
const here = (): LabHost => lab.host(primary);
const there = (): LabHost => lab.host(backup);

/** Of every client that there was, up to the latest failover. */
const answers: LedgerAnswer[] = [];
const splits: Split[] = [];
let client = { name: 'client-0', count: 0 };
/** A step that fails leaves nothing that the next one could stand on. */
let isBroken = false;

function next(name: string, body: () => Promise<void>): void {
  step(test, name, async () => {
    assert.not(isBroken, 'a step before this one has failed');
    isBroken = true;
    await body();
    isBroken = false;
  });
}

async function linesOf<T>(host: LabHost, path: string): Promise<T[]> {
  return parseLines<T>((await host.sh(`cat ${path} 2>/dev/null`, { check: false })).stdout);
}

function ask(host: LabHost, ...words: Ask[]): Promise<void> {
  return host.write(ASKED_FILE, `${words.join(' ')}\n`);
}

function told(text: string): string {
  return `grep -qs '${text}' ${EYES_LOG}`;
}

/** @returns the epoch that the point was reached in */
async function waitForPoint(host: LabHost, point: Point | 'still'): Promise<number> {
  await host.waitFor(point, told(`"point":"${point}"`), SLOW_MS);
  const lines = await linesOf<EyesLine>(host, EYES_LOG);
  const line = lines.find((each) => each.event === 'point' && each.point === point);
  if (line?.event !== 'point') throw new Error(`${host.name} does not tell of ${point}`);
  assert.is.not(line.isSuspended, false, `the guest was not suspended at ${point}`);
  return line.epoch;
}

/** A client on the backup, which lives through the next failover, with its first answers. */
async function startClient(): Promise<void> {
  client = { name: `client-${client.count + 1}`, count: client.count + 1 };
  await Promise.all(
    hosts.map((host) =>
      host.sh(
        `systemctl stop remus-lab-client 2>/dev/null; mkdir -p ${CUTS_DIRECTORY}; rm -f ${ASKED_FILE} ${EYES_LOG} ${CLIENT_LOG}`,
      ),
    ),
  );
  // Linux asks three times in three seconds for an address, and answers leave with a commit, which takes longer here.
  const neighbour = `ip neigh replace ${GUEST} lladdr ${GUEST_MAC} dev ${bridgeName} nud permanent`;
  await there().sh(
    `${neighbour}; systemd-run --quiet --collect --unit=remus-lab-client /usr/bin/node ${CLIENT} ${client.name} ${GUEST} ${CLIENT_LOG}`,
  );
  const count = `test "$(cat ${CLIENT_LOG} 2>/dev/null | grep -c '"answer"')" -ge ${ANSWERS}`;
  await there().waitFor(`answers for ${client.name}`, count, SLOW_MS);
}

/** How far a host's clock is ahead of ours, in milliseconds. */
async function clockAhead(host: LabHost): Promise<number> {
  let best = { tookMs: Infinity, aheadMs: 0 };
  for (let attempt = 0; attempt < 5; attempt++) {
    const beforeMs = Date.now();
    const { stdout } = await host.ssh(['date', '+%s.%N']);
    const tookMs = Date.now() - beforeMs;
    const aheadMs = Number(stdout) * 1000 - (beforeMs + tookMs / 2);
    if (tookMs < best.tookMs) best = { tookMs, aheadMs };
  }
  return best.aheadMs;
}

interface Failover {
  violations: Violation[];
  split: Split;
  resumedAt: number;
}

/**
 * Waits until the client is answered again, and judges what was seen.
 * @param cutMs on our clock
 */
async function failover(cutMs: number, aheadMs: number): Promise<Failover> {
  await there().waitFor('the end of the failover', told('"step":"settle"'), SLOW_MS);
  const eyes = await linesOf<EyesLine>(there(), EYES_LOG);
  const startedMs = startMs(eyes);
  const lines = await until(
    `answers for ${client.name} after the failover`,
    async () => {
      const all = await linesOf<ClientLine>(there(), CLIENT_LOG);
      const after = answersOf(client.name, all, startedMs);
      return (after.length >= ANSWERS || all.some(({ event }) => event === 'closed')) && all;
    },
    SLOW_MS,
    1_000,
  );
  const areas = await Promise.all(
    [0, 1].map(async (disk) => {
      const { stdout } = await there().ssh(['base64', areaPath(disk)]);
      return Buffer.from(stdout, 'base64');
    }),
  );
  const resume = resumeOf(eyes, areas);
  answers.push(...answersOf(client.name, lines, 0, startedMs));
  const violations = judgeFailover(resume, answers, lines, startedMs);
  return { violations, split: splitOf(eyes, lines, cutMs + aheadMs), resumedAt: resume.epoch };
}

/** The client's last words; what it was told after the failover has to be there after the next one, too. */
async function stopClient(host: LabHost, startedMs: number): Promise<void> {
  await host.sh('systemctl stop remus-lab-client');
  answers.push(...answersOf(client.name, await linesOf<ClientLine>(host, CLIENT_LOG), startedMs));
}

/** More or other copies than one on this host, or another winner. */
async function copyFaults(runner: HostName): Promise<string[]> {
  const running = hosts.filter((host) => host.isRunning());
  const lists = await Promise.all(
    running.map(async (host) => [host.name, (await host.ssh(['xl', 'list'])).stdout] as const),
  );
  const copies = copiesOf(new Map(lists), 'web');
  const found = copies.join(' ') === runner ? [] : [`copies live on: ${copies.join(', ') || 'no host'}`];
  const record = JSON.parse(await lab.host(runner).read('/var/lib/remus-drbd/web/term.json')) as {
    term: number;
  };
  const arbiter = new EtcdArbiter({ endpoints: etcd.endpoints });
  const won = await arbiter.look({ pair: 'lab', domain: 'web', term: record.term }, { timeoutMs: 10_000 });
  await arbiter.close();
  const winner = won.kind === 'won-by' ? won.host : won.kind;
  if (winner !== runner) found.push(`${runner} runs a copy, and term ${record.term} was won by: ${winner}`);
  return found;
}

async function sums(host: LabHost): Promise<string> {
  const script = `for d in remus-web-0 remus-web-1; do blockdev --getsize64 /dev/mapper/$d; dd if=/dev/mapper/$d iflag=direct bs=1M 2>/dev/null | sha256sum; done`;
  const { stdout } = await host.sh(script);
  assert.match(stdout, /^([1-9][0-9]+\n[0-9a-f]{64} {2}-\n){2}$/);
  return stdout;
}

/** @returns whether both hosts have the same on all disks; nothing writes to them meanwhile */
async function areEqual(): Promise<boolean> {
  for (let attempt = 0; attempt < 3; attempt++) {
    // What was under way when the guest was suspended comes to an end within moments.
    const [one, other] = await Promise.all(hosts.map(sums));
    if (one === other) return true;
  }
  return false;
}

/** The same, with the guest suspended at a checkpoint: what DRBD has below it on both sides, the journal included. */
async function areEqualSuspended(): Promise<boolean> {
  await ask(here(), 'still');
  const epoch = await waitForPoint(here(), 'still');
  await there().waitFor(`marker ${epoch}`, told(`"event":"marker","epoch":${epoch},`));
  const result = await areEqual();
  await ask(here());
  return result;
}

function swap(): void {
  [primary, backup] = [backup, primary];
}

/** The host that was lost comes back and protects the guest. */
async function recover(): Promise<void> {
  const lost = lab.host(backup);
  await lab.boot(backup);
  await lost.sh(`mkdir -p ${CUTS_DIRECTORY}`);
  assert.equal(await copyFaults(primary), []);
  await product.expect(0, 'recover', 'web');
}

/** From here on `primary` is the host that took over. @returns what was wrong with it */
async function cutAndJudge(what: string, epoch: number, aheadMs: number): Promise<Violation[]> {
  const cutMs = Date.now();
  await lab.cut(primary);
  await ask(there());
  const { violations, split, resumedAt } = await failover(cutMs, aheadMs);
  const seconds = (ms: number): string => (ms / 1000).toFixed(1);
  process.stdout.write(
    `    ${primary} lost its power at ${what} of epoch ${epoch}; ${backup} went on from ${resumedAt}: first packet after ${seconds(split.packet)} s ` +
      `(detection ${seconds(split.detection)}, claim ${seconds(split.claim)}, disk ${seconds(split.disk)}, start ${seconds(split.start)}), ` +
      `first answer on the old connection after ${seconds(split.answer)} s; ${answers.length} answers so far\n`,
  );
  if (violations.length === 0) splits.push(split);
  for (const { text } of violations) process.stdout.write(`    ${text}\n`);
  swap();
  return violations;
}

async function afterwards(): Promise<void> {
  assert.equal(await copyFaults(primary), []);
  const started = startMs(await linesOf<EyesLine>(here(), EYES_LOG));
  await recover();
  await stopClient(here(), started);
}

async function layClient(): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'remus-lab-client-'));
  try {
    const outfile = join(folder, 'client.cjs');
    await build({
      entryPoints: ['test/lab/cuts-client.ts'],
      outfile,
      bundle: true,
      platform: 'node',
      target: 'node18.19',
      format: 'cjs',
    });
    await Promise.all(hosts.map((host) => host.write(CLIENT, readFileSync(outfile))));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

next('a protected guest that keeps a ledger, on hosts with eyes, and an arbiter outside', async () => {
  for (const point of points) assert.ok(point in POINTS, `there is no point ${point}`);
  await lab.fresh();
  etcd = await EtcdCluster.start(1);
  const endpoints = etcd.endpoints.map((url) => url.replace('127.0.0.1', OUTSIDE));
  product = await Product.make([web], { arbiter: `{ etcd: [ "${endpoints.join('", "')}" ] }` });
  const config = guestConfig({
    name: 'web',
    address: web.address,
    mac: GUEST_MAC,
    ledgerPauseMs: PAUSE_MS,
    hasStrays: true,
  });
  writeFileSync(join(product.folder, 'web.cfg'), config);
  await layLedger(hosts);
  await product.expect(0, 'setup');
  await layClient();
  await openEyes(hosts, EYES, { until: 'fresh', directory: CUTS_DIRECTORY });
  await here().ssh(['xl', 'create', '/etc/remus-drbd/domains/web.cfg']);
  await here().guest('web').waitUntilReady();
  await here().guest('web').waitForConsole('^ledger: counts');
  await product.expect(0, 'protect', 'web');
});

test.after(async () => {
  await lab.link(true);
  await product?.clean();
  await etcd?.remove();
});

points.forEach((point, index) => {
  next(`cut ${index + 1} of ${points.length}: ${point}`, async () => {
    await startClient();
    const aheadMs = await clockAhead(there());
    const stopped = POINTS[point] === 'primary' ? here() : there();
    await ask(stopped, point);
    const epoch = await waitForPoint(stopped, point);
    assert.equal(await cutAndJudge(point, epoch, aheadMs), []);
    await afterwards();
    assert.ok(await areEqualSuspended(), 'the disks of the hosts differ after recovery');
  });
});

next('the LVs of both hosts are the same without protection, too', async () => {
  await product.expect(0, 'unprotect', 'web');
  await here().ssh(['xl', 'pause', 'web']);
  assert.ok(await areEqual());
  await here().ssh(['xl', 'unpause', 'web']);
  await product.expect(0, 'protect', 'web');
});

next('found: an epoch that is committed before its memory is there', async () => {
  await startClient();
  const aheadMs = await clockAhead(there());
  await ask(there(), 'early-commit');
  await there().waitFor('an early commit', told('"isCommitted":true'), SLOW_MS);
  await ask(here(), 'memory-half');
  const epoch = await waitForPoint(here(), 'memory-half');
  await there().waitFor(`commit ${epoch}`, told(`"event":"marker","epoch":${epoch},"isCommitted":true`));
  const violations = await cutAndJudge('memory-half', epoch, aheadMs);
  assert.ok(violations.some(({ fault }) => fault === 'disk-ahead-of-memory'));
  await afterwards();
});

/** The link is cut, not the power: the primary lives, gives way, and its DRBD knows of no crash. */
next('found: discarded blocks that were not marked', async () => {
  await startClient();
  await ask(there(), 'no-mark');
  await ask(here(), 'memory-half', 'no-claim');
  const epoch = await waitForPoint(here(), 'memory-half');
  await there().waitFor(`marker ${epoch}`, told(`"event":"marker","epoch":${epoch},`));
  await lab.link(false);
  await there().waitFor('the end of the failover', told('"step":"settle"'), SLOW_MS);
  await ask(here());
  await here().waitFor('the copy to be gone', '! xl list web >/dev/null 2>&1', SLOW_MS);
  swap();
  assert.equal(await copyFaults(primary), []);
  await lab.link(true);
  await product.expect(0, 'recover', 'web');
  await Promise.all(hosts.map((host) => host.sh(`rm -f ${ASKED_FILE} ${EYES_LOG}`)));
  assert.not(await areEqualSuspended(), 'the disks of the hosts are the same without it');
});

next('found: a claim that was skipped', async () => {
  await startClient();
  await ask(there(), 'skip-claim');
  await lab.link(false);
  await there().waitFor('the start of a copy', told('"step":"start-guest"'), SLOW_MS);
  await here().waitFor('the claim of the primary', told('"text":"primary: '), SLOW_MS);
  const found = await copyFaults(backup);
  for (const text of found) process.stdout.write(`    ${text}\n`);
  assert.is(found.length, 2);
});

next('how long it took', async () => {
  process.stdout.write(
    `    from the power cut, ${splits.length} cuts, detection after ${FAIL_AFTER_SECONDS} s of silence:\n`,
  );
  for (const line of summarise(splits)) process.stdout.write(`      ${line}\n`);
  process.stdout.write(
    '    stock xl remus never notices: it was seen to wait, with its copy paused, for as long as one looked\n',
  );
  return Promise.resolve();
});

test.run();
