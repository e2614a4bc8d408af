/**
 * What the lab's guest with a ledger (scripts/lab/guest/ledger.c) leaves in memory, on disks and on the network, and
 * whether the three agree as they must at every commit. The disks have the ledger of `src/core/ledger.ts`, and its
 * checker compares them with memory; of memory the guest keeps a page of counters, which stand for all its entries:
 *
 *     disk d of epoch N    has every count up to done(d), and none above issued(d), of the memory of checkpoint N
 *     packet with count k  does not leave before the commit of the first checkpoint whose memory says sent >= k
 *
 * A write whose answer the guest had not seen when it was suspended may be on its disk or not: its restored frontend
 * sends it again.
 */
import { checkLedger, ledgerPlace, readLedgerEntries } from '../../src/core/ledger.js';
import type { LedgerFault, LedgerMemory } from '../../src/core/ledger.js';
import { PACKET_MAGIC } from './ledger-packet.js';

const PAGE_MAGIC = 'REMUSDRBD-LEDGER';

/** The guest's memory of its ledger. */
export interface LedgerPage {
  disks: { issued: number; done: number }[];
  sent: number;
}

/** What is wrong at a commit. */
export interface Found {
  fault: LedgerFault | 'damaged' | 'no-ledger';
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

/** Blocks of a disk in which every count up to the last one begun lies, and what a disk that is ahead has of more. */
export function blocksOf(page: LedgerPage): number {
  const last = Math.max(1, ...page.disks.map(({ issued }) => issued));
  return ledgerPlace(last).block + 2;
}

/**
 * Compares both disks with the memory of the same commit.
 * @param areas the first blocks of each disk, as many as `blocksOf` says
 */
export function checkCommit(page: LedgerPage, areas: readonly Uint8Array[]): Found[] {
  try {
    const disks = areas.map((area) => readLedgerEntries(area));
    return checkLedger({ answers: [], memory: entriesOf(page, []), disks });
  } catch (error) {
    return [{ fault: 'damaged', text: (error as Error).message }];
  }
}

/**
 * The entries that a page stands for. Of clients' tokens memory has none, so they are taken from the first disk: what
 * is compared is then the other disk, and what the clients say they were told.
 */
export function entriesOf(page: LedgerPage, disks: readonly ReadonlyMap<number, string>[]): LedgerMemory {
  const count = Math.max(...page.disks.map(({ issued }) => issued));
  const entries = new Map<number, string>();
  const pending = new Map<number, number[]>();
  for (let each = 1; each <= count; each++) {
    const found = disks.find((disk) => disk.has(each));
    entries.set(each, found?.get(each) ?? tokenOf(each));
    const missing = page.disks.flatMap(({ done }, disk) => (done < each ? [disk] : []));
    if (missing.length > 0) pending.set(each, missing);
  }
  return { count, entries, pending, begun: page.disks.map(({ issued }) => issued) };
}

/** What the guest writes beside a count that nobody asked for. */
export function tokenOf(count: number): string {
  return `count-${count}`;
}

/** The highest count on a disk; -1 where an entry is damaged. */
export function topOf(area: Uint8Array): number {
  try {
    return Math.max(0, ...readLedgerEntries(area).keys());
  } catch {
    return -1;
  }
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
  violations: {
    text: string;
    /** Whose output it is; null for one that is not committed. */
    epoch: number | null;
  }[];
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
    check.violations.push({ text, epoch: owner?.epoch ?? null });
  }
  return check;
}
