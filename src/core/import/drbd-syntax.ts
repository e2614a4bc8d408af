/**
 * The syntax that DRBD's configuration files share in 8.3, 8.4 and 9 (drbd.conf(5)): statements of words that
 * end in ";", and sections of words that have statements in braces. "#" begins a comment.
 *
 *     resource web {
 *         on alpha { device /dev/drbd1; address 10.0.0.1:7788; }
 *     }
 *
 * What is in a section that never closes, and a quote that doesn't, are problems at their line; the rest is
 * read all the same.
 */

import { show } from '../units.js';

export interface DrbdStatement {
  words: string[];
  line: number;
  /** Of the ";" or "{". */
  endLine: number;
  /** What is in its braces; absent for a plain statement. */
  children?: DrbdStatement[];
  /** Line of the closing brace. */
  closeLine?: number;
}

export interface DrbdProblem {
  line: number;
  message: string;
}

interface Token {
  kind: 'word' | '{' | '}' | ';';
  text: string;
  line: number;
}

const NESTING_MAX = 8;
const TOO_DEEP = `sections are nested more than ${NESTING_MAX} deep`;

export function parseDrbdSyntax(text: string): { statements: DrbdStatement[]; problems: DrbdProblem[] } {
  const problems: DrbdProblem[] = [];
  const root: DrbdStatement = { words: [], line: 0, endLine: 0, children: [] };
  const open: DrbdStatement[] = [root];
  let words: Token[] = [];
  const add = (end: Token, section: boolean): void => {
    const statement: DrbdStatement = {
      words: words.map((word) => word.text),
      line: words[0]?.line ?? end.line,
      endLine: end.line,
      ...(section ? { children: [] } : {}),
    };
    open.at(-1)?.children?.push(statement);
    if (section) open.push(statement);
    words = [];
  };
  const unfinished = (): void => {
    const [first] = words;
    if (first !== undefined) {
      for (const line of new Set(words.map((word) => word.line))) {
        problems.push({
          line,
          message: `expected ";" or "{" after ${show(words.map((word) => word.text).join(' '))}`,
        });
      }
    }
    words = [];
  };
  /** Braces that are open below the deepest section that is read. */
  let tooDeep = 0;
  for (const token of tokens(text, problems)) {
    if (tooDeep > 0) {
      problems.push({ line: token.line, message: TOO_DEEP });
      if (token.kind === '{') tooDeep += 1;
      if (token.kind === '}') tooDeep -= 1;
      continue;
    }
    switch (token.kind) {
      case 'word':
        words.push(token);
        break;
      case ';':
        if (words.length > 0) add(token, false);
        else problems.push({ line: token.line, message: 'a ";" with nothing before it' });
        break;
      case '{':
        if (open.length > NESTING_MAX) {
          for (const { line } of [...words, token]) problems.push({ line, message: TOO_DEEP });
          words = [];
          tooDeep = 1;
        } else add(token, true);
        break;
      case '}':
        unfinished();
        if (open.length === 1) problems.push({ line: token.line, message: 'a "}" that closes nothing' });
        else {
          const section = open.pop();
          if (section !== undefined) section.closeLine = token.line;
        }
        break;
    }
  }
  unfinished();
  for (const section of open.slice(1)) {
    problems.push({ line: section.line, message: `${show(section.words.join(' '))} is never closed by "}"` });
  }
  return { statements: root.children ?? [], problems };
}

function* tokens(text: string, problems: DrbdProblem[]): Generator<Token> {
  const pattern = /[^\S\n]+|#[^\n]*|(\n)|([{};])|"([^"\n]*)"|("[^\n]*)|([^\s{};"#]+)/y;
  let line = 1;
  for (;;) {
    const match = pattern.exec(text);
    if (match === null) return;
    const [, newline, mark, quoted, unclosed, word] = match;
    if (newline !== undefined) line += 1;
    else if (mark === '{' || mark === '}' || mark === ';') yield { kind: mark, text: mark, line };
    else if (quoted !== undefined) yield { kind: 'word', text: quoted, line };
    else if (unclosed !== undefined)
      problems.push({ line, message: 'a text in " isn\'t closed on its line' });
    else if (word !== undefined) yield { kind: 'word', text: word, line };
  }
}
