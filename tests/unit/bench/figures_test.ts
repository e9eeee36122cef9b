import { assertEquals, assertThrows } from "@std/assert";
import { formatRatio, formatSize, median, quantile, ratios } from "../../bench/figures.ts";

Deno.test("`median()` is the middle, whatever the order", () => {
  const cases: [number[], number][] = [
    [[3], 3],
    [[9, 1, 5], 5],
    [[4, 1, 3, 2], 2.5],
  ];
  for (const [values, expected] of cases) assertEquals(median(values), expected);
  assertThrows(() => median([]), RangeError);
});

Deno.test("`quantile()` lies between two values", () => {
  const hundred = Array.from({ length: 101 }, (_, index) => index);
  assertEquals([0, 0.5, 0.99, 1].map((share) => quantile(hundred, share)), [0, 50, 99, 100]);
  assertEquals(quantile([0, 10], 0.25), 2.5);
});

Deno.test("`ratios()` compares the sides round by round", () => {
  assertEquals(ratios([2, 6], [4, 3]), [0.5, 2]);
  assertEquals(formatRatio(1.234, [0.5, 2]), "1.23 (0.50–2.00)");
});

Deno.test("`formatSize()` takes the unit that fits", () => {
  assertEquals([512, 1536, 3 * 2 ** 30].map(formatSize), ["512 B", "1.5 KiB", "3.0 GiB"]);
});
