/** How a connection was lost, told apart, because what may be concluded from each is different. */
import { LinkError } from '../core/link/errors.js';

/**
 * - `closed`: the peer's host ended the connection in order (FIN). Its kernel is alive; its process has closed, or
 *   was killed.
 * - `reset`: the peer's host refused the connection's bytes (RST). Its kernel is alive; there is no such process
 *   any more, or it never read what it was sent.
 * - `timeout`: silence, or no way there. Nothing is known of the peer.
 * - `protocol`: the peer sent what it must not, and this side has closed.
 *
 * Over ssh, a `reset` comes as `closed`, and so does the end of the ssh process itself.
 */
export type LossKind = 'closed' | 'reset' | 'timeout' | 'protocol';

export interface Loss {
  kind: LossKind;
  reason: string;
}

const RESET = new Set(['ECONNRESET', 'ECONNREFUSED', 'EPIPE', 'ECONNABORTED', 'ERR_STREAM_DESTROYED']);
const SILENT = new Set(['ETIMEDOUT', 'EHOSTUNREACH', 'ENETUNREACH', 'EHOSTDOWN', 'ENETDOWN', 'ENONET']);

/** The kind of loss that a socket's error stands for. */
export function lossOf(error: Error): Loss {
  const code = (error as NodeJS.ErrnoException).code ?? '';
  if (error instanceof LinkError) return { kind: 'protocol', reason: error.message };
  if (RESET.has(code)) return { kind: 'reset', reason: error.message };
  if (SILENT.has(code)) return { kind: 'timeout', reason: error.message };
  // What is left is TLS: a record that doesn't authenticate, an alert.
  return { kind: 'protocol', reason: error.message };
}
