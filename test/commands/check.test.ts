/**
 * `remus-drbd check` over hosts that are stand-ins for everything but the measured transfer, which really
 * goes over loopback.
 */
import { spawn } from 'node:child_process';
import { createServer, type AddressInfo } from 'node:net';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  checkJson,
  type CheckReport,
  renderCheck,
  runCheck,
  type CheckDependencies,
} from '../../src/commands/check.js';
import type { CheckResult } from '../../src/core/check.js';
import { ExitCode, OperatorError } from '../../src/core/errors.js';
import { domainLayouts } from '../../src/core/layout.js';
import type { Config, HostConfig } from '../../src/core/model.js';
import { type CommandResult, type Host, HostError, type StreamOptions } from '../../src/edge/host.js';
import { goodConfig, goodInput } from '../core/check-hosts.js';
import { data, hostAnswers } from '../core/facts-answers.js';

const test = suite('check command');

type Change = (host: FakeHost) => void;

/** Answers probes from captured output and runs `node` itself, here. */
class FakeHost implements Host {
  readonly name: string;
  closed = false;
  readonly overrides = new Map<string, CommandResult | Error>();

  constructor(name: string) {
    this.name = name;
  }

  async run(argv: readonly string[]): Promise<CommandResult> {
    const override = this.overrides.get(argv[0] ?? '');
    if (override instanceof Error) throw override;
    if (override) return override;
    if (argv[0] === 'date')
      return { exitCode: 0, stdout: `${Math.floor(Date.now() / 1000)}.000000000\n`, stderr: '' };
    if (argv[0] === 'ping') return { exitCode: 0, stdout: data('ping'), stderr: '' };
    return runHere(argv);
  }

  probe(commands: ReadonlyMap<string, readonly string[]>): Promise<Map<string, CommandResult>> {
    const override = this.overrides.get('probe');
    if (override instanceof Error) return Promise.reject(override);
    const results = hostAnswers(commands.keys(), this.name);
    for (const [key, result] of this.overrides) {
      if (results.has(key) && !(result instanceof Error)) results.set(key, result);
    }
    return Promise.resolve(results);
  }

  async stream(
    argv: readonly string[],
    onLine: (line: string) => void,
    options: StreamOptions,
  ): Promise<CommandResult> {
    const override = this.overrides.get('stream');
    if (override instanceof Error) throw override;
    return override ?? runHere(argv, onLine, options.signal);
  }

  readFile(): Promise<undefined> {
    throw new Error('check reads no files');
  }

  readFiles(): Promise<Map<string, undefined>> {
    throw new Error('check reads no files');
  }

  writeFile(): Promise<void> {
    throw new Error('check writes nothing');
  }

  close(): Promise<void> {
    this.closed = true;
    return Promise.resolve();
  }
}

async function runHere(
  argv: readonly string[],
  onLine: (line: string) => void = () => undefined,
  signal?: AbortSignal,
): Promise<CommandResult> {
  assert.is(argv[0], 'node');
  const child = spawn(process.execPath, argv.slice(1), { stdio: ['ignore', 'pipe', 'pipe'] });
  signal?.addEventListener('abort', () => child.kill());
  let stdout = '';
  let stderr = '';
  createInterface(child.stdout).on('line', (line) => {
    stdout += `${line}\n`;
    onLine(line);
  });
  child.stderr.on('data', (chunk) => (stderr += String(chunk)));
  const [code] = (await once(child, 'close')) as [number | null];
  return { exitCode: code ?? 143, stdout, stderr };
}

