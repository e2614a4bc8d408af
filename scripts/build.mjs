/**
 * Bundles the program into one file, dist/remus-drbd.cjs, which runs on a host with nothing but Node >=
 * 18.19. The two native parts lie beside it under dist/node_modules: koffi's (system calls) and
 * @node-rs/crc32's (CRC32C), each with the binary of this platform only.
 */
import { build } from 'esbuild';
import { cpSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
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
  external: ['*.node', 'cpu-features', '@koromix/*', '@node-rs/crc32-*'],
  define: { 'import.meta.url': 'importMetaUrl', PROGRAM_VERSION: JSON.stringify(version) },
  banner: {
    js: "#!/usr/bin/env node\nconst importMetaUrl = require('node:url').pathToFileURL(__filename).href;",
  },
  legalComments: 'none',
  logLevel: 'warning',
});

/** The packages with the binaries, and of each what a host needs. */
const native = {
  '@koromix/koffi-linux-x64': ['package.json', 'index.js', 'linux_x64/koffi.node'],
  '@node-rs/crc32-linux-x64-gnu': ['package.json', 'crc32.linux-x64-gnu.node'],
};
for (const [name, files] of Object.entries(native)) {
  for (const file of files) {
    const to = join(out, 'node_modules', name, file);
    mkdirSync(dirname(to), { recursive: true });
    cpSync(join('node_modules', name, file), to);
  }
}
