/** Embedded coreutils, findutils and grep, as far as hosts are asked. */
import { createHash } from 'node:crypto';
import type { EmbeddedMachine, Tool } from './machine.js';
import { failed, NO_SUCH_FILE, NotModelled, printed } from './results.js';
import type { EmbeddedResult } from './sshd.js';

export const fileTools: [string, Tool][] = [
  ['true', () => printed('')],
  [
    'cat',
    (machine, args) => eachFile(machine, 'cat', operands(args), ({ content }) => content.toString('latin1')),
  ],
  ['md5sum', (machine, args) => digests(machine, 'md5', operands(args))],
  ['sha256sum', (machine, args) => digests(machine, 'sha256', operands(args))],
  ['stat', stat],
  ['head', head],
  ['rm', remove],
  ['chmod', changeMode],
  ['install', install],
  ['mkdir', makeDirectories],
  ['find', find],
  ['grep', autostart],
];

/** Arguments after options; `--` ends these. None of the tools here takes a value with an option it has. */
function operands(args: readonly string[]): string[] {
  const end = args.indexOf('--');
  return end === -1 ? args.filter((arg) => !arg.startsWith('-')) : args.slice(end + 1);
}

/** One line or text for each file; what is missing goes to standard error and makes the exit code 1. */
function eachFile(
  machine: EmbeddedMachine,
  tool: string,
  paths: readonly string[],
  show: (file: { content: Buffer; mode: number }, path: string) => string,
): EmbeddedResult {
  let [stdout, stderr] = ['', ''];
  for (const path of paths) {
    const file = machine.files.read(path);
    if (file !== undefined) stdout += show(file, path);
    else if (machine.files.exists(path)) stderr += `${tool}: ${path}: Is a directory\n`;
    else stderr += `${tool}: ${path}: ${NO_SUCH_FILE}\n`;
  }
  return { exitCode: stderr === '' ? 0 : 1, stdout: Buffer.from(stdout, 'latin1'), stderr };
}

function digests(machine: EmbeddedMachine, hash: string, paths: string[]): EmbeddedResult {
  return eachFile(machine, `${hash}sum`, paths, ({ content }, path) => {
    return `${createHash(hash).update(content).digest('hex')}  ${path}\n`;
  });
}

function stat(machine: EmbeddedMachine, args: readonly string[]): EmbeddedResult {
  const format = args[args.indexOf('-c') + 1];
  if (format !== '%f' && format !== '%a %n') throw new NotModelled(`stat -c ${format}`);
  let [stdout, stderr] = ['', ''];
  for (const path of args.slice(args.indexOf('--') + 1)) {
    const directoryMode = machine.files.directoryMode(path);
    const file = machine.files.read(path);
    if (file === undefined && directoryMode === undefined) {
      stderr += `stat: cannot statx '${path}': ${NO_SUCH_FILE}\n`;
      continue;
    }
    const mode = file?.mode ?? directoryMode ?? 0;
    const kind =
      directoryMode !== undefined ? 0o040000 : machine.lvAt(path) !== undefined ? 0o060000 : 0o100000;
    stdout += format === '%f' ? `${(kind | mode).toString(16)}\n` : `${mode.toString(8)} ${path}\n`;
  }
  return { exitCode: stderr === '' ? 0 : 1, stdout, stderr };
}

function head(machine: EmbeddedMachine, args: readonly string[]): EmbeddedResult {
  const [option, bytes, ...rest] = args;
  const [path = ''] = operands(rest);
  if (option !== '-c') throw new NotModelled('head without -c');
  const file = machine.files.read(path);
  if (file !== undefined) return printed(file.content.subarray(0, Number(bytes)));
  return machine.files.exists(path)
    ? failed(1, `head: error reading '${path}': Is a directory`)
    : failed(1, `head: cannot open '${path}' for reading: ${NO_SUCH_FILE}`);
}

function remove(machine: EmbeddedMachine, args: readonly string[]): EmbeddedResult {
  if (!args.includes('-f')) throw new NotModelled('rm without -f');
  for (const path of operands(args)) machine.files.delete(path);
  return printed('');
}

