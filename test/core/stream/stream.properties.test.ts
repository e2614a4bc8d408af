/** Any chunking gives the same events; no bytes do anything but a StreamError; what is encoded comes back. */
import fc from 'fast-check';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { StreamDecoder } from '../../../src/core/stream/decoder.js';
import { StreamError } from '../../../src/core/stream/error.js';
import { StreamRestore } from '../../../src/core/stream/restore.js';
import { cut, decodeAll, encodeSample, page } from './sample.js';
import type { Sample } from './sample.js';

const PFN_END = 40;

const sampleArbitrary: fc.Arbitrary<Sample> = fc.record({
  version: fc.constantFrom(2 as const, 3 as const),
  config: fc.uint8Array({ maxLength: 200 }),
  configIsJson: fc.boolean(),
  emulator: fc.boolean(),
  checkpoints: fc.array(
    fc.record({
      pages: fc.uniqueArray(
        fc.tuple(fc.nat(PFN_END - 1), fc.nat(255)).map(([pfn, fill]) => page(pfn, fill)),
        { maxLength: 4, selector: ({ pfn }) => pfn },
      ),
      context: fc.uint8Array({ maxLength: 40 }),
    }),
    { minLength: 1, maxLength: 4 },
  ),
  end: fc.boolean(),
});

const sizesArbitrary = fc.array(fc.oneof(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 9000 })), {
  minLength: 1,
  maxLength: 8,
});

/** What a decoder makes of bytes up to a fault, and the fault. */
function outcome(chunks: Iterable<Uint8Array>): { events: unknown[]; error: unknown } {
  const decoder = new StreamDecoder();
  const events: unknown[] = [];
  try {
    for (const chunk of chunks) {
      for (let at = 0; at < chunk.length;) {
        const piece = chunk.subarray(at, at + Math.max(1, decoder.need().bytes));
        const event = decoder.push(piece);
        at += piece.length;
        if (event !== null) events.push({ offset: decoder.offset, event });
      }
    }
  } catch (error) {
    if (!(error instanceof StreamError)) throw error;
    return { events, error: { code: error.code, offset: error.offset, message: error.message } };
  }
  return { events, error: null };
}

function restoreAny(bytes: Uint8Array, sizes: readonly number[]): void {
  const reader = new StreamRestore({ pfnEnd: PFN_END, bufferedBytesMax: 1 << 20 });
  try {
    for (const chunk of cut(bytes, sizes)) reader.push(chunk);
    const guest = reader.end();
    assert.ok(guest.pages.size <= PFN_END);
  } catch (error) {
    if (!(error instanceof StreamError)) throw error;
  }
}

test('the same events, offsets and bytes under any chunking', () => {
  fc.assert(
    fc.property(sampleArbitrary, sizesArbitrary, (sample, sizes) => {
      const bytes = encodeSample(sample);
      const whole = decodeAll([bytes]);
      const cutUp = decodeAll(cut(bytes, sizes));
      assert.equal(cutUp.events, whole.events);
      assert.equal(cutUp.passed, bytes);
      assert.equal(whole.passed, bytes);
    }),
    { numRuns: 150 },
  );
});

test('what is encoded is restored', () => {
  fc.assert(
    fc.property(sampleArbitrary, sizesArbitrary, (sample, sizes) => {
      const reader = new StreamRestore({ pfnEnd: PFN_END, bufferedBytesMax: 1 << 20 });
      for (const chunk of cut(encodeSample(sample), sizes)) reader.push(chunk);
      const guest = reader.end();
      const expected = new Map<number, number | undefined>();
      for (const { pages } of sample.checkpoints)
        for (const { pfn, bytes } of pages) expected.set(pfn, bytes[0]);
      assert.is(guest.checkpoint, sample.checkpoints.length);
      assert.equal(new Map([...guest.pages].map(([pfn, bytes]) => [pfn, bytes[0]])), expected);
      for (const bytes of guest.pages.values()) assert.ok(bytes.every((byte) => byte === bytes[0]));
      assert.equal(guest.hvmContext, Buffer.from(sample.checkpoints.at(-1)?.context ?? []));
      assert.equal(guest.config, sample.config.length === 0 ? null : Buffer.from(sample.config));
    }),
    { numRuns: 150 },
  );
});

test('arbitrary bytes throw nothing but a StreamError', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 3000 }), sizesArbitrary, (bytes, sizes) => {
      assert.equal(outcome(cut(bytes, sizes)), outcome([bytes]));
      restoreAny(bytes, sizes);
    }),
    { numRuns: 200 },
  );
});

test('a stream with changed bytes gives the same outcome under any chunking, and nothing but a StreamError', () => {
  const mutation = fc.record({
    /** From the start of a header that some event ended at, or anywhere. */
    event: fc.option(fc.nat(60)),
    at: fc.nat(60_000),
    bytes: fc.oneof(
      fc.uint8Array({ minLength: 1, maxLength: 8 }),
      fc.constantFrom([0xff, 0xff, 0xff, 0xff], [0, 0, 0, 0], [0xff, 0xff, 0xff, 7], [1, 0, 0, 0x80]),
    ),
  });
  fc.assert(
    fc.property(
      sampleArbitrary,
      fc.array(mutation, { minLength: 1, maxLength: 3 }),
      fc.nat(100),
      sizesArbitrary,
      (sample, mutations, cutPercent, sizes) => {
        const bytes = encodeSample(sample);
        const { events } = decodeAll([bytes]);
        for (const { event, at, bytes: changed } of mutations) {
          const base = event === null ? at : (events[event % events.length]?.offset ?? 0) - 8 + (at % 16);
          for (const [index, byte] of changed.entries()) bytes[Math.abs(base + index) % bytes.length] = byte;
        }
        const ended = bytes.subarray(0, bytes.length - Math.floor((bytes.length * (cutPercent % 40)) / 100));
        assert.equal(outcome(cut(ended, sizes)), outcome([ended]));
        restoreAny(ended, sizes);
      },
    ),
    { numRuns: 500 },
  );
});

test('a length that is only claimed takes no memory', () => {
  const bytes = encodeSample({
    version: 3,
    config: new Uint8Array(0),
    configIsJson: true,
    emulator: false,
    checkpoints: [],
    end: false,
  });
  const claim = Buffer.alloc(8);
  claim.writeUInt32LE(1, 0);
  claim.writeUInt32LE(128 << 20, 4);
  const readers: StreamRestore[] = [];
  const before = process.memoryUsage().arrayBuffers;
  for (let n = 0; n < 200; n++) {
    const reader = new StreamRestore({ pfnEnd: PFN_END, bufferedBytesMax: 1 << 30 });
    reader.push(Buffer.concat([bytes, claim, Buffer.alloc(10)]));
    readers.push(reader);
  }
  // 200 times 128 MiB were claimed.
  assert.ok(process.memoryUsage().arrayBuffers - before < 64 << 20);
  assert.is(readers.length, 200);
});

test.run();
