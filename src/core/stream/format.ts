/**
 * The numbers of the migration stream that `xl remus` writes: xl's header, libxl's records, libxc's image.
 *
 *     xl:     magic[32] | byte order u32 | mandatory flags u32 | optional flags u32 | optional data length u32
 *             optional data: configuration length u32 | configuration | what later versions may add
 *     libxl:  ident u64 | version u32 | options u32                          all big-endian
 *             records up to LIBXC_CONTEXT
 *     libxc:  marker u64 | id u32 | version u32 | options u16 | zero[6]      all big-endian
 *             domain type u32 | page shift u16 | zero u16 | Xen major u32 | Xen minor u32
 *             records up to CHECKPOINT; then libxl's up to CHECKPOINT_END; then libxc's again; and so on
 *
 * A record of both layers: type u32 | body length u32 | body, padded with zeroes to a multiple of 8 bytes. Bit 31 of
 * a type marks a record that may be ignored. What is not big-endian is little-endian on x86.
 *
 * Sources: Xen, docs/specs/libxl-migration-stream.pandoc (version 2), docs/specs/libxc-migration-stream.pandoc
 * (versions 2 and 3), and tools/xl/xl.h for xl's header.
 */

export const XL_MAGIC = 'Xen saved domain, xl format\n \0 \r';
export const XL_HEADER_BYTES = 48;
export const XL_BYTE_ORDER = 0x01020304;
export const XlFlag = {
  /** The configuration is libxl's JSON, not an xl.cfg. */
  json: 1 << 0,
  /** libxl's version 2 format follows; every Xen since 4.6 sets it. */
  streamV2: 1 << 1,
} as const;

export const LIBXL_HEADER_BYTES = 16;
/** "LibxlFmt", as two big-endian words. */
export const LIBXL_IDENT = [0x4c696278, 0x6c466d74] as const;
export const LIBXL_VERSION = 2;
export const LibxlOption = { bigEndian: 1 << 0, legacy: 1 << 1 } as const;

export const IMAGE_HEADER_BYTES = 24;
export const IMAGE_MARKER = 0xffff_ffff;
/** "XENF" */
export const IMAGE_ID = 0x58454e46;
export const ImageOption = { bigEndian: 1 << 0 } as const;

export const DOMAIN_HEADER_BYTES = 16;
export const DomainType = { x86Pv: 1, x86Hvm: 2 } as const;
export const PAGE_SHIFT = 12;
export const PAGE_BYTES = 1 << PAGE_SHIFT;

export const RECORD_HEADER_BYTES = 8;
const RECORD_ALIGN_BYTES = 8;
const RECORD_OPTIONAL = 0x8000_0000;

export type Layer = 'libxl' | 'libxc';

export const LibxlRecord = {
  END: 0,
  LIBXC_CONTEXT: 1,
  EMULATOR_XENSTORE_DATA: 2,
  EMULATOR_CONTEXT: 3,
  CHECKPOINT_END: 4,
  CHECKPOINT_STATE: 5,
} as const;

export const LibxcRecord = {
  END: 0x00,
  PAGE_DATA: 0x01,
  X86_PV_INFO: 0x02,
  X86_PV_P2M_FRAMES: 0x03,
  X86_PV_VCPU_BASIC: 0x04,
  X86_PV_VCPU_EXTENDED: 0x05,
  X86_PV_VCPU_XSAVE: 0x06,
  SHARED_INFO: 0x07,
  X86_TSC_INFO: 0x08,
  HVM_CONTEXT: 0x09,
  HVM_PARAMS: 0x0a,
  TOOLSTACK: 0x0b,
  X86_PV_VCPU_MSRS: 0x0c,
  VERIFY: 0x0d,
  CHECKPOINT: 0x0e,
  CHECKPOINT_DIRTY_PFN_LIST: 0x0f,
  STATIC_DATA_END: 0x10,
  X86_CPUID_POLICY: 0x11,
  X86_MSR_POLICY: 0x12,
} as const;

/** What a record's length may be, in bytes without padding; or why the record can't be in such a stream at all. */
type RecordRule = {
  name: string;
} & (
  | { minBytes: number; maxBytes: number; /** Counted from minBytes. */ stepBytes: number }
  | { refused: string }
);

/** Bits 60 to 63 of a page number in PAGE_DATA. Page tables (1 to 4, pinned with bit 3) are those of PV guests. */
export const PageType = { normal: 0x0, broken: 0xd, allocateOnly: 0xe, invalid: 0xf } as const;
/** Types 5 to 8 are reserved. Broken, unallocated and invalid pages have no data in the record. */
export function isPageType(type: number): boolean {
  return type <= 4 || (type >= 9 && type <= 0xf);
}
export function hasPageData(type: number): boolean {
  return type < PageType.broken;
}
/** Pages in one record, at most: libxc's own batches. */
export const BATCH_PAGES = 1024;

