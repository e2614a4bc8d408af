/**
 * What is installed on a host, as files: DRBD's configuration, the guests' xl configurations, what
 * `remus-devices` reads at boot, units and scripts. Same input, same bytes.
 *
 * The texts are in `templates/`, with the reason of each setting. Whatever is put into one goes through
 * `safe` first, which lets no character pass that could end a quoted text, a line or a shell word. That is
 * the second of two locks: config.ts has refused such a value before, with a message.
 */

import { isIP } from 'node:net';

import Handlebars from 'handlebars';

import { domainFile } from './domain-file.js';
import { requiredModules } from './facts.js';
import { layoutsOfHost } from './layout.js';
import type { DomainLayout, VolumeLayout } from './model.js';
import {
  devicesPath,
  domainFilePath,
  guestConfigPath,
  lvPath,
  mapperPath,
  Paths,
  resourcePath,
} from './names.js';
import { SAFE_TEXT } from './patterns.js';
import { describeGuest, replaceDisks, XlConfigError } from './xlconfig.js';
import type { XlConfig } from './xlconfig.js';

export interface RenderedFile {
  /** Absolute, on the host. */
  path: string;
  /** Permission bits. */
  mode: number;
  content: string;
  /** The domain it belongs to; absent for what the host has once. */
  domain?: string;
}

/** The package's own texts, by path below their directory. */
export interface Assets {
  /** `templates/` without `units/`. */
  templates: ReadonlyMap<string, string>;
  /** `templates/units/`, installed as they are. */
  units: ReadonlyMap<string, string>;
  /** `scripts/host/`, installed as they are. */
  scripts: ReadonlyMap<string, string>;
}

/** Where module options go (modprobe.d(5)). */
export const MODPROBE_PATH = '/etc/modprobe.d/remus-drbd.conf';

const UNIT_DIRECTORY = '/etc/systemd/system';
/** nbd makes its devices when it is loaded, so there are enough for domains that are added later. */
const NBD_DEVICES_STEP = 64;

/**
 * Everything to install on one host, sorted by path.
 *
 * @param layouts the layouts of the whole configuration; the host's own are taken from them
 * @param guests the guests' own configurations, by domain
 * @throws {XlConfigError} when a guest's configuration can't be that of its domain
 */
export function renderHost(
  host: string,
  layouts: readonly DomainLayout[],
  guests: ReadonlyMap<string, XlConfig>,
  assets: Assets,
): RenderedFile[] {
  const own = layoutsOfHost(layouts, host);
  const files = [
    ...globalFiles(own, assets),
    ...own.flatMap((layout) => domainFiles(layout, guests, assets)),
    ...[...assets.units].map(([name, content]) => ({
      path: `${UNIT_DIRECTORY}/${name}`,
      mode: 0o644,
      content,
    })),
    ...[...assets.scripts].map(([name, content]) => ({ path: scriptPath(name), mode: 0o755, content })),
  ];
  return files.sort((a, b) => (a.path < b.path ? -1 : 1));
}

function globalFiles(layouts: readonly DomainLayout[], assets: Assets): RenderedFile[] {
  const journal = layouts.filter(({ domain }) => domain.engine === 'journal');
  const volumes = journal.reduce((sum, layout) => sum + layout.volumes.length, 0);
  const modules = requiredModules(journal.length > 0 ? 'journal' : 'protocol-d');
  const system = {
    modules,
    journal: journal.length > 0,
    nbdDevices: Math.ceil(volumes / NBD_DEVICES_STEP) * NBD_DEVICES_STEP,
  };
  const file = (path: string, template: string): RenderedFile => {
    return { path, mode: 0o644, content: fill(assets, template, system) };
  };
  const drbd =
    journal.length > 0
      ? [file(Paths.drbdGlobal, 'drbd/global_common.conf.hbs')]
      : [
          file(Paths.drbdGlobal, 'drbd/global_common.conf.include.hbs'),
          file(Paths.drbdGlobalProtoD, 'drbd/global_common.conf.protoD.hbs'),
        ];
  return [
    ...drbd,
    file(Paths.modulesLoad, 'system/modules-load.conf.hbs'),
    file(MODPROBE_PATH, 'system/modprobe.conf.hbs'),
  ];
}

