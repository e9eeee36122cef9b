import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { incrementalBase } from "../../../src/plan/incremental_base.ts";
import type { DiskRecord } from "../../../src/repo/record.ts";
import type { Disk } from "../../../src/vm/disks.ts";
import type { DirtyBitmap } from "../../../src/qmp/queries.ts";
import {
  aBackingImage,
  aBitmap,
  aDisk,
  aDiskRecord,
  aDiskWithBitmap,
  aRun,
  CHAIN,
} from "../_fixtures.ts";

const isWhole = () => null;

function pointOf(change: Partial<DiskRecord> = {}) {
  const disk = aDiskRecord("disk0", change);
  return { run: aRun([disk]), disk };
}

/** Why an increment of the disk can't be taken; "" if it can. */
function reasonAgainst(disk: Disk, change: Partial<DiskRecord> = {}): string {
  const basis = incrementalBase(disk, pointOf(change), isWhole);
  return basis.usable ? "" : basis.reason;
}

Deno.test("incrementalBase() takes a bitmap that has recorded since the last backup", () => {
  const last = pointOf();
  assertEquals(incrementalBase(aDiskWithBitmap(), last, isWhole), {
    usable: true,
    last,
    bitmap: last.disk.bitmap as string,
    dirtyBytes: 3 << 16,
  });
});

Deno.test("incrementalBase() refuses a disk without a backup", () => {
  assertEquals(incrementalBase(aDiskWithBitmap(), undefined, isWhole), {
    usable: false,
    reason: "no backup of this disk in the target yet",
    last: null,
  });
});

Deno.test("incrementalBase() refuses where something is wrong with the last backup's images", () => {
  const last = pointOf();
  const basis = incrementalBase(
    aDiskWithBitmap(),
    last,
    (file) => file === last.disk.file ? `the image "${file}" is missing` : null,
  );
  assertEquals(
    basis.usable ? "" : basis.reason,
    `the last backup can't be built on: the image "${last.disk.file}" is missing`,
  );
});

Deno.test("incrementalBase() refuses a disk whose bitmap is gone", () => {
  assertStringIncludes(reasonAgainst(aDisk()), "is gone");
});

Deno.test("incrementalBase() names what a disk without its bitmap can be compared with, if that is whole", () => {
  const last = pointOf();
  const comparable = (isWhole: boolean, foreign?: string) => {
    const basis = incrementalBase(aDisk(), last, () => isWhole ? null : "it is missing", foreign);
    return basis.last;
  };
  assertEquals(comparable(true), last);
  assertEquals(comparable(false), null);
  assertEquals(comparable(true, "disk0/INC-9-disk0.qcow2"), null);
});

Deno.test("incrementalBase() refuses another run's bitmap", () => {
  const bitmap = "qmpbackup-disk0-another-chain";
  assertStringIncludes(reasonAgainst(aDiskWithBitmap(), { bitmap }), `"${bitmap}" is gone`);
});

Deno.test("incrementalBase() refuses where the last backup has no bitmap", () => {
  assertStringIncludes(
    reasonAgainst(aDiskWithBitmap(), { bitmap: null }),
    "the last backup has no bitmap",
  );
});

Deno.test("incrementalBase() refuses an inconsistent bitmap", () => {
  const disk = aDiskWithBitmap("disk0", { inconsistent: true, recording: false });
  assertStringIncludes(reasonAgainst(disk), "is inconsistent");
});

Deno.test("incrementalBase() refuses a bitmap that does not record", () => {
  const disk = aDiskWithBitmap("disk0", { recording: false });
  assertStringIncludes(reasonAgainst(disk), "does not record");
});

Deno.test("incrementalBase() refuses a bitmap in use", () => {
  assertStringIncludes(reasonAgainst(aDiskWithBitmap("disk0", { busy: true })), "is in use");
});

Deno.test("incrementalBase() refuses a bitmap of another granularity", () => {
  const disk = aDiskWithBitmap("disk0", { granularityBytes: 4096 });
  assertStringIncludes(reasonAgainst(disk), "another granularity (4096)");
});

Deno.test("incrementalBase() refuses a disk that has shrunk", () => {
  const disk = { ...aDiskWithBitmap(), virtualSizeBytes: (16 << 20) - 512 };
  assertEquals(reasonAgainst(disk), "the disk has shrunk");
});

Deno.test("incrementalBase() takes a disk that has grown", () => {
  assertEquals(reasonAgainst({ ...aDiskWithBitmap(), virtualSizeBytes: 32 << 20 }), "");
});

const SENTINEL = { bitmap: `qmpbackup-disk0-0ld0ld00-${CHAIN}(end)`, countBytes: 65536 };

function aDiskWithSentinel(change: Partial<DirtyBitmap> = {}): Disk {
  const { bitmaps, ...disk } = aDiskWithBitmap();
  const sentinel = { recording: false, countBytes: SENTINEL.countBytes, ...change };
  return { ...disk, bitmaps: [...bitmaps, aBitmap(SENTINEL.bitmap, sentinel)] };
}

Deno.test("incrementalBase() takes a disk whose sentinel has its bit, also when it has grown", () => {
  const disk = aDiskWithSentinel();
  assertEquals(reasonAgainst(disk, { sentinel: SENTINEL }), "");
  assertEquals(reasonAgainst({ ...disk, virtualSizeBytes: 32 << 20 }, { sentinel: SENTINEL }), "");
});

Deno.test("incrementalBase() refuses a disk whose sentinel tells that it was cut, or can't tell", () => {
  const reason = (disk: Disk) => reasonAgainst(disk, { sentinel: SENTINEL });
  assertStringIncludes(reason(aDiskWithSentinel({ countBytes: 0 })), "was shrunk and grown again");
  assertStringIncludes(reason(aDiskWithSentinel({ countBytes: 131072 })), "was shrunk");
  assertStringIncludes(reason(aDiskWithSentinel({ recording: true })), "enabled by another");
  assertStringIncludes(reason(aDiskWithSentinel({ inconsistent: true })), "is inconsistent");
  assertStringIncludes(reason(aDiskWithSentinel({ busy: true })), "is in use");
  assertStringIncludes(reason(aDiskWithBitmap()), "is gone");
});

Deno.test("incrementalBase() refuses a bitmap without the bit that it began with", () => {
  const { bitmaps: [, sentinel], ...disk } = aDiskWithSentinel();
  const { bitmaps: [empty] } = aDiskWithBitmap("disk0", { countBytes: 0 });
  const bitmaps = [empty, sentinel] as DirtyBitmap[];
  assertStringIncludes(reasonAgainst({ ...disk, bitmaps }, { sentinel: SENTINEL }), "was cleared");
  assertEquals(reasonAgainst({ ...disk, bitmaps }), "");
});

Deno.test("incrementalBase() refuses a disk on other backing files, and can compare it", () => {
  const backing = [aBackingImage("a"), aBackingImage("b")];
  const disk = { ...aDiskWithBitmap(), backing };
  assertEquals(reasonAgainst(disk, { backing }), "");
  assertEquals(reasonAgainst(disk, { backing: null }), "");
  const basis = incrementalBase(disk, pointOf({ backing: [aBackingImage("a")] }), isWhole);
  assert(!basis.usable && basis.last !== null);
  assertStringIncludes(basis.reason, "its backing files are not those of the last backup");
});
