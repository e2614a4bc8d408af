/* eslint-disable no-console -- a skipped test says so */
/**
 * From the old files to what the hosts would get: imported, the questions answered, loaded as any configuration,
 * rendered, and parsed by the real drbdadm (9 and 8.4, or 8.3 for protocol D), which is asked for the commands it
 * would run.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

import { suite } from 'uvu';
import * as assert from 'uvu/assert';

import { importConfigurations } from '../../../src/core/import/import.js';
import { allHosts } from '../../../src/core/layout.js';
import { renderHost } from '../../../src/core/render.js';
import type { RenderedFile } from '../../../src/core/render.js';
import { loadAssets } from '../../../src/edge/assets.js';
import { loadConfiguration } from '../../../src/edge/load.js';
import type { Loaded } from '../../../src/edge/load.js';

const NINE = '/usr/sbin/drbdadm';
const EIGHT_FOUR = '/lib/drbd/drbdadm-84';
const EIGHT_THREE = '/lib/drbd/drbdadm-83';
const DATA = 'test/data/import';

const missing = [NINE, EIGHT_FOUR, EIGHT_THREE].filter((tool) => !existsSync(tool));
const test = suite('import, answered and rendered');

interface Case {
  inputs: string[];
  /** What a person writes at each empty key, by key, in the order of the file. */
  answers: Record<string, string[]>;
  tools: string[];
  /** What drbdadm has to print for `up` of the domain on a host. */
  up: { host: string; domain: string; has: string[] };
}

const ssh = ['root@192.0.2.1', 'root@192.0.2.2'];

const cases: Case[] = [
  {
    inputs: ['web-pv.cfg', 'web83.res'],
    answers: { ssh, primary: ['alpha'], type: ['"pvh"'] },
    tools: [NINE, EIGHT_FOUR],
    up: {
      host: 'alpha',
      domain: 'web',
      has: [
        'ipv4:192.168.20.1:7788 ipv4:192.168.20.2:7788',
        '/dev/mapper/remus-web-0 /dev/vg0/remus-web-0-md flexible',
        '/dev/mapper/remus-web-1 /dev/vg0/remus-web-1-md flexible',
      ],
    },
  },
  {
    inputs: ['shop-xl.cfg', 'shop84.res'],
    answers: { ssh, primary: ['node-b'] },
    tools: [NINE, EIGHT_FOUR],
    up: {
      host: 'node-b',
      domain: 'shop',
      has: ['ipv6:[fd00:20::2]:7790 ipv6:[fd00:20::1]:7790', '/dev/mapper/remus-shop-1'],
    },
  },
  {
    inputs: ['mail9.res'],
    answers: { ssh, primary: ['node-a'], config: ['mail.cfg'], vdev: ['xvda'] },
    tools: [NINE, EIGHT_FOUR],
    up: {
      host: 'node-a',
      domain: 'mail',
      has: ['ipv4:10.20.0.1:7794 ipv4:10.20.0.2:7794', '/dev/mapper/remus-mail-0'],
    },
  },
  {
    inputs: ['systemha.cfg'],
    answers: {
      '"?1"': ['alpha'],
      '"?2"': ['beta'],
      ssh,
      replication: ['192.168.20.1'],
      primary: ['alpha'],
      volumeGroup: ['vg0'],
      size: ['4GiB'],
    },
    tools: [NINE, EIGHT_FOUR],
    up: {
      host: 'beta',
      domain: 'SystemHA',
      has: ['ipv4:192.168.20.2:9000 ipv4:192.168.20.1:9000', 'new-minor SystemHA 127616 0\n'],
    },
  },
  {
    inputs: ['images.cfg'],
    answers: {
      '"?1"': ['alpha'],
      '"?2"': ['beta'],
      ssh,
      replication: ['10.0.0.1', '10.0.0.2'],
      primary: ['beta'],
      volumeGroup: ['vg0', 'vg0', 'vg0'],
      size: ['4GiB', '8GiB', '1GiB'],
    },
    tools: [NINE, EIGHT_FOUR],
    up: {
      host: 'alpha',
      domain: 'images',
      has: ['ipv4:10.0.0.1:7790 ipv4:10.0.0.2:7790', '/dev/mapper/remus-images-3'],
    },
  },
  {
    inputs: ['testvm.cfg', 'testvm.res', 'global_common.conf'],
    answers: { ssh, primary: ['machine1'], engine: ['protocol-d\n        minor: 1'] },
    tools: [EIGHT_THREE],
    up: {
      host: 'machine1',
      domain: 'testvm',
      has: [
        '1 disk /dev/mapper/remus-testvm-0 /dev/vgdrbd/remus-testvm-0-md flexible',
        '1 net ipv4:172.16.0.1:7791 ipv4:172.16.0.2:7791 D ',
      ],
    },
  },
  {
    inputs: ['testvm.cfg', 'testvm.res', 'global_common.conf'],
    answers: { ssh, primary: ['machine1'], engine: ['journal'] },
    tools: [NINE, EIGHT_FOUR],
    up: { host: 'machine2', domain: 'testvm', has: ['--protocol=A', '/dev/mapper/remus-testvm-0'] },
  },
];

