/**
 * What the lab's guest writes (scripts/lab/guest/ledger.c) is the ledger that `src/core/ledger.ts` reads, and it answers
 * its outside client. Needs gcc.
 */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { readLedgerEntries } from '../../src/core/ledger.js';
import type { ClientLine } from './cuts-log.js';
import { keepAsking } from './ledger-client.js';
import { tokenOf } from './ledger-format.js';

const COUNTS = 130;

/** The guest's own functions, without what only a guest has. */
const include = `
#define main ledger_main
#include "${resolve('scripts/lab/guest/ledger.c')}"
#undef main
`;

/** Each block written over the last one as on a disk. */
const writing = `${include}
static struct entry disk[3 * ENTRIES], block[ENTRIES];
int main(void)
{
	for (uint64_t count = 1; count <= ${COUNTS}; count++) {
		put_entry(block, count, NULL);
		memcpy(&disk[(count - 1) / ENTRIES * ENTRIES], block, sizeof block);
	}
	put_entry(block, 1, "a-token-of-a-client");
	disk[0] = block[0];
	return fwrite(disk, sizeof disk, 1, stdout) != 1;
}
`;

/** Counts for its clients on a port of its own, which it prints. */
const answering = `${include}
int main(void)
{
	struct client clients[CLIENTS];
	for (int each = 0; each < CLIENTS; each++)
		clients[each].fd = -1;
	int listener = listen_for_clients(0);
	struct sockaddr_in here;
	socklen_t length = sizeof here;
	getsockname(listener, (struct sockaddr *)&here, &length);
	printf("%d\\n", ntohs(here.sin_port));
	fflush(stdout);
	char token[TOKEN];
	for (uint64_t count = 1;; count++) {
		take_clients(listener, clients);
		struct client *asker = next_request(clients, token);
		if (asker)
			answer(asker, count, token);
		rest(2);
	}
}
`;

async function compiled(source: string, use: (program: string) => void | Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'remus-ledger-'));
  try {
    const path = join(folder, 'harness');
    writeFileSync(`${path}.c`, source);
    // What a harness leaves out is unused.
    const flags = ['-std=gnu11', '-Wall', '-Wno-unused-function', '-Werror'];
    execFileSync('gcc', [...flags, '-o', path, `${path}.c`]);
    await use(path);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

test('every count of the guest is read, with its token and its checksum', () =>
  compiled(writing, (program) => {
    const entries = readLedgerEntries(execFileSync(program));
    assert.equal(
      [...entries],
      Array.from({ length: COUNTS }, (_, index) => [
        index + 1,
        index === 0 ? 'a-token-of-a-client' : tokenOf(index + 1),
      ]),
    );
  }));

test('the guest answers two clients, each in its order, and no count twice', () =>
  compiled(answering, async (program) => {
    const guest = spawn(program, { stdio: ['ignore', 'pipe', 'inherit'] });
    try {
      const [text] = (await once(guest.stdout, 'data')) as [Buffer];
      const port = Number(text.toString());
      const lines: ClientLine[] = [];
      const enough = new Promise<void>((resolve, reject) => {
        const seen = new Map<string, number>();
        for (const name of ['one', 'two']) {
          const client = keepAsking({
            name,
            host: '127.0.0.1',
            port,
            tell: (line) => {
              lines.push(line);
              if (line.event === 'closed') reject(new Error(line.reason));
              seen.set(name, (seen.get(name) ?? 0) + 1);
              if ([...seen.values()].filter((count) => count > 20).length === 2) resolve();
            },
          });
          stops.push(() => client.stop());
        }
      });
      await enough;
      const counts = lines.flatMap((line) => (line.event === 'answer' ? [line.count] : []));
      assert.is(new Set(counts).size, counts.length);
      assert.ok(counts.length > 30);
    } finally {
      for (const stop of stops.splice(0)) stop();
      guest.kill('SIGKILL');
    }
  }));

const stops: (() => void)[] = [];

test.run();
