/**
 * A drill on the backup: `remus-drbd drill-run DOMAIN`, run by its unit for one order of the controller.
 *
 *     remove leftovers -> snapshots while the disks stand at one point -> guest -> check      (drill-cleanup follows)
 *
 * The disks of a protected domain stand at a commit while the receiver holds them (`target-hold.ts`); those that DRBD
 * writes itself stand while their devices are suspended. Whatever it is, production goes on: in the journal, and on the
 * primary. When the receiver has something else to do than to take checkpoints, the drill ends.
 */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { drillGuestConfig } from '../core/drill/guest.js';
import { newDrillReport } from '../core/drill/records.js';
import type { DrillOrder, DrillPhase, DrillReport } from '../core/drill/records.js';
import { drillTag, parseSnapshotStatus } from '../core/drill/snapshots.js';
import { drillGuest, guestConfigPath, lvmMapperName, lvPath, mapperPath } from '../core/names.js';
import { parseXlList } from '../core/parse/xen.js';
import type { Log } from '../edge/log.js';
import { readDrillOrder, removeDrill, SUSPENDED_MARK, writeDrillReport } from './drill-cleanup.js';
import { must } from './exec.js';
import { readHostDomain } from './host-domain.js';
import type { HostDomain } from './host-domain.js';
import { HOLD_SOCKET, withTargetsHeld } from './target-hold.js';

const COMMAND_MS = 30_000;
/** See drill-cleanup. */
const LVM_MS = 600_000;
const CREATE_MS = 300_000;
/** A Secondary that answers no write for longer than `ko-count` times `timeout`, 35 s, is dropped by its primary. */
const SUSPEND_MS_MAX = 20_000;
const LOOK_MS = 2_000;
/** Without a check the guest has to stay up for so long. */
const UP_MS = 30_000;
const OUTPUT_CHARS_MAX = 4_000;
const KILL_AFTER_MS = 5_000;

/** The drill's own verdict on itself. */
class DrillEnd extends Error {
  readonly outcome: 'failed' | 'refused';

  constructor(outcome: 'failed' | 'refused', reason: string) {
    super(reason);
    this.outcome = outcome;
  }
}

export async function runDrill(name: string, log: Log): Promise<void> {
  const here = await readHostDomain(name);
  const drill = new Drill(here, await readDrillOrder(here), log);
  await drill.run();
}

class Drill {
  readonly #here: HostDomain;
  readonly #order: DrillOrder;
  readonly #log: Log;
  readonly #report: DrillReport;

  constructor(here: HostDomain, order: DrillOrder, log: Log) {
    this.#here = here;
    this.#order = order;
    this.#log = log;
    this.#report = newDrillReport(order.id);
  }

  get #guest(): string {
    return drillGuest(this.#order.domain);
  }

  get #consolePath(): string {
    return join(this.#here.runDirectory, 'drill-console.log');
  }

