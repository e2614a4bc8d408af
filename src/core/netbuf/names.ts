/**
 * Names of what network buffering puts on a host.
 *
 * A guest's interface `vif3.0` gets the device `remus3.0` (type ifb), and the tap of its emulated card,
 * `vif3.0-emu`, gets `remus3.0e`. Domain and device number are in the name, so it is never shared, and it can
 * be read. Whose it is says the alias, `remus-drbd:DOMAIN:INTERFACE`, by which a fresh process finds it after
 * the one that made it was killed. The redirect on the guest's interface carries a cookie for the same reason:
 * without its ifb, it would drop all that the guest sends.
 */
import { createHash } from 'node:crypto';

/** `IFNAMSIZ` in linux/if.h is 16, with the closing zero. */
export const INTERFACE_CHARS_MAX = 15;
/** What the kernel's dev_valid_name() takes, less everything that tc, ip or a shell reads as something else. */
const INTERFACE = /^(?!\.{1,2}$)[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,14}$/;
const ALIAS = /^remus-drbd:([A-Za-z][A-Za-z0-9_.-]{0,47}):([^:]{1,15})$/;
const IFB_NAME = /^remus[0-9]+\.[0-9]+e?$/;

export function isInterfaceName(name: string): boolean {
  return INTERFACE.test(name);
}

/**
 * Name of the device that holds the output of one of a guest's interfaces.
 *
 * @returns undefined where it would not fit in an interface name
 */
export function ifbName(domid: number, devid: number, emulated: boolean): string | undefined {
  const name = `remus${domid}.${devid}${emulated ? 'e' : ''}`;
  return name.length <= INTERFACE_CHARS_MAX ? name : undefined;
}

/** Whether a name is one that only this project gives to an ifb. */
export function isIfbName(name: string): boolean {
  return IFB_NAME.test(name);
}

export function ifbAlias(domain: string, vif: string): string {
  return `remus-drbd:${domain}:${vif}`;
}

/** Domain and interface that an alias names; undefined for an alias that is not ours. */
export function parseAlias(alias: string | undefined): { domain: string; vif: string } | undefined {
  const match = alias === undefined ? null : ALIAS.exec(alias);
  return match ? { domain: match[1] ?? '', vif: match[2] ?? '' } : undefined;
}

/** Cookie of a domain's redirects: 16 bytes, the most that an action has room for (`TC_COOKIE_MAX_SIZE`). */
export function redirectCookie(domain: string): string {
  return createHash('sha256').update(`remus-drbd:${domain}`).digest('hex').slice(0, 32);
}
