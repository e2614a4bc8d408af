/**
 * The scripts that are sent to hosts, run here by a real sh.
 */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  existsSync,
  mkdirSync,
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
  PROBE_LIMIT_EXIT,
  PROBE_PROLOGUE,
  STREAM_SCRIPT,
  UPLOAD_SCRIPT,
  endedByDeadline,
  parseProbeReplies,
  parseProbes,
  parseRequest,
  parseUpload,
  renderProbeReplies,
  renderProbes,
  renderRun,
  renderStream,
  stoppedProbe,
  uploadArgv,
  type ProbeReply,
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

for (const shell of ['/bin/sh', '/bin/bash']) {
  const batch = (commands: readonly (readonly string[])[], limitMs = 60_000, env: Environment = {}) =>
    sh(PROBE_ARGV.slice(1), renderProbes(commands, limitMs), shell, { TMPDIR: directory, ...env });
  const answers = async (...how: Parameters<typeof batch>): Promise<ProbeReply[]> => {
    const { stdout, stderr, code } = await batch(...how);
    const result = parseProbeReplies(stdout, how[0].length);
    if (!result.whole) throw new Error(`${result.reason}: ${stderr}`);
    assert.is(code, 0);
    assert.equal(leftOver(), [], 'nothing is left on the host');
    return result.replies;
  };

  test(`${shell}: a batch carries any codes and missing programs`, async () => {
    const replies = await answers([
      ['sh', '-c', 'printf out; printf err >&2; exit 3'],
      ['sh', '-c', 'cat; printf "probes 0\\n1 total\\n.end\\n"'],
      ['no-such-program'],
      ['true'],
      ['sh', '-c', 'kill -9 $$'],
      ['printf', ' $(reboot)\n\'"\\\\'],
    ]);
    assert.equal(text(replies[0]), [3, 'out', 'err']);
    assert.equal(text(replies[1]), [0, 'probes 0\n1 total\n.end\n', '']);
    assert.is(replies[2]?.exitCode, 127);
    assert.equal(text(replies[3]), [0, '', '']);
    // What the shell itself says of a command that was killed is no part of its answer.
    assert.equal(text(replies[4]), [137, '', '']);
    assert.equal(text(replies[5]), [0, ' $(reboot)\n\'"\\', '']);
  });

  test(`${shell}: a batch carries any bytes`, async () => {
    const bytes = fc.uint8Array({ maxLength: 300 });
    await fc.assert(
      fc.asyncProperty(fc.array(fc.tuple(bytes, bytes), { minLength: 1, maxLength: 4 }), async (list) => {
        const files = mkdtempSync(join(directory, 'said-'));
        const commands = list.map(([out, err], index) => {
          const names = [join(files, `${index}o`), join(files, `${index}e`)] as const;
          writeFileSync(names[0], out);
          writeFileSync(names[1], err);
          return ['sh', '-c', 'cat "$1"; cat "$2" >&2; exit "$3"', 'sh', ...names, String(index)];
        });
        const replies = await answers(commands);
        assert.equal(
          replies,
          list.map(([out, err], index) => ({
            exitCode: index,
            stdout: Buffer.from(out),
            stderr: Buffer.from(err),
          })),
        );
      }),
      { numRuns: 15 },
    );
  });

  test(`${shell}: a batch that was cut anywhere is refused`, async () => {
    const commands = [['printf', 'a'], ['sh', '-c', 'echo end; echo end >&2; exit 124'], ['true']];
    const { stdout } = await batch(commands);
    assert.ok(parseProbeReplies(stdout, 3).whole);
    for (let at = 0; at < stdout.byteLength; at += 1) {
      assert.not(parseProbeReplies(stdout.subarray(0, at), 3).whole, `cut at ${at}`);
    }
  });

  test(`${shell}: a probe gets empty input and no descriptor but the usual three`, async () => {
    const script = 'cat; for n in 0 1 2 3 4 5 6 7 8 9 10 11 12; do [ ! -e /proc/$$/fd/$n ] || echo $n; done';
    const commands = [['sh', '-c', script], ...Array.from({ length: 50 }, () => ['test', 'x'.repeat(200)])];
    assert.equal(text((await answers(commands))[0]), [0, '0\n1\n2\n', '']);
  });

  test(`${shell}: a probe that hangs is ended by itself`, async () => {
    const replies = await answers(
      [
        ['sleep', '1000'],
        ['echo', 'next'],
      ],
      2_000,
    );
    assert.is(replies[0]?.exitCode, 124);
    assert.match(String(replies[0]?.stderr), /timeout: sending signal TERM to command .sleep/);
    assert.equal(text(replies[1]), [0, 'next\n', '']);
  });

  test(`${shell}: a probe costs \`timeout\` and its command, and a batch four processes`, async () => {
    const [bin, log] = [join(directory, 'bin'), join(directory, 'log')];
    mkdirSync(bin);
    for (const name of ['timeout', 'mktemp', 'wc', 'cat', 'rm', 'true', 'test']) {
      const wrapper = `#!/bin/sh\necho ${name} >>'${log}'\nexec /usr/bin/${name} "$@"\n`;
      writeFileSync(join(bin, name), wrapper, { mode: 0o755 });
    }
    await answers(
      Array.from({ length: 3 }, () => ['true']),
      60_000,
      { PATH: bin },
    );
    const probe = ['timeout', 'true'];
    const expected = ['mktemp', ...probe, ...probe, ...probe, 'wc', 'cat', 'rm'];
    assert.equal(readFileSync(log, 'utf8').trim().split('\n'), expected);
    // Nor is there a shell between the one that reads the script and `timeout`.
    const parent = 'read _ _ _ parent _ </proc/$PPID/stat; echo "$parent"; echo "$PPID"';
    const { child, ended } = start(PROBE_ARGV.slice(1), shell, { TMPDIR: directory });
    child.stdin.end(renderProbes([['sh', '-c', parent]], 60_000));
    const result = parseProbeReplies((await ended).stdout, 1);
    assert.ok(result.whole);
    assert.is(String(result.replies[0]?.stdout).split('\n')[0], String(child.pid));
  });

  test(`${shell}: a probe that prints without end is stopped, and the batch with it`, async () => {
    const after = join(directory, 'after');
    for (const endless of [
      ['yes'],
      ['sh', '-c', 'exec yes >&2'],
      // Ignores the signal that tells of the limit.
      ['sh', '-c', 'trap "" XFSZ; exec yes'],
    ]) {
      const { stdout, stderr, code } = await batch([['true'], endless, ['touch', after]]);
      assert.is(code, PROBE_LIMIT_EXIT, stderr);
      assert.is(brokenReason(stdout, 3), '0 of 3 exit codes arrived');
      assert.is(stoppedProbe(stderr), 1);
      assert.not(existsSync(after));
      assert.equal(leftOver(), []);
    }
  });

  test(`${shell}: a host without room for the answers gives none`, async () => {
    const none = await batch([['true']], 60_000, { TMPDIR: join(directory, 'none') });
    assert.is(none.code, 1);
    assert.is(none.stdout.byteLength, 0);
    assert.match(none.stderr, /mktemp: .*No such file or directory\nstopped at probe 0: no directory/);

    // `mktemp` with a directory in which some files are on a full device.
    const bin = join(directory, 'bin');
    mkdirSync(bin);
    for (const [file, target] of [
      ['1.out', '/dev/full'],
      ['1.err', '/dev/full'],
      ['1.out', '/none/none'],
    ] as const) {
      const made = join(directory, 'remus-drbd-probes-full');
      const script = `#!/bin/sh\nmkdir '${made}' && ln -s ${target} '${made}/${file}' && echo '${made}'\n`;
      writeFileSync(join(bin, 'mktemp'), script, { mode: 0o755 });
      const { stdout, stderr, code } = await batch([['true'], ['true']], 60_000, {
        PATH: `${bin}:${process.env['PATH']}`,
      });
      assert.is(code, 1);
      assert.is(stdout.byteLength, 0);
      assert.match(stderr, target === '/dev/full' ? /probe 1: no room for its answer/ : /probe 1: no file/);
      assert.equal(leftOver(), []);
    }
  });

  // Alone, and under the `timeout` of a request, which passes SIGTERM on twice: to the shell and to its group.
  const under = ['-c', 'exec timeout -k 60 600 "$0" -s', shell];
  for (const [signal, args] of [
    ['SIGTERM', PROBE_ARGV.slice(1)],
    ['SIGHUP', PROBE_ARGV.slice(1)],
    ['SIGTERM', under],
  ] as const) {
    test(`${shell} ${args.at(-1)}: ${signal} ends a batch and its probe at once, and nothing is left`, async () => {
      const pidFile = join(directory, 'pid');
      const script = 'echo $$ >"$1.new" && mv "$1.new" "$1" && exec sleep 1000';
      const { child, ended } = start(args, shell, { TMPDIR: directory });
      child.stdin.end(renderProbes([['true'], ['sh', '-c', script, 'sh', pidFile]], 600_000));
      await until(() => existsSync(pidFile));
      assert.is(leftOver().length, 1);
      // A second one in the same moment changes nothing.
      child.kill('SIGSTOP');
      for (const each of [signal, 'SIGHUP', 'SIGTERM'] as const) child.kill(each);
      child.kill('SIGCONT');
      const { code, stdout, stderr } = await ended;
      assert.is(code, 1);
      assert.is(stdout.byteLength, 0);
      assert.is(stoppedProbe(stderr), 1);
      assert.equal(leftOver(), []);
      await until(() => !alive(Number(readFileSync(pidFile, 'utf8'))));
    });
  }

  // As that of coreutils 9.1 may, when the signal comes just after its fork.
  test(`${shell}: a probe whose timeout ends without it is ended all the same`, async () => {
    const bin = join(directory, 'bin');
    mkdirSync(bin);
    const outer = '#!/bin/sh\nexec setsid "$0.inner" "$@"\n';
    const inner = '#!/bin/sh\nshift 4\ntrap "exit 143" TERM\n"$@" &\nwait\n';
    writeFileSync(join(bin, 'timeout'), outer, { mode: 0o755 });
    writeFileSync(join(bin, 'timeout.inner'), inner, { mode: 0o755 });
    const pidFile = join(directory, 'pid');
    const script = 'echo $$ >"$1.new" && mv "$1.new" "$1" && exec sleep 1000';
    const PATH = `${bin}:${process.env['PATH']}`;
    const { child, ended } = start(PROBE_ARGV.slice(1), shell, { TMPDIR: directory, PATH });
    child.stdin.end(renderProbes([['sh', '-c', script, 'sh', pidFile]], 600_000));
    await until(() => existsSync(pidFile));
    child.kill('SIGTERM');
    assert.is((await ended).code, 1);
    await until(() => !alive(Number(readFileSync(pidFile, 'utf8'))));
  });

  test(`${shell}: a signal while a batch removes its files does not keep it from it`, async () => {
    const bin = join(directory, 'bin');
    mkdirSync(bin);
    writeFileSync(join(bin, 'rm'), '#!/bin/sh\nkill "$PPID" "$$"; exec /usr/bin/rm "$@"\n', { mode: 0o755 });
    const PATH = `${bin}:${process.env['PATH']}`;
    assert.equal(text((await answers([['echo', 'a']], 60_000, { PATH }))[0]), [0, 'a\n', '']);
  });

  test(`${shell}: a batch whose reader has gone leaves nothing`, async () => {
    const go = join(directory, 'go');
    for (const printed of ['1', '1000000']) {
      const { child, ended } = start(PROBE_ARGV.slice(1), shell, { TMPDIR: directory });
      const wait = [
        'sh',
        '-c',
        'until [ -e "$1" ]; do sleep 0.01; done; head -c "$2" /dev/zero',
        'sh',
        go,
        printed,
      ];
      child.stdin.end(renderProbes([wait], 600_000));
      await until(() => leftOver().length === 1);
      child.stdout.destroy();
      writeFileSync(go, '');
      await ended;
      assert.equal(leftOver(), []);
      rmSync(go);
    }
  });
}

