/**
 * Drills on two real Xen hosts: LVM's snapshots while the receiver holds the disks or their devices are suspended, a
 * guest booted from them by xl beside the copy, production that goes on, and what is left of a drill that was killed. To
 * run it, move it up beside `protect.lab.ts` (drop one `../` from each import).
 */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { lab } from '../../../scripts/lab/hosts.js';
import { Product, SLOW_CHECKPOINT, TWO_DISKS } from '../product.js';
import { step } from '../steps.js';
import { assertEqualVolumes } from '../volumes.js';

const test = suite('drills on real hosts');
const web = {
  name: 'web',
  port: 7790,
  address: '10.0.0.10/24',
  disks: TWO_DISKS,
  more: SLOW_CHECKPOINT,
};
const SLOW_MS = 15 * 60_000;

/** Waits for the drill's guest, and asks it for what both its disks have at 64 KiB. */
const CHECK = `log=/var/log/xen/console/guest-$REMUS_DRILL_GUEST.log
: >"$log"
until grep -qs '^lab-guest: ready' "$log"; do sleep 1; done
tty=$(xenstore-read "/local/domain/$REMUS_DRILL_DOMID/console/tty")
ask() {
  before=$(grep -c '^lab-guest: get' "$log")
  printf 'get %s 64\\n' "$1" >"$tty"
  until [ "$(grep -c '^lab-guest: get' "$log")" -gt "$before" ]; do sleep 1; done
  echo "$1 $(tr -d '\\r' <"$log" | sed -n 's/^lab-guest: get //p' | tail -n 1)"
}
ask xvda
ask xvdb
tr -d '\\r' <"$log" | grep '^lab-guest: ready'
echo "console $(grep -c '^lab-guest: ready' "$REMUS_DRILL_CONSOLE")"`;

let product: Product;

interface DrillReport {
  result: { outcome: string; reason: string } | null;
  term: number | null;
  epoch: number | null;
  timingsMs: Record<string, number>;
  check: { exitCode: number | null; output: string } | null;
  usedPercent: Record<string, number>;
  left: string[];
}

const waitForProtection = (): ReturnType<Product['status']> =>
  product.waitForStatus('web', 'protection', ({ protection }) => protection === 'protected');

async function drill(code: number, ...words: string[]): Promise<DrillReport> {
  const { stdout } = await product.expect(code, 'drill', 'web', '--json', ...words);
  const { domains } = JSON.parse(stdout) as { domains: { drill: DrillReport; result: string }[] };
  const [only] = domains;
  if (only === undefined) throw new Error(stdout);
  process.stdout.write(`${only.result.replace(/^/gm, '    ')}\n`);
  return only.drill;
}

/** Nothing that a drill makes is on the backup, and nothing stands still there. */
const LEFT =
  'xl list | grep -c "web+drill"; lvs --noheadings -o lv_name | grep -c drill; dmsetup ls | grep -c drill; dmsetup info | grep -c SUSPENDED; systemctl is-active remus-drill@web.service | grep -c "^active"';

async function assertNothingLeft(): Promise<void> {
  const { stdout } = await lab.host('beta').sh(LEFT, { check: false });
  assert.is(stdout.trim().split(/\s+/).join(' '), '0 0 0 0 0');
}

async function waitUntilNothingIsLeft(): Promise<void> {
  await lab
    .host('beta')
    .waitFor('the clean-up', `test "$(${LEFT})" = "$(printf '0\\n0\\n0\\n0\\n0')"`, SLOW_MS);
}

/** What the drill's disks had at 64 KiB: the guest writes a number to xvda and then the same one to xvdb. */
function assertOnePoint({ check }: DrillReport): number {
  const [, one = '', other = ''] = /^xvda n(\d+)\nxvdb n(\d+)$/m.exec(check?.output ?? '') ?? [];
  const isOnePoint = one !== '' && (one === other || Number(one) === Number(other) + 1);
  assert.ok(isOnePoint, check?.output ?? 'it said nothing');
  return Number(one);
}

/** The guest counts on both disks for as long as `work` goes on. @returns what came of it, and the last number */
async function whileCounting<T>(from: number, work: () => Promise<T>): Promise<{ value: T; last: number }> {
  let isOver = false;
  const guest = lab.host('alpha').guest('web');
  const counting = (async (): Promise<number> => {
    let last = from;
    for (; !isOver; last++) {
      for (const vdev of ['xvda', 'xvdb']) assert.is(await guest.ask(`put ${vdev} 64 n${last}`), 'ok');
    }
    return last - 1;
  })();
  // It is waited for below; by then it may have failed for long.
  counting.catch(() => undefined);
  let value: T;
  try {
    value = await work();
  } finally {
    isOver = true;
  }
  return { value, last: await counting };
}

step(test, 'a guest on replicated disks', async () => {
  await lab.fresh();
  product = await Product.make([web]);
  await product.expect(0, 'setup');
  await lab.host('alpha').ssh(['xl', 'create', '/etc/remus-drbd/domains/web.cfg']);
  const guest = lab.host('alpha').guest('web');
  await guest.waitUntilReady();
  for (const vdev of ['xvda', 'xvdb']) assert.is(await guest.ask(`put ${vdev} 64 n1`), 'ok');
});

