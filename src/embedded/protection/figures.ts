/** What the embedded pair's story and its rounds say in the same words; figures are rounded, to be read at a glance. */
export function formatBytes(bytes: number): string {
  if (bytes >= 1 << 20) return `${(bytes / (1 << 20)).toFixed(1)} MiB`;
  return `${Math.round(bytes / 1024)} KiB`;
}

export function formatSeconds(ms: number): string {
  return `${(ms / 1000).toFixed(2)} s`;
}

/** Where the files of a pair are that was told to leave them. */
export function keptText(folder: string): string {
  return `The files of the embedded hosts are in ${folder}`;
}

export function formatMs(ms: number): string {
  return `${Math.round(ms)} ms`;
}
