/* eslint-disable no-console -- a skipped file says so */
/**
 * A pair whose arbiter is a fence agent, with sender and receiver as processes on two fake hosts (`hosts.ts`) and
 * Debian's fence_dummy, which keeps the power of each host in a file: the whole way by itself, from the loss of a host
 * to the guest that runs; and that a host whose processes answer is never switched off.
 */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { FakePair, missingForHosts } from './hosts.js';
import type { PairChanges } from './hosts.js';

const AGENT = '/usr/sbin/fence_dummy';
const test = suite('fencing, with processes');

let folder: string;
test.before.each(() => {
  folder = mkdtempSync(join(tmpdir(), 'remus-power-'));
  for (const host of ['alpha', 'beta']) writeFileSync(join(folder, host), 'on');
});
test.after.each(() => rmSync(folder, { recursive: true }));

const power = (host: string): string => readFileSync(join(folder, host), 'utf8');

async function onPair(body: (pair: FakePair) => Promise<void>, changes: PairChanges = {}): Promise<void> {
  const agent = (host: string): string => `[${AGENT}, --status-file=${join(folder, host)}]`;
  const arbiter = `    arbiter: { fence: { alpha: ${agent('alpha')}, beta: ${agent('beta')} } }\n`;
  const pair = await FakePair.start({ arbiter, ...changes });
  try {
    await body(pair);
  } catch (error) {
    console.log(pair.logs());
    throw error;
  } finally {
    await pair.close();
  }
}

test('the primary host dies: the backup switches it off, and the guest runs on without anybody', () =>
  onPair(async (pair) => {
    await pair.protect(2);
    pair.xl.die();
    pair.sender?.kill('SIGKILL');
    pair.beta.setDrbd('Secondary', 'Connecting');
    assert.is(await pair.endAndCleanUp('receiver', null), 0);
    assert.is(power('alpha'), 'off');
    assert.is(power('beta'), 'on');
    assert.is(pair.beta.guest('web'), '-b----');
    assert.is(pair.beta.term()?.outcome, 'won');
  }));

test('the sender dies, and both hosts live: they agree, and neither is switched off', () =>
  onPair(async (pair) => {
    await pair.protect(2);
    assert.is(await pair.endAndCleanUp('sender', 'SIGKILL'), 0);
    assert.is(await pair.endAndCleanUp('receiver', null), 0);
    assert.is(pair.alpha.guest('web'), '-b----');
    assert.not(pair.alpha.isPlugged);
    assert.equal([power('alpha'), power('beta')], ['on', 'on']);
  }));

test('the backup host dies: the primary switches it off and goes on', () =>
  onPair(async (pair) => {
    await pair.protect(2);
    pair.receiver?.kill('SIGKILL');
    pair.alpha.setDrbd('Primary', 'Connecting');
    assert.is(await pair.endAndCleanUp('sender', null), 0);
    assert.is(power('beta'), 'off');
    assert.is(pair.alpha.guest('web'), '-b----');
    assert.not(pair.alpha.isPlugged);
    assert.is(pair.alpha.term()?.outcome, 'won');
  }));

test('the guest crashes and its copy is to go on: the primary leaves the claim to the backup, and is switched off', () =>
  onPair(
    async (pair) => {
      await pair.protect(2);
      pair.alpha.setGuest('---sc-');
      // What the agent does to the processes of a host, when it is no dummy.
      pair.receiver?.once('exit', () => pair.sender?.kill('SIGKILL'));
      pair.xl.die();
      assert.is(await pair.endAndCleanUp('receiver', null), 0);
      assert.equal([power('alpha'), power('beta')], ['off', 'on']);
      assert.is(pair.beta.guest('web'), '-b----');
      assert.is(pair.beta.term()?.outcome, 'won');
      assert.is(pair.alpha.term()?.outcome, undefined, 'the primary has decided nothing');
    },
    { onCrash: 'failover' },
  ));

test('whether a host would get a decision: its answer for check, and none where setup has not been', () =>
  onPair((pair) => {
    const reach = (domain: string): string => pair.beta.run(...pair.program('arbiter-reach', domain));
    assert.match(reach('web'), /^\{"reached":true,.*fence_dummy/);
    // Nothing of it is there any more: the agent's own program included.
    pair.beta.run('mount', '--bind', '/dev/null', AGENT);
    assert.match(reach('web'), /^\{"reached":false,"reason":"[^"]*fence_dummy[^"]*could not be started/);
    let status: unknown;
    try {
      reach('other');
    } catch (error) {
      ({ status } = error as { status: unknown });
    }
    assert.is(status, 2);
    assert.equal([power('alpha'), power('beta')], ['on', 'on']);
    return Promise.resolve();
  }));

const missing =
  missingForHosts() ?? (existsSync(AGENT) ? undefined : 'needs fence agents (apt install fence-agents)');
if (missing === undefined) test.run();
else if (process.env['CI'] === 'true') throw new Error(missing);
else {
  console.log(`skipped: ${missing}`);
  suite('fencing, skipped').run();
}