  async run(): Promise<void> {
    try {
      await this.#enter('removing leftovers');
      const left = await removeDrill(this.#here);
      if (left.length > 0) throw new DrillEnd('refused', `of an earlier drill is left: ${left.join('; ')}`);
      await this.#enter('snapshots');
      await this.#takeSnapshots();
      await this.#enter('starting');
      await this.#timed('start', () => this.#start());
      await this.#enter('checking');
      const reason = await this.#timed('check', () => this.#check());
      this.#report.result = { outcome: 'passed', reason };
    } catch (error) {
      const outcome = error instanceof DrillEnd ? error.outcome : 'refused';
      this.#report.result = { outcome, reason: (error as Error).message };
    }
    this.#log.info('the drill is over', { domain: this.#order.domain, ...this.#report.result });
    await writeDrillReport(this.#here, this.#report);
  }

  async #enter(phase: DrillPhase): Promise<void> {
    this.#report.phase = phase;
    await writeDrillReport(this.#here, this.#report);
  }

  async #timed<T>(what: 'start' | 'check', work: () => Promise<T>): Promise<T> {
    const beganMs = performance.now();
    try {
      return await work();
    } finally {
      this.#report.timingsMs[what] = performance.now() - beganMs;
    }
  }

  async #takeSnapshots(): Promise<void> {
    const { source, snapshots } = this.#order;
    const make = async (): Promise<void> => {
      for (const snapshot of snapshots) {
        const { name, volumeGroup, origin, sizeBytes } = snapshot;
        await must(
          [
            ...['lvcreate', '--snapshot', '--name', name, '--size', `${sizeBytes}b`, '--yes'],
            ...['--addtag', drillTag(this.#order.domain), '--ignoremonitoring'],
            // It would read from the devices that are suspended, and wait for ever.
            ...['--config', 'devices/ignore_suspended_devices=1', `${volumeGroup}/${origin}`],
          ],
          LVM_MS,
        );
      }
    };
    if (source === 'protected') {
      const path = join(this.#here.runDirectory, HOLD_SOCKET);
      const held = await withTargetsHeld(path, make);
      Object.assign(this.#report, { term: held.term, epoch: held.epoch });
      Object.assign(this.#report.timingsMs, { hold: held.holdMs, snapshots: held.useMs });
    } else {
      await this.#whileSuspended(make);
    }
    for (const { name, volumeGroup, deviceBytes } of snapshots) {
      const table = `0 ${deviceBytes / 512} linear ${lvPath(volumeGroup, name)} 0`;
      await must(['dmsetup', 'create', name, '--table', table], COMMAND_MS);
    }
  }

  /** One device after the other: DRBD sends no write of a later write-ordering epoch before those of an earlier one. */
  async #whileSuspended(use: () => Promise<void>): Promise<void> {
    const { mappers } = this.#order;
    const mark = join(this.#here.runDirectory, SUSPENDED_MARK);
    let isLate = false;
    const resume = async (): Promise<void> => {
      const all = mappers.map((name) => must(['dmsetup', 'resume', name], COMMAND_MS));
      for (const one of await Promise.allSettled(all)) if (one.status === 'rejected') throw one.reason;
      await rm(mark, { force: true });
    };
    await writeFile(mark, '');
    const beganMs = performance.now();
    const limit = setTimeout(() => {
      isLate = true;
      void resume().catch((error: unknown) => {
        this.#log.error('a device stays suspended', { reason: (error as Error).message });
      });
    }, SUSPEND_MS_MAX);
    try {
      for (const name of mappers) await must(['dmsetup', 'suspend', '--nolockfs', name], COMMAND_MS);
      const heldMs = performance.now();
      await use();
      Object.assign(this.#report.timingsMs, {
        hold: heldMs - beganMs,
        snapshots: performance.now() - heldMs,
      });
    } finally {
      clearTimeout(limit);
      await resume();
    }
    if (isLate) {
      throw new DrillEnd('refused', `the snapshots were not made within ${SUSPEND_MS_MAX / 1000} s`);
    }
  }

  async #start(): Promise<void> {
    const { domain, snapshots, cpus } = this.#order;
    const path = guestConfigPath(domain);
    const text = drillGuestConfig(await readFile(path, 'utf8'), path, domain, snapshots, randomUUID(), cpus);
    const configPath = join(this.#here.runDirectory, 'drill.cfg');
    await writeFile(configPath, text, { mode: 0o600 });
    try {
      // No xl stays behind for it: what becomes of the guest is the drill's own to see.
      await must(['xl', 'create', '-e', configPath], CREATE_MS);
    } catch (error) {
      throw new DrillEnd('failed', `the guest does not start: ${(error as Error).message}`);
    }
  }

  /** @returns what it passed with */
  async #check(): Promise<string> {
    const over = new AbortController();
    const kept = this.#keepConsole(over.signal).catch((error: unknown) => {
      if (!over.signal.aborted) this.#log.warn('no console', { reason: (error as Error).message });
    });
    try {
      const watch = this.#watch(over.signal);
      const { check } = this.#order;
      const reason = await Promise.race([
        check === null ? this.#stayUp(over.signal) : this.#runCheck(check, over.signal),
        watch,
      ]);
      // What filled up in the last moment spoils what the check has seen.
      await this.#lookAtSnapshots();
      return reason;
    } finally {
      over.abort();
      await kept;
    }
  }

  /** Ends only with what ends the drill. */
  async #watch(signal: AbortSignal): Promise<never> {
    for (;;) {
      await this.#lookAtSnapshots();
      await this.#lookAtReceiver();
      await pause(LOOK_MS, undefined, { signal });
    }
  }

