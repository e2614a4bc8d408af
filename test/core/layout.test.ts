/** From the configuration to volumes, minors and LVs. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';

import { parseConfig } from '../../src/core/config.js';
import { allHosts, domainLayouts, layoutsOfHost, peerOf } from '../../src/core/layout.js';

const CONFIG = parseConfig(
  `
pairs:
  rack1:
    hosts:
      alpha: { ssh: root@192.0.2.1, replication: 10.0.0.1 }
      beta: { ssh: root@192.0.2.2, replication: 10.0.0.2 }
    domains:
      web:
        config: web.cfg
        primary: alpha
        port: 7790
        minor: 32
        disks:
          - { vdev: xvda, volumeGroup: vg0, size: 20GiB }
          - { vdev: xvdb, volumeGroup: vg1, logicalVolume: data }
        journal: { volumeGroup: vg2 }
  rack2:
    hosts:
      gamma: { ssh: root@192.0.2.3, replication: 10.0.0.3 }
      delta: { ssh: root@192.0.2.4, replication: 10.0.0.4 }
    domains:
      old:
        config: old.cfg
        primary: delta
        engine: protocol-d
        port: 7790
        minor: 7
        disks: [{ vdev: xvda, volumeGroup: vg0, size: 1GiB }]
`,
  'pair.yaml',
);

const test = suite('layout');
const [web, old] = domainLayouts(CONFIG);

test('a domain has its disks, and the barrier volume in the group of the first', () => {
  assert.equal(web?.volumes, [
    {
      volume: 0,
      minor: 32,
      role: 'disk',
      vdev: 'xvda',
      volumeGroup: 'vg0',
      dataLv: 'remus-web-0',
      makeData: true,
      sizeBytes: 20 * 2 ** 30,
      metaLv: 'remus-web-0-md',
      mapper: 'remus-web-0',
    },
    {
      volume: 1,
      minor: 33,
      role: 'disk',
      vdev: 'xvdb',
      volumeGroup: 'vg1',
      dataLv: 'data',
      makeData: false,
      metaLv: 'remus-web-1-md',
      mapper: 'remus-web-1',
    },
    {
      volume: 15,
      minor: 47,
      role: 'barrier',
      volumeGroup: 'vg0',
      dataLv: 'remus-web-barrier',
      makeData: true,
      sizeBytes: 4 * 2 ** 20,
      metaLv: 'remus-web-barrier-md',
      mapper: 'remus-web-barrier',
    },
  ]);
  assert.equal(web?.journal, { volumeGroup: 'vg2', sizeBytes: 2 ** 30, lv: 'remus-web-journal' });
});

test('with protocol D there is neither barrier volume nor journal', () => {
  assert.equal(
    old?.volumes.map(({ volume, minor }) => [volume, minor]),
    [[0, 7]],
  );
  assert.is(old?.journal, undefined);
});

test('hosts and their domains', () => {
  assert.equal(
    allHosts(CONFIG).map(({ name }) => name),
    ['alpha', 'beta', 'gamma', 'delta'],
  );
  const layouts = domainLayouts(CONFIG);
  assert.equal(
    layoutsOfHost(layouts, 'beta').map(({ domain }) => domain.name),
    ['web'],
  );
  assert.equal(
    layoutsOfHost(layouts, 'gamma').map(({ domain }) => domain.name),
    ['old'],
  );
  assert.equal(layoutsOfHost(layouts, 'other'), []);
  if (web === undefined) throw new Error('no layout');
  assert.is(peerOf(web, 'alpha').name, 'beta');
  assert.is(peerOf(web, 'beta').name, 'alpha');
  assert.throws(() => peerOf(web, 'gamma'), /gamma is not a host of web/);
});

test.run();
