import { readFileSync } from 'node:fs';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { bufferStatus, earlyBytes, isSettled, markPlace } from '../../../src/core/netbuf/account.js';
import * as line from '../../../src/core/netbuf/commands.js';
import {
  ifbAlias,
  ifbName,
  isIfbName,
  isInterfaceName,
  parseAlias,
  redirectCookie,
} from '../../../src/core/netbuf/names.js';
import { parseFilters, parseLinks, parseQueues } from '../../../src/core/netbuf/parse.js';
import type { LinkFacts, QueueFacts } from '../../../src/core/netbuf/parse.js';
import { emptyHooks, planInstall, type HostNetwork } from '../../../src/core/netbuf/plan.js';
import { chooseVifs, parseVifBackends, type VifBackend } from '../../../src/core/netbuf/vifs.js';
import { ParseError } from '../../../src/core/parse/text.js';

const test = suite('network buffering, pure parts');
const HOLD = { vif: 'vif3.0', ifb: 'remus3.0' };

test('names', () => {
  assert.is(ifbName(3, 0, false), 'remus3.0');
  assert.is(ifbName(32751, 255, true), 'remus32751.255e');
  assert.is(ifbName(32751, 65535, false), undefined);
  assert.ok(isIfbName('remus3.0e') && !isIfbName('remus3') && !isIfbName('remus3.0x'));
  for (const name of ['vif3.0', 'eth0', 'vif3.0-emu', 'br0.12@x']) assert.ok(isInterfaceName(name), name);
  for (const name of ['', '.', '..', '-x', 'a b', 'a/b', 'a:b', '0123456789012345', 'a;b']) {
    assert.not(isInterfaceName(name), name);
  }
  assert.equal(parseAlias(ifbAlias('web', 'vif3.0')), { domain: 'web', vif: 'vif3.0' });
  for (const alias of [
    undefined,
    '',
    'remus-drbd:web',
    'remus-drbd::vif3.0',
    'x remus-drbd:web:v',
    'remus-drbd:web:a:b',
  ])
    assert.is(parseAlias(alias), undefined);
  assert.match(redirectCookie('web'), /^[0-9a-f]{32}$/);
  assert.is.not(redirectCookie('web'), redirectCookie('web2'));
});

test('lines', () => {
  assert.equal(line.createLines('web', HOLD), [
    'link add name remus3.0 txqueuelen 1000 type ifb',
    'link set dev remus3.0 alias remus-drbd:web:vif3.0',
    'link set dev remus3.0 addrgenmode none',
  ]);
  assert.equal(line.plugLines(HOLD, 1000), [
    'qdisc add dev remus3.0 root handle 1: plug limit 1000',
    'qdisc change dev remus3.0 root plug release_indefinite',
  ]);
  assert.equal(line.redirectLines('web', HOLD, false), [
    'qdisc add dev vif3.0 clsact',
    `filter add dev vif3.0 ingress protocol all pref 1 handle 1 matchall action mirred egress redirect dev remus3.0 cookie ${redirectCookie('web')}`,
  ]);
  assert.is(line.redirectLines('web', HOLD, true).length, 1);
});

// As iproute2 6.1 on Debian's 6.1 kernel printed them.
const QUEUES =
  '[{"kind":"noqueue","handle":"0:","dev":"vif3.0","root":true,"refcnt":2,"options":{},"bytes":0,"packets":0,"drops":0,"overlimits":0,"requeues":0,"backlog":0,"qlen":0},' +
  '{"kind":"clsact","handle":"ffff:","dev":"vif3.0","parent":"ffff:fff1","options":{},"bytes":70,"packets":1,"drops":0,"overlimits":0,"requeues":0,"backlog":0,"qlen":0},' +
  '{"kind":"plug","handle":"1:","dev":"remus3.0","root":true,"refcnt":2,"options":{},"bytes":70,"packets":1,"drops":2,"overlimits":0,"requeues":0,"backlog":70,"qlen":1}]';
