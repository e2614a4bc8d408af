/** Whether a receiver takes a connection: the answer to its hello. */
import type { Hello, OtherHello, RefusalCode } from './messages.js';
import { LINK_PROTOCOL } from './messages.js';

/** What the receiver knows when a hello arrives. */
export interface Expected {
  pair: string;
  domain: string;
  /** The other host of the pair, as pinned: whose certificate, or whose socket, this connection came by. */
  peer: string;
  /** The highest term that this host has any record of; 0 when there was none. */
  term: number;
  /** Sessions that were ever welcomed for `term`. */
  usedSessions: ReadonlySet<string>;
  /** The session that runs now. */
  current?: { term: number; session: string };
  /** Why no session can begin, in words; absent when one can. */
  notReady?: string;
}

export type Verdict = { take: true; reason: string } | { take: false; code: RefusalCode; reason: string };

/**
 * Judges the hello of a control or cleanup connection. A bulk connection belongs to a control connection that was
 * taken; that it names the same session is the listener's to see (`sameSession`).
 *
 * A cleanup comes after its sender is dead, so it names a session that is used or still runs, of the newest term.
 */
export function judgeHello(hello: Hello | OtherHello, expected: Expected): Verdict {
  const refuse = (code: RefusalCode, reason: string): Verdict => ({ take: false, code, reason });
  if (hello.protocol !== LINK_PROTOCOL || hello.purpose === 'unknown') {
    return refuse(
      'protocol-version',
      `the sender speaks link protocol ${hello.protocol}, this receiver ${LINK_PROTOCOL}; run setup, so that both hosts have the same version`,
    );
  }
  if (hello.pair !== expected.pair || hello.domain !== expected.domain) {
    return refuse(
      'wrong-domain',
      `${hello.pair}/${hello.domain} was asked for; this receiver is for ${expected.pair}/${expected.domain}`,
    );
  }
  if (hello.from !== expected.peer) {
    return refuse('wrong-peer', `the sender says that it is on ${hello.from}; ${expected.peer} is expected`);
  }
  if (hello.term < expected.term) {
    return refuse('old-term', `term ${hello.term} is over; this host knows of term ${expected.term}`);
  }
  const used = hello.term === expected.term && expected.usedSessions.has(hello.session);
  const { current } = expected;
  if (hello.purpose === 'cleanup') {
    if (used) return { take: true, reason: `cleanup of term ${hello.term}` };
    return refuse('not-ready', `term ${hello.term} has no such session here`);
  }
  if (used) return refuse('replayed-session', `session ${hello.session} was used before`);
  if (current !== undefined) {
    return refuse('busy', `session ${current.session} of term ${current.term} is running`);
  }
  if (expected.notReady !== undefined) return refuse('not-ready', expected.notReady);
  return { take: true, reason: `a new session of term ${hello.term}` };
}

/** True where two connections name the same session of the same sender in every part but their purpose. */
export function sameSession(a: Hello, b: Hello): boolean {
  return (
    a.protocol === b.protocol &&
    a.program === b.program &&
    a.pair === b.pair &&
    a.domain === b.domain &&
    a.from === b.from &&
    a.term === b.term &&
    a.session === b.session &&
    a.intervalMs === b.intervalMs
  );
}
