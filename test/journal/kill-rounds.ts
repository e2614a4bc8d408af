/**
 * Rounds of SIGKILL: two ledgers on two volumes and fio beside them, a kill at any moment, recovery, and a look
 * at what is there.
 *
 * Each ledger block counts up. The writer notes what it wrote and which of it was flushed; a third party closes
 * and commits epochs. After the kill the journal is recovered, forward or back in turn:
 * - nothing that was flushed is missing when rolled forward, and both disks have whole blocks only;
 * - rolled back, both ledgers are exactly what was complete at the marker of the last commit, the same on both
 *   volumes, and the commit is none older than the last one confirmed;
 * - told again, recovery reports the same.
 */
import { tmpdir } from 'node:os';
import { spawn } from 'node:child_process';
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { open } from 'node:fs/promises';
import * as assert from 'uvu/assert';
import { recoverJournal } from '../../src/commands/journal.js';
import { encodeMarker } from '../../src/core/journal/format.js';
import { TestClient } from '../nbd/client.js';
import { choices } from './model.js';
import { makeWorkplace, runTool, startServeProcess } from './tools.js';
import type { Workplace } from './tools.js';

const SESSION = Buffer.alloc(16, 0x11);
const BLOCK = 4096;
const LEDGER_BLOCKS = 64;

class Control {
  private readonly socket: Socket;
  private readonly waiting = new Map<number, (answer: Record<string, unknown>) => void>();
  private next = 1;

  constructor(path: string) {
    this.socket = connect(path);
    this.socket.on('error', () => undefined);
    const lines = createInterface({ input: this.socket });
    // Node passes the socket's error on.
    lines.on('error', () => undefined);
    lines.on('line', (line) => {
      const answer = JSON.parse(line) as Record<string, unknown>;
      if (typeof answer['id'] === 'number') this.waiting.get(answer['id'])?.(answer);
    });
    this.socket.on('close', () => {
      for (const resolve of this.waiting.values()) resolve({ ok: false, code: 'gone' });
    });
  }

  call(call: string, fields: Record<string, unknown> = {}): Promise<Record<string, unknown>> {
    const id = this.next++;
    return new Promise((resolve) => {
      this.waiting.set(id, resolve);
      this.socket.write(`${JSON.stringify({ id, call, ...fields })}\n`);
    });
  }

  close(): void {
    this.socket.destroy();
  }
}

interface Ledger {
  /** The count in each block: written, and of that acknowledged or flushed. */
  written: number[];
  acknowledged: number[];
  flushed: number[];
}

const ledger = (): Ledger => ({
  written: Array<number>(LEDGER_BLOCKS).fill(0),
  acknowledged: Array<number>(LEDGER_BLOCKS).fill(0),
  flushed: Array<number>(LEDGER_BLOCKS).fill(0),
});

function page(count: number): Buffer {
  const bytes = Buffer.alloc(BLOCK);
  for (let at = 0; at < BLOCK; at += 8) bytes.writeUInt32LE(count, at);
  return bytes;
}

/** The count in each block of a ledger; throws when a block is not whole. */
async function readLedger(path: string): Promise<number[]> {
  const file = await open(path);
  try {
    const bytes = Buffer.alloc(LEDGER_BLOCKS * BLOCK);
    await file.read(bytes, 0, bytes.length, 0);
    return Array.from({ length: LEDGER_BLOCKS }, (_, block) => {
      const part = bytes.subarray(block * BLOCK, (block + 1) * BLOCK);
      const count = part.readUInt32LE(0);
      assert.ok(part.equals(page(count)), `block ${block} of ${path} is not whole`);
      return count;
    });
  } finally {
    await file.close();
  }
}

/** One life of a server: load until it is killed. @returns the counts at each marker that was sent */
async function live(
  place: Workplace,
  ledgers: [Ledger, Ledger],
  term: number,
  afterMs: number,
  withFio: boolean,
): Promise<{ atMarker: Map<number, [number[], number[]]>; confirmed: number | null; flushes: number }> {
  const server = await startServeProcess(place);
  const control = new Control(place.control);
  const started = await control.call('startSession', { term, session: SESSION.toString('hex') });
  assert.ok(started['ok'], JSON.stringify(started));
  const clients = [
    await TestClient.connect(place.socket, 'disk1'),
    await TestClient.connect(place.socket, 'barrier'),
  ] as const;
  const fio = withFio
    ? spawn(
        'fio',
        [
          '--name=load',
          // A job in a process of its own would outlive the kill of fio.
          '--thread',
          '--ioengine=nbd',
          `--uri=${place.uri('disk0')}`,
          '--rw=randwrite',
          '--bs=4k',
          '--iodepth=16',
          '--fsync=64',
          '--offset=1m',
          '--size=16m',
          '--time_based',
          '--runtime=60',
          '--verify=crc32c',
          '--do_verify=0',
        ],
        // fio leaves files in its working folder.
        { stdio: 'ignore', cwd: tmpdir() },
      )
    : null;
  const fioEnded =
    fio === null ? Promise.resolve() : new Promise<void>((resolve) => fio.once('exit', () => resolve()));
  const other = await TestClient.connect(place.socket, 'disk0');
  const pair = [other, clients[0]] as const;
  let dead = false;
  let confirmed: number | null = null;
  let flushes = 0;
  const atMarker = new Map<number, [number[], number[]]>();

  const write = async (volume: 0 | 1, block: number): Promise<void> => {
    const { written, acknowledged } = ledgers[volume];
    const count = (written[block] as number) + 1;
    written[block] = count;
    const { error } = await pair[volume].write(block * BLOCK, page(count));
    if (error === 0) acknowledged[block] = count;
  };
  const flush = async (volume: 0 | 1): Promise<void> => {
    const covered = ledgers.map(({ acknowledged }) => [...acknowledged]);
    const { error } = await pair[volume].flush();
    if (error !== 0) return;
    flushes++;
    for (const [each, values] of covered.entries()) {
      const { flushed } = ledgers[each as 0 | 1];
      values.forEach((value, block) => {
        flushed[block] = Math.max(flushed[block] as number, value);
      });
    }
  };
  const load = async (): Promise<void> => {
    for (let round = 0, epoch = 1; !dead; round++) {
      // All writes are answered before the marker goes out, so that the counts at the marker are known.
      const writes: Promise<void>[] = [];
      for (let each = 0; each < 8; each++) {
        const block = (round * 5 + each) % LEDGER_BLOCKS;
        writes.push(write(0, block), write(1, block));
      }
      await Promise.all(writes);
      if (round % 3 === 0) await flush((round % 2) as 0 | 1);
      if (round % 2 === 0) {
        const number = epoch++;
        atMarker.set(number, [[...ledgers[0].acknowledged], [...ledgers[1].acknowledged]]);
        const marker = encodeMarker({ domain: 'web', term, session: SESSION, epoch: number });
        if ((await clients[1].write(0, marker)).error !== 0) return;
        void control.call('commit', { epoch: number }).then((answer) => {
          if (answer['ok'] === true) confirmed = Math.max(confirmed ?? 0, number);
        });
      }
    }
  };
  const loading = load();
  await new Promise((resolve) => setTimeout(resolve, afterMs));
  await server.kill();
  dead = true;
  for (const client of [...pair, clients[1]]) client.destroy();
  await loading;
  control.close();
  fio?.kill('SIGKILL');
  await fioEnded;
  return { atMarker, confirmed, flushes };
}