const FILTERS =
  '[{"protocol":"all","pref":1,"kind":"matchall","chain":0},{"protocol":"all","pref":1,"kind":"matchall","chain":0,"options":{"handle":1,"not_in_hw":true,"actions":[{"order":1,"kind":"mirred","mirred_action":"redirect","direction":"egress","to_dev":"remus3.0","control_action":{"type":"stolen"},"index":1,"ref":1,"bind":1,"cookie":"COOKIE"}]}}]';
const LINKS =
  '[{},{"ifindex":4,"ifname":"remus3.0","flags":["BROADCAST","NOARP","UP","LOWER_UP"],"linkinfo":{"info_kind":"ifb"},"ifalias":"remus-drbd:web:vif3.0","stats64":{"rx":{"bytes":140,"packets":9,"errors":0,"dropped":2,"over_errors":0,"multicast":0},"tx":{"bytes":0,"packets":4,"errors":0,"dropped":1,"carrier_errors":0,"collisions":0}}},' +
  '{"ifindex":5,"ifname":"vif3.0","flags":["BROADCAST"],"stats64":{"rx":{"packets":9,"dropped":0},"tx":{"packets":0,"dropped":0}}}]';

test('what the tools print', () => {
  const queues = parseQueues(QUEUES);
  assert.equal(queues[2], {
    device: 'remus3.0',
    kind: 'plug',
    root: true,
    sentBytes: 70,
    backlogBytes: 70,
    backlogPackets: 1,
    droppedPackets: 2,
  });
  assert.is(queues[1]?.root, false);
  const cookie = redirectCookie('web');
  const filters = FILTERS.replace('COOKIE', cookie);
  assert.equal(parseFilters(filters, cookie), {
    ours: [{ preference: 1, to: 'remus3.0', cookie }],
    others: 0,
  });
  assert.equal(parseFilters(filters, redirectCookie('other')), { ours: [], others: 1 });
  assert.is(
    parseFilters(filters.replace('"to_dev":"remus3.0"', '"to_dev":"*"'), cookie).ours[0]?.to,
    undefined,
  );
  assert.equal(parseFilters('[]', cookie), { ours: [], others: 0 });
  assert.equal(parseLinks(LINKS), [
    { name: 'remus3.0', up: true, kind: 'ifb', alias: 'remus-drbd:web:vif3.0', insidePackets: 3 },
    { name: 'vif3.0', up: false, insidePackets: 0 },
  ]);
  for (const text of [
    '',
    '{',
    'null',
    '{}',
    '[1]',
    '[{"kind":"plug"}]',
    '[{"ifname":1}]',
    '[{"options":1}]',
  ]) {
    for (const parse of [parseQueues, parseLinks, (t: string) => parseFilters(t, cookie)]) {
      try {
        parse(text);
      } catch (error) {
        assert.instance(error, ParseError, text);
      }
    }
  }
  assert.throws(() => parseQueues('[{"kind":"plug"}]'), /bytes/);
});

function queue(sentBytes: number, backlogBytes: number, droppedPackets = 0): QueueFacts {
  return {
    kind: 'plug',
    root: true,
    sentBytes,
    backlogBytes,
    backlogPackets: backlogBytes / 10,
    droppedPackets,
  };
}

test('the books of a queue', () => {
  const place = markPlace(queue(100, 50), queue(100, 70));
  assert.equal(place, { lowBytes: 150, highBytes: 170 });
  assert.is(isSettled(place, queue(149, 30)), false);
  assert.is(isSettled(place, queue(150, 30)), true);
  assert.is(earlyBytes(place, queue(170, 30)), 0);
  assert.is(earlyBytes(place, queue(171, 30)), 1);
  const queues = new Map([['vif3.0', queue(0, 70, 5)]]);
  const none = new Map<string, number>();
  assert.is(bufferStatus('web', false, new Map([['v', queue(0, 0)]]), none, 100).state, 'open');
  assert.is(
    bufferStatus('web', true, queues, new Map([['vif3.0', 5]]), 100).reason,
    'web: 7 packets (70 bytes) wait for a commit',
  );
  const full = bufferStatus('web', true, queues, new Map([['vif3.0', 3]]), 100);
  assert.is(full.state, 'full');
  assert.match(full.reason, /vif3\.0 2 \(70 bytes held\); the limit is 100 bytes/);
});

