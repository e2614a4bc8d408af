/**
 * What the journal needs and how long its single steps take: memory for 1 GiB of buffered blocks, the commit of a
 * 2 MiB epoch beside one flush of the disk, recovery of a full 1 GiB journal, and draining it.
 *
 *     node --import tsx bench/journal/limits.ts [FOLDER]
 */
import { randomBytes } from 'node:crypto';
import { fdatasyncSync, openSync, writeSync } from 'node:fs';
import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { DescriptorOp, encodeMarker } from '../../src/core/journal/format.js';
import { openDisk } from '../../src/journal/file-disk.js';
import { EpochJournal, formatJournal } from '../../src/journal/journal.js';

const MIB = 1 << 20;
const JOURNAL_BYTES = 1100 * MIB;
const DISK_BYTES = 2048 * MIB;

const ms = (from: number): string => `${(performance.now() - from).toFixed(1)} ms`;
const median = (values: number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1] ?? NaN;

async function main(): Promise<void> {
  const folder = process.argv[2] ?? (await mkdtemp(join(tmpdir(), 'bench-limits-')));
  const volumes = [
    { name: 'disk0', sizeBytes: DISK_BYTES, barrier: false },
    { name: 'barrier', sizeBytes: 4 * MIB, barrier: true },
  ];
  const make = async (name: string, bytes: number): Promise<string> => {
    const path = join(folder, name);
    await writeFile(path, '');
    await truncate(path, bytes);
    return path;
  };
  console.log(`load ${loadavg()[0]?.toFixed(2)}`);
  const disk = await openDisk(await make('journal', JOURNAL_BYTES));
  const targets = [
    await openDisk(await make('disk0', DISK_BYTES)),
    await openDisk(await make('barrier', 4 * MIB)),
  ];
  const journalId = randomBytes(16);
  await formatJournal(disk, { domain: 'bench', volumes, journalId });
  const session = { domain: 'bench', term: 1, id: randomBytes(16) };
  let closed: (epoch: number) => void = () => undefined;
  let journal = await EpochJournal.open(disk, targets, volumes, { onMarker: ({ epoch }) => closed(epoch) });
  await journal.startSession(session);

  const block = randomBytes(4096);
  const sink = { written: (): void => undefined };
  let next = 7;
  const write = (count: number): void => {
    for (let index = 0; index < count; index++) {
      next = (next * 1_103_515_245 + 12_345) % (DISK_BYTES / 4096);
      journal.submit({ op: DescriptorOp.write, volume: 0, sector: next * 8, sectors: 8, data: block, sink });
      if (index % 32 === 31) journal.kick();
    }
    journal.kick();
  };
  const mark = (epoch: number): Promise<number> => {
    const arrived = new Promise<number>((resolve) => {
      closed = resolve;
    });
    const data = encodeMarker({ domain: 'bench', term: 1, session: session.id, epoch });
    journal.submit({ op: DescriptorOp.write, volume: 1, sector: 0, sectors: 8, data, sink });
    journal.kick();
    return arrived;
  };

  const probe = openSync(join(folder, 'probe'), 'w');
  const commits: number[] = [];
  const flushes: number[] = [];
  const extra: number[] = [];
  let epoch = 0;
  for (let round = 0; round < 15; round++) {
    write(512);
    await mark(++epoch);
    const begun = performance.now();
    await journal.commit(epoch);
    const took = performance.now() - begun;
    writeSync(probe, randomBytes(2 * MIB), 0, 2 * MIB, 0);
    const flushBegun = performance.now();
    fdatasyncSync(probe);
    const flush = performance.now() - flushBegun;
    commits.push(took);
    flushes.push(flush);
    extra.push(took - flush);
  }
  console.log(
    `commit of a 2 MiB epoch: ${median(commits).toFixed(2)} ms; one flush of 2 MiB by itself: ${median(flushes).toFixed(2)} ms; difference ${median(extra).toFixed(2)} ms (medians of 15)`,
  );
  await journal.drained();

  const before = process.memoryUsage();
  const filling = performance.now();
  write((1 << 30) / 4096);
  while (journal.waiting > 0 && journal.state().full === null)
    await new Promise((resolve) => setTimeout(resolve, 5));
  const state = journal.state();
  const after = process.memoryUsage();
  console.log(
    `buffered ${(state.usedBytes / MIB).toFixed(0)} MiB of log in ${ms(filling)}: ${state.indexEntries} entries, ${(state.indexBytesMax / state.indexEntriesMax).toFixed(1)} octets of index for each 4 KiB block, ${(state.indexBytesMax / MIB).toFixed(1)} MiB of index in all`,
  );
  console.log(
    `process: ${(after.rss / MIB).toFixed(0)} MiB resident (${((after.rss - before.rss) / MIB).toFixed(0)} more than before), peak ${(process.resourceUsage().maxRSS / 1024).toFixed(0)} MiB`,
  );
  await journal.flush();

  // As after a SIGKILL: the same files, opened again, with nobody having closed anything.
  const again = await openDisk(join(folder, 'journal'));
  const recovering = performance.now();
  journal = await EpochJournal.open(again, targets, volumes);
  console.log(
    `recovery: ${journal.scan.frames} frames, ${(journal.scan.bytes / MIB).toFixed(0)} MiB read and checked in ${ms(recovering)}; undecided: ${journal.state().undecided}`,
  );
  const rolling = performance.now();
  await journal.rollForward();
  console.log(`rolled forward in ${ms(rolling)}`);
  const draining = performance.now();
  await journal.drained();
  const { drainedBytes } = journal.state().counters;
  console.log(
    `drained ${(drainedBytes / MIB).toFixed(0)} MiB of random blocks in ${ms(draining)}, targets flushed`,
  );
  console.log(
    `peak of the process ${(process.resourceUsage().maxRSS / 1024).toFixed(0)} MiB; load ${loadavg()[0]?.toFixed(2)}`,
  );
  await journal.close();
  for (const each of [disk, again, ...targets]) await each.close();
  await rm(folder, { recursive: true, force: true });
}

void main();
