/**
 * What is sent to a host over SSH: each request as one command line, and the replies read back.
 *
 * Every request is one POSIX shell command built by `quoteCommand`, of this shape:
 *
 *     env LC_ALL=C PATH=... timeout -k 5 SECONDS PROGRAM ARGUMENT...
 *
 * `env` fixes the language of messages and the search path, whatever the host's login files say. `timeout`
 * (coreutils) ends the command on the host itself. sshd would not: closing a channel leaves its command
 * running, and signals are refused in root's sessions (session_signal_req in OpenSSH's session.c: they need
 * privilege separation, which is off for root after the login). So a command ends at its deadline even when
 * the network is gone by then.
 *
 * Three programs have fixed scripts: a batch of probes (`PROBE_PROLOGUE`, sent to `sh -s` on standard input),
 * an atomic upload (`UPLOAD_SCRIPT`) and a stream (`STREAM_SCRIPT`). A stand-in for a host recognises them by
 * `parseRequest` and `parseProbes`, so that neither side can drift from the other.
 */
import { quoteCommand, unquoteCommand } from './quote.js';

export const REMOTE_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** A command that ignores SIGTERM at its deadline gets SIGKILL this much later. */
export const KILL_AFTER_MS = 5_000;

/** Linux takes no single argument of 128 KiB or more (MAX_ARG_STRLEN), and sshd passes the text as one. */
export const COMMAND_BYTES_MAX = 128 * 1024 - 1;

/** What `timeout` exits with when it has ended the command by SIGTERM and by SIGKILL. */
const TIMEOUT_EXITS = [124, 137];

const ENVIRONMENT = ['env', 'LC_ALL=C', `PATH=${REMOTE_PATH}`];
const TIMEOUT = ['timeout', '-k', String(KILL_AFTER_MS / 1000)];

/**
 * The first thing asked of a new connection. Its answer is exactly this text, or the account's shell reads
 * quotes in another way (fish, csh) or its start-up files print something into every reply.
 */
export const HELLO_TEXT = 'ready \\ \' " $HOME `id` \\n !';
export const HELLO_ARGV: readonly string[] = ['printf', '%s', HELLO_TEXT];

/**
 * Runs for as long as its standard input stays open: at end of file, which is also what a lost connection
 * gives, the command's process group gets SIGTERM and later SIGKILL. The command has the same standard input.
 */
export const STREAM_SCRIPT = `exec 3<&0
timeout -k ${KILL_AFTER_MS / 1000} 0 "$@" <&3 3<&- &
command=$!
( cat; kill "$command" ) <&3 3<&- >/dev/null 2>&1 &
watcher=$!
exec 3<&-
wait "$command"
status=$?
kill "$watcher"
exit "$status"`;

/**
 * Puts standard input in place as a file: arguments PATH, MODE (octal), SHA-256 (hex). The temporary file has
 * a name of its own each time and those of earlier tries are removed first, so that an earlier try which is
 * still alive on the host loses its file and can no longer rename it into place.
 */
export const UPLOAD_SCRIPT = `set -eu
path=$1 mode=$2 sum=$3
dir=\${path%/*} base=\${path##*/} made=
if ! [ -d "$dir/" ]; then
  made=yes
  ( umask 022; mkdir -p -- "$dir/" )
fi
rm -f -- "$dir/.$base.remus-drbd-"????????
umask 077
temporary=$(mktemp -- "$dir/.$base.remus-drbd-XXXXXXXX")
trap 'rm -f -- "$temporary"' EXIT
trap 'exit 1' HUP INT TERM
cat >"$temporary"
if [ "$(sha256sum <"$temporary")" != "$sum  -" ]; then
  echo "what arrived differs from what was sent" >&2
  exit 1
fi
chmod -- "$mode" "$temporary"
sync -- "$temporary"
mv -fT -- "$temporary" "$path"
trap - EXIT
# New parents have to last as well.
if [ -n "$made" ]; then sync -f -- "$dir/"; else sync -- "$dir/"; fi`;

/**
 * What one probe may print on standard output, and again on standard error, in units of `ulimit -f`: 512
 * bytes in dash and in bash called as sh, 1024 in bash. So this is 16 MiB, or 32.
 */
const PROBE_BLOCKS_MAX = 32 * 1024;

/** What the script of a batch exits with when a probe printed more than that. */
export const PROBE_LIMIT_EXIT = 98;

/** Stands at the end of each answer on the host: it shows that there was room for all of it. */
const PROBE_MARK = '.';

