/**
 * `remus-drbd render --out DIR`: writes what `setup` would install, for each host below DIR/HOST, without
 * talking to any host.
 *
 * DIR is ours when the marker file is in it; then its hosts' directories are written anew, so that running
 * it again gives the same bytes and nothing that is no longer rendered stays. Any other directory has to be
 * empty or not there.
 */

import { chmod, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';

import { ExitCode, OperatorError } from '../core/errors.js';
import { allHosts } from '../core/layout.js';
import { renderHost } from '../core/render.js';
import { loadAssets } from '../edge/assets.js';
import { loadConfiguration } from '../edge/load.js';

const MARKER = '.remus-drbd-render';
const MARKER_TEXT = 'Everything in this directory was written by "remus-drbd render", which replaces it.\n';

export interface RenderResult {
  directory: string;
  /** In the order of the configuration. */
  hosts: { name: string; files: number }[];
}

/**
 * Renders the configuration into a directory.
 *
 * @param configFile path of pair.yaml
 * @param out the directory, made if it isn't there
 * @throws {OperatorError} for an invalid configuration, and for a directory with anything else in it
 */
export async function render(configFile: string, out: string): Promise<RenderResult> {
  const { config, layouts, guests } = await loadConfiguration(configFile);
  const assets = await loadAssets();
  // All of it is made before anything is written: a failure leaves the directory as it was.
  const hosts = allHosts(config).map(({ name }) => {
    return { name, files: renderHost(name, layouts, guests, assets) };
  });
  await claimDirectory(out);
  for (const { name, files } of hosts) {
    for (const { path, mode, content } of files) {
      const target = join(out, name, path);
      await mkdir(dirname(target), { recursive: true });
      await writeFile(target, content);
      // The mode of writeFile is subject to the umask.
      await chmod(target, mode);
    }
  }
  return { directory: out, hosts: hosts.map(({ name, files }) => ({ name, files: files.length })) };
}

/** Makes the directory empty but for the marker, or refuses it. */
async function claimDirectory(out: string): Promise<void> {
  let names: string[];
  try {
    await mkdir(out, { recursive: true });
    names = await readdir(out);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new OperatorError(
      `${out} can't be written to: ${reason}; nothing was changed`,
      ExitCode.failed,
      error,
    );
  }
  if (names.length > 0 && !(await isOurs(out))) {
    throw new OperatorError(
      `${out} is not empty and was not written by "remus-drbd render"; nothing was changed in it. Name a new or empty directory.`,
      ExitCode.refused,
    );
  }
  await writeFile(join(out, MARKER), MARKER_TEXT);
  for (const name of names) {
    if (name !== MARKER) await rm(join(out, name), { recursive: true });
  }
}

async function isOurs(out: string): Promise<boolean> {
  try {
    return (await readFile(join(out, MARKER), 'utf8')) === MARKER_TEXT;
  } catch {
    return false;
  }
}

/** The result in words. */
export function renderText({ directory, hosts }: RenderResult): string {
  return hosts.map(({ name, files }) => `${join(directory, name)}: ${files} files\n`).join('');
}
