/** What a restored guest is after a stream that ended anywhere. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { StreamEvent } from '../../../src/core/stream/decoder.js';
import { encodePages, encodePagesWithoutData, encodeRecord } from '../../../src/core/stream/encoder.js';
import { StreamError } from '../../../src/core/stream/error.js';
import type { StreamErrorCode } from '../../../src/core/stream/error.js';
import { LibxcRecord, PageType } from '../../../src/core/stream/format.js';
import { StreamRestore } from '../../../src/core/stream/restore.js';
import type { Restored } from '../../../src/core/stream/restore.js';
import { checkpointParts, decodeAll, encodeSample, head, page, SAMPLE } from './sample.js';

const LIMITS = { pfnEnd: 64, bufferedBytesMax: 1 << 20 };

function restore(...chunks: Uint8Array[]): Restored {
  const reader = new StreamRestore(LIMITS);
  for (const chunk of chunks) reader.push(chunk);
  return reader.end();
}

/** The first byte of each page. */
const fills = ({ pages }: Restored): Record<number, number | undefined> =>
  Object.fromEntries([...pages].map(([pfn, bytes]) => [pfn, bytes[0]]));

const isError =
  (code: StreamErrorCode) =>
  (error: unknown): boolean =>
    error instanceof StreamError && error.code === code;

test('the last whole checkpoint, wherever the stream ends', () => {
  const bytes = encodeSample(SAMPLE);
  const offsetsOf = (kind: StreamEvent['kind']): number[] =>
    decodeAll([bytes]).events.flatMap(({ offset, event }) => (event.kind === kind ? [offset] : []));
  const [tails, ends] = [offsetsOf('checkpoint'), offsetsOf('checkpoint-end')];
  const expected = [
    { fills: { 0: 1, 1: 1, 7: 1 }, context: 'first' },
    { fills: { 0: 1, 1: 2, 7: 1 }, context: 'second' },
    { fills: { 0: 1, 1: 2, 7: 3, 8: 3 }, context: 'third one' },
  ];
  for (let at = 0; at <= bytes.length; at += at % 97 === 0 ? 1 : 8) {
    const whole = ends.filter((end) => end <= at).length;
    // Behind CHECKPOINT it is libxl that reads, and it does not take the end for one.
    const isInTail = tails.filter((tail) => tail <= at).length > whole;
    if (whole === 0 || isInTail) {
      assert.throws(() => restore(bytes.subarray(0, at)), isError('truncated'));
      continue;
    }
    const guest = restore(bytes.subarray(0, at));
    assert.is(guest.checkpoint, whole);
    const { fills: pages, context } = expected[whole - 1] ?? {};
    assert.equal(fills(guest), pages);
    assert.is(Buffer.from(guest.hvmContext ?? []).toString(), context);
    assert.equal(guest.config, SAMPLE.config);
  }
  const [[, tail = 0], [, second = 0]] = [tails, ends];
  assert.is(restore(bytes.subarray(0, tail - 1)).checkpoint, 1);
  assert.throws(() => restore(bytes.subarray(0, tail)), isError('truncated'));
  assert.throws(() => restore(bytes.subarray(0, second - 1)), isError('truncated'));
  assert.is(restore(bytes.subarray(0, second)).checkpoint, 2);
});

test('an END in the middle of an epoch drops the epoch; a plain stream is whole at its END', () => {
  const two = encodeSample({ ...SAMPLE, checkpoints: SAMPLE.checkpoints.slice(0, 2) });
  const end = Buffer.concat([...encodePages([page(9, 9)]), ...encodeRecord(LibxcRecord.END)]);
  const guest = restore(two, end);
  assert.equal([guest.checkpoint, fills(guest)], [2, { 0: 1, 1: 2, 7: 1 }]);

  const plain = restore(Buffer.concat([...head(SAMPLE)]), end);
  assert.equal([plain.checkpoint, fills(plain)], [0, { 9: 9 }]);
});

test('pages without data leave memory as it is, and allocated ones are zero', () => {
  const start = Buffer.concat([...head(SAMPLE), ...encodePages([page(1, 5)])]);
  const rest = Buffer.concat([
    ...encodePagesWithoutData([1, 2], PageType.invalid),
    ...encodePagesWithoutData([1, 3], PageType.allocateOnly),
    ...encodePagesWithoutData([1, 4], PageType.broken),
    ...checkpointParts({ pages: [], context: Buffer.alloc(0) }),
  ]);
  assert.equal(fills(restore(start, rest)), { 1: 5, 3: 0 });
});

test('pages that are not what their record says are refused', () => {
  const start = Buffer.concat([...head(SAMPLE)]);
  const record = (...words: (number | bigint)[]): Uint8Array => {
    const body = Buffer.alloc(8 + 8 * (words.length - 1));
    for (const [index, each] of words.entries()) body.writeBigUInt64LE(BigInt(each), 8 * index);
    return Buffer.concat([...encodeRecord(LibxcRecord.PAGE_DATA, body)]);
  };
  const cases: [string, StreamErrorCode, Uint8Array][] = [
    ['no page', 'bad-body', record(0, 1)],
    ['more pages than fit', 'bad-body', record(2, 0xfn << 60n)],
    ['a count that overflows', 'bad-body', record(0xffff_ffff, 0xfn << 60n)],
    ['a reserved type', 'bad-body', record(1, 5n << 60n)],
    ['no data', 'bad-body', record(1, 1)],
    ['data of none', 'bad-body', record(1, 0xfn << 60n, 0)],
    ['a page beyond the guest', 'over-limit', record(1, (0xfn << 60n) | 64n)],
    ['a page far beyond the guest', 'over-limit', record(1, (0xfn << 60n) | 0xf_ffff_ffff_ffffn)],
  ];
  for (const [what, code, bytes] of cases) assert.throws(() => restore(start, bytes), isError(code), what);
});

test('an epoch is bounded, and the live round is not', () => {
  const reader = new StreamRestore({ pfnEnd: 64, bufferedBytesMax: 20_000 });
  const pages = [0, 1, 2, 3, 4, 5, 6, 7].map((pfn) => page(pfn, 1));
  reader.push(Buffer.concat([...head(SAMPLE), ...checkpointParts({ pages, context: Buffer.alloc(0) })]));
  reader.push(Buffer.concat([...checkpointParts({ pages: pages.slice(0, 4), context: Buffer.alloc(0) })]));
  reader.push(Buffer.concat([...encodePages(pages.slice(0, 4))]));
  assert.throws(() => reader.push(Buffer.concat([...encodePages(pages.slice(4))])), isError('over-limit'));
});

test('restored pages are copies', () => {
  const bytes = encodeSample(SAMPLE);
  const reader = new StreamRestore(LIMITS);
  reader.push(bytes);
  const before = fills(reader.end());
  bytes.fill(0xff);
  assert.equal(fills(reader.end()), before);
});

test.run();
