/** Files as setup puts them on a host: content, mode and sum, whoever made them. */
import { createHash } from 'node:crypto';

export interface DesiredFile {
  path: string;
  mode: number;
  content: Uint8Array;
  sha256: string;
  /** The domain it belongs to; absent for what belongs to the host as a whole. */
  domain?: string;
}

export function desiredFile(path: string, mode: number, content: Uint8Array, domain?: string): DesiredFile {
  const sha256 = createHash('sha256').update(content).digest('hex');
  return { path, mode, content, sha256, ...(domain === undefined ? {} : { domain }) };
}

export function textFile(path: string, mode: number, text: string, domain?: string): DesiredFile {
  return desiredFile(path, mode, new TextEncoder().encode(text), domain);
}
