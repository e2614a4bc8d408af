/**
 * A host's record of a domain's latest term, and of what was decided about its disks: formats and the rules by
 * which one record may follow another. The files are kept by src/edge/term-store.ts.
 *
 *     term.json  {"format":1,"term":7,"session":"HEX","role":"backup","phase":"protected","boot":"UUID"}
 *     decision   {"term":7,"outcome":"discard","by":"beta","reason":"beta won the claim"}
 *
 * One JSON object on one line, with a newline at its end.
 */
import { HOST_NAME } from '../patterns.js';

/**
 * - `starting`: agreed on by both hosts, nothing committed yet: the backup is not eligible.
 * - `protected`: from the first commit. Going on alone needs the claim.
 * - `ended`: decided; see the outcome.
 */
export const TermPhases = ['starting', 'protected', 'ended'] as const;
export type TermPhase = (typeof TermPhases)[number];

/**
 * - `won`: this host won the claim and went on alone.
 * - `lost`: the other one did.
 * - `agreed`: both ended it together, so nobody claimed.
 * - `given-up`: protection never began.
 */
export const TermOutcomes = ['won', 'lost', 'agreed', 'given-up'] as const;
export type TermOutcome = (typeof TermOutcomes)[number];

export interface TermRecord {
  /** From 1. */
  term: number;
  /** Random, made for this term; hexadecimal. */
  session: string;
  /** Of this host in this term. */
  role: 'primary' | 'backup';
  phase: TermPhase;
  /** The kernel's boot_id when this host entered the term: tells a host that was restarted in between. */
  boot: string;
  /** Present exactly when the phase is `ended`. */
  outcome?: TermOutcome;
}

/** What happens to disk writes that were journaled on the backup and not committed. */
export interface DiskDecision {
  term: number;
  /** `roll-forward`: the primary went on, they stay. `discard`: this host went on from the last commit. */
  outcome: 'roll-forward' | 'discard';
  /** The host that decided it. */
  by: string;
  reason: string;
}

export const RECORD_BYTES_MAX = 4096;
const REASON_CHARS_MAX = 1000;

/** A file that should hold a record and doesn't; `message` says why, without the file's name. */
export class RecordError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'RecordError';
  }
}

export function formatTerm(record: TermRecord): string {
  const { term, session, role, phase, boot, outcome } = record;
  return checked({ format: 1, term, session, role, phase, boot, outcome }, parseTerm);
}

/** @throws RecordError for anything but a whole record of this format */
export function parseTerm(text: string): TermRecord {
  const raw = readObject(text, ['format', 'term', 'session', 'role', 'phase', 'boot', 'outcome']);
  if (raw['format'] !== 1) throw new RecordError(`its format is ${show(raw['format'])}, known is 1`);
  const term = readTermNumber(raw['term']);
  const session = readText(raw, 'session', /^[0-9a-f]{8,128}$/);
  const role = readWord(raw, 'role', ['primary', 'backup'] as const);
  const phase = readWord(raw, 'phase', TermPhases);
  const boot = readText(raw, 'boot', /^[0-9a-f-]{1,64}$/);
  if ((phase === 'ended') !== (raw['outcome'] !== undefined)) {
    throw new RecordError(`its phase ${phase} doesn't go with its outcome ${show(raw['outcome'])}`);
  }
  if (phase !== 'ended') return { term, session, role, phase, boot };
  return { term, session, role, phase, boot, outcome: readWord(raw, 'outcome', TermOutcomes) };
}

export function formatDecision(decision: DiskDecision): string {
  const { term, outcome, by, reason } = decision;
  return checked({ term, outcome, by, reason: reason.slice(0, REASON_CHARS_MAX) }, parseDecision);
}

/** @throws RecordError for anything but a whole decision */
export function parseDecision(text: string): DiskDecision {
  const raw = readObject(text, ['term', 'outcome', 'by', 'reason']);
  const reason = raw['reason'];
  if (typeof reason !== 'string' || reason.length > REASON_CHARS_MAX) {
    throw new RecordError(`its reason is ${show(reason)}`);
  }
  return {
    term: readTermNumber(raw['term']),
    outcome: readWord(raw, 'outcome', ['roll-forward', 'discard'] as const),
    by: readText(raw, 'by', HOST_NAME),
    reason,
  };
}

