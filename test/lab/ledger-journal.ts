/** Stands in for src/journal/journal.ts in the lab's receiver (ledger-bundle.ts): the same, and the journal at hand. */
import { EpochJournal as Journal } from '../../src/journal/journal.js';

export * from '../../src/journal/journal.js';

let opened: Journal | null = null;

export const EpochJournal = {
  open: async (...words: Parameters<typeof Journal.open>): Promise<Journal> => {
    opened = await Journal.open(...words);
    return opened;
  },
};

export function openedJournal(): Journal {
  if (opened === null) throw new Error('no journal is open');
  return opened;
}
