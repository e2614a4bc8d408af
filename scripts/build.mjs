/**
 * Bundles the program into one file, dist/remus-drbd.cjs, which runs on a host with nothing but Node >=
 * 18.19. The two native parts stay beside it under dist/node_modules: koffi (system calls) and
 * @node-rs/crc32 (CRC32C), each with the binary of this platform only.
 */
import { build } from 'esbuild';
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';

const out = 'dist';
const { version } = JSON.parse(readFileSync('package.json', 'utf8'));

rmSync(out, { recursive: true, force: true });
await build({
  entryPoints: ['src/main.ts'],
  outfile: join(out, 'remus-drbd.cjs'),
  bundle: true,
  platform: 'node',
  target: 'node18.19',
  format: 'cjs',
  external: ['*.node', 'cpu-features', 'koffi', '@node-rs/crc32'],
  define: { 'import.meta.url': 'importMetaUrl', PROGRAM_VERSION: JSON.stringify(version) },
  banner: {
    js: "#!/usr/bin/env node\nconst importMetaUrl = require('node:url').pathToFileURL(__filename).href;",
  },
  legalComments: 'none',
  logLevel: 'warning',
});

const resolve = createRequire(join(process.cwd(), 'package.json')).resolve;
for (const name of ['koffi', '@koromix/koffi-linux-x64', '@node-rs/crc32', '@node-rs/crc32-linux-x64-gnu']) {
  const from = packageFolder(name);
  if (from === undefined) continue;
  const to = join(out, 'node_modules', name);
  mkdirSync(dirname(to), { recursive: true });
  cpSync(from, to, {
    recursive: true,
    filter: (path) => !/\/(src|vendor|doc|include)(\/|$)|\.(md|ts|map)$/.test(path),
  });
}

function packageFolder(name) {
  const folder = join('node_modules', name);
  if (existsSync(folder)) return folder;
  try {
    return dirname(resolve(`${name}/package.json`));
  } catch {
    return undefined;
  }
}
