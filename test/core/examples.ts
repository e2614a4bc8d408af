/** The configurations in conf-examples/, as the tests of rendering use them. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';

import { allHosts } from '../../src/core/layout.js';
import { renderHost } from '../../src/core/render.js';
import type { RenderedFile } from '../../src/core/render.js';
import { loadAssets } from '../../src/edge/assets.js';
import { loadConfiguration } from '../../src/edge/load.js';
import type { Loaded } from '../../src/edge/load.js';

const ROOT = 'conf-examples';

export const exampleNames = readdirSync(ROOT, { withFileTypes: true })
  .filter((entry) => entry.isDirectory())
  .map((entry) => entry.name)
  .sort();

export interface Example extends Loaded {
  hosts: { name: string; files: RenderedFile[] }[];
}

/** Loads and renders one, without the scripts and units, which are installed as they are. */
export async function loadExample(name: string): Promise<Example> {
  const loaded = await loadConfiguration(join(ROOT, name, 'pair.yaml'));
  const assets = {
    ...(await loadAssets()),
    units: new Map<string, string>(),
    scripts: new Map<string, string>(),
  };
  const hosts = allHosts(loaded.config).map((host) => {
    return { name: host.name, files: renderHost(host.name, loaded.layouts, loaded.guests, assets) };
  });
  return { ...loaded, hosts };
}
