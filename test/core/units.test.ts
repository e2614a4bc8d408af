/** Sizes and durations. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';

import { formatDuration, formatSize, parseDuration, parseSize, show } from '../../src/core/units.js';

const test = suite('units');

const sizes: [unknown, number | string][] = [
  ['20GiB', 20 * 2 ** 30],
  ['512MiB', 512 * 2 ** 20],
  ['4 KiB', 4096],
  ['1TiB', 2 ** 40],
  ['4096', 4096],
  [4096, 4096],
  [0, 0],
  ['20GB', 'unknown unit in "20GB"; did you mean 20GiB?'],
  ['20g', 'unknown unit in "20g"; did you mean 20GiB?'],
  ['20constructor', 'unknown unit in "20constructor"'],
  ['9999999999TiB', '"9999999999TiB" is too large'],
  [1.5, 'expected a size such as 20GiB, 512MiB or a number of bytes, found 1.5'],
  [NaN, 'expected a size such as 20GiB, 512MiB or a number of bytes, found NaN'],
  [null, 'expected a size such as 20GiB, 512MiB or a number of bytes, found nothing'],
  [['1GiB'], 'expected a size such as 20GiB, 512MiB or a number of bytes, found a list'],
  ['', 'expected a size such as 20GiB, 512MiB or a number of bytes, found ""'],
];

for (const [input, is] of sizes) {
  test(`the size ${show(input)}`, () => {
    assert.equal(parseSize(input), typeof is === 'number' ? { value: is } : { problem: is });
  });
}

const durations: [unknown, number | string][] = [
  ['100ms', 100],
  ['1s', 1000],
  ['2m', 120_000],
  ['0s', 0],
  [100, '100 has no unit; expected a duration such as 100ms, 1s or 2m'],
  ['1.5s', 'expected a duration such as 100ms, 1s or 2m, found "1.5s"'],
  ['-1s', 'expected a duration such as 100ms, 1s or 2m, found "-1s"'],
  ['1h', 'expected a duration such as 100ms, 1s or 2m, found "1h"'],
  [{}, 'expected a duration such as 100ms, 1s or 2m, found a map'],
];

for (const [input, is] of durations) {
  test(`the duration ${show(input)}`, () => {
    assert.equal(parseDuration(input), typeof is === 'number' ? { value: is } : { problem: is });
  });
}

test('values are printed in the largest unit that fits exactly', () => {
  assert.equal([1, 512, 1024, 1536, 2 ** 30, 3 * 2 ** 40].map(formatSize), [
    '1 bytes',
    '512 bytes',
    '1KiB',
    '1536 bytes',
    '1GiB',
    '3TiB',
  ]);
  assert.equal([0, 5, 1000, 1500, 60_000].map(formatDuration), ['0ms', '5ms', '1s', '1500ms', '1m']);
});

test('what the file has is shown short and on one line', () => {
  assert.is(show('a\nb'), '"a\\nb"');
  assert.is(show('x'.repeat(1000)).length, 60);
});

test.run();
