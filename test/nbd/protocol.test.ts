/** The protocol without a socket: handshakes however they are cut, requests that must be refused. */
import fc from 'fast-check';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { Handshake, Option, Reply } from '../../src/core/nbd/handshake.js';
import type { HandshakeConfig, Outcome } from '../../src/core/nbd/handshake.js';
import {
  Command,
  CommandFlag,
  NbdErrno,
  refuseRequest,
  transmissionFlags,
} from '../../src/core/nbd/protocol.js';
import type { ExportInfo, RequestHeader } from '../../src/core/nbd/protocol.js';

const info: ExportInfo = {
  name: 'disk0',
  sizeBytes: 1 << 20,
  description: 'a disk',
  readOnly: false,
  minBlockBytes: 512,
  preferredBlockBytes: 4096,
  maxPayloadBytes: 64 << 10,
};
const config: HandshakeConfig = {
  exports: [info, { ...info, name: 'barrier', sizeBytes: 8192 }],
  tls: 'off',
};

function option(code: number, data: Buffer = Buffer.alloc(0)): Buffer {
  const head = Buffer.alloc(16);
  head.write('IHAVEOPT', 'latin1');
  head.writeUInt32BE(code, 8);
  head.writeUInt32BE(data.length, 12);
  return Buffer.concat([head, data]);
}

function go(name: string, requests: number[] = []): Buffer {
  const bytes = Buffer.alloc(6 + name.length + 2 * requests.length);
  bytes.writeUInt32BE(name.length, 0);
  bytes.write(name, 4);
  bytes.writeUInt16BE(requests.length, 4 + name.length);
  requests.forEach((each, index) => bytes.writeUInt16BE(each, 6 + name.length + 2 * index));
  return bytes;
}

const flags = (value: number): Buffer => Buffer.from([0, 0, 0, value]);

/** Plays bytes, cut at the given places, until an outcome. */
function play(
  bytes: Buffer,
  cuts: readonly number[],
  settings = config,
): { sent: Buffer; outcome: Outcome; rest: Buffer } {
  const handshake = new Handshake(settings);
  const sent: Buffer[] = [];
  const places = [...new Set(cuts.map((cut) => cut % (bytes.length + 1)))].sort((a, b) => a - b);
  let from = 0;
  for (const to of [...places, bytes.length]) {
    const { send, outcome } = handshake.push(bytes.subarray(from, to));
    sent.push(...send);
    from = to;
    if (outcome.kind !== 'more') {
      return {
        sent: Buffer.concat(sent),
        outcome,
        rest: Buffer.concat([handshake.rest(), bytes.subarray(from)]),
      };
    }
  }
  return { sent: Buffer.concat(sent), outcome: { kind: 'more' }, rest: handshake.rest() };
}

/** Types of the replies that were sent. */
function replies(sent: Buffer): number[] {
  const types: number[] = [];
  for (let at = 0; at + 20 <= sent.length; at += 20 + sent.readUInt32BE(at + 16))
    types.push(sent.readUInt32BE(at + 12));
  return types;
}

const conversation = Buffer.concat([
  flags(3),
  option(Option.structuredReply),
  option(Option.list),
  option(Option.info, go('nothing')),
  option(Option.info, go('barrier', [3])),
  option(77),
  option(Option.go, go('disk0', [1, 2, 3])),
  Buffer.from('the first request'),
]);

test('a handshake is the same however its bytes are cut', () => {
  const whole = play(conversation, []);
  assert.equal(whole.outcome, { kind: 'transmission', export: info, structured: true });
  assert.is(whole.rest.toString(), 'the first request');
  assert.equal(replies(whole.sent), [
    Reply.ack,
    Reply.server,
    Reply.server,
    Reply.ack,
    Reply.errUnknown,
    Reply.info,
    Reply.info,
    Reply.ack,
    Reply.errUnsupported,
    Reply.info,
    Reply.info,
    Reply.info,
    Reply.info,
    Reply.ack,
  ]);
  fc.assert(
    fc.property(fc.array(fc.nat(conversation.length)), (cuts) => {
      assert.equal(play(conversation, cuts), whole);
    }),
  );
});

test('arbitrary bytes end in an outcome or wait for more, and are never kept beyond one option', () => {
  fc.assert(
    fc.property(
      fc.array(fc.uint8Array({ maxLength: 3000 }), { maxLength: 20 }),
      fc.boolean(),
      (pieces, dressed) => {
        const handshake = new Handshake(config);
        if (dressed) handshake.push(flags(3));
        for (const piece of pieces) {
          const { outcome } = handshake.push(dressed ? option(piece[0] ?? 0, Buffer.from(piece)) : piece);
          assert.ok(handshake.rest().length <= 8192 + 16 + 3000);
          if (outcome.kind !== 'more') return;
        }
      },
    ),
  );
});

test('EXPORT_NAME gives size and flags, with the zeroes for a client that wants them', () => {
  const old = play(Buffer.concat([flags(1), option(Option.exportName, Buffer.from('disk0'))]), []);
  assert.is(old.sent.length, 134);
  assert.is(old.sent.readBigUInt64BE(0), 1n << 20n);
  assert.is(
    play(Buffer.concat([flags(3), option(Option.exportName, Buffer.from('disk0'))]), []).sent.length,
    10,
  );
  assert.is(
    play(Buffer.concat([flags(3), option(Option.exportName, Buffer.from('x'))]), []).outcome.kind,
    'close',
  );
});

