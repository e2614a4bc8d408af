/**
 * The short transfer that `check` measures a link with: two programs for `node -e`, one on each host, so that
 * nothing has to be installed for it.
 *
 * The receiver listens on its replication address and prints the port; the sender connects from its own,
 * sends for about a second or up to 64 MiB, and half-closes; the receiver answers with the number of bytes
 * that it got and ends. The sender prints that number and the milliseconds from the connection to the answer,
 * in which everything has arrived. Both end by themselves after a bounded time, and the receiver takes one
 * connection, from the sender's address only.
 */
import { onlyLine } from './parse/text.js';

const TRANSFER_BYTES_MAX = 64 * 2 ** 20;
const TRANSFER_MS = 1_000;
const CONNECT_MS = 5_000;
/** Of both programs, for a link that is very slow. */
const LIFE_MS = 20_000;

const RECEIVER = `
const net = require('net');
const [address, port, peer] = process.argv.slice(1);
const allowed = new net.BlockList();
allowed.addAddress(peer, net.isIPv6(peer) ? 'ipv6' : 'ipv4');
const server = net.createServer({ allowHalfOpen: true }, (socket) => {
  if (!allowed.check(socket.remoteAddress || '', net.isIPv6(socket.remoteAddress || '') ? 'ipv6' : 'ipv4')) {
    socket.destroy();
    return;
  }
  server.close();
  let bytes = 0;
  socket.on('data', (chunk) => { bytes += chunk.length; });
  socket.on('end', () => socket.end(String(bytes)));
  socket.on('close', () => process.exit(0));
  socket.on('error', () => process.exit(1));
});
server.on('error', (error) => { console.error(error.message); process.exit(1); });
server.listen(Number(port), address, () => console.log('listening ' + server.address().port));
setTimeout(() => process.exit(1), ${LIFE_MS});
`;

const SENDER = `
const net = require('net');
const [address, port, local] = process.argv.slice(1);
const fail = (message, code) => { console.error(message); process.exit(code); };
const socket = net.connect({ host: address, port: Number(port), localAddress: local });
const connecting = setTimeout(() => fail('no connection within ${CONNECT_MS / 1000} s', 2), ${CONNECT_MS});
let connected = false;
socket.on('error', (error) => fail(error.message, connected || error.code === 'EADDRNOTAVAIL' ? 1 : 2));
socket.on('connect', () => {
  connected = true;
  clearTimeout(connecting);
  const start = process.hrtime.bigint();
  const elapsedMs = () => Number(process.hrtime.bigint() - start) / 1e6;
  const chunk = Buffer.alloc(65536);
  let sent = 0;
  const pump = () => {
    while (sent < ${TRANSFER_BYTES_MAX} && elapsedMs() < ${TRANSFER_MS}) {
      sent += chunk.length;
      if (!socket.write(chunk)) { socket.once('drain', pump); return; }
    }
    socket.end();
  };
  pump();
  let answer = '';
  socket.on('data', (data) => { answer += data; });
  socket.on('end', () => {
    if (answer !== String(sent)) fail('the other side got ' + answer + ' of ' + sent + ' bytes', 1);
    console.log(sent + ' ' + elapsedMs().toFixed(3));
    process.exit(0);
  });
});
setTimeout(() => fail('not done within ${LIFE_MS / 1000} s', 1), ${LIFE_MS});
`;

/** Exit code of the sender when it could not connect (and its own address is not what is wrong). */
export const NOT_CONNECTED = 2;
export const THROUGHPUT_DEADLINE_MS = LIFE_MS + 10_000;

/** @param port 0 for any */
export function receiverCommand(address: string, port: number, peer: string): string[] {
  return ['node', '-e', RECEIVER, address, String(port), peer];
}

export function senderCommand(address: string, port: number, local: string): string[] {
  return ['node', '-e', SENDER, address, String(port), local];
}

/** The port in a line of the receiver; undefined for any other line. */
export function listeningPort(line: string): number | undefined {
  const port = /^listening ([0-9]{1,5})$/.exec(line)?.[1];
  return port === undefined ? undefined : Number(port);
}

/**
 * What the sender printed, in bytes per second.
 *
 * @throws ParseError
 */
export function parseThroughput(text: string): number {
  const line = onlyLine('throughput', text);
  const match = /^([0-9]+) ([0-9]{1,9}\.[0-9]{3})$/.exec(line.text);
  const ms = Number(match?.[2]);
  if (!match || ms <= 0) return line.fail('bytes and milliseconds are expected');
  return (line.integer(match[1], 'the bytes') * 1000) / ms;
}
