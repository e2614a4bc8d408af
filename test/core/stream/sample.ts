/** Streams for tests, made by the encoder, and what a decoder says of a stream. */
import { decodeChunk, StreamDecoder } from '../../../src/core/stream/decoder.js';
import type { StreamEvent } from '../../../src/core/stream/decoder.js';
import {
  encodeCheckpoint,
  encodeCheckpointEnd,
  encodeCpuidPolicy,
  encodeEmulatorContext,
  encodeEmulatorXenstoreData,
  encodeEnd,
  encodeHvmContext,
  encodeHvmParams,
  encodeImageHeaders,
  encodeMsrPolicy,
  encodePages,
  encodePreamble,
  encodeStaticDataEnd,
  encodeTscInfo,
} from '../../../src/core/stream/encoder.js';
import type { Page, Parts } from '../../../src/core/stream/encoder.js';

export interface SampleCheckpoint {
  pages: readonly Page[];
  /** Of any length: it tells checkpoints apart, and its padding differs. */
  context: Uint8Array;
}

export interface Sample {
  version: 2 | 3;
  config: Uint8Array;
  configIsJson: boolean;
  /** With the records of a device model. */
  emulator: boolean;
  checkpoints: readonly SampleCheckpoint[];
  /** A plain stream's END behind the last checkpoint. */
  end: boolean;
}

export function page(pfn: number, fill: number): Page {
  return { pfn, bytes: new Uint8Array(4096).fill(fill) };
}

export const SAMPLE: Sample = {
  version: 3,
  config: Buffer.from('{"c_info": {"name": "web"}}'),
  configIsJson: true,
  emulator: false,
  checkpoints: [
    { pages: [page(0, 1), page(1, 1), page(7, 1)], context: Buffer.from('first') },
    { pages: [page(1, 2)], context: Buffer.from('second') },
    { pages: [page(7, 3), page(8, 3)], context: Buffer.from('third one') },
  ],
  end: false,
};

/** What comes before the first checkpoint. */
export function head(sample: Sample): Parts {
  return [
    ...encodePreamble(sample.config, sample.configIsJson),
    ...encodeImageHeaders({ version: sample.version, xenMajor: 4, xenMinor: 17 }),
    ...encodeCpuidPolicy(Buffer.alloc(24 * 3)),
    ...encodeMsrPolicy(Buffer.alloc(16)),
    ...(sample.version === 3 ? encodeStaticDataEnd() : []),
  ];
}

/** One checkpoint, to its CHECKPOINT_END. */
export function checkpointParts({ pages, context }: SampleCheckpoint, emulator = false): Parts {
  return [
    ...encodePages(pages),
    ...encodeTscInfo(0, 2_400_000, 5n, 0),
    ...encodeHvmContext(context),
    ...encodeHvmParams([{ index: 1n, value: 0xfeff_f000n }]),
    ...encodeCheckpoint(),
    ...(emulator
      ? [
          ...encodeEmulatorXenstoreData(2, 0, Buffer.from('a/b\0c\0')),
          ...encodeEmulatorContext(2, 0, Buffer.alloc(100)),
        ]
      : []),
    ...encodeCheckpointEnd(),
  ];
}

export function encodeSample(sample: Sample): Buffer {
  return Buffer.concat([
    ...head(sample),
    ...sample.checkpoints.flatMap((each) => checkpointParts(each, sample.emulator)),
    ...(sample.end ? encodeEnd() : []),
  ]);
}

/** Every event with the offset at which it came, and all parts joined. */
export function decodeAll(chunks: Iterable<Uint8Array>): {
  events: { offset: number; event: StreamEvent }[];
  passed: Buffer;
  decoder: StreamDecoder;
} {
  const decoder = new StreamDecoder();
  const events: { offset: number; event: StreamEvent }[] = [];
  const parts: Uint8Array[] = [];
  for (const chunk of chunks) {
    for (const part of decodeChunk(decoder, chunk)) {
      parts.push(part.kind === 'body' ? Uint8Array.from(part.bytes) : part.bytes);
      if (part.event !== null) events.push({ offset: decoder.offset, event: part.event });
    }
  }
  return { events, passed: Buffer.concat(parts), decoder };
}

/** Cuts bytes into pieces of the given sizes, which are used again and again. */
export function* cut(bytes: Uint8Array, sizes: readonly number[]): Generator<Uint8Array> {
  for (let at = 0, n = 0; at < bytes.length; n++) {
    const size = sizes[n % sizes.length] ?? 1;
    yield bytes.subarray(at, at + size);
    at += size;
  }
}

/** A line for an event, for transcripts. */
export function show(event: StreamEvent): string {
  switch (event.kind) {
    case 'stream-start':
      return `stream-start config=${event.config?.length ?? 'none'}${event.configIsJson ? ' json' : ''}`;
    case 'image-start':
      return `image-start v${event.version} ${event.domainType} Xen ${event.xenMajor}.${event.xenMinor}`;
    case 'record-begin':
      return `${event.layer} ${event.name} ${event.lengthBytes} of ${event.checkpoint}${event.holdsGuest ? ' HOLDS' : ''}`;
    case 'record-end':
      return `${event.layer} ${event.name} ended`;
    case 'checkpoint':
      return `CHECKPOINT ${event.checkpoint}${event.hadPages ? '' : ' without pages'}`;
    case 'checkpoint-end':
      return `CHECKPOINT_END ${event.checkpoint}`;
    case 'stream-end':
      return `END of ${event.layer}`;
  }
}
