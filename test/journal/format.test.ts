/** What is on disk: encoded and read back, and never believed when a bit is wrong. */
import fc from 'fast-check';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  crcOf,
  decodeDiscardArea,
  decodeHeader,
  decodeMarker,
  decodeSuperblock,
  DescriptorOp,
  encodeDiscardArea,
  encodeMarker,
  encodeSuperblock,
  firstBadPayload,
  FrameKind,
  headerSectorsFor,
  layOut,
  putDescriptor,
  sealHeader,
} from '../../src/core/journal/format.js';
import type { FrameHeader, SectorRange, Superblock } from '../../src/core/journal/format.js';
import { JournalError } from '../../src/core/journal/types.js';

const MIB = 1 << 20;
const TAG = Buffer.from('8 bytes.');

const superblock: Superblock = {
  generation: 2 ** 40 + 5,
  journalId: Uint8Array.from({ length: 16 }, (_, index) => index),
  layout: layOut({ sizeBytes: 64 * MIB }),
  domain: 'web',
  volumes: [
    { name: 'remus-web-0', sizeBytes: 20 * 2 ** 30, barrier: false },
    { name: 'remus-web-barrier', sizeBytes: 4 * MIB, barrier: true },
  ],
  incarnation: 3,
  head: { segment: 7, offsetBytes: 4608 },
  headSeq: 2 ** 33 + 1,
  headIncarnation: 2,
  headOrdinal: 12,
  durableSeq: 2 ** 33,
  mode: 'epochs',
  term: 4,
  session: Uint8Array.from({ length: 16 }, () => 0xaa),
  committedEpoch: 0,
  committedOrdinal: 11,
  closedEpoch: null,
  ended: 'none',
  committedAtMs: 1_700_000_000_000,
  discardPending: true,
  discardLengthBytes: 4096,
  discardCrc: 0xdeadbeef,
};

test('CRC32C is the one of RFC 3720', () => {
  assert.is(crcOf(Buffer.alloc(32)), 0x8a9136aa);
  assert.is(crcOf(Buffer.alloc(32, 0xff)), 0x62a8ab43);
});

test('a superblock is read back as it was', () => {
  assert.equal(decodeSuperblock(encodeSuperblock(superblock)), superblock);
});

test('no bit of a superblock can flip unnoticed', () => {
  const good = encodeSuperblock(superblock);
  for (let bit = 0; bit < 1500 * 8; bit += 5) {
    const bytes = Buffer.from(good);
    bytes[bit >> 3] = (bytes[bit >> 3] as number) ^ (1 << (bit & 7));
    assert.type(decodeSuperblock(bytes), 'string', `bit ${bit}`);
  }
});

test('a superblock of another version is named as such', () => {
  const bytes = encodeSuperblock(superblock);
  bytes.writeUInt16LE(2, 8);
  assert.match(decodeSuperblock(bytes) as string, /format version 2, this program knows version 1/);
});

function frameOf(writes: number): { bytes: Buffer; header: FrameHeader } {
  const headerSectors = headerSectorsFor(writes);
  const bytes = Buffer.alloc((headerSectors + writes) * 512);
  const head = bytes.subarray(0, headerSectors * 512);
  const view = new DataView(head.buffer, head.byteOffset, head.length);
  for (let index = 0; index < writes; index++) {
    const data = bytes.subarray((headerSectors + index) * 512, (headerSectors + index + 1) * 512);
    data.fill(index + 1);
    putDescriptor(view, index, {
      op: DescriptorOp.write,
      volume: 1,
      sector: 2 ** 40 + index,
      sectors: 1,
      crc: crcOf(data),
    });
  }
  const header: FrameHeader = {
    kind: FrameKind.data,
    flags: 0,
    count: writes,
    incarnation: 1,
    seq: 9,
    durableSeq: 8,
    ordinal: 3,
    epoch: null,
    timeMs: 5,
    headerSectors,
    payloadSectors: writes,
    term: 6,
  };
  sealHeader(head, view, header, TAG);
  return { bytes, header };
}

