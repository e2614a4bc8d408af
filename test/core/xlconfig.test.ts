/** The parser of xl configurations, what is read from them, and how they are written again. */
import fc from 'fast-check';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';

import { describeGuest, parseXlConfig, replaceDisks, XlConfigError } from '../../src/core/xlconfig.js';
import type { Guest, XlValue } from '../../src/core/xlconfig.js';

const test = suite('xl configurations');

/** A value without its place in the text. */
type Plain = string | Plain[];

function plain(value: XlValue): Plain {
  return value.kind === 'atom' ? value.text : value.items.map(plain);
}

function assignments(text: string): [string, Plain][] {
  return parseXlConfig(text, 'web.cfg').assignments.map(({ key, value }) => [key, plain(value)]);
}

const good: { what: string; text: string; is: [string, Plain][] }[] = [
  { what: 'nothing', text: '', is: [] },
  { what: 'comments and empty lines', text: '\n# a comment\n   \t# another\n\n', is: [] },
  { what: 'a comment at the very end', text: 'a = 1 # no newline', is: [['a', '1']] },
  { what: 'no spaces', text: "name='web'", is: [['name', 'web']] },
  { what: 'spaces and tabs', text: ' \tname \t=  "web"\t \n', is: [['name', 'web']] },
  {
    what: 'semicolons',
    text: "a=1;b='2';;c=3;\n;",
    is: [
      ['a', '1'],
      ['b', '2'],
      ['c', '3'],
    ],
  },
  {
    what: 'numbers',
    text: 'a = 0x1f\nb = 007\nc = 10',
    is: [
      ['a', '0x1f'],
      ['b', '007'],
      ['c', '10'],
    ],
  },
  {
    what: 'the other quote in a text',
    text: `a = "it's"\nb = 'a "b"'`,
    is: [
      ['a', "it's"],
      ['b', 'a "b"'],
    ],
  },
  { what: 'escapes', text: String.raw`a = "q\" s\' b\\ n\n t\t"`, is: [['a', 'q" s\' b\\ n\n t\t']] },
  { what: 'a hash and brackets in a text', text: "a = '# [ ] ; ,' # b", is: [['a', '# [ ] ; ,']] },
  { what: 'an empty list', text: 'disk = []', is: [['disk', []]] },
  { what: 'a list', text: 'vif = [ \'a\', "b", 3 ]', is: [['vif', ['a', 'b', '3']]] },
  { what: 'a comma at the end of a list', text: "vif = ['a', 'b',]", is: [['vif', ['a', 'b']]] },
  {
    what: 'a list over lines with comments',
    text: "vif = [ # first\n  'a', # second\n\n  'b'\n  , 'c'\n]; b = 1",
    is: [
      ['vif', ['a', 'b', 'c']],
      ['b', '1'],
    ],
  },
  { what: 'lists in a list', text: 'a = [[1, 2], [], 3]', is: [['a', [['1', '2'], [], '3']]] },
  {
    what: 'a key twice',
    text: 'a = 1\na = 2',
    is: [
      ['a', '1'],
      ['a', '2'],
    ],
  },
  { what: 'letters beyond ASCII in a text', text: "a = 'größe ✓'", is: [['a', 'größe ✓']] },
];

for (const { what, text, is } of good) {
  test(`reads ${what}`, () => assert.equal(assignments(text), is));
}

