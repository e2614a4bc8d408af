/**
 * The scripts that are sent to hosts, run here by a real sh.
 */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  PROBE_ARGV,
  PROBE_END,
  STREAM_SCRIPT,
  UPLOAD_SCRIPT,
  endedByDeadline,
  parseProbeReplies,
  parseProbes,
  parseRequest,
  parseUpload,
  renderProbeReply,
  renderProbes,
  renderRun,
  renderStream,
  uploadArgv,
} from '../../src/core/remote.js';

const test = suite('remote');

let directory = '';
test.before.each(() => {
  directory = mkdtempSync(join(tmpdir(), 'remus-drbd-test-'));
});
test.after.each(() => rmSync(directory, { recursive: true, force: true }));

const words = fc.array(fc.string({ unit: fc.constantFrom(...'ab \'"\n\\$') }), { maxLength: 4 });

test('requests are read back as they were rendered', () => {
  fc.assert(
    fc.property(words, (rest) => {
      assert.equal(parseRequest(renderRun(['p', ...rest], 5)), { kind: 'run', argv: ['p', ...rest] });
      assert.equal(parseRequest(renderStream(['p', ...rest])), { kind: 'stream', argv: ['p', ...rest] });
    }),
  );
  assert.throws(() => parseRequest('reboot'), /no request/);
  assert.throws(() => parseRequest('env LC_ALL=C reboot'), /no request/);
});

test('probes are read back as they were rendered', () => {
  fc.assert(
    fc.property(fc.array(words, { maxLength: 4 }), (list) => {
      const commands = list.map((rest) => ['p', ...rest]);
      assert.equal(parseProbes(renderProbes(commands, 1000)), commands);
    }),
  );
  assert.is(parseProbes('reboot\n'), undefined);
});

test('uploads are read back as they were rendered', () => {
  assert.equal(parseUpload(uploadArgv("/a'b", 0o644, 'ff')), { path: "/a'b", mode: 0o644, sha256: 'ff' });
  assert.is(parseUpload(['sh', '-c', 'reboot', 'sh', '/a', '0644', 'ff']), undefined);
});

test('a batch carries any bytes, codes and missing programs', async () => {
  const every = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
  writeFileSync(join(directory, 'bytes'), every);
  const commands = [
    ['cat', join(directory, 'bytes')],
    ['sh', '-c', 'printf out; printf err >&2; exit 3'],
    ['sh', '-c', 'cat; printf "\\n\\n0 exit 9\\nend\\n"'],
    ['no-such-program'],
    ['true'],
    ['sh', '-c', 'kill -9 $$'],
  ];
  const { stdout, code } = await sh([...PROBE_ARGV.slice(1)], renderProbes(commands, 10_000));
  assert.is(code, 0);
  const { replies, whole } = parseProbeReplies(stdout.toString('latin1'), commands.length);
  assert.ok(whole);
  assert.ok(replies[0]?.stdout.equals(every));
  assert.equal(text(replies[1]), [3, 'out', 'err']);
  assert.equal(text(replies[2]), [0, '\n\n0 exit 9\nend\n', '']);
  assert.is(replies[3]?.exitCode, 127);
  assert.equal(text(replies[4]), [0, '', '']);
  assert.is(replies[5]?.exitCode, 137);
});

test('a probe can not eat the ones after it, however long the batch is', async () => {
  const commands = [['cat'], ...Array.from({ length: 100 }, (_, n) => ['test', '-n', 'x'.repeat(100) + n])];
  const { stdout } = await sh([...PROBE_ARGV.slice(1)], renderProbes(commands, 60_000));
  const { replies, whole } = parseProbeReplies(stdout.toString('latin1'), commands.length);
  assert.ok(whole);
  assert.equal(text(replies[0]), [0, '', '']);
});

