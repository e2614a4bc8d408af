/**
 * Stands in for src/protect/sender.ts in the test of power cuts: the same Sender, which stops at the points of a
 * checkpoint that it is asked to stop at (cuts-log.ts).
 */
import { execFileSync } from 'node:child_process';
import type { SenderOptions } from '../../src/core/protect/sender.js';
import { Sender as ProductSender } from '../../src/protect/sender.js';
import type { LinkEvents, SenderEdges, SenderLink } from '../../src/protect/sender.js';
import { isAsked, reached, stopAt, tellEyes, whileAsked } from './cuts-eyes.js';
import { guestWatcher } from './guest-state.js';

export * from '../../src/protect/sender.js';

export class Sender extends ProductSender {
  constructor(options: SenderOptions, edges: SenderEdges) {
    const domid = execFileSync('xl', ['domid', options.identity.domain], { encoding: 'utf8' });
    const look = guestWatcher(Number(domid));
    super(options, new Stops(edges, () => look().isSuspended).edges());
  }
}

class Stops {
  readonly #real: SenderEdges;
  readonly #isSuspended: () => boolean;
  /** The network's mark of the epoch that has begun. */
  #marked: Promise<void> = Promise.resolve();
  #isNarrow = false;
  /** It hears of no commit any more. */
  #isDeaf = false;
  #epoch = 0;
  #epochBytes = 0;
  #lastBytes = Infinity;
  #isHalf = false;

  constructor(real: SenderEdges, isSuspended: () => boolean) {
    this.#real = real;
    this.#isSuspended = isSuspended;
  }

  edges(): SenderEdges {
    const { input, network, barrier } = this.#real;
    return {
      ...this.#real,
      input: {
        ...input,
        widen: () => {
          // In one page of pipe the guest stays suspended for as long as nothing more is read.
          this.#isNarrow = isAsked('still');
          if (!this.#isNarrow) input.widen();
        },
      },
      connect: (events) => this.#connect(events),
      network: network && {
        ...network,
        mark: (epoch) => (this.#marked = this.#markNetwork(epoch)),
        release: (epoch) => this.#release(epoch),
      },
      barrier: barrier && { write: (epoch) => this.#writeMarker(epoch), close: () => barrier.close() },
      claim: async (...words) => {
        await whileAsked('no-claim');
        tellEyes({ event: 'claim', timeMs: Date.now(), text: words[0].reason });
        const outcome = await this.#real.claim(...words);
        tellEyes({ event: 'claimed', timeMs: Date.now(), text: `${outcome.decision}: ${outcome.reason}` });
        return outcome;
      },
    };
  }

  async #markNetwork(epoch: number): Promise<void> {
    await whileAsked('epoch-begun');
    await this.#real.network?.mark(epoch);
  }

  async #writeMarker(epoch: number): Promise<void> {
    await stopAt('epoch-begun', epoch, this.#isSuspended);
    if (isAsked('gate-shut')) {
      await this.#marked;
      await stopAt('gate-shut', epoch, this.#isSuspended);
    }
    const written = this.#real.barrier?.write(epoch);
    await stopAt('marker-issued', epoch, this.#isSuspended);
    await written;
    await stopAt('marker-written', epoch, this.#isSuspended);
  }

  async #connect(events: LinkEvents): Promise<SenderLink> {
    const link = await this.#real.connect({
      ...events,
      committed: (identity, epoch) => {
        if (!this.#isDeaf && reached('acknowledging', epoch)) this.#isDeaf = true;
        if (!this.#isDeaf) events.committed(identity, epoch);
      },
    });
    return {
      ...link,
      data: async (epoch, bytes) => {
        this.#count(epoch, bytes.length);
        if (this.#isNarrow) {
          this.#isNarrow = false;
          await stopAt('still', epoch, this.#isSuspended);
        }
        if (!this.#isHalf && this.#epochBytes > this.#lastBytes / 2) {
          this.#isHalf = true;
          await stopAt('memory-half', epoch);
        }
        await link.data(epoch, bytes);
      },
      checkpoint: async (epoch, folded, bytes) => {
        if (!folded) await stopAt('memory-sent', epoch);
        const isLast = !folded && isAsked('checkpoint-sent');
        if (isLast) this.#isDeaf = true;
        await link.checkpoint(epoch, folded, bytes);
        if (isLast) reached('checkpoint-sent', epoch);
      },
    };
  }

  #count(epoch: number, bytes: number): void {
    if (epoch !== this.#epoch) {
      this.#epoch = epoch;
      this.#lastBytes = this.#epochBytes;
      this.#epochBytes = 0;
      this.#isHalf = false;
    }
    this.#epochBytes += bytes;
  }

  async #release(epoch: number): Promise<void> {
    await stopAt('acknowledged', epoch);
    await this.#real.network?.release(epoch);
    await stopAt('released', epoch);
  }
}
