/* eslint-disable no-console -- a skipped file says so */
/**
 * The fence arbiter with Debian's own fence agents, as they are installed: fence_dummy, which keeps a machine's power
 * in a file, and fence_ipmilan, the one for most servers, with a fake ipmitool in the place of the device.
 */
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { FenceArbiter } from '../../src/arbiter/fence.js';
import type { ClaimKey } from '../../src/core/claim/types.js';
import { TermStore } from '../../src/edge/term-store.js';
import { freshKey, PATIENT, undecided, won } from './contract.js';

const DUMMY = '/usr/sbin/fence_dummy';
const IPMI = '/usr/sbin/fence_ipmilan';
const test = suite("fence, with Debian's agents");

/** Says what an ipmitool says of the machine's power, which is in the file `power` beside it. */
const FAKE_IPMITOOL = `#!/bin/sh
# fake ipmitool
cd "$(dirname "$0")" || exit 1
for word do :; done
[ -e broken ] && { echo "Error: Unable to establish IPMI v2 / RMCP+ session" >&2; exit 1; }
case $word in
  status) echo "Chassis Power is $(cat power)" ;;
  off) [ -e stuck ] || echo off >power; echo "Chassis Power Control: Down/Off" ;;
  *) exit 1 ;;
esac
`;

let root: string;
test.before.each(() => {
  root = mkdtempSync(join(tmpdir(), 'remus-fence-'));
  // fence_dummy takes the whole file, ipmitool's fake a line.
  writeFileSync(join(root, 'power'), 'on');
  writeFileSync(join(root, 'fake-ipmitool'), FAKE_IPMITOOL);
  chmodSync(join(root, 'fake-ipmitool'), 0o755);
});
test.after.each(() => rmSync(root, { recursive: true }));

const power = (): string => readFileSync(join(root, 'power'), 'utf8').trim();

/** Works as beta, which is in the term of `key` and switches alpha off. */
async function withArbiter(
  key: ClaimKey,
  agent: readonly string[],
  body: (arbiter: FenceArbiter) => Promise<void>,
): Promise<void> {
  const directory = join(root, 'state');
  await new TermStore(key.domain, directory).writeTerm({
    ...{ term: key.term, session: '0123456789abcdef', role: 'backup', phase: 'protected', boot: '1' },
  });
  const arbiter = new FenceArbiter({
    host: 'beta',
    peer: 'alpha',
    agent,
    directory,
    bootId: '1',
    delayMs: 0,
  });
  try {
    await body(arbiter);
  } finally {
    await arbiter.close();
  }
}

const dummy = (...more: string[]): string[] => [DUMMY, `--status-file=${join(root, 'power')}`, ...more];
const ipmi = (...more: string[]): string[] => [
  ...[IPMI, '--ip=192.0.2.7', '--username=remus', '--password=secret', '--lanplus'],
  ...[`ipmitool_path=${join(root, 'fake-ipmitool')}`, 'power_wait=0', ...more],
];

for (const [name, agent] of [
  ['fence_dummy', dummy],
  ['fence_ipmilan', ipmi],
] as const) {
  test(`${name}: is reached, switches the peer off, and has won`, async () => {
    const key = freshKey();
    await withArbiter(key, agent(), async (arbiter) => {
      assert.is((await arbiter.reach(PATIENT)).reached, true);
      assert.is(power(), 'on', 'reach changes nothing');
      won(await arbiter.claim(key, 'beta', PATIENT));
      assert.is(power(), 'off');
      assert.equal(await arbiter.look(key), { kind: 'won-by', host: 'beta' });
    });
  });

  test(`${name}: an option that it doesn't know is undecided, whatever it did`, async () => {
    const key = freshKey();
    await withArbiter(key, agent('--plgu=alpha'), async (arbiter) => {
      undecided(/has no option plgu/, await arbiter.claim(key, 'beta', PATIENT));
      assert.is((await arbiter.look(key)).kind, 'undecided');
    });
  });
}

test('fence_dummy: an agent that breaks off with an exception is undecided', async () => {
  const key = freshKey();
  await withArbiter(key, dummy('no_port=1'), async (arbiter) => {
    undecided(/status 1: .*KeyError/, await arbiter.claim(key, 'beta', PATIENT));
    assert.is(power(), 'on');
  });
});

test('fence_ipmilan: a device that does not answer is not reached, and decides nothing', async () => {
  const key = freshKey();
  writeFileSync(join(root, 'broken'), '');
  await withArbiter(key, ipmi('login_timeout=1', 'shell_timeout=1'), async (arbiter) => {
    assert.is((await arbiter.reach(PATIENT)).reached, false);
    const answer = await arbiter.claim(key, 'beta', PATIENT);
    undecided(/fence_ipmilan \(off\) for alpha: it ended with exit status/, answer);
    assert.not.match(JSON.stringify(answer), /secret/);
    assert.is(power(), 'on');
  });
});

test('fence_ipmilan: a machine that stays on although it was switched off has not lost', async () => {
  const key = freshKey();
  writeFileSync(join(root, 'stuck'), '');
  await withArbiter(key, ipmi('power_timeout=1'), async (arbiter) => {
    undecided(/fence_ipmilan/, await arbiter.claim(key, 'beta', PATIENT));
    assert.is((await arbiter.look(key)).kind, 'undecided');
  });
});

if (existsSync(DUMMY) && existsSync(IPMI)) {
  test.run();
} else if (process.env['CI'] === 'true') {
  throw new Error('needs fence agents (apt install fence-agents)');
} else {
  console.log('skipped: needs fence agents (apt install fence-agents)');
  suite('fence, skipped').run();
}
