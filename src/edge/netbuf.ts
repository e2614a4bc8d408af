/**
 * Holds what a protected guest sends until its checkpoint is committed: `ip` and `tc` carried out.
 *
 *     install (open) -> mark n, release n, ... -> remove
 *
 * Marks and releases go through one `tc -batch -` that stays, as starting a process costs more than the rest. It
 * runs without `-force`: at the first line that fails it says why on standard error and ends, so a line can't
 * fail unseen. Lines that change something are followed by `qdisc show`, whose answer (tc flushes after each line)
 * says that all before it were carried out. A child that has ended, or does not answer in time, makes every later
 * call fail; the queues stay as they are, shut if they were shut. `remove` needs nothing of it.
 *
 * The rules are in src/core/netbuf.
 */
import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { ExitCode, OperatorError } from '../core/errors.js';
import { bufferStatus, earlyBytes, isSettled, markPlace } from '../core/netbuf/account.js';
import type { BufferStatus, MarkPlace } from '../core/netbuf/account.js';
import * as line from '../core/netbuf/commands.js';
import type { Hold } from '../core/netbuf/commands.js';
import { initialMarks, stepMarks } from '../core/netbuf/marks.js';
import type { MarkState } from '../core/netbuf/marks.js';
import { redirectCookie } from '../core/netbuf/names.js';
import { parseFilters, parseLinks, parseQueues } from '../core/netbuf/parse.js';
import type { QueueFacts } from '../core/netbuf/parse.js';
import * as plan from '../core/netbuf/plan.js';
import type { HostNetwork } from '../core/netbuf/plan.js';

/**
 * What went wrong:
 * `refused`: not installed, and nothing changed; `command`: `ip` or `tc` failed or ended; `timeout`: it did not
 * answer; `stalled`: a queue does not let go what was released; `leaked`: packets left before their commit;
 * `bypassed`: an interface's output does not go through our queue any more.
 */
export type NetbufFault = 'refused' | 'command' | 'timeout' | 'stalled' | 'leaked' | 'bypassed';

export class NetbufError extends OperatorError {
  readonly fault: NetbufFault;

  constructor(fault: NetbufFault, message: string) {
    super(message, fault === 'refused' ? ExitCode.refused : ExitCode.failed);
    this.name = 'NetbufError';
    this.fault = fault;
  }
}

export interface NetbufOptions {
  domain: string;
  /** Most that may wait, an interface; further packets are dropped. */
  limitBytes?: number;
  /** How long `tc` may take to answer, and a queue to let go what was released. */
  timeoutMs?: number;
}

export interface MarkResult {
  reason: string;
  durationMs: number;
}

const TIMEOUT_MS = 5000;
/** For one command from its start to its end; ends a hang, and is not reached on a host that is only busy. */
const COMMAND_MS = 30_000;
const POLL_MS = 1;
/** A queue that has let go nothing for so long is woken again. */
const WAKE_MS = 20;
const STDERR_CHARS_MAX = 4096;
const ANSWER_CHARS_MAX = 1 << 20;

export class NetworkBuffer {
  readonly #domain: string;
  readonly #limitBytes: number;
  readonly #timeoutMs: number;
  readonly #holds: readonly Hold[];
  readonly #tc: TcBatch;
  #marks: MarkState = initialMarks;
  /** Where the pending mark lies, and the last one that was released (nothing while open); by ifb. */
  #pending = new Map<string, MarkPlace>();
  #released = new Map<string, MarkPlace>();
  #droppedBefore = new Map<string, number>();

  private constructor(options: Required<NetbufOptions>, holds: readonly Hold[]) {
    this.#domain = options.domain;
    this.#limitBytes = options.limitBytes;
    this.#timeoutMs = options.timeoutMs;
    this.#holds = holds;
    this.#tc = new TcBatch(options.domain, options.timeoutMs);
  }