/**
 * Defines \`probe LIMIT PROGRAM ARGUMENT...\`, and \`finish\`, which prints the answers:
 *
 *     probes CODE CODE...
 *     SIZE NAME                 one line for each file, as \`wc\` prints it; out and err of each probe in turn
 *     SUM total
 *     BYTES                     of the files, one after the other, each with its mark at the end
 *     end
 *
 * Starting a process takes tens of milliseconds on a host that is emulated or short of memory, and a probe is
 * often over in less. So each one costs no process but `timeout` and its command: the answers are kept in
 * files, and four processes (mktemp, wc, cat, rm) serve them all. That a command hangs is seen by its own
 * limit, so that the others still answer.
 *
 * - A probe runs beside the shell, which waits for it: a signal is then acted on at once, not after the probe.
 * - Its files are opened by the shell, so that none can come to be while the directory is being removed.
 * - The limit on files holds for all that the probe writes. A lower one that the account has may not be
 *   raised, and then is limit enough. The shell's own mark meets the limit as well, and gets a signal.
 * - The group is killed that `timeout` makes for itself and its command: the one of coreutils 9.1 ends without its
 *   command when a signal comes just after its fork.
 * - A second signal must end neither the handler of the first nor \`rm\`: the outer \`timeout\` sends two.
 */
export const PROBE_PROLOGUE = `index=0 codes= child= directory= large=
stop() {
  echo "stopped at probe $index: $1" >&2
  exit "$2"
}
trap 'trap "" HUP INT TERM PIPE; stop "a signal ended the batch" 1' HUP INT TERM PIPE
trap 'trap "" HUP INT TERM PIPE
  if [ -n "$child" ]; then kill -TERM "-$child" 2>/dev/null || kill "$child"; fi
  if [ -n "$directory" ]; then rm -rf -- "$directory"; fi' EXIT
trap large=yes XFSZ
ulimit -S -f ${PROBE_BLOCKS_MAX} 2>/dev/null
directory=$(mktemp -d --tmpdir remus-drbd-probes-XXXXXXXX) || stop 'no directory for the answers' 1
probe() {
  limit=$1; shift
  out=$directory/$index.out err=$directory/$index.err
  { timeout -v -k 2 "$limit" "$@" </dev/null & } >"$out" 2>"$err" || stop 'no file for its answer' 1
  child=$!
  wait "$child"
  codes="$codes $?" child=
  if ! { printf ${PROBE_MARK} >>"$out" && printf ${PROBE_MARK} >>"$err"; }; then
    if [ -n "$large" ]; then stop 'it printed too much' ${PROBE_LIMIT_EXIT}; fi
    stop "no room for its answer in $directory" 1
  fi
  index=$((index + 1))
}
finish() {
  shown=0
  while [ "$shown" -lt "$index" ]; do
    set -- "$@" "$directory/$shown.out" "$directory/$shown.err"
    shown=$((shown + 1))
  done
  printf 'probes%s\\n' "$codes" && wc -c -- "$@" && cat -- "$@" && echo end
}
`;
const PROBE_EPILOGUE = 'finish\n';
const PROBE_END = 'end\n';

/** What the frame around the answers of a batch of `count` probes takes at most, with paths of usual length. */
export function probeFrameBytesMax(count: number): number {
  return 1024 * (count + 1);
}

export interface RemoteRequest {
  kind: 'run' | 'stream';
  argv: string[];
}

/** One command with its deadline, as the text for SSH. */
export function renderRun(argv: readonly string[], deadlineMs: number): string {
  return quoteCommand([...ENVIRONMENT, ...TIMEOUT, seconds(deadlineMs), ...argv]);
}

/** One long-running command, as the text for SSH. */
export function renderStream(argv: readonly string[]): string {
  return quoteCommand([...ENVIRONMENT, 'sh', '-c', STREAM_SCRIPT, 'sh', ...argv]);
}

/**
 * The inverse of `renderRun` and `renderStream`, for stand-ins.
 *
 * @throws QuoteError or RangeError for text that they did not write
 */
export function parseRequest(text: string): RemoteRequest {
  const argv = unquoteCommand(text);
  const stream = [...ENVIRONMENT, 'sh', '-c', STREAM_SCRIPT, 'sh'];
  if (startsWith(argv, stream)) return { kind: 'stream', argv: argv.slice(stream.length) };
  const run = [...ENVIRONMENT, ...TIMEOUT];
  if (startsWith(argv, run)) return { kind: 'run', argv: argv.slice(run.length + 1) };
  throw new RangeError(`no request of this project: ${text}`);
}

export const PROBE_ARGV: readonly string[] = ['sh', '-s'];

/** The script for `PROBE_ARGV`; each command is ended after `limitMs`. */
export function renderProbes(commands: readonly (readonly string[])[], limitMs: number): string {
  const lines = commands.map((argv) => `${quoteCommand(['probe', seconds(limitMs), ...argv])}\n`);
  return PROBE_PROLOGUE + lines.join('') + PROBE_EPILOGUE;
}