function domainFiles(
  layout: DomainLayout,
  guests: ReadonlyMap<string, XlConfig>,
  assets: Assets,
): RenderedFile[] {
  const { domain } = layout;
  const guest = guests.get(domain.name);
  if (guest === undefined) throw new Error(`no xl configuration was given for ${domain.name}`);
  const view = {
    domain: domain.name,
    volumes: layout.volumes.map(volumeView),
    hosts: layout.hosts.map(({ name, replication }) => {
      const v6 = isIP(replication) === 6;
      return {
        name,
        family: v6 ? 'ipv6' : 'ipv4',
        address: v6 ? `[${replication}]` : replication,
        port: domain.port,
      };
    }),
  };
  const resource =
    domain.engine === 'protocol-d' ? 'drbd/resource-protocol-d.res.hbs' : 'drbd/resource.res.hbs';
  const file = (path: string, mode: number, content: string): RenderedFile => {
    return { path, mode, content, domain: domain.name };
  };
  return [
    file(resourcePath(domain.name), 0o644, fill(assets, resource, view)),
    file(devicesPath(domain.name), 0o644, fill(assets, 'system/devices.hbs', view)),
    file(domainFilePath(domain.name), 0o600, `${JSON.stringify(safe(domainFile(layout)), null, 2)}\n`),
    // It may hold the password of the guest's console.
    file(
      guestConfigPath(domain.name),
      0o600,
      fill(assets, 'xen/guest.cfg.hbs', view) + guestConfig(layout, guest),
    ),
  ];
}

/**
 * The guest's own configuration with our disks.
 *
 * @throws {XlConfigError} when it is that of another guest, or has a disk that isn't replicated
 */
export function guestConfig({ domain, volumes }: DomainLayout, guest: XlConfig): string {
  const { name } = describeGuest(guest);
  if (name !== domain.name) {
    const line = guest.assignments.filter(({ key }) => key === 'name').at(-1)?.line ?? 1;
    const message = `name is ${JSON.stringify(name)}, but this is the configuration of domain ${domain.name}`;
    throw new XlConfigError(guest.file, line, message);
  }
  const disks = volumes.flatMap(({ volume, vdev }) => {
    if (vdev === undefined) return [];
    // DRBD 8.3 has no volumes: the resource is the device.
    const target = domain.engine === 'protocol-d' ? domain.name : `${domain.name}/${volume}`;
    const text = safe(`vdev=${vdev},access=w,script=block-drbd,target=${target}`);
    return [{ vdev, text }];
  });
  return replaceDisks(guest, disks);
}

function volumeView(volume: VolumeLayout): Record<string, string | number> {
  return {
    volume: volume.volume,
    minor: volume.minor,
    vdev: volume.vdev ?? '',
    mapper: volume.mapper,
    disk: mapperPath(volume.mapper),
    lv: lvPath(volume.volumeGroup, volume.dataLv),
    metaDisk: lvPath(volume.volumeGroup, volume.metaLv),
  };
}

function scriptPath(name: string): string {
  if (name.startsWith('block-')) return `${Paths.xenScripts}/${name}`;
  return name === 'remus-drbd' ? Paths.command : `${Paths.lib}/${name}`;
}

/**
 * The value itself, when every text in it is made of harmless characters.
 *
 * @throws {Error} otherwise, which means that config.ts let something through
 */
export function safe<T>(value: T): T {
  if (typeof value === 'string' && !SAFE_TEXT.test(value)) {
    throw new Error(
      `refusing to render ${JSON.stringify(value)}: only letters, digits and "_.:,=@%+/[]~-" may be in it`,
    );
  }
  if (typeof value === 'number' && !Number.isSafeInteger(value)) {
    throw new Error(`refusing to render the number ${value}`);
  }
  if (typeof value === 'object' && value !== null) {
    for (const [key, item] of Object.entries(value)) {
      safe(key);
      safe(item);
    }
  }
  return value;
}

/** Compiled templates by their text; compiling takes longer than filling. */
const compiled = new Map<string, Handlebars.TemplateDelegate>();

function fill(assets: Assets, name: string, view: Record<string, unknown>): string {
  const source = assets.templates.get(name);
  if (source === undefined) throw new Error(`the package has no template ${name}`);
  let template = compiled.get(source);
  if (template === undefined) {
    template = Handlebars.compile(source, { noEscape: true, strict: true, knownHelpersOnly: true });
    compiled.set(source, template);
  }
  return template(safe(view));
}
