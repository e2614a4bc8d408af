/**
 * `import` on configurations as they were written at the time: what it asks, what it writes, and that each line of
 * each input is accounted for once.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

import fc from 'fast-check';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';

import { parseConfig } from '../../../src/core/config.js';
import { OperatorErrors } from '../../../src/core/errors.js';
import { importConfigurations } from '../../../src/core/import/import.js';
import type { ImportResult } from '../../../src/core/import/import.js';
import { ImportError } from '../../../src/core/import/ledger.js';
import { parseXlConfig, XlConfigError } from '../../../src/core/xlconfig.js';

const test = suite('import');

const DATA = 'test/data/import';
const fixtures = readdirSync(DATA).filter((name) => !name.endsWith('.md'));

function fixture(...names: string[]): ImportResult {
  return importConfigurations(names.map((file) => ({ file, text: readFileSync(join(DATA, file), 'utf8') })));
}

function text(content: string, file = 'old.cfg'): ImportResult {
  return importConfigurations([{ file, text: content }]);
}

/** What became of the only line of the inputs that has this in it. */
function fateOf(result: ImportResult, part: string): string {
  const found = result.inputs.flatMap(({ lines }) => lines.filter((line) => line.text.includes(part)));
  assert.is(found.length, 1, `lines with ${part}`);
  return `${found[0]?.fate}: ${found[0]?.note}`;
}

/** The lines of a text in YAML from the first that has `part`, as many as are given. */
function block(yaml: string, part: string, count: number): string[] {
  const lines = yaml.split('\n');
  const start = lines.findIndex((line) => line.includes(part));
  assert.ok(start >= 0, `${part} in:\n${yaml}`);
  return lines.slice(start, start + count).map((line) => line.trim());
}

for (const name of fixtures) {
  test(`${name}: every line is accounted for once, in order`, () => {
    const raw = readFileSync(join(DATA, name), 'utf8');
    const others = name.startsWith('global_common') ? ['testvm.res'] : [];
    const { inputs } = fixture(name, ...others);
    const lines = raw.replace(/\n$/, '').split('\n');
    assert.equal(
      inputs[0]?.lines.map(({ line }) => line),
      lines.map((_, index) => index + 1),
    );
    assert.ok(inputs[0]?.lines.every(({ note }) => note !== ''));
  });
}

test('a guest with two DRBD 8.3 resources becomes one domain with two disks', () => {
  const { pairYaml, guests, questions } = fixture('web-pv.cfg', 'web83.res');
  assert.equal(block(pairYaml, 'disks:', 8), [
    'disks:',
    '# Resource web-root kept its meta-data at the end of its disk: it has to be wiped before setup, on',
    '#   both hosts.',
    '- vdev: xvda',
    'volumeGroup: vg0',
    'logicalVolume: web-root',
    '- vdev: xvdb',
    'volumeGroup: vg0',
  ]);
  assert.equal(
    questions.map(({ where }) => where),
    [
      'pair.yaml: pairs.alpha-beta.hosts.alpha.ssh',
      'pair.yaml: pairs.alpha-beta.hosts.beta.ssh',
      'web.cfg: type',
      'pair.yaml: pairs.alpha-beta.domains.web.primary',
    ],
  );
  assert.is(guests[0]?.name, 'web.cfg');
  assert.not.match(guests[0]?.text ?? '', /^disk/m);
});

test('the new guest configuration is what xl reads, with its escapes', () => {
  const { guests } = text(
    String.raw`name = 'a'; type = "hvm"; memory = 0x200` +
      '\n' +
      String.raw`extra = 'a"b\\c' + "\td"` +
      "\ndisk=['phy:vg0/a,xvda,w']\nvif=['bridge=x']",
  );
  const { assignments } = parseXlConfig(guests[0]?.text ?? '', 'a.cfg');
  const values = assignments.map(({ key, value }) => [
    key,
    value.kind === 'atom' ? value.text : value.items.length,
  ]);
  assert.equal(values, [
    ['name', 'a'],
    ['type', 'hvm'],
    ['memory', '512'],
    ['extra', 'a"b\\c\td'],
    ['vif', 1],
  ]);
});

