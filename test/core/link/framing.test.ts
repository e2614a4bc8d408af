/** Both framings: the same under any chunking, and nothing but a LinkError on anything else. */
import fc from 'fast-check';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  BULK_FRAME_BYTES_MAX,
  BULK_HEADER_BYTES,
  BulkDecoder,
  CHECKPOINT_BYTES_MAX,
  encodeBulkHeader,
} from '../../../src/core/link/bulk.js';
import type { BulkHeader, BulkItem } from '../../../src/core/link/bulk.js';
import {
  CONTROL_FRAME_BYTES_MAX,
  ControlDecoder,
  encodeControl,
} from '../../../src/core/link/control-frames.js';
import { LinkError } from '../../../src/core/link/errors.js';
import type { FromSender } from '../../../src/core/link/messages.js';

/** Cuts bytes at places that are given modulo their number. */
function cut(bytes: Buffer, places: readonly number[]): Buffer[] {
  const at = [...new Set(places.map((place) => place % (bytes.length + 1)))].sort((a, b) => a - b);
  return [0, ...at].map((from, n) => bytes.subarray(from, at[n] ?? bytes.length));
}

function decodeControl(pieces: readonly Buffer[]): { values: unknown[]; atBoundary: boolean } {
  const decoder = new ControlDecoder();
  const values: unknown[] = [];
  for (const piece of pieces) {
    for (let rest = piece; rest.length > 0;) {
      const { used, json } = decoder.read(rest);
      assert.ok(used > 0, 'it has to go on');
      if (json === undefined) assert.is(used, rest.length);
      else values.push(json);
      rest = rest.subarray(used);
    }
  }
  return { values, atBoundary: decoder.atBoundary };
}

/** The items of a bulk stream, with neighbouring pieces of one frame put together. */
function decodeBulk(pieces: readonly Buffer[]): {
  items: unknown[];
  pieceBytesMax: number;
  decoder: BulkDecoder;
} {
  const decoder = new BulkDecoder();
  const items: { type: string; epoch?: number; bytes?: string; clean?: boolean }[] = [];
  let pieceBytesMax = 0;
  for (const piece of pieces) {
    for (let rest = piece; rest.length > 0;) {
      const { used, item } = decoder.read(rest);
      assert.ok(used > 0, 'it has to go on');
      if (item === undefined) assert.is(used, rest.length);
      else take(item);
      rest = rest.subarray(used);
    }
  }
  return { items, pieceBytesMax, decoder };

  function take(item: BulkItem): void {
    if (item.type === 'end') {
      items.push(item);
      return;
    }
    pieceBytesMax = Math.max(pieceBytesMax, item.bytes.length);
    const epoch = 'epoch' in item ? item.epoch : 0;
    const last = items.at(-1);
    const text = item.bytes.toString('latin1');
    if (item.type !== 'checkpoint' && last?.type === item.type && last.epoch === epoch) last.bytes += text;
    else items.push({ type: item.type, epoch, bytes: text });
  }
}

function frame(header: BulkHeader, bytes: Uint8Array = Buffer.alloc(0)): Buffer {
  return Buffer.concat([encodeBulkHeader(header, bytes.length), bytes]);
}

const places = fc.array(fc.nat(), { maxLength: 30 });
const message: fc.Arbitrary<FromSender> = fc.oneof(
  fc.record({
    type: fc.constant('heartbeat' as const),
    sequence: fc.nat(),
    sentMs: fc.nat(),
    state: fc.string({ unit: 'binary' }),
  }),
  fc.record({ type: fc.constant('guest-ended' as const), how: fc.constant('crash' as const) }),
);
const epoch = fc.oneof(fc.nat(), fc.maxSafeNat());
const content = fc.uint8Array({ minLength: 1, maxLength: 300 });
const bulkFrame: fc.Arbitrary<[BulkHeader, Uint8Array]> = fc.oneof(
  fc.tuple(fc.record({ type: fc.constant('data' as const), epoch }), content),
  fc.tuple(fc.record({ type: fc.constant('checkpoint' as const), epoch }), content),
  fc.tuple(fc.constant({ type: 'back' as const }), content),
);

test('control: what was encoded comes out, however it is cut', () => {
  fc.assert(
    fc.property(fc.array(message, { maxLength: 6 }), places, (messages, at) => {
      const bytes = Buffer.concat(messages.map(encodeControl));
      const { values, atBoundary } = decodeControl(cut(bytes, at));
      assert.equal(values, JSON.parse(JSON.stringify(messages)));
      assert.ok(atBoundary);
    }),
  );
});

test('control: a frame that is too long, empty, no UTF-8 or no JSON is an error as soon as that is known', () => {
  const header = (length: number): Buffer => {
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32BE(length);
    return bytes;
  };
  for (const bytes of [
    header(0),
    header(CONTROL_FRAME_BYTES_MAX + 1),
    header(0xffffffff),
    Buffer.concat([header(2), Buffer.from([0xc3, 0x28])]),
    Buffer.concat([header(4), Buffer.from('nope')]),
    Buffer.concat([header(4), Buffer.from('"\xff"x', 'latin1')]),
    Buffer.from('GET / HTTP/1.1\r\n\r\n'),
  ]) {
    assert.throws(
      () => decodeControl([bytes]),
      (error: unknown) => error instanceof LinkError,
      bytes.toString('latin1'),
    );
  }
  const long = { type: 'guest-ended', how: 'x'.repeat(CONTROL_FRAME_BYTES_MAX) } as unknown as FromSender;
  assert.throws(() => encodeControl(long), RangeError);
});

