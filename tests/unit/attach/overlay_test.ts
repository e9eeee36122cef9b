import { assert, assertEquals, assertThrows } from "@std/assert";
import { planOverlays } from "../../../src/attach/overlay.ts";
import { Failure } from "../../../src/errors.ts";
import type { Layer } from "../../../src/restore/points.ts";

const nameOf = (below: number) => below === 0 ? "/out/d.qcow2" : `/out/d.below-${below}.qcow2`;

function layersOf(paths: string[]): Layer[] {
  return paths.map((path, i) => ({ path, parent: paths[i - 1] ?? null, timeMs: i }));
}

interface Options {
  "file.filename": string;
  backing?: Options | null;
}

/** What an overlay's header names, the lowest first; null where a name is opened by its own header. */
function named(backing: string): (string | null)[] {
  const files: (string | null)[] = [];
  let image: Options | null | undefined = JSON.parse(backing.slice("json:".length));
  for (; image; image = image.backing) files.unshift(image["file.filename"]);
  return files;
}

Deno.test("`planOverlays()` takes a linked chain by the name of its newest image", () => {
  assertEquals(planOverlays(layersOf(["/b/a:1", "/b/2"]), true, nameOf), [
    { path: "/out/d.qcow2", backing: "/b/2", backingFormat: "qcow2" },
  ]);
});

Deno.test("`planOverlays()` says that a raw image is raw", () => {
  const [raw] = layersOf(["/b/1"]);
  assertEquals(planOverlays([{ ...raw!, isRaw: true }], true, nameOf), [
    { path: "/out/d.qcow2", backing: "/b/1", backingFormat: "raw" },
  ]);
});

Deno.test("`planOverlays()` spells a chain without links out, and ends it at the full backup", () => {
  const [overlay, ...more] = planOverlays(layersOf(["/b/1", '/b/"2,']), false, nameOf);
  assertEquals(more, []);
  assertEquals(JSON.parse(overlay!.backing.slice("json:".length)), {
    driver: "qcow2",
    "file.filename": '/b/"2,',
    backing: { driver: "qcow2", "file.filename": "/b/1", backing: null },
  });
});

for (const [count, length] of [[1, 1], [40, 20], [300, 60], [7, 380]] as const) {
  Deno.test(`\`planOverlays()\` puts ${count} names of ${length} letters into headers that fit`, () => {
    const paths = Array.from({ length: count }, (_, i) => `/${"b".repeat(length - 1)}/${i}`);
    const overlays = planOverlays(layersOf(paths), false, nameOf);
    assertEquals(overlays.at(-1)?.path, "/out/d.qcow2");
    const seen: string[] = [];
    for (const [i, { backing, path }] of overlays.entries()) {
      assert(new TextEncoder().encode(backing).length <= 1023);
      const files = named(backing);
      // Each but the first builds on the one before, whose own header is followed.
      if (i > 0) assertEquals(files.shift(), overlays[i - 1]?.path);
      seen.push(...files as string[]);
      assertEquals(overlays.filter((other) => other.path === path).length, 1);
    }
    assertEquals(seen, paths);
  });
}

Deno.test("`planOverlays()` says what to do where a name is too long", () => {
  const long = `/${"ü".repeat(500)}`;
  for (const isLinked of [false, true]) {
    const layers = layersOf(["/b/1", isLinked ? long + long : long]);
    assertThrows(() => planOverlays(layers, isLinked, nameOf), Failure, "mount --bind");
  }
});

Deno.test("planOverlays() names the key of each encrypted image, and of no other", () => {
  const layers = [
    { path: "/b/full", parent: null, timeMs: 0, isEncrypted: true as const },
    { path: "/b/inc", parent: "/b/full", timeMs: 1 },
  ];
  const [overlay] = planOverlays(layers, false, () => "/o/disk0.qcow2");
  assertEquals(JSON.parse((overlay?.backing ?? "").slice("json:".length)), {
    driver: "qcow2",
    "file.filename": "/b/inc",
    backing: {
      driver: "qcow2",
      "encrypt.format": "luks",
      "encrypt.key-secret": "backup-key",
      "file.filename": "/b/full",
      backing: null,
    },
  });
});
