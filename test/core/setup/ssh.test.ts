/** Texts of keys and known hosts for SSH between hosts. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { parseKnownHosts } from '../../../src/core/knownhosts.js';
import type { Arbiter, Pair } from '../../../src/core/model.js';
import { knownHostsFile, needsSshKey, withKeyLines } from '../../../src/core/setup/ssh.js';

const test = suite('SSH between hosts');

const key = (letter: string, type = 'ssh-ed25519'): string =>
  Buffer.concat([
    Buffer.from([0, 0, 0, type.length]),
    Buffer.from(type),
    Buffer.from(letter.repeat(36)),
  ]).toString('base64');
const ed = (letter: string): string => `ssh-ed25519 ${key(letter)}`;
const arbiter: Arbiter = {
  kind: 'ssh',
  user: 'arb',
  host: '192.0.2.9',
  port: 2222,
  directory: '/srv/claims',
};
const pair = (more: Partial<Pair>): Pair => ({
  name: 'rack1',
  hosts: [
    { name: 'alpha', ssh: { user: 'root', host: '192.0.2.1', port: 22 }, replication: '10.0.0.1' },
    { name: 'beta', ssh: { user: 'root', host: '192.0.2.2', port: 2201 }, replication: 'fd00::2' },
  ],
  arbiter: { kind: 'operator' },
  link: 'tls',
  domains: [],
  ...more,
});

test('who needs a key', () => {
  assert.is(needsSshKey(pair({})), false);
  assert.is(needsSshKey(pair({ link: 'ssh' })), true);
  assert.is(needsSshKey(pair({ arbiter })), true);
});

test('known hosts: of the machines that the host logs in on, under the names that it looks for', () => {
  const lines = parseKnownHosts(
    [
      `192.0.2.1 ${ed('a')}`,
      `[192.0.2.2]:2201 ${ed('b')}`,
      `[192.0.2.2]:2201 ssh-rsa ${key('r', 'ssh-rsa')}`,
      `[192.0.2.9]:2222 ${ed('c')}`,
      `192.0.2.9 ${ed('d')}`,
      `@revoked * ${ed('e')}`,
      `[192.0.2.9]:2222 ${ed('e')}`,
    ].join('\n'),
    'known_hosts',
  ).lines;
  assert.equal(knownHostsFile(pair({ arbiter, link: 'ssh' }), 'alpha', lines), {
    text: `[192.0.2.9]:2222 ${ed('c')}\nfd00::2 ${ed('b')}\nfd00::2 ssh-rsa ${key('r', 'ssh-rsa')}\n`,
    missing: [],
  });
  assert.is(knownHostsFile(pair({ link: 'ssh' }), 'beta', lines).text, `10.0.0.1 ${ed('a')}\n`);
  assert.equal(knownHostsFile(pair({ arbiter, link: 'ssh' }), 'beta', []), {
    text: '',
    missing: ['the arbiter 192.0.2.9 port 2222', 'alpha (192.0.2.1)'],
  });
});

test('authorized_keys: our lines are exactly those that are wanted, and others are as they were', () => {
  const [one, two] = ['restrict ssh-ed25519 A remus-drbd:alpha', 'restrict ssh-ed25519 B remus-drbd:beta_2'];
  assert.is(withKeyLines(undefined, []), undefined);
  assert.is(withKeyLines(undefined, [one]), `${one}\n`);
  assert.is(withKeyLines('ssh-rsa X me', [one]), `ssh-rsa X me\n${one}\n`);
  assert.is(withKeyLines(`${one}\nssh-rsa X me`, [one]), undefined);
  assert.is(withKeyLines(`${two}\n\n# mine\nssh-rsa X me\n`, [one]), `\n# mine\nssh-rsa X me\n${one}\n`);
  assert.is(withKeyLines(`${one}\n${two}\n`, []), '');
  assert.is(withKeyLines('ssh-rsa X remus-drbd:alpha@laptop\n', []), undefined);
});

test.run();
