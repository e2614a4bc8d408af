/**
 * A network for the tests of network buffering, in a namespace of its own, and frames to send through it.
 *
 *     guest0 -- vif3.0 -- br0 -- out0 -- client0
 *
 * Frames are written to guest0 and read from client0 with packet sockets (packet(7)), so that a test has every frame
 * in its hands, whatever it carries. The namespace belongs to this thread; the children it starts are in it too, and
 * it goes with the process.
 */
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import koffi from 'koffi';

const CLONE_NEWNET = 0x40000000;
const AF_PACKET = 17;
const SOCK_RAW_NONBLOCK = 3 | 0o4000;
const SOL_SOCKET = 1;
const SO_RCVBUFFORCE = 33;
const MSG_TRUNC = 0x20;
/** `ETH_P_ALL` in network order. */
const ALL_PROTOCOLS = 0x0300;
const PACKET_OUTGOING = 4;
const SOCKADDR_BYTES = 20;
const FRAME_BYTES_MAX = 2048;
const RECEIVE_BYTES = 64 * 2 ** 20;

const libc = koffi.load('libc.so.6');
const unshare = libc.func('int unshare(int)');
const socket = libc.func('int socket(int, int, int)');
const bind = libc.func('int bind(int, const void *, uint)');
const setsockopt = libc.func('int setsockopt(int, int, int, const void *, uint)');
const send = libc.func('long send(int, const void *, size_t, int)');
const recvfrom = libc.func('long recvfrom(int, void *, size_t, int, void *, void *)');
const close = libc.func('int close(int)');
const nameToIndex = libc.func('uint if_nametoindex(const char *)');

/**
 * Enters a new namespace, if this machine can do what the tests need; says what it lacks otherwise, and throws in
 * CI.
 */
export function haveNetwork(): boolean {
  const missing = (what: string): boolean => {
    if (process.env['CI'] === 'true') throw new Error(`missing in CI: ${what}`);
    process.stdout.write(`skipped: needs ${what}\n`);
    return false;
  };
  for (const tool of ['tc', 'ip']) {
    if (spawnSync(tool, ['-V']).error) return missing(`${tool} (apt install iproute2)`);
  }
  if (process.getuid?.() !== 0 || unshare(CLONE_NEWNET) !== 0) return missing('root');
  command('ip', 'link', 'set', 'lo', 'up');
  const tries: [string, string[]][] = [
    ['ifb', ['ip', 'link', 'add', 'try0', 'type', 'ifb']],
    ['sch_plug', ['tc', 'qdisc', 'add', 'dev', 'try0', 'root', 'plug', 'limit', '1000']],
    ['sch_ingress', ['tc', 'qdisc', 'add', 'dev', 'lo', 'clsact']],
    [
      'cls_matchall and act_mirred',
      'tc filter add dev lo ingress matchall action mirred egress redirect dev try0'.split(' '),
    ],
    ['bridge', ['ip', 'link', 'add', 'try1', 'type', 'bridge']],
  ];
  for (const [what, [program = '', ...args]] of tries) {
    if (spawnSync(program, args).status !== 0) {
      return missing(`a kernel with ${what} (Debian's has it; on Ubuntu it is in linux-modules-extra)`);
    }
  }
  command('tc', 'qdisc', 'del', 'dev', 'lo', 'clsact');
  command('ip', 'link', 'del', 'try0');
  command('ip', 'link', 'del', 'try1');
  return true;
}

export function command(program: string, ...args: string[]): string {
  const done = spawnSync(program, args, { encoding: 'utf8', timeout: 60_000 });
  if (done.status !== 0) throw new Error(`${program} ${args.join(' ')}: ${done.stderr}`);
  return done.stdout;
}

/** Runs lines as `ip -batch -` or `tc -batch -` does. */
export function batch(program: 'ip' | 'tc', lines: readonly string[]): void {
  const input = lines.map((text) => `${text}\n`).join('');
  const done = spawnSync(program, ['-batch', '-'], { encoding: 'utf8', input });
  if (done.status !== 0) throw new Error(`${program}: ${done.stderr}`);
}

export type Carries = 'ipv4' | 'ipv6' | 'arp' | 'unknown';

export interface Frame {
  carries: Carries;
  sequence: number;
}

const ETHERTYPE: Record<Carries, number> = { ipv4: 0x0800, ipv6: 0x86dd, arp: 0x0806, unknown: 0x88b5 };
const MARK = 0x72656d75;

export class Net {
  readonly #guests: number[] = [];
  readonly #client: number;
  readonly #buffer = Buffer.alloc(FRAME_BYTES_MAX);
  readonly #from = Buffer.alloc(SOCKADDR_BYTES);
  readonly #fromLength = Buffer.alloc(4);
  readonly vifs: string[];

