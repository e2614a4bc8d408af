/**
 * What protection costs a guest beside stock `xl remus -F -n -d` with plain ssh, which protects neither disks nor
 * network: checkpoints per second and the time that the guest is suspended for each, on two emulated hosts, with the
 * same guest and load (a ledger, scripts/lab/guest/ledger.c), one after the other. Prints both and their ratios.
 *
 *     npm run build && npm run bench -- lab/cost
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { build } from 'esbuild';
import { guestConfig } from '../../scripts/lab/guest.js';
import { lab } from '../../scripts/lab/hosts.js';
import { layLedger } from '../../test/lab/ledger-guest.js';
import { Product, TWO_DISKS } from '../../test/lab/product.js';

const SECONDS = 90;
const INTERVAL_MS = 200;
const PROGRAM = '/root/remus-lab-cost/guest-pauses.cjs';
const SLOW_MS = 15 * 60_000;
const STOCK_UNIT = 'remus-lab-stock';
const address = '10.0.0.10/24';

const alpha = lab.host('alpha');
const beta = lab.host('beta');

interface Cost {
  perSecond: number;
  pauseMs: number;
  pause99Ms: number;
  checkpoints: number;
}

async function layProgram(): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'remus-lab-cost-'));
  try {
    await build({
      entryPoints: ['bench/lab/guest-pauses.ts'],
      outfile: join(folder, 'guest-pauses.cjs'),
      bundle: true,
      platform: 'node',
      target: 'node18.19',
      format: 'cjs',
      external: ['@koromix/*'],
      logLevel: 'warning',
    });
    await alpha.write(PROGRAM, readFileSync(join(folder, 'guest-pauses.cjs')));
    const modules = PROGRAM.replace(/[^/]*$/, 'node_modules');
    await alpha.sh(`ln -sfn /usr/lib/remus-drbd/node_modules ${modules}`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function look(seconds: number): Promise<{ seconds: number; pausesMs: number[] }> {
  const { stdout } = await alpha.sh(`node ${PROGRAM} "$(xl domid web)" ${seconds}`, { timeoutMs: SLOW_MS });
  return JSON.parse(stdout) as { seconds: number; pausesMs: number[] };
}

async function measure(what: string): Promise<Cost> {
  const { seconds, pausesMs } = await look(SECONDS);
  const sorted = [...pausesMs].sort((one, other) => one - other);
  const at = (part: number): number =>
    sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] ?? NaN;
  const cost = {
    perSecond: pausesMs.length / seconds,
    pauseMs: at(0.5),
    pause99Ms: at(0.99),
    checkpoints: pausesMs.length,
  };
  console.log(
    `${what}: ${cost.perSecond.toFixed(2)} checkpoints/s, suspended for ${cost.pauseMs} ms (p50), ${cost.pause99Ms} ms (p99), of ${cost.checkpoints} checkpoints in ${seconds.toFixed(0)} s`,
  );
  return cost;
}

async function stock(): Promise<Cost> {
  const command = `/usr/sbin/xl remus -F -n -d -i ${INTERVAL_MS} -s ssh web ${beta.plan.linkAddress}`;
  await alpha.sh(`systemd-run --quiet --collect --unit=${STOCK_UNIT} ${command}`);
  try {
    // Its first round suspends nobody; what is measured are checkpoints.
    while ((await look(10)).pausesMs.length < 2) await alpha.sh(`systemctl is-active --quiet ${STOCK_UNIT}`);
    return await measure('stock xl remus over ssh');
  } finally {
    // Killed before its input ends, the receiving xl does not start its copy; the sending one then gives up.
    await beta.sh('kill -KILL $(pidof xl); xl destroy web--incoming', { check: false });
    await alpha.waitFor('the end of xl remus', `! systemctl is-active --quiet ${STOCK_UNIT}`);
  }
}

await lab.reserve(console.log);
await lab.fresh();
const product = await Product.make([
  {
    name: 'web',
    port: 7790,
    address,
    disks: TWO_DISKS,
    more: `checkpoint: { interval: ${INTERVAL_MS}ms, failAfter: 10s }`,
  },
]);
try {
  writeFileSync(join(product.folder, 'web.cfg'), guestConfig({ name: 'web', address, ledgerPauseMs: 20 }));
  await layLedger([alpha, beta]);
  await product.expect(0, 'setup');
  await layProgram();
  await alpha.ssh(['xl', 'create', '/etc/remus-drbd/domains/web.cfg']);
  await alpha.guest('web').waitForConsole('^ledger: counts');
  const theirs = await stock();
  await product.expect(0, 'protect', 'web');
  const ours = await measure('remus-drbd, with disks and network');
  await product.expect(0, 'unprotect', 'web');
  const ratio = (one: number, other: number): string => (one / other).toFixed(2);
  console.log(
    `ours beside stock: checkpoints per second ${ratio(ours.perSecond, theirs.perSecond)}, pause ${ratio(ours.pauseMs, theirs.pauseMs)} (p50), ${ratio(ours.pause99Ms, theirs.pause99Ms)} (p99)`,
  );
} finally {
  await product.clean();
}
