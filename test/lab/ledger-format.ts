/**
 * What the guest's ledger (scripts/lab/guest/ledger.c, which has the format) leaves in memory, on disks and on the
 * network, and whether the three agree as they must at every commit:
 *
 *     disk d of epoch N    holds every count up to some T, with done(d) <= T <= issued(d) in the memory of checkpoint N
 *     packet with count k  does not leave before the commit of the first checkpoint whose memory says sent >= k
 *
 * The one write that may be on a disk or not is the one whose answer the guest had not seen when it was suspended: its
 * restored frontend sends it again.
 */
export const BLOCK_BYTES = 4096;
export const SLOTS = 64;
export const AREA_BYTES = SLOTS * BLOCK_BYTES;
export const PORT = 9999;

const PAGE_MAGIC = 'REMUSDRBD-LEDGER';
const BLOCK_MAGIC = 'REMUSLGR';
const PACKET_MAGIC = 'REMUSDRBD-PACKET';
const PERIOD_BYTES = 32;

/** The guest's memory of its ledger. */
export interface LedgerPage {
  disks: { issued: number; done: number }[];
  sent: number;
}

export interface Violation {
  /** `ahead`: the disk has what memory does not know of. `behind`: it lacks what memory says is there. */
  kind: 'ahead' | 'behind' | 'hole' | 'no-ledger' | 'packet';
  text: string;
}

export function isLedgerPage(page: Uint8Array): boolean {
  return Buffer.from(page.buffer, page.byteOffset, PAGE_MAGIC.length).toString('latin1') === PAGE_MAGIC;
}

export function parseLedgerPage(page: Uint8Array): LedgerPage {
  const bytes = Buffer.from(page.buffer, page.byteOffset, page.length);
  const word = (index: number): number => Number(bytes.readBigUInt64LE(PAGE_MAGIC.length + 8 * index));
  return {
    disks: [
      { issued: word(0), done: word(1) },
      { issued: word(2), done: word(3) },
    ],
    sent: word(4),
  };
}

/**
 * The counts in a disk's slots.
 * @param area the disk's first AREA_BYTES
 * @returns by slot; 0 where nothing was ever written, -1 where the block is no whole block of this disk's ledger
 */
export function parseArea(area: Buffer, disk: number): number[] {
  return Array.from({ length: SLOTS }, (_, slot) =>
    countIn(area.subarray(slot * BLOCK_BYTES, (slot + 1) * BLOCK_BYTES), disk),
  );
}

function countIn(block: Buffer, disk: number): number {
  if (!block.subarray(0, -PERIOD_BYTES).equals(block.subarray(PERIOD_BYTES))) return -1;
  if (block.subarray(0, PERIOD_BYTES).every((byte) => byte === 0)) return 0;
  const count = block.readBigUInt64LE(16);
  const isOurs =
    block.toString('latin1', 0, BLOCK_MAGIC.length) === BLOCK_MAGIC &&
    block.readBigUInt64LE(8) === BigInt(disk) &&
    block.readBigUInt64LE(24) === BigInt.asUintN(64, ~count);
  return isOurs ? Number(count) : -1;
}

/** Compares one disk with the memory of the same commit. */
export function checkDisk(
  { issued, done }: { issued: number; done: number },
  slots: readonly number[],
  disk: number,
): Violation[] {
  const top = Math.max(...slots);
  if (top > issued) {
    return [
      { kind: 'ahead', text: `disk ${disk} holds count ${top}, and memory has not gone beyond ${issued}` },
    ];
  }
  if (top < done) {
    return [{ kind: 'behind', text: `disk ${disk} holds count ${top}, and memory saw ${done} written` }];
  }
  const violations: Violation[] = [];
  for (const [slot, count] of slots.entries()) {
    // The last count up to the top that belongs here.
    const expected = Math.max(0, top - ((((top - slot) % SLOTS) + SLOTS) % SLOTS));
    if (count !== expected) {
      const text = `disk ${disk}, slot ${slot}: holds count ${count}, and ${expected} belongs there (top ${top})`;
      violations.push({ kind: 'hole', text });
    }
  }
  return violations;
}

export interface Packet {
  count: number;
  /** On the clock of the host that it left. */
  timeMs: number;
}

const PCAP_HEADER_BYTES = 24;
const PCAP_RECORD_BYTES = 16;
/** Microseconds, little-endian (pcap-savefile(5)). */
const PCAP_MAGIC = 0xa1b2c3d4;

/** The ledger's packets in a capture of tcpdump; a record that is not whole yet ends it. */
export function parseCapture(file: Buffer): Packet[] {
  if (file.length < PCAP_HEADER_BYTES) return [];
  const magic = file.readUInt32LE(0);
  if (magic !== PCAP_MAGIC) throw new Error(`no capture: it begins with ${magic.toString(16)}`);
  const packets: Packet[] = [];
  for (let at = PCAP_HEADER_BYTES; at + PCAP_RECORD_BYTES <= file.length;) {
    const length = file.readUInt32LE(at + 8);
    const frame = file.subarray(at + PCAP_RECORD_BYTES, at + PCAP_RECORD_BYTES + length);
    if (frame.length < length) break;
    const payload = frame.indexOf(PACKET_MAGIC, 0, 'latin1');
    if (payload >= 0) {
      packets.push({
        count: Number(frame.readBigUInt64LE(payload + PACKET_MAGIC.length)),
        timeMs: file.readUInt32LE(at) * 1000 + file.readUInt32LE(at + 4) / 1000,
      });
    }
    at += PCAP_RECORD_BYTES + length;
  }
  return packets;
}

/** An epoch as the primary knows it to be committed, with what its memory said was sent. */
export interface CommittedEpoch {
  epoch: number;
  /** When the primary learned of it, on the clock of the packets, rounded down. */
  timeMs: number;
  sent: number;
}

export interface OutputCheck {
  /** Packets that left between the first commit and the last, and could have been too early. */
  packets: number;
  violations: (Violation & {
    /** Whose output it is; null for one that is not committed. */ epoch: number | null;
  })[];
}

/** @param commits in their order */
export function checkOutput(packets: readonly Packet[], commits: readonly CommittedEpoch[]): OutputCheck {
  const first = commits[0];
  const last = commits[commits.length - 1];
  const check: OutputCheck = { packets: 0, violations: [] };
  if (first === undefined || last === undefined) return check;
  for (const { count, timeMs } of packets) {
    if (timeMs < first.timeMs || timeMs > last.timeMs) continue;
    check.packets++;
    const known = commits.filter((commit) => commit.timeMs <= timeMs);
    const committed = known[known.length - 1] ?? first;
    if (count <= committed.sent) continue;
    const owner = commits.find(({ sent }) => sent >= count);
    const when = owner === undefined ? 'is not committed' : `was committed ${owner.timeMs - timeMs} ms later`;
    const text = `the packet with count ${count} left while epoch ${committed.epoch} (sent ${committed.sent}) was the last one committed; its own ${when}`;
    check.violations.push({ kind: 'packet', text, epoch: owner?.epoch ?? null });
  }
  return check;
}
