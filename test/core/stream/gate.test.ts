/** When the pipe is small, and when an epoch is not taken for held. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { StreamEvent } from '../../../src/core/stream/decoder.js';
import { startGate, stepGate } from '../../../src/core/stream/gate.js';
import type { GateState } from '../../../src/core/stream/gate.js';
import { decodeAll, encodeSample, page, SAMPLE, show } from './sample.js';

/** Runs a stream through the gate. @param shrinks whether each attempt to make the pipe small works */
function transcript(
  events: readonly (StreamEvent | null)[],
  shrinks: (attempt: number) => boolean,
): string[] {
  const lines: string[] = [];
  let state: GateState = startGate();
  let attempt = 0;
  for (const event of events) {
    const step = stepGate(state, { type: 'read', event });
    state = step.state;
    const { effect } = step;
    if (effect === null) continue;
    const at = event === null ? 'bytes' : show(event);
    if (effect.type === 'shrink') {
      const done = shrinks(attempt++);
      lines.push(`${at}: shrink${done ? '' : ', refused'}`);
      state = stepGate(state, { type: 'shrunk', done }).state;
    } else if (effect.type === 'hold') {
      const released = stepGate(state, { type: 'release' });
      state = released.state;
      lines.push(`${at}: hold ${effect.checkpoint}, ${released.effect?.type}`);
    } else lines.push(`${at}: ${effect.type}`);
  }
  return lines;
}

const eventsOf = (sample = SAMPLE): StreamEvent[] =>
  decodeAll([encodeSample(sample)]).events.map(({ event }) => event);

test('small from the first record behind the pages, held at the next pages, large when released', () => {
  assert.equal(
    transcript(eventsOf(), () => true),
    [
      'libxc X86_TSC_INFO 24 of 1: shrink',
      'libxc PAGE_DATA 4112 of 2 HOLDS: hold 2, grow',
      'libxc X86_TSC_INFO 24 of 2: shrink',
      'libxc PAGE_DATA 8216 of 3 HOLDS: hold 3, grow',
      'libxc X86_TSC_INFO 24 of 3: shrink',
    ],
  );
});

test('tried again at every read while the pipe is too full', () => {
  assert.equal(
    transcript(eventsOf().slice(0, 20), (attempt) => attempt >= 3),
    [
      'libxc X86_TSC_INFO 24 of 1: shrink, refused',
      'libxc X86_TSC_INFO ended: shrink, refused',
      'libxc HVM_CONTEXT 5 of 1: shrink, refused',
      'libxc HVM_CONTEXT ended: shrink',
      'libxc PAGE_DATA 4112 of 2 HOLDS: hold 2, grow',
    ],
  );
});

test('an epoch that began while the pipe was large is missed, never held', () => {
  const lines = transcript(eventsOf(), () => false);
  assert.equal(
    lines.filter((line) => !line.endsWith('refused')),
    ['libxc PAGE_DATA 4112 of 2 HOLDS: missed', 'libxc PAGE_DATA 8216 of 3 HOLDS: missed'],
  );
  // It is still tried, within the missed epoch too.
  assert.ok(lines.includes('libxc PAGE_DATA ended: shrink, refused'));
});

test('policies ahead of the pages leave the pipe large; an epoch without pages leaves it small', () => {
  const quiet = { pages: [], context: Buffer.from('same') };
  const [first] = SAMPLE.checkpoints;
  const checkpoints = [first ?? quiet, quiet, { pages: [page(3, 4)], context: Buffer.from('late') }];
  assert.equal(
    transcript(eventsOf({ ...SAMPLE, version: 2, emulator: true, checkpoints }), () => true),
    [
      'libxc X86_TSC_INFO 24 of 1: shrink',
      'libxc PAGE_DATA 4112 of 3 HOLDS: hold 3, grow',
      'libxc X86_TSC_INFO 24 of 3: shrink',
    ],
  );
});

test('a held pipe may not be read, and only a held one is released', () => {
  const state: GateState = { pipe: 'closed', pages: true };
  assert.throws(() => stepGate(state, { type: 'read', event: null }), /while the guest is held/);
  assert.throws(() => stepGate(startGate(), { type: 'release' }), /no guest is held/);
});

test.run();
