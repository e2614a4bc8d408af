/** How far a resync is, in words: the share done, the rate of the last samples, and the time left. */
import { formatSize } from '../units.js';

export interface SyncSample {
  /** Milliseconds of a clock that only goes forward. */
  atMs: number;
  outOfSyncBytes: number;
}

/** The rate is taken over this many samples back, so that it follows what the disks and the link do now. */
const RATE_SAMPLES = 10;

export interface SyncProgress {
  text: string;
  /** For how long the amount has not gone down. */
  stuckMs: number;
}

/**
 * @param samples in order of time, at least one
 */
export function syncProgress(samples: readonly SyncSample[]): SyncProgress {
  const first = samples[0];
  const last = samples[samples.length - 1];
  if (first === undefined || last === undefined) throw new Error('no sample of a sync');
  const totalBytes = Math.max(...samples.map((sample) => sample.outOfSyncBytes));
  const percent = totalBytes === 0 ? 100 : Math.floor((1 - last.outOfSyncBytes / totalBytes) * 100);
  const stuckMs = last.atMs - lastMove(samples, first).atMs;
  const from = samples[Math.max(0, samples.length - 1 - RATE_SAMPLES)]!;
  const elapsedMs = last.atMs - from.atMs;
  const bytesPerSecond =
    elapsedMs === 0 ? 0 : ((from.outOfSyncBytes - last.outOfSyncBytes) / elapsedMs) * 1000;
  const parts = [`${percent}%`, `${formatSize(roundToMiB(last.outOfSyncBytes))} left`];
  if (bytesPerSecond > 0) {
    parts.push(`${(bytesPerSecond / 2 ** 20).toFixed(1)} MiB/s`);
    parts.push(`about ${formatSeconds(last.outOfSyncBytes / bytesPerSecond)} to go`);
  }
  return { text: parts.join(', '), stuckMs };
}

/** The last sample in which the amount had gone down. */
function lastMove(samples: readonly SyncSample[], first: SyncSample): SyncSample {
  let before = first;
  let moved = first;
  for (const sample of samples) {
    if (sample.outOfSyncBytes < before.outOfSyncBytes) moved = sample;
    before = sample;
  }
  return moved;
}

function roundToMiB(bytes: number): number {
  const mib = 2 ** 20;
  return bytes < mib ? bytes : Math.round(bytes / mib) * mib;
}

function formatSeconds(seconds: number): string {
  const whole = Math.ceil(seconds);
  if (whole < 120) return `${whole} s`;
  if (whole < 7200) return `${Math.ceil(whole / 60)} min`;
  return `${Math.ceil(whole / 3600)} h`;
}
