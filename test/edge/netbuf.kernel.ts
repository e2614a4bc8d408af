/**
 * Network buffering with the kernel's own queues: what is held, what is let go at which commit, and what is left when
 * something is killed. Needs root and a kernel with sch_plug and ifb, so it is no part of
 * `npm test`: test/lab/netbuf-host.ts runs it in dom0 of a lab host.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import * as line from '../../src/core/netbuf/commands.js';
import { NetbufError, NetworkBuffer, removeBuffers } from '../../src/edge/netbuf.js';
import type { NetbufFault } from '../../src/edge/netbuf.js';
import { batch, command, haveNetwork, Net } from './netbuf-net.js';
import type { Carries, Frame } from './netbuf-net.js';

const able = haveNetwork();
const test = suite('network buffering in the kernel');

const HOLDS = [{ vif: 'vif3.0', ifb: 'remus3.0' }];
/** Under emulation, on a busy machine, `tc` may take seconds. */
const PATIENT = { domain: 'web', timeoutMs: 60_000 };
const TWO_HOLDS = [...HOLDS, { vif: 'vif3.1', ifb: 'remus3.1' }];
const ALL: readonly Carries[] = ['ipv4', 'ipv6', 'arp', 'unknown'];

/** A test on a network of its own; what it leaves is an error. */
function withNet(name: string, body: (net: Net) => Promise<void>, vifs?: string[]): void {
  test(name, async () => {
    if (!able) return;
    const net = new Net(vifs);
    try {
      await body(net);
      assert.equal(net.leftovers(), [], 'nothing is left');
      net.send({ carries: 'ipv4', sequence: 0xffff });
      const last = (await net.receive(1)).at(-1);
      assert.is(last?.sequence, 0xffff, 'the interface flows');
    } finally {
      await removeBuffers('web');
      net.remove();
    }
  });
}

function sequences(frames: readonly Frame[]): number[] {
  return frames.map(({ sequence }) => sequence);
}

function range(from: number, to: number): number[] {
  return Array.from({ length: to - from + 1 }, (_, index) => from + index);
}

/** Arguments that start netbuf-holder.ts, also where both are bundled (test/lab/netbuf-host.ts). */
function holder(): string[] {
  const bundled = import.meta.url.endsWith('.cjs');
  const path = fileURLToPath(new URL(bundled ? 'netbuf-holder.cjs' : 'netbuf-holder.ts', import.meta.url));
  return bundled ? [path] : ['--import', 'tsx', path];
}

/** Numbers that look random and are the same each time (mulberry32). */
function randomBelow(seed: number): (n: number) => number {
  let state = seed;
  return (n) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % n;
  };
}

async function fault(body: () => Promise<unknown>): Promise<NetbufFault> {
  try {
    await body();
  } catch (error) {
    if (error instanceof NetbufError) return error.fault;
    throw error;
  }
  throw new Error('it did not fail');
}

withNet('open until the first mark; then every kind of frame is held until its commit', async (net) => {
  const buffer = await NetworkBuffer.install(PATIENT, HOLDS);
  let next = 1;
  const sendAll = (): void => ALL.forEach((carries) => net.send({ carries, sequence: next++ }));
  sendAll();
  assert.equal(sequences(await net.receive(4)), [1, 2, 3, 4]);
  assert.is((await buffer.stats()).state, 'open');

  await buffer.mark(10);
  sendAll();
  assert.is((await buffer.stats()).state, 'held');
  assert.is((await buffer.stats()).queues.get('vif3.0')?.backlogPackets, 4);
  await buffer.release(10);
  assert.equal(net.received(), [], 'the commit of 10 lets go nothing that was sent after it');
  await buffer.mark(11);
  sendAll();
  assert.equal(net.received(), []);
  await buffer.release(10);
  assert.equal(net.received(), []);
  await buffer.release(11);
  const frames = await net.receive(4);
  assert.equal(sequences(frames), [5, 6, 7, 8]);
  assert.equal(
    frames.map(({ carries }) => carries),
    ALL,
  );
  await buffer.stats();
  assert.equal(net.received(), []);
  await buffer.open();
  assert.equal(sequences(await net.receive(4)), [9, 10, 11, 12]);
  await buffer.remove();
});

