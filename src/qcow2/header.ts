/**
 * What an image's first bytes say of it. Pure.
 *
 * Source: QEMU's docs/interop/qcow2.txt.
 *
 * @module
 */

/** A header of version 3 without extensions; one of version 2 is shorter. */
export const HEADER_BYTES = 104;

const MAGIC = 0x514649fb;

/** Where the bits stand that a program must clear when it opens an image for writing, and does not know. */
export const AUTOCLEAR_OFFSET = 88;

/** Incompatible features, in the last byte of the field. */
const CORRUPT = 2;
const DATA_FILE = 4;

export interface Qcow2Header {
  version: number;
  virtualSizeBytes: number;
  clusterSizeBytes: number;
  /** Where the name of its parent stands; length 0 where there is none. */
  backing: { offset: number; length: number };
  l1: { offset: number; entries: number };
  refcountTableOffset: number;
  /** QEMU found that its metadata contradicts itself. */
  isCorrupt: boolean;
  /** Its data lies in another file. */
  hasDataFile: boolean;
  /** Its data is encrypted, in whatever way. */
  isEncrypted: boolean;
}

/** Reads a header; null if it is not one of a qcow2 image. */
export function parseHeader(bytes: Uint8Array): Qcow2Header | null {
  if (bytes.length < HEADER_BYTES) return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const version = view.getUint32(4);
  if (view.getUint32(0) !== MAGIC || (version !== 2 && version !== 3)) return null;
  const offset = (at: number) => Number(view.getBigUint64(at));
  const incompatible = version === 3 ? view.getUint8(79) : 0;
  const backingOffset = offset(8);
  return {
    version,
    virtualSizeBytes: offset(24),
    clusterSizeBytes: 2 ** view.getUint32(20),
    backing: { offset: backingOffset, length: backingOffset === 0 ? 0 : view.getUint32(16) },
    l1: { offset: offset(40), entries: view.getUint32(36) },
    refcountTableOffset: offset(48),
    isCorrupt: (incompatible & CORRUPT) !== 0,
    hasDataFile: (incompatible & DATA_FILE) !== 0,
    isEncrypted: view.getUint32(32) !== 0,
  };
}

/** An entry's bits that are the offset of a cluster. */
const OFFSET_MASK = 0x00ff_ffff_ffff_fe00n;
const COMPRESSED = 1n << 62n;

/** The offset of the first cluster that a piece of an L1, an L2 or a refcount table names; 0 for none. */
export function firstCluster(table: Uint8Array): number {
  const view = new DataView(table.buffer, table.byteOffset, table.byteLength);
  for (let at = 0; at + 8 <= table.length; at += 8) {
    const entry = view.getBigUint64(at);
    if ((entry & COMPRESSED) === 0n && (entry & OFFSET_MASK) !== 0n) {
      return Number(entry & OFFSET_MASK);
    }
  }
  return 0;
}
