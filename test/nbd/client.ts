/** A small NBD client that can misbehave, for tests. */
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { Command, encodeRequest, NbdErrno } from '../../src/core/nbd/protocol.js';

export interface Answer {
  error: number;
  data: Buffer;
}

export class TestClient {
  readonly socket: Socket;
  sizeBytes = 0;
  private readonly chunks: Buffer[] = [];
  private have = 0;
  private readonly waiters: {
    bytes: number;
    resolve: (bytes: Buffer) => void;
    reject: (error: Error) => void;
  }[] = [];
  private cookie = 1;
  private readonly expected = new Map<number, { length: number; resolve: (answer: Answer) => void }>();
  /** Resolves when the server has closed the connection. */
  readonly closed: Promise<void>;

  private constructor(socket: Socket) {
    this.socket = socket;
    this.closed = new Promise((resolve) => socket.once('close', () => resolve()));
    socket.on('data', (bytes: Buffer) => {
      this.chunks.push(bytes);
      this.have += bytes.length;
      this.serve();
    });
    socket.on('error', () => undefined);
    socket.on('close', () => {
      for (const waiter of this.waiters.splice(0))
        waiter.reject(new Error('the server has closed the connection'));
      for (const { resolve } of this.expected.values()) resolve({ error: -1, data: Buffer.alloc(0) });
    });
  }

  static open(path: string): TestClient {
    return new TestClient(connect(path));
  }

  /** Opens an export by EXPORT_NAME, with simple replies. */
  static async connect(path: string, name: string): Promise<TestClient> {
    const client = TestClient.open(path);
    await client.take(18);
    const head = Buffer.alloc(20);
    head.writeUInt32BE(3, 0);
    head.write('IHAVEOPT', 4, 'latin1');
    head.writeUInt32BE(1, 12);
    head.writeUInt32BE(name.length, 16);
    client.socket.write(Buffer.concat([head, Buffer.from(name)]));
    client.sizeBytes = Number((await client.take(10)).readBigUInt64BE(0));
    void client.receive();
    return client;
  }

  request(type: number, offset: number, length: number, payload?: Uint8Array, flags = 0): Promise<Answer> {
    if (this.socket.destroyed) return Promise.resolve({ error: -1, data: Buffer.alloc(0) });
    const cookieLow = this.cookie++;
    const answer = new Promise<Answer>((resolve) => {
      this.expected.set(cookieLow, { length: type === Command.read ? length : 0, resolve });
    });
    this.socket.write(
      encodeRequest({ flags, type, cookieHigh: 0xffff_ffff, cookieLow, offset, length }, payload),
    );
    return answer;
  }

  write(offset: number, data: Uint8Array, flags = 0): Promise<Answer> {
    return this.request(Command.write, offset, data.length, data, flags);
  }

  read(offset: number, length: number): Promise<Answer> {
    return this.request(Command.read, offset, length);
  }

  flush(): Promise<Answer> {
    return this.request(Command.flush, 0, 0);
  }

  take(bytes: number): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      this.waiters.push({ bytes, resolve, reject });
      this.serve();
    });
  }

  destroy(): void {
    this.socket.destroy();
  }

  private serve(): void {
    for (
      let waiter = this.waiters[0];
      waiter !== undefined && this.have >= waiter.bytes;
      waiter = this.waiters[0]
    ) {
      this.waiters.shift();
      const all = this.chunks.length === 1 ? (this.chunks[0] as Buffer) : Buffer.concat(this.chunks);
      const rest = all.subarray(waiter.bytes);
      this.chunks.length = 0;
      if (rest.length > 0) this.chunks.push(rest);
      this.have = rest.length;
      waiter.resolve(all.subarray(0, waiter.bytes));
    }
  }

  private async receive(): Promise<void> {
    try {
      for (;;) {
        const head = await this.take(16);
        const error = head.readUInt32BE(4);
        const cookie = head.readUInt32BE(12);
        const waiting = this.expected.get(cookie);
        if (
          head.readUInt32BE(0) !== 0x67446698 ||
          head.readUInt32BE(8) !== 0xffff_ffff ||
          waiting === undefined
        ) {
          throw new Error('a reply that nobody waits for');
        }
        this.expected.delete(cookie);
        const data =
          error === 0 && waiting.length > 0 ? Buffer.from(await this.take(waiting.length)) : Buffer.alloc(0);
        waiting.resolve({ error, data });
      }
    } catch {
      this.socket.destroy();
    }
  }
}

export { Command, NbdErrno };
