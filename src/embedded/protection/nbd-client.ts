/**
 * A small NBD client: the embedded stand-in for the kernel's, on a unix socket. One connection for one export.
 *
 *     server: "NBDMAGIC" "IHAVEOPT" flags u16     client: flags u32, EXPORT_NAME     server: size u64, flags u16
 *
 * Source: the protocol document of the Network Block Device project, doc/proto.md; numbers in core/nbd.
 */
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { Option } from '../../core/nbd/handshake.js';
import { Command, encodeRequest, SIMPLE_REPLY_BYTES, SIMPLE_REPLY_MAGIC } from '../../core/nbd/protocol.js';

const GREETING_BYTES = 18;
const EXPORT_BYTES = 10;
const FIXED_NEWSTYLE_NO_ZEROES = 3;

interface Waiting {
  length: number;
  resolve: (data: Buffer) => void;
  reject: (error: Error) => void;
}

export class NbdClient {
  readonly sizeBytes: number;
  readonly #socket: Socket;
  readonly #name: string;
  readonly #waiting = new Map<number, Waiting>();
  #cookie = 1;
  #rest: Buffer = Buffer.alloc(0);
  #failure: Error | null = null;

  private constructor(socket: Socket, name: string, sizeBytes: number) {
    this.#socket = socket;
    this.#name = name;
    this.sizeBytes = sizeBytes;
    socket.on('data', (bytes: Buffer) => this.#receive(bytes));
    socket.on('error', (error) => this.#fail(error.message));
    socket.on('close', () => this.#fail('the server has closed the connection'));
  }

  /** @throws Error when the server has no such export */
  static async open(path: string, name: string): Promise<NbdClient> {
    const socket = connect(path);
    await take(socket, GREETING_BYTES, name);
    const head = Buffer.alloc(20);
    head.writeUInt32BE(FIXED_NEWSTYLE_NO_ZEROES, 0);
    head.write('IHAVEOPT', 4, 'latin1');
    head.writeUInt32BE(Option.exportName, 12);
    head.writeUInt32BE(name.length, 16);
    socket.write(Buffer.concat([head, Buffer.from(name, 'latin1')]));
    const about = await take(socket, EXPORT_BYTES, name);
    return new NbdClient(socket, name, Number(about.readBigUInt64BE(0)));
  }

  async write(offsetBytes: number, bytes: Uint8Array): Promise<void> {
    await this.#request(Command.write, offsetBytes, bytes.length, bytes);
  }

  read(offsetBytes: number, lengthBytes: number): Promise<Buffer> {
    return this.#request(Command.read, offsetBytes, lengthBytes);
  }

  close(): void {
    this.#socket.destroy();
  }

  #request(type: number, offset: number, length: number, payload?: Uint8Array): Promise<Buffer> {
    if (this.#failure !== null) return Promise.reject(this.#failure);
    const cookieLow = this.#cookie++;
    const answer = new Promise<Buffer>((resolve, reject) => {
      this.#waiting.set(cookieLow, { length: type === Command.read ? length : 0, resolve, reject });
    });
    this.#socket.write(encodeRequest({ flags: 0, type, cookieHigh: 0, cookieLow, offset, length }, payload));
    return answer;
  }

  #receive(bytes: Buffer): void {
    let rest = this.#rest.length === 0 ? bytes : Buffer.concat([this.#rest, bytes]);
    while (rest.length >= SIMPLE_REPLY_BYTES) {
      const error = rest.readUInt32BE(4);
      const cookie = rest.readUInt32BE(12);
      const waiting = this.#waiting.get(cookie);
      if (rest.readUInt32BE(0) !== SIMPLE_REPLY_MAGIC || waiting === undefined) {
        this.#socket.destroy(new Error('a reply that nobody waits for'));
        return;
      }
      const end = SIMPLE_REPLY_BYTES + (error === 0 ? waiting.length : 0);
      if (rest.length < end) break;
      this.#waiting.delete(cookie);
      if (error === 0) waiting.resolve(Buffer.from(rest.subarray(SIMPLE_REPLY_BYTES, end)));
      else waiting.reject(new Error(`embedded NBD ${this.#name}: error ${error}`));
      rest = rest.subarray(end);
    }
    this.#rest = rest;
  }

  #fail(why: string): void {
    this.#failure ??= new Error(`embedded NBD ${this.#name}: ${why}`);
    for (const { reject } of this.#waiting.values()) reject(this.#failure);
    this.#waiting.clear();
  }
}

/** Exactly so many bytes of a handshake, in which the server says nothing unasked. */
function take(socket: Socket, bytes: number, name: string): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    let have = Buffer.alloc(0);
    const end = (error: Error | null): void => {
      socket.off('data', onData).off('error', onError).off('close', onClose);
      if (error === null) resolve(have);
      else reject(error);
    };
    const onData = (chunk: Buffer): void => {
      have = Buffer.concat([have, chunk]);
      if (have.length >= bytes) end(null);
    };
    const onError = (error: Error): void => end(error);
    const onClose = (): void => end(new Error(`embedded NBD ${name}: the server has closed the connection`));
    socket.on('data', onData).on('error', onError).on('close', onClose);
  });
}
