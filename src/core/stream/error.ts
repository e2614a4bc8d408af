/** What is wrong with a migration stream, and where. Bytes of a stream are untrusted; this is all they can cause. */

export type StreamErrorCode =
  /** Not what the format says at this place: a magic, a marker, an id, a byte order mark. */
  | 'bad-magic'
  /** A version of one of the formats that is not known. */
  | 'bad-version'
  | 'big-endian'
  /** A stream of Xen 4.5 or older, or one converted from it. */
  | 'legacy'
  /** A flag that must be understood is not. */
  | 'unknown-flag'
  /** The guest is PV. */
  | 'pv-guest'
  | 'bad-domain-header'
  /** A mandatory record that is not known. */
  | 'unknown-record'
  /** A known record that can't be at this place. */
  | 'unexpected-record'
  /** A length that is over the limit, or that this type can't have. */
  | 'bad-length'
  /** The contents of a record are not what its header says. */
  | 'bad-body'
  /** More pages than the guest may have, or more bytes in one checkpoint than there is room for. */
  | 'over-limit'
  /** The stream ended before the first whole checkpoint. */
  | 'truncated'
  /** Bytes behind the end of the stream. */
  | 'after-end';

/** A stream that can't be gone on with. The decoder that threw it must not be used any more. */
export class StreamError extends Error {
  readonly code: StreamErrorCode;
  /** Where the header begins that is wrong, counted in bytes from the start of the stream. */
  readonly offset: number;
  readonly expected: string;
  readonly found: string;

  constructor(code: StreamErrorCode, offset: number, expected: string, found: string) {
    super(`migration stream, byte ${offset}: expected ${expected}, found ${found}`);
    this.name = 'StreamError';
    this.code = code;
    this.offset = offset;
    this.expected = expected;
    this.found = found;
  }
}
