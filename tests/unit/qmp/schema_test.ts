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
  assertEquals(featuresOf(qemu72, 7), {
    fleecing: true,
    reopen: "blockdev-reopen",
    backupPerf: true,
    longCbwTimeout: false,
    busyIothreads: false,
    flatBlock: false,
    wideReads: false,
    preallocate: true,
    zstd: false,
  });
});

Deno.test("featuresOf() tells by the version what no schema says", () => {
  const of = (major: number) => {
    const { longCbwTimeout, busyIothreads, wideReads } = featuresOf([], major);
    return [longCbwTimeout, busyIothreads, wideReads];
  };
  assertEquals([8, 9, 10].map(of), [
    [false, false, false],
    [false, true, false],
    [true, true, true],
  ]);
});

Deno.test("featuresOf() finds nothing in an empty schema", () => {
  assertEquals(featuresOf([], 7), {
    fleecing: false,
    reopen: "x-blockdev-reopen",
    backupPerf: false,
    longCbwTimeout: false,
    busyIothreads: false,
    flatBlock: false,
    wideReads: false,
    preallocate: false,
    zstd: false,
  });
});

Deno.test("featuresOf() looks for the preallocate driver", () => {
  assertEquals(featuresOf(schemaOf({ preallocate: ["prealloc-size"] }), 7).preallocate, true);
});

Deno.test("featuresOf() wants on-cbw-error of the filter for fleecing", () => {
  const without = schemaOf({ "copy-before-write": ["target"], "snapshot-access": [] });
  assertEquals(featuresOf(without, 7).fleecing, false);
  const withIt = schemaOf({ "copy-before-write": ["on-cbw-error"], "snapshot-access": [] });
  assertEquals(featuresOf(withIt, 7).fleecing, true);
});

Deno.test("featuresOf() wants the snapshot-access driver for fleecing", () => {
  const schema = schemaOf({ "copy-before-write": ["on-cbw-error"] });
  assertEquals(featuresOf(schema, 7).fleecing, false);
});

Deno.test("featuresOf() looks for x-perf among the options of blockdev-backup", () => {
  assertEquals(featuresOf(schemaOf({}, ["speed"]), 7).backupPerf, false);
  assertEquals(featuresOf(schemaOf({}, ["speed", "x-perf"]), 7).backupPerf, true);
});

Deno.test("featuresOf() trusts long time-outs of the filter from QEMU 10 on", () => {
  assertEquals([7, 9, 10, 11].map((major) => featuresOf([], major).longCbwTimeout), [
    false,
    false,
    true,
    true,
  ]);
});

Deno.test("featuresOf() knows whether `query-block` can leave out the images behind each disk's", () => {
  const schemaWith = (member: string) => [
    { name: "query-block", "meta-type": "command", "arg-type": "1" },
    { name: "1", "meta-type": "object", members: [{ name: member }] },
  ];
  const found = ["flat", "other"].map((name) => featuresOf(schemaWith(name), 11).flatBlock);
  assertEquals(found, [true, false]);
});

Deno.test("featuresOf() finds zstd among the ways to compress a qcow2", () => {
  const schema = (...values: string[]): Schema => [{ name: "1", "meta-type": "enum", values }];
  const isFound = (...values: string[]) => featuresOf(schema(...values), 7).zstd;
  assertEquals([isFound("zlib", "zstd"), isFound("zlib")], [true, false]);
  // `MultiFDCompression`, of migrations.
  assertEquals(isFound("none", "zlib", "zstd"), false);
});
