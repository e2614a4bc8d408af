/**
 * What becomes of a journal whose receiver died, or whose host was started anew. The copy of the guest was in that
 * process's memory, so this host can't go on from the last commit: it gives the term up, which needs no claim, and
 * rolls forward to what DRBD was told. Unless it was decided otherwise before; and unless it had asked the arbiter,
 * which may then have decided for this host: that is for a person.
 */
import { join } from 'node:path';
import { ExitCode, OperatorError } from '../core/errors.js';
import { readSmall, writeDurably } from '../edge/durable-file.js';
import type { TermStore } from '../edge/term-store.js';

const NOTE_BYTES_MAX = 64;

function notePath(stateDirectory: string): string {
  return join(stateDirectory, 'claim-asked');
}

/** Before an arbiter is asked that may decide for this host without anybody here learning of it. */
export async function noteClaim(stateDirectory: string, term: number): Promise<void> {
  await writeDurably(notePath(stateDirectory), `${term}\n`, 0o644);
}

/**
 * @param host this host, for the record
 * @param onUnrecorded told why the record of it could not be written
 * @throws OperatorError where the arbiter may have decided for this host; nothing was changed then
 */
export async function decisionWithoutCopy(
  domain: string,
  host: string,
  stateDirectory: string,
  store: TermStore,
  term: number,
  onUnrecorded: (reason: string) => void,
): Promise<'roll-forward' | 'discard'> {
  const decision = await store.readDecision();
  if (decision !== undefined && decision.term === term) return decision.outcome;
  const asked = await readSmall(notePath(stateDirectory), NOTE_BYTES_MAX);
  if (asked !== undefined && Number(asked) === term) {
    throw new OperatorError(
      `${domain}: the receiver ended while it was claiming term ${term}, and the copy of the guest with it. The arbiter ` +
        `may have decided for this host, so the journal was left as it is. Find out who won the term; if the primary ` +
        `did, or runs on: remove ${notePath(stateDirectory)} and run this again.`,
      ExitCode.refused,
    );
  }
  const reason = 'the receiver ended, and with it the copy of the guest';
  try {
    await store.writeDecision({ term, outcome: 'roll-forward', by: host, reason });
  } catch (error) {
    if (error instanceof OperatorError && error.exitCode === ExitCode.refused) throw error;
    // A full disk: whoever looks later finds no copy either, and decides the same.
    onUnrecorded((error as Error).message);
  }
  return 'roll-forward';
}

/**
 * Ends a host's record of a term that was decided, where its process died in between: who won has to be known to
 * whoever recovers the pair.
 */
export async function endDecidedTerm(store: TermStore): Promise<void> {
  const [decision, record] = [await store.readDecision(), await store.readTerm()];
  if (decision === undefined || record === undefined || record.term !== decision.term) return;
  if (record.phase === 'ended' || record.role !== 'backup') return;
  const outcome = decision.outcome === 'discard' ? 'won' : 'lost';
  await store.writeTerm({ ...record, phase: 'ended', outcome });
}