/** Both hosts on loopback. */
async function loopbackConfig(): Promise<Config> {
  const config = goodConfig();
  config.pairs[0]!.hosts[0].replication = '127.0.0.1';
  config.pairs[0]!.hosts[1].replication = '127.0.0.2';
  config.pairs[0]!.domains[0]!.linkPort = await freePort();
  return config;
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

interface Ran {
  report: CheckReport;
  hosts: FakeHost[];
  lines: string[];
}

async function run(
  changes: Record<string, Change | Error> = {},
  config?: Config,
  nowMs: () => number = Date.now,
): Promise<Ran> {
  const used = config ?? (await loopbackConfig());
  const hosts: FakeHost[] = [];
  const lines: string[] = [];
  const connect = ({ name }: HostConfig): Promise<Host> => {
    const change = changes[name];
    if (change instanceof Error) return Promise.reject(change);
    const host = new FakeHost(name);
    change?.(host);
    hosts.push(host);
    return Promise.resolve(host);
  };
  const progress = {
    line: (text: string) => void lines.push(text),
    state: (text: string) => void lines.push(text),
  };
  const dependencies: CheckDependencies = { connect, nowMs, progress };
  const report = await runCheck(used, domainLayouts(used), goodInput().guests, dependencies);
  return { report, hosts, lines };
}

function point(report: CheckReport, id: string, host?: string): CheckResult {
  const found = report.results.find((result) => result.id === id && result.host === host);
  assert.ok(found, `no ${id} on ${host}`);
  return found;
}

test('both hosts are looked at and measured in both directions, and every connection is closed', async () => {
  const { report, hosts, lines } = await run();
  for (const host of ['alpha', 'beta']) {
    assert.is(point(report, 'reachable', host).verdict, 'pass');
    assert.match(point(report, 'round-trip', host).found, /answers in 0\.04 ms/);
    assert.match(point(report, 'throughput', host).found, /MiB\/s to (alpha|beta)$/);
    assert.is(point(report, 'clock', host).id, 'clock');
  }
  assert.is(hosts.length, 2);
  assert.ok(hosts.every((host) => host.closed));
  assert.ok(lines.includes('rack1: measuring alpha to beta'));
});

test('a host that cannot be reached is a point; the other is checked, and the exit code says so', async () => {
  const { report, hosts } = await run({
    beta: new OperatorError('beta: connect ECONNREFUSED 192.0.2.2:22', ExitCode.unreachable),
  });
  assert.is(report.exitCode, ExitCode.unreachable);
  assert.match(point(report, 'reachable', 'beta').found, /ECONNREFUSED/);
  assert.is(point(report, 'xen', 'alpha').verdict, 'pass');
  assert.match(point(report, 'throughput', 'alpha').found, /not measured: beta was not reached/);
  assert.ok(hosts.every((host) => host.closed));
});

test('a connection that is lost in the middle is a point too', async () => {
  const { report, hosts } = await run({
    beta: (host) => host.overrides.set('probe', new HostError('beta', 'unknown', 'the connection was lost')),
  });
  assert.is(report.exitCode, ExitCode.unreachable);
  assert.match(point(report, 'reachable', 'beta').found, /beta: the connection was lost/);
  assert.ok(
    hosts.every((host) => host.closed),
    'also that of the host that failed',
  );
});

test('a changed host key and output that is not understood are failures, not silence', async () => {
  const refused = await run({ beta: new OperatorError('beta: its host key has changed', ExitCode.refused) });
  assert.is(refused.report.exitCode, ExitCode.failed);
  assert.match(point(refused.report, 'reachable', 'beta').found, /host key has changed/);
  const garbled = await run({
    beta: (host) => host.overrides.set('xl-list', { exitCode: 0, stdout: 'garbage\n', stderr: '' }),
  });
  assert.is(garbled.report.exitCode, ExitCode.failed);
  assert.match(
    point(garbled.report, 'reachable', 'beta').found,
    /output of xl list not understood.*"garbage"/,
  );
});

test('a bug is no finding', async () => {
  const error = await run({ beta: new TypeError('x is not a function') }).then(
    () => undefined,
    (reason: unknown) => reason,
  );
  assert.instance(error, TypeError);
});

test('the clock of a host is compared with this machine, in favour of the host', async () => {
  let now = 1_000_000;
  const { report } = await run(
    {
      // One host alone, or they would share the clock's steps.
      alpha: new OperatorError('alpha: no route', ExitCode.unreachable),
      beta: (host) => host.overrides.set('date', { exitCode: 0, stdout: '1010.000000000\n', stderr: '' }),
    },
    undefined,
    () => (now += 50),
  );
  const beta = point(report, 'clock', 'beta');
  assert.is(beta.verdict, 'warn');
  assert.match(beta.found, /ahead of this machine \(to within 25 ms\)/);
});

test('a ping that gets no answer or is not installed', async () => {
  const lost = await run({
    alpha: (host) => host.overrides.set('ping', { exitCode: 1, stdout: data('ping-lost'), stderr: '' }),
    beta: (host) => host.overrides.set('ping', { exitCode: 127, stdout: '', stderr: 'x' }),
  });
  assert.match(point(lost.report, 'round-trip', 'alpha').found, /beta answered none of 10 pings/);
  assert.match(
    point(lost.report, 'round-trip', 'beta').found,
    /alpha was not reached: ping is not installed/,
  );
});

test('a port that nothing gets through to is told from a transfer that can not be made', async () => {
  const silent = await freePort();
  const blocked = await run({
    // It says that it listens, but a firewall answers for the port.
    beta: (host) => {
      host.stream = (_argv, onLine, { signal }) => {
        onLine(`listening ${silent}`);
        return new Promise((resolve) => {
          signal?.addEventListener('abort', () => resolve({ exitCode: 143, stdout: '', stderr: '' }));
        });
      };
    },
  });
  const found = point(blocked.report, 'throughput', 'alpha');
  assert.is(found.verdict, 'fail');
  assert.match(found.found, /TCP port [0-9]+ of beta was not reached: connect ECONNREFUSED/);

  const missing = await run({
    beta: (host) => host.overrides.set('stream', { exitCode: 127, stdout: '', stderr: '' }),
  });
  const unmeasured = point(missing.report, 'throughput', 'alpha');
  assert.is(unmeasured.verdict, 'warn');
  assert.match(unmeasured.found, /not measured: beta: node is not installed/);
});

test('an address that the host does not have is not taken for a firewall', async () => {
  const config = await loopbackConfig();
  config.pairs[0]!.hosts[0].replication = '192.0.2.254';
  const { report } = await run({}, config);
  const found = point(report, 'throughput', 'beta');
  assert.is(found.verdict, 'warn');
  assert.match(found.found, /not measured: alpha: listen E/);
  assert.match(point(report, 'replication-address', 'alpha').found, /it has no 192\.0\.2\.254/);
});

const RESULTS: CheckResult[] = [
  { pair: 'rack1', host: 'alpha', id: 'xen', verdict: 'pass', found: 'Xen 4.17.6', needed: 'Xen', mend: '' },
  {
    pair: 'rack1',
    host: 'beta',
    domain: 'web',
    id: 'port',
    verdict: 'fail',
    found: 'something\u001b[2J listens\non 7790',
    needed: 'TCP port 7790',
    mend: 'stop it',
  },
  {
    pair: 'rack1',
    id: 'arbiter',
    verdict: 'warn',
    found: 'the operator',
    needed: 'an arbiter',
    mend: 'name one',
  },
];

test('plain output is a line for each point, and nothing in it steers a terminal', () => {
  const text = renderCheck({ results: RESULTS, exitCode: 1 }, { terminal: false, columns: 80 });
  assert.is(
    text,
    [
      'pass rack1: alpha: xen: Xen 4.17.6',
      'fail rack1: web on beta: port: something [2J listens on 7790; needed: TCP port 7790; to do: stop it',
      'warn rack1: pair: arbiter: the operator; needed: an arbiter; to do: name one',
      '1 passed, 1 warning, 1 failed',
      '',
    ].join('\n'),
  );
});

test('a table fits its terminal', () => {
  for (const columns of [40, 100, 160]) {
    const text = renderCheck({ results: RESULTS, exitCode: 1 }, { terminal: true, columns });
    const lines = text.replace(/\u001b\[[0-9;]*m/g, '').split('\n');
    const widest = Math.max(...lines.map((line) => line.length));
    assert.ok(widest <= Math.max(80, columns), `${widest} of ${columns}`);
    assert.not(text.includes('\u001b[2J'));
    assert.ok(lines.some((line) => line.includes('web on beta')));
  }
});

test('JSON has every point and the sums', () => {
  const parsed = JSON.parse(checkJson({ results: RESULTS, exitCode: 1 })) as Record<string, unknown>;
  assert.equal(parsed['summary'], { pass: 1, warn: 1, fail: 1 });
  assert.equal(parsed['results'], RESULTS);
});

test.run();