  /**
   * Leads the output of a guest's interfaces through queues of ours. They are open until the first mark.
   *
   * @param holds from `chooseVifs`
   * @throws NetbufError; what was made is taken away again
   */
  static async install(options: NetbufOptions, holds: readonly Hold[]): Promise<NetworkBuffer> {
    const { domain, timeoutMs = TIMEOUT_MS, limitBytes = line.LIMIT_BYTES_DEFAULT } = options;
    if (!Number.isInteger(limitBytes) || limitBytes < 1 || limitBytes > line.LIMIT_BYTES_MAX) {
      throw new RangeError(`limit of ${limitBytes} bytes`);
    }
    const planned = plan.planInstall(domain, holds, await look(domain));
    if ('problem' in planned) {
      throw new NetbufError('refused', `${domain}: its network can't be held: ${planned.problem}`);
    }
    try {
      await ip(domain, [
        ...planned.halfMade.map(line.deleteLine),
        ...holds.flatMap((hold) => line.createLines(domain, hold)),
      ]);
      await tc(
        domain,
        holds.flatMap((hold) => line.plugLines(hold, limitBytes)),
      );
      await ip(domain, holds.map(line.upLine));
      await tc(
        domain,
        planned.holds.flatMap(({ hold, hasHook }) => line.redirectLines(domain, hold, hasHook)),
      );
      await verify(domain, holds);
    } catch (error) {
      await removeBuffers(domain);
      throw error;
    }
    return new NetworkBuffer({ domain, limitBytes, timeoutMs }, holds);
  }

