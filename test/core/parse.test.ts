/**
 * The parsers of the tools' output, on what the tools print: Debian 12's drbd-utils 9.22, util-linux 2.38,
 * LVM 2.03.16, iproute2 6.1, Xen 4.17; and on output that is cut off, foreign or hostile.
 */
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { parseLsblk, parseSample, parseWipefs } from '../../src/core/parse/block.js';
import { parseDmInfo, parseDmsetup, parseDmTable } from '../../src/core/parse/dm.js';
import {
  parseDrbdmeta,
  parseDrbdUtilsVersion,
  parseEvents2,
  parseProcDrbd,
} from '../../src/core/parse/drbd.js';
import { parseDumpXml } from '../../src/core/parse/drbdxml.js';
import { parseLvs, parseVgs } from '../../src/core/parse/lvm.js';
import { parseIpAddresses, parseListeners, parsePing } from '../../src/core/parse/network.js';
import * as system from '../../src/core/parse/system.js';
import { ParseError } from '../../src/core/parse/text.js';
import { parseXlInfo, parseXlList } from '../../src/core/parse/xen.js';
import { parseThroughput } from '../../src/core/throughput.js';

const test = suite('parse');

function data(name: string): string {
  return readFileSync(new URL(`../data/host/${name}`, import.meta.url), 'utf8');
}

/** The error that a parser ends with; anything but a ParseError is a failure of the test. */
function errorOf(parse: () => unknown): ParseError {
  try {
    parse();
  } catch (error) {
    assert.instance(error, ParseError, `not a ParseError: ${String(error)}`);
    return error as ParseError;
  }
  assert.unreachable('it was accepted');
  throw new Error('unreachable');
}

test('events2 of 8.4: a connected resource of two volumes', () => {
  assert.equal(parseEvents2(data('events2-connected')), [
    {
      name: 'web',
      role: 'Primary',
      suspended: 'no',
      volumes: {
        0: { volume: 0, minor: 1000, disk: 'UpToDate' },
        15: { volume: 15, minor: 1015, disk: 'UpToDate' },
      },
      connections: [
        {
          peer: 'peer',
          connection: 'Connected',
          peerRole: 'Secondary',
          volumes: {
            0: {
              volume: 0,
              replication: 'Established',
              peerDisk: 'UpToDate',
              resyncSuspended: 'no',
              outOfSyncBytes: 0,
            },
            15: {
              volume: 15,
              replication: 'Established',
              peerDisk: 'UpToDate',
              resyncSuspended: 'no',
              outOfSyncBytes: 0,
            },
          },
        },
      ],
    },
  ]);
});

test('events2: amounts are KiB, several resources, a peer that is away', () => {
  const [web, old] = parseEvents2(data('events2-resync'));
  assert.is(web?.volumes[0]?.sizeBytes, 2 ** 30);
  assert.is(web?.connections[0]?.volumes[0]?.outOfSyncBytes, 512 * 2 ** 20);
  assert.is(web?.connections[0]?.volumes[0]?.replication, 'SyncTarget');
  assert.is(old?.suspended, 'user,fencing');
  assert.is(old?.connections[0]?.connection, 'Connecting');
  assert.is(old?.connections[0]?.volumes[0]?.peerDisk, 'DUnknown');
  assert.is(old?.connections[0]?.volumes[0]?.resyncSuspended, 'user,peer');
});

test('events2 of 9: paths, backing device, names of peers', () => {
  const [web] = parseEvents2(data('events2-9'));
  assert.is(web?.connections[0]?.peer, 'beta');
  assert.is(web?.volumes[0]?.backingDevice, '/dev/mapper/remus-web-0');
});

test('events2: no resource at all', () => {
  assert.equal(parseEvents2('exists -\n'), []);
});

