/**
 * Runs on a lab host for cost.ts, as one file: looks every two milliseconds whether a guest is suspended, and prints
 * how long each suspension lasted. It asks the hypervisor itself (xc_domain_getinfo of libxenctrl 4.17, xenctrl.h),
 * so it sees the same of whatever suspends the guest.
 *
 *     node guest-state.cjs DOMID SECONDS     {"seconds":60.0,"pausesMs":[812,790,...],"looks":21034}
 */
import koffi from 'koffi';

const LOOK_MS = 2;
/** xc_dominfo_t is smaller. */
const INFO_BYTES = 4096;
/** domid u32, ssidref u32, then the flags: dying, crashed, shutdown. */
const FLAGS_OFFSET = 8;
const SHUTDOWN = 1 << 2;

type Call = (...words: unknown[]) => unknown;

const [domid, seconds] = process.argv.slice(2).map(Number);
const libxc = koffi.load('libxenctrl.so.4.17');
const open = libxc.func('void *xc_interface_open(void *, void *, unsigned int)') as Call;
const getInfo = libxc.func('int xc_domain_getinfo(void *, uint32_t, unsigned int, void *)') as Call;
const handle = open(null, null, 0);
const info = Buffer.alloc(INFO_BYTES);

function isSuspended(): boolean {
  if (getInfo(handle, domid, 1, info) !== 1 || info.readUInt32LE(0) !== domid)
    throw new Error('the guest is gone');
  return (info.readUInt32LE(FLAGS_OFFSET) & SHUTDOWN) !== 0;
}

const pausesMs: number[] = [];
const startedMs = performance.now();
const endMs = startedMs + (seconds ?? 0) * 1000;
let looks = 0;
/** Null: it runs, or its suspension had begun before we looked. */
let sinceMs: number | null = null;
let before = isSuspended();

const timer = setInterval(() => {
  const nowMs = performance.now();
  const now = isSuspended();
  looks++;
  if (now && !before) sinceMs = nowMs;
  if (!now && before && sinceMs !== null) pausesMs.push(Math.round(nowMs - sinceMs));
  before = now;
  if (nowMs < endMs) return;
  clearInterval(timer);
  process.stdout.write(`${JSON.stringify({ seconds: (nowMs - startedMs) / 1000, pausesMs, looks })}\n`);
}, LOOK_MS);
