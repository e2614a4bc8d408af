/** The forms that a disk had in old guest configurations. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';

import { deviceBacking, lvOfPath, parseOldDisk } from '../../../src/core/import/disk.js';
import type { Backing, OldDisk } from '../../../src/core/import/disk.js';

const test = suite('old disks');

function disk(vdev: string, backing: Backing, more: Partial<OldDisk> = {}): OldDisk {
  return { vdev, cdrom: false, access: 'write', backing, ...more };
}

const lv: Backing = { kind: 'lv', volumeGroup: 'vg0', logicalVolume: 'web' };
const image: Backing = { kind: 'image', path: '/srv/web.img', format: 'raw' };

const good: [string, OldDisk][] = [
  ['phy:/dev/vg0/web,xvda,w', disk('xvda', lv)],
  ['phy:vg0/web,sda1,r', disk('sda1', lv, { access: 'read' })],
  [
    'phy:/dev/mapper/vg0-web--root,xvda,w',
    disk('xvda', { kind: 'lv', volumeGroup: 'vg0', logicalVolume: 'web-root' }),
  ],
  ['phy:/dev/sdb1,ioemu:hda,w!', disk('hda', { kind: 'device', path: '/dev/sdb1' }, { access: 'shared' })],
  ['phy:/dev/drbd3,xvda,w', disk('xvda', { kind: 'drbd-minor', minor: 3 })],
  ['phy:/dev/drbd/by-res/web/1,xvda,w', disk('xvda', { kind: 'drbd', resource: 'web', volume: 1 })],
  ['drbd:web,xvda,w', disk('xvda', { kind: 'drbd', resource: 'web' })],
  ['drbd:web/2,xvda,w', disk('xvda', { kind: 'drbd', resource: 'web', volume: 2 })],
  ['file:/srv/web.img,xvda,w', disk('xvda', image)],
  [
    'file:/srv/cd.iso,hdc:cdrom,r',
    disk('hdc', { kind: 'image', path: '/srv/cd.iso', format: 'raw' }, { cdrom: true, access: 'read' }),
  ],
  ['phy:,hdc:cdrom,r', disk('hdc', { kind: 'empty' }, { cdrom: true, access: 'read' })],
  ['tap:aio:/srv/web.img,xvda,w', disk('xvda', image)],
  ['tap2:aio:/srv/web.img,xvda,w', disk('xvda', image)],
  ['tap2:aio:/dev/vg0/web,xvda,w', disk('xvda', lv)],
  [
    'tap:tapdisk:qcow2:/srv/w.qcow2,xvda,w',
    disk('xvda', { kind: 'image', path: '/srv/w.qcow2', format: 'qcow2' }),
  ],
  ['tap2:vhd:/srv/w.vhd,xvda,w', disk('xvda', { kind: 'image', path: '/srv/w.vhd', format: 'vhd' })],
  [
    'tap2:remus:backup:9000|aio:/srv/web.img,xvda,w',
    disk('xvda', image, { remus: { host: 'backup', port: 9000 } }),
  ],
  [
    'tap2:remus:[fd00::2]:9000|aio:/srv/web.img,xvda,w',
    disk('xvda', image, { remus: { host: 'fd00::2', port: 9000 } }),
  ],
  ['/dev/vg0/web,raw,xvda,rw', disk('xvda', lv)],
  ['/srv/web.qcow2,qcow2,xvda,rw', disk('xvda', { kind: 'image', path: '/srv/web.qcow2', format: 'qcow2' })],
  [
    'format=raw, vdev=hdc, access=ro, devtype=cdrom, target=/srv/a,b.iso',
    disk('hdc', { kind: 'image', path: '/srv/a,b.iso', format: 'raw' }, { cdrom: true, access: 'read' }),
  ],
  [',,hdc,,cdrom', disk('hdc', { kind: 'empty' }, { cdrom: true })],
  ['vdev=xvda,script=block-drbd,target=web/0', disk('xvda', { kind: 'drbd', resource: 'web', volume: 0 })],
  [
    'vdev=xvda,script=/etc/xen/scripts/block-drbd,target=web',
    disk('xvda', { kind: 'drbd', resource: 'web' }),
  ],
];

for (const [text, is] of good) {
  test(`reads ${text}`, () => assert.equal(parseOldDisk(text), { value: is }));
}

const bad: [string, RegExp][] = [
  ['', /no name in the guest/],
  ['phy:/dev/vg0/web', /no name in the guest/],
  ['phy:/dev/vg0/web,xvda,x', /no mode of a disk/],
  ['file:web.img,xvda,w', /not an absolute path/],
  ['nbd:server:9000,xvda,w', /on the network already/],
  ['tap2:remus:backup|aio:/srv/web.img,xvda,w', /not remus:HOST:PORT/],
  ['tap2:remus:backup:0|aio:/srv/web.img,xvda,w', /not remus:HOST:PORT/],
  ['tap2:remus:a:1|remus:b:2|aio:/x,xvda,w', /replicated twice/],
  ['vdev=xvda,script=block-iscsi,target=iqn.x', /only that script knows/],
  ['vdev=xvda,format=qed,target=/x', /format "qed"/],
  ['drbd:,xvda,w', /not drbd:RESOURCE/],
];

for (const [text, says] of bad) {
  test(`refuses ${JSON.stringify(text)}`, () => {
    const found = parseOldDisk(text);
    assert.match('problem' in found ? found.problem : 'read', says);
  });
}

test('tells LVs from other devices by their names', () => {
  assert.equal(lvOfPath('/dev/mapper/vg--a-lv--b'), { volumeGroup: 'vg-a', logicalVolume: 'lv-b' });
  for (const path of [
    '/dev/sda1',
    '/dev/mapper/crypt',
    '/dev/disk/by-id/x',
    '/dev/md/0',
    '/dev/drbd/by-res',
    'vg0/web',
    '/dev/vg0/a/b',
  ]) {
    assert.is(lvOfPath(path), undefined, path);
  }
  assert.equal(deviceBacking('/dev/drbd_web_4'), { kind: 'drbd-minor', minor: 4 });
});

test.run();
