/** The built program as people run it, against embedded hosts: what it prints and its exit codes. */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { Worker } from 'node:worker_threads';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { loadConfiguration } from '../src/edge/load.js';
import { EmbeddedWorld } from '../src/embedded/world.js';

const test = suite('command line');
const PROGRAM = 'dist/remus-drbd.cjs';
/** Ends a hang. */
const LIMIT_MS = 5 * 60_000;
const ONE_DISK = ['{ vdev: xvda, volumeGroup: vg0, size: 1GiB }'];

interface Ended {
  code: number;
  stdout: string;
  stderr: string;
}

function run(program: string, ...args: string[]): Promise<Ended> {
  return new Promise((resolve) => {
    execFile(process.execPath, [program, ...args], { timeout: LIMIT_MS }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code ?? -1), stdout, stderr });
    });
  });
}

async function inWorld(
  use: (world: EmbeddedWorld, cli: (...args: string[]) => Promise<Ended>) => Promise<void>,
): Promise<void> {
  const world = await EmbeddedWorld.start({ disks: ONE_DISK });
  try {
    await use(world, (...args) => run(PROGRAM, '-c', world.configFile, ...args));
    assert.equal(world.unknown, []);
  } finally {
    await world.close();
  }
}

test('the program is built, and says its version and its commands', async () => {
  const built = await run('scripts/build.mjs');
  assert.is(built.code, 0, built.stderr);
  assert.match((await run(PROGRAM, '--version')).stdout, /^\d+\.\d+\.\d+\n$/);
  const { stdout } = await run(PROGRAM, '--help');
  for (const command of ['render', 'check', 'setup', 'teardown', 'status', 'journal', 'demo']) {
    assert.match(stdout, new RegExp(`^  ${command} `, 'm'));
  }
});

test('a thread of the program is the one that asks a DRBD device, and nothing else', async () => {
  const workerData = { remusDrbdWorker: 'protocol-d-device', path: '/dev/null' };
  const worker = new Worker(resolve(PROGRAM), { workerData });
  try {
    assert.equal((await once(worker, 'message'))[0], { kind: 'open' });
    worker.postMessage({ id: 1, request: 20 });
    const notTty = { kind: 'result', id: 1, result: -1, errno: 25 };
    assert.equal((await once(worker, 'message'))[0], notTty);
  } finally {
    await worker.terminate();
  }
});

test('check, setup twice, status and teardown, with their exit codes', async () => {
  await inWorld(async (_world, cli) => {
    const check = await cli('check', '--json');
    assert.is(check.code, 0, check.stdout);
    assert.ok((JSON.parse(check.stdout) as { results: unknown[] }).results.length > 30);

    const setup = await cli('setup');
    assert.is(setup.code, 0, setup.stderr);
    assert.match(setup.stdout, /^pair1: \d+ changes, everything is in place\n$/);
    assert.match(setup.stderr, /pair1: embedded-1b: make LV vg0\/remus-guest1-0/);
    assert.is((await cli('setup')).stdout, 'pair1: 0 changes, everything is in place\n');

    const status = await cli('status', '--json');
    assert.is(status.code, 1, 'nothing is protected');
    const [domain] = (JSON.parse(status.stdout) as { domains: Record<string, unknown>[] }).domains;
    assert.equal(Object.keys(domain ?? {}), [
      ...['pair', 'domain', 'protection', 'reason', 'primary', 'backup'],
      ...['term', 'committedEpoch', 'intervalMs', 'resource', 'figures'],
    ]);
    assert.is(domain?.['protection'], 'unprotected');
    assert.match((await cli('status')).stdout, /guest1 is unprotected: the guest does not run/);

    assert.is((await cli('teardown')).code, 2, 'no domain is named');
    assert.is((await cli('teardown', 'nobody')).code, 2);
    const teardown = await cli('teardown', '--all', '--delete-data', 'guest1');
    assert.is(teardown.code, 0, teardown.stderr);
  });
});