test('a CD drive stays in the guest configuration', () => {
  const { guests } = fixture('systemha.cfg');
  const disk = parseXlConfig(guests[0]?.text ?? '', 'x').assignments.find(({ key }) => key === 'disk');
  assert.ok(disk?.value.kind === 'list' && disk.value.items[0]?.kind === 'atom');
  assert.match(guests[0]?.text ?? '', /"vdev=hdc,devtype=cdrom,access=r,target=\/srv\/iso\/install.iso"/);
});

test('an image that blktap2 replicated: the LV to be made, the command, the backup and its port', () => {
  const { pairYaml, steps } = fixture('systemha.cfg');
  assert.match(pairYaml, /^ +replication: 192\.168\.20\.2$/m);
  assert.match(pairYaml, /^ +port: 9000$/m);
  const command = 'dd if=/srv/xen/SystemHA.img of=/dev/drbd127616 bs=1M conv=fsync';
  assert.ok(pairYaml.includes(command));
  assert.ok(steps.at(-1)?.includes(command));
  assert.match(pairYaml, /both images are the same/);
});

test('the host that blktap2 named is the backup, so the other one of its pair is the primary', () => {
  const guest = {
    file: 'a.cfg',
    text: "name='a'\nbuilder='hvm'\nmemory=1\ndisk=['tap2:remus:beta:9000|aio:/a.img,xvda,w']",
  };
  const web = { file: 'web83.res', text: readFileSync(join(DATA, 'web83.res'), 'utf8') };
  const { pairYaml } = importConfigurations([guest, web]);
  assert.equal(block(pairYaml, 'config: a.cfg', 3)[2], 'primary: alpha');
});

test('protocol D in common asks for the engine, and says the minor that protocol-d wants', () => {
  const result = fixture('testvm.cfg', 'testvm.res', 'global_common.conf');
  assert.match(
    result.pairYaml,
    /QUESTION: it had protocol D[^]*engine:\n +# With protocol-d [^\n]*minor: 1\n/,
  );
  assert.match(fateOf(result, 'protocol D'), /^question/);
  assert.not.match(fixture('testvm.cfg', 'testvm.res').pairYaml, /engine/);
});

test('a PV guest is named as one that cannot be protected, with what to do', () => {
  const { guests, pairYaml } = fixture('web-pv.cfg', 'web83.res');
  assert.match(guests[0]?.text ?? '', /QUESTION: it was a PV guest[^\n]*CONFIG_PVH[^\n]*\ntype =\n/);
  assert.match(pairYaml, /it was a PV guest/);
  for (const pygrub of ["bootloader='pygrub'", "bootloader='/usr/bin/pygrub'", "kernel='/vmlinuz'"]) {
    assert.match(
      text(`name='a'\nmemory=1\n${pygrub}\ndisk=['phy:a/b,xvda,w']`).guests[0]?.text ?? '',
      /type =\n/,
    );
  }
  for (const other of ["builder='hvm'", "type='pvh'", 'pvh=1', "type='hvm'"]) {
    assert.match(
      text(`name='a'\nmemory=1\n${other}\ndisk=['phy:a/b,xvda,w']`).guests[0]?.text ?? '',
      /type = "(?:pvh|hvm)"\n/,
    );
  }
});

