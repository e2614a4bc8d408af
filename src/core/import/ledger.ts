/**
 * What became of each line of an input of `import`: a book in which every line is entered exactly once.
 *
 * The readers note what they did with a statement, for the lines that it stands on; a line can get several
 * notes (`a = 1; b = 2`, or one resource that two guests use). At the end each line has one entry, with the
 * gravest fate of its notes.
 */

import { ExitCode, OperatorError } from '../errors.js';

/** An input that can't be read at all. What can be read in part is reported line by line instead. */
export class ImportError extends OperatorError {
  constructor(file: string, message: string) {
    super(`${file}: ${message}; nothing was written`, ExitCode.usage);
    this.name = 'ImportError';
  }
}

/** Larger inputs are refused: nobody wrote one by hand. In characters. */
export const INPUT_LENGTH_MAX = 256 * 1024;

/**
 * `taken`: it is in what was written, the note says where. `not-needed`: what it was for is done otherwise or
 * needs nobody. `cannot`: it is lost unless somebody does something. `question`: something has to be answered.
 */
export type Fate = 'taken' | 'not-needed' | 'cannot' | 'question';

/** Notes that one line shows. */
const NOTES_MAX = 20;

/** From the least to the gravest. */
const GRAVITY: readonly Fate[] = ['not-needed', 'taken', 'question', 'cannot'];

export interface LineEntry {
  /** Counted from 1. */
  line: number;
  /** As it stands in the file, without control characters. */
  text: string;
  fate: Fate;
  note: string;
}

interface Note {
  fate: Fate;
  text: string;
  /** Said only of a line that has nothing else on it. */
  minor: boolean;
}

/** The lines of a text, as every reader here counts them: LF and CR LF end one. */
export function linesOfText(text: string): string[] {
  const lines = text.split(/\r?\n/);
  // A last line that is ended begins no other one.
  if (lines.at(-1) === '') lines.pop();
  return lines;
}

/**
 * The text as the readers take it: no byte order mark, LF line ends.
 *
 * @throws {ImportError} when it is too long or holds a NUL, so that it is no text
 */
export function inputText(text: string, file: string): string {
  if (text.length > INPUT_LENGTH_MAX)
    throw new ImportError(file, `is longer than ${INPUT_LENGTH_MAX} characters`);
  if (text.includes('\0')) throw new ImportError(file, 'is not a text file');
  return text.replace(/^\ufeff/, '').replaceAll('\r\n', '\n');
}

export class Ledger {
  readonly #lines: string[];
  readonly #notes: Note[][];

  constructor(text: string) {
    this.#lines = linesOfText(text);
    this.#notes = this.#lines.map(() => []);
  }

  /** Notes what became of the lines `from` to `to`, counted from 1. */
  note(from: number, to: number, fate: Fate, text: string): void {
    this.#add(from, to, { fate, text, minor: false });
  }

  /** Notes what counts only where a line has nothing else on it, such as a closing bracket. */
  noteMinor(from: number, to: number, fate: Fate, text: string): void {
    this.#add(from, to, { fate, text, minor: true });
  }

  #add(from: number, to: number, note: Note): void {
    for (let line = from; line <= to; line++) {
      const notes = this.#notes[line - 1];
      if (notes === undefined || notes.some(({ fate, text }) => fate === note.fate && text === note.text))
        continue;
      // Beyond that nobody reads on, but what is graver still counts.
      if (notes.length < NOTES_MAX || notes.every(({ fate }) => graver(fate, note.fate) !== fate))
        notes.push(note);
    }
  }

  /** One entry for each line, in their order. */
  entries(): LineEntry[] {
    return this.#lines.map((raw, index): LineEntry => {
      const text = printable(raw);
      const all = this.#notes[index] ?? [];
      const weighty = all.filter(({ minor }) => !minor);
      const notes = weighty.length > 0 ? weighty : all;
      if (notes.length > 0) {
        const fate = notes.reduce<Fate>((worst, note) => graver(worst, note.fate), 'not-needed');
        return { line: index + 1, text, fate, note: notes.map((note) => note.text).join('; ') };
      }
      if (/^[\s;]*$/.test(raw)) return { line: index + 1, text, fate: 'not-needed', note: 'empty' };
      if (/^[\s;]*#/.test(raw)) return { line: index + 1, text, fate: 'not-needed', note: 'a comment' };
      throw new Error(`line ${index + 1} was not accounted for: ${text}`);
    });
  }
}

function graver(a: Fate, b: Fate): Fate {
  return GRAVITY.indexOf(a) >= GRAVITY.indexOf(b) ? a : b;
}

/** What an input says must not get at the terminal, nor end a comment. */
export function printable(text: string): string {
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]/g, (character) =>
    character === '\t' ? ' ' : '?',
  );
}
