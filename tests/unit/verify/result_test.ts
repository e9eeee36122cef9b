import { assertEquals, assertThrows } from "@std/assert";
import {
  allReadSince,
  formatResult,
  parseResult,
  presentResults,
  RESULT_HEAD,
  ResultError,
  type VerifyResult,
} from "../../../src/verify/result.ts";

/** Of a day in November; of 1/`denominator` where that is said. */
function aResult(
  day: number,
  change: Partial<VerifyResult> = {},
  denominator?: number,
): VerifyResult {
  const time = new Date(Date.UTC(2026, 10, day)).toISOString();
  return {
    ...RESULT_HEAD,
    started: time,
    finished: time,
    tool: "0.2.0",
    folder: null,
    subset: denominator ? { numerator: 1, denominator, day } : null,
    images: 3,
    points: 3,
    readBytes: 5 << 20,
    recorded: 0,
    damages: [{ file: "disk0/a", range: { offset: 0, length: 5 }, reason: "differ", spoils: true }],
    spoiled: ["disk0/a"],
    ...change,
  };
}

const dayOf = (time: string | null) => time && new Date(time).getUTCDate();

Deno.test("parseResult() reads what formatResult() writes", () => {
  for (const result of [aResult(1), aResult(2, { folder: "disk0" }, 7)]) {
    assertEquals(parseResult("r.json", formatResult(result)), result);
  }
});

for (
  const text of ["", "{}", "[]", formatResult(aResult(1)).replace('"version": 1', '"version": 2')]
) {
  Deno.test(`parseResult() refuses ${JSON.stringify(text.slice(0, 40))}`, () => {
    assertThrows(() => parseResult("r.json", text), ResultError, "r.json");
  });
}

Deno.test("formatResult() keeps the first of very many damages", () => {
  const [damage] = aResult(1).damages;
  const damages = Array.from({ length: 5000 }, () => ({ ...damage!, reason: "x".repeat(2000) }));
  const { length } = parseResult("r.json", formatResult(aResult(1, { damages }))).damages;
  assertEquals(length, 1000);
});

Deno.test("presentResults() gives the newest of all, and of each disk what came after it", () => {
  const results = [
    aResult(1, { folder: "disk0" }),
    aResult(5),
    aResult(3),
    aResult(7, { folder: "disk1" }),
    aResult(6, { folder: "disk0" }),
    aResult(8, { folder: "disk1" }),
  ];
  assertEquals(presentResults(results).map(({ started, folder }) => [dayOf(started), folder]), [
    [8, "disk1"],
    [6, "disk0"],
    [5, null],
  ]);
  assertEquals(presentResults([]), []);
});

const SINCE: [what: string, results: VerifyResult[], day: number | null][] = [
  ["none", [], null],
  ["a full one", [aResult(3), aResult(5)], 5],
  ["a full one before a share", [aResult(3), aResult(5, {}, 7)], 3],
  ["three thirds", [1, 2, 3, 4].map((day) => aResult(day, {}, 3)), 2],
  ["two thirds", [2, 3].map((day) => aResult(day, {}, 3)), null],
  ["the same third twice", [1, 4, 5].map((day) => aResult(day, {}, 3)), null],
  ["thirds and halves", [1, 2, 3].map((day) => aResult(day, {}, day === 2 ? 3 : 2)), null],
  ["one disk's", [aResult(3, { folder: "disk0" })], null],
];
for (const [what, results, day] of SINCE) {
  Deno.test(`allReadSince() says since when all was read, of ${what}`, () => {
    assertEquals(dayOf(allReadSince(results)), day);
  });
}
