/** Remembers on both hosts what people want of a domain's protection (core/protect/wanted.ts). */
import { statePath } from '../core/names.js';
import { formatWanted, latestWanted, WANTED_FILE } from '../core/protect/wanted.js';
import type { Wanted } from '../core/protect/wanted.js';
import type { Host } from '../edge/host.js';
import { readBoth } from './protection-view.js';
import type { ProtectionView } from './protection-view.js';

/** Writes it where it is not so already. */
export async function rememberWanted(
  domain: string,
  hosts: readonly [Host, Host],
  views: readonly [ProtectionView, ProtectionView],
  what: Pick<Wanted, 'protect' | 'intervalMs'>,
): Promise<void> {
  const latest = latestWanted(views[0].wanted, views[1].wanted);
  const isSo = (wanted: Wanted | undefined): boolean =>
    wanted?.sequence === latest?.sequence &&
    wanted?.protect === what.protect &&
    wanted.intervalMs === what.intervalMs;
  if (views.every(({ wanted }) => isSo(wanted))) return;
  const text = formatWanted({ format: 1, sequence: (latest?.sequence ?? 0) + 1, ...what });
  for (const host of hosts) {
    await host.writeFile(statePath(domain, WANTED_FILE), new TextEncoder().encode(text), 0o644);
  }
}

/** For `unprotect`, before it does anything: protection is not to come back by itself. */
export async function wantNoProtection(domain: string, hosts: readonly [Host, Host]): Promise<void> {
  const views = await readBoth(hosts, domain);
  // Where it was never asked for there is nothing to take back.
  if (views.every(({ wanted }) => wanted === undefined)) return;
  await rememberWanted(domain, hosts, views, { protect: false, intervalMs: null });
}
