/**
 * The sender as a process on a stream of three checkpoints: what it does to the world, in which order, and that it
 * ends. Its edges are fakes that note what they are asked.
 */
import { closeSync } from 'node:fs';
import { Socket } from 'node:net';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Decision } from '../../src/core/protect/types.js';
import {
  encodeCheckpoint,
  encodeCheckpointEnd,
  encodeImageHeaders,
  encodePages,
  encodePreamble,
  encodeStaticDataEnd,
  encodeTscInfo,
} from '../../src/core/stream/encoder.js';
import { makePipe } from '../../src/edge/pipe.js';
import { Sender } from '../../src/protect/sender.js';
import { pipeOutput } from '../../src/protect/sender-host.js';
import type { LinkEvents, SenderEdges } from '../../src/protect/sender.js';

const test = suite('sender process');
const identity = { pair: 'rack1', domain: 'web', term: 1, session: 'ab'.repeat(16) };

/** The live round and one epoch after it. */
function stream(): Buffer {
  const pages = [{ pfn: 1, bytes: Buffer.alloc(4096, 1) }];
  const epoch = [
    ...encodePages(pages),
    ...encodeTscInfo(0, 1, 0n, 1),
    ...encodeCheckpoint(),
    ...encodeCheckpointEnd(),
  ];
  return Buffer.concat([
    ...encodePreamble(Buffer.from('{}'), true),
    ...encodeImageHeaders({ version: 3, xenMajor: 4, xenMinor: 17 }),
    ...encodeStaticDataEnd(),
    ...epoch,
    ...epoch,
  ]);
}

interface World {
  sender: Sender;
  did: string[];
  /** The bytes of each frame of the bulk connection. */
  frames: { data: Buffer[]; checkpoint: Buffer[] };
  events: () => LinkEvents;
  /** Resolves when the sender has done this. */
  until: (what: string) => Promise<void>;
}

function world(): World {
  const bytes = stream();
  let at = 0;
  const did: string[] = [];
  const frames: World['frames'] = { data: [], checkpoint: [] };
  const waiting: { what: string; resolve: () => void }[] = [];
  const note = (what: string): void => {
    did.push(what);
    for (const each of waiting.filter((one) => one.what === what)) each.resolve();
  };
  let events: LinkEvents | null = null;
  let endInput = (): void => undefined;
  const ended = new Promise<Buffer>((resolve) => {
    endInput = () => resolve(Buffer.alloc(0));
  });
  const edges: SenderEdges = {
    input: {
      readUpTo: (most) => {
        if (at >= bytes.length) return ended;
        const part = bytes.subarray(at, at + most);
        at += part.length;
        return Promise.resolve(part);
      },
      narrow: () => true,
      widen: () => undefined,
      close: () => {
        note('input closed');
        endInput();
      },
    },
    back: () => undefined,
    connect: (given) => {
      events = given;
      return Promise.resolve({
        heartbeat: () => undefined,
        end: (reason) => note(`end: ${reason}`),
        data: (_epoch, bytes) => {
          frames.data.push(Buffer.from(bytes));
          return Promise.resolve();
        },
        checkpoint: (epoch, _folded, bytes) => {
          frames.checkpoint.push(Buffer.from(bytes));
          note(`checkpoint ${epoch}`);
          return Promise.resolve();
        },
        close: () => undefined,
      });
    },
    enter: () => Promise.resolve(note('enter')),
    network: {
      mark: (epoch) => Promise.resolve(note(`mark ${epoch}`)),
      release: (epoch) => Promise.resolve(note(`release ${epoch}`)),
      open: () => Promise.resolve(note('open')),
      drop: () => Promise.resolve(note('drop')),
      dropped: () => 0,
      onFailed: () => undefined,
    },
    barrier: {
      write: (epoch) => Promise.resolve(note(`marker ${epoch}`)),
      close: () => Promise.resolve(),
    },
    watchDisk: () => ({ close: () => undefined }),
    claim: () => {
      note('claim');
      return new Promise(() => undefined);
    },
    guestEnd: () => Promise.resolve(null),
    destroyGuest: () => Promise.resolve(note('destroy')),
    record: (decision) => Promise.resolve(note(`record ${decision}`)),
    nowMs: () => 0,
    log: () => undefined,
  };
  const sender = new Sender(
    {
      identity,
      intervalMs: 100,
      failAfterMs: 3_600_000,
      network: true,
      disk: true,
      inFlightMax: 4,
      holdLimitMs: 3_600_000,
      agreeLimitMs: 3_600_000,
      diskLimitMs: 3_600_000,
      onCrash: 'stop',
    },
    edges,
  );
  return {
    sender,
    did,
    frames,
    events: () => {
      if (events === null) throw new Error('not connected');
      return events;
    },
    until: (what) =>
      did.includes(what) ? Promise.resolve() : new Promise((resolve) => waiting.push({ what, resolve })),
  };
}

/** Runs until epoch 1 is sent. */
async function sent(): Promise<World & { ended: Promise<Decision> }> {
  const made = world();
  const ended = made.sender.run();
  await made.until('checkpoint 1');
  return { ...made, ended };
}

test('marks before memory, output after the commit, and the network open before anything else at the end', async () => {
  const { did, events, until, sender, ended } = await sent();
  assert.equal(did, ['checkpoint 0', 'enter', 'mark 1', 'marker 1', 'checkpoint 1']);
  events().committed(identity, 1);
  await until('release 1');
  sender.stop('unprotect');
  assert.is(did.at(-1), 'end: unprotect');
  events().ended('primary', 'gave up');
  assert.is(await ended, 'primary');
  assert.equal(did.slice(-3), ['open', 'record primary', 'input closed']);
});

test('the receiver can hold back all from CHECKPOINT on: between it and CHECKPOINT_END xl must never wait', async () => {
  const { frames, events, ended } = await sent();
  const tail = Buffer.concat([...encodeCheckpoint(), ...encodeCheckpointEnd()]);
  assert.equal(frames.checkpoint, [tail, tail]);
  // Nothing of it went ahead, and nothing is missing.
  const all = stream();
  const [first, second] = [all.indexOf(tail), all.lastIndexOf(tail)];
  const rest = [all.subarray(0, first), all.subarray(first + tail.length, second)];
  assert.equal(Buffer.concat(frames.data), Buffer.concat(rest));
  events().ended('primary', 'agreed');
  await ended;
});

test('giving way destroys the guest before its output is dropped, and opens nothing', async () => {
  const { did, events, ended } = await sent();
  events().ended('backup', 'it has won the claim');
  assert.is(await ended, 'backup');
  assert.equal(did.slice(-4), ['destroy', 'drop', 'record backup', 'input closed']);
  assert.not(did.includes('open'));
});

test('a claim that nobody answers keeps nothing from ending once the receiver has decided', async () => {
  const { did, events, until, ended } = await sent();
  events().lost('reset');
  await until('claim');
  assert.not(did.includes('open'), 'undecided, output is held');
  events().ended('primary', 'agreed');
  assert.is(await ended, 'primary');
});

test('an xl that no longer reads does not take the sender with it', async () => {
  const { read, write } = makePipe();
  closeSync(read);
  const output = new Socket({ fd: write, readable: false, writable: true });
  const back = pipeOutput(output);
  back(Buffer.from('migration target: Ready'));
  await new Promise((resolve) => output.on('close', resolve));
  assert.is((output.errored as NodeJS.ErrnoException).code, 'EPIPE');
  back(Buffer.from('more'));
});

test.run();
