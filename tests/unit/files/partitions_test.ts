import { assertEquals } from "@std/assert";
import { parseMbr, readPartitions } from "../../../src/files/partitions.ts";

const DISK_BYTES = 64 << 20;

/** A disk of zeros, into which something was written. */
function disk(...writes: [offset: number, bytes: Uint8Array][]) {
  const bytes = new Uint8Array(1 << 20);
  for (const [offset, piece] of writes) bytes.set(piece, offset);
  return (offset: number, length: number) =>
    Promise.resolve(bytes.slice(offset, Math.min(offset + length, bytes.length)));
}

function mbr(...entries: [type: number, first: number, sectors: number][]): Uint8Array {
  const bytes = new Uint8Array(512);
  const view = new DataView(bytes.buffer);
  for (const [i, [type, first, sectors]] of entries.entries()) {
    view.setUint8(446 + i * 16 + 4, type);
    view.setUint32(446 + i * 16 + 8, first, true);
    view.setUint32(446 + i * 16 + 12, sectors, true);
  }
  bytes.set([0x55, 0xaa], 510);
  return bytes;
}

function gpt(sectorBytes: number, entries: (readonly [first: bigint, last: bigint] | null)[]) {
  const header = new Uint8Array(512);
  header.set(new TextEncoder().encode("EFI PART"));
  const view = new DataView(header.buffer);
  view.setBigUint64(72, 2n, true);
  view.setUint32(80, entries.length, true);
  view.setUint32(84, 128, true);
  const table = new Uint8Array(128 * entries.length);
  for (const [i, entry] of entries.entries()) {
    if (!entry) continue;
    table.fill(7, i * 128, i * 128 + 16);
    const record = new DataView(table.buffer, i * 128);
    record.setBigUint64(32, entry[0], true);
    record.setBigUint64(40, entry[1], true);
  }
  return disk([0, mbr([0xee, 1, 1000])], [sectorBytes, header], [2 * sectorBytes, table]);
}

const places = async (read: ReturnType<typeof disk>) =>
  (await readPartitions(read, DISK_BYTES)).map(({ number, offsetBytes, sizeBytes }) => [
    number,
    offsetBytes,
    sizeBytes,
  ]);

for (const sectorBytes of [512, 4096]) {
  Deno.test(`\`readPartitions()\` reads a GPT of sectors of ${sectorBytes} bytes`, async () => {
    const read = gpt(sectorBytes, [[8n, 15n], null, [16n, 16n]]);
    assertEquals(await places(read), [
      [1, 8 * sectorBytes, 8 * sectorBytes],
      [3, 16 * sectorBytes, sectorBytes],
    ]);
  });
}

Deno.test("`readPartitions()` leaves out what lies outside of the disk, or ends before it begins", async () => {
  const far = BigInt(DISK_BYTES / 512);
  assertEquals(await places(gpt(512, [[8n, far], [9n, 3n], [2n ** 63n, 2n ** 63n], [8n, 9n]])), [
    [4, 4096, 1024],
  ]);
});

Deno.test("`readPartitions()` reads an MBR, and the logical partitions in its extended one", async () => {
  const read = disk(
    [0, mbr([0x83, 8, 16], [0, 0, 0], [0x0f, 100, 900])],
    [100 * 512, mbr([0x83, 2, 10], [0x05, 50, 100])],
    [150 * 512, mbr([0x07, 3, 20])],
  );
  assertEquals(await places(read), [
    [1, 8 * 512, 16 * 512],
    [5, 102 * 512, 10 * 512],
    [6, 153 * 512, 20 * 512],
  ]);
});

Deno.test("`readPartitions()` ends in a chain of tables that runs in a circle", async () => {
  const read = disk(
    [0, mbr([0x05, 100, 900])],
    [100 * 512, mbr([0x83, 2, 10], [0x05, 0, 100])],
  );
  assertEquals((await places(read)).length, 128);
});

Deno.test("`readPartitions()` finds none on an empty disk", async () => {
  assertEquals(await places(disk()), []);
});

Deno.test("`parseMbr()` does not take the head of a FAT for a table", () => {
  const head = mbr([0x83, 8, 16]);
  // Code, where a table has 0x80 or 0.
  head[446] = 0x31;
  assertEquals(parseMbr(head), null);
});
