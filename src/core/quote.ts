/**
 * The one place that turns argument lists into text for a POSIX shell, and back.
 *
 * Source: POSIX.1-2017, Shell Command Language, 2.2 Quoting and 2.4 Reserved Words. Inside single quotes
 * every character but the quote itself is literal, newlines included. So a word is either made of characters
 * that mean nothing to a shell, or wrapped in single quotes with each quote in it written as '\''.
 */

/** An argument list that no shell command can carry, or text that this file has not written. */
export class QuoteError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'QuoteError';
  }
}

/** Characters that stand for themselves anywhere but at the start of a command. */
const BARE = /^[A-Za-z0-9_/.:@%+,=-]+$/;

/** Words that a shell takes for its own grammar when they stand bare at the start of a command. */
const RESERVED = new Set(
  'case coproc do done elif else esac fi for function if in select then time until while'.split(' '),
);

/**
 * One word that a shell reads back as exactly `argument`.
 *
 * @throws QuoteError for a NUL, which ends an argument in the kernel's eyes, and for half a surrogate pair,
 *   which would arrive as another character
 */
export function quoteWord(argument: string): string {
  refuse(argument);
  return BARE.test(argument) ? argument : wrap(argument);
}

/**
 * One simple command that runs exactly `argv`; its first word is never read as an assignment or a keyword.
 *
 * @throws QuoteError for an empty list, a program that starts with `-`, and a word that can't be quoted
 */
export function quoteCommand(argv: readonly string[]): string {
  const [program, ...rest] = argv;
  if (program === undefined || program === '') throw new QuoteError('a command needs a program to run');
  // `sh -c TEXT` would take the text for options of its own.
  if (program.startsWith('-')) throw new QuoteError(`no program is called ${JSON.stringify(program)}`);
  refuse(program);
  const bare = BARE.test(program) && !program.includes('=') && !RESERVED.has(program);
  return [bare ? program : wrap(program), ...rest.map(quoteWord)].join(' ');
}

/**
 * The argument list that `quoteCommand` was given. Strict: text that it would not have written is refused,
 * so that a stand-in for a shell can't be more lenient than a real one.
 *
 * @throws QuoteError for anything else
 */
export function unquoteCommand(text: string): string[] {
  const argv: string[] = [];
  const word = /(?:'([^']*)'|\\(')|([A-Za-z0-9_/.:@%+,=-]+))|( )/gy;
  let current: string | undefined;
  while (word.lastIndex < text.length) {
    const at = word.lastIndex;
    const match = word.exec(text);
    if (match === null) throw new QuoteError(`not a quoted command at offset ${at}: ${JSON.stringify(text)}`);
    if (match[4] !== undefined) {
      argv.push(current ?? '');
      current = undefined;
    } else {
      current = (current ?? '') + (match[1] ?? match[2] ?? match[3] ?? '');
    }
  }
  argv.push(current ?? '');
  if (quoteCommand(argv) !== text) throw new QuoteError(`not quoted as expected: ${JSON.stringify(text)}`);
  return argv;
}

function wrap(argument: string): string {
  return `'${argument.replaceAll("'", "'\\''")}'`;
}

function refuse(argument: string): void {
  if (argument.includes('\0')) {
    throw new QuoteError(`an argument can't hold a NUL byte: ${JSON.stringify(argument)}`);
  }
  if (Buffer.from(argument, 'utf8').toString('utf8') !== argument) {
    throw new QuoteError(`an argument has to be valid Unicode: ${JSON.stringify(argument)}`);
  }
}
