/** What the runs went through: phases with inputs, effects, and where a crash was put. */
export class Coverage {
  /** `role phase input` to how often. */
  readonly inputs = new Map<string, number>();
  /** `role effect` to how often it was carried out. */
  readonly effects = new Map<string, number>();
  /** `role effect before|after` to how often something died there. */
  readonly crashes = new Map<string, number>();

  input(role: string, phase: string, type: string): void {
    add(this.inputs, `${role} ${phase} ${type}`);
  }

  effect(role: string, name: string): void {
    add(this.effects, `${role} ${name}`);
  }

  crash(role: string, name: string, when: string): void {
    add(this.crashes, `${role} ${name} ${when}`);
  }

  merge(other: Coverage): void {
    for (const [mine, theirs] of [
      [this.inputs, other.inputs],
      [this.effects, other.effects],
      [this.crashes, other.crashes],
    ] as const) {
      for (const [key, count] of theirs) mine.set(key, (mine.get(key) ?? 0) + count);
    }
  }

  /** Places of `ALL_EFFECTS` where nothing ever died. */
  holes(): string[] {
    return ALL_EFFECTS.flatMap((effect) =>
      ['before', 'after'].map((when) => `${effect} ${when}`).filter((key) => !this.crashes.has(key)),
    );
  }
}

function add(counts: Map<string, number>, key: string): void {
  counts.set(key, (counts.get(key) ?? 0) + 1);
}

/** Every effect of the machines but their log lines. */
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
] as const;
