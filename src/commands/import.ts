/**
 * `remus-drbd import FILE...`: reads old guest configurations and DRBD's, and writes a pair.yaml with questions
 * where something can't be known from them, the guests' new configurations next to it, and what became of each
 * line of each input.
 *
 * With `--out FILE` the files are written; without it pair.yaml goes to standard output, the report to standard
 * error, and nothing is written. An input is never overwritten, another file only with `--force`.
 */

import { randomUUID } from 'node:crypto';
import { access, readFile, realpath, rename, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';

import { ExitCode, OperatorError } from '../core/errors.js';
import { importConfigurations } from '../core/import/import.js';
import type { ImportResult } from '../core/import/import.js';
import type { Fate } from '../core/import/ledger.js';

/** No configuration is anywhere near this; it keeps a wrong path from filling the memory. */
const FILE_BYTES_MAX = 1024 * 1024;

export interface ImportOptions {
  files: readonly string[];
  /** Where pair.yaml goes; standard output where it isn't given. */
  out?: string;
  force: boolean;
  json: boolean;
  print: (text: string) => void;
  /** For the report, where standard output has pair.yaml. */
  printReport: (text: string) => void;
}

/**
 * Imports the files.
 *
 * @throws {OperatorError} for an input that can't be read, and for a file that is there already; then nothing
 * was written
 */
export async function runImport(options: ImportOptions): Promise<ExitCode> {
  const { files, out, force, json } = options;
  const inputs = await Promise.all(files.map(async (file) => ({ file, text: await readInput(file) })));
  const directory = out === undefined ? process.cwd() : dirname(resolve(out));
  const own = await inputNames(files, directory);
  if (out !== undefined && own.has(basename(out))) {
    throw new OperatorError(
      `${out}: is one of the files to import, which are never overwritten; nothing was written. Name another file with --out.`,
      ExitCode.refused,
    );
  }
  const result = importConfigurations(inputs, [...own, ...(out === undefined ? [] : [basename(out)])]);
  const written: string[] = [];
  if (out !== undefined) {
    const targets = [
      { path: out, text: result.pairYaml, mode: 0o644 },
      // A guest's configuration may hold the password of its console.
      ...result.guests.map(({ name, text }) => ({ path: join(dirname(out), name), text, mode: 0o600 })),
    ];
    if (!force) await refuseExisting(targets.map(({ path }) => path));
    for (const { path, text, mode } of targets) {
      await write(path, text, mode, force);
      written.push(path);
    }
  }
  if (json) options.print(JSON.stringify({ ...result, written }, null, 2));
  else if (out === undefined) {
    options.print(result.pairYaml);
    options.printReport(importText(result, written));
  } else options.print(importText(result, written));
  return ExitCode.ok;
}

async function readInput(file: string): Promise<string> {
  let bytes: Buffer;
  try {
    bytes = await readFile(file);
  } catch (error) {
    const reason = error instanceof Error && 'code' in error ? String(error.code) : String(error);
    const why = reason === 'ENOENT' ? 'there is no such file' : `it can't be read (${reason})`;
    throw new OperatorError(`${file}: ${why}; nothing was written`, ExitCode.usage, error);
  }
  if (bytes.length > FILE_BYTES_MAX) {
    throw new OperatorError(
      `${file}: is larger than ${FILE_BYTES_MAX} bytes; nothing was written`,
      ExitCode.usage,
    );
  }
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    // Old files have comments in Latin-1, where any byte is a character.
    return bytes.toString('latin1');
  }
}

/** Names in the directory that stand for an input, by whatever path or link it was given. */
async function inputNames(files: readonly string[], directory: string): Promise<Set<string>> {
  const names = new Set<string>();
  const real = await realpath(directory).catch(() => directory);
  for (const file of files) {
    for (const path of [resolve(file), await realpath(file)]) {
      if (dirname(path) === directory || dirname(path) === real) names.add(basename(path));
    }
  }
  return names;
}

async function refuseExisting(paths: readonly string[]): Promise<void> {
  const there: string[] = [];
  for (const path of paths) {
    if (
      await access(path).then(
        () => true,
        () => false,
      )
    ) {
      there.push(path);
    }
  }
  if (there.length === 0) return;
  throw new OperatorError(
    `${there.join(', ')}: there already; nothing was written. Give --force to write over it, or name another file with --out.`,
    ExitCode.refused,
  );
}

async function write(path: string, text: string, mode: number, force: boolean): Promise<void> {
  try {
    if (!force) {
      await writeFile(path, text, { flag: 'wx', mode });
      return;
    }
    // The old file stays whole until the new one is.
    const temporary = `${path}.${randomUUID()}`;
    try {
      await writeFile(temporary, text, { flag: 'wx', mode });
      await rename(temporary, path);
    } catch (error) {
      await rm(temporary, { force: true });
      throw error;
    }
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new OperatorError(`${path}: can't be written: ${reason}`, ExitCode.failed, error);
  }
}

const FATES: Readonly<Record<Fate, string>> = {
  taken: 'taken',
  'not-needed': 'not needed',
  question: 'question',
  cannot: 'NOT TAKEN',
};

/** The report in words: each line of each input, the questions, and what is left to do. */
export function importText(result: ImportResult, written: readonly string[]): string {
  const lines: string[] = [];
  for (const { file, kind, lines: entries } of result.inputs) {
    lines.push(`${file} (${kind === 'drbd' ? 'DRBD' : 'a guest'})`);
    for (const { line, text, fate, note } of entries) {
      if (note === 'empty') continue;
      lines.push(`  ${String(line).padStart(4)}  ${text.trim().slice(0, 100)}`);
      lines.push(`        ${FATES[fate]}: ${note}`);
    }
    const count = (fate: Fate): number => entries.filter((entry) => entry.fate === fate).length;
    lines.push(
      `  ${entries.length} lines: ${count('taken')} taken, ${count('not-needed')} not needed, ${count('question')} with a question, ${count('cannot')} not taken`,
      '',
    );
  }
  lines.push(`${result.questions.length} questions:`);
  for (const { where, question } of result.questions) lines.push(`  ${where}`, `        ${question}`);
  lines.push('', 'What is left to do:');
  for (const [index, step] of result.steps.entries()) lines.push(`  ${index + 1}. ${step}`);
  lines.push('');
  if (written.length > 0) lines.push(`Written: ${written.join(', ')}`);
  else {
    const names = result.guests.map(({ name }) => name).join(', ');
    lines.push(
      `Nothing was written; with --out FILE, pair.yaml is${names === '' ? '' : `, and ${names} beside it`}.`,
    );
  }
  return `${lines.join('\n')}\n`;
}
