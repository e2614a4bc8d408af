/**
 * Xen's own verifier, verify-stream-v2, accepts what the embedded hypervisor sends. It does not know that libxl's records
 * follow a CHECKPOINT (test/data/streams/README.md), so it gets the two layers of the stream one by one.
 */
import { spawn, spawnSync } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { BANNER, EmbeddedHypervisor } from '../../src/embedded/protection/hypervisor.js';

/** The package xen-utils-4.17 as installed, or as scripts/install-tools unpacks it. */
const XEN = ['', '/usr/local/lib/xen-verify'].map((root) => `${root}/usr/lib/xen-4.17`);

const XL_HEADER_BYTES = 48;
const XL_CONFIG_LENGTH_AT = 44;
const LIBXL_HEADER_BYTES = 16;
const LIBXC_HEADERS_BYTES = 40;
const LIBXL = { context: 1, checkpointEnd: 4 };
const LIBXC = { checkpoint: 14 };
const END = Buffer.alloc(8);
/** The live round of 8 MiB, and then checkpoints. */
const RECORDED_BYTES = 9 << 20;

function verifier(): string | null {
  const found = XEN.find((folder) => existsSync(`${folder}/bin/verify-stream-v2`));
  if (found !== undefined) return found;
  if (process.env['CI'] === 'true')
    throw new Error('missing in CI: verify-stream-v2 (scripts/install-tools)');
  process.stdout.write('skipped: needs verify-stream-v2 (scripts/install-tools)\n');
  return null;
}

/** What the embedded `xl remus` writes, until its transport ends. */
async function record(): Promise<Buffer> {
  const folder = await mkdtemp(join(tmpdir(), 'remus-verify-'));
  try {
    const path = join(folder, 'stream');
    const hypervisor = new EmbeddedHypervisor({ write: () => Promise.resolve(), send: () => undefined });
    hypervisor.boot();
    await hypervisor.remus(1, (stdin): ChildProcess => {
      const transport = `printf %s '${BANNER}'; exec head -c ${RECORDED_BYTES} >'${path}'`;
      return spawn('sh', ['-c', transport], { stdio: [stdin, 'pipe', 'inherit'] });
    });
    hypervisor.destroy();
    return await readFile(path);
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** The whole checkpoints of a stream, each layer as a stream of its own. */
function layers(stream: Buffer): { libxl: Buffer; libxc: Buffer; checkpoints: number } {
  let at = XL_HEADER_BYTES + stream.readUInt32LE(XL_CONFIG_LENGTH_AT);
  const take = (bytes: number): Buffer => stream.subarray(at, (at += bytes));
  const libxl = [take(LIBXL_HEADER_BYTES)];
  const libxc: Buffer[] = [];
  let whole = { libxl: 0, libxc: 0, checkpoints: 0 };
  let isLibxc = false;
  while (at + 8 <= stream.length) {
    const type = stream.readUInt32LE(at);
    const length = 8 + Math.ceil(stream.readUInt32LE(at + 4) / 8) * 8;
    if (at + length > stream.length) break;
    const bytes = take(length);
    if (isLibxc) {
      libxc.push(bytes);
      isLibxc = type !== LIBXC.checkpoint;
    } else if (type === LIBXL.context) {
      libxc.push(take(LIBXC_HEADERS_BYTES));
      isLibxc = true;
    } else {
      libxl.push(bytes);
      if (type !== LIBXL.checkpointEnd) continue;
      isLibxc = true;
      whole = { libxl: libxl.length, libxc: libxc.length, checkpoints: whole.checkpoints + 1 };
    }
  }
  return {
    libxl: Buffer.concat([...libxl.slice(0, whole.libxl), END]),
    libxc: Buffer.concat([...libxc.slice(0, whole.libxc), END]),
    checkpoints: whole.checkpoints,
  };
}

/** From a file: the verifier takes a short read of a pipe for the end. */
async function verify(
  xen: string,
  format: 'libxl' | 'libxc',
  input: Buffer,
): Promise<{ code: number | null; text: string }> {
  const folder = await mkdtemp(join(tmpdir(), 'remus-verify-'));
  try {
    const path = join(folder, 'layer');
    await writeFile(path, input);
    const words = [`${xen}/bin/verify-stream-v2`, '--verbose', '--format', format, '--in', path];
    const result = spawnSync('python3', words, {
      encoding: 'utf8',
      env: { ...process.env, PYTHONPATH: `${xen}/lib/python`, PYTHONDONTWRITEBYTECODE: '1' },
    });
    return { code: result.status, text: `${result.stdout}${result.stderr}` };
  } finally {
    await rm(folder, { recursive: true });
  }
}

test('verify-stream-v2 accepts both layers of the embedded stream', async () => {
  const xen = verifier();
  if (xen === null) return;
  const { libxl, libxc, checkpoints } = layers(await record());
  assert.ok(checkpoints >= 2, `${checkpoints} checkpoints`);
  for (const [format, bytes] of [
    ['libxl', libxl],
    ['libxc', libxc],
  ] as const) {
    const { code, text } = await verify(xen, format, bytes);
    assert.is(code, 0, `embedded, ${format}: ${text.slice(-2000)}`);
  }
  // It is no verifier that accepts anything.
  const broken = Buffer.from(libxc);
  broken.writeUInt32LE(0x7fff_ff00, LIBXC_HEADERS_BYTES);
  assert.is((await verify(xen, 'libxc', broken)).code, 1);
});

test.run();
