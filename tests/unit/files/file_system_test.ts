import { assertEquals } from "@std/assert";
import { fileSystemOf, HEAD_BYTES } from "../../../src/files/file_system.ts";

function head(offset: number, bytes: string | number[]): Uint8Array {
  const all = new Uint8Array(HEAD_BYTES);
  all.set(typeof bytes === "string" ? new TextEncoder().encode(bytes) : bytes, offset);
  return all;
}

const HEADS: [what: string, bytes: Uint8Array, type: string | null, reader: string | null][] = [
  ["an ext", head(1080, [0x53, 0xef]), "ext", "debugfs"],
  ["an XFS", head(0, "XFSB"), "xfs", null],
  ["a btrfs", head(65600, "_BHRfS_M"), "btrfs", null],
  ["a physical volume", head(536, "LVM2 001"), "LVM", null],
  ["a LUKS volume", head(0, [0x4c, 0x55, 0x4b, 0x53, 0xba, 0xbe]), "LUKS", null],
  ["an NTFS", head(3, "NTFS    "), "ntfs", "7z"],
  ["a FAT16", head(54, "FAT16   "), "fat", "7z"],
  ["a FAT32", head(82, "FAT32   "), "fat", "7z"],
  ["zeros", head(0, []), null, null],
  ["nothing", new Uint8Array(), null, null],
];
for (const [what, bytes, type, reader] of HEADS) {
  Deno.test(`\`fileSystemOf()\` knows ${what}`, () => {
    const found = fileSystemOf(bytes);
    assertEquals([found?.type ?? null, found?.reader ?? null], [type, reader]);
  });
}

Deno.test("`fileSystemOf()` sees an ext whose journal holds what is not yet in its place", () => {
  const bytes = head(1080, [0x53, 0xef]);
  assertEquals(fileSystemOf(bytes)?.needsReplay, false);
  bytes[1024 + 0x60] = 0x4;
  assertEquals(fileSystemOf(bytes)?.needsReplay, true);
});
