import { assertEquals } from "@std/assert";
import { featuresOf } from "../../../src/qmp/schema.ts";
import qemu72 from "./qemu_7_2_schema.json" with { type: "json" };

type Schema = Parameters<typeof featuresOf>[0];
type Entity = Schema[number];

/** A schema whose `blockdev-add` knows these drivers, each with its options. */
function schemaOf(drivers: Record<string, string[]>, backupOptions: string[] = []): Schema {
  const members = (names: string[]) => names.map((name) => ({ name }));
  return [
    { name: "blockdev-add", "meta-type": "command", "arg-type": "1" },
    { name: "blockdev-backup", "meta-type": "command", "arg-type": "2" },
    {
      name: "1",
      "meta-type": "object",
      members: members(["driver"]),
      variants: Object.keys(drivers).map((driver) => ({ case: driver, type: `of ${driver}` })),
    },
    { name: "2", "meta-type": "object", members: members(backupOptions) },
    ...Object.entries(drivers).map(([driver, options]): Entity => ({
      name: `of ${driver}`,
      "meta-type": "object",
      members: members(options),
    })),
  ];
}

Deno.test("featuresOf() finds all in what QEMU 7.2 says", () => {
  assertEquals(featuresOf(qemu72), {
    fleecing: true,
    backupPerf: true,
    preallocate: true,
  });
});

Deno.test("featuresOf() finds nothing in an empty schema", () => {
  assertEquals(featuresOf([]), { fleecing: false, backupPerf: false, preallocate: false });
});

Deno.test("featuresOf() wants on-cbw-error of the filter for fleecing", () => {
  const without = schemaOf({ "copy-before-write": ["target"], "snapshot-access": [] });
  assertEquals(featuresOf(without).fleecing, false);
  const withIt = schemaOf({ "copy-before-write": ["on-cbw-error"], "snapshot-access": [] });
  assertEquals(featuresOf(withIt).fleecing, true);
});

Deno.test("featuresOf() wants the snapshot-access driver for fleecing", () => {
  const schema = schemaOf({ "copy-before-write": ["on-cbw-error"] });
  assertEquals(featuresOf(schema).fleecing, false);
});

Deno.test("featuresOf() looks for x-perf among the options of blockdev-backup", () => {
  assertEquals(featuresOf(schemaOf({}, ["speed"])).backupPerf, false);
  assertEquals(featuresOf(schemaOf({}, ["speed", "x-perf"])).backupPerf, true);
});

Deno.test("featuresOf() looks for the preallocate driver", () => {
  assertEquals(featuresOf(schemaOf({ preallocate: [] })).preallocate, true);
});
