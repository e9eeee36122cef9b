import { assertEquals, assertMatch } from "@std/assert";
import { type DeviceRow, parseLsblk, problemOfDevice } from "../../../src/restore/device.ts";

const MIB = 1 << 20;
const aRow = (change: Partial<DeviceRow> = {}): DeviceRow => ({
  type: "lvm",
  sizeBytes: 16 * MIB,
  mountPoint: "",
  ...change,
});

Deno.test("parseLsblk() reads the device and what is on it", () => {
  const text =
    `TYPE="disk" SIZE="16777216" MOUNTPOINT=""\nTYPE="part" SIZE="1048576" MOUNTPOINT="/mnt/a b"\n`;
  assertEquals(parseLsblk(text), [
    aRow({ type: "disk" }),
    { type: "part", sizeBytes: MIB, mountPoint: "/mnt/a b" },
  ]);
});

const PROBLEMS: [what: string, rows: DeviceRow[], problem: RegExp][] = [
  ["is not there", [], /is not a block device/],
  ["is mounted", [aRow({ mountPoint: "/srv" })], /mounted as \/srv/],
  ["has a mounted partition", [aRow(), aRow({ type: "part", mountPoint: "/" })], /mounted as \//],
  ["is swapped to", [aRow({ mountPoint: "[SWAP]" })], /\[SWAP\]/],
  [
    "has a volume on it",
    [aRow(), aRow({ type: "part" }), aRow({ type: "crypt" })],
    /the type crypt/,
  ],
  ["is too small", [aRow({ sizeBytes: 16 * MIB - 1 })], /make it larger/],
];
for (const [what, rows, problem] of PROBLEMS) {
  Deno.test(`problemOfDevice() refuses a device that ${what}`, () => {
    assertMatch(problemOfDevice("/dev/x", rows, 16 * MIB) ?? "", problem);
  });
}

Deno.test("problemOfDevice() takes a device that is free, with old partitions too", () => {
  assertEquals(problemOfDevice("/dev/x", [aRow(), aRow({ type: "part" })], 16 * MIB), null);
});
