import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { initialMarks, stepMarks } from '../../../src/core/netbuf/marks.js';
import type { MarkInput, MarkState } from '../../../src/core/netbuf/marks.js';

const test = suite('network marks');

/** `m3` mark 3, `r3` release 3, `s3` settled 3, `o` open. */
function input(word: string): MarkInput {
  const checkpoint = Number(word.slice(1));
  if (word[0] === 'm') return { kind: 'mark', checkpoint };
  if (word[0] === 'r') return { kind: 'release', checkpoint };
  return word[0] === 's' ? { kind: 'settled', checkpoint } : { kind: 'open' };
}

function run(words: string): string {
  let state: MarkState = initialMarks;
  return words
    .split(' ')
    .map((word) => {
      const step = stepMarks(state, input(word));
      assert.ok(step.reason.length > 0);
      state = step.state;
      return step.effect;
    })
    .join(' ');
}

const scripts: [what: string, words: string, effects: string][] = [
  ['the first mark shuts, and nothing waits for it', 'm1 r1 m2 r2 s2', 'shut none block release none'],
  ['one after the other', 'm1 m2 r2 s2 m3 r3 s3', 'shut block release none block release none'],
  [
    'a mark behind one that waits is folded',
    'm1 m2 m3 r2 s2 m4 r3 r4',
    'shut block none release none block none release',
  ],
  [
    'a mark is folded while packets are leaving',
    'm1 m2 r2 m3 s2 r3 m4 r4',
    'shut block release none none none block release',
  ],
  ['a later commit covers an earlier one', 'm1 m2 m3 r3 s2 m4', 'shut block none release none block'],
  ['a commit a second time changes nothing', 'm1 m2 r2 r2 s2 r2', 'shut block release none none none'],
  ['open from anywhere, and shut again', 'm1 m2 o r2 m3 m4 r4', 'shut block open none shut block release'],
  ['opened while leaving', 'm1 m2 r2 o s2 m3', 'shut block release open none shut'],
  ['a settling that is not ours', 'm1 m2 s2 r2 s1 m3 s2 m4', 'shut block none release none none none block'],
];
for (const [what, words, effects] of scripts) test(what, () => assert.is(run(words), effects));

test('out of order is a fault of the caller', () => {
  for (const words of ['m1 m1', 'm2 m1', 'm1 m2 r3', 'm1.5', 'm1 r1.5']) {
    assert.throws(() => run(words), /network mark|release of checkpoint/, words);
  }
});

/** sch_plug as the kernel has it, with the epoch of each packet that it lets go. */
class Plug {
  queue: number[] = [];
  left: number[] = [];
  current = 0;
  last = 0;
  toRelease = 0;
  unplugged = true;

  send(epoch: number): void {
    if (this.unplugged) return void this.left.push(epoch);
    this.current++;
    this.queue.push(epoch);
  }

  block(): void {
    this.last = this.current;
    this.current = 0;
    this.unplugged = false;
  }

  /** What it lets go at once is up to the test: `drain`. */
  release(): void {
    this.toRelease += this.last;
    this.last = 0;
  }

  drain(): void {
    this.left.push(...this.queue.splice(0, this.toRelease));
    this.toRelease = 0;
  }
}

/** Numbers that look random and are the same each time (mulberry32). */
function randomBelow(seed: number): (n: number) => number {
  let state = seed;
  return (n) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % n;
  };
}

test('on a model of sch_plug, with any number of checkpoints in flight: never early, all in the end', () => {
  const below = randomBelow(7);
  for (let round = 0; round < 300; round++) {
    const plug = new Plug();
    let state: MarkState = initialMarks;
    let epoch = 0;
    let committed = 0;
    let sent = 0;
    const give = (word: MarkInput): void => {
      const step = stepMarks(state, word);
      state = step.state;
      if (step.effect === 'shut' || step.effect === 'block') plug.block();
      if (step.effect === 'release') plug.release();
    };
    const settle = (): void => {
      if (state.phase !== 'held' || !state.pending?.leaving) return;
      plug.drain();
      give({ kind: 'settled', checkpoint: state.pending.checkpoint });
    };
    give({ kind: 'mark', checkpoint: 0 });
    for (let i = 0; i < 200; i++) {
      const what = below(6);
      if (what < 3) {
        plug.send(epoch + 1);
        sent++;
      } else if (what === 3) give({ kind: 'mark', checkpoint: ++epoch });
      else if (what === 4 && committed < epoch) give({ kind: 'release', checkpoint: ++committed });
      else settle();
      assert.ok(
        plug.left.every((of) => of <= committed),
        `round ${round}: epoch ${plug.left.at(-1)} left at the commit of ${committed}`,
      );
    }
    for (let i = 0; i < 2; i++) {
      give({ kind: 'release', checkpoint: epoch });
      settle();
      give({ kind: 'mark', checkpoint: ++epoch });
    }
    give({ kind: 'release', checkpoint: epoch });
    settle();
    assert.is(plug.left.length, sent);
  }
});

test.run();
