/**
 * A host's records of one domain, kept so that they survive its crash at any moment:
 *
 *     /var/lib/remus-drbd/DOMAIN/term.json   the latest term that this host took part in
 *     /var/lib/remus-drbd/DOMAIN/decision    what is to be done with uncommitted disk writes, and in which term
 *
 * Formats and rules are in src/core/claim/term.ts. A file that is there and can't be read is an error and never
 * counts as none: the term in it may have been decided.
 *
 * One process writes for a domain at a time, the one that its unit has started; within it, writes are done one
 * after the other.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  formatDecision,
  formatTerm,
  mayDecide,
  mayFollow,
  parseDecision,
  parseTerm,
  RECORD_BYTES_MAX,
  RecordError,
  type DiskDecision,
  type Succession,
  type TermRecord,
} from '../core/claim/term.js';
import { ExitCode, OperatorError } from '../core/errors.js';
import { readSmall, REAL_STEPS, writeDurably, type FileSteps } from './durable-file.js';
import { missingRoom } from './room.js';

const FILE_MODE = 0o644;

export class TermStore {
  readonly #domain: string;
  readonly #directory: string;
  readonly #steps: FileSteps;
  #writing: Promise<unknown> = Promise.resolve();

  /** @param directory `Paths.state/DOMAIN` on a host */
  constructor(domain: string, directory: string, steps: FileSteps = REAL_STEPS) {
    this.#domain = domain;
    this.#directory = directory;
    this.#steps = steps;
  }

  /**
   * The latest term, undefined where this host never took part in one.
   *
   * @throws OperatorError for a file that can't be read
   */
  readTerm(): Promise<TermRecord | undefined> {
    return this.#read('term.json', parseTerm);
  }

  /**
   * Writes a term record; does nothing where it is there already. Durable when it returns.
   *
   * @throws OperatorError refused: it would go back; or the file can't be read or written
   */
  writeTerm(record: TermRecord): Promise<void> {
    return this.#write('term.json', record, parseTerm, formatTerm, mayFollow);
  }

  /**
   * The latest decision about the disks.
   *
   * @throws OperatorError for a file that can't be read
   */
  readDecision(): Promise<DiskDecision | undefined> {
    return this.#read('decision', parseDecision);
  }

  /**
   * Writes the decision about the disks; does nothing where the term has it already. Durable when it returns.
   *
   * @throws OperatorError refused: the term is decided otherwise, or over; or the file can't be read or written
   */
  writeDecision(decision: DiskDecision): Promise<void> {
    return this.#write('decision', decision, parseDecision, formatDecision, mayDecide);
  }

  async #read<T>(name: string, parse: (text: string) => T): Promise<T | undefined> {
    const path = join(this.#directory, name);
    try {
      const text = await readSmall(path, RECORD_BYTES_MAX);
      return text === undefined ? undefined : parse(text);
    } catch (error) {
      const why = error instanceof RecordError ? error.message : (error as Error).message;
      throw new OperatorError(
        `${this.#domain}: ${path} can't be used: ${why}; a whole record is required, since what it says may be ` +
          `decided already; nothing was changed. Mend the file system, or write the file anew with what the ` +
          `other host's has.`,
        ExitCode.refused,
        error,
      );
    }
  }

  async #write<T>(
    name: string,
    next: T,
    parse: (text: string) => T,
    format: (record: T) => string,
    rule: (before: T | undefined, next: T) => Succession,
  ): Promise<void> {
    const text = format(next);
    const turn = this.#writing.then(async () => {
      const before = await this.#read(name, parse);
      const succession = rule(before, next);
      const path = join(this.#directory, name);
      if (!succession.allowed) {
        throw new OperatorError(
          `${this.#domain}: refusing to write ${path}: ${succession.reason}; nothing was changed. See ` +
            `remus-drbd status.`,
          ExitCode.refused,
        );
      }
      try {
        // What was read may be in the page cache only, from a writer that died before its last step.
        if (!succession.changes) await this.#steps.syncDirectory(this.#directory);
        else await writeDurably(path, text, FILE_MODE, this.#steps);
      } catch (error) {
        throw new OperatorError(
          `${this.#domain}: ${path} could not be written: ${(error as Error).message}` +
            `${await missingRoom(error, path)}; it is whole, with the old or the new content. Make room or mend the file system, and do the same again.`,
          ExitCode.failed,
          error,
        );
      }
    });
    this.#writing = turn.catch(() => undefined);
    return turn;
  }
}

/** The kernel's name for the time since this host was started (random(4), "boot_id"). */
export async function readBootId(): Promise<string> {
  return (await readFile('/proc/sys/kernel/random/boot_id', 'latin1')).trim();
}
