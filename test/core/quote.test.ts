import { execFileSync } from 'node:child_process';
import fc from 'fast-check';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { QuoteError, quoteCommand, quoteWord, unquoteCommand } from '../../src/core/quote.js';

const test = suite('quote');

/** Text with much of what means something to a shell, and any other valid Unicode without NUL. */
const word = fc.oneof(
  fc.string({ unit: fc.constantFrom(...'\'"\\$`!*?[]{}()<>|&;#~= \t\n\rabc-'), maxLength: 20 }),
  fc.string({ unit: 'binary' }).filter((text) => !text.includes('\0')),
  fc.constantFrom('', 'if', 'done', 'A=1', '-n', '~root', "it's", '\\', "'", "''", '$(reboot)', '\n'),
);

test('any argument list comes back from a real sh as it was', () => {
  fc.assert(
    fc.property(fc.array(word, { maxLength: 8 }), (rest) => {
      const command = quoteCommand(['printf', '%s\\0', '', ...rest]);
      const output = execFileSync('/bin/sh', ['-c', command]).toString('utf8');
      assert.equal(output.split('\0').slice(1, -1), rest);
    }),
    { numRuns: 150 },
  );
});

test('the first word is a program, never an assignment or a keyword', () => {
  for (const program of ['A=1', 'if', 'while', 'case', 'no such program', '$x', "a'b"]) {
    const output = execFileSync('/bin/sh', ['-c', `${quoteCommand([program])} 2>&1; echo "$?"`]).toString();
    assert.match(output, /not found\n127\n$/, program);
  }
});

test('unquoting is the inverse', () => {
  fc.assert(
    fc.property(
      word.filter((text) => !/^(-|$)/.test(text)),
      fc.array(word, { maxLength: 8 }),
      (program, rest) => {
        assert.equal(unquoteCommand(quoteCommand([program, ...rest])), [program, ...rest]);
      },
    ),
  );
});

test('unquoting refuses what quoting would not have written', () => {
  const refused = ['', ' a', 'a ', 'a  b', 'a;b', 'a "b"', "a 'b'", "a 'b c", 'a $x', 'a\nb', 'a \\n', 'if'];
  for (const text of refused) assert.throws(() => unquoteCommand(text), isQuoteError, JSON.stringify(text));
});

test('refuses what no command can carry', () => {
  assert.throws(() => quoteWord('a\0b'), /NUL/);
  assert.throws(() => quoteCommand(['a\0b']), /NUL/);
  assert.throws(() => quoteWord('\ud800'), /Unicode/);
  assert.throws(() => quoteCommand([]), /program/);
  assert.throws(() => quoteCommand(['', 'a']), /program/);
  assert.throws(() => quoteCommand(['-x']), /program/);
});

test('leaves plain words readable', () => {
  assert.is(
    quoteCommand(['lvcreate', '--size', '4194304b', '/dev/vg0/a-1', 'it is', "it's", '']),
    "lvcreate --size 4194304b /dev/vg0/a-1 'it is' 'it'\\''s' ''",
  );
});

function isQuoteError(error: unknown): boolean {
  return error instanceof QuoteError;
}

test.run();
