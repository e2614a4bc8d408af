/**
 * `remus-drbd setup --watch`: keeps the hosts true to the files. A change of pair.yaml, of a guest's
 * configuration or of a template is rendered, compared with what the hosts have, and applied; one change at
 * a time, and a change that arrives meanwhile is taken up afterwards. A file that is wrong changes nothing.
 */
import { watch, type FSWatcher } from 'chokidar';
import { join, resolve } from 'node:path';
import { OperatorError } from '../core/errors.js';

export interface WatchOptions {
  configFile: string;
  /** The folder with the templates. */
  templatesFolder: string;
  signal: AbortSignal;
  /** Reads everything anew, applies it, and names the files that it depends on besides the configuration. */
  apply: () => Promise<{ dependsOn: string[] }>;
  report: (text: string) => void;
  /** Called each time all changes so far were dealt with. */
  onIdle?: () => void;
}

/** An editor writes in pieces; a file counts as changed when it has not grown for this long. */
const SETTLE_MS = 200;

/** Applies once, then after each change, until `signal` aborts. */
export async function watchFiles(options: WatchOptions): Promise<void> {
  const { signal, report } = options;
  let wake: () => void = () => undefined;
  let changed: string | undefined = 'start';
  const onChange = (path: string): void => {
    changed = path;
    wake();
  };
  const watcher: FSWatcher = watch([resolve(options.configFile), resolve(options.templatesFolder)], {
    ignoreInitial: true,
    awaitWriteFinish: { stabilityThreshold: SETTLE_MS, pollInterval: SETTLE_MS / 4 },
  });
  watcher.on('all', (_event, path) => onChange(path));
  watcher.on('error', (error) => report(`watching failed: ${String(error)}`));
  await new Promise<void>((ready) => watcher.once('ready', ready));
  const stop = (): void => wake();
  signal.addEventListener('abort', stop, { once: true });
  try {
    while (!signal.aborted) {
      if (changed === undefined) {
        await new Promise<void>((next) => {
          wake = next;
          options.onIdle?.();
        });
        continue;
      }
      if (changed !== 'start') report(`${changed} has changed`);
      changed = undefined;
      try {
        const { dependsOn } = await options.apply();
        watcher.add(dependsOn.map((path) => join(path)));
      } catch (error) {
        if (!(error instanceof OperatorError)) throw error;
        report(`${error.message}\nNothing of this change was applied; waiting for the next one.`);
      }
    }
  } finally {
    signal.removeEventListener('abort', stop);
    await watcher.close();
  }
}
