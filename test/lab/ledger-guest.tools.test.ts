/** What the lab's guest writes (scripts/lab/guest/ledger.c) is the ledger that `src/core/ledger.ts` reads. Needs gcc. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { readLedgerEntries } from '../../src/core/ledger.js';
import { tokenOf } from './ledger-format.js';

const COUNTS = 130;

/** The guest's own put_entry, with each block written over the last one as on a disk. */
const harness = `
#define main ledger_main
#include "${resolve('scripts/lab/guest/ledger.c')}"
#undef main
static struct entry disk[3 * ENTRIES], block[ENTRIES];
int main(void)
{
	for (uint64_t count = 1; count <= ${COUNTS}; count++) {
		put_entry(block, count);
		memcpy(&disk[(count - 1) / ENTRIES * ENTRIES], block, sizeof block);
	}
	return fwrite(disk, sizeof disk, 1, stdout) != 1;
}
`;

test('every count of the guest is read, with its token and its checksum', () => {
  const folder = mkdtempSync(join(tmpdir(), 'remus-ledger-'));
  try {
    const source = join(folder, 'harness.c');
    writeFileSync(source, harness);
    execFileSync('gcc', ['-std=gnu11', '-Wall', '-Werror', '-o', join(folder, 'harness'), source]);
    const entries = readLedgerEntries(execFileSync(join(folder, 'harness')));
    assert.equal(
      [...entries],
      Array.from({ length: COUNTS }, (_, index) => [index + 1, tokenOf(index + 1)]),
    );
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test.run();
