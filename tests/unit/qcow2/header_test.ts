import { assertEquals } from "@std/assert";
import { firstCluster, HEADER_BYTES, parseHeader } from "../../../src/qcow2/header.ts";

/** A header of version 3, as `qemu-img create` writes it for 32 MiB. */
function aHeader(change: (view: DataView) => void = () => {}): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, 0x514649fb);
  view.setUint32(4, 3);
  view.setUint32(20, 16);
  view.setBigUint64(24, 32n << 20n);
  view.setUint32(36, 1);
  view.setBigUint64(40, 0x30000n);
  view.setBigUint64(48, 0x10000n);
  change(view);
  return bytes;
}

Deno.test("parseHeader() reads where the tables are, and what an image builds on", () => {
  const header = parseHeader(aHeader((view) => {
    view.setBigUint64(8, 0x1f0n);
    view.setUint32(16, 9);
  }));
  assertEquals(header, {
    version: 3,
    virtualSizeBytes: 32 << 20,
    clusterSizeBytes: 65536,
    backing: { offset: 0x1f0, length: 9 },
    l1: { offset: 0x30000, entries: 1 },
    refcountTableOffset: 0x10000,
    isCorrupt: false,
    hasDataFile: false,
    isEncrypted: false,
  });
});

Deno.test("parseHeader() reads the bits that no sound backup has, of version 3 only", () => {
  const bits = (version: number, bit: number) => {
    const header = parseHeader(aHeader((view) => {
      view.setUint32(4, version);
      view.setBigUint64(72, BigInt(bit));
    }));
    return [header?.isCorrupt, header?.hasDataFile];
  };
  assertEquals(bits(3, 2), [true, false]);
  assertEquals(bits(3, 4), [false, true]);
  assertEquals(bits(3, 1), [false, false]);
  assertEquals(bits(2, 6), [false, false]);
});

Deno.test("parseHeader() takes no length for a name that is nowhere", () => {
  assertEquals(parseHeader(aHeader((view) => view.setUint32(16, 99)))?.backing.length, 0);
});

for (
  const [what, bytes] of Object.entries({
    "nothing": new Uint8Array(),
    "zeroes": new Uint8Array(4096),
    "half a header": aHeader().subarray(0, 50),
    "an unknown version": aHeader((view) => view.setUint32(4, 4)),
  })
) {
  Deno.test(`parseHeader() takes ${what} for no header`, () => {
    assertEquals(parseHeader(bytes), null);
  });
}

Deno.test("firstCluster() passes over what is not there or compressed, and takes flags off", () => {
  const table = (...entries: bigint[]) => {
    const bytes = new Uint8Array(entries.length * 8 + 3);
    const view = new DataView(bytes.buffer);
    for (const [i, entry] of entries.entries()) view.setBigUint64(i * 8, entry);
    return bytes;
  };
  const copied = 1n << 63n, compressed = 1n << 62n, zero = 1n;
  assertEquals(
    firstCluster(table(0n, zero, compressed | 0x777n, copied | 0x50000n, 0x60000n)),
    0x50000,
  );
  assertEquals(firstCluster(table(0n, copied)), 0);
  assertEquals(firstCluster(new Uint8Array()), 0);
});