  constructor(vifs: string[] = ['vif3.0']) {
    this.vifs = vifs;
    // The stack's own packets would only be in the way.
    writeFileSync('/proc/sys/net/ipv6/conf/default/disable_ipv6', '1');
    batch('ip', [
      'link add br0 type bridge forward_delay 0',
      'link set br0 up',
      'link add out0 type veth peer name client0',
      'link set out0 master br0 up',
      'link set client0 up promisc on',
      ...vifs.flatMap((vif, index) => [
        `link add ${vif} type veth peer name guest${index}`,
        `link set ${vif} master br0 up`,
        `link set guest${index} up`,
      ]),
    ]);
    for (const index of vifs.keys()) this.#guests.push(open(`guest${index}`, false));
    this.#client = open('client0', true);
  }

  /** Sends as the guest does. */
  send(frame: Frame, vif = 0): void {
    const bytes = encode(frame, vif);
    const sent = Number(send(this.#guests[vif], bytes, bytes.length, 0));
    if (sent !== bytes.length) throw new Error(`frame ${frame.sequence} was not sent`);
  }

  /** What has come to the client since the last call; does not wait. */
  received(): Frame[] {
    const frames: Frame[] = [];
    for (;;) {
      this.#fromLength.writeUInt32LE(SOCKADDR_BYTES);
      const length = Number(
        recvfrom(this.#client, this.#buffer, FRAME_BYTES_MAX, MSG_TRUNC, this.#from, this.#fromLength),
      );
      if (length < 0) return frames;
      if (this.#from[10] === PACKET_OUTGOING) continue;
      const frame = decode(this.#buffer.subarray(0, length));
      if (frame) frames.push(frame);
    }
  }

  /** Waits until so many frames have come. The limit is only there so that a loss fails the test. */
  async receive(count: number, limitMs = 30_000): Promise<Frame[]> {
    const endMs = performance.now() + limitMs;
    const frames = this.received();
    while (frames.length < count) {
      if (performance.now() > endMs) throw new Error(`${frames.length} of ${count} frames came`);
      await new Promise((resolve) => setTimeout(resolve, 1));
      frames.push(...this.received());
    }
    return frames;
  }

  /** Names of the devices and hooks that buffering would leave behind. */
  leftovers(): string[] {
    const links = JSON.parse(command('ip', '-j', 'link', 'show', 'type', 'ifb')) as { ifname?: string }[];
    const queues = JSON.parse(command('tc', '-j', 'qdisc', 'show')) as { kind: string; dev: string }[];
    return [
      ...links.flatMap((link) => link.ifname ?? []),
      ...queues
        .filter(({ kind }) => ['clsact', 'plug'].includes(kind))
        .map(({ kind, dev }) => `${kind} ${dev}`),
    ];
  }

  remove(): void {
    for (const fd of [...this.#guests, this.#client]) close(fd);
    for (const vif of this.vifs) spawnSync('ip', ['link', 'del', vif]);
    for (const device of ['out0', 'br0', 'remus3.0', 'remus3.1']) spawnSync('ip', ['link', 'del', device]);
  }
}

function open(device: string, receives: boolean): number {
  const protocol = receives ? ALL_PROTOCOLS : 0;
  const fd = Number(socket(AF_PACKET, SOCK_RAW_NONBLOCK, protocol));
  // struct sockaddr_ll: family, protocol, index; the rest is not looked at.
  const address = Buffer.alloc(SOCKADDR_BYTES);
  address.writeUInt16LE(AF_PACKET, 0);
  address.writeUInt16LE(protocol, 2);
  address.writeUInt32LE(Number(nameToIndex(device)), 4);
  const size = Buffer.alloc(4);
  size.writeUInt32LE(RECEIVE_BYTES);
  if (fd < 0 || bind(fd, address, SOCKADDR_BYTES) !== 0) throw new Error(`no packet socket on ${device}`);
  if (receives) setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, size, 4);
  return fd;
}

/** A broadcast of 64 bytes or more with a right header, and its number at the end. */
function encode({ carries, sequence }: Frame, vif: number): Buffer {
  const headers: Record<Carries, Buffer> = {
    ipv4: Buffer.from(`4500003200010000401100000a0900020a0900ff10001000001e0000`, 'hex'),
    ipv6: Buffer.from(
      `60000000001411ff${'fe80000000000000000000000000000' + '2'}${'ff020000000000000000000000000001'}1000100000140000`,
      'hex',
    ),
    arp: Buffer.from(`0001080006040001020000000301${'0a090002'}000000000000${'0a090001'}`, 'hex'),
    unknown: Buffer.alloc(0),
  };
  const ethernet = Buffer.from(`ffffffffffff0200000003${vif.toString(16).padStart(2, '0')}0000`, 'hex');
  ethernet.writeUInt16BE(ETHERTYPE[carries], 12);
  const tail = Buffer.alloc(22);
  tail.writeUInt32BE(MARK, 14);
  tail.writeUInt32BE(sequence, 18);
  return Buffer.concat([ethernet, headers[carries], tail]);
}

function decode(bytes: Buffer): Frame | undefined {
  if (bytes.length < 36 || bytes.readUInt32BE(bytes.length - 8) !== MARK) return undefined;
  const type = bytes.readUInt16BE(12);
  const carries = (Object.keys(ETHERTYPE) as Carries[]).find((name) => ETHERTYPE[name] === type);
  return carries && { carries, sequence: bytes.readUInt32BE(bytes.length - 4) };
}
