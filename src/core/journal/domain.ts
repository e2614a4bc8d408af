/**
 * The epoch journal of a domain as setup laid it out on a host, and how what a crash left in it is dealt with.
 *
 * The targets are the LVs directly below the device-mapper devices. A volume is called like its device and has its
 * size, which is a little less than the LV's (`mapperBytes`).
 *
 * Which way a session goes that was found open is decided by the claim and never here:
 * /var/lib/remus-drbd/DOMAIN/decision has it (src/core/claim/term.ts). What a discard dropped before DRBD was there
 * to mark it waits in /var/lib/remus-drbd/DOMAIN/discarded.json:
 *
 *     {"format":1,"domain":"web","term":7,"committedEpoch":12,"exact":true,
 *      "ranges":[{"volume":"remus-web-0","offsetBytes":4096,"lengthBytes":8192}]}
 */
import { z } from 'zod';
import type { DiskDecision } from '../claim/term.js';
import type { DomainFile } from '../domain-file.js';
import { BARRIER_VOLUME, lvPath, mapperBytes } from '../names.js';
import type { SessionEnd, VolumeRange } from './types.js';

export interface DomainJournalVolume {
  /** Of the volume in the journal: the name of its device-mapper device. */
  name: string;
  /** The LV directly below that device. */
  target: string;
  sizeBytes: number;
  barrier: boolean;
}

/** A domain's journal in the words of the journal's own configuration (src/journal/config.ts). */
export interface DomainJournal {
  domain: string;
  /** The LV with the journal. */
  journal: string;
  volumes: DomainJournalVolume[];
}

/**
 * @param lvSizes size in bytes of each data LV, by its path (`lvPath`)
 * @throws RangeError for a domain without a journal, or a size that is missing
 */
export function journalConfigOf(domain: DomainFile, lvSizes: ReadonlyMap<string, number>): DomainJournal {
  const { journal } = domain;
  if (journal === undefined) throw new RangeError(`${domain.domain} has no journal (${domain.engine})`);
  return {
    domain: domain.domain,
    journal: lvPath(journal.volumeGroup, journal.lv),
    volumes: domain.volumes.map((volume) => {
      const target = lvPath(volume.volumeGroup, volume.dataLv);
      const lvBytes = lvSizes.get(target);
      if (lvBytes === undefined) throw new RangeError(`${domain.domain}: the size of ${target} is not known`);
      return {
        name: volume.mapper,
        target,
        sizeBytes: mapperBytes(lvBytes),
        barrier: volume.volume === BARRIER_VOLUME,
      };
    }),
  };
}

/** What was found in a journal that nobody serves. */
export interface FoundJournal {
  term: number;
  /** A session is open in it. */
  undecided: boolean;
  /** How its last session ended. */
  ended: SessionEnd;
  committedEpoch: number | null;
  closedEpoch: number | null;
}

export type Recovery =
  | { kind: 'roll-forward' | 'discard' | 'drain'; reason: string }
  /** `observed` and `next` are for the operator. */
  | { kind: 'refuse'; observed: string; next: string };

/** What is to be done with a journal that was found. */
export function judgeRecovery(
  domain: string,
  found: FoundJournal,
  decision: DiskDecision | undefined,
): Recovery {
  const { term } = found;
  const decided = decision?.term === term ? decision : undefined;
  if (!found.undecided) {
    const ended = ({ forward: 'roll-forward', back: 'discard', none: null } as const)[found.ended];
    if (decided !== undefined && ended !== null && ended !== decided.outcome) {
      return {
        kind: 'refuse',
        observed: `its session of term ${term} ended by ${ended}, and ${words(decided)} says ${decided.outcome}`,
        next: `Take this host's disks as lost and resynchronise them from the other host ("drbdadm invalidate").`,
      };
    }
    const reason =
      ended === null ? 'no session is open in it' : `its session of term ${term} ended by ${ended}`;
    return { kind: 'drain', reason };
  }
  if (decided !== undefined) return { kind: decided.outcome, reason: words(decided) };
  const epochs = `last commit ${found.committedEpoch ?? 'none'}, last marker ${found.closedEpoch ?? 'none'}`;
  const instead = decision === undefined ? 'there is none' : `the one here is of term ${decision.term}`;
  return {
    kind: 'refuse',
    observed:
      `a session of term ${term} is open in it (${epochs}), and needed is the decision of that term; ` +
      `${instead}`,
    next:
      `What decides it is the claim: "remus-drbd failover ${domain}" where this host is to go on from its last ` +
      `commit, or "remus-drbd continue ${domain}" where the other host goes on.`,
  };
}

function words({ outcome, by, reason }: DiskDecision): string {
  return `the decision (${outcome} by ${by}: ${reason})`;
}

const discardedSchema = z.strictObject({
  format: z.literal(1),
  domain: z.string(),
  term: z.number().int().min(0),
  committedEpoch: z.number().int().min(0).nullable(),
  /** False where ranges were joined, so that some of it was not discarded: to mark more than needed is safe. */
  exact: z.boolean(),
  ranges: z.array(
    z.strictObject({
      volume: z.string().min(1),
      offsetBytes: z.number().int().min(0).multipleOf(512),
      lengthBytes: z.number().int().min(512).multipleOf(512),
    }),
  ),
});

/** Blocks that DRBD was told are on this host, and that are not: they have to be written back through it. */
export type DiscardedBlocks = z.output<typeof discardedSchema>;

export function formatDiscarded(blocks: DiscardedBlocks): string {
  return `${JSON.stringify(blocks)}\n`;
}

/** @throws Error for anything but a whole file */
export function parseDiscarded(text: string): DiscardedBlocks {
  return discardedSchema.parse(JSON.parse(text));
}

/** Adds to what has not been marked yet. The same discard told twice changes nothing. */
export function addDiscarded(before: DiscardedBlocks | undefined, next: DiscardedBlocks): DiscardedBlocks {
  if (before === undefined) return { ...next, ranges: joinRanges(next.ranges) };
  return {
    ...next,
    exact: before.exact && next.exact,
    ranges: joinRanges([...before.ranges, ...next.ranges]),
  };
}

/** Ranges in order, with those that touch or overlap joined. */
function joinRanges(ranges: readonly VolumeRange[]): VolumeRange[] {
  const sorted = [...ranges].sort((a, b) =>
    a.volume === b.volume ? a.offsetBytes - b.offsetBytes : a.volume < b.volume ? -1 : 1,
  );
  const joined: VolumeRange[] = [];
  for (const range of sorted) {
    const last = joined[joined.length - 1];
    const end = last === undefined ? 0 : last.offsetBytes + last.lengthBytes;
    if (last?.volume === range.volume && range.offsetBytes <= end) {
      last.lengthBytes = Math.max(end, range.offsetBytes + range.lengthBytes) - last.offsetBytes;
    } else joined.push({ ...range });
  }
  return joined;
}
