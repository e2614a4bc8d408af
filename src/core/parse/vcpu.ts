/**
 * Which CPUs Xen lets run what: `xl vcpu-list`, and the topology in `xl info -n` (xl(1); xl_vcpu.c and xl_info.c of
 * Xen 4.17).
 *
 *     Name                                ID  VCPU   CPU State   Time(s) Affinity (Hard / Soft)
 *     Domain-0                             0     0    0   r--     149.6  0 / all
 *
 *     cpu_topology           :
 *     cpu:    core    socket     node
 *       0:       0        0        0
 */
import { linesOf, ParseError } from './text.js';
import type { Line } from './text.js';

/** Xen has at most 4095 CPUs. */
const CPU_MAX = 4095;

/** One virtual CPU of a domain. */
export interface Vcpu {
  domain: string;
  domainId: number;
  vcpu: number;
  /** The CPU that it ran on last; absent while it is offline. */
  cpu?: number;
  /** CPUs it may run on, or all of them. */
  hard: 'all' | readonly number[];
}

/**
 * Reads `xl vcpu-list`.
 *
 * @throws {ParseError}
 */
export function parseXlVcpuList(text: string): Vcpu[] {
  const lines = linesOf('xl vcpu-list', text);
  const header = lines.shift();
  if (
    header === undefined ||
    !/^Name\s+ID\s+VCPU\s+CPU\s+State\s+Time\(s\)\s+Affinity \(Hard \/ Soft\)\s*$/.test(header.text)
  ) {
    throw new ParseError('xl vcpu-list', 'the header is expected', header?.text ?? '', 1);
  }
  return lines.map((line) => {
    // A name may have spaces, so a line is read from its end.
    const match =
      /^(\S.*?)\s+(\d+)\s+(\d+)\s+(\d+|-)\s+([r-][b-][p-])\s+\d+\.\d+\s+(\S+) \/ (\S+)\s*$/.exec(line.text) ??
      line.fail('a vCPU is expected');
    const [, domain = '', id, vcpu, cpu, , hard = '', soft = ''] = match;
    cpuList(line, soft);
    return {
      domain,
      domainId: line.integer(id, 'the number'),
      vcpu: line.integer(vcpu, 'the vCPU', CPU_MAX),
      ...(cpu === '-' ? {} : { cpu: line.integer(cpu, 'the CPU', CPU_MAX) }),
      hard: cpuList(line, hard),
    };
  });
}

/** `all`, `none`, or numbers and ranges such as `0-3,6`. */
function cpuList(line: Line, text: string): Vcpu['hard'] {
  if (text === 'all') return 'all';
  if (text === 'none') return [];
  return text.split(',').flatMap((part) => {
    const [, from, to = from] =
      /^(\d{1,4})(?:-(\d{1,4}))?$/.exec(part) ?? line.fail(`no list of CPUs: ${JSON.stringify(text)}`);
    const first = line.integer(from, 'a CPU', CPU_MAX);
    const last = line.integer(to, 'a CPU', CPU_MAX);
    if (last < first) line.fail(`no list of CPUs: ${JSON.stringify(text)}`);
    return Array.from({ length: last - first + 1 }, (_, index) => first + index);
  });
}

/** Where a CPU is. CPUs with the same core and socket are threads of one core. */
export interface CpuPlace {
  core: number;
  socket: number;
}

/**
 * The CPUs that are online, from `xl info -n`. Empty where Xen can't tell their places: xl leaves out each CPU whose
 * core it does not know (tools/xl/xl_info.c), and on an emulated host that is all of them.
 *
 * @throws {ParseError}
 */
export function parseXlTopology(text: string): Map<number, CpuPlace> {
  const lines = linesOf('xl info -n', text);
  const start = lines.findIndex((line) => /^cpu_topology\s*:\s*$/.test(line.text));
  const header = lines[start + 1];
  if (start < 0 || header === undefined || !/^cpu:\s+core\s+socket\s+node\s*$/.test(header.text)) {
    throw new ParseError('xl info -n', 'cpu_topology is expected', header?.text ?? '', header?.number ?? 1);
  }
  const places = new Map<number, CpuPlace>();
  for (const line of lines.slice(start + 2)) {
    const match = /^\s*(\d+):\s+(\d+)\s+(\d+)\s+(\d+)\s*$/.exec(line.text);
    if (match === null) {
      // The next part of the output; anything else inside of this one isn't known.
      if (/^\s*\d+:/.test(line.text)) line.fail('a CPU with core, socket and node is expected');
      break;
    }
    const cpu = line.integer(match[1], 'the CPU', CPU_MAX);
    if (places.has(cpu)) line.fail('a CPU is listed twice');
    places.set(cpu, {
      core: line.integer(match[2], 'the core'),
      socket: line.integer(match[3], 'the socket'),
    });
  }
  return places;
}