test('nothing but STARTTLS is answered where TLS is required', () => {
  const secure: HandshakeConfig = { ...config, tls: 'required' };
  const refused = play(
    Buffer.concat([flags(3), option(Option.list), option(Option.go, go('disk0'))]),
    [],
    secure,
  );
  assert.equal(replies(refused.sent), [Reply.errTlsRequired, Reply.errTlsRequired]);
  assert.is(play(Buffer.concat([flags(3), option(Option.startTls)]), [], secure).outcome.kind, 'tls');
  assert.is(
    play(Buffer.concat([flags(3), option(Option.exportName, Buffer.from('disk0'))]), [], secure).outcome.kind,
    'close',
  );
  const injected = play(Buffer.concat([flags(3), option(Option.startTls), option(Option.list)]), [], secure);
  assert.is(injected.outcome.kind, 'close', 'what was sent before TLS is not taken for what is inside');
  assert.equal(replies(play(Buffer.concat([flags(3), option(Option.startTls)]), []).sent), [Reply.errPolicy]);
});

test('a handshake that is wrong is ended with the reason', () => {
  const reason = (bytes: Buffer): string => {
    const { outcome } = play(bytes, []);
    return outcome.kind === 'close' ? outcome.reason : outcome.kind;
  };
  assert.match(reason(flags(8)), /unknown client flags 0x8/);
  assert.match(reason(Buffer.concat([flags(3), Buffer.alloc(16)])), /without its magic/);
  const long = option(Option.go);
  long.writeUInt32BE(8193, 12);
  assert.match(reason(Buffer.concat([flags(3), long])), /8193 bytes/);
  const many = Array.from({ length: 65 }, () => option(Option.list));
  assert.match(reason(Buffer.concat([flags(3), ...many])), /more than 64 options/);
});

test('the multi-connection promise, flush and FUA are announced', () => {
  assert.is(transmissionFlags(info, false), 0b1001_0110_1101);
  assert.is(transmissionFlags(info, true) & (1 << 7), 1 << 7);
  assert.is(transmissionFlags({ ...info, readOnly: true }, false) & 0b110_0010, 0b10);
});

const request = (change: Partial<RequestHeader>): RequestHeader => ({
  flags: 0,
  type: Command.read,
  cookieHigh: 0,
  cookieLow: 0,
  offset: 0,
  length: 512,
  ...change,
});

for (const [what, change, errno] of [
  ['a read', {}, 0],
  ['a write with FUA', { type: Command.write, flags: CommandFlag.fua }, 0],
  ['a flush', { type: Command.flush, length: 0 }, 0],
  ['a disconnect with anything', { type: Command.disconnect, length: 9, flags: 255 }, 0],
  ['the last block', { offset: (1 << 20) - 512 }, 0],
  ['zeroing more than a payload', { type: Command.writeZeroes, length: 1 << 20 }, 0],
  ['an unknown command', { type: 9 }, NbdErrno.EINVAL],
  ['a command that was not offered', { type: Command.cache }, NbdErrno.EINVAL],
  ['block status without a context', { type: Command.blockStatus }, NbdErrno.EINVAL],
  ['an unknown flag', { flags: 1 << 9 }, NbdErrno.EINVAL],
  ['DF without structured replies', { flags: CommandFlag.df }, NbdErrno.EINVAL],
  ['an empty read', { length: 0 }, NbdErrno.EINVAL],
  ['a flush with a range', { type: Command.flush, offset: 512, length: 0 }, NbdErrno.EINVAL],
  ['an odd offset', { offset: 511 }, NbdErrno.EINVAL],
  ['an odd length', { length: 513 }, NbdErrno.EINVAL],
  ['a read beyond the end', { offset: 1 << 20 }, NbdErrno.EINVAL],
  ['a write beyond the end', { type: Command.write, offset: (1 << 20) - 512, length: 1024 }, NbdErrno.ENOSPC],
  ['zeroing beyond the end', { type: Command.writeZeroes, offset: 1 << 20 }, NbdErrno.ENOSPC],
  ['a trim beyond the end', { type: Command.trim, offset: 1 << 20 }, NbdErrno.EINVAL],
  ['an offset near 2^64', { offset: Infinity }, NbdErrno.EINVAL],
  ['a read of too much', { length: 128 << 10 }, NbdErrno.EOVERFLOW],
  ['a write of too much', { type: Command.write, length: 128 << 10 }, NbdErrno.EINVAL],
] as const) {
  test(`${what}: ${errno === 0 ? 'good' : `errno ${errno}`}`, () => {
    const refusal = refuseRequest(request(change), info, false);
    assert.is(refusal?.errno ?? 0, errno);
    if (refusal !== null) assert.match(refusal.reason, /offset=.* length=.*: ./);
  });
}

test('writing to a read-only export is not permitted', () => {
  const refusal = refuseRequest(request({ type: Command.write }), { ...info, readOnly: true }, false);
  assert.is(refusal?.errno, NbdErrno.EPERM);
});

test.run();
