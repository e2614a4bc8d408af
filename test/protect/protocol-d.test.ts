/**
 * Protection with `engine: protocol-d` from end to end on fake hosts: the real sender, receiver, barrier, disks and
 * ioctl device, with a fake of the module behind them (fake-module.ts), and a guest that counts its writes. What a
 * copy goes on from has to be what its disk is at.
 */
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
import { UNSEEN_CHECKPOINTS_MAX } from '../../src/core/protocol-d/engine.js';
import { openDevice } from '../../src/engine/protocol-d/device.js';
import { DeferringDisks } from '../../src/protect/deferring-disks.js';
import { watchModule } from '../../src/protect/module.js';
import { ProtocolDBarrier } from '../../src/protect/protocol-d-barrier.js';
import { Receiver } from '../../src/protect/receiver.js';
import { Sender } from '../../src/protect/sender.js';
import type { LinkEvents, SenderEdges, SenderLink } from '../../src/protect/sender.js';
import { FakeModule, FakeModuleWorker, MINOR } from './fake-module.js';

const test = suite('protection with protocol D on fake hosts');
const identity = { pair: 'rack1', domain: 'web', term: 7, session: 'ab'.repeat(16) };
const LONG_MS = 3_600_000;
const END_RECORD = Buffer.concat([...encodeCheckpointEnd()]);

function epochBytes(): Buffer {
  return Buffer.concat([
    ...encodePages([{ pfn: 1, bytes: Buffer.alloc(4096, 1) }]),
    ...encodeTscInfo(0, 1, 0n, 1),
    ...encodeCheckpoint(),
    ...encodeCheckpointEnd(),
  ]);
}

class FakePair {
  readonly module = new FakeModule();
  readonly did: string[] = [];
  /** The last write that the memory of each checkpoint knows of. */
  readonly memories: number[] = [0];
  sender!: Sender;
  receiver!: Receiver;
  ended!: Promise<Decision>;
  events!: LinkEvents;
  isPaused = false;
  /** Messages of the receiver's module that have to wait. */
  isMute = false;
  session: number | null = null;
  gate: string | null = null;
  /** Checkpoints that xl on the backup was given whole. */
  #copyAt = -1;
  #lastWrite = 0;
  #bytes: Buffer[] = [];
  #more: () => void = () => undefined;
  #isClosed = false;
  #waiting: { what: string; resolve: () => void }[] = [];

  note(what: string): void {
    this.did.push(what);
    const [done, left] = [0, 1].map((side) =>
      this.#waiting.filter((one) => (one.what === what) === (side === 0)),
    );
    this.#waiting = left ?? [];
    for (const { resolve } of done ?? []) resolve();
  }

  until(what: string): Promise<void> {
    if (this.did.includes(what)) return Promise.resolve();
    return new Promise((resolve) => this.#waiting.push({ what, resolve }));
  }

  static async start(holdMs = LONG_MS): Promise<FakePair> {
    const pair = new FakePair();
    const { module } = pair;
    const disks = new DeferringDisks('web', MINOR, {
      exec: (argv) => {
        pair.note(argv.join(' '));
        return module.drbdadm(argv);
      },
      procDrbd: () => Promise.resolve(module.proc('backup')),
      setGate: (state) => Promise.resolve(void (pair.gate = state)),
      removeGate: () => Promise.resolve(void (pair.gate = null)),
      session: {
        note: (term) => Promise.resolve(void (pair.session = term)),
        read: () => Promise.resolve(pair.session),
        forget: () => Promise.resolve(void (pair.session = null)),
      },
      pause: () => new Promise((resolve) => setImmediate(resolve)),
    });
    await disks.prepare();
    pair.receiver = new Receiver(
      { failAfterMs: LONG_MS, onCrash: 'stop', disk: true, attemptsMax: 1 },
      {
        startCopy: () => ({
          write: (bytes) => {
            if (END_RECORD.equals(bytes.subarray(-END_RECORD.length))) pair.#copyAt += 1;
            return Promise.resolve();
          },
          start: () => Promise.resolve(pair.note('the copy runs')),
          drop: () => Promise.resolve(pair.note('the copy is dropped')),
        }),
        disks,
        enter: () => Promise.resolve(),
        claim: () => Promise.resolve({ decision: 'backup', reason: 'the fake arbiter' }),
        record: (decision) => Promise.resolve(pair.note(`decided: ${decision}`)),
        nowMs: () => 0,
        log: () => undefined,
      },
    );
    const worker = new FakeModuleWorker(module);
    const post = worker.postMessage.bind(worker);
    worker.postMessage = (request): void => {
      pair.note(`ioctl ${request.request}`);
      post(request);
    };
    const barrier = new ProtocolDBarrier(
      {
        minor: MINOR,
        device: await openDevice('fake', () => worker),
        procDrbd: () => Promise.resolve(module.proc('primary')),
        pauseGuest: () => {
          pair.isPaused = true;
          return Promise.resolve(pair.note('paused'));
        },
        unpauseGuest: () => {
          pair.isPaused = false;
          return Promise.resolve(pair.note('unpaused'));
        },
        log: () => undefined,
      },
      { holdMs, finishMs: LONG_MS },
    );
    pair.sender = new Sender(
      {
        identity,
        intervalMs: 100,
        failAfterMs: LONG_MS,
        network: true,
        disk: true,
        inFlightMax: 4,
        holdLimitMs: LONG_MS,
        agreeLimitMs: LONG_MS,
        diskLimitMs: LONG_MS,
        onCrash: 'stop',
      },
      pair.#edges(barrier),
    );
    module.onCut = () => pair.note('cut');
    pair.ended = pair.sender.run();
    pair.#bytes.push(
      Buffer.concat([
        ...encodePreamble(Buffer.from('{}'), true),
        ...encodeImageHeaders({ version: 3, xenMajor: 4, xenMinor: 17 }),
        ...encodeStaticDataEnd(),
        epochBytes(),
      ]),
    );
    pair.#more();
    // Looked, promoted, looked again: the session runs.
    await pair.until('side 2');
    return pair;
  }

