/** `journal inspect | verify | recover`, and the control socket of `journal serve`, on real files. */
import { open, readFile, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { createInterface } from 'node:readline';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  formatJournalFrom,
  inspectJournal,
  journalReportText,
  recoverJournal,
  recoverReportText,
  verifyExitCode,
} from '../../src/commands/journal.js';
import { serveJournal } from '../../src/commands/journal-serve.js';
import { ExitCode, OperatorError } from '../../src/core/errors.js';
import { encodeMarker } from '../../src/core/journal/format.js';
import { TestClient } from '../nbd/client.js';
import { makeWorkplace } from './tools.js';
import type { Workplace } from './tools.js';

const SESSION = Buffer.alloc(16, 0x22);
const quiet = { info: () => undefined, warn: () => undefined };

type Line = Record<string, unknown>;

/** A control connection that collects events and answers. */
function control(path: string): {
  call: (call: string, fields?: Line) => Promise<Line>;
  events: Line[];
  close: () => void;
} {
  const socket = connect(path);
  const lines = createInterface({ input: socket });
  lines.on('error', () => undefined);
  socket.on('error', () => undefined);
  const events: Line[] = [];
  const waiting = new Map<unknown, (line: Line) => void>();
  lines.on('line', (text) => {
    const line = JSON.parse(text) as Line;
    if (line['event'] !== undefined) events.push(line);
    else waiting.get(line['id'])?.(line);
  });
  let next = 1;
  return {
    events,
    call: (call, fields = {}) => {
      const id = next++;
      return new Promise((resolve) => {
        waiting.set(id, resolve);
        socket.write(`${JSON.stringify({ id, call, ...fields })}\n`);
      });
    },
    close: () => socket.destroy(),
  };
}

/** Serves, writes two epochs of which the first is committed, and stops without ending the session. */
async function twoEpochs(place: Workplace): Promise<Line[]> {
  const running = await serveJournal({ configPath: place.configPath, log: quiet });
  const steer = control(place.control);
  try {
    const started = await steer.call('startSession', { term: 3, session: SESSION.toString('hex') });
    assert.ok(started['ok'], JSON.stringify(started));
    const disk = await TestClient.connect(place.socket, 'disk0');
    const barrier = await TestClient.connect(place.socket, 'barrier');
    for (const epoch of [1, 2]) {
      assert.is((await disk.write(epoch * 4096, Buffer.alloc(4096, epoch))).error, 0);
      assert.is((await disk.write(0, Buffer.alloc(512, epoch))).error, 0);
      const marker = encodeMarker({ domain: 'web', term: 3, session: SESSION, epoch });
      assert.is((await barrier.write(0, marker)).error, 0);
    }
    assert.equal(await steer.call('commit', { epoch: 1 }), { id: 2, ok: true });
    assert.is((await steer.call('commit', { epoch: 9 }))['code'], 'epoch-not-closed');
    assert.is((await disk.write(12 * 4096, Buffer.alloc(4096, 3))).error, 0);
    assert.is((await disk.flush()).error, 0);
    disk.destroy();
    barrier.destroy();
    return steer.events;
  } finally {
    steer.close();
    await running.stop();
  }
}

async function with2(body: (place: Workplace) => Promise<void>): Promise<void> {
  const place = await makeWorkplace({ journalMib: 8, diskMib: 4 });
  try {
    await body(place);
  } finally {
    await place.remove();
  }
}

async function refused(promise: Promise<unknown>): Promise<OperatorError> {
  try {
    await promise;
  } catch (error) {
    assert.instance(error, OperatorError);
    return error as OperatorError;
  }
  throw new Error('it was not refused');
}

test('markers are told to whoever controls', () =>
  with2(async (place) => {
    const events = await twoEpochs(place);
    assert.equal(
      events
        .filter((each) => each['event'] === 'marker')
        .map((each) => [each['epoch'], each['term'], each['writes']]),
      [
        [1, 3, 3],
        [2, 3, 3],
      ],
    );
  }));

test('inspect shows epochs, ranges, bytes, the commit and ages, and changes nothing', () =>
  with2(async (place) => {
    await twoEpochs(place);
    const before = await readFile(place.journalPath);
    const report = await inspectJournal(place.journalPath, Date.now());
    assert.ok((await readFile(place.journalPath)).equals(before));
    assert.is(report.mode, 'epochs');
    assert.is(report.committedEpoch, 1);
    assert.is(report.closedEpoch, 2);
    assert.is(report.term, 3);
    assert.is(verifyExitCode(report), ExitCode.ok);
    const second = report.epochs.find((each) => each.epoch === 2);
    assert.is(second?.phase, 'closed');
    assert.equal(second?.ranges[0], { volume: 'disk0', offsetBytes: 0, lengthBytes: 512 });
    assert.equal(second?.ranges[1], { volume: 'disk0', offsetBytes: 8192, lengthBytes: 4096 });
    const text = journalReportText(report, false);
    assert.match(text, /last commit 1/);
    assert.match(text, /epoch 2: closed, 3 writes/);
  }));