withNet('the kernel keeps one mark: why marks are folded', async (net) => {
  batch('ip', line.createLines('web', HOLDS[0]!));
  batch('tc', line.plugLines(HOLDS[0]!, 1_000_000));
  batch('ip', [line.upLine(HOLDS[0]!)]);
  batch('tc', line.redirectLines('web', HOLDS[0]!, false));
  batch('tc', [line.blockLine('remus3.0')]);
  net.send({ carries: 'ipv4', sequence: 1 });
  batch('tc', [line.blockLine('remus3.0')]);
  for (const sequence of range(2, 6)) net.send({ carries: 'ipv4', sequence });
  batch('tc', [line.blockLine('remus3.0'), line.releaseLine('remus3.0')]);
  // The release for packet 1 alone lets go 5 packets, as many as are between the second mark and the third.
  assert.equal(sequences(await net.receive(5)), [1, 2, 3, 4, 5]);
  await removeBuffers('web');
  assert.equal(sequences(await net.receive(1)), [6]);
});

for (const pending of [1, 2, 3, 4]) {
  withNet(`nothing leaves early or is lost with ${pending} checkpoints in flight`, async (net) => {
    const buffer = await NetworkBuffer.install(PATIENT, HOLDS);
    await buffer.mark(0);
    /** Last frame that was sent before each mark. */
    const bounds: number[] = [0];
    const got: number[] = [];
    let next = 1;
    const take = (committed: number): void => {
      got.push(...sequences(net.received()));
      const last = got.at(-1) ?? 0;
      assert.ok(last <= (bounds[committed] ?? -1), `frame ${last} left at the commit of ${committed}`);
    };
    let committed = 0;
    for (let checkpoint = 1; checkpoint <= 24; checkpoint++) {
      // Few, many, none: each mix would be miscounted by another mistake.
      const frames = [1, 5, 0, 3, 2][checkpoint % 5] ?? 0;
      for (let i = 0; i < frames; i++) net.send({ carries: ALL[next % 4] ?? 'ipv4', sequence: next++ });
      bounds.push(next - 1);
      await buffer.mark(checkpoint);
      take(committed);
      if (checkpoint >= pending) {
        committed = checkpoint - pending + 1;
        await buffer.release(committed);
        take(committed);
      }
    }
    for (let checkpoint = 25; checkpoint <= 26; checkpoint++) {
      bounds.push(next - 1);
      while (committed < checkpoint - 1) await buffer.release(++committed);
      await buffer.mark(checkpoint);
      await buffer.release((committed = checkpoint));
    }
    got.push(...sequences(await net.receive(next - 1 - got.length)));
    assert.equal(got, range(1, next - 1), 'all, once, in order');
    await buffer.remove();
  });
}

withNet(
  'two interfaces are marked and released together',
  async (net) => {
    const buffer = await NetworkBuffer.install(PATIENT, TWO_HOLDS);
    await buffer.mark(1);
    net.send({ carries: 'ipv4', sequence: 1 }, 0);
    net.send({ carries: 'arp', sequence: 2 }, 1);
    await buffer.mark(2);
    net.send({ carries: 'ipv6', sequence: 3 }, 1);
    assert.equal(net.received(), []);
    await buffer.release(2);
    assert.equal(sequences(await net.receive(2)).sort(), [1, 2]);
    await buffer.remove();
    assert.equal(sequences(await net.receive(1)), [3], 'removing lets go what is held');
  },
  ['vif3.0', 'vif3.1'],
);

withNet('a full queue drops and says so, and goes on', async (net) => {
  const buffer = await NetworkBuffer.install({ ...PATIENT, limitBytes: 5000 }, HOLDS);
  await buffer.mark(1);
  for (const sequence of range(1, 200)) net.send({ carries: 'ipv4', sequence });
  const full = await buffer.stats();
  assert.is(full.state, 'full');
  assert.match(full.reason, /web: the network queue was full .* vif3\.0 [0-9]+ .* limit is 5000 bytes/);
  const queue = full.queues.get('vif3.0');
  assert.ok(queue && queue.droppedPackets > 0 && queue.backlogBytes <= 5000);
  assert.is((await buffer.stats()).state, 'held', 'said once for each drop');
  await buffer.mark(2);
  await buffer.release(2);
  const kept = 200 - queue.droppedPackets;
  assert.equal(sequences(await net.receive(kept)), range(1, kept));
  net.send({ carries: 'ipv4', sequence: 500 });
  await buffer.mark(3);
  await buffer.release(3);
  assert.equal(sequences(await net.receive(1)), [500]);
  await buffer.remove();
});

