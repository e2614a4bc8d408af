/**
 * OpenSSH's known_hosts: parsing, and the verdict on a key that a host offers.
 *
 * Format and rules: sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT". A line is
 * `[@revoked|@cert-authority] PATTERNS KEYTYPE BASE64 [COMMENT]`, where PATTERNS is a comma-separated list of
 * names with `*`, `?` and a leading `!`, or one hashed name `|1|BASE64 SALT|BASE64 HMAC-SHA1`. A host on a
 * port other than 22 is looked up as `[name]:port`.
 */
import { createHash, createHmac } from 'node:crypto';

export interface KnownHostsLine {
  file: string;
  /** Counted from 1. */
  line: number;
  revoked: boolean;
  /** The first field, as it stands in the file. */
  patterns: string;
  keyType: string;
  key: Uint8Array;
}

export interface KnownHosts {
  lines: KnownHostsLine[];
  /** Lines that are not used, each with the reason; a damaged line never makes a key known. */
  ignored: { file: string; line: number; reason: string }[];
}

export type KeyVerdict =
  | { verdict: 'known'; at: KnownHostsLine }
  /** No key of this type is recorded; `others` are keys of other types that are. */
  | { verdict: 'unknown'; others: KnownHostsLine[] }
  /** Keys of this type are recorded, and the offered one is none of them. */
  | { verdict: 'changed'; recorded: [KnownHostsLine, ...KnownHostsLine[]] }
  | { verdict: 'revoked'; at: KnownHostsLine };

const DEFAULT_PORT = 22;

/** Parses one file. Never throws: what can't be read is listed in `ignored`. */
export function parseKnownHosts(text: string, file: string): KnownHosts {
  const result: KnownHosts = { lines: [], ignored: [] };
  for (const [index, raw] of text.split('\n').entries()) {
    const line = index + 1;
    const fields = raw.trim().split(/[ \t]+/);
    if (fields[0] === '' || fields[0]?.startsWith('#')) continue;
    const marker = fields[0]?.startsWith('@') ? fields.shift() : undefined;
    const [patterns, keyType, encoded] = fields;
    const ignore = (reason: string): number => result.ignored.push({ file, line, reason });
    if (marker === '@cert-authority') {
      ignore('host certificates are not supported, only plain host keys');
    } else if (marker !== undefined && marker !== '@revoked') {
      ignore(`the marker ${marker} is not known`);
    } else if (patterns === undefined || keyType === undefined || encoded === undefined) {
      ignore('it has fewer than three fields');
    } else {
      const key = Buffer.from(encoded, 'base64');
      if (keyTypeOf(key) !== keyType) ignore(`it holds no ${keyType} key`);
      else result.lines.push({ file, line, revoked: marker === '@revoked', patterns, keyType, key });
    }
  }
  return result;
}

/** The name under which OpenSSH looks a host up. IPv6 addresses come without brackets. */
export function lookupName(host: string, port: number): string {
  const name = host.toLowerCase();
  return port === DEFAULT_PORT ? name : `[${name}]:${port}`;
}

/**
 * Judges the key that `host` offered on `port`.
 *
 * As in OpenSSH, a host on another port is also known by its plain name when nothing is recorded for the
 * port; such a line can make a key known, but not changed, since it was recorded for another server.
 */
export function judgeKey(
  lines: readonly KnownHostsLine[],
  host: string,
  port: number,
  key: Uint8Array,
): KeyVerdict {
  const exact = linesOf(lines, lookupName(host, port));
  const plain = port === DEFAULT_PORT ? [] : linesOf(lines, lookupName(host, DEFAULT_PORT));
  const same = (line: KnownHostsLine): boolean => Buffer.compare(line.key, key) === 0;

  const revoked = [...exact, ...plain].find((line) => line.revoked && same(line));
  if (revoked !== undefined) return { verdict: 'revoked', at: revoked };

  const recorded = exact.filter((line) => !line.revoked);
  const usable = recorded.length > 0 ? recorded : plain.filter((line) => !line.revoked);
  const known = usable.find(same);
  if (known !== undefined) return { verdict: 'known', at: known };

  const [first, ...rest] = recorded.filter((line) => line.keyType === keyTypeOf(key));
  if (first !== undefined) return { verdict: 'changed', recorded: [first, ...rest] };
  return { verdict: 'unknown', others: recorded };
}

/**
 * Types of the keys recorded for a host. They have to be asked for first: a host has one key of each type,
 * and one of a type that was never recorded would look like an unknown host.
 */
export function recordedKeyTypes(lines: readonly KnownHostsLine[], host: string, port: number): string[] {
  const exact = linesOf(lines, lookupName(host, port)).filter((line) => !line.revoked);
  const used = exact.length > 0 ? exact : linesOf(lines, lookupName(host, DEFAULT_PORT));
  return [...new Set(used.filter((line) => !line.revoked).map((line) => line.keyType))];
}

/** A key's fingerprint as `ssh-keygen -l` prints it. */
export function fingerprint(key: Uint8Array): string {
  return `SHA256:${createHash('sha256').update(key).digest('base64').replace(/=+$/, '')}`;
}

/** The type that a key names in its first field (RFC 4253, 6.6), or undefined for what is no key. */
export function keyTypeOf(key: Uint8Array): string | undefined {
  if (key.byteLength < 4) return undefined;
  const length = new DataView(key.buffer, key.byteOffset, key.byteLength).getUint32(0);
  if (length === 0 || length > 64 || 4 + length >= key.byteLength) return undefined;
  return Buffer.from(key.subarray(4, 4 + length)).toString('latin1');
}

function linesOf(lines: readonly KnownHostsLine[], name: string): KnownHostsLine[] {
  return lines.filter((line) => matches(line.patterns, name));
}

function matches(patterns: string, name: string): boolean {
  if (patterns.startsWith('|')) return matchesHash(patterns, name);
  let matched = false;
  for (const pattern of patterns.toLowerCase().split(',')) {
    const negated = pattern.startsWith('!');
    if (!matchesPattern(negated ? pattern.slice(1) : pattern, name)) continue;
    // One negated match rules the whole line out, wherever it stands in the list.
    if (negated) return false;
    matched = true;
  }
  return matched;
}

/** `*` is any run of characters, `?` any single one; in time linear to pattern times name. */
function matchesPattern(pattern: string, name: string): boolean {
  let [p, n] = [0, 0];
  let star: { p: number; n: number } | undefined;
  while (n < name.length) {
    if (pattern[p] === '*') {
      star = { p, n };
      p += 1;
    } else if (p < pattern.length && (pattern[p] === '?' || pattern[p] === name[n])) {
      p += 1;
      n += 1;
    } else if (star !== undefined) {
      // The last star takes one character more.
      star.n += 1;
      [p, n] = [star.p + 1, star.n];
    } else {
      return false;
    }
  }
  return /^\**$/.test(pattern.slice(p));
}

function matchesHash(hashed: string, name: string): boolean {
  const [, magic, salt, hash, more] = hashed.split('|');
  if (magic !== '1' || salt === undefined || hash === undefined || more !== undefined) return false;
  return createHmac('sha1', Buffer.from(salt, 'base64')).update(name).digest('base64') === hash;
}
