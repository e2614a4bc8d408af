/**
 * The backup's disk for `engine: protocol-d`: the DRBD module holds an epoch back in memory and applies it when its
 * barrier arrives. There is no journal, and nothing to roll forward or back from here.
 *
 *     prepare        shut the gate
 *     promote        when the sender asks: the module holds writes back only on a backup that is primary itself
 *     memory N       its state is read, before the sender is told: take-over.ts compares with it
 *     failover       disconnect, so that what is held back is dropped; which epoch is the disk at?
 *     giving up      disconnect where something is held back, secondary, connect: a resync puts right what was dropped
 */
import { OperatorError, ExitCode } from '../core/errors.js';
import { deferringDevice, sideText } from '../core/protocol-d/proc-drbd.js';
import type { DeferringDevice } from '../core/protocol-d/proc-drbd.js';
import { takeOver } from '../core/protocol-d/take-over.js';
import type { TakeOverFacts } from '../core/protocol-d/take-over.js';
import type { Executor } from '../journal/switch.js';
import { must } from './exec.js';
import type { BackupDisks } from './receiver.js';

/** What of a host is used, so that tests can put a fake in its place. */
export interface DeferringHost {
  exec: Executor;
  /** `/proc/drbd`. */
  procDrbd(): Promise<string>;
  setGate(state: 'shut' | 'open', reason: string): Promise<void>;
  removeGate(): Promise<void>;
  /** Of a session that this process or an earlier one has begun and not ended: its term. */
  session: { note(term: number): Promise<void>; read(): Promise<number | null>; forget(): Promise<void> };
  pause(ms: number): Promise<void>;
}

const COMMAND_MS = 60_000;
const LOOK_AGAIN_MS = 100;
/** How often the module is looked at until it has dropped or applied what it held back. */
const LOOKS_MAX = 300;

export class DeferringDisks implements BackupDisks {
  readonly #domain: string;
  readonly #minor: number;
  readonly #host: DeferringHost;
  #start: DeferringDevice | null = null;
  #complete: TakeOverFacts['complete'];
  #committed: number | undefined;

  constructor(domain: string, minor: number, host: DeferringHost) {
    this.#domain = domain;
    this.#minor = minor;
    this.#host = host;
  }

  /** @throws OperatorError where the module isn't as a session needs it; nothing was changed then */
  async prepare(): Promise<void> {
    const { protocol, connection, disk, peerDisk, deferredWrites } = await this.#look();
    const problems = [
      ...(protocol === 'D' ? [] : [`its protocol is ${protocol ?? 'none'}, D is required`]),
      ...(connection === 'Connected' ? [] : [`it is ${connection}, Connected is required`]),
      ...(disk === 'UpToDate' && peerDisk === 'UpToDate'
        ? []
        : [`its disks are ${disk}/${peerDisk}, UpToDate is required`]),
      ...(deferredWrites === 0 ? [] : [`it holds back ${deferredWrites} writes of an earlier session`]),
    ];
    if (problems.length > 0) {
      throw new OperatorError(
        `${this.#domain}: DRBD can't begin a session: ${problems.join('; ')}; nothing was changed`,
        ExitCode.refused,
      );
    }
    await this.#host.setGate('shut', `${this.#domain} is protected here by its other host`);
  }

  /**
   * After a receiver that died. Its copy is lost, so nothing here is of use to it any more.
   *
   * @param decide who goes on after its term
   * @returns false where there was nothing to do
   */
  async recover(decide: (term: number) => Promise<'roll-forward' | 'discard'>): Promise<boolean> {
    const term = await this.#host.session.read();
    if (term === null) return false;
    if ((await decide(term)) === 'roll-forward') {
      await this.#giveUp();
      await this.#host.removeGate();
    } else {
      // This host has won. Where the guest runs already its disk is in use, and stays as it is.
      await this.#host.exec(['drbdadm', 'disconnect', this.#domain], { timeoutMs: COMMAND_MS });
      await this.#host.exec(['drbdadm', 'secondary', this.#domain], { timeoutMs: COMMAND_MS });
    }
    await this.#host.session.forget();
    return true;
  }

  async startSession({ term }: { term: number }): Promise<void> {
    await this.#host.session.note(term);
  }