const bad: { what: string; text: string; says: string }[] = [
  { what: 'a key alone', text: 'name', says: '1: expected "=" after name, found the end of the file' },
  {
    what: 'a capital in a key',
    text: 'Name = 1',
    says: '1: expected a key of small letters, found "Name = 1"',
  },
  {
    what: 'an operator of Python',
    text: "a = 1\nname == 'web'",
    says: '2: expected a number, a quoted text or a list, found "= \'web\'"',
  },
  {
    what: 'a value without quotes',
    text: 'name = web',
    says: '1: expected a number, a quoted text or a list, found "web"',
  },
  {
    what: 'no value',
    text: 'name =\n',
    says: '1: expected a number, a quoted text or a list, found the end of the line',
  },
  {
    what: 'a text that is not closed',
    text: "name = 'web\n",
    says: "1: a text in ' isn't closed on its line",
  },
  {
    what: 'a quote that is escaped at the end',
    text: String.raw`name = 'web\'`,
    says: "1: a text in ' isn't closed on its line",
  },
  {
    what: 'two values',
    text: "name = 'web' 'two'",
    says: '1: expected the end of the line after a value, found "\'two\'"',
  },
  {
    what: 'an expression',
    text: 'memory = 2*1024',
    says: '1: expected the end of the line after a value, found "*1024"',
  },
  {
    what: 'a list that is not closed',
    text: "a = 1\ndisk = [\n 'x',\n",
    says: '4: expected a number, a quoted text or a list, found the end of the file',
  },
  {
    what: 'a list without commas',
    text: "disk = [ 'a'\n'b' ]",
    says: '2: expected "," or "]" in the list that starts on line 1, found "\'b\' ]"',
  },
  {
    what: 'a carriage return',
    text: "a = 1\r\nname = 'web'\r\n",
    says: '1: has a carriage return; xl takes lines that end in a line feed only',
  },
  { what: 'a NUL', text: "a = 1\nname = 'we\0b'", says: '2: has the control character "\\u0000"' },
  {
    what: 'an escape with a number',
    text: String.raw`a = '\x41'`,
    says: String.raw`1: xl has no escape "\\x"; write the character itself, or \\ for a backslash`,
  },
  { what: 'code', text: 'import os', says: '1: expected "=" after import, found "os"' },
  {
    what: 'lists that are too deep',
    text: `a = ${'['.repeat(9)}`,
    says: '1: lists are nested more than 8 deep',
  },
  {
    what: 'a comma before the first value',
    text: 'a = [,]',
    says: '1: expected a number, a quoted text or a list, found ",]"',
  },
  {
    what: 'two commas',
    text: 'a = [1,,2]',
    says: '1: expected a number, a quoted text or a list, found ",2]"',
  },
  {
    what: 'a byte order mark',
    text: '\ufeffa = 1',
    says: '1: expected a key of small letters, found "\ufeffa = 1"',
  },
];

function message(run: () => unknown): string | undefined {
  try {
    run();
  } catch (error) {
    assert.instance(error, XlConfigError);
    return (error as Error).message;
  }
  return undefined;
}

for (const { what, text, says } of bad) {
  test(`refuses ${what}`, () => {
    assert.is(
      message(() => parseXlConfig(text, 'web.cfg')),
      `web.cfg:${says}`,
    );
  });
}

test('a file that is too long is refused', () => {
  assert.is(
    message(() => parseXlConfig('#'.repeat(256 * 1024 + 1), 'web.cfg')),
    'web.cfg:1: is longer than 262144 characters',
  );
});

function guest(text: string): Guest {
  return describeGuest(parseXlConfig(text, 'web.cfg'));
}

test('a PVH guest', () => {
  const { disks, vifs, ...rest } = guest(`name = "web"
type = "pvh"
kernel = "/boot/vmlinuz"
ramdisk = '/boot/initrd'
memory = 96
vcpus = 2
vif = [ 'mac=00:16:3e:00:00:01, bridge=xenbr0,script=vif-bridge', '' ]
disk = [ 'phy:/dev/vg0/web,xvda,w' ]
`);
  assert.equal(rest, {
    name: 'web',
    type: 'pvh',
    kernel: '/boot/vmlinuz',
    ramdisk: '/boot/initrd',
    memoryMiB: 96,
    maxMemoryMiB: 96,
    vcpus: 2,
    hostDevices: [],
  });
  assert.equal(
    disks.map(({ vdev }) => vdev),
    ['xvda'],
  );
  assert.equal(
    [...(vifs[0]?.parameters ?? [])],
    [
      ['mac', '00:16:3e:00:00:01'],
      ['bridge', 'xenbr0'],
      ['script', 'vif-bridge'],
    ],
  );
  assert.is(vifs.length, 2);
});

