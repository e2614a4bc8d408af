/**
 * What the epoch journal needs from outside, and the words it reports in.
 *
 * The journal never opens a file itself: it is given disks. The edges (src/journal/file-disk.ts) put files and
 * block devices behind this interface; the properties and the simulator put modelled disks behind it that
 * reorder, lose and tear whatever was not flushed.
 */

/** The unit of every position and length on disk. */
export const SECTOR_BYTES = 512;

/** The unit of the index, and of what a physical disk may rewrite as one. */
export const BLOCK_BYTES = 4096;

/** Most volumes of one domain, the barrier volume included (DRBD volumes 0..15 of this project). */
export const VOLUMES_MAX = 16;

/**
 * A disk with a volatile write cache: what was written is safe only after the next flush. Of what was not flushed a
 * crash leaves any whole sectors. Half a sector it may leave on the journal, whose checksums find it, but on no
 * target: what is drained outside of a session need not be durable in the journal, so nothing would mend it.
 */
export interface Disk {
  readonly sizeBytes: number;
  /** The smallest unit it reads or writes: 512, or 4096 for a disk with 4 KiB logical blocks. */
  readonly blockBytes: number;
  /** Fills `into` from `offsetBytes`. Rejects with the errno in `code`, also when the disk ends before. */
  read(into: Uint8Array, offsetBytes: number): Promise<void>;
  /** The same at once, if that can be done without waiting; false, with `into` in any state, if not. */
  tryRead(into: Uint8Array, offsetBytes: number): boolean;
  /**
   * Writes the pieces one after the other from `offsetBytes`.
   * @returns undefined when it is done already, or a promise; rejects (never throws) with the errno in `code`.
   *   Until then the pieces may not change.
   */
  write(pieces: readonly Uint8Array[], offsetBytes: number): Promise<void> | undefined;
  /** Makes the range read as zeros. */
  zero(offsetBytes: number, lengthBytes: number): Promise<void>;
  /** Resolves when everything that was written before the call is durable. */
  flush(): Promise<void>;
  close(): Promise<void>;
}

/** One disk of the domain as the journal knows it. */
export interface VolumeSpec {
  /** Also the name of its NBD export. */
  name: string;
  sizeBytes: number;
  /** Whether the markers arrive on this volume. */
  barrier: boolean;
}

/** A range of one volume, in multiples of a sector. */
export interface VolumeRange {
  volume: string;
  offsetBytes: number;
  lengthBytes: number;
}

/**
 * How writes are treated.
 * - `through`: every write is committed as soon as it is journaled. Before a session and after its end.
 * - `epochs`: writes wait for the commit of their epoch.
 */
export type JournalMode = 'through' | 'epochs';

/** How a session ended: rolled forward, or back to its last commit. */
export type SessionEnd = 'none' | 'forward' | 'back';

/** Identifies one period of protection; a marker of any other is an ordinary write. */
export interface Session {
  domain: string;
  term: number;
  /** 16 random bytes. */
  id: Uint8Array;
}

export type JournalErrorCode =
  /** No journal, or one of another version, size or layout. */
  | 'not-a-journal'
  /** Data that had been reported durable is unreadable or altered. */
  | 'corrupt'
  /** The journal's volumes are not the ones it was opened with. */
  | 'volumes-differ'
  /** The call does not fit the mode: no session, a session already, or decided otherwise before. */
  | 'wrong-mode'
  /** The epoch has not been closed by its marker. */
  | 'epoch-not-closed'
  /** The epoch is at or below the last commit. */
  | 'epoch-already-committed'
  /** Blocks dropped by an earlier discard have not been reported as marked. */
  | 'discard-not-marked'
  /** A write or a flush of the journal or of a target failed; nothing more is accepted. */
  | 'failed'
  /** Closed, or being closed. */
  | 'closed'
  /** Wrong argument: a programming error of the caller. */
  | 'invalid';

/** Every error the journal throws by intent. */
export class JournalError extends Error {
  readonly code: JournalErrorCode;

  constructor(code: JournalErrorCode, message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'JournalError';
    this.code = code;
  }
}
