/**
 * The journal's server for the benchmark, as a process of its own:
 *     serve.ts FOLDER JOURNAL_MIB DISK_MIB (through | epochs | hold)
 * `epochs` closes and commits an epoch every 100 ms, as protection does; `hold` commits nothing.
 * On SIGHUP it rolls forward and drains what it has, begins a new session, and says so in a line.
 * On SIGUSR2 it prints its state and memory as one line of JSON.
 */
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { truncate, writeFile } from 'node:fs/promises';
import { DescriptorOp, encodeMarker } from '../../src/core/journal/format.js';
import { JournalError } from '../../src/core/journal/types.js';
import { openDisk } from '../../src/journal/file-disk.js';
import { EpochJournal, formatJournal } from '../../src/journal/journal.js';
import { serveNbd } from '../../src/journal/nbd-server.js';

const MIB = 1 << 20;

async function main(): Promise<void> {
  const [folder = '.', journalMib = '1024', diskMib = '512', mode = 'epochs'] = process.argv.slice(2);
  const volumes = [
    { name: 'disk0', sizeBytes: Number(diskMib) * MIB, barrier: false },
    { name: 'barrier', sizeBytes: 4 * MIB, barrier: true },
  ];
  const make = async (name: string, bytes: number): Promise<string> => {
    const path = join(folder, name);
    await writeFile(path, '', { flag: 'a' });
    await truncate(path, bytes);
    return path;
  };
  const disk = await openDisk(await make('journal', Number(journalMib) * MIB));
  const targets = [];
  for (const volume of volumes) targets.push(await openDisk(await make(volume.name, volume.sizeBytes)));
  await formatJournal(disk, { domain: 'bench', volumes, journalId: randomBytes(16) });
  const id = randomBytes(16);
  let term = 0;
  const commitMs: number[] = [];
  const journal = await EpochJournal.open(disk, targets, volumes, {
    onChange: (reason) => {
      // Back-pressure without an end: the journal is too small for what the row writes.
      if (mode !== 'epochs' && reason.startsWith('journal full')) console.error(reason);
    },
    onMarker: ({ epoch, bytes }) => {
      const begun = performance.now();
      journal.commit(epoch).then(
        () => {
          if (bytes > MIB) commitMs.push(performance.now() - begun);
        },
        (error: unknown) => {
          // A session that ended before its last marker's commit: see settle.
          if (!(error instanceof JournalError && error.code === 'wrong-mode')) console.error(error);
        },
      );
    },
  });
  if (mode !== 'through') await journal.startSession({ domain: 'bench', term: ++term, id });
  await serveNbd(journal, {
    listen: { path: join(folder, 'sock') },
    log: { info: () => 0, warn: console.error },
  });
  let epoch = 0;
  if (mode === 'epochs') {
    setInterval(() => {
      const data = encodeMarker({ domain: 'bench', term, session: id, epoch: ++epoch });
      const sink = { written: () => undefined };
      journal.submit({ op: DescriptorOp.write, volume: 1, sector: 0, sectors: 8, data, sink });
      journal.kick();
    }, 100);
  }
  const settle = async (): Promise<void> => {
    if (mode !== 'through') await journal.rollForward();
    await journal.drained();
    if (mode !== 'through') await journal.startSession({ domain: 'bench', term: ++term, id });
    console.log('settled');
  };
  process.on('SIGHUP', () => void settle());
  process.on('SIGUSR2', () => {
    const { counters, usedBytes, indexEntries, indexBytesMax, indexEntriesMax, full } = journal.state();
    const memory = process.resourceUsage().maxRSS * 1024;
    const commits = [...commitMs].sort((a, b) => a - b);
    console.log(
      JSON.stringify({
        counters,
        usedBytes,
        indexEntries,
        indexEntriesMax,
        indexBytesMax,
        full,
        maxRssBytes: memory,
        commits: commits.length,
        commitMedianMs: commits[commits.length >> 1] ?? null,
        commitWorstMs: commits[commits.length - 1] ?? null,
      }),
    );
  });
  process.on('SIGTERM', () => process.exit(0));
}

void main();
