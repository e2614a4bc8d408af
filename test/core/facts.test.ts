/** Facts: the list of probes, and their reading where tools are missing, fail, or say something unknown. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { OperatorError } from '../../src/core/errors.js';
import {
  drbdCommand,
  parseDrbdRunning,
  parseFacts,
  probeCommands,
  type HostFacts,
  type ProbeResult,
} from '../../src/core/facts.js';
import { domainLayouts } from '../../src/core/layout.js';
import { parseSample, SAMPLE_PROGRAM } from '../../src/core/parse/block.js';
import { goodConfig } from './check-hosts.js';
import { data, hostAnswers, said } from './facts-answers.js';

const test = suite('facts');

const KERNEL = '/boot/vmlinuz';
const DATA = '/dev/vg0/remus-web-0';
const META = '/dev/vg0/remus-web-0-md';

function failing(exitCode: number, stderr: string, stdout = ''): ProbeResult {
  return { exitCode, stdout, stderr };
}

function missingTool(tool: string): ProbeResult {
  return failing(127, `timeout: failed to run command '${tool}': No such file or directory\n`);
}

const layouts = domainLayouts(goodConfig());

function answers(): Map<string, ProbeResult> {
  return hostAnswers(probeCommands(layouts, 'alpha', [KERNEL]).keys());
}

function factsWith(changes: Record<string, ProbeResult>): HostFacts {
  const results = answers();
  for (const [key, result] of Object.entries(changes)) {
    assert.ok(results.has(key), `there is no probe ${key}`);
    results.set(key, result);
  }
  return parseFacts('alpha', results);
}

function errorOf(act: () => unknown): OperatorError {
  try {
    act();
  } catch (error) {
    assert.instance(error, OperatorError, String(error));
    return error as OperatorError;
  }
  throw new Error('it was accepted');
}

test('a host after setup', () => {
  const facts = factsWith({});
  assert.is(facts.host, 'alpha');
  assert.is(facts.nodeName, 'alpha');
  assert.is(facts.uid, 0);
  assert.is(facts.drbdModule, '8.4.11');
  assert.ok(facts.xen.known && facts.xen.value.version === '4.17.6-pre');
  assert.ok(facts.drbdRunning.known && facts.drbdRunning.value[0]?.role === 'Primary');
  assert.ok(facts.drbdConfigured.known && facts.drbdConfigured.value.length === 2);
  assert.ok(facts.dm.known && facts.dm.value.some((device) => device.name === 'remus-web-0'));
  assert.equal(facts.devices[DATA], { state: 'read', sizeBytes: 8388608, signatures: [] });
  assert.is(facts.metaData[META]?.state, 'valid');
  assert.equal(facts.guestFiles[KERNEL], { known: true, value: 'a'.repeat(64) });
  assert.is(facts.files['/etc/drbd.conf'], '6fd1c1c463d9066ae87283fc3cbf7093');
  assert.equal(facts.autostart, { '/etc/xen/auto/web.cfg': 'web', '/etc/xen/auto/db': 'db' });
  assert.ok(facts.certificate.known);
});

test('every tool missing is facts, not an error', () => {
  const basic = new Set(['date', 'uname', 'id', 'meminfo', 'modules']);
  const results = answers();
  for (const key of results.keys()) if (!basic.has(key)) results.set(key, missingTool(key));
  const facts = parseFacts('alpha', results);
  for (const name of [
    'xen',
    'node',
    'packages',
    'volumeGroups',
    'logicalVolumes',
    'dm',
    'drbdUtils',
  ] as const) {
    const fact = facts[name];
    assert.ok(!fact.known && fact.cause === 'not-installed', name);
    assert.match(!fact.known ? fact.reason : '', /is not installed$/);
  }
  assert.is(facts.drbdModule, undefined);
  assert.is(facts.devices[DATA]?.state, 'unreadable');
});

test('a tool that fails says why', () => {
  const facts = factsWith({ 'xl-info': failing(1, '\nxencall: error: Could not obtain handle\nmore\n') });
  assert.equal(facts.xen, {
    known: false,
    cause: 'failed',
    reason: 'xencall: error: Could not obtain handle',
  });
  assert.equal(factsWith({ vgs: failing(124, '') }).volumeGroups, {
    known: false,
    cause: 'failed',
    reason: 'exit code 124',
  });
});

test('packages and modules: those that are unknown do not hide those that are there', () => {
  const facts = factsWith({
    packages: failing(1, 'dpkg-query: no packages found matching lvm2\n', data('packages')),
    modinfo: failing(1, 'modinfo: ERROR: Module ifb not found.\n', data('modinfo')),
  });
  assert.ok(facts.packages.known && facts.packages.value['drbd-utils'] === '9.22.0-1');
  assert.ok(facts.availableModules.known && facts.availableModules.value['drbd']?.version === '8.4.11');
});

test('a module that is not loaded runs nothing; a drbdsetup that is missing or fails is no empty list', () => {
  const running = (result: ProbeResult): HostFacts['drbdRunning'] =>
    factsWith({ events2: result }).drbdRunning;
  assert.equal(running(failing(1, "find: '/sys/module/drbd': No such file or directory\n")), {
    known: true,
    value: [],
  });
  assert.equal(running(said('exists -\n')), { known: true, value: [] });
  const missing = running(failing(0, "find: 'drbdsetup': No such file or directory\n"));
  assert.ok(!missing.known && missing.cause === 'not-installed');
  const broken = running(failing(0, 'Could not connect to drbd generic netlink family\n'));
  assert.ok(!broken.known && broken.cause === 'failed');
  assert.match(
    errorOf(() => running(said(''))).message,
    /^alpha: output of drbdsetup events2 not understood/,
  );
});

test('with DRBD 8.3 /proc/drbd is read, and the configuration has the names', () => {
  const of = (name: string): string => readFileSync(join('test/data', name), 'utf8');
  const facts = (procDrbd: string, changes: Record<string, ProbeResult> = {}): HostFacts =>
    factsWith({
      'proc-drbd': said(of(`proc-drbd/${procDrbd}`)),
      events2: failing(0, '', of('drbd-8.3/events2.txt')),
      'drbdadm-dump-xml': said(of('drbd-8.3/dump-xml.xml')),
      ...changes,
    });
  const running = (found: HostFacts): unknown =>
    found.drbdRunning.known
      ? found.drbdRunning.value.map(({ name, role, volumes }) => [name, role, volumes[0]?.minor])
      : found.drbdRunning.reason;
  const protectedHost = facts('primary-protected.txt');
  assert.is(protectedHost.drbdModule, '8.3.11');
  assert.equal(running(protectedHost), [['legacy', 'Primary', 1]]);
  const none = { 'drbdadm-dump-xml': failing(1, 'no resources defined!\n') };
  const unnamed = facts('primary-protected.txt', none);
  assert.equal(
    [running(unnamed), unnamed.drbdConfigured],
    [[['minor 1', 'Primary', 1]], { known: true, value: [] }],
  );
  assert.match(String(running(facts('stock-8.3.txt'))), /so this module has no protocol D/);
});

test('the state of DRBD alone', () => {
  assert.equal(drbdCommand(), probeCommands(layouts, 'alpha').get('events2'));
  const fact = parseDrbdRunning('alpha', said(data('events2-resync')));
  assert.ok(fact.known && fact.value.length === 2);
  assert.match(errorOf(() => parseDrbdRunning('beta', said('what?\n'))).message, /^beta: .*"what\?"/);
});

const META_STATES: [string, ProbeResult, string][] = [
  ['there is none', failing(0, ''), 'none'],
  ['no such device', failing(1, `find: '${META}': No such file or directory\n`), 'absent'],
  ['attached', failing(0, `open(${META}) failed: Device or resource busy\n`), 'busy'],
  ['drbdmeta is missing', failing(0, "find: 'drbdmeta': No such file or directory\n"), 'unreadable'],
  ['no permission', failing(0, `open(${META}) failed: Permission denied\n`), 'unreadable'],
  ['its time was up', failing(124, 'timeout: sending signal TERM\n'), 'unreadable'],
  ['it was killed', failing(137, ''), 'unreadable'],
];
for (const [title, result, state] of META_STATES) {
  test(`meta-data: ${title} -> ${state}`, () => {
    assert.is(factsWith({ [`drbdmeta ${META}`]: result }).metaData[META]?.state, state);
  });
}

test('devices: absent, unreadable, with data', () => {
  const wipefs = `wipefs ${DATA}`;
  const sample = `sample ${DATA}`;
  const absent = 'probing initialization failed: No such file or directory';
  assert.is(
    factsWith({
      [wipefs]: failing(1, `wipefs: error: ${DATA}: ${absent}\n`),
      [sample]: failing(2, `${DATA}: No such file or directory\n`),
    }).devices[DATA]?.state,
    'absent',
  );
  assert.equal(factsWith({ [sample]: failing(5, `${DATA}: Input/output error\n`) }).devices[DATA], {
    state: 'unreadable',
    reason: `${DATA}: Input/output error`,
  });
  assert.equal(
    factsWith({ [wipefs]: said(data('wipefs-ext4')), [sample]: said(data('sample-data')) }).devices[DATA],
    {
      state: 'read',
      sizeBytes: 8388608,
      signatures: [{ type: 'ext4', offsetBytes: 0x438, uuid: 'eda5900f-48c1-4e93-962c-dbd1e524a6a8' }],
      firstDataAt: 1080,
    },
  );
});

test('output that is not understood names host, tool and line', () => {
  const error = errorOf(() => factsWith({ 'xl-list': said(`${data('xl-list')}??? what\n`) }));
  assert.match(
    error.message,
    /^alpha: output of xl list not understood: a guest is expected; line 6: "\?\?\? what"/,
  );
  assert.match(error.message, /Nothing was changed/);
});

test('what cannot fail on a Debian host is an error where it fails', () => {
  const error = errorOf(() => factsWith({ uname: failing(1, 'uname: killed\n') }));
  assert.match(error.message, /^alpha: uname failed with exit code 1: uname: killed/);
});

test('a probe without a result is a bug, not a fact', () => {
  const results = answers();
  results.delete('vgs');
  assert.throws(() => parseFacts('alpha', results), /no result for the probe vgs/);
});

test('whatever a host answers ends in facts or in an error for the operator', () => {
  const keys = [...answers().keys()];
  fc.assert(
    fc.property(
      fc.array(
        fc.tuple(
          fc.constantFrom(...keys),
          fc.record({
            exitCode: fc.constantFrom(0, 0, 1, 2, 20, 124, 127, 255),
            stdout: fc.oneof(
              fc.string({ unit: 'binary', maxLength: 80 }),
              fc.constant(''),
              fc.constant('exists -\n'),
            ),
            stderr: fc.oneof(fc.string({ maxLength: 80 }), fc.constant('x: No such file or directory\n')),
          }),
        ),
        { minLength: 1, maxLength: 4 },
      ),
      (changes) => {
        const results = answers();
        for (const [key, result] of changes) results.set(key, result);
        try {
          parseFacts('alpha', results);
        } catch (error) {
          if (!(error instanceof OperatorError)) throw error;
        }
      },
    ),
    { numRuns: 500 },
  );
});

test("probes only look: no shell, no program that changes anything, only this host's domains", () => {
  const programs = new Set([...probeCommands(layouts, 'beta').values()].map(([program]) => program));
  for (const forbidden of [
    'sh',
    'bash',
    'modprobe',
    'lvchange',
    'mount',
    'dd',
    'tee',
    'drbdsetup',
    'drbdmeta',
  ]) {
    assert.not(programs.has(forbidden), forbidden);
  }
  assert.ok([...probeCommands(layouts, 'beta').keys()].includes(`drbdmeta ${META}`));
  assert.not([...probeCommands(layouts, 'gamma').keys()].some((key) => key.includes(' ')));
  assert.ok([...probeCommands(layouts, 'alpha').values()].flat().every((word) => !word.includes('\0')));
});

test('samples of a device: what they see and what they say', () => {
  const directory = mkdtempSync(join(tmpdir(), 'remus-sample-'));
  const path = join(directory, 'device');
  const sample = (): { status: number | null; stdout: string; stderr: string } => {
    const { status, stdout, stderr } = spawnSync('perl', ['-e', SAMPLE_PROGRAM, path], {
      encoding: 'utf8',
      env: { ...process.env, LC_ALL: 'C' },
    });
    return { status, stdout, stderr };
  };
  const size = 64 * 2 ** 20;
  try {
    assert.match(sample().stderr, /No such file or directory/);
    assert.is.not(sample().status, 0);
    writeFileSync(path, '');
    assert.equal(parseSample(sample().stdout), { sizeBytes: 0 });
    truncateSync(path, size);
    assert.equal(parseSample(sample().stdout), { sizeBytes: size });
    // First byte, an odd place in the first MiB, the start of a sample in the middle, the last byte.
    for (const at of [0, 777_777, 32 * 2 ** 20, size - 1]) {
      writeFileSync(path, '');
      truncateSync(path, size);
      spawnSync('perl', [
        '-e',
        'open(F, "+<", $ARGV[0]); seek(F, $ARGV[1], 0); print F "\\x01"',
        path,
        String(at),
      ]);
      assert.equal(parseSample(sample().stdout), { sizeBytes: size, firstDataAt: at });
    }
  } finally {
    rmSync(directory, { recursive: true });
  }
});

test.run();
