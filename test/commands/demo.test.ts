/** `demo`: its options, what it prints, and that its exit code says whether every guarantee held. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { runDemo } from '../../src/commands/demo.js';
import { ExitCode, OperatorError } from '../../src/core/errors.js';
import type { Claim } from '../../src/embedded/protection/act.js';
import { CUT_KIND_NAMES, CUT_POINT_NAMES, CUT_POINTS } from '../../src/embedded/protection/cuts.js';
import type { Break } from '../../src/embedded/protection/jobs.js';
import type { Round } from '../../src/embedded/protection/rounds.js';

const test = suite('demo');

type Options = Parameters<typeof runDemo>[0];

async function demo(
  options: Options,
  {
    json = false,
    broken = null,
    onPrint = () => undefined,
  }: { json?: boolean; broken?: Break | null; onPrint?: (text: string) => void } = {},
): Promise<{ code: ExitCode; text: string }> {
  const printed: string[] = [];
  if (broken !== null) process.env['REMUS_EMBEDDED_BREAK'] = broken;
  try {
    const print = (text: string): void => {
      printed.push(text);
      onPrint(text);
    };
    const code = await runDemo(options, { json, print });
    return { code, text: printed.join('\n') };
  } finally {
    delete process.env['REMUS_EMBEDDED_BREAK'];
  }
}

/** What none of it is. */
const REAL = /\b(DRBD|Xen|tc|systemd)\b|(?<!embedded )\bxl\b/;
/** What there is a stand-in for, in whatever words. */
const STAND_IN = /\b(guest|hypervisor|mirror|resync\w*|arbiter|network|disks?|volumes?|hosts?)\b/;

/** Lines that could be taken for Xen and DRBD. */
function notEmbedded(lines: readonly string[]): string[] {
  return lines.filter((line) => REAL.test(line) || (STAND_IN.test(line) && !line.includes('embedded')));
}

const wrong: [Options, RegExp][] = [
  [{ cut: 'everything' }, /^--cut everything: one of these is required: primary, backup, mirror-link, /],
  [{ cutAt: 'noon' }, /^--cut-at noon: one of these is required: between-checkpoints, guest-held, /],
  [{ arbiter: 'list' }, /^--arbiter list: one of these is required: both, primary, backup, none$/],
  [{ seed: '-1' }, /^--seed -1: a number from 0 to 4294967295 is required$/],
  [{ seed: '4294967296' }, /^--seed 4294967296: a number/],
  [{ seed: '1.5' }, /^--seed 1\.5: a number/],
  [{ rounds: '0' }, /^--rounds 0: a number from 1 to 100000 is required$/],
  [{ rounds: 'many' }, /^--rounds many: a number/],
  [{ rounds: '3', cut: 'everything' }, /^--cut everything: /],
  [{ embeddedPart: 'moon' }, /^--embedded-part moon: there is no such part$/],
  [{ setup: true, keep: true }, /^demo --setup: none of the other options of demo goes with it$/],
];

for (const [options, message] of wrong) {
  test(`wrong usage: ${JSON.stringify(options)}`, async () => {
    try {
      await demo(options);
      assert.unreachable();
    } catch (error) {
      assert.instance(error, OperatorError);
      const { exitCode, message: text } = error as OperatorError;
      assert.is(exitCode, ExitCode.usage);
      assert.match(text, message);
    }
  });
}

test('what can be cut, and where, is listed as that of an embedded pair', async () => {
  const { code, text } = await demo({ cut: 'list', cutAt: 'list' });
  assert.is(code, ExitCode.ok);
  const names = [...text.matchAll(/^ {2}(\S+) +\S/gm)].map(([, name]) => name);
  assert.equal(names, [...CUT_KIND_NAMES, ...CUT_POINT_NAMES]);
  assert.match(text, /^--cut, what is cut on the embedded pair:\n/);
  assert.match(text, /^--cut-at, where in a checkpoint of the embedded pair:$/m);
  assert.equal(notEmbedded(text.split('\n')), []);
  const { text: json } = await demo({ cutAt: 'list' }, { json: true });
  assert.equal(JSON.parse(json), { embedded: true, cutAt: CUT_POINTS });
});

