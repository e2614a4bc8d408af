/**
 * Runs test/edge/netbuf.kernel.ts in dom0 of a lab host, for machines whose own kernel has no sch_plug.
 *
 *   node --import tsx test/lab/netbuf-host.ts alpha|beta     on a lab that is up
 *   node --import tsx test/lab/netbuf-host.ts --to DIRECTORY only writes what would be copied there: start
 *                                                            netbuf.kernel.cjs with Node, as root
 */
import { build } from 'esbuild';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { lab } from '../../scripts/lab/hosts.js';
import { run } from '../../scripts/lab/processes.js';

/** The tests start hundreds of processes, each of which takes its time under emulation. */
const LIMIT_MS = 40 * 60_000;
const THERE = '/tmp/remus-netbuf-test';
const KOFFI = '@koromix/koffi-linux-x64';

async function bundle(directory: string): Promise<void> {
  await build({
    entryPoints: ['test/edge/netbuf.kernel.ts', 'test/edge/netbuf-holder.ts'],
    outdir: directory,
    outExtension: { '.js': '.cjs' },
    bundle: true,
    platform: 'node',
    target: 'node18.19',
    format: 'cjs',
    external: ['@koromix/*'],
    define: { 'import.meta.url': 'importMetaUrl' },
    banner: { js: "const importMetaUrl = require('node:url').pathToFileURL(__filename).href;" },
    logLevel: 'warning',
  });
  for (const file of ['package.json', 'index.js', 'linux_x64/koffi.node']) {
    const to = join(directory, 'node_modules', KOFFI, file);
    mkdirSync(dirname(to), { recursive: true });
    cpSync(join('node_modules', KOFFI, file), to);
  }
}

const [where = '', to] = process.argv.slice(2);
if (where === '--to' && to !== undefined) {
  await bundle(to);
} else if (where === 'alpha' || where === 'beta') {
  const directory = mkdtempSync(join(tmpdir(), 'netbuf-host-'));
  try {
    await bundle(directory);
    const archive = `${directory}.tar.gz`;
    await run(['tar', '-C', directory, '-czf', archive, '.'], { timeoutMs: 60_000 });
    const host = lab.host(where);
    await host.sh(`rm -rf ${THERE} && mkdir ${THERE} && tar -C ${THERE} -xz`, {
      input: readFileSync(archive),
    });
    const test = await host.sh(`cd ${THERE} && CI=true NO_COLOR=1 node netbuf.kernel.cjs 2>&1`, {
      timeoutMs: LIMIT_MS,
      check: false,
    });
    process.stdout.write(test.stdout);
    process.exitCode = test.code === 0 ? 0 : 1;
  } finally {
    rmSync(`${directory}.tar.gz`, { force: true });
    rmSync(directory, { recursive: true, force: true });
  }
} else {
  process.stderr.write('usage: netbuf-host.ts alpha|beta, or --to DIRECTORY\n');
  process.exitCode = 2;
}
