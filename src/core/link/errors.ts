/** What is wrong with bytes or messages from the other end of the link. */

/**
 * - `framing`: a length, type or flag that no sender of this protocol writes; the stream can't be used any more.
 * - `message`: a whole frame that holds no message of this protocol.
 * - `limit`: more than may be held for one connection.
 */
export type LinkErrorCode = 'framing' | 'message' | 'limit';

/** The peer broke the protocol. The connection is closed with it; nothing that came after it is used. */
export class LinkError extends Error {
  readonly code: LinkErrorCode;

  constructor(code: LinkErrorCode, message: string) {
    super(message);
    this.name = 'LinkError';
    this.code = code;
  }
}
