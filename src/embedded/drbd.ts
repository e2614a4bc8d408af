/**
 * An embedded DRBD 8.4: what is in the kernels of two hosts, and the link between them.
 *
 * The rules are DRBD's own, as far as setup can come across them (drbd_receiver.c, drbd_uuid_compare and
 * drbd_sync_handshake): generations decide who has the data; a volume that was just created has none; equal
 * generations need no resync unless one side crashed as primary; anything else that is not one step apart
 * makes both sides StandAlone. A resync moves on each time that somebody looks, so that tests need no clock.
 */
import type { ConnectionState, DiskState, ReplicationState, Role } from '../core/facts.js';
import { JUST_CREATED, NO_UUID, type Lv, type MetaData } from './volumes.js';

export interface KernelVolume {
  volume: number;
  minor: number;
  disk: DiskState;
  data: Lv;
  meta: Lv;
  replication: ReplicationState;
  /** Its meta-data said at attach that this host had been primary until it crashed. */
  crashedPrimary: boolean;
}

export interface KernelResource {
  name: string;
  role: Role;
  connection: ConnectionState;
  volumes: Map<number, KernelVolume>;
  /** Of the configuration that was last adjusted to. */
  config: string;
  port: number;
  address: string;
  peerAddress: string;
  /** A guest has it open. */
  open: boolean;
}

/** A host's kernel, as DRBD is in it. */
export interface DrbdKernel {
  resources: Map<string, KernelResource>;
}

/** A write into an extent that was not active marks all of it: 4 MiB (LAB: "based on AL"). */
const ACTIVITY_LOG_BYTES = 4 * 1024 * 1024;

/** A refusal in DRBD's words, with the exit code of drbdsetup. */
export class DrbdRefusal extends Error {
  readonly exitCode: number;

  constructor(message: string, exitCode = 10) {
    super(message);
    this.exitCode = exitCode;
  }
}

export class EmbeddedDrbd {
  readonly kernels: readonly [DrbdKernel, DrbdKernel] = [{ resources: new Map() }, { resources: new Map() }];
  /** How much of a resync is done each time that somebody looks. */
  syncBytesPerLook = Number.POSITIVE_INFINITY;
  #linkUp = true;
  #generation = 0;

