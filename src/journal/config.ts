/**
 * The small JSON file that says where one domain's journal, targets and sockets are.
 */
import { readFile } from 'node:fs/promises';
import { z } from 'zod';
import { ExitCode, OperatorError } from '../core/errors.js';
import { SECTOR_BYTES, VOLUMES_MAX } from '../core/journal/types.js';
import type { VolumeSpec } from '../core/journal/types.js';
import { openDisk } from './file-disk.js';
import type { FileDisk } from './file-disk.js';

const size = z.number().int().positive().multipleOf(SECTOR_BYTES);

const volumeSchema = z.strictObject({
  name: z.string().min(1).max(48),
  /** File or block device. */
  target: z.string().min(1),
  sizeBytes: size,
  barrier: z.boolean().default(false),
});

const schema = z.strictObject({
  domain: z.string().min(1).max(62),
  /** File or block device. */
  journal: z.string().min(1),
  segmentBytes: size.optional(),
  indexEntries: z.number().int().positive().optional(),
  volumes: z.array(volumeSchema).min(1).max(VOLUMES_MAX),
  /** Unix socket of the NBD server. */
  socket: z.string().min(1).optional(),
  /** NBD over TCP, with client certificates: PEM files. */
  tls: z
    .strictObject({
      host: z.string(),
      port: z.number().int(),
      cert: z.string(),
      key: z.string(),
      ca: z.string(),
    })
    .optional(),
  /** Unix socket of the control. */
  control: z.string().min(1).optional(),
  connectionsMax: z.number().int().positive().default(32),
});

export type JournalConfig = z.infer<typeof schema>;

/** @throws OperatorError `usage` naming file and key */
export async function readJournalConfig(path: string): Promise<JournalConfig> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    throw new OperatorError(`${path}: ${(error as Error).message}`, ExitCode.usage, error);
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new OperatorError(`${path}: not JSON: ${(error as Error).message}`, ExitCode.usage, error);
  }
  const parsed = schema.safeParse(value);
  if (!parsed.success) {
    const lines = parsed.error.issues.map(
      (issue) => `${path}: ${issue.path.join('.') || '(whole)'}: ${issue.message}`,
    );
    throw new OperatorError(lines.join('\n'), ExitCode.usage);
  }
  return parsed.data;
}

export function volumeSpecs(config: JournalConfig): VolumeSpec[] {
  return config.volumes.map(({ name, sizeBytes, barrier }) => ({ name, sizeBytes, barrier }));
}

/** Opens the journal and every target; closes what it opened when one can't be. */
export async function openDisks(
  config: JournalConfig,
): Promise<{ disk: FileDisk; targets: FileDisk[]; close: () => Promise<void> }> {
  const opened: FileDisk[] = [];
  const close = async (): Promise<void> => {
    for (const each of opened) await each.close();
  };
  try {
    const disk = await openDisk(config.journal, { mode: 'buffered' });
    opened.push(disk);
    const targets: FileDisk[] = [];
    for (const volume of config.volumes) {
      const target = await openDisk(volume.target);
      opened.push(target);
      targets.push(target);
    }
    return { disk, targets, close };
  } catch (error) {
    await close();
    throw new OperatorError(
      `${config.domain}: cannot open the journal's disks: ${(error as Error).message}`,
      ExitCode.failed,
      error,
    );
  }
}
