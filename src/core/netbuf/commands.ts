/**
 * The lines for `ip -batch -` and `tc -batch -` that install, drive and remove the buffering of one interface.
 *
 *     guest -> vif3.0 ingress --redirect--> remus3.0 (plug) --release--> vif3.0 again -> bridge or routing
 *
 * What comes out of an ifb enters where it came from, marked so that it is not redirected twice (`ifb_ri_tasklet`
 * in the kernel's drivers/net/ifb.c): a bridge, a route or a filter behind the interface sees no difference.
 * `matchall` with `protocol all` takes every frame, whatever it carries.
 *
 * Sources: tc(8), tc-matchall(8), tc-mirred(8), ip-link(8), the kernel's net/sched/sch_plug.c.
 */
import { ifbAlias, redirectCookie } from './names.js';

/** One interface of a guest and the device that holds its output. */
export interface Hold {
  vif: string;
  ifb: string;
}

/** Before every other filter. */
const PREFERENCE = 1;
const HANDLE = 1;
/**
 * How many packets may wait between the queue and the interface; at more, the queue stands still for a moment
 * (nothing is lost). The default of 32 makes a release of thousands slow.
 */
const TRANSMIT_PACKETS = 1000;

/** The kernel keeps the limit in 32 bits. */
export const LIMIT_BYTES_MAX = 2 ** 32 - 1;
export const LIMIT_BYTES_DEFAULT = 64 * 2 ** 20;

/** Lines for `ip -batch -`. The alias comes at once, so that the device is known as ours. */
export function createLines(domain: string, hold: Hold): string[] {
  return [
    `link add name ${hold.ifb} txqueuelen ${TRANSMIT_PACKETS} type ifb`,
    `link set dev ${hold.ifb} alias ${ifbAlias(domain, hold.vif)}`,
    // Without it the device would send packets of its own into the queue (IPv6 neighbour discovery).
    `link set dev ${hold.ifb} addrgenmode none`,
  ];
}

/**
 * Lines for `tc -batch -`. A new plug is shut; it is opened before anything is led to it, because a guest that
 * is not protected yet must go on talking.
 */
export function plugLines(hold: Hold, limitBytes: number): string[] {
  return [`qdisc add dev ${hold.ifb} root handle 1: plug limit ${limitBytes}`, openLine(hold.ifb)];
}

/** Line for `ip -batch -`. */
export function upLine(hold: Hold): string {
  return `link set dev ${hold.ifb} up`;
}

/**
 * Lines for `tc -batch -`; from the last one on, what the guest sends goes through the queue.
 *
 * @param hasHook whether the interface has an ingress hook (with nothing on it) already
 */
export function redirectLines(domain: string, hold: Hold, hasHook: boolean): string[] {
  return [
    ...(hasHook ? [] : [`qdisc add dev ${hold.vif} clsact`]),
    `filter add dev ${hold.vif} ingress protocol all pref ${PREFERENCE} handle ${HANDLE} matchall ` +
      `action mirred egress redirect dev ${hold.ifb} cookie ${redirectCookie(domain)}`,
  ];
}

/** Puts a mark behind what is in the queue; shuts a queue that was open. */
export function blockLine(ifb: string): string {
  return `qdisc change dev ${ifb} root plug block`;
}

/** Lets go what is before the mark. Again, with no newer mark, it changes nothing but wakes the queue. */
export function releaseLine(ifb: string): string {
  return `qdisc change dev ${ifb} root plug release`;
}

export function openLine(ifb: string): string {
  return `qdisc change dev ${ifb} root plug release_indefinite`;
}

/** Its answer is one line of JSON, which says that every line before it was carried out. */
export function showLine(ifb: string): string {
  return `qdisc show dev ${ifb}`;
}

export function filtersLine(device: string): string {
  return `filter show dev ${device} ingress`;
}

export function egressFiltersLine(device: string): string {
  return `filter show dev ${device} egress`;
}

/** From here on the guest's packets take no way through the ifb. */
export function takeRedirectLine(vif: string, preference: number): string {
  return `filter del dev ${vif} ingress protocol all pref ${preference}`;
}

export function takeClsactLine(vif: string): string {
  return `qdisc del dev ${vif} clsact`;
}

export function deleteLine(ifb: string): string {
  return `link del dev ${ifb}`;
}