test.after(async () => {
  await product?.clean();
});

step(test, 'a dry run tells, and changes nothing', async () => {
  const { stdout } = await product.expect(0, 'drill', 'web', '--dry-run');
  assert.match(stdout, /would, on beta:\n.*while they are suspended/);
  await assertNothingLeft();
});

step(test, 'without protection: both disks at one point, and DRBD stays connected', async () => {
  const report = await drill(0, '--check', CHECK);
  assert.is(report.result?.outcome, 'passed');
  assert.is(report.epoch, null);
  assert.is(assertOnePoint(report), 1);
  await assertNothingLeft();
  const { stdout } = await lab.host('alpha').sh('drbdadm cstate web | sort -u; drbdadm dstate web | sort -u');
  assert.is(stdout.trim(), 'Connected\nUpToDate/UpToDate');
});

step(test, 'under protection: the disks of one commit, no network, and production goes on', async () => {
  await product.expect(0, 'protect', 'web');
  const before = await waitForProtection();
  const { value: report, last } = await whileCounting(2, () => drill(0, '--check', CHECK));
  assert.is(report.result?.outcome, 'passed');
  assert.is(report.term, before.term);
  assert.ok((report.epoch ?? 0) >= (before.committedEpoch ?? 0));
  const found = assertOnePoint(report);
  assert.ok(found <= last, `${found} of ${last}`);
  assert.match(report.check?.output ?? '', /lab-guest: ready web disks=xvda,xvdb address=none/);
  await assertNothingLeft();
  const after = await waitForProtection();
  assert.is(after.term, before.term, 'protection never ended');
  assert.ok((after.committedEpoch ?? 0) > (report.epoch ?? 0) + 3, JSON.stringify([report.epoch, after]));
  process.stdout.write(`    ${JSON.stringify(report.timingsMs)}\n`);
});

step(test, 'a check that fails: exit code 1, and nothing left', async () => {
  const failed = await drill(1, '--check', 'echo no database; exit 3');
  assert.is(failed.result?.reason, 'the check ended with 3');
  assert.is(failed.check?.output, 'no database\n');
  await assertNothingLeft();
});

step(test, 'the command is killed: the drill ends by itself', async () => {
  await product.killAt(/web: checking/, 'drill', 'web', '--check', 'sleep 3600', '--timeout', '60m');
  await waitUntilNothingIsLeft();
});

step(test, 'the drill is killed on its host: its unit cleans up', async () => {
  const running = drill(3, '--check', 'sleep 3600', '--timeout', '60m');
  const beta = lab.host('beta');
  await beta.waitFor('the guest of the drill', 'xl list | grep -q "web+drill"', SLOW_MS);
  await beta.ssh(['systemctl', 'kill', '--signal=KILL', 'remus-drill@web.service']);
  const { result, left } = await running;
  assert.match(result?.reason ?? '', /^it was ended at: /);
  assert.equal(left, []);
  await assertNothingLeft();
});

step(test, 'what a lost host would leave is removed by the next drill, and told by check', async () => {
  await lab
    .host('beta')
    .sh(
      'lvcreate --snapshot --name remus-web-0-drill --size 8m --addtag remus-drbd.drill=web --yes vg0/remus-web-0',
    );
  const { stdout } = await product.run('check');
  assert.match(stdout, /remus-web-0-drill was left by a drill/);
  // The check reads what the guest prints.
  const ready = 'until grep -qs "lab-guest: ready" "$REMUS_DRILL_CONSOLE"; do sleep 1; done';
  const report = await drill(0, '--check', ready);
  assert.equal(report.left, []);
  await assertNothingLeft();
});

step(test, 'a snapshot that overflows is told, and the backup is not hurt', async () => {
  // The last line of a guest's part; a key twice would be an error.
  await product.configure([{ ...web, more: `${web.more}\n        drill: { snapshotSize: 4MiB }` }]);
  const { term } = await waitForProtection();
  const running = drill(3, '--check', 'sleep 3600', '--timeout', '60m');
  await lab.host('beta').waitFor('the guest of the drill', 'xl list | grep -q "web+drill"', SLOW_MS);
  assert.match(await lab.host('alpha').guest('web').ask('fill xvda 20', 600), /^[0-9a-f]{32}$/);
  const { result } = await running;
  assert.match(result?.reason ?? '', /snapshot of xvda is of no use any more \((Invalid|Overflow)\)/);
  await assertNothingLeft();
  const after = await waitForProtection();
  assert.is(after.term, term, 'protection never ended');
});

step(test, 'both hosts have the same disks after all of it', async () => {
  await product.expect(0, 'unprotect', 'web');
  await lab.host('alpha').ssh(['xl', 'shutdown', '-w', 'web'], { timeoutMs: SLOW_MS });
  await lab
    .host('alpha')
    .waitFor('the demotion', 'test "$(drbdadm role web | sort -u)" = Secondary/Secondary');
  await assertEqualVolumes('remus-web-0', 'remus-web-1');
});

test.run();