  /**
   * Marks the end of epoch `checkpoint` in every queue. The guest must be suspended until it returns: a packet that
   * arrives during it may be counted on either side.
   *
   * @throws NetbufError
   */
  async mark(checkpoint: number): Promise<MarkResult> {
    const startedMs = performance.now();
    const step = stepMarks(this.#marks, { kind: 'mark', checkpoint });
    this.#marks = step.state;
    if (step.effect === 'shut') await this.#shut();
    if (step.effect === 'block') {
      const before = this.#show();
      const after = this.#send(line.blockLine);
      const [was, is] = await Promise.all([before, after]);
      this.#refuseEarly(was);
      this.#pending = this.#places((ifb) => markPlace(fact(was, ifb), fact(is, ifb)));
    }
    return { reason: step.reason, durationMs: performance.now() - startedMs };
  }

  /**
   * Lets go what was sent before checkpoint `checkpoint` was marked, and waits until it has left. To be called when
   * the backup has committed it.
   *
   * @throws NetbufError
   */
  async release(checkpoint: number): Promise<MarkResult> {
    const startedMs = performance.now();
    const step = stepMarks(this.#marks, { kind: 'release', checkpoint });
    this.#marks = step.state;
    if (step.effect === 'release') {
      this.#released = this.#pending;
      await this.#drain(startedMs);
    }
    return { reason: step.reason, durationMs: performance.now() - startedMs };
  }

  /** Lets go everything, and holds nothing until the next mark. */
  async open(): Promise<MarkResult> {
    const startedMs = performance.now();
    const step = stepMarks(this.#marks, { kind: 'open' });
    this.#marks = step.state;
    this.#released = new Map();
    await this.#send(line.openLine);
    return { reason: step.reason, durationMs: performance.now() - startedMs };
  }

  /**
   * What waits now. Packets dropped since the last call make it `full`.
   *
   * @throws NetbufError also when the output is not led to the queues any more
   */
  async stats(): Promise<BufferStatus & { queues: Map<string, QueueFacts> }> {
    const [shown] = await Promise.all([this.#show(), this.#refuseBypass()]);
    this.#refuseEarly(shown);
    const queues = new Map(this.#holds.map(({ vif, ifb }) => [vif, fact(shown, ifb)]));
    const held = this.#marks.phase === 'held';
    const status = bufferStatus(this.#domain, held, queues, this.#droppedBefore, this.#limitBytes);
    this.#droppedBefore = new Map([...queues].map(([vif, queue]) => [vif, queue.droppedPackets]));
    return { ...status, queues };
  }

  /** Opens the queues and takes all away. Works also after any failure. */
  async remove(): Promise<RemovalResult> {
    this.#marks = stepMarks(this.#marks, { kind: 'open' }).state;
    this.#tc.end();
    return removeBuffers(this.#domain);
  }

  /** Pid of the `tc` that stays, for tests and the log. */
  get tcPid(): number | undefined {
    return this.#tc.pid;
  }

  /**
   * From open to held. A packet that is on its way out at that moment was not counted, and would make the queue run
   * one packet late for ever; so a queue that is not empty is opened again until it is. Nothing is protected yet:
   * such a packet may leave.
   */
  async #shut(): Promise<void> {
    const endMs = performance.now() + this.#timeoutMs;
    for (;;) {
      const shown = await this.#send(line.blockLine);
      if (this.#marks.phase === 'open') return void (await this.#send(line.openLine));
      if ([...shown.values()].every((queue) => queue.backlogPackets === 0)) {
        this.#released = this.#places((ifb) => markPlace(fact(shown, ifb), fact(shown, ifb)));
        return;
      }
      if (performance.now() > endMs) {
        throw new NetbufError(
          'stalled',
          `${this.#domain}: the network can't be shut: the queue was never empty for ${this.#timeoutMs} ms; ` +
            `the guest has to be suspended at a mark`,
        );
      }
      await this.#send(line.openLine);
      await sleep(POLL_MS);
    }
  }

  async #drain(startedMs: number): Promise<void> {
    const leaving = this.#marks.phase === 'held' ? this.#marks.pending : null;
    // Opened meanwhile, and perhaps shut again, everything has left; a release now would be for another mark.
    const isOurs = (): boolean => this.#marks.phase === 'held' && this.#marks.pending === leaving;
    let wakeMs = startedMs;
    while (leaving && isOurs()) {
      const nowMs = performance.now();
      const wake = nowMs >= wakeMs;
      if (wake) wakeMs = nowMs + WAKE_MS;
      // No newer mark can be there while this one is leaving, so releasing again only wakes the queue.
      const shown = await (wake ? this.#send(line.releaseLine) : this.#show());
      if (!isOurs()) return;
      this.#refuseEarly(shown);
      if ([...shown].every(([ifb, queue]) => isSettled(place(this.#released, ifb), queue))) {
        this.#marks = stepMarks(this.#marks, { kind: 'settled', checkpoint: leaving.checkpoint }).state;
        return;
      }
      if (nowMs - startedMs > this.#timeoutMs) {
        throw new NetbufError(
          'stalled',
          `${this.#domain}: packets released at checkpoint ${leaving.checkpoint} have not left for ` +
            `${this.#timeoutMs} ms; the queue is still shut. Remove the network buffering`,
        );
      }
      await sleep(POLL_MS);
    }
  }

  /** More has left than was released: the guarantee is broken, and nothing may go on as if it were not. */
  #refuseEarly(shown: ReadonlyMap<string, QueueFacts>): void {
    if (this.#marks.phase === 'open') return;
    for (const { vif, ifb } of this.#holds) {
      const released = this.#released.get(ifb);
      const bytes = released ? earlyBytes(released, fact(shown, ifb)) : 0;
      if (bytes > 0) {
        throw new NetbufError(
          'leaked',
          `${this.#domain}: ${bytes} bytes left ${vif} before their checkpoint was committed`,
        );
      }
    }
  }

  async #refuseBypass(): Promise<void> {
    const cookie = redirectCookie(this.#domain);
    const answers = await this.#tc.run(
      this.#holds.map(({ vif }) => ({ text: line.filtersLine(vif), answers: true })),
    );
    for (const [index, { vif, ifb }] of this.#holds.entries()) {
      if (!parseFilters(answers[index] ?? '', cookie).ours.some(({ to }) => to === ifb)) {
        throw new NetbufError(
          'bypassed',
          `${this.#domain}: what ${vif} sends is not led to ${ifb} any more; its packets are not held`,
        );
      }
    }
  }

  #places(make: (ifb: string) => MarkPlace): Map<string, MarkPlace> {
    return new Map(this.#holds.map(({ ifb }) => [ifb, make(ifb)]));
  }

  #show(): Promise<Map<string, QueueFacts>> {
    return this.#send();
  }

  /** Sends a line for each queue, and then looks at each. */
  async #send(command?: (ifb: string) => string): Promise<Map<string, QueueFacts>> {
    const ifbs = this.#holds.map(({ ifb }) => ifb);
    const answers = await this.#tc.run([
      ...(command ? ifbs.map((ifb) => ({ text: command(ifb), answers: false })) : []),
      ...ifbs.map((ifb) => ({ text: line.showLine(ifb), answers: true })),
    ]);
    return new Map(
      ifbs.map((ifb, index) => {
        const plug = parseQueues(answers[index] ?? '').find((queue) => queue.root);
        if (plug?.kind !== 'plug') {
          throw new NetbufError(
            'command',
            `${this.#domain}: the queue of ${ifb} is gone; its packets are not held`,
          );
        }
        return [ifb, plug];
      }),
    );
  }
}

function fact(shown: ReadonlyMap<string, QueueFacts>, ifb: string): QueueFacts {
  const queue = shown.get(ifb);
  if (!queue) throw new Error(`no answer for ${ifb}`);
  return queue;
}

function place(places: ReadonlyMap<string, MarkPlace>, ifb: string): MarkPlace {
  const found = places.get(ifb);
  if (!found) throw new Error(`no mark in ${ifb}`);
  return found;
}

export interface RemovalResult {
  /** Devices and redirects that were taken away; empty when there was nothing. */
  removed: string[];
  /** Packets that could not be let go within the time; 0 unless the interface is gone or stands still. */
  lostPackets: number;
}

/** How often a removal starts anew when an interface goes away under it. */
const REMOVAL_ATTEMPTS = 3;

/**
 * Takes away whatever buffering of a domain is on this host, whoever made it, and leaves its interfaces flowing: opens
 * the queues, waits until they are empty, takes the redirects away, waits again, deletes the devices.
 *
 * @throws NetbufError when something could not be taken away
 */
export async function removeBuffers(domain: string, drainMs = TIMEOUT_MS): Promise<RemovalResult> {
  const result: RemovalResult = { removed: [], lostPackets: 0 };
  for (let attempt = 1; ; attempt++) {
    try {
      await removeOnce(domain, drainMs, result);
      return result;
    } catch (error) {
      if (!(error instanceof NetbufError) || attempt === REMOVAL_ATTEMPTS) throw error;
    }
  }
}

async function removeOnce(domain: string, drainMs: number, result: RemovalResult): Promise<void> {
  const found = await look(domain);
  const devices = plan.ownDevices(domain, found);
  const redirects = plan.ownRedirects(found);
  const plugged = new Set(
    found.queues.flatMap(({ kind, root, device }) => (kind === 'plug' && root && device ? [device] : [])),
  );
  await ip(
    domain,
    devices.filter(({ up }) => !up).map((device) => line.upLine(device)),
  );
  await tc(
    domain,
    devices.filter(({ ifb }) => plugged.has(ifb)).map(({ ifb }) => line.openLine(ifb)),
  );
  await drained(domain, drainMs);
  await tc(
    domain,
    redirects.map(({ vif, preference }) => line.takeRedirectLine(vif, preference)),
  );
  result.removed.push(...redirects.map(({ vif }) => `redirect of ${vif}`));
  const vifs = new Set([...devices, ...redirects].map(({ vif }) => vif));
  await tc(domain, plan.emptyHooks(vifs, await look(domain)).map(line.takeClsactLine));
  result.lostPackets += await drained(domain, drainMs);
  await ip(
    domain,
    devices.map(({ ifb }) => line.deleteLine(ifb)),
  );
  result.removed.push(...devices.map(({ ifb }) => ifb));
  const after = await look(domain);
  const left = [...plan.ownDevices(domain, after), ...plan.ownRedirects(after)];
  if (left.length > 0) {
    throw new NetbufError(
      'command',
      `${domain}: network buffering is still there after its removal (${left.map(({ vif }) => vif).join(', ')})`,
    );
  }
}

/** Waits until nothing is held; resolves to the packets that still are when the time is over. */
async function drained(domain: string, drainMs: number): Promise<number> {
  const endMs = performance.now() + drainMs;
  for (;;) {
    const [links, queues] = await Promise.all([readLinks(domain), readQueues(domain)]);
    const held = plan
      .ownDevices(domain, { links })
      .reduce((sum, device) => sum + plan.heldPackets(device, queues), 0);
    if (held === 0 || performance.now() > endMs) return held;
    await sleep(POLL_MS);
  }
}

async function verify(domain: string, holds: readonly Hold[]): Promise<void> {
  const found = await look(domain);
  for (const { vif, ifb } of holds) {
    const led = found.ingress.get(vif)?.ours.some(({ to }) => to === ifb) === true;
    const queued = found.queues.some(({ device, kind, root }) => device === ifb && root && kind === 'plug');
    const up = found.links.some((link) => link.name === ifb && link.up);
    if (!led || !queued || !up) {
      throw new NetbufError(
        'command',
        `${domain}: the output of ${vif} is not held although every command succeeded ` +
          `(redirected: ${led}, queue: ${queued}, up: ${up})`,
      );
    }
  }
}

async function look(domain: string): Promise<HostNetwork> {
  const [links, queues] = await Promise.all([readLinks(domain), readQueues(domain)]);
  const devices = plan.hookedDevices(queues);
  const answers = (
    await tc(
      domain,
      devices.flatMap((device) => [line.filtersLine(device), line.egressFiltersLine(device)]),
    )
  )
    .split('\n')
    .filter((text) => text.trim() !== '');
  const filters = (offset: number): Map<string, plan.Filters> =>
    new Map(
      devices.map((device, index) => [
        device,
        parseFilters(answers[2 * index + offset] ?? '', redirectCookie(domain)),
      ]),
    );
  return { links, queues, ingress: filters(0), egress: filters(1) };
}

async function readLinks(domain: string): Promise<HostNetwork['links']> {
  return parseLinks(await run(domain, 'ip', ['-s', '-d', '-j', 'link', 'show'], ''));
}

async function readQueues(domain: string): Promise<QueueFacts[]> {
  return parseQueues(await run(domain, 'tc', ['-s', '-j', 'qdisc', 'show'], ''));
}

async function ip(domain: string, lines: readonly string[]): Promise<void> {
  if (lines.length > 0) await run(domain, 'ip', ['-batch', '-'], `${lines.join('\n')}\n`);
}

async function tc(domain: string, lines: readonly string[]): Promise<string> {
  if (lines.length === 0) return '';
  return run(domain, 'tc', ['-j', '-batch', '-'], `${lines.join('\n')}\n`);
}

/** A command from its start to its end. @throws NetbufError when it does not exit with 0 in time */
function run(domain: string, program: string, args: readonly string[], input: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = start(program, args);
    let stdout = '';
    let stderr = '';
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      child.kill('SIGKILL');
    }, COMMAND_MS);
    const fail = (fault: NetbufFault, what: string): void =>
      reject(new NetbufError(fault, `${domain}: ${program} ${args.join(' ')}: ${what}: ${stderr.trim()}`));
    child.stdout.on('data', (text: string) => (stdout += text));
    child.stderr.on('data', (text: string) => (stderr = (stderr + text).slice(0, STDERR_CHARS_MAX)));
    child.on('error', (error) => {
      clearTimeout(timer);
      fail('command', error.message);
    });
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      if (late) fail('timeout', `no answer within ${COMMAND_MS} ms`);
      else if (code !== 0) fail('command', `ended with ${signal ?? code}, given ${JSON.stringify(input)}`);
      else resolve(stdout);
    });
    // A child that has ended already is reported by its exit.
    child.stdin.on('error', () => undefined);
    child.stdin.end(input);
  });
}

