/**
 * A fence agent: a program that switches a machine's power, with the interface of ClusterLabs' fence-agents
 * ("FenceAgentAPI.md" there, `fencing.py` in Debian's fence-agents). Options come as lines `name=value` on
 * standard input, never as arguments, which other users of the host can see. What counts of its answer:
 *
 *     off      exit status 0: the device says that the machine is off
 *     status   exit status 2 and a line `Status: OFF`; 0 and `Status: ON`. Status 2 alone is also what a shell or
 *              Python give that can't start the program
 *     monitor  exit status 0: the device answers
 */
import { spawn } from 'node:child_process';
import { agentOption } from '../core/config-fence.js';
import { ExitCode, OperatorError } from '../core/errors.js';

export type AgentAction = 'off' | 'status' | 'monitor';

export type AgentResult =
  | { ended: true; exitCode: number; stdout: string; stderr: string }
  /** It could not be started, or had to be killed. */
  | { ended: false; reason: string };

const OUTPUT_CHARS_MAX = 64 * 1024;
/** Debian's agents are in /usr/sbin. */
const PATH = '/usr/sbin:/usr/bin:/sbin:/bin';

/**
 * The lines for an agent's standard input from its configured command line, without the action.
 *
 * @param words the command line after the program
 * @throws OperatorError usage: a word that has no place on standard input, or an action other than off
 */
export function agentOptions(program: string, words: readonly string[]): string[] {
  return words.flatMap((word) => {
    const option = agentOption(word);
    if ('line' in option) return [option.line];
    if (!('problem' in option)) return [];
    throw new OperatorError(
      `${program}: one of its arguments can't be used: ${option.problem}; nothing was changed.`,
      ExitCode.usage,
    );
  });
}

/**
 * Runs an agent once. Never rejects.
 *
 * @param limitMs after this it is killed, with what it has started; whether it did its work is then not known
 * @param signal kills it at once
 */
export async function runAgent(
  program: string,
  options: readonly string[],
  action: AgentAction,
  limitMs: number,
  signal: AbortSignal,
): Promise<AgentResult> {
  return new Promise((resolve) => {
    const child = spawn(program, [], {
      stdio: ['pipe', 'pipe', 'pipe'],
      cwd: '/',
      env: { PATH, LC_ALL: 'C' },
      // A group of its own, so that what it starts can be ended with it.
      detached: true,
    });
    const output = { stdout: '', stderr: '' };
    let killed: string | undefined;
    const kill = (why: string): void => {
      killed ??= why;
      if (child.pid === undefined) return;
      try {
        process.kill(-child.pid, 'SIGKILL');
      } catch {
        // It has ended already.
      }
    };
    const onAbort = (): void => kill('it was killed, because this program ends');
    const timer = setTimeout(() => kill(`it was killed after ${limitMs} ms without a result`), limitMs);
    const end = (result: AgentResult): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', onAbort);
      resolve(result);
    };
    signal.addEventListener('abort', onAbort);
    for (const name of ['stdout', 'stderr'] as const) {
      child[name].setEncoding('utf8').on('data', (text: string) => {
        output[name] = (output[name] + text).slice(-OUTPUT_CHARS_MAX);
      });
    }
    child.on('error', (error) => end({ ended: false, reason: `it could not be started: ${error.message}` }));
    child.on('close', (exitCode, byWhat) => {
      if (exitCode !== null) end({ ended: true, exitCode, ...output });
      else end({ ended: false, reason: killed ?? `${byWhat ?? 'a signal'} ended it` });
    });
    // An agent that doesn't read its input is judged by its result.
    child.stdin.on('error', () => undefined);
    child.stdin.end([...options, `action=${action}`, ''].join('\n'));
    if (signal.aborted) onAbort();
  });
}

/** What a `status` shows; an agent that ignored one of its options may have asked for another machine. */
export function powerOf(result: AgentResult): { power: 'on' | 'off' } | { reason: string } {
  if (!result.ended) return { reason: result.reason };
  const ignored = ignoredOption(result);
  if (ignored !== undefined) return { reason: ignored };
  const says = /^Status: (ON|OFF)$/m.exec(result.stdout)?.[1];
  if (result.exitCode === 2 && says === 'OFF') return { power: 'off' };
  if (result.exitCode === 0 && says === 'ON') return { power: 'on' };
  return { reason: `it ended with exit status ${result.exitCode}: ${lastWords(result)}` };
}

/** Why an `off` or a `monitor` did not succeed, undefined where it did. */
export function failureOf(result: AgentResult): string | undefined {
  if (!result.ended) return result.reason;
  if (result.exitCode !== 0) return `it ended with exit status ${result.exitCode}: ${lastWords(result)}`;
  return ignoredOption(result);
}

/** fencing.py only warns of an option that it doesn't know. */
function ignoredOption(result: AgentResult & { ended: true }): string | undefined {
  const ignored = /Parse error: Ignoring (?:unknown )?option '([A-Za-z0-9_-]*)/.exec(result.stderr);
  return ignored === null ? undefined : `it has no option ${ignored[1]}`;
}

/** The end of what it said. Its options are not in it: agents don't print them unless they are told to. */
function lastWords({ stdout, stderr }: AgentResult & { ended: true }): string {
  const text = `${stdout}\n${stderr}`.replace(/\s+/g, ' ').trim();
  return text === '' ? 'it said nothing' : text.slice(-300);
}
