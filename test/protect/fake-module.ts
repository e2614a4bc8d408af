/**
 * A fake of the DRBD module with protocol D on both hosts, after its source: counts as `/proc/drbd` shows them, the
 * two ioctls, and what `drbdadm` does with them. There is no DRBD behind it. Sizes are in KiB, as there.
 */
import { EventEmitter } from 'node:events';
import type { DeviceMessage, DeviceWorker, IoctlRequest } from '../../src/engine/protocol-d/device.js';
import type { ExecResult } from '../../src/journal/switch.js';

export const MINOR = 1;

interface Side {
  role: 'Primary' | 'Secondary';
  connection: 'Connected' | 'WFConnection' | 'StandAlone';
  /** Received, written, next checkpoint. */
  nr: number;
  dw: number;
  chkpt: number;
  /** Sizes of the writes that are held back. */
  held: number[];
}

function newSide(role: Side['role']): Side {
  return { role, connection: 'Connected', nr: 0, dw: 0, chkpt: 1, held: [] };
}

export class FakeModule {
  readonly primary = newSide('Primary');
  readonly backup = newSide('Secondary');
  /** What each host's disk holds: the number of the last write. */
  readonly disks = { primary: 0, backup: 0 };
  /** Commands, as `primary drbdadm secondary web`. */
  readonly ran: string[] = [];
  /** A backup that never holds anything back. */
  writesThrough = false;
  /** The primary's power is cut at this point of the next barrier. */
  cutAt: 'before-barrier' | 'after-barrier' | null = null;
  onCut: () => void = () => undefined;
  #heldWrites: number[] = [];
  #writes = 0;
  #sinceBarrier = 0;
  /** Writes that the backup has dropped and the primary has marked. */
  #outOfSync = false;

  /** The guest writes. @returns the number of the write */
  write(kib: number): number {
    const write = ++this.#writes;
    this.disks.primary = write;
    this.primary.dw += kib;
    this.#sinceBarrier += 1;
    if (this.primary.connection !== 'Connected') {
      this.#outOfSync = true;
      return write;
    }
    this.backup.nr += kib;
    if (this.backup.role === 'Primary' && !this.writesThrough) {
      this.backup.held.push(kib);
      this.#heldWrites.push(write);
    } else {
      this.backup.dw += kib;
      this.disks.backup = write;
    }
    return write;
  }

  /** The primary is gone for good. */
  cut(): void {
    this.primary.connection = 'StandAlone';
    this.#drop('WFConnection');
    this.onCut();
  }

  proc(side: 'primary' | 'backup'): string {
    const { role, connection, nr, dw, chkpt, held } = this[side];
    const peer = this[side === 'primary' ? 'backup' : 'primary'];
    const [peerRole, peerDisk] =
      connection === 'Connected' ? [peer.role, 'UpToDate'] : ['Unknown', 'DUnknown'];
    return [
      'version: 8.3.11 (api:88/proto:86-96)',
      'GIT-hash: 0000000000000000000000000000000000000000 build by fake@fake, 2014-09-03 13:57:52',
      '',
      ` ${MINOR}: cs:${connection} ro:${role}/${peerRole} ds:UpToDate/${peerDisk} D r-----`,
      `    ns:0 nr:${nr} dw:${dw} dr:0 al:0 bm:0 lo:${held.length} pe:0 ua:0 ap:0 ep:1 wo:f def:${held.length} chkpt:${chkpt} oos:0`,
      '',
    ].join('\n');
  }

  /** `drbdadm` on the backup. */
  readonly drbdadm = (argv: readonly string[]): Promise<ExecResult> => {
    this.ran.push(argv.join(' '));
    const verb = argv.find((word) => ['primary', 'secondary', 'disconnect', 'connect'].includes(word));
    if (verb === 'primary') this.backup.role = 'Primary';
    if (verb === 'secondary') this.backup.role = 'Secondary';
    if (verb === 'disconnect') {
      if (this.primary.connection === 'Connected') this.primary.connection = 'WFConnection';
      this.#drop('StandAlone');
    }
    if (verb === 'connect') {
      for (const side of [this.primary, this.backup])
        Object.assign(side, { connection: 'Connected', chkpt: 1 });
      if (this.#outOfSync) this.disks.backup = this.disks.primary;
      this.#outOfSync = false;
    }
    return Promise.resolve({ code: verb === undefined ? 1 : 0, stdout: '', stderr: '' });
  };

  ioctl(request: number): { result: number; errno: number } | 'never' {
    if (this.primary.connection !== 'Connected') return { result: -1, errno: 71 };
    if (request === 30) {
      this.primary.chkpt += 1;
      return { result: 0, errno: 0 };
    }
    if (this.cutAt === 'before-barrier') {
      this.cut();
      return 'never';
    }
    if (this.#sinceBarrier === 0) return { result: 1, errno: 0 };
    this.#sinceBarrier = 0;
    this.backup.chkpt += 1;
    this.backup.dw += this.backup.held.reduce((sum, kib) => sum + kib, 0);
    this.backup.held = [];
    this.disks.backup = this.#heldWrites.at(-1) ?? this.disks.backup;
    this.#heldWrites = [];
    if (this.cutAt === 'after-barrier') {
      this.cut();
      return 'never';
    }
    return { result: 0, errno: 0 };
  }

  /** What it holds back when its connection goes is dropped. */
  #drop(connection: Side['connection']): void {
    if (this.backup.held.length > 0) this.#outOfSync = true;
    this.#heldWrites = [];
    Object.assign(this.backup, { connection, held: [], chkpt: 0 });
  }
}

/** The thread that would ask the primary's DRBD device. */
export class FakeModuleWorker extends EventEmitter implements DeviceWorker {
  readonly #module: FakeModule;

  constructor(module: FakeModule) {
    super();
    this.#module = module;
    queueMicrotask(() => this.emit('message', { kind: 'open' } satisfies DeviceMessage));
  }

  postMessage({ id, request }: IoctlRequest): void {
    const answer = this.#module.ioctl(request);
    if (answer === 'never') return;
    const message: DeviceMessage = { kind: 'result', id, ...answer };
    queueMicrotask(() => this.emit('message', message));
  }

  terminate(): Promise<number> {
    return Promise.resolve(0);
  }
}
