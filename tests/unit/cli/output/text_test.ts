import { assertEquals, assertMatch } from "@std/assert";
import { localTime } from "../../../../src/time.ts";
import { clock, printable, printableJson, size, table } from "../../../../src/cli/output/text.ts";

Deno.test("size() writes binary units", () => {
  assertEquals([0, 1 << 20, 1.5 * 2 ** 30].map(size), ["0 B", "1 MiB", "1.5 GiB"]);
});

Deno.test("localTime() writes local time", () => {
  const text = localTime(new Date(2026, 0, 2, 3, 4, 5));
  assertMatch(text, /^2026-01-02 03:04:05 [+-]\d{4}$/);
});

for (const day of ["2026-01-15", "2026-07-15"]) {
  Deno.test(`localTime() writes the zone of ${day}`, () => {
    const date = new Date(`${day}T12:30:15Z`);
    const [, time = "", sign = "", hours = "", minutes = ""] =
      /^(.*) ([+-])(\d\d)(\d\d)$/.exec(localTime(date)) ?? [];
    const read = Date.parse(`${time.replace(" ", "T")}${sign}${hours}:${minutes}`);
    assertEquals(read, date.getTime());
  });
}

for (
  const [offset, zone] of [[-60, "+0100"], [0, "+0000"], [-330, "+0530"], [210, "-0330"]] as const
) {
  Deno.test(`localTime() writes the zone ${zone}`, () => {
    const date = Object.assign(new Date(), { getTimezoneOffset: () => offset });
    assertEquals(localTime(date).slice(-5), zone);
  });
}

const CLOCKS: [number, string][] = [
  ...[[0, "0:00"], [5.4, "0:05"], [59.6, "1:00"], [245, "4:05"]] as [number, string][],
  ...[[3599.7, "1:00:00"], [3723, "1:02:03"], [360000, "100:00:00"]] as [number, string][],
];
for (const [seconds, text] of CLOCKS) {
  Deno.test(`clock() writes ${seconds} s as ${text}`, () => assertEquals(clock(seconds), text));
}

Deno.test("printable() shows what a terminal would obey", () => {
  assertEquals(printable("a\x1b[2Jb\nc\x7fd\x9be\0"), "a\\x1b[2Jb\\x0ac\\x7fd\\x9be\\x00");
});

Deno.test("printable() shows what turns a line's direction", () => {
  assertEquals(printable("a\u202eb\u2066c\u2028d"), "a\\x202eb\\x2066c\\x2028d");
});

/** Unicode's `Bidi_Control`: marks, embeddings, overrides and isolates. */
const TURNING = [
  ...["\u061c", "\u200e", "\u200f", "\u202a", "\u202b", "\u202c", "\u202d", "\u202e"],
  ...["\u2066", "\u2067", "\u2068", "\u2069"],
];

Deno.test("printable() shows each character that turns a line's direction", () => {
  const codes = TURNING.map((c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`);
  assertEquals(TURNING.map(printable), codes);
});

Deno.test("printableJson() writes the same value without what a terminal would obey", () => {
  const value = { text: `${TURNING.join("")}\x1b\n\x7f\x9b\u2028 Ünï 𝄞`, list: [1, null] };
  for (const indent of [0, 2]) {
    const text = printableJson(value, indent);
    assertEquals(JSON.parse(text), value);
    assertEquals(
      text,
      JSON.stringify(JSON.parse(text), null, indent).replace(
        /[^\n -~Ünï𝄞]/gu,
        (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`,
      ),
    );
    assertEquals(printable(text.replaceAll("\n", "")), text.replaceAll("\n", ""));
  }
});

Deno.test("printable() leaves letters alone", () => {
  assertEquals(printable("Ünï €𝄞 'quoted' \\"), "Ünï €𝄞 'quoted' \\");
});

Deno.test("table() makes columns as wide as what stands in them", () => {
  assertEquals(table([["A", "LONG", "C"], ["aaa", "b", "c"]]), "A    LONG  C\naaa  b     c\n");
});

Deno.test("table() counts letters, not their parts", () => {
  assertEquals(table([["𝄞𝄞", "x"], ["aaa", "y"]]), "𝄞𝄞   x\naaa  y\n");
});

Deno.test("table() pads nothing at the end of a line", () => {
  assertEquals(table([["a", "long"], ["b", ""]]), "a  long\nb\n");
});

Deno.test("table() takes rows of unequal length", () => {
  assertEquals(table([["a"], ["b", "c"]]), "a\nb  c\n");
});

Deno.test("table() keeps a name from breaking its line", () => {
  assertEquals(table([["a\nb", "c"]]), "a\\x0ab  c\n");
});
