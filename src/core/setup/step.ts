/**
 * What setup and teardown do to hosts: steps, in lanes, in rounds.
 *
 * A plan is a pure function from what was observed to the next round. A round has lanes that run side by
 * side; the steps of a lane run in order. After a round the hosts are observed again, and the plan is asked
 * again, until it has nothing left. So a run that was killed anywhere is finished by the next one, and a run
 * with nothing to do does nothing. Each step can also foretell its effect on the observation, which is how a
 * dry run shows all rounds without touching a host.
 */
import { AUTHORIZED_KEYS } from './ssh.js';
import type { HostView, Views } from './view.js';

export type Action =
  | {
      kind: 'run';
      argv: string[];
      /** Long work that prints its progress, a line at a time. */
      progress?: boolean;
    }
  | { kind: 'write'; path: string; mode: number; content: Uint8Array };

export interface Step {
  host: string;
  /** Absent for what belongs to the host as a whole. */
  domain?: string;
  /** What it does, such as `make LV vg0/remus-web-0 (20 GiB)`. Unique among the steps of a run. */
  title: string;
  /** Why it is needed: what was observed. */
  reason: string;
  action: Action;
  deadlineMs: number;
  /** Changes the view of its host as the step would; `views` reaches the peer where the step does too. */
  effect: (view: HostView, views: Views) => void;
}

/** Waiting is no change: it is for something that hosts do by themselves. */
export interface Wait {
  kind: 'connect' | 'sync';
  host: string;
  domain: string;
  /** With the 8.3 module, by which /proc/drbd names the resource. */
  moduleMinor?: number;
  reason: string;
  effect: (views: Views) => void;
}

export interface Round {
  lanes: Step[][];
  /** What to wait for when there is no step left in any lane. */
  waits: Wait[];
}

/** A short command: it only talks to the kernel or to a daemon. */
const SHORT_MS = 60_000;
/** Commands that may wait for devices or for a slow disk. */
export const MEDIUM_MS = 5 * 60_000;
/** Work that grows with the size of a disk; a day is a bound, not an expectation. */
export const LONG_MS = 24 * 60 * 60_000;

/** A step that runs one command. */
export function commandStep(
  host: string,
  domain: string | undefined,
  title: string,
  reason: string,
  argv: string[],
  effect: Step['effect'],
  deadlineMs = SHORT_MS,
): Step {
  const base = { host, title, reason, action: { kind: 'run' as const, argv }, deadlineMs, effect };
  return domain === undefined ? base : { ...base, domain };
}

/** Writes root's authorized_keys anew; what is not ours in it is the same as before. */
export function authorizedKeysStep(view: HostView, text: string, reason: string): Step {
  const mode = view.files[AUTHORIZED_KEYS]?.mode ?? 0o600;
  return {
    host: view.facts.host,
    title: `write ${AUTHORIZED_KEYS}`,
    reason,
    action: { kind: 'write', path: AUTHORIZED_KEYS, mode, content: new TextEncoder().encode(text) },
    deadlineMs: MEDIUM_MS,
    effect: (after) => {
      after.ssh.authorizedKeys = text;
      after.files[AUTHORIZED_KEYS] = { sha256: '', mode };
    },
  };
}
