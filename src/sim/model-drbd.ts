/**
 * DRBD between the two hosts, as far as guarantees rest on it: protocol A, one connection for all volumes, write
 * ordering, the bitmap of what is out of sync, the activity log, roles, and the resync. Volumes 0 and 1 have the
 * guest's data in sectors, volume 2 is the barrier volume with the marker in its first 4 KiB.
 *
 *     primary: write -> below (a while) -> completed to whoever wrote; at once on the connection, in order
 *     secondary: writes of one write-ordering epoch go below in any order, those of the next one when all are there
 */
import { SECTOR_BYTES } from '../core/journal/types.js';
import type { RunningResource } from '../core/facts.js';
import type { Host } from './host.js';
import type { ModelConnection, ModelNetwork } from './model-network.js';
import type { ModelTime } from './model-time.js';
import type { Weather } from './world.js';

export const DATA_VOLUMES = 2;
export const BARRIER = 2;
export const VOLUMES = DATA_VOLUMES + 1;
/** Sectors of each data volume. */
export const CELLS = 24;
const MARKER_SECTORS = 8;
/** Blocks that the activity log keeps beyond those with requests under way. */
const ACTIVITY_LOG = 3;

/** One block: a sector of a data volume, or the marker's place. */
export interface Block {
  volume: number;
  cell: number;
}

export const sectorsOf = ({ volume }: Block): number => (volume === BARRIER ? MARKER_SECTORS : 1);
export const offsetOf = ({ cell }: Block): number => cell * SECTOR_BYTES;
const keyOf = ({ volume, cell }: Block): number => volume * 1000 + cell;
const blockOf = (key: number): Block => ({ volume: Math.floor(key / 1000), cell: key % 1000 });

/** What DRBD has below it on one host. A request to something that has died is never answered. */
export interface Lower {
  write(block: Block, bytes: Buffer, done: (isGood: boolean) => void): void;
  read(block: Block, done: (bytes: Buffer) => void): void;
  flush(done: (isGood: boolean) => void): void;
  /** What a reader would see, at once: for checks. */
  peek(block: Block): Buffer;
}

type Message =
  | { kind: 'write'; block: Block; bytes: Buffer }
  | { kind: 'barrier'; epoch: number }
  | { kind: 'barrier-ack'; epoch: number }
  | { kind: 'resync'; block: Block; bytes: Buffer }
  | { kind: 'resync-ack'; block: Block }
  | { kind: 'resync-done' }
  | { kind: 'in-sync' };

interface Request {
  block: Block;
  epoch: number;
  /** Given to what is below. */
  isBelow: boolean;
  isHere: boolean;
  isRemote: boolean;
  again?: () => void;
}

export type DiskState = 'UpToDate' | 'Inconsistent' | 'Diskless';

export class DrbdSide {
  readonly host: Host;
  isUp = false;
  isPrimary = false;
  disk: DiskState = 'UpToDate';
  standAlone = false;
  /** It was primary without its peer, and may have written. */
  wroteAlone = false;
  /** It was primary when its host died. */
  wasPrimary = false;
  outOfSync = new Set<number>();
  lower: Lower | null = null;
  /** Its devices are being exchanged: nothing goes below. */
  isFrozen = false;
  isConnected = false;
  /** Being resynchronised, or the source of it. */
  isSyncing = false;
  /** Writes of the peer that are below and not answered. */
  below = 0;
  isBusy = false;
  inbox: Message[] = [];
  requests: Request[] = [];
  epoch = 1;
  hot: number[] = [];
  /** The handler `before-resync-target` refuses: a protected session is open here. */
  hasSession = false;
  watchers = new Set<() => void>();
  waitingForBelow: (() => void)[] = [];

  constructor(host: Host) {
    this.host = host;
  }
}

export class ModelDrbd {
  readonly sides: readonly [DrbdSide, DrbdSide];
  readonly #time: ModelTime;
  readonly #network: ModelNetwork;
  readonly #weather: Weather;
  /** For a fault put in: the handler is not there. */
  admitsResync = false;
  #connection: ModelConnection<Message> | null = null;
  #isConnecting = false;

