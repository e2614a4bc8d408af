/** CPUs of their own for the dom0 and a guest: the commands, their undoing, and what is in the way. */
import fc from 'fast-check';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';

import { guestFindings } from '../../src/core/check-guest.js';
import { ParseError } from '../../src/core/parse/text.js';
import { parseXlVcpuList, parseXlTopology } from '../../src/core/parse/vcpu.js';
import { pinCommands, pinProblems, sharedCpus, unpinCommands } from '../../src/core/pin.js';
import { goodInput, layoutsOf, valueOf } from './check-hosts.js';

const test = suite('pin');

/** As xl_vcpu.c prints it. */
const HEADER = 'Name                                ID  VCPU   CPU State   Time(s) Affinity (Hard / Soft)';
function vcpuList(...lines: string[]): ReturnType<typeof parseXlVcpuList> {
  return parseXlVcpuList([HEADER, ...lines, ''].join('\n'));
}
const dom0 = (vcpu: number, hard: string): string =>
  `Domain-0                             0     ${vcpu}    0   r--     149.6  ${hard} / all`;
const web = (vcpu: number, hard: string): string =>
  `web                                  1     ${vcpu}    1   -b-       6.1  ${hard} / all`;

const pin = { dom0: [0], guest: [1, 2] };

// --- Reading ----------------------------------------------------------------------------------------------

test('reads xl vcpu-list', () => {
  const found = vcpuList(
    dom0(0, '0-1,3'),
    web(0, 'all'),
    'my guest                            12     1    -   --p       0.0  none / 2-3',
  );
  assert.equal(found, [
    { domain: 'Domain-0', domainId: 0, vcpu: 0, cpu: 0, hard: [0, 1, 3] },
    { domain: 'web', domainId: 1, vcpu: 0, cpu: 1, hard: 'all' },
    { domain: 'my guest', domainId: 12, vcpu: 1, hard: [] },
  ]);
});

/** As xl_info.c prints it: two cores with two threads each; CPU 5 is offline. */
const TOPOLOGY = `host                   : alpha
nr_cpus                : 4
cpu_topology           :
cpu:    core    socket     node
  0:       0        0        0
  1:       0        0        0
  2:       1        0        0
  3:       1        0        0
  4:       0        1        1
device topology        :
device           node
0000:00:00.0      0
numa_info              :
node:    memsize    memfree    distances
   0:      2047       1000      10
xen_major              : 4
`;
const topology = parseXlTopology(TOPOLOGY);

test('reads the topology in xl info -n, and nothing after it', () => {
  assert.equal([...topology.keys()], [0, 1, 2, 3, 4]);
  assert.equal(topology.get(4), { core: 0, socket: 1 });
});

const unreadable: [string, () => unknown][] = [
  ['no header', () => parseXlVcpuList('')],
  ['a line that is none', () => vcpuList('web  1  x')],
  ['an unknown state', () => vcpuList(dom0(0, 'all').replace('r--', 'x--'))],
  ['a list that is none', () => vcpuList(dom0(0, '0;1'))],
  ['a range that falls', () => vcpuList(dom0(0, '3-1'))],
  ['a CPU beyond what Xen has', () => vcpuList(dom0(0, '9999'))],
  ['no topology', () => parseXlTopology('nr_cpus : 4')],
  ['a topology without CPUs', () => parseXlTopology('cpu_topology :\ncpu:    core    socket     node\n')],
  ['a CPU twice', () => parseXlTopology(TOPOLOGY.replace('  1: ', '  0: '))],
  [
    'a CPU without its node',
    () => parseXlTopology(TOPOLOGY.replace(/^ {2}2: .*$/m, '  2:       1        0')),
  ],
];

for (const [what, work] of unreadable) {
  test(`refuses ${what}`, () => assert.throws(work, (error: unknown) => error instanceof ParseError));
}

test('anything is read or refused with a ParseError', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      for (const parse of [parseXlVcpuList, parseXlTopology]) {
        for (const whole of [text, `${HEADER}\n${text}`, `cpu_topology :\ncpu: core socket node\n${text}`]) {
          try {
            parse(whole);
          } catch (error) {
            assert.instance(error, ParseError);
          }
        }
      }
    }),
  );
});

// --- Commands ---------------------------------------------------------------------------------------------

test('pins the dom0 and the guest where they are not, and says why', () => {
  const commands = pinCommands(pin, 'web', vcpuList(dom0(0, 'all'), web(0, 'all'), web(1, 'all')));
  assert.equal(
    commands.map(({ argv }) => argv.join(' ')),
    ['xl vcpu-pin Domain-0 all 0 -', 'xl vcpu-pin web all 1,2 -'],
  );
  assert.is(commands[1]?.reason, 'vCPU 0 of web may run on all CPUs, "pin" says CPU 1,2');
});

