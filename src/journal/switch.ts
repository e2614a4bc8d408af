/**
 * Exchanges what lies under DRBD while it is attached: the device-mapper devices of a domain's volumes point
 * at their LVs, or at NBD devices that the epoch journal serves.
 *
 *     to the journal:  connect NBD, compare sizes, read a block; load tables; suspend all; resume all
 *     to the LVs:      load tables; suspend all; bring what the journal holds to the LVs; resume all; disconnect NBD
 *
 * A table is loaded beside the active one first (dmsetup(8), "inactive table slot"), so that what can be refused
 * is refused before anything stands still. All volumes stand still together, because the journal's epochs span
 * them. Every step that changes something names what undoes it; after a failure the undos run in reverse order,
 * and resuming is among them: a suspended device would hang every reader and writer of the host.
 *
 * A server that doesn't answer: it is found by the read before anything is exchanged. On the way back a suspend
 * that takes too long is waiting for a request the server never answers; the NBD devices are then disconnected,
 * which fails those requests. They reach DRBD, which detaches; the result says so, and a resync is needed. DRBD
 * detaches only a volume that had such a request. Another one goes on with the LV, so the LV must by then have
 * all that DRBD was told is there: the journal is recovered before anything is resumed.
 *
 * Everything here is argument lists and an executor to run them, so that it can be tried without a device.
 */
import { OperatorError } from '../core/errors.js';

export interface SwitchVolume {
  /** Name of the device-mapper device, as in `remus-web-0`. */
  device: string;
  /** Device node of its LV. */
  lv: string;
  /** Device node of the NBD device reserved for it, as in `/dev/nbd0`. */
  nbd: string;
  /** Name of its export. */
  exportName: string;
  sizeBytes: number;
}

export interface ExecResult {
  /** Exit code; null when it was killed at its time-out. */
  code: number | null;
  stdout: string;
  stderr: string;
}

/** Runs a command; at its time-out kills it and resolves with code null. */
export type Executor = (argv: readonly string[], options: { timeoutMs: number }) => Promise<ExecResult>;

export interface SwitchStep {
  /** What it does, for the log and for errors. */
  what: string;
  argv: string[];
  timeoutMs: number;
  /** What takes it back, in this order; empty when it changes nothing. */
  undo: string[][];
  /** Looks at the output; returns in words what is wrong with it. */
  check?: (stdout: string) => string | null;
}

export interface SwitchOptions {
  exec: Executor;
  /** Time that one command may take. */
  timeoutMs?: number;
  /** Time that a device may take to finish the requests under way. */
  suspendMs?: number;
}

export interface SwitchResult {
  /** What was run, in order. */
  ran: string[];
  /** Requests were failed to get free of a server that doesn't answer: DRBD has detached or will. */
  requestsFailed: boolean;
}

const TIMEOUT_MS = 10_000;
const SUSPEND_MS = 10_000;
const SECTOR = 512;
const TOOK_TOO_LONG = 'took too long';

function sectors(volume: SwitchVolume): number {
  return volume.sizeBytes / SECTOR;
}

function table(volume: SwitchVolume, below: string): string {
  return `0 ${sectors(volume)} linear ${below} 0`;
}

function loadStep(volume: SwitchVolume, below: string, timeoutMs: number): SwitchStep {
  return {
    what: `load the table of ${volume.device} on ${below}`,
    argv: ['dmsetup', 'load', volume.device, '--table', table(volume, below)],
    timeoutMs,
    undo: [['dmsetup', 'clear', volume.device]],
  };
}

/** Steps that make the NBD devices ready and prove that the server answers; nothing under DRBD changes. */
export function planConnect(
  volumes: readonly SwitchVolume[],
  socketPath: string,
  timeoutMs = TIMEOUT_MS,
): SwitchStep[] {
  return volumes.flatMap((volume): SwitchStep[] => [
    {
      what: `connect ${volume.nbd} to ${volume.exportName}`,
      argv: ['nbd-client', '-unix', socketPath, volume.nbd, '-N', volume.exportName, '-b', '512'],
      timeoutMs,
      undo: [['nbd-client', '-d', volume.nbd]],
    },
    {
      what: `compare the size of ${volume.nbd}`,
      argv: ['blockdev', '--getsz', volume.nbd],
      timeoutMs,
      undo: [],
      check: (stdout) =>
        stdout.trim() === String(sectors(volume))
          ? null
          : `${stdout.trim()} sectors, ${sectors(volume)} are required`,
    },
    {
      what: `read from ${volume.nbd}`,
      argv: ['dd', `if=${volume.nbd}`, 'of=/dev/null', 'bs=4096', 'count=1', 'iflag=direct', 'status=none'],
      timeoutMs,
      undo: [],
    },
  ]);
}