test('a dry run prints commands and differences by host, and changes nothing', async () => {
  await inWorld(async (world, cli) => {
    const { code, stdout } = await cli('setup', '--dry-run');
    assert.is(code, 0);
    for (const words of [
      '== pair1, embedded-1a',
      'lvcreate --yes',
      '+++ /etc/drbd.d/remus-guest1.res',
      'would be made; nothing was touched',
    ]) {
      assert.ok(stdout.includes(words), words);
    }
    assert.equal(
      world.pairs.flatMap(({ hosts }) => hosts.flatMap(({ machine }) => machine.lvs)),
      [],
    );
  });
});

test('--overwrite of a volume that is not in the configuration is refused, and names those that are', async () => {
  await inWorld(async (_world, cli) => {
    const { code, stderr } = await cli('setup', '--overwrite', 'embedded-1b:vg0/other');
    assert.is(code, 2);
    assert.match(
      stderr,
      /no such volume; nothing was changed\. It has: embedded-1a:vg0\/remus-guest1-0, embedded-1b:vg0\/remus-guest1-0/,
    );
  });
});

test('a wrong configuration is exit code 2 with file, line and key; a host that is off is 4', async () => {
  await inWorld(async (world, cli) => {
    await world.pairs[0]?.hosts[1].powerCut();
    const off = await cli('status');
    assert.is(off.code, 4);
    assert.match(off.stdout, /embedded-1b can't be asked/);
    const folder = await mkdtemp(join(tmpdir(), 'remus-cli-'));
    try {
      const file = join(folder, 'pair.yaml');
      await writeFile(file, 'pairs:\n  rack1:\n    hosst: {}\n');
      const wrong = await run(PROGRAM, '-c', file, 'setup');
      assert.is(wrong.code, 2);
      assert.match(wrong.stderr, /pair\.yaml:3:5: pairs\.rack1\.hosst: .*did you mean "hosts"\?/);
      assert.is((await run(PROGRAM, '-c', join(folder, 'none.yaml'), 'check')).code, 2);
      assert.is((await run(PROGRAM, 'nonsense')).code, 2);
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});

test("a guest's configuration that is missing: a point of check, nothing to status, and no setup", async () => {
  await inWorld(async (world, cli) => {
    const loaded = await loadConfiguration(world.configFile);
    for (const { domain } of loaded.layouts) await rm(domain.configFile);
    const check = await cli('check', '--json');
    assert.is(check.code, 1, check.stderr);
    const { results } = JSON.parse(check.stdout) as { results: Record<string, unknown>[] };
    const failed = results.filter(({ verdict }) => verdict === 'fail');
    assert.equal(
      failed.map(({ id }) => id),
      ['guest-configuration'],
    );
    assert.match(String(failed[0]?.['found']), /there is no such file/);
    const status = await cli('status');
    assert.is(status.code, 1, status.stderr);
    assert.match(status.stdout, /guest1 is unprotected/);
    assert.is((await cli('setup')).code, 2);
  });
});

test('setup --watch applies a disk that is added, refuses one that is taken away, and ends when it is told', async () => {
  await inWorld(async (world) => {
    const child = spawn(process.execPath, [PROGRAM, '-c', world.configFile, 'setup', '--watch'], {
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    const ended = new Promise<number | null>((resolve) => child.on('close', resolve));
    const timer = setTimeout(() => child.kill('SIGKILL'), LIMIT_MS);
    try {
      const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
      const until = async (pattern: RegExp): Promise<string> => {
        for (let line = await lines.next(); line.done !== true; line = await lines.next()) {
          if (pattern.test(line.value)) return line.value;
        }
        throw new Error(`it ended before ${String(pattern)}`);
      };
      await until(/everything is in place/);
      await world.configure([...ONE_DISK, '{ vdev: xvdb, volumeGroup: vg0, size: 512MiB }']);
      await until(/^pair1: [1-9]\d* changes, everything is in place/);
      assert.ok(world.pairs[0]?.hosts[0].machine.lvs.some(({ name }) => name === 'remus-guest1-1'));
      await world.configure(ONE_DISK);
      await until(/volume 1 is not in the configuration any more.*Tear guest1 down/);
      child.kill('SIGTERM');
      assert.is(await ended, 0);
    } finally {
      clearTimeout(timer);
      child.kill('SIGKILL');
    }
  });
});

test.run();
