import { assertEquals, assertMatch } from "@std/assert";
import { placeDisks } from "../../../src/restore/vm_disks.ts";
import { aDiskRecord } from "../_fixtures.ts";

Deno.test("placeDisks() gives each disk its own name and format", () => {
  const placed = placeDisks([
    aDiskRecord("a", { source: "/vm/a.img", format: "raw" }),
    aDiskRecord("b", { source: "/other/a.img", format: "vmdk" }),
    aDiskRecord("c", { source: "/vm/start.sh", format: "luks" }),
    aDiskRecord("d", { id: "/machine/system.flash1" }),
    aDiskRecord("e"),
  ], ["start.sh"]);
  assertEquals(placed.map(({ name, format }) => [name, format]), [
    ["a.img", "raw"],
    ["2-a.img", "vmdk"],
    ["2-start.sh", "qcow2"],
    ["d.qcow2", "raw"],
    ["e.qcow2", "qcow2"],
  ]);
  assertEquals(placed.map(({ note }) => note === null), [true, true, false, true, false]);
  assertMatch(placed[2]?.note ?? "", /had the format luks/);
});