const BROKEN_EVENTS: [string, (text: string) => string, RegExp][] = [
  [
    'a disk state that is new',
    (t) => t.replace('disk:UpToDate', 'disk:Rebuilding'),
    /unknown disk state "Rebuilding"/,
  ],
  ['a role that is new', (t) => t.replace('role:Primary', 'role:Leader'), /unknown role "Leader"/],
  [
    'a replication state that is new',
    (t) => t.replace('Established', 'Mirrored'),
    /unknown replication state/,
  ],
  [
    'a connection state that is new',
    (t) => t.replace('connection:Connected', 'connection:Up'),
    /unknown connection state/,
  ],
  ['output that breaks off', (t) => t.replace('exists -\n', ''), /breaks off/],
  ['nothing', () => '', /breaks off/],
  [
    'a kind of object that is new',
    (t) => t.replace('exists device', 'exists quorum'),
    /unknown kind of object "quorum"/,
  ],
  [
    'a change instead of the state',
    (t) => t.replace('exists resource', 'change resource'),
    /"exists" is expected/,
  ],
  [
    'a device of no resource',
    (t) => t.replace('exists device name:web', 'exists device name:wob'),
    /no resource "wob"/,
  ],
  ['a minor too large', (t) => t.replace('minor:1000', 'minor:1048576'), /the minor is out of range/],
  ['a minor that is no number', (t) => t.replace('minor:1000', 'minor:0x3e8'), /the minor is not a number/],
  ['no statistics', (t) => t.replaceAll(/ received:0 sent:[0-9]+/g, ''), /no statistics/],
  [
    'something after the end',
    (t) => `${t}exists resource name:x role:Primary suspended:no\n`,
    /complete before/,
  ],
  [
    'a line that is no event',
    (t) => `Could not connect to 'drbd' generic netlink family\n${t}`,
    /"exists" is expected/,
  ],
];
for (const [title, change, message] of BROKEN_EVENTS) {
  test(`events2 refuses ${title}`, () => {
    const error = errorOf(() => parseEvents2(change(data('events2-connected'))));
    assert.match(error.message, message);
    assert.match(error.message, /output of drbdsetup events2 not understood/);
  });
}

test('an error names the tool, the line and its number', () => {
  const error = errorOf(() =>
    parseEvents2(data('events2-connected').replace('minor:1015 disk:UpToDate', 'minor:1015 disk:X')),
  );
  assert.is(error.tool, 'drbdsetup events2');
  assert.is(error.lineNumber, 4);
  assert.match(error.line, /^exists device name:web volume:15 minor:1015 disk:X/);
});

test('dump-xml of 9 and of 8.4 give the same', () => {
  const nine = parseDumpXml(data('drbdadm-dump-xml-9.xml'));
  assert.equal(parseDumpXml(data('drbdadm-dump-xml-8.4.xml')), nine);
  const [old, web] = nine;
  assert.is(old?.name, 'old');
  assert.is(old?.file, '/etc/drbd.d/old.res');
  assert.is(web?.file, '/etc/drbd.d/remus-web.res');
  assert.is(web?.line, 1);
  assert.equal(web?.hosts[1], {
    name: 'beta',
    address: { family: 'ipv6', address: 'fd00::2', port: 7790 },
    volumes: [
      { volume: 0, minor: 1000, disk: '/dev/mapper/remus-web-0', metaDisk: '/dev/vg0/remus-web-0-md' },
      {
        volume: 15,
        minor: 1015,
        disk: '/dev/mapper/remus-web-barrier',
        metaDisk: '/dev/vg0/remus-web-barrier-md',
      },
    ],
  });
});

test('dump-xml of 8.3 has no places, and the one volume in the host', () => {
  const [, legacy] = parseDumpXml(readFileSync('test/data/drbd-8.3/dump-xml.xml', 'utf8'));
  assert.equal(legacy, {
    name: 'legacy',
    hosts: ['alpha', 'beta'].map((name, index) => ({
      name,
      address: { family: 'ipv4', address: index === 0 ? '127.0.0.1' : '127.0.0.9', port: 7790 },
      volumes: [
        { volume: 0, minor: 1, disk: '/dev/mapper/remus-legacy-0', metaDisk: '/dev/vg0/remus-legacy-0-md' },
      ],
    })),
  });
});

