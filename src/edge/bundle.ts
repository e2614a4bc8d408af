/** The built program as it is installed on hosts: one file and the native parts beside it. */
import { readdir, readFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { ExitCode, OperatorError } from '../core/errors.js';
import { Paths } from '../core/names.js';
import { desiredFile, type DesiredFile } from '../core/setup/files.js';
import { packageDirectory } from './assets.js';

/**
 * Reads the bundle from the package's dist folder.
 *
 * @throws OperatorError when it was not built
 */
export async function readBundle(): Promise<DesiredFile[]> {
  const root = join(await packageDirectory(), 'dist');
  let names: string[];
  try {
    names = await readdir(root, { recursive: true });
  } catch (error) {
    throw new OperatorError(
      `${root} is not there: the program for the hosts was not built; run "npm run build" in the package first`,
      ExitCode.usage,
      error,
    );
  }
  const files: DesiredFile[] = [];
  for (const name of names.sort()) {
    const path = join(root, name);
    const content = await readFile(path).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'EISDIR') return undefined;
      throw error;
    });
    if (content === undefined) continue;
    const mode = name.endsWith('.cjs') && !name.includes('node_modules') ? 0o755 : 0o644;
    files.push(desiredFile(join(Paths.lib, relative(root, path)), mode, content));
  }
  return files;
}