test('the story of a cut link, as JSON: set up first, every claim held, each stand-in called embedded', async () => {
  const options = {
    cut: 'mirror-link',
    cutAt: 'marker-sent',
    arbiter: 'none',
    seed: '7',
    keep: true,
  } as const;
  const { code, text } = await demo(options, { json: true });
  const { embedded, seed, told, claims } = JSON.parse(text) as {
    embedded: boolean;
    seed: number;
    told: string[];
    claims: Claim[];
  };
  assert.equal(
    claims.filter(({ held }) => !held),
    [],
  );
  assert.is(code, ExitCode.ok);
  assert.is(embedded, true);
  assert.is(seed, 7);
  // The head alone says what the stand-ins are in the place of.
  const begin = told.findIndex((line) =>
    line.startsWith('1. set up: embedded-a and embedded-b are on after '),
  );
  assert.ok(begin > 0, told.join('\n'));
  assert.match(
    told[begin + 1] ?? '',
    /a key and a certificate, 2 embedded disks of 16\.0 MiB and a barrier volume of 1\.0 MiB/,
  );
  assert.match(
    told[begin + 2] ?? '',
    /^ {3}an embedded mirror .* 0 KiB to synchronise; .* epoch journal gets 32\.0 MiB$/,
  );
  const said = [...told.slice(begin), ...claims.map(({ claim, found }) => `${claim}: ${found}`)];
  assert.equal(notEmbedded(said), []);
  assert.ok(said.some((line) => line.includes('the embedded mirror has been without its peer for 2000 ms')));
  const folder = /^The files of the embedded hosts are in (\/.+)$/.exec(told.at(-1) ?? '')?.[1] ?? '';
  assert.ok(existsSync(`${folder}/embedded-a`), folder);
  await rm(folder, { recursive: true });
});

test('a story that comes to no end has a claim that did not hold, and fails', async () => {
  const onPrint = (text: string): void => {
    if (text.startsWith('\n2. ')) throw new Error('the end of the world');
  };
  const { code, text } = await demo({ seed: '1' }, { onPrint });
  assert.is(code, ExitCode.failed);
  assert.match(text, /^ {3}NO {3}the story of the embedded pair comes to its end: the end of the world$/m);
  assert.match(text, /^│ embedded pair +│ held │ found +│$/m);
  assert.match(text, /│ NO +│ the end of the world +│$/m);
});

test('rounds with everything given, as JSON, and their files', async () => {
  const options: Options = {
    cut: 'backup',
    cutAt: 'output-released',
    arbiter: 'none',
    seed: '8',
    rounds: '2',
    keep: true,
  };
  const { code, text } = await demo(options, { json: true });
  const { embedded, rounds, kept } = JSON.parse(text) as {
    embedded: boolean;
    rounds: Round[];
    kept: string[];
  };
  assert.equal(
    rounds.flatMap(({ violations }) => violations),
    [],
  );
  assert.is(code, ExitCode.ok);
  assert.is(embedded, true);
  const cut = { kind: 'backup', point: 'output-released', arbiter: 'none' };
  assert.equal(
    rounds.map((round) => round.cut),
    [cut, cut],
  );
  assert.is(kept.length, 1);
  for (const folder of kept) {
    assert.ok(existsSync(`${folder}/embedded-a`), folder);
    await rm(folder, { recursive: true });
  }
});

test('a round that breaks a guarantee is told with its seed, and fails', async () => {
  const options = { cutAt: 'memory-begun', cut: 'primary', rounds: '1', seed: '9' };
  const { code, text } = await demo(options, { broken: 'release-on-send' });
  assert.is(code, ExitCode.failed);
  assert.match(text, /^embedded round {3}1 {2}primary at memory-begun: embedded-b goes on/m);
  assert.match(
    text,
    /^ {4}VIOLATION on the embedded pair: memory and both disks of the embedded guest are of the same epoch, /m,
  );
  assert.match(text, /^ {4}again with: --rounds 1 --cut primary --cut-at memory-begun --seed 9$/m);
  assert.match(text, /^embedded pair: 1 of 1 rounds broke a guarantee; --seed 9$/m);
  assert.equal(notEmbedded(text.split('\n')), []);
});

test.run();
