/**
 * Which devices LVM looks at for volume groups: `lvmconfig --typeconfig full devices/filter devices/global_filter`
 * and the meaning of these two, lvm.conf(5) ("devices/filter" in `lvmconfig --withcomments --typeconfig default`).
 *
 *     filter=["a|.*|"]
 *     global_filter=["r|^/dev/drbd|","a|.*|"]
 */
import { linesOf } from './text.js';

/** The patterns of each filter, as they are configured: `a` or `r`, and an expression between two delimiters. */
export interface LvmFilters {
  filter: string[];
  globalFilter: string[];
}

/** @throws ParseError */
export function parseLvmFilters(text: string): LvmFilters {
  const found: LvmFilters = { filter: [], globalFilter: [] };
  for (const line of linesOf('lvmconfig', text)) {
    const [, name, list] =
      /^(filter|global_filter)=(.*)$/.exec(line.text) ?? line.fail('a filter is expected');
    const patterns = [...(list ?? '').matchAll(/"((?:[^"\\]|\\.)*)"/g)].map(([, pattern]) => {
      return (pattern ?? '').replace(/\\(.)/g, '$1');
    });
    if (patterns.length === 0) line.fail('patterns in quotes are expected');
    found[name === 'filter' ? 'filter' : 'globalFilter'] = patterns;
  }
  return found;
}

/**
 * Whether LVM leaves a device alone: one of the filters refuses it. A name is judged by the first pattern that
 * matches it; a device is taken when any of its names is, and left alone when none is and one is refused.
 *
 * @param names all names of the device
 * @returns undefined where a pattern is one that only LVM can read
 */
export function isRefused(filters: LvmFilters, names: readonly string[]): boolean | undefined {
  try {
    return [filters.filter, filters.globalFilter].some((filter) => {
      const verdicts = names.map((name) => filter.find((pattern) => expressionOf(pattern).test(name))?.[0]);
      return !verdicts.includes('a') && verdicts.includes('r');
    });
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

const CLOSING: Readonly<Record<string, string>> = { '(': ')', '[': ']', '{': '}' };

/** @throws SyntaxError */
function expressionOf(pattern: string): RegExp {
  const [kind = '', open = ''] = pattern;
  if (!['a', 'r'].includes(kind) || !pattern.endsWith(CLOSING[open] ?? open) || pattern.length < 3) {
    throw new SyntaxError(`${pattern} is no pattern of LVM's`);
  }
  return new RegExp(pattern.slice(2, -1));
}
