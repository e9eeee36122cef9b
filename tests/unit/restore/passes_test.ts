import { assert, assertEquals } from "@std/assert";
import { chainSource } from "../../../src/qemu_img/chain_source.ts";
import { GROUP_LIMITS, LIMITS, planGroups, planPasses } from "../../../src/restore/passes.ts";

const between = (pass: number) => `/r/between${pass}`;
const layersOf = (count: number) => Array.from({ length: count }, (_, i) => `/b/${i}.qcow2`);

interface Source {
  driver: string;
  file: { driver: string; filename: string };
  backing: Source | null;
}

/** The file names in a source, the lowest first. */
function filesIn(source: string): string[] {
  const files: string[] = [];
  let image: Source | null = JSON.parse(source.slice("json:".length));
  for (; image; image = image.backing) files.unshift(image.file.filename);
  return files;
}

const filesOfPasses = (layers: string[], limits = LIMITS) =>
  planPasses(layers, between, limits).map(({ source }) => filesIn(source));

Deno.test("chainSource() spells the chain out, the newest image at the top", () => {
  assertEquals(JSON.parse(chainSource(["/b/full", "/b/inc"]).slice("json:".length)), {
    driver: "qcow2",
    file: { driver: "file", filename: "/b/inc" },
    backing: { driver: "qcow2", file: { driver: "file", filename: "/b/full" }, backing: null },
  });
});

Deno.test("chainSource() keeps names that QEMU would read as something else", () => {
  const names = ['/b/a"b', "/b/json:{", "/b/nbd:x", "/b/ü, and\nnew"];
  assertEquals(filesIn(chainSource(names)), names);
});

Deno.test("planPasses() takes a short chain in one pass", () => {
  assertEquals(planPasses(["/b/full", "/b/inc"], between), [
    { source: chainSource(["/b/full", "/b/inc"]), isLast: true },
  ]);
});

Deno.test("planPasses() takes a full backup alone", () => {
  assertEquals(filesOfPasses(["/b/full"]), [["/b/full"]]);
});

Deno.test("planPasses() takes as many layers as the limit in one pass", () => {
  assertEquals(filesOfPasses(layersOf(3), { ...LIMITS, layers: 3 }).length, 1);
});

Deno.test("planPasses() builds each further pass on what the one before made", () => {
  assertEquals(filesOfPasses(layersOf(6), { ...LIMITS, layers: 3 }), [
    ["/b/0.qcow2", "/b/1.qcow2", "/b/2.qcow2"],
    ["/r/between1", "/b/3.qcow2", "/b/4.qcow2"],
    ["/r/between2", "/b/5.qcow2"],
  ]);
});

Deno.test("planPasses() marks the last pass only", () => {
  const passes = planPasses(layersOf(6), between, { ...LIMITS, layers: 3 });
  assertEquals(passes.map(({ isLast }) => isLast), [false, false, true]);
});

Deno.test("planPasses() takes every layer once, in order", () => {
  for (const layers of [2, 3, 7]) {
    const taken = filesOfPasses(layersOf(1000), { ...LIMITS, layers }).flat()
      .filter((name) => !name.startsWith("/r/"));
    assertEquals(taken, layersOf(1000));
  }
});

Deno.test("planPasses() keeps the arguments of qemu-img short enough", () => {
  const long = layersOf(90).map((path) => "/€" + "x".repeat(3000) + path);
  const passes = planPasses(long, between);
  assert(passes.length > 1);
  const encoder = new TextEncoder();
  for (const { source } of passes) assert(encoder.encode(source).length <= LIMITS.bytes);
});

Deno.test("planPasses() ends where two layers are longer than allowed", () => {
  const passes = filesOfPasses(layersOf(4), { layers: 100, bytes: 1 });
  assertEquals(passes.map((files) => files.length), [2, 2, 2]);
});

const few = { ...LIMITS, layers: 4 };

for (
  const [count, groups] of [
    [1, []],
    [4, []],
    [5, ["1 2", "3 4"]],
    [6, ["1 2", "3 4", "5"]],
    [7, ["1 2", "3 4", "5 6"]],
  ] as const
) {
  Deno.test(`planGroups() of ${count} images where 4 fit makes ${groups.length} groups`, () => {
    const planned = planGroups(layersOf(count), undefined, few, { ...GROUP_LIMITS, layers: 2 });
    assertEquals(planned, groups.map((text) => text.split(" ").map((i) => `/b/${i}.qcow2`)));
  });
}

Deno.test("planGroups() leaves so few images of a thousand that one pass takes them", () => {
  const groups = planGroups(layersOf(1001));
  assertEquals(groups.flat(), layersOf(1001).slice(1));
  assert(groups.length + 1 <= LIMITS.layers);
});

Deno.test("planGroups() ends where two names are longer than allowed", () => {
  const groups = planGroups(layersOf(4), undefined, { layers: 100, bytes: 1 }, {
    layers: 50,
    bytes: 1,
  });
  assertEquals(groups.map(({ length }) => length), [2, 1]);
});
