/**
 * Debian, the kernel and systemd: dpkg-query(1), dpkg-divert(1), the sum tools of coreutils, uname, id,
 * date, /proc/meminfo and /proc/modules (proc(5)), modinfo(8), systemctl(1), timedatectl(1), openssl-x509(1).
 */
import type { Certificate, Diversion, ModuleInfo, UnitState } from '../facts.js';
import { Line, linesOf, onlyLine, ParseError } from './text.js';

const KIB = 1024;

/**
 * `name<TAB>status<TAB>version`; those that are installed.
 *
 * @throws ParseError
 */
export function parsePackages(text: string): Record<string, string> {
  return Object.fromEntries(
    linesOf('dpkg-query', text).flatMap((line) => {
      const [name, status, version, ...rest] = line.text.split('\t');
      if (!name || !status || version === undefined || rest.length > 0)
        return line.fail('three columns are expected');
      if (!/^[a-z-]+$/.test(status)) line.fail('a status is expected');
      return status === 'installed' ? [[name, version] as const] : [];
    }),
  );
}

/**
 * ` /etc/file MD5 [obsolete]` lines: path to MD5.
 *
 * @throws ParseError
 */
export function parseConffiles(text: string): Record<string, string> {
  return Object.fromEntries(
    linesOf('dpkg-query', text).flatMap((line) => {
      const match = /^ (\/.+?) ([0-9a-f]{32}|newconffile)((?: obsolete| remove-on-upgrade)*)$/.exec(
        line.text,
      );
      if (!match?.[1] || !match[2]) return line.fail('a configuration file and its MD5 are expected');
      return match[2] === 'newconffile' ? [] : [[match[1], match[2]] as const];
    }),
  );
}

/** @throws ParseError */
export function parseDiversions(text: string): Diversion[] {
  return linesOf('dpkg-divert', text).map((line) => {
    const match = /^(local )?diversion of (\S+) to (\S+)(?: by (\S+))?$/.exec(line.text);
    const [, local, path, divertedTo, owner] = match ?? [];
    if (path === undefined || divertedTo === undefined || (local === undefined) !== (owner !== undefined)) {
      return line.fail('a diversion is expected');
    }
    return {
      path,
      divertedTo,
      ...(owner === undefined ? {} : { package: owner }),
    };
  });
}

/**
 * `DIGEST  FILE` lines of `md5sum` and `sha256sum`: file to digest.
 *
 * @throws ParseError
 */
export function parseDigests(tool: 'md5sum' | 'sha256sum', text: string): Record<string, string> {
  const digits = tool === 'md5sum' ? 32 : 64;
  return Object.fromEntries(
    linesOf(tool, text).map((line) => {
      const match = /^([0-9a-f]+) [ *](.+)$/.exec(line.text);
      if (match?.[1]?.length !== digits || match[2] === undefined) {
        return line.fail(`${digits} hexadecimal digits and a file are expected`);
      }
      return [match[2], match[1]] as const;
    }),
  );
}

/**
 * The digest of a single file. A backslash before it marks a file name that is escaped.
 *
 * @throws ParseError
 */
export function parseDigest(tool: 'md5sum' | 'sha256sum', text: string): string {
  const line = onlyLine(tool, text);
  const digits = tool === 'md5sum' ? 32 : 64;
  const digest = /^\\?([0-9a-f]+) [ *]/.exec(line.text)?.[1];
  return digest?.length === digits ? digest : line.fail(`${digits} hexadecimal digits are expected`);
}

/**
 * `uname -n -r -m`: uname prints them in its own order, which is this one.
 *
 * @throws ParseError
 */
export function parseUname(text: string): { nodeName: string; kernelRelease: string; architecture: string } {
  const line = onlyLine('uname', text);
  const [nodeName, kernelRelease, architecture, ...rest] = line.text.trim().split(' ');
  if (!nodeName || !kernelRelease || !architecture || rest.length > 0)
    return line.fail('three words are expected');
  return { nodeName, kernelRelease, architecture };
}

/** @throws ParseError */
export function parseUid(text: string): number {
  const line = onlyLine('id', text);
  return line.integer(line.text.trim(), 'the user id', 2 ** 32);
}

/**
 * `date +%s.%N` in milliseconds.
 *
 * @throws ParseError
 */
export function parseClock(text: string): number {
  const line = onlyLine('date', text);
  const match = /^([0-9]{1,11})\.([0-9]{9})$/.exec(line.text.trim());
  if (!match) return line.fail('seconds and nanoseconds are expected');
  return Number(match[1]) * 1000 + Number(match[2]) / 1e6;
}

/** @throws ParseError */
export function parseNodeVersion(text: string): string {
  const line = onlyLine('node', text);
  return /^v([0-9]+\.[0-9]+\.[0-9]+\S*)$/.exec(line.text.trim())?.[1] ?? line.fail('a version is expected');
}

/** @throws ParseError */
export function parseMeminfo(text: string): { totalBytes: number; availableBytes: number } {
  const lines = linesOf('/proc/meminfo', text);
  const value = (name: string): number => {
    const line = lines.find((candidate) => candidate.text.startsWith(`${name}:`));
    if (!line) throw new ParseError('/proc/meminfo', `no ${name}`, lines[0]?.text ?? '', 1);
    const kib = /:\s+([0-9]+) kB$/.exec(line.text)?.[1];
    return line.integer(kib, name, Number.MAX_SAFE_INTEGER / KIB) * KIB;
  };
  return { totalBytes: value('MemTotal'), availableBytes: value('MemAvailable') };
}

/**
 * Names of the modules that are live.
 *
 * @throws ParseError
 */
