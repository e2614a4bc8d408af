/** The first frame in each direction of a connection, before it is anything else. */
import type { Socket } from 'node:net';
import { ControlDecoder } from '../core/link/control-frames.js';

/** The first frame of a connection that is not made yet. */
export interface FirstFrame {
  json: unknown;
  /** What came behind it. */
  rest: Buffer;
}

/**
 * Reads one frame, and leaves the socket paused.
 * @throws LinkError, the socket's error, or an Error for an end or the deadline; the socket is then destroyed
 */
export async function readFirstFrame(socket: Socket, timeoutMs: number): Promise<FirstFrame> {
  const decoder = new ControlDecoder();
  let undo = (): void => undefined;
  try {
    return await new Promise<FirstFrame>((resolve, reject) => {
      const timer = setTimeout(() => reject(timedOut(timeoutMs)), timeoutMs);
      const onData = (bytes: Buffer): void => {
        try {
          const { used, json } = decoder.read(bytes);
          if (json === undefined) return;
          socket.pause();
          resolve({ json, rest: bytes.subarray(used) });
        } catch (error) {
          reject(error instanceof Error ? error : new Error(String(error)));
        }
      };
      const onEnd = (): void => reject(new Error('the peer has closed the connection without a word'));
      const onClose = (): void => reject(new Error('the connection was closed'));
      undo = () => {
        clearTimeout(timer);
        socket.off('data', onData).off('error', reject).off('end', onEnd).off('close', onClose);
      };
      if (socket.destroyed) onClose();
      socket.on('data', onData).on('error', reject).on('end', onEnd).on('close', onClose);
      socket.resume();
    });
  } catch (error) {
    socket.destroy();
    throw error;
  } finally {
    undo();
  }
}

function timedOut(timeoutMs: number): Error {
  const error: NodeJS.ErrnoException = new Error(`nothing whole was heard within ${timeoutMs} ms`);
  error.code = 'ETIMEDOUT';
  return error;
}