  async #lookAtSnapshots(): Promise<void> {
    for (const { vdev, name, volumeGroup, sizeBytes } of this.#order.snapshots) {
      const text = await must(['dmsetup', 'status', lvmMapperName(volumeGroup, name)], COMMAND_MS);
      const state = parseSnapshotStatus(text);
      if (typeof state === 'string') {
        throw new DrillEnd(
          'refused',
          `the snapshot of ${vdev} is of no use any more (${state}): more than its ${sizeBytes / 2 ** 20} MiB were written ` +
            'to it or to what it is of; give drill.snapshotSize a larger value. The disks of the backup are as they have to be',
        );
      }
      this.#report.usedPercent[vdev] = state;
    }
  }

  async #lookAtReceiver(): Promise<void> {
    if (this.#order.source !== 'protected') return;
    const text = await readFile(join(this.#here.runDirectory, 'receiver.json'), 'utf8');
    const { term, phase } = JSON.parse(text) as { term: number; phase: string };
    if (term === this.#report.term && phase === 'on') return;
    throw new DrillEnd('refused', `the receiver is ${phase} in term ${term}: production comes first`);
  }

  async #stayUp(signal: AbortSignal): Promise<string> {
    const untilMs = performance.now() + UP_MS;
    while (performance.now() < untilMs) {
      const guests = parseXlList(await must(['xl', 'list'], COMMAND_MS));
      const state = guests.find(({ name }) => name === this.#guest)?.state ?? 'gone';
      if (state === 'gone' || state[3] === 's') {
        throw new DrillEnd('failed', `the guest did not stay up (xl list: ${state})`);
      }
      await pause(LOOK_MS, undefined, { signal });
    }
    return `the guest has been up for ${UP_MS / 1000} s; there is no check`;
  }

  async #runCheck(argv: readonly string[], signal: AbortSignal): Promise<string> {
    const { timeoutMs, snapshots } = this.#order;
    const { term, epoch } = this.#report;
    const domid = (await must(['xl', 'domid', this.#guest], COMMAND_MS)).trim();
    const [program = '', ...args] = argv;
    const child = spawn(program, args, {
      // A group of its own, so that all of it can be ended.
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: {
        ...process.env,
        REMUS_DRILL_GUEST: this.#guest,
        REMUS_DRILL_DOMID: domid,
        REMUS_DRILL_CONSOLE: this.#consolePath,
        REMUS_DRILL_DISKS: snapshots.map(({ vdev, name }) => `${vdev}=${mapperPath(name)}`).join(' '),
        REMUS_DRILL_COMMIT: term === null ? '' : `${term}/${epoch}`,
      },
    });
    let output = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text: string) => {
        output = (output + text).slice(-OUTPUT_CHARS_MAX);
      });
    }
    const end = (): void => endGroup(child);
    signal.addEventListener('abort', end);
    let isLate = false;
    const limit = setTimeout(() => {
      isLate = true;
      end();
    }, timeoutMs);
    try {
      const [code] = (await once(child, 'close')) as [number | null];
      this.#report.check = { exitCode: isLate ? null : code, output };
      if (isLate) throw new DrillEnd('failed', `the check had not ended after ${timeoutMs / 1000} s`);
      if (code !== 0) throw new DrillEnd('failed', `the check ended with ${code ?? 'a signal'}`);
      return 'the check ended with 0';
    } catch (error) {
      if (error instanceof DrillEnd) throw error;
      throw new DrillEnd('failed', `the check could not be run: ${(error as Error).message}`);
    } finally {
      clearTimeout(limit);
      signal.removeEventListener('abort', end);
    }
  }

  /** What the guest prints, for the check to read. xl follows the console only when it is there. */
  async #keepConsole(signal: AbortSignal): Promise<void> {
    const file = openSync(this.#consolePath, 'w', 0o600);
    try {
      while (!signal.aborted) {
        const child = spawn('xl', ['console', this.#guest], { stdio: ['ignore', file, 'ignore'] });
        const end = (): boolean => child.kill();
        signal.addEventListener('abort', end);
        await once(child, 'close');
        signal.removeEventListener('abort', end);
        await pause(LOOK_MS / 2, undefined, { signal });
      }
    } finally {
      closeSync(file);
    }
  }
}

function endGroup(child: ChildProcess): void {
  const { pid } = child;
  if (pid === undefined) return;
  const kill = (signal: NodeJS.Signals): void => {
    try {
      process.kill(-pid, signal);
    } catch {
      // All of it has ended.
    }
  };
  kill('SIGTERM');
  setTimeout(() => kill('SIGKILL'), KILL_AFTER_MS).unref();
}
