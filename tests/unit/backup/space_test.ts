import { assert, assertEquals } from "@std/assert";
import { planBackup } from "../../../src/plan/plan_backup.ts";
import { claimsOf, fullness, type Room, shortages } from "../../../src/backup/space.ts";
import { neededBytes, reserveBytes } from "../../../src/plan/sizes.ts";
import { aDisk, aRequest, someFacts } from "../_fixtures.ts";

const MIB = 1 << 20;
/** 256 clusters of 10 bytes, and 1 MiB for the rest. */
const METADATA = 2560 + MIB;

Deno.test("claimsOf() claims each disk's room in the target and beside the disk", () => {
  assertEquals(claimsOf(planBackup(aRequest(), someFacts())), [
    {
      folder: "/backup/vm1",
      what: 'the backup of "disk0"',
      sizeBytes: 5 * MIB + METADATA,
    },
    {
      folder: "/vm",
      what: 'the fleece of "disk0"',
      sizeBytes: MIB / 2 + METADATA,
    },
  ]);
});

Deno.test("claimsOf() claims the fleece's room where --fleece-dir says", () => {
  const plan = planBackup(aRequest({ fleeceDir: "/ssd" }), someFacts());
  assertEquals(claimsOf(plan).map(({ folder }) => folder), ["/backup/vm1", "/ssd"]);
});

Deno.test("claimsOf() claims more for smaller clusters", () => {
  const sizeOf = (clusterSizeBytes: number | null) =>
    claimsOf(planBackup(aRequest(), someFacts([aDisk("disk0", { clusterSizeBytes })])))[0]
      ?.sizeBytes ?? 0;
  assert(sizeOf(4096) > sizeOf(65536));
  assertEquals(sizeOf(null), sizeOf(65536));
});

const claim = (what: string, sizeBytes: number) => ({ folder: "/backup", what, sizeBytes });
const room = (freeBytes: number, ...sizes: number[]): Room => ({
  folder: "/backup",
  claims: sizes.map((sizeBytes, index) => claim(`the backup of "disk${index}"`, sizeBytes)),
  freeBytes,
});

Deno.test("shortages() has nothing to say where all fits to the last byte", () => {
  assertEquals(shortages([room(300, 100, 200)]), []);
});

Deno.test("shortages() names claims, needed and free bytes where a byte is missing", () => {
  assertEquals(shortages([room(4095, 2048, 2048)]), [
    'The file system of "/backup" is too full for the backup of "disk0", the backup of "disk1": ' +
    "4096 bytes (4 kiB) are needed, 4095 bytes (4 kiB) are free",
  ]);
});

Deno.test("shortages() looks at each file system by itself", () => {
  assertEquals(shortages([room(100, 50), room(0, 1), room(0)]).length, 1);
});

Deno.test("reserveBytes() holds a full disk with its tables, whatever is used of it now", () => {
  const disk = aDisk("disk0", { virtualSizeBytes: 1 << 30, allocatedBytes: 1 << 20 });
  assertEquals(reserveBytes(disk, "full", 1 << 20), (1 << 30) + 16384 * 10 + (1 << 20));
  assertEquals(reserveBytes(disk, "copy", 0), reserveBytes(disk, "full", 0));
});

Deno.test("reserveBytes() leaves an increment room for what the guest still writes", () => {
  const disk = aDisk("disk0", { virtualSizeBytes: 64 * 2 ** 30 });
  const tables = neededBytes(disk, 0);
  assertEquals(reserveBytes(disk, "inc", 1 << 20) - tables, (2 << 20) + (256 << 20));
  // Never more than all of it.
  assertEquals(reserveBytes(disk, "inc", 64 * 2 ** 30), reserveBytes(disk, "full", 0));
});

Deno.test("neededBytes() counts whole clusters where they are larger than what a bitmap tells apart", () => {
  const disk = aDisk("disk0", { virtualSizeBytes: 64 * 2 ** 30, clusterSizeBytes: 2 << 20 });
  assertEquals(neededBytes(disk, 65536) - neededBytes(disk, 0), 2 << 20);
});

Deno.test("fullness() has nothing to say of a file system with room, or for what is all there", () => {
  assertEquals(fullness(room(4 * MIB, 100 * MIB)), null);
  assertEquals(fullness(room(4096, 4096)), null);
  assertEquals(fullness(room(0, 0)), null);
});

Deno.test("fullness() names the free and the missing bytes of one that is full", () => {
  assertEquals(
    fullness(room(4 * MIB - 1, 100 * MIB)),
    'The file system of "/backup" is full: 4194303 bytes (4 MiB) are free, ' +
      '104857600 bytes (100 MiB) more are needed for the backup of "disk0"',
  );
});
