/** One modelled host: its disks, its small durable files, its clock, and what runs on it. */
import { SECTOR_BYTES } from '../core/journal/types.js';
import type { TermRecord } from '../core/claim/term.js';
import type { GuestEnd } from '../core/protect/types.js';
import type { EpochJournal } from '../journal/journal.js';
import { DescriptorOp } from '../core/journal/format.js';
import { BARRIER, CELLS, offsetOf, sectorsOf, VOLUMES } from './model-drbd.js';
import type { Block, Lower } from './model-drbd.js';
import { ModelDisk } from './model-disk.js';
import type { ModelGuest } from './model-guest.js';
import { PlugQueue } from './model-output.js';
import type { Packet } from './model-output.js';
import { Owner } from './model-time.js';
import type { ModelTime } from './model-time.js';
import type { Weather } from './world.js';

export const volumeBytes = (volume: number): number =>
  volume === BARRIER ? 8 * SECTOR_BYTES : CELLS * SECTOR_BYTES;

/** Written durably: a power cut leaves the old or the new content. */
export interface HostFiles {
  term: TermRecord | undefined;
  decision: { term: number; outcome: 'roll-forward' | 'discard' } | undefined;
  /** The term for which the arbiter was asked. */
  claimAsked: number | undefined;
  journalActive: boolean;
  gate: 'open' | 'shut' | undefined;
  /** A discard at boot, not yet marked through DRBD. */
  discarded: Block[];
}

export class Host {
  readonly name: string;
  readonly lvs: ModelDisk[];
  readonly journalDisk: ModelDisk;
  isFormatted = false;
  /** Its journal's disk was made to lie about flushes, and a power cut took something that was promised. */
  get wasLiedTo(): boolean {
    return this.isLiedTo && this.journalDisk.hasBrokenItsWord;
  }

  isLiedTo = false;
  /** Why the journal could not be read. */
  journalFault: string | null = null;
  /** /var/lib has no room: nothing can be recorded. */
  isStateFull = false;
  readonly files: HostFiles = {
    term: undefined,
    decision: undefined,
    claimAsked: undefined,
    journalActive: false,
    gate: undefined,
    discarded: [],
  };
  /** How fast its clocks run. */
  clockRate = 1;
  /** What its clock that never goes back showed at the beginning, and its wall clock. */
  startedMs = 0;
  wallMs = 0;
  owner: Owner;
  isUp = true;
  /** Up, and what is done at boot is not. */
  isBooting = false;
  guest: ModelGuest | null = null;
  /** Of a guest that ended of itself and that xl still lists. */
  ended: GuestEnd | null = null;
  /** Paused, as NAME--incoming. */
  hasCopy = false;
  readonly plug: PlugQueue;
  readonly lv: LvLower;
  readonly time: ModelTime;
  readonly weather: Weather;

  constructor(
    name: string,
    time: ModelTime,
    weather: Weather,
    journalBytes: number,
    leave: (host: Host, packet: Packet) => void,
  ) {
    this.name = name;
    this.time = time;
    this.weather = weather;
    this.owner = new Owner(name);
    this.journalDisk = new ModelDisk(journalBytes);
    this.lvs = Array.from({ length: VOLUMES }, (_, volume) => new ModelDisk(volumeBytes(volume)));
    this.lv = new LvLower(this);
    this.plug = new PlugQueue(this, (packet) => leave(this, packet));
  }

  nowMs(): number {
    return this.startedMs + this.time.nowMs * this.clockRate;
  }

  /** May be set to another time at any moment. */
  wallClockMs(): number {
    return Math.round(this.wallMs + this.time.nowMs * this.clockRate);
  }

  /** A process that wrote to its disks is gone. */
  processKilled(): void {
    this.journalDisk.killed(this.time);
    for (const disk of this.lvs) disk.killed(this.time);
  }

  /** What is lost with the power; DRBD and connections are the world's. */
  powerCut(): void {
    this.isUp = false;
    this.owner.die('power-cut');
    this.guest = null;
    this.ended = null;
    this.hasCopy = false;
    this.plug.drop();
    this.lv.powerCut();
    this.journalDisk.powerCut(this.time);
    for (const disk of this.lvs) disk.powerCut(this.time);
  }

