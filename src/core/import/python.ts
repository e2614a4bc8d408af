/**
 * The old guest configurations' syntax, read without running it.
 *
 * A file for `xm` is a Python program, which `xm create` ran; one for `xl` looks alike. Nearly all of them are
 * only assignments of texts, numbers and lists, and these are what is read here:
 *
 *     statement  = key ("=" | "+=") sum
 *     sum        = item { "+" item }                  ; texts with texts, lists with lists
 *     item       = text { text } | [ "-" ] number | "None" | "True" | "False"
 *                | "[" [ sum { "," sum } [ "," ] ] "]" | "(" ... ")"
 *     text       = [ r | u | b ] ( '...' | "..." | '''...''' | """...""" )
 *
 * Statements end at a line's end outside of brackets, or at ";". A backslash at the end of a line joins the
 * next one. All that would have to be run (a call, a variable, a format, `if`, `import`) is a problem of its
 * statement alone, named with what to do. Source: the Python language reference, "Lexical analysis".
 */

import { show } from '../units.js';

export type PyValue =
  | { kind: 'text' | 'number'; text: string; line: number; endLine: number }
  | { kind: 'list'; items: PyValue[]; line: number; endLine: number }
  | { kind: 'none'; line: number; endLine: number };

export type PyStatement =
  | { kind: 'assignment'; key: string; adds: boolean; value: PyValue; line: number; endLine: number }
  /** A text that stands alone, as a docstring does. */
  | { kind: 'text'; line: number; endLine: number }
  /** `inBlock`: only part of an `if` or the like. */
  | { kind: 'problem'; problem: string; inBlock: boolean; line: number; endLine: number };

const NESTING_MAX = 16;
/** A statement over more lines than this has a bracket that was never closed. */
const STATEMENT_LINES_MAX = 400;

/** Every statement of the text, in order. What can't be read is a problem of its own statement only. */
export function parsePython(text: string): PyStatement[] {
  const result: PyStatement[] = [];
  /** Indentation of the `if`, `def` or the like that the following lines belong to. */
  let block: { indent: number; line: number } | undefined;
  for (const piece of logicalLines(text)) {
    const { line, endLine, indent } = piece;
    if (block !== undefined && piece.startsLine && indent <= block.indent) block = undefined;
    if (block !== undefined) {
      const problem = `it runs only as part of what starts on line ${block.line}; ${WRITE_OUT}`;
      result.push({ kind: 'problem', problem, inBlock: true, line, endLine });
      continue;
    }
    const header = /^(if|elif|else|for|while|def|class|try|except|finally|with)\b/.exec(piece.text);
    if (header !== null && !/^\w+\s*\+?=/.test(piece.text)) {
      block = { indent, line };
      result.push({
        kind: 'problem',
        problem: `"${header[1]}" would have to be run; ${WRITE_OUT}`,
        inBlock: true,
        line,
        endLine,
      });
      continue;
    }
    const { problem } = piece;
    result.push(
      problem === undefined
        ? readStatement(piece)
        : { kind: 'problem', problem, inBlock: false, line, endLine },
    );
  }
  return result;
}

const WRITE_OUT =
  'nothing is run here: write what it comes to as plain assignments (on the old host "xm create --dryrun FILE" prints it)';

// --- Statements -------------------------------------------------------------------------------------------

interface Piece {
  text: string;
  line: number;
  endLine: number;
  indent: number;
  /** False for what follows a ";". */
  startsLine: boolean;
  problem?: string;
}

