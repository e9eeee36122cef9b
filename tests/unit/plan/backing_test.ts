import { assertEquals } from "@std/assert";
import { backingChange } from "../../../src/plan/backing.ts";
import { aBackingImage } from "../_fixtures.ts";

const TWO = [aBackingImage("a"), aBackingImage("b")];

Deno.test("backingChange() finds none where nobody looked, or nothing is different", () => {
  assertEquals(backingChange(null, TWO), null);
  assertEquals(backingChange(TWO, structuredClone(TWO)), null);
  assertEquals(backingChange([], []), null);
});

Deno.test("backingChange() does not compare what could not be told", () => {
  const unknown = TWO.map((image) => ({ ...image, fileBytes: null, modified: null }));
  assertEquals(backingChange(unknown, TWO), null);
  assertEquals(backingChange(TWO, unknown), null);
});

Deno.test("backingChange() names both chains where they are others", () => {
  const [a, b] = TWO.map((image) => [image]) as [typeof TWO, typeof TWO];
  const words = (now: string, then: string) =>
    `its backing files are not those of the last backup (now ${now}, then ${then})`;
  assertEquals(backingChange(a, b), words('"/vm/b.qcow2"', '"/vm/a.qcow2"'));
  assertEquals(backingChange(a, TWO), words('"/vm/a.qcow2" on "/vm/b.qcow2"', '"/vm/a.qcow2"'));
  assertEquals(backingChange(a, []), words("none", '"/vm/a.qcow2"'));
  assertEquals(backingChange([], a), words('"/vm/a.qcow2"', "none"));
});

for (
  const [now, words] of [
    [{ format: "raw" }, "of format raw, then of format qcow2"],
    [{ virtualSizeBytes: 512 }, "a disk of 512 bytes, then a disk of 16777216 bytes"],
    [{ fileBytes: 7 }, "a file of 7 bytes, then a file of 5242880 bytes"],
    [
      { modified: "2026-11-02T12:00:00.000Z" },
      "last changed at 2026-11-02T12:00:00.000Z, then last changed at 2026-11-01T12:00:00.000Z",
    ],
  ] as const
) {
  Deno.test(`backingChange() tells another file of the same name by ${Object.keys(now)}`, () => {
    assertEquals(
      backingChange(TWO, [TWO[0] ?? aBackingImage("a"), aBackingImage("b", now)]),
      `its backing file "/vm/b.qcow2" was changed or replaced since the last backup (now ${words})`,
    );
  });
}