const types: { text: string; is: Guest['type'] }[] = [
  { text: '', is: 'pv' },
  { text: 'type = "pv"', is: 'pv' },
  { text: 'type = "pvh"', is: 'pvh' },
  { text: 'type = "hvm"', is: 'hvm' },
  { text: 'builder = "hvm"', is: 'hvm' },
  { text: 'builder = "generic"', is: 'pv' },
  { text: 'builder = "generic"\npvh = 1', is: 'pvh' },
  { text: 'builder = "hvm"\ntype = "pvh"', is: 'pvh' },
];

for (const { text, is } of types) {
  test(`the type of a guest with ${text || 'nothing'} is ${is}`, () => {
    assert.is(guest(`name='web'; memory=1\n${text}`).type, is);
  });
}

test('numbers are read as xl reads them', () => {
  const memory = (text: string): number => guest(`name = 'web'\nmemory = ${text}`).memoryMiB;
  assert.is(memory('96'), 96);
  assert.is(memory('"96"'), 96);
  assert.is(memory('0x60'), 96);
  assert.is(memory('0140'), 96);
  assert.is(guest("name='w'; memory=96; maxmem=200").maxMemoryMiB, 200);
  assert.is(guest("name='w'; memory=96; memory=97").memoryMiB, 97, 'the last one counts');
});

test('devices of the host are named', () => {
  const text = "name='w'; memory=1; pci=['03:00.0']; usbdev=[]; irqs=[5]; vtpm=''";
  assert.equal(guest(text).hostDevices, ['pci', 'irqs']);
});

const wrongGuests: { text: string; says: string }[] = [
  { text: 'memory = 96', says: '1: name is required' },
  { text: "name = 'web'", says: '1: memory is required' },
  { text: "name = ['web']\nmemory = 96", says: '1: name is a list, expected one value' },
  { text: "name = 'web'\nmemory = '96M'", says: '2: memory is "96M", expected a whole number' },
  { text: "name = 'web'\nmemory = 08", says: '2: memory is "08", expected a whole number' },
  { text: "name = 'web'\nmemory = 96\ntype = 'pvhvm'", says: '3: type is "pvhvm"; xl has pv, pvh and hvm' },
  { text: "name = 'web'\nmemory = 96\nbuilder = 'x'", says: '3: builder is "x"; xl has generic and hvm' },
  { text: "name = 'web'\nmemory = 96\nvif = 'bridge=x'", says: '3: vif is one value, expected a list' },
  { text: "name = 'web'\nmemory = 96\nvif = [['a']]", says: '3: vif has a list in its list, expected texts' },
  { text: "name = 'web'\nmemory = 96\nvif = [\n'xenbr0']", says: '4: vif has "xenbr0", expected key=value' },
  {
    text: "name = 'web'\nmemory = 96\nmemory += 4",
    says: '3: memory is added to with "+="; give it in one assignment',
  },
  { text: "name = 'web'\nmemory = 96\ndisk = ['/dev/x']", says: '3: disk "/dev/x" names no vdev' },
];

for (const { text, says } of wrongGuests) {
  test(`refuses a guest: ${says}`, () =>
    assert.is(
      message(() => guest(text)),
      `web.cfg:${says}`,
    ));
}

