/* eslint-disable no-console -- a skipped test says so */
/**
 * What the real parsers of Debian's drbd-utils make of each rendered example: those of DRBD 9 and 8.4 for the
 * default engine, that of 8.3 for protocol D. They read the rendered bytes through the same include lines
 * as /etc/drbd.conf has, and print the commands they would run, as either host (`__DRBD_NODE__`).
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

import { suite } from 'uvu';
import * as assert from 'uvu/assert';

import type { DomainLayout } from '../../src/core/model.js';
import type { RenderedFile } from '../../src/core/render.js';
import { createMetaData, promoteByForce, skipFirstSync } from '../../src/core/setup/drbdadm.js';
import { exampleNames, loadExample } from './examples.js';

const NINE = '/usr/sbin/drbdadm';
const EIGHT_FOUR = '/lib/drbd/drbdadm-84';
const EIGHT_THREE = '/lib/drbd/drbdadm-83';

const missing = [NINE, EIGHT_FOUR, EIGHT_THREE].filter((tool) => !existsSync(tool));
const test = suite('rendered files under the real drbdadm');

if (missing.length > 0 && process.env.CI !== 'true') {
  console.log('skipped: needs drbdadm (apt install drbd-utils)');
} else {
  test('the tools are there', () => {
    assert.equal(missing, []);
  });
  for (const name of exampleNames) {
    test(`conf-examples/${name}`, async () => {
      const { hosts, layouts } = await loadExample(name);
      for (const host of hosts) {
        const own = layouts.filter((layout) => layout.hosts.some((one) => one.name === host.name));
        withEtc(host.files, (drbdConf) => {
          for (const layout of own) checkDomain(drbdConf, host.name, layout);
        });
      }
    });
  }
  test('a file that is broken on purpose is noticed', async () => {
    const { hosts } = await loadExample('minimal');
    const files = (hosts[0]?.files ?? []).map((file) => {
      return { ...file, content: file.content.replace('protocol A;', 'protocol A') };
    });
    withEtc(files, (drbdConf) => {
      for (const tool of [NINE, EIGHT_FOUR]) assert.is.not(run(tool, drbdConf, 'alpha', 'sh-nop').status, 0);
    });
  });
}

test.run();

function checkDomain(drbdConf: string, host: string, layout: DomainLayout): void {
  const { domain } = layout;
  const tools = domain.engine === 'protocol-d' ? [EIGHT_THREE] : [NINE, EIGHT_FOUR];
  for (const tool of tools) {
    const parsed = run(tool, drbdConf, host, 'sh-nop');
    assert.is(parsed.status, 0, `${tool}: ${parsed.stderr}`);
    const up = run(tool, drbdConf, host, '--dry-run', 'up', domain.name);
    assert.is(up.status, 0, `${tool}: ${up.stderr}`);
    if (domain.engine === 'protocol-d') {
      checkProtocolD(up.stdout, host, layout);
      checkSyntaxOf83(drbdConf, host, layout);
    } else checkJournal(up.stdout, host, layout);
  }
}

/** The commands attach every volume to the right devices, connect the right addresses, and nothing else. */
function checkJournal(commands: string, host: string, layout: DomainLayout): void {
  for (const { minor, volume, mapper, volumeGroup, metaLv } of layout.volumes) {
    contains(commands, `new-minor ${layout.domain.name} ${minor} ${volume}\n`);
    const attach = `attach ${minor} /dev/mapper/${mapper} /dev/${volumeGroup}/${metaLv} flexible`;
    contains(commands, attach);
  }
  assert.is(commands.match(/ attach /g)?.length, layout.volumes.length);
  contains(commands, addresses(host, layout));
  contains(commands, '--protocol=A');
  contains(commands, '--allow-two-primaries=no');
  contains(commands, '--on-congestion=block');
  contains(commands, '--on-io-error=detach');
  for (const sides of [0, 1, 2]) contains(commands, `--after-sb-${sides}pri=disconnect`);
  lacks(commands, 'disk-flushes=no');
  lacks(commands, 'discard');
}