test('dump-xml without a resource', () => {
  assert.equal(parseDumpXml(data('drbdadm-dump-xml-none.xml')), []);
});

const BROKEN_XML: [string, string, RegExp][] = [
  ['nothing', '', /nothing printed/],
  ['another root', '<x></x>', /<config> is expected/],
  ['a cut', '<config><resource name="a" conf-file-line="/f:1">', /<resource> is not closed/],
  ['a stray end', '<config></config></config>', /closes nothing/],
  ['a crossed end', '<config><a></config></a>', /closes nothing/],
  ['two roots', '<config/><config/>', /second outermost/],
  ['a text outside', 'WARNING <config/>', /outside of all elements/],
  ['an entity', '<config>&evil;</config>', /unknown entity/],
  ['a document type', '<!DOCTYPE config><config/>', /neither an element nor a text/],
  ['no name', '<config><resource conf-file-line="/f:1"/></config>', /has no name/],
  ['no place', '<config><resource name="a" conf-file-line="x"/></config>', /FILE:LINE/],
  ['depth', '<a>'.repeat(20), /nested too deep/],
  [
    'a volume without a device',
    '<config><resource name="a" conf-file-line="/f:1"><host name="h"><volume vnr="0"/></host></resource></config>',
    /has no device/,
  ],
];
for (const [title, text, message] of BROKEN_XML) {
  test(`dump-xml refuses ${title}`, () => {
    assert.match(errorOf(() => parseDumpXml(text)).message, message);
  });
}

test('drbdmeta: fresh meta-data of both formats, and used', () => {
  const fresh = parseDrbdmeta(data('drbdmeta-v08-fresh'));
  assert.is(fresh.format, 'v08');
  assert.ok(fresh.fresh);
  assert.is(parseDrbdmeta(data('drbdmeta-v09-fresh')).format, 'v09');
  const used = parseDrbdmeta(data('drbdmeta-v08-used'));
  assert.not(used.fresh);
  assert.is(used.uuids[0], '6b7e2c9afd0e3f21');
  assert.equal(used.flags, [1, 1, 1, 1, 0, 0, 0]);
  assert.match(errorOf(() => parseDrbdmeta('4:0:0:0:0:0:0:0:0:0:0')).message, /four generations/);
  assert.match(
    errorOf(() => parseDrbdmeta(data('drbdmeta-v08-used').replace(/:0\n/, '\n'))).message,
    /7 to 16 flags/,
  );
});

test('versions of the DRBD module and of drbd-utils', () => {
  assert.is(parseProcDrbd(data('proc-drbd')), '8.4.11');
  assert.is(parseProcDrbd('version: 9.1.23 (api:2/proto:110-121)\nGIT-hash: x\n'), '9.1.23');
  assert.is(parseDrbdUtilsVersion(data('drbdadm-version')), '9.22.0');
  assert.match(errorOf(() => parseProcDrbd('drbd\n')).message, /the version is expected/);
  assert.match(errorOf(() => parseDrbdUtilsVersion('DRBDADM_API_VERSION=2\n')).message, /no DRBDADM_VERSION/);
});

test('vgs and lvs', () => {
  assert.equal(parseVgs(data('vgs')), [
    { name: 'vg0', sizeBytes: 42945478656, freeBytes: 38650511360, extentBytes: 4194304 },
  ]);
  assert.equal(parseVgs('{"report":[{"vg":[]}]}'), []);
  const lvs = parseLvs(data('lvs'));
  assert.is(lvs.length, 2, 'an LV of several segments is one LV');
  assert.equal(lvs[0], {
    volumeGroup: 'vg0',
    name: 'old disk',
    sizeBytes: 4194304,
    tags: [],
    active: false,
    open: false,
    segmentType: 'linear',
  });
  assert.equal(lvs[1]?.tags, ['remus-drbd', 'remus-drbd.zeroed']);
  assert.is(lvs[1]?.device, '254:0');
  assert.ok(lvs[1]?.open);
});