/** Forms of xl-disk-configuration(5), with what matters in them. */
const disks: { text: string; vdev: string; cdrom: boolean; target?: string }[] = [
  { text: '/dev/vg/guest-volume,,hda', vdev: 'hda', cdrom: false, target: '/dev/vg/guest-volume' },
  { text: '/dev/vg/guest-volume,raw,hda,rw', vdev: 'hda', cdrom: false, target: '/dev/vg/guest-volume' },
  {
    text: 'format=raw, vdev=hda, access=rw, target=/dev/vg/guest-volume',
    vdev: 'hda',
    cdrom: false,
    target: '/dev/vg/guest-volume',
  },
  { text: 'raw:/dev/vg/guest-volume,hda,w', vdev: 'hda', cdrom: false, target: '/dev/vg/guest-volume' },
  { text: 'phy:/dev/vg/web,xvda,w', vdev: 'xvda', cdrom: false, target: '/dev/vg/web' },
  { text: '/root/image.iso,,hdc,cdrom', vdev: 'hdc', cdrom: true, target: '/root/image.iso' },
  { text: '/root/image.iso,,hdc,,cdrom', vdev: 'hdc', cdrom: true, target: '/root/image.iso' },
  {
    text: 'format=raw, vdev=hdc, access=ro, devtype=cdrom, target=/root/image.iso',
    vdev: 'hdc',
    cdrom: true,
    target: '/root/image.iso',
  },
  { text: 'file:/root/image.iso,hdc:cdrom,r', vdev: 'hdc', cdrom: true, target: '/root/image.iso' },
  { text: ',,hdc,cdrom', vdev: 'hdc', cdrom: true },
  { text: 'vdev=xvdb,target=/a,b=c,cdrom', vdev: 'xvdb', cdrom: false, target: '/a,b=c,cdrom' },
  { text: 'script=block-drbd,discard,vdev=xvda,target=web', vdev: 'xvda', cdrom: false, target: 'web' },
];

for (const { text, ...is } of disks) {
  test(`understands the disk ${text}`, () => {
    const [disk] = guest(`name='w'; memory=1; disk=['${text}']`).disks;
    const { vdev, cdrom, target } = disk ?? {};
    assert.equal({ vdev, cdrom, ...(target === undefined ? {} : { target }) }, is);
  });
}

const OURS = [{ vdev: 'xvda', text: 'vdev=xvda,target=web/0' }];

function withOurs(text: string): string {
  return replaceDisks(parseXlConfig(text, 'web.cfg'), OURS);
}

test('a disk is replaced where it stands, and nothing else changes', () => {
  assert.is(
    withOurs("name = 'web' ;  memory=1\ndisk  =  [ 'phy:/dev/x,xvda,w' ] # mine\nextra = \"a  b\"\n"),
    "name = 'web' ;  memory=1\ndisk  =  [\n  'vdev=xvda,target=web/0',\n] # mine\nextra = \"a  b\"\n",
  );
});

test('disks are added at the end where there are none', () => {
  const added = "disk = [\n  'vdev=xvda,target=web/0',\n]\n";
  assert.is(withOurs("name='web'; memory=1\n"), `name='web'; memory=1\n${added}`);
  assert.is(withOurs("name='web'; memory=1 # end"), `name='web'; memory=1 # end\n${added}`);
});

test('a CD drive stays as it is written', () => {
  assert.match(
    withOurs(`name='web'; memory=1; disk = ["phy:/dev/x,xvda,w", "/a b\\".iso,,hdc,cdrom"]`),
    `[\n  'vdev=xvda,target=web/0',\n  "/a b\\".iso,,hdc,cdrom",\n]\n`,
  );
});

test('a disk that is not replicated is refused', () => {
  assert.is(
    message(() => withOurs("name='web'; memory=1\ndisk = [\n 'phy:/dev/x,xvda,w',\n 'phy:/dev/y,xvdb,r' ]")),
    "web.cfg:4: disk xvdb isn't replicated, so the guest would lose it in a failover; name it in the domain's disks, or take it out",
  );
});

test('a second list of disks is refused', () => {
  assert.is(
    message(() => withOurs("name='web'; memory=1\ndisk = []\ndisk = []")),
    'web.cfg:3: disk is assigned a second time',
  );
});