  /** Cuts or restores the replication link. */
  setLink(up: boolean): void {
    this.#linkUp = up;
    if (up) this.#settle();
    else for (const name of this.#names()) this.#disconnect(name);
  }

  get linkUp(): boolean {
    return this.#linkUp;
  }

  /** A host loses its kernel: no goodbye, its meta-data stays as it was last written. */
  crash(kernel: DrbdKernel): void {
    const names = [...kernel.resources.keys()];
    kernel.resources.clear();
    for (const name of names) this.#disconnect(name);
  }

  /** `drbdsetup new-resource`, `attach` and `connect` in one: brings up what is not up yet. */
  adjust(kernel: DrbdKernel, wanted: Omit<KernelResource, 'role' | 'connection' | 'open'>): void {
    for (const { minor, meta } of wanted.volumes.values()) {
      if (meta.metaData !== undefined) continue;
      throw new DrbdRefusal(
        `${minor}: Failure: (119) No valid meta-data signature found.\n\n` +
          `\t==> Use 'drbdadm create-md res' to initialize meta-data area. <==\n`,
      );
    }
    const found = kernel.resources.get(wanted.name);
    const resource: KernelResource = found ?? {
      ...wanted,
      volumes: new Map(),
      role: 'Secondary',
      connection: 'Connecting',
      open: false,
    };
    resource.config = wanted.config;
    kernel.resources.set(wanted.name, resource);
    for (const volume of wanted.volumes.values()) {
      const present = resource.volumes.get(volume.volume);
      if (present !== undefined && present.disk !== 'Diskless') continue;
      const meta = metaOf(volume);
      const attached = { ...volume, disk: diskAtAttach(meta), crashedPrimary: meta.primary };
      meta.primary = false;
      // Nothing is known to be equal on a volume that was just created.
      if (meta.uuids[0] === JUST_CREATED) meta.outOfSyncBytes = volume.data.sizeBytes;
      resource.volumes.set(volume.volume, attached);
      const peer = this.#peerOf(kernel, wanted.name);
      const other = peer?.volumes.get(volume.volume);
      if (resource.connection === 'Connected' && peer !== undefined && other !== undefined) {
        this.#handshake(resource, peer, attached, other);
      }
    }
    if (resource.connection === 'StandAlone') resource.connection = 'Connecting';
    this.#settle();
  }

  primary(kernel: DrbdKernel, name: string, force: boolean): void {
    const resource = this.#resource(kernel, name);
    const peer = this.#connectedPeer(kernel, name);
    if (peer?.role === 'Primary') {
      throw new DrbdRefusal(
        `${firstMinor(resource)}: State change failed: (-1) Multiple primaries not allowed by config\n`,
        11,
      );
    }
    for (const volume of resource.volumes.values()) {
      if (volume.disk === 'UpToDate') continue;
      if (!force) {
        throw new DrbdRefusal(
          `${volume.minor}: State change failed: (-2) Need access to UpToDate data\n`,
          17,
        );
      }
      volume.disk = 'UpToDate';
      const meta = metaOf(volume);
      meta.uuids = [this.#newUuid(), NO_UUID, meta.uuids[0], meta.uuids[2]];
      Object.assign(meta, { consistent: true, wasUpToDate: true });
      const other = peer?.volumes.get(volume.volume);
      if (peer !== undefined && other !== undefined && other.disk !== 'UpToDate') {
        this.#startSync(volume, other, volume.data.sizeBytes);
      }
    }
    resource.role = 'Primary';
    for (const volume of resource.volumes.values()) metaOf(volume).primary = true;
    // A primary without its peer has data of its own from now on.
    if (peer === undefined) this.#newGenerations(resource);
  }

  secondary(kernel: DrbdKernel, name: string): void {
    const resource = this.#resource(kernel, name);
    this.#refuseOpen(resource);
    resource.role = 'Secondary';
    for (const volume of resource.volumes.values()) metaOf(volume).primary = false;
  }

  down(kernel: DrbdKernel, name: string): void {
    const resource = kernel.resources.get(name);
    if (resource === undefined) return;
    this.#refuseOpen(resource);
    if (resource.role === 'Primary') this.secondary(kernel, name);
    kernel.resources.delete(name);
    this.#disconnect(name);
  }

  /** `new-current-uuid --clear-bitmap`: declares two volumes that were just created equal. */
  skipSync(kernel: DrbdKernel, name: string, number: number): void {
    const resource = this.#resource(kernel, name);
    const volume = resource.volumes.get(number);
    const other = this.#connectedPeer(kernel, name)?.volumes.get(number);
    if (volume === undefined) throw new DrbdRefusal(`${name}/${number}: no such volume\n`);
    const fresh = [volume, other].every((one) => one !== undefined && metaOf(one).uuids[0] === JUST_CREATED);
    if (other === undefined || !fresh) {
      throw new DrbdRefusal(
        `${volume.minor}: Failure: (151) Need a connected peer, both with just created meta-data\n`,
      );
    }
    const uuid = this.#newUuid();
    for (const one of [volume, other]) {
      Object.assign(metaOf(one), {
        uuids: [uuid, NO_UUID, NO_UUID, NO_UUID],
        consistent: true,
        wasUpToDate: true,
        outOfSyncBytes: 0,
      });
      one.disk = 'UpToDate';
    }
  }

  /** The guest writes: what is on the primary's disk is new, and on the peer's too while they are in sync. */
  write(kernel: DrbdKernel, name: string, number: number, contentId: string): void {
    const resource = this.#resource(kernel, name);
    const volume = resource.volumes.get(number);
    if (resource.role !== 'Primary' || volume === undefined) throw new Error(`${name} is not primary here`);
    volume.data.content = { id: contentId, signatures: [], firstDataAt: 0 };
    const other = this.#connectedPeer(kernel, name)?.volumes.get(number);
    if (other === undefined) metaOf(volume).outOfSyncBytes += ACTIVITY_LOG_BYTES;
    else if (other.disk === 'UpToDate') other.data.content = volume.data.content;
  }

  /** Lets time pass for every resync. */
  look(): void {
    for (const kernel of this.kernels) {
      for (const resource of kernel.resources.values()) {
        for (const volume of resource.volumes.values()) {
          if (volume.replication !== 'SyncSource') continue;
          const other = this.#connectedPeer(kernel, resource.name)?.volumes.get(volume.volume);
          if (other === undefined) continue;
          const left = Math.max(0, metaOf(volume).outOfSyncBytes - this.syncBytesPerLook);
          metaOf(volume).outOfSyncBytes = left;
          metaOf(other).outOfSyncBytes = left;
          if (left === 0) finishSync(volume, other);
        }
      }
    }
  }

  /** The peer's resource, whether or not it is connected. */
  peerOf(kernel: DrbdKernel, name: string): KernelResource | undefined {
    return this.#connectedPeer(kernel, name);
  }

  #peerOf(kernel: DrbdKernel, name: string): KernelResource | undefined {
    return this.kernels.find((one) => one !== kernel)?.resources.get(name);
  }

  #connectedPeer(kernel: DrbdKernel, name: string): KernelResource | undefined {
    return kernel.resources.get(name)?.connection === 'Connected' ? this.#peerOf(kernel, name) : undefined;
  }

