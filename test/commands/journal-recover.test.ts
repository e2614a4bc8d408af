/** `journal recover-domain` on a host in a folder: real files are its LVs, and its journal is a real one. */
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, mkdtemp, open, readFile, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { recoverDomain, recoverDomainText } from '../../src/commands/journal-recover.js';
import type { RecoverDomainOptions, RecoverDomainReport } from '../../src/commands/journal-recover.js';
import type { DiskDecision } from '../../src/core/claim/term.js';
import type { DomainFile } from '../../src/core/domain-file.js';
import { ExitCode, OperatorError } from '../../src/core/errors.js';
import { journalConfigOf, parseDiscarded } from '../../src/core/journal/domain.js';
import { DescriptorOp, encodeMarker } from '../../src/core/journal/format.js';
import { SECTOR_BYTES } from '../../src/core/journal/types.js';
import { REAL_STEPS } from '../../src/edge/durable-file.js';
import type { FileSteps } from '../../src/edge/durable-file.js';
import { TermStore } from '../../src/edge/term-store.js';
import { openDisk } from '../../src/journal/file-disk.js';
import { EpochJournal, formatJournal, systemClock } from '../../src/journal/journal.js';
import type { Clock } from '../../src/journal/journal.js';

const MIB = 1 << 20;
const BLOCK = 4096;
const TERM = 7;
const SESSION = Buffer.alloc(16, 0x22);
/** Nothing is drained in the background, so that a receiver that dies leaves all of it. */
const CLOCK: Clock = { ...systemClock, later: () => undefined };

const DOMAIN: DomainFile = {
  format: 1,
  domain: 'web',
  pair: 'rack1',
  engine: 'journal',
  primary: 'alpha',
  backup: 'beta',
  hosts: [],
  link: 'tls',
  port: 7790,
  linkPort: 7789,
  volumes: [
    {
      volume: 0,
      minor: 0,
      role: 'disk',
      vdev: 'xvda',
      volumeGroup: 'vg0',
      dataLv: 'remus-web-0',
      makeData: true,
      metaLv: 'remus-web-0-md',
      mapper: 'remus-web-0',
    },
    {
      volume: 1,
      minor: 1,
      role: 'disk',
      vdev: 'xvdb',
      volumeGroup: 'vg1',
      dataLv: 'theirs',
      makeData: false,
      metaLv: 'remus-web-1-md',
      mapper: 'remus-web-1',
    },
    {
      volume: 15,
      minor: 15,
      role: 'barrier',
      volumeGroup: 'vg0',
      dataLv: 'remus-web-barrier',
      makeData: true,
      metaLv: 'remus-web-barrier-md',
      mapper: 'remus-web-barrier',
    },
  ],
  journal: { volumeGroup: 'vg0', lv: 'remus-web-journal', sizeBytes: 8 * MIB },
  checkpoint: { intervalMs: 100, failAfterMs: 1000 },
  autoRecover: false,
  onCrash: 'stop',
  arbiter: { kind: 'operator' },
} as unknown as DomainFile;

/** One is a whole number of DRBD's bitmap words, so its device is 4 KiB smaller; one is not. */
const LV_BYTES: Record<string, number> = {
  '/dev/vg0/remus-web-0': MIB,
  '/dev/vg1/theirs': MIB + BLOCK,
  '/dev/vg0/remus-web-barrier': MIB,
  '/dev/vg0/remus-web-journal': 8 * MIB,
};

class Host {
  readonly root: string;
  readonly state: string;

  constructor(root: string) {
    this.root = root;
    this.state = join(root, 'var/lib/remus-drbd/web');
  }

  path(name: string): string {
    return join(this.root, name);
  }

  get active(): string {
    return join(this.state, 'journal-active');
  }

  get discarded(): string {
    return join(this.state, 'discarded.json');
  }

  async write(name: string, text: string): Promise<void> {
    await mkdir(dirname(this.path(name)), { recursive: true });
    await writeFile(this.path(name), text);
  }

  decide(outcome: DiskDecision['outcome'], term = TERM): Promise<void> {
    return new TermStore('web', this.state).writeDecision({
      term,
      outcome,
      by: 'beta',
      reason: 'it was told to',
    });
  }

  recover(options: Partial<RecoverDomainOptions> = {}): Promise<RecoverDomainReport> {
    return recoverDomain({ domain: 'web', root: this.root, ...options });
  }

