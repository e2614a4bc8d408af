/** Watching the files: each change is applied once, one at a time, and a wrong file changes nothing. */
import { mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { watchFiles } from '../../src/commands/watch.js';
import { ExitCode, OperatorError } from '../../src/core/errors.js';

const test = suite('watching the files');

/** A watched folder, with a way to wait until everything so far was dealt with. */
async function watched(
  apply: (count: number) => Promise<void>,
  use: (files: {
    folder: string;
    reports: string[];
    count: () => number;
    next: () => Promise<void>;
  }) => Promise<void>,
): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'remus-watch-'));
  const abort = new AbortController();
  const reports: string[] = [];
  let applied = 0;
  let idle: () => void = () => undefined;
  const idles: Promise<void>[] = [];
  const expectIdle = (): void => void idles.push(new Promise((resolve) => (idle = resolve)));
  try {
    await mkdir(join(folder, 'templates'));
    await writeFile(join(folder, 'pair.yaml'), 'first');
    await writeFile(join(folder, 'web.cfg'), 'first');
    expectIdle();
    const done = watchFiles({
      configFile: join(folder, 'pair.yaml'),
      templatesFolder: join(folder, 'templates'),
      signal: abort.signal,
      apply: async () => {
        applied++;
        await apply(applied);
        return { dependsOn: [join(folder, 'web.cfg')] };
      },
      report: (text) => reports.push(text),
      onIdle: () => idle(),
    });
    const next = async (): Promise<void> => {
      await idles.shift();
      expectIdle();
    };
    await next();
    await use({ folder, reports, count: () => applied, next });
    abort.abort();
    await done;
  } finally {
    abort.abort();
    await rm(folder, { recursive: true });
  }
}

test('applies at the start, and after a change of the configuration, a guest or a template', async () => {
  await watched(
    () => Promise.resolve(),
    async ({ folder, reports, count, next }) => {
      assert.is(count(), 1);
      await writeFile(join(folder, 'pair.yaml'), 'second');
      await next();
      assert.is(count(), 2);
      await writeFile(join(folder, 'web.cfg'), 'second');
      await next();
      assert.is(count(), 3);
      await writeFile(join(folder, 'templates', 'new.hbs'), 'x');
      await next();
      assert.is(count(), 4);
      assert.equal(
        reports.map((text) => text.slice(folder.length + 1)),
        ['pair.yaml has changed', 'web.cfg has changed', 'templates/new.hbs has changed'],
      );
    },
  );
});

test('an editor that renames a new file over the old one is seen', async () => {
  await watched(
    () => Promise.resolve(),
    async ({ folder, count, next }) => {
      await writeFile(join(folder, 'pair.yaml.new'), 'second');
      await rename(join(folder, 'pair.yaml.new'), join(folder, 'pair.yaml'));
      await next();
      assert.ok(count() >= 2);
    },
  );
});

test('a file that is wrong is reported, changes nothing, and the next one is taken', async () => {
  await watched(
    (count) =>
      count === 2
        ? Promise.reject(new OperatorError('pair.yaml:3:1: pairs: Unrecognized key', ExitCode.usage))
        : Promise.resolve(),
    async ({ folder, reports, count, next }) => {
      await writeFile(join(folder, 'pair.yaml'), 'wrong');
      await next();
      assert.match(reports.at(-1)!, /Unrecognized key\nNothing of this change was applied/);
      await writeFile(join(folder, 'pair.yaml'), 'right');
      await next();
      assert.is(count(), 3);
    },
  );
});

test('one change at a time: what changes meanwhile is applied afterwards', async () => {
  let running = 0;
  let most = 0;
  let changeSeen: () => void = () => undefined;
  const seen = new Promise<void>((resolve) => (changeSeen = resolve));
  await watched(
    async (count) => {
      running++;
      most = Math.max(most, running);
      if (count === 2) await seen;
      running--;
    },
    async ({ folder, count, next }) => {
      await writeFile(join(folder, 'pair.yaml'), 'second');
      // Not before the first change is being applied, or the two would be one.
      while (count() < 2) await new Promise((resolve) => setImmediate(resolve));
      await writeFile(join(folder, 'web.cfg'), 'while the other is applied');
      changeSeen();
      await next();
      if (count() < 3) await next();
      assert.is(count(), 3);
      assert.is(most, 1);
    },
  );
});

test.run();
