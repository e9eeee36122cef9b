import { assertEquals } from "@std/assert";
import { parseSpeed } from "../../../src/repo/target_speed.ts";

const NOW = new Date("2026-11-22T00:00:00.000Z");
const SPEED = {
  measured: "2026-11-21T00:00:00.000Z",
  device: 7,
  directMs: 20,
  cachedMs: "slow",
} as const;

const CASES: [what: string, text: string | null, isKnown: boolean][] = [
  ["what was written", JSON.stringify(SPEED), true],
  ["nothing", null, false],
  ["half a file", JSON.stringify(SPEED).slice(0, 40), false],
  ["another shape", JSON.stringify({ ...SPEED, directMs: "fast" }), false],
  ["less than nothing", JSON.stringify({ ...SPEED, directMs: -1 }), false],
  ["another file system", JSON.stringify({ ...SPEED, device: 8 }), false],
  ["an old one", JSON.stringify({ ...SPEED, measured: "2026-10-01T00:00:00.000Z" }), false],
  ["one of the future", JSON.stringify({ ...SPEED, measured: "2027-01-01T00:00:00.000Z" }), false],
];
for (const [what, text, isKnown] of CASES) {
  Deno.test(`parseSpeed() ${isKnown ? "reads" : "leaves out"} ${what}`, () => {
    assertEquals(parseSpeed(text, NOW, 7), isKnown ? SPEED : null);
  });
}