test('recover goes back to the commit, tells the ranges again until they are marked, and never goes forward after that', () =>
  with2(async (place) => {
    await twoEpochs(place);
    const back = { configPath: place.configPath, direction: 'back' as const };
    const first = await recoverJournal(back);
    assert.is(first.found, 'open session');
    assert.is(first.committedEpoch, 1);
    const disk = await readFile(place.target('disk0'));
    assert.is(disk[0], 1);
    assert.is(disk[4096], 1);
    assert.is(disk[8192], 0);
    assert.is(disk[12 * 4096], 0);
    assert.equal(
      first.discarded.filter((range) => range.volume === 'disk0'),
      [
        { volume: 'disk0', offsetBytes: 0, lengthBytes: 512 },
        { volume: 'disk0', offsetBytes: 8192, lengthBytes: 4096 },
        { volume: 'disk0', offsetBytes: 49152, lengthBytes: 4096 },
      ],
    );
    assert.match(recoverReportText(first), /write them back through DRBD/);
    const second = await recoverJournal(back);
    assert.is(second.found, 'already discarded');
    assert.equal(second.discarded, first.discarded);
    const wrong = await refused(recoverJournal({ ...back, direction: 'forward' }));
    assert.is(wrong.exitCode, ExitCode.refused);
    await recoverJournal({ ...back, marked: true });
    assert.equal((await recoverJournal(back)).discarded, []);
  }));

test('recover goes forward to the end, and never back after that', () =>
  with2(async (place) => {
    await twoEpochs(place);
    const forward = { configPath: place.configPath, direction: 'forward' as const };
    assert.is((await recoverJournal(forward)).found, 'open session');
    const disk = await readFile(place.target('disk0'));
    assert.is(disk[0], 2);
    assert.is(disk[8192], 2);
    assert.is(disk[12 * 4096], 3);
    assert.is((await recoverJournal(forward)).found, 'already rolled forward');
    const wrong = await refused(recoverJournal({ ...forward, direction: 'back' }));
    assert.is(wrong.exitCode, ExitCode.refused);
    assert.match(wrong.message, /rolled forward before/);
  }));

test('verify finds a flipped bit, and recover refuses', () =>
  with2(async (place) => {
    await twoEpochs(place);
    const file = await open(place.journalPath, 'r+');
    const bytes = await file.readFile();
    const at = bytes.indexOf(Buffer.alloc(4096, 2)) + 77;
    await file.write(Buffer.from([3]), 0, 1, at);
    await file.close();
    const report = await inspectJournal(place.journalPath, Date.now());
    assert.match(report.corruption ?? '', /checksum of write 0 of frame/);
    assert.is(verifyExitCode(report), ExitCode.failed);
    const before = await readFile(place.target('disk0'));
    const error = await refused(recoverJournal({ configPath: place.configPath, direction: 'forward' }));
    assert.is(error.exitCode, ExitCode.refused);
    assert.match(error.message, /nothing was changed/);
    assert.ok((await readFile(place.target('disk0'))).equals(before));
  }));

test('a file that is no journal, and a configuration that is wrong, are named', () =>
  with2(async (place) => {
    const none = await refused(inspectJournal(place.target('disk0'), 0));
    assert.match(none.message, /disk0: no valid superblock/);
    await writeFile(place.configPath, '{"domain": "web", "volumes": [], "other": 1}');
    const wrong = await refused(recoverJournal({ configPath: place.configPath, direction: 'back' }));
    assert.is(wrong.exitCode, ExitCode.usage);
    assert.match(wrong.message, /journal\.json: journal: /);
  }));

test('a control line that is wrong ends the connection and nothing else', () =>
  with2(async (place) => {
    const running = await serveJournal({ configPath: place.configPath, log: quiet });
    try {
      for (const line of ['nonsense\n', '{"id":1,"call":"format"}\n', `"${'x'.repeat(70_000)}`]) {
        const socket = connect(place.control);
        socket.on('error', () => undefined);
        socket.resume();
        const closed = new Promise((resolve) => socket.once('close', resolve));
        socket.write(line);
        await closed;
      }
      const steer = control(place.control);
      const state = await steer.call('state');
      assert.is((state['result'] as Line)['mode'], 'through');
      assert.is((await steer.call('stop'))['ok'], true);
      await running.stopped;
      steer.close();
    } finally {
      await running.stop();
    }
  }));

test('a journal is never made over something, unless that is said', async () => {
  const place = await makeWorkplace();
  try {
    const before = await readFile(place.journalPath);
    try {
      await formatJournalFrom({ configPath: place.configPath });
      assert.unreachable('it was not refused');
    } catch (error) {
      assert.instance(error, OperatorError);
      assert.is((error as OperatorError).exitCode, ExitCode.refused);
      assert.match((error as OperatorError).message, /refusing to make a journal there: it holds something/);
    }
    assert.equal(Buffer.compare(await readFile(place.journalPath), before), 0);
    await formatJournalFrom({ configPath: place.configPath, overwrite: true });
    assert.is(verifyExitCode(await inspectJournal(place.journalPath, Date.now())), ExitCode.ok);
  } finally {
    await place.remove();
  }
});

test.run();