withNet('a tc that is killed is an error, nothing leaves, and removing still works', async (net) => {
  const buffer = await NetworkBuffer.install(PATIENT, HOLDS);
  await buffer.mark(1);
  net.send({ carries: 'ipv4', sequence: 1 });
  process.kill(buffer.tcPid ?? 0, 'SIGKILL');
  assert.is(await fault(() => buffer.mark(2)), 'command');
  assert.is(await fault(() => buffer.stats()), 'command');
  assert.equal(net.received(), []);
  const result = await buffer.remove();
  assert.is(result.lostPackets, 0);
  assert.equal(sequences(await net.receive(1)), [1]);
});

withNet('a tc that stands still is an error in time', async (net) => {
  const buffer = await NetworkBuffer.install({ domain: 'web', timeoutMs: 3000 }, HOLDS);
  await buffer.mark(1);
  net.send({ carries: 'ipv4', sequence: 1 });
  process.kill(buffer.tcPid ?? 0, 'SIGSTOP');
  assert.is(await fault(() => buffer.mark(2)), 'timeout');
  assert.equal(net.received(), []);
  await buffer.remove();
  assert.equal(sequences(await net.receive(1)), [1]);
});

withNet('a queue that somebody took away is an error', async () => {
  const buffer = await NetworkBuffer.install(PATIENT, HOLDS);
  await buffer.mark(1);
  command('tc', 'qdisc', 'del', 'dev', 'remus3.0', 'root');
  assert.is(await fault(() => buffer.stats()), 'command');
  await buffer.remove();
});

withNet('a redirect that somebody took away is an error', async () => {
  const buffer = await NetworkBuffer.install(PATIENT, HOLDS);
  await buffer.mark(1);
  assert.is((await buffer.stats()).state, 'held');
  batch('tc', [line.takeRedirectLine('vif3.0', 1)]);
  assert.is(await fault(() => buffer.stats()), 'bypassed');
  await buffer.remove();
});

withNet('packets that somebody else lets go are found', async (net) => {
  const buffer = await NetworkBuffer.install(PATIENT, HOLDS);
  await buffer.mark(1);
  net.send({ carries: 'ipv4', sequence: 1 });
  batch('tc', [line.openLine('remus3.0')]);
  await net.receive(1);
  assert.is(await fault(() => buffer.mark(2)), 'leaked');
  await buffer.remove();
});

withNet('a holder that is killed leaves nothing that another process cannot remove', async (net) => {
  const child = spawn(process.execPath, holder(), { stdio: ['ignore', 'pipe', 'inherit'] });
  await once(child.stdout, 'data');
  for (const sequence of range(1, 50)) net.send({ carries: ALL[sequence % 4] ?? 'arp', sequence });
  child.kill('SIGKILL');
  await once(child, 'exit');
  assert.equal(net.received(), []);
  assert.is(await fault(() => NetworkBuffer.install(PATIENT, HOLDS)), 'refused');
  assert.equal(net.received(), [], 'an install opens nothing that it did not make');
  assert.equal((await removeBuffers('other')).removed, [], "another domain's is not touched");
  const result = await removeBuffers('web');
  assert.equal(result, { removed: ['redirect of vif3.0', 'remus3.0'], lostPackets: 0 });
  assert.equal(sequences(await net.receive(50)), range(1, 50));
  assert.equal(await removeBuffers('web'), { removed: [], lostPackets: 0 });
});

withNet('what an install left anywhere on its way is removed', async (net) => {
  const hold = HOLDS[0]!;
  const steps: ['ip' | 'tc', string][] = [
    ...line.createLines('web', hold).map((text): ['ip', string] => ['ip', text]),
    ...line.plugLines(hold, 100_000).map((text): ['tc', string] => ['tc', text]),
    ['ip', line.upLine(hold)],
    ...line.redirectLines('web', hold, false).map((text): ['tc', string] => ['tc', text]),
    ['tc', line.blockLine(hold.ifb)],
  ];
  for (let done = 1; done <= steps.length; done++) {
    for (const [program, text] of steps.slice(0, done)) batch(program, [text]);
    if (done === 1) {
      // Not marked as ours yet: the next install takes it over.
      const buffer = await NetworkBuffer.install(PATIENT, HOLDS);
      await buffer.remove();
    } else {
      await removeBuffers('web');
    }
    assert.equal(net.leftovers(), [], `after ${done} steps`);
  }
});

