/**
 * Commits are atomic, on two real Xen hosts: a guest counts in memory, onto two disks and out to the network
 * (scripts/lab/guest/ledger.c), and at every commit the memory of the checkpoint, the disks below the journal and what
 * has left the primary are compared. The same with one thing wrong at a time, which has to be found.
 *
 * Both hosts run the product with eyes (ledger-bundle.ts). LEDGER_COMMITS=300 looks at that many commits instead of
 * those that fit beside the other tests.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { guestConfig } from '../../scripts/lab/guest.js';
import { lab, until, type LabHost } from '../../scripts/lab/hosts.js';
import { openEyes } from './eyes.js';
import { checkOutput, parseCapture } from './ledger-format.js';
import type { CommittedEpoch, Found, OutputCheck } from './ledger-format.js';
import { layLedger } from './ledger-guest.js';
import { COMMITS_LOG, FAULT_FILE, LEDGER_DIRECTORY, parseLines, SENDER_LOG } from './ledger-log.js';
import type { CommitLine, Fault, SenderLine } from './ledger-log.js';
import { PORT } from './ledger-packet.js';
import { Product, SLOW_CHECKPOINT, TWO_DISKS } from './product.js';
import { step } from './steps.js';

const COMMITS = Number(process.env['LEDGER_COMMITS'] ?? 60);
/** With each fault; more of them, where none has shown what it does. */
const FAULTY_COMMITS = 6;
const FAULTY_COMMITS_MAX = 100;
const PAUSE_MS = 400;
const SLOW_MS = 60 * 60_000;
const CAPTURE = `${LEDGER_DIRECTORY}/capture.pcap`;
/** They tell what they see; ledger-sender.ts makes the faults. */
const EYES = {
  'src/protect/receiver.ts': 'test/lab/protect-verify.ts',
  'src/protect/sender.ts': 'test/lab/ledger-sender.ts',
  'src/journal/journal.ts': 'test/lab/ledger-journal.ts',
};
const address = '10.0.0.10/24';
const web = {
  name: 'web',
  port: 7790,
  address,
  disks: TWO_DISKS,
  more: SLOW_CHECKPOINT,
};

const test = suite('commits are atomic on real hosts');
const alpha = lab.host('alpha');
const beta = lab.host('beta');
const hosts = [alpha, beta];
let product: Product;

async function linesOf<T>(host: LabHost, path: string): Promise<T[]> {
  return parseLines<T>((await host.sh(`cat ${path} 2>/dev/null`, { check: false })).stdout);
}

interface Seen {
  commits: CommitLine[];
  sender: SenderLine[];
}

async function look(): Promise<Seen> {
  const [commits, sender] = await Promise.all([
    linesOf<CommitLine>(beta, COMMITS_LOG),
    linesOf<SenderLine>(alpha, SENDER_LOG),
  ]);
  return { commits, sender };
}

/** Epochs whose marker was written in this way, or whose output was let go so, and of which both sides know the commit. */
function epochsOf({ commits, sender }: Seen, event: 'marker' | 'release', fault: Fault): number[] {
  const known = new Set(sender.flatMap((line) => (line.event === 'committed' ? [line.epoch] : [])));
  const verified = new Set(commits.map(({ epoch }) => epoch));
  return sender
    .flatMap((line) => (line.event === event && line.fault === fault ? [line.epoch] : []))
    .filter((epoch) => known.has(epoch) && verified.has(epoch));
}

/** What the hypervisor said of the guest at both ends of each marker that was written in this way. */
function gateOf({ sender }: Seen, fault: Fault): { gates: number; violations: string[] } {
  const gates = sender.flatMap((line) => (line.event === 'gate' && line.fault === fault ? [line] : []));
  const violations = gates
    .filter(({ wasSuspended, ranNs }) => !wasSuspended || ranNs > 0)
    .map(
      ({ epoch, wasSuspended, ranNs }) =>
        `epoch ${epoch}: the guest was ${wasSuspended ? '' : 'not '}suspended at both ends of its marker, and ran for ${ranNs} ns in between`,
    );
  return { gates: gates.length, violations };
}

/** Commits with newer counts on both disks than the commit before had. */
function movedOf(commits: readonly CommitLine[]): number {
  return commits.filter(
    ({ tops }, index) => index > 0 && tops.every((top, disk) => top > (commits[index - 1]?.tops[disk] ?? 0)),
  ).length;
}

