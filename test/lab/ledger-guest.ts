/**
 * The lab's guest with a ledger in it, on a host: Debian's kernel and the guest's initramfs as they are in the image,
 * with scripts/lab/guest/ledger.c and ledger-init in a second archive behind it, which the kernel unpacks over the
 * first. So the ledger can change without a new image.
 */
import { chmodSync, copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ledgerRamdisk } from '../../scripts/lab/guest.js';
import type { LabHost } from '../../scripts/lab/hosts.js';
import { guestDirectory, limits } from '../../scripts/lab/plan.js';
import { run } from '../../scripts/lab/processes.js';

const sources = 'scripts/lab/guest';

/** @returns a compressed archive of what the ledger's guest has beside the other one */
async function makeArchive(): Promise<Buffer> {
  const work = mkdtempSync(join(tmpdir(), 'remus-lab-ledger-'));
  const timeoutMs = limits.commandMs;
  try {
    const tree = join(work, 'tree');
    mkdirSync(join(tree, 'bin'), { recursive: true });
    const compile = ['gcc', '-std=gnu11', '-Wall', '-Wextra', '-Werror', '-O2', '-static', '-s'];
    await run([...compile, '-o', join(tree, 'bin/ledger'), join(sources, 'ledger.c')], { timeoutMs });
    copyFileSync(join(sources, 'ledger-init'), join(tree, 'init'));
    chmodSync(join(tree, 'init'), 0o755);
    copyFileSync(join(sources, 'init'), join(tree, 'guest-init'));
    const pack = 'cd "$1" && find . | LC_ALL=C sort | cpio -o -H newc --quiet -R 0:0 | gzip -1 >"$2"';
    const archive = join(work, 'archive');
    await run(['sh', '-ec', pack, 'pack', tree, archive], { timeoutMs });
    return readFileSync(archive);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** Makes the ledger's initramfs on each host. */
export async function layLedger(hosts: readonly LabHost[]): Promise<void> {
  const archive = await makeArchive();
  await Promise.all(
    hosts.map((host) =>
      host.sh(
        `cat ${guestDirectory}/initrd.img - >${ledgerRamdisk}.part && mv ${ledgerRamdisk}.part ${ledgerRamdisk}`,
        {
          input: archive,
        },
      ),
    ),
  );
}
