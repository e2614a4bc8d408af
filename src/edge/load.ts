/** Reads pair.yaml and the guests' xl configurations that it names, and tells all their problems at once. */

import { readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, relative, resolve } from 'node:path';

import { parseConfig } from '../core/config.js';
import { ExitCode, OperatorError, OperatorErrors } from '../core/errors.js';
import { domainLayouts } from '../core/layout.js';
import type { Config, DomainLayout } from '../core/model.js';
import { guestConfig } from '../core/render.js';
import { parseXlConfig } from '../core/xlconfig.js';
import type { XlConfig } from '../core/xlconfig.js';

/** No configuration is anywhere near this; it keeps a wrong path from filling the memory. */
const FILE_BYTES_MAX = 1024 * 1024;

export interface Loaded {
  config: Config;
  layouts: DomainLayout[];
  /** The guests' own configurations, by domain. */
  guests: Map<string, XlConfig>;
}

/**
 * Reads and validates everything the file stands for. Paths in it are relative to its directory; `~/` is
 * the user's home.
 *
 * @param file path of pair.yaml, relative to the working directory or absolute
 * @throws {OperatorErrors | OperatorError} with every problem; exit code 2
 */
export async function loadConfiguration(file: string): Promise<Loaded> {
  const { problems, ...loaded } = await loadWithProblems(file);
  if (problems.size > 0) throw new OperatorErrors([...problems.values()]);
  return loaded;
}

/**
 * The same for commands that render nothing: a guest's own configuration that can't be used must not keep anyone
 * from looking at hosts, nor from a failover. `guests` lacks those that `problems` has, by domain.
 *
 * @throws {OperatorErrors | OperatorError} with every problem of pair.yaml itself; exit code 2
 */
export async function loadWithProblems(
  file: string,
): Promise<Loaded & { problems: Map<string, OperatorError> }> {
  const path = resolve(file);
  const parsed = parseConfig(await readText(path, file), file, dirname(path));
  const config: Config = {
    ...parsed,
    ssh: {
      identityFiles: parsed.ssh.identityFiles.map((name) => localPath(name, path)),
      knownHostsFiles: parsed.ssh.knownHostsFiles.map((name) => localPath(name, path)),
    },
    pairs: parsed.pairs.map((pair) => ({
      ...pair,
      domains: pair.domains.map((domain) => {
        return { ...domain, configFile: localPath(domain.configFile, path) };
      }),
    })),
  };
  const layouts = domainLayouts(config);
  const guests = new Map<string, XlConfig>();
  const problems = new Map<string, OperatorError>();
  for (const layout of layouts) {
    try {
      guests.set(layout.domain.name, await loadGuest(layout));
    } catch (error) {
      if (!(error instanceof OperatorError)) throw error;
      problems.set(layout.domain.name, error);
    }
  }
  return { config, layouts, guests, problems };
}

async function loadGuest(layout: DomainLayout): Promise<XlConfig> {
  const path = layout.domain.configFile;
  const shown = relative(process.cwd(), path).startsWith('..') ? path : relative(process.cwd(), path);
  const guest = parseXlConfig(await readText(path, shown), shown);
  // It throws where it doesn't fit the domain, which is better told now than when it is rendered.
  guestConfig(layout, guest);
  return guest;
}

function localPath(name: string, configPath: string): string {
  return name.startsWith('~/') ? resolve(homedir(), name.slice(2)) : resolve(dirname(configPath), name);
}

/** Reads a file that has to be UTF-8, byte order mark kept, so that its bytes can be written back. */
async function readText(path: string, shown: string): Promise<string> {
  let bytes: Buffer;
  try {
    bytes = await readFile(path);
  } catch (error) {
    const reason = error instanceof Error && 'code' in error ? String(error.code) : String(error);
    const next = reason === 'ENOENT' ? 'there is no such file' : `it can't be read (${reason})`;
    throw new OperatorError(`${shown}: ${next}`, ExitCode.usage, error);
  }
  if (bytes.length > FILE_BYTES_MAX) {
    throw new OperatorError(`${shown}: is larger than ${FILE_BYTES_MAX} bytes`, ExitCode.usage);
  }
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (error) {
    throw new OperatorError(`${shown}: is not a text in UTF-8`, ExitCode.usage, error);
  }
}