  async ask(what: 'look' | 'promote' | 'demote'): Promise<string> {
    if (what === 'promote') {
      // While it writes through, nothing is held back: what was received and what was written count from here.
      this.#start = await this.#look();
      await this.#drbdadm('primary');
    }
    if (what === 'demote') await this.#drbdadm('secondary');
    const text = await this.#host.procDrbd();
    this.#start ??= deferringDevice(text, this.#minor);
    return sideText(text, this.#minor);
  }

  async memoryComplete(epoch: number): Promise<string> {
    const text = await this.#host.procDrbd();
    this.#complete = { checkpoint: epoch, before: deferringDevice(text, this.#minor) };
    return sideText(text, this.#minor);
  }

  /** The module has applied it already; there is nothing that could be made durable from here. */
  commit(epoch: number): Promise<void> {
    this.#committed = epoch;
    if (this.#complete?.checkpoint === epoch) this.#complete = undefined;
    return Promise.resolve();
  }

  used(): { usedBytes: number; totalBytes: number } {
    return { usedBytes: 0, totalBytes: 0 };
  }

  async step(step: Parameters<BackupDisks['step']>[0]): Promise<void | { atEpoch: number }> {
    switch (step) {
      case 'disconnect':
        await this.#drbdadm('disconnect');
        return;
      case 'discard':
        return { atEpoch: await this.#epochOfDisk() };
      case 'promote':
        if ((await this.#look()).role !== 'Primary') await this.#drbdadm('primary');
        return;
      case 'mark-discarded':
        // What was dropped here is marked by the old primary, which never saw it acknowledged.
        return;
      case 'open-gate':
        await this.#host.setGate('open', `${this.#domain} was taken over by this host`);
        return;
      case 'settle':
        await this.#host.session.forget();
        return;
      case 'roll-forward':
        await this.#giveUp();
        return;
      case 'leave-journal':
        await this.#host.removeGate();
        await this.#host.session.forget();
        return;
      default:
        throw new Error(`step ${String(step satisfies never)}`);
    }
  }

  async #epochOfDisk(): Promise<number> {
    const [start, complete, committed] = [this.#start, this.#complete, this.#committed];
    // Never promoted, so it has held nothing back: "protect --no-disk".
    if (start === null) return committed ?? 0;
    for (let looks = 0; ; looks++) {
      const found = takeOver({
        ...(committed === undefined ? {} : { committed }),
        start,
        ...(complete === undefined ? {} : { complete }),
        after: await this.#look(),
      });
      if (found.decision === 'take') return found.checkpoint;
      if (found.decision === 'refuse' || looks >= LOOKS_MAX) {
        throw new Error(`which checkpoint the disk is at can't be told: ${found.reason}`);
      }
      await this.#host.pause(LOOK_AGAIN_MS);
    }
  }

  /**
   * Secondary again, with nothing held back. A write that was held back and that no barrier ever applies would be
   * missing here, and DRBD would not know: so the connection is dropped, for which the primary marks it. Secondary
   * first: a secondary holds nothing back any more, and of two primaries whose connection goes each begins a history
   * of its own.
   */
  async #giveUp(): Promise<void> {
    if ((await this.#look()).role === 'Primary') await this.#drbdadm('secondary');
    if ((await this.#look()).deferredWrites > 0) {
      await this.#drbdadm('disconnect');
      for (let looks = 0; (await this.#look()).deferredWrites > 0; looks++) {
        if (looks >= LOOKS_MAX) throw new Error('DRBD holds writes of the primary back without a connection');
        await this.#host.pause(LOOK_AGAIN_MS);
      }
    }
    if ((await this.#look()).connection !== 'StandAlone') return;
    // The syntax of 8.3. The copy here is gone: where both have a history of their own it is this one that goes.
    await must(['drbdadm', '--', '--discard-my-data', 'connect', this.#domain], COMMAND_MS, this.#host.exec);
  }

  async #look(): Promise<DeferringDevice> {
    return deferringDevice(await this.#host.procDrbd(), this.#minor);
  }

  async #drbdadm(verb: 'primary' | 'secondary' | 'disconnect'): Promise<void> {
    await must(['drbdadm', verb, this.#domain], COMMAND_MS, this.#host.exec);
  }
}