/** Steps from the LVs to the connected NBD devices. */
export function planToJournal(
  volumes: readonly SwitchVolume[],
  options: Omit<SwitchOptions, 'exec'> = {},
): SwitchStep[] {
  return planExchange(volumes, (volume) => volume.nbd, options);
}

/** Steps from the NBD devices back to the LVs. */
export function planToLvs(
  volumes: readonly SwitchVolume[],
  options: Omit<SwitchOptions, 'exec'> = {},
): SwitchStep[] {
  return planExchange(volumes, (volume) => volume.lv, options);
}

function planExchange(
  volumes: readonly SwitchVolume[],
  below: (volume: SwitchVolume) => string,
  options: Omit<SwitchOptions, 'exec'>,
): SwitchStep[] {
  const timeoutMs = options.timeoutMs ?? TIMEOUT_MS;
  return [
    ...volumes.map((volume) => loadStep(volume, below(volume), timeoutMs)),
    ...volumes.map((volume) => ({
      what: `suspend ${volume.device}`,
      // No file system of ours is on it, and freezing one of the guest's is not possible from here.
      argv: ['dmsetup', 'suspend', '--nolockfs', volume.device],
      timeoutMs: options.suspendMs ?? SUSPEND_MS,
      // Resuming would make a loaded table the active one: it goes first.
      undo: [
        ['dmsetup', 'clear', volume.device],
        ['dmsetup', 'resume', volume.device],
      ],
    })),
  ];
}

function planResume(volumes: readonly SwitchVolume[], timeoutMs: number): SwitchStep[] {
  return volumes.map((volume) => ({
    what: `resume ${volume.device}`,
    argv: ['dmsetup', 'resume', volume.device],
    timeoutMs,
    undo: [],
  }));
}

/**
 * Puts the journal under the devices. On failure everything is as before.
 * @throws OperatorError with what failed and what was undone
 */
export async function switchToJournal(
  volumes: readonly SwitchVolume[],
  socketPath: string,
  options: SwitchOptions,
): Promise<SwitchResult> {
  const run = new SwitchRun(options, 'the epoch journal');
  const timeoutMs = options.timeoutMs ?? TIMEOUT_MS;
  await run.steps(planConnect(volumes, socketPath, timeoutMs));
  await run.steps(planToJournal(volumes, options));
  await run.resume(volumes, planResume(volumes, timeoutMs), (volume) => volume.lv);
  return run.result;
}

/**
 * Puts the LVs back. While the devices stand still `settle` must bring everything that counts to the LVs:
 * `journal.drained()`, after the session was ended, or `rollForward` first; where `requestsFailed`, the server
 * has not answered, and it must end its process and recover the journal. If it fails the LVs are not put there.
 * @param dead the server is known not to answer: requests under way are failed at once
 * @throws OperatorError with what failed and what was undone
 */
export async function switchToLvs(
  volumes: readonly SwitchVolume[],
  settle: (requestsFailed: boolean) => Promise<void>,
  options: SwitchOptions & { dead?: boolean },
): Promise<SwitchResult> {
  const run = new SwitchRun(options, 'the LVs');
  const timeoutMs = options.timeoutMs ?? TIMEOUT_MS;
  const disconnect = (volume: SwitchVolume): string[] => ['nbd-client', '-d', volume.nbd];
  if (options.dead === true) await run.failRequests(volumes.map(disconnect));
  await run.steps(planToLvs(volumes, options), async () => {
    if (run.result.requestsFailed) return false;
    await run.failRequests(volumes.map(disconnect));
    return true;
  });
  const { requestsFailed } = run.result;
  await run.hook(requestsFailed ? 'recover the journal' : 'wait until the journal has drained', () =>
    settle(requestsFailed),
  );
  await run.resume(volumes, planResume(volumes, timeoutMs), (volume) => volume.nbd);
  if (!requestsFailed) for (const volume of volumes) await run.quietly(disconnect(volume), timeoutMs);
  return run.result;
}

