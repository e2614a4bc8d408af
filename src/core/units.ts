/**
 * Sizes and durations as people write them in pair.yaml: `20GiB`, `512MiB` or plain bytes; `100ms`, `1s`,
 * `2m`. A duration always has its unit; a size has a binary one or none, so that nobody has to guess whether
 * 20G means 20e9 or 20 * 2^30.
 */

/** A value, or what is wrong with the text it should have come from. */
export type Parsed<T> = { value: T } | { problem: string };

const SIZE_UNITS: Readonly<Record<string, number>> = {
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  TiB: 2 ** 40,
};

const DURATION_UNITS_MS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000 };

/** How a value from the file is named in a message: short, on one line, whatever it holds. */
export function show(value: unknown): string {
  if (value === null || value === undefined) return 'nothing';
  if (Array.isArray(value)) return 'a list';
  if (typeof value === 'object') return 'a map';
  const text = typeof value === 'number' ? String(value) : JSON.stringify(value);
  return text.length > 60 ? `${text.slice(0, 56)}..."` : text;
}

/**
 * Parses a size.
 *
 * @returns bytes, a safe integer, not negative
 */
export function parseSize(input: unknown): Parsed<number> {
  const expected = 'a size such as 20GiB, 512MiB or a number of bytes';
  if (typeof input === 'number') {
    if (!Number.isSafeInteger(input) || input < 0) {
      return { problem: `expected ${expected}, found ${show(input)}` };
    }
    return { value: input };
  }
  if (typeof input !== 'string') return { problem: `expected ${expected}, found ${show(input)}` };
  const match = /^(\d{1,16}) ?([A-Za-z]*)$/.exec(input);
  if (!match) return { problem: `expected ${expected}, found ${show(input)}` };
  const [, digits = '', unit = ''] = match;
  const factor = unit === '' ? 1 : Object.hasOwn(SIZE_UNITS, unit) ? SIZE_UNITS[unit] : undefined;
  if (factor === undefined) {
    const near = /^([kmgt])/i.exec(unit)?.[1]?.toUpperCase();
    const hint = near === undefined ? '' : `; did you mean ${digits}${near}iB?`;
    return { problem: `unknown unit in ${show(input)}${hint}` };
  }
  const bytes = Number(digits) * factor;
  if (!Number.isSafeInteger(bytes)) return { problem: `${show(input)} is too large` };
  return { value: bytes };
}

/**
 * Parses a duration.
 *
 * @returns whole milliseconds, not negative
 */
export function parseDuration(input: unknown): Parsed<number> {
  const expected = 'a duration such as 100ms, 1s or 2m';
  if (typeof input === 'number') {
    return { problem: `${show(input)} has no unit; expected ${expected}` };
  }
  if (typeof input !== 'string') return { problem: `expected ${expected}, found ${show(input)}` };
  const match = /^(\d{1,9}) ?(ms|s|m)$/.exec(input);
  if (!match) return { problem: `expected ${expected}, found ${show(input)}` };
  const [, digits = '', unit = ''] = match;
  return { value: Number(digits) * (DURATION_UNITS_MS[unit] ?? Number.NaN) };
}

/** A size in the largest unit that gives a whole number, for messages. */
export function formatSize(bytes: number): string {
  for (const unit of ['TiB', 'GiB', 'MiB', 'KiB']) {
    const factor = SIZE_UNITS[unit] ?? 1;
    if (bytes >= factor && bytes % factor === 0) return `${bytes / factor}${unit}`;
  }
  return `${bytes} bytes`;
}

/** A duration in the largest unit that gives a whole number, for messages. */
export function formatDuration(ms: number): string {
  if (ms >= 60_000 && ms % 60_000 === 0) return `${ms / 60_000}m`;
  if (ms >= 1000 && ms % 1000 === 0) return `${ms / 1000}s`;
  return `${ms}ms`;
}