withNet('a redirect without its device is removed', async (net) => {
  await NetworkBuffer.install(PATIENT, HOLDS).then((buffer) => process.kill(buffer.tcPid ?? 0, 'SIGKILL'));
  command('ip', 'link', 'del', 'remus3.0');
  net.send({ carries: 'ipv4', sequence: 1 });
  assert.is(await fault(() => NetworkBuffer.install(PATIENT, HOLDS)), 'refused');
  assert.equal((await removeBuffers('web')).removed, ['redirect of vif3.0']);
});

withNet('installed and removed again and again, also on an interface that goes away', async (net) => {
  for (let round = 0; round < 3; round++) {
    const buffer = await NetworkBuffer.install(PATIENT, HOLDS);
    await buffer.mark(1);
    net.send({ carries: 'ipv4', sequence: round });
    await buffer.remove();
    await buffer.remove();
    assert.equal(sequences(await net.receive(1)), [round]);
  }
  command('ip', 'link', 'add', 'vif3.1', 'type', 'veth', 'peer', 'name', 'gone0');
  const buffer = await NetworkBuffer.install(PATIENT, [{ vif: 'vif3.1', ifb: 'remus3.1' }]);
  command('ip', 'link', 'del', 'vif3.1');
  assert.equal((await buffer.remove()).removed, ['remus3.1']);
});

withNet("other people's filters and devices are left alone", async () => {
  command('tc', 'qdisc', 'add', 'dev', 'vif3.0', 'clsact');
  command('ip', 'link', 'add', 'dummy7', 'type', 'ifb');
  batch('tc', ['filter add dev vif3.0 ingress matchall action mirred egress mirror dev dummy7']);
  const before = command('tc', 'filter', 'show', 'dev', 'vif3.0', 'ingress');
  assert.is(await fault(() => NetworkBuffer.install(PATIENT, HOLDS)), 'refused');
  await removeBuffers('web');
  assert.is(command('tc', 'filter', 'show', 'dev', 'vif3.0', 'ingress'), before);
  command('tc', 'qdisc', 'del', 'dev', 'vif3.0', 'clsact');
  command('ip', 'link', 'del', 'dummy7');
  command('ip', 'link', 'add', 'remus3.0', 'type', 'veth', 'peer', 'name', 'peer0');
  assert.is(await fault(() => NetworkBuffer.install(PATIENT, HOLDS)), 'refused');
  command('ip', 'link', 'del', 'remus3.0');
});

withNet('thousands of checkpoints: never early, none lost, in about a millisecond', async (net) => {
  const CHECKPOINTS = 2000;
  const buffer = await NetworkBuffer.install(PATIENT, HOLDS);
  await buffer.mark(0);
  const bounds = [0];
  const markMs: number[] = [];
  const releaseMs: number[] = [];
  let received = 0;
  let next = 1;
  let committed = 0;
  const below = randomBelow(12345);
  const take = (): void => {
    for (const sequence of sequences(net.received())) {
      assert.is(sequence, ++received, 'in order, none lost');
      assert.ok(
        sequence <= (bounds[committed] ?? -1),
        `frame ${sequence} left at the commit of ${committed}`,
      );
    }
  };
  for (let checkpoint = 1; checkpoint <= CHECKPOINTS; checkpoint++) {
    for (let frames = below(8); frames > 0; frames--) {
      net.send({ carries: ALL[next % 4] ?? 'ipv4', sequence: next++ });
    }
    bounds.push(next - 1);
    markMs.push((await buffer.mark(checkpoint)).durationMs);
    take();
    // Sometimes the commits are behind, by up to three checkpoints.
    const lag = below(4) === 0 ? below(4) : 0;
    while (committed < checkpoint - lag) {
      committed++;
      const { durationMs, reason } = await buffer.release(committed);
      if (reason.startsWith('released')) releaseMs.push(durationMs);
      take();
    }
  }
  await buffer.mark(CHECKPOINTS + 1);
  bounds.push(next - 1);
  committed = CHECKPOINTS + 1;
  await buffer.release(committed);
  for (const frame of await net.receive(next - 1 - received)) assert.is(frame.sequence, ++received);
  assert.is(received, next - 1);
  const median = (values: number[]): string =>
    (values.sort((a, b) => a - b)[values.length >> 1] ?? 0).toFixed(2);
  process.stdout.write(
    `\n  ${received} frames, ${CHECKPOINTS} marks: median ${median(markMs)} ms; ` +
      `${releaseMs.length} releases: median ${median(releaseMs)} ms\n`,
  );
  await buffer.remove();
});

test.run();
