/** The journal's promises one by one, on modelled disks that can be made to fail. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { encodeMarker, positionToOffset } from '../../src/core/journal/format.js';
import { readSuperblock } from '../../src/core/journal/scan.js';
import { SECTOR_BYTES } from '../../src/core/journal/types.js';
import { EpochJournal, formatJournal } from '../../src/journal/journal.js';
import { Bench, ID, KIB } from './bench.js';
import type { ModelDisk } from './model.js';

const MIB = 1024 * KIB;

test('a marker closes, a commit releases, and only what is committed reaches the target', async () => {
  const bench = await new Bench().start();
  await bench.session();
  bench.write(0, 8, 1);
  bench.marker(1);
  bench.write(0, 8, 2);
  bench.marker(5);
  bench.write(0, 8, 3);
  assert.equal(bench.markers, [1, 5], 'numbers may skip');
  assert.is((await bench.read(0, 1))[0], 3, 'reads see the newest data');
  await bench.run(bench.live.commit(1));
  await bench.run(bench.live.drained());
  assert.is(bench.targets[0]?.durable[0], 1);
  assert.is((await bench.read(0, 1))[0], 3);
  await bench.run(bench.live.commit(5));
  await bench.run(bench.live.drained());
  assert.is(bench.targets[0]?.durable[0], 2);
  assert.is(bench.live.state().committedEpoch, 5);
});

test('a drain writes each block once, with its newest committed content, sorted and merged', async () => {
  const bench = await new Bench().start();
  await bench.session();
  for (let round = 1; round <= 5; round++) {
    for (const block of [7, 3, 5, 4]) bench.write(block * 8, 8, round * 10 + block);
    bench.marker(round);
  }
  const written: { offset: number; length: number }[] = [];
  (bench.targets[0] as ModelDisk).onWrite = (offset, bytes) => written.push({ offset, length: bytes.length });
  await bench.run(bench.live.commit(5));
  await bench.run(bench.live.drained());
  assert.equal(written, [
    { offset: 3 * 4096, length: 3 * 4096 },
    { offset: 7 * 4096, length: 4096 },
  ]);
  assert.is(bench.targets[0]?.durable[4 * 4096], 54);
});

test('commits are refused with the reason', async () => {
  const bench = await new Bench().start();
  assert.is(await bench.code(bench.live.commit(1)), 'wrong-mode');
  assert.is(await bench.code(bench.live.discard()), 'wrong-mode');
  await bench.session();
  assert.is(await bench.code(bench.live.startSession({ domain: 'web', term: 2, id: ID })), 'wrong-mode');
  assert.is(await bench.code(bench.live.commit(1)), 'epoch-not-closed');
  bench.marker(1);
  assert.is(await bench.code(bench.live.commit(2)), 'epoch-not-closed');
  assert.is(await bench.code(bench.live.commit(1)), 'none');
  assert.is(await bench.code(bench.live.commit(1)), 'epoch-already-committed');
  assert.is(await bench.code(bench.live.startSession({ domain: 'db', term: 2, id: ID })), 'invalid');
});

test('a marker of another session, term or domain, or one seen before, is an ordinary write', async () => {
  const bench = await new Bench().start();
  bench.marker(1);
  await bench.session();
  bench.marker(1, { term: 2 });
  bench.marker(1, { domain: 'db' });
  bench.marker(1, { session: Buffer.alloc(16, 1) });
  bench.marker(2);
  bench.marker(2);
  bench.marker(1);
  assert.equal(bench.markers, [2]);
  assert.is(bench.ignored.length, 6);
  assert.match(bench.ignored[0] as string, /no session is open/);
  assert.match(bench.ignored[1] as string, /term 2/);
  assert.match(bench.ignored[2] as string, /domain db/);
  assert.match(bench.ignored[3] as string, /another session/);
  assert.match(bench.ignored[4] as string, /was here before/);
  const block = encodeMarker({ domain: 'web', term: 1, session: ID, epoch: 1 });
  assert.ok((await bench.read(0, 8, 1)).equals(block), 'it is kept like any other block');
});

test('flushes that wait together share one flush of the disk', async () => {
  const bench = await new Bench().start();
  const before = bench.live.state().counters.flushes;
  let done = 0;
  for (let index = 0; index < 50; index++) {
    bench.write(index * 8, 8, 1);
    bench.live.requestFlush(() => done++);
  }
  await bench.quiet();
  assert.is(done, 50);
  const flushes = bench.live.state().counters.flushes - before;
  assert.ok(flushes <= 2 + 2, `${flushes} flushes for 50`);
});

test('a flush does not answer before the disk has flushed', async () => {
  const bench = await new Bench().start();
  await bench.quiet();
  bench.write(0, 8, 1);
  let done = false;
  bench.live.requestFlush(() => {
    done = true;
  });
  await new Promise((resolve) => setImmediate(resolve));
  assert.is(done, false);
  await bench.quiet();
  assert.is(done, true);
});

test('what is durable is not written again until it is free', async () => {
  const bench = await new Bench().start();
  await bench.session();
  for (let index = 0; index < 10; index++) {
    bench.write(index * 8, 1 + index, 1);
    await bench.run(bench.live.flush());
    const durable =
      (await bench.run(readSuperblock(bench.disk))).layout.dataOffset + bench.live.state().usedBytes;
    bench.disk.onWrite = (offset) => {
      if (offset >= 24 * KIB)
        assert.ok(offset >= Math.floor(durable / 4096) * 4096 && offset % 4096 === 0, `${offset}`);
      bench.disk.onWrite = null;
    };
  }
});

test('a failed write of the journal reaches the client and stops everything', async () => {
  for (const code of ['EIO', 'ENOSPC']) {
    const bench = await new Bench().start();
    await bench.session();
    bench.disk.failNext = { write: code };
    const first = bench.write(0, 8, 1);
    const behind = bench.write(8, 8, 1);
    await bench.quiet();
    assert.is(first.result, code);
    assert.is(behind.result, 'EIO');
    assert.is(bench.write(16, 8, 1).result, 'EIO');
    assert.is(await bench.code(bench.live.flush()), 'failed');
    assert.is(await bench.code(bench.live.commit(1)), 'failed');
    assert.is(await bench.code(bench.live.drained()), 'failed');
    assert.match(bench.live.state().failed ?? '', new RegExp(code));
    assert.match(bench.changes[bench.changes.length - 1] as string, /journal write/);
  }
});

test('a failed flush is never followed by one that succeeds', async () => {
  const bench = await new Bench().start();
  await bench.session();
  bench.write(0, 8, 1);
  bench.marker(1);
  bench.disk.failNext = { flush: 'EIO' };
  assert.is(await bench.code(bench.live.commit(1)), 'failed');
  assert.is(bench.live.state().committedEpoch, null, 'nothing is said to be committed');
  assert.is(await bench.code(bench.live.flush()), 'failed');
  assert.is(bench.write(0, 8, 1).result, 'EIO');
});

test('a target that fails stops the journal, and what it holds is still there', async () => {
  for (const failure of [{ write: 'EIO' }, { flush: 'EIO' }]) {
    const bench = await new Bench().start();
    await bench.session();
    bench.write(0, 8, 7);
    bench.marker(1);
    (bench.targets[0] as ModelDisk).failNext = failure;
    await bench.run(bench.live.commit(1));
    await bench.quiet();
    assert.match(bench.live.state().failed ?? '', /target of a/);
    assert.is(bench.write(0, 8, 8).result, 'EIO');
    assert.is((await bench.read(0, 8))[0], 7);
    await bench.open();
    await bench.run(bench.live.rollForward());
    await bench.run(bench.live.drained());
    assert.is(bench.targets[0]?.durable[0], 7);
  }
});

test('a read that fails says so and stops nothing, if it was of a target', async () => {
  const bench = await new Bench().start();
  (bench.targets[0] as ModelDisk).failNext = { read: 'EIO' };
  let code = '';
  await bench.run(bench.live.read(0, 0, 8, Buffer.alloc(4096))).catch((error: unknown) => {
    code = (error as NodeJS.ErrnoException).code ?? '';
  });
  assert.is(code, 'EIO');
  assert.is(bench.live.state().counters.targetReadErrors, 1);
  assert.is(bench.write(0, 8, 1).result, null);
});

test('a full journal holds writes back, says so, and a commit or the end of the session makes room', async () => {
  const bench = await new Bench().start();
  await bench.session();
  bench.write(0, 8, 1);
  bench.marker(1);
  const answers = Array.from({ length: 40 }, (_, index) => bench.write((index % 4) * 24, 24, index));
  const last = answers[answers.length - 1] as { result: string | null | undefined };
  await bench.quiet();
  assert.is(last.result, undefined);
  const { full, failed } = bench.live.state();
  assert.is(full?.what, 'space');
  assert.is(failed, null);
  assert.match(bench.live.state().reason, /only a commit or the end of the session makes room/);
  await bench.run(bench.live.commit(1));
  await bench.run(bench.live.drained());
  assert.is(last.result, undefined, 'one small epoch is not enough');
  await bench.run(bench.live.rollForward());
  await bench.quiet();
  assert.is(last.result, null);
  assert.is(bench.live.state().full, null);
  assert.is((await bench.read(3 * 24, 1))[0], 39);
});

test('what a full journal keeps in reserve is for the end of a session: it lets what waits come to its end', async () => {
  const bench = await new Bench().start({ reserveBytes: 64 * KIB });
  await bench.session();
  const answers: { result: string | null | undefined }[] = [];
  while (bench.live.state().full === null) answers.push(bench.write((answers.length % 4) * 24, 24, 7));
  const waiting = [bench.write(0, 8, 8), bench.write(8, 8, 9)];
  await bench.quiet();
  assert.ok(waiting.every(({ result }) => result === undefined));
  bench.live.openReserve();
  await bench.quiet();
  assert.ok([...answers, ...waiting].every(({ result }) => result === null));
  // All of it was uncommitted, and none of it is forgotten.
  const { ranges } = await bench.run(bench.live.discard());
  assert.equal(ranges, [{ volume: 'a', offsetBytes: 0, lengthBytes: 96 * SECTOR_BYTES }]);
});

test('every epoch of a full journal can be committed', async () => {
  const bench = await new Bench().start();
  await bench.session();
  let epoch = 0;
  while (bench.live.state().full === null) bench.marker(++epoch);
  await bench.quiet();
  assert.ok(epoch > 30);
  for (let each = 1; each < epoch; each++) await bench.run(bench.live.commit(each));
  await bench.run(bench.live.drained());
  assert.is(bench.live.state().full, null);
  assert.is(bench.live.state().closedEpoch, epoch, 'the one that waited was let in');
});

test('an index that is full holds writes back too', async () => {
  const bench = new Bench([{ name: 'a', sizeBytes: 2 * MIB, barrier: false }], 4 * MIB);
  await bench.run(
    formatJournal(bench.disk, {
      domain: 'web',
      volumes: bench.volumes,
      journalId: ID,
      segmentBytes: 64 * KIB,
      indexEntries: 1024,
    }),
  );
  await bench.open();
  await bench.session();
  const answers = Array.from({ length: 500 }, (_, index) => bench.write(index * 8 + 4, 1, 1));
  const more = Array.from({ length: 500 }, (_, index) => bench.write(((index * 8) % 4000) + 2, 2, null));
  for (let index = 0; index < 200; index++) more.push(bench.write(index * 8 + 6, 1, 1));
  await bench.quiet();
  assert.is(answers[0]?.result, null);
  assert.is(more[699]?.result, undefined);
  assert.is(bench.live.state().full?.what, 'index');
  assert.ok(bench.live.state().indexEntries <= 1024);
  await bench.run(bench.live.rollForward());
  await bench.quiet();
  assert.is(more[699]?.result, null);
});

test('a whole disk can be discarded at the price of a few entries, and reads as zeros before and after draining', async () => {
  const bench = new Bench([{ name: 'a', sizeBytes: 32 * MIB, barrier: false }], 8 * MIB);
  (bench.targets[0] as ModelDisk).current.fill(0x77);
  (bench.targets[0] as ModelDisk).durable.fill(0x77);
  await bench.start();
  await bench.session();
  bench.write(20_000, 8, 5);
  bench.write(0, (32 * MIB) / SECTOR_BYTES, null);
  bench.write(30_000, 8, 6);
  assert.ok(bench.live.state().indexEntries <= 12, `${bench.live.state().indexEntries} entries`);
  const expected = Buffer.alloc(32 * MIB);
  expected.fill(6, 30_000 * SECTOR_BYTES, 30_008 * SECTOR_BYTES);
  for (const sector of [0, 19_999, 20_000, 29_996, 65_528]) {
    const found = await bench.read(sector, 8);
    assert.ok(
      found.equals(expected.subarray(sector * SECTOR_BYTES, (sector + 8) * SECTOR_BYTES)),
      `sector ${sector}`,
    );
  }
  await bench.run(bench.live.rollForward());
  await bench.run(bench.live.drained());
  assert.ok((bench.targets[0] as ModelDisk).durable.equals(expected));
});

test('a torn tail is cut off, and a flipped bit in what was durable is found and never recovered from', async () => {
  for (const flush of [false, true]) {
    const bench = await new Bench().start();
    await bench.session();
    bench.write(0, 8, 1);
    if (flush) await bench.run(bench.live.flush());
    bench.write(8, 8, 2);
    await bench.quiet();
    const { layout } = await bench.run(readSuperblock(bench.disk));
    // The session's frame fills the first block; the first write is the frame behind it.
    const at = positionToOffset(layout, { segment: 0, offsetBytes: 4096 + 512 + 100 });
    for (const image of [bench.disk.current, bench.disk.durable]) image[at] = (image[at] as number) ^ 4;
    if (!flush) {
      await bench.open();
      assert.match(bench.live.scan.endReason, /checksum of write 0/);
      await bench.run(bench.live.rollForward());
      assert.is((await bench.read(0, 1))[0], 0);
      assert.is((await bench.read(8, 1))[0], 0, 'nothing behind the tear counts');
    } else {
      assert.is(await bench.openCode(), 'corrupt');
    }
  }
});

test('after closing in order a flipped bit is found even in the last frame', async () => {
  const bench = await new Bench().start();
  await bench.session();
  bench.write(0, 8, 1);
  await bench.run(bench.live.close());
  const { layout } = await bench.run(readSuperblock(bench.disk));
  const at = positionToOffset(layout, { segment: 0, offsetBytes: 4096 + 600 });
  bench.disk.current[at] = (bench.disk.current[at] as number) ^ 1;
  assert.is(await bench.openCode(), 'corrupt');
});

test('one damaged superblock does not matter, two do', async () => {
  const bench = await new Bench().start();
  await bench.run(bench.live.close());
  bench.disk.current.fill(0, 0, 4096);
  await bench.open();
  await bench.run(bench.live.close());
  bench.disk.current.fill(0, 0, 8192);
  assert.is(await bench.openCode(), 'not-a-journal');
});

test('a journal opened for other volumes is refused', async () => {
  const bench = await new Bench().start();
  const other = bench.volumes.map((volume) => ({ ...volume, name: `${volume.name}x` }));
  assert.is(
    await bench.code(EpochJournal.open(bench.disk, bench.targets, other, { clock: bench.world })),
    'volumes-differ',
  );
  assert.is(
    await bench.code(
      EpochJournal.open(
        bench.disk,
        [bench.make(Buffer.alloc(512)), ...bench.targets.slice(1)],
        bench.volumes,
        {
          clock: bench.world,
        },
      ),
    ),
    'volumes-differ',
  );
});

test('a session that was found takes no writes until it is ended, and cannot be ended both ways', async () => {
  const bench = await new Bench().start();
  await bench.session();
  bench.write(0, 8, 1);
  bench.marker(1);
  await bench.run(bench.live.commit(1));
  bench.write(0, 8, 2);
  await bench.run(bench.live.flush());
  await bench.open();
  assert.ok(bench.live.state().undecided);
  assert.is(bench.write(0, 8, 9).result, 'EIO');
  assert.is((await bench.read(0, 1))[0], 2);
  assert.is(await bench.code(bench.live.commit(2)), 'wrong-mode');
  const { ranges, committedEpoch } = await bench.run(bench.live.discard());
  assert.is(committedEpoch, 1);
  assert.equal(ranges, [{ volume: 'a', offsetBytes: 0, lengthBytes: 4096 }]);
  assert.is((await bench.read(0, 1))[0], 1);
  assert.is(bench.write(8, 8, 9).result, null);
  assert.is(
    await bench.code(bench.live.startSession({ domain: 'web', term: 2, id: ID })),
    'discard-not-marked',
  );
  await bench.run(bench.live.discardMarked());
  await bench.session(2);
  await bench.run(bench.live.rollForward());
  assert.is(await bench.code(bench.live.discard()), 'wrong-mode');
});

test('a discard covers a write that was on its way', async () => {
  const bench = await new Bench().start();
  await bench.session();
  bench.slow = true;
  const write = bench.write(8, 8, 1);
  const { ranges } = await bench.run(bench.live.discard());
  assert.is(write.result, null);
  assert.equal(ranges, [{ volume: 'a', offsetBytes: 4096, lengthBytes: 4096 }]);
  assert.is((await bench.read(8, 1))[0], 0);
});

test('while writes keep arriving, a drain takes only its share; without any it takes all there is', async () => {
  for (const busy of [true, false]) {
    const bench = new Bench(
      [
        { name: 'a', sizeBytes: 8 * MIB, barrier: false },
        { name: 'barrier', sizeBytes: 8 * KIB, barrier: true },
      ],
      16 * MIB,
    );
    await bench.start({ drain: { sliceBytes: 16 * KIB, spanBytes: 256 * KIB } });
    await bench.session();
    // Every second block, so that nothing merges to long runs.
    for (let block = 0; block < 512; block++) bench.write(block * 16, 8, 1);
    bench.marker(1);
    await bench.run(bench.live.commit(1));
    const before = bench.live.state().counters;
    for (let step = 0; step < 1200; step++) {
      if (busy && step % 3 === 0) bench.write(8192 + (step % 512) * 8, 8, 2);
      await bench.world.step(() => 0);
    }
    const after = bench.live.state().counters;
    const drained = after.drainedBytes - before.drainedBytes;
    const arrived = after.writtenBytes - before.writtenBytes;
    if (busy)
      assert.ok(drained > 0 && drained < arrived * 0.6, `${drained} drained while ${arrived} arrived`);
    else assert.is(drained, 512 * 4096 + 4096);
    assert.ok(bench.live.state().usedBytes / bench.live.state().totalBytes < 0.35);
  }
});

test('closing refuses what comes after, and loses nothing that came before', async () => {
  const bench = await new Bench().start();
  bench.slow = true;
  const before = bench.write(0, 8, 1);
  const closing = bench.live.close();
  assert.is(bench.write(8, 8, 1).result, 'ESHUTDOWN');
  await bench.run(closing);
  assert.is(before.result, null);
  await bench.open();
  assert.ok(bench.live.scan.closedInOrder || bench.live.scan.frames === 0);
  assert.is((await bench.read(0, 1))[0], 1);
});

test('state says what a receiver needs', async () => {
  const bench = await new Bench().start();
  await bench.session(3);
  bench.write(0, 16, 1);
  bench.marker(4);
  bench.write(0, 8, 1);
  const state = bench.live.state();
  assert.is(state.mode, 'epochs');
  assert.is(state.term, 3);
  assert.is(state.sessionId, ID.toString('hex'));
  assert.is(state.ended, 'none');
  const open = state.epochs[state.epochs.length - 1];
  assert.is(open?.phase, 'open');
  assert.ok(state.usedBytes > 0 && state.usedBytes < state.totalBytes);
});

test.run();
