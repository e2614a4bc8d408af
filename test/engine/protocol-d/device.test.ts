/**
 * The two ioctls of the module with protocol D: on a fake of the thread for what they mean, and on files that are
 * no DRBD device for the thread and the system call themselves. The module itself is not here.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { build } from 'esbuild';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';

import { BarrierError, openDevice } from '../../../src/engine/protocol-d/device.js';
import type { ProtocolDDevice } from '../../../src/engine/protocol-d/device.js';
import { FakeWorker } from './fake-device.js';
import type { FakeAnswer } from './fake-device.js';

const test = suite('the device of protocol D');

/** No call of a fake takes anywhere near this. */
const LONG_MS = 60_000;

async function fakeDevice(
  ...answers: FakeAnswer[]
): Promise<{ device: ProtocolDDevice; worker: FakeWorker }> {
  const worker = new FakeWorker(answers);
  return { device: await openDevice('/dev/drbd1', () => worker), worker };
}

async function fails(work: Promise<unknown>, says: RegExp): Promise<void> {
  try {
    await work;
  } catch (error) {
    assert.instance(error, BarrierError);
    assert.match((error as BarrierError).message, says);
    return;
  }
  assert.unreachable('it did not fail');
}

test('a barrier that is queued and acknowledged, again and again', async () => {
  const ok = { result: 0 };
  const { device, worker } = await fakeDevice(ok, ok, ok, ok);
  for (let count = 0; count < 2; count++) {
    assert.is(await device.sendBarrier(LONG_MS), 'queued');
    await device.waitForAcknowledgement(LONG_MS);
  }
  assert.equal(worker.asked, [20, 30, 20, 30]);
  device.close();
  assert.ok(worker.terminated);
});

test('nothing to send needs no acknowledgement', async () => {
  const { device, worker } = await fakeDevice({ result: 1 }, { result: 1 });
  assert.is(await device.sendBarrier(LONG_MS), 'nothing-to-send');
  assert.is(await device.sendBarrier(LONG_MS), 'nothing-to-send');
  await fails(device.waitForAcknowledgement(LONG_MS), /no barrier is out/);
  assert.equal(worker.asked, [20, 20]);
});

const sending: [string, FakeAnswer, RegExp][] = [
  ['an error', { result: -1, errno: 71 }, /^\/dev\/drbd1: the barrier was not sent: EPROTO/],
  ['a stock module', { result: -1, errno: 25 }, /this DRBD module has no protocol D/],
  ['another protocol', { result: -1, errno: 22 }, /its protocol is not D/],
  ['a number that the module never gives', { result: 2 }, /gave 2, which it never does/],
  ['a negative number that is no error of the call', { result: -71 }, /gave -71/],
  ['a thread that dies', 'die', /its thread ended \(134\)/],
];

for (const [what, answer, says] of sending) {
  test(`sending fails with ${what}, and the device is of no more use`, async () => {
    const { device, worker } = await fakeDevice(answer, { result: 0 });
    await fails(device.sendBarrier(LONG_MS), says);
    await fails(device.sendBarrier(LONG_MS), says);
    assert.equal(worker.asked, [20]);
  });
}

const waiting: [string, FakeAnswer, RegExp][] = [
  ['an error', { result: -1, errno: 71 }, /the barrier was not acknowledged: EPROTO/],
  ['a signal', { result: -1, errno: 4 }, /EINTR/],
  // libxl takes it for success.
  ['a positive number', { result: 1 }, /gave 1, which it never does/],
];

for (const [what, answer, says] of waiting) {
  test(`waiting fails with ${what}`, async () => {
    const { device } = await fakeDevice({ result: 0 }, answer);
    await device.sendBarrier(LONG_MS);
    await fails(device.waitForAcknowledgement(LONG_MS), says);
  });
}

test('a wait that never returns fails at its deadline, and its late answer counts no more', async () => {
  const { device, worker } = await fakeDevice({ result: 0 }, 'never');
  await device.sendBarrier(LONG_MS);
  await fails(device.waitForAcknowledgement(20), /the acknowledgement took longer than 20 ms/);
  worker.answerLate({ result: 0 });
  await fails(device.waitForAcknowledgement(LONG_MS), /took longer than 20 ms/);
  await fails(device.sendBarrier(LONG_MS), /took longer than 20 ms/);
  assert.equal(worker.asked, [20, 30]);
});

test('an answer to another question counts for nothing', async () => {
  const { device, worker } = await fakeDevice({ result: 0 }, 'never');
  await device.sendBarrier(LONG_MS);
  const wait = device.waitForAcknowledgement(LONG_MS);
  worker.emit('message', { kind: 'result', id: 1, result: 0, errno: 0 });
  worker.answerLate({ result: -1, errno: 71 });
  await fails(wait, /EPROTO/);
});

test('a second barrier before the first is acknowledged, and two calls at once, are mistakes', async () => {
  const twice = await fakeDevice({ result: 0 });
  await twice.device.sendBarrier(LONG_MS);
  await fails(twice.device.sendBarrier(LONG_MS), /a barrier is out already/);
  const atOnce = await fakeDevice('never');
  const first = atOnce.device.sendBarrier(LONG_MS);
  const second = atOnce.device.sendBarrier(LONG_MS);
  await fails(second, /two things at once/);
  await fails(first, /two things at once/);
});

test('closing ends what is under way', async () => {
  const { device } = await fakeDevice({ result: 0 }, 'never');
  await device.sendBarrier(LONG_MS);
  const wait = device.waitForAcknowledgement(LONG_MS);
  device.close();
  device.close();
  await fails(wait, /was closed/);
});

/** Bundles as scripts/build.mjs does, since only there the thread's code is where the thread starts. */
async function bundle(directory: string): Promise<string> {
  const outfile = join(directory, 'bundled.cjs');
  await build({
    entryPoints: ['test/engine/protocol-d/bundled.ts'],
    outfile,
    bundle: true,
    platform: 'node',
    target: 'node18.19',
    format: 'cjs',
    external: ['*.node', '@koromix/*'],
    define: { 'import.meta.url': 'importMetaUrl' },
    banner: { js: "const importMetaUrl = require('node:url').pathToFileURL(__filename).href;" },
    logLevel: 'error',
  });
  return outfile;
}

test('the real thread and the real call, in a bundle: files that are no DRBD device', async () => {
  // Below the packages, so that koffi's binary is found.
  mkdirSync('node_modules/.cache', { recursive: true });
  const root = mkdtempSync('node_modules/.cache/remus-drbd-');
  try {
    const program = await bundle(root);
    const file = join(root, 'file');
    writeFileSync(file, '');
    const says: [string, RegExp][] = [
      ['/nonexistent/drbd1', /^\/nonexistent\/drbd1: can't be opened: ENOENT/],
      [file, /file: the barrier was not sent: ENOTTY: this DRBD module has no protocol D/],
      ['/dev/null', /^\/dev\/null: the barrier was not sent: ENOTTY/],
    ];
    for (const [path, expected] of says) {
      const { stdout, stderr, status } = spawnSync(process.execPath, [program, path], {
        encoding: 'utf8',
        timeout: 120_000,
      });
      assert.is(status, 0, stderr);
      assert.match(stdout, expected);
    }
  } finally {
    rmSync(root, { recursive: true });
  }
});

test.run();
