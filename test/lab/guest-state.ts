/**
 * Asks the hypervisor itself about a guest (xc_domain_getinfo of libxenctrl 4.17, xenctrl.h), so that what is seen
 * does not depend on whoever suspends it. Runs on a lab host, inside other programs.
 */
import koffi from 'koffi';

/** xc_dominfo_t is smaller. */
const INFO_BYTES = 4096;
/** domid u32, ssidref u32, then the flags: dying, crashed, shutdown. */
const FLAGS_OFFSET = 8;
const SHUTDOWN = 1 << 2;
/** shutdown_reason u32, and SHUTDOWN_suspend of xen/include/public/sched.h. */
const REASON_OFFSET = 12;
const REASON_SUSPEND = 2;
/** cpu_time u64, behind five unsigned long. */
const CPU_TIME_OFFSET = 56;

type Call = (...words: unknown[]) => unknown;

export interface GuestState {
  isSuspended: boolean;
  /** All that its virtual CPUs have run for, ever. */
  cpuNs: bigint;
}

/** @returns a function that looks at one guest; it throws when the guest is gone */
export function guestWatcher(domid: number): () => GuestState {
  const libxc = koffi.load('libxenctrl.so.4.17');
  const open = libxc.func('void *xc_interface_open(void *, void *, unsigned int)') as Call;
  const getInfo = libxc.func('int xc_domain_getinfo(void *, uint32_t, unsigned int, void *)') as Call;
  const handle = open(null, null, 0);
  const info = Buffer.alloc(INFO_BYTES);
  return () => {
    if (getInfo(handle, domid, 1, info) !== 1 || info.readUInt32LE(0) !== domid)
      throw new Error(`guest ${domid} is gone`);
    const isShut = (info.readUInt32LE(FLAGS_OFFSET) & SHUTDOWN) !== 0;
    return {
      isSuspended: isShut && info.readUInt32LE(REASON_OFFSET) === REASON_SUSPEND,
      cpuNs: info.readBigUInt64LE(CPU_TIME_OFFSET),
    };
  };
}