const link = (name: string, more: Partial<LinkFacts> = {}): LinkFacts => ({
  name,
  up: true,
  insidePackets: 0,
  ...more,
});
const host = (more: Partial<HostNetwork> = {}): HostNetwork => ({
  links: [link('vif3.0')],
  queues: [],
  ingress: new Map(),
  egress: new Map(),
  ...more,
});
const hook = { device: 'vif3.0', ...queue(0, 0), kind: 'clsact', root: false };

test('what an install needs, and what it refuses', () => {
  assert.equal(planInstall('web', [HOLD], host()), { halfMade: [], holds: [{ hold: HOLD, hasHook: false }] });
  const half = link('remus3.0', { kind: 'ifb', up: false });
  assert.equal(planInstall('web', [HOLD], host({ links: [link('vif3.0'), half] })), {
    halfMade: ['remus3.0'],
    holds: [{ hold: HOLD, hasHook: false }],
  });
  const empty = new Map([['vif3.0', { ours: [], others: 0 }]]);
  assert.equal(planInstall('web', [HOLD], host({ queues: [hook], ingress: empty, egress: empty })), {
    halfMade: [],
    holds: [{ hold: HOLD, hasHook: true }],
  });
  const refusals: [HostNetwork, RegExp][] = [
    [host({ links: [] }), /no interface vif3\.0/],
    [host({ links: [link('vif3.0'), { ...half, up: true }] }), /remus3\.0 already \(ifb\)/],
    [host({ links: [link('vif3.0'), { ...half, alias: 'theirs' }] }), /alias "theirs"/],
    [host({ links: [link('vif3.0'), link('remus3.0', { kind: 'veth', up: false })] }), /already \(veth\)/],
    [
      host({ links: [link('vif3.0'), { ...half, alias: 'remus-drbd:web:vif3.0' }] }),
      /earlier run.*remus3\.0/,
    ],
    [
      host({ links: [link('vif3.0'), { ...half, alias: 'remus-drbd:web2:vif3.0' }] }),
      /alias "remus-drbd:web2/,
    ],
    [host({ ingress: new Map([['vif3.0', { ours: [], others: 1 }]]) }), /filters at its ingress/],
    [
      host({ ingress: new Map([['vif9.0', { ours: [{ preference: 1 }], others: 0 }]]) }),
      /earlier run.*vif9\.0/,
    ],
  ];
  for (const [view, pattern] of refusals) {
    const planned = planInstall('web', [HOLD], view);
    assert.match('problem' in planned ? planned.problem : '', pattern);
  }
});

test('a hook is taken away only when it is empty and the interface is ours', () => {
  const none = { ours: [], others: 0 };
  const some = { ours: [], others: 1 };
  const both = (ingress: typeof none, egress: typeof none): HostNetwork =>
    host({ queues: [hook], ingress: new Map([['vif3.0', ingress]]), egress: new Map([['vif3.0', egress]]) });
  const ours = new Set(['vif3.0']);
  assert.equal(emptyHooks(ours, both(none, none)), ['vif3.0']);
  assert.equal(emptyHooks(ours, both(some, none)), []);
  assert.equal(emptyHooks(ours, both(none, some)), []);
  assert.equal(emptyHooks(new Set(), both(none, none)), []);
  assert.equal(emptyHooks(ours, host({ queues: [hook] })), [], 'not known is not empty');
});

