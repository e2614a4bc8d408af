/**
 * Stands in for src/protect/sender.ts in the lab's sender (ledger-bundle.ts): the same Sender, which tells when its
 * marks, acknowledgements and releases were, and makes the fault that it is asked for (ledger-log.ts has them).
 */
import { setTimeout as pause } from 'node:timers/promises';
import type { SenderOptions } from '../../src/core/protect/sender.js';
import { Sender as ProductSender } from '../../src/protect/sender.js';
import type { LinkEvents, SenderEdges, SenderLink } from '../../src/protect/sender.js';
import { currentFault, SENDER_LOG, tell } from './ledger-log.js';
import type { Fault } from './ledger-log.js';

export * from '../../src/protect/sender.js';

/** Longer than the guest's memory of an epoch takes to get into a large pipe. */
const SLOW_MARKER_MS = 1_500;

export class Sender extends ProductSender {
  constructor(options: SenderOptions, edges: SenderEdges) {
    super(options, new Faults(edges).edges());
  }
}

class Faults {
  readonly #real: SenderEdges;
  /** Nothing holds the guest of the epoch that begins next. */
  #gateIsOff = false;
  readonly #early = new Map<number, Promise<void>>();
  readonly #released = new Set<number>();

  constructor(real: SenderEdges) {
    this.#real = real;
  }

  edges(): SenderEdges {
    const { input, network, barrier } = this.#real;
    return {
      ...this.#real,
      input: {
        readUpTo: (bytes) => input.readUpTo(bytes),
        narrow: () => this.#narrow(),
        widen: () => input.widen(),
        close: () => input.close(),
      },
      connect: (events) => this.#connect(events),
      network: network && { ...network, release: (epoch) => this.#release(epoch) },
      barrier: barrier && { write: (epoch) => this.#marker(epoch), close: () => barrier.close() },
    };
  }

  #narrow(): boolean {
    this.#gateIsOff = currentFault() === 'gate-off';
    return this.#gateIsOff || this.#real.input.narrow();
  }

  async #marker(epoch: number): Promise<void> {
    const early = this.#early.get(epoch);
    if (early !== undefined) return early;
    const asked = currentFault();
    let fault: Fault = 'none';
    if (this.#gateIsOff) fault = 'gate-off';
    else if (asked === 'slow-marker' || asked === 'release-at-send') fault = asked;
    this.#gateIsOff = false;
    tell(SENDER_LOG, { event: 'marker', epoch, fault, timeMs: Date.now() });
    if (fault === 'gate-off' || fault === 'slow-marker') await pause(SLOW_MARKER_MS);
    await this.#real.barrier?.write(epoch);
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
