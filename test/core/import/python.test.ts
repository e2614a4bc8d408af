/** The reader of the old guest configurations' syntax: what is read, what is named, and that it always ends. */
import fc from 'fast-check';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';

import { parsePython } from '../../../src/core/import/python.js';
import type { PyValue } from '../../../src/core/import/python.js';

const test = suite('old guest syntax');

type Plain = string | number | null | Plain[];

function plain(value: PyValue): Plain {
  switch (value.kind) {
    case 'none':
      return null;
    case 'list':
      return value.items.map(plain);
    case 'number':
      return Number(value.text);
    case 'text':
      return value.text;
  }
}

function assignments(text: string): [string, Plain][] {
  return parsePython(text).map((statement) => {
    if (statement.kind !== 'assignment') throw new Error(JSON.stringify(statement));
    return [statement.key, plain(statement.value)];
  });
}

const good: { what: string; text: string; is: [string, Plain][] }[] = [
  { what: 'nothing', text: '', is: [] },
  { what: 'comments', text: '# a\n\n  # b', is: [] },
  {
    what: 'both quotes',
    text: `a = "it's"\nb='say "x"'`,
    is: [
      ['a', "it's"],
      ['b', 'say "x"'],
    ],
  },
  { what: 'escapes', text: String.raw`a = 'q\' \\ \n \x41 \101 \q'`, is: [['a', "q' \\ \n A A \\q"]] },
  { what: 'raw texts', text: String.raw`a = r'\n\d'`, is: [['a', '\\n\\d']] },
  {
    what: 'triple quotes over lines',
    text: 'a = """one\n"two" # no comment\n"""\nb = 1',
    is: [
      ['a', 'one\n"two" # no comment\n'],
      ['b', 1],
    ],
  },
  {
    what: 'texts side by side',
    text: "a = 'x' \"y\"\nb = [ 'x'\n 'y', ]",
    is: [
      ['a', 'xy'],
      ['b', ['xy']],
    ],
  },
  {
    what: 'sums',
    text: "a = 'x' + 'y' + \\\n 'z'\nb = ['p'] + ['q']",
    is: [
      ['a', 'xyz'],
      ['b', ['p', 'q']],
    ],
  },
  {
    what: 'numbers',
    text: 'a = 12; b = 0x1F; c = 017; d = 1L; e = -1; f = 0o17',
    is: [
      ['a', 12],
      ['b', 31],
      ['c', 15],
      ['d', 1],
      ['e', -1],
      ['f', 15],
    ],
  },
  {
    what: 'constants',
    text: 'a = None\nb = True\nc = False',
    is: [
      ['a', null],
      ['b', 1],
      ['c', 0],
    ],
  },
  { what: 'lists in lists', text: "a = [ [1, 'b'], [], # c\n  3,\n]", is: [['a', [[1, 'b'], [], 3]]] },
  {
    what: 'parentheses',
    text: "a = ( 'x'\n  'y' )\nb = ('x',)",
    is: [
      ['a', 'xy'],
      ['b', ['x']],
    ],
  },
  {
    what: 'a hash, brackets and semicolons in texts',
    text: `a = '# [ ; {'\nb = "]"`,
    is: [
      ['a', '# [ ; {'],
      ['b', ']'],
    ],
  },
  {
    what: 'lines that end in CR LF',
    text: 'a = 1\r\nb = 2\r\n',
    is: [
      ['a', 1],
      ['b', 2],
    ],
  },
  {
    what: 'indented assignments outside of a block',
    text: '  a = 1\n\tb = 2',
    is: [
      ['a', 1],
      ['b', 2],
    ],
  },
  {
    what: 'keys that look like keywords',
    text: "import_x = 1\nforx = 'a'",
    is: [
      ['import_x', 1],
      ['forx', 'a'],
    ],
  },
];

for (const { what, text, is } of good) {
  test(`reads ${what}`, () => assert.equal(assignments(text), is));
}