test('a frame is read back as it was, and no bit of it can flip unnoticed', () => {
  for (const writes of [1, 27, 28, 60]) {
    const { bytes, header } = frameOf(writes);
    assert.equal(decodeHeader(bytes, TAG), header);
    assert.is(firstBadPayload(bytes, header), -1);
    for (let bit = 0; bit < bytes.length * 8; bit += 37) {
      const flipped = Buffer.from(bytes);
      flipped[bit >> 3] = (flipped[bit >> 3] as number) ^ (1 << (bit & 7));
      const read = decodeHeader(flipped, TAG);
      assert.ok(read === null || firstBadPayload(flipped, read) >= 0, `bit ${bit} of ${writes} writes`);
    }
  }
});

test('a frame of another journal on the same disk is not ours', () => {
  assert.is(decodeHeader(frameOf(1).bytes, Buffer.from('another.')), null);
});

test('metadata is small: one sector for up to 27 writes, two for 32', () => {
  assert.is(headerSectorsFor(27), 1);
  assert.ok((headerSectorsFor(32) * 512) / (32 * 4096) < 0.01);
});

test('arbitrary bytes are refused without a throw', () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 4096, maxLength: 4096 }), fc.boolean(), (bytes, dress) => {
      if (dress) {
        // Past the quick look: the rest is noise.
        Buffer.from('RDJF').copy(bytes);
        TAG.copy(bytes, 64);
      }
      assert.is(decodeHeader(bytes, TAG), null);
      assert.type(decodeSuperblock(bytes), 'string');
      assert.is(decodeMarker(bytes), null);
      decodeDiscardArea(bytes);
    }),
    { numRuns: 200 },
  );
});

test('a marker names domain, term, session and epoch, and is checked', () => {
  const marker = {
    domain: 'web',
    term: 7,
    session: Uint8Array.from({ length: 16 }, () => 1),
    epoch: 2 ** 40,
  };
  const block = encodeMarker(marker);
  assert.is(block.length, 4096);
  assert.equal(decodeMarker(block), marker);
  for (const at of [16, 24, 32, 49, 100, 4095]) {
    const damaged = Buffer.from(block);
    damaged[at] = (damaged[at] as number) ^ 1;
    assert.is(decodeMarker(damaged), 'checksum of the marker does not match');
  }
  assert.is(decodeMarker(Buffer.alloc(4096)), null);
  assert.is(decodeMarker(block.subarray(0, 512)), null);
});

test('a discard area that is too small covers more, never less', () => {
  const ranges: SectorRange[] = [];
  for (let index = 0; index < 1000; index++) {
    ranges.push({ volume: index < 500 ? 0 : 1, sector: (index % 500) * 100 + (index % 7), sectors: 8 });
  }
  const exact = decodeDiscardArea(encodeDiscardArea(ranges, MIB));
  assert.equal(exact, { exact: true, ranges });
  const small = encodeDiscardArea(ranges, 8192);
  assert.ok(small.length <= 8192);
  const joined = decodeDiscardArea(small);
  assert.ok(joined !== null && !joined.exact);
  for (const range of ranges) {
    const covered = joined?.ranges.some(
      (each) =>
        each.volume === range.volume &&
        each.sector <= range.sector &&
        each.sector + each.sectors >= range.sector + range.sectors,
    );
    assert.ok(covered, `range at ${range.sector}`);
  }
});

test('a journal that cannot work is refused before anything is written', () => {
  for (const options of [
    { sizeBytes: 100_000 },
    { sizeBytes: 64 * MIB, segmentBytes: 1000 },
    { sizeBytes: 64 * MIB, segmentBytes: 32 * MIB },
    { sizeBytes: 64 * MIB, indexEntries: 10 },
  ]) {
    assert.throws(
      () => layOut(options),
      (error: unknown) => error instanceof JournalError && error.code === 'invalid',
    );
  }
});

test.run();
