/**
 * Runs on a lab host for cost.ts, as one file: looks every two milliseconds whether a guest is suspended, and prints
 * how long each suspension lasted. It asks the hypervisor itself (test/lab/guest-state.ts), so it sees the same of
 * whatever suspends the guest.
 *
 *     node guest-pauses.cjs DOMID SECONDS     {"seconds":60.0,"pausesMs":[812,790,...],"looks":21034}
 */
import { guestWatcher } from '../../test/lab/guest-state.js';

const LOOK_MS = 2;

const [domid = 0, seconds = 0] = process.argv.slice(2).map(Number);
const look = guestWatcher(domid);

const pausesMs: number[] = [];
const startedMs = performance.now();
const endMs = startedMs + seconds * 1000;
let looks = 0;
/** Null: it runs, or its suspension had begun before we looked. */
let sinceMs: number | null = null;
let before = look().isSuspended;

const timer = setInterval(() => {
  const nowMs = performance.now();
  const now = look().isSuspended;
  looks++;
  if (now && !before) sinceMs = nowMs;
  if (!now && before && sinceMs !== null) pausesMs.push(Math.round(nowMs - sinceMs));
  before = now;
  if (nowMs < endMs) return;
  clearInterval(timer);
  process.stdout.write(`${JSON.stringify({ seconds: (nowMs - startedMs) / 1000, pausesMs, looks })}\n`);
}, LOOK_MS);