  /** What a block of an LV holds: its fill, or null when it is not all the same. */
  async block(lv: string, offset: number): Promise<number | null> {
    const file = await open(this.path(lv));
    try {
      const bytes = Buffer.alloc(BLOCK);
      await file.read(bytes, 0, BLOCK, offset);
      return bytes.every((byte) => byte === bytes[0]) ? (bytes[0] as number) : null;
    } finally {
      await file.close();
    }
  }

  async blocks(): Promise<(number | null)[]> {
    return [
      await this.block('/dev/vg0/remus-web-0', 0),
      await this.block('/dev/vg0/remus-web-0', BLOCK),
      await this.block('/dev/vg1/theirs', 2 * BLOCK),
    ];
  }

  /** Runs something on the journal like a receiver, which then dies. */
  async receiver<T>(action: (journal: EpochJournal) => Promise<T>): Promise<T> {
    const config = journalConfigOf(DOMAIN, new Map(Object.entries(LV_BYTES)));
    const disk = await openDisk(this.path(config.journal), { mode: 'buffered' });
    const targets = [];
    for (const { target } of config.volumes) targets.push(await openDisk(this.path(target)));
    try {
      const specs = config.volumes.map(({ name, sizeBytes, barrier }) => ({ name, sizeBytes, barrier }));
      return await action(await EpochJournal.open(disk, targets, specs, { clock: CLOCK }));
    } finally {
      for (const each of [disk, ...targets]) await each.close();
    }
  }
}

function put(journal: EpochJournal, volume: number, offset: number, data: Buffer): Promise<void> {
  return new Promise((resolve, reject) => {
    journal.submit({
      op: DescriptorOp.write,
      volume,
      sector: offset / SECTOR_BYTES,
      sectors: data.length / SECTOR_BYTES,
      data,
      sink: { written: (_request, errno) => (errno === null ? resolve() : reject(new Error(errno))) },
    });
    journal.kick();
  });
}

const fill = (byte: number): Buffer => Buffer.alloc(BLOCK, byte);

/** Epoch 5 committed; epoch 6 with one block over one of it and one more, closed, not committed. */
async function twoEpochs(journal: EpochJournal): Promise<void> {
  await journal.startSession({ domain: 'web', term: TERM, id: SESSION });
  await put(journal, 0, 0, fill(0x11));
  await put(journal, 2, 0, encodeMarker({ domain: 'web', term: TERM, session: SESSION, epoch: 5 }));
  await journal.commit(5);
  await put(journal, 0, 0, fill(0x22));
  await put(journal, 0, BLOCK, fill(0x33));
  await put(journal, 1, 2 * BLOCK, fill(0x44));
  await put(journal, 2, 0, encodeMarker({ domain: 'web', term: TERM, session: SESSION, epoch: 6 }));
  await journal.flush();
}

/** What epoch 6 wrote. */
const ABOVE_5 = [
  { volume: 'remus-web-0', offsetBytes: 0, lengthBytes: 2 * BLOCK },
  { volume: 'remus-web-1', offsetBytes: 2 * BLOCK, lengthBytes: BLOCK },
  { volume: 'remus-web-barrier', offsetBytes: 0, lengthBytes: BLOCK },
];
const COMMITTED = [0x11, 0, 0];
const ALL = [0x22, 0x33, 0x44];

/** A test on a host of its own, with an empty journal and `journal-active`. */
function on(name: string, body: (host: Host) => Promise<void>): void {
  test(name, async () => {
    const host = new Host(await mkdtemp(join(tmpdir(), 'recover-domain-')));
    try {
      for (const [lv, bytes] of Object.entries(LV_BYTES)) {
        await host.write(lv, '');
        await truncate(host.path(lv), bytes);
      }
      await host.write('/etc/remus-drbd/domains/web.json', JSON.stringify(DOMAIN));
      const config = journalConfigOf(DOMAIN, new Map(Object.entries(LV_BYTES)));
      const disk = await openDisk(host.path(config.journal), { mode: 'buffered' });
      await formatJournal(disk, { domain: 'web', volumes: specsOf(config), journalId: Buffer.alloc(16, 1) });
      await disk.close();
      await host.write('/var/lib/remus-drbd/web/journal-active', 'the journal may hold writes\n');
      await body(host);
    } finally {
      await rm(host.root, { recursive: true, force: true });
    }
  });
}

function specsOf({
  volumes,
}: ReturnType<typeof journalConfigOf>): { name: string; sizeBytes: number; barrier: boolean }[] {
  return volumes.map(({ name, sizeBytes, barrier }) => ({ name, sizeBytes, barrier }));
}

