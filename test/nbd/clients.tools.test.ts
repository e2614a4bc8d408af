/** Real clients: nbdinfo, qemu-io, qemu-img, nbdcopy, fio with verification; and TLS, with certificates from openssl. */
import { readFile, truncate, writeFile } from 'node:fs/promises';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { serveJournal } from '../../src/commands/journal-serve.js';
import type { RunningJournal } from '../../src/commands/journal-serve.js';
import { haveTools, makeWorkplace, runTool } from '../journal/tools.js';
import type { Workplace } from '../journal/tools.js';

const MIB = 1 << 20;
const quiet = { info: () => undefined, warn: () => undefined };

async function serving(
  body: (place: Workplace, running: RunningJournal) => Promise<void>,
  place?: Workplace,
): Promise<void> {
  const made = place ?? (await makeWorkplace());
  const running = await serveJournal({ configPath: made.configPath, log: quiet });
  try {
    await body(made, running);
  } finally {
    await running.stop();
    await made.remove();
  }
}

test('nbdinfo lists every volume with its size and what it can do', async () => {
  if (!haveTools('nbdinfo')) return;
  await serving(async (place) => {
    const { code, text } = await runTool('nbdinfo', ['--list', '--json', place.uri('')]);
    assert.is(code, 0, text);
    const { exports } = JSON.parse(text) as { exports: Record<string, unknown>[] };
    assert.equal(
      exports.map((each) => [each['export-name'], each['export-size']]),
      [
        ['disk0', 64 * MIB],
        ['disk1', 4 * MIB],
        ['barrier', MIB],
      ],
    );
    for (const each of exports) {
      for (const can of [
        'can_flush',
        'can_fua',
        'can_multi_conn',
        'can_trim',
        'can_zero',
        'can_fast_zero',
        'can_df',
      ]) {
        assert.is(each[can], true, can);
      }
      assert.is(each['block_size_minimum'], 512);
    }
  });
});

test('qemu-io reads what it wrote, zeroed and discarded', async () => {
  if (!haveTools('qemu-io')) return;
  await serving(async (place, { journal }) => {
    const commands = [
      'write -P 7 4k 64k',
      'write -P 9 512 1024',
      'write -f -P 3 1M 4k',
      'write -z 8k 4k',
      'write -P 5 2M 33M',
      'discard 3M 8M',
      'flush',
      'read -P 0 0 512',
      'read -P 9 512 1024',
      'read -P 7 4k 4k',
      'read -P 0 8k 4k',
      'read -P 7 12k 56k',
      'read -P 3 1M 4k',
      'read -P 5 2M 1M',
      'read -P 0 3M 8M',
      'read -P 5 11M 24M',
    ];
    const args = ['-f', 'raw', ...commands.flatMap((each) => ['-c', each]), place.uri('disk0')];
    const first = await runTool('qemu-io', args);
    assert.is(first.code, 0, first.text);
    assert.not.match(first.text, /failed|error/i);
    await journal.drained();
    const reads = commands.filter((each) => each.startsWith('read'));
    const after = await runTool('qemu-io', [
      '-f',
      'raw',
      ...reads.flatMap((each) => ['-c', each]),
      place.uri('disk0'),
    ]);
    assert.not.match(after.text, /failed|error/i, after.text);
    const direct = await runTool('qemu-io', [
      '-f',
      'raw',
      ...reads.flatMap((each) => ['-c', each]),
      place.target('disk0'),
    ]);
    assert.not.match(direct.text, /failed|error/i, `the target: ${direct.text}`);
  });
});

test('qemu-img copies a disk in, compares it, and copies it out', async () => {
  if (!haveTools('qemu-img')) return;
  await serving(async (place, { journal }) => {
    const file = (name: string): string => join(place.folder, name);
    // Holes too: qemu-img zeroes them on the way in, and asks for them on the way out.
    const source = Buffer.alloc(64 * MIB);
    for (let at = 8 * MIB; at < 40 * MIB; at += 4096) source.writeUInt32LE(at, at);
    await writeFile(file('in'), source);
    const raw = ['-f', 'raw', '-O', 'raw'];
    const run = async (...args: string[]): Promise<string> => {
      const { code, text } = await runTool('qemu-img', args);
      assert.is(code, 0, text);
      return text;
    };
    const info = JSON.parse(await run('info', '--output=json', '-f', 'raw', place.uri('disk0'))) as object;
    assert.is((info as Record<string, unknown>)['virtual-size'], 64 * MIB);
    await run('convert', '-n', '-W', '-m', '8', ...raw, file('in'), place.uri('disk0'));
    const compare = ['compare', '-f', 'raw', '-F', 'raw', file('in')];
    assert.match(await run(...compare, place.uri('disk0')), /identical/);
    await run('convert', ...raw, place.uri('disk0'), file('out'));
    assert.ok((await readFile(file('out'))).equals(source));
    await journal.drained();
    assert.match(await run(...compare, place.target('disk0')), /identical/);
    const other = await runTool('qemu-img', [...compare, place.uri('disk1')]);
    assert.is(other.code, 1, 'the comparison can tell a difference');
  });
});