/** The commands in a script of `renderProbes`, or undefined for any other script. */
export function parseProbes(script: string): string[][] | undefined {
  if (!script.startsWith(PROBE_PROLOGUE) || !script.endsWith(PROBE_EPILOGUE)) return undefined;
  const body = script.slice(PROBE_PROLOGUE.length, -PROBE_EPILOGUE.length);
  // A newline inside quotes belongs to its word; any other one ends a command. Outside quotes a backslash
  // takes the next character with it.
  const lines = body.match(/(?:'[^']*'|\\.|[^'\\\n])+\n/g) ?? [];
  if (lines.join('') !== body) return undefined;
  return lines.map((line) => unquoteCommand(line.slice(0, -1)).slice(2));
}

export interface ProbeReply {
  exitCode: number;
  stdout: Buffer;
  stderr: Buffer;
}

/** What came back of a batch: all replies in order, or what is wrong with it. There is no half answer. */
export type ProbeReplies = { whole: true; replies: ProbeReply[] } | { whole: false; reason: string };

/** Reads what `finish` printed for a batch of `count` probes. One byte more or less is refused. */
export function parseProbeReplies(output: Buffer, count: number): ProbeReplies {
  const broken = (reason: string): ProbeReplies => ({ whole: false, reason });
  let at = 0;
  const line = (): string => {
    const end = output.indexOf('\n', at);
    if (end < 0) return '';
    const text = output.toString('latin1', at, end);
    at = end + 1;
    return text;
  };

  const codes = /^probes((?: \d{1,3})+)$/.exec(line())?.[1]?.trim().split(' ').map(Number) ?? [];
  if (codes.length !== count) return broken(`${codes.length} of ${count} exit codes arrived`);
  const sizes = Array.from({ length: 2 * count }, () => /^ *(\d{1,12}) ./.exec(line())?.[1]).map(Number);
  const total = Number(/^ *(\d{1,15}) total$/.exec(line())?.[1]);
  if (sizes.reduce((sum, size) => sum + size, 0) !== total) return broken('the sizes did not arrive whole');
  const [here, expected] = [output.byteLength - at, total + PROBE_END.length];
  if (here !== expected) return broken(`${here} bytes came where ${expected} were announced`);

  const answers: Buffer[] = [];
  for (const size of sizes) {
    const answer = output.subarray(at, at + size);
    at += size;
    // A process that a probe left behind may still write to its file.
    if (answer.toString('latin1', size - 1) !== PROBE_MARK) return broken('an answer has no mark at its end');
    answers.push(answer.subarray(0, -1));
  }
  if (output.toString('latin1', at) !== PROBE_END) return broken('there is no mark at the end');
  const replies = codes.map((exitCode, index) => ({
    exitCode,
    stdout: answers[2 * index] as Buffer,
    stderr: answers[2 * index + 1] as Buffer,
  }));
  return { whole: true, replies };
}

/** The number of the probe at which a batch stopped, by the script's standard error; undefined if it tells none. */
export function stoppedProbe(stderr: string): number | undefined {
  const index = /^stopped at probe (\d{1,6}): /m.exec(stderr)?.[1];
  return index === undefined ? undefined : Number(index);
}

/** What a batch prints, for stand-ins. */
export function renderProbeReplies(replies: readonly ProbeReply[]): Buffer {
  const files = replies
    .flatMap(({ stdout, stderr }) => [stdout, stderr])
    .map((answer) => Buffer.concat([answer, Buffer.from(PROBE_MARK)]));
  const total = files.reduce((sum, file) => sum + file.byteLength, 0);
  const lines = [
    `probes${replies.map(({ exitCode }) => ` ${exitCode}`).join('')}`,
    ...files.map((file, index) => `${file.byteLength} ${index}`),
    `${total} total`,
  ];
  return Buffer.concat([Buffer.from(`${lines.join('\n')}\n`), ...files, Buffer.from(PROBE_END)]);
}

/** Standard input is the content; see `UPLOAD_SCRIPT`. */
export function uploadArgv(path: string, mode: number, sha256: string): string[] {
  return ['sh', '-c', UPLOAD_SCRIPT, 'sh', path, mode.toString(8).padStart(4, '0'), sha256];
}

/** The arguments of an upload, or undefined for any other command. */
export function parseUpload(
  argv: readonly string[],
): { path: string; mode: number; sha256: string } | undefined {
  const [path, mode, sha256, ...more] = argv.slice(4);
  if (!startsWith(argv, ['sh', '-c', UPLOAD_SCRIPT, 'sh']) || more.length > 0) return undefined;
  if (path === undefined || mode === undefined || sha256 === undefined) return undefined;
  return { path, mode: Number.parseInt(mode, 8), sha256 };
}

/** True where `timeout` may have ended the command: it took its whole time and exits as `timeout` does. */
export function endedByDeadline(exitCode: number, elapsedMs: number, deadlineMs: number): boolean {
  return TIMEOUT_EXITS.includes(exitCode) && elapsedMs >= deadlineMs;
}

function seconds(ms: number): string {
  // `timeout` takes 0 for "no limit".
  return (Math.max(ms, 1) / 1000).toFixed(3);
}

function startsWith(argv: readonly string[], head: readonly string[]): boolean {
  return head.every((word, index) => argv[index] === word);
}
