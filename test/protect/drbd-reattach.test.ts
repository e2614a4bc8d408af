/** A disk that DRBD has detached is never attached while the peer is connected. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { DiskState, RunningResource } from '../../src/core/facts.js';
import { reattach } from '../../src/protect/drbd-reattach.js';

const test = suite('DRBD gets its disks back');

/** What is run for `web` with these disks. @param fails the command that does not succeed */
async function commands(disks: readonly DiskState[], fails = ''): Promise<{ ran: string[]; error: string }> {
  const volumes = Object.fromEntries(disks.map((disk, volume) => [volume, { volume, minor: volume, disk }]));
  const state: RunningResource = {
    name: 'web',
    role: 'Secondary',
    suspended: 'no',
    volumes,
    connections: [],
  };
  const ran: string[] = [];
  let error = '';
  await reattach(
    'web',
    (argv) => {
      ran.push(argv.join(' '));
      return Promise.resolve({ code: argv[1] === fails ? 10 : 0, stdout: '', stderr: 'as the test has it' });
    },
    () => Promise.resolve([state, '']),
  ).catch((reason: unknown) => (error = String(reason)));
  return { ran, error };
}

test('the connection is left first where one of the disks is detached', async () => {
  for (const disk of ['Diskless', 'Detaching', 'Failed'] as const) {
    const { ran } = await commands(['UpToDate', disk]);
    assert.equal(ran, ['drbdadm disconnect web', 'drbdadm adjust web'], disk);
  }
});

test('a connection with all its disks stays', async () => {
  assert.equal((await commands(['UpToDate', 'Inconsistent'])).ran, ['drbdadm adjust web']);
});

test('with a peer that can not be left nothing is attached', async () => {
  const { ran, error } = await commands(['Diskless'], 'disconnect');
  assert.equal(ran, ['drbdadm disconnect web']);
  assert.match(error, /drbdadm disconnect web: exit code 10: as the test has it/);
});

test.run();
