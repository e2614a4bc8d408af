/**
 * Small files that have to survive a crash at any moment, whole: the old content or the new one, and the new
 * one for good once the call has returned.
 *
 * Order (rename(2), link(2), fsync(2)): write a temporary file beside it, fsync it, rename or link it to its
 * name, fsync the directory. Each step is one of `FileSteps`, so that tests can stop between any two.
 */
import { randomBytes } from 'node:crypto';
import { link, mkdir, open, readFile, rename, stat, unlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';

/** One system call each, more or less; none is durable but by the two that say `sync`. */
export interface FileSteps {
  /** Makes a new file with this content. */
  create: (path: string, content: string, mode: number) => Promise<void>;
  syncFile: (path: string) => Promise<void>;
  rename: (from: string, to: string) => Promise<void>;
  /** Gives a file a second name. Rejects with EEXIST where that name is taken, by whatever. */
  link: (from: string, to: string) => Promise<void>;
  unlink: (path: string) => Promise<void>;
  syncDirectory: (path: string) => Promise<void>;
}

export const REAL_STEPS: FileSteps = {
  async create(path, content, mode) {
    const file = await open(path, 'wx', mode);
    try {
      await file.writeFile(content);
    } finally {
      await file.close();
    }
  },
  syncFile: sync,
  rename,
  link,
  unlink,
  syncDirectory: sync,
};

/**
 * Puts a file in place of whatever had its name. Missing directories are made.
 *
 * @throws NodeJS.ErrnoException; the file is then the old or the new one, whole, and it isn't known which
 *   will be there after a crash
 */
export async function writeDurably(
  path: string,
  content: string,
  mode: number,
  steps: FileSteps = REAL_STEPS,
): Promise<void> {
  await makeDirectory(dirname(path));
  await withTemporary(path, content, mode, steps, (temporary) => steps.rename(temporary, path));
  await steps.syncDirectory(dirname(path));
}

/**
 * Makes a file only where nothing has its name yet: of any number of callers at once, one makes it.
 *
 * @returns whether this call made it. Either way the file that is there now is durable
 * @throws NodeJS.ErrnoException; the file may then be there or not
 */
export async function createDurably(
  path: string,
  content: string,
  mode: number,
  steps: FileSteps = REAL_STEPS,
): Promise<boolean> {
  let made = true;
  await withTemporary(path, content, mode, steps, async (temporary) => {
    try {
      await steps.link(temporary, path);
    } catch (error) {
      if (errorCode(error) !== 'EEXIST') throw error;
      made = false;
    }
    await steps.unlink(temporary);
  });
  // Also for a file that another one made: it may not have got to this yet.
  await steps.syncDirectory(dirname(path));
  return made;
}

/** Takes a file away for good, if there is one. */
export async function removeDurably(path: string, steps: FileSteps = REAL_STEPS): Promise<void> {
  try {
    await steps.unlink(path);
  } catch (error) {
    // Where the directory is missing there is nothing to make durable.
    if (errorCode(error) !== 'ENOENT') throw error;
    if ((await stat(dirname(path)).catch(() => undefined)) === undefined) return;
  }
  await steps.syncDirectory(dirname(path));
}

/**
 * Reads a small file.
 *
 * @returns undefined where there is none
 * @throws NodeJS.ErrnoException, or RangeError for a file over `bytesMax`
 */
export async function readSmall(path: string, bytesMax: number): Promise<string | undefined> {
  let content: Buffer;
  try {
    content = await readFile(path);
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return undefined;
    throw error;
  }
  if (content.byteLength > bytesMax) throw new RangeError(`it is longer than ${bytesMax} bytes`);
  return content.toString('utf8');
}

/** Makes a directory that is still there after a crash, with its parents. */
export async function makeDirectory(path: string, mode = 0o755): Promise<void> {
  const first = await mkdir(path, { recursive: true, mode });
  if (first === undefined) return;
  // Each new directory is an entry of the one above it.
  for (let made = path; made.length >= first.length; made = dirname(made)) await sync(dirname(made));
}

export function errorCode(error: unknown): string | undefined {
  return (error as NodeJS.ErrnoException | undefined)?.code;
}

async function withTemporary(
  path: string,
  content: string,
  mode: number,
  steps: FileSteps,
  use: (temporary: string) => Promise<void>,
): Promise<void> {
  const temporary = join(dirname(path), `.${basename(path)}.${randomBytes(6).toString('hex')}.new`);
  try {
    await steps.create(temporary, content, mode);
    await steps.syncFile(temporary);
    await use(temporary);
  } catch (error) {
    await steps.unlink(temporary).catch(() => undefined);
    // A write that finds no room does not say where, and the temporary name helps nobody.
    (error as NodeJS.ErrnoException).path = path;
    throw error;
  }
}

async function sync(path: string): Promise<void> {
  const file = await open(path, 'r');
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}