test('lvs refuses a size with a unit, and a word that is neither yes nor no', () => {
  assert.match(
    errorOf(() => parseLvs(data('lvs').replace('"1073741824"', '"1.00g"'))).message,
    /lv_size: a whole number/,
  );
  assert.match(
    errorOf(() => parseLvs(data('lvs').replace('"active"', '"suspended"'))).message,
    /lv_active: "active" or nothing/,
  );
  assert.match(errorOf(() => parseLvs('{"report":[{}]}')).message, /\$\.report\[0\]\.lv: a list is expected/);
  assert.match(errorOf(() => parseVgs('  WARNING: x')).message, /not valid JSON/);
});

test('dmsetup: tables and states are joined, other targets have no device below', () => {
  const devices = parseDmsetup(data('dmsetup-info'), data('dmsetup-table'));
  const byName = Object.fromEntries(devices.map((device) => [device.name, device]));
  assert.equal(byName['remus-web-0'], {
    name: 'remus-web-0',
    device: '254:5',
    openCount: 1,
    suspended: false,
    segments: [
      { startSector: 0, sectors: 2097152, kind: 'linear', target: { device: '254:0', offsetSector: 0 } },
    ],
  });
  assert.ok(byName['remus-web-barrier']?.suspended);
  assert.equal(byName['swap']?.segments, [{ startSector: 0, sectors: 1048576, kind: 'crypt' }]);
  assert.is(byName['vg0-big']?.segments.length, 2);
  assert.equal(parseDmsetup('No devices found\n', 'No devices found\n'), []);
  assert.equal(parseDmTable('remus-web-0: \n'), new Map([['remus-web-0', []]]));
});

test('dmsetup refuses what it does not know', () => {
  assert.match(errorOf(() => parseDmTable('x: 0 8 linear vda 0\n')).message, /MAJOR:MINOR/);
  assert.match(errorOf(() => parseDmTable('x\n')).message, /NAME: TABLE/);
  assert.match(errorOf(() => parseDmTable('x: 0 linear\n')).message, /the length/);
  assert.match(
    errorOf(() => parseDmInfo(data('dmsetup-info').replace('ACTIVE', 'BROKEN'))).message,
    /unknown state of a device "BROKEN"/,
  );
  assert.match(errorOf(() => parseDmInfo('State: ACTIVE\n')).message, /starts with its Name/);
  assert.match(errorOf(() => parseDmInfo('Name: x\nState: ACTIVE\n')).message, /no Open count/);
});

test('wipefs and samples', () => {
  assert.equal(parseWipefs(data('wipefs-ext4')), [
    { type: 'ext4', offsetBytes: 0x438, uuid: 'eda5900f-48c1-4e93-962c-dbd1e524a6a8' },
  ]);
  assert.equal(parseWipefs(data('wipefs-none')), []);
  assert.match(errorOf(() => parseWipefs('')).message, /not valid JSON/);
  assert.match(
    errorOf(() => parseWipefs(data('wipefs-ext4').replace('0x438', '1080'))).message,
    /hexadecimal/,
  );
  assert.equal(parseSample(data('sample-zero')), { sizeBytes: 8388608 });
  assert.equal(parseSample(data('sample-data')), { sizeBytes: 8388608, firstDataAt: 1080 });
  assert.match(errorOf(() => parseSample('8388608\n')).message, /zero or data/);
});

test('lsblk: who lies on what', () => {
  const devices = parseLsblk(data('lsblk'));
  const find = (path: string): (typeof devices)[number] | undefined =>
    devices.find((device) => device.path === path);
  assert.equal(find('/dev/vda')?.mountpoints, ['/']);
  assert.equal(find('/dev/mapper/vg0-remus--web--0')?.holders, ['/dev/mapper/remus-web-0']);
  assert.equal(find('/dev/mapper/remus-web-0')?.holders, ['/dev/drbd1000']);
  assert.equal(find('/dev/vdb')?.mountpoints, []);
  const deep = `${'{"name":"a","maj:min":"1:1","children":['.repeat(40)}${']}'.repeat(40)}`;
  assert.match(errorOf(() => parseLsblk(`{"blockdevices":[${deep}]}`)).message, /nested too deep/);
});