/** Cuts the text where statements end. Blank lines and comments give none. */
function* logicalLines(text: string): Generator<Piece> {
  let offset = 0;
  let line = 1;
  let startsLine = true;
  let indent = 0;
  while (offset < text.length) {
    const blank = matchAt(/[ \t\f\v\r]*(?:#[^\n]*)?/y, text, offset);
    if (startsLine)
      indent = blank.startsWith('#')
        ? 0
        : (/^[ \t]*/.exec(blank)?.[0].replaceAll('\t', '        ').length ?? 0);
    offset += blank.length;
    const character = text.charAt(offset);
    if (character === '') return;
    if (character === '\n' || character === ';') {
      offset += 1;
      startsLine = character === '\n';
      if (startsLine) line += 1;
      continue;
    }
    const end = endOfStatement(text, offset);
    const piece = text.slice(offset, end.offset);
    const endLine = line + newlines(piece);
    yield {
      text: piece.trimEnd(),
      line,
      endLine: line + newlines(piece.trimEnd()),
      indent,
      startsLine,
      ...(end.problem === undefined ? {} : { problem: end.problem }),
    };
    startsLine = false;
    line = endLine;
    offset = end.offset;
  }
}

/** Where the statement ends that begins here; with a problem, where its first line ends. */
function endOfStatement(text: string, start: number): { offset: number; problem?: string } {
  const firstLineEnd = lineEnd(text, start);
  const open: string[] = [];
  let offset = start;
  let lines = 0;
  let problem: string | undefined;
  while (offset < text.length) {
    const character = text.charAt(offset);
    if (character === '#') {
      offset = lineEnd(text, offset);
    } else if (character === "'" || character === '"') {
      const quoted = quotedAt(text, offset);
      if (quoted === undefined) {
        if (text.startsWith(character.repeat(3), offset)) {
          return {
            offset: firstLineEnd,
            problem: `a text that begins with ${character.repeat(3)} is never closed`,
          };
        }
        problem ??= `a text in ${character} isn't closed on its line`;
        offset = lineEnd(text, offset);
      } else {
        lines += newlines(quoted);
        offset += quoted.length;
      }
    } else if (character === '\\' && text.charAt(offset + 1) === '\n') {
      lines += 1;
      offset += 2;
    } else if (character === '\n') {
      if (open.length === 0) break;
      lines += 1;
      offset += 1;
      // In a list of texts no line begins like this, so the bracket was forgotten.
      if (open[0] === '[' && /[a-z_]\w*[ \t]*=(?!=)/y.test(text.slice(offset, offset + 80))) {
        return { offset: firstLineEnd, problem: 'the list that begins here is never closed' };
      }
    } else if (character === ';' && open.length === 0) {
      break;
    } else {
      if ('([{'.includes(character)) open.push(character);
      if (')]}'.includes(character)) open.pop();
      offset += 1;
    }
    if (lines > STATEMENT_LINES_MAX) {
      return { offset: firstLineEnd, problem: `goes on over more than ${STATEMENT_LINES_MAX} lines` };
    }
  }
  if (open.length > 0) return { offset: firstLineEnd, problem: `"${open[0]}" is never closed` };
  return { offset, ...(problem === undefined ? {} : { problem }) };
}

function lineEnd(text: string, offset: number): number {
  const found = text.indexOf('\n', offset);
  return found < 0 ? text.length : found;
}

function newlines(text: string): number {
  let count = 0;
  for (let at = text.indexOf('\n'); at >= 0; at = text.indexOf('\n', at + 1)) count += 1;
  return count;
}

function matchAt(pattern: RegExp, text: string, offset: number): string {
  pattern.lastIndex = offset;
  return pattern.exec(text)?.[0] ?? '';
}

/** The quoted text here with its quotes, or undefined where it isn't closed. */
function quotedAt(text: string, offset: number): string | undefined {
  const quote = text.charAt(offset);
  const triple = text.startsWith(quote.repeat(3), offset);
  const mark = triple ? quote.repeat(3) : quote;
  let at = offset + mark.length;
  // No text is longer than a statement may be, so that unclosed ones don't cost a whole file each.
  for (let lines = 0; at < text.length && lines <= STATEMENT_LINES_MAX; at++) {
    const character = text.charAt(at);
    if (text.startsWith(mark, at)) return text.slice(offset, at + mark.length);
    if (character === '\\') {
      at += 1;
      if (text.charAt(at) === '\n') lines += 1;
    } else if (character === '\n') {
      if (!triple) return undefined;
      lines += 1;
    }
  }
  return undefined;
}

// --- Values -----------------------------------------------------------------------------------------------

class Problem extends Error {}

function readStatement(piece: Piece): PyStatement {
  const { line, endLine } = piece;
  try {
    return new Reader(piece).statement();
  } catch (error) {
    if (error instanceof Problem) {
      return { kind: 'problem', problem: error.message, inBlock: false, line, endLine };
    }
    throw error;
  }
}

class Reader {
  readonly #text: string;
  readonly #endLine: number;
  #line: number;
  #offset = 0;

  constructor(piece: Piece) {
    this.#text = piece.text;
    this.#line = piece.line;
    this.#endLine = piece.endLine;
  }

  statement(): PyStatement {
    const line = this.#line;
    const endLine = this.#endLine;
    const word = /^(import|from|print|exec|del|global|assert|raise|return|pass|lambda)\b(?!\s*\+?=)/.exec(
      this.#text,
    );
    if (word?.[1] === 'pass') return { kind: 'text', line, endLine };
    if (word !== null) this.#fail(`"${word[1]}" would have to be run; ${WRITE_OUT}`);
    if (/^[rRuUbB]?['"]/.test(this.#text)) {
      this.#sum(0);
      this.#end();
      return { kind: 'text', line, endLine };
    }
    const key = this.#match(/[A-Za-z_]\w*/y);
    if (key === '') this.#fail(`expected "key = value", found ${this.#here()}`);
    this.#space();
    const operator = this.#match(/\+?=(?!=)/y);
    if (operator === '') {
      if (this.#peek() === '(') this.#fail(`the call ${show(`${key}()`)} would have to be run; ${WRITE_OUT}`);
      this.#fail(`expected "=" after ${show(key)}, found ${this.#here()}`);
    }
    this.#space();
    const value = this.#sum(0);
    this.#end();
    return { kind: 'assignment', key, adds: operator === '+=', value, line, endLine };
  }

  #end(): void {
    this.#space();
    if (this.#offset < this.#text.length) this.#operatorProblem();
  }

  #sum(depth: number): PyValue {
    let value = this.#item(depth);
    for (;;) {
      this.#space();
      if (this.#peek() !== '+') return value;
      this.#offset += 1;
      this.#space();
      value = this.#joined(value, this.#item(depth));
    }
  }

  #joined(a: PyValue, b: PyValue): PyValue {
    const result = addValues(a, b);
    return result ?? this.#fail(`"+" joins texts with texts and lists with lists only; ${WRITE_OUT}`);
  }

  #item(depth: number): PyValue {
    if (depth > NESTING_MAX) this.#fail(`lists are nested more than ${NESTING_MAX} deep`);
    const line = this.#line;
    const character = this.#peek();
    if (character === '[' || character === '(') return this.#list(depth, character);
    if (/^[rRuUbB]{0,2}['"]/.test(this.#text.slice(this.#offset, this.#offset + 3))) return this.#texts();
    const number = this.#match(/-?(?:0[xX][0-9a-fA-F]+|0[oO][0-7]+|\d+(?:\.\d+)?)[lL]?(?![\w.])/y);
    if (number !== '') {
      return { kind: 'number', text: numberText(number), line, endLine: line };
    }
    const name = this.#match(/[A-Za-z_]\w*/y);
    if (name === 'None') return { kind: 'none', line, endLine: line };
    if (name === 'True' || name === 'False') {
      return { kind: 'number', text: name === 'True' ? '1' : '0', line, endLine: line };
    }
    if (name !== '') {
      if (/^f/i.test(name) && /['"]/.test(this.#peek()))
        this.#fail(`a formatted text (${name}"...") would have to be run; ${WRITE_OUT}`);
      this.#space();
      if (this.#peek() === '(')
        this.#fail(`the call ${show(`${name}()`)} would have to be run; ${WRITE_OUT}`);
      if (this.#peek() === '.')
        this.#fail(`${show(name)} is of a module and would have to be run; ${WRITE_OUT}`);
      this.#fail(`the variable ${show(name)} would have to be looked up: write its value in its place`);
    }
    if (character === '{') this.#fail(`a dictionary has no place in a guest's configuration; ${WRITE_OUT}`);
    this.#fail(`expected a text, a number or a list, found ${this.#here()}`);
  }

  #list(depth: number, bracket: '[' | '('): PyValue {
    const line = this.#line;
    const close = bracket === '[' ? ']' : ')';
    this.#offset += 1;
    const items: PyValue[] = [];
    let commas = 0;
    for (;;) {
      this.#space();
      if (this.#take(close)) break;
      items.push(this.#sum(depth + 1));
      this.#space();
      if (this.#take(',')) {
        commas += 1;
        continue;
      }
      if (this.#take(close)) break;
      this.#operatorProblem(`expected "," or "${close}"`);
    }
    const [only] = items;
    // Parentheses around one value only group.
    if (bracket === '(' && commas === 0 && only !== undefined) return { ...only, line, endLine: this.#line };
    return { kind: 'list', items, line, endLine: this.#line };
  }

  /** Texts that stand side by side are one. */
  #texts(): PyValue {
    const line = this.#line;
    let text = '';
    for (;;) {
      const prefix = this.#match(/[rRuUbB]{0,2}(?=['"])/y);
      const quoted = quotedAt(this.#text, this.#offset);
      if (quoted === undefined) this.#fail('a text is never closed');
      this.#offset += quoted.length;
      const mark = /^('''|"""|'|")/.exec(quoted)?.[0].length ?? 1;
      const inner = quoted.slice(mark, -mark);
      text += /r/i.test(prefix) ? inner : this.#unescape(inner);
      this.#line += newlines(quoted);
      const endLine = this.#line;
      this.#space();
      if (!/^[rRuUbB]{0,2}['"]/.test(this.#text.slice(this.#offset, this.#offset + 3))) {
        return { kind: 'text', text, line, endLine };
      }
    }
  }

  #unescape(text: string): string {
    return text.replace(
      /\\(?:\n|([0-7]{1,3})|x([0-9a-fA-F]{2})|([abfnrtv\\'"])|([\s\S]))/g,
      (whole, octal, hex, one, other) => {
        if (typeof octal === 'string') return String.fromCharCode(Number.parseInt(octal, 8));
        if (typeof hex === 'string') return String.fromCharCode(Number.parseInt(hex, 16));
        if (typeof one === 'string') return ESCAPES[one] ?? one;
        if (typeof other === 'string') {
          if (/[xNuU]/.test(other))
            this.#fail(`the escape ${show(String(whole))} isn't read here: write the character itself`);
          // As in Python, the backslash stays where it means nothing.
          return String(whole);
        }
        return '';
      },
    );
  }

  /** Says what stands behind a value, where something does that would have to be computed. */
  #operatorProblem(otherwise = 'expected the end of the line after the value'): never {
    const rest = this.#text.slice(this.#offset, this.#offset + 12);
    if (rest.startsWith('%'))
      this.#fail(`"%" fills a text in and would have to be run: write the finished text; ${WRITE_OUT}`);
    if (rest.startsWith('.'))
      this.#fail(`a method of a text would have to be run: write the finished text; ${WRITE_OUT}`);
    if (/^(?:for|if)\b/.test(rest))
      this.#fail(`"${rest.startsWith('if') ? 'if' : 'for'}" would have to be run; ${WRITE_OUT}`);
    if (/^(?:[-*/<>[({=]|and\b|or\b|in\b|is\b|not\b)/.test(rest))
      this.#fail(`${this.#here()} would have to be computed; ${WRITE_OUT}`);
    this.#fail(`${otherwise}, found ${this.#here()}`);
  }

  #space(): void {
    for (;;) {
      const blank = this.#match(/(?:[ \t\f\v\r\n]|\\\n|#[^\n]*)*/y);
      if (blank === '') return;
      this.#line += newlines(blank);
    }
  }

  #peek(): string {
    return this.#text.charAt(this.#offset);
  }

  #take(character: string): boolean {
    if (this.#peek() !== character) return false;
    this.#offset += 1;
    return true;
  }

  #match(pattern: RegExp): string {
    const found = matchAt(pattern, this.#text, this.#offset);
    this.#offset += found.length;
    return found;
  }

  #here(): string {
    const rest = matchAt(/[^\n]{0,20}/y, this.#text, this.#offset);
    return rest === '' ? 'the end' : show(rest);
  }

  #fail(problem: string): never {
    throw new Problem(problem);
  }
}

const ESCAPES: Readonly<Record<string, string>> = {
  a: '\x07',
  b: '\b',
  f: '\f',
  n: '\n',
  r: '\r',
  t: '\t',
  v: '\v',
};

/** As digits that mean the same everywhere: decimal, or the text where it isn't whole. */
function numberText(text: string): string {
  const plain = text.replace(/[lL]$/, '');
  const digits = plain.replace(/^-/, '');
  if (digits.includes('.')) return plain;
  const value =
    /^0\d/.test(digits) && !/[89]/.test(digits)
      ? BigInt(`0o${digits}`)
      : BigInt(digits.replace(/^0+(?=\d)/, ''));
  return `${plain.startsWith('-') ? '-' : ''}${value}`;
}

/** What `a + b` is; undefined where it is none of texts or lists. */
export function addValues(a: PyValue, b: PyValue): PyValue | undefined {
  const { line } = a;
  const { endLine } = b;
  if (a.kind === 'text' && b.kind === 'text') return { kind: 'text', text: a.text + b.text, line, endLine };
  if (a.kind === 'list' && b.kind === 'list')
    return { kind: 'list', items: [...a.items, ...b.items], line, endLine };
  return undefined;
}