if (missing.length > 0 && process.env.CI !== 'true') {
  console.log('skipped: needs drbdadm (apt install drbd-utils)');
} else {
  test('the tools are there', () => {
    assert.equal(missing, []);
  });
  for (const one of cases) {
    test(`${one.inputs.join(', ')} with ${JSON.stringify(one.answers.engine ?? one.answers.primary)}`, async () => {
      const root = mkdtempSync(join(tmpdir(), 'remus-drbd-'));
      try {
        await check(one, root);
      } finally {
        rmSync(root, { recursive: true });
      }
    });
  }
}

test.run();

async function check({ inputs, answers, tools, up }: Case, root: string): Promise<void> {
  const imported = importConfigurations(
    inputs.map((file) => ({ file, text: readFileSync(join(DATA, file), 'utf8') })),
  );
  const left = new Map(Object.entries(answers).map(([key, values]) => [key, [...values]]));
  writeFileSync(join(root, 'pair.yaml'), fill(imported.pairYaml, left));
  for (const { name, text } of imported.guests) writeFileSync(join(root, name), fill(text, left));
  if (answers.config !== undefined)
    writeFileSync(join(root, 'mail.cfg'), 'name="mail"\ntype="pvh"\nmemory=256\n');
  assert.equal([...left.values()].flat(), [], 'answers to what was not asked');

  const loaded = await loadConfiguration(join(root, 'pair.yaml'));
  for (const [host, files] of await rendered(loaded)) {
    const drbdConf = writeEtc(join(root, host), files);
    for (const tool of tools) {
      const parsed = run(tool, drbdConf, host, 'sh-nop');
      assert.is(parsed.status, 0, `${tool}: ${parsed.stderr}`);
      if (host !== up.host) continue;
      const commands = run(tool, drbdConf, host, '--dry-run', 'up', up.domain);
      assert.is(commands.status, 0, `${tool}: ${commands.stderr}`);
      for (const part of up.has)
        assert.ok(commands.stdout.includes(part), `expected ${part} in:\n${commands.stdout}`);
    }
  }
}

/** Writes an answer at each empty key that is asked for, as somebody does by hand. */
function fill(text: string, left: Map<string, string[]>): string {
  return text
    .split('\n')
    .map((line) => {
      const [, indent, key, mark] = /^([ -]*)("\?\d"|[A-Za-z]+)(:| =)$/.exec(line) ?? [];
      const answer = key === undefined ? undefined : left.get(key)?.shift();
      if (answer === undefined || indent === undefined) return line;
      return key?.startsWith('"') === true ? `${indent}${answer}:` : `${indent}${key}${mark} ${answer}`;
    })
    .join('\n');
}

async function rendered({ config, layouts, guests }: Loaded): Promise<Map<string, RenderedFile[]>> {
  const assets = {
    ...(await loadAssets()),
    units: new Map<string, string>(),
    scripts: new Map<string, string>(),
  };
  return new Map(allHosts(config).map(({ name }) => [name, renderHost(name, layouts, guests, assets)]));
}

function writeEtc(root: string, files: readonly RenderedFile[]): string {
  for (const { path, content } of files) {
    if (!path.startsWith('/etc/drbd.d/')) continue;
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), content);
  }
  const drbdConf = join(root, 'etc/drbd.conf');
  writeFileSync(drbdConf, 'include "drbd.d/global_common.conf";\ninclude "drbd.d/*.res";\n');
  return drbdConf;
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