function start(program: string, args: readonly string[]): ChildProcessWithoutNullStreams {
  const child = spawn(program, args, { env: { ...process.env, LC_ALL: 'C' }, stdio: 'pipe' });
  child.stdout.setEncoding('utf8');
  child.stderr.setEncoding('utf8');
  return child;
}

interface BatchLine {
  text: string;
  /** Whether `tc` prints one line for it. */
  answers: boolean;
}

interface Waiting {
  missing: number;
  answers: string[];
  resolve: (answers: string[]) => void;
  reject: (error: Error) => void;
  timer: NodeJS.Timeout;
}

/** One `tc -batch -` that stays. Requests are answered in order. */
class TcBatch {
  readonly #domain: string;
  readonly #timeoutMs: number;
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #waiting: Waiting[] = [];
  #failed: NetbufError | undefined;
  #rest = '';
  #stderr = '';

  constructor(domain: string, timeoutMs: number) {
    this.#domain = domain;
    this.#timeoutMs = timeoutMs;
    this.#child = start('tc', ['-s', '-j', '-batch', '-']);
    this.#child.stdout.on('data', (text: string) => this.#take(text));
    this.#child.stderr.on('data', (text: string) => {
      this.#stderr = (this.#stderr + text).slice(0, STDERR_CHARS_MAX);
    });
    this.#child.stdin.on('error', () => undefined);
    this.#child.on('error', (error) => this.#fail('command', error.message));
    this.#child.on('close', (code, signal) => {
      this.#fail('command', `it has ended with ${signal ?? code}: ${this.#stderr.trim()}`);
    });
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** @throws NetbufError when a line fails, or the child has ended or does not answer */
  run(lines: readonly BatchLine[]): Promise<string[]> {
    if (this.#failed) return Promise.reject(this.#failed);
    const missing = lines.filter(({ answers }) => answers).length;
    if (missing === 0) return Promise.resolve([]);
    return new Promise((resolve, reject) => {
      const timer = setTimeout(
        () => this.#fail('timeout', `no answer within ${this.#timeoutMs} ms`),
        this.#timeoutMs,
      );
      this.#waiting.push({ missing, answers: [], resolve, reject, timer });
      this.#child.stdin.write(lines.map(({ text }) => `${text}\n`).join(''));
    });
  }

  end(): void {
    this.#fail('command', 'the buffering was removed');
  }

  #take(text: string): void {
    const lines = (this.#rest + text).split('\n');
    this.#rest = lines.pop() ?? '';
    if (this.#rest.length > ANSWER_CHARS_MAX) return this.#fail('command', 'its answer has no end');
    for (const answer of lines) {
      if (answer.trim() === '') continue;
      const first = this.#waiting[0];
      if (!first) return this.#fail('command', `an answer that nobody asked for: ${answer.slice(0, 80)}`);
      first.answers.push(answer);
      if (--first.missing > 0) continue;
      this.#waiting.shift();
      clearTimeout(first.timer);
      first.resolve(first.answers);
    }
  }

  #fail(fault: NetbufFault, what: string): void {
    this.#failed ??= new NetbufError(
      fault,
      `${this.#domain}: the tc that marks and releases its network output does not work: ${what}; ` +
        `the queues stay as they are`,
    );
    this.#child.kill('SIGKILL');
    for (const { reject, timer } of this.#waiting.splice(0)) {
      clearTimeout(timer);
      reject(this.#failed);
    }
  }
}