/** Plays so many rounds; throws at the first thing that is wrong. */
export async function killRounds(
  rounds: number,
  options: { fio: boolean; seed: number; say: (line: string) => void },
): Promise<{ flushes: number; commits: number }> {
  const place = await makeWorkplace({ journalMib: 32, diskMib: 32 });
  const choose = choices(options.seed);
  const total = { flushes: 0, commits: 0 };
  const ledgers: [Ledger, Ledger] = [ledger(), ledger()];
  try {
    if (options.fio) {
      // Every block that fio writes over is there, with its checksum.
      const server = await startServeProcess(place);
      const args = [
        '--name=fill',
        '--ioengine=nbd',
        `--uri=${place.uri('disk0')}`,
        '--rw=write',
        '--bs=4k',
        '--iodepth=32',
      ];
      const { code, text } = await runTool('fio', [
        ...args,
        '--offset=1m',
        '--size=16m',
        '--verify=crc32c',
        '--do_verify=0',
        '--end_fsync=1',
      ]);
      assert.is(code, 0, text);
      await server.kill();
      await recoverJournal({ configPath: place.configPath, direction: 'forward' });
    }
    for (let round = 1; round <= rounds; round++) {
      const { atMarker, confirmed, flushes } = await live(
        place,
        ledgers,
        round,
        30 + choose(400),
        options.fio,
      );
      total.flushes += flushes;
      total.commits += confirmed ?? 0;
      const forward = round % 2 === 0;
      const report = await recoverJournal({
        configPath: place.configPath,
        direction: forward ? 'forward' : 'back',
      });
      assert.is(report.found, 'open session');
      const again = await recoverJournal({
        configPath: place.configPath,
        direction: forward ? 'forward' : 'back',
      });
      assert.equal(again.discarded, report.discarded);
      assert.is(again.drainedBytes, 0);
      const found = [
        await readLedger(place.target('disk0')),
        await readLedger(place.target('disk1')),
      ] as const;
      if (forward) {
        for (const volume of [0, 1] as const) {
          found[volume].forEach((count, block) => {
            const { flushed, written } = ledgers[volume];
            const least = flushed[block] as number;
            assert.ok(
              count >= least && count <= (written[block] as number),
              `round ${round}: block ${block} of volume ${volume} has ${count}, ${least} was flushed`,
            );
          });
        }
      } else {
        assert.ok(
          (report.committedEpoch ?? 0) >= (confirmed ?? 0),
          `round ${round}: a confirmed commit is lost`,
        );
        if (report.committedEpoch !== null) {
          assert.equal(
            found,
            atMarker.get(report.committedEpoch),
            `round ${round}: exactly epoch ${report.committedEpoch}`,
          );
        }
        await recoverJournal({ configPath: place.configPath, direction: 'back', marked: true });
      }
      if (options.fio) await checkBlocks(place);
      for (const volume of [0, 1] as const) {
        const { written, acknowledged, flushed } = ledgers[volume];
        found[volume].forEach((count, block) => {
          written[block] = count;
          acknowledged[block] = count;
          flushed[block] = count;
        });
      }
      options.say(
        `round ${round}: ${forward ? 'forward' : 'back'} to ${report.committedEpoch ?? 'the start'}, ${flushes} flushes, ${report.discarded.length} ranges discarded`,
      );
    }
  } finally {
    await place.remove();
  }
  return total;
}

/** fio's own blocks: each carries its offset and checksum. */
async function checkBlocks(place: Workplace): Promise<void> {
  const { code, text } = await runTool('fio', [
    '--name=check',
    '--ioengine=psync',
    `--filename=${place.target('disk0')}`,
    '--rw=read',
    '--bs=4k',
    '--offset=1m',
    '--size=16m',
    '--verify=crc32c',
    '--verify_fatal=1',
  ]);
  assert.is(code, 0, text);
}