test('xl info and xl list', () => {
  assert.equal(parseXlInfo(data('xl-info')), {
    version: '4.17.6-pre',
    capabilities: ['pv', 'hvm', 'hap', 'gnttab-v1', 'gnttab-v2'],
    commandLine: 'placeholder dom0_mem=1024M com1=115200,8n1 console=com1',
    cpuFeatures: '078bfbfd:82982203:2e500800:00000105:00000000:00000000:00000000:00000000',
    totalMemoryBytes: 4095 * 2 ** 20,
    freeMemoryBytes: 2950 * 2 ** 20,
    cpus: 2,
  });
  assert.match(errorOf(() => parseXlInfo('host : x\n')).message, /no xen_version/);
  const guests = parseXlList(data('xl-list'));
  assert.equal(guests[1], { name: 'web', id: 1, memoryBytes: 96 * 2 ** 20, vcpus: 1, state: '-b----' });
  assert.equal(
    guests.map((guest) => guest.name),
    ['Domain-0', 'web', 'db--incoming', 'gone'],
  );
  assert.is(guests[3]?.state, '---ss-');
  assert.is(parseXlList(data('xl-list').replace('web', 'a b'))[1]?.name, 'a b');
  assert.match(errorOf(() => parseXlList('')).message, /header is expected/);
  assert.match(
    errorOf(() => parseXlList(data('xl-list').replace('-b----', '-b---'))).message,
    /a guest is expected/,
  );
});

test('listeners and addresses', () => {
  assert.equal(parseListeners(data('ss')), [
    { address: '0.0.0.0', port: 22 },
    { address: '10.0.0.1', port: 7790 },
    { address: '127.0.0.53', port: 53 },
    { address: '::', port: 22 },
    { address: '*', port: 80 },
    { address: 'fe80::1', port: 546 },
  ]);
  assert.match(
    errorOf(() => parseListeners('ESTAB 0 0 1.1.1.1:1 2.2.2.2:2\n')).message,
    /LISTEN is expected/,
  );
  assert.match(
    errorOf(() => parseListeners('LISTEN 0 5 10.0.0.1:http 0.0.0.0:*\n')).message,
    /the port is not a number/,
  );
  assert.equal(parseIpAddresses(data('ip')), [
    { interface: 'lo', address: '127.0.0.1', prefixLength: 8, up: true },
    { interface: 'lo', address: '::1', prefixLength: 128, up: true },
    { interface: 'eth1', address: '10.0.0.1', prefixLength: 24, up: false },
  ]);
});

test('ping and the transfer', () => {
  assert.equal(parsePing(data('ping')), { sent: 3, received: 3, averageMs: 0.039 });
  assert.equal(parsePing(data('ping-lost')), { sent: 10, received: 0 });
  assert.equal(parsePing('4 packets transmitted, 0 received, +4 errors, 100% packet loss, time 3ms\n'), {
    sent: 4,
    received: 0,
  });
  assert.match(errorOf(() => parsePing('PING x\n')).message, /no summary/);
  assert.is(parseThroughput('1048576 500.000\n'), 2097152);
  assert.match(errorOf(() => parseThroughput('1048576 0.000\n')).message, /milliseconds/);
});

