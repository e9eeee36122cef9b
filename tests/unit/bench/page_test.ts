import { assertEquals, assertMatch, assertThrows } from "@std/assert";
import { svgOf, ticks } from "../../bench/plot.ts";
import { compareSides, linesOf, type Side } from "../../bench/row.ts";
import { tableOf } from "../../bench/table.ts";
import { withFigures } from "../../bench/topic.ts";

/** A side that notes its turns. */
function side(name: string, turns: string[], check = () => Promise.resolve()): Side {
  return { name, aim: 0.5, run: () => Promise.resolve(void turns.push(name)), check };
}

Deno.test("`compareSides()` runs all sides in turn, each round from another one on", async () => {
  const turns: string[] = [];
  const sides = ["a", "b", "c"].map((name) => side(name, turns));
  const times = await compareSides({ rounds: 3 }, sides);
  assertEquals(turns.join(""), "abcbcacab");
  assertEquals(times.map(({ length }) => length), [3, 3, 3]);
  assertEquals(linesOf("copy", sides, [[1000], [2000], [4000]]), [
    {
      ...{ work: "copy", ours: "1.00 s", against: "b", theirs: "2.00 s" },
      ...{ ratio: "0.50 (0.50–0.50)", aim: "≤ 0.5" },
    },
    {
      ...{ work: "copy", ours: "1.00 s", against: "c", theirs: "4.00 s" },
      ...{ ratio: "0.25 (0.25–0.25)", aim: "≤ 0.5" },
    },
  ]);
});

Deno.test("`compareSides()` fails if a side made something wrong", async () => {
  const wrong = side("a", [], () => Promise.reject(new Error("differs")));
  const failed = await compareSides({ rounds: 1 }, [wrong]).catch((error) => error.message);
  assertEquals(failed, "differs");
});

Deno.test("`tableOf()` has a head, and no spaces at the ends of lines", () => {
  const line = { work: "w", ours: "1 s", against: "x", theirs: "2 s", ratio: "0.5", aim: "" };
  assertEquals(
    tableOf([line]),
    [
      "WORK  QMPBACKUP  AGAINST  TAKES  RATIO (SPREAD)  AIM",
      "w     1 s        x        2 s    0.5",
    ].join("\n"),
  );
});

Deno.test("`withFigures()` replaces the figures of one release of QEMU, and keeps the others", () => {
  const none = "# Title\n\nWords.\n\n## Figures\n\n";
  const first = withFigures(none, "QEMU 7.2.22.", "| a |");
  const second = withFigures(first, "QEMU 11.1.2.", "| b |");
  assertEquals(
    withFigures(second, "QEMU 7.2.23.", "| c |"),
    "# Title\n\nWords.\n\n## Figures\n\n" +
      "### QEMU 7.2\n\n```text\nQEMU 7.2.23.\n\n| c |\n```\n\n" +
      "### QEMU 11.1\n\n```text\nQEMU 11.1.2.\n\n| b |\n```\n",
  );
  assertThrows(() => withFigures(none, "nothing", ""), Error, "release");
});

Deno.test("`ticks()` takes round steps that reach the last value", () => {
  const cases: [number, number[]][] = [
    [10, [0, 2, 4, 6, 8, 10]],
    [0.3, [0, 0.1, 0.2, 0.3]],
    [7, [0, 2, 4, 6, 8]],
    [2048, [0, 500, 1000, 1500, 2000, 2500]],
  ];
  for (const [most, expected] of cases) assertEquals(ticks(most), expected);
});

Deno.test("`svgOf()` draws a line for each series", () => {
  const svg = svgOf({
    ...{ name: "size", title: "a < b", xLabel: "MiB" },
    series: [
      { name: "ours", points: [[0, 0], [10, 5]] },
      { name: "theirs", points: [[0, 0], [10, 10]] },
    ],
  });
  assertMatch(svg, /^<svg .*a &lt; b.*<\/svg>\n$/s);
  // The axes' corners: 60 to 470, and 310 up to 40.
  assertEquals([...svg.matchAll(/points="([^"]*)"/g)].map(([, points]) => points), [
    "60,310 470,175",
    "60,310 470,40",
  ]);
});