/** Pieces that configurations are made of, in any order. */
const pieces = fc
  .array(
    fc.oneof(
      fc.constantFrom(
        'name',
        'disk',
        'memory',
        'vif',
        ' = ',
        '=',
        '+=',
        '[',
        ']',
        ',',
        ';',
        '\n',
        ' ',
        '\t',
        '#',
        '"',
        "'",
        '\\',
        '\\"',
        "'web'",
        '"x"',
        '96',
        '0x',
        'xvda',
        'hdc',
        'cdrom',
        "'vdev=xvda'",
        "'a,,hdc,cdrom'",
        'disk=[',
        "name='web'\n",
        'memory=1\n',
      ),
      fc.string({ maxLength: 4 }),
    ),
    { maxLength: 40 },
  )
  .map((parts) => parts.join(''));

test('no text makes it throw anything but its own error', () => {
  const texts = fc.oneof(pieces, fc.string({ unit: 'binary' }), fc.string({ unit: 'grapheme' }));
  fc.assert(
    fc.property(texts, (text) => {
      message(() => {
        const config = parseXlConfig(text, 'web.cfg');
        describeGuest(config);
        replaceDisks(config, OURS);
      });
    }),
    { numRuns: 5000 },
  );
});

/** Configurations that are right, with all the freedom that the syntax gives. */
const space = fc.constantFrom('', ' ', '\t', '  ');
const quoted = fc
  .tuple(fc.constantFrom('"', "'"), fc.string({ unit: fc.constantFrom(...'ab é#[];,=\'"\\') }))
  .map(([quote, text]) => quote + text.replaceAll('\\', '\\\\').replaceAll(quote, `\\${quote}`) + quote);
const atom = fc.oneof(quoted, fc.nat({ max: 9999 }).map(String));
const blank = fc.constantFrom('', ' ', '\n', ' # b ]\n  ');
const list = fc
  .tuple(fc.array(fc.tuple(blank, atom, blank).map((parts) => parts.join(''))), blank)
  .map(([items, end]) => `[${items.join(',')}${items.length > 0 ? ',' : ''}${end}]`);
const other = fc
  .tuple(space, fc.constantFrom('extra', 'vif_x', 'a1', 'serial'), space, space, fc.oneof(atom, list), space)
  .map(([a, key, b, c, value, d]) => `${a}${key}${b}=${c}${value}${d}`);
const separator = fc.constantFrom('\n', ';', ' # comment; disk = []\n', '\n\n');
const lines = fc.array(fc.tuple(other, separator).map((parts) => parts.join('')));
const withDisk = fc.constantFrom(
  "disk=['phy:/dev/x,xvda,w']",
  "disk = [\n'vdev=xvda,target=/x' # ]\n,]",
  'disk = []',
);

test('everything but the disks is written back byte for byte', () => {
  fc.assert(
    fc.property(lines, fc.option(withDisk), lines, (before, disk, after) => {
      const head = `name = 'web'\nmemory = 1\n${before.join('')}`;
      const tail = `\n${after.join('')}`;
      const text = head + (disk ?? '') + tail;
      const written = withOurs(text);
      const ours = "[\n  'vdev=xvda,target=web/0',\n]";
      const newline = (part: string): string => (part.endsWith('\n') ? part : `${part}\n`);
      assert.is(
        written,
        disk === null
          ? `${newline(text)}disk = ${ours}\n`
          : newline(`${head}${disk.slice(0, disk.indexOf('['))}${ours}${tail}`),
      );
      const without = (config: string): unknown => assignments(config).filter(([key]) => key !== 'disk');
      assert.equal(without(written), without(text));
      assert.equal(
        assignments(written).filter(([key]) => key === 'disk'),
        [['disk', ['vdev=xvda,target=web/0']]],
      );
    }),
    { numRuns: 1000 },
  );
});

test.run();