async function refused(promise: Promise<unknown>, code: ExitCode, ...patterns: RegExp[]): Promise<void> {
  const error = await promise.then(
    () => null,
    (reason: unknown) => reason,
  );
  assert.instance(error, OperatorError);
  const { message, exitCode } = error as OperatorError;
  assert.is(exitCode, code, message);
  for (const pattern of patterns) assert.match(message, pattern);
}

test('the journal of a domain: LVs below the mapper, with the size of the mapper', () => {
  assert.equal(journalConfigOf(DOMAIN, new Map(Object.entries(LV_BYTES))), {
    domain: 'web',
    journal: '/dev/vg0/remus-web-journal',
    volumes: [
      { name: 'remus-web-0', target: '/dev/vg0/remus-web-0', sizeBytes: MIB - BLOCK, barrier: false },
      { name: 'remus-web-1', target: '/dev/vg1/theirs', sizeBytes: MIB + BLOCK, barrier: false },
      {
        name: 'remus-web-barrier',
        target: '/dev/vg0/remus-web-barrier',
        sizeBytes: MIB - BLOCK,
        barrier: true,
      },
    ],
  });
  assert.throws(() => journalConfigOf(DOMAIN, new Map()), /size of \/dev\/vg0\/remus-web-0 is not known/);
  const without = { ...DOMAIN };
  delete without.journal;
  assert.throws(() => journalConfigOf(without, new Map()), /web has no journal/);
});

on('an undecided session is refused, and decided later', async (host) => {
  await host.receiver(twoEpochs);
  await refused(
    host.recover(),
    ExitCode.refused,
    /^web on .*: refusing to recover the journal: a session of term 7 is open in it \(last commit 5, last marker 6\)/,
    /there is none/,
    /remus-drbd failover web/,
    /remus-drbd continue web/,
  );
  assert.equal(await host.blocks(), [0, 0, 0]);
  assert.ok(existsSync(host.active));

  await host.decide('discard', TERM - 1);
  await refused(host.recover(), ExitCode.refused, /the one here is of term 6/);
  assert.equal(await host.blocks(), [0, 0, 0]);

  await host.decide('roll-forward');
  const report = await host.recover();
  assert.is(report.done, 'rolled forward');
  assert.match(report.reason, /roll-forward by beta: it was told to/);
});

on('a decision of a later term decides nothing', async (host) => {
  await host.receiver(twoEpochs);
  await host.decide('roll-forward', TERM + 1);
  await refused(host.recover(), ExitCode.refused, /the one here is of term 8/);
  assert.equal(await host.blocks(), [0, 0, 0]);
});

