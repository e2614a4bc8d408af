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
 * Defines \`probe LIMIT PROGRAM ARGUMENT...\`. Each call prints three lines, in any order of the first two:
 *
 *     INDEX exit CODE
 *     INDEX out BASE64
 *     INDEX err BASE64
 *
 * The last line of all is \`end\`; without it the reply is not whole. Base64 carries any byte, and a command
 * that hangs is ended by its own limit, so that the others still answer.
 */
export const PROBE_PROLOGUE = `exec 3>&1
index=0
probe() {
  limit=$1; shift
  err=$(
    {
      {
        { timeout -v -k 2 "$limit" "$@" </dev/null 3>&- 4>&-; echo "$index exit $?" >&3; } 2>&4 |
          { out=$(base64 -w 0); echo "$index out $out"; } >&3
      } 4>&1 | base64 -w 0
    }
  )
  echo "$index err $err"
  index=$((index + 1))
}
`;
const PROBE_EPILOGUE = 'echo end\n';

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

/** What came back of a batch: the replies that are whole, in order, and whether all of them are. */
export interface ProbeReplies {
  replies: ProbeReply[];
  whole: boolean;
}

/**
 * Reads the frames of a batch of `count` probes. Text that is no frame is skipped, since a host may print a
 * warning of its own; a frame that is missing makes the reply not whole.
 */
export function parseProbeReplies(output: string, count: number): ProbeReplies {
  const parts = new Map<string, string>();
  let end = false;
  for (const line of output.split('\n')) {
    const frame = /^(\d{1,6}) (exit|out|err) ?([A-Za-z0-9+/=]*)$/.exec(line);
    if (frame !== null) parts.set(`${frame[1]} ${frame[2]}`, frame[3] ?? '');
    else if (line === 'end') end = true;
  }
  const replies: ProbeReply[] = [];
  for (let index = 0; index < count; index += 1) {
    const [exit, out, err] = ['exit', 'out', 'err'].map((part) => parts.get(`${index} ${part}`));
    if (exit === undefined || out === undefined || err === undefined || !/^\d+$/.test(exit)) break;
    replies.push({
      exitCode: Number(exit),
      stdout: Buffer.from(out, 'base64'),
      stderr: Buffer.from(err, 'base64'),
    });
  }
  return { replies, whole: end && replies.length === count };
}

/** The frames of one probe, for stand-ins; `end` after the last. */
export function renderProbeReply(index: number, reply: ProbeReply): string {
  const [out, err] = [reply.stdout, reply.stderr].map((bytes) => bytes.toString('base64'));
  return `${index} exit ${reply.exitCode}\n${index} out ${out}\n${index} err ${err}\n`;
}
export const PROBE_END = 'end\n';

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
