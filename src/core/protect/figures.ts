/**
 * What each checkpoint cost: kept for the last few, summed up as medians and 99th percentiles for `status`.
 *
 *     epoch begins ... marks done ... memory sent ... committed ... output released
 *     |<--- hold --->|<-- transfer -->|
 *     |<----------- pause ----------->|<-- commit -->|<- release ->|
 *
 * The pause is what the guest feels, less what Xen needs to suspend and resume it, which can't be seen from here.
 */

/** Of one committed checkpoint; all times in milliseconds. */
export interface CheckpointFigures {
  epoch: number;
  pauseMs: number;
  markerMs: number;
  transferMs: number;
  dirtyBytes: number;
  commitMs: number;
  releaseMs: number;
}

export const FIGURES_MAX = 512;

export const MEASURES = ['pauseMs', 'markerMs', 'transferMs', 'dirtyBytes', 'commitMs', 'releaseMs'] as const;
export type Measure = (typeof MEASURES)[number];

export interface FiguresSummary {
  /** Checkpoints that the percentiles are of. */
  count: number;
  p50: Record<Measure, number>;
  p99: Record<Measure, number>;
}

/** A bounded history: the newest `FIGURES_MAX`. */
export class FiguresHistory {
  private readonly ring: CheckpointFigures[] = [];
  private next = 0;

  add(figures: CheckpointFigures): void {
    this.ring[this.next] = figures;
    this.next = (this.next + 1) % FIGURES_MAX;
  }

  /** Null before the first. */
  summary(): FiguresSummary | null {
    if (this.ring.length === 0) return null;
    const p50 = {} as Record<Measure, number>;
    const p99 = {} as Record<Measure, number>;
    for (const measure of MEASURES) {
      const sorted = this.ring.map((each) => each[measure]).sort((a, b) => a - b);
      p50[measure] = percentile(sorted, 0.5);
      p99[measure] = percentile(sorted, 0.99);
    }
    return { count: this.ring.length, p50, p99 };
  }
}

/** Nearest rank: always a value that was measured. */
function percentile(sorted: readonly number[], share: number): number {
  const rank = Math.max(1, Math.ceil(share * sorted.length));
  return Math.round((sorted[rank - 1] ?? 0) * 1000) / 1000;
}