on('a decision that can not be read is not none', async (host) => {
  await host.receiver(twoEpochs);
  await host.write('/var/lib/remus-drbd/web/decision', '{"term":7,"outc');
  await refused(host.recover(), ExitCode.refused, /decision can't be used/);
  assert.equal(await host.blocks(), [0, 0, 0]);
});

on('rolled forward, everything is on the LVs', async (host) => {
  await host.receiver(twoEpochs);
  await host.decide('roll-forward');
  const report = await host.recover();
  assert.is(report.done, 'rolled forward');
  assert.equal(await host.blocks(), ALL);
  assert.equal(report.discarded, []);
  assert.not.ok(existsSync(host.discarded));
  assert.not.ok(existsSync(host.active));
  assert.is((await host.recover()).done, 'nothing', 'run again');
  assert.match(recoverDomainText(report), /rolled forward, because the decision .* brought to the LVs/);
});

on('discarded, only what was committed is on the LVs, and the rest is noted', async (host) => {
  await host.receiver(twoEpochs);
  await host.decide('discard');
  const report = await host.recover();
  assert.is(report.done, 'discarded');
  assert.is(report.committedEpoch, 5);
  assert.equal(await host.blocks(), COMMITTED);
  assert.equal(report.discarded, ABOVE_5);
  assert.equal(parseDiscarded(readFileSync(host.discarded, 'utf8')), {
    format: 1,
    domain: 'web',
    term: TERM,
    committedEpoch: 5,
    exact: true,
    ranges: ABOVE_5,
  });
  assert.not.ok(existsSync(host.active));
  assert.is(await host.receiver((journal) => journal.discarded()), null, 'the journal has handed them over');
  assert.match(recoverDomainText(report), /above epoch 5 were discarded; .*web\/discarded.json says which/);
});

on('outside of a session it drains, and needs no decision', async (host) => {
  await host.receiver(async (journal) => {
    await put(journal, 0, BLOCK, fill(0x55));
    await journal.flush();
  });
  const report = await host.recover();
  assert.is(report.done, 'drained');
  assert.equal(await host.blocks(), [0, 0x55, 0]);
  assert.ok(report.drainedBytes >= BLOCK);
  assert.not.ok(existsSync(host.active));
});

on('a discard that was begun by a receiver is finished', async (host) => {
  await host.receiver(async (journal) => {
    await twoEpochs(journal);
    await journal.discard();
  });
  const report = await host.recover();
  assert.is(report.done, 'drained');
  assert.equal(await host.blocks(), COMMITTED);
  assert.equal(parseDiscarded(readFileSync(host.discarded, 'utf8')).ranges, ABOVE_5);
});

on('blocks that wait to be marked are added to, never written over', async (host) => {
  const waiting = [
    { volume: 'remus-web-0', offsetBytes: BLOCK, lengthBytes: 2 * BLOCK },
    { volume: 'remus-web-0', offsetBytes: 64 * BLOCK, lengthBytes: BLOCK },
  ];
  const before = { format: 1, domain: 'web', term: 3, committedEpoch: null, exact: false, ranges: waiting };
  await host.write('/var/lib/remus-drbd/web/discarded.json', `${JSON.stringify(before)}\n`);
  await host.receiver(twoEpochs);
  await host.decide('discard');
  await host.recover();
  const { exact, ranges } = parseDiscarded(await readFile(host.discarded, 'utf8'));
  assert.not.ok(exact);
  assert.equal(ranges, [
    { volume: 'remus-web-0', offsetBytes: 0, lengthBytes: 3 * BLOCK },
    { volume: 'remus-web-0', offsetBytes: 64 * BLOCK, lengthBytes: BLOCK },
    ...ABOVE_5.slice(1),
  ]);
});

on('a list of such blocks that can not be read stops it', async (host) => {
  await host.receiver(twoEpochs);
  await host.decide('discard');
  await host.write('/var/lib/remus-drbd/web/discarded.json', '{"format":1,');
  await refused(host.recover(), ExitCode.refused, /discarded.json can't be read/);
  assert.is(readFileSync(host.discarded, 'utf8'), '{"format":1,');
  assert.equal(await host.blocks(), [0, 0, 0]);
});

/** The file system's steps until `left` of them are done; the next one fails, as if the machine had stopped. */
function stepsOf(left: number): { steps: FileSteps; taken: () => number } {
  let taken = 0;
  const counted =
    <A extends unknown[], R>(step: (...args: A) => Promise<R>) =>
    (...args: A): Promise<R> =>
      taken++ < left ? step(...args) : Promise.reject(new Error('cut'));
  const real = REAL_STEPS;
  const steps: FileSteps = {
    create: counted((path: string, content: string, mode: number) => real.create(path, content, mode)),
    syncFile: counted((path: string) => real.syncFile(path)),
    rename: counted((from: string, to: string) => real.rename(from, to)),
    link: counted((from: string, to: string) => real.link(from, to)),
    unlink: counted((path: string) => real.unlink(path)),
    syncDirectory: counted((path: string) => real.syncDirectory(path)),
  };
  return { steps, taken: () => taken };
}

for (let cut = 0; cut < 6; cut++) {
  on(`cut short after ${cut} steps of its files, the next run ends the same`, async (host) => {
    await host.receiver(twoEpochs);
    await host.decide('discard');
    const { steps, taken } = stepsOf(cut);
    const error = await host.recover({ steps }).then(
      () => null,
      (reason: unknown) => reason,
    );
    assert.ok(taken() > cut, 'a step was cut');
    assert.match((error as Error).message, /cut/);
    // journal-active may be gone already, but only when there is nothing left to do.
    const report = await host.recover();
    if (report.done === 'nothing') assert.not.ok(existsSync(host.active));
    assert.equal(await host.blocks(), COMMITTED);
    assert.equal(parseDiscarded(readFileSync(host.discarded, 'utf8')).ranges, ABOVE_5);
    assert.not.ok(existsSync(host.active));
    assert.is(await host.receiver((journal) => journal.discarded()), null);
  });
}

on('a session that ended otherwise than decided is refused', async (host) => {
  await host.receiver(async (journal) => {
    await twoEpochs(journal);
    await journal.rollForward();
  });
  await host.decide('discard');
  await refused(host.recover(), ExitCode.refused, /of term 7 ended by roll-forward/, /says discard/);
  assert.equal(await host.blocks(), [0, 0, 0]);
  assert.ok(existsSync(host.active));
});

on('without journal-active nothing is opened', async (host) => {
  await host.receiver(async (journal) => {
    await put(journal, 0, BLOCK, fill(0x55));
    await journal.flush();
  });
  await rm(host.active);
  await host.write('/etc/remus-drbd/domains/web.json', 'not even JSON');
  const report = await host.recover();
  assert.is(report.done, 'nothing');
  assert.equal(await host.blocks(), [0, 0, 0]);
  assert.match(recoverDomainText(report), /nothing to recover/);
});

on('below a device that is in use it refuses', async (host) => {
  await host.receiver(twoEpochs);
  await host.decide('roll-forward');
  await host.write('/dev/dm-3', '');
  await mkdir(host.path('/dev/mapper'));
  await symlink('../dm-3', host.path('/dev/mapper/remus-web-1'));
  const asked: string[] = [];
  const isHeld = (device: string): Promise<boolean> => {
    asked.push(device);
    return Promise.resolve(true);
  };
  await refused(
    host.recover({ isHeld }),
    ExitCode.refused,
    /mapper\/remus-web-1 is in use/,
    /remus-devices down web/,
  );
  assert.equal(asked, [host.path('/dev/mapper/remus-web-1')]);
  assert.equal(await host.blocks(), [0, 0, 0]);

  await mkdir(host.path('/sys/block/dm-3/slaves/nbd4'), { recursive: true });
  await refused(host.recover(), ExitCode.refused, /stands on nbd4/, /Stop the receiver/);
  assert.equal(await host.blocks(), [0, 0, 0]);

  await rm(host.path('/sys'), { recursive: true });
  assert.is((await host.recover()).done, 'rolled forward', 'mapped and not in use');
});

on('an LV that is not active is activated', async (host) => {
  await host.receiver(twoEpochs);
  await host.decide('roll-forward');
  const lv = '/dev/vg0/remus-web-journal';
  const bytes = await readFile(host.path(lv));
  await rm(host.path(lv));
  const cannot = (): Promise<void> => Promise.reject(new Error('Volume group "vg0" not found'));
  await refused(
    host.recover({ activate: cannot }),
    ExitCode.failed,
    /remus-web-journal: Volume group "vg0" not found/,
    /lvchange -ay vg0\/remus-web-journal/,
  );
  const asked: string[][] = [];
  const activate = async (...names: string[]): Promise<void> => {
    asked.push(names);
    await writeFile(host.path(lv), bytes);
  };
  assert.is((await host.recover({ activate })).done, 'rolled forward');
  assert.equal(asked, [['vg0', 'remus-web-journal']]);
});

on('an LV that was grown is as good a target', async (host) => {
  await host.receiver(twoEpochs);
  await host.decide('roll-forward');
  await truncate(host.path('/dev/vg1/theirs'), 2 * MIB);
  await host.recover();
  assert.equal(await host.blocks(), ALL);
});

on('an LV that was shrunk is not', async (host) => {
  await host.receiver(twoEpochs);
  await host.decide('roll-forward');
  await truncate(host.path('/dev/vg1/theirs'), MIB / 2);
  await refused(host.recover(), ExitCode.refused, /the journal was made for volumes/);
  assert.ok(existsSync(host.active));
});

on('a journal that is damaged, none, or of another domain is refused', async (host) => {
  const lv = '/dev/vg0/remus-web-journal';
  const disk = await openDisk(host.path(lv), { mode: 'buffered' });
  const volumes = specsOf(journalConfigOf(DOMAIN, new Map(Object.entries(LV_BYTES))));
  await formatJournal(disk, { domain: 'db', volumes, journalId: Buffer.alloc(16, 2) });
  await disk.close();
  await refused(host.recover(), ExitCode.refused, /is the journal of db/);
  await writeFile(host.path(lv), Buffer.alloc(8 * MIB));
  await refused(host.recover(), ExitCode.refused, /no valid superblock/, /drbdadm invalidate/);
  assert.ok(existsSync(host.active));
});

on('a domain that setup has not made is a usage error', async (host) => {
  await refused(host.recover({ domain: '../web' }), ExitCode.usage, /the domain has to be a letter/);
  await host.write('/etc/remus-drbd/domains/web.json', JSON.stringify({ ...DOMAIN, format: 2 }));
  await refused(host.recover(), ExitCode.usage, /another format/, /Run setup/);
  await host.write('/etc/remus-drbd/domains/web.json', JSON.stringify({ ...DOMAIN, domain: 'db' }));
  await refused(host.recover(), ExitCode.usage, /it is of another domain/);
  await rm(host.path('/etc/remus-drbd/domains/web.json'));
  await refused(host.recover(), ExitCode.usage, /ENOENT/);
});

test.run();
