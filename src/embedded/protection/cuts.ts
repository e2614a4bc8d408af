/**
 * What can be cut in the embedded pair, and when: the power of a host is SIGKILL for its whole process group, so that
 * nothing of it does anything more; a link is cut by a note (`wire.ts`). Either is one system call, made by whoever comes
 * by the chosen point of a checkpoint. From `memory-begun` on that is a checkpoint whose epoch has output, for one in
 * which the guest answered nobody has nothing to lose.
 */
import { writeFileSync } from 'node:fs';

/** In the order in which a checkpoint comes by them. */
export const CUT_POINTS = {
  'between-checkpoints': 'the embedded guest runs; nothing is marked or sent',
  'guest-held': 'the embedded guest is held; neither its output nor its disks are marked',
  'output-marked': "the embedded guest's output is marked; the marker for its disks may be under way",
  'marker-sent': 'the marker is on its way to the backup',
  'marker-written': 'the marker has completed on the primary',
  'marker-in-journal': 'the marker is in the journal of the backup; memory is not whole there',
  'memory-begun': 'the first pages of the epoch are sent',
  'memory-sent': 'all pages are sent; the record that ends the checkpoint is not',
  'checkpoint-sent': 'the whole checkpoint is sent, and the embedded guest runs again',
  'commit-begins': 'the backup has all of the epoch, and has not recorded the commit',
  'commit-durable': 'the commit is recorded; the primary has not been told',
  acknowledged: 'the primary has been told; the output of the epoch is still held',
  'output-released': 'the output of the epoch has just left',
} as const;

export type CutPoint = keyof typeof CUT_POINTS;
export const CUT_POINT_NAMES = Object.keys(CUT_POINTS) as CutPoint[];

/** By these the backup comes. */
export const ON_BACKUP: ReadonlySet<CutPoint> = new Set([
  'marker-in-journal',
  'commit-begins',
  'commit-durable',
]);

export const CUT_KINDS = {
  primary: 'the power of the host that has the embedded guest',
  backup: 'the power of the other embedded host',
  'mirror-link': 'the link of the embedded mirror: disk writes no longer come through',
  'control-link': 'the link of sender and receiver: neither checkpoints nor heartbeats come through',
  'both-links': 'both links; both embedded hosts live and hear nothing of each other',
} as const;

export type CutKind = keyof typeof CUT_KINDS;
export const CUT_KIND_NAMES = Object.keys(CUT_KINDS) as CutKind[];

/** Which of the hosts reach the arbiter at the cut. */
export const REACHES = ['both', 'primary', 'backup', 'none'] as const;
export type Reach = (typeof REACHES)[number];

export interface Cut {
  kind: CutKind;
  point: CutPoint;
  arbiter: Reach;
}

export function cutText({ kind, point, arbiter }: Cut): string {
  const who = { both: '', primary: ', only the primary', backup: ', only the backup', none: ', nobody' }[
    arbiter
  ];
  return `${kind} at ${point}${who === '' ? '' : `${who} reaches the arbiter`}`;
}

/** One of the names. @param random from 0 to below 1 */
export function choose<T>(names: readonly T[], random: () => number): T {
  const chosen = names[Math.floor(random() * names.length)];
  if (chosen === undefined) throw new RangeError('nothing to choose from');
  return chosen;
}

/**
 * One of each kind: the primary's power at each point; each other kind with everyone, and without anyone whom it takes
 * to decide, at a point by chance. In an order by chance.
 */
export function cutDeck(random: () => number): Cut[] {
  const anywhere = (kind: CutKind, arbiter: Reach): Cut => ({
    kind,
    point: choose(CUT_POINT_NAMES, random),
    arbiter,
  });
  const deck: Cut[] = [
    ...CUT_POINT_NAMES.map((point): Cut => ({ kind: 'primary', point, arbiter: 'both' })),
    anywhere('primary', 'none'),
    anywhere('backup', 'both'),
    anywhere('backup', 'none'),
    ...(['mirror-link', 'control-link', 'both-links'] as const).flatMap((kind) =>
      REACHES.map((arbiter) => anywhere(kind, arbiter)),
    ),
  ];
  for (let at = deck.length - 1; at > 0; at--) {
    const other = Math.floor(random() * (at + 1));
    [deck[at], deck[other]] = [deck[other] as Cut, deck[at] as Cut];
  }
  return deck;
}

/** In a host's folder: when its power was cut. */
export const CUT_FILE = 'embedded-cut';

/** What a cut does, so that every process can do it. */
export interface CutAction {
  /** Files to write the time into. */
  notes: string[];
  /** Process groups to kill. */
  groups: number[];
}

/** At once. It does not return where this very process is cut. */
export function performCut({ notes, groups }: CutAction): void {
  for (const note of notes) writeFileSync(note, String(Date.now()));
  for (const group of groups) process.kill(-group, 'SIGKILL');
}