test('a probe that hangs is ended by itself', async () => {
  const commands = [
    ['sleep', '1000'],
    ['echo', 'next'],
  ];
  const { stdout } = await sh([...PROBE_ARGV.slice(1)], renderProbes(commands, 50));
  const { replies, whole } = parseProbeReplies(stdout.toString('latin1'), 2);
  assert.ok(whole);
  assert.is(replies[0]?.exitCode, 124);
  assert.match(String(replies[0]?.stderr), /timeout: sending signal TERM to command .sleep/);
  assert.equal(text(replies[1]), [0, 'next\n', '']);
});

test('a batch that was cut anywhere is not whole', () => {
  const reply = { exitCode: 0, stdout: Buffer.from('a'), stderr: Buffer.from('') };
  const output = renderProbeReply(0, reply) + renderProbeReply(1, reply) + PROBE_END;
  assert.equal(parseProbeReplies(output, 2), { replies: [reply, reply], whole: true });
  // Only the last newline may be missing.
  for (let length = 0; length < output.length - 1; length += 1) {
    assert.not(parseProbeReplies(output.slice(0, length), 2).whole, output.slice(0, length));
  }
  assert.not(parseProbeReplies(output, 3).whole);
});

test('an upload puts content, mode and parents in place and leaves nothing else', async () => {
  const path = join(directory, "new/it's a/file");
  const content = Buffer.from('\0\xff\n', 'latin1');
  assert.equal(await upload(path, content, 0o640), { code: 0, stderr: '' });
  assert.ok(readFileSync(path).equals(content));
  assert.is(statSync(path).mode & 0o7777, 0o640);
  assert.is(statSync(join(directory, 'new')).mode & 0o7777, 0o755);
  assert.equal(await upload(path, Buffer.from('second'), 0o755), { code: 0, stderr: '' });
  assert.is(readFileSync(path, 'utf8'), 'second');
  assert.is(statSync(path).mode & 0o7777, 0o755);
  assert.equal(readdirSync(join(directory, "new/it's a")), ['file']);
});

test('an upload that is cut short or damaged changes nothing', async () => {
  const path = join(directory, 'file');
  writeFileSync(path, 'old');
  const { code, stderr } = await upload(path, Buffer.from('new'), 0o644, Buffer.from('ne'));
  assert.is(code, 1);
  assert.match(stderr, 'what arrived differs');
  assert.is(readFileSync(path, 'utf8'), 'old');
  assert.equal(readdirSync(directory), ['file']);
});

test('an upload removes what earlier tries left, and an earlier one that still runs loses', async () => {
  const path = join(directory, 'file');
  writeFileSync(join(directory, '.file.remus-drbd-12345678'), 'left over');
  const late = start(uploadArgv(path, 0o644, sha256('late')).slice(1));
  late.child.stdin.write('la');
  await until(() => readdirSync(directory).some((name) => name.startsWith('.file') && !name.endsWith('78')));
  assert.equal(await upload(path, Buffer.from('new'), 0o644), { code: 0, stderr: '' });
  late.child.stdin.end('te');
  assert.is((await late.ended).code, 1);
  assert.is(readFileSync(path, 'utf8'), 'new');
  assert.equal(readdirSync(directory), ['file']);
});

test('an upload replaces a link, not what it points to, and refuses a directory', async () => {
  const [path, target] = [join(directory, 'link'), join(directory, 'target')];
  writeFileSync(target, 'old');
  symlinkSync(target, path);
  assert.is((await upload(path, Buffer.from('new'), 0o644)).code, 0);
  assert.is(readFileSync(target, 'utf8'), 'old');
  assert.is(readFileSync(path, 'utf8'), 'new');
  const { code, stderr } = await upload(directory, Buffer.from('new'), 0o644);
  assert.is(code, 1);
  assert.match(stderr, 'directory');
  chmodSync(directory, 0o700);
});

test('a stream ends when its command does, with its code', async () => {
  const { child, ended } = start(['-c', STREAM_SCRIPT, 'sh', 'sh', '-c', 'echo "$1"; exit 7', 'sh', 'a  b']);
  const { stdout, code } = await ended;
  assert.is(stdout.toString(), 'a  b\n');
  assert.is(code, 7);
  child.stdin.end();
});

