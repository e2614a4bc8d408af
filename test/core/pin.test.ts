/** CPUs of their own for the dom0 and a guest: the commands, their undoing, and what is in the way. */
import fc from 'fast-check';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';

import { guestFindings } from '../../src/core/check-guest.js';
import { ParseError } from '../../src/core/parse/text.js';
import { parseXlVcpuList, parseXlTopology } from '../../src/core/parse/vcpu.js';
import { DOM0_PIN_PATH, pinPath, planPin, planUnpin, readPinState, sharedCores } from '../../src/core/pin.js';
import type { Pin, PinStep } from '../../src/core/pin.js';
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

test('knows no place where Xen tells none, as on an emulated host', () => {
  const places = parseXlTopology(`free_cpus              : 0
cpu_topology           :
cpu:    core    socket     node
device topology        :
device           node
No device topology data available
numa_info              :
node:    memsize    memfree    distances
   0:      2047       1000      10
`);
  assert.is(places.size, 0);
  assert.equal(sharedCores({ dom0: [0], guest: [1] }, places), []);
});

const unreadable: [string, () => unknown][] = [
  ['no header', () => parseXlVcpuList('')],
  ['a line that is none', () => vcpuList('web  1  x')],
  ['an unknown state', () => vcpuList(dom0(0, 'all').replace('r--', 'x--'))],
  ['a list that is none', () => vcpuList(dom0(0, '0;1'))],
  ['a range that falls', () => vcpuList(dom0(0, '3-1'))],
  ['a CPU beyond what Xen has', () => vcpuList(dom0(0, '9999'))],
  ['no topology', () => parseXlTopology('nr_cpus : 4')],
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

// --- Steps ------------------------------------------------------------------------------------------------

/** A host that does what it is told, so that steps can be carried out on it. */
class FakeHost {
  readonly files = new Map<string, string>();
  lines: [domain: string, id: number, vcpu: number, hard: string][];

  constructor(...lines: [domain: string, id: number, vcpu: number, hard: string][]) {
    this.lines = lines;
  }

  #state(domain: string) {
    const text = [
      HEADER,
      ...this.lines.map(([name, id, vcpu, hard]) => `${name} ${id} ${vcpu} 0 -b- 1.0 ${hard} / all`),
      '',
    ].join('\n');
    return readPinState(domain, text, [...this.files.keys()], (path) => this.files.get(path));
  }

  /** @returns the commands */
  #carryOut(steps: readonly PinStep[], stepsMax = Infinity): string[] {
    const commands: string[] = [];
    for (const step of steps.slice(0, stepsMax)) {
      if (step.kind === 'write') this.files.set(step.path, step.text);
      if (step.kind === 'remove') this.files.delete(step.path);
      if (step.kind !== 'run') continue;
      commands.push(step.argv.join(' '));
      const [, , name, vcpu, hard = ''] = step.argv;
      for (const line of this.lines) {
        if (line[0] === name && (vcpu === 'all' || Number(vcpu) === line[2])) line[3] = hard;
      }
    }
    return commands;
  }

  pin(wanted: Pin, domain: string, stepsMax?: number): string[] {
    return this.#carryOut(planPin(wanted, domain, this.#state(domain)), stepsMax);
  }

  unpin(domain: string, stepsMax?: number): string[] {
    return this.#carryOut(planUnpin(domain, this.#state(domain)), stepsMax);
  }

  reasons(wanted: Pin, domain: string): string[] {
    return planPin(wanted, domain, this.#state(domain)).flatMap((step) =>
      step.kind === 'run' ? [step.reason] : [],
    );
  }
}

test('pins the dom0 and the guest where they are not, and says why', () => {
  const host = new FakeHost(['Domain-0', 0, 0, 'all'], ['web', 1, 0, 'all'], ['web', 1, 1, 'all']);
  assert.is(host.reasons(pin, 'web')[1], 'vCPU 0 of web may run on all CPUs, "pin" says CPU 1,2');
  assert.equal(host.pin(pin, 'web'), ['xl vcpu-pin Domain-0 all 0 -', 'xl vcpu-pin web all 1,2 -']);
  assert.equal(host.pin(pin, 'web'), [], 'once is enough');
});

test('notes what there was before it changes anything', () => {
  const host = new FakeHost(['Domain-0', 0, 0, '0-3'], ['web', 1, 0, 'all']);
  assert.equal(host.pin(pin, 'web', 2), []);
  assert.equal([...host.files.keys()], [DOM0_PIN_PATH, pinPath('web')]);
});

