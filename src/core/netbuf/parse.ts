/**
 * `tc -s -j qdisc show`, `tc -j filter show dev D ingress` and `ip -s -d -j link show` (iproute2 6.1).
 *
 * `bytes` of a queue are those that have left it, `backlog` those in it, both in the same measure, so their sum is
 * all that ever entered. `packets` counts the segments of a large packet, `qlen` does not.
 */
import { Json } from '../parse/text.js';

export interface QueueFacts {
  /** Absent when one device was asked for. */
  device?: string;
  /** What the kernel calls it: `plug`, `clsact`, `noqueue`. */
  kind: string;
  root: boolean;
  /** Left the queue since it was made. */
  sentBytes: number;
  backlogBytes: number;
  backlogPackets: number;
  /** Refused because the queue was full, since it was made. */
  droppedPackets: number;
}

export interface RedirectFacts {
  preference: number;
  /** Interface that the packets are led to; undefined where it is gone, and packets are dropped. */
  to?: string;
  cookie?: string;
}

export interface LinkFacts {
  name: string;
  up: boolean;
  /** `ifb`, `veth`, `bridge`; undefined for a kind without a name, such as a vif's. */
  kind?: string;
  alias?: string;
  /** For an ifb: what it has taken in that has not come out again, in packets. */
  insidePackets: number;
}

/**
 * `tc -s -j qdisc show`, also for one device with `dev D`.
 *
 * @throws ParseError
 */
export function parseQueues(text: string): QueueFacts[] {
  return Json.parse('tc qdisc', text)
    .array()
    .map((entry) => ({
      ...(entry.get('dev').absent ? {} : { device: entry.get('dev').string() }),
      kind: entry.get('kind').string(),
      root: !entry.get('root').absent,
      sentBytes: entry.get('bytes').integer(),
      backlogBytes: entry.get('backlog').integer(),
      backlogPackets: entry.get('qlen').integer(),
      droppedPackets: entry.get('drops').integer(),
    }));
}

/**
 * The filters at one hook: those with our cookie, and how many there are of others.
 *
 * @throws ParseError
 */
export function parseFilters(text: string, cookie: string): { ours: RedirectFacts[]; others: number } {
  const ours: RedirectFacts[] = [];
  let others = 0;
  for (const filter of Json.parse('tc filter', text).array()) {
    // Every filter is preceded by an entry for its preference alone.
    if (filter.get('options').absent) continue;
    const actions = filter.get('options').get('actions');
    const redirect = actions.absent
      ? undefined
      : actions.array().find((action) => action.get('cookie').stringOrUndefined() === cookie);
    if (!redirect) {
      others++;
      continue;
    }
    const to = redirect.get('to_dev').stringOrUndefined();
    ours.push({
      preference: filter.get('pref').integer(),
      ...(to === undefined || to === '*' ? {} : { to }),
      cookie,
    });
  }
  return { ours, others };
}

/** @throws ParseError */
export function parseLinks(text: string): LinkFacts[] {
  return Json.parse('ip link', text)
    .array()
    .flatMap((link) => {
      // `ip` prints an empty object for each link that a filter left out.
      if (link.get('ifname').absent) return [];
      const info = link.get('linkinfo');
      const kind = info.absent ? undefined : info.get('info_kind').stringOrUndefined();
      const alias = link.get('ifalias').stringOrUndefined();
      const stats = link.get('stats64');
      return [
        {
          name: link.get('ifname').string(),
          up: link
            .get('flags')
            .array()
            .some((flag) => flag.string() === 'UP'),
          ...(kind === undefined ? {} : { kind }),
          ...(alias === undefined ? {} : { alias }),
          insidePackets: kind === 'ifb' && !stats.absent ? inside(stats) : 0,
        },
      ];
    });
}

/** An ifb counts as received what its queue gave it, and as sent what it handed on or found no interface for. */
function inside(stats: Json): number {
  const rx = stats.get('rx');
  const taken = rx.get('packets').integer() - rx.get('dropped').integer();
  return Math.max(0, taken - stats.get('tx').get('packets').integer());
}