async function seenUntil(what: string, isEnough: (seen: Seen) => boolean): Promise<Seen> {
  return until(
    what,
    async () => {
      const seen = await look();
      return isEnough(seen) && seen;
    },
    SLOW_MS,
    2_000,
  );
}

/**
 * Makes the fault for some commits.
 * @param expected what it does to a disk
 * @returns what was seen, and the epochs that it was made in
 */
async function withFault(
  fault: Fault,
  event: 'marker' | 'release',
  expected?: Found['fault'],
): Promise<Seen & { epochs: number[]; found: CommitLine[] }> {
  await alpha.sh(`echo ${fault} >${FAULT_FILE}`);
  const seen = await seenUntil(`${FAULTY_COMMITS} commits with ${fault}`, (now) => {
    const epochs = epochsOf(now, event, fault);
    const isShown = now.commits.some(
      ({ epoch, violations }) =>
        epochs.includes(epoch) && violations.some(({ fault: each }) => each === expected),
    );
    return epochs.length >= (expected === undefined || isShown ? FAULTY_COMMITS : FAULTY_COMMITS_MAX);
  });
  await alpha.sh(`echo none >${FAULT_FILE}`);
  const epochs = epochsOf(seen, event, fault);
  return { ...seen, epochs, found: seen.commits.filter(({ epoch }) => epochs.includes(epoch)) };
}

function describe(commits: readonly CommitLine[]): string {
  return commits
    .flatMap(({ epoch, violations }) => violations.map(({ text }) => `    epoch ${epoch}: ${text}\n`))
    .slice(0, 5)
    .join('');
}

/** Compares what has left alpha with what it knew to be committed. */
async function output({ commits, sender }: Seen): Promise<OutputCheck> {
  const capture = await alpha.ssh(['base64', CAPTURE]);
  const sentOf = new Map(commits.map(({ epoch, memory }) => [epoch, memory?.sent ?? 0]));
  const known: CommittedEpoch[] = sender.flatMap((line) =>
    line.event === 'committed'
      ? [{ epoch: line.epoch, timeMs: line.timeMs, sent: sentOf.get(line.epoch) ?? 0 }]
      : [],
  );
  return checkOutput(parseCapture(Buffer.from(capture.stdout, 'base64')), known);
}

step(test, 'a guest that keeps a ledger, on hosts with eyes', async () => {
  await lab.fresh();
  product = await Product.make([web]);
  writeFileSync(
    join(product.folder, 'web.cfg'),
    guestConfig({ name: 'web', address, ledgerPauseMs: PAUSE_MS }),
  );
  await layLedger(hosts);
  await product.expect(0, 'setup');
  await openEyes(hosts, EYES, { until: 'reboot', directory: LEDGER_DIRECTORY });
  const capture = `tcpdump -Z root -i eth1 -Q out -U --immediate-mode -w ${CAPTURE} udp port ${PORT}`;
  await alpha.sh(`systemd-run --quiet --collect --unit=remus-lab-capture ${capture}`);
  await alpha.ssh(['xl', 'create', '/etc/remus-drbd/domains/web.cfg']);
  await alpha.guest('web').waitUntilReady();
  await alpha.guest('web').waitForConsole('^ledger: counts');
  await alpha.waitFor('packets of the ledger', `test "$(stat -c %s ${CAPTURE})" -gt 1000`);
});

test.after(async () => {
  await product?.clean();
});

step(test, `at each of ${COMMITS} commits and more memory and both disks agree`, async () => {
  await product.expect(0, 'protect', 'web');
  const startedMs = performance.now();
  // A guest that does nothing would agree with itself as well.
  const { commits } = await seenUntil(
    `${COMMITS} commits in which both disks moved`,
    (seen) => movedOf(seen.commits) >= COMMITS,
  );
  assert.equal(
    commits.map(({ epoch }) => epoch),
    commits.map((_, index) => index + 1),
    'each commit once, in order',
  );
  const bad = commits.filter(({ violations }) => violations.length > 0);
  assert.is(bad.length, 0, describe(bad));
  const underWay = commits.filter(({ memory }) => memory?.disks.some(({ issued, done }) => issued > done));
  const ahead = underWay.filter(({ memory, tops }) =>
    memory?.disks.some(({ done }, disk) => (tops[disk] ?? 0) > done),
  );
  const counts = (commits[commits.length - 1]?.tops[0] ?? 0) - (commits[0]?.tops[0] ?? 0);
  const checks = commits.map(({ checkMs }) => checkMs).sort((one, other) => one - other);
  process.stdout.write(
    `    ${commits.length} commits, both disks moved in ${movedOf(commits)}, in ${((performance.now() - startedMs) / 1000).toFixed(0)} s after protect, no violation; ${counts} counts on each disk; ` +
      `a write under way in ${underWay.length}, of which ${ahead.length} had reached the disk; a check took ${checks[checks.length >> 1]} ms\n`,
  );
});

