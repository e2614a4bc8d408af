/** How old a report is, is judged by the clock of its host at the moment in which it was read. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { protectDomain } from '../../src/commands/protect.js';
import { readProtection } from '../../src/commands/protection-view.js';
import { readReports, reportProbes } from '../../src/commands/reports.js';
import { readStatus } from '../../src/commands/status.js';
import type { CommandResult, Host } from '../../src/edge/host.js';
import { fakeDependencies, fakeLayout, FakePair } from './fake-pair.js';

const test = suite('reports of sender and receiver');
const NOW_S = 1_700_000_000;

async function protectedPair(): Promise<FakePair> {
  const pair = FakePair.start();
  const options = { intervalMs: null, network: true, disk: true, dryRun: false };
  await protectDomain(await fakeLayout(), pair.hosts, options, fakeDependencies());
  return pair;
}

/** The commands of the probes that `read` makes on a host, in order. */
async function probed(host: Host, read: (host: Host) => Promise<unknown>): Promise<string[]> {
  const asked: string[] = [];
  const recording: Host = Object.create(host) as Host;
  recording.probe = (commands) => {
    asked.push(...[...commands.values()].map((argv) => argv.join(' ')));
    return host.probe(commands);
  };
  recording.readFiles = (paths) => {
    asked.push(...paths.map((path) => `file ${path}`));
    return host.readFiles(paths);
  };
  recording.close = () => Promise.resolve();
  await read(recording);
  return asked;
}

// With a round trip in between, a slow host's reports looked seconds older than they were, and were not believed.
test('the clock is read right behind them, in the same round trip', async () => {
  const pair = await protectedPair();
  const layout = await fakeLayout();
  const readers: ((host: Host) => Promise<unknown>)[] = [
    (host) => readProtection(host, 'web'),
    (host) =>
      readStatus([layout], ({ name }) => Promise.resolve(name === host.name ? host : pair.host(name))),
  ];
  for (const read of readers) {
    const asked = await probed(pair.host('alpha'), read);
    const at = asked.indexOf('cat /run/remus-drbd/web/sender.json');
    assert.equal(asked.slice(at, at + 3), [
      'cat /run/remus-drbd/web/sender.json',
      'cat /run/remus-drbd/web/receiver.json',
      'date +%s.%N',
    ]);
    assert.is(asked.filter((each) => /(sender|receiver)\.json/.test(each)).length, 2);
  }
});

function answer(stdout: string, stderr = '', exitCode = 0): CommandResult {
  return { exitCode, stdout, stderr };
}

function report(role: 'sender' | 'receiver', ageS: number): string {
  const head = { format: 1, pid: 1, updatedMs: (NOW_S - ageS) * 1000, pair: 'p', domain: 'web', term: 1 };
  const more =
    role === 'sender'
      ? { protection: 'protected', intervalMs: 100, sentBytes: 1, figures: null, droppedPackets: 0 }
      : { receivedBytes: 1, journalUsedBytes: 1, journalTotalBytes: 2 };
  return JSON.stringify({
    ...head,
    session: 'ab',
    role,
    phase: 'on',
    reason: '',
    committedEpoch: 1,
    ...more,
  });
}

function read(sender: CommandResult, receiver: CommandResult): ReturnType<typeof readReports> {
  const [one, other, clock] = reportProbes(['web']).map(([key]) => key);
  const answers = new Map([
    [one ?? '', sender],
    [other ?? '', receiver],
    [clock ?? '', answer(`${NOW_S}.000000000\n`)],
  ]);
  return readReports('alpha', 'web', answers);
}

test('what is there is read; what was never there is not made up; anything else is said in words', () => {
  const none = answer('', 'cat: /run/x: No such file or directory\n', 1);
  const good = read(answer(report('sender', 1)), none);
  assert.is(typeof good.sender === 'object' && good.sender.term, 1);
  assert.is(good.receiver, undefined);
  const bad = read(answer(report('sender', 9)), answer('', 'cat: /run/x: Input/output error\n', 1));
  assert.is(bad.sender, 'it has not reported for 9 s');
  assert.is(bad.receiver, "its report can't be read: cat: /run/x: Input/output error");
  assert.is(read(answer(report('receiver', 0)), none).sender, 'its report is of a receiver');
});

test.run();
