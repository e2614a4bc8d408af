/** What is understood of a good pair.yaml; what is wrong with a bad one is in config-bad.test.ts. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';

import { parseConfig } from '../../src/core/config.js';
import type { Arbiter, Config, Domain } from '../../src/core/model.js';

const MINIMAL = `
pairs:
  rack1:
    hosts:
      alpha: { ssh: root@192.0.2.1, replication: 10.0.0.1 }
      beta: { ssh: root@192.0.2.2, replication: 10.0.0.2 }
    domains:
      web:
        config: web.cfg
        primary: beta
        port: 7790
        disks:
          - { vdev: xvda, volumeGroup: vg0, size: 20GiB }
`;

const test = suite('configuration');

function parse(text: string): Config {
  return parseConfig(text, 'conf/pair.yaml');
}

function web(more = ''): Domain {
  const [pair] = parse(MINIMAL + more.replace(/^(?=.)/gm, '        ')).pairs;
  const [domain] = pair?.domains ?? [];
  if (domain === undefined) throw new Error('no domain');
  return domain;
}

function arbiter(text: string): Arbiter | undefined {
  return parse(MINIMAL.replace('    domains:', `    arbiter: ${text}\n    domains:`)).pairs[0]?.arbiter;
}

test('everything that is left out has its default', () => {
  assert.equal(parse(MINIMAL), {
    file: 'conf/pair.yaml',
    ssh: { identityFiles: [], knownHostsFiles: ['~/.ssh/known_hosts', '/etc/ssh/ssh_known_hosts'] },
    pairs: [
      {
        name: 'rack1',
        hosts: [
          { name: 'alpha', ssh: { user: 'root', host: '192.0.2.1', port: 22 }, replication: '10.0.0.1' },
          { name: 'beta', ssh: { user: 'root', host: '192.0.2.2', port: 22 }, replication: '10.0.0.2' },
        ],
        arbiter: { kind: 'operator' },
        link: 'tls',
        domains: [
          {
            name: 'web',
            pair: 'rack1',
            configFile: 'conf/web.cfg',
            primary: 'beta',
            backup: 'alpha',
            engine: 'journal',
            port: 7790,
            linkPort: 8790,
            minor: (7790 - 1024) * 16,
            disks: [
              {
                volume: 0,
                vdev: 'xvda',
                volumeGroup: 'vg0',
                source: { kind: 'new', sizeBytes: 20 * 2 ** 30 },
              },
            ],
            journal: { volumeGroup: 'vg0', sizeBytes: 2 ** 30 },
            checkpoint: { intervalMs: 100, failAfterMs: 1000 },
            autoRecover: false,
            onCrash: 'stop',
            drill: { timeoutMs: 300_000 },
          },
        ],
      },
    ],
  });
});

test('everything can be said', () => {
  const domain = web(`linkPort: 9000
minor: 0
journal: { volumeGroup: vg1, size: 64MiB }
checkpoint: { interval: 10ms, failAfter: 1m }
pin: { guest: [2, 1], dom0: [0] }
autoRecover: true
onCrash: failover
drill: { check: [sh, -c, 'test -s "$REMUS_DRILL_CONSOLE"'], timeout: 90s, snapshotSize: 2GiB }
`);
  assert.is(domain.linkPort, 9000);
  assert.is(domain.minor, 0);
  assert.equal(domain.journal, { volumeGroup: 'vg1', sizeBytes: 64 * 2 ** 20 });
  assert.equal(domain.checkpoint, { intervalMs: 10, failAfterMs: 60_000 });
  assert.equal(domain.pin, { dom0: [0], guest: [2, 1] });
  assert.is(domain.autoRecover, true);
  assert.is(domain.onCrash, 'failover');
  const check = ['sh', '-c', 'test -s "$REMUS_DRILL_CONSOLE"'];
  assert.equal(domain.drill, { check, timeoutMs: 90_000, snapshotBytes: 2 * 2 ** 30 });
});

test('protocol D has no journal', () => {
  const domain = web('engine: protocol-d\nminor: 254\n');
  assert.is(domain.journal, undefined);
  assert.is(domain.minor, 254);
});

test('relative paths are relative to the directory that is given', () => {
  const [pair] = parseConfig(MINIMAL, 'pair.yaml', '/srv/remus').pairs;
  assert.is(pair?.domains[0]?.configFile, '/srv/remus/web.cfg');
});

const targets: [string, { user: string; host: string; port: number }][] = [
  ['root@alpha.example.net', { user: 'root', host: 'alpha.example.net', port: 22 }],
  ['root@ALPHA:2222', { user: 'root', host: 'alpha', port: 2222 }],
  ['admin@192.0.2.7:1', { user: 'admin', host: '192.0.2.7', port: 1 }],
  ['"root@[2001:DB8:0:0::7]"', { user: 'root', host: '2001:db8::7', port: 22 }],
  ['"root@[2001:db8::7]:2222"', { user: 'root', host: '2001:db8::7', port: 2222 }],
];

for (const [text, is] of targets) {
  test(`the ssh target ${text}`, () => {
    assert.equal(parse(MINIMAL.replace('root@192.0.2.1', text)).pairs[0]?.hosts[0].ssh, is);
  });
}

test('IPv6 addresses are kept in one form', () => {
  const text = MINIMAL.replace('10.0.0.1', '"FD00:0:0::1"').replace('10.0.0.2', '"fd00::2"');
  assert.equal(
    parse(text).pairs[0]?.hosts.map(({ replication }) => replication),
    ['fd00::1', 'fd00::2'],
  );
});

const arbiters: [string, Arbiter][] = [
  ['operator', { kind: 'operator' }],
  ['unsafe-may-split', { kind: 'unsafe-may-split' }],
  ['{ etcd: ["https://192.0.2.9:2379/"] }', { kind: 'etcd', endpoints: ['https://192.0.2.9:2379'] }],
  [
    '{ etcd: { endpoints: ["https://[2001:db8::9]:2379", "https://e.example:2379"], user: u, passwordFile: /p, caFile: /c } }',
    {
      kind: 'etcd',
      endpoints: ['https://[2001:db8::9]:2379', 'https://e.example:2379'],
      user: 'u',
      passwordFile: '/p',
      caFile: '/c',
    },
  ],
  [
    '{ etcd: ["https://192.0.2.1:2379", "https://192.0.2.2:2379"] }',
    { kind: 'etcd', endpoints: ['https://192.0.2.1:2379', 'https://192.0.2.2:2379'] },
  ],
  [
    '{ ssh: remus@192.0.2.9 }',
    { kind: 'ssh', user: 'remus', host: '192.0.2.9', port: 22, directory: '/var/lib/remus-drbd-arbiter' },
  ],
  [
    '{ ssh: "remus@192.0.2.1:2222", directory: /srv/claims }',
    { kind: 'ssh', user: 'remus', host: '192.0.2.1', port: 2222, directory: '/srv/claims' },
  ],
  [
    '{ fence: { beta: [/usr/sbin/fence_pdu, --plug=2, lanplus=1], alpha: [fence_pdu] } }',
    {
      kind: 'fence',
      agents: { alpha: ['fence_pdu'], beta: ['/usr/sbin/fence_pdu', '--plug=2', 'lanplus=1'] },
    },
  ],
  [
    '{ fence: { alpha: { agent: [fence_pdu], delay: 15s }, beta: { agent: [fence_pdu] } } }',
    { kind: 'fence', agents: { alpha: ['fence_pdu'], beta: ['fence_pdu'] }, delaysMs: { alpha: 15_000 } },
  ],
  [
    '{ etcd: { endpoints: ["https://192.0.2.9:2379"], certFile: /etc/c, keyFile: /etc/k } }',
    { kind: 'etcd', endpoints: ['https://192.0.2.9:2379'], certFile: '/etc/c', keyFile: '/etc/k' },
  ],
];

for (const [text, is] of arbiters) {
  test(`the arbiter ${text}`, () => assert.equal(arbiter(text), is));
}

test('an alias stands for what it names', () => {
  const text = MINIMAL.replace(
    'size: 20GiB }',
    'size: &size 20GiB }\n          - { vdev: xvdb, volumeGroup: vg0, size: *size }',
  );
  const sizes = parse(text).pairs[0]?.domains[0]?.disks.map(({ source }) => source);
  assert.equal(sizes, [
    { kind: 'new', sizeBytes: 20 * 2 ** 30 },
    { kind: 'new', sizeBytes: 20 * 2 ** 30 },
  ]);
});

test('two pairs may use the same ports, minors and volumes: their hosts are others', () => {
  const second = MINIMAL.replace('\npairs:\n', '')
    .replace('rack1', 'rack2')
    .replace('alpha', 'gamma')
    .replace(/beta/g, 'delta')
    .replace('web:', 'mail:')
    .replaceAll('192.0.2.', '192.0.3.')
    .replaceAll('10.0.0.', '10.0.1.');
  assert.equal(
    parse(MINIMAL + second).pairs.map(({ domains }) => domains[0]?.port),
    [7790, 7790],
  );
});

test.run();
