/** Where a file found no room: what is free there against what it needs (statfs(2)). */
import { statfs } from 'node:fs/promises';
import { dirname } from 'node:path';
import { errorCode } from './durable-file.js';

const NO_ROOM = new Set(['ENOSPC', 'EDQUOT']);
/** Every record of ours is smaller than a block, and is written beside the one that it replaces. */
const NEEDED_BYTES = 4096;

/**
 * @param path of the file that was written
 * @returns in words, to follow the error's own; empty for any other error
 */
export async function missingRoom(error: unknown, path: string): Promise<string> {
  if (!NO_ROOM.has(errorCode(error) ?? '')) return '';
  const folder = dirname(path);
  try {
    const { bavail, bsize, ffree, files } = await statfs(folder);
    // Some file systems have no fixed number of files.
    const inodes = files === 0 ? '' : ` and ${ffree} files`;
    return ` (${bavail * bsize} bytes${inodes} free in ${folder}, ${NEEDED_BYTES} bytes and 1 file are needed)`;
  } catch {
    return ` (in ${folder})`;
  }
}