/** Each is one bad statement between two good ones, which are read all the same. */
const bad: { what: string; text: string; says: RegExp }[] = [
  { what: 'a call', text: 'a = int(3)', says: /call "int\(\)" would have to be run/ },
  { what: 'a call that stands alone', text: 'print_it("x")', says: /call "print_it\(\)"/ },
  { what: 'a module', text: 'a = os.uname()[4]', says: /"os" is of a module/ },
  { what: 'an import', text: 'import os', says: /"import" would have to be run/ },
  { what: 'a format', text: "a = 'x%d' % 3", says: /"%" fills a text in/ },
  { what: 'a formatted text', text: "a = f'{x}'", says: /formatted text/ },
  { what: 'a variable', text: "a = 'x' + arch", says: /variable "arch" would have to be looked up/ },
  { what: 'a method', text: "a = 'x'.upper()", says: /method of a text/ },
  { what: 'a comprehension', text: 'a = [x for x in y]', says: /variable "x"/ },
  { what: 'arithmetic', text: 'a = 3 * 4', says: /"\* 4" would have to be computed/ },
  { what: 'a condition', text: "a = 'x' if 1 else 'y'", says: /"if" would have to be run/ },
  { what: 'a dictionary', text: "a = { 'x': 1 }", says: /dictionary/ },
  { what: 'a sum of number and text', text: "a = 1 + 'x'", says: /joins texts with texts/ },
  { what: 'a quote that is not closed', text: "a = 'x", says: /isn't closed on its line/ },
  { what: 'a list that is not closed', text: "a = [ 'x',", says: /never closed/ },
  { what: 'two targets', text: 'a, b = 1, 2', says: /expected "=" after "a"/ },
  { what: 'a comparison', text: 'a == 1', says: /expected "=" after "a"/ },
  { what: 'an unreadable escape', text: String.raw`a = '\N{BULLET}'`, says: /escape/ },
  {
    what: 'a condition with its block',
    text: 'if x:\n  a = 1\n\n  c = 2\nelse: a = 3',
    says: /"if" would have to be run/,
  },
];

for (const { what, text, says } of bad) {
  test(`names ${what}, and reads on`, () => {
    const statements = parsePython(`before = 1\n${text}\nafter = 2`);
    const problems = statements.flatMap((one) => (one.kind === 'problem' ? [one] : []));
    assert.match(problems[0]?.problem ?? 'no problem', says);
    assert.is(problems[0]?.line, 2);
    const keys = statements.flatMap((one) => (one.kind === 'assignment' ? [one.key] : []));
    assert.equal(keys, ['before', 'after']);
  });
}

test('says on which lines a statement stands', () => {
  const text = 'a = [\n  1,\n\n  "x"\n]; b = """\n"""\n# c\nif a:\n  d = 1';
  const places = parsePython(text).map(({ kind, line, endLine }) => [kind, line, endLine]);
  assert.equal(places, [
    ['assignment', 1, 5],
    ['assignment', 5, 6],
    ['problem', 8, 8],
    ['problem', 9, 9],
  ]);
});

const FRAGMENTS = [
  'a',
  ' = ',
  "'",
  '"',
  '"""',
  "'''",
  '\\',
  '\n',
  '[',
  ']',
  '(',
  ')',
  ',',
  '+',
  '#',
  ';',
  '1',
  'if x:',
  '  ',
  '%',
  '{',
  'r',
  '\t',
];

test('any text is read: whole statements in order, none on the line of nothing', () => {
  const anything = fc.oneof(
    fc.string({ unit: 'binary', maxLength: 300 }),
    fc.array(fc.constantFrom(...FRAGMENTS), { maxLength: 120 }).map((parts) => parts.join('')),
  );
  fc.assert(
    fc.property(anything, (text) => {
      const lines = text.split('\n').length;
      let last = 1;
      for (const { line, endLine } of parsePython(text)) {
        assert.ok(
          line >= last && endLine >= line && endLine <= lines,
          `${line}..${endLine} after ${last} of ${lines}`,
        );
        last = line;
      }
    }),
    { numRuns: 3000 },
  );
});

test('texts made to take long do not', () => {
  const size = 200_000;
  for (const part of [
    '[\n',
    "a = '''\n",
    '(',
    'a = [',
    "'",
    '"""',
    'a=1;',
    '\\\n',
    '[[',
    "a = '' ",
    ' ',
    '\t#\n',
  ]) {
    const started = process.hrtime.bigint();
    parsePython(part.repeat(size / part.length));
    const seconds = Number(process.hrtime.bigint() - started) / 1e9;
    assert.ok(seconds < 60, `${JSON.stringify(part)} took ${seconds} s`);
  }
});

test.run();