  constructor(time: ModelTime, network: ModelNetwork, hosts: readonly [Host, Host], weather: Weather) {
    this.#weather = weather;
    this.#time = time;
    this.#network = network;
    this.sides = [new DrbdSide(hosts[0]), new DrbdSide(hosts[1])];
    network.onChange(() => this.#pathChanged());
  }

  of(host: Host): DrbdSide {
    return this.sides[this.sides[0].host === host ? 0 : 1];
  }

  peerOf(side: DrbdSide): DrbdSide {
    return this.sides[this.sides[0] === side ? 1 : 0];
  }

  // --- administration

  bringUp(side: DrbdSide, lower: Lower): void {
    side.isUp = true;
    side.lower = lower;
    side.isPrimary = false;
    side.below = 0;
    side.isBusy = false;
    if (side.disk === 'Diskless') side.disk = 'UpToDate';
    this.#changed();
    this.#connectSoon();
  }

  /** Comes up without looking for its peer. */
  standAlone(side: DrbdSide): void {
    side.standAlone = true;
    this.#drop(side);
  }

  /** The host is gone, and with it what was only in its memory. */
  powerCut(side: DrbdSide): void {
    if (side.isPrimary) {
      side.wasPrimary = true;
      for (const key of this.#activityLog(side)) side.outOfSync.add(key);
    }
    for (const { isRemote, block } of side.requests) if (isRemote) side.outOfSync.add(keyOf(block));
    Object.assign(side, {
      isUp: false,
      isPrimary: false,
      standAlone: false,
      lower: null,
      isFrozen: false,
      isConnected: false,
      isSyncing: false,
      below: 0,
      isBusy: false,
      inbox: [],
      requests: [],
      hot: [],
      hasSession: false,
      waitingForBelow: [],
    });
    const peer = this.peerOf(side);
    if (peer.isConnected) {
      this.#time.later(this.#time.random.between(300, 1500), peer.host.owner, () => {
        if (peer.isConnected && !side.isConnected) this.#drop(peer);
      });
    }
  }

  /** @returns why not, or null when it is done */
  promote(side: DrbdSide): string | null {
    if (!side.isUp || side.lower === null) return 'no such resource';
    if (side.isPrimary) return null;
    if (side.disk !== 'UpToDate') return `State change failed: need access to UpToDate data (${side.disk})`;
    const peer = this.peerOf(side);
    if (side.isConnected && peer.isPrimary) return 'State change failed: multiple primaries not allowed';
    side.isPrimary = true;
    if (!side.isConnected) side.wroteAlone = true;
    this.#changed();
    return null;
  }

  demote(side: DrbdSide): void {
    side.isPrimary = false;
    this.#changed();
  }

  /** Done when nothing of the peer is under way below any more. */
  disconnect(side: DrbdSide, done: () => void): void {
    side.standAlone = true;
    this.#drop(side);
    const wait = (): void => {
      if (side.below === 0 && !side.isBusy) done();
      else side.waitingForBelow.push(wait);
    };
    wait();
  }

  /** @param discards its own writes go where both had written */
  connect(side: DrbdSide, discards: boolean): void {
    side.standAlone = false;
    if (discards) {
      side.wroteAlone = false;
      side.wasPrimary = false;
    }
    this.#changed();
    this.#connectSoon();
  }

  /** Nothing here counts any more: all of it comes from the peer. */
  invalidate(side: DrbdSide): void {
    side.disk = 'Inconsistent';
    side.standAlone = false;
    side.wroteAlone = false;
    side.wasPrimary = false;
    for (let volume = 0; volume < DATA_VOLUMES; volume++) {
      for (let cell = 0; cell < CELLS; cell++) side.outOfSync.add(keyOf({ volume, cell }));
    }
    this.interrupt();
    this.#connectSoon();
  }

  /** Holds what would go below; calls back when nothing is under way there. */
  freeze(side: DrbdSide, done: () => void): void {
    side.isFrozen = true;
    const wait = (): void => {
      const isQuiet = side.requests.every(({ isBelow, isHere }) => isHere || !isBelow);
      if (side.below === 0 && !side.isBusy && isQuiet) done();
      else this.#time.later(1, side.host.owner, wait);
    };
    wait();
  }

  /** Exchanges what is below, with nothing under way. */
  exchange(side: DrbdSide, lower: Lower, done: () => void): void {
    this.freeze(side, () => {
      side.lower = lower;
      side.isFrozen = false;
      done();
      this.#pump(side);
    });
  }

  /** Nothing is under way anywhere. */
  isIdle(): boolean {
    return this.sides.every(
      (side) => side.requests.length === 0 && side.inbox.length === 0 && side.below === 0 && !side.isBusy,
    );
  }