/**
 * The number of a new term: above everything that either host has ever seen.
 *
 * @param latest of each host: its latest term, undefined where it has had none. A host that can't be read has
 *   no place here: its term may be the higher one.
 */
export function nextTerm(...latest: readonly (number | undefined)[]): number {
  return Math.max(0, ...latest.map((term) => term ?? 0)) + 1;
}

export type Succession = { allowed: true; changes: boolean } | { allowed: false; reason: string };

/** Whether a host's term record may be replaced by `next`. Terms never go back, and within one phases don't. */
export function mayFollow(before: TermRecord | undefined, next: TermRecord): Succession {
  if (before === undefined || next.term > before.term) return { allowed: true, changes: true };
  const refuse = (reason: string): Succession => ({ allowed: false, reason });
  if (next.term < before.term) {
    return refuse(`term ${next.term} is before term ${before.term}, which this host has seen already`);
  }
  if (next.session !== before.session || next.role !== before.role || next.boot !== before.boot) {
    return refuse(
      `term ${next.term} is taken by session ${before.session}, in which this host is ${before.role}`,
    );
  }
  const [from, to] = [TermPhases.indexOf(before.phase), TermPhases.indexOf(next.phase)];
  if (to < from)
    return refuse(`term ${next.term} is ${before.phase} already, and can't be ${next.phase} again`);
  if (from === to && before.outcome !== next.outcome) {
    return refuse(
      `term ${next.term} has ended as ${before.outcome}, and can't end as ${next.outcome} as well`,
    );
  }
  return { allowed: true, changes: from !== to };
}

/** Whether a decision about the disks may be written over another: never over a different one for its term. */
export function mayDecide(before: DiskDecision | undefined, next: DiskDecision): Succession {
  if (before === undefined || next.term > before.term) return { allowed: true, changes: true };
  if (next.term < before.term) {
    return {
      allowed: false,
      reason: `term ${next.term} is before term ${before.term}, which was decided already`,
    };
  }
  if (next.outcome === before.outcome) return { allowed: true, changes: false };
  const reason = `term ${next.term} was decided as ${before.outcome} by ${before.by} (${before.reason})`;
  return { allowed: false, reason: `${reason}; it can't become ${next.outcome}` };
}

/** No record is ever written that could not be read again. */
function checked(raw: object, parse: (text: string) => unknown): string {
  const text = `${JSON.stringify(raw)}\n`;
  try {
    parse(text);
  } catch (error) {
    if (error instanceof RecordError) throw new RangeError(`no record: ${error.message}: ${text.trim()}`);
    throw error;
  }
  return text;
}

function readObject(text: string, keys: readonly string[]): Record<string, unknown> {
  if (text === '') throw new RecordError('it is empty');
  // The newline is the last byte written: without it the file is not whole.
  if (!text.endsWith('\n')) throw new RecordError('its end is missing');
  let raw: unknown;
  try {
    raw = JSON.parse(text);
  } catch {
    throw new RecordError(`it is no JSON: ${show(text.trim())}`);
  }
  if (typeof raw !== 'object' || raw === null || Array.isArray(raw)) {
    throw new RecordError(`it is no JSON object: ${show(text.trim())}`);
  }
  const unknown = Object.keys(raw).find((key) => !keys.includes(key));
  if (unknown !== undefined) throw new RecordError(`it has the unknown key ${show(unknown)}`);
  return raw as Record<string, unknown>;
}

function readTermNumber(value: unknown): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 1) {
    throw new RecordError(`its term is ${show(value)}`);
  }
  return value;
}

function readText(raw: Record<string, unknown>, key: string, pattern: RegExp): string {
  const value = raw[key];
  if (typeof value !== 'string' || !pattern.test(value))
    throw new RecordError(`its ${key} is ${show(value)}`);
  return value;
}

function readWord<T extends string>(raw: Record<string, unknown>, key: string, words: readonly T[]): T {
  const found = words.find((word) => word === raw[key]);
  if (found === undefined) throw new RecordError(`its ${key} is ${show(raw[key])}`);
  return found;
}

function show(value: unknown): string {
  const text = JSON.stringify(value) ?? 'missing';
  return text.length > 80 ? `${text.slice(0, 80)}...` : text;
}