test('bulk: what was encoded comes out, however it is cut, and checkpoints come whole', () => {
  fc.assert(
    fc.property(fc.array(bulkFrame, { maxLength: 8 }), fc.boolean(), places, (frames, clean, at) => {
      const bytes = Buffer.concat([
        ...frames.map(([header, data]) => frame(header, data)),
        frame({ type: 'end', clean }),
      ]);
      const whole = decodeBulk([bytes]);
      const cutUp = decodeBulk(cut(bytes, at));
      assert.equal(cutUp.items, whole.items);
      assert.equal(whole.items.at(-1), { type: 'end', clean });
      assert.ok(cutUp.decoder.ended && cutUp.decoder.atBoundary);
      const expected = frames.filter(([header]) => header.type === 'checkpoint');
      const found = whole.items.filter((item) => (item as BulkItem).type === 'checkpoint');
      assert.equal(
        found,
        expected.map(([header, data]) => ({ ...header, bytes: Buffer.from(data).toString('latin1') })),
      );
      const total = frames.reduce((sum, [, data]) => sum + data.length, 0);
      const came = whole.items.reduce(
        (sum: number, item) => sum + ((item as { bytes?: string }).bytes ?? '').length,
        0,
      );
      assert.is(came, total);
    }),
  );
});

test('bulk: data is given on as it arrives, in the memory of the caller', () => {
  const decoder = new BulkDecoder();
  const first = frame({ type: 'data', epoch: 7 }, Buffer.from('abcdef')).subarray(0, BULK_HEADER_BYTES + 2);
  assert.is(decoder.read(first).item?.type, 'data');
  const rest = Buffer.from('cdef');
  const { item, used } = decoder.read(rest);
  assert.is(used, 4);
  assert.ok(
    item?.type === 'data' && item.bytes.buffer === rest.buffer && item.bytes.byteOffset === rest.byteOffset,
  );
});

test('bulk: headers that nobody writes are errors, before anything is allocated for them', () => {
  const good = encodeBulkHeader({ type: 'data', epoch: 1 }, 5);
  const changed = (at: number, ...bytes: number[]): Buffer => {
    const copy = Buffer.from(good);
    copy.set(bytes, at);
    return copy;
  };
  for (const [bytes, why] of [
    [changed(0, 0), /type 0/],
    [changed(0, 5), /type 5/],
    [changed(1, 1), /flags 1/],
    [changed(3, 1), /reserved/],
    [changed(4, 0, 0, 0, 0), /0 bytes/],
    [changed(4, 0, 0x10, 0, 1), /1048577 bytes/],
    [changed(4, 0xff, 0xff, 0xff, 0xff), /4294967295 bytes/],
    [changed(8, 0, 0x20, 0, 0), /2\^53/],
    [changed(0, 2, 0, 0, 0, 1, 0, 0, 1), /16777217 bytes/],
    [changed(0, 3), /epoch 1, which has none/],
    [changed(0, 4), /epoch 1, which has none/],
    [Buffer.from([4, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), /flags 2/],
    [Buffer.concat([frame({ type: 'end', clean: true }), Buffer.from([1])]), /after the end/],
  ] as const) {
    let error: unknown;
    try {
      decodeBulk([bytes]);
    } catch (thrown) {
      error = thrown;
    }
    assert.instance(error, LinkError);
    assert.match((error as LinkError).message, why);
  }
  assert.throws(() => encodeBulkHeader({ type: 'data', epoch: 1 }, BULK_FRAME_BYTES_MAX + 1), RangeError);
  assert.throws(
    () => encodeBulkHeader({ type: 'checkpoint', epoch: 1 }, CHECKPOINT_BYTES_MAX + 1),
    RangeError,
  );
  assert.throws(() => encodeBulkHeader({ type: 'data', epoch: -1 }, 1), RangeError);
  assert.throws(() => encodeBulkHeader({ type: 'data', epoch: 2 ** 53 }, 1), RangeError);
});

test('arbitrary bytes give items or a LinkError, the same however they are cut', () => {
  const outcome = (decode: () => unknown): string => {
    try {
      return JSON.stringify(decode());
    } catch (error) {
      assert.instance(error, LinkError);
      return (error as LinkError).message;
    }
  };
  // Also headers that are nearly right: those reach further into the decoders.
  const nearly = fc.tuple(fc.nat(6), fc.nat(2), fc.nat(2), fc.nat(40), epoch, content).map((parts) => {
    const [type, flags, reserved, length, number, bytes] = parts;
    const header = Buffer.alloc(BULK_HEADER_BYTES);
    header.set([type, flags], 0);
    header.writeUInt16BE(reserved, 2);
    header.writeUInt32BE(length, 4);
    header.writeBigUInt64BE(BigInt(number), 8);
    return Buffer.concat([header, bytes]);
  });
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 400 }).map((each) => Buffer.from(each)),
    nearly,
  );
  fc.assert(
    fc.property(bytes, places, (input, at) => {
      for (const decode of [
        (pieces: Buffer[]) => decodeControl(pieces).values,
        (pieces: Buffer[]) => decodeBulk(pieces).items,
      ]) {
        assert.is(
          outcome(() => decode(cut(input, at))),
          outcome(() => decode([input])),
        );
      }
    }),
    { numRuns: 1000 },
  );
});

test.run();