export function parseProcModules(text: string): string[] {
  return linesOf('/proc/modules', text).flatMap((line) => {
    const match = /^(\S+) [0-9]+ [0-9-]+ \S+ (Live|Loading|Unloading)( |$)/.exec(line.text);
    if (!match?.[1]) return line.fail('a module is expected');
    return match[2] === 'Live' ? [match[1]] : [];
  });
}

/**
 * `modinfo -0`: entries `key: value`, each ended by a NUL because descriptions may have several lines. A
 * module has `filename` before `name`, what is built in has it after. Modules that were not found are named
 * on standard error.
 *
 * @throws ParseError
 */
export function parseModinfo(text: string): Record<string, ModuleInfo> {
  const modules: [string, ModuleInfo][] = [];
  let block: { name?: string; filename?: string; version?: string; first: Line } | undefined;
  const finish = (): void => {
    if (!block) return;
    const { name, filename, version, first } = block;
    if (name === undefined || filename === undefined) first.fail('a module needs filename and name');
    else
      modules.push([
        name,
        { builtIn: filename === '(builtin)', ...(version === undefined ? {} : { version }) },
      ]);
  };
  for (const [index, entry] of text.split('\0').entries()) {
    if (entry.trim() === '') continue;
    const line = new Line('modinfo', entry, index + 1);
    // With -0, kmod writes "key=value" for all but the keys it makes up itself, such as filename.
    const match = /^([A-Za-z0-9_]+)(?::\s*|=)([^]*)$/.exec(entry);
    if (!match?.[1]) return line.fail('key: value is expected');
    const value = (match[2] ?? '').trim();
    switch (match[1]) {
      case 'filename':
      case 'name':
        if (!block || block[match[1]] !== undefined) {
          finish();
          block = { first: line };
        }
        block[match[1]] = value;
        break;
      default:
        if (!block) return line.fail('a module starts with its filename or name');
        if (match[1] === 'version') block.version = value;
    }
  }
  finish();
  return Object.fromEntries(modules);
}

/**
 * `systemctl show --property=Id,LoadState,ActiveState,UnitFileState UNIT...`: `Key=value` lines, units
 * separated by an empty line.
 *
 * @throws ParseError
 */
export function parseUnits(text: string): Record<string, UnitState> {
  const units: [string, UnitState][] = [];
  for (const part of blocksOf('systemctl', text)) {
    const values = new Map<string, string>();
    for (const line of part) {
      const equals = line.text.indexOf('=');
      if (equals < 1) line.fail('Key=value is expected');
      values.set(line.text.slice(0, equals), line.text.slice(equals + 1));
    }
    const value = (key: string): string => values.get(key) ?? part[0]?.fail(`no ${key}`) ?? '';
    units.push([
      value('Id'),
      { loadState: value('LoadState'), activeState: value('ActiveState'), fileState: value('UnitFileState') },
    ]);
  }
  return Object.fromEntries(units);
}

function blocksOf(tool: string, text: string): Line[][] {
  const blocks: Line[][] = [];
  let after = -1;
  for (const line of linesOf(tool, text)) {
    const last = blocks[blocks.length - 1];
    if (last && line.number === after + 1) last.push(line);
    else blocks.push([line]);
    after = line.number;
  }
  return blocks;
}

/** @throws ParseError */
export function parseTimeSync(text: string): boolean {
  const line = onlyLine('timedatectl', text);
  const word = /^NTPSynchronized=(.*)$/.exec(line.text.trim())?.[1];
  return line.oneOf(word, ['yes', 'no'] as const, 'value of NTPSynchronized') === 'yes';
}

/**
 * Guests in /etc/xen/auto, from `grep -Z`: `FILE<NUL>name = "web"`. The first name in a file counts.
 *
 * @throws ParseError
 */
export function parseAutostart(text: string): Record<string, string> {
  const names = new Map<string, string>();
  for (const line of linesOf('grep', text)) {
    const match = /^([^\0]+)\0\s*name\s*=\s*(?:"([^"]*)"|'([^']*)')/.exec(line.text);
    if (!match?.[1]) return line.fail('the name of a guest is expected');
    if (!names.has(match[1])) names.set(match[1], match[2] ?? match[3] ?? '');
  }
  return Object.fromEntries(names);
}

/**
 * `subject=`, `notAfter=` and `sha256 Fingerprint=` lines.
 *
 * @throws ParseError
 */
export function parseCertificate(text: string): Certificate {
  const tool = 'openssl x509';
  const lines = linesOf(tool, text);
  const value = (pattern: RegExp, what: string): { line: Line; text: string } => {
    for (const line of lines) {
      const match = pattern.exec(line.text);
      if (match?.[1] !== undefined) return { line, text: match[1].trim() };
    }
    throw new ParseError(tool, `no ${what}`, lines[0]?.text ?? '', 1);
  };
  const end = value(/^notAfter=(.*)$/, 'notAfter');
  const notAfterMs = /^[A-Z][a-z]{2} +[0-9]{1,2} [0-9:]{8} [0-9]{4} GMT$/.test(end.text)
    ? Date.parse(end.text)
    : NaN;
  if (Number.isNaN(notAfterMs)) end.line.fail('a date is expected');
  const print = value(/^sha256 Fingerprint=(.*)$/i, 'fingerprint');
  const fingerprint = print.text.replaceAll(':', '').toLowerCase();
  if (!/^[0-9a-f]{64}$/.test(fingerprint)) print.line.fail('a SHA-256 fingerprint is expected');
  return { subject: value(/^subject=(.*)$/, 'subject').text, notAfterMs, fingerprint };
}
