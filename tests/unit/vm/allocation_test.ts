import { assertEquals } from "@std/assert";
import { isThin } from "../../../src/vm/allocation.ts";
import type { Disk } from "../../../src/vm/disks.ts";
import { aBackingImage, aDisk } from "../_fixtures.ts";

const SIZE = 100 << 20;
const { image } = aDisk();
const details = (data: Record<string, unknown>) => ({
  image: { ...image, "format-specific": { type: "qcow2", data } },
});

const CASES: [what: string, change: Partial<Disk>, expected: boolean][] = [
  ["little in it", {}, true],
  ["three quarters in it", { allocatedBytes: SIZE * 0.75 }, false],
  ["an image on a block device, which has no size of its own", { allocatedBytes: 0 }, true],
  ["a raw image, whose holes count as allocated", { format: "raw" }, false],
  ["a backing file", { backing: [aBackingImage("base.qcow2")] }, false],
  [
    "a backing file that QEMU has not open",
    { image: { ...image, "backing-filename": "b" } },
    false,
  ],
  ["its data in another file", details({ "data-file": "d.raw" }), false],
  ["details of its format", details({ compat: "1.1" }), true],
];

for (const [what, change, expected] of CASES) {
  Deno.test(`isThin() is ${expected} of a disk with ${what}`, () => {
    const disk = aDisk("disk0", { virtualSizeBytes: SIZE, allocatedBytes: SIZE / 2, ...change });
    assertEquals(isThin(disk), expected);
  });
}
