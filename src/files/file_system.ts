/**
 * What file system is on a partition, by its first bytes. Pure.
 *
 * Source: libblkid's table of magic numbers (util-linux, libblkid/src/superblocks).
 *
 * @module
 */

/** Enough of a partition to tell. */
export const HEAD_BYTES = 65536 + 4096;

export interface FileSystem {
  type: string;
  /** What reads it: null where nothing that we know does without root. */
  reader: "debugfs" | "7z" | null;
  /** An ext that was in use: what its journal holds is not yet where it belongs. */
  needsReplay: boolean;
}

const EXT_INCOMPAT_RECOVER = 0x4;
const EXT_INCOMPAT_JOURNAL_DEVICE = 0x8;

interface Magic {
  type: string;
  offset: number;
  bytes: string;
  reader: FileSystem["reader"];
}

const MAGICS: Magic[] = [
  { type: "xfs", offset: 0, bytes: "XFSB", reader: null },
  { type: "btrfs", offset: 65536 + 64, bytes: "_BHRfS_M", reader: null },
  { type: "LVM", offset: 512 + 24, bytes: "LVM2 001", reader: null },
  { type: "LVM", offset: 24, bytes: "LVM2 001", reader: null },
  { type: "LUKS", offset: 0, bytes: "LUKS\xba\xbe", reader: null },
  { type: "swap", offset: 4086, bytes: "SWAPSPACE2", reader: null },
  { type: "ntfs", offset: 3, bytes: "NTFS    ", reader: "7z" },
  { type: "fat", offset: 54, bytes: "FAT", reader: "7z" },
  { type: "fat", offset: 82, bytes: "FAT32", reader: "7z" },
  { type: "squashfs", offset: 0, bytes: "hsqs", reader: "7z" },
  { type: "iso9660", offset: 32769, bytes: "CD001", reader: "7z" },
];

/** The file system that begins with these bytes; null if none is known. */
export function fileSystemOf(head: Uint8Array): FileSystem | null {
  const text = (offset: number, length: number) =>
    new TextDecoder("latin1").decode(head.subarray(offset, offset + length));
  if (head.length >= 2048 && head[1080] === 0x53 && head[1081] === 0xef) {
    const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
    const incompat = view.getUint32(1024 + 0x60, true);
    if (incompat & EXT_INCOMPAT_JOURNAL_DEVICE) {
      return { type: "ext journal", reader: null, needsReplay: false };
    }
    return { type: "ext", reader: "debugfs", needsReplay: (incompat & EXT_INCOMPAT_RECOVER) !== 0 };
  }
  const magic = MAGICS.find(({ offset, bytes }) =>
    [...bytes].every((letter, i) => head[offset + i] === letter.charCodeAt(0)) &&
    text(offset, bytes.length).length === bytes.length
  );
  return magic ? { type: magic.type, reader: magic.reader, needsReplay: false } : null;
}