test('nbdcopy copies in and out over several connections', async () => {
  if (!haveTools('nbdcopy')) return;
  await serving(async (place) => {
    const source = Buffer.alloc(48 * MIB);
    for (let at = 0; at < source.length; at += 4096)
      if (at % (3 * 4096) !== 0) source.writeUInt32LE(at + 1, at);
    await writeFile(join(place.folder, 'in'), source);
    const copyIn = await runTool('nbdcopy', [
      '--flush',
      '--connections=4',
      join(place.folder, 'in'),
      place.uri('disk0'),
    ]);
    assert.is(copyIn.code, 0, copyIn.text);
    await writeFile(join(place.folder, 'out'), '');
    await truncate(join(place.folder, 'out'), 64 * MIB);
    const copyOut = await runTool('nbdcopy', [
      '--connections=4',
      place.uri('disk0'),
      join(place.folder, 'out'),
    ]);
    assert.is(copyOut.code, 0, copyOut.text);
    const out = await readFile(join(place.folder, 'out'));
    assert.ok(out.subarray(0, source.length).equals(source));
  });
});

test('fio verifies random writes of mixed sizes, on four connections', async () => {
  if (!haveTools('fio')) return;
  await serving(async (place) => {
    const { code, text } = await runTool('fio', [
      '--name=verify',
      '--ioengine=nbd',
      `--uri=${place.uri('disk0')}`,
      '--rw=randwrite',
      '--bsrange=512-64k',
      '--bs_unaligned=0',
      '--blockalign=512',
      '--iodepth=16',
      '--numjobs=4',
      '--size=12m',
      '--offset_increment=16m',
      '--fsync=50',
      '--verify=crc32c',
      '--verify_fatal=1',
      '--group_reporting',
    ]);
    assert.is(code, 0, text);
  });
});

test('TLS: a client with a certificate is served, one without is not', async () => {
  if (!haveTools('nbdinfo', 'openssl')) return;
  const place = await makeWorkplace();
  const pki = join(place.folder, 'pki');
  await mkdir(pki);
  const openssl = async (...args: string[]): Promise<void> => {
    const { code, text } = await runTool('openssl', args);
    assert.is(code, 0, text);
  };
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
  await openssl(
    'req',
    '-x509',
    ...key,
    '-keyout',
    join(pki, 'ca-key.pem'),
    '-out',
    join(pki, 'ca-cert.pem'),
    '-subj',
    '/CN=ca',
    '-days',
    '2',
  );
  for (const [name, subject] of [
    ['server', '/CN=localhost'],
    ['client', '/CN=peer'],
  ] as const) {
    await writeFile(join(pki, 'ext'), `subjectAltName=DNS:localhost,IP:127.0.0.1\n`);
    await openssl(
      'req',
      ...key,
      '-keyout',
      join(pki, `${name}-key.pem`),
      '-out',
      join(pki, `${name}.csr`),
      '-subj',
      subject,
    );
    await openssl(
      'x509',
      '-req',
      '-in',
      join(pki, `${name}.csr`),
      '-CA',
      join(pki, 'ca-cert.pem'),
      '-CAkey',
      join(pki, 'ca-key.pem'),
      '-CAcreateserial',
      '-extfile',
      join(pki, 'ext'),
      '-out',
      join(pki, `${name}-cert.pem`),
      '-days',
      '2',
    );
  }
  const config = JSON.parse(await readFile(place.configPath, 'utf8')) as Record<string, unknown>;
  await writeFile(
    place.configPath,
    JSON.stringify({
      ...config,
      tls: {
        host: '127.0.0.1',
        port: 0,
        cert: join(pki, 'server-cert.pem'),
        key: join(pki, 'server-key.pem'),
        ca: join(pki, 'ca-cert.pem'),
      },
    }),
  );
  await serving(async (_place, { servers }) => {
    const port = servers[1]?.port ?? 0;
    const good = await runTool('nbdinfo', [
      '--size',
      `nbds://localhost:${port}/disk0?tls-certificates=${pki}`,
    ]);
    assert.is(good.text.trim(), String(64 * MIB));
    const plain = await runTool('nbdinfo', ['--size', `nbd://localhost:${port}/disk0`]);
    assert.is.not(plain.code, 0);
    assert.match(plain.text, /TLS/);
    const stranger = join(pki, 'stranger');
    await mkdir(stranger);
    await writeFile(join(stranger, 'ca-cert.pem'), await readFile(join(pki, 'ca-cert.pem')));
    const refused = await runTool('nbdinfo', [
      '--size',
      `nbds://localhost:${port}/disk0?tls-certificates=${stranger}`,
    ]);
    assert.is.not(refused.code, 0);
    if (haveTools('nbdcopy')) {
      await writeFile(join(place.folder, 'in'), Buffer.alloc(20 * MIB, 0x5a));
      const uri = `nbds://localhost:${port}/disk0?tls-certificates=${pki}`;
      const copied = await runTool('nbdcopy', ['--flush', join(place.folder, 'in'), uri]);
      assert.is(copied.code, 0, copied.text);
      const back = await runTool('nbdcopy', [uri, join(place.folder, 'back')]);
      assert.is(back.code, 0, back.text);
      const out = await readFile(join(place.folder, 'back'));
      assert.ok(out.subarray(0, 20 * MIB).every((byte) => byte === 0x5a));
    }
  }, place);
});

test.run();
