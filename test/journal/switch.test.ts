/** The device-mapper switch on an executor that plays a kernel: tables, suspended devices, a server that may hang. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { OperatorError } from '../../src/core/errors.js';
import { switchToJournal, switchToLvs } from '../../src/journal/switch.js';
import type { Executor, SwitchVolume } from '../../src/journal/switch.js';

const volumes: SwitchVolume[] = [
  {
    device: 'remus-web-0',
    lv: '/dev/vg0/remus-web-0',
    nbd: '/dev/nbd0',
    exportName: 'disk0',
    sizeBytes: 1 << 20,
  },
  {
    device: 'remus-web-barrier',
    lv: '/dev/vg0/remus-web-barrier',
    nbd: '/dev/nbd1',
    exportName: 'barrier',
    sizeBytes: 1 << 22,
  },
];

class Kernel {
  tables = new Map(volumes.map((volume) => [volume.device, volume.lv]));
  inactive = new Map<string, string>();
  suspended = new Set<string>();
  connected = new Set<string>();
  /** Commands that fail or hang: a part of the command line, and how often. */
  faults: { match: string; times: number; hang: boolean }[] = [];
  /** Requests are stuck in the server until its device is disconnected. */
  stuck = false;
  order: string[] = [];

  readonly exec: Executor = (argv) => {
    const line = argv.join(' ');
    this.order.push(line);
    const fault = this.faults.find((each) => line.includes(each.match) && each.times > 0);
    if (fault !== undefined) {
      fault.times--;
      return Promise.resolve(
        fault.hang ? { code: null, stdout: '', stderr: '' } : { code: 1, stdout: '', stderr: 'no' },
      );
    }
    return Promise.resolve(this.run(argv));
  };

  private run(argv: readonly string[]): { code: number | null; stdout: string; stderr: string } {
    const good = { code: 0, stdout: '', stderr: '' };
    const [command, verb] = argv;
    if (command === 'nbd-client') {
      if (verb === '-d') {
        this.connected.delete(argv[2] as string);
        this.stuck = false;
      } else this.connected.add(argv[3] as string);
      return good;
    }
    if (command === 'blockdev') {
      const volume = volumes.find((each) => each.nbd === argv[2]);
      return { ...good, stdout: `${(volume?.sizeBytes ?? 0) / 512}\n` };
    }
    if (command === 'dd') return good;
    const device = argv.find((each) => each.startsWith('remus-')) as string;
    if (verb === 'load') this.inactive.set(device, (argv[4] as string).split(' ')[3] as string);
    else if (verb === 'clear') this.inactive.delete(device);
    else if (verb === 'suspend') {
      if (this.stuck) return { code: null, stdout: '', stderr: '' };
      this.suspended.add(device);
    } else if (verb === 'resume') {
      this.suspended.delete(device);
      const next = this.inactive.get(device);
      if (next !== undefined) this.tables.set(device, next);
      this.inactive.delete(device);
    } else return { code: 1, stdout: '', stderr: `what is ${argv.join(' ')}` };
    return good;
  }

  below(): string[] {
    return volumes.map((volume) => this.tables.get(volume.device) as string);
  }
}

const lvs = volumes.map((volume) => volume.lv);
const nbds = volumes.map((volume) => volume.nbd);

async function failure(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
  } catch (error) {
    assert.instance(error, OperatorError);
    return (error as OperatorError).message;
  }
  throw new Error('it did not fail');
}

test('to the journal and back', async () => {
  const kernel = new Kernel();
  await switchToJournal(volumes, '/run/nbd.sock', { exec: kernel.exec });
  assert.equal(kernel.below(), nbds);
  assert.is(kernel.suspended.size, 0);
  let drainedWhileSuspended = false;
  const result = await switchToLvs(
    volumes,
    () => {
      drainedWhileSuspended = kernel.suspended.size === 2;
      return Promise.resolve();
    },
    { exec: kernel.exec },
  );
  assert.ok(drainedWhileSuspended, 'nothing can be written between the drain and the exchange');
  assert.equal(kernel.below(), lvs);
  assert.is(kernel.connected.size, 0);
  assert.is(result.requestsFailed, false);
});