const MIB = 1 << 20;
/** libxc refuses to read a longer record, whatever its type. */
export const RECORD_BYTES_MAX = 128 * MIB;
/** xl's optional data, of which the configuration is nearly all: tens of KiB for a guest with every device. */
export const CONFIG_BYTES_MAX = 1 * MIB;

const empty = (name: string): RecordRule => ({ name, minBytes: 0, maxBytes: 0, stepBytes: 1 });
const sized = (name: string, minBytes: number, maxBytes: number, stepBytes = 1): RecordRule => ({
  name,
  minBytes,
  maxBytes,
  stepBytes,
});
const pv = (name: string): RecordRule => ({ name, refused: 'it belongs to PV guests, and the guest is HVM' });

const LIBXL_RULES: Readonly<Record<number, RecordRule>> = {
  [LibxlRecord.END]: empty('END'),
  [LibxlRecord.LIBXC_CONTEXT]: empty('LIBXC_CONTEXT'),
  // Both begin with the emulator's id and index.
  [LibxlRecord.EMULATOR_XENSTORE_DATA]: sized('EMULATOR_XENSTORE_DATA', 8, MIB),
  [LibxlRecord.EMULATOR_CONTEXT]: sized('EMULATOR_CONTEXT', 8, RECORD_BYTES_MAX),
  [LibxlRecord.CHECKPOINT_END]: empty('CHECKPOINT_END'),
  [LibxlRecord.CHECKPOINT_STATE]: { name: 'CHECKPOINT_STATE', refused: 'it belongs to COLO, not to Remus' },
};

const LIBXC_RULES: Readonly<Record<number, RecordRule>> = {
  [LibxcRecord.END]: empty('END'),
  // Its count, at least one page number, and whole pages.
  [LibxcRecord.PAGE_DATA]: sized('PAGE_DATA', 16, RECORD_BYTES_MAX, 8),
  [LibxcRecord.X86_PV_INFO]: pv('X86_PV_INFO'),
  [LibxcRecord.X86_PV_P2M_FRAMES]: pv('X86_PV_P2M_FRAMES'),
  [LibxcRecord.X86_PV_VCPU_BASIC]: pv('X86_PV_VCPU_BASIC'),
  [LibxcRecord.X86_PV_VCPU_EXTENDED]: pv('X86_PV_VCPU_EXTENDED'),
  [LibxcRecord.X86_PV_VCPU_XSAVE]: pv('X86_PV_VCPU_XSAVE'),
  [LibxcRecord.SHARED_INFO]: pv('SHARED_INFO'),
  [LibxcRecord.X86_TSC_INFO]: sized('X86_TSC_INFO', 24, 24),
  // About 15 KiB for each virtual CPU.
  [LibxcRecord.HVM_CONTEXT]: sized('HVM_CONTEXT', 0, 64 * MIB),
  // A count and pairs; Xen 4.6 to 4.8 could also send it without a body.
  [LibxcRecord.HVM_PARAMS]: sized('HVM_PARAMS', 0, 64 * 1024 + 8, 8),
  [LibxcRecord.TOOLSTACK]: { name: 'TOOLSTACK', refused: 'it was used only while the format was developed' },
  [LibxcRecord.X86_PV_VCPU_MSRS]: pv('X86_PV_VCPU_MSRS'),
  [LibxcRecord.VERIFY]: empty('VERIFY'),
  [LibxcRecord.CHECKPOINT]: empty('CHECKPOINT'),
  [LibxcRecord.CHECKPOINT_DIRTY_PFN_LIST]: {
    name: 'CHECKPOINT_DIRTY_PFN_LIST',
    refused: 'only a COLO backup sends it, to its primary',
  },
  [LibxcRecord.STATIC_DATA_END]: empty('STATIC_DATA_END'),
  // Leaves of 24 bytes, and entries of 16.
  [LibxcRecord.X86_CPUID_POLICY]: sized('X86_CPUID_POLICY', 0, MIB),
  [LibxcRecord.X86_MSR_POLICY]: sized('X86_MSR_POLICY', 0, MIB),
};

/** @returns null for a mandatory record that is not known */
export function ruleOf(layer: Layer, type: number): RecordRule | null {
  const rule = (layer === 'libxl' ? LIBXL_RULES : LIBXC_RULES)[type];
  if (rule !== undefined) return rule;
  if (type < RECORD_OPTIONAL) return null;
  return sized(`optional 0x${type.toString(16)}`, 0, RECORD_BYTES_MAX);
}

/** A body's length with its padding. */
export function paddedBytes(lengthBytes: number): number {
  return Math.ceil(lengthBytes / RECORD_ALIGN_BYTES) * RECORD_ALIGN_BYTES;
}
