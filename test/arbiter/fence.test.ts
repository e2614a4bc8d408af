/** The fence arbiter with a fake agent: a shell script that keeps the power of two machines in files. */
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { agentOptions } from '../../src/arbiter/fence-agent.js';
import { FenceArbiter, type FenceSettings } from '../../src/arbiter/fence.js';
import type { ClaimKey } from '../../src/core/claim/types.js';
import { OperatorError } from '../../src/core/errors.js';
import { TermStore } from '../../src/edge/term-store.js';
import { decide, freshKey, PATIENT, undecided, won } from './contract.js';

const test = suite('fence');
let root: string;
let agent: string;
let arbiters: FenceArbiter[];

/**
 * Answers like fencing.py. `by` is the machine that asks: one that is off asks no more. One action at a time, as a
 * power switch does them.
 */
const FAKE_AGENT = `#!/bin/sh
# fake fence agent
cd "$(dirname "$0")" || exit 1
while IFS='=' read -r name value; do
  echo "$name=$value" >>"log.$$"
  case $name in plug) plug=$value ;; action) action=$value ;; by) by=$value ;; esac
done
echo "arguments: $#" >>"log.$$"
cat "log.$$" >>log
rm "log.$$"
exec 9>lock
flock 9
if [ "$(cat "$by.power")" = off ]; then echo "a machine that is off does nothing" >&2; exit 7; fi
. ./behave
case $action in
  off) echo off >"$plug.power"; echo 'Success: Powered OFF' ;;
  status)
    if [ "$(cat "$plug.power")" = off ]; then echo 'Status: OFF'; exit 2; fi
    echo 'Status: ON'
    ;;
  monitor) ;;
esac
`;

test.before.each(() => {
  root = mkdtempSync(join(tmpdir(), 'remus-fence-'));
  agent = join(root, 'fake-agent');
  arbiters = [];
  writeFileSync(agent, FAKE_AGENT);
  chmodSync(agent, 0o755);
  behave('');
  for (const host of ['alpha', 'beta']) power(host, 'on');
});
test.after.each(async () => {
  await Promise.all(arbiters.map((arbiter) => arbiter.close()));
  rmSync(root, { recursive: true });
});

/** A piece of shell that the fake agent runs before it acts. */
function behave(shell: string): void {
  writeFileSync(join(root, 'behave'), `${shell}\n`);
}
function power(host: string, state?: 'on' | 'off'): string {
  if (state !== undefined) writeFileSync(join(root, `${host}.power`), state);
  return readFileSync(join(root, `${host}.power`), 'utf8').trim();
}
function log(): string {
  return existsSync(join(root, 'log')) ? readFileSync(join(root, 'log'), 'utf8') : '';
}

/** The arbiter on a host that is in the term of `key`. */
async function open(
  host: 'alpha' | 'beta',
  key: ClaimKey,
  changes: Partial<FenceSettings> = {},
): Promise<FenceArbiter> {
  const peer = host === 'alpha' ? 'beta' : 'alpha';
  const directory = join(root, 'state', host);
  await new TermStore(key.domain, directory).writeTerm({
    term: key.term,
    session: '0123456789abcdef',
    role: host === 'alpha' ? 'primary' : 'backup',
    phase: 'protected',
    boot: '1',
  });
  const words = [agent, `--plug=${peer}`, `by=${host}`, '--password=secret', '--lanplus', '--action=off'];
  const settings = { host, peer, agent: words, directory, bootId: '1', delayMs: 0, ...changes };
  const arbiter = new FenceArbiter(settings);
  arbiters.push(arbiter);
  return arbiter;
}

test('wins when the peer is off, and again without switching it off again', async () => {
  const key = freshKey();
  const beta = await open('beta', key);
  assert.is((await beta.look(key)).kind, 'undecided');
  won(await beta.claim(key, 'beta', PATIENT));
  assert.is(power('alpha'), 'off');
  assert.is(power('beta'), 'on');
  power('alpha', 'on');
  won(await beta.claim(key, 'beta', PATIENT));
  // Also a program that was started anew, after a restart of the host.
  const later = await open('beta', key, { bootId: '2' });
  won(await later.claim(key, 'beta', PATIENT));
  assert.is(power('alpha'), 'on');
  assert.equal(await later.look(key), { kind: 'won-by', host: 'beta' });
});

test('options go to standard input, and none to the command line', async () => {
  const key = freshKey();
  won(await (await open('beta', key)).claim(key, 'beta', PATIENT));
  const each = (action: string): string =>
    `plug=alpha\nby=beta\npassword=secret\nlanplus=1\naction=${action}\narguments: 0\n`;
  assert.is(log(), each('off') + each('status'));
});

