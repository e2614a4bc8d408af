/** Streams that real Xen wrote (test/data/streams), under every kind of chunking. */
import { readdirSync, readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { StreamDecoder } from '../../../src/core/stream/decoder.js';
import type { StreamEvent } from '../../../src/core/stream/decoder.js';
import { startGate, stepGate } from '../../../src/core/stream/gate.js';
import { StreamRestore } from '../../../src/core/stream/restore.js';
import { cut, decodeAll, show } from './sample.js';

const FOLDER = new URL('../../data/streams/', import.meta.url);
const names = readdirSync(FOLDER).filter((name) => name.endsWith('.stream.gz'));
const read = (name: string): Buffer => gunzipSync(readFileSync(new URL(name, FOLDER)));

interface Expected {
  checkpoints: number;
  emulator: boolean;
}
const EXPECTED: Record<string, Expected> = {
  'remus-pvh.stream.gz': { checkpoints: 8, emulator: false },
  'remus-hvm.stream.gz': { checkpoints: 6, emulator: true },
  'migrate-pvh.stream.gz': { checkpoints: 0, emulator: false },
};

/** A plain migration goes on behind libxl's END, with xl's own message; Remus has no such thing. */
function streamOf(name: string): Buffer {
  const bytes = read(name);
  if (!name.startsWith('migrate')) return bytes;
  const decoder = new StreamDecoder();
  let at = 0;
  for (let need = decoder.need(); need.kind !== 'end' && at < bytes.length; need = decoder.need()) {
    decoder.push(bytes.subarray(at, at + need.bytes));
    at += need.bytes;
  }
  return bytes.subarray(0, at);
}

const isRecord = (event: StreamEvent, name: string): boolean =>
  event.kind === 'record-begin' && event.name === name;

test('there are recorded streams', () => {
  assert.ok(names.includes('remus-pvh.stream.gz') && names.includes('remus-hvm.stream.gz'));
});

for (const name of names) {
  const expected = EXPECTED[name];

  test(`${name}: what is in it`, () => {
    assert.ok(expected !== undefined, 'a recorded stream that this test knows nothing of');
    if (expected === undefined) return;
    const bytes = streamOf(name);
    const { events, passed, decoder } = decodeAll([bytes]);
    const list = events.map(({ event }) => event);
    assert.ok(passed.equals(bytes));
    assert.is(decoder.offset, bytes.length);

    const [start] = list;
    assert.ok(start?.kind === 'stream-start' && start.configIsJson);
    if (start?.kind === 'stream-start')
      assert.type(
        JSON.parse(
          Buffer.from(start.config ?? [])
            .toString()
            .replace(/\0$/, ''),
        ),
        'object',
      );
    const image = list.find((event) => event.kind === 'image-start');
    assert.is(image === undefined ? '' : show(image), 'image-start v3 hvm Xen 4.17');

    assert.is(list.filter((event) => event.kind === 'checkpoint').length, expected.checkpoints);
    assert.is(list.filter((event) => event.kind === 'checkpoint-end').length, expected.checkpoints);
    assert.is(
      list.filter((event) => event.kind === 'record-begin' && event.holdsGuest).length,
      Math.max(0, expected.checkpoints - 1),
    );
    assert.is(
      list.filter((event) => isRecord(event, 'EMULATOR_CONTEXT')).length,
      expected.emulator ? expected.checkpoints : 0,
    );
    assert.is(list.filter((event) => isRecord(event, 'STATIC_DATA_END')).length, 1);
    if (expected.checkpoints === 0) assert.is(decoder.need().kind, 'end');
    else assert.is(list.at(-1)?.kind, 'checkpoint-end');
  });

  test(`${name}: the same under any chunking`, () => {
    const bytes = streamOf(name);
    const whole = decodeAll([bytes]);
    for (const each of [[65_536], [4095], [1, 65_537], [3, 5, 8, 13, 21, 34, 1 << 20]]) {
      const { events, passed } = decodeAll(cut(bytes, each));
      assert.ok(passed.equals(bytes), `bytes in chunks of ${each.join(', ')}`);
      assert.equal(events, whole.events, `events in chunks of ${each.join(', ')}`);
    }
    // Byte by byte around every header, and bodies in one piece.
    const places = new Set([0, bytes.length]);
    for (const { offset } of whole.events)
      for (let at = offset - 20; at <= offset + 20; at++) places.add(Math.min(Math.max(at, 0), bytes.length));
    const sorted = [...places].sort((a, b) => a - b);
    const pieces = sorted.slice(1).map((end, index) => bytes.subarray(sorted[index], end));
    const { events, passed } = decodeAll(pieces);
    assert.ok(passed.equals(bytes));
    assert.equal(events, whole.events);
  });

  test(`${name}: exact reading holds the guest behind eight bytes of its first pages`, () => {
    const bytes = streamOf(name);
    const decoder = new StreamDecoder();
    let gate = startGate();
    const held: number[] = [];
    for (let at = 0; at < bytes.length;) {
      const { bytes: most } = decoder.need();
      const event = decoder.push(bytes.subarray(at, at + most));
      at = decoder.offset;
      const step = stepGate(gate, { type: 'read', event });
      gate = step.state;
      if (step.effect?.type === 'shrink') gate = stepGate(gate, { type: 'shrunk', done: true }).state;
      if (step.effect?.type === 'hold') {
        held.push(step.effect.checkpoint);
        assert.is(bytes.readUInt32LE(at - 8), 1);
        // More than a page of the record is still to be written.
        assert.ok(decoder.need().bytes > 4096);
        gate = stepGate(gate, { type: 'release' }).state;
      }
      assert.is.not(step.effect?.type, 'missed');
    }
    const checkpoints = expected?.checkpoints ?? 0;
    assert.equal(
      held,
      Array.from({ length: Math.max(0, checkpoints - 1) }, (_, index) => index + 2),
    );
  });

  test(`${name}: restored, also when it is cut off`, () => {
    const bytes = streamOf(name);
    const { events } = decodeAll([bytes]);
    const limits = { pfnEnd: 1 << 24, bufferedBytesMax: 64 << 20 };
    const restored = (part: Uint8Array) => {
      const reader = new StreamRestore(limits);
      for (const chunk of cut(part, [1 << 16])) reader.push(chunk);
      return reader.end();
    };
    const guest = restored(bytes);
    assert.is(guest.checkpoint, expected?.checkpoints);
    assert.ok(guest.pages.size > 0 && (guest.hvmContext?.length ?? 0) > 1000);
    assert.ok((guest.hvmParams?.length ?? 0) > 8);
    const [first, second] = events.flatMap(({ offset, event }) =>
      event.kind === 'checkpoint' ? [offset] : [],
    );
    if (first === undefined || second === undefined) return;
    assert.is(restored(bytes.subarray(0, second - 1)).checkpoint, 1);
    assert.throws(() => restored(bytes.subarray(0, second)), /CHECKPOINT_END/);
    assert.throws(() => restored(bytes.subarray(0, first - 1)), /a whole checkpoint/);
  });
}

test.run();