  /** What is below has died: its requests fail, DRBD drops its disk and gets it again. */
  replaceDead(side: DrbdSide, lower: Lower): void {
    this.#drop(side);
    if (side.host.files.discarded.length === 0) side.standAlone = false;
    side.below = 0;
    side.isBusy = false;
    side.isFrozen = false;
    side.inbox = [];
    side.lower = lower;
    // Those of this host itself go to the new one.
    for (const { isHere, again } of [...side.requests]) if (!isHere) again?.();
    for (const each of side.waitingForBelow.splice(0)) each();
    this.#changed();
    this.#connectSoon();
  }

  /** In DRBD's words, null when every write of the primary reaches the peer's disks. */
  fault(side: DrbdSide): string | null {
    const peer = this.peerOf(side);
    if (!side.isUp) return 'there is no such resource';
    if (!side.isConnected) return side.standAlone ? 'StandAlone' : 'Connecting';
    if (side.disk !== 'UpToDate') return `volume 0 is ${side.disk} here`;
    if (peer.disk !== 'UpToDate') return `volume 0 is ${peer.disk} on the peer`;
    if (side.isSyncing) return 'volume 0 is SyncSource';
    return null;
  }

  resource(side: DrbdSide): RunningResource | undefined {
    if (!side.isUp) return undefined;
    const peer = this.peerOf(side);
    const connection = side.isConnected ? 'Connected' : side.standAlone ? 'StandAlone' : 'Connecting';
    const volumes: RunningResource['volumes'] = {};
    const peers: RunningResource['connections'][number]['volumes'] = {};
    for (let volume = 0; volume < VOLUMES; volume++) {
      const keys = [...side.outOfSync].filter((key) => blockOf(key).volume === volume);
      volumes[volume] = { disk: side.disk } as never;
      peers[volume] = {
        replication: side.isConnected ? (side.isSyncing ? 'SyncSource' : 'Established') : 'Off',
        peerDisk: side.isConnected ? peer.disk : 'DUnknown',
        outOfSyncBytes: keys.length * SECTOR_BYTES,
      } as never;
    }
    return {
      name: 'model',
      role: side.isPrimary ? 'Primary' : 'Secondary',
      suspended: 'no',
      volumes,
      connections: [
        { connection, peerRole: peer.isPrimary ? 'Primary' : 'Secondary', volumes: peers } as never,
      ],
    };
  }

  // --- writes

  write(side: DrbdSide, block: Block, bytes: Buffer, done: (isGood: boolean) => void): void {
    if (!side.isUp || !side.isPrimary || side.lower === null) return done(false);
    const { lower } = side;
    const key = keyOf(block);
    const request: Request = {
      block,
      epoch: side.epoch,
      isBelow: false,
      isHere: false,
      isRemote: side.isConnected,
    };
    side.requests.push(request);
    side.hot = [key, ...side.hot.filter((each) => each !== key)].slice(0, ACTIVITY_LOG);
    if (side.isConnected) this.#send(side, { kind: 'write', block, bytes });
    else {
      side.wroteAlone = true;
      side.outOfSync.add(key);
    }
    const completed = (isGood: boolean): void => {
      request.isHere = true;
      // The first completion closes the write-ordering epoch: what is issued from now on comes after it.
      if (request.epoch === side.epoch) {
        if (side.isConnected) this.#send(side, { kind: 'barrier', epoch: side.epoch });
        side.epoch++;
      }
      this.#forget(side);
      done(isGood);
    };
    const start = (): void => {
      if (side.isFrozen) {
        this.#time.later(1, side.host.owner, start);
        return;
      }
      request.isBelow = true;
      const below = side.lower ?? lower;
      request.again = () => below !== side.lower && start();
      below.write(block, bytes, completed);
    };
    start();
  }

  /** As a reader on this host sees it. */
  read(side: DrbdSide, block: Block, done: (bytes: Buffer) => void): void {
    side.lower?.read(block, done);
  }

