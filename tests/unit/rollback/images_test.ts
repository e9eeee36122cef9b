import { assertEquals } from "@std/assert";
import { imagesThatDiffer, resizedImage } from "../../../src/rollback/images.ts";

const image = (path: string, virtualSizeBytes = 1024) => ({ path, virtualSizeBytes });
const chain = (names: string) => [...names].map((name) => image(name));

const CASES: [what: string, point: string, now: string, differing: string][] = [
  ["the newest point", "Fab", "Fab", ""],
  ["an earlier point of the same chain", "Fa", "Fabc", "bc"],
  ["its full backup", "F", "Fab", "ab"],
  ["a chain that was left for another one", "Fab", "Fac", "bc"],
  ["a chain before a new full backup", "Fa", "Gb", "FaGb"],
];
for (const [what, point, now, differing] of CASES) {
  Deno.test(`imagesThatDiffer() names where a disk can differ from ${what}`, () => {
    const found = imagesThatDiffer(chain(point), chain(now));
    assertEquals(found.map(({ path }) => path).join(""), differing);
  });
}

Deno.test("resizedImage() finds the first image of another size", () => {
  assertEquals(resizedImage([image("F"), image("a")], 1024), null);
  assertEquals(resizedImage([image("F"), image("a", 512), image("b")], 1024), image("a", 512));
});
