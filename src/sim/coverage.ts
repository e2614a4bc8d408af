/** What the runs went through: phases with inputs, effects, and where a crash was put. */
export class Coverage {
  /** `role phase input` to how often. */
  readonly inputs = new Map<string, number>();
  /** `role effect` to how often it was carried out. */
  readonly effects = new Map<string, number>();
  /** `role effect before|after` to how often something died there. */
  readonly crashes = new Map<string, number>();

  /** How what only a person can tell apart came out. */
  readonly outcomes = new Map<string, number>();

  input(role: string, phase: string, type: string): void {
    add(this.inputs, `${role} ${phase} ${type}`);
  }

  effect(role: string, name: string): void {
    add(this.effects, `${role} ${name}`);
  }

  crash(role: string, name: string, when: string): void {
    add(this.crashes, `${role} ${name} ${when}`);
  }

  outcome(name: string): void {
    add(this.outcomes, name);
  }

  merge(other: Coverage): void {
    for (const [mine, theirs] of [
      [this.inputs, other.inputs],
      [this.effects, other.effects],
      [this.crashes, other.crashes],
      [this.outcomes, other.outcomes],
    ] as const) {
      for (const [key, count] of theirs) mine.set(key, (mine.get(key) ?? 0) + count);
    }
  }

  /** Places where nothing ever died, also those of an effect that is missing in the list below. */
  holes(): string[] {
    return placesOf(new Set([...ALL_EFFECTS, ...this.effects.keys()])).filter(
      (place) => !this.crashes.has(place),
    );
  }
}

function add(counts: Map<string, number>, key: string): void {
  counts.set(key, (counts.get(key) ?? 0) + 1);
}

/**
 * Where something can die: every effect of the machines but their log lines, every piece of xl's stream, and every
 * act of the clean-ups.
 */
export const ALL_EFFECTS = [
  ...[
    'mark-network',
    'write-marker',
    'read-on',
    'send-checkpoint',
    'release-network',
    'send-end',
    'claim',
    'drop-stream',
    'go-on',
    'give-way',
  ].map((name) => `sender ${name}`),
  ...[
    'begin',
    'commit',
    'pass-checkpoint',
    'acknowledge',
    'claim',
    'leave-session',
    'decide',
    'step disconnect',
    'step discard',
    'step promote',
    'step mark-discarded',
    'step open-gate',
    'step start-guest',
    'step settle',
    'step drop-copy',
    'step roll-forward',
    'step leave-journal',
    'answer-ended',
    'answer-undecided',
  ].map((name) => `receiver ${name}`),
  ...['begin', 'data', 'checkpoint-record', 'checkpoint-end'].map((name) => `xl ${name}`),
  ...['decide', 'open', 'destroy', 'record'].map((name) => `sender-cleanup ${name}`),
  ...['open', 'decide', 'end', 'drain', 'note', 'close', 'mark'].map((name) => `receiver-cleanup ${name}`),
] as const;

/** Before and after each. */
export const PLACES = placesOf(ALL_EFFECTS);

function placesOf(effects: Iterable<string>): string[] {
  return [...effects].flatMap((effect) => [`${effect} before`, `${effect} after`]);
}
