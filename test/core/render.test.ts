/**
 * What is rendered: each example against its golden copy, and that no value can change what a file means.
 *
 * REMUS_UPDATE_GOLDEN=1 writes the golden copies anew; look at the difference before it is committed.
 */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import fc from 'fast-check';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';

import { parseConfig } from '../../src/core/config.js';
import { OperatorErrors } from '../../src/core/errors.js';
import { domainLayouts } from '../../src/core/layout.js';
import type { DomainLayout } from '../../src/core/model.js';
import { SAFE_TEXT } from '../../src/core/patterns.js';
import { renderHost } from '../../src/core/render.js';
import type { RenderedFile } from '../../src/core/render.js';
import { parseXlConfig } from '../../src/core/xlconfig.js';
import { loadAssets } from '../../src/edge/assets.js';
import { exampleNames, loadExample } from './examples.js';

const GOLDEN = 'test/golden';
const update = process.env.REMUS_UPDATE_GOLDEN === '1';

const assets = await loadAssets();

const CONFIG = {
  ssh: { identityFiles: ['~/.ssh/id_ed25519'], knownHostsFiles: ['known_hosts'] },
  pairs: {
    rack1: {
      hosts: {
        alpha: { ssh: 'root@192.0.2.1', replication: '10.0.0.1' },
        beta: { ssh: 'root@192.0.2.2:22', replication: '10.0.0.2' },
      },
      arbiter: {
        etcd: {
          endpoints: ['https://192.0.2.9:2379'],
          user: 'remus',
          passwordFile: '/etc/remus-drbd/secret',
          caFile: '/etc/remus-drbd/ca.pem',
        },
      },
      link: 'tls',
      domains: {
        web: {
          config: 'web.cfg',
          primary: 'alpha',
          engine: 'journal',
          port: 7790,
          linkPort: 8790,
          minor: 16,
          disks: [
            { vdev: 'xvda', volumeGroup: 'vg0', size: '20GiB' },
            { vdev: 'xvdb', volumeGroup: 'vg1', logicalVolume: 'data' },
          ],
          journal: { volumeGroup: 'vg2', size: '2GiB' },
          checkpoint: { interval: '100ms', failAfter: '1s' },
          pin: { dom0: [0], guest: [1] },
          autoRecover: true,
          onCrash: 'stop',
        },
      },
    },
  },
};

const OTHER_ARBITERS = [
  { ssh: 'remus@192.0.2.9', directory: '/srv/arbiter' },
  { fence: { alpha: ['fence_ipmilan', '--ip=192.0.2.101'], beta: ['/usr/sbin/fence_ipmilan'] } },
];

const GUEST = "name = 'web'\nmemory = 96\n";

const test = suite('rendering');

for (const name of exampleNames) {
  test(`conf-examples/${name} is rendered as in its golden copy`, async () => {
    const { hosts } = await loadExample(name);
    const text = transcript(hosts);
    const path = join(GOLDEN, `${name}.txt`);
    if (update) writeFileSync(path, text);
    assert.ok(existsSync(path), `${path} is missing; REMUS_UPDATE_GOLDEN=1 writes it`);
    assert.fixture(text, readFileSync(path, 'utf8'));
  });
}

test('each golden copy has its example', () => {
  assert.equal(readdirSync(GOLDEN).sort(), exampleNames.map((name) => `${name}.txt`).sort());
});

test('scripts and units are installed as they are, where the system looks for them', () => {
  const files = renderDefault();
  const found = (path: string): RenderedFile | undefined => files.find((file) => file.path === path);
  for (const script of ['block-drbd', 'block-drbd-probe']) {
    const file = found(`/etc/xen/scripts/${script}`);
    assert.is(file?.mode, 0o755);
    assert.is(file?.content, readFileSync(`scripts/host/${script}`, 'utf8'));
  }
  assert.is(found('/usr/lib/remus-drbd/remus-devices')?.mode, 0o755);
  assert.is(found('/etc/systemd/system/remus-drbd@.service')?.mode, 0o644);
  assert.is(found('/etc/systemd/system/remus-drbd@.service')?.domain, undefined);
  assert.is(found('/etc/drbd.d/remus-web.res')?.domain, 'web');
});

test('what may hold a secret is for root alone', () => {
  const modes = new Map(renderDefault().map(({ path, mode }) => [path, mode]));
  assert.is(modes.get('/etc/remus-drbd/domains/web.json'), 0o600);
  assert.is(modes.get('/etc/remus-drbd/domains/web.cfg'), 0o600);
});

test('nothing of the machine it is rendered on gets into a file', () => {
  const layouts = layoutsOf(CONFIG, '/home/somebody/remus');
  const elsewhere = layoutsOf(CONFIG, '/srv/other');
  assert.equal(render(layouts), render(elsewhere));
});

test('a guest under another name is refused', () => {
  assert.throws(
    () => render(layoutsOf(CONFIG), "memory = 96\nname = 'other'\n"),
    (error: Error) =>
      error.message === 'web.cfg:2: name is "other", but this is the configuration of domain web',
  );
});

/** Texts with what could end a quoted text, a line or a word, and texts without. */
const hostile = fc.oneof(
  fc.string({ unit: fc.constantFrom(...`ab0-_./@:'"\`\n\r\t\\ ;$(){}#&|<>*?!~\u0000\u001b\u2028é`) }),
  fc.string({ unit: 'binary' }),
  fc.constantFrom(
    'web"; }',
    "a'b",
    'a\nb',
    '$(reboot)',
    '`id`',
    '-x',
    '../../etc/passwd',
    'x;y',
    '{{domain}}',
  ),
);

