/** A journal on modelled disks, for tests of its promises one by one. */
import { DescriptorOp, encodeMarker } from '../../src/core/journal/format.js';
import { JournalError, SECTOR_BYTES } from '../../src/core/journal/types.js';
import type { VolumeSpec } from '../../src/core/journal/types.js';
import { EpochJournal, formatJournal } from '../../src/journal/journal.js';
import type { JournalOptions } from '../../src/journal/journal.js';
import { choices, ModelDisk, World } from './model.js';

export const KIB = 1024;
export const ID = Buffer.alloc(16, 9);

export class Bench {
  world = new World();
  readonly choose = choices(1);
  slow = false;
  disk: ModelDisk;
  targets: ModelDisk[];
  journal: EpochJournal | null = null;
  readonly changes: string[] = [];
  readonly ignored: string[] = [];
  readonly markers: number[] = [];

  constructor(
    readonly volumes: VolumeSpec[] = [
      { name: 'a', sizeBytes: 256 * KIB, barrier: false },
      { name: 'barrier', sizeBytes: 8 * KIB, barrier: true },
    ],
    journalBytes = 24 * KIB + 6 * 64 * KIB,
  ) {
    this.disk = this.make(Buffer.alloc(journalBytes));
    this.targets = volumes.map((volume) => this.make(Buffer.alloc(volume.sizeBytes)));
  }

  make(image: Buffer): ModelDisk {
    return new ModelDisk(this.world, image, { slow: () => this.slow });
  }

  get live(): EpochJournal {
    return this.journal as EpochJournal;
  }

  run<T>(promise: Promise<T>): Promise<T> {
    return this.world.run(promise, () => 0);
  }

  quiet(): Promise<void> {
    return this.world.quiet(() => 0);
  }

  async start(options: JournalOptions = {}): Promise<this> {
    await this.run(
      formatJournal(this.disk, {
        domain: 'web',
        volumes: this.volumes,
        segmentBytes: 64 * KIB,
        journalId: ID,
      }),
    );
    await this.open(options);
    return this;
  }

  async open(options: JournalOptions = {}): Promise<void> {
    this.journal = await this.run(
      EpochJournal.open(this.disk, this.targets, this.volumes, {
        clock: this.world,
        onChange: (reason) => this.changes.push(reason),
        onMarkerIgnored: (reason) => this.ignored.push(reason),
        onMarker: ({ epoch }) => this.markers.push(epoch),
        ...options,
      }),
    );
  }

  session(term = 1): Promise<void> {
    return this.run(this.live.startSession({ domain: 'web', term, id: ID }));
  }

  /** @returns the errno that the write ended with, null for none, undefined while it waits */
  write(
    sector: number,
    sectors: number,
    fill: number | null,
    volume = 0,
  ): { result: string | null | undefined } {
    const answer: { result: string | null | undefined } = { result: undefined };
    this.live.submit({
      op: fill === null ? DescriptorOp.zero : DescriptorOp.write,
      volume,
      sector,
      sectors,
      data: fill === null ? null : Buffer.alloc(sectors * SECTOR_BYTES, fill),
      sink: {
        written: (_request, errno) => {
          answer.result = errno;
        },
      },
    });
    this.live.kick();
    return answer;
  }

  marker(epoch: number, change: { term?: number; domain?: string; session?: Buffer } = {}): void {
    const data = encodeMarker({
      domain: change.domain ?? 'web',
      term: change.term ?? 1,
      session: change.session ?? ID,
      epoch,
    });
    this.live.submit({
      op: DescriptorOp.write,
      volume: this.volumes.length - 1,
      sector: 0,
      sectors: 8,
      data,
      sink: { written: () => undefined },
    });
    this.live.kick();
  }

  async read(sector: number, sectors: number, volume = 0): Promise<Buffer> {
    const into = Buffer.alloc(sectors * SECTOR_BYTES, 0xee);
    await this.run(this.live.read(volume, sector, sectors, into));
    return into;
  }

  openCode(): Promise<string> {
    return this.named(this.open());
  }

  /** What an error of the journal is called, or 'none'. */
  code(promise: Promise<unknown>): Promise<string> {
    return this.named(this.run(promise));
  }

  private async named(running: Promise<unknown>): Promise<string> {
    try {
      await running;
      return 'none';
    } catch (error) {
      if (error instanceof JournalError) return error.code;
      throw error;
    }
  }
}
