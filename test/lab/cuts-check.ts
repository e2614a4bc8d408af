/**
 * Judges a failover by what was seen from outside and by what the guest went on with:
 *
 *     client   ...answers, packets | cut |            ...answers on the same connection
 *     backup                       |     | claim, disks, [memory and disks], start
 *
 * Everything that the client saw before the guest was started here came from the copy that lost its power.
 */
import { checkLedger, readLedgerEntries } from '../../src/core/ledger.js';
import type { LedgerAnswer, LedgerFault } from '../../src/core/ledger.js';
import type { ClientLine, EyesLine } from './cuts-log.js';
import { entriesOf } from './ledger-format.js';
import type { LedgerPage } from './ledger-format.js';

export interface Violation {
  fault: LedgerFault | 'damaged' | 'no-ledger' | 'output-not-in-memory' | 'connection-lost' | 'not-asked';
  text: string;
}

/** What the guest goes on with. */
export interface Resume {
  epoch: number;
  memory: LedgerPage;
  disks: ReadonlyMap<number, string>[];
}

/**
 * What a guest went on with.
 * @param areas the first blocks of its disks then
 * @throws Error where its ledger was not seen, or is damaged
 */
export function resumeOf(eyes: readonly EyesLine[], areas: readonly Uint8Array[]): Resume {
  const line = eyes.find((each) => each.event === 'resume');
  if (line?.event !== 'resume') throw new Error('the backup does not tell what the guest goes on with');
  if (line.memory === null) throw new Error('there is no ledger in memory');
  return { epoch: line.epoch, memory: line.memory, disks: areas.map((area) => readLedgerEntries(area)) };
}

/** When xl was told to start the guest. @throws Error when it never was */
export function startMs(eyes: readonly EyesLine[]): number {
  return step(eyes, 'start-guest').beganMs;
}

function step(eyes: readonly EyesLine[], name: string): { beganMs: number; endedMs: number } {
  const line = eyes.find((each) => each.event === 'step' && each.step === name);
  if (line?.event !== 'step') throw new Error(`the failover did nothing for ${name}`);
  return line;
}

/** Answers of a client, as the ledger's checker takes them. */
export function answersOf(
  client: string,
  lines: readonly ClientLine[],
  fromMs = 0,
  toMs = Infinity,
): LedgerAnswer[] {
  return lines.flatMap((line) =>
    line.event === 'answer' && line.timeMs >= fromMs && line.timeMs < toMs
      ? [{ client, count: line.count, token: line.token }]
      : [],
  );
}

/**
 * @param before every answer that any client ever had until the guest was started here
 * @param lines of the client that lived through it
 */
export function judgeFailover(
  resume: Resume,
  before: readonly LedgerAnswer[],
  lines: readonly ClientLine[],
  startedMs: number,
): Violation[] {
  const { memory, disks } = resume;
  const found: Violation[] = checkLedger({ answers: before, memory: entriesOf(memory, disks), disks });
  const early = lines.filter((line) => line.event === 'packet' && line.timeMs < startedMs);
  const seen = Math.max(0, ...early.map((line) => (line.event === 'packet' ? line.count : 0)));
  if (seen > memory.sent) {
    const text = `the packet with count ${seen} was seen, and the guest goes on from ${memory.sent}`;
    found.push({ fault: 'output-not-in-memory', text });
  }
  const closed = lines.find((line) => line.event === 'closed');
  if (closed?.event === 'closed') {
    found.push({ fault: 'connection-lost', text: `the client's connection ended: ${closed.reason}` });
  }
  const answers = lines.filter((line) => line.event === 'answer');
  if (!answers.some(({ timeMs }) => timeMs < startedMs)) {
    found.push({ fault: 'not-asked', text: 'the client had no answer before the cut, so it shows nothing' });
  }
  if (!answers.some(({ timeMs }) => timeMs >= startedMs)) {
    found.push({ fault: 'connection-lost', text: 'the client had no answer after the failover' });
  }
  return found;
}

/** From the loss to the first sign of life outside, in milliseconds. */
export interface Split {
  /** Until the backup claims the term. */
  detection: number;
  /** Until it has won, durably. */
  claim: number;
  /** Until the guest may have its disks. */
  disk: number;
  /** Until its first packet is outside. */
  start: number;
  /** All of these. */
  packet: number;
  /** Until the client is answered on its connection: TCP waits longer and longer before it sends again. */
  answer: number;
}
export const SPLIT_NAMES = ['detection', 'claim', 'disk', 'start', 'packet', 'answer'] as const;

/** @param cutMs on the clock of the host that took over */
export function splitOf(eyes: readonly EyesLine[], lines: readonly ClientLine[], cutMs: number): Split {
  const claim = eyes.find((line) => line.event === 'claim' && line.timeMs >= cutMs);
  const resume = eyes.find((line) => line.event === 'resume');
  if (claim?.event !== 'claim' || resume?.event !== 'resume') throw new Error('there was no failover');
  const first = (event: 'packet' | 'answer'): number => {
    const line = lines.find((each) => each.event === event && each.timeMs >= started.beganMs);
    if (line === undefined) throw new Error(`no ${event} came after the failover`);
    return line.timeMs;
  };
  // What looking at memory and disks took is not the product's.
  const { tookMs } = resume;
  const decidedMs = step(eyes, 'disconnect').beganMs;
  const started = step(eyes, 'start-guest');
  return {
    detection: claim.timeMs - cutMs,
    claim: decidedMs - claim.timeMs,
    disk: started.beganMs - tookMs - decidedMs,
    start: first('packet') - started.beganMs,
    packet: first('packet') - tookMs - cutMs,
    answer: first('answer') - tookMs - cutMs,
  };
}

/** Lines for a person: each part with its median and its worst. */
export function summarise(splits: readonly Split[]): string[] {
  return SPLIT_NAMES.map((name) => {
    const values = splits.map((split) => split[name]).sort((one, other) => one - other);
    const seconds = (ms = 0): string => (ms / 1000).toFixed(1).padStart(5);
    return `${name.padEnd(9)} median ${seconds(values[values.length >> 1])} s, worst ${seconds(values[values.length - 1])} s`;
  });
}

/**
 * Whether only one copy lives.
 * @param lists what `xl list` says on each host that runs, by its name
 */
export function copiesOf(lists: ReadonlyMap<string, string>, guest: string): string[] {
  return [...lists].flatMap(([host, list]) =>
    list
      .split('\n')
      .map((line) => /^(\S+)\s+\d+\s+\d+\s+\d+\s+(\S{6})\s/.exec(line))
      .filter((match) => match?.[1] === guest && !/^..p/.test(match[2] ?? ''))
      .map(() => host),
  );
}