/** What setup gives drbdadm beside `adjust`: an option in the wrong place is ignored without a word. */
function checkSyntaxOf83(drbdConf: string, host: string, { domain, volumes }: DomainLayout): void {
  const minor = volumes[0]?.minor ?? 0;
  for (const [argv, command] of [
    [createMetaData(domain, 0), 'flex-external create-md --force\n'],
    [skipFirstSync(domain, 0), ` ${minor} new-current-uuid --clear-bitmap\n`],
    [promoteByForce(domain), ` ${minor} primary --overwrite-data-of-peer\n`],
    [['drbdadm', 'secondary', domain.name], ` ${minor} secondary\n`],
    [['drbdadm', 'disconnect', domain.name], ` ${minor} disconnect\n`],
    [['drbdadm', '--', '--discard-my-data', 'connect', domain.name], ' --discard-my-data\n'],
  ] as const) {
    const { status, stdout, stderr } = run(EIGHT_THREE, drbdConf, host, '--dry-run', ...argv.slice(1));
    assert.is(status, 0, stderr);
    contains(stdout, command);
  }
}

function checkProtocolD(commands: string, host: string, layout: DomainLayout): void {
  const [volume] = layout.volumes;
  if (volume === undefined) throw new Error('no volume');
  const { minor, mapper, volumeGroup, metaLv } = volume;
  contains(commands, `${minor} disk /dev/mapper/${mapper} /dev/${volumeGroup}/${metaLv} flexible`);
  contains(commands, `${minor} net ${addresses(host, layout)} D `);
  contains(commands, `${minor} syncer`);
  contains(commands, '--rate=');
  contains(commands, '--al-extents=');
  contains(commands, '--timeout=');
  contains(commands, '--allow-two-primaries');
  contains(commands, '--on-io-error=detach');
  for (const sides of [0, 1, 2]) contains(commands, `--after-sb-${sides}pri=disconnect`);
  lacks(commands, 'discard');
}

/** Own address first, as drbdsetup takes them. */
function addresses(host: string, { hosts, domain }: DomainLayout): string {
  const text = (replication: string): string => {
    const v6 = replication.includes(':');
    return v6 ? `ipv6:[${replication}]:${domain.port}` : `ipv4:${replication}:${domain.port}`;
  };
  const own = hosts.find(({ name }) => name === host);
  const peer = hosts.find(({ name }) => name !== host);
  return `${text(own?.replication ?? '')} ${text(peer?.replication ?? '')}`;
}

function contains(text: string, part: string): void {
  assert.ok(text.includes(part), `expected ${JSON.stringify(part)} in:\n${text}`);
}

function lacks(text: string, part: string): void {
  assert.not.ok(text.includes(part), `unexpected ${JSON.stringify(part)} in:\n${text}`);
}

/** A directory like /etc with the rendered files and the drbd.conf of Debian's package. */
function withEtc(files: RenderedFile[], use: (drbdConf: string) => void): void {
  const root = mkdtempSync(join(tmpdir(), 'remus-drbd-'));
  try {
    for (const { path, content } of files) {
      if (!path.startsWith('/etc/drbd.d/')) continue;
      mkdirSync(dirname(join(root, path)), { recursive: true });
      writeFileSync(join(root, path), content);
    }
    const drbdConf = join(root, 'etc/drbd.conf');
    writeFileSync(drbdConf, 'include "drbd.d/global_common.conf";\ninclude "drbd.d/*.res";\n');
    use(drbdConf);
  } finally {
    rmSync(root, { recursive: true });
  }
}

function run(tool: string, drbdConf: string, host: string, ...args: string[]) {
  const result = spawnSync(tool, ['-c', drbdConf, ...args], {
    encoding: 'utf8',
    env: { ...process.env, __DRBD_NODE__: host, LC_ALL: 'C' },
    timeout: 60_000,
  });
  // Without its escapes for a shell.
  return { ...result, stdout: result.stdout.replaceAll('\\', '') };
}
