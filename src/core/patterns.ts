/**
 * Which characters a name, an address or a path may have. Everything that ends up in a file or a command on
 * a host is one of these, so a quote, a newline or a shell metacharacter can't get there: config.ts refuses
 * it with a message, and render.ts refuses it again.
 */

import { isIP } from 'node:net';

import type { Parsed } from './units.js';
import { show } from './units.js';

/** The union of what the patterns below allow. A rendered value holds nothing else. */
export const SAFE_TEXT = /^[A-Za-z0-9_.:,=@%+/[\]~-]*$/;

/**
 * Names of pairs and domains. A domain's is also a DRBD resource, part of LV names, a systemd instance and a
 * file name. It starts with a letter, so that it is never an option, a number or a hidden file.
 */
export const NAME = /^[A-Za-z][A-Za-z0-9_.-]{0,47}$/;
export const NAME_RULE = 'a letter followed by up to 47 letters, digits, "_", "." or "-"';

/** What `uname -n` may print for a host: a host name, or a full name with dots. */
export const HOST_NAME = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$/;
export const HOST_NAME_RULE = 'up to 63 letters, digits, "_", "." or "-", starting with a letter or digit';

/** LVM's own rule for names of groups and volumes (lvm(8), "VALID NAMES"). */
export const LVM_NAME = /^[A-Za-z0-9_+.][A-Za-z0-9_+.-]{0,126}$/;

/** Parts of LV names that LVM keeps for itself (lvm(8), "VALID NAMES"). */
const LVM_RESERVED =
  /^(?:snapshot|pvmove)|_(?:cdata|cmeta|corig|cpool|cvol|imeta|iorig|mimage|mlog|pmspare|rimage|rmeta|tdata|tmeta|vdata|vorigin|wcorig)/;

/** Names of paravirtual and emulated disks (xl-disk-configuration(5), "vdev"). */
export const VDEV = /^(?:xvd[a-z]{1,2}|sd[a-p]|hd[a-d])(?:[1-9]|1[0-5])?$/;

export const USER = /^[A-Za-z_][A-Za-z0-9_.-]{0,31}$/;

/** A file or directory: no spaces, quotes or anything that a shell reads as more than a name. */
export const FILE_PATH = /^[A-Za-z0-9_./~+@:,=%-]{1,1024}$/;
export const FILE_PATH_RULE = 'a path of letters, digits and "_./~+@:,=%-"';

/** One argument of a fence agent's command line. */
export const ARGUMENT = /^[A-Za-z0-9_.:,=@%+/-]{1,256}$/;
export const ARGUMENT_RULE = 'letters, digits and "_.:,=@%+/-"';

const DNS_NAME =
  /^(?=.{1,253}$)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$/;

/** Why LVM can't take a name for an LV; undefined where it can. */
export function lvNameProblem(name: string): string | undefined {
  if (!LVM_NAME.test(name) || name === '.' || name === '..') {
    return `expected a name of letters, digits and "_+.-" as LVM has it, found ${show(name)}`;
  }
  const reserved = LVM_RESERVED.exec(name);
  return reserved ? `${show(name)} contains "${reserved[0]}", which LVM keeps for itself` : undefined;
}

/**
 * Length of the device-mapper name that LVM gives a volume: hyphens in the parts are doubled. The kernel
 * takes up to 127 characters (`DM_NAME_LEN` in linux/dm-ioctl.h).
 */
export function lvmMapperLength(volumeGroup: string, lv: string): number {
  const doubled = (text: string): number => text.length + (text.match(/-/g)?.length ?? 0);
  return doubled(volumeGroup) + 1 + doubled(lv);
}
export const MAPPER_NAME_MAX = 127;

export interface SshTarget {
  user: string;
  host: string;
  port: number;
}

