/** The resource of the 8.3 module in the words that everything else goes by. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { OperatorError } from '../../../src/core/errors.js';
import { readModule } from '../../../src/core/protocol-d/running.js';
import { read } from './sides.js';

const test = suite('the 8.3 module as others see it');

const domainFile = (engine: string, minor = 1): string =>
  JSON.stringify({ domain: 'legacy', engine, volumes: [{ volume: 0, minor }] });

const view = (name: string) => readModule('alpha', domainFile('protocol-d'), read(name));

test('a protected pair is Primary on both sides, connected and established', () => {
  assert.equal(view('primary-protected.txt'), {
    protocol: 'D',
    resource: {
      name: 'legacy',
      role: 'Primary',
      suspended: 'no',
      volumes: { 0: { volume: 0, minor: 1, disk: 'UpToDate' } },
      connections: [
        {
          peer: 'peer',
          connection: 'Connected',
          peerRole: 'Primary',
          volumes: {
            0: {
              volume: 0,
              replication: 'Established',
              peerDisk: 'UpToDate',
              resyncSuspended: 'no',
              outOfSyncBytes: 0,
            },
          },
        },
      ],
    },
  });
});

test('a lost connection is one that is being made, and a resync is connected', () => {
  const lost = view('backup-after-loss.txt')?.resource?.connections[0];
  assert.equal(
    [lost?.connection, lost?.peerRole, lost?.volumes[0]?.replication],
    ['Connecting', 'Unknown', 'Off'],
  );
  const devices = [0, 1, 2, 3].flatMap((minor) => {
    const found = readModule('alpha', domainFile('protocol-d', minor), read('resync.txt'))?.resource;
    return found === undefined ? [] : [found.connections[0]];
  });
  const syncing = devices.find((connection) => /^Sync/.test(connection?.volumes[0]?.replication ?? ''));
  assert.is(syncing?.connection, 'Connected');
});

test('another engine, no module, no such minor', () => {
  assert.is(readModule('alpha', domainFile('journal'), read('backup-before.txt')), null);
  assert.is(readModule('alpha', undefined, 'version: 8.4.11 (api:1/proto:86-101)\n'), null);
  const nothing = { resource: undefined, protocol: null };
  assert.equal(readModule('alpha', undefined, read('backup-before.txt')), nothing, 'before setup');
  assert.equal(readModule('alpha', domainFile('protocol-d'), undefined), nothing);
  assert.equal(readModule('alpha', domainFile('protocol-d', 99), read('backup-before.txt')), nothing);
});

test('a module without protocol D is an error that names the host', () => {
  assert.throws(
    () => view('stock-8.3.txt'),
    (error: unknown) => error instanceof OperatorError && /^alpha: .*no protocol D/.test(error.message),
  );
});

test.run();