test('a resource that no guest names is a domain that asks for its guest', () => {
  const { pairYaml } = fixture('mail9.res');
  assert.match(pairYaml, /QUESTION: where is the guest's xl configuration[^\n]*\n +config:\n/);
  assert.match(pairYaml, /- vdev:\n +volumeGroup: vg0\n +logicalVolume: mail\n/);
  assert.match(pairYaml, /replication: 10\.20\.0\.2/);
});

test('DRBD 8.4 with volumes in the resource and in its hosts', () => {
  const { pairYaml } = fixture('shop-xl.cfg', 'shop84.res');
  assert.match(pairYaml, /replication: "fd00:20::1"/);
  assert.match(
    pairYaml,
    /logicalVolume: shop-root\n +- vdev: xvdb\n +volumeGroup: vg0\n +logicalVolume: shop-data\n/,
  );
});

test('hosts without names, and disks of different names, are asked for', () => {
  assert.match(
    fixture('float.res').pairYaml,
    /QUESTION: how is the host with 10\.1\.1\.31 called[^\n]*\n(?: +#[^\n]*\n)* +"\?1":/,
  );
  const resource = (disk: string): string =>
    `resource r { device /dev/drbd1; meta-disk internal; on a { disk /dev/vg0/r; address 10.0.0.1:7788; } on b { disk ${disk}; address 10.0.0.2:7788; } }`;
  assert.match(
    text(resource('/dev/vg1/r'), 'r.res').pairYaml,
    /needs one name on both hosts \(a: \/dev\/vg0\/r, b: \/dev\/vg1\/r\)/,
  );
  assert.not.match(text(resource('/dev/vg0/r'), 'r.res').pairYaml, /needs one name/);
});

test('different ports, a port of system services, and different addresses of a host are asked for', () => {
  const on = (host: string, address: string): string => `on ${host} { address ${address}; }`;
  const resource = (name: string, ...hosts: string[]): string =>
    `resource ${name} { device /dev/drbd1; disk /dev/vg0/${name}; meta-disk internal; ${hosts.join(' ')} }\n`;
  const a = on('a', '10.0.0.1:7788');
  assert.match(
    text(resource('r', a, on('b', '10.0.0.2:7789')), 'r.res').pairYaml,
    /ports 7788 and 7789[^\n]*\n +port:\n/,
  );
  assert.match(
    text(resource('r', on('a', '10.0.0.1:80'), on('b', '10.0.0.2:80')), 'r.res').pairYaml,
    /80 is a port of system services/,
  );
  const two =
    resource('r', a, on('b', '10.0.0.2:7788')) +
    resource('s', on('a', '10.1.0.1:7789'), on('b', '10.0.0.2:7789'));
  assert.match(
    text(two, 'r.res').pairYaml,
    /a has 10\.0\.0\.1 and 10\.1\.0\.1[^\n]*\n(?: +#[^\n]*\n)* +replication:\n/,
  );
  assert.match(
    text(resource('r', on('a', '127.0.0.1:7788'), on('b', '10.0.0.2:7788')), 'r.res').pairYaml,
    /loopback address/,
  );
});

test('an address or port that has to be asked for is a question at its line too', () => {
  const resource = (address: string, port: number): string =>
    `resource r {\n device /dev/drbd1; disk /dev/vg0/r; meta-disk internal;\n on a { address ${address}:7788; }\n on b { address 10.0.0.2:${port}; }\n}`;
  assert.match(
    fateOf(text(resource('10.0.0.1', 7788), 'r.res'), 'on b'),
    /^taken: replication address, port$/,
  );
  assert.match(fateOf(text(resource('10.0.0.1', 7789), 'r.res'), 'on b'), /^question: .*which port\?/);
  assert.match(fateOf(text(resource('127.0.0.1', 7788), 'r.res'), 'on a'), /^question: .*which address\?/);
});

test('a guest that is there twice is asked for, and the file is refused until it is answered', () => {
  const input = { file: 'a.cfg', text: "name='a'\nmemory=1\nbuilder='hvm'\ndisk=['phy:v/a,xvda,w']" };
  const { pairYaml } = importConfigurations([input, { ...input, file: 'b.cfg' }]);
  assert.match(pairYaml, /QUESTION: "a" is there twice/);
  assert.throws(() => parseConfig(pairYaml, 'pair.yaml'), /written twice/);
});

test('three hosts are asked for, a stacked resource is not taken', () => {
  const three =
    'resource r { on a { address 10.0.0.1:7788; } on b { address 10.0.0.2:7788; } on c { address 10.0.0.3:7788; } device minor 1; disk /dev/vg0/r; meta-disk internal; }';
  assert.match(text(three, 'r.res').pairYaml, /more than two hosts \(a, b, c\): which two/);
  const stacked = text(
    'resource r {\n stacked-on-top-of s { device /dev/drbd9; address 10.0.0.9:7788; }\n}',
    'r.res',
  );
  assert.match(fateOf(stacked, 'stacked-on-top-of'), /^cannot: a third host cannot follow/);
});

test('what was only for xm, what cannot follow the guest, and what would have to be run', () => {
  const result = text(
    [
      "name = 'a'",
      "builder = 'hvm'",
      'memory = int(512)',
      "device_model = '/usr/lib/xen/bin/' + qemu",
      "pci = ['01:00.0']",
      "dhcp = 'dhcp'",
      'whatever = 3',
      'include "drbd.conf"',
      'disk = disks()',
    ].join('\n'),
  );
  assert.match(fateOf(result, 'int(512)'), /^question: the call "int\(\)"/);
  assert.match(fateOf(result, 'device_model'), /^not-needed: xl finds its own QEMU/);
  assert.match(fateOf(result, 'pci'), /^cannot: a device of the host/);
  assert.match(fateOf(result, 'dhcp'), /^cannot: .*"extra"/);
  assert.match(fateOf(result, 'whatever'), /^cannot: neither xm nor xl/);
  assert.match(fateOf(result, 'include'), /^cannot/);
  assert.match(result.guests[0]?.text ?? '', /QUESTION: what does line 3 [^\n]*\nmemory =\n/);
  assert.match(result.pairYaml, /QUESTION: the old list of disks[^\n]*\n +disks: \[\]/);
});

test('an unfilled file fails at each question, and nowhere else', () => {
  const { pairYaml, guests } = fixture('web-pv.cfg', 'web83.res', 'global_common.conf');
  const lines = pairYaml.split('\n');
  try {
    parseConfig(pairYaml, 'pair.yaml');
    assert.unreachable('an unanswered file was read');
  } catch (error) {
    assert.instance(error, OperatorErrors);
    const failing = (error as OperatorErrors).message.split('\n').map((message) => {
      return (lines[Number(/^pair\.yaml:(\d+)/.exec(message)?.[1]) - 1] ?? '').trim();
    });
    assert.equal(failing, ['ssh:', 'ssh:', 'primary:', 'engine:']);
  }
  assert.throws(
    () => parseXlConfig(guests[0]?.text ?? '', 'web.cfg'),
    (error: unknown) =>
      error instanceof XlConfigError && /expected a number, a quoted text/.test(error.message),
  );
});

test('hosts of no name fail by the rule for names', () => {
  assert.throws(
    () => parseConfig(fixture('systemha.cfg').pairYaml, 'pair.yaml'),
    /"\?1": the name of a host is/,
  );
});

test('a guest configuration gets a name that no other file has', () => {
  const input = { file: 'a.cfg', text: "name='a'\nmemory=1\nbuilder='hvm'\ndisk=['phy:v/a,xvda,w']" };
  assert.is(importConfigurations([input], ['a.cfg']).guests[0]?.name, 'a-2.cfg');
  const two = importConfigurations([input, { ...input, text: input.text.replace("'a'", "'../b'") }]);
  assert.equal(
    two.guests.map(({ name }) => name),
    ['a.cfg', 'guest.cfg'],
  );
});

test('something that is neither is refused', () => {
  for (const content of ['', 'hello\nworld', '# only\n# comments', 'common { protocol C; }', 'a\0b']) {
    assert.throws(
      () => text(content),
      (error: unknown) => error instanceof ImportError,
    );
  }
});

test('what an input says cannot end a comment or reach the terminal', () => {
  const { pairYaml, guests, inputs } = text(
    "name='a\\nb: c'\nmemory=1\ndisk=['file:/x\\n  y: z,xvda,w', 'phy:v/\\x1b[31m,xvdb,w']\nextra='\\x1b[31m'",
  );
  for (const written of [pairYaml, guests[0]?.text ?? '', JSON.stringify(inputs).replaceAll('\\n', '')]) {
    assert.not.match(written, /^\s*(?:b|y):/m);
    assert.not.match(written, /\u001b/);
  }
});

const SNIPPETS = [
  'resource',
  ' r ',
  'web',
  '{',
  '}',
  ';',
  '\n',
  ' on ',
  'a',
  'address 10.0.0.1:7788;',
  'disk /dev/vg0/x;',
  'volume 0',
  'device minor 1;',
  'meta-disk internal;',
  '"',
  '#',
  'net',
  'protocol D;',
  'connection',
  'host a address ipv6 [fd00::1]:1;',
  'floating 1.2.3.4:5',
  'common',
  'include x;',
  'name = ',
  "'a'",
  '[',
  ']',
  ',',
  "disk = ['phy:a/b,xvda,w']",
  "vif = ['mac=x']",
  'if x:',
  '  ',
  '\\',
  '"""',
  "builder='hvm'",
  '+',
  'stacked-on-top-of x',
];

test('any text is imported or refused with its own error, and its lines are accounted for once', () => {
  const anything = fc.oneof(
    fc.string({ unit: 'binary', maxLength: 400 }),
    fc.array(fc.constantFrom(...SNIPPETS), { maxLength: 150 }).map((parts) => parts.join('')),
    fc
      .array(fc.constantFrom(...SNIPPETS), { maxLength: 150 })
      .map((parts) => `resource r {${parts.join(' ')}`),
    fc
      .array(fc.constantFrom(...SNIPPETS), { maxLength: 150 })
      .map((parts) => `name='a'\n${parts.join('\n')}`),
  );
  let imported = 0;
  fc.assert(
    fc.property(fc.array(anything, { minLength: 1, maxLength: 3 }), (texts) => {
      let result: ImportResult;
      try {
        result = importConfigurations(texts.map((content, index) => ({ file: `f${index}`, text: content })));
      } catch (error) {
        assert.instance(error, ImportError);
        return;
      }
      imported += 1;
      for (const [index, { lines }] of result.inputs.entries()) {
        const own = (texts[index] ?? '').replace(/\r?\n$/, '').split(/\r?\n/);
        const count = texts[index] === '' ? 0 : own.length;
        assert.equal(
          lines.map(({ line }) => line),
          Array.from({ length: count }, (_, at) => at + 1),
        );
      }
      // What is written is YAML whose only problems are the questions' and what the config refuses in words.
      try {
        parseConfig(result.pairYaml, 'pair.yaml');
      } catch (error) {
        assert.instance(error, OperatorErrors);
      }
    }),
    { numRuns: 2000 },
  );
  assert.ok(imported > 200, `${imported} were imported`);
});

test('texts made to take long do not', () => {
  const drbd = ['{', '}', ';', 'a;', 'resource a{', '"', 'on a {', '\n{', 'volume 1{disk x;} on b{}'];
  const guest = ["disk=['phy:a/b,xvda,w']\n", "disk+=['phy:a/b,xvda,w']\n", 'x=1;', 'x=(\n', "memory='''\n"];
  const size = 100_000;
  const texts = [
    ...drbd.map((part) => `resource r {\n${part.repeat(size / part.length)}`),
    ...guest.map((part) => `name='a'\ndisk=[]\n${part.repeat(size / part.length)}`),
  ];
  for (const content of texts) {
    const started = process.hrtime.bigint();
    text(content);
    const seconds = Number(process.hrtime.bigint() - started) / 1e9;
    assert.ok(seconds < 60, `${JSON.stringify(content.slice(0, 40))} took ${seconds} s`);
  }
});

test.run();