test('packages, configuration files, diversions, digests', () => {
  const packages = system.parsePackages(data('packages'));
  assert.is(packages['drbd-utils'], '9.22.0-1');
  assert.not('nbd-client' in packages, 'removed, with its configuration left');
  assert.is(
    system.parseConffiles(data('conffiles'))['/etc/drbd.d/global_common.conf'],
    'e963fe4e9d7b326f01b698a8aa32b72a',
  );
  assert.equal(system.parseConffiles(' /etc/a b 6fd1c1c463d9066ae87283fc3cbf7093 obsolete\n'), {
    '/etc/a b': '6fd1c1c463d9066ae87283fc3cbf7093',
  });
  assert.equal(system.parseDiversions(data('diversions')), [
    { path: '/etc/xen/scripts/block-drbd', divertedTo: '/etc/xen/scripts/block-drbd.distrib' },
    {
      path: '/usr/share/man/man1/sh.1.gz',
      divertedTo: '/usr/share/man/man1/sh.distrib.1.gz',
      package: 'dash',
    },
  ]);
  assert.is(
    system.parseDigests('md5sum', data('md5sum'))['/etc/drbd.conf'],
    '6fd1c1c463d9066ae87283fc3cbf7093',
  );
  assert.match(
    errorOf(() => system.parseDigests('sha256sum', data('md5sum'))).message,
    /64 hexadecimal digits/,
  );
  assert.match(errorOf(() => system.parsePackages('drbd-utils\n')).message, /three columns/);
  assert.match(errorOf(() => system.parseConffiles('drbd.conf\n')).message, /MD5 are expected/);
  assert.match(
    errorOf(() => system.parseDiversions('Umleitung von a nach b\n')).message,
    /a diversion is expected/,
  );
});

test('kernel, user, clock, memory, modules', () => {
  assert.equal(system.parseUname(data('uname')), {
    nodeName: 'alpha',
    kernelRelease: '6.1.0-41-amd64',
    architecture: 'x86_64',
  });
  assert.is(system.parseUid(data('id')), 0);
  assert.is(Math.round(system.parseClock(data('date'))), 1795498830123);
  assert.equal(system.parseMeminfo(data('meminfo')), {
    totalBytes: 1000352 * 1024,
    availableBytes: 741708 * 1024,
  });
  assert.is(system.parseNodeVersion(data('node')), '18.19.0');
  assert.ok(system.parseProcModules(data('modules')).includes('drbd'));
  assert.equal(system.parseProcModules('x 1 0 - Loading 0x0\n'), []);
  const modules = system.parseModinfo(data('modinfo'));
  assert.equal(modules['drbd'], { builtIn: false, version: '8.4.11' });
  assert.equal(modules['dm_mod'], { builtIn: true });
  assert.is(Object.keys(modules).length, 8);
  assert.match(errorOf(() => system.parseUname('alpha\n')).message, /three words/);
  assert.match(errorOf(() => system.parseUid('root\n')).message, /user id/);
  assert.match(errorOf(() => system.parseClock('1795498830.N\n')).message, /nanoseconds/);
  assert.match(errorOf(() => system.parseMeminfo('MemTotal: 1 kB\n')).message, /no MemAvailable/);
  assert.match(errorOf(() => system.parseModinfo('version: 1\0')).message, /starts with/);
  assert.match(errorOf(() => system.parseProcModules('drbd\n')).message, /a module is expected/);
});

test('units, time, autostart, certificate', () => {
  const units = system.parseUnits(data('units'));
  assert.equal(units['remus-drbd@web.service'], {
    loadState: 'loaded',
    activeState: 'active',
    fileState: 'enabled',
  });
  assert.is(units['nosuch.service']?.fileState, '');
  assert.is(system.parseTimeSync(data('timedatectl')), true);
  assert.match(errorOf(() => system.parseTimeSync('NTPSynchronized=maybe\n')).message, /unknown value/);
  assert.equal(system.parseAutostart(data('autostart')), {
    '/etc/xen/auto/web.cfg': 'web',
    '/etc/xen/auto/db': 'db',
  });
  const certificate = system.parseCertificate(data('certificate'));
  assert.is(certificate.subject, 'CN = alpha');
  assert.is(certificate.fingerprint.length, 64);
  assert.is(new Date(certificate.notAfterMs).getUTCFullYear(), 2126);
  assert.match(errorOf(() => system.parseUnits('Id=x\nLoadState=loaded\n')).message, /no ActiveState/);
});

