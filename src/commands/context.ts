/** What every command that talks to hosts starts from: the configuration, and the work it means for each pair. */
import { homedir } from 'node:os';
import type { GuestReading } from '../core/check.js';
import type { KnownHostsLine } from '../core/knownhosts.js';
import { textFile, type DesiredFile } from '../core/setup/files.js';
import { knownHostsFile, needsSshKey, SSH_KNOWN_HOSTS } from '../core/setup/ssh.js';
import { renderHost, type Assets } from '../core/render.js';
import { describeGuest } from '../core/xlconfig.js';
import type { HostConfig } from '../core/model.js';
import { loadAssets } from '../edge/assets.js';
import { readBundle } from '../edge/bundle.js';
import type { Host } from '../edge/host.js';
import { loadConfiguration, type Loaded } from '../edge/load.js';
import type { Log } from '../edge/log.js';
import { connectHost } from '../edge/ssh.js';
import { readKnownHosts } from '../edge/ssh-keys.js';
import type { PairWork } from './converge.js';

/** Reads the configuration and everything that is installed, and derives what each pair has to look like. */
export async function loadWork(configFile: string): Promise<{ loaded: Loaded; works: PairWork[] }> {
  const [loaded, assets, bundle] = await Promise.all([
    loadConfiguration(configFile),
    loadAssets(),
    readBundle(),
  ]);
  return { loaded, works: pairWorks(loaded, assets, bundle, await knownHostsLines(loaded)) };
}

/** What the controller knows of hosts' keys, where hosts have to know some of it, too. */
async function knownHostsLines({ config }: Loaded): Promise<KnownHostsLine[]> {
  const pair = config.pairs.find(needsSshKey);
  if (pair === undefined) return [];
  return (await readKnownHosts(pair.hosts[0], config.ssh, homedir())).lines;
}

/**
 * @param bundle the files of the program for the hosts
 * @param knownHosts the controller's
 */
export function pairWorks(
  loaded: Loaded,
  assets: Assets,
  bundle: readonly DesiredFile[],
  knownHosts: readonly KnownHostsLine[] = [],
): PairWork[] {
  return loaded.config.pairs.map((pair) => {
    const layouts = loaded.layouts.filter((layout) => layout.pair.name === pair.name);
    const files: PairWork['files'] = {};
    const unknown: string[] = [];
    for (const { name } of pair.hosts) {
      const rendered = renderHost(name, loaded.layouts, loaded.guests, assets);
      files[name] = [
        ...rendered.map(({ path, mode, content, domain }) => textFile(path, mode, content, domain)),
        ...bundle,
      ];
      if (!needsSshKey(pair)) continue;
      const { text, missing } = knownHostsFile(pair, name, knownHosts);
      files[name].push(textFile(SSH_KNOWN_HOSTS, 0o644, text));
      unknown.push(...missing);
    }
    return {
      pair,
      layouts,
      unknownMachines: [...new Set(unknown)],
      guests: guestReadings(loaded),
      files,
      guestFiles: guestFiles(
        loaded,
        layouts.map(({ domain }) => domain.name),
      ),
    };
  });
}

/**
 * The guests as the checks want them.
 * @param problems of those that could not be read
 */
export function guestReadings(
  { guests }: Loaded,
  problems: ReadonlyMap<string, Error> = new Map(),
): Record<string, GuestReading> {
  const readings: Record<string, GuestReading> = {};
  for (const [domain, config] of guests) readings[domain] = { readable: true, guest: describeGuest(config) };
  for (const [domain, { message }] of problems) readings[domain] = { readable: false, reason: message };
  return readings;
}

/** The kernels and ramdisks that have to be on both hosts. */
function guestFiles(loaded: Loaded, domains: readonly string[]): string[] {
  const paths = domains.flatMap((domain) => {
    const config = loaded.guests.get(domain);
    if (config === undefined) return [];
    const { kernel, ramdisk } = describeGuest(config);
    return [kernel, ramdisk].filter((path) => path !== undefined);
  });
  return [...new Set(paths)];
}

/** Connects to hosts over SSH, with the user's agent and files. */
export function sshConnector(loaded: Loaded, log: Log): (host: HostConfig) => Promise<Host> {
  return (host) =>
    connectHost(host, loaded.config.ssh, { log, home: homedir(), agentSocket: process.env['SSH_AUTH_SOCK'] });
}