test('does nothing where all is right, and nothing for a guest that is elsewhere', () => {
  assert.equal(pinCommands(pin, 'web', vcpuList(dom0(0, '0'), web(0, '1-2'), web(1, '1-2'))), []);
  const backup = pinCommands(pin, 'web', vcpuList(dom0(0, 'all')));
  assert.equal(
    backup.map(({ argv }) => argv[2]),
    ['Domain-0'],
  );
});

test('one vCPU that is elsewhere is enough', () => {
  const commands = pinCommands(pin, 'web', vcpuList(dom0(0, '0'), web(0, '1-2'), web(1, '1-3')));
  assert.equal(
    commands.map(({ argv }) => argv[2]),
    ['web'],
  );
});

test('undoes what it did, and only that', () => {
  const pinned = vcpuList(dom0(0, '0'), web(0, '1-2'));
  const argvs = (still: boolean, vcpus = pinned): string[] =>
    unpinCommands(pin, 'web', vcpus, still).map(({ argv }) => argv.join(' '));
  assert.equal(argvs(false), ['xl vcpu-pin web all all -', 'xl vcpu-pin Domain-0 all all -']);
  assert.equal(argvs(true), ['xl vcpu-pin web all all -']);
  assert.equal(argvs(false, vcpuList(dom0(0, 'all'), web(0, '3'))), []);
});

test('what it commands is what it wants: applied, nothing is left', () => {
  const cpus = fc.uniqueArray(fc.integer({ min: 0, max: 7 }), { minLength: 1, maxLength: 4 });
  fc.assert(
    fc.property(cpus, cpus, fc.integer({ min: 1, max: 4 }), (own, guest, count) => {
      const wanted = { dom0: own, guest };
      let vcpus = vcpuList(dom0(0, 'all'), ...Array.from({ length: count }, (_, index) => web(index, '0-3')));
      for (const { argv } of pinCommands(wanted, 'web', vcpus)) {
        vcpus = vcpus.map((vcpu) =>
          vcpu.domain === argv[2] ? { ...vcpu, hard: (argv[4] ?? '').split(',').map(Number) } : vcpu,
        );
      }
      assert.equal(pinCommands(wanted, 'web', vcpus), []);
      assert.equal(
        sharedCpus('web', vcpus, 8),
        own.filter((cpu) => guest.includes(cpu)).sort((a, b) => a - b),
      );
    }),
  );
});

// --- What is in the way -----------------------------------------------------------------------------------

const problems: [string, { dom0: number[]; guest: number[] }, RegExp | undefined][] = [
  ['cores of their own', { dom0: [0, 1], guest: [2, 3] }, undefined],
  ['the same core number on another socket', { dom0: [0], guest: [4] }, undefined],
  [
    'threads of one core',
    { dom0: [0], guest: [1] },
    /CPU 1 of the guest and CPU 0 of dom0 are threads of one core/,
  ],
  ['a CPU for both', { dom0: [0], guest: [0] }, /CPU 0 is given to both/],
  ['a CPU that is not there', { dom0: [0], guest: [2, 7] }, /CPU 7 of the guest is not there/],
  ['none for the dom0', { dom0: [], guest: [2] }, /no CPU for dom0/],
];

for (const [what, wanted, says] of problems) {
  test(`says of ${what}: ${says === undefined ? 'nothing' : 'what is wrong'}`, () => {
    const found = pinProblems(wanted, topology);
    assert.is(found.length, says === undefined ? 0 : 1, found.join('\n'));
    if (says !== undefined) assert.match(found[0] ?? '', says);
  });
}

test('tells which CPUs both may run on now', () => {
  assert.equal(sharedCpus('web', vcpuList(dom0(0, 'all'), web(0, 'all')), 2), [0, 1]);
  assert.equal(sharedCpus('web', vcpuList(dom0(0, '0'), web(0, 'all')), 2), [0]);
  assert.equal(sharedCpus('web', vcpuList(dom0(0, '0'), web(0, '1')), 2), []);
  assert.equal(sharedCpus('web', vcpuList(dom0(0, '0')), 2), []);
});

test('check warns where nothing is pinned, unless the host has one CPU only', () => {
  const warnings = (cpus: number): string[] => {
    const input = goodInput();
    delete input.config.pairs[0]?.domains[0]?.pin;
    valueOf(input.alpha.xen).cpus = cpus;
    const [layout] = layoutsOf(input);
    if (layout === undefined) throw new Error('no domain');
    return guestFindings(layout, input.guests.web, [input.alpha])
      .filter(({ id }) => id === 'pin-shared')
      .map(({ verdict, host, found }) => `${verdict} ${host}: ${found}`);
  };
  assert.equal(warnings(4), ['warn alpha: dom0 and the guest share all 4 CPUs, as nothing is pinned']);
  assert.equal(warnings(1), []);
});

test.run();
