/**
 * A YAML file read so that every value can be pointed at: `pair.yaml:5:9: pairs.rack1.hosts: ...`.
 *
 * Plain YAML 1.2 (core schema) of one document. Keys that are written twice are an error, because the
 * parser would silently keep one of them.
 */

import { isAlias, isMap, isScalar, isSeq, LineCounter, parseDocument, visit } from 'yaml';
import type { Document, Node, Pair } from 'yaml';

export type Path = readonly (string | number)[];

/** One thing wrong with a file, at a place in it. */
export interface Problem {
  path: Path;
  message: string;
  line: number;
  column: number;
}

/** Larger files are refused before they are parsed. */
export const SOURCE_BYTES_MAX = 1024 * 1024;

export class YamlSource {
  readonly file: string;
  readonly problems: Problem[] = [];
  /** The whole document as plain values; undefined when it can't be parsed. */
  readonly value: unknown;
  readonly #document: Document.Parsed | undefined;
  readonly #lines = new LineCounter();

  /**
   * Parses the text. Problems of syntax are in `problems`, and then `value` is undefined.
   *
   * @param file how messages name the file
   */
  constructor(text: string, file: string) {
    this.file = file;
    if (text.length > SOURCE_BYTES_MAX) {
      this.problems.push({
        path: [],
        message: `is larger than ${SOURCE_BYTES_MAX} bytes`,
        line: 1,
        column: 1,
      });
      return;
    }
    const document = parseDocument(text, {
      lineCounter: this.#lines,
      prettyErrors: false,
      uniqueKeys: false,
      logLevel: 'error',
    });
    this.#document = document;
    // What follows the first mistake in the syntax is guesswork.
    const mistake = document.errors[0] ?? document.warnings[0];
    if (mistake !== undefined) {
      const several = mistake.code === 'MULTIPLE_DOCS';
      this.#addAt([], several ? 'a second document starts here' : mistake.message, mistake.pos[0]);
      return;
    }
    this.#findDuplicateKeys(document);
    try {
      this.value = document.toJS({ maxAliasCount: 100 });
    } catch {
      // Aliases of aliases of aliases, which a small file can make a large one of.
      this.#addAt([], 'has too many aliases', 0);
    }
  }

  /**
   * Records a problem.
   *
   * @param path where; a path that isn't in the file is placed at its nearest parent
   * @param at whether to point at the value or at its key
   */
  add(path: Path, message: string, at: 'value' | 'key' = 'value'): void {
    this.problems.push({ path, message, ...this.position(path, at) });
  }

  /** Line and column (from 1) of a value or of its key. */
  position(path: Path, at: 'value' | 'key' = 'value'): { line: number; column: number } {
    let node: unknown = this.#document?.contents;
    let offset = 0;
    for (const [depth, segment] of path.entries()) {
      node = this.#resolve(node);
      const last = depth === path.length - 1;
      if (isMap(node)) {
        const pair = node.items.find((item) => keyText(item) === String(segment));
        if (pair === undefined) break;
        const keyOffset = startOf(pair.key);
        const valueOffset = startOf(pair.value);
        // A parent is pointed at by its key, which is where a person looks for what is missing under it.
        offset = (last && at === 'value' ? valueOffset : keyOffset) ?? keyOffset ?? offset;
        node = pair.value;
      } else if (isSeq(node)) {
        const item: unknown = node.items[Number(segment)];
        if (item === undefined) break;
        offset = startOf(item) ?? offset;
        node = item;
      } else break;
    }
    return this.#at(offset);
  }

  /** The problems as text, in the order of the file, each once. */
  messages(): string[] {
    const sorted = [...this.problems].sort((a, b) => a.line - b.line || a.column - b.column);
    const texts = sorted.map(({ path, message, line, column }) => {
      const key = path.length === 0 ? '' : ` ${path.map(plainSegment).join('.')}:`;
      return `${this.file}:${line}:${column}:${key} ${oneLine(message)}`;
    });
    return [...new Set(texts)];
  }

  #findDuplicateKeys(document: Document.Parsed): void {
    visit(document, {
      Map: (_, map, ancestors) => {
        const first = new Map<string, Pair>();
        for (const pair of map.items) {
          const key = keyText(pair);
          const earlier = first.get(key);
          if (earlier === undefined) first.set(key, pair);
          else {
            const { line } = this.#at(startOf(earlier.key) ?? 0);
            const path = [...pathOf(ancestors), key];
            this.#addAt(path, `written twice, first on line ${line}`, startOf(pair.key) ?? 0);
          }
        }
      },
    });
  }

  #addAt(path: Path, message: string, offset: number): void {
    this.problems.push({ path, message, ...this.#at(offset) });
  }

  #at(offset: number): { line: number; column: number } {
    const { line, col } = this.#lines.linePos(offset);
    // An empty file has no line starts.
    return line === 0 ? { line: 1, column: 1 } : { line, column: col };
  }

  #resolve(node: unknown): unknown {
    return isAlias(node) && this.#document !== undefined ? node.resolve(this.#document) : node;
  }
}

/** A key as the parser turns it into a property name. */
function keyText(pair: Pair): string {
  if (!isScalar(pair.key)) return String(pair.key);
  const { value } = pair.key;
  return typeof value === 'string' ? value : value === null ? '' : JSON.stringify(value);
}

function startOf(node: unknown): number | undefined {
  return (node as Node | null | undefined)?.range?.[0];
}

/** Names of the maps a node is in, from the document down. */
function pathOf(ancestors: readonly unknown[]): string[] {
  const path: string[] = [];
  for (const [index, ancestor] of ancestors.entries()) {
    if (isSeq(ancestor)) path.push(String(ancestor.items.indexOf(ancestors[index + 1])));
    else if (typeof ancestor === 'object' && ancestor !== null && 'key' in ancestor) {
      path.push(keyText(ancestor as Pair));
    }
  }
  return path;
}

/** What the file has in it must not get at the terminal. */
function oneLine(text: string): string {
  return text.replace(/[\u0000-\u001f\u007f-\u009f]/g, '?');
}

/** A path segment as it can be printed on one line, whatever the file has for a key. */
function plainSegment(segment: string | number): string {
  const text = String(segment);
  return /^[\w.+-]{1,80}$/.test(text) ? text : JSON.stringify(text.slice(0, 60));
}
