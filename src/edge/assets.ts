/**
 * The package's own files that end up on hosts: templates, units and scripts. They lie beside the program in
 * the package, whether it runs from its sources (src/) or bundled (dist/).
 */

import { readdir, readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { ExitCode, OperatorError } from '../core/errors.js';
import type { Assets } from '../core/render.js';

const PACKAGE = 'remus-drbd';

/**
 * The directory of this package: the nearest one above `start` whose package.json has its name.
 *
 * @throws {OperatorError} when there is none, because the program was copied away from its package
 */
export async function packageDirectory(start = dirname(fileURLToPath(import.meta.url))): Promise<string> {
  for (let directory = start; ; directory = dirname(directory)) {
    if ((await packageName(join(directory, 'package.json'))) === PACKAGE) return directory;
    if (dirname(directory) === directory) {
      throw new OperatorError(
        `the templates of ${PACKAGE} can't be found: no package.json of that name above ${start}; run the program from its package`,
        ExitCode.failed,
      );
    }
  }
}

/** Reads all of them. */
export async function loadAssets(directory?: string): Promise<Assets> {
  const root = directory ?? (await packageDirectory());
  const templates = await textFiles(join(root, 'templates'));
  const units = new Map<string, string>();
  for (const [name, text] of templates) {
    if (!name.startsWith('units/')) continue;
    templates.delete(name);
    units.set(name.slice('units/'.length), text);
  }
  return { templates, units, scripts: await textFiles(join(root, 'scripts', 'host')) };
}

/** Text files below a directory by their path in it, in an order that doesn't depend on the file system. */
async function textFiles(root: string, below = ''): Promise<Map<string, string>> {
  const files = new Map<string, string>();
  const entries = await readdir(join(root, below), { withFileTypes: true });
  for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const path = join(below, entry.name);
    if (entry.isFile()) files.set(path, await readFile(join(root, path), 'utf8'));
    if (entry.isDirectory()) for (const [name, text] of await textFiles(root, path)) files.set(name, text);
  }
  return files;
}

async function packageName(path: string): Promise<unknown> {
  try {
    const content: unknown = JSON.parse(await readFile(path, 'utf8'));
    return typeof content === 'object' && content !== null && 'name' in content ? content.name : undefined;
  } catch {
    // No such file, or no JSON: not the one that is looked for.
    return undefined;
  }
}
