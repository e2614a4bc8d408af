/** What the decoder says of a stream, and how it refuses what is none. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { StreamDecoder } from '../../../src/core/stream/decoder.js';
import { encodePagesWithoutData, encodeRecord } from '../../../src/core/stream/encoder.js';
import { StreamError } from '../../../src/core/stream/error.js';
import type { StreamErrorCode } from '../../../src/core/stream/error.js';
import { RECORD_BYTES_MAX } from '../../../src/core/stream/format.js';
import { checkpointParts, cut, decodeAll, encodeSample, head, page, SAMPLE, show } from './sample.js';

const MIB = 1 << 20;
const lines = (bytes: Uint8Array): string[] => decodeAll([bytes]).events.map(({ event }) => show(event));

test('a PVH guest of version 3', () => {
  const bytes = encodeSample(SAMPLE);
  assert.equal(lines(bytes), [
    'stream-start config=27 json',
    'libxl LIBXC_CONTEXT 0 of 1',
    'image-start v3 hvm Xen 4.17',
    'libxc X86_CPUID_POLICY 72 of 1',
    'libxc X86_CPUID_POLICY ended',
    'libxc X86_MSR_POLICY 16 of 1',
    'libxc X86_MSR_POLICY ended',
    'libxc STATIC_DATA_END 0 of 1',
    'libxc PAGE_DATA 12320 of 1',
    'libxc PAGE_DATA ended',
    'libxc X86_TSC_INFO 24 of 1',
    'libxc X86_TSC_INFO ended',
    'libxc HVM_CONTEXT 5 of 1',
    'libxc HVM_CONTEXT ended',
    'libxc HVM_PARAMS 24 of 1',
    'libxc HVM_PARAMS ended',
    'CHECKPOINT 1',
    'CHECKPOINT_END 1',
    'libxc PAGE_DATA 4112 of 2 HOLDS',
    'libxc PAGE_DATA ended',
    'libxc X86_TSC_INFO 24 of 2',
    'libxc X86_TSC_INFO ended',
    'libxc HVM_CONTEXT 6 of 2',
    'libxc HVM_CONTEXT ended',
    'libxc HVM_PARAMS 24 of 2',
    'libxc HVM_PARAMS ended',
    'CHECKPOINT 2',
    'CHECKPOINT_END 2',
    'libxc PAGE_DATA 8216 of 3 HOLDS',
    'libxc PAGE_DATA ended',
    'libxc X86_TSC_INFO 24 of 3',
    'libxc X86_TSC_INFO ended',
    'libxc HVM_CONTEXT 9 of 3',
    'libxc HVM_CONTEXT ended',
    'libxc HVM_PARAMS 24 of 3',
    'libxc HVM_PARAMS ended',
    'CHECKPOINT 3',
    'CHECKPOINT_END 3',
  ]);
  assert.equal(decodeAll([bytes]).passed, bytes);
});

test('version 2, a device model, an xl.cfg, and the END of a plain stream', () => {
  const bytes = encodeSample({
    ...SAMPLE,
    version: 2,
    emulator: true,
    configIsJson: false,
    config: Buffer.from('name="web"'),
    checkpoints: SAMPLE.checkpoints.slice(0, 1),
    end: true,
  });
  assert.equal(lines(bytes).slice(0, 3), [
    'stream-start config=10',
    'libxl LIBXC_CONTEXT 0 of 1',
    'image-start v2 hvm Xen 4.17',
  ]);
  assert.equal(lines(bytes).slice(-8), [
    'CHECKPOINT 1',
    'libxl EMULATOR_XENSTORE_DATA 14 of 1',
    'libxl EMULATOR_XENSTORE_DATA ended',
    'libxl EMULATOR_CONTEXT 108 of 1',
    'libxl EMULATOR_CONTEXT ended',
    'CHECKPOINT_END 1',
    'END of libxc',
    'END of libxl',
  ]);
  assert.equal(decodeAll([bytes]).decoder.need(), { kind: 'end', bytes: 0 });
});

test('a guest is held only by an epoch whose first record is longer than a page of a pipe', () => {
  const epochs = (...records: (readonly Uint8Array[])[]): string[] =>
    lines(
      Buffer.concat([
        ...head(SAMPLE),
        ...checkpointParts({ pages: [page(0, 0)], context: Buffer.alloc(0) }),
        ...records.flat(),
        ...encodeRecord(0x0e),
      ]),
    ).slice(-4);
  const many = Array.from({ length: 2000 }, (_, pfn) => page(pfn, 1));
  assert.equal(epochs(encodePagesWithoutData([5], 0xf)), [
    'CHECKPOINT_END 1',
    'libxc PAGE_DATA 16 of 2',
    'libxc PAGE_DATA ended',
    'CHECKPOINT 2',
  ]);
  assert.equal(epochs().slice(-2), ['CHECKPOINT_END 1', 'CHECKPOINT 2 without pages']);
  const records = checkpointParts({ pages: many, context: Buffer.alloc(0) });
  const shown = lines(
    Buffer.concat([
      ...head(SAMPLE),
      ...checkpointParts({ pages: [page(0, 0)], context: Buffer.alloc(0) }),
      ...records,
    ]),
  ).filter((line) => line.includes('PAGE_DATA') && line.includes('of 2'));
  assert.equal(shown, ['libxc PAGE_DATA 4202504 of 2 HOLDS', 'libxc PAGE_DATA 4005512 of 2']);
});

test('exact reading: no byte beyond the boundary is ever asked for', () => {
  const bytes = encodeSample({ ...SAMPLE, emulator: true });
  const decoder = new StreamDecoder();
  for (let at = 0; at < bytes.length;) {
    const need = decoder.need();
    assert.ok(need.bytes > 0);
    const event = decoder.push(bytes.subarray(at, at + need.bytes));
    at += need.bytes;
    if (event?.kind === 'checkpoint' || event?.kind === 'checkpoint-end') {
      assert.equal(Buffer.from(event.header), bytes.subarray(at - 8, at));
    }
    if (event?.kind === 'record-begin' && event.holdsGuest) {
      // Here the sender stops: behind the eight bytes of the header, with the count of pages not read.
      assert.equal(bytes.readUInt32LE(at - 8), 1);
      assert.equal(decoder.need(), { kind: 'body', bytes: event.bodyBytes });
    }
  }
  assert.equal(decoder.offset, bytes.length);
  assert.throws(() => decoder.push(new Uint8Array(9)), RangeError);
});

test('optional data: none, no configuration, more than a configuration', () => {
  const bytes = encodeSample(SAMPLE);
  const withOptional = (optional: Uint8Array): string[] => {
    const xl = Buffer.from(bytes.subarray(0, 48));
    xl.writeUInt32LE(optional.length, 44);
    return lines(Buffer.concat([xl, optional, bytes.subarray(48 + 4 + SAMPLE.config.length)])).slice(0, 2);
  };
  const rest = 'libxl LIBXC_CONTEXT 0 of 1';
  assert.equal(withOptional(Buffer.alloc(0)), ['stream-start config=none json', rest]);
  assert.equal(withOptional(Buffer.alloc(4)), ['stream-start config=none json', rest]);
  assert.equal(withOptional(Buffer.from('\x02\0\0\0{}more')), ['stream-start config=2 json', rest]);
});

// Where things are in the sample: xl header 0, configuration 48, libxl header, LIBXC_CONTEXT, image, records.
const LIBXL = 48 + 4 + SAMPLE.config.length;
const CONTEXT = LIBXL + 16;
const IMAGE = CONTEXT + 8;
const RECORDS = IMAGE + 40;

interface Bad {
  what: string;
  code: StreamErrorCode;
  offset: number;
  change: (bytes: Buffer) => void;
}

const BAD: Bad[] = [
  { what: 'no xl stream', code: 'bad-magic', offset: 0, change: (b) => b.writeUInt8(0, 3) },
  { what: 'a big-endian xl', code: 'big-endian', offset: 0, change: (b) => b.writeUInt32LE(0x04030201, 32) },
  { what: 'no byte order', code: 'bad-magic', offset: 0, change: (b) => b.writeUInt32LE(1, 32) },
  { what: 'an unknown flag', code: 'unknown-flag', offset: 0, change: (b) => b.writeUInt32LE(7, 36) },
  {
    what: 'an unknown high flag',
    code: 'unknown-flag',
    offset: 0,
    change: (b) => b.writeUInt32LE(0x80000003, 36),
  },
  { what: 'Xen 4.5', code: 'legacy', offset: 0, change: (b) => b.writeUInt32LE(1, 36) },
  {
    what: 'a long configuration',
    code: 'bad-length',
    offset: 0,
    change: (b) => b.writeUInt32LE(MIB + 1, 44),
  },
  { what: 'half a length', code: 'bad-length', offset: 0, change: (b) => b.writeUInt32LE(3, 44) },
  { what: 'a configuration beyond', code: 'bad-length', offset: 48, change: (b) => b.writeUInt32LE(28, 48) },
  { what: 'no libxl', code: 'bad-magic', offset: LIBXL, change: (b) => b.writeUInt8(0, LIBXL + 7) },
  {
    what: 'libxl version 3',
    code: 'bad-version',
    offset: LIBXL,
    change: (b) => b.writeUInt32BE(3, LIBXL + 8),
  },
  {
    what: 'a big-endian libxl',
    code: 'big-endian',
    offset: LIBXL,
    change: (b) => b.writeUInt32BE(1, LIBXL + 12),
  },
  {
    what: 'a converted stream',
    code: 'legacy',
    offset: LIBXL,
    change: (b) => b.writeUInt32BE(2, LIBXL + 12),
  },
  {
    what: 'CHECKPOINT_END first',
    code: 'unexpected-record',
    offset: CONTEXT,
    change: (b) => b.writeUInt32LE(4, CONTEXT),
  },
  {
    what: 'END first',
    code: 'unexpected-record',
    offset: CONTEXT,
    change: (b) => b.writeUInt32LE(0, CONTEXT),
  },
  { what: 'COLO', code: 'unexpected-record', offset: CONTEXT, change: (b) => b.writeUInt32LE(5, CONTEXT) },
  {
    what: 'a new libxl record',
    code: 'unknown-record',
    offset: CONTEXT,
    change: (b) => b.writeUInt32LE(6, CONTEXT),
  },
  {
    what: 'a body of LIBXC_CONTEXT',
    code: 'bad-length',
    offset: CONTEXT,
    change: (b) => b.writeUInt32LE(8, CONTEXT + 4),
  },
  { what: 'no marker', code: 'bad-magic', offset: IMAGE, change: (b) => b.writeUInt8(0, IMAGE + 5) },
  { what: 'no id', code: 'bad-magic', offset: IMAGE, change: (b) => b.writeUInt8(0, IMAGE + 8) },
  {
    what: 'libxc version 1',
    code: 'bad-version',
    offset: IMAGE,
    change: (b) => b.writeUInt32BE(1, IMAGE + 12),
  },
  {
    what: 'libxc version 4',
    code: 'bad-version',
    offset: IMAGE,
    change: (b) => b.writeUInt32BE(4, IMAGE + 12),
  },
  {
    what: 'a big-endian libxc',
    code: 'big-endian',
    offset: IMAGE,
    change: (b) => b.writeUInt16BE(1, IMAGE + 16),
  },
  { what: 'PV', code: 'pv-guest', offset: IMAGE + 24, change: (b) => b.writeUInt32LE(1, IMAGE + 24) },
  {
    what: 'type 3',
    code: 'bad-domain-header',
    offset: IMAGE + 24,
    change: (b) => b.writeUInt32LE(3, IMAGE + 24),
  },
  {
    what: 'pages of 64 KiB',
    code: 'bad-domain-header',
    offset: IMAGE + 28,
    change: (b) => b.writeUInt16LE(16, IMAGE + 28),
  },
  {
    what: 'a PV record',
    code: 'unexpected-record',
    offset: RECORDS,
    change: (b) => b.writeUInt32LE(2, RECORDS),
  },
  {
    what: 'a backup record',
    code: 'unexpected-record',
    offset: RECORDS,
    change: (b) => b.writeUInt32LE(15, RECORDS),
  },
  {
    what: 'a new mandatory record',
    code: 'unknown-record',
    offset: RECORDS,
    change: (b) => b.writeUInt32LE(0x13, RECORDS),
  },
  {
    what: 'pages first',
    code: 'unexpected-record',
    offset: RECORDS,
    change: (b) => b.writeUInt32LE(1, RECORDS),
  },
  {
    what: 'a long policy',
    code: 'bad-length',
    offset: RECORDS,
    change: (b) => b.writeUInt32LE(MIB + 8, RECORDS + 4),
  },
];

for (const { what, code, offset, change } of BAD) {
  test(`refused, with its place: ${what}`, () => {
    const bytes = encodeSample(SAMPLE);
    change(bytes);
    for (const sizes of [[bytes.length], [1], [7, 100]]) {
      let found: unknown = null;
      try {
        decodeAll(cut(bytes, sizes));
      } catch (error) {
        found = error;
      }
      assert.instance(found, StreamError);
      if (!(found instanceof StreamError)) return;
      assert.equal([found.code, found.offset], [code, offset]);
      assert.ok(found.expected.length > 0 && found.found.length > 0);
    }
  });
}

test('a PV guest is refused with the reason', () => {
  const bytes = encodeSample(SAMPLE);
  bytes.writeUInt32LE(1, IMAGE + 24);
  assert.throws(() => decodeAll([bytes]), /PV guest.*Debian's Xen.*shadow paging/);
});

test('records that may be ignored are passed on, and others of a wrong length or in a wrong place are not', () => {
  const start = Buffer.concat([...head(SAMPLE)]);
  const after = (...records: (readonly Uint8Array[])[]): string[] =>
    lines(Buffer.concat([start, ...records.flat()])).slice(8);
  assert.equal(after(encodeRecord(0x8000_0001, Buffer.alloc(3))), [
    'libxc optional 0x80000001 3 of 1',
    'libxc optional 0x80000001 ended',
  ]);
  const header = (type: number, lengthBytes: number): Buffer[] => {
    const bytes = Buffer.alloc(8);
    bytes.writeUInt32LE(type, 0);
    bytes.writeUInt32LE(lengthBytes, 4);
    return [bytes];
  };
  const refused: [StreamErrorCode, Buffer[]][] = [
    ['bad-length', header(1, 8)],
    ['bad-length', header(1, 20)],
    ['bad-length', header(1, RECORD_BYTES_MAX + 8)],
    ['bad-length', header(8, 16)],
    ['bad-length', header(0x0a, 12)],
    ['bad-length', header(0x0a, 1 << 20)],
    ['bad-length', header(0x0e, 8)],
    ['bad-length', header(0x8000_0001, 0xffff_ffff)],
    ['bad-length', [...encodeRecord(0x0e), ...header(3, 0)]],
    ['unexpected-record', header(0x10, 0)],
    ['unexpected-record', [...encodeRecord(0x0e), ...header(0, 0)] as Buffer[]],
    ['unexpected-record', [...encodeRecord(0x0e), ...header(1, 0)] as Buffer[]],
    ['unexpected-record', [...encodeRecord(0), ...header(4, 0)] as Buffer[]],
    ['after-end', [...encodeRecord(0), ...encodeRecord(0), Buffer.alloc(1)] as Buffer[]],
  ] as [StreamErrorCode, Buffer[]][];
  for (const [code, records] of refused) {
    assert.throws(
      () => after(records),
      (error: unknown) => error instanceof StreamError && error.code === code,
      `${code} for ${Buffer.concat(records).toString('hex')}`,
    );
  }
});

test('what failed once fails for good, with the same error', () => {
  const decoder = new StreamDecoder();
  const bytes = Buffer.alloc(48);
  let first: unknown = null;
  try {
    decoder.push(bytes);
  } catch (error) {
    first = error;
  }
  assert.instance(first, StreamError);
  assert.throws(
    () => decoder.push(bytes),
    (error: unknown) => error === first,
  );
});

test.run();