  powerOn(): void {
    this.owner = new Owner(this.name);
    this.isUp = true;
    this.isBooting = true;
  }
}

/** The plain logical volumes. What they answered is durable. */
export class LvLower implements Lower {
  readonly #host: Host;
  #underWay = new Set<{ block: Block; bytes: Buffer }>();

  constructor(host: Host) {
    this.#host = host;
  }

  #disk({ volume }: Block): ModelDisk {
    return this.#host.lvs[volume] as ModelDisk;
  }

  write(block: Block, bytes: Buffer, done: (isGood: boolean) => void): void {
    const { time, owner } = this.#host;
    const each = { block, bytes };
    this.#underWay.add(each);
    time.later(
      time.random.between(
        0.1,
        time.random.chance(block.volume === BARRIER ? this.#host.weather.slowMarker : 0.05) ? 40 : 2,
      ),
      owner,
      () => {
        this.#underWay.delete(each);
        this.#disk(block).writeThrough(offsetOf(block), bytes);
        done(true);
      },
    );
  }

  read(block: Block, done: (bytes: Buffer) => void): void {
    done(Buffer.from(this.#disk(block).view(offsetOf(block), sectorsOf(block) * SECTOR_BYTES)));
  }

  peek(block: Block): Buffer {
    return this.#disk(block).view(offsetOf(block), sectorsOf(block) * SECTOR_BYTES);
  }

  flush(done: (isGood: boolean) => void): void {
    this.#host.time.later(0.2, this.#host.owner, () => done(true));
  }

  powerCut(): void {
    for (const { block, bytes } of this.#underWay) {
      if (this.#host.time.random.chance(0.5)) this.#disk(block).writeThrough(offsetOf(block), bytes);
    }
    this.#underWay.clear();
  }
}

/** The epoch journal through its NBD server. When its process dies, requests hang. */
export class JournalLower implements Lower {
  readonly #journal: EpochJournal;
  readonly #owner: Owner;
  readonly #time: ModelTime;
  readonly #onWritten: (block: Block, bytes: Buffer) => void;

  /** @param onWritten as the journal takes each write, in its order */
  constructor(
    journal: EpochJournal,
    owner: Owner,
    time: ModelTime,
    onWritten: (block: Block, bytes: Buffer) => void,
  ) {
    this.#journal = journal;
    this.#owner = owner;
    this.#time = time;
    this.#onWritten = onWritten;
  }

  write(block: Block, bytes: Buffer, done: (isGood: boolean) => void): void {
    this.#time.later(0.05, this.#owner, () => {
      this.#time.hasPromises = true;
      this.#journal.submit({
        op: DescriptorOp.write,
        volume: block.volume,
        sector: block.cell,
        sectors: sectorsOf(block),
        data: bytes,
        sink: {
          written: (_request, errno) => {
            if (errno === null) this.#onWritten(block, bytes);
            this.#time.later(0.01, this.#owner, () => done(errno === null));
          },
        },
      });
      this.#journal.kick();
    });
  }

  read(block: Block, done: (bytes: Buffer) => void): void {
    this.#time.later(0.05, this.#owner, () => {
      const sectors = sectorsOf(block);
      const into = Buffer.alloc(sectors * SECTOR_BYTES);
      if (this.#journal.readNow(block.volume, block.cell, sectors, into)) {
        done(into);
        return;
      }
      this.#time.hasPromises = true;
      this.#journal.read(block.volume, block.cell, sectors, into).then(
        () => this.#owner.alive && done(into),
        () => undefined,
      );
    });
  }

  peek(block: Block): Buffer {
    const sectors = sectorsOf(block);
    const into = Buffer.alloc(sectors * SECTOR_BYTES);
    while (!this.#journal.readNow(block.volume, block.cell, sectors, into));
    return into;
  }

  flush(done: (isGood: boolean) => void): void {
    this.#time.later(0.05, this.#owner, () => {
      this.#time.hasPromises = true;
      this.#journal.requestFlush((error) => {
        this.#time.later(0.01, this.#owner, () => done(error === null));
      });
    });
  }
}