step(test, 'the guest was suspended from before each marker was written until it was there', async () => {
  const { gates, violations } = gateOf(await look(), 'none');
  assert.equal(violations.slice(0, 3), []);
  assert.ok(gates >= COMMITS, `${gates} markers were looked at`);
  process.stdout.write(`    ${gates} markers\n`);
});

step(test, 'no packet has left before the commit of the checkpoint that has it', async () => {
  const check = await output(await look());
  assert.equal(check.violations.slice(0, 3), []);
  assert.ok(check.packets > COMMITS, `${check.packets} packets were seen`);
  process.stdout.write(`    ${check.packets} packets, none early\n`);
});

step(test, 'a late marker alone does no harm: the guest waits for it', async () => {
  const { found, ...seen } = await withFault('slow-marker', 'marker');
  const bad = found.filter(({ violations }) => violations.length > 0);
  assert.is(bad.length, 0, describe(bad));
  assert.equal(gateOf(seen, 'slow-marker').violations, []);
});

step(test, 'found: a late marker without the gate', async () => {
  const { found, ...seen } = await withFault('gate-off', 'marker', 'disk-ahead-of-memory');
  const gate = gateOf(seen, 'gate-off');
  process.stdout.write(`    ${gate.violations[0] ?? ''}\n`);
  assert.ok(gate.violations.length > 0, `of ${gate.gates} markers the guest ran during none`);
  const bad = found.filter(({ violations }) =>
    violations.some(({ fault }) => fault === 'disk-ahead-of-memory'),
  );
  process.stdout.write(`    ${bad.length} of ${found.length} commits\n${describe(bad)}`);
  assert.ok(bad.length > 0);
});

step(test, 'found: a barrier before the guest is suspended', async () => {
  const { found } = await withFault('early-barrier', 'marker', 'disk-behind-memory');
  const bad = found.filter(({ violations }) =>
    violations.some(({ fault }) => fault === 'disk-behind-memory'),
  );
  process.stdout.write(`    ${bad.length} of ${found.length} commits\n${describe(bad)}`);
  assert.ok(bad.length > 0);
});

step(test, 'found: output that is released when its checkpoint is sent', async () => {
  const before = await output(await look());
  assert.is(before.violations.length, 0, 'the faults before this one are of disks');
  const seen = await withFault('release-at-send', 'release');
  const { violations } = await output(seen);
  const early = violations.filter(({ epoch }) => epoch !== null && seen.epochs.includes(epoch));
  const epochs = new Set(early.map(({ epoch }) => epoch));
  process.stdout.write(
    `    ${early.length} packets of ${epochs.size} of ${seen.epochs.length} epochs\n    ${early[0]?.text ?? ''}\n`,
  );
  assert.ok(early.length > 0);
  const bad = seen.found.filter(({ violations: ofDisks }) => ofDisks.length > 0);
  assert.is(bad.length, 0, describe(bad));
});

step(
  test,
  'with nothing wrong any more everything agrees again, and the guest has lived through it',
  async () => {
    const before = Math.max(...(await look()).commits.map(({ epoch }) => epoch));
    const enough = (seen: Seen): number[] =>
      epochsOf(seen, 'marker', 'none').filter((epoch) => epoch > before + 2);
    const seen = await seenUntil('commits after the faults', (now) => enough(now).length >= FAULTY_COMMITS);
    const bad = seen.commits.filter(
      ({ epoch, violations }) => enough(seen).includes(epoch) && violations.length > 0,
    );
    assert.is(bad.length, 0, describe(bad));
    await product.expect(0, 'unprotect', 'web');
    assert.is(await alpha.guest('web').ask('echo alive'), 'alive');
  },
);

test.run();
