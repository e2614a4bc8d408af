/** What both connections of a link do with their sockets. */
import type { Socket } from 'node:net';

/** After so long without a byte the kernel asks whether the peer is still there. */
const KEEPALIVE_MS = 5_000;

export function tuneSocket(socket: Socket): void {
  socket.setNoDelay(true);
  socket.setKeepAlive(true, KEEPALIVE_MS);
}

/** Sends what waits and a FIN, and waits until the peer has closed too, or `lingerMs` are over. */
export async function closeSocket(socket: Socket, lingerMs: number): Promise<void> {
  if (socket.closed) return;
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()));
  const timer = setTimeout(() => socket.destroy(), lingerMs);
  // What still arrives is of no use, but unread it would turn our FIN into an RST.
  socket.resume();
  socket.end();
  await closed;
  clearTimeout(timer);
}