test('the server has answered a read before anything stands still', async () => {
  const kernel = new Kernel();
  await switchToJournal(volumes, '/run/nbd.sock', { exec: kernel.exec });
  const read = kernel.order.findIndex((line) => line.startsWith('dd if=/dev/nbd1'));
  assert.ok(read >= 0 && read < kernel.order.findIndex((line) => line.includes('suspend')));
});

for (const match of [
  'nbd-client -unix',
  '/dev/nbd1 -N',
  'blockdev',
  'dd ',
  'load remus-web-0',
  'load remus-web-barrier',
  'suspend --nolockfs remus-web-0',
  'suspend --nolockfs remus-web-barrier',
  'resume remus-web-0',
  'resume remus-web-barrier',
]) {
  for (const hang of [false, true]) {
    test(`to the journal, ${match} ${hang ? 'hangs' : 'fails'}: everything is as before`, async () => {
      const kernel = new Kernel();
      kernel.faults.push({ match, times: 1, hang });
      const message = await failure(switchToJournal(volumes, '/run/nbd.sock', { exec: kernel.exec }));
      assert.match(message, hang ? /no end after/ : /exit code 1: no/);
      assert.match(message, /everything is as before/);
      assert.equal(kernel.below(), lvs);
      assert.is(kernel.suspended.size, 0, 'nothing is left suspended');
      assert.is(kernel.inactive.size, 0);
      assert.is(kernel.connected.size, 0);
    });
  }
}

test('a drain that fails leaves the journal under DRBD', async () => {
  const kernel = new Kernel();
  await switchToJournal(volumes, '/run/nbd.sock', { exec: kernel.exec });
  const message = await failure(
    switchToLvs(volumes, () => Promise.reject(new Error('target: EIO')), { exec: kernel.exec }),
  );
  assert.match(message, /wait until the journal has drained: target: EIO; everything is as before/);
  assert.equal(kernel.below(), nbds);
  assert.is(kernel.suspended.size, 0);
});

for (const dead of [false, true]) {
  test(`a server ${dead ? 'known to be dead' : 'that answers no more'} is cut off, and its journal recovered before a device goes on`, async () => {
    const kernel = new Kernel();
    await switchToJournal(volumes, '/run/nbd.sock', { exec: kernel.exec });
    kernel.stuck = true;
    let recoveredWhileSuspended = false;
    const result = await switchToLvs(
      volumes,
      (requestsFailed) => {
        recoveredWhileSuspended = requestsFailed && kernel.suspended.size === 2;
        return Promise.resolve();
      },
      { exec: kernel.exec, dead },
    );
    assert.is(result.requestsFailed, true);
    assert.ok(
      recoveredWhileSuspended,
      'a volume without a failed request stays attached, and needs its writes',
    );
    assert.equal(kernel.below(), lvs);
    assert.is(kernel.suspended.size, 0);
  });
}

test('a journal that cannot be recovered keeps the LVs from coming under DRBD', async () => {
  const kernel = new Kernel();
  await switchToJournal(volumes, '/run/nbd.sock', { exec: kernel.exec });
  const message = await failure(
    switchToLvs(volumes, () => Promise.reject(new Error('corrupt')), { exec: kernel.exec, dead: true }),
  );
  assert.match(message, /recover the journal: corrupt; the devices are on NBD devices without a server/);
  assert.equal(kernel.below(), nbds);
  assert.is(kernel.suspended.size, 0);
});

test('an undo that fails is told, with what to look at', async () => {
  const kernel = new Kernel();
  kernel.faults.push({ match: 'suspend --nolockfs remus-web-barrier', times: 1, hang: false });
  kernel.faults.push({ match: 'resume remus-web-0', times: 1, hang: false });
  const message = await failure(switchToJournal(volumes, '/run/nbd.sock', { exec: kernel.exec }));
  assert.match(message, /could not be undone:\n {2}dmsetup resume remus-web-0: no/);
});

test.run();
