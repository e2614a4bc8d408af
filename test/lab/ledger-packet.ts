/** What the lab's guest with a ledger (scripts/lab/guest/ledger.c) sends to everyone with each count. */

/** UDP, for this; TCP, for its clients. */
export const PORT = 9999;
export const PACKET_MAGIC = 'REMUSDRBD-PACKET';

/** @returns the count in a packet; null where it is no such packet */
export function packetCount(packet: Buffer): number | null {
  if (!packet.subarray(0, PACKET_MAGIC.length).equals(Buffer.from(PACKET_MAGIC, 'latin1'))) return null;
  return Number(packet.readBigUInt64LE(PACKET_MAGIC.length));
}