  /** The guest writes, as far as it runs. */
  write(kib = 4): void {
    assert.not(this.isPaused, 'a guest that is held writes nothing');
    this.#lastWrite = this.module.write(kib);
  }

  /** xl takes the next checkpoint. @returns its number */
  checkpoint(): number {
    const epoch = this.memories.push(this.#lastWrite) - 1;
    this.#bytes.push(epochBytes());
    this.#more();
    return epoch;
  }

  async committed(): Promise<void> {
    await this.until(`committed ${this.checkpoint()}`);
  }

  /** What the copy goes on from, beside what its disk is at. */
  get copy(): { memory: number | undefined; disk: number } {
    return { memory: this.memories[this.#copyAt], disk: this.module.disks.backup };
  }

  #edges(barrier: ProtocolDBarrier): SenderEdges {
    return {
      input: {
        readUpTo: async (most) => {
          while (this.#bytes.length === 0 && !this.#isClosed) {
            await new Promise<void>((resolve) => (this.#more = resolve));
          }
          const first = this.#bytes.shift() ?? Buffer.alloc(0);
          if (first.length > most) this.#bytes.unshift(first.subarray(most));
          return first.subarray(0, most);
        },
        narrow: () => true,
        widen: () => undefined,
        close: () => {
          this.#isClosed = true;
          this.#more();
        },
      },
      back: () => undefined,
      connect: (events) => Promise.resolve(this.#link(events)),
      network: {
        mark: () => Promise.resolve(),
        release: (epoch) => Promise.resolve(this.note(`released ${epoch}`)),
        open: () => Promise.resolve(),
        drop: () => Promise.resolve(),
        dropped: () => 0,
        onFailed: () => undefined,
      },
      barrier,
      watchDisk: () => ({ close: () => undefined }),
      claim: () => new Promise(() => undefined),
      guestEnd: () => Promise.resolve(null),
      destroyGuest: () => Promise.resolve(),
      enter: () => Promise.resolve(),
      record: () => Promise.resolve(),
      nowMs: () => 0,
      log: () => undefined,
    };
  }

  /** Both directions keep their order, and nothing arrives at once. */
  #link(events: LinkEvents): SenderLink {
    this.events = events;
    const { receiver } = this;
    const later = (act: () => void): void => void setImmediate(act);
    receiver.begin(identity, {
      heartbeat: () => undefined,
      committed: (given, epoch) =>
        later(() => {
          events.committed(given, epoch);
          this.note(`committed ${epoch}`);
        }),
      ended: (decision, reason) => later(() => events.ended(decision, reason)),
      begun: () => undefined,
      undecided: (reason) => later(() => events.lost(reason)),
      back: () => undefined,
      module: (message) => {
        if (this.isMute) return;
        later(() => {
          events.module?.(message);
          later(() => this.note(`side ${message.number}`));
        });
      },
    });
    return {
      heartbeat: () => undefined,
      end: (reason, guest) => later(() => receiver.end(reason, guest)),
      data: async (_epoch, bytes) => {
        await receiver.data(Buffer.from(bytes));
      },
      checkpoint: async (epoch, folded, bytes) => {
        await receiver.checkpoint(epoch, folded, Buffer.from(bytes));
        this.note(`memory ${epoch}`);
      },
      module: (message) => later(() => receiver.module(message)),
      close: () => undefined,
    };
  }
}

/** With epochs 1 and 2 committed, in the second of which the guest has written. */
async function protectedPair(holdMs?: number): Promise<FakePair> {
  const pair = await FakePair.start(holdMs);
  await pair.committed();
  pair.write();
  pair.write(8);
  await pair.committed();
  await pair.until('unpaused');
  return pair;
}

test('the barrier follows the memory with the guest held, and protected is said when a write was seen held back', async () => {
  const pair = await FakePair.start();
  const { did, module, sender } = pair;
  assert.is(pair.gate, 'shut');
  await pair.committed();
  assert.equal(sender.view().protection, {
    protection: 'starting',
    reason: 'no write was seen held back on the backup yet; the guest may not have written anything',
  });
  const from = did.length;
  pair.write();
  assert.is(module.disks.backup, 0, 'held back');
  await pair.committed();
  assert.is(sender.view().protection.protection, 'protected');
  await pair.until('released 2');
  const order = ['paused', 'memory 2', 'ioctl 20', 'ioctl 30', 'unpaused', 'released 2'];
  assert.equal(
    did.slice(from).filter((what) => order.includes(what)),
    order,
  );
  assert.equal(pair.copy, { memory: 1, disk: 1 });
  pair.sender.stop('unprotect');
  await pair.committed();
  assert.is(await pair.ended, 'primary');
});

test('an end in order: a last barrier, the backup demoted with the guest held, no resync, and nothing is left', async () => {
  const pair = await protectedPair();
  pair.write();
  pair.sender.stop('unprotect');
  const epoch = pair.checkpoint();
  assert.is(await pair.ended, 'primary');
  await pair.receiver.finished;
  const { did, module } = pair;
  const from = did.lastIndexOf('paused');
  const order = [
    'paused',
    `memory ${epoch}`,
    'ioctl 20',
    'ioctl 30',
    'drbdadm secondary web',
    'the copy is dropped',
    'unpaused',
  ];
  assert.equal(
    did.slice(from).filter((what) => order.includes(what)),
    order,
  );
  assert.not(did.includes('drbdadm disconnect web'));
  assert.is(module.backup.role, 'Secondary');
  assert.is(module.disks.backup, module.disks.primary);
  assert.equal([pair.isPaused, pair.gate, pair.session], [false, null, null]);
});

for (const [at, epochs] of [
  ['before-barrier', 'the epoch before'],
  ['after-barrier', 'the same epoch'],
] as const) {
  test(`the primary dies with the memory complete, ${at}: memory and disk go on from ${epochs}`, async () => {
    const pair = await protectedPair();
    pair.write();
    pair.module.cutAt = at;
    const epoch = pair.checkpoint();
    await pair.until('cut');
    pair.receiver.askFailover('the primary is dead');
    const { phase } = await pair.receiver.finished;
    assert.is(phase, 'failed-over');
    const memory = pair.memories[at === 'before-barrier' ? epoch - 1 : epoch];
    assert.equal(pair.copy, { memory, disk: memory });
    assert.is(pair.gate, 'open');
    assert.is(pair.module.backup.role, 'Primary');
    pair.sender.stop('the test is over');
    pair.events.ended('primary', 'the test is over');
    await pair.ended;
  });
}

test('writes of the next epoch are on the disk of no copy', async () => {
  const pair = await protectedPair();
  pair.write();
  pair.write();
  pair.module.cut();
  pair.receiver.askFailover('the primary is dead');
  await pair.receiver.finished;
  assert.equal(pair.copy, { memory: 2, disk: 2 });
  pair.events.ended('primary', 'the test is over');
  await pair.ended;
});

test('an end out of order drops what is held back, and a resync brings it', async () => {
  const pair = await protectedPair();
  pair.write();
  pair.receiver.stop('the receiver was stopped');
  await pair.receiver.finished;
  assert.is(await pair.ended, 'primary');
  const { did, module } = pair;
  assert.ok(
    did.includes('drbdadm disconnect web') && did.includes('drbdadm -- --discard-my-data connect web'),
  );
  assert.ok(did.indexOf('the copy is dropped') < did.indexOf('drbdadm secondary web'));
  assert.equal([module.backup.role, module.backup.held.length], ['Secondary', 0]);
  assert.is(module.disks.backup, module.disks.primary);
});

test('a backup that writes through is never called protected, and protection ends', async () => {
  const pair = await FakePair.start();
  pair.module.writesThrough = true;
  for (let epoch = 1; epoch <= UNSEEN_CHECKPOINTS_MAX; epoch++) {
    pair.write();
    await pair.committed();
    await pair.until(`released ${epoch}`);
    assert.is(pair.sender.view().protection.protection, 'starting');
  }
  pair.write();
  pair.checkpoint();
  assert.is(await pair.ended, 'primary');
  assert.match(pair.sender.view().protection.reason, /writes them through, so its disk runs ahead/);
  await pair.receiver.finished;
  assert.is(pair.module.backup.role, 'Secondary');
});

test('no barrier leaves once the link is lost, and the guest is not held for one', async () => {
  const pair = await protectedPair();
  pair.write();
  pair.isMute = true;
  const epoch = pair.checkpoint();
  await pair.until(`memory ${epoch}`);
  const barriers = pair.did.filter((what) => what === 'ioctl 20').length;
  const from = pair.did.length;
  pair.events.lost('reset');
  pair.events.module?.({
    type: 'module-side',
    of: 'memory',
    number: epoch,
    procDrbd: pair.module.proc('backup'),
  });
  while (pair.isPaused) await new Promise((resolve) => setImmediate(resolve));
  assert.equal(pair.did.slice(from), ['unpaused']);
  assert.is(pair.did.filter((what) => what === 'ioctl 20').length, barriers);
  pair.events.ended('primary', 'the test is over');
  await pair.ended;
  pair.receiver.stop('the test is over');
  await pair.receiver.finished;
});

test('a guest that is held for too long is let go, and protection ends', async () => {
  const pair = await FakePair.start(50);
  pair.isMute = true;
  pair.checkpoint();
  await pair.until('decided: primary');
  assert.is(await pair.ended, 'primary');
  await pair.receiver.finished;
  assert.equal([pair.isPaused, pair.module.backup.role], [false, 'Secondary']);
});

test('a module that is not as a session needs it is refused, and nothing was changed', async () => {
  const module = new FakeModule();
  module.backup.connection = 'WFConnection';
  module.backup.held = [4];
  const disks = new DeferringDisks('web', MINOR, {
    exec: module.drbdadm,
    procDrbd: () => Promise.resolve(module.proc('backup')),
    setGate: () => Promise.reject(new Error('the gate was touched')),
    removeGate: () => Promise.resolve(),
    session: {
      note: () => Promise.resolve(),
      read: () => Promise.resolve(null),
      forget: () => Promise.resolve(),
    },
    pause: () => Promise.resolve(),
  });
  let message = '';
  await disks.prepare().catch((error: unknown) => (message = (error as Error).message));
  assert.match(
    message,
    /it is WFConnection, Connected is required.*holds back 1 writes of an earlier session; nothing was changed/,
  );
  assert.equal(module.ran, []);
});

test('after a receiver that died the backup is secondary again, unless it had won', async () => {
  for (const outcome of ['roll-forward', 'discard'] as const) {
    const module = new FakeModule();
    module.backup.role = 'Primary';
    module.write(4);
    let session: number | null = 7;
    const disks = new DeferringDisks('web', MINOR, {
      exec: module.drbdadm,
      procDrbd: () => Promise.resolve(module.proc('backup')),
      setGate: () => Promise.resolve(),
      removeGate: () => Promise.resolve(),
      session: {
        note: () => Promise.resolve(),
        read: () => Promise.resolve(session),
        forget: () => Promise.resolve(void (session = null)),
      },
      pause: () => Promise.resolve(),
    });
    assert.ok(await disks.recover(() => Promise.resolve(outcome)));
    assert.is(module.backup.role, 'Secondary');
    assert.is(module.backup.connection, outcome === 'discard' ? 'StandAlone' : 'Connected');
    if (outcome === 'roll-forward') assert.is(module.disks.backup, 1);
    assert.not(await disks.recover(() => Promise.resolve(outcome)), 'once is enough');
  }
});

test('whether the module replicates is told at once and at each change', async () => {
  const module = new FakeModule();
  const told: (string | null)[] = [];
  let tell: () => void = () => undefined;
  const next = (): Promise<void> => new Promise((resolve) => (tell = resolve));
  const first = next();
  const watch = watchModule(
    MINOR,
    (fault) => {
      told.push(fault);
      tell();
    },
    () => Promise.resolve(module.proc('backup')),
  );
  try {
    await first;
    const second = next();
    module.cut();
    await second;
  } finally {
    watch.close();
  }
  assert.equal(told, [null, 'WFConnection']);
});

test.run();