/** Parses `user@host`, `user@host:port`, `user@[v6]` and `user@[v6]:port`. */
export function parseSshTarget(input: unknown): Parsed<SshTarget> {
  const problem = `expected user@host or user@host:port, found ${show(input)}`;
  if (typeof input !== 'string' || input.length > 320) return { problem };
  const at = input.indexOf('@');
  const user = input.slice(0, Math.max(at, 0));
  if (!USER.test(user)) return { problem };
  const rest = input.slice(at + 1);
  if (isIP(rest) === 6) {
    return { problem: `an IPv6 address needs brackets here: ${user}@[${canonicalAddress(rest)}]` };
  }
  const match = /^(?:\[([0-9A-Fa-f:.]+)\]|([^:[\]]+))(?::(\d{1,5}))?$/.exec(rest);
  if (!match) return { problem };
  const [, v6, name, portText] = match;
  if (v6 !== undefined ? isIP(v6) !== 6 : !isHost(name ?? '')) return { problem };
  const port = portText === undefined ? 22 : Number(portText);
  if (port < 1 || port > 65535) return { problem: `port ${port} is not between 1 and 65535` };
  return {
    value: { user, host: v6 !== undefined ? canonicalAddress(v6) : (name ?? '').toLowerCase(), port },
  };
}

/** True for a DNS name or an IPv4 address. Something like `10.0.0.300` is neither. */
function isHost(text: string): boolean {
  return isIP(text) === 4 || (DNS_NAME.test(text) && !/^[\d.]+$/.test(text));
}

/** An IPv6 address in its one shortest form (RFC 5952), so that two can be compared; IPv4 as it is. */
export function canonicalAddress(address: string): string {
  return isIP(address) === 6 ? new URL(`http://[${address}]`).hostname.slice(1, -1) : address;
}

/** Parses an address that two hosts can use to reach each other over a network. */
export function parseReplicationAddress(input: unknown): Parsed<string> {
  const text = typeof input === 'string' ? input : '';
  const family = text.includes('%') ? 0 : isIP(text);
  if (family === 0) {
    const hint = text.startsWith('[') ? ', without brackets' : '';
    return { problem: `expected an IPv4 or IPv6 address${hint}, found ${show(input)}` };
  }
  const address = canonicalAddress(text);
  const reason = family === 4 ? unusableIpv4(address) : unusableIpv6(address);
  if (reason !== undefined) return { problem: `${show(text)} is ${reason}; the other host can't reach it` };
  return { value: address };
}

function unusableIpv4(address: string): string | undefined {
  const first = Number(address.split('.')[0]);
  if (first === 127) return 'a loopback address';
  if (first === 0) return 'an unspecified address';
  if (first >= 224) return 'a multicast or reserved address';
  return undefined;
}

function unusableIpv6(address: string): string | undefined {
  if (address === '::1') return 'a loopback address';
  if (address === '::') return 'an unspecified address';
  if (address.startsWith('ff')) return 'a multicast address';
  if (/^fe[89ab]/.test(address)) return 'a link-local address, which DRBD has no interface for';
  if (address.startsWith('::ffff:')) return 'an IPv4 address in IPv6 form';
  return undefined;
}

/** Parses the base URL of an etcd member: `https://host:port`, nothing after it, no credentials in it. */
export function parseEndpoint(input: unknown): Parsed<string> {
  const problem = `expected a URL such as https://192.0.2.9:2379, found ${show(input)}`;
  if (typeof input === 'string' && input.includes('@')) {
    return { problem: 'no credentials belong in a URL; use the keys user and passwordFile' };
  }
  if (typeof input !== 'string' || !/^https?:\/\/[A-Za-z0-9.:[\]-]{1,300}\/?$/.test(input))
    return { problem };
  let url: URL;
  try {
    url = new URL(input);
  } catch {
    return { problem };
  }
  if (url.port === '') return { problem: `${show(input)} names no port; etcd listens on 2379 by default` };
  return { value: `${url.protocol}//${url.host}` };
}
