import { assertEquals } from "@std/assert";
import { dueFull, type FullEvery, parseFullEvery } from "../../../src/plan/full_every.ts";
import { levelOf } from "../../../src/plan/level.ts";
import { aBitmap, aDisk, aDiskRecord, aRequest, aRun } from "../_fixtures.ts";

const READ: [text: string, read: FullEvery | null][] = [
  ["30d", { kind: "age", text: "30d", duration: { years: 0, months: 0, days: 30, hours: 0 } }],
  ["20", { kind: "count", count: 20 }],
  ["ratio:1.0", { kind: "ratio", ratio: 1 }],
  ["ratio:0.25", { kind: "ratio", ratio: 0.25 }],
  ["0", null],
  ["ratio:0", null],
  ["ratio:", null],
  ["ratio:-1", null],
  ["-3", null],
  ["1.5", null],
  ["weekly", null],
  ["", null],
];
for (const [text, read] of READ) {
  Deno.test(`\`parseFullEvery()\` reads ${JSON.stringify(text)}`, () => {
    assertEquals(parseFullEvery(text), read);
  });
}

const NOW = new Date("2026-12-01T12:00:00").getTime();
/** A full backup of 1000 bytes and two increments of 300. */
const CHAIN = [1000, 300, 300].map((bytesWritten, i) => {
  const disk = aDiskRecord("disk0", { bytesWritten, file: `disk0/${i}` });
  const pointInTime = new Date(`2026-11-0${i + 1}T12:00:00`).toISOString();
  return { run: aRun([disk], { pointInTime }), disk };
});
const DUE: [text: string, isDue: boolean][] = [
  ["30d", true],
  ["31d", false],
  ["1m", true],
  ["2", true],
  ["1", true],
  ["3", false],
  ["ratio:0.6", true],
  ["ratio:0.61", false],
];
for (const [text, isDue] of DUE) {
  Deno.test(`\`dueFull()\` finds a full backup ${isDue ? "due" : "not due"} with ${text}`, () => {
    const rule = parseFullEvery(text);
    assertEquals(rule && dueFull(CHAIN, rule, NOW) !== null, isDue);
  });
}

Deno.test("`levelOf()` takes a full backup that is due, and only for auto", () => {
  const last = { run: aRun([]), disk: aDiskRecord("disk0") };
  const disk = aDisk("disk0", { bitmaps: [aBitmap(last.disk.bitmap ?? "")] });
  const level = (asked: "auto" | "inc") =>
    levelOf(aRequest({ level: asked }), disk, last, () => null, undefined, "due").level;
  assertEquals([level("auto"), level("inc")], ["full", "inc"]);
});
