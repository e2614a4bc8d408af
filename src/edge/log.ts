/**
 * The program's logger: lines for people, or one JSON object a line, on standard error, so that standard
 * output stays the result of the command.
 *
 * An event is a constant message and fields (`host`, `domain`, `durationMs`, ...). Commands are logged by
 * their arguments at level `debug`; their standard input and their output never are, since that is where
 * keys and shared secrets pass.
 */
import winston from 'winston';

export type LogLevel = 'error' | 'warn' | 'info' | 'debug';
export type Log = winston.Logger;

export interface LogOptions {
  level: LogLevel;
  /** One JSON object a line instead of text. */
  json: boolean;
  /** Where it goes; standard error unless told otherwise. */
  stream?: NodeJS.WritableStream;
}

export function createLog(options: LogOptions): Log {
  const { combine, errors, json, timestamp } = winston.format;
  const stream = options.stream ?? process.stderr;
  const log = winston.createLogger({
    level: options.level,
    levels: { error: 0, warn: 1, info: 2, debug: 3 },
    format: combine(timestamp(), errors({ stack: true }), options.json ? json() : humanLine),
    transports: [new winston.transports.Stream({ stream })],
  });
  streams.set(log, stream);
  return log;
}

/** Ends the logger and waits until its last line is written. It can't be used afterwards. */
export async function closeLog(log: Log): Promise<void> {
  const finished = new Promise<void>((resolve) => log.once('finish', resolve));
  log.end();
  await finished;
  // winston counts a line as written when its stream has taken it; writes are done in order, so an empty one
  // tells when all have been. An error means that nobody reads any more, and is no reason to wait.
  await new Promise<void>((resolve) => streams.get(log)?.write('', () => resolve()));
}

const streams = new WeakMap<Log, NodeJS.WritableStream>();

const humanLine = winston.format.printf((info) => {
  const { level, message, timestamp, ...fields } = info;
  const shown = Object.entries(fields)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `${name}=${fieldText(value)}`);
  return [String(timestamp), level.toUpperCase().padEnd(5), String(message), ...shown].join(' ');
});

/** Quotes what a reader or `cut` could take for more than one field, so that no value can forge a line. */
function fieldText(value: unknown): string {
  const text = typeof value === 'string' ? value : (JSON.stringify(value) ?? String(value));
  return /^[\w./:@%+,-]+$/.test(text) || typeof value !== 'string' ? text : JSON.stringify(text);
}
