import { assertEquals } from "@std/assert";
import { besideOf } from "../../../src/restore/in_place.ts";
import type { Layer } from "../../../src/restore/points.ts";

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
