/**
 * Stands in for src/protect/sender.ts in the lab's sender (ledger-bundle.ts): the same Sender, which tells when its
 * marks, acknowledgements and releases were, and whether the guest was suspended meanwhile, and makes the fault that it
 * is asked for (ledger-log.ts has them).
 */
import { execFileSync } from 'node:child_process';
import { setTimeout as pause } from 'node:timers/promises';
import type { SenderOptions } from '../../src/core/protect/sender.js';
import { Sender as ProductSender } from '../../src/protect/sender.js';
import type { LinkEvents, SenderEdges, SenderLink } from '../../src/protect/sender.js';
import { guestWatcher } from './guest-state.js';
import { currentFault, SENDER_LOG, tell } from './ledger-log.js';
import type { Fault } from './ledger-log.js';

export * from '../../src/protect/sender.js';

/** Longer than the guest's memory of an epoch takes to get into a large pipe. */
const SLOW_MARKER_MS = 1_500;

export class Sender extends ProductSender {
  constructor(options: SenderOptions, edges: SenderEdges) {
    const domid = execFileSync('xl', ['domid', options.identity.domain], { encoding: 'utf8' });
    super(options, new Faults(edges, guestWatcher(Number(domid))).edges());
  }
}

class Faults {
  readonly #real: SenderEdges;
  readonly #look: ReturnType<typeof guestWatcher>;
  /** Markers that nobody has waited for. */
  #late: Promise<void> = Promise.resolve();
  readonly #early = new Map<number, Promise<void>>();
  readonly #released = new Set<number>();

  constructor(real: SenderEdges, look: ReturnType<typeof guestWatcher>) {
    this.#real = real;
    this.#look = look;
  }

  edges(): SenderEdges {
    const { network, barrier } = this.#real;
    return {
      ...this.#real,
      connect: (events) => this.#connect(events),
      network: network && { ...network, release: (epoch) => this.#release(epoch) },
      barrier: barrier && { write: (epoch) => this.#marker(epoch), close: () => barrier.close() },
    };
  }

  #marker(epoch: number): Promise<void> {
    const early = this.#early.get(epoch);
    if (early !== undefined) return early;
    const asked = currentFault();
    const fault = asked === 'early-barrier' ? 'none' : asked;
    const written = this.#late.then(() => this.#write(epoch, fault));
    if (fault !== 'gate-off') return written;
    this.#late = written;
    return Promise.resolve();
  }

  async #write(epoch: number, fault: Fault): Promise<void> {
    const before = this.#look();
    tell(SENDER_LOG, { event: 'marker', epoch, fault, timeMs: Date.now() });
    if (fault === 'gate-off' || fault === 'slow-marker') await pause(SLOW_MARKER_MS);
    await this.#real.barrier?.write(epoch);
    const after = this.#look();
    const wasSuspended = before.isSuspended && after.isSuspended;
    const ranNs = Number(after.cpuNs - before.cpuNs);
    tell(SENDER_LOG, { event: 'gate', epoch, fault, wasSuspended, ranNs });
  }

  async #connect(events: LinkEvents): Promise<SenderLink> {
    const link = await this.#real.connect({
      ...events,
      committed: (identity, epoch) => {
        tell(SENDER_LOG, { event: 'committed', epoch, timeMs: Date.now() });
        events.committed(identity, epoch);
      },
    });
    return {
      ...link,
      checkpoint: async (epoch, folded, bytes) => {
        await link.checkpoint(epoch, folded, bytes);
        if (!folded) await this.#sent(epoch);
      },
    };
  }

  async #sent(epoch: number): Promise<void> {
    const fault = currentFault();
    const next = epoch + 1;
    if (fault === 'early-barrier' && !this.#early.has(next)) {
      tell(SENDER_LOG, { event: 'marker', epoch: next, fault, timeMs: Date.now() });
      this.#early.set(next, this.#real.barrier?.write(next) ?? Promise.resolve());
    }
    if (fault === 'release-at-send' && epoch > 0 && !this.#released.has(epoch)) {
      this.#released.add(epoch);
      tell(SENDER_LOG, { event: 'release', epoch, fault, timeMs: Date.now() });
      await this.#real.network?.release(epoch);
    }
  }

  async #release(epoch: number): Promise<void> {
    if (this.#released.has(epoch)) return;
    tell(SENDER_LOG, { event: 'release', epoch, fault: 'none', timeMs: Date.now() });
    await this.#real.network?.release(epoch);
  }
}