  #forget(side: DrbdSide): void {
    side.requests = side.requests.filter(({ isHere, isRemote }) => !isHere || isRemote);
  }

  #activityLog(side: DrbdSide): number[] {
    return [...side.hot, ...side.requests.map(({ block }) => keyOf(block))];
  }

  // --- connection

  #send(side: DrbdSide, message: Message): void {
    this.#connection?.send(this.sides[0] === side ? 0 : 1, message);
  }

  #changed(): void {
    for (const side of this.sides) for (const watch of side.watchers) watch();
  }

  /** The connection is lost for a moment, and comes back by itself. */
  interrupt(): void {
    for (const side of this.sides) this.#drop(side);
  }

  #pathChanged(): void {
    const [one, other] = this.sides;
    const isWhole = (): boolean =>
      this.#network.isUp(one.host.name, other.host.name) &&
      this.#network.isUp(other.host.name, one.host.name);
    if (isWhole()) {
      this.#connectSoon();
      return;
    }
    for (const side of this.sides) {
      const connection = this.#connection;
      this.#time.later(this.#time.random.between(200, 1500), side.host.owner, () => {
        if (!isWhole() && side.isConnected && this.#connection === connection) this.#drop(side);
      });
    }
  }

  #drop(side: DrbdSide): void {
    if (!side.isConnected) return;
    side.isConnected = false;
    side.isSyncing = false;
    side.inbox = [];
    for (const request of side.requests) {
      if (!request.isRemote) continue;
      request.isRemote = false;
      side.outOfSync.add(keyOf(request.block));
      if (side.isPrimary) side.wroteAlone = true;
    }
    this.#forget(side);
    this.#connection?.close(this.sides[0] === side ? 0 : 1);
    if (!this.sides[0].isConnected && !this.sides[1].isConnected) this.#connection = null;
    this.#changed();
    this.#connectSoon();
  }

  #connectSoon(): void {
    if (this.#isConnecting) return;
    this.#isConnecting = true;
    this.#time.later(this.#time.random.between(100, 2500), null, () => {
      this.#isConnecting = false;
      this.#tryConnect();
    });
  }

  #tryConnect(): void {
    const [one, other] = this.sides;
    if (this.sides.some((side) => side.isConnected || !side.isUp || side.standAlone)) return;
    if (
      !this.#network.isUp(one.host.name, other.host.name) ||
      !this.#network.isUp(other.host.name, one.host.name)
    )
      return;
    if (this.sides.some((side) => side.below > 0 || side.isBusy || side.lower === null)) {
      this.#connectSoon();
      return;
    }
    const source = this.#chooseSource();
    if (source === 'split' || (source !== null && this.peerOf(source).hasSession && !this.admitsResync)) {
      one.standAlone = true;
      other.standAlone = true;
      this.#changed();
      return;
    }
    const end = (side: DrbdSide): Parameters<ModelNetwork['connect']>[0] => ({
      host: side.host,
      owner: side.host.owner,
      onMessage: (message) => {
        if (this.#connection !== connection || !side.isConnected) return;
        side.inbox.push(message as Message);
        this.#pump(side);
      },
      onLost: () => {
        if (this.#connection === connection) this.#drop(side);
      },
    });
    const connection = this.#network.connect<Message>(end(one), end(other));
    this.#connection = connection;
    for (const side of this.sides) {
      side.isConnected = true;
      side.inbox = [];
    }
    if (source === null) this.#inSync();
    else this.#startSync(source);
    this.#changed();
  }

  #chooseSource(): DrbdSide | 'split' | null {
    const [one, other] = this.sides;
    if (one.isPrimary && other.isPrimary) return 'split';
    const hasNews = (side: DrbdSide): boolean => side.wroteAlone;
    let source: DrbdSide | null = null;
    if (one.disk !== other.disk) source = one.disk === 'UpToDate' ? one : other;
    else if (hasNews(one) !== hasNews(other)) source = hasNews(one) ? one : other;
    else if (hasNews(one) && hasNews(other)) return 'split';
    else if (one.wasPrimary !== other.wasPrimary) source = one.wasPrimary ? one : other;
    else if (one.outOfSync.size + other.outOfSync.size > 0) {
      source = one.isPrimary ? one : other.isPrimary ? other : one.outOfSync.size > 0 ? one : other;
    }
    if (source !== null && this.peerOf(source).isPrimary) return 'split';
    return source;
  }

  #inSync(): void {
    for (const side of this.sides) {
      side.wroteAlone = false;
      side.wasPrimary = false;
      side.isSyncing = false;
    }
  }

  #startSync(source: DrbdSide): void {
    const target = this.peerOf(source);
    for (const key of target.outOfSync) source.outOfSync.add(key);
    for (const key of source.outOfSync) target.outOfSync.add(key);
    source.isSyncing = true;
    target.isSyncing = true;
    target.disk = 'Inconsistent';
    this.#syncNext(source);
  }

  #syncNext(source: DrbdSide): void {
    const connection = this.#connection;
    const { random } = this.#time;
    this.#time.later(random.between(0.5, 8), source.host.owner, () => {
      if (this.#connection !== connection || !source.isConnected || !source.isSyncing) return;
      const keys = [...source.outOfSync];
      if (keys.length === 0) {
        this.#send(source, { kind: 'resync-done' });
        return;
      }
      const block = blockOf(random.pick(keys));
      // Never what a write under way is about to change.
      if (source.requests.some((each) => !each.isHere && keyOf(each.block) === keyOf(block))) {
        this.#syncNext(source);
        return;
      }
      source.lower?.read(block, (bytes) => {
        if (this.#connection !== connection || !source.isConnected) return;
        if (source.requests.some((each) => !each.isHere && keyOf(each.block) === keyOf(block))) {
          this.#syncNext(source);
          return;
        }
        this.#send(source, { kind: 'resync', block, bytes });
      });
    });
  }

  /** Handles what came, in order, as far as it may go below now. */
  #pump(side: DrbdSide): void {
    const connection = this.#connection;
    while (side.inbox.length > 0 && !side.isBusy && !side.isFrozen && side.lower !== null) {
      const [message] = side.inbox;
      if (message === undefined) return;
      switch (message.kind) {
        case 'write':
          side.inbox.shift();
          this.#writeBelow(side, message.block, message.bytes);
          break;
        case 'barrier':
          if (side.below > 0) return;
          side.inbox.shift();
          this.#flushBelow(side, () => {
            if (this.#connection === connection)
              this.#send(side, { kind: 'barrier-ack', epoch: message.epoch });
          });
          break;
        case 'barrier-ack':
          side.inbox.shift();
          for (const request of side.requests) if (request.epoch === message.epoch) request.isRemote = false;
          this.#forget(side);
          break;
        case 'resync':
          if (side.below > 0) return;
          side.inbox.shift();
          this.#writeBelow(side, message.block, message.bytes, () => {
            this.#flushBelow(side, () => {
              side.outOfSync.delete(keyOf(message.block));
              if (this.#connection === connection)
                this.#send(side, { kind: 'resync-ack', block: message.block });
            });
          });
          side.isBusy = true;
          break;
        case 'resync-ack':
          side.inbox.shift();
          side.outOfSync.delete(keyOf(message.block));
          this.#syncNext(side);
          break;
        case 'resync-done':
          if (side.below > 0) return;
          side.inbox.shift();
          side.disk = 'UpToDate';
          side.outOfSync.clear();
          side.isSyncing = false;
          side.wroteAlone = false;
          side.wasPrimary = false;
          this.#send(side, { kind: 'in-sync' });
          this.#changed();
          break;
        case 'in-sync':
          side.inbox.shift();
          this.#inSync();
          this.#changed();
          break;
        default:
          throw new Error(`message ${String(message satisfies never)}`);
      }
    }
  }

  #writeBelow(side: DrbdSide, block: Block, bytes: Buffer, then?: () => void): void {
    const { lower } = side;
    side.below++;
    this.#time.later(
      this.#time.random.between(0, this.#time.random.chance(this.#weather.overtaken) ? 20 : 1),
      side.host.owner,
      () => {
        lower?.write(block, bytes, (isGood) => {
          if (side.lower !== lower || side.below === 0) return;
          side.below--;
          if (!isGood) {
            this.#failed(side);
            return;
          }
          if (then !== undefined) {
            side.isBusy = false;
            then();
          }
          this.#settle(side);
        });
      },
    );
  }

  #flushBelow(side: DrbdSide, then: () => void): void {
    const { lower } = side;
    side.isBusy = true;
    lower?.flush((isGood) => {
      if (side.lower !== lower || !side.isBusy) return;
      side.isBusy = false;
      if (isGood) then();
      else this.#failed(side);
      this.#settle(side);
    });
  }

  #settle(side: DrbdSide): void {
    for (const each of side.waitingForBelow.splice(0)) each();
    this.#pump(side);
  }

  /** The disk gave an error: DRBD drops it, and the peer notes what it has not got. */
  #failed(side: DrbdSide): void {
    side.isBusy = false;
    side.below = 0;
    side.standAlone = true;
    this.#drop(side);
    for (const each of side.waitingForBelow.splice(0)) each();
  }
}
