/**
 * What installing needs and removing finds, from what is on the host.
 *
 * Removing goes by what is there, not by what somebody remembers: devices by their alias, redirects by their
 * cookie. So it takes away any part that an interrupted install or removal left, and nothing of anyone else's.
 */
import type { Hold } from './commands.js';
import { isIfbName, parseAlias } from './names.js';
import type { LinkFacts, QueueFacts, RedirectFacts } from './parse.js';

export interface HostNetwork {
  links: readonly LinkFacts[];
  /** Of all devices. */
  queues: readonly QueueFacts[];
  /** By device: the filters at its two hooks. */
  ingress: ReadonlyMap<string, Filters>;
  egress: ReadonlyMap<string, Filters>;
}

export interface Filters {
  ours: readonly RedirectFacts[];
  others: number;
}

/** Devices whose filters are to be asked for: those that have a hook. */
export function hookedDevices(queues: readonly QueueFacts[]): string[] {
  return queues.filter(isHook).flatMap((queue) => queue.device ?? []);
}

function isHook(queue: QueueFacts): boolean {
  return queue.kind === 'clsact' || queue.kind === 'ingress';
}

export type InstallPlan =
  | { problem: string }
  /** Devices that an install made and did not live to mark as ours; then what to make. */
  | { halfMade: string[]; holds: { hold: Hold; hasHook: boolean }[] };

export function planInstall(domain: string, holds: readonly Hold[], host: HostNetwork): InstallPlan {
  const left = ownDevices(domain, host);
  if (left.length > 0 || ownRedirects(host).length > 0) {
    const names = [...left.map(({ ifb }) => ifb), ...ownRedirects(host).map(({ vif }) => vif)];
    return {
      problem:
        `buffering of an earlier run is still there (${names.join(', ')}); ` +
        `it is left as it is, because opening it may not be safe. Remove it first`,
    };
  }
  const halfMade: string[] = [];
  const planned: { hold: Hold; hasHook: boolean }[] = [];
  for (const hold of holds) {
    if (!host.links.some((link) => link.name === hold.vif)) {
      return { problem: `there is no interface ${hold.vif}` };
    }
    const taken = host.links.find((link) => link.name === hold.ifb);
    if (taken?.kind === 'ifb' && taken.alias === undefined && !taken.up && isIfbName(taken.name)) {
      halfMade.push(taken.name);
    } else if (taken) {
      const alias = taken.alias === undefined ? '' : `, alias ${JSON.stringify(taken.alias)}`;
      return { problem: `there is a device ${hold.ifb} already (${taken.kind ?? 'unknown kind'}${alias})` };
    }
    const hasHook = host.queues.some((queue) => queue.device === hold.vif && isHook(queue));
    if ((host.ingress.get(hold.vif)?.others ?? 0) > 0) {
      return { problem: `${hold.vif} has filters at its ingress that are not ours` };
    }
    planned.push({ hold, hasHook });
  }
  return { halfMade, holds: planned };
}

/** A domain's devices that are there, with the interface each was made for. */
export function ownDevices(domain: string, host: Pick<HostNetwork, 'links'>): OwnDevice[] {
  return host.links.flatMap((link) => {
    const alias = parseAlias(link.alias);
    return alias?.domain === domain && link.kind === 'ifb'
      ? [{ ifb: link.name, vif: alias.vif, up: link.up, insidePackets: link.insidePackets }]
      : [];
  });
}

export interface OwnDevice extends Hold {
  up: boolean;
  insidePackets: number;
}

/** Interfaces whose packets are led to us, also where the device that they are led to is gone. */
export function ownRedirects(host: Pick<HostNetwork, 'ingress'>): { vif: string; preference: number }[] {
  return [...host.ingress].flatMap(([vif, filters]) =>
    filters.ours.map(({ preference }) => ({ vif, preference })),
  );
}

/** Packets that are still in a device: in its queue, and between the queue and the interface. */
export function heldPackets(device: OwnDevice, queues: readonly QueueFacts[]): number {
  const queue = queues.find((entry) => entry.device === device.ifb && entry.root);
  return (queue?.backlogPackets ?? 0) + device.insidePackets;
}

/** Interfaces of this domain's whose hook has nothing on it any more. */
export function emptyHooks(vifs: ReadonlySet<string>, host: HostNetwork): string[] {
  return host.queues.flatMap(({ device, kind }) => {
    if (device === undefined || kind !== 'clsact' || !vifs.has(device)) return [];
    const filters = [host.ingress.get(device), host.egress.get(device)];
    return filters.every((entry) => entry?.others === 0 && entry.ours.length === 0) ? [device] : [];
  });
}