function changeMode(machine: EmbeddedMachine, args: readonly string[]): EmbeddedResult {
  const [mode = '', ...paths] = args;
  for (const path of paths) {
    const file = machine.files.read(path);
    if (file === undefined) return failed(1, `chmod: cannot access '${path}': ${NO_SUCH_FILE}`);
    machine.files.write(path, file.content, Number.parseInt(mode, 8));
  }
  return printed('');
}

/** `install -d -m MODE PATH...` */
function install(machine: EmbeddedMachine, args: readonly string[]): EmbeddedResult {
  const [directory, option, mode, ...paths] = args;
  if (directory !== '-d' || option !== '-m') throw new NotModelled('install without -d -m');
  for (const path of paths) machine.files.makeDirectory(path, Number.parseInt(mode ?? '', 8));
  return printed('');
}

function makeDirectories(machine: EmbeddedMachine, args: readonly string[]): EmbeddedResult {
  for (const path of operands(args)) machine.files.makeDirectory(path, 0o755, true);
  return printed('');
}

/**
 * `find PATH... -maxdepth 0 EXPRESSION` with `-exec`, `-o` and parentheses, which asks only where PATH exists;
 * `find PATH... ! -type d`, which lists files; and `find PATH... -depth -type d -empty -delete`.
 */
async function find(machine: EmbeddedMachine, args: readonly string[]): Promise<EmbeddedResult> {
  const first = args.findIndex((arg) => arg.startsWith('-') || arg === '!');
  const paths = args.slice(0, first);
  const expression = args.slice(first);
  const result = { exitCode: 0, stdout: '', stderr: '' };
  const missing = (path: string): void => {
    result.exitCode = 1;
    result.stderr += `find: '${path}': ${NO_SUCH_FILE}\n`;
  };
  if (expression.join(' ') === '-depth -type d -empty -delete') {
    for (const path of paths) {
      if (machine.files.exists(path)) machine.files.removeEmpty(path);
      else missing(path);
    }
    return result;
  }
  if (expression.join(' ') === '! -type d') {
    for (const path of paths) {
      if (machine.files.exists(path))
        result.stdout += machine.files
          .below(path)
          .map((one) => `${one}\n`)
          .join('');
      else missing(path);
    }
    return result;
  }
  if (expression[0] !== '-maxdepth' || expression[1] !== '0')
    throw new NotModelled('find without -maxdepth 0');
  for (const path of paths) {
    if (!machine.files.exists(path)) {
      missing(path);
      continue;
    }
    for (const command of alternatives(expression.slice(2))) {
      const argv = command.map((word) => (word === '{}' ? path : word));
      const { exitCode, stdout, stderr } = await machine.run(argv);
      result.stdout += stdout as string;
      // find says it in its own words where the program is not there.
      result.stderr += exitCode === 127 ? `find: '${argv[0]}': ${NO_SUCH_FILE}\n` : stderr;
      if (exitCode === 0) break;
    }
  }
  return result;
}

/** The commands of `-exec`s that are joined by `-o`. */
function alternatives(tokens: readonly string[]): string[][] {
  const commands: string[][] = [];
  for (let at = 0; at < tokens.length; at += 1) {
    const token = tokens[at] ?? '';
    if (['(', ')', '-o'].includes(token)) continue;
    const end = tokens.indexOf(';', at);
    if (token !== '-exec' || end === -1) throw new NotModelled(`find ${token}`);
    commands.push(tokens.slice(at + 1, end));
    at = end;
  }
  return commands;
}

/** `grep -HRZE PATTERN DIRECTORY`, for the guests that are started at boot. */
function autostart(machine: EmbeddedMachine, args: readonly string[]): EmbeddedResult {
  const [options, pattern, directory = ''] = args;
  if (options !== '-HRZE' || pattern === undefined) throw new NotModelled('grep with other options');
  if (!machine.files.exists(directory)) return failed(2, `grep: ${directory}: ${NO_SUCH_FILE}`);
  const matching = new RegExp(pattern.replaceAll('[[:space:]]', '\\s'));
  const lines = machine.files.below(directory).flatMap((path) =>
    (machine.files.text(path) ?? '')
      .split('\n')
      .filter((line) => matching.test(line))
      .map((line) => `${path}\0${line}\n`),
  );
  return { exitCode: lines.length > 0 ? 0 : 1, stdout: lines.join(''), stderr: '' };
}
