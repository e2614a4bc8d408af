/**
 * What the parsers of the tools' output share: their one kind of error, lines, numbers, words, JSON.
 *
 * A parser takes the standard output of a tool that said it succeeded. It throws ParseError on anything it
 * does not know, and nothing else whatever it is given.
 */

/** No tool that is read by lines prints longer ones. */
const LINE_CHARS_MAX = 16 * 1024;
/** No line or output is repeated at length in a message. */
const QUOTED_CHARS_MAX = 160;

/** Output of a tool that is not what the tool is known to print. */
export class ParseError extends Error {
  readonly tool: string;
  /** The first line that was not understood, as it was printed. */
  readonly line: string;
  /** Counted from 1. */
  readonly lineNumber: number;
  readonly problem: string;

  constructor(tool: string, problem: string, line: string, lineNumber: number) {
    const quoted = line.length > QUOTED_CHARS_MAX ? `${line.slice(0, QUOTED_CHARS_MAX)}...` : line;
    super(`output of ${tool} not understood: ${problem}; line ${lineNumber}: ${JSON.stringify(quoted)}`);
    this.name = 'ParseError';
    this.tool = tool;
    this.line = line;
    this.lineNumber = lineNumber;
    this.problem = problem;
  }
}

/** One line of output with its place. */
export class Line {
  readonly tool: string;
  readonly text: string;
  readonly number: number;

  constructor(tool: string, text: string, number: number) {
    this.tool = tool;
    this.text = text;
    this.number = number;
  }

  fail(problem: string): never {
    throw new ParseError(this.tool, problem, this.text, this.number);
  }

  /** A decimal number of plain digits, up to the largest that is exact. */
  integer(word: string | undefined, what: string, max = Number.MAX_SAFE_INTEGER): number {
    if (word === undefined || !/^[0-9]{1,16}$/.test(word)) return this.fail(`${what} is not a number`);
    const value = Number(word);
    if (value > max) return this.fail(`${what} is out of range`);
    return value;
  }

  /** One of the words that are known. */
  oneOf<T extends string>(word: string | undefined, known: readonly T[], what: string): T {
    const found = known.find((candidate) => candidate === word);
    return found ?? this.fail(`unknown ${what} ${JSON.stringify(word ?? '')}`);
  }
}

/** The lines that have something on them. */
export function linesOf(tool: string, text: string): Line[] {
  return text
    .split('\n')
    .map((line, index) => new Line(tool, line, index + 1))
    .filter((line) => {
      if (line.text.length > LINE_CHARS_MAX) line.fail('the line is too long');
      return line.text.trim() !== '';
    });
}

/** The only line that the output may have. */
export function onlyLine(tool: string, text: string): Line {
  const [first, second] = linesOf(tool, text);
  if (!first) throw new ParseError(tool, 'one line expected, nothing printed', '', 1);
  if (second) second.fail('one line expected');
  return first;
}

/** Checked access to parsed JSON; failures name the way to the value. */
export class Json {
  readonly #tool: string;
  readonly #value: unknown;
  readonly #path: string;

  private constructor(tool: string, value: unknown, path: string) {
    this.#tool = tool;
    this.#value = value;
    this.#path = path;
  }

  static parse(tool: string, text: string): Json {
    try {
      return new Json(tool, JSON.parse(text), '$');
    } catch {
      const first = linesOf(tool, text)[0];
      throw new ParseError(tool, 'not valid JSON', first?.text ?? '', first?.number ?? 1);
    }
  }

  fail(problem: string): never {
    const shown = JSON.stringify(this.#value) ?? 'nothing';
    throw new ParseError(this.#tool, `${this.#path}: ${problem}`, shown.slice(0, 2 * QUOTED_CHARS_MAX), 1);
  }

  get(key: string): Json {
    if (typeof this.#value !== 'object' || this.#value === null || Array.isArray(this.#value)) {
      return this.fail('an object is expected');
    }
    const value = Object.hasOwn(this.#value, key) ? (this.#value as Record<string, unknown>)[key] : undefined;
    return new Json(this.#tool, value, `${this.#path}.${key}`);
  }

  /** True for null and for what is not there. */
  get absent(): boolean {
    return this.#value === undefined || this.#value === null;
  }

  array(): Json[] {
    if (!Array.isArray(this.#value)) return this.fail('a list is expected');
    return this.#value.map((value, index) => new Json(this.#tool, value, `${this.#path}[${index}]`));
  }

  string(): string {
    return typeof this.#value === 'string' ? this.#value : this.fail('a text is expected');
  }

  stringOrUndefined(): string | undefined {
    return this.absent ? undefined : this.string();
  }

  /** A whole number from 0, as a number or as a text of digits (LVM prints all as text). */
  integer(): number {
    const value =
      typeof this.#value === 'string' && /^[0-9]{1,16}$/.test(this.#value)
        ? Number(this.#value)
        : this.#value;
    if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0) {
      return this.fail('a whole number from 0 is expected');
    }
    return value;
  }
}
