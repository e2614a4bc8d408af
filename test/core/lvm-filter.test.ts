/** LVM's filters: as `lvmconfig` of lvm2 2.03.16 prints them, and whom they let through. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { isRefused, parseLvmFilters } from '../../src/core/parse/lvm-filter.js';
import { ParseError } from '../../src/core/parse/text.js';

const test = suite('LVM filters');

test('what lvmconfig prints', () => {
  const text = 'filter=["a|.*|"]\nglobal_filter=["r|^/dev/drbd|","r|^/dev/mapper/remus-|"]\n';
  assert.equal(parseLvmFilters(text), {
    filter: ['a|.*|'],
    globalFilter: ['r|^/dev/drbd|', 'r|^/dev/mapper/remus-|'],
  });
  assert.equal(parseLvmFilters('filter=["r|\\"|"]\n').filter, ['r|"|']);
  for (const bad of ['filter=[]', 'filters=["a|.*|"]', 'x']) {
    assert.throws(
      () => parseLvmFilters(`${bad}\n`),
      (error: unknown) => error instanceof ParseError,
    );
  }
});

test('a name is judged by the first pattern that matches it, a device by all of its names', () => {
  const refused = (globalFilter: string[], ...names: string[]): boolean | undefined =>
    isRefused({ filter: ['a|.*|'], globalFilter }, names);
  assert.is(refused(['r|^/dev/drbd|'], '/dev/drbd1'), true);
  assert.is(refused(['a|drbd1|', 'r|^/dev/drbd|'], '/dev/drbd1'), false);
  assert.is(refused(['r|^/dev/drbd1$|'], '/dev/drbd1', '/dev/by-res/web'), true);
  assert.is(refused(['r|^/dev/drbd1$|', 'a|by-res|'], '/dev/drbd1', '/dev/by-res/web'), false);
  assert.is(refused(['r{^/dev/drbd}'], '/dev/drbd1'), true);
  assert.is(refused([], '/dev/drbd1'), false);
  for (const pattern of ['r|[|', 'x|a|', 'r', 'r|a']) assert.is(refused([pattern], '/dev/drbd1'), undefined);
});

test.run();