test('the dom0 alone where the guest is elsewhere, and the guest when it has come', () => {
  const host = new FakeHost(['Domain-0', 0, 0, 'all']);
  assert.equal(host.pin(pin, 'web'), ['xl vcpu-pin Domain-0 all 0 -']);
  host.lines.push(['web', 7, 0, '3']);
  assert.equal(host.pin(pin, 'web'), ['xl vcpu-pin web all 1,2 -']);
  assert.equal(host.unpin('web'), ['xl vcpu-pin web 0 3 -', 'xl vcpu-pin Domain-0 0 all -']);
});

test('one vCPU that is elsewhere is enough', () => {
  const host = new FakeHost(['Domain-0', 0, 0, '0'], ['web', 1, 0, '1-2'], ['web', 1, 1, '1-3']);
  assert.equal(host.pin(pin, 'web'), ['xl vcpu-pin web all 1,2 -']);
});

test('what somebody else has set since is left alone, and so is a guest that was started anew', () => {
  const host = new FakeHost(['Domain-0', 0, 0, 'all'], ['web', 1, 0, '3']);
  host.pin(pin, 'web');
  host.lines = [
    ['Domain-0', 0, 0, '2'],
    ['web', 2, 0, '1-2'],
  ];
  assert.equal(host.unpin('web'), []);
  assert.equal([...host.files], []);
});

test('the dom0 gets its CPUs back with the last domain that is pinned', () => {
  const host = new FakeHost(['Domain-0', 0, 0, 'all'], ['web', 1, 0, 'all'], ['db', 2, 0, 'all']);
  host.pin(pin, 'web');
  host.pin(pin, 'db');
  assert.equal(host.unpin('web'), ['xl vcpu-pin web 0 all -']);
  assert.equal(host.unpin('db'), ['xl vcpu-pin db 0 all -', 'xl vcpu-pin Domain-0 0 all -']);
  assert.equal([...host.files], []);
  assert.equal(host.unpin('db'), [], 'there is nothing left to undo');
});

test('a note that can not be read is an error that says what to do', () => {
  const host = new FakeHost(['Domain-0', 0, 0, 'all']);
  host.files.set(DOM0_PIN_PATH, '{}');
  assert.throws(() => host.pin(pin, 'web'), /dom0-pin\.json can't be read.*remove the file/);
});

test('cut anywhere and done again, both ways: all is pinned, and then all is as it was', () => {
  const cpus = fc.uniqueArray(fc.integer({ min: 0, max: 7 }), { minLength: 1, maxLength: 4 });
  const hard = fc.oneof(
    fc.constant('all'),
    cpus.map((list) => [...list].sort((a, b) => a - b).join(',')),
  );
  const before = fc.array(hard, { minLength: 2, maxLength: 5 });
  fc.assert(
    fc.property(cpus, cpus, before, fc.nat(6), fc.nat(6), (own, guest, hards, first, second) => {
      const wanted = { dom0: own, guest };
      const lines = (): [string, number, number, string][] =>
        hards.map((each, at) => (at === 0 ? ['Domain-0', 0, 0, each] : ['web', 1, at - 1, each]));
      const host = new FakeHost(...lines());
      host.pin(wanted, 'web', first);
      host.pin(wanted, 'web');
      assert.equal(host.pin(wanted, 'web'), []);
      host.unpin('web', second);
      host.unpin('web');
      assert.equal(host.lines, lines());
      assert.equal([...host.files], []);
    }),
  );
});

// --- What is in the way -----------------------------------------------------------------------------------

const places: [string, Pin, string[]][] = [
  ['cores of their own', { dom0: [0, 1], guest: [2, 3] }, []],
  ['the same core number on another socket', { dom0: [0], guest: [4] }, []],
  [
    'threads of one core',
    { dom0: [0], guest: [1] },
    ['CPU 1 of the guest and CPU 0 of dom0 are threads of one core'],
  ],
  ['a CPU that is not there', { dom0: [0], guest: [7] }, []],
];

for (const [what, wanted, says] of places) {
  test(`says of ${what}: ${says[0] ?? 'nothing'}`, () => assert.equal(sharedCores(wanted, topology), says));
}

test('check warns where dom0 and the guest share a core', () => {
  const found = (threads: boolean): string[] => {
    const input = goodInput();
    const [config] = input.config.pairs[0]?.domains ?? [];
    if (config !== undefined) config.pin = { dom0: [0], guest: [1] };
    input.alpha.topology = threads ? topology : new Map([0, 1].map((core) => [core, { core, socket: 0 }]));
    const [layout] = layoutsOf(input);
    if (layout === undefined) throw new Error('no domain');
    return guestFindings(layout, input.guests.web, [input.alpha])
      .filter(({ id }) => id === 'pin-cores')
      .map(({ verdict, host }) => `${verdict} ${host}`);
  };
  assert.equal([found(true), found(false)], [['warn alpha'], ['pass alpha']]);
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