class SwitchRun {
  readonly result: SwitchResult = { ran: [], requestsFailed: false };
  private readonly options: SwitchOptions;
  private readonly goal: string;
  private readonly undos: string[][][] = [];

  constructor(options: SwitchOptions, goal: string) {
    this.options = options;
    this.goal = goal;
  }

  /** @param onTimeout called when a step took too long; true means to try it once more */
  async steps(steps: readonly SwitchStep[], onTimeout?: () => Promise<boolean>): Promise<void> {
    for (const step of steps) {
      let failure = await this.attempt(step);
      if (failure === TOOK_TOO_LONG && (await onTimeout?.()) === true) failure = await this.attempt(step);
      if (failure === null) continue;
      // A command that was killed may have done its work all the same.
      if (failure === TOOK_TOO_LONG) this.undos.push(step.undo);
      await this.fail(step.what, failure === TOOK_TOO_LONG ? `no end after ${step.timeoutMs} ms` : failure);
    }
  }

  async hook(what: string, action: () => Promise<void>): Promise<void> {
    try {
      await action();
    } catch (error) {
      await this.fail(what, error instanceof Error ? error.message : String(error));
    }
  }

  /** Resumes every device, and puts those back that were resumed already if one can't be. */
  async resume(
    volumes: readonly SwitchVolume[],
    steps: readonly SwitchStep[],
    before: (volume: SwitchVolume) => string,
  ): Promise<void> {
    for (const [index, step] of steps.entries()) {
      const failure = await this.attempt(step);
      const volume = volumes[index] as SwitchVolume;
      // A resume that was killed may have done its work.
      if (failure === null || failure === TOOK_TOO_LONG) {
        this.undos.push([
          ['dmsetup', 'suspend', '--nolockfs', volume.device],
          ['dmsetup', 'load', volume.device, '--table', table(volume, before(volume))],
          ['dmsetup', 'resume', volume.device],
        ]);
      }
      if (failure === null) continue;
      await this.fail(step.what, failure === TOOK_TOO_LONG ? `no end after ${step.timeoutMs} ms` : failure);
    }
  }

  async failRequests(commands: readonly string[][]): Promise<void> {
    this.result.requestsFailed = true;
    for (const argv of commands) await this.quietly(argv, this.options.timeoutMs ?? TIMEOUT_MS);
  }

  async quietly(argv: string[], timeoutMs: number): Promise<void> {
    this.result.ran.push(argv.join(' '));
    await this.options.exec(argv, { timeoutMs });
  }

  private async attempt(step: SwitchStep): Promise<string | null> {
    this.result.ran.push(step.argv.join(' '));
    const { code, stdout, stderr } = await this.options.exec(step.argv, { timeoutMs: step.timeoutMs });
    if (code === null) return TOOK_TOO_LONG;
    if (code !== 0) return `exit code ${code}: ${stderr.trim() || stdout.trim() || 'no output'}`;
    this.undos.push(step.undo);
    return step.check?.(stdout) ?? null;
  }

  private async fail(what: string, why: string): Promise<never> {
    const left: string[] = [];
    for (const argv of [...this.undos].reverse().flat()) {
      this.result.ran.push(argv.join(' '));
      const { code, stderr } = await this.options.exec(argv, {
        timeoutMs: this.options.timeoutMs ?? TIMEOUT_MS,
      });
      if (code !== 0)
        left.push(`${argv.join(' ')}: ${code === null ? 'no end' : stderr.trim() || `exit code ${code}`}`);
    }
    const state =
      left.length === 0
        ? this.result.requestsFailed
          ? 'the devices are on NBD devices without a server, which fail every request'
          : 'everything is as before'
        : `and could not be undone:\n  ${left.join('\n  ')}\nCheck with "dmsetup info" that no device is suspended`;
    throw new OperatorError(`switching to ${this.goal}: could not ${what}: ${why}; ${state}.`);
  }
}
