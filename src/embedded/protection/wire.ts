/**
 * An embedded wire: a link between the embedded hosts that can be cut. All that goes over it passes here. Cut, it is a
 * cable that was pulled: neither bytes nor the end of a connection arrive, new connections get no answer, and nobody is
 * told. What was sent waits, as TCP sends it again, and arrives when the wire is mended.
 *
 * It is cut by a note, a file: any process of the pair can make it, at an exact moment and at once.
 */
import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import type { AddressInfo, Server, Socket } from 'node:net';

export class EmbeddedWire {
  /** While there is such a file the wire is cut. */
  readonly note: string;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  /** What would have happened, in its order. */
  #held: (() => void)[] = [];
  #target: number | null = null;

  private constructor(note: string) {
    this.note = note;
    this.#server = createServer({ allowHalfOpen: true }, (near) => this.#accept(near));
  }

  static async lay(note: string): Promise<EmbeddedWire> {
    const wire = new EmbeddedWire(note);
    wire.#server.listen(0, '127.0.0.1');
    await once(wire.#server, 'listening');
    return wire;
  }

  /** Where to connect to. */
  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  get isCut(): boolean {
    return existsSync(this.note);
  }

  /** Where connections come out from now on. */
  leadTo(port: number): void {
    this.#target = port;
  }

  async mend(): Promise<void> {
    await rm(this.note, { force: true });
    for (const happen of this.#held.splice(0)) happen();
  }

  close(): void {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
  }

  #pass(happen: () => void): void {
    if (this.#held.length > 0 || this.isCut) this.#held.push(happen);
    else happen();
  }

  #accept(near: Socket): void {
    this.#keep(near);
    this.#pass(() => {
      if (this.#target === null) {
        near.destroy();
        return;
      }
      const far = connect({ port: this.#target, host: '127.0.0.1', allowHalfOpen: true });
      this.#keep(far);
      this.#carry(near, far);
      this.#carry(far, near);
    });
  }

  #keep(socket: Socket): void {
    socket.setNoDelay(true);
    this.#sockets.add(socket);
    socket.on('error', () => undefined);
    socket.on('close', () => this.#sockets.delete(socket));
  }

  /** A piece at a time, so that a slow reader slows the writer down. */
  #carry(from: Socket, to: Socket): void {
    from.on('data', (bytes: Buffer) => {
      from.pause();
      this.#pass(() => to.write(bytes, () => from.resume()));
    });
    from.on('end', () => this.#pass(() => to.end()));
    from.on('error', () => this.#pass(() => to.destroy()));
  }
}