test('of two that fence each other the one that is dead has lost, 20 times', async () => {
  for (let round = 0; round < 20; round += 1) {
    const key = freshKey();
    power('alpha', 'on');
    power('beta', 'on');
    const [alpha, beta] = [await open('alpha', key), await open('beta', key)];
    const answers = await Promise.all([alpha.claim(key, 'alpha', PATIENT), beta.claim(key, 'beta', PATIENT)]);
    const winners = ['alpha', 'beta'].filter((_, n) => answers[n]?.kind === 'won');
    assert.is(winners.length, 1, JSON.stringify(answers));
    assert.is(power(winners[0]!), 'on');
    assert.is(['alpha', 'beta'].filter((host) => power(host) === 'off').length, 1);
  }
});

test('the side with a delay is the one that dies', async () => {
  const key = freshKey();
  const alpha = await open('alpha', key, { delayMs: 86_400_000 });
  const beta = await open('beta', key);
  const claim = alpha.claim(key, 'alpha', { timeoutMs: 50 });
  won(await beta.claim(key, 'beta', PATIENT));
  undecided(/is being switched off/, await claim);
  assert.is(power('alpha'), 'off');
  assert.is(power('beta'), 'on');
});

test('a host that was started anew during the term, or isn’t in it, switches nobody off', async () => {
  const key = freshKey();
  const restarted = await open('alpha', key, { bootId: '2' });
  undecided(/was started anew during term/, await restarted.claim(key, 'alpha', PATIENT));
  const alpha = await open('alpha', key);
  undecided(/is not in term/, await alpha.claim(freshKey(), 'alpha', PATIENT));
  writeFileSync(join(root, 'state/alpha/term.json'), 'x');
  undecided(/can't be used/, await alpha.claim(key, 'alpha', PATIENT));
  assert.is(power('beta'), 'on');
  assert.is(log(), '');
});

const BAD: [name: string, shell: string, like: RegExp][] = [
  ['off fails', '[ $action = off ] && { echo "no way" >&2; exit 1; }', /\(off\).*status 1: no way/],
  ['status is still ON', '[ $action = status ] && { echo "Status: ON"; exit 0; }', /is on although/],
  ['status gives only its exit status', '[ $action = status ] && exit 2', /\(status\).*exit status 2/],
  ['status says OFF and ends with 0', '[ $action = status ] && { echo "Status: OFF"; exit 0; }', /status 0/],
  [
    'an option is ignored',
    `echo "WARNING:root:Parse error: Ignoring unknown option 'plgu=1'" >&2`,
    /no option plgu/,
  ],
  ['it kills itself', 'kill -9 $$', /SIGKILL ended it/],
];
for (const [name, shell, like] of BAD) {
  test(`${name}: undecided, and decided when the agent works again`, async () => {
    const key = freshKey();
    const beta = await open('beta', key);
    behave(shell);
    const answer = await beta.claim(key, 'beta', PATIENT);
    undecided(like, answer);
    assert.not.match(JSON.stringify(answer), /secret/);
    assert.is((await beta.look(key)).kind, 'undecided');
    behave('');
    won(await decide(() => beta.claim(key, 'beta', PATIENT)));
  });
}

test('an agent that isn’t there, or hangs: undecided in time; the work goes on and is not begun twice', async () => {
  const key = freshKey();
  const none = await open('beta', key, { agent: ['/nonexistent/agent', '--plug=alpha'] });
  undecided(/could not be started: .*ENOENT/, await none.claim(key, 'beta', PATIENT));

  const beta = await open('beta', key);
  behave('while [ ! -e go ]; do sleep 0.01; done');
  undecided(/is being switched off/, await beta.claim(key, 'beta', { timeoutMs: 50 }));
  undecided(/is being switched off/, await beta.claim(key, 'beta', { timeoutMs: 50 }));
  writeFileSync(join(root, 'go'), '');
  won(await beta.claim(key, 'beta', PATIENT));
  assert.is(log().split('action=off').length - 1, 1);

  const limited = await open('beta', freshKey(), { agentLimitMs: 300 });
  rmSync(join(root, 'go'));
  const reach = await limited.reach({ timeoutMs: 300 });
  assert.match(reach.reached ? '' : reach.reason, /killed after 300 ms/);
});

test('reach asks the agent and changes nothing', async () => {
  const beta = await open('beta', freshKey());
  assert.is((await beta.reach(PATIENT)).reached, true);
  behave('exit 1');
  assert.is((await beta.reach(PATIENT)).reached, false);
  assert.is(power('alpha'), 'on');
});

test('a command line that can’t go to standard input is refused without showing it', () => {
  for (const words of [['-p', 'secret'], ['secret'], ['--password', 'secret']]) {
    assert.throws(
      () => agentOptions('fence_ipmilan', words),
      (error: Error) => error instanceof OperatorError && !error.message.includes('secret'),
    );
  }
  assert.throws(() => agentOptions('fence_ipmilan', ['--action=reboot']), /off is required/);
  assert.equal(agentOptions('fence_x', ['--ssl-insecure', '--ip=[::1]', 'plug=a=b']), [
    'ssl_insecure=1',
    'ip=[::1]',
    'plug=a=b',
  ]);
});

test.run();
