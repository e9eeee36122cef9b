import { assertEquals, assertThrows } from "@std/assert";
import { UsageError } from "../../../src/errors.ts";
import { dayOf, isInShare, parseSubset, slotsOf, subsetText } from "../../../src/verify/subset.ts";

const READ: [text: string, share: string][] = [
  ["1/7", "1/7"],
  ["7/7", "1/1"],
  ["10%", "1/10"],
  ["12.5%", "1/8"],
  ["33%", "33/100"],
  ["100%", "1/1"],
  ["0.01%", "1/10000"],
];
for (const [text, share] of READ) {
  Deno.test(`parseSubset() reads "${text}" as ${share}`, () => {
    assertEquals(subsetText(parseSubset(text)), share);
  });
}

for (
  const text of [
    "",
    "0%",
    "101%",
    "0/7",
    "8/7",
    "1/0",
    "1/10001",
    "7",
    "1/7 ",
    "-1%",
    "1e1%",
    "1/7/7",
  ]
) {
  Deno.test(`parseSubset() refuses ${JSON.stringify(text)}`, () => {
    assertThrows(() => parseSubset(text), UsageError, "--subset takes a share");
  });
}

/** How many days in a row read everything. */
const NIGHTS: [share: string, nights: number][] = [
  ["1/7", 7],
  ["10%", 10],
  ["33%", 4],
  ["3/7", 3],
  ["50%", 2],
  ["99%", 2],
  ["100%", 1],
];
for (const [share, nights] of NIGHTS) {
  Deno.test(`isInShare() reads everything on ${nights} days in a row of ${share}, whichever day is the first`, () => {
    const subset = parseSubset(share);
    const parts = ["disk0/FULL-1-a", "disk0/INC-2-a", "disk1/FULL-1-b"].flatMap((image) =>
      Array.from({ length: 700 }, (_, part): [string, number] => [image, part])
    );
    for (const first of [0, 20784, 20790, 29_999]) {
      const days = Array.from({ length: nights }, (_, i) => first + i);
      const read = (day: number) => parts.filter((part) => isInShare(subset, day, ...part));
      assertEquals(new Set(days.flatMap((day) => read(day).map(String))).size, parts.length);
      const share = parts.length * subset.numerator / subset.denominator;
      assertEquals(days.map((day) => read(day).length), days.map(() => share));
    }
  });
}

Deno.test("slotsOf() goes on where the day before ended", () => {
  const subset = { numerator: 3, denominator: 7 };
  assertEquals([0, 1, 2, 7].map((day) => slotsOf(subset, day)), [
    [0, 1, 2],
    [3, 4, 5],
    [6, 0, 1],
    [0, 1, 2],
  ]);
});

Deno.test("dayOf() counts the days of the local calendar", () => {
  const days = Array.from({ length: 400 }, (_, i) => dayOf(new Date(2026, 0, 1 + i, i % 24)));
  assertEquals(days.map((day, i) => day - i), days.map(() => days[0] as number));
  assertEquals(dayOf(new Date(2026, 9, 25, 0)), dayOf(new Date(2026, 9, 25, 23, 59)));
});