test('a stream ends with all its processes when its input does', async () => {
  const script = `sleep 1000 & echo $! $$; exec sleep 1001`;
  const { child, ended, firstLine } = start(['-c', STREAM_SCRIPT, 'sh', 'sh', '-c', script]);
  const pids = (await firstLine).trim().split(' ').map(Number);
  assert.is(pids.length, 2);
  assert.ok(pids.every(alive));
  child.stdin.end();
  await ended;
  await until(() => !pids.some(alive));
});

test('a lock that a stream holds is free after it', async () => {
  const lock = join(directory, 'lock');
  const holder = ['-c', STREAM_SCRIPT, 'sh', 'flock', '-n', lock, 'sh', '-c', 'echo locked; exec cat'];
  const first = start(holder);
  assert.is(await first.firstLine, 'locked\n');
  assert.is((await start(holder).ended).code, 1);
  first.child.stdin.end();
  await first.ended;
  const next = start(holder);
  assert.is(await next.firstLine, 'locked\n');
  next.child.stdin.end();
  await next.ended;
});

test('tells an end by the deadline from an exit with the same code', () => {
  assert.ok(endedByDeadline(124, 1001, 1000));
  assert.ok(endedByDeadline(137, 6000, 1000));
  assert.not(endedByDeadline(124, 999, 1000));
  assert.not(endedByDeadline(1, 1001, 1000));
});

interface Ended {
  code: number | null;
  stdout: Buffer;
  stderr: string;
}

function start(args: readonly string[]) {
  const child = spawn('/bin/sh', args, { stdio: 'pipe' });
  const stdout: Buffer[] = [];
  const stderr: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => stdout.push(chunk));
  child.stderr.on('data', (chunk: Buffer) => stderr.push(chunk));
  // A command that ends early closes its input.
  child.stdin.on('error', () => undefined);
  const ended = new Promise<Ended>((resolve) =>
    child.on('close', (code) =>
      resolve({ code, stdout: Buffer.concat(stdout), stderr: Buffer.concat(stderr).toString() }),
    ),
  );
  const firstLine = new Promise<string>((resolve) =>
    child.stdout.on('data', () => {
      const text = Buffer.concat(stdout).toString();
      if (text.includes('\n')) resolve(text);
    }),
  );
  return { child, ended, firstLine };
}

async function sh(args: readonly string[], input: string | Buffer): Promise<Ended> {
  const { child, ended } = start(args);
  child.stdin.end(input);
  return ended;
}

async function upload(path: string, content: Buffer, mode: number, sent = content) {
  assert.is(uploadArgv(path, mode, '')[2], UPLOAD_SCRIPT);
  // Whatever the account's umask is, parents are for everybody and the temporary file is for nobody else.
  const argv = uploadArgv(path, mode, sha256(content));
  const { code, stderr } = await sh(['-c', 'umask 077; exec "$@"', 'sh', ...argv], sent);
  return { code, stderr };
}

function sha256(content: string | Buffer): string {
  return createHash('sha256').update(content).digest('hex');
}

function text(reply: { exitCode: number; stdout: Buffer; stderr: Buffer } | undefined): unknown[] {
  return [reply?.exitCode, reply?.stdout.toString(), reply?.stderr.toString()];
}

/** True while the process runs; one that has ended and waits for its parent counts as ended. */
function alive(pid: number): boolean {
  const stat = `/proc/${pid}/stat`;
  return existsSync(stat) && !/\) Z/.test(readFileSync(stat, 'latin1'));
}

/** Polls what has no event; the limit is only there so that a failure ends. */
async function until(condition: () => boolean): Promise<void> {
  const limit = Date.now() + 30_000;
  while (!condition()) {
    if (Date.now() > limit) throw new Error('it did not happen within 30 s');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

test.run();
