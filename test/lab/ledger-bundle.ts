/**
 * The product with eyes: the bundle that setup installs on a host, made from the same sources in the same way, with
 * three modules exchanged for ones that stand on them and tell what they see. So the faults that a test makes are
 * nowhere in the product.
 */
import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { build } from 'esbuild';

/** What stands in for what, in paths of this repository. */
export type StandIns = Readonly<Record<string, string>>;

/** @param outfile in a folder whose node_modules has the product's native parts */
export async function bundleWithEyes(outfile: string, standIns: StandIns): Promise<void> {
  const { version } = JSON.parse(readFileSync('package.json', 'utf8')) as { version: string };
  const byPath = new Map(Object.entries(standIns).map(([path, other]) => [resolve(path), resolve(other)]));
  const used = new Set<string>();
  await build({
    entryPoints: ['src/main.ts'],
    outfile,
    bundle: true,
    platform: 'node',
    target: 'node18.19',
    format: 'cjs',
    external: ['*.node', 'cpu-features', '@koromix/*', '@node-rs/crc32-*'],
    define: { 'import.meta.url': 'importMetaUrl', PROGRAM_VERSION: JSON.stringify(version) },
    banner: { js: "const importMetaUrl = require('node:url').pathToFileURL(__filename).href;" },
    logLevel: 'warning',
    plugins: [
      {
        name: 'stand-ins',
        setup: (builder) => {
          builder.onResolve({ filter: /^\.{1,2}\/.*\.js$/ }, ({ path, resolveDir, importer }) => {
            const standIn = byPath.get(join(resolveDir, path).replace(/\.js$/, '.ts'));
            // They import what they stand in for themselves.
            if (standIn === undefined || importer === standIn) return undefined;
            used.add(standIn);
            return { path: standIn };
          });
        },
      },
    ],
  });
  if (used.size !== byPath.size)
    throw new Error(`of the stand-ins only these are used: ${[...used].join(' ')}`);
}
