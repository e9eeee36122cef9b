import { assertEquals } from "@std/assert";
import { besideOf, wholeChains } from "../../../src/restore/in_place.ts";
import { type Layer, pointsOfNames } from "../../../src/restore/points.ts";

const layer = (path: string): Layer => ({ path, parent: null, timeMs: 0 });
const chain = (text: string) => [...text].map((name) => layer(name));

const CASES = [
  { what: "the chain itself", others: ["a", "ab", "abc"], beside: undefined },
  { what: "what comes after it", others: ["abcd", "abce"], beside: undefined },
  { what: "another chain", others: ["x", "xy"], beside: undefined },
  { what: "what branches off the full backup", others: ["abc", "ax"], beside: "x" },
  { what: "what branches off an increment", others: ["abx", "abxy"], beside: "x" },
];

for (const { what, others, beside } of CASES) {
  Deno.test(`besideOf() ${beside ? "finds" : "passes over"} ${what}`, () => {
    assertEquals(besideOf(others.map(chain), chain("abc"))?.path, beside);
  });
}

Deno.test("wholeChains() lists each chain once, up to its newest image", () => {
  const names = ["FULL-1-d", "INC-2-d", "INC-3-d", "COPY-4-d", "FULL-5-d", "INC-6-d"];
  const chains = wholeChains(pointsOfNames("/b/d", names));
  assertEquals(chains.map((layers) => layers.map(({ path }) => path)), [
    ["/b/d/FULL-1-d", "/b/d/INC-2-d", "/b/d/INC-3-d"],
    ["/b/d/COPY-4-d"],
    ["/b/d/FULL-5-d", "/b/d/INC-6-d"],
  ]);
});
