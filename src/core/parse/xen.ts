/** Xen's `xl info` and `xl list` (xl(1)). */
import type { RunningGuest, XenFacts } from '../facts.js';
import { linesOf, ParseError, type Line } from './text.js';

const MIB = 2 ** 20;

/**
 * `key : value` lines; those that are not needed are not looked at, since every version adds some.
 *
 * @throws ParseError
 */
export function parseXlInfo(text: string): XenFacts {
  const values = new Map<string, Line>();
  const lines = linesOf('xl info', text);
  for (const line of lines) {
    const key = /^([a-z][a-z0-9_]*)\s*:/.exec(line.text)?.[1];
    if (key === undefined) return line.fail('key : value is expected');
    values.set(key, line);
  }
  const value = (key: string): { line: Line; text: string } => {
    const line = values.get(key);
    if (!line) throw new ParseError('xl info', `no ${key}`, lines[0]?.text ?? '', 1);
    return { line, text: line.text.slice(line.text.indexOf(':') + 1).trim() };
  };
  const number = (key: string): number => {
    const { line, text: digits } = value(key);
    return line.integer(digits, key, Number.MAX_SAFE_INTEGER / MIB);
  };
  const version = value('xen_version');
  if (!/^[0-9]+\.[0-9]+\S*$/.test(version.text)) version.line.fail('a version is expected');
  const commandLine = value('xen_commandline').text;
  return {
    version: version.text,
    capabilities: value('virt_caps')
      .text.split(/\s+/)
      .filter((word) => word !== ''),
    cpuFeatures: value('hw_caps').text,
    ...(commandLine === '' ? {} : { commandLine }),
    totalMemoryBytes: number('total_memory') * MIB,
    freeMemoryBytes: number('free_memory') * MIB,
    cpus: number('nr_cpus'),
  };
}

/**
 * Name, number, MiB, vCPUs, state, seconds. A name may have spaces, so a line is read from its end. The
 * fifth letter of the state says why a guest is shut down (`-` power-off, `r` reboot, `s` suspend, `c`
 * crash, `w` watchdog, `S` soft reset).
 *
 * @throws ParseError
 */
export function parseXlList(text: string): RunningGuest[] {
  const lines = linesOf('xl list', text);
  const header = lines.shift();
  if (!header || !/^Name\s+ID\s+Mem\s+VCPUs\s+State\s+Time\(s\)\s*$/.test(header.text)) {
    throw new ParseError('xl list', 'the header is expected', header?.text ?? '', 1);
  }
  return lines.map((line) => {
    const match =
      /^(\S.*?)\s+([0-9]+)\s+([0-9]+)\s+([0-9]+)\s+([r-][b-][p-][s-][-rscwS?][d-])\s+[0-9.]+\s*$/.exec(
        line.text,
      );
    if (!match) return line.fail('a guest is expected');
    return {
      name: match[1] ?? '',
      id: line.integer(match[2], 'the number'),
      memoryBytes: line.integer(match[3], 'the memory', Number.MAX_SAFE_INTEGER / MIB) * MIB,
      vcpus: line.integer(match[4], 'the vCPUs'),
      state: match[5] ?? '',
    };
  });
}
