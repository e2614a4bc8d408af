/**
 * Stands in for src/journal/journal.ts in the test of power cuts: the same, and the journal at hand. Its drain stops
 * where it is asked to: with blocks written to the disks and not flushed.
 */
import { EpochJournal as Journal } from '../../src/journal/journal.js';
import { stopAt } from './cuts-eyes.js';

export * from '../../src/journal/journal.js';

type Words = Parameters<typeof Journal.open>;

let opened: Journal | null = null;

export const EpochJournal = {
  open: async (...[disk, targets, ...more]: Words): Promise<Journal> => {
    opened = await Journal.open(disk, targets.map(stopping), ...more);
    return opened;
  },
};

function stopping(target: Words[1][number]): Words[1][number] {
  return {
    sizeBytes: target.sizeBytes,
    blockBytes: target.blockBytes,
    read: (into, at) => target.read(into, at),
    tryRead: (into, at) => target.tryRead(into, at),
    write: (pieces, at) => target.write(pieces, at),
    zero: (at, bytes) => target.zero(at, bytes),
    flush: async () => {
      await stopAt('draining', opened?.state().committedEpoch ?? 0);
      await target.flush();
    },
    close: () => target.close(),
  };
}

export function openedJournal(): Journal {
  if (opened === null) throw new Error('no journal is open');
  return opened;
}
