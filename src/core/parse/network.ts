/**
 * `ss -Hltn`, `ip -json addr` (iproute2) and `ping` (iputils).
 */
import type { InterfaceAddress, Listener } from '../facts.js';
import { Json, linesOf, ParseError } from './text.js';

const PORT_MAX = 65535;

/**
 * `LISTEN 0 128 [::]:22 [::]:*`: state, two queues, local and remote address.
 *
 * @throws ParseError
 */
export function parseListeners(text: string): Listener[] {
  return linesOf('ss', text).map((line) => {
    const fields = line.text.trim().split(/\s+/);
    if (fields[0] !== 'LISTEN') line.fail('LISTEN is expected');
    const local = fields[3] ?? '';
    const colon = local.lastIndexOf(':');
    if (colon < 1) line.fail('ADDRESS:PORT is expected');
    return {
      address: local
        .slice(0, colon)
        .replace(/%[^\]]*$/, '')
        .replace(/^\[(.*)\]$/, '$1'),
      port: line.integer(local.slice(colon + 1), 'the port', PORT_MAX),
    };
  });
}

/** @throws ParseError */
export function parseIpAddresses(text: string): InterfaceAddress[] {
  return Json.parse('ip', text)
    .array()
    .flatMap((link) => {
      // `ip` prints an empty object for each link that a filter left out.
      if (link.get('ifname').absent) return [];
      const name = link.get('ifname').string();
      const up = link
        .get('flags')
        .array()
        .some((flag) => flag.string() === 'UP');
      return link
        .get('addr_info')
        .array()
        .flatMap((entry) =>
          entry.get('local').absent
            ? []
            : [
                {
                  interface: name,
                  address: entry.get('local').string(),
                  prefixLength: entry.get('prefixlen').integer(),
                  up,
                },
              ],
        );
    });
}

export interface PingSummary {
  sent: number;
  received: number;
  /** Absent when nothing came back. */
  averageMs?: number;
}

/**
 * The last lines of `ping -q -c N`:
 *
 *     3 packets transmitted, 3 received, 0% packet loss, time 2003ms
 *     rtt min/avg/max/mdev = 0.040/0.050/0.060/0.008 ms
 *
 * @throws ParseError
 */
export function parsePing(text: string): PingSummary {
  const lines = linesOf('ping', text);
  const counted = lines.find((line) => line.text.includes(' packets transmitted, '));
  if (!counted) throw new ParseError('ping', 'no summary', lines[0]?.text ?? '', lines[0]?.number ?? 1);
  const counts = /^([0-9]+) packets transmitted, ([0-9]+) received, /.exec(counted.text);
  if (!counts) return counted.fail('two counts are expected');
  const sent = counted.integer(counts[1], 'the packets sent');
  const received = counted.integer(counts[2], 'the packets received');
  if (received === 0) return { sent, received };
  const timed = lines.find((line) => line.text.startsWith('rtt '));
  if (!timed) return counted.fail('no round-trip times');
  const times = /^rtt min\/avg\/max\/mdev = [0-9.]+\/([0-9]{1,9}(?:\.[0-9]{1,6})?)\/[0-9.]+\/[0-9.]+ ms/.exec(
    timed.text,
  );
  if (!times) return timed.fail('four times are expected');
  return { sent, received, averageMs: Number(times[1]) };
}