test('no value or name of the configuration with any other than harmless characters is accepted', () => {
  const configs = [CONFIG, ...OTHER_ARBITERS.map((arbiter) => withArbiter(arbiter))];
  for (const config of configs) parseConfig(JSON.stringify(config), 'pair.yaml');
  const changes = fc.oneof(
    fc.constantFrom(
      ...configs.flatMap((config) => leaves(config).map((path) => ({ config, path, change: replaced }))),
    ),
    fc.constantFrom(
      ...configs.flatMap((config) => keys(config).map((path) => ({ config, path, change: renamed }))),
    ),
  );
  fc.assert(
    fc.property(changes, hostile, ({ config, path, change }, text) => {
      const accepted = attempt(change(config, path, text));
      if (accepted === undefined) return;
      assert.ok(SAFE_TEXT.test(text), `${JSON.stringify(text)} was accepted at ${path.join('.')}`);
      render(accepted);
    }),
    { numRuns: 1500 },
  );
});

test('a layout that nobody validated is refused, or the value is not rendered at all', () => {
  const [good] = layoutsOf(CONFIG);
  if (good === undefined) throw new Error('no layout');
  const expected = render([good]);
  const places = leaves(good).filter((path) => typeof valueAt(good, path) === 'string');
  // Most of these are in a file; those that are not are few.
  const rendered = new Set<string>();
  fc.assert(
    fc.property(fc.constantFrom(...places), hostile, (path, text) => {
      fc.pre(!SAFE_TEXT.test(text));
      let files: RenderedFile[];
      try {
        files = render([replaced(good, path, text)]);
      } catch (error) {
        rendered.add(path.join('.'));
        assert.match(
          (error as Error).message,
          /^refusing to render|name is "web"|no xl configuration|is not a host/,
        );
        return;
      }
      // A host of another name is another host's business: nothing of this domain is rendered for it.
      if (path.at(-1) === 'name' && path.includes('hosts')) return;
      assert.equal(files, expected, `${path.join('.')} changed what is rendered`);
    }),
    { numRuns: 1000 },
  );
  assert.ok(rendered.has('volumes.0.volumeGroup') && rendered.has('hosts.1.replication'));
});

test('rendering is a function of its input', async () => {
  const [once, twice] = [await loadExample('two-pairs'), await loadExample('two-pairs')];
  assert.equal(once.hosts, twice.hosts);
});

/** All files of all hosts as one text; hosts that get the same are named together. */
function transcript(hosts: { name: string; files: RenderedFile[] }[]): string {
  const groups: { names: string[]; body: string }[] = [];
  for (const { name, files } of hosts) {
    const body = files
      .map(({ path, mode, content }) => `=== ${path} (${mode.toString(8)})\n${content}`)
      .join('\n');
    const same = groups.find((group) => group.body === body);
    if (same === undefined) groups.push({ names: [name], body });
    else same.names.push(name);
  }
  return groups.map(({ names, body }) => `##### on ${names.join(' and ')}\n\n${body}`).join('\n');
}

function layoutsOf(config: unknown, directory?: string): DomainLayout[] {
  return domainLayouts(parseConfig(JSON.stringify(config), 'pair.yaml', directory));
}

function render(layouts: DomainLayout[], guest = GUEST): RenderedFile[] {
  const guests = new Map([['web', parseXlConfig(guest, 'web.cfg')]]);
  return renderHost('alpha', layouts, guests, assets);
}

function renderDefault(): RenderedFile[] {
  return render(layoutsOf(CONFIG));
}

/** The layouts of a configuration; undefined when it is refused in the right way. */
function attempt(config: unknown): DomainLayout[] | undefined {
  try {
    // The name of the guest follows, so that rendering gets as far as it can.
    return layoutsOf(config).filter(({ domain }) => domain.name === 'web');
  } catch (error) {
    assert.instance(error, OperatorErrors);
    return undefined;
  }
}

function withArbiter(arbiter: unknown): typeof CONFIG {
  const config = structuredClone(CONFIG) as { pairs: { rack1: { arbiter: unknown } } };
  config.pairs.rack1.arbiter = arbiter;
  return config as typeof CONFIG;
}

/** Paths of all values that are no maps or lists. */
function leaves(value: unknown, path: string[] = []): string[][] {
  if (typeof value !== 'object' || value === null) return [path];
  return Object.entries(value).flatMap(([key, item]) => leaves(item, [...path, key]));
}

/** Paths of all names in maps. */
function keys(value: unknown, path: string[] = []): string[][] {
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([key, item]) => {
    const here = [...path, key];
    return Array.isArray(value) ? keys(item, here) : [here, ...keys(item, here)];
  });
}

function valueAt(value: unknown, path: string[]): unknown {
  return path.reduce<unknown>((part, key) => (part as Record<string, unknown>)[key], value);
}

function replaced<T>(value: T, path: string[], by: unknown): T {
  const copy = structuredClone(value);
  const parent = valueAt(copy, path.slice(0, -1)) as Record<string, unknown>;
  parent[path.at(-1) ?? ''] = by;
  return copy;
}

/** With another name for the value at the path. */
function renamed<T>(value: T, path: string[], to: string): T {
  const copy = structuredClone(value);
  const parent = valueAt(copy, path.slice(0, -1)) as Record<string, unknown>;
  const key = path.at(-1) ?? '';
  const item = parent[key];
  delete parent[key];
  Object.defineProperty(parent, to, { value: item, enumerable: true, configurable: true, writable: true });
  return copy;
}

test.run();