test('the script of a batch starts nothing for a probe beside it', () => {
  const body = /^probe\(\) \{\n(.*?)^\}/ms.exec(PROBE_PROLOGUE)?.[1] ?? '';
  assert.match(body, 'timeout');
  assert.not.match(body.replaceAll('||', ''), /\||\$\([^(]|`|<\(|^\s*\(/m);
});

test('a reply that was cut anywhere, or has more, is refused', () => {
  const replies = [
    { exitCode: 0, stdout: Buffer.from('a'), stderr: Buffer.from('') },
    { exitCode: 124, stdout: Buffer.from('end\n\0\xff', 'latin1'), stderr: Buffer.from('probes 0\n') },
  ];
  const output = renderProbeReplies(replies);
  assert.equal(parseProbeReplies(output, 2), { whole: true, replies });
  for (let at = 0; at < output.byteLength; at += 1) {
    assert.not(parseProbeReplies(output.subarray(0, at), 2).whole, `cut at ${at}`);
  }
  assert.is(brokenReason(output.subarray(0, -1), 2), '23 bytes came where 24 were announced');
  const otherSum = Buffer.from(output.toString('latin1').replace('20 total', '19 total'), 'latin1');
  assert.is(brokenReason(otherSum, 2), 'the sizes did not arrive whole');
  const otherEnd = Buffer.concat([output.subarray(0, -4), Buffer.from('and\n')]);
  assert.is(brokenReason(otherEnd, 2), 'there is no mark at the end');
  assert.not(parseProbeReplies(Buffer.concat([output, Buffer.from('\n')]), 2).whole);
  for (const count of [1, 3]) assert.not(parseProbeReplies(output, count).whole);
  assert.is(brokenReason(Buffer.from(''), 2), '0 of 2 exit codes arrived');
});

test('any bytes at all are read as a reply without harm', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), fc.string({ maxLength: 100 }), (bytes, line) => {
      assert.not(parseProbeReplies(Buffer.from(bytes), 1).whole);
      assert.not(parseProbeReplies(Buffer.concat([Buffer.from(`probes 0\n${line}\n`), bytes]), 1).whole);
    }),
  );
});

test('an answer to which something was added after its end is refused', () => {
  const output = renderProbeReplies([{ exitCode: 0, stdout: Buffer.from('a'), stderr: Buffer.from('') }]);
  const changed = output
    .toString()
    .replace('2 0\n', '3 0\n')
    .replace('3 total', '4 total')
    .replace('a.', 'a.b');
  assert.is(brokenReason(Buffer.from(changed), 1), 'an answer has no mark at its end');
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

type Environment = Record<string, string>;

function start(args: readonly string[], shell = '/bin/sh', env: Environment = {}) {
  const child = spawn(shell, args, { stdio: 'pipe', env: { ...process.env, LC_ALL: 'C', ...env } });
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

async function sh(
  args: readonly string[],
  input: string | Buffer,
  shell?: string,
  env?: Environment,
): Promise<Ended> {
  const { child, ended } = start(args, shell, env);
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

/** Directories for answers that are on this "host". */
function leftOver(): string[] {
  return readdirSync(directory).filter((name) => name.startsWith('remus-drbd-probes-'));
}

function brokenReason(output: Buffer, count: number): string | undefined {
  const result = parseProbeReplies(output, count);
  return result.whole ? undefined : result.reason;
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
  const limit = Date.now() + 120_000;
  while (!condition()) {
    if (Date.now() > limit) throw new Error('it did not happen within two minutes');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

test.run();
