/**
 * A directory on this machine as arbiter, for the embedded pair, whose two hosts are processes here. Named
 * `embedded` in everything it says: it can't decide between two machines.
 *
 *     DIRECTORY/PAIR@DOMAIN@TERM   the winner's name and a newline
 *
 * A file with the claimant's name is written, made durable, and linked to the name of the claim: link(2) fails
 * where that name is taken, so one link ever succeeds, and the name is in the file before anyone can see it.
 * The directory is never made here: one that is missing may be one that isn't mounted.
 */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import {
  answerOf,
  checkClaimant,
  CLAIM_BYTES_MAX,
  claimName,
  isHostName,
  type Arbiter,
  type ClaimAnswer,
  type ClaimKey,
  type LookAnswer,
  type ReachAnswer,
} from '../core/claim/types.js';
import { createDurably, readSmall, REAL_STEPS, type FileSteps } from '../edge/durable-file.js';

const FILE_MODE = 0o644;
const RETRY_MS = 100;

export class DirectoryArbiter implements Arbiter {
  readonly name = 'embedded';
  readonly #directory: string;
  readonly #steps: FileSteps;

  constructor(directory: string, steps: FileSteps = REAL_STEPS) {
    this.#directory = directory;
    this.#steps = steps;
  }

  async claim(key: ClaimKey, host: string): Promise<ClaimAnswer> {
    checkClaimant(host);
    const path = join(this.#directory, claimName(key));
    try {
      await createDurably(path, `${host}\n`, FILE_MODE, this.#steps);
      const winner = await readWinner(path);
      if (winner === undefined) throw new Error(`${path} was taken away`);
      return answerOf(key, host, winner, `embedded arbiter ${this.#directory}`);
    } catch (error) {
      return { kind: 'undecided', reason: this.#why(error), retryMs: RETRY_MS };
    }
  }

  async look(key: ClaimKey): Promise<LookAnswer> {
    const path = join(this.#directory, claimName(key));
    const reach = await this.reach();
    if (!reach.reached) return { kind: 'undecided', reason: reach.reason };
    try {
      const winner = await readWinner(path);
      // Whoever made it may not have got to this yet.
      if (winner !== undefined) await this.#steps.syncDirectory(this.#directory);
      return winner === undefined ? { kind: 'free' } : { kind: 'won-by', host: winner };
    } catch (error) {
      return { kind: 'undecided', reason: this.#why(error) };
    }
  }

  async reach(): Promise<ReachAnswer> {
    try {
      await readdir(this.#directory);
      return { reached: true, detail: `embedded arbiter ${this.#directory} is there` };
    } catch (error) {
      return { reached: false, reason: this.#why(error) };
    }
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  #why(error: unknown): string {
    // The same words for the same reason: behind the comma is the name of a file that is made up each time.
    const { code, message } = error as NodeJS.ErrnoException;
    return `embedded arbiter ${this.#directory}: ${code === undefined ? message : message.replace(/,.*$/s, '')}`;
  }
}

async function readWinner(path: string): Promise<string | undefined> {
  const text = await readSmall(path, CLAIM_BYTES_MAX);
  if (text === undefined) return undefined;
  const winner = text.endsWith('\n') ? text.slice(0, -1) : '';
  if (!isHostName(winner)) throw new Error(`${path} holds no name of a host`);
  return winner;
}