const VIF = readFileSync('test/data/real/xenstore/vif.txt', 'utf8');

test('backends in xenstore', () => {
  const [vif, ...more] = parseVifBackends(1, VIF);
  assert.is(more.length, 0);
  assert.is(vif?.devid, 0);
  assert.is(vif?.values.get('state'), '4');
  assert.is(vif?.values.get('bridge'), 'xenbr0');
  assert.equal(parseVifBackends(1, ''), []);
  assert.throws(() => parseVifBackends(2, VIF), /domain 2 is expected/);
  assert.throws(() => parseVifBackends(1, 'xenstore-ls: something'), /backend are expected/);
});

function backend(devid: number, state: string, more: Record<string, string> = {}): VifBackend {
  return { devid, values: new Map(Object.entries({ state, online: '1', ...more })) };
}

const choices: [
  what: string,
  guest: 'pvh' | 'hvm',
  VifBackend[],
  interfaces: string[],
  expected: string[] | RegExp,
][] = [
  ['no network', 'pvh', [], ['eth0', 'vif4.0'], []],
  ['PVH, bridged', 'pvh', [backend(0, '4', { bridge: 'xenbr0' })], ['vif3.0', 'xenbr0'], ['vif3.0 remus3.0']],
  ['PVH, no bridge, driver not there yet', 'pvh', [backend(0, '2')], ['vif3.0'], ['vif3.0 remus3.0']],
  [
    'two',
    'pvh',
    [backend(0, '4'), backend(1, '4')],
    ['vif3.0', 'vif3.1'],
    ['vif3.0 remus3.0', 'vif3.1 remus3.1'],
  ],
  ['vifname', 'pvh', [backend(0, '4', { vifname: 'web0' })], ['web0'], ['web0 remus3.0']],
  ['HVM, unplugged, tap gone', 'hvm', [backend(0, '4')], ['vif3.0'], ['vif3.0 remus3.0']],
  [
    'HVM, unplugged, tap still there: held too',
    'hvm',
    [backend(0, '4')],
    ['vif3.0', 'vif3.0-emu'],
    ['vif3.0 remus3.0', 'vif3.0-emu remus3.0e'],
  ],
  [
    'HVM on its emulated card',
    'hvm',
    [backend(0, '2')],
    ['vif3.0', 'vif3.0-emu'],
    /InitWait.*vif3\.0-emu is there.*Xen network driver/,
  ],
  ['closing', 'pvh', [backend(0, '5')], ['vif3.0'], /state 5 \(Closing\)/],
  ['unknown state', 'pvh', [backend(0, '9')], ['vif3.0'], /state 9 \(unknown\)/],
  ['being detached', 'pvh', [backend(0, '4', { online: '0' })], ['vif3.0'], /not online/],
  ['no interface', 'pvh', [backend(0, '4')], ['eth0'], /no interface vif3\.0/],
  ['PVH with a tap', 'pvh', [backend(0, '4')], ['vif3.0', 'vif3.0-emu'], /PVH guest has no emulated card/],
  [
    'an interface that xenstore does not know',
    'pvh',
    [backend(0, '4')],
    ['vif3.0', 'vif3.1'],
    /vif3\.1 .*no such device/,
  ],
  ['a name that is none', 'pvh', [backend(0, '4', { vifname: 'a b' })], ['a b'], /no name/],
];
for (const [what, guest, backends, interfaces, expected] of choices) {
  test(`interfaces: ${what}`, () => {
    const choice = chooseVifs('web', 3, guest, backends, new Set(interfaces));
    if (expected instanceof RegExp) {
      assert.match('refused' in choice ? choice.refused : '', expected);
    } else {
      assert.equal(
        'holds' in choice ? choice.holds.map(({ vif, ifb }) => `${vif} ${ifb}`) : choice,
        expected,
      );
    }
  });
}

test.run();