  #names(): string[] {
    return this.kernels.flatMap(({ resources }) => [...resources.keys()]);
  }

  #resource(kernel: DrbdKernel, name: string): KernelResource {
    const resource = kernel.resources.get(name);
    if (resource === undefined) throw new DrbdRefusal(`${name}: Failure: (158) Unknown resource\n`);
    return resource;
  }

  #refuseOpen(resource: KernelResource): void {
    if (!resource.open) return;
    const minor = firstMinor(resource);
    throw new DrbdRefusal(`${minor}: State change failed: (-12) Device is held open by someone\n`, 11);
  }

  #newUuid(): string {
    this.#generation += 1;
    return (0xe3bedded00000000n + BigInt(this.#generation * 2)).toString(16).toUpperCase();
  }

  #newGenerations(resource: KernelResource): void {
    for (const volume of resource.volumes.values()) {
      const meta = metaOf(volume);
      // With a bitmap generation in place, the peer is known to be behind already.
      if (meta.uuids[1] !== NO_UUID) continue;
      meta.uuids = [this.#newUuid(), meta.uuids[0], meta.uuids[2], meta.uuids[3]];
    }
  }

  #disconnect(name: string): void {
    for (const { resources } of this.kernels) {
      const resource = resources.get(name);
      if (resource?.connection !== 'Connected') continue;
      resource.connection = 'Connecting';
      for (const volume of resource.volumes.values()) volume.replication = 'Off';
      if (resource.role === 'Primary') this.#newGenerations(resource);
    }
  }

  #settle(): void {
    if (!this.#linkUp) return;
    for (const [name, resource] of this.kernels[0].resources) {
      const peer = this.kernels[1].resources.get(name);
      if (peer === undefined) continue;
      if (resource.connection !== 'Connecting' || peer.connection !== 'Connecting') continue;
      const addressed = resource.address === peer.peerAddress && peer.address === resource.peerAddress;
      if (!addressed || resource.port !== peer.port) continue;
      resource.connection = 'Connected';
      peer.connection = 'Connected';
      for (const volume of resource.volumes.values()) {
        const other = peer.volumes.get(volume.volume);
        if (other !== undefined) this.#handshake(resource, peer, volume, other);
      }
    }
  }

  #handshake(here: KernelResource, there: KernelResource, volume: KernelVolume, other: KernelVolume): void {
    const verdict = compare(volume, other);
    volume.crashedPrimary = false;
    other.crashedPrimary = false;
    switch (verdict) {
      case 'equal':
        volume.replication = 'Established';
        other.replication = 'Established';
        return;
      case 'source':
        return this.#startSync(volume, other);
      case 'target':
        return this.#startSync(other, volume);
      case 'unrelated':
        for (const resource of [here, there]) {
          resource.connection = 'StandAlone';
          for (const one of resource.volumes.values()) one.replication = 'Off';
        }
    }
  }

  /** @param bytes all that is to be copied; without it, what the bitmap says, or everything to a new volume */
  #startSync(source: KernelVolume, target: KernelVolume, bytes?: number): void {
    const [from, to] = [metaOf(source), metaOf(target)];
    const all =
      to.uuids[0] === JUST_CREATED ? source.data.sizeBytes : Math.max(from.outOfSyncBytes, to.outOfSyncBytes);
    const outOfSyncBytes = bytes ?? Math.max(all, ACTIVITY_LOG_BYTES);
    if (from.uuids[1] === NO_UUID) from.uuids[1] = this.#newUuid();
    to.uuids[0] = from.uuids[1];
    Object.assign(to, { consistent: false, wasUpToDate: false, primary: false, outOfSyncBytes });
    from.outOfSyncBytes = outOfSyncBytes;
    target.disk = 'Inconsistent';
    source.replication = 'SyncSource';
    target.replication = 'SyncTarget';
  }
}

function finishSync(source: KernelVolume, target: KernelVolume): void {
  const [from, to] = [metaOf(source), metaOf(target)];
  from.uuids[1] = NO_UUID;
  to.uuids = [...from.uuids];
  Object.assign(to, { consistent: true, wasUpToDate: true });
  target.disk = 'UpToDate';
  target.data.content = source.data.content;
  source.replication = 'Established';
  target.replication = 'Established';
}

/** What this side is for the other: drbd_uuid_compare, without the rules for histories. */
function compare(own: KernelVolume, peer: KernelVolume): 'equal' | 'source' | 'target' | 'unrelated' {
  const [a, b] = [metaOf(own).uuids, metaOf(peer).uuids];
  const [fresh, peerFresh] = [a[0] === JUST_CREATED, b[0] === JUST_CREATED];
  if (fresh || peerFresh) return fresh && peerFresh ? 'equal' : fresh ? 'target' : 'source';
  if (a[0] === b[0]) {
    if (own.crashedPrimary === peer.crashedPrimary) return 'equal';
    return own.crashedPrimary ? 'source' : 'target';
  }
  const [ahead, behind] = [a[1] === b[0], b[1] === a[0]];
  if (ahead !== behind) return ahead ? 'source' : 'target';
  return 'unrelated';
}

function diskAtAttach(meta: MetaData): DiskState {
  if (!meta.consistent) return 'Inconsistent';
  return meta.wasUpToDate ? 'UpToDate' : 'Outdated';
}

function firstMinor(resource: KernelResource): number {
  return Math.min(...[...resource.volumes.values()].map(({ minor }) => minor));
}

function metaOf(volume: KernelVolume): MetaData {
  if (volume.meta.metaData === undefined) throw new Error(`no meta-data on ${volume.meta.name}`);
  return volume.meta.metaData;
}