const PARSERS: Record<string, (text: string) => unknown> = {
  parseEvents2,
  parseDumpXml,
  parseDrbdmeta,
  parseProcDrbd,
  parseDrbdUtilsVersion,
  parseVgs,
  parseLvs,
  parseDmTable,
  parseDmInfo,
  parseWipefs,
  parseSample,
  parseLsblk,
  parseXlInfo,
  parseXlList,
  parseListeners,
  parseIpAddresses,
  parsePing,
  parseThroughput,
  parsePackages: system.parsePackages,
  parseConffiles: system.parseConffiles,
  parseDiversions: system.parseDiversions,
  parseDigest: (text) => system.parseDigest('md5sum', text),
  parseDigests: (text) => system.parseDigests('sha256sum', text),
  parseUname: system.parseUname,
  parseUid: system.parseUid,
  parseClock: system.parseClock,
  parseNodeVersion: system.parseNodeVersion,
  parseMeminfo: system.parseMeminfo,
  parseProcModules: system.parseProcModules,
  parseModinfo: system.parseModinfo,
  parseUnits: system.parseUnits,
  parseTimeSync: system.parseTimeSync,
  parseAutostart: system.parseAutostart,
  parseCertificate: system.parseCertificate,
};

const SAMPLES = [
  'events2-connected',
  'events2-resync',
  'events2-9',
  'drbdadm-dump-xml-9.xml',
  'drbdmeta-v08-used',
  'vgs',
  'lvs',
  'dmsetup-table',
  'dmsetup-info',
  'wipefs-ext4',
  'lsblk',
  'xl-info',
  'xl-list',
  'ss',
  'ip',
  'ping',
  'packages',
  'modinfo',
  'units',
  'certificate',
].map(data);

/** Any bytes, and real output with a piece cut out and another put in its place. */
const hostile = fc.oneof(
  fc.uint8Array({ maxLength: 400 }).map((bytes) => Buffer.from(bytes).toString('utf8')),
  fc.string({ unit: 'binary', maxLength: 200 }),
  fc
    .tuple(fc.constantFrom(...SAMPLES), fc.nat(), fc.nat(60), fc.string({ maxLength: 20 }))
    .map(([text, at, length, inserted]) => {
      const start = at % (text.length + 1);
      return text.slice(0, start) + inserted + text.slice(start + length);
    }),
  fc.json(),
);

for (const [name, parse] of Object.entries(PARSERS)) {
  test(`${name} throws nothing but ParseError, whatever it is given`, () => {
    fc.assert(
      fc.property(hostile, (text) => {
        try {
          parse(text);
        } catch (error) {
          if (!(error instanceof ParseError)) throw error;
        }
      }),
      { numRuns: 300 },
    );
  });
}

test('no parser takes long over long lines', () => {
  const long = [
    ' '.repeat(200_000),
    'a'.repeat(200_000),
    `name = ${'"'.repeat(200_000)}`,
    `<config>${'<a b="'.repeat(30_000)}`,
    `<config>${'&'.repeat(200_000)}`,
    ` /${' 0'.repeat(100_000)}`,
    `diversion of ${'a to '.repeat(40_000)}`,
    `LISTEN 0 0 ${'['.repeat(200_000)}:1`,
    `Name${' '.repeat(200_000)}ID`,
    `Name ID Mem VCPUs State Time(s)\n${'a 1 '.repeat(50_000)}`,
    `${'1'.repeat(200_000)}`,
    'exists '.repeat(50_000),
  ];
  for (const [name, parse] of Object.entries(PARSERS)) {
    for (const text of long) {
      const start = process.hrtime.bigint();
      try {
        parse(text);
      } catch (error) {
        assert.instance(error, ParseError, `${name}: ${String(error)}`);
      }
      const ms = Number(process.hrtime.bigint() - start) / 1e6;
      // A backtracking pattern takes minutes here; a slow machine takes a fraction of a second.
      assert.ok(ms < 10_000, `${name} took ${ms} ms for ${JSON.stringify(text.slice(0, 20))}...`);
    }
  }
});

test('a name from outside cannot reach the prototype of an object', () => {
  const packages = system.parsePackages('__proto__\tinstalled\t1\n');
  assert.ok(Object.hasOwn(packages, '__proto__'));
  assert.is(Object.getPrototypeOf(packages), Object.prototype);
});

test.run();
