/**
 * `remus-drbd watch`: looks at both hosts of each domain again and again, says what has changed, and brings protection
 * back where the configuration and the people want it (core/protect/watching.ts decides, `recover` does it).
 *
 * It keeps nothing but how often it has failed lately, so it may die and be started again at any moment.
 */
import { OperatorError } from '../core/errors.js';
import type { DomainLayout, HostConfig } from '../core/model.js';
import { afterFailure, afterLook, newWatchMemory, watchStep } from '../core/protect/watching.js';
import type { WatchHost, WatchMemory, WatchStep } from '../core/protect/watching.js';
import { openIntents } from '../core/protect/switchover.js';
import { HostError } from '../edge/host.js';
import type { Host } from '../edge/host.js';
import type { ProtectDependencies } from './protect.js';
import { readBoth, readProtection } from './protection-view.js';
import type { ProtectionView } from './protection-view.js';
import { recoverDomain } from './recover.js';

export interface WatchDependencies extends ProtectDependencies {
  connect: (host: HostConfig) => Promise<Host>;
  /** Runs with both hosts locked, as the commands do. */
  withLocks: <T>(layout: DomainLayout, use: (hosts: readonly [Host, Host]) => Promise<T>) => Promise<T>;
  log: (level: 'info' | 'warn', message: string, fields: Record<string, unknown>) => void;
}

export const LOOK_MS = 5_000;

/**
 * Watches these domains until `signal` aborts; what a pair does then ends at its next pause.
 *
 * @throws what is no error of operation, when all pairs have ended: nothing watches on in part
 */
export async function watchProtection(
  layouts: readonly DomainLayout[],
  deps: WatchDependencies,
  signal: AbortSignal,
): Promise<void> {
  const connections = new Connections(deps.connect);
  // Two pairs have no host in common, so one that hangs holds up its own domains alone.
  const pairs = [...new Set(layouts.map(({ pair }) => pair.name))];
  let isBroken = false;
  const goesOn = (): boolean => !signal.aborted && !isBroken;
  const watchPair = async (name: string): Promise<void> => {
    const watchers = layouts
      .filter(({ pair }) => pair.name === name)
      .map((layout) => new DomainWatcher(layout, connections, deps));
    try {
      while (goesOn()) {
        for (const watcher of watchers) if (goesOn()) await watcher.look();
        if (goesOn()) await deps.pause(LOOK_MS);
      }
    } catch (error) {
      // A pause that was ended.
      if (signal.aborted) return;
      isBroken = true;
      throw error;
    }
  };
  const ends = await Promise.allSettled(pairs.map(watchPair));
  await connections.close();
  for (const end of ends) if (end.status === 'rejected') throw end.reason;
}

/** One connection to each host, for looking; a lost one is made again. */
class Connections {
  readonly #connect: WatchDependencies['connect'];
  readonly #open = new Map<string, Promise<Host>>();

  constructor(connect: WatchDependencies['connect']) {
    this.#connect = connect;
  }

  async read(config: HostConfig, domain: string): Promise<ProtectionView> {
    const opening = this.#open.get(config.name) ?? this.#connect(config);
    this.#open.set(config.name, opening);
    try {
      return await readProtection(await opening, domain);
    } catch (error) {
      this.#open.delete(config.name);
      await opening.then((host) => host.close()).catch(() => undefined);
      throw error;
    }
  }

  async close(): Promise<void> {
    await Promise.all(
      [...this.#open.values()].map((opening) => opening.then((host) => host.close()).catch(() => undefined)),
    );
  }
}

class DomainWatcher {
  readonly #layout: DomainLayout;
  readonly #connections: Connections;
  readonly #deps: WatchDependencies;
  #memory: WatchMemory = newWatchMemory();
  #told = '';

  constructor(layout: DomainLayout, connections: Connections, deps: WatchDependencies) {
    this.#layout = layout;
    this.#connections = connections;
    this.#deps = deps;
  }

  async look(): Promise<void> {
    const { name } = this.#layout.domain;
    let views: [ProtectionView, ProtectionView];
    try {
      const [one, other] = this.#layout.hosts;
      views = await Promise.all([this.#connections.read(one, name), this.#connections.read(other, name)]);
    } catch (error) {
      this.#tell('warn', 'a host can not be asked', firstLine(error));
      return;
    }
    const step = this.#judge(views);
    this.#memory = afterLook(this.#memory, step.do === 'nothing', this.#deps.nowMs());
    switch (step.do) {
      case 'nothing':
        this.#tell('info', 'as it is to be', step.reason);
        return;
      case 'leave':
        this.#tell('warn', 'not protected', step.reason);
        return;
      case 'recover':
        this.#tell('info', 'bringing protection back', step.reason);
        await this.#recover();
    }
  }

  #judge(views: readonly [ProtectionView, ProtectionView]): WatchStep {
    const { name, autoRecover } = this.#layout.domain;
    const isSwitching = views.some(({ moving }) => moving) || openIntents(views).length > 0;
    const hosts: [WatchHost, WatchHost] = [
      watchHost(views[0], isSwitching),
      watchHost(views[1], isSwitching),
    ];
    return watchStep(name, autoRecover, hosts, this.#memory, this.#deps.nowMs());
  }

  async #recover(): Promise<void> {
    const layout = this.#layout;
    const { name } = layout.domain;
    try {
      const done = await this.#deps.withLocks(layout, async (hosts) => {
        // Somebody may have been here before the locks were ours.
        const step = this.#judge(await readBoth(hosts, name));
        if (step.do !== 'recover') return step.reason;
        return recoverDomain(layout, hosts, this.#deps, false);
      });
      this.#tell('info', 'done', done);
    } catch (error) {
      this.#memory = afterFailure(this.#memory, this.#deps.nowMs());
      const seconds = Math.round((this.#memory.notBeforeMs - this.#deps.nowMs()) / 1000);
      this.#tell('warn', `protection did not come back; next try in ${seconds} s`, firstLine(error));
    }
  }

  /** Each state once: what only counts on is the same state. */
  #tell(level: 'info' | 'warn', message: string, reason: string): void {
    const key = `${message} ${reason}`.replace(/[0-9]+/g, '0');
    if (key === this.#told) return;
    this.#told = key;
    this.#deps.log(level, message, { domain: this.#layout.domain.name, reason });
  }
}

function watchHost(view: ProtectionView, isSwitching: boolean): WatchHost {
  const { sender, receiver } = view;
  return {
    ...view,
    isSwitching,
    senderSays: typeof sender === 'string' ? null : { protection: sender.protection, reason: sender.reason },
    receiverSays: typeof receiver === 'string' ? null : { phase: receiver.phase, reason: receiver.reason },
  };
}

/** @throws what is not meant for people: a programming error */
function firstLine(error: unknown): string {
  if (!(error instanceof OperatorError || error instanceof HostError)) throw error;
  return error.message.split('\n').slice(0, 2).join(' ').trim();
}
